"""The rate-distortion function of a Gaussian source, by reverse water-filling."""

from dataclasses import dataclass
from typing import final

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .checks import non_negative, positive, spectrum_of


@final
@dataclass(frozen=True, eq=False)
class GaussianRateDistortion:
    r"""Points on Shannon's rate-distortion curve of a Gaussian source.

    Every field has the shape (...) that was asked for; those of single components append (dim,), in the order
    of the eigenvalues. Rates are in nats, distortions in squared error, both per datum.

    Attributes:
        rate: :math:`R = \sum_j R_j`.
        distortion: :math:`D = \sum_j D_j`.
        level: the water level :math:`\theta`.
        slope: :math:`dR/dD = -1 / 2\theta`, and 0 where nothing is coded.
        rates: :math:`R_j = \max(0, \tfrac12 \ln \lambda_j / \theta)`, (..., dim).
        distortions: :math:`D_j = \min(\theta, \lambda_j)`, (..., dim).
    """

    rate: Tensor
    distortion: Tensor
    level: Tensor
    slope: Tensor
    rates: Tensor
    distortions: Tensor


def gaussian_rate_distortion(
    eigenvalues: ArrayLike | Tensor,
    *,
    distortion: ArrayLike | Tensor | None = None,
    rate: ArrayLike | Tensor | None = None,
    level: ArrayLike | Tensor | None = None,
) -> GaussianRateDistortion:
    r"""Shannon's rate-distortion function of a Gaussian source under squared error.

    .. math::

        R(\theta) = \sum_j \max\Big(0, \tfrac12 \ln \frac{\lambda_j}{\theta}\Big), \qquad
        D(\theta) = \sum_j \min(\theta, \lambda_j)

    What rises above the water level :math:`\theta` is coded, the rest is drowned. For data that are not
    Gaussian the curve of their covariance is an upper bound on theirs. The optimal linear VAE of
    :meth:`LinearGaussian.optimum` with enough latent dimensions has its level at :math:`\beta s^2`.

    Exactly one of ``distortion``, ``rate`` and ``level`` says where; results are differentiable in it and in
    the eigenvalues.

    References:
        Shannon (1959), *Coding Theorems for a Discrete Source with a Fidelity Criterion*.
        Cover and Thomas (2006), *Elements of Information Theory*, section 10.3.

    Args:
        eigenvalues: of the source's covariance, (dim,), at least zero, in any order.
        distortion: the expected squared error, summed over dimensions, positive, (...). From the trace of the
            covariance on, the rate is 0 and the distortion stays at the trace.
        rate: in nats per datum, at least zero, (...).
        level: the water level, positive, (...).

    Returns:
        The points of the curve.

    Raises:
        ValueError: If not exactly one place is given, or an argument is out of range.

    Example:
        >>> point = gaussian_rate_distortion([4.0, 2.0, 0.5], distortion=2.5)
        >>> print(f"level {point.level:.3f}, {point.rate:.4f} nats, slope {point.slope:.3f}")
        level 1.000, 1.0397 nats, slope -0.500
        >>> curve = gaussian_rate_distortion([4.0, 2.0, 0.5], rate=[0.0, 1.0, 2.0])
        >>> [round(error, 4) for error in curve.distortion.tolist()]
        [6.5, 2.581, 1.2553]
    """
    spectrum = spectrum_of("eigenvalues", eigenvalues)  # (dim,)
    places = {"distortion": distortion, "rate": rate, "level": level}
    match {name: value for name, value in places.items() if value is not None}:
        case {"distortion": value, **others} if not others:
            return _points(spectrum, _level_of_distortion(spectrum, positive("distortion", value)))
        case {"rate": value, **others} if not others:
            return _points(spectrum, _level_of_rate(spectrum, non_negative("rate", value)))
        case {"level": value, **others} if not others:
            return _points(spectrum, positive("level", value))
        case given:
            raise ValueError(
                f"Expected exactly one of distortion, rate and level but got {', '.join(given) or 'none'}."
            )


def _points(spectrum: Tensor, level: Tensor) -> GaussianRateDistortion:
    water = level.unsqueeze(-1)  # (..., 1)
    is_coded = spectrum > water  # (..., dim)
    rates = 0.5 * torch.where(is_coded, spectrum / water, 1.0).log()
    distortions = torch.minimum(water, spectrum)
    slope = torch.where(is_coded.any(-1), -0.5 / level, 0.0)
    return GaussianRateDistortion(rates.sum(-1), distortions.sum(-1), level, slope, rates, distortions)


def _level_of_distortion(spectrum: Tensor, distortion: Tensor) -> Tensor:
    ascending = spectrum.sort().values  # (dim,)
    drowned = ascending.cumsum(0) - ascending  # (dim,), the variance below each eigenvalue
    coded = torch.arange(len(ascending), 0, -1, dtype=torch.float64)  # (dim,), how many are at least this one
    at_eigenvalue = drowned + coded * ascending  # (dim,), ascending: D where the level is the eigenvalue
    place = distortion.detach().contiguous()  # else torch warns of a copy
    first = torch.searchsorted(at_eigenvalue.detach(), place).clamp(max=len(ascending) - 1)
    return torch.minimum((distortion - drowned[first]) / coded[first], ascending[-1])


def _level_of_rate(spectrum: Tensor, rate: Tensor) -> Tensor:
    descending = spectrum[spectrum > 0].sort(descending=True).values  # (rank,)
    logs = descending.log()
    coded = torch.arange(1, len(logs) + 1, dtype=torch.float64)  # (rank,)
    at_eigenvalue = 0.5 * (logs.cumsum(0) - coded * logs)  # (rank,), ascending: R where the level is it
    last = torch.searchsorted(at_eigenvalue.detach(), rate.detach().contiguous(), right=True) - 1
    return ((logs.cumsum(0)[last] - 2 * rate) / coded[last]).exp()
