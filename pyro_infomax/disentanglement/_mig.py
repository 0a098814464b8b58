"""The mutual information gap: whether a factor is told by one code and by no other."""

from functools import lru_cache, partial
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, xlogy
from scipy.stats import gamma

from pyro_infomax._checks import random_state
from pyro_infomax._types import Floats, Integers
from pyro_infomax.disentanglement._interventions import NUM_TRAIN, GivenCodes, GivenFactors, drawn_sample
from pyro_infomax.disentanglement._sample import Binned, binned
from pyro_infomax.disentanglement._score import Calibration, Score, ScoreOutcome, calibrated

# ---- The score.

_CALIBRATION: Final = Calibration()


def mig(
    codes: GivenCodes,
    factors: GivenFactors,
    *,
    reference: bool = False,
    calibration: Calibration | None = _CALIBRATION,
    num_points: int = NUM_TRAIN,
    seed: int = 0,
    progress: bool = True,
) -> Score:
    r"""The mutual information gap: how much more the best code tells of a factor than the second best.

    .. math:: \frac{1}{K} \sum_k \frac{I_{(1)k} - I_{(2)k}}{H(v_k)}

    with the mutual information :math:`I_{lk}` of code l and factor k, sorted over the codes. The codes are
    put into bins by rank, as many as the largest factor needs, and what chance alone would show is taken out
    of :math:`I`: the factors themselves score 1, and codes that know nothing 0. The interval is made of the
    spread over halves of the data, since a bootstrap's repeated rows would look like information.

    With ``reference`` the bins are 20 of equal width and :math:`I` is the plug-in estimate. These bins cannot
    tell 32 or 40 values apart, so that the factors themselves score 0.9 on dSprites.

    References: Chen, Li, Grosse and Duvenaud (2018), *Isolating sources of disentanglement in variational
    autoencoders*; Locatello et al. (2019), *Challenging common assumptions in the unsupervised learning of
    disentangled representations*, for the estimate. :func:`chen_mig` is the former's own estimate.

    Args:
        codes: (n, L), at least two, or a callable from observations to codes.
        factors: (n, K) integers, or a source of factors and observations.
        reference: whether by the definition of the field's reference implementation.
        calibration: how often it is computed anew; None for the score alone.
        num_points: how many data to draw from a source.
        seed, progress: as for :func:`score`.

    Returns:
        The score, with parts ``mutual_information`` (L, K) and ``entropy`` (K,) in nats, ``per_factor`` (K,),
        and ``top`` (2, K), the numbers of the two codes that know most of each factor.

    Raises:
        ValueError: for a single code, and whatever :func:`score` refuses.

    Example:
        >>> rng = np.random.RandomState(0)
        >>> factors = rng.randint(5, size=(500, 2))
        >>> once = mig(factors[:, [0, 1]], factors, calibration=None)
        >>> twice = mig(factors[:, [0, 1, 1]], factors, calibration=None)
        >>> round(once.score, 3), twice.parts["per_factor"].round(3).tolist()
        (1.0, [1.0, 0.0])
    """
    rng = random_state(seed)
    sample = drawn_sample(codes, factors, num_points=num_points, rng=rng, progress=progress)
    if sample.num_codes < 2:
        raise ValueError(
            "Expected at least two codes but got 1: the gap is between the two that know most of a factor."
        )
    data, statistic = binned(sample, reference=reference), partial(_gap, reference=reference)
    return calibrated("mig", statistic, data, calibration=calibration, rng=rng, progress=progress)


def _gap(data: Binned, _rng: np.random.RandomState, *, reference: bool) -> ScoreOutcome:
    informations = mutual_informations if reference else corrected_mutual_informations
    information = informations(data.bins, data.factors)  # (code, factor)
    entropy = entropies(data.factors)
    top, lead = two_best(information)
    # few data drawn anew may hold one value of a factor only
    gaps = np.divide(lead, entropy, out=np.zeros_like(entropy), where=entropy > 0)
    parts = {"mutual_information": information, "entropy": entropy, "per_factor": gaps, "top": top}
    return ScoreOutcome(float(gaps.mean()), parts)


def two_best(known: Floats) -> tuple[Integers, Floats]:
    """The numbers of the two codes that know most of each factor, (2, K), and how far the first is ahead."""
    top = np.argsort(-known, axis=0, kind="stable")[:2]
    first, second = np.take_along_axis(known, top, axis=0)
    return top, first - second


