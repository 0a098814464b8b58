"""SVI whose step is recorded once and replayed."""

import math
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final, final

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO, SVI
from pyro.infer.util import torch_item, zero_grads
from pyro.optim import PyroOptim
from pyro.poutine import Trace
from torch import Tensor, nn

from pyro_infomax._random import isolated_random_state
from pyro_infomax._types import Args, Kwargs, Program, Site, State
from pyro_infomax.capture._batching import batch_loops
from pyro_infomax.capture._graph import (
    GradientBuffers,
    RecordedGraph,
    TensorFunction,
    compile_graph,
    to_function,
)
from pyro_infomax.capture._refusals import (
    NotCapturableError,
    NotCompilableError,
    is_library,
    place_of,
    value_reads_refused,
)
from pyro_infomax.capture._watch import Call, PythonState, surroundings
from pyro_infomax.infer import SurrogateLoss, WeightedELBO, surrogate_loss
from pyro_infomax.programs import ProgramState

# ---- One step of SVI as a graph: recorded, simplified and made ready to be run again.

Objective = ELBO | Callable[..., Tensor]
Gradients = dict[Tensor, Tensor]

BACKENDS: Final = ("replay", "inductor")
_FEW_WEIGHTS: Final = 3


@final
class Programs:
    """What a step evaluates: model, guide, and an ELBO or a function of model, guide and data."""

    def __init__(self, model: Program, guide: Program, objective: Objective) -> None:
        self.model, self.guide, self.objective = model, guide, objective
        self.weighted = objective if isinstance(objective, WeightedELBO) else None
        # Kept, so that no other can have the identity of one that was seen
        self._weights_seen: list[object] = []

    def evaluate(self, *args: object, **kwargs: object) -> SurrogateLoss:
        """Loss and terms in tensors."""
        if isinstance(self.objective, ELBO):
            return surrogate_loss(self.objective, self.model, self.guide, *args, **kwargs)
        loss = self.objective(self.model, self.guide, *args, **kwargs)
        return SurrogateLoss(loss.detach(), loss)

    @property
    def weights_are_set(self) -> bool:
        """Whether someone sets weights anew again and again, so that their numbers had better be inputs."""
        weights = () if self.weighted is None else self.weighted.weights
        return len(self._weights_seen) >= len(weights) + _FEW_WEIGHTS

    def variable_weights(self, *, numbers: bool) -> dict[str, Tensor]:
        """The weights that are inputs of a recording."""
        return {} if self.weighted is None else self.weighted.variable_weights(numbers=numbers)

    def settings(self) -> Hashable:
        """What a recording fixes of the objective."""
        if self.weighted is None:
            return None
        weights = self.weighted.weights
        if not self.weights_are_set:
            known = set(map(id, self._weights_seen))
            self._weights_seen += [each for each in weights.all if id(each) not in known]
        return weights.labels if self.weights_are_set else tuple(map(id, weights.all))


