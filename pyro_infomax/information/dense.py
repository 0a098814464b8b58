"""The mixture of any posteriors through their own log-density, differentiable."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, Final, final

import torch
from torch import Tensor

from pyro_infomax.information.blocks import blocks
from pyro_infomax.information.factors import is_parametric
from pyro_infomax.information.marginals import Marginals, marginals_of
from pyro_infomax.information.mixture import Mixture

_SCORES_AT_ONCE: Final = 2**22
_NUMBERS_OF_A_NETWORK: Final = 32  # that it holds at a time for each number that it scores


@final
class Dense:
    """Points against all components at once, as many points as fit into a fixed number of scores.

    Args:
        posterior: batch shape (N,), event shape (d,).
    """

    def __init__(self, posterior: Any) -> None:
        self.posterior = posterior
        self.size = posterior.batch_shape[0]
        self.rows = points_at_once(posterior)
        # its parameters have been checked, so that nan is what a transform makes of z beyond its reach
        self.bounded = is_parametric(posterior)

    @cached_property
    def _marginals(self) -> Marginals:
        return marginals_of(self.posterior)

    def evaluate(self, z: Tensor, index: Tensor | None, *, progress: bool = False) -> Mixture:
        """The mixture at z (points, latent), with each point's own component left out where it is named."""
        return self._evaluate(self.posterior.log_prob, z, index, progress)

    def evaluate_marginals(self, z: Tensor, index: Tensor | None, *, progress: bool = False) -> Mixture:
        """The same of every latent dimension by itself."""
        return self._evaluate(self._marginals.log_prob, z, index, progress)

    def evaluate_prefixes(self, z: Tensor, index: Tensor | None, *, progress: bool = False) -> Mixture:
        """The mixtures of the posterior's first sites, (points, sites), by its ``log_prob_sites``."""
        return self._evaluate(lambda z: self.posterior.log_prob_sites(z).cumsum(-1), z, index, progress)

    def _evaluate(
        self, log_prob: Callable[[Tensor], Tensor], z: Tensor, index: Tensor | None, progress: bool
    ) -> Mixture:
        parts = blocks(len(z), self.rows, "aggregate posterior", progress=progress)
        return Mixture.cat(
            [
                _mixture(self._scores(log_prob, z[part]), None if index is None else index[part])
                for part in parts
            ]
        )

    def _scores(self, log_prob: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
        """(points, batch, *latent)."""
        scores = log_prob(z[:, None]).double()
        if not self.bounded:
            return scores
        unknown = z.isnan().any(-1).reshape(-1, *(1,) * (scores.dim() - 1))
        return scores.masked_fill(scores.isnan() & ~unknown, -torch.inf)


def points_at_once(posterior: Any) -> int:
    """How many points are scored against all components without taking much memory, at least one.

    What shows no parameters of its own, such as a flow or a guide that is run, is taken to run networks: on
    all components at once, unless its ``rows_at_once`` are fewer.
    """
    (size,), latent = posterior.batch_shape, max(1, posterior.event_shape[0])
    rows = 0 if is_parametric(posterior) else min(size, getattr(posterior, "rows_at_once", size))
    return max(1, _SCORES_AT_ONCE // (max(size, rows * _NUMBERS_OF_A_NETWORK) * latent))


def _mixture(scores: Tensor, index: Tensor | None) -> Mixture:
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
