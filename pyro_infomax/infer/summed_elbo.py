"""TraceEnum_ELBO by expectations that stay in tensors."""

from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import TraceEnum_ELBO

from pyro_infomax.infer.enumerated_costs import summed_elbo
from pyro_infomax.infer.loss_number import accumulate_gradients, as_number

__all__ = ["SummedELBO"]

Program = Callable[..., Any]


class SummedELBO(TraceEnum_ELBO):
    """Exact sums over enumerated sites, in one graph of tensor operations for all particles."""

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Minus the ELBO."""
        return as_number(self._summed_loss(self._get_traces(model, guide, args, kwargs)))

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Minus the ELBO, its gradients added to the parameters'."""
        traces = list(self._get_traces(model, guide, args, kwargs))
        loss = self._summed_loss(traces)
        accumulate_gradients(loss, traces, retain_graph=self.retain_graph)
        return as_number(loss)

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Minus the ELBO as a tensor."""
        return self._summed_loss(self._get_traces(model, guide, args, kwargs))

    def _summed_loss(self, traces: Any) -> torch.Tensor:
        return torch.as_tensor(sum(-summed_elbo(*pair) for pair in traces) / self.num_particles)
