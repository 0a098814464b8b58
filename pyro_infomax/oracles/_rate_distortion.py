"""Channel capacities and rate-distortion functions, in closed form or by iteration with a certificate."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, final, overload

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pyro_infomax._progress import patiently
from pyro_infomax.oracles._checks import (
    entropy,
    finite,
    mutual_information_of,
    non_negative,
    of_rank,
    positive,
    positive_number,
    probabilities,
    real,
    shaped,
    spectrum_of,
)

# ---- The maximum of a concave function over a simplex.

_NEWTON_STEPS: Final = 100
_TO_THE_EDGE: Final = 0.995  # of the way to the boundary


class ConcaveFunction(Protocol):
    """What the search knows of a concave function J of weights w, (size,)."""

    size: int

    def log_gain(self, weights: Tensor) -> Tensor:
        """The log of the factors by which the weights grow, (size,): the update of Blahut and Arimoto."""

    def gap(self, weights: Tensor) -> float:
        """A bound on max J - J(weights)."""

    def gradient(self, weights: Tensor) -> Tensor:
        """dJ/dw, (size,)."""

    def curvature(self, weights: Tensor) -> Tensor:
        """The Hessian of -J, (size, size)."""


def maximise(function: ConcaveFunction, *, tolerance: float, max_iterations: int) -> Tensor:
    """The weights of the maximum, (size,), to within the tolerance by the function's own certificate.

    The multiplicative update needs no step size and is fast where it counts, but where weights must vanish
    its certificate closes only as one over the number of iterations. What it leaves over, Newton steps in the
    interior close in a few dozen.
    """
    if not tolerance > 0:
        raise ValueError(f"Expected tolerance > 0 but got {tolerance}.")
    weights = torch.full((function.size,), 1 / function.size, dtype=torch.float64)
    gap = function.gap(weights)
    for _ in patiently(range(max_iterations), "blahut-arimoto"):
        if gap <= tolerance:
            return weights
        weights = (weights.log() + function.log_gain(weights)).softmax(0)
        gap = function.gap(weights)
    return weights if gap <= tolerance else _newton(function, weights, tolerance)


def _newton(function: ConcaveFunction, weights: Tensor, tolerance: float) -> Tensor:
    """Primal-dual interior-point steps, from weights that are moved off the boundary."""
    weights = 0.9 * weights + 0.1 / function.size
    gradient = function.gradient(weights)
    level = gradient.max() + 0.1 * gradient.abs().max().clamp(min=1e-3)
    slack = level - gradient  # (size,), positive: what a weight would lose
    for _ in patiently(range(_NEWTON_STEPS), "blahut-arimoto"):
        if function.gap(weights) <= tolerance:
            return weights / weights.sum()
        steps = _newton_step(function, weights, slack, level)
        length = min(_longest(weights, steps[0]), _longest(slack, steps[1]))
        weights, slack, level = (
            value + length * step for value, step in zip((weights, slack, level), steps, strict=True)
        )
    raise RuntimeError(
        f"Expected a certificate within {tolerance:.3g} nats but the bounds stay {function.gap(weights):.3g} "
        "apart; allow a larger tolerance."
    )


def _newton_step(
    function: ConcaveFunction, weights: Tensor, slack: Tensor, level: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    target = 0.1 * (weights * slack).mean()
    factor = torch.linalg.cholesky(function.curvature(weights) + torch.diag(slack / weights))
    residual = function.gradient(weights) - level + target / weights
    sides = torch.stack([residual, torch.ones_like(weights)], dim=1)
    along, across = torch.cholesky_solve(sides, factor).T
    level_step = (along.sum() - (1 - weights.sum())) / across.sum()
    step = along - level_step * across
    return step, target / weights - slack - slack / weights * step, level_step


def _longest(values: Tensor, step: Tensor) -> float:
    """The largest part of a step, at most all of it, that keeps the values positive."""
    reach = torch.where(step < 0, -values / step, torch.inf).min().item()
    return min(1.0, _TO_THE_EDGE * reach)


# ---- The rate-distortion function of a Gaussian source, by reverse water-filling.


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


# ---- The value of a convex curve at a given place, when only its points of given slope can be solved for.

_CHORDS: Final = 200


@final
@dataclass(frozen=True, eq=False)
class CurvePoint:
    """A point of a falling convex curve, whose values are in nats."""

    resource: float
    value: float
    dual: float  # a lower bound on min(value + slope * resource), for the slope that it was solved at
    solution: Tensor  # value and resource of a mixture of two are at most the mixtures of theirs


@final
@dataclass(frozen=True, eq=False)
class Constrained:
    """The curve at a resource: a mixture that attains its value, a lower bound on it, and the slope there."""

    solution: Tensor
    lower_bound: float
    slope: float


def at_resource(
    solve: Callable[[float], CurvePoint],
    target: float,
    scarce: CurvePoint,
    ample: CurvePoint,
    *,
    tolerance: float,
) -> Constrained:
    """Closes in on a resource from both sides: each chord's slope gives a tangent, each tangent a chord.

    Chord above and tangent below certify the value, also where the curve is straight and one slope belongs to
    many resources. The ends are those of the least and of the most resource, with the target between them.
    """
    best, best_slope = -float("inf"), 0.0
    for _ in range(_CHORDS):
        slope = max(0.0, scarce.value - ample.value) / (ample.resource - scarce.resource)
        chord = ample.value + slope * (ample.resource - target)
        point = solve(slope) if slope > 0 else ample
        tangent = point.dual - slope * target
        if tangent > best:
            best, best_slope = tangent, slope
        if chord - best <= tolerance:
            return Constrained(_mixture(scarce, ample, target), best, best_slope)
        if point.resource <= target:
            scarce = point
        else:
            ample = point
    raise RuntimeError(
        f"Expected a certificate within {tolerance:.3g} nats but the bounds stay {chord - best:.3g} apart; "
        "allow a larger tolerance."
    )


def _mixture(scarce: CurvePoint, ample: CurvePoint, target: float) -> Tensor:
    share = (target - scarce.resource) / (ample.resource - scarce.resource)
    return (1 - share) * scarce.solution + share * ample.solution


# ---- The capacity of a discrete memoryless channel.

_LEAST: Final = 1e-300  # of an output's probability, below which it counts as this


@final
@dataclass(frozen=True, eq=False)
class ChannelCapacity:
    """The input that carries the most information through a channel, in nats per use.

    Attributes:
        capacity: the mutual information I(X; Y) of ``input``, which is a lower bound on the capacity.
        upper_bound: an upper bound on the capacity at this cost, within the tolerance of ``capacity``.
        input: the optimal p(x), (input,).
        output: its p(y), (output,).
        cost: the expected cost of ``input``; 0 without costs.
        slope: what one more unit of cost is worth, in nats.
    """

    capacity: Tensor
    upper_bound: Tensor
    input: Tensor
    output: Tensor
    cost: Tensor
    slope: Tensor


@torch.no_grad()
def channel_capacity(
    channel: ArrayLike | Tensor,
    *,
    cost: ArrayLike | Tensor | None = None,
    budget: float | None = None,
    tolerance: float = 1e-10,
    max_iterations: int = 200,
) -> ChannelCapacity:
    r"""The capacity of a discrete channel, also under a limit on the expected cost of its input.

    .. math:: C(B) = \max_{p(x)} I(X; Y) \quad \text{with} \quad E[c(X)] \le B

    :func:`blahut_arimoto` solves it at each price of a unit of cost; the price is found by chords and
    tangents of the concave curve, which certify the result.

    References:
        Arimoto (1972), *An Algorithm for Computing the Capacity of Arbitrary Discrete Memoryless Channels*.
        Blahut (1972), *Computation of Channel Capacity and Rate-Distortion Functions*.

    Args:
        channel: p(y|x), (input, output).
        cost: c(x), (input,).
        budget: the most that the expected cost may be.
        tolerance, max_iterations: as :func:`blahut_arimoto`.

    Raises:
        ValueError: If the channel is no table of probabilities, only one of cost and budget is given, or the
            budget is below the least cost.
        RuntimeError: If the bounds do not come within the tolerance.

    Example:
        >>> noiseless = [[1.0, 0.0], [0.0, 1.0]]
        >>> print(f"{channel_capacity(noiseless).capacity:.4f}")  # ln 2
        0.6931
        >>> limited = channel_capacity(noiseless, cost=[0.0, 1.0], budget=0.11)  # the entropy of 0.11
        >>> print(f"{limited.capacity:.4f} at p(1) = {limited.input[1]:.4f}")
        0.3465 at p(1) = 0.1100
    """
    table = _table(channel)
    solve = partial(_solved, table, tolerance=tolerance / 4, max_iterations=max_iterations)
    if cost is None and budget is None:
        return blahut_arimoto(table, tolerance=tolerance, max_iterations=max_iterations)
    if cost is None or budget is None:
        lacking = "budget" if budget is None else "cost"
        raise ValueError(f"Expected cost and budget together but got no {lacking}.")
    costs, budget = _costs(cost, table), float(budget)
    if not budget >= costs.min():
        raise ValueError(f"Expected budget >= {costs.min().item()}, the least cost, but got {budget}.")
    free = solve(costs, 0.0)
    if free.resource <= budget:
        return _report(table, costs, free.solution, -free.dual, 0.0)
    scarce = _cheapest(table, costs, tolerance=tolerance / 4, max_iterations=max_iterations)
    found = at_resource(partial(solve, costs), budget, scarce, free, tolerance=tolerance)
    return _report(table, costs, found.solution, -found.lower_bound, found.slope)


@final
class _Transmission:
    """J(p) = I(X; Y) - E[charge], as a function of the input distribution."""

    def __init__(self, table: Tensor, charge: Tensor) -> None:
        self.size = len(table)
        self._table = table  # (input, output)
        self._constant = -entropy(table, 1) - charge  # (input,)

    def log_gain(self, weights: Tensor) -> Tensor:
        return self._constant - self._table @ self._output(weights).log()

    def gap(self, weights: Tensor) -> float:
        gain = self.log_gain(weights)
        return (gain.max() - weights @ gain).item()

    def gradient(self, weights: Tensor) -> Tensor:
        return self.log_gain(weights) - 1

    def curvature(self, weights: Tensor) -> Tensor:
        return self._table / self._output(weights) @ self._table.T

    def _output(self, weights: Tensor) -> Tensor:
        return (weights @ self._table).clamp(min=_LEAST)


def _solved(
    table: Tensor, costs: Tensor, slope: float, *, tolerance: float, max_iterations: int
) -> CurvePoint:
    function = _Transmission(table, slope * costs)
    weights = maximise(function, tolerance=tolerance, max_iterations=max_iterations)
    gain = function.log_gain(weights)
    resource = weights @ costs
    value = -(weights @ gain) - slope * resource
    return CurvePoint(resource.item(), value.item(), -gain.max().item(), weights)


def _cheapest(table: Tensor, costs: Tensor, *, tolerance: float, max_iterations: int) -> CurvePoint:
    """The best input among those of the least cost."""
    is_cheapest = costs == costs.min()
    point = _solved(
        table[is_cheapest], costs[is_cheapest], 0.0, tolerance=tolerance, max_iterations=max_iterations
    )
    weights = torch.zeros_like(costs).masked_scatter(is_cheapest, point.solution)
    return CurvePoint(costs.min().item(), point.value, point.dual, weights)


def _report(table: Tensor, costs: Tensor, weights: Tensor, upper: float, slope: float) -> ChannelCapacity:
    output = weights @ table
    information = (entropy(output) - weights @ entropy(table, 1)).clamp(min=0)
    above = information.new_tensor(max(upper, information.item()))
    return ChannelCapacity(
        information, above, weights, output, weights @ costs, information.new_tensor(slope)
    )


def _table(channel: ArrayLike | Tensor) -> Tensor:
    return of_rank("channel", probabilities("channel", channel), "input, output")


def _costs(cost: ArrayLike | Tensor, table: Tensor) -> Tensor:
    return shaped("cost", finite("cost", cost), (len(table),))


# ---- The rate-distortion function of a discrete memoryless source.

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
        tolerance, max_iterations: as :func:`blahut_arimoto`.

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


@final
class Reproduction:
    r""":math:`J(w) = \sum_x p(x) \ln \sum_k w_k a_{xk}`, concave in the weights.

    With :math:`a = \exp(-s d)` its maximum is minus the least rate + s distortion. The affinity a, (source,
    reproduction), is at least zero, and every row of a symbol that occurs has a positive entry.
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

    def silent(self) -> CurvePoint:
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
        return CurvePoint(expected[best].item(), 0.0, 0.0, conditional)

    def solve(self, slope: float, *, tolerance: float, max_iterations: int) -> CurvePoint:
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
        return CurvePoint(self._distortion(conditional), self._rate(conditional), dual + offset, conditional)

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


