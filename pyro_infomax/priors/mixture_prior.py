"""A mixture of Normals as prior."""

from typing import Final, final

import pyro.distributions as dist
import torch
from torch import nn
from torch.nn.functional import softplus

from pyro_infomax.priors.prior import Prior, check_latent_dim

__all__ = ["MixturePrior"]

# Of the variance 1 at first, the part that lies between the components
_BETWEEN: Final = 0.5


@final
class MixturePrior(Prior):
    r"""A mixture of diagonal Normals with learnable weights, means and scales.

    .. math:: p(z) = \sum_k w_k\, \mathcal{N}\bigl(z;\, m_k, \mathrm{diag}(s_k)^2\bigr)

    At first the weights are equal and the means are spread at random, such that the mixture as a whole has
    mean 0 and variance 1 in each dimension, as the standard Normal has. Its marginals are known, so that the
    account of it is complete.

    Reference: Dilokthanakul, Mediano, Garnelo, Lee, Salimbeni, Arulkumaran and Shanahan, 2016, "Deep
    unsupervised clustering with Gaussian mixture variational autoencoders"; Tomczak and Welling, 2018, "VAE
    with a VampPrior", where it is the mixture of Gaussians that the VampPrior is compared with.

    Args:
        latent_dim: number of latent dimensions.
        num_components: number of Normals.

    Raises:
        ValueError: unless both are integers above 0.

    Example:
        >>> prior = MixturePrior(3, num_components=5)
        >>> prior().batch_shape, prior().event_shape
        (torch.Size([]), torch.Size([3]))
        >>> torch.allclose(prior().variance, torch.ones(3))
        True
    """

    def __init__(self, latent_dim: int, *, num_components: int = 10) -> None:
        super().__init__()
        check_latent_dim(latent_dim)
        if not isinstance(num_components, int) or num_components < 1:
            raise ValueError(f"Expected num_components to be an integer >= 1 but got {num_components!r}.")
        loc = _spread(num_components, latent_dim)
        scale = (1 - loc.square().mean(0)).sqrt().expand_as(loc)
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.loc = nn.Parameter(loc)  # (component, latent)
        self.raw_scale = nn.Parameter(scale.expm1().log())

    def forward(self) -> dist.MixtureSameFamily:
        """The prior.

        Returns:
            A mixture with batch shape () and event shape (latent_dim,).
        """
        components = dist.Normal(self.loc, softplus(self.raw_scale)).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), components)


def _spread(components: int, latent_dim: int) -> torch.Tensor:
    """Random means around 0, (component, latent), of a fixed variance; 0 for a single one."""
    loc = torch.randn(components, latent_dim)
    loc = loc - loc.mean(0)
    deviation = loc.square().mean(0).sqrt().clamp_min(torch.finfo(loc.dtype).tiny)
    return _BETWEEN**0.5 * loc / deviation
