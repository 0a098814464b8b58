"""Whether ranks are uniform: simultaneous bands of their distribution, their location and dispersion."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, final

import numpy as np
from scipy.special import gammaln, ndtri
from scipy.stats import binom, norm, pearson3, t as student_t

from pyro_infomax._checks import shown
from pyro_infomax._types import Array

# ---- The distribution function at some points, and what it may be at all of them together.

_MOST_POINTS: Final = 100
_BISECTIONS: Final = 14
_NEGLIGIBLE: Final = 1e-9  # below it a sum of the tails is as good as the exact probability
_ROUNDING: Final = 1e-20  # of a squared mean: a variance below it is that of equal numbers


@final
@dataclass(frozen=True, eq=False)
class SimultaneousBand:
    """Where the distribution function of uniform ranks is at all points at once, with a probability.

    Attributes:
        probability: the distribution function of the uniform ranks, (points,).
        lower, upper: the band, (points,).
    """

    probability: Array
    lower: Array
    upper: Array


@lru_cache(maxsize=128)  # a few kB each
def simultaneous_band(num_ranks: int, num_draws: int, level: float) -> SimultaneousBand:
    """The band that holds the empirical distribution function of uniform ranks with probability ``level``.

    At each point it is the central interval of a binomial, all of one level, which is found by the exact
    probability that none of them is left.

    Reference: Säilynoja, Bürkner and Vehtari (2022), Graphical test for discrete uniformity and its
    applications in goodness-of-fit evaluation and multiple sample comparison.

    Args:
        num_ranks: how many ranks there are.
        num_draws: the largest rank; the smallest is 0.
        level: such as 0.95.

    Raises:
        ValueError: if the level is not between 0 and 1.
    """
    check_level(level)
    low, high = math.log((1 - level) / (2 * _MOST_POINTS)), math.log(1 - level)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        inside = 1 - _probability_of_leaving(num_ranks, num_draws, math.exp(middle))
        low, high = (middle, high) if inside >= level else (low, middle)
    points = _points(num_draws)
    lower, upper = _acceptance(num_ranks, points, math.exp(low))
    return SimultaneousBand(points, lower / num_ranks, upper / num_ranks)


def check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"Expected level between 0 and 1, such as 0.95, but got {shown(level)}.")


def empirical_distribution(ranks: Array, num_draws: int) -> Array:
    """The share of the ranks at or below each point of :func:`simultaneous_band`, (points,)."""
    return np.asarray(_counts(ranks, num_draws) / len(ranks))


def _places(num_draws: int) -> Array:
    """The ranks at which the distribution function is looked at: all but the last, or some of many."""
    some = np.linspace(0, num_draws - 1, min(num_draws, _MOST_POINTS))
    return np.unique(some.round().astype(int))


def _points(num_draws: int) -> Array:
    return np.asarray((_places(num_draws) + 1) / (num_draws + 1))


def _counts(ranks: Array, num_draws: int) -> Array:
    return np.searchsorted(np.sort(ranks), _places(num_draws), side="right")


def _acceptance(number: int, points: Array, level: float) -> tuple[Array, Array]:
    """The least and the largest count at each point whose two-sided p-value is above a level."""
    accepted = _p_of_counts(number, tuple(points)) > level  # (counts, points)
    return accepted.argmax(0), number - accepted[::-1].argmax(0)


@lru_cache(maxsize=8)  # 8 MB each for 10,000 ranks
def _p_of_counts(number: int, points: tuple[float, ...]) -> Array:
    """The two-sided p-value of every count at each point, (counts, points)."""
    return _two_sided(np.arange(number + 1)[:, None], number, np.array(points))


def _two_sided(counts: Array, number: int, points: Array) -> Array:
    tails = np.minimum(binom.cdf(counts, number, points), binom.sf(counts - 1, number, points))
    return np.minimum(1.0, 2 * tails)


def _probability_of_leaving(number: int, num_draws: int, level: float) -> float:
    """That the count of uniform ranks has a p-value of at most ``level`` at one point or more, exactly.

    From point to point the count is a Markov chain: what is above one point falls below the next one with the
    probability of the step between them.
    """
    points = _points(num_draws)
    if level < _NEGLIGIBLE:
        return min(1.0, level * len(points))
    if bool((_p_of_counts(number, tuple(points)).max(0) <= level).any()):
        return 1.0  # no count is above the level at some point
    lower, upper = _acceptance(number, points, level)
    log_factorials = gammaln(np.arange(number + 1) + 1.0)
    counts = np.arange(lower[0], upper[0] + 1)
    weight = binom.pmf(counts, number, points[0])  # (counts,)
    for i in range(1, len(points)):
        following = np.arange(lower[i], upper[i] + 1)
        step = (points[i] - points[i - 1]) / (1 - points[i - 1])
        weight = weight @ _transitions(counts, following, log_factorials, step)
        counts = following
    return float(np.clip(1 - weight.sum(), 0.0, 1.0))


def _transitions(counts: Array, following: Array, log_factorials: Array, step: float) -> Array:
    """The probability of each count after each count, (counts, following)."""
    left = len(log_factorials) - 1 - counts[:, None]
    new = following[None] - counts[:, None]
    rest = left - new
    possible = (new >= 0) & (rest >= 0)
    new, rest = np.where(possible, new, 0), np.where(possible, rest, 0)
    log_choices = log_factorials[left] - log_factorials[new] - log_factorials[rest]
    exponent = log_choices + new * math.log(step) + rest * math.log1p(-step)
    return np.exp(np.where(possible, exponent, -np.inf))


# ---- Tests of a set of ranks, and of several of them.


@final
@dataclass(frozen=True)
class RankTest:
    """What speaks against ranks that are uniform on 0, …, ``num_draws``.

    Attributes:
        p_value: of all three tests together, by Bonferroni.
        p_shape: of the distribution function, by the exact simultaneous band that it just leaves.
        p_location: of the mean of the normal scores of the ranks.
        p_dispersion: of their mean square.
        location: the mean of the normal scores: above 0 where ranks are large.
        dispersion: their root mean square over that of uniform ranks: above 1 where extreme ranks are many.
    """

    p_value: float
    p_shape: float
    p_location: float
    p_dispersion: float
    location: float
    dispersion: float


def rank_test(ranks: Array, num_draws: int) -> RankTest:
    """Tests whether ranks are uniform on 0, …, ``num_draws``.

    The band has power against any shape, little of it against a posterior that is some per cent too narrow;
    the mean square of the normal scores has most there, as their mean has against a shift.

    Args:
        ranks: (simulations,), whole numbers.
        num_draws: the largest possible rank.
    """
    counts, points = _counts(ranks, num_draws), _points(num_draws)
    least = float(_two_sided(counts, len(ranks), points).min())
    p_shape = _probability_of_leaving(len(ranks), num_draws, least)
    scores = ndtri((np.arange(num_draws + 1) + 0.5) / (num_draws + 1))  # (num_draws + 1,), mean 0
    found = scores[np.asarray(ranks, dtype=int)]
    variance = float((scores**2).mean())
    location = float(found.mean())
    p_location = 2 * float(norm.sf(abs(location) * math.sqrt(len(found) / variance)))
    p_dispersion = _p_of_mean_square(found, scores)
    p_value = min(1.0, 3 * min(p_shape, p_location, p_dispersion))
    dispersion = math.sqrt(float((found**2).mean()) / variance)
    return RankTest(p_value, p_shape, p_location, p_dispersion, location, dispersion)


def _p_of_mean_square(found: Array, scores: Array) -> float:
    """Two-sided, by the gamma distribution that has the first three moments of the mean square."""
    squares = scores**2
    centred = squares - squares.mean()
    deviation = math.sqrt(float((centred**2).mean()))
    skewness = float((centred**3).mean()) / deviation**3
    standardised = float((found**2).mean() - squares.mean()) / deviation * math.sqrt(len(found))
    skew = skewness / math.sqrt(len(found))
    tails: Any = pearson3.cdf(standardised, skew), pearson3.sf(standardised, skew)
    return min(1.0, 2 * float(min(tails)))


def pooled_dispersion_test(ranks: Array, present: Array, num_draws: int) -> RankTest:
    """Tests the mean square of the normal scores of several ranks of each simulation together.

    The ranks of one simulation may depend on each other, so that the error is that of independent sums over
    the simulations; a t-test, corrected for their skewness.

    Reference: Johnson (1978), Modified t tests and confidence intervals for asymmetrical populations.

    Args:
        ranks: (simulations, quantities), whole numbers.
        present: which of these count, (simulations, quantities).
        num_draws: the largest possible rank.

    Returns:
        The p-value and the dispersion; nan where nothing counts, and a p-value of nan where the sums are all
        the same, as of one simulation.
    """
    some = present.any(1)
    ranks, present = ranks[some], present[some]
    if not len(ranks):
        return RankTest(*[math.nan] * 6)
    scores = ndtri((np.arange(num_draws + 1) + 0.5) / (num_draws + 1))
    variance = float((scores**2).mean())
    found = scores[np.asarray(ranks, dtype=int)]
    sums = np.where(present, found**2 - variance, 0.0).sum(1)  # (simulations,)
    size, mean = len(sums), float(sums.mean())
    spread, third = float(((sums - mean) ** 2).sum()) / max(1, size - 1), float(((sums - mean) ** 3).mean())
    p_value = math.nan
    if spread > _ROUNDING * mean**2:
        shift = third / (6 * spread * size) + third * mean**2 / (3 * spread**2)
        p_value = 2 * float(student_t.sf(abs(mean + shift) / math.sqrt(spread / size), size - 1))
    square = float(np.where(present, found**2, 0.0).sum() / present.sum())
    return RankTest(p_value, math.nan, math.nan, p_value, math.nan, math.sqrt(square / variance))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, by Holm's method; nan stays nan and does not count.

    Reference: Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    values = np.asarray(p_values, dtype=float)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known])]
    factors = np.arange(len(order), 0, -1)
    corrected = np.full(len(values), math.nan)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(factors * values[order]))
    return [float(each) for each in corrected]
