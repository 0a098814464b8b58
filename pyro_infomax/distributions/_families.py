"""What can be told about the family of a distribution: Normal or not, its precision, its wrappers."""

import copy
from functools import lru_cache
from typing import Final, TypeGuard, TypeVar, cast

import torch
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
    constraints,
)
from torch.distributions.constraints import Constraint

from pyro_infomax._random import isolated_random_state
from pyro_infomax.distributions._posterior import Density, Posterior
from pyro_infomax.distributions._transforms import is_plain

# ---- Normals, and the same distribution in double precision.


def is_factorised(distribution: object) -> TypeGuard["Independent[Distribution]"]:
    """Whether the event (d,) is d independent univariate variables by construction."""
    return (
        isinstance(distribution, Independent)
        and distribution.reinterpreted_batch_ndims == 1
        and len(distribution.base_dist.event_shape) == 0
    )


def diagonal_normal(distribution: object) -> tuple[Tensor, Tensor] | None:
    """Means and standard deviations, both (*batch, latent), of a diagonal Normal; None for any other."""
    if is_factorised(distribution) and isinstance(distribution.base_dist, Normal):
        return distribution.base_dist.loc, distribution.base_dist.scale
    return None


_D = TypeVar("_D")


def in_double(distribution: _D) -> _D:
    """The same Normal, transformed, mixed or not, in float64; what is no Normal is returned as it is."""
    return cast(_D, _twin_in_double(distribution))


def _twin_in_double(distribution: object) -> object:
    parameters = diagonal_normal(distribution)
    if parameters is not None:
        loc, scale = parameters
        return Independent(Normal(loc.double(), scale.double(), validate_args=False), 1)
    if isinstance(distribution, LowRankMultivariateNormal):
        factor, diagonal = distribution.cov_factor.double(), distribution.cov_diag.double()
        return LowRankMultivariateNormal(distribution.loc.double(), factor, diagonal, validate_args=False)
    if isinstance(distribution, MultivariateNormal):
        loc, scale_tril = distribution.loc.double(), distribution.scale_tril.double()
        return MultivariateNormal(loc, scale_tril=scale_tril, validate_args=False)
    if isinstance(distribution, MixtureSameFamily):
        twin = copy.copy(distribution)
        twin._component_distribution = in_double(distribution.component_distribution)
        return twin
    if is_factorised(distribution) and isinstance(distribution.base_dist, TransformedDistribution):
        return Independent(_transformed_in_double(distribution.base_dist), 1)
    if isinstance(distribution, TransformedDistribution):
        return _transformed_in_double(distribution)
    return distribution


def _transformed_in_double(distribution: TransformedDistribution) -> TransformedDistribution:
    # a network insists on the type of its weights
    if not all(map(is_plain, distribution.transforms)):
        return distribution
    base = distribution.base_dist
    if isinstance(base, Normal):
        inner: Distribution = Normal(base.loc.double(), base.scale.double(), validate_args=False)
    else:
        inner = in_double(base)
    if inner is base:
        return distribution
    twin = copy.copy(distribution)  # of the same class, by which closed forms are found
    twin.base_dist, twin._validate_args = inner, False
    return twin


def in_dtype_of(distribution: Density, z: Tensor) -> Tensor:
    """z in the floating type that ``distribution`` computes in: what is no Normal may insist on its own."""
    if not z.is_floating_point() or is_normal(distribution):
        return z
    with isolated_random_state(), torch.no_grad():
        try:
            return z.to(cast(Posterior, distribution).sample().dtype)
        except (AttributeError, NotImplementedError):
            # scored only, never drawn from: nothing shows what it insists on
            return z


def is_normal(distribution: object) -> bool:
    """Whether a distribution over vectors is Normal, diagonal or not."""
    return diagonal_normal(distribution) is not None or isinstance(
        distribution, MultivariateNormal | LowRankMultivariateNormal
    )


def full_name(distribution: object) -> str:
    """The family and what declares its event axes, for messages: ``Independent(Normal, 1)``."""
    if isinstance(distribution, Independent):
        return f"Independent({full_name(distribution.base_dist)}, {distribution.reinterpreted_batch_ndims})"
    return type(distribution).__name__


def family_name(distribution: object) -> str:
    """The class of a distribution within all its wrappers, for messages and tables: ``Normal``."""
    return type(innermost(distribution)).__name__


def shapes_in_words(distribution: object) -> str:
    """Batch and event shape, for messages."""
    if not hasattr(distribution, "batch_shape"):
        return "no batch shape"
    batch, event = (tuple(getattr(distribution, each)) for each in ("batch_shape", "event_shape"))
    return f"batch shape {batch} and event shape {event}"


# ---- What is wrapped around a distribution. Pyro's classes are known by their names, without importing Pyro.

