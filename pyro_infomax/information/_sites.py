"""Posteriors over several sites, and the aggregate posterior as one process or several hold it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import cast, final

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from pyro_infomax._ranks import Ranks
from pyro_infomax.distributions import Posterior, joined, marginals_of, parts_of
from pyro_infomax.information._aggregate import AggregatePosterior
from pyro_infomax.information._mixture_engine import Dense, MixtureScores

# ---- The first sites of a posterior, by the chain rule.


@final
class Prefixes:
    r"""The first sites of a posterior, and their mixtures :math:`q(z_{\le s})` over all data.

    The chain rule makes of them what each site adds:
    :math:`q(z_s \mid z_{<s}) = q(z_{\le s}) / q(z_{<s})`. The posterior is a product of univariate factors,
    or has ``log_prob_sites``.
    """

    def __init__(self, posterior: Posterior, sizes: Sequence[int], *, progress: bool = True) -> None:
        self.posterior = posterior
        self.sizes = list(sizes)
        self.progress = progress

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z_s|z_<s, x) of each site, (..., batch, sites), for z (..., batch or 1, latent)."""
        if hasattr(self.posterior, "log_prob_sites"):
            return self.posterior.log_prob_sites(z).double()
        return sums_of(marginals_of(self.posterior).log_prob(z).double(), self.sizes)

    def evaluate(self, z: Tensor, *, index: Tensor | None = None) -> MixtureScores:
        """log q(z_≤s) for every s, (points, sites), without each point's own datum where it is named."""
        if hasattr(self.posterior, "log_prob_sites"):
            return Dense(self.posterior).evaluate_prefixes(z, index, progress=self.progress)
        firsts = zip(self._firsts(), accumulate(self.sizes), strict=True)
        return MixtureScores.stack([first.evaluate(z[:, :size], index=index) for first, size in firsts])

    def _firsts(self) -> list[AggregatePosterior]:
        parts = parts_of(cast("Independent[Distribution]", self.posterior).base_dist, self.sizes)
        products = (joined(parts[: count + 1]) for count in range(len(parts)))
        return [AggregatePosterior(Independent(each, 1), progress=self.progress) for each in products]


def sums_of(values: Tensor, sizes: Sequence[int]) -> Tensor:
    """Sums over runs of the last axis, (..., sites)."""
    return torch.stack([part.sum(-1) for part in values.split(list(sizes), -1)], -1)


# ---- The mixtures that draws are scored under, held by one process or by several.


class AggregateScorer(ABC):
    """The aggregate posterior of all data, of its dimensions one by one, and of its first sites."""

    latent_dim: int

    @abstractmethod
    def joint(self, z: Tensor, index: Tensor | None = None) -> MixtureScores:
        """Of z (points, latent), with each point's own datum left out where it is named."""

    @abstractmethod
    def marginals(self, z: Tensor, index: Tensor | None = None) -> MixtureScores:
        """The same of every latent dimension by itself, (points, latent)."""

    @abstractmethod
    def prefixes(self, z: Tensor, index: Tensor | None = None) -> MixtureScores:
        """The same of the first sites, (points, sites)."""


@final
class WholeAggregate(AggregateScorer):
    """Those of one process that knows the posteriors of all data."""

    def __init__(
        self, posterior: Posterior, *, site_sizes: Sequence[int] | None = None, progress: bool = True
    ) -> None:
        self.aggregate = AggregatePosterior(posterior, progress=progress)
        self.latent_dim = self.aggregate.latent_dim
        sizes = site_sizes or [self.latent_dim]
        self.sites = Prefixes(self.aggregate.posterior, sizes, progress=progress)

    @property
    def data_size(self) -> int:
        """N."""
        return self.aggregate.data_size

    def joint(self, z: Tensor, index: Tensor | None = None) -> MixtureScores:
        return self.aggregate.evaluate(z, index=index)

    def marginals(self, z: Tensor, index: Tensor | None = None) -> MixtureScores:
        return self.aggregate.evaluate_marginals(z, index=index)

    def prefixes(self, z: Tensor, index: Tensor | None = None) -> MixtureScores:
        return self.sites.evaluate(z, index=index)


@final
class ShardedAggregate(AggregateScorer):
    r"""Those of several processes, each of which scores all points under its own posteriors alone.

    .. math:: \log q(z) = \log \sum_r \exp\Bigl(\log \sum_{n \in D_r} q(z \mid x_n)\Bigr) - \log N

    over the data :math:`D_r` of the processes r, by a reduced logsumexp: exact, and no process ever scores
    what another one holds. All processes ask the same, at the same time, and get the same. The data are
    counted from those of the first process on.
    """

    def __init__(self, own: WholeAggregate, ranks: Ranks) -> None:
        self.own = own
        self.ranks = ranks
        self.latent_dim = own.latent_dim
        sizes = ranks.all_of(own.data_size)
        self._size = sum(sizes)
        self._start = sum(sizes[: ranks.rank])

    def joint(self, z: Tensor, index: Tensor | None = None) -> MixtureScores:
        return self._reduced(self.own.joint, z, index)

    def marginals(self, z: Tensor, index: Tensor | None = None) -> MixtureScores:
        return self._reduced(self.own.marginals, z, index)

    def prefixes(self, z: Tensor, index: Tensor | None = None) -> MixtureScores:
        return self._reduced(self.own.prefixes, z, index)

    def _reduced(
        self, evaluate: Callable[[Tensor, Tensor | None], MixtureScores], z: Tensor, index: Tensor | None
    ) -> MixtureScores:
        here = self.ranks.together(lambda: self._log_sums(evaluate, z, index))
        sums = self.ranks.log_sum(here)
        whole = sums[0] - math.log(self._size)
        if index is None:
            return MixtureScores(whole, None)
        few = self._size < 2
        return MixtureScores(
            whole, torch.full_like(whole, math.nan) if few else sums[1] - math.log(self._size - 1)
        )

    def _log_sums(
        self, evaluate: Callable[[Tensor, Tensor | None], MixtureScores], z: Tensor, index: Tensor | None
    ) -> Tensor:
        """Over the data of this process, and over those that are no point's own, (1 or 2, points, ...)."""
        if index is None:
            return (evaluate(z, None).log_prob + math.log(self.own.data_size))[None]
        place = index - self._start
        mine = (place >= 0) & (place < self.own.data_size)  # (points,)
        foreign = evaluate(z[~mine], None).log_prob + math.log(self.own.data_size)
        sums = foreign.new_empty(2, *mine.shape, *foreign.shape[1:])
        sums[:, ~mine] = foreign
        sums[:, mine] = self._of_mine(evaluate(z[mine], place[mine]))
        return sums

    def _of_mine(self, found: MixtureScores) -> Tensor:
        size = self.own.data_size
        assert found.leave_one_out is not None
        nothing = torch.full_like(found.log_prob, -torch.inf)
        others = found.leave_one_out + math.log(size - 1) if size > 1 else nothing
        return torch.stack([found.log_prob + math.log(size), others])
