"""The head that makes a Normal with full covariance of features."""

from collections.abc import Sequence
from typing import final

import pyro.distributions as dist
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.distributions.constraints import Constraint

from pyro_infomax.nn.bijections import Softplus, lower_triangular
from pyro_infomax.nn.normal_head import check_init_scale, inverse_softplus
from pyro_infomax.nn.site_transform import SiteTransform


@final
class MultivariateNormalHead(nn.Module):
    r"""Features to a Normal distribution with full covariance over an event, or over the reals that make one.

    .. math:: q(z \mid h) = \mathcal{N}\bigl(z;\, \mu(h),\, L(h) L(h)^\top\bigr)

    with μ and the lower triangle of L linear in the features, but for the softplus on its diagonal. The
    elements of an event of several axes, or of none, are dependent all the same. At first L is
    ``init_scale`` times the identity.

    Reference: Rezende, Mohamed and Wierstra, 2014, "Stochastic backpropagation and approximate inference
    in deep generative models".

    Args:
        in_features: number of features.
        event_shape: shape of one latent; ``()`` for a scalar.
        init_scale: standard deviation at first, in units of the latent, or of u where it is transformed.
        support: constraint that a latent fulfils.

    Raises:
        ValueError: unless init_scale > 0, and for an event shape that does not fit the support.
        NotImplementedError: for a discrete support, or one without a bijection from the reals.

    Example:
        >>> import torch
        >>> q = MultivariateNormalHead(16, (3,))(torch.zeros(5, 16))
        >>> q.scale_tril[0].diagonal()
        tensor([0.5000, 0.5000, 0.5000], grad_fn=...)
    """

    def __init__(
        self,
        in_features: int,
        event_shape: Sequence[int],
        *,
        init_scale: float = 0.5,
        support: Constraint = constraints.real,
    ) -> None:
        super().__init__()
        check_init_scale(init_scale)
        self.site = SiteTransform.of(support, event_shape)
        self.event_shape = self.site.event_shape
        n = self.site.size
        self._sizes = [n, n, n * (n - 1) // 2]
        self.linear = nn.Linear(in_features, sum(self._sizes))
        nn.init.zeros_(self.linear.weight[n:])
        _, diagonal, below = self.linear.bias.split(self._sizes)
        nn.init.constant_(diagonal, inverse_softplus(init_scale))
        if n > 1:
            nn.init.zeros_(below)

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        """The distribution.

        Args:
            features: (..., in_features).

        Returns:
            A distribution with batch shape (...) and the event shape of the head; a plain
            ``MultivariateNormal`` for a real vector.
        """
        loc, diagonal, below = self.linear(features).split(self._sizes, dim=-1)
        # (..., size, size)
        scale_tril = Softplus()(diagonal).diag_embed() + lower_triangular(below, self.site.size, offset=-1)
        return self.site.distribution(dist.MultivariateNormal(loc, scale_tril=scale_tril))
