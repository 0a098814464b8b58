"""Distributions that have no density."""

from typing import Any

import pyro.distributions as dist
from torch.distributions import Independent

__all__ = ["is_point_mass"]


def is_point_mass(fn: Any) -> bool:
    """Whether a distribution is a Delta, however it is wrapped.

    Args:
        fn: the distribution of a site.

    Example:
        >>> import torch
        >>> is_point_mass(dist.Delta(torch.zeros(2)).to_event(1).mask(False))
        True
    """
    while isinstance(fn, Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        fn = fn.base_dist
    return isinstance(fn, dist.Delta)
