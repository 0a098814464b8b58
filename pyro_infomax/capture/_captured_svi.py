"""SVI whose step is recorded once and replayed."""

import math
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Final, NamedTuple, final

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer import SVI
from pyro.infer.util import torch_item, zero_grads
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from pyro_infomax._checks import whole_number
from pyro_infomax._random import isolated_random_state
from pyro_infomax._types import Args, Kwargs, Program, State
from pyro_infomax.capture._captured_step import (
    CapturedStep,
    Objective,
    Outcome,
    Programs,
    Standing,
    stated_parameters,
    undone,
)
from pyro_infomax.capture._compiled import has_compiler
from pyro_infomax.capture._optim import FusedOptim
from pyro_infomax.capture._refusals import (
    NotCapturableError,
    NotCompilableError,
    first_line,
    is_library,
    place_of,
)
from pyro_infomax.capture._watch import Call, PythonState, surroundings
from pyro_infomax.infer import SurrogateLoss
from pyro_infomax.programs import ProgramState

# ---- What many steps have given, and the data that they are to be taken on.


@final
class StepsTaken(NamedTuple):
    """Losses and unweighted terms of some steps, in nats, summed over the data of each.

    Attributes:
        losses: a number a step.
        terms: by name, a number a step; none for objectives without terms.
    """

    losses: list[float]
    terms: dict[str, list[float]]


@final
class _Stack:
    """The arguments of many steps, whose tensors have one more axis in front, over the steps."""

    def __init__(self, args: Args, kwargs: Kwargs) -> None:
        self._leaves, self._spec = tree_flatten((args, kwargs))
        if any(isinstance(each, np.ndarray) for each in self._leaves):
            raise ValueError("Expected tensors but got arrays: stack them as tensors, by torch.as_tensor(x).")
        tensors = [each for each in self._leaves if isinstance(each, Tensor)]
        lengths = {len(each) if each.dim() else None for each in tensors}
        if len(lengths) != 1 or None in lengths:
            found = [tuple(each.shape) for each in tensors]
            raise ValueError(
                "Expected tensors whose first axis is over the steps, of one length, but got the shapes "
                f"{found}: stack the data of the steps, for instance x[index] with index of (steps, batch)."
            )
        self.length: int = lengths.pop()  # type: ignore[assignment]
        self._tensors = tensors

    def at(self, step: int) -> tuple[Args, Kwargs]:
        """The arguments of one step."""
        leaves = [each[step] if isinstance(each, Tensor) else each for each in self._leaves]
        args, kwargs = tree_unflatten(leaves, self._spec)
        return args, kwargs

    def tensors(self, start: int, steps: int) -> list[Tensor]:
        """The tensors in the arguments of some steps, (steps, ...) each."""
        return [each[start : start + steps] for each in self._tensors]


# ---- The SVI that records, compares, replays, and falls back.

BACKENDS: Final = ("auto", "replay", "inductor")
_MOST_GRAPHS: Final = 16
_MOST_CHANGES: Final = 16
# Between two comparisons, each of which takes as long as some ten replays, or forty compiled steps
_LONGEST_DISTANCE: Final = 1024
_LONGEST_DISTANCE_COMPILED: Final = 4096
_NO_STEP_YET: Final = "no step has been taken yet"
_FIRST_OF_ITS_KIND: Final = "the first step on data of a kind, and after each change, is an ordinary one"
_RATHER_A_TENSOR: Final = "pass a number that changes as a tensor"
_RECORDED: Final = frozenset(
    {
        "_programs",
        "_given_loss_and_grads",
        "_state",
        "_modules",
        "_parameters",
        "_graphs",
        "_changes",
        "_last",
    }
)


