"""One step of SVI as a graph, and whether it is the step that the programs take."""

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Final, final

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from pyro.poutine import Trace
from torch import Tensor

from pyro_infomax._progress import waiting
from pyro_infomax._random import isolated_random_state
from pyro_infomax._types import Program, Site
from pyro_infomax.capture._batching import batch_loops
from pyro_infomax.capture._compiled import CompiledTraining, compile_gradients, updates_of
from pyro_infomax.capture._graph import GradientBuffers, RecordedGraph, TensorFunction, to_function
from pyro_infomax.capture._refusals import (
    NotCapturableError,
    NotCompilableError,
    compiling,
    value_reads_refused,
)
from pyro_infomax.capture._watch import Call
from pyro_infomax.infer import SurrogateLoss, WeightedELBO, surrogate_loss
from pyro_infomax.programs import ProgramState

# ---- One step of SVI as a graph: recorded, simplified and made ready to be run again.

Objective = ELBO | Callable[..., Tensor]
Gradients = dict[Tensor, Tensor]

_COMPILING: Final = "compiling the training step: some 10 s the first time, a few from torch's cache"
_RECORDING: Final = "recording a long training step, once for each shape of data"
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

    def evaluate_with_gradients(
        self, weights: Mapping[str, Tensor], *args: object, **kwargs: object
    ) -> tuple[SurrogateLoss, tuple[Tensor, ...], Gradients]:
        """Loss and terms under given weights, the stated parameters, and the gradients that there are.

        Raises:
            NotCapturableError: where a value of a tensor is read, and where nothing has a gradient.
        """
        given = nullcontext() if self.weighted is None else self.weighted.given_weights(weights)
        with value_reads_refused():
            with poutine.trace(param_only=True) as traced, given:
                found = self.evaluate(*args, **kwargs)
            stated = tuple(stated_parameters(traced.trace))
            return found, stated, _gradients(found.surrogate, stated)

    @property
    def weights_are_set(self) -> bool:
        """Whether someone sets weights anew again and again, so that their numbers had better be inputs."""
        weights = () if self.weighted is None else self.weighted.weights
        return len(self._weights_seen) >= len(weights) + _FEW_WEIGHTS

    @property
    def own_parameters(self) -> frozenset[Tensor]:
        """What a step of the objective moves by itself."""
        return frozenset(() if self.weighted is None else self.weighted.own_parameters)

    def variable_weights(self, *, numbers: bool) -> dict[str, Tensor]:
        """The weights that are inputs of a recording."""
        return {} if self.weighted is None else self.weighted.variable_weights(numbers=numbers)

    def weights_ahead(self, steps: int, *, numbers: bool) -> list[tuple[Tensor, ...]]:
        """The same for each of the next steps."""
        if self.weighted is None:
            return [()] * steps
        return self.weighted.weights_ahead(steps, numbers=numbers)

    def settings(self) -> Hashable:
        """What a recording fixes of the objective, beside its attributes."""
        if self.weighted is None:
            return None
        self.weighted.look_at_itself()
        weights = self.weighted.weights
        if not self.weights_are_set:
            known = set(map(id, self._weights_seen))
            self._weights_seen += [each for each in weights.all if id(each) not in known]
        return weights.labels if self.weights_are_set else tuple(map(id, weights.all))


