"""The base of flows: modules whose forward pass turns a context into a distribution."""

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from pyro_infomax.flows.flow_distribution import FlowDistribution

__all__ = ["Flow"]


class Flow(nn.Module):
    """A module that turns a context into a distribution over vectors.

    Args:
        event_size: number of elements of a vector.
    """

    origin: Tensor
    has_rsample = True

    def __init__(self, event_size: int) -> None:
        super().__init__()
        if event_size < 1:
            raise ValueError(f"Expected event_size >= 1 but got {event_size}.")
        self.event_size = event_size
        self.register_buffer("origin", torch.zeros(event_size), persistent=False)

    @abstractmethod
    def draw(self, context: Tensor | None, batch: torch.Size) -> tuple[Tensor, Tensor]:
        """Vectors and their log-densities.

        Args:
            context: broadcasts with (*batch, context); None where the flow has none.
            batch: how many.

        Returns:
            (*batch, event) and (*batch).
        """
        raise NotImplementedError

    @abstractmethod
    def score(self, value: Tensor, context: Tensor | None) -> Tensor:
        """Log-densities of vectors.

        Args:
            value: (..., event), whose leading axes broadcast with those of the context.
            context: (..., context); None where the flow has none.

        Returns:
            (...), in nats.
        """
        raise NotImplementedError

    def forward(self, context: Tensor | None = None) -> FlowDistribution:
        """The distribution.

        Args:
            context: (..., context); None where the flow has none.

        Returns:
            A distribution with batch shape (...) and event shape (event,).
        """
        batch = torch.Size() if context is None else context.shape[:-1]
        return FlowDistribution(self, context, batch_shape=batch)

    def noise(self, batch: torch.Size) -> Tensor:
        """Standard Normal vectors, (*batch, event)."""
        return torch.randn_like(self.origin.expand(*batch, self.event_size))


def log_normal(noise: Tensor) -> Tensor:
    """The log-density, (...), of standard Normal vectors (..., event)."""
    return -0.5 * (noise.square().sum(-1) + noise.shape[-1] * math.log(2 * math.pi))
