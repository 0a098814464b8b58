"""The mixture of any posteriors through their own log-density, differentiable."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, Final, final

import torch
from torch import Tensor

from pyro_infomax.information.blocks import blocks
from pyro_infomax.information.marginals import Marginals, marginals_of
from pyro_infomax.information.mixture import Mixture

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

    def evaluate(self, z: Tensor, index: Tensor | None, *, progress: bool = False) -> Mixture:
        """The mixture at z (points, latent), with each point's own component left out where it is named."""
        return self._evaluate(self.posterior.log_prob, z, index, progress)

    def evaluate_marginals(self, z: Tensor, index: Tensor | None, *, progress: bool = False) -> Mixture:
        """The same of every latent dimension by itself."""
        return self._evaluate(self._marginals.log_prob, z, index, progress)

    def _evaluate(
        self, log_prob: Callable[[Tensor], Tensor], z: Tensor, index: Tensor | None, progress: bool
    ) -> Mixture:
        parts = blocks(len(z), self.rows, "aggregate posterior", progress=progress)
        return Mixture.cat(
            [_mixture(log_prob(z[part][:, None]), None if index is None else index[part]) for part in parts]
        )


def _mixture(scores: Tensor, index: Tensor | None) -> Mixture:
    scores = scores.double()  # (points, batch, *latent)
    if index is None:
        return Mixture.of(_log_sum(scores), None, scores.shape[1])
    entries = index.reshape(-1, *(1,) * (scores.dim() - 1)).expand(-1, 1, *scores.shape[2:])
    others = _log_sum(scores.scatter(1, entries, -torch.inf))
    return Mixture.of(others, scores.gather(1, entries).squeeze(1), scores.shape[1])


def _log_sum(scores: Tensor) -> Tensor:
    """Over the components; where none has any density, with the gradient 0 rather than nan."""
    empty = (scores == -torch.inf).all(1)
    sums = scores.masked_fill(empty.unsqueeze(1), 0.0).logsumexp(1)
    return sums.masked_fill(empty, -torch.inf)
