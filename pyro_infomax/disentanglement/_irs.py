"""The interventional robustness score: how little a code moves with everything but one factor."""

from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pyro_infomax._checks import random_state
from pyro_infomax._types import Floats, Integers
from pyro_infomax.disentanglement._interventions import NUM_TRAIN, GivenCodes, GivenFactors, drawn_sample
from pyro_infomax.disentanglement._sample import Sample, equal_width_bins, variance_shares
from pyro_infomax.disentanglement._score import Calibration, Score, ScoreOutcome, calibrated

_SHUFFLES: Final = 4
_CALIBRATION: Final = Calibration(bootstraps=10, permutations=10)


def irs(
    codes: GivenCodes,
    factors: GivenFactors,
    *,
    quantile: float = 0.99,
    reference: bool = False,
    calibration: Calibration | None = _CALIBRATION,
    seed: int = 0,
    progress: bool = True,
) -> Score:
    r"""The interventional robustness score: how little each code moves where its own factor is held fixed.

    With :math:`D_{jk}` the deviation of code j that is left where factor k is fixed, the quantile of
    :math:`|z_j - \mathrm{mean}(z_j \mid v_k)|` for each value of the factor, averaged over the values,

    .. math:: \mathrm{IRS}_{jk} = 1 - D_{jk} / D_j

    is the robustness of code j for factor k; the code's parent is the factor with the largest. The score is
    the weighted mean of these largest ones over the codes.

    By default :math:`D_j` is the mean of :math:`D_{jk}` with the code shuffled against the factor. The
    groups are then as large as above, so that neither few data a value nor the quantile moves the robustness
    of a code that knows nothing from 0. A value counts as often as it occurs, one that a single datum has
    does not count, and the codes are weighted by the variance that the factors explain one by one: so much
    of a code is there to be robust, whatever its scale.

    With ``reference=True`` the factors are put into 20 equal-width bins (32 or 40 values are merged),
    :math:`D_j = \max |z_j - \mathrm{mean}(z_j)|`, all bins count alike, also those with a single datum, which
    has no deviation, and :math:`D_j` is the weight of a code, in its own units.

    Constant codes are left out; if all are, the score is 0.

    Reference: Suter, Miladinović, Schölkopf and Bauer (2019), *Robustly disentangled causal mechanisms:
    validating deep representations for interventional robustness*.

    Args:
        codes: (n, L), or a callable from a batch of observations to codes.
        factors: (n, K) integers, or a source such as a :class:`~pyro_infomax.datasets.FactorDataset`, of
            which 10,000 points are drawn.
        quantile: of the deviations of each value, above 0 and at most 1, which is their maximum.
        reference: whether by the definition of the field's reference implementation.
        calibration: how often it is computed anew; None for the score alone.
        seed, progress: as for :func:`score`.

    Returns:
        The score; parts ``robustness`` (L, K), ``parents`` (L,) with -1 for a constant code, ``weights``
        (L,), which sum to 1, ``max_deviation`` (L,), ``active`` (L,) the codes that are not constant, and
        ``num_active``.

    Raises:
        ValueError: for data that no score takes, another quantile, and, without ``reference``, a factor no
            two data share a value of.

    Example:
        >>> rng = np.random.RandomState(0)
        >>> factors = rng.randint(4, size=(600, 3))
        >>> result = irs(factors * [1, 10, 100], factors, calibration=None)
        >>> round(result.score, 6), result.parts["parents"]
        (1.0, array([0, 1, 2]))
    """
    if not 0 < quantile <= 1:
        raise ValueError(
            f"Expected 0 < quantile <= 1 but got {quantile!r}: 0.99 is usual, 1 takes the largest deviation."
        )
    rng = random_state(seed)
    sample = drawn_sample(codes, factors, num_points=NUM_TRAIN, rng=rng, progress=progress)
    if not reference:
        _check_shared(sample)
    statistic = partial(_as_reference if reference else _corrected, quantile=quantile)
    # codes that know nothing are 0 on average, some of them below
    bounds = (0.0 if reference else -float("inf"), 1.0)
    return calibrated(
        "irs", statistic, sample, calibration=calibration, rng=rng, bounds=bounds, progress=progress
    )


