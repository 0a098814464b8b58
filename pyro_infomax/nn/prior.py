"""Priors as modules: their parameters train, and they follow a model to its device and dtype."""

from collections.abc import Callable
from functools import partial
from typing import Any, final

import pyro.distributions as dist
import torch
from torch import nn


def to_prior(prior: object, latent_dim: int) -> nn.Module:
    """A module that is called without arguments and returns the prior p(z).

    Args:
        prior: None for the standard Normal; a Pyro distribution with batch shape () and event shape
            (latent_dim,); or a module or a function that returns one.
        latent_dim: size of the latent.

    Raises:
        ValueError: for anything else, and for a distribution of another shape.

    Example:
        >>> to_prior(None, 3)().event_shape
        torch.Size([3])
    """
    if prior is None:
        return _StandardNormal(latent_dim)
    if isinstance(prior, torch.distributions.Distribution):
        return _Returning(partial(_itself, check_prior(prior, latent_dim)))
    if isinstance(prior, nn.Module):
        return prior
    if callable(prior) and not isinstance(prior, type):
        return _Returning(prior)
    raise ValueError(
        f"Expected prior to be None, a Pyro distribution, or a module or function that returns one, "
        f"but got {prior!r}."
    )


def check_prior(prior: object, latent_dim: int) -> dist.TorchDistribution:
    """The prior, if it is a Pyro distribution over one latent.

    Args:
        prior: what was given or returned as prior.
        latent_dim: size of the latent.

    Raises:
        ValueError: otherwise.
    """
    if not isinstance(prior, dist.torch_distribution.TorchDistributionMixin):
        raise ValueError(
            f"Expected the prior to be a distribution of pyro.distributions but got {type(prior).__name__}."
        )
    if prior.batch_shape != () or prior.event_shape != (latent_dim,):
        raise ValueError(
            f"Expected a prior with batch shape () and event shape ({latent_dim},) but got "
            f"{tuple(prior.batch_shape)} and {tuple(prior.event_shape)}: use .to_event(1) and latent_dim."
        )
    return prior


@final
class _StandardNormal(nn.Module):
    origin: torch.Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("origin", torch.zeros(latent_dim), persistent=False)

    def forward(self) -> dist.Distribution:
        return dist.Normal(self.origin, torch.ones_like(self.origin)).to_event(1)


def _itself(prior: dist.TorchDistribution) -> dist.TorchDistribution:
    return prior


@final
class _Returning(nn.Module):
    def __init__(self, build: Callable[[], Any]) -> None:
        super().__init__()
        self._build = build

    def forward(self) -> Any:
        return self._build()
