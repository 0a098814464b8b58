"""Scores of the codes alone: how much they tell of one another."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Self, final

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma

from pyro_infomax._checks import random_state
from pyro_infomax._types import Array, Floats, Integers
from pyro_infomax.disentanglement._interventions import NUM_TRAIN, GivenCodes, GivenFactors, drawn
from pyro_infomax.disentanglement._mig import corrected_mutual_informations, mutual_informations
from pyro_infomax.disentanglement._sample import (
    REFERENCE_BINS,
    codes_array,
    equal_width_bins,
    half,
    rank_bins,
)
from pyro_infomax.disentanglement._score import Calibration, Score, ScoreOutcome, calibrated

_CALIBRATION: Final = Calibration()
_DATA_PER_CELL: Final = 5
_SINGULAR: Final = 1e-12  # smallest eigenvalue of a correlation matrix, over the largest, that is not 0
_ALONE: Final = "Fewer than two codes move, so that they tell nothing of one another."
_DEPENDENT: Final = "Some code is a linear function of the others, so that the total correlation is infinite."


def gaussian_total_correlation_score(
    codes: GivenCodes,
    factors: GivenFactors | None = None,
    *,
    reference: bool = False,
    calibration: Calibration | None = _CALIBRATION,
    num_points: int = NUM_TRAIN,
    seed: int = 0,
    progress: bool = True,
) -> Score:
    r"""Total correlation of the normal distribution that has the codes' covariance, in nats.

    .. math:: \frac{1}{2} \Big(\sum_l \ln \Sigma_{ll} - \ln \det \Sigma\Big)

    From n data this is too large by :math:`\frac{1}{2} \sum_{l=1}^{L} [\psi(\frac{n - 1}{2}) - \psi(\frac{n -
    l}{2})]` on average if the codes are normal, which is taken off: independent codes score 0, up to chance.
    Constant codes are left out, where the reference gives nan. Lower is better. The floor is the score of
    codes shuffled one by one; a ceiling there is not.

    Reference: Locatello et al. (2019), *Challenging common assumptions in the unsupervised learning of
    disentangled representations*.

    Args:
        codes: (n, L), at least two, or a callable from observations to codes.
        factors: not looked at, but for a source that makes observations for a callable.
        reference: whether by the definition of the field's reference implementation, nothing taken off.
        calibration: how often it is computed anew; None for the score alone.
        num_points: how many data to draw from a source.
        seed, progress: as for :func:`score`.

    Returns:
        The score, with part ``covariance`` (L, L).

    Raises:
        ValueError: for a single code, and codes that are not finite.

    Example:
        >>> codes = np.random.RandomState(0).multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], size=2000)
        >>> print(gaussian_total_correlation_score(codes, calibration=None))
        gaussian_total_correlation 0.225
        >>> print(round(-np.log(1 - 0.6**2) / 2, 3))
        0.223
    """
    return _of_codes_alone(
        "gaussian_total_correlation",
        partial(_total_correlation, reference=reference),
        codes,
        factors,
        least=0.0 if reference else -float("inf"),
        calibration=calibration,
        num_points=num_points,
        seed=seed,
        progress=progress,
    )


def wasserstein_correlation(
    codes: GivenCodes,
    factors: GivenFactors | None = None,
    *,
    reference: bool = False,
    calibration: Calibration | None = _CALIBRATION,
    num_points: int = NUM_TRAIN,
    seed: int = 0,
    progress: bool = True,
) -> Score:
    r"""Squared Wasserstein distance of the codes' normal distribution from the product of its marginals.

    .. math:: 2\, \mathrm{tr}\, \Sigma - 2\, \mathrm{tr}\, (\Sigma\, \mathrm{diag}\, \Sigma)^{1/2}

    Codes are standardised first, so that their scales do not count; with ``reference`` they are not. A
    constant code adds nothing. Lower is better. The floor is the score of codes shuffled one by one; a
    ceiling there is not.

    Reference: Locatello et al. (2019), *Challenging common assumptions in the unsupervised learning of
    disentangled representations*.

    Args:
        codes: (n, L), at least two, or a callable from observations to codes.
        factors: not looked at, but for a source that makes observations for a callable.
        reference: whether by the definition of the field's reference implementation.
        calibration: how often it is computed anew; None for the score alone.
        num_points: how many data to draw from a source.
        seed, progress: as for :func:`score`.

    Returns:
        The score, with parts ``normalised``, which is the score over :math:`\mathrm{tr}\, \Sigma`, and
        ``covariance`` (L, L).

    Raises:
        ValueError: for a single code, and codes that are not finite.

    Example:
        >>> code = np.random.RandomState(0).randn(500, 1)
        >>> twice = wasserstein_correlation(np.concatenate([code, -3 * code], 1), calibration=None)
        >>> print(twice, round(4 - 2 * 2**0.5, 3))
        wasserstein_correlation 1.172 1.172
    """
    return _of_codes_alone(
        "wasserstein_correlation",
        partial(_wasserstein, reference=reference),
        codes,
        factors,
        calibration=calibration,
        num_points=num_points,
        seed=seed,
        progress=progress,
    )


def mutual_information_score(
    codes: GivenCodes,
    factors: GivenFactors | None = None,
    *,
    reference: bool = False,
    calibration: Calibration | None = _CALIBRATION,
    num_points: int = NUM_TRAIN,
    seed: int = 0,
    progress: bool = True,
) -> Score:
    r"""Mean mutual information of two codes, in nats.

    .. math:: \frac{1}{L (L - 1)} \sum_{l \neq m} I(z_l; z_m)

    The codes are put into bins by rank, at most 20, and what chance alone would show is taken out as in the
    adjusted mutual information; constant codes are left out. It is the information of the bins: less than
    that of codes which depend on each other closely, and never more than ln 20. With ``reference`` there are
    20 bins of equal width, the information is the plug-in estimate and constant codes count with 0. Lower is
    better. The floor is the score of codes shuffled one by one; a ceiling there is not.

    Reference: Locatello et al. (2019), *Challenging common assumptions in the unsupervised learning of
    disentangled representations*.

    Args:
        codes: (n, L), at least two, or a callable from observations to codes.
        factors: not looked at, but for a source that makes observations for a callable.
        reference: whether by the definition of the field's reference implementation.
        calibration: how often it is computed anew; None for the score alone.
        num_points: how many data to draw from a source.
        seed, progress: as for :func:`score`.

    Returns:
        The score, with part ``mutual_information`` (L, L), the entropies of the bins on its diagonal.

    Raises:
        ValueError: for a single code, and codes that are not finite.

    Example:
        >>> codes = np.random.RandomState(0).randint(4, size=(400, 2))
        >>> print(mutual_information_score(codes, calibration=None))
        mutual_information_score 0.000
        >>> twice = mutual_information_score(codes[:, [0, 0]], calibration=None)
        >>> 1.37 < twice.score < 1.39
        True
    """
    return _of_codes_alone(
        "mutual_information_score",
        partial(_mean_information, reference=reference),
        codes,
        factors,
        prepare=equal_width_bins if reference else _pair_bins,
        calibration=calibration,
        num_points=num_points,
        seed=seed,
        progress=progress,
    )


@final
@dataclass(frozen=True, eq=False)
class _Columns:
    """Codes without factors: what they know of one another goes when each is shuffled by itself."""

    values: Array  # (n, L)

    def resampled(self, rng: np.random.RandomState) -> Self:
        """Half of the data, as for codes in bins: rows that come twice would tell of each other."""
        return type(self)(self.values[half(len(self.values), rng)])

    def permuted(self, rng: np.random.RandomState) -> Self:
        return type(self)(np.stack([rng.permutation(column) for column in self.values.T], axis=1))

    def as_codes(self) -> Self:
        return self


def _of_codes_alone(
    name: str,
    definition: Callable[[_Columns], ScoreOutcome],
    codes: GivenCodes,
    factors: GivenFactors | None,
    *,
    prepare: Callable[[Floats], Array] = np.asarray,
    least: float = 0.0,
    calibration: Calibration | None,
    num_points: int,
    seed: int,
    progress: bool,
) -> Score:
    rng = random_state(seed)
    array = codes_array(drawn(codes, factors, num_points=num_points, rng=rng, progress=progress)[0])
    if array.shape[1] < 2:
        raise ValueError(
            "Expected at least two codes but got 1: the score is of what they tell of one another."
        )
    return calibrated(
        name,
        lambda data, _rng: definition(data),
        _Columns(prepare(array)),
        calibration=calibration,
        rng=rng,
        bounds=(least, float("inf")),
        progress=progress,
        has_ceiling=False,
        higher_is_better=False,
    )


def _total_correlation(data: _Columns, *, reference: bool) -> ScoreOutcome:
    covariance = np.cov(data.values, rowvar=False)  # (code, code)
    live = _live(data) & (np.diag(covariance) > 0)  # a variance may be too small for a float
    parts = {"covariance": covariance}
    if live.sum() < 2:
        return ScoreOutcome(0.0, parts, notes=(_ALONE,))
    moving = covariance[np.ix_(live, live)]
    if reference:
        return ScoreOutcome(float(np.log(np.diag(moving)).sum() - np.linalg.slogdet(moving)[1]) / 2, parts)
    correlation = _correlation(moving)
    spectrum = np.linalg.eigvalsh(correlation)
    if len(data.values) <= len(spectrum) or spectrum[0] <= _SINGULAR * spectrum[-1]:
        return ScoreOutcome(float("inf"), parts, notes=(_DEPENDENT,))
    score = -np.log(spectrum).sum() / 2 - _surplus(len(data.values), len(spectrum))
    return ScoreOutcome(float(score), parts)


def _surplus(size: int, num_codes: int) -> float:
    """What the total correlation of a sample covariance has too much, of normal codes."""
    degrees = size - 1 - np.arange(num_codes)
    return float((digamma((size - 1) / 2) - digamma(degrees / 2)).sum()) / 2


def _wasserstein(data: _Columns, *, reference: bool) -> ScoreOutcome:
    covariance = np.cov(data.values, rowvar=False)  # (code, code)
    live = _live(data) & (np.diag(covariance) > 0)
    matrix = covariance if reference else np.zeros_like(covariance)
    if not reference:
        matrix[np.ix_(live, live)] = _correlation(covariance[np.ix_(live, live)])
    trace = np.trace(matrix)
    scale = np.sqrt(np.diag(matrix))
    # similar to the product of the covariance and its diagonal, and symmetric: its roots are real
    spectrum = np.linalg.eigvalsh(matrix * np.outer(scale, scale))
    score = max(float(2 * trace - 2 * np.sqrt(np.maximum(spectrum, 0)).sum()), 0.0)
    parts = {"normalised": score / float(trace) if trace > 0 else 0.0, "covariance": covariance}
    return ScoreOutcome(score, parts, notes=() if live.sum() > 1 else (_ALONE,))


def _mean_information(data: _Columns, *, reference: bool) -> ScoreOutcome:
    informations = mutual_informations if reference else corrected_mutual_informations
    information = informations(data.values, data.values)
    live = _live(data)
    counted = np.ones_like(live) if reference else live
    pairs = np.outer(counted, counted) & ~np.eye(len(live), dtype=bool)
    score = float(information[pairs].mean()) if pairs.any() else 0.0
    notes = () if live.sum() > 1 else (_ALONE,)
    return ScoreOutcome(score, {"mutual_information": information}, notes=notes)


def _pair_bins(codes: Floats) -> Integers:
    """As many as leave some data to each pair of them."""
    most = max(2, min(REFERENCE_BINS, round((len(codes) / _DATA_PER_CELL) ** 0.5)))
    return rank_bins(codes, most)


def _live(data: _Columns) -> NDArray[np.bool_]:
    live: NDArray[np.bool_] = np.ptp(data.values, axis=0) > 0
    return live


def _correlation(covariance: Floats) -> Floats:
    scale = np.sqrt(np.diag(covariance))
    correlation: Floats = covariance / np.outer(scale, scale)
    return correlation
