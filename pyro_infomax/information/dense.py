"""The mixture of any posteriors through their own log-density, differentiable."""

from functools import cached_property
from typing import Any, Final, final

import torch
from torch import Tensor

from pyro_infomax.information.marginals import Marginals, marginals_of
from pyro_infomax.information.mixture import Evaluation, Mixture

_SCORES_AT_ONCE: Final = 2**22


@final
class Dense:
    """Points against all components at once, as many points as fit into a fixed number of scores.

    Args:
        posterior: batch shape (N,), event shape (d,).
    """

    def __init__(self, posterior: Any) -> None:
        self.posterior = posterior
        self.size = posterior.batch_shape[0]
        self.rows = max(1, _SCORES_AT_ONCE // (self.size * max(1, posterior.event_shape[0])))

    @cached_property
    def _marginals(self) -> Marginals:
        return marginals_of(self.posterior)

    def evaluate(self, z: Tensor, index: Tensor | None, marginals: bool) -> Evaluation:
        """All that is asked about at most ``rows`` points z (points, latent)."""
        joint = _mixture(self.posterior.log_prob(z[:, None, :]), index)  # from (points, batch)
        return Evaluation(joint, self.evaluate_marginals(z, index) if marginals else None)

    def evaluate_marginals(self, z: Tensor, index: Tensor | None) -> Mixture:
        return _mixture(self._marginals.log_prob(z[:, None, :]), index)  # from (points, batch, latent)


def _mixture(scores: Tensor, index: Tensor | None) -> Mixture:
    scores = scores.double()  # (points, batch, *latent)
    if index is None:
        return Mixture.of(scores.logsumexp(1), None, scores.shape[1])
    entries = index.reshape(-1, *(1,) * (scores.dim() - 1)).expand(-1, 1, *scores.shape[2:])
    others = scores.scatter(1, entries, -torch.inf).logsumexp(1)
    return Mixture.of(others, scores.gather(1, entries).squeeze(1), scores.shape[1])
