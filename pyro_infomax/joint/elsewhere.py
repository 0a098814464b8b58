"""Values of a site that are far from its draws, which shows what depends on it."""

from typing import Any, Final

import torch
from torch.distributions import Independent, biject_to

__all__ = ["elsewhere"]

_FAR: Final = 10.0  # times the distance of two draws


@torch.no_grad()
def elsewhere(fn: Any, value: torch.Tensor) -> torch.Tensor:
    """A value like those of a distribution, but far from its draws, or any that a discrete one can have.

    Args:
        fn: the distribution of a site.
        value: a draw from it.

    Returns:
        Of the shape of ``value``.

    Example:
        >>> from torch.distributions import Gamma
        >>> gamma = Gamma(torch.ones(1000), 1.0)
        >>> float(elsewhere(gamma, gamma.sample()).max()) > 1000
        True
    """
    other = fn.sample()
    try:
        if not fn.support.is_discrete:
            return _beyond(fn, value, other)
        base = _unwrapped(fn)
        return _any_of(base, value) if base.has_enumerate_support else _counts_beyond(fn, value, other)
    except (RuntimeError, ValueError):  # no bijection, no support, or no list of states
        return other


def _any_of(base: Any, value: torch.Tensor) -> torch.Tensor:
    events = len(base.event_shape)
    states = base.enumerate_support(expand=False)
    states = states.reshape(len(states), *base.event_shape)
    return states[torch.randint(len(states), value.shape[: value.dim() - events])]


def _counts_beyond(fn: Any, value: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Counts without an end: rare ones may have no two draws that differ."""
    far = value + _FAR * (other - value).abs() + torch.randint(2, value.shape)
    return torch.where(fn.support.check(far).all(), far, other)


def _beyond(fn: Any, value: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    to_support = biject_to(fn.support)
    start, end = to_support.inv(value), to_support.inv(other)
    far = to_support(start + _FAR * (end - start))
    return torch.where(far.isfinite(), far, other)


def _unwrapped(fn: Any) -> Any:
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return fn
