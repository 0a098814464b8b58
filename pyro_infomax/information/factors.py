"""The univariate factors of a product, whatever is wrapped around them."""

from typing import Any

from torch.distributions import (
    ComposeTransform,
    Distribution,
    Independent,
    MixtureSameFamily,
    Transform,
    TransformedDistribution,
)

from pyro_infomax.information.side_by_side import SideBySide
from pyro_infomax.information.transforms import elementwise, is_plain


def factors_of(distribution: Any) -> Any:
    """Univariate distributions, of batch shape (*batch, *event), of a product by construction; else None.

    >>> import torch
    >>> from torch.distributions import ExpTransform, IndependentTransform, Normal
    >>> base = Independent(Normal(torch.zeros(5, 2), 1.0), 1)
    >>> factors = factors_of(TransformedDistribution(base, [IndependentTransform(ExpTransform(), 1)]))
    >>> factors.batch_shape, factors.event_shape
    (torch.Size([5, 2]), torch.Size([]))
    """
    if isinstance(distribution, Independent):
        return factors_of(distribution.base_dist)
    if not isinstance(distribution, Distribution) or not distribution.event_shape:
        return distribution if isinstance(distribution, Distribution) else None
    return _transformed(distribution) if isinstance(distribution, TransformedDistribution) else None


def _transformed(distribution: TransformedDistribution) -> Any:
    factors, transform = factors_of(distribution.base_dist), elementwise_of(distribution)
    if factors is None or transform is None:
        return None
    return TransformedDistribution(factors, transform, validate_args=False)


def elementwise_of(distribution: TransformedDistribution) -> Transform | None:
    """The transforms as one that acts on every element by itself; None where they do not."""
    return elementwise(ComposeTransform(distribution.transforms))


def is_parametric(distribution: Any) -> bool:
    """Whether the distribution is known by a few numbers, without networks that every score has to run."""
    match distribution:
        case Independent():
            return is_parametric(distribution.base_dist)
        case TransformedDistribution():
            return is_parametric(distribution.base_dist) and all(map(is_plain, distribution.transforms))
        case MixtureSameFamily():
            return is_parametric(distribution.component_distribution)
        case SideBySide():
            return all(map(is_parametric, distribution.parts))
    return isinstance(distribution, Distribution) and bool(distribution.arg_constraints)
