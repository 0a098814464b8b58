"""An evaluation of an objective that stays in tensors from the programs to the gradients."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro.infer import ELBO, Trace_ELBO, TraceGraph_ELBO
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyro_infomax.infer.recorded_literal import is_literal, literal_number

__all__ = ["SurrogateLoss", "particle_losses"]

Program = Callable[..., Any]


class SurrogateLoss(NamedTuple):
    """What an objective computes in one evaluation, as tensors without axes.

    Args:
        loss: the weighted loss in nats, summed over the data, as ``loss_and_grads`` returns it.
        surrogate: whose gradient is the objective's; its value means nothing where sites are not
            reparameterised.
        distortion: unweighted, in nats, summed like the loss; None for objectives without terms.
        rate: the same of the rate.
        elbo: the objective's own ELBO where it is not −distortion − rate.
    """

    loss: Tensor
    surrogate: Tensor
    distortion: Tensor | None = None
    rate: Tensor | None = None
    elbo: Tensor | None = None


def particle_losses(
    elbo: ELBO, model: Program, guide: Program, args: Any, kwargs: Any
) -> tuple[Tensor, Tensor]:
    """Loss and surrogate loss of one of Pyro's sampled ELBOs, averaged over its particles.

    Raises:
        NotImplementedError: for an ELBO of another kind.
    """
    particle = _particle(elbo)
    with _ItemsStayTensors():
        pairs = [particle(*traces) for traces in elbo._get_traces(model, guide, args, kwargs)]
        loss, surrogate = (sum(each) / elbo.num_particles for each in zip(*pairs, strict=True))
    return torch.as_tensor(loss).detach(), torch.as_tensor(surrogate)


def _particle(elbo: ELBO) -> Callable[[Any, Any], tuple[Any, Any]]:
    if isinstance(elbo, TraceGraph_ELBO):
        return lambda *traces: _negated_first(*elbo._loss_and_surrogate_loss_particle(*traces))
    if isinstance(elbo, Trace_ELBO):
        return elbo._differentiable_loss_particle
    raise NotImplementedError(f"{type(elbo).__name__} has no loss that stays in tensors")


# What Pyro calls a loss there is the ELBO
def _negated_first(elbo: Any, surrogate: Any) -> tuple[Any, Any]:
    return -elbo, surrogate


class _ItemsStayTensors(TorchFunctionMode):
    """Has ``tensor.item()`` give a tensor that is cut from the graph, which Pyro then sums just as well.

    What a recorded program has made of numbers, such as the indices of a sequential plate, becomes a number.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.item:
            return literal_number(args[0]) if is_literal(args[0]) else args[0].detach()
        return func(*args, **(kwargs or {}))
