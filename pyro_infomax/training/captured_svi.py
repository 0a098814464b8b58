"""SVI whose step is recorded once and replayed."""

import math
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Final, final

import pyro
from pyro import poutine
from pyro.infer import ELBO, SVI
from pyro.infer.util import torch_item, zero_grads
from pyro.optim import PyroOptim
from pyro.util import warn_if_nan
from torch import Tensor, nn

from pyro_infomax.infer import SurrogateLoss
from pyro_infomax.training.capture_key import Call, NotCapturableError, NotCompilableError, surroundings
from pyro_infomax.training.captured_step import BACKENDS, CapturedStep, Objective, Programs, stated_parameters
from pyro_infomax.training.own_code import place_of
from pyro_infomax.training.program_state import ProgramState
from pyro_infomax.training.python_state import PythonState
from pyro_infomax.training.self_check import Outcome, undone

__all__ = ["CapturedSVI"]

_MOST_GRAPHS: Final = 16
_MOST_CHANGES: Final = 16
_EARLY_CHECKS: Final = frozenset({3, 10, 100})
_CHECK_EVERY: Final = 1000
_RECORDED: Final = frozenset(
    {"_programs", "_given_loss_and_grads", "_state", "_modules", "_parameters", "_graphs", "_changes"}
)


@final
class CapturedSVI(SVI):
    """SVI whose step is recorded once as a graph of tensor operations, and replayed from then on.

    It takes the place of :class:`pyro.infer.SVI` wherever that stands, with the same steps: what programs and
    Pyro's handlers do in Python is done once, and what they do to tensors at each step. Schedules and
    tensors as weights stay inputs of the graph.

    The first step on data of a shape is an ordinary one. The second is recorded, and compared with an
    ordinary one under the same random state: loss, terms, gradients, buffers of modules and the random state
    that is left. The comparison is repeated in the third step, after 10 and 100 steps, then every 1000. Where
    the two differ, or programs cannot be recorded (since they read values of tensors, draw random numbers
    elsewhere or change numbers of their own, say), a warning says why and training goes on by ordinary steps.

    A graph stands for what was fixed when it was recorded: shapes and dtypes, plain arguments, the training
    mode of modules, which parameters are trained, the objective's numbers, and the numbers and tensors in
    attributes, closures, globals and containers that the programs reach. If one of these changes, another
    graph is recorded. What programs read from elsewhere (a clock, a file, a NumPy array that is changed in
    place) is noticed at the next comparison. Pyro's validation takes place in ordinary steps alone.

    Args:
        model: the model.
        guide: the guide.
        optim: any optimiser of Pyro; the step is quickest with
            :class:`~pyro_infomax.training.FusedOptim`.
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
        >>> from pyro_infomax.training import FusedOptim
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
        model: Callable[..., Any],
        guide: Callable[..., Any],
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

    def __getstate__(self) -> dict[str, Any]:
        """The state without recordings, which stand for the very tensors that they have met."""
        return {name: value for name, value in vars(self).items() if name not in _RECORDED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Has a copy record anew."""
        vars(self).update(state)
        self._begin()

    @property
    def captured(self) -> bool:
        """Whether there is a graph, so that steps are replayed."""
        return self._reason is None and any(graph.step is not None for graph in self._graphs.values())

    @property
    def reason(self) -> str | None:
        """Why it goes on by ordinary steps; None if it does not."""
        return self._reason

    def step(self, *args: Any, **kwargs: Any) -> float:
        """Takes a gradient step.

        Args:
            *args: the data, and whatever else model and guide are called with.
            **kwargs: the same by keyword.

        Returns:
            The loss, in nats, summed over the data.
        """
        if self._reason is not None:
            return self._eager_step(args, kwargs)
        try:
            return self._step(Call(args, kwargs), args, kwargs)
        except NotCapturableError as error:
            self._give_up(str(error))
            return self._eager_step(args, kwargs)

    def _step(self, call: Call, args: Any, kwargs: Any) -> float:
        self._check_own_parts()
        graph = self._graph_for(call)
        if graph is None:
            loss = self._eager_step(args, kwargs)
            self._expect(call)
            return loss
        graph.steps += 1
        if graph.step is None or not self._is_current(graph.step):
            graph.steps, graph.step = 2, self._record(call, graph)
            return self._checked_step(graph.step, call, args, kwargs)
        if graph.steps in _EARLY_CHECKS or graph.steps % _CHECK_EVERY == 0:
            return self._checked_step(graph.step, call, args, kwargs)
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

    def _replay(self, step: CapturedStep, call: Call, args: Any, kwargs: Any) -> float:
        found = step.evaluate(call)
        loss: Any = found.loss.item()
        if not math.isfinite(loss):
            self._raise_as_ordinary(step, call, args, kwargs)
        step.gradients.add_present()
        if self.reduce_gradients is not None:
            self.reduce_gradients(step.gradients.flat)
        step.gradients.apply()
        if self._programs.weighted is not None:
            self._programs.weighted.adopt(found, step.subsampled)
        warn_if_nan(loss, "loss")
        return float(loss)

    def _raise_as_ordinary(self, step: CapturedStep, call: Call, args: Any, kwargs: Any) -> None:
        """Raises what an ordinary step would, where that looks at values that are not finite."""
        with undone(self._state, step.written(call)), _without_warnings():
            self.evaluate_loss(*args, **kwargs)

    def _eager_step(self, args: Any, kwargs: Any) -> float:
        loss, parameters = self._eager_gradients(args, kwargs)
        self._eager_update(parameters)
        return loss

    def _eager_gradients(self, args: Any, kwargs: Any) -> tuple[Any, list[Tensor]]:
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

    def _checked_step(self, step: CapturedStep, call: Call, args: Any, kwargs: Any) -> float:
        """An ordinary step, after which the graph goes on only if it has found the same."""
        with undone(self._state, step.written(call)):
            found = step.evaluate(call)
            captured = Outcome(_numbers(found), step.gradients.accumulated, self._buffers(step.written(call)))
        loss, parameters = self._eager_gradients(args, kwargs)
        gradients = {each: each.grad for each in parameters if each.grad is not None}
        eager = Outcome({"loss": loss} | self._terms(), gradients, self._buffers(step.written(call)))
        difference = eager.difference(captured, self._names())
        self._eager_update(parameters)
        if difference is not None:
            self._go_without(f"step is not the step that the programs take: {difference}")
        return loss

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
        before = self._state.parameters
        graph.python = PythonState(self.model, self.guide, *self._modules, *self._plain_loss())
        stored = dict(pyro.get_param_store().named_parameters())
        graph.stored = {name: stored[name] for name in self._state.parameters if name in stored}
        try:
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

    def _plain_loss(self) -> tuple[object, ...]:
        loss = self._programs.objective
        return () if isinstance(loss, ELBO) else (loss,)

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
            sentence = f"its data come in more than {_MOST_GRAPHS} shapes, or with as many plain arguments"
            self._give_up(sentence, depth=2)

    def _terms(self) -> dict[str, float]:
        weighted = self._programs.weighted
        return {} if weighted is None or weighted.terms is None else dict(weighted.terms)

    def _names(self) -> dict[Tensor, str]:
        return {leaf: name for name, leaf in self._state.parameters.items()}

    def _give_up(self, reason: str, *, depth: int = 0) -> None:
        self._reason = reason
        self._graphs.clear()
        sentence = f"CapturedSVI goes on by ordinary steps: {reason}."
        warnings.warn(sentence, UserWarning, stacklevel=3 + depth)  # at the line that called step


@final
class _Graph:
    """How often there was a step on data of one kind, and its recording."""

    def __init__(self) -> None:
        self.steps = 1
        self.step: CapturedStep | None = None
        self.python = PythonState()
        self.stored: dict[str, Tensor] = {}

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
    named = {"loss": found.loss, "distortion": found.distortion, "rate": found.rate, "elbo": found.elbo}
    return {name: float(term) for name, term in named.items() if term is not None}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


@contextmanager
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
