"""What is known about the family of a distribution: its Normal factors and its double-precision twin."""

import copy
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import (
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
)

from pyro_infomax._random import isolated_random_state
from pyro_infomax.distributions._transforms import is_plain

# ---- families


def is_factorised(distribution: Any) -> bool:
    """Whether the event (d,) is d independent univariate variables by construction."""
    return (
        isinstance(distribution, Independent)
        and distribution.reinterpreted_batch_ndims == 1
        and len(distribution.base_dist.event_shape) == 0
    )


def diagonal_normal(distribution: Any) -> tuple[Tensor, Tensor] | None:
    """Means and standard deviations, both (*batch, latent), of a diagonal Normal; None for any other."""
    if is_factorised(distribution) and isinstance(distribution.base_dist, Normal):
        return distribution.base_dist.loc, distribution.base_dist.scale
    return None


def in_double(distribution: Any) -> Any:
    """The same Normal, diagonal, transformed or not, in float64; what is no Normal is returned as it is."""
    parameters = diagonal_normal(distribution)
    if parameters is not None:
        loc, scale = parameters
        return Independent(Normal(loc.double(), scale.double(), validate_args=False), 1)
    if isinstance(distribution, LowRankMultivariateNormal):
        return _low_rank_in_double(distribution)
    if isinstance(distribution, MultivariateNormal):
        loc, scale_tril = distribution.loc.double(), distribution.scale_tril.double()
        return MultivariateNormal(loc, scale_tril=scale_tril, validate_args=False)
    return _transformed_in_double(distribution)


def _transformed_in_double(distribution: Any) -> Any:
    if is_factorised(distribution) and isinstance(distribution.base_dist, TransformedDistribution):
        return Independent(_transformed_in_double(distribution.base_dist), 1)
    if not isinstance(distribution, TransformedDistribution):
        return distribution
    # a network insists on the type of its weights
    if not all(map(is_plain, distribution.transforms)):
        return distribution
    base = distribution.base_dist
    if isinstance(base, Normal):
        inner = Normal(base.loc.double(), base.scale.double(), validate_args=False)
    else:
        inner = in_double(base)
    if inner is base:
        return distribution
    twin = copy.copy(distribution)  # of the same class, by which closed forms are found
    twin.base_dist, twin._validate_args = inner, False
    return twin


def _low_rank_in_double(normal: LowRankMultivariateNormal) -> LowRankMultivariateNormal:
    factor, diagonal = normal.cov_factor.double(), normal.cov_diag.double()
    return LowRankMultivariateNormal(normal.loc.double(), factor, diagonal, validate_args=False)


def in_dtype_of(distribution: Any, z: Tensor) -> Tensor:
    """z in the floating type that ``distribution`` computes in: what is no Normal may insist on its own."""
    if not z.is_floating_point() or is_normal(distribution):
        return z
    with isolated_random_state(), torch.no_grad():
        try:
            return z.to(distribution.sample().dtype)
        except (AttributeError, NotImplementedError):
            # scored only, never drawn from: nothing shows what it insists on
            return z


def is_normal(distribution: Any) -> bool:
    return diagonal_normal(distribution) is not None or isinstance(
        distribution, MultivariateNormal | LowRankMultivariateNormal
    )


def spelt_out(distribution: Any) -> str:
    """The family in words, for messages."""
    if isinstance(distribution, Independent):
        return f"Independent({spelt_out(distribution.base_dist)}, {distribution.reinterpreted_batch_ndims})"
    return type(distribution).__name__


def shapes(distribution: Any) -> str:
    """Batch and event shape in words, for messages."""
    if not hasattr(distribution, "batch_shape"):
        return "no batch shape"
    return f"batch shape {tuple(distribution.batch_shape)} and event shape {tuple(distribution.event_shape)}"


# ---- Distributions that have no density.


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


# ---- What an objective must know of the distribution of a site.


def is_discrete(fn: Any) -> bool | None:
    """Whether a distribution is discrete, None where it does not tell.

    Args:
        fn: the distribution of a site.
    """
    try:
        return bool(fn.support.is_discrete)
    except (AttributeError, NotImplementedError):
        return None


def is_relaxed(fn: Any) -> bool:
    """Whether a distribution draws discrete values that have a gradient, as straight-through estimators do.

    Args:
        fn: the distribution of a site.

    Example:
        >>> import torch, pyro.distributions as dist
        >>> is_relaxed(dist.OneHotCategoricalStraightThrough(torch.ones(3)))
        True
        >>> is_relaxed(dist.OneHotCategorical(torch.ones(3))), is_relaxed(dist.Normal(0.0, 1.0))
        (False, False)
    """
    return bool(fn.has_rsample and is_discrete(fn))


def family_name(fn: Any) -> str:
    """The class of a distribution within its wrappers.

    Args:
        fn: the distribution of a site.
    """
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return type(fn).__name__
