"""The head that makes a point of features."""

from collections.abc import Sequence
from typing import final

import pyro.distributions as dist
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.distributions.constraints import Constraint

from pyro_infomax.nn.site_transform import SiteTransform


@final
class DeltaHead(nn.Module):
    r"""Features to a point mass, as for maximum a posteriori estimates.

    .. math:: q(z \mid h) = \delta\bigl(z - T(A h + a)\bigr)

    T maps the reals to the support. There is no Jacobian: the objective is the density of the model at the
    point, in the coordinates of the model.

    Args:
        in_features: number of features.
        event_shape: shape of one latent; ``()`` for a scalar.
        support: constraint that a latent fulfils.

    Raises:
        ValueError: for an event shape that does not fit the support.
        NotImplementedError: for a discrete support, or one without a bijection from the reals.

    Example:
        >>> import torch
        >>> q = DeltaHead(16, (3,), support=constraints.simplex)(torch.zeros(5, 16))
        >>> bool(torch.allclose(q.sample().sum(-1), torch.ones(5)))
        True
    """

    def __init__(
        self, in_features: int, event_shape: Sequence[int], *, support: Constraint = constraints.real
    ) -> None:
        super().__init__()
        self.site = SiteTransform.of(support, event_shape)
        self.event_shape = self.site.event_shape
        self.linear = nn.Linear(in_features, self.site.size)

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        """The point mass.

        Args:
            features: (..., in_features).

        Returns:
            A ``Delta`` with batch shape (...) and the event shape of the head.
        """
        return dist.Delta(self.site.constrain(self.linear(features)), event_dim=len(self.event_shape))