@final
class CapturedSVI(SVI):
    """SVI whose step is recorded once as a graph of tensor operations, and replayed from then on.

    It takes the place of :class:`pyro.infer.SVI` wherever that stands, with the same steps: what programs and
    Pyro's handlers do in Python is done once, and what they do to tensors at each step.

    *What a captured step is a function of.* Like a function under ``jax.jit``, it is a function of tensors:
    of those in its arguments, those that the programs reach, schedules and tensors as weights, and torch's
    random state. All else is fixed when it is recorded (shapes, dtypes, plain arguments, the programs' code,
    hooks, and the values of Python that they reach in attributes, closures, globals and containers), is
    looked at before each replay, and leads to another recording where it has changed. What cannot be looked
    at (a file, the clock, objects and large arrays of other libraries) must not change; if it does, the next
    comparison with an ordinary step finds it, and a warning says since which step steps may have been wrong.

    The first step on data of a kind is an ordinary one. The second is recorded, and compared with an ordinary
    one under the same random state: loss, terms, gradients, buffers of modules and the random state that is
    left. So are later steps, at distances that double from 1 to 1024 (4096 where steps are compiled) and then
    stay, and the first one after callbacks of the user's own in :func:`~pyro_infomax.training.fit`; see
    :meth:`compare_next_step` for other loops. Where the two differ, or programs cannot be recorded (since
    they read values of tensors or counts from shapes, draw random numbers elsewhere, advance iterators,
    change numbers of their own or hold TorchScript, say), a warning says why and training goes on by ordinary
    steps. A step whose loss is not finite, or that fails, is taken anew as an ordinary one from the same
    state, so that errors are those of SVI. Pyro's validation takes place in ordinary steps alone.

    Args:
        model: the model.
        guide: the guide.
        optim: any optimiser of Pyro; the step is quickest with
            :class:`~pyro_infomax.capture.FusedOptim`.
        loss: an ELBO, or a function of model, guide and data that returns a loss to differentiate.
        backend: ``"replay"`` runs torch's operations one after another. ``"inductor"`` compiles them, and the
            optimiser's step with them, which takes a C++ compiler and some ten seconds for each shape, fewer
            from torch's cache; where that fails, it replays. ``"auto"`` compiles where
            :func:`~pyro_infomax.training.fit` is to take so many steps that it pays.

    Attributes:
        progress: whether to say so while the compiler is waited for, and after which title; ``fit`` sets it
            to its own.
        reduce_gradients: called with the list of gradients before each step of the optimiser, if not None.

    Raises:
        ValueError: for another backend, or an optimiser that is none of Pyro's.

    Warns:
        UserWarning: once, where it goes on by ordinary steps.

    Example:
        >>> import torch, pyro.distributions as dist
        >>> from pyro_infomax.capture import FusedOptim
        >>> pyro.clear_param_store()
        >>> def model(x):
        ...     loc = pyro.param("loc", torch.zeros(()))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
        >>> optim = FusedOptim(torch.optim.Adam, {"lr": 0.1})
        >>> svi = CapturedSVI(model, lambda x: None, optim, pyro.infer.Trace_ELBO())
        >>> for _ in range(100):
        ...     loss = svi.step(torch.full((20,), 3.0))
        >>> bool((pyro.param("loc") - 3.0).abs() < 0.1), svi.captured
        (True, True)
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        optim: PyroOptim,
        loss: Objective,
        *,
        backend: str = "auto",
    ) -> None:
        if backend not in BACKENDS:
            raise ValueError(f"Expected backend to be one of {BACKENDS} but got {backend!r}.")
        super().__init__(model=model, guide=guide, optim=optim, loss=loss)
        self.backend = backend
        self.reduce_gradients: Callable[[list[Tensor]], None] | None = None
        self.progress: bool | str = True
        self._objective = loss
        self._reason: str | None = None
        self._steps = 0
        self._doubted = 0
        self._planned: dict[int, int] = {}
        self._begin()

    def _begin(self) -> None:
        """Starts with nothing known and nothing recorded."""
        self._programs = Programs(self.model, self.guide, self._objective)
        self._given_loss_and_grads = self.loss_and_grads
        self._state = ProgramState(self.model, self.guide)
        self._modules: tuple[nn.Module, ...] = ()
        self._parameters: tuple[Tensor, ...] = ()
        self._graphs: dict[Hashable, _Graph] = {}
        self._changes = 0
        self._last: str | None = _NO_STEP_YET

    def state_dict(self) -> State:
        """What decides on how the next steps are taken: how many were planned, by the rows of their data."""
        return {"planned": dict(self._planned)}

    def load_state_dict(self, state: State) -> None:
        """Goes on as another one would have.

        Raises:
            ValueError: for what is no such state.
        """
        planned = state.get("planned")
        if not isinstance(planned, dict) or set(state) != {"planned"}:
            raise ValueError(f"Expected the state of a CapturedSVI, with 'planned', but got {sorted(state)}.")
        self._planned = {
            whole_number("a number of rows", rows, at_least=0): whole_number(
                "a number of steps", n, at_least=0
            )
            for rows, n in planned.items()
        }

    def __getstate__(self) -> State:
        """The state without recordings, which stand for the very tensors that they have met."""
        return {name: value for name, value in vars(self).items() if name not in _RECORDED}

    def __setstate__(self, state: State) -> None:
        """Has a copy record anew."""
        vars(self).update(state)
        self._begin()

    @property
    def captured(self) -> bool:
        """Whether there is a graph, so that steps are replayed."""
        return self._reason is None and any(graph.step is not None for graph in self._graphs.values())

    @property
    def reason(self) -> str | None:
        """Why it goes on by ordinary steps, or why the last one was ordinary; None if it was not."""
        return self._reason if self._reason is not None else self._last

    def compare_next_step(self) -> None:
        """Has the next step on data of each kind compared with an ordinary one.

        :func:`~pyro_infomax.training.fit` asks for it after callbacks of the user's own. In a loop of one's
        own, call it after code that may have changed what no graph can see.
        """
        self._doubted = self._steps

    def plan(self, steps: Mapping[int, int]) -> None:
        """Tells how many steps are to come, so that ``backend="auto"`` knows whether to compile.

        :func:`~pyro_infomax.training.fit` does so. The answer depends on the numbers of steps and of
        operations alone, so that two trainings alike go the same way.

        Args:
            steps: by the number of rows of their data, how many steps.
        """
        self._planned = dict(steps)

    def steps(self, *args: object, **kwargs: object) -> StepsTaken:
        """Takes many gradient steps, in as few calls as can be.

        It gives what :meth:`step` gives on one batch after another, to the bit. Arguments are looked at, and
        programs watched, once a call; comparisons, and data of a new kind, end a call.

        Args:
            *args: the data, and whatever else model and guide are called with. Each tensor has one more axis
                in front, over the steps: (steps, batch, ...).
            **kwargs: the same by keyword.

        Returns:
            The loss of each step, in nats, summed over its data, and the terms of the objective.

        Raises:
            ValueError: where the tensors are not of one length.
        """
        taken = list(self.steps_by_call(*args, **kwargs))
        names = taken[0].terms if taken else ()
        return StepsTaken(
            [loss for each in taken for loss in each.losses],
            {name: [number for each in taken for number in each.terms[name]] for name in names},
        )

    def steps_by_call(self, *args: object, **kwargs: object) -> Iterator[StepsTaken]:
        """The same, call by call.

        An error, and a loss that is not finite, are those of the step after the ones that were given. A loss
        that is not finite is the last of its call.
        """
        stack = _Stack(args, kwargs)
        start, singly = 0, 0
        while start < stack.length:
            some_args, some_kwargs = stack.at(start)
            graph = None if singly else self._ready(some_args, some_kwargs)
            many = 0 if graph is None else graph.distance(after=self._doubted)
            taken = None
            if graph is not None and many > 1:
                steps = min(many, stack.length - start)
                taken = self._take_together(graph, stack.tensors(start, steps), steps)
                # Which step it was that failed, and why, ordinary steps tell
                singly = steps if taken is None else 0
            if taken is None:
                loss = self.step(*some_args, **some_kwargs)
                taken = StepsTaken([loss], {name: [value] for name, value in self._terms().items()})
                singly = max(singly - 1, 0)
            start += len(taken.losses)
            yield taken

    def _ready(self, args: Args, kwargs: Kwargs) -> "_Graph | None":
        """The graph that can take many steps on such data; None where the next step is one by itself."""
        if self._reason is not None or self.reduce_gradients is not None:
            return None
        try:
            self._check_own_parts()
            graph = self._graph_for(Call(args, kwargs))
        except NotCapturableError as error:
            self._give_up(str(error), depth=1)
            return None
        if graph is None or graph.step is None or not self._is_current(graph.step):
            return None
        return graph if graph.step.takes_many else None

    def _take_together(self, graph: "_Graph", stacks: Sequence[Tensor], steps: int) -> StepsTaken | None:
        """Takes many steps by a graph; None where one of them fails, and all are undone."""
        step = graph.step
        assert step is not None
        standing, put_back = Standing([*step.written_constants, *step.moved]), step.remember()
        try:
            values = step.take(step.with_weights(stacks, steps), steps)
        except BaseException as error:
            standing.put_back()
            put_back()
            # An interruption leaves no half of a call behind
            if not isinstance(error, Exception):
                raise
            return None
        if not bool(values[:, 0].isfinite().all()):
            standing.put_back()
            put_back()
            return None
        self._last = None
        self._steps += steps
        graph.count(steps)
        return self._adopt(step, values)

    def _adopt(self, step: CapturedStep, values: Tensor) -> StepsTaken:
        weighted = self._programs.weighted
        losses: list[float] = values[:, 0].tolist()
        if weighted is None:
            return StepsTaken(losses, {})
        weighted.adopt(step.outcome(values[-1]), step.subsampled, steps=len(losses))
        return StepsTaken(losses, weighted.terms_of(step.outcome(values)))

    def step(self, *args: object, **kwargs: object) -> float:
        """Takes a gradient step.

        Args:
            *args: the data, and whatever else model and guide are called with.
            **kwargs: the same by keyword.

        Returns:
            The loss, in nats, summed over the data.
        """
        self._steps += 1
        if self._reason is not None:
            return self._eager_step(args, kwargs)
        try:
            return self._step(Call(args, kwargs), args, kwargs)
        except NotCapturableError as error:
            self._give_up(str(error))
            return self._eager_step(args, kwargs)

    def _step(self, call: Call, args: Args, kwargs: Kwargs) -> float:
        self._check_own_parts()
        graph = self._graph_for(call)
        if graph is None and self._goes_on() and self._runs_without_trace(args, kwargs):
            graph = self._expect(call)
        if graph is None or not self._can_record(graph):
            self._last = _FIRST_OF_ITS_KIND
            if call.plain and len(self._graphs) > 1:
                self._last += f", and these came with {_listed(call.plain)}; {_RATHER_A_TENSOR}"
            loss = self._eager_step(args, kwargs)
            self._expect(call)
            return loss
        self._last = None
        if graph.step is None or not self._is_current(graph.step):
            if graph.step is not None:
                self._count_change("the layout or the options of the optimiser")
            graph.begin(self._record(call, graph), self._steps)
            return self._checked_step(graph, call, args, kwargs)
        if graph.is_due(after=self._doubted):
            return self._checked_step(graph, call, args, kwargs)
        return self._replay(graph.step, call, args, kwargs)

    def _goes_on(self) -> bool:
        """Whether the optimiser has begun, so that a step of a new kind need not be an ordinary one.

        Recordings may round otherwise. So they take all steps but the first of a training, also of one that
        goes on from a checkpoint, which thus goes on to the bit.
        """
        return isinstance(self.optim, FusedOptim) and self.optim.has_begun

    def _can_record(self, graph: "_Graph") -> bool:
        """Whether a graph has its recording, or the optimiser has begun, as what is compiled with it must."""
        has_one = graph.step is not None and self._is_current(graph.step)
        return has_one or not isinstance(self.optim, FusedOptim) or self.optim.has_begun

    def _runs_without_trace(self, args: Args, kwargs: Kwargs) -> bool:
        """Runs the programs, which validate and call their modules; whether they create nothing.

        What they create draws random numbers, as a step does in which it is created for good.
        """
        store, weighted = pyro.get_param_store(), self._programs.weighted
        known = set(store.keys())
        roots = self.model, self.guide, self._programs.objective
        try:
            python = PythonState(roots, self._state.parameters, self._modules)
            with isolated_random_state(), python.restored(), self._state.unchanged():
                self.evaluate_loss(*args, **kwargs)
        except NotCapturableError:
            # What a program keeps of data of a new kind, it keeps from an ordinary step
            return False
        self._modules, self._parameters = self._state.modules, tuple(self._state.parameters.values())
        if weighted is not None:
            weighted.forget_evaluation()
        created = set(store.keys()) - known
        for name in created:
            del store[name]
        return not created

    def _check_own_parts(self) -> None:
        programs = self._programs
        if not (
            self.model is programs.model
            and self.guide is programs.guide
            and self.loss_and_grads is self._given_loss_and_grads
        ):
            raise NotCapturableError(
                "its model, guide or loss was replaced; make another CapturedSVI instead"
            )

    def _is_current(self, step: CapturedStep) -> bool:
        return step.gradients.optim is self.optim and step.gradients.current and step.fits

    def _graph_for(self, call: Call) -> "_Graph | None":
        key = self._key(call)
        graph = self._graphs.get(key)
        changed = None if graph is None else graph.changed()
        if changed is None:
            return graph
        del self._graphs[key]
        self._count_change(changed)
        return None

    def _count_change(self, changed: str) -> None:
        self._changes += 1
        if self._changes > _MOST_CHANGES:
            raise NotCapturableError(
                f"{changed} changes again and again; make it an argument, or a tensor to be changed in place"
            )

    def _replay(self, step: CapturedStep, call: Call, args: Args, kwargs: Kwargs) -> float:
        trains = step.trains and self.reduce_gradients is None
        kept = step.written(call) if step.writes else ()
        standing = Standing((*kept, *step.counts) if trains else kept)
        try:
            found = step.evaluate(call, trains=trains)
            loss: Any = found.loss.item()
        except Exception:
            loss = math.nan
        if not math.isfinite(loss):
            # An ordinary step looks at such values, and may raise an error: it is taken from the same state
            standing.put_back()
            loss, _ = self._eager_gradients(args, kwargs)
            # Gradients go the way of a replay, which other processes may be in
            step.gradients.take_present()
            self._update(step)
            return float(loss)
        if not trains:
            step.gradients.add_present()
            self._update(step)
        if self._programs.weighted is not None:
            self._programs.weighted.adopt(found, step.subsampled)
        return float(loss)

    def _update(self, step: CapturedStep) -> None:
        if self.reduce_gradients is not None:
            self.reduce_gradients(step.gradients.flat)
        step.gradients.apply()

    def _eager_step(self, args: Args, kwargs: Kwargs) -> float:
        loss, parameters = self._eager_gradients(args, kwargs)
        self._eager_update(parameters)
        return loss

    def _eager_gradients(self, args: Args, kwargs: Kwargs) -> tuple[Any, list[Tensor]]:
        watch = self._state.watch() if self._reason is None else nullcontext()
        with poutine.trace(param_only=True) as stated, watch:
            loss = self.loss_and_grads(self.model, self.guide, *args, **kwargs)
        self._modules, self._parameters = self._state.modules, tuple(self._state.parameters.values())
        return _as_svi_returns(loss), stated_parameters(stated.trace)

    def _eager_update(self, parameters: list[Tensor]) -> None:
        if self.reduce_gradients is not None:
            self.reduce_gradients([each.grad for each in parameters if each.grad is not None])
        self.optim(set(parameters))
        zero_grads(set(parameters))

    def _checked_step(self, graph: "_Graph", call: Call, args: Args, kwargs: Kwargs) -> float:
        """An ordinary step, after which the graph goes on only if it has found the same."""
        step = graph.step
        assert step is not None
        captured, difference = None, None
        trains = step.trains and self.reduce_gradients is None
        written = [*step.written(call), *(step.moved if trains else ())]
        with undone(self._state, written):
            try:
                found = step.evaluate(call, trains=trains)
                accumulated = step.gradients.accumulated
                captured = Outcome(_numbers(found), accumulated, self._buffers(step, call))
            except Exception as error:
                difference = f"it fails ({first_line(error)})"
            after = [(each, each.clone()) for each in written]
        loss, parameters = self._eager_gradients(args, kwargs)
        if captured is not None:
            gradients = {each: each.grad for each in parameters if each.grad is not None}
            eager = Outcome({"loss": loss} | self._terms(), gradients, self._buffers(step, call))
            names = {leaf: name for name, leaf in self._state.parameters.items()}
            difference = eager.difference(captured, names)
        if captured is not None and difference is None and trains and math.isfinite(loss):
            self._eager_update(parameters)
            difference = step.difference_of_updates(dict(after))
        if captured is not None and difference is None and step.rounds and math.isfinite(loss):
            # What a step gives does not depend on whether it was compared
            graph.compared = self._steps
            return self._prefer(step, found, captured, after, trains=trains)
        if any(each.grad is not None for each in parameters):
            self._eager_update(parameters)
        if difference is None:
            graph.compared = self._steps
        else:
            since = self._doubtful_steps()
            self._go_without(f"step is not the step that the programs take: {difference}{since}")
        return loss

    def _prefer(
        self,
        step: CapturedStep,
        found: SurrogateLoss,
        captured: Outcome,
        after: Sequence[tuple[Tensor, Tensor]],
        *,
        trains: bool,
    ) -> float:
        """Takes the step as it was captured, after an ordinary evaluation that has found the same."""
        with torch.no_grad():
            for each, value in after:
                each.copy_(value)
        # What others have in .grad stays, and the optimiser takes it
        for parameter in step.parameters:
            parameter.grad = None
        if not trains:
            for parameter, view in step.gradients.views.items():
                view.copy_(captured.gradients[parameter])
            self._update(step)
        if self._programs.weighted is not None:
            self._programs.weighted.adopt(found, step.subsampled, steps=0)
        return float(found.loss)

    def _doubtful_steps(self) -> str:
        """Which steps may have been wrong, as a part of a sentence."""
        last = min(graph.compared for graph in self._graphs.values() if graph.step is not None)
        first, end = last + 1, self._steps - 1
        if first > end:
            return ""
        steps = f"step {first}" if first == end else f"steps {first} to {end}"
        return f"; {steps} may have been wrong, since the two were last compared in step {last}"

    def _go_without(self, finding: str) -> None:
        """Goes on without what has turned out to be wrong."""
        if self.backend != "replay" and any(
            graph.step is not None and graph.step.compiled for graph in self._graphs.values()
        ):
            self._graphs.clear()
            self._stop_compiling(f"a compiled {finding}", depth=3)
        else:
            self._give_up(f"a recorded {finding}", depth=3)

    def _stop_compiling(self, reason: str, *, depth: int) -> None:
        self.backend = "replay"
        sentence = f"CapturedSVI replays its steps without compiling them: {reason}."
        warnings.warn(sentence, UserWarning, stacklevel=3 + depth)

    def _buffers(self, step: CapturedStep, call: Call) -> dict[str, Tensor]:
        others = {
            f"{number} of those that are written to": each
            for number, each in enumerate(step.written(call))
            if not step.rounds or each not in self._programs.own_parameters
        }
        return self._state.buffers() | others

    def _record(self, call: Call, graph: "_Graph") -> CapturedStep:
        self._check_objective()
        before = self._state.parameters
        stored = dict(pyro.get_param_store().named_parameters())
        graph.stored = {name: stored[name] for name in self._state.parameters if name in stored}
        roots = self.model, self.guide, self._programs.objective
        try:
            graph.python = PythonState(roots, before, self._modules)
            with graph.python.restored(), undone(self._state), without_warnings():
                return CapturedStep(
                    self._programs,
                    call,
                    self.optim,
                    wants_compiler=partial(self._wants_compiler, call),
                    progress=self.progress,
                )
        except NotCapturableError:
            raise
        except NotCompilableError as error:
            self._stop_compiling(f"the compiler says {error}", depth=2)
            return self._record(call, graph)
        except Exception as error:
            raise NotCapturableError(
                f"its operations cannot be recorded ({first_line(error)}{place_of(error)})"
            ) from error
        finally:
            self._undo_rebinding(before)

    def _wants_compiler(self, call: Call, operations: int) -> bool:
        """Whether a graph of so many operations is to be compiled."""
        planned = self._planned.get(_rows(call), 0)
        if self.backend == "inductor":
            # A short last batch of each epoch is no reason to wait for the compiler once more
            return not self._planned or planned == max(self._planned.values()) or _pays(planned, operations)
        return self.backend == "auto" and _pays(planned, operations) and has_compiler()

    def _check_objective(self) -> None:
        """A replayed step calls no method of the objective, so that code of the user's own would not run."""
        objective = self._programs.objective
        kinds = [kind for kind in type(objective).__mro__ if not is_library(kind)]
        if any("loss_and_grads" in vars(each) for each in (objective, *kinds)):
            name = getattr(objective, "__name__", type(objective).__name__)
            raise NotCapturableError(
                f"{name} has a loss_and_grads of its own, which a replayed step would not call"
            )

    def _undo_rebinding(self, before: Mapping[str, Tensor]) -> None:
        after = self._state.parameters
        rebound = {name: tensor for name, tensor in before.items() if after[name] is not tensor}
        if rebound:
            pyro.get_param_store().set_state({"params": rebound, "constraints": {}})
            raise NotCapturableError(f"the programs put other tensors in place of {', '.join(rebound)}")

    def _key(self, call: Call) -> Hashable:
        modes = tuple([module.training for module in self._modules])
        trained = tuple([parameter.requires_grad for parameter in self._parameters])
        return call.layout, surroundings(), modes, trained, self._programs.settings()

    def _expect(self, call: Call) -> "_Graph | None":
        """Prepares to record the next step of this kind."""
        # The key is known only now: the first step has created parameters and called modules
        key = self._key(call)
        if len(self._graphs) < _MOST_GRAPHS:
            return self._graphs.setdefault(key, _Graph())
        if key not in self._graphs:
            sentence = f"its data come in more than {_MOST_GRAPHS} shapes"
            if call.plain:
                sentence = (
                    f"its arguments come with more than {_MOST_GRAPHS} plain values or shapes, the last one "
                    f"with {_listed(call.plain)}; {_RATHER_A_TENSOR}"
                )
            self._give_up(sentence, depth=2)
        return None

    def _terms(self) -> dict[str, float]:
        weighted = self._programs.weighted
        return {} if weighted is None or weighted.terms is None else dict(weighted.terms)

    def _give_up(self, reason: str, *, depth: int = 0) -> None:
        self._reason = reason
        self._graphs.clear()
        sentence = f"CapturedSVI goes on by ordinary steps: {reason}."
        warnings.warn(sentence, UserWarning, stacklevel=3 + depth)  # at the line that called step


