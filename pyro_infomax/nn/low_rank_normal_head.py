"""The head that makes a Normal with a covariance of low rank and diagonal of features."""

from collections.abc import Sequence
from math import ceil, sqrt
from typing import final

import pyro.distributions as dist
import torch
from pyro.distributions import constraints, transforms
from torch import Tensor, nn
from torch.distributions.constraints import Constraint

from pyro_infomax.nn.bijections import Softplus
from pyro_infomax.nn.normal_head import check_init_scale
from pyro_infomax.nn.site_transform import SiteTransform

_INIT_FACTOR = 0.1


@final
class LowRankNormalHead(nn.Module):
    r"""Features to a Normal with few directions of dependence over an event, or over the reals that make one.

    .. math:: q(z \mid h) = \mathcal{N}\bigl(z;\, \mu,\, D\,(I + F F^\top)\,D\bigr), \qquad
        D = \mathrm{diag}(\mathrm{softplus}(d))

    with μ, d and the r columns of F linear in the features. F is in units of D, so that the matrix
    :math:`I + F^\top F` to be inverted is well conditioned however the scales differ. At first every
    standard deviation is ``init_scale`` and the correlations are small, but not zero, where the expected
    gradient would be zero too.

    Reference: Ong, Nott and Smith, 2018, "Gaussian variational approximation with a factor covariance
    structure".

    Args:
        in_features: number of features.
        event_shape: shape of one latent; ``()`` for a scalar.
        rank: number r of columns, from 1 to the number n of reals that make one latent; None takes the
            square root of n, rounded up.
        init_scale: standard deviation at first, in units of the latent, or of u where it is transformed.
        support: constraint that a latent fulfils.

    Raises:
        ValueError: unless init_scale > 0 and 1 <= rank <= n, and for an event shape that does not fit the
            support.
        NotImplementedError: for a discrete support, or one without a bijection from the reals.

    Example:
        >>> q = LowRankNormalHead(16, (10,), rank=2)(torch.zeros(5, 16))
        >>> q.cov_factor.shape, q.stddev[0, 0]
        (torch.Size([5, 10, 2]), tensor(0.5000, grad_fn=...))
    """

    def __init__(
        self,
        in_features: int,
        event_shape: Sequence[int],
        *,
        rank: int | None = None,
        init_scale: float = 0.5,
        support: Constraint = constraints.real,
    ) -> None:
        super().__init__()
        check_init_scale(init_scale)
        self.site = SiteTransform.of(support, event_shape)
        self.event_shape = self.site.event_shape
        n = self.site.size
        self.rank = _checked_rank(rank, n)
        self._sizes = [n, n, n * self.rank]
        self.linear = nn.Linear(in_features, sum(self._sizes))
        nn.init.zeros_(self.linear.weight[n:])
        _, raw, factor = self.linear.bias.split(self._sizes)
        nn.init.uniform_(factor, -_INIT_FACTOR, _INIT_FACTOR)
        widening = 1 + factor.detach().reshape(n, self.rank).square().sum(-1)  # (size)
        with torch.no_grad():
            raw.copy_(transforms.SoftplusTransform().inv(init_scale / widening.sqrt()))

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        """The distribution.

        Args:
            features: (..., in_features).

        Returns:
            A distribution with batch shape (...) and the event shape of the head; a plain
            ``LowRankMultivariateNormal`` for a real vector.
        """
        loc, raw, factor = self.linear(features).split(self._sizes, dim=-1)
        scale = Softplus()(raw)  # (..., size)
        factor = scale.unsqueeze(-1) * factor.reshape(*factor.shape[:-1], self.site.size, self.rank)
        return self.site.distribution(dist.LowRankMultivariateNormal(loc, factor, scale.square()))


def _checked_rank(rank: int | None, size: int) -> int:
    rank = ceil(sqrt(size)) if rank is None else rank
    if not 1 <= rank <= size:
        raise ValueError(
            f"Expected 1 <= rank <= {size}, the number of reals that make one latent, but got {rank}."
        )
    return rank
