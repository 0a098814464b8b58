"""A posterior over several sites, read one after the other."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, final

import torch
from torch import Tensor
from torch.distributions import Independent

from pyro_infomax.information.aggregate_posterior import AggregatePosterior
from pyro_infomax.information.dense import Dense
from pyro_infomax.information.marginals import marginals_of
from pyro_infomax.information.mixture import Mixture
from pyro_infomax.information.side_by_side import joined, parts_of


@final
class Prefixes:
    r"""The first sites of a posterior, and their mixtures :math:`q(z_{\le s})` over all data.

    The chain rule makes of them what each site adds:
    :math:`q(z_s \mid z_{<s}) = q(z_{\le s}) / q(z_{<s})`.

    Args:
        posterior: batch shape (N,), event shape (d,): either a product of univariate factors, or an object
            with ``log_prob_sites``.
        sizes: the number of latent dimensions of each site.
        progress: show a bar when an evaluation takes more than a few seconds.

    >>> from torch.distributions import Normal
    >>> means = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    >>> prefixes = Prefixes(Independent(Normal(means, 0.5), 1), [1, 1])
    >>> prefixes.evaluate(torch.tensor([[1.0, 0.0]], dtype=torch.float64)).log_prob
    tensor([[-0.9186, -1.1444]], dtype=torch.float64)
    """

    def __init__(self, posterior: Any, sizes: Sequence[int], *, progress: bool = True) -> None:
        self.posterior = posterior
        self.sizes = list(sizes)
        self.progress = progress

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z_s|z_<s, x) of each site.

        Args:
            z: (..., batch or 1, latent).

        Returns:
            (..., batch, sites), float64, in nats.
        """
        if hasattr(self.posterior, "log_prob_sites"):
            return self.posterior.log_prob_sites(z).double()
        return sums_of(marginals_of(self.posterior).log_prob(z).double(), self.sizes)

    def evaluate(self, z: Tensor, *, index: Tensor | None = None) -> Mixture:
        """log q(z_≤s) for every s, with each point's own datum left out where it is named.

        Args:
            z: (points, latent).
            index: (points,), each point's own datum; without it nothing is left out.

        Returns:
            (points, sites); the last one is log q(z).
        """
        if hasattr(self.posterior, "log_prob_sites"):
            return Dense(self.posterior).evaluate_prefixes(z, index, progress=self.progress)
        firsts = zip(self._firsts(), accumulate(self.sizes), strict=True)
        return Mixture.stack([first.evaluate(z[:, :size], index=index) for first, size in firsts])

    def _firsts(self) -> list[AggregatePosterior]:
        parts = parts_of(self.posterior.base_dist, self.sizes)
        products = (joined(parts[: count + 1]) for count in range(len(parts)))
        return [AggregatePosterior(Independent(each, 1), progress=self.progress) for each in products]


def sums_of(values: Tensor, sizes: Sequence[int]) -> Tensor:
    """Sums over runs of the last axis, (..., sites)."""
    return torch.stack([part.sum(-1) for part in values.split(list(sizes), -1)], -1)
