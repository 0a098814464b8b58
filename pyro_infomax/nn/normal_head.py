"""The head that makes a diagonal Normal of features."""

from collections.abc import Sequence
from math import expm1, log
from typing import final

import pyro.distributions as dist
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.distributions.constraints import Constraint

from pyro_infomax.nn.bijections import Softplus
from pyro_infomax.nn.site_transform import SiteTransform


@final
class NormalHead(nn.Module):
    r"""Features to a Normal distribution over an event, or over the reals that make one.

    .. math:: q(z \mid h) = \mathcal{N}\bigl(z;\, A h + a,\ \mathrm{diag}(\mathrm{softplus}(B h + b))^2\bigr)

    On another support it is the distribution of T(u) with u Normal: a ``LogNormal`` on the positive
    numbers, a product of univariate distributions wherever T acts on each element by itself, and a
    logistic-normal distribution on a simplex (Aitchison and Shen, 1980, "Logistic-normal distributions: some
    properties and uses"). At first every scale is ``init_scale`` (B is zero) and the locations are small.

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
        >>> q = NormalHead(16, (2, 3), init_scale=0.5)(torch.zeros(5, 16))
        >>> q.batch_shape, q.event_shape
        (torch.Size([5]), torch.Size([2, 3]))
        >>> NormalHead(16, (3,), support=constraints.positive)(torch.zeros(5, 16)).base_dist
        LogNormal()
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
        self.site = SiteTransform.of(support, event_shape)
        self.event_shape = self.site.event_shape
        self.linear = location_scale_layer(in_features, self.site.size, init_scale)

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        """The distribution.

        Args:
            features: (..., in_features).

        Returns:
            A distribution with batch shape (...) and the event shape of the head.
        """
        loc, raw = self.linear(features).chunk(2, dim=-1)  # (..., size)
        return self.site.normal(loc, Softplus()(raw))


def location_scale_layer(in_features: int, size: int, init_scale: float) -> nn.Linear:
    """A layer that ends in locations and in what becomes scales by a softplus, all ``init_scale`` at first.

    Args:
        in_features: number of features.
        size: number of locations, and of scales.
        init_scale: standard deviation at first.

    Raises:
        ValueError: unless init_scale > 0.

    Example:
        >>> import torch
        >>> loc, raw = location_scale_layer(16, 3, 0.5)(torch.randn(5, 16)).chunk(2, -1)
        >>> Softplus()(raw[0])
        tensor([0.5000, 0.5000, 0.5000], grad_fn=...)
    """
    check_init_scale(init_scale)
    layer = nn.Linear(in_features, 2 * size)
    nn.init.zeros_(layer.weight[size:])
    nn.init.constant_(layer.bias[size:], inverse_softplus(init_scale))
    return layer


def check_init_scale(init_scale: float) -> None:
    """Raises ValueError unless the scale is a finite number above 0.

    Args:
        init_scale: standard deviation.
    """
    if not 0 < init_scale < float("inf"):
        raise ValueError(f"Expected a finite init_scale > 0 but got {init_scale}.")


def inverse_softplus(value: float) -> float:
    """The number whose softplus is ``value``.

    Args:
        value: above 0.

    Example:
        >>> round(inverse_softplus(1.0), 4)
        0.5413
    """
    # expm1 overflows where softplus is the identity to double precision
    return log(expm1(value)) if value < 40 else value