@final
class _Graph:
    """The recording for data of one kind, and when it was compared."""

    def __init__(self) -> None:
        self.step: CapturedStep | None = None
        self.python = PythonState()
        self.stored: dict[str, Tensor] = {}
        self.compared = 0
        self._since = 0
        self._due = 1

    def begin(self, step: CapturedStep, number: int) -> None:
        """Begins with a recording, which is made in the step of this number."""
        self.step, self.compared = step, number - 1
        self._since, self._due = 0, 1

    def distance(self, *, after: int) -> int:
        """How many steps there are before the next comparison."""
        return 0 if self.compared <= after else max(self._due - self._since - 1, 0)

    def count(self, steps: int) -> None:
        """Counts steps that were not compared."""
        self._since += steps

    def is_due(self, *, after: int) -> bool:
        """Counts a step; whether it is to be compared.

        So it is at doubling distances from the recording on, and where it was not since step ``after``.
        """
        self._since += 1
        if self._since >= self._due:
            compiled = self.step is not None and self.step.compiled
            longest = _LONGEST_DISTANCE_COMPILED if compiled else _LONGEST_DISTANCE
            self._due = self._since + min(self._since, longest)
            return True
        return self.compared <= after

    def changed(self) -> str | None:
        """What the recording has read and is no longer so."""
        if self.step is None:
            return None
        missing = len(self.stored)
        for name, leaf in pyro.get_param_store().named_parameters():
            if name in self.stored:
                missing -= 1
                if self.stored[name] is not leaf:
                    return f"the parameter {name}"
        return "a parameter of the store" if missing else self.python.changed()


_SECONDS_OF_COMPILER: Final = 8.0
_SECONDS_OF_COMPILER_AN_OPERATION: Final = 0.05
_SECONDS_SAVED_AN_OPERATION: Final = 2.5e-6


def _rows(call: Call) -> int:
    """How many data a step is on."""
    return len(call.tensors[0]) if call.tensors and call.tensors[0].dim() else 0


def _pays(steps: int, operations: int) -> bool:
    """Whether compiling takes less time than it saves, as measured on small and large networks."""
    takes = _SECONDS_OF_COMPILER + _SECONDS_OF_COMPILER_AN_OPERATION * operations
    return steps * operations * _SECONDS_SAVED_AN_OPERATION > takes


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(repr, values))


def _as_svi_returns(loss: Any) -> Any:
    return tuple(map(torch_item, loss)) if isinstance(loss, tuple) else torch_item(loss)


def _numbers(found: SurrogateLoss) -> dict[str, float]:
    return {name: float(term) for name, term in {"loss": found.loss, **found.terms}.items()}


@contextmanager
def without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
