"""What an objective must know of the distribution of a site."""

from typing import Any

__all__ = ["family_name", "is_discrete", "is_relaxed"]


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
