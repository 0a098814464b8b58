"""The base of priors with parameters."""

from abc import abstractmethod
from typing import Any

import pyro.distributions as dist
from torch import nn

__all__ = ["Prior"]


class Prior(nn.Module):
    """A module that is called in a Pyro program and returns p(z)."""

    @abstractmethod
    def forward(self) -> dist.TorchDistribution:
        """The prior.

        Returns:
            A distribution with batch shape () and event shape (latent,).
        """
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        # Pyro's store hangs on parameters what pickle refuses, and hangs it on again at the next run
        for parameter in self.parameters():
            parameter.__dict__.pop("unconstrained", None)
        return self.__dict__.copy()


def check_latent_dim(latent_dim: object) -> None:
    """Raises ValueError unless it is an integer above 0.

    Args:
        latent_dim: number of latent dimensions.
    """
    if not isinstance(latent_dim, int) or latent_dim < 1:
        raise ValueError(f"Expected latent_dim to be an integer >= 1 but got {latent_dim!r}.")