# ---- The iteration of Blahut and Arimoto, for channels and for sources.


@overload
def blahut_arimoto(
    table: ArrayLike | Tensor,
    /,
    *,
    cost: ArrayLike | Tensor | None = None,
    slope: float | None = None,
    tolerance: float = 1e-10,
    max_iterations: int = 200,
) -> ChannelCapacity: ...


@overload
def blahut_arimoto(
    table: ArrayLike | Tensor,
    /,
    *,
    source: ArrayLike | Tensor,
    slope: float | None = None,
    tolerance: float = 1e-10,
    max_iterations: int = 200,
) -> RateDistortion: ...


@torch.no_grad()
def blahut_arimoto(
    table: ArrayLike | Tensor,
    /,
    *,
    source: ArrayLike | Tensor | None = None,
    cost: ArrayLike | Tensor | None = None,
    slope: float | None = None,
    tolerance: float = 1e-10,
    max_iterations: int = 200,
) -> ChannelCapacity | RateDistortion:
    r"""Channel capacity and rate-distortion by alternating optimisation, with certified bounds.

    Of a channel p(y|x) it finds the input that carries the most information, less what it costs; of a source
    p(x) and a table of distortions d(x, x̂) the reproduction that needs the least:

    .. math::

        \max_{p(x)} \; I(X; Y) - s\, E[c(X)],
        \qquad \min_{p(\hat x|x)} \; I(X; \hat X) + s\, E[d(X, \hat X)].

    Both are concave in one vector of weights, which grow by
    :math:`\exp(KL[p(y|x) \| p(y)] - s c(x))` or by
    :math:`\sum_x p(x) e^{-s d(x, \hat x)} / \sum_k w_k e^{-s d(x, k)}` until the largest of these factors
    certifies that no other weights do better by more than the tolerance. Where the iteration crawls, Newton's
    steps in the interior take over. :func:`channel_capacity` and :func:`rate_distortion` find the slope of a
    given budget or distortion.

    References:
        Arimoto (1972), *An Algorithm for Computing the Capacity of Arbitrary Discrete Memoryless Channels*.
        Blahut (1972), *Computation of Channel Capacity and Rate-Distortion Functions*.
        Csiszár (1974), *On the Computation of Rate-Distortion Functions*.

    Args:
        table: a channel p(y|x), (input, output); or with a source the distortion d(x, x̂),
            (source, reproduction), infinite where a reproduction is forbidden.
        source: p(x), (source,): makes it a problem of rate-distortion.
        cost: c(x) of a channel's inputs, (input,).
        slope: s, in nats per unit of cost, at least zero, 0 by default; or per unit of distortion, positive.
        tolerance: the gap between the bounds that is accepted, in nats.
        max_iterations: of the multiplicative update, before Newton's steps.

    Returns:
        A :class:`ChannelCapacity`, or with a source a :class:`RateDistortion`.

    Raises:
        ValueError: If probabilities do not sum to one, shapes do not fit, the slope is out of range, or
            arguments of the two problems are mixed.
        RuntimeError: If the bounds do not come within the tolerance.

    Example:
        >>> z_channel = blahut_arimoto([[1.0, 0.0], [0.3, 0.7]])
        >>> print(f"{z_channel.capacity:.4f} nats at p(1) = {z_channel.input[1]:.4f}")
        0.3491 nats at p(1) = 0.4210
        >>> point = blahut_arimoto([[0.0, 1.0], [1.0, 0.0]], source=[0.5, 0.5], slope=2.0)
        >>> print(f"{point.rate:.4f} nats at distortion {point.distortion:.4f}")
        0.3278 nats at distortion 0.1192
    """
    if source is None:
        channel, price = _table(table), non_negative("slope", 0.0 if slope is None else slope).item()
        if price and cost is None:
            raise ValueError(f"Expected a cost for the slope to weigh but got slope={price} alone.")
        costs = torch.zeros(len(channel), dtype=torch.float64) if cost is None else _costs(cost, channel)
        point = _solved(channel, costs, price, tolerance=tolerance, max_iterations=max_iterations)
        return _report(channel, costs, point.solution, -point.dual + price * point.resource, price)
    if cost is not None or slope is None:
        raise ValueError(
            "Expected a slope and no cost beside a source, whose table holds the distortions, but got "
            f"{'no slope' if slope is None else 'a cost'}."
        )
    price = positive_number("slope", slope).item()
    problem = _Source(source, table)
    point = problem.solve(price, tolerance=tolerance, max_iterations=max_iterations)
    return problem.report(point.solution, point.dual - price * point.resource, price)