@final
class CapturedStep:
    """Loss, terms and gradients of a step as one function of the data and of the weights that change.

    Model, guide and objective have run on such data before.

    Args:
        programs: what a step evaluates.
        call: the arguments of a step like those to come.
        optim: what steps by the gradients.
        wants_compiler: from the number of operations, whether to compile them. Where it is so, and the
            optimiser's update is known as operations, the two become one.
        progress: whether to say what is waited for, and after which title.

    Attributes:
        parameters: the parameters that have a gradient, in order of statement.
        gradients: what holds their gradients after an evaluation.
        subsampled: what the objective knew of subsampled plates when it was recorded.
        written_constants: what an evaluation writes to, other than its arguments.
        compiled: whether it is compiled.

    Raises:
        NotCapturableError: where the programs cannot be recorded.
        NotCompilableError: where the recording cannot be compiled.
    """

    def __init__(
        self,
        programs: Programs,
        call: Call,
        optim: PyroOptim,
        *,
        wants_compiler: Callable[[int], bool],
        progress: bool | str = False,
    ) -> None:
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
        recorded = self._recorded(inputs, progress)
        self.subsampled = {} if programs.weighted is None else dict(programs.weighted.subsampled)
        self._check_leaves(recorded.constants().values())
        self.written_constants = tuple(recorded.written_constants().values())
        self._written_inputs = recorded.written_inputs()
        self.gradients = GradientBuffers(optim, self.parameters, self._stated)
        self._training: CompiledTraining | None = None
        self.compiled = wants_compiler(len(recorded.graph.nodes))
        if not self.compiled:
            self._function = self._replayed(recorded)
            return
        with waiting(_COMPILING, progress=progress):
            self._compile(recorded, inputs)

    def _recorded(self, inputs: Sequence[Tensor], progress: bool | str) -> RecordedGraph:
        with ExitStack() as line:
            wait = partial(waiting, _RECORDING, progress=progress)
            with pyro.validation_enabled(False):
                recorded = RecordedGraph(self._outputs, inputs, when_long=lambda: line.enter_context(wait()))
            recorded.simplify()
            operations = len(recorded.graph.nodes)
        batch_loops(recorded)
        self._batched = len(recorded.graph.nodes) < operations
        return recorded

    @compiling()
    def _compile(self, recorded: RecordedGraph, inputs: Sequence[Tensor]) -> None:
        if self._programs.own_parameters and recorded.moves_averages():
            # What inductor makes of this was seen to be another step
            raise NotCompilableError("batch norm is trained beside parameters that a step moves by itself")
        updates = updates_of(self.gradients)
        on_cpu = all(each.device.type == "cpu" for each in (*inputs, *self.parameters))
        if on_cpu and updates is not None and all(each.current for each in updates):
            self._function = self._replayed(recorded)
            self._training = CompiledTraining(recorded, inputs, self.gradients, updates)
        else:
            self._function = compile_gradients(recorded, inputs, self.gradients)

    def evaluate(self, call: Call, *, trains: bool = False) -> SurrogateLoss:
        """Evaluates loss and terms, and leaves the gradients in :attr:`gradients`.

        Args:
            call: the arguments.
            trains: whether to take the optimiser's step with it, which writes to :attr:`moved`. It can be
                done where :attr:`trains`.
        """
        if trains:
            (row,) = self.take([each[None] for each in self._inputs(call)], 1).unbind()
            return self.outcome(row)
        with torch.no_grad():
            loss, *rest = self._function(*self._inputs(call))
        return SurrogateLoss(loss, loss, dict(zip(self._terms, rest, strict=True)))

    # Many steps, each with its update.

    @property
    def trains(self) -> bool:
        """Whether an evaluation can be a step of the optimiser too."""
        return self._training is not None and self._training.current and not self.gradients.present

    @property
    def takes_many(self) -> bool:
        """Whether it can take many steps in one call."""
        groups = self.gradients.groups
        return (
            groups is not None
            and not self._written_inputs
            and not self.gradients.present
            and (self._training is None or self._training.current)
            and all(group.flat is not None and group.is_ready for group in groups)
        )

    @property
    def moved(self) -> list[Tensor]:
        """What steps of the optimiser write to."""
        return (
            []
            if self.gradients.groups is None
            else [tensor for group in self.gradients.groups for tensor in group.moved]
        )

    @property
    def fits(self) -> bool:
        """Whether the optimiser has the options that it was compiled for, whatever their numbers."""
        return self._training is None or self._training.fits

    def difference_of_updates(self, captured: Mapping[Tensor, Tensor]) -> str | None:
        """What differs between the optimiser's present state and a captured one; None if nothing does.

        Moments are compared, in which gradients are linear or squared: rounding in a gradient of 0 can move a
        parameter by the whole rate.
        """
        largest: dict[torch.dtype, float] = {}
        for each in captured:
            largest[each.dtype] = max(largest.get(each.dtype, 0.0), _largest(each))
        flats = {group.flat for group in self.gradients.groups or ()}
        for each, value in captured.items():
            if each not in flats | self._programs.own_parameters and not _close(
                each, value, beside=largest[each.dtype]
            ):
                return "the optimiser keeps other moments"
        return None

    def remember(self) -> Callable[[], None]:
        """A function that puts back what the optimiser keeps beside tensors."""
        kept = [group.remember() for group in self.gradients.groups or ()]

        def put_back() -> None:
            for each in kept:
                each()

        return put_back

    @property
    def counts(self) -> list[Tensor]:
        """How many steps the optimiser has taken, group by group."""
        return [each for each in self.moved if not each.dim()]

    def take(self, stacks: Sequence[Tensor], steps: int) -> Tensor:
        """Takes steps; loss and terms of each, (step, term).

        Args:
            stacks: their data and weights, (steps, ...) each.
            steps: how many they are.
        """
        if self._training is not None:
            return self._training.take(stacks, steps)
        found = []
        with torch.no_grad():
            for given in zip(*(each.unbind() for each in stacks), strict=True):
                found.append(self._function(*given))
                self.gradients.apply()
            by_name = [torch.stack([*map(_scalar, each)]) for each in zip(*found, strict=True)]
            return torch.stack([each.double().cpu() for each in by_name], dim=1)

    def with_weights(self, stacks: Sequence[Tensor], steps: int) -> list[Tensor]:
        """The data of the next steps, (steps, ...) each, and after them the weights."""
        if not self._weights:
            return [*stacks]
        weights = self._programs.weights_ahead(steps, numbers=self._numbers)
        return [*stacks, *map(torch.stack, zip(*weights, strict=True))]

    def outcome(self, rows: Tensor) -> SurrogateLoss:
        """What was evaluated in a step, from its row of :meth:`take`; or in many, with an axis over them."""
        loss, *terms = rows.unbind(-1)
        return SurrogateLoss(loss, loss, dict(zip(self._terms, terms, strict=True)))

    @property
    def rounds(self) -> bool:
        """Whether it computes sums in another order than the programs do."""
        return self.compiled or self._batched

    @property
    def writes(self) -> bool:
        """Whether :meth:`written` is not empty."""
        return bool(self.written_constants or self._written_inputs)

    def written(self, call: Call) -> tuple[Tensor, ...]:
        """The tensors that were there before, and that an evaluation writes to."""
        inputs = self._inputs(call) if self._written_inputs else ()
        return *self.written_constants, *(inputs[number] for number in self._written_inputs)

    def _inputs(self, call: Call) -> tuple[Tensor, ...]:
        if not self._weights:
            return call.tensors
        return *call.tensors, *self._programs.variable_weights(numbers=self._numbers).values()

    def _outputs(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        tensors, weights = inputs[: self._number_of_tensors], inputs[self._number_of_tensors :]
        given = dict(zip(self._weights, weights, strict=True))
        args, kwargs = self._rebuilt(tensors)
        found, self._stated, gradients = self._programs.evaluate_with_gradients(given, *args, **kwargs)
        self.parameters = tuple(gradients)
        self._terms = tuple(found.terms)
        return (found.loss, *found.terms.values(), *gradients.values())

    def _check_leaves(self, constants: Iterable[Tensor]) -> None:
        known = {*self._stated, *self._programs.own_parameters}
        if any(each.requires_grad and each.is_leaf and each not in known for each in constants):
            raise NotCapturableError(
                "a tensor that is no parameter of Pyro collects a gradient; make it one by pyro.module or "
                "pyro.param, or call requires_grad_(False)"
            )

    def _replayed(self, recorded: RecordedGraph) -> TensorFunction:
        views = self.gradients.views
        others = [None] * (len(recorded.outputs) - len(self.parameters))
        return to_function(recorded, [*others, *(views[each] for each in self.parameters)])


def _scalar(tensor: Tensor) -> Tensor:
    return tensor if not tensor.dim() else tensor.reshape(())


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
        self.buffers = {name: each.detach().clone() for name, each in buffers.items()}
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
            # What is kept in double precision may be made of what is not
            if name not in other.buffers or not _close(buffer, other.buffers[name], precision=scale):
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


def _close(value: Tensor, other: Tensor, *, beside: float = 0.0, precision: float = 0.0) -> bool:
    """Whether two tensors are equal but for rounding, that of values as large as ``beside`` included."""
    if value.shape != other.shape or value.dtype != other.dtype:
        return False
    if not (value.is_floating_point() or value.is_complex()):
        return torch.equal(value, other)
    eps = torch.finfo(value.dtype).eps
    # A gradient that is 0 by its formula, such as that of a bias before batch norm, is rounding alone
    tolerance = max(max(math.sqrt(eps), precision) * _largest(value), _ROUNDING * eps * beside)
    return torch.allclose(value, other, rtol=0.0, atol=tolerance, equal_nan=True)


def _largest(value: Tensor) -> float:
    finite = value.detach()[value.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0
