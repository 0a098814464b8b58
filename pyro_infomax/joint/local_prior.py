"""A prior that is scored by running its model."""

from collections.abc import Callable
from typing import final

import torch

from pyro_infomax.joint.latent_space import LatentSpace, Sites, lone_marginal

__all__ = ["LocalPrior"]


@final
class LocalPrior:
    """The prior of a model over all its local latent dimensions, as :mod:`pyro_infomax.information` takes
    priors.

    Args:
        space: the latent sites in the order wanted.
        log_prior: log p(z), (M,), of sites (M, *event).
        draw: sites of M draws.
    """

    def __init__(
        self,
        space: LatentSpace,
        *,
        log_prior: Callable[[Sites], torch.Tensor],
        draw: Callable[[int], Sites],
    ) -> None:
        self.space = space
        self.batch_shape = torch.Size()
        self.event_shape = torch.Size([space.size])
        self._log_prior = log_prior
        self._draw = draw

    def log_prob(self, z: torch.Tensor) -> torch.Tensor:
        """log p(z), (...), of z (..., latent)."""
        flat = z.reshape(-1, self.space.size)
        return self._log_prior(self.space.unflatten(flat)).reshape(z.shape[:-1])

    @property
    def log_prob_marginals(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """log p(z_j), (..., latent), where there is one latent dimension: z itself.

        Raises:
            AttributeError: where there are several.
        """
        return lone_marginal(self)

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> torch.Tensor:
        """z ~ p(z), (*sample_shape, latent)."""
        shape = torch.Size(sample_shape)
        return self.space.flatten(self._draw(shape.numel())).reshape(*shape, self.space.size)
