"""The covariance of the aggregate posterior, and what the correlations in it amount to."""

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Final, final

import torch
from torch import Tensor
from torch.distributions import MixtureSameFamily

from pyro_infomax.information.families import is_factorised, name

_ENTRIES_AT_ONCE: Final = 2**22


@final
class AggregateCovariance:
    r"""The covariance C of the aggregate posterior, as a factor of its correlation matrix.

    .. math:: C = \frac1N \sum_n \big[(m_n - \bar m)(m_n - \bar m)^\top + \Delta_n\big]

    for posteriors of mean :math:`m_n` and covariance :math:`\Delta_n`. Rows :math:`(m_n - \bar m)/\sqrt N` on
    top of a root of :math:`\bar\Delta` are factorised without being multiplied out, so that a ratio of
    :math:`10^{12}` between the scales loses no more than four digits. A dimension without any variance
    is independent of all others, and counts as a dimension of its own.

    Args:
        posterior: batch shape (N,), event shape (d,), float64.

    Raises:
        NotImplementedError: for a family whose mean or covariance is not known, or not finite.
    """

    def __init__(self, posterior: Any) -> None:
        mean = finite_mean(posterior)
        # (batch, latent), the diagonals, or (batch, latent, latent)
        self.covariances = _finite("covariance", posterior, _covariances(posterior))
        self.size = len(mean)
        mean = mean - mean.mean(0)
        rows = torch.cat([mean / math.sqrt(self.size), _root(self.covariances.mean(0))])
        scale = rows.norm(dim=0)  # (latent,)
        self.scale = scale.masked_fill(scale == 0, 1.0)
        self.root = _triangle(rows / self.scale, scale == 0)  # (latent, latent), root^T root = correlation
        self.mean = mean / self.scale  # (batch, latent)

    @property
    def total_correlation(self) -> Tensor:
        r""":math:`\tfrac12 [\sum_j \ln C_{jj} - \ln|C|]`, infinite for a singular correlation matrix."""
        pivots = self.root.diagonal().abs()
        singular = bool((pivots <= len(pivots) * torch.finfo(pivots.dtype).eps).any())
        return pivots.new_tensor(math.inf) if singular else -pivots.log().sum().clamp(max=0)

    @property
    def population_standard_error(self) -> Tensor:
        """The delta method's, with the leading bias of a covariance of N data in quadrature."""
        if self.size == 1 or not bool(self.total_correlation.isfinite()):
            return self.scale.new_tensor(math.nan)
        parts = [self._derivatives(rows) for rows in self._parts()]
        influence, curvature = (torch.cat(each) for each in zip(*parts, strict=True))  # (batch,)
        return torch.hypot(influence.std() / math.sqrt(self.size), self._bias(curvature.mean()))

    def _bias(self, curvature: Tensor) -> Tensor:
        """Of the second order in the second moments, and of the first in the estimated mean."""
        of_mean = ((self.mean**2).sum() - ((self.mean @ self._whitener) ** 2).sum()) / self.size
        return (curvature - of_mean) / (2 * self.size)

    def _derivatives(self, rows: slice) -> tuple[Tensor, Tensor]:
        """First and second derivative of the total correlation towards each datum's second moment."""
        mean = self.mean[rows]
        moment = mean[:, :, None] * mean[:, None, :] + self._correlations(rows)  # (batch, latent, latent)
        own = moment.diagonal(dim1=-2, dim2=-1)
        white = self._whitener.T @ moment @ self._whitener
        trace = white.diagonal(dim1=-2, dim2=-1).sum(-1)
        change = white - torch.eye(len(self.scale), dtype=white.dtype, device=white.device)
        first = (own.sum(-1) - trace) / 2
        return first, ((change**2).sum((-2, -1)) - ((own - 1) ** 2).sum(-1)) / 2

    def _correlations(self, rows: slice) -> Tensor:
        found = self.covariances[rows]
        if found.dim() == 2:
            return (found / self.scale**2).diag_embed()
        return found / (self.scale[:, None] * self.scale)

    @cached_property
    def _whitener(self) -> Tensor:
        """K with K K^T the inverse of the correlation matrix, (latent, latent)."""
        eye = torch.eye(len(self.root), dtype=self.root.dtype, device=self.root.device)
        return torch.linalg.solve_triangular(self.root, eye, upper=True)

    def _parts(self) -> Iterator[slice]:
        step = max(1, _ENTRIES_AT_ONCE // len(self.scale) ** 2)
        return (slice(start, start + step) for start in range(0, self.size, step))


def _triangle(rows: Tensor, constant: Tensor) -> Tensor:
    """The triangular factor, with a unit entry of its own for a dimension that never moves."""
    return torch.linalg.qr(torch.cat([rows, constant.to(rows.dtype).diag()]), mode="r").R


def _root(covariance: Tensor) -> Tensor:
    """A matrix whose transpose times itself is the covariance, also a singular one; the latent axis last."""
    if covariance.dim() == 1:
        return covariance.sqrt().diag()
    scale = covariance.diagonal().sqrt()
    safe = scale.masked_fill(scale == 0, 1.0)
    values, vectors = torch.linalg.eigh(covariance / (safe[:, None] * safe))
    return values.clamp(min=0).sqrt()[:, None] * vectors.T * scale


def finite_mean(posterior: Any) -> Tensor:
    """E[z|x], (batch, latent), float64.

    Raises:
        NotImplementedError: for a family whose mean is not known, or not finite.
    """
    try:
        return _finite("mean", posterior, posterior.mean.detach().double())
    except (NotImplementedError, AttributeError):
        raise NotImplementedError(_unknown("mean", posterior)) from None


def _covariances(posterior: Any) -> Tensor:
    """(*batch, latent) where they are diagonal, else (*batch, latent, latent)."""
    try:
        if is_factorised(posterior):
            return posterior.variance.detach().double()
        if isinstance(posterior, MixtureSameFamily):
            return _of_mixture(posterior)
        return posterior.covariance_matrix.detach().double()
    except (NotImplementedError, AttributeError):
        raise NotImplementedError(_unknown("covariance", posterior)) from None


def _of_mixture(mixture: MixtureSameFamily) -> Tensor:
    weights = mixture.mixture_distribution.probs.detach().double()[
        ..., None, None
    ]  # (*batch, component, 1, 1)
    within = _covariances(mixture.component_distribution)
    within = within if within.dim() == weights.dim() else within.diag_embed()
    off = (mixture.component_distribution.mean - mixture.mean.unsqueeze(-2)).detach().double()
    return (weights * (within + off[..., :, None] * off[..., None, :])).sum(-3)


def _finite(what: str, posterior: Any, moment: Tensor) -> Tensor:
    if not bool(moment.isfinite().all()):
        raise NotImplementedError(_unknown(what, posterior))
    return moment


def _unknown(what: str, posterior: Any) -> str:
    return (
        f"Expected a posterior of finite mean and covariance but {name(posterior)} has no such {what}; "
        "give it attributes mean of shape (N, d) and covariance_matrix of shape (N, d, d)."
    )