# ---- Mutual information of columns of small integers, and how much of it chance alone would show.

_LEVEL: Final = 1e-3  # of the matrix, that chance alone reaches one of its elements
_EVERY: Final = 48  # counts up to here are nodes of the table of expectations
_RATIO: Final = 1.08  # of two nodes beyond
_WIDTH: Final = 8.0  # standard deviations of a count that its expectations look at
_EPSILON: Final = float(np.finfo(np.float64).eps)
_ROUNDING: Final = 100 * _EPSILON  # of a sum of logarithms


class Chance(NamedTuple):
    """Mutual information of columns shuffled against each other, in nats."""

    mean: Floats  # (L, K) expectation over all permutations
    variance: Floats  # (L, K), nearly


def entropies(columns: Integers) -> Floats:
    """Plug-in entropy of each column of integers from 0, in nats."""
    return np.array([_entropy(np.bincount(column)) for column in columns.T])


def mutual_informations(bins: Integers, factors: Integers) -> Floats:
    r"""Plug-in mutual information of every code (n, L) with every factor (n, K) in nats, (L, K).

    .. math:: I_{lk} = \sum_{b, v} \frac{n_{bv}}{n} \ln \frac{n_{bv}\, n}{n_b\, n_v}
    """
    return np.array([[_information(bin_, factor) for factor in factors.T] for bin_ in bins.T])


def corrected_mutual_informations(bins: Integers, factors: Integers) -> Floats:
    r"""Mutual information without what chance alone shows, in nats.

    .. math:: \tilde I_{lk} = m_{lk} \frac{I_{lk} - E_{lk}}{m_{lk} - E_{lk}}, \qquad m_{lk} = \min(H_l, H_k),

    with the expectation :math:`E` over permutations: columns that determine each other keep their whole
    entropy, those that know nothing have 0 on average. What chance would exceed anywhere in the matrix with
    probability 0.001 is set to 0, so that many codes that know nothing do not add up to something.

    Reference: Vinh, Epps and Bailey (2010), *Information theoretic measures for clusterings comparison*.
    """
    information = mutual_informations(bins, factors)
    chance = expected_by_chance(bins, factors)
    whole = np.minimum.outer(entropies(bins), entropies(factors))
    information = np.minimum(information, whole)  # but for rounding
    room = whole - chance.mean
    kept = _beyond_chance(information, chance, _LEVEL / information.size) & (room > _EPSILON)
    excess = whole * (information - chance.mean)
    return np.divide(excess, room, out=np.zeros_like(excess), where=kept)


def _beyond_chance(information: Floats, chance: Chance, level: float) -> NDArray[np.bool_]:
    """A gamma distribution has these moments, and is chi-squared where counts are large."""
    known = (chance.variance > _EPSILON**2) & (chance.mean > _EPSILON)
    mean, variance = np.where(known, chance.mean, 1.0), np.where(known, chance.variance, 1.0)
    tail = gamma.sf(information, mean**2 / variance, scale=variance / mean)
    beyond: NDArray[np.bool_] = known & (information > chance.mean) & (tail < level)
    return beyond


def expected_by_chance(bins: Integers, factors: Integers) -> Chance:
    r"""What mutual information remains when the one is shuffled against the other.

    Then each count is hypergeometric given its row and column, and the expectation is that of the adjusted
    mutual information: Vinh, Epps and Bailey (2010), *Information theoretic measures for clusterings
    comparison*. It depends on the counts :math:`n_b, n_v` only, and is a sum over their pairs, so that a
    table over few of these, linear in between, serves all columns. The variance sums what is left of
    :math:`n_{bv} \ln n_{bv}` after regression on :math:`n_{bv}`, whose sums the margins fix; for large counts
    it is that of the likelihood-ratio test.
    """
    size = len(bins)
    nodes, mean, variance = _table(size)
    left, right = _on_nodes(bins, nodes), _on_nodes(factors, nodes)  # (L, node), (K, node)
    return Chance(left @ mean @ right.T / size, left @ variance @ right.T / size**2)


