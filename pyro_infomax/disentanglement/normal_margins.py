"""The univariate Normal margins of a posterior, in whatever form it comes."""

from typing import Any, Final

import numpy as np

from pyro_infomax.disentanglement.sample import Floats, as_floats, as_matrix

__all__ = ["normal_margins"]

_NORMALS: Final = frozenset({"Normal", "MultivariateNormal", "LowRankMultivariateNormal"})
_WRAPPERS: Final = frozenset({"Independent"})


def normal_margins(posterior: Any) -> tuple[Floats, Floats]:
    r"""Means and standard deviations of :math:`q(z_j \mid x_n)`.

    Args:
        posterior: (loc, scale), arrays (n, L), or a torch or Pyro distribution of batch shape (n,) and event
            shape (L,) whose margins are Normal: an Independent Normal, or a multivariate Normal.

    Returns:
        loc and scale, (n, L) each.

    Raises:
        ValueError: for another distribution, other shapes, values that are not finite, and scales that are
            not above 0.

    Example:
        >>> loc, scale = normal_margins((np.zeros((2, 3)), 0.5))
        >>> scale.shape
        (2, 3)
    """
    loc, scale = _pair(posterior) if isinstance(posterior, tuple) else _moments(posterior)
    means = as_matrix(loc, name="loc", columns="L")
    given = as_floats(scale, name="scale")
    try:
        spread = np.broadcast_to(given, means.shape)
    except ValueError as error:
        raise ValueError(
            f"Expected loc and scale of one shape (n, L) but got {means.shape} and {given.shape}."
        ) from error
    scales = as_matrix(spread, name="scale", columns="L")
    if not (scales > 0).all():
        raise ValueError(
            f"Expected scale > 0 but got {scales.min():g}: codes without noise are for mig, which takes the "
            "codes themselves."
        )
    return means, scales


def _pair(posterior: tuple[Any, ...]) -> tuple[Any, Any]:
    if len(posterior) != 2:
        raise ValueError(f"Expected a pair (loc, scale) but got {len(posterior)} arrays.")
    return posterior[0], posterior[1]


def _moments(posterior: Any) -> tuple[Any, Any]:
    inner = posterior
    while _is_one_of(inner, _WRAPPERS):
        inner = inner.base_dist
    if not _is_one_of(inner, _NORMALS):
        raise ValueError(
            "Expected posterior to be a pair (loc, scale) or a distribution with Normal margins but got "
            f"{type(inner).__name__}: an Independent Normal or a MultivariateNormal will do."
        )
    return posterior.mean, posterior.stddev


def _is_one_of(distribution: Any, names: frozenset[str]) -> bool:
    """By name, so that this room does without torch."""
    return any(each.__name__ in names for each in type(distribution).__mro__)
