"""The rate-distortion function of a discrete memoryless source."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Final, final

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .checks import of_rank, positive_number, probabilities, real, shaped
from .constraint import Point, at_resource
from .entropies import mutual_information_of
from .simplex import maximise

_ROUNDING: Final = 1e-12  # relative, of the least distortion


@final
@dataclass(frozen=True, eq=False)
class RateDistortion:
    """A point on the rate-distortion curve of a source, in nats per symbol.

    Attributes:
        rate: the mutual information of source and reproduction, which is an upper bound on R(distortion).
        lower_bound: a lower bound on R(distortion), within the tolerance of ``rate``.
        distortion: the expected distortion.
        slope: -dR/dD, in nats per unit of distortion.
        conditional: the optimal p(reproduction | source), (source, reproduction).
        reproduction: its marginal, (reproduction,).
    """

    rate: Tensor
    lower_bound: Tensor
    distortion: Tensor
    slope: Tensor
    conditional: Tensor
    reproduction: Tensor


@torch.no_grad()
def rate_distortion(
    source: ArrayLike | Tensor,
    distortion: ArrayLike | Tensor,
    *,
    target: float,
    tolerance: float = 1e-10,
    max_iterations: int = 200,
) -> RateDistortion:
    r"""The rate-distortion function of a discrete source, at a given distortion.

    .. math:: R(D) = \min_{p(\hat x | x)} I(X; \hat X) \quad \text{with} \quad E[d(X, \hat X)] \le D

    :func:`blahut_arimoto` gives the points of given slope; chords and tangents of the convex curve close in
    on the target and certify the result.

    References:
        Blahut (1972), *Computation of Channel Capacity and Rate-Distortion Functions*.
        Csiszár (1974), *On the Computation of Rate-Distortion Functions*.

    Args:
        source: p(x), (source,).
        distortion: d(x, x̂), (source, reproduction); infinite where a reproduction is forbidden.
        target: D. Where a single reproduction does as well or better, the rate is 0.
        tolerance: the gap between the bounds that is accepted, in nats.
        max_iterations: of the multiplicative update, before Newton's steps.

    Raises:
        ValueError: If the source is no distribution, the shapes do not fit, the target is below the least
            distortion that is possible, or no single reproduction has a finite expected distortion.
        RuntimeError: If the bounds do not come within the tolerance.

    Example:
        >>> coin = rate_distortion([0.5, 0.5], [[0.0, 1.0], [1.0, 0.0]], target=0.11)
        >>> print(f"{coin.rate:.4f} nats")  # ln 2 - h(0.11)
        0.3466 nats
    """
    problem = _Source(source, distortion)
    solve = partial(problem.solve, tolerance=tolerance / 4, max_iterations=max_iterations)
    aim, least = float(target), problem.least
    if math.isclose(aim, least, rel_tol=_ROUNDING):
        aim = least
    if not aim >= least:
        raise ValueError(f"Expected target >= {least}, the least distortion, but got {target}.")
    silent = problem.silent()
    if aim >= silent.resource:
        return problem.report(silent.solution, 0.0, 0.0)
    found = at_resource(solve, aim, solve(float("inf")), silent, tolerance=tolerance)
    return problem.report(found.solution, found.lower_bound, found.slope)


@torch.no_grad()
def sloped_rate_distortion(
    source: ArrayLike | Tensor,
    distortion: ArrayLike | Tensor,
    *,
    slope: float,
    tolerance: float,
    max_iterations: int,
) -> RateDistortion:
    """The minimum of I + slope E[d]."""
    price = positive_number("slope", slope).item()
    problem = _Source(source, distortion)
    point = problem.solve(price, tolerance=tolerance, max_iterations=max_iterations)
    return problem.report(point.solution, point.dual - price * point.resource, price)


@final
class Reproduction:
    r""":math:`J(w) = \sum_x p(x) \ln \sum_k w_k a_{xk}`, concave in the weights.

    With :math:`a = \exp(-s d)` its maximum is minus the least rate + s distortion.

    Args:
        source: p(x), (source,).
        affinity: a, (source, reproduction), at least zero, every row of a symbol that occurs with a positive
            entry.
    """

    def __init__(self, source: Tensor, affinity: Tensor) -> None:
        self.size = affinity.shape[1]
        occurs = source > 0
        self._source = source[occurs]
        self._affinity = affinity[occurs]

    def log_gain(self, weights: Tensor) -> Tensor:
        return self.gradient(weights).log()

    def gap(self, weights: Tensor) -> float:
        return self.log_gain(weights).max().item()

    def gradient(self, weights: Tensor) -> Tensor:
        return (self._source / (self._affinity @ weights)) @ self._affinity

    def curvature(self, weights: Tensor) -> Tensor:
        scaled = self._affinity / (self._affinity @ weights).unsqueeze(1)
        return (scaled * self._source.unsqueeze(1)).T @ scaled


@final
class _Source:
    """Symbols, how often they occur, and what it costs to reproduce each as each."""

    def __init__(self, source: ArrayLike | Tensor, distortion: ArrayLike | Tensor) -> None:
        self._p = of_rank("source", probabilities("source", source), "source")  # (source,)
        table = of_rank("distortion", real("distortion", distortion), "source, reproduction")
        self._d = shaped("distortion", table, (len(self._p), table.shape[1]))
        self._least = self._d.min(1).values  # (source,)
        if not self._least.isfinite().all():
            raise ValueError(
                "Expected a reproduction of finite distortion for every symbol but one has none."
            )

    @property
    def least(self) -> float:
        """The least expected distortion that is possible."""
        return (self._p @ self._least).item()

    def silent(self) -> Point:
        """The best single reproduction, of rate zero."""
        expected = self._expected(self._p.unsqueeze(1), self._d, dim=0)  # (reproduction,)
        best = expected.argmin()
        if not expected[best].isfinite():
            raise ValueError(
                "Expected a reproduction that is allowed for every symbol but there is none; ask "
                "blahut_arimoto for a slope instead."
            )
        conditional = torch.zeros_like(self._d)
        conditional[:, best] = 1
        return Point(expected[best].item(), 0.0, 0.0, conditional)

    def solve(self, slope: float, *, tolerance: float, max_iterations: int) -> Point:
        """The point of a slope; that of an infinite slope has the least distortion."""
        excess = self._d - self._least.unsqueeze(1)  # (source, reproduction)
        affinity = torch.where(excess > 0, (-slope * excess).exp(), 1.0)
        function = Reproduction(self._p, affinity)
        weights = maximise(function, tolerance=tolerance, max_iterations=max_iterations)
        # a symbol that never occurs may have no reproduction left; any will do
        affinity = torch.where((affinity @ weights > 0).unsqueeze(1), affinity, 1.0)
        scores = affinity @ weights  # (source,)
        conditional = affinity * weights / scores.unsqueeze(1)
        dual = -(self._p @ scores.log()).item() - function.gap(weights)
        offset = slope * self.least if slope < float("inf") else 0.0
        return Point(self._distortion(conditional), self._rate(conditional), dual + offset, conditional)

    def report(self, conditional: Tensor, lower_bound: float, slope: float) -> RateDistortion:
        """The point as the user sees it."""
        rate = self._rate(conditional)
        return RateDistortion(
            rate=_number(rate),
            lower_bound=_number(max(0.0, min(lower_bound, rate))),
            distortion=_number(self._distortion(conditional)),
            slope=_number(slope),
            conditional=conditional,
            reproduction=self._p @ conditional,
        )

    def _distortion(self, conditional: Tensor) -> float:
        return self._expected(self._p.unsqueeze(1) * conditional, self._d).item()

    def _rate(self, conditional: Tensor) -> float:
        return mutual_information_of(self._p.unsqueeze(1) * conditional).item()

    @staticmethod
    def _expected(weights: Tensor, values: Tensor, dim: int | None = None) -> Tensor:
        """Σ weights · values, where a weight of zero takes no part, be its value infinite."""
        return torch.where(weights > 0, weights * values, 0.0).sum(dim)


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)