def _on_nodes(columns: Integers, nodes: Floats) -> Floats:
    """How many counts of each column lie at each node, those in between shared by their neighbours."""
    return np.stack([_shared(np.bincount(column), nodes) for column in columns.T])


def _shared(counts: Integers, nodes: Floats) -> Floats:
    counts = counts[counts > 0]
    upper = np.clip(np.searchsorted(nodes, counts), 1, len(nodes) - 1)
    share = (counts - nodes[upper - 1]) / (nodes[upper] - nodes[upper - 1])
    shared = np.zeros(len(nodes))
    np.add.at(shared, upper, share)
    np.add.at(shared, upper - 1, 1 - share)
    return shared


@lru_cache(maxsize=8)
def _table(size: int) -> tuple[Floats, Floats, Floats]:
    """Nodes, and for each pair of them what a cell adds to mean and variance, times n and n²."""
    nodes = _nodes(size)
    cells = [_cell(node, nodes[i:], size) for i, node in enumerate(nodes)]
    return nodes, _symmetric([mean for mean, _ in cells]), _symmetric([variance for _, variance in cells])


def _symmetric(rows: list[Floats]) -> Floats:
    """Rows from the diagonal on, as a whole matrix."""
    matrix = np.zeros((len(rows), len(rows)))
    matrix[np.triu_indices(len(rows))] = np.concatenate(rows)
    return matrix + np.triu(matrix, 1).T


def _nodes(size: int) -> Floats:
    most = min(_EVERY, size)
    beyond = np.geomspace(most, size, 2 + int(np.log(size / most) / np.log(_RATIO)))
    return np.unique(np.concatenate([np.arange(1, most + 1), np.rint(beyond)])).astype(np.float64)


def _cell(row: float, columns: Floats, size: int) -> tuple[Floats, Floats]:
    """Mean of x ln x beyond that of its mean, and the variance, for hypergeometric x of each column."""
    mean = row * columns / size
    spread = mean * (1 - row / size) * (1 - columns / size) * size / (size - 1)
    reach = _WIDTH * np.sqrt(spread) + _WIDTH
    low = np.maximum(np.maximum(0, row + columns - size), np.floor(mean - reach))
    x: Floats = low[:, None] + np.arange(int(2 * reach.max()) + 2.0)  # (column, count)
    inside = x <= np.minimum(row, columns)[:, None]
    x = np.where(inside, x, low[:, None])
    weight = np.where(inside, np.exp(_log_hypergeometric(x, row, columns[:, None], size)), 0.0)
    away = x - mean[:, None]
    value = xlogy(x, x / mean[:, None]) - away  # without the linear part, in which the digits would be lost
    expected = (weight * value).sum(1)
    covariance = (weight * away * value).sum(1)
    variance = (weight * (value - expected[:, None]) ** 2).sum(1)
    left = variance - np.divide(covariance**2, spread, out=np.zeros_like(spread), where=spread > 0)
    shrinkage = spread / mean
    safe = np.divide(left, shrinkage, out=np.zeros_like(left), where=shrinkage > _EPSILON)
    return expected, np.maximum(safe, 0.0)


def _log_hypergeometric(x: Floats, row: float, column: Floats, size: int) -> Floats:
    """Of x data in both, among a row and a column of so many."""
    return _log_binomial(row, x) + _log_binomial(size - row, column - x) - _log_binomial(float(size), column)


def _log_binomial(n: float, k: Floats) -> Floats:
    answer: Floats = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    return answer


def _information(bins: Integers, factor: Integers) -> float:
    values = int(factor.max()) + 1
    table = np.bincount(bins * values + factor, minlength=(int(bins.max()) + 1) * values).reshape(-1, values)
    size = len(bins)
    logs = _logarithms(size)
    row, column = table.sum(1), table.sum(0)
    i, j = table.nonzero()
    counts = table[i, j]
    ratios = (logs[counts] - logs[column[j]]) - (logs[row[i]] - logs[size])
    # rounding is no information: codes that know nothing at all have exactly none
    known = np.abs(ratios) > _ROUNDING
    return max(float((counts / size * ratios)[known].sum()), 0.0)


def _entropy(counts: Integers) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum()) + 0.0


@lru_cache(maxsize=8)
def _logarithms(size: int) -> Floats:
    logs = np.zeros(size + 1)
    logs[1:] = np.log(np.arange(1, size + 1))
    return logs