_WITHIN: Final = ("base_dist", "component_distribution", "component0", "component1")


def is_called(distribution: object, *names: str) -> bool:
    """Whether a distribution is of one of torch's or Pyro's classes with these names."""
    return not _class_names(type(distribution).__mro__).isdisjoint(names)


@lru_cache(maxsize=256)
def _class_names(classes: tuple[type, ...]) -> frozenset[str]:
    ours = (each for each in classes if each.__module__.partition(".")[0] in ("torch", "pyro"))
    return frozenset(each.__name__ for each in ours)


def without_event_axes(distribution: Distribution) -> Distribution:
    """What is within wrappers that only declare event axes."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution


def made_of(distribution: object) -> list[object]:
    """What a wrapper, a transform, a mixture or a product is made of; nothing for any other."""
    parts = getattr(distribution, "parts", None)
    inner = [getattr(distribution, name, None) for name in _WITHIN]
    return [each for each in inner if each is not None] + (parts if isinstance(parts, list) else [])


def without_masks(distribution: Distribution) -> Distribution:
    """The distribution without Pyro's masks, around it or within its event axes."""
    if is_called(distribution, "MaskedDistribution"):
        return without_masks(distribution.base_dist)  # type: ignore[attr-defined]
    if isinstance(distribution, Independent):
        base = without_masks(distribution.base_dist)
        axes = distribution.reinterpreted_batch_ndims
        return distribution if base is distribution.base_dist else base.to_event(axes)  # type: ignore[attr-defined]
    return distribution


def innermost(distribution: object) -> object:
    """What is within all wrappers and transforms."""
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return distribution


def is_point_mass(fn: object) -> bool:
    """Whether a distribution is a Delta, however it is wrapped.

    Args:
        fn: the distribution of a site.

    Example:
        >>> import pyro.distributions as dist
        >>> is_point_mass(dist.Delta(torch.zeros(2)).to_event(1).mask(False))
        True
    """
    while is_called(fn, "Independent", "ExpandedDistribution", "MaskedDistribution"):
        fn = fn.base_dist  # type: ignore[attr-defined]
    return is_called(fn, "Delta")


# ---- How heavy the tails are.

# beside the exponential families that torch counts as such; what is missing here is only not known
_LIGHT: Final = (
    *("ExponentialFamily", "MultivariateNormal", "LowRankMultivariateNormal", "Laplace", "AsymmetricLaplace"),
    *("HalfNormal", "Weibull", "Gumbel", "Uniform", "VonMises", "Delta", "Categorical", "OneHotCategorical"),
    *("Binomial", "NegativeBinomial", "Geometric", "Multinomial"),
)


def has_all_moments(distribution: object) -> bool:
    """Whether every power of the values is known to have a mean, which it has where tails fall off fast.

    It has none for Student's t and its like. Of what a transform made it is not known, unless it is linear.
    """
    if is_called(distribution, *_LIGHT):
        return True
    inner = made_of(distribution)
    return bool(inner) and is_linear(distribution) and all(map(has_all_moments, inner))


def is_linear(distribution: object) -> bool:
    """Whether no transform does more than to shift and to scale."""
    return all(isinstance(each, AffineTransform) for each in getattr(distribution, "transforms", ()))


# ---- What an objective or a guide must know of the distribution of a site.


def is_angular(fn: object) -> bool:
    """Whether the values of a distribution are angles, of which its support says that they are real.

    Angles that differ by a full turn are the same, and the density is that of a single turn. A distribution
    on the whole line, such as a Normal or a flow, counts every turn, and its ELBO bounds nothing. Within all
    wrappers, transforms and mixtures: ``VonMises``, ``SineBivariateVonMises`` and ``SineSkewed``. Points on a
    sphere are none: the support of ``VonMises3D`` and ``ProjectedNormal`` says what it is.

    >>> from torch.distributions import Independent, Normal, VonMises
    >>> is_angular(Independent(VonMises(torch.zeros(2), 1.0), 1)), is_angular(Normal(0.0, 1.0))
    (True, False)
    """
    if is_called(fn, "VonMises", "SineBivariateVonMises", "SineSkewed"):
        return True
    return any(map(is_angular, made_of(fn)))


def is_discrete(fn: Distribution) -> bool | None:
    """Whether a distribution is discrete, None where it does not tell."""
    try:
        return bool(cast(Constraint, fn.support).is_discrete)
    except (AttributeError, NotImplementedError):
        return None


def is_one_hot(fn: Distribution) -> bool:
    """Whether a distribution draws a category as a vector with a single one."""
    if not is_discrete(fn):
        return False
    support = fn.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is constraints.one_hot


def is_relaxed(fn: Distribution) -> bool:
    """Whether a distribution draws discrete values that have a gradient, as straight-through ones do."""
    return bool(fn.has_rsample and is_discrete(fn))
