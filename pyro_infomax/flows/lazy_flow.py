"""Flows of other libraries: modules that return torch distributions."""

from typing import Any, final

import torch
from torch import Tensor, nn

from pyro_infomax.flows.flow import Flow

__all__ = ["LazyFlow"]


@final
class LazyFlow(Flow):
    """A module that turns a context into a torch distribution, as the flows of zuko do.

    Distributions with a method ``rsample_and_log_prob`` draw and score in one pass.

    Args:
        module: called with a context (..., context), or without arguments where there is none.
        event_size: number of elements of a vector.
        context_size: number of elements of a context; 0 for none.

    Raises:
        ValueError: if the module returns anything but a distribution with batch shape (...) and event shape
            (event_size,).
    """

    def __init__(self, module: nn.Module, event_size: int, context_size: int = 0) -> None:
        super().__init__(event_size)
        self.module = module
        like = next(module.parameters(), self.origin)
        with torch.no_grad():
            made = self._made(like.new_zeros(2, context_size) if context_size else None)
        _check(made, (2,) if context_size else (), event_size)
        self.has_rsample = made.has_rsample

    def draw(self, context: Tensor | None, batch: torch.Size) -> tuple[Tensor, Tensor]:
        """Vectors (*batch, event) and their log-densities, (*batch)."""
        made = self._made(None if context is None else context.expand(*batch, -1))
        shape = batch if context is None else torch.Size()
        if hasattr(made, "rsample_and_log_prob"):
            value, score = made.rsample_and_log_prob(shape)
            return value, score
        value = made.rsample(shape) if made.has_rsample else made.sample(shape)
        return value, made.log_prob(value)

    def score(self, value: Tensor, context: Tensor | None) -> Tensor:
        """Log-densities, (...), of vectors (..., event)."""
        if context is None:
            return self._made(None).log_prob(value)
        # Some flows of zuko take values without the axes of the context for others, and do not say so
        batch = torch.broadcast_shapes(value.shape[:-1], context.shape[:-1])
        return self._made(context).log_prob(value.expand(*batch, self.event_size))

    def _made(self, context: Tensor | None) -> Any:
        return self.module() if context is None else self.module(context)


def _check(made: object, batch: tuple[int, ...], event_size: int) -> None:
    expected = f"a distribution with batch shape {batch} and event shape ({event_size},)"
    if not isinstance(made, torch.distributions.Distribution):
        raise ValueError(f"Expected the flow to return {expected} but got {type(made).__name__}.")
    if made.batch_shape != batch or made.event_shape != (event_size,):
        raise ValueError(
            f"Expected the flow to return {expected} but got {tuple(made.batch_shape)} and "
            f"{tuple(made.event_shape)}."
        )
