"""RenyiELBO by a bound that stays in tensors."""

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions.util import is_identically_zero
from pyro.infer import RenyiELBO
from pyro.infer.util import get_dependent_plate_dims, torch_sum

from pyro_infomax.infer.loss_number import accumulate_gradients, as_number
from pyro_infomax.poutine import sample_sites

__all__ = ["RenyiBound", "summed_within_particles"]

Program = Callable[..., Any]
Trace = Any
Site = Any


class RenyiBound(RenyiELBO):
    r"""The variational Rényi bound, in one graph of tensor operations for all particles.

    .. math:: \frac{1}{1 - \alpha} \log \frac{1}{K} \sum_k w_k^{1 - \alpha}

    Li and Turner, 2016, Rényi divergence variational inference.
    """

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Minus the bound."""
        with torch.no_grad():
            return as_number(self._loss_and_surrogate(self._get_traces(model, guide, args, kwargs))[0])

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Minus the bound, its gradients added to the parameters'."""
        traces = list(self._get_traces(model, guide, args, kwargs))
        loss, surrogate = self._loss_and_surrogate(traces)
        accumulate_gradients(surrogate, traces, retain_graph=self.retain_graph)
        return as_number(loss)

    def _loss_and_surrogate(self, traces: Any) -> tuple[torch.Tensor, torch.Tensor]:
        pairs = [self._log_weight_and_signal(*each) for each in traces]
        log_weights, signals = (self._by_particle(each) for each in zip(*pairs, strict=True))
        shares = torch.softmax((1.0 - self.alpha) * log_weights, 0)
        return -self._bound(log_weights), -(shares * signals).sum()

    def _log_weight_and_signal(
        self, model_trace: Trace, guide_trace: Trace
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The log-weight of one particle, and what has the gradients that its share in the bound is for."""
        joint = summed_within_particles(model_trace, model_trace)
        log_weight = joint - summed_within_particles(guide_trace, model_trace)
        signal = joint + summed_within_particles(guide_trace, model_trace, self._guide_signal)
        return log_weight.detach(), signal

    # A score counts 1 / (1 − α) in the bound; the log-weight itself counts −1.
    def _guide_signal(self, site: Site) -> Any:
        _, score_function, entropy_term = site["score_parts"]
        if is_identically_zero(score_function):
            return 0.0 if is_identically_zero(entropy_term) else -site["log_prob"]
        if not is_identically_zero(entropy_term):
            raise NotImplementedError(
                f"{type(self).__name__} has no gradient for {site['name']!r}, which is reparameterised in "
                "part; use a Trace_ class"
            )
        return self.alpha / (1.0 - self.alpha) * site["log_prob"]

    def _by_particle(self, each: Any) -> torch.Tensor:
        """(particles, *shared plates)."""
        vectorized = self.vectorize_particles and self.num_particles > 1
        return each[0] if vectorized else torch.stack(torch.broadcast_tensors(*each))

    def _bound(self, log_weights: torch.Tensor) -> torch.Tensor:
        order = 1.0 - self.alpha
        means = torch.logsumexp(order * log_weights, 0) - math.log(self.num_particles)
        return means.sum() / order


def summed_within_particles(
    trace: Trace, model_trace: Trace, of_site: Callable[[Site], Any] = lambda site: site["log_prob"]
) -> torch.Tensor:
    """A quantity of the sites of a trace, summed over what the sites of a model do not share."""
    dims = get_dependent_plate_dims(model_trace.nodes.values())
    terms = [of_site(site) for site in sample_sites(trace)]
    sums = [torch_sum(term, dims) if isinstance(term, torch.Tensor) else term for term in terms]
    return torch.as_tensor(sum(sums))
