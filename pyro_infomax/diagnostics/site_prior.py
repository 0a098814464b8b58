"""The prior of a lone latent site, by the distribution that the model gave it."""

from typing import Any, final

import torch

from pyro_infomax.information.families import in_dtype_of
from pyro_infomax.information.marginals import marginals_of

__all__ = ["SitePrior"]


@final
class SitePrior:
    """p(z) as :mod:`pyro_infomax.information` takes priors, its marginals included where they are known.

    Pyro expands a distribution over the plate around it; the prior is what it is for any one datum.

    Args:
        fn: the distribution of the site for one datum, batch shape (1,), event shape (latent,).

    Example:
        >>> from torch.distributions import Independent, Laplace
        >>> prior = SitePrior(Independent(Laplace(torch.zeros(1, 2), 1.0), 1))
        >>> prior.batch_shape, prior.log_prob(torch.zeros(5, 2)).shape
        (torch.Size([]), torch.Size([5]))
    """

    def __init__(self, fn: Any) -> None:
        self.fn = fn
        self.batch_shape = torch.Size()
        self.event_shape = fn.event_shape

    def log_prob(self, z: torch.Tensor) -> torch.Tensor:
        """log p(z), (...), of z (..., latent)."""
        return self.fn.log_prob(self._beside_batch(z)).squeeze(-1)

    def log_prob_marginals(self, z: torch.Tensor) -> torch.Tensor:
        """log p(z_j), (..., latent), of z (..., latent).

        Raises:
            NotImplementedError: where the marginals of the family are not known.
        """
        return marginals_of(self.fn).log_prob(self._beside_batch(z)).squeeze(-2)

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> torch.Tensor:
        """z ~ p(z), (*sample_shape, latent)."""
        return self.fn.sample(torch.Size(sample_shape)).squeeze(-2)

    def _beside_batch(self, z: torch.Tensor) -> torch.Tensor:
        return in_dtype_of(self.fn, z).unsqueeze(-2)  # (..., 1, latent)
