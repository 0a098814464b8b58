"""One step of SVI as a graph: recorded, simplified and made ready to be run again."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Final, final

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from torch import Tensor

from pyro_infomax.infer import SurrogateLoss, WeightedELBO, surrogate_loss
from pyro_infomax.training.capture_key import Call, NotCapturableError
from pyro_infomax.training.gradient_buffers import GradientBuffers
from pyro_infomax.training.inductor import compile_graph
from pyro_infomax.training.outside_writes import WritesUndone
from pyro_infomax.training.recorded_graph import RecordedGraph
from pyro_infomax.training.replay import to_function
from pyro_infomax.training.value_reads import value_reads_refused

__all__ = ["BACKENDS", "CapturedStep", "Objective", "Programs", "stated_parameters"]

Program = Callable[..., Any]
Objective = ELBO | Callable[..., Tensor]
Gradients = dict[Tensor, Tensor]
TensorFunction = Callable[..., tuple[Tensor, ...]]

BACKENDS: Final = ("replay", "inductor")
_FEW_WEIGHTS: Final = 3


@final
class Programs:
    """What a step evaluates.

    Args:
        model: the model.
        guide: the guide.
        objective: an ELBO or a function of model, guide and data.
    """

    def __init__(self, model: Program, guide: Program, objective: Objective) -> None:
        self.model, self.guide, self.objective = model, guide, objective
        self.weighted = objective if isinstance(objective, WeightedELBO) else None
        # Kept, so that no other can have the identity of one that was seen
        self._weights_seen: list[object] = []
        public = {name: each for name, each in vars(objective).items() if not name.startswith("_")}
        self._numbers = [name for name, each in public.items() if isinstance(each, bool | int | float)]

    def evaluate(self, *args: Any, **kwargs: Any) -> SurrogateLoss:
        """Loss and terms in tensors."""
        if isinstance(self.objective, ELBO):
            return surrogate_loss(self.objective, self.model, self.guide, *args, **kwargs)
        loss = self.objective(self.model, self.guide, *args, **kwargs)
        return SurrogateLoss(loss.detach(), loss)

    @property
    def weights_are_set(self) -> bool:
        """Whether someone sets weights anew again and again, so that their numbers had better be inputs."""
        return len(self._weights_seen) > _FEW_WEIGHTS

    def variable_weights(self, *, numbers: bool) -> dict[str, Tensor]:
        """The weights that are inputs of a recording."""
        return {} if self.weighted is None else self.weighted.variable_weights(numbers=numbers)

    def settings(self) -> Hashable:
        """What a recording fixes of the objective."""
        given = vars(self.objective)
        numbers = tuple([given[name] for name in self._numbers])
        if self.weighted is None:
            return numbers
        weight = self.weighted.objective_weight
        if not self.weights_are_set and not any(weight is each for each in self._weights_seen):
            self._weights_seen.append(weight)
        return numbers, weight.labels if self.weights_are_set else id(weight)


@final
class CapturedStep:
    """Loss, terms and gradients of a step as one function of the data and of the weights that change.

    Args:
        programs: model, guide and objective, which have run on such data before.
        call: the arguments of the step.
        backend: ``"replay"`` or ``"inductor"``.
        optim: the optimiser that the gradients are for.

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
        self._fields: tuple[str, ...] = ()
        self.parameters: tuple[Tensor, ...] = ()
        self._stated: tuple[Tensor, ...] = ()
        # Not the tensors themselves: a program may close over one of them, or be given one twice
        inputs = tuple(map(_copied, self._inputs(call)))
        with pyro.validation_enabled(False), WritesUndone():
            recorded = RecordedGraph(self._outputs, inputs)
        self.subsampled = {} if programs.weighted is None else dict(programs.weighted.subsampled)
        recorded.simplify()
        self._check_leaves(recorded.constants().values())
        self._written = tuple(recorded.written_constants().values())
        self._written_inputs = recorded.written_inputs()
        self.gradients = GradientBuffers(optim, self.parameters, self._stated)
        self._function = self._finish(recorded, inputs, backend)

    def evaluate(self, call: Call) -> SurrogateLoss:
        """Evaluates loss and terms, and leaves the gradients in :attr:`gradients`."""
        with torch.no_grad():
            loss, *rest = self._function(*self._inputs(call))
        return SurrogateLoss(loss, loss, **dict(zip(self._fields, rest, strict=True)))

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
        terms = {name: getattr(found, name) for name in ("distortion", "rate", "elbo")}
        self._fields = tuple(name for name, term in terms.items() if term is not None)
        return (found.loss, *(terms[name] for name in self._fields), *gradients.values())

    def _check_leaves(self, constants: Iterable[Tensor]) -> None:
        if any(each.requires_grad and each.is_leaf and each not in set(self._stated) for each in constants):
            raise NotCapturableError(
                "a tensor that is no parameter of Pyro collects a gradient; make it one by pyro.module or "
                "pyro.param, or call requires_grad_(False)"
            )

    def _given(self, weights: Mapping[str, Tensor]) -> Any:
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


def stated_parameters(trace: Any) -> list[Tensor]:
    """The unconstrained tensors of a trace's param sites, each once, in order."""
    sites = (site for site in trace.nodes.values() if site["type"] == "param")
    return list(dict.fromkeys(site["value"].unconstrained() for site in sites))


def _gradients(loss: Tensor, parameters: Sequence[Tensor]) -> Gradients:
    """The gradient for each parameter that the loss depends on."""
    trained = [each for each in parameters if each.requires_grad]
    if not trained or not loss.requires_grad:
        raise NotCapturableError("no parameter has a gradient")
    found = torch.autograd.grad(loss, trained, allow_unused=True)
    return {each: gradient for each, gradient in zip(trained, found, strict=True) if gradient is not None}