@final
class CapturedStep:
    """Loss, terms and gradients of a step as one function of the data and of the weights that change.

    Model, guide and objective have run on such data before.

    Attributes:
        parameters: the parameters that have a gradient, in order of statement.
        gradients: what holds their gradients after an evaluation.
        subsampled: what the objective knew of subsampled plates when it was recorded.

    Raises:
        NotCapturableError: where the programs cannot be recorded.
    """

    def __init__(self, programs: Programs, call: Call, optim: PyroOptim, *, backend: str) -> None:
        self._programs = programs
        self._numbers = programs.weights_are_set
        self._weights = tuple(programs.variable_weights(numbers=self._numbers))
        self._rebuilt = call.rebuilt
        self._number_of_tensors = len(call.tensors)
        self._terms: tuple[str, ...] = ()
        self.parameters: tuple[Tensor, ...] = ()
        self._stated: tuple[Tensor, ...] = ()
        # Not the tensors themselves: a program may close over one of them, or be given one twice
        inputs = tuple(map(_copied, self._inputs(call)))
        with pyro.validation_enabled(False):
            recorded = RecordedGraph(self._outputs, inputs)
        self.subsampled = {} if programs.weighted is None else dict(programs.weighted.subsampled)
        recorded.simplify()
        batch_loops(recorded)
        self._check_leaves(recorded.constants().values())
        self._written = tuple(recorded.written_constants().values())
        self._written_inputs = recorded.written_inputs()
        self.gradients = GradientBuffers(optim, self.parameters, self._stated)
        self._function = self._finish(recorded, inputs, backend)

    def evaluate(self, call: Call) -> SurrogateLoss:
        """Evaluates loss and terms, and leaves the gradients in :attr:`gradients`."""
        with torch.no_grad():
            loss, *rest = self._function(*self._inputs(call))
        return SurrogateLoss(loss, loss, dict(zip(self._terms, rest, strict=True)))

    @property
    def writes(self) -> bool:
        """Whether :meth:`written` is not empty."""
        return bool(self._written or self._written_inputs)

    def written(self, call: Call) -> tuple[Tensor, ...]:
        """The tensors that were there before, and that an evaluation writes to."""
        inputs = self._inputs(call) if self._written_inputs else ()
        return *self._written, *(inputs[number] for number in self._written_inputs)

    def _inputs(self, call: Call) -> tuple[Tensor, ...]:
        if not self._weights:
            return call.tensors
        return *call.tensors, *self._programs.variable_weights(numbers=self._numbers).values()

    def _outputs(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        tensors, weights = inputs[: self._number_of_tensors], inputs[self._number_of_tensors :]
        given = dict(zip(self._weights, weights, strict=True))
        args, kwargs = self._rebuilt(tensors)
        with value_reads_refused():
            with poutine.trace(param_only=True) as stated, self._given(given):
                found = self._programs.evaluate(*args, **kwargs)
            self._stated = tuple(stated_parameters(stated.trace))
            gradients = _gradients(found.surrogate, self._stated)
        self.parameters = tuple(gradients)
        self._terms = tuple(found.terms)
        return (found.loss, *found.terms.values(), *gradients.values())

    def _check_leaves(self, constants: Iterable[Tensor]) -> None:
        if any(each.requires_grad and each.is_leaf and each not in set(self._stated) for each in constants):
            raise NotCapturableError(
                "a tensor that is no parameter of Pyro collects a gradient; make it one by pyro.module or "
                "pyro.param, or call requires_grad_(False)"
            )

    def _given(self, weights: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        weighted = self._programs.weighted
        return nullcontext() if weighted is None else weighted.given_weights(weights)

    def _finish(self, recorded: RecordedGraph, inputs: Sequence[Tensor], backend: str) -> TensorFunction:
        if backend == "inductor":
            return compile_graph(recorded, inputs, self.gradients)
        views = self.gradients.views
        others = [None] * (len(recorded.outputs) - len(self.parameters))
        return to_function(recorded, [*others, *(views[each] for each in self.parameters)])


def _copied(tensor: Tensor) -> Tensor:
    """A tensor of the same values and strides in memory of its own."""
    if not tensor.numel():
        return tensor.detach()
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    flat = tensor.detach().as_strided((extent,), (1,))
    return flat.clone().as_strided(tensor.shape, tensor.stride(), 0)


def stated_parameters(trace: Trace) -> list[Tensor]:
    """The unconstrained tensors of a trace's param sites, each once, in order."""
    sites: list[Site] = [site for site in trace.nodes.values() if site["type"] == "param"]
    return list(dict.fromkeys(site["value"].unconstrained() for site in sites))


def _gradients(loss: Tensor, parameters: Sequence[Tensor]) -> Gradients:
    """The gradient for each parameter that the loss depends on."""
    trained = [each for each in parameters if each.requires_grad]
    if not trained or not loss.requires_grad:
        raise NotCapturableError("no parameter has a gradient")
    found = torch.autograd.grad(loss, trained, allow_unused=True)
    return {each: gradient for each, gradient in zip(trained, found, strict=True) if gradient is not None}


# ---- Whether a captured step and an eager one are the same step.

_ROUNDING: Final = 100  # units in the last place


@final
class Outcome:
    """What a step has computed and left behind, to be compared with another."""

    def __init__(
        self, numbers: Mapping[str, float], gradients: Mapping[Tensor, Tensor], buffers: Mapping[str, Tensor]
    ) -> None:
        self.numbers = dict(numbers)
        self.gradients = {parameter: each.detach().clone() for parameter, each in gradients.items()}
        self.buffers = {name: each.clone() for name, each in buffers.items()}
        self.random_states = _random_states()

    def difference(self, other: "Outcome", names: Mapping[Tensor, str]) -> str | None:
        """What differs by more than rounding, in words; None if nothing does."""
        if self.gradients.keys() != other.gradients.keys():
            return "other parameters have a gradient"
        scale = _precision(self.gradients.values())
        largest = max(map(abs, self.numbers.values()))
        for name in self.numbers.keys() & other.numbers.keys():
            value = self.numbers[name]
            if not _near(value, other.numbers[name], scale, largest):
                return f"the {name} is {other.numbers[name]:.8g} in place of {value:.8g}"
        largest_gradient = max(map(_largest, self.gradients.values()), default=0.0)
        for parameter, gradient in self.gradients.items():
            if not _close(gradient, other.gradients[parameter], beside=largest_gradient):
                return f"the gradient of {names.get(parameter, 'a parameter')} differs"
        for name, buffer in self.buffers.items():
            if name not in other.buffers or not _close(buffer, other.buffers[name]):
                return f"the buffer {name} differs"
        if not all(map(torch.equal, self.random_states, other.random_states)):
            return "it draws other random numbers"
        return None


@final
class Standing:
    """Where the random states stand, and what some tensors hold, to be put back."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._random_states = _random_states()
        self._values = [(each, each.clone()) for each in tensors] if tensors else ()

    @torch.no_grad()
    def put_back(self) -> None:
        """Puts both back."""
        cpu, *cuda = self._random_states
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        for each, value in self._values:
            each.copy_(value)


def _random_states() -> list[Tensor]:
    cpu = torch.default_generator.get_state()
    return [cpu, *torch.cuda.get_rng_state_all()] if torch.cuda.is_initialized() else [cpu]


@contextmanager
def undone(state: ProgramState, others: Iterable[Tensor] = ()) -> Iterator[None]:
    """Runs its block on copies of the random states, and puts buffers and other tensors back afterwards."""
    kept = {place: (buffer, buffer.clone()) for place, buffer in state.buffers_by_place().items()}
    values = [(each, each.clone()) for each in others]
    try:
        with isolated_random_state():
            yield
    finally:
        with torch.no_grad():
            for each, copy in values:
                each.copy_(copy)
            for (module, name), (buffer, copy) in kept.items():
                module._buffers[name] = buffer.copy_(copy)


def _precision(tensors: object) -> float:
    dtypes = {each.dtype for each in tensors if each.is_floating_point()}  # type: ignore[attr-defined]
    return math.sqrt(max((torch.finfo(dtype).eps for dtype in dtypes), default=1e-7))


def _near(value: float, other: float, precision: float, scale: float) -> bool:
    if math.isfinite(value) and math.isfinite(other):
        return abs(value - other) <= precision * scale
    return value == other or (math.isnan(value) and math.isnan(other))


def _close(value: Tensor, other: Tensor, *, beside: float = 0.0) -> bool:
    """Whether two tensors are equal but for rounding, that of values as large as ``beside`` included."""
    if value.shape != other.shape or value.dtype != other.dtype:
        return False
    if not (value.is_floating_point() or value.is_complex()):
        return torch.equal(value, other)
    eps = torch.finfo(value.dtype).eps
    # A gradient that is 0 by its formula, such as that of a bias before batch norm, is rounding alone
    tolerance = max(math.sqrt(eps) * _largest(value), _ROUNDING * eps * beside)
    return torch.allclose(value, other, rtol=0.0, atol=tolerance, equal_nan=True)


def _largest(value: Tensor) -> float:
    finite = value[value.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0


# ---- The SVI that records, compares, replays, and falls back.

_MOST_GRAPHS: Final = 16
_MOST_CHANGES: Final = 16
_LONGEST_DISTANCE: Final = 1024  # between two comparisons, each of which takes as long as some ten replays
_NO_STEP_YET: Final = "no step has been taken yet"
_FIRST_OF_ITS_KIND: Final = "the first step on data of a kind, and after each change, is an ordinary one"
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
    left. So are later steps, at distances that double from 1 to 1024 and then stay, and the first one after
    callbacks of the user's own in :func:`~pyro_infomax.training.fit`; see :meth:`compare_next_step` for other
    loops. Where the two differ, or programs cannot be recorded (since they read values of tensors or counts
    from shapes, draw random numbers elsewhere, advance iterators, change numbers of their own or hold
    TorchScript, say), a warning says why and training goes on by ordinary steps. A step whose loss is not
    finite, or that fails, is taken anew as an ordinary one from the same state, so that errors are those of
    SVI. Pyro's validation takes place in ordinary steps alone.

    Args:
        model: the model.
        guide: the guide.
        optim: any optimiser of Pyro; the step is quickest with
            :class:`~pyro_infomax.capture.FusedOptim`.
        loss: an ELBO, or a function of model, guide and data that returns a loss to differentiate.
        backend: ``"replay"`` runs torch's operations one after another. ``"inductor"`` compiles them, which
            takes a C++ compiler and some seconds for each shape; where that fails, it replays.

    Attributes:
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
        backend: str = "replay",
    ) -> None:
        if backend not in BACKENDS:
            raise ValueError(f"Expected backend to be one of {BACKENDS} but got {backend!r}.")
        super().__init__(model=model, guide=guide, optim=optim, loss=loss)
        self.backend = backend
        self.reduce_gradients: Callable[[list[Tensor]], None] | None = None
        self._objective = loss
        self._reason: str | None = None
        self._steps = 0
        self._doubted = 0
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
        if graph is None:
            self._last = _FIRST_OF_ITS_KIND
            loss = self._eager_step(args, kwargs)
            self._expect(call)
            return loss
        self._last = None
        if graph.step is None or not self._is_current(graph.step):
            graph.begin(self._record(call, graph), self._steps)
            return self._checked_step(graph, call, args, kwargs)
        if graph.is_due(after=self._doubted):
            return self._checked_step(graph, call, args, kwargs)
        return self._replay(graph.step, call, args, kwargs)

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
        return step.gradients.optim is self.optim and step.gradients.current

    def _graph_for(self, call: Call) -> "_Graph | None":
        key = self._key(call)
        graph = self._graphs.get(key)
        changed = None if graph is None else graph.changed()
        if changed is None:
            return graph
        del self._graphs[key]
        self._changes += 1
        if self._changes > _MOST_CHANGES:
            raise NotCapturableError(
                f"{changed} changes again and again; make it an argument, or a tensor to be changed in place"
            )
        return None

    def _replay(self, step: CapturedStep, call: Call, args: Args, kwargs: Kwargs) -> float:
        standing = Standing(step.written(call) if step.writes else ())
        try:
            found = step.evaluate(call)
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
        with undone(self._state, step.written(call)):
            try:
                found = step.evaluate(call)
                accumulated = step.gradients.accumulated
                captured = Outcome(_numbers(found), accumulated, self._buffers(step.written(call)))
            except Exception as error:
                difference = f"it fails ({_first_line(error)})"
        loss, parameters = self._eager_gradients(args, kwargs)
        if captured is not None:
            gradients = {each: each.grad for each in parameters if each.grad is not None}
            eager = Outcome({"loss": loss} | self._terms(), gradients, self._buffers(step.written(call)))
            names = {leaf: name for name, leaf in self._state.parameters.items()}
            difference = eager.difference(captured, names)
        self._eager_update(parameters)
        if difference is None:
            graph.compared = self._steps
        else:
            since = self._doubtful_steps()
            self._go_without(f"step is not the step that the programs take: {difference}{since}")
        return loss

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
        if self.backend == "inductor":
            self._graphs.clear()
            self._stop_compiling(f"a compiled {finding}", depth=3)
        else:
            self._give_up(f"a recorded {finding}", depth=3)

    def _stop_compiling(self, reason: str, *, depth: int) -> None:
        self.backend = "replay"
        sentence = f"CapturedSVI replays its steps without compiling them: {reason}."
        warnings.warn(sentence, UserWarning, stacklevel=3 + depth)

    def _buffers(self, written: Iterable[Tensor]) -> dict[str, Tensor]:
        others = {f"{number} of those that are written to": each for number, each in enumerate(written)}
        return self._state.buffers() | others

    def _record(self, call: Call, graph: "_Graph") -> CapturedStep:
        self._check_objective()
        before = self._state.parameters
        stored = dict(pyro.get_param_store().named_parameters())
        graph.stored = {name: stored[name] for name in self._state.parameters if name in stored}
        roots = self.model, self.guide, self._programs.objective
        try:
            graph.python = PythonState(roots, before, self._modules)
            with graph.python.restored(), undone(self._state), _without_warnings():
                return CapturedStep(self._programs, call, self.optim, backend=self.backend)
        except NotCapturableError:
            raise
        except NotCompilableError as error:
            self._stop_compiling(f"the compiler says {error}", depth=2)
            return self._record(call, graph)
        except Exception as error:
            raise NotCapturableError(
                f"its operations cannot be recorded ({_first_line(error)}{place_of(error)})"
            ) from error
        finally:
            self._undo_rebinding(before)

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

    def _expect(self, call: Call) -> None:
        """Prepares to record the next step of this kind."""
        # The key is known only now: the first step has created parameters and called modules
        key = self._key(call)
        if len(self._graphs) < _MOST_GRAPHS:
            self._graphs.setdefault(key, _Graph())
        elif key not in self._graphs:
            sentence = f"its data come in more than {_MOST_GRAPHS} shapes"
            if call.plain:
                sentence = (
                    f"its arguments come with more than {_MOST_GRAPHS} plain values or shapes, the last one "
                    f"with {', '.join(map(repr, call.plain))}; pass a number that changes as a tensor"
                )
            self._give_up(sentence, depth=2)

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

    def is_due(self, *, after: int) -> bool:
        """Counts a step; whether it is to be compared.

        So it is at doubling distances from the recording on, and where it was not since step ``after``.
        """
        self._since += 1
        if self._since >= self._due:
            self._due = self._since + min(self._since, _LONGEST_DISTANCE)
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


def _as_svi_returns(loss: Any) -> Any:
    return tuple(map(torch_item, loss)) if isinstance(loss, tuple) else torch_item(loss)


def _numbers(found: SurrogateLoss) -> dict[str, float]:
    return {name: float(term) for name, term in {"loss": found.loss, **found.terms}.items()}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


@contextmanager
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
