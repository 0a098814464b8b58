"""Coordinates in which the posteriors of all data are Normal."""

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.distributions import (
    CatTransform,
    ComposeTransform,
    Independent,
    Normal,
    Transform,
    TransformedDistribution,
)

from pyro_infomax.information.factors import factors_of
from pyro_infomax.information.families import is_normal
from pyro_infomax.information.side_by_side import SideBySide, joined
from pyro_infomax.information.transforms import elementwise, shared


@final
@dataclass(frozen=True)
class Coordinates:
    r"""u with z = f(u), where f is the same for all data.

    .. math:: q(z \mid x_n) = q(u \mid x_n)\, \Bigl|\det \frac{\partial z}{\partial u}\Bigr|^{-1}, \qquad
        q(z) = q(u)\, \Bigl|\det \frac{\partial z}{\partial u}\Bigr|^{-1}

    Attributes:
        base: the posteriors of u, batch shape (N,), event shape (k,).
        transform: f; None where u is z.
    """

    base: Any
    transform: Transform | None = None

    def at(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """u, and the log-volume by which f stretches it: infinite where f reaches no such z.

        Args:
            z: (points, latent).

        Returns:
            (points, k), and (points, latent) if f acts element by element, (points,) otherwise.
        """
        if self.transform is None:
            return z, z.new_zeros(z.shape, dtype=torch.float64)
        u = self.transform.inv(z)
        stretch = self.transform.log_abs_det_jacobian(u, z).double()
        return self._finite(z, u, stretch)

    def _finite(self, z: Tensor, u: Tensor, stretch: Tensor) -> tuple[Tensor, Tensor]:
        by_point = stretch.dim() < u.dim()
        lost, unknown = ~u.isfinite(), z.isnan()
        if by_point:
            lost, unknown = lost.any(-1), unknown.any(-1)
        lost = lost | ~stretch.isfinite()
        nowhere = torch.where(unknown, torch.nan, torch.inf).to(stretch)
        return u.masked_fill(lost.unsqueeze(-1) if by_point else lost, 0.0), torch.where(
            lost, nowhere, stretch
        )


def coordinates_of(posterior: Any) -> Coordinates:
    """Those in which the posteriors are Normal, if there are any, else those that they are given in.

    Args:
        posterior: batch shape (N,), event shape (d,).

    >>> from torch.distributions import LogNormal
    >>> found = coordinates_of(Independent(LogNormal(torch.zeros(5, 2), 1.0), 1))
    >>> found.base, found.transform
    (Independent(Normal(loc: torch.Size([5, 2]), scale: torch.Size([5, 2])), 1), ExpTransform())
    """
    if is_normal(posterior):
        return Coordinates(posterior)
    found = _of_factors(factors_of(posterior)) or _of_vectors(posterior)
    return Coordinates(posterior) if found is None else found


def _of_factors(factors: Any) -> Coordinates | None:
    """Of univariate posteriors, (batch, latent)."""
    parts = factors.parts if isinstance(factors, SideBySide) else [factors]
    known = [each for each in map(_of_part, parts) if each is not None]
    if len(known) < len(parts):
        return None
    base = Independent(joined([normal for normal, _ in known]), 1)
    if len(known) == 1:
        return Coordinates(base, known[0][1])
    sizes = [normal.batch_shape[-1] for normal, _ in known]
    return Coordinates(base, CatTransform([transform for _, transform in known], -1, sizes))


def _of_part(part: Any) -> tuple[Normal, Transform] | None:
    if isinstance(part, Normal):
        return part, ComposeTransform([])
    if not isinstance(part, TransformedDistribution):
        return None
    inner, outer = _of_part(part.base_dist), shared(ComposeTransform(part.transforms))
    if inner is None or outer is None:
        return None
    return inner[0], _after(inner[1], outer)


def _of_vectors(posterior: Any) -> Coordinates | None:
    """Of Normals whose dimensions depend on each other, or are mapped together."""
    if not isinstance(posterior, TransformedDistribution) or not is_normal(posterior.base_dist):
        return None
    transform = shared(ComposeTransform(posterior.transforms))
    return (
        None if transform is None else Coordinates(posterior.base_dist, elementwise(transform) or transform)
    )


def _after(inner: Transform, outer: Transform) -> Transform:
    return outer if inner == ComposeTransform([]) else ComposeTransform([inner, outer])
