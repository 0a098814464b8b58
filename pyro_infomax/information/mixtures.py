"""The mixtures that draws are scored under, held by one process or by several."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor

from pyro_infomax.information.aggregate_posterior import AggregatePosterior
from pyro_infomax.information.mixture import Mixture
from pyro_infomax.information.prefixes import Prefixes
from pyro_infomax.ranks import Ranks


class Mixtures(ABC):
    """The aggregate posterior of all data, of its dimensions one by one, and of its first sites.

    Attributes:
        latent_dim: d.
    """

    latent_dim: int

    @abstractmethod
    def joint(self, z: Tensor, index: Tensor | None = None) -> Mixture:
        """Of z (points, latent), with each point's own datum left out where it is named."""

    @abstractmethod
    def marginals(self, z: Tensor, index: Tensor | None = None) -> Mixture:
        """The same of every latent dimension by itself, (points, latent)."""

    @abstractmethod
    def prefixes(self, z: Tensor, index: Tensor | None = None) -> Mixture:
        """The same of the first sites, (points, sites)."""


@final
class WholeMixtures(Mixtures):
    """Those of one process that knows the posteriors of all data.

    Args:
        posterior: batch shape (N,), event shape (d,), as in :class:`AggregatePosterior`.
        site_sizes: the number of latent dimensions of each site; None where there is one.
        progress: show a bar when an evaluation takes more than a few seconds.
    """

    def __init__(
        self, posterior: Any, *, site_sizes: Sequence[int] | None = None, progress: bool = True
    ) -> None:
        self.aggregate = AggregatePosterior(posterior, progress=progress)
        self.latent_dim = self.aggregate.latent_dim
        sizes = site_sizes or [self.latent_dim]
        self.sites = Prefixes(self.aggregate.posterior, sizes, progress=progress)

    @property
    def data_size(self) -> int:
        """N."""
        return self.aggregate.data_size

    def joint(self, z: Tensor, index: Tensor | None = None) -> Mixture:
        return self.aggregate.evaluate(z, index=index)

    def marginals(self, z: Tensor, index: Tensor | None = None) -> Mixture:
        return self.aggregate.evaluate_marginals(z, index=index)

    def prefixes(self, z: Tensor, index: Tensor | None = None) -> Mixture:
        return self.sites.evaluate(z, index=index)


@final
class ShardedMixtures(Mixtures):
    r"""Those of several processes, each of which scores all points under its own posteriors alone.

    .. math:: \log q(z) = \log \sum_r \exp\Bigl(\log \sum_{n \in D_r} q(z \mid x_n)\Bigr) - \log N

    over the data :math:`D_r` of the processes r, by a reduced logsumexp: exact, and no process ever scores
    what another one holds. All processes ask the same, at the same time, and get the same.

    Args:
        own: the mixtures of this process's own data.
        ranks: the processes. The data are counted from those of the first one on.

    >>> from torch.distributions import Independent, Normal
    >>> from pyro_infomax.ranks import OneRank
    >>> means = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    >>> own = WholeMixtures(Independent(Normal(means, 0.5), 1))
    >>> z = torch.tensor([[1.0]], dtype=torch.float64)
    >>> ShardedMixtures(own, OneRank()).joint(z).log_prob  # as of AggregatePosterior
    tensor([-0.9186], dtype=torch.float64)
    """

    def __init__(self, own: WholeMixtures, ranks: Ranks) -> None:
        self.own = own
        self.ranks = ranks
        self.latent_dim = own.latent_dim
        sizes = ranks.all_of(own.data_size)
        self._size = sum(sizes)
        self._start = sum(sizes[: ranks.rank])

    def joint(self, z: Tensor, index: Tensor | None = None) -> Mixture:
        return self._reduced(self.own.joint, z, index)

    def marginals(self, z: Tensor, index: Tensor | None = None) -> Mixture:
        return self._reduced(self.own.marginals, z, index)

    def prefixes(self, z: Tensor, index: Tensor | None = None) -> Mixture:
        return self._reduced(self.own.prefixes, z, index)

    def _reduced(
        self, evaluate: Callable[[Tensor, Tensor | None], Mixture], z: Tensor, index: Tensor | None
    ) -> Mixture:
        here = self.ranks.together(lambda: self._log_sums(evaluate, z, index))
        sums = self.ranks.log_sum(here)
        whole = sums[0] - math.log(self._size)
        if index is None:
            return Mixture(whole, None)
        few = self._size < 2
        return Mixture(whole, torch.full_like(whole, math.nan) if few else sums[1] - math.log(self._size - 1))

    def _log_sums(
        self, evaluate: Callable[[Tensor, Tensor | None], Mixture], z: Tensor, index: Tensor | None
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

    def _of_mine(self, found: Mixture) -> Tensor:
        size = self.own.data_size
        assert found.leave_one_out is not None
        nothing = torch.full_like(found.log_prob, -torch.inf)
        others = found.leave_one_out + math.log(size - 1) if size > 1 else nothing
        return torch.stack([found.log_prob + math.log(size), others])