def _as_reference(sample: Sample, rng: np.random.RandomState, *, quantile: float) -> ScoreOutcome:
    del rng
    left = _deviations(sample.codes, equal_width_bins(sample.values), quantile, corrected=False)
    whole = _max_deviation(sample)
    return _weighted_robustness(sample, left, whole[:, None], weights=whole)


def _corrected(sample: Sample, rng: np.random.RandomState, *, quantile: float) -> ScoreOutcome:
    left = _deviations(sample.codes, sample.factors, quantile, corrected=True)
    explained = np.maximum(variance_shares(sample), 0).sum(1)
    return _weighted_robustness(sample, left, _by_chance(sample, quantile, rng), weights=explained)


def _weighted_robustness(sample: Sample, left: Floats, whole: Floats, *, weights: Floats) -> ScoreOutcome:
    active = ~sample.dead
    share = np.divide(left, whole, out=np.ones_like(left), where=active[:, None] & (whole > 0))
    robustness = 1 - share
    weights = _shares_of(np.where(active, weights, 0), active)
    parts = {
        "robustness": robustness,
        "parents": np.where(active, robustness.argmax(1), -1),
        "weights": weights,
        "max_deviation": _max_deviation(sample),
        "active": active,
        "num_active": int(active.sum()),
    }
    return ScoreOutcome(float(weights @ robustness.max(1)), parts)


def _shares_of(weights: Floats, active: NDArray[np.bool_]) -> Floats:
    """Weights that sum to 1: all active codes alike where none weighs anything; 0 where none is active."""
    total = weights.sum()
    shares: Floats = weights / total if total > 0 else active / max(active.sum(), 1)
    return shares


def _max_deviation(sample: Sample) -> Floats:
    """(L,), exactly 0 for a constant code, whose mean may be off by rounding."""
    deviations: Floats = np.abs(sample.codes - sample.codes.mean(0)).max(0)
    return np.where(sample.dead, 0.0, deviations)


def _by_chance(sample: Sample, quantile: float, rng: np.random.RandomState) -> Floats:
    """The deviations that are left where a factor is fixed that the codes know nothing of, (L, K)."""
    shuffles = (sample.codes[rng.permutation(len(sample))] for _ in range(_SHUFFLES))
    return np.mean([_deviations(each, sample.factors, quantile, corrected=True) for each in shuffles], axis=0)


def _deviations(codes: Floats, factors: Integers, quantile: float, *, corrected: bool) -> Floats:
    """(L, K)"""
    return np.stack([_left(codes, values, quantile, corrected=corrected) for values in factors.T], axis=1)


def _left(codes: Floats, values: Integers, quantile: float, *, corrected: bool) -> Floats:
    """The deviation of each code that one factor leaves, (L,).

    If ``corrected``, values count by their frequency. Those of a single datum have no deviation then, neither
    here nor by chance, so that they do not count.
    """
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=-1))
    counts = np.diff(starts, append=len(values))
    spreads = _spreads(codes[order].T, starts, counts, quantile)  # (code, value)
    weights = counts if corrected else np.ones_like(counts)
    left: Floats = spreads @ (weights / weights.sum())
    return left


def _spreads(codes: Floats, starts: Integers, counts: Integers, quantile: float) -> Floats:
    """The quantile of the deviations from the mean, (L, G), in groups of data that follow each other."""
    # around a datum of the group, codes that do not move in it have exactly 0
    moved = codes - np.repeat(codes[:, starts], counts, axis=1)
    means = np.add.reduceat(moved, starts, axis=1) / counts
    deviations = np.abs(moved - np.repeat(means, counts, axis=1))
    largest = deviations.max(1, keepdims=True)
    scale = np.where(largest > 0, 2 * largest, 1)
    # one sort for all groups: each has an interval of its own
    groups = np.arange(len(starts))
    ordered = np.sort(deviations / scale + np.repeat(groups, counts), axis=1)
    place = quantile * (counts - 1)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, counts - 1)
    low, high = ordered[:, starts + below] - groups, ordered[:, starts + above] - groups
    spreads: Floats = (low + (place - below) * (high - low)) * scale
    return spreads


def _check_shared(sample: Sample) -> None:
    for k, column in enumerate(sample.factors.T):
        if np.bincount(column).max() < 2:
            raise ValueError(
                f"Expected two data that share a value of factor {k} but got {len(sample)} that all differ: "
                "give more data, or merge values of the factor."
            )
