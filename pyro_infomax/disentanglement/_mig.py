"""The mutual information gap: whether a factor is told by one code and by no other."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Literal, NamedTuple, Self, final

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, xlogy
from scipy.stats import gamma, norm

from pyro_infomax._checks import random_state
from pyro_infomax._types import Floats, Integers
from pyro_infomax.disentanglement._interventions import NUM_TRAIN, GivenCodes, GivenFactors, drawn_sample
from pyro_infomax.disentanglement._sample import Binned, Sample, binned, rank_bins
from pyro_infomax.disentanglement._score import Calibration, Score, ScoreOutcome, calibrated

# ---- The score.

INFORMATION_CALIBRATION: Final = Calibration(bootstraps=100, permutations=5)
REFERENCE_CALIBRATION: Final = Calibration()


def mig(
    codes: GivenCodes,
    factors: GivenFactors,
    *,
    reference: bool = False,
    calibration: Calibration | Literal["own"] | None = "own",
    num_points: int = NUM_TRAIN,
    seed: int = 0,
    progress: bool = True,
) -> Score:
    r"""The mutual information gap: how much more the best code tells of a factor than the second best.

    .. math:: \frac{1}{K} \sum_k \frac{I_{(1)k} - I_{(2)k}}{H(v_k)}

    with the mutual information :math:`I_{lk}` of code l and factor k, sorted over the codes, which
    :class:`PointwiseInformation` estimates without bins from the nearest neighbours of each datum. The
    factors themselves score 1, and codes that know nothing 0. The interval resamples what is told at each
    datum.

    With ``reference`` the codes are put into 20 bins of equal width and :math:`I` is the plug-in estimate.
    These bins cannot tell 32 or 40 values apart, so that the factors themselves score 0.9 on dSprites.

    References: Chen, Li, Grosse and Duvenaud (2018), *Isolating sources of disentanglement in variational
    autoencoders*; Locatello et al. (2019), *Challenging common assumptions in the unsupervised learning of
    disentangled representations*, for the reference; Ross (2014), *Mutual information between discrete and
    continuous data sets*, for the estimate. :func:`chen_mig` is the first authors' own.

    Args:
        codes: (n, L), at least two, or a callable from observations to codes.
        factors: (n, K) integers, or a source of factors and observations.
        reference: whether by the definition of the field's reference implementation.
        calibration: how often it is computed anew; None for the score alone. ``"own"`` resamples 100 times
            and shuffles 5 times, 50 times in reference mode.
        num_points: how many data to draw from a source.
        seed, progress: as for :func:`score`.

    Returns:
        The score, with parts ``mutual_information`` (L, K) and ``entropy`` (K,) in nats, ``per_factor`` (K,),
        and ``top`` (2, K), the numbers of the two codes that know most of each factor; by default also
        ``standard_error`` (L, K) of the information. A note names each of these two whose information is
        uncertain by more than a twentieth of what is known of the factor, factors of which no code tells
        more than chance would, and factors that have values of a single datum, which tell nothing.

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
    if reference:
        chosen = REFERENCE_CALIBRATION if calibration == "own" else calibration
        return calibrated(
            "mig", _as_reference, binned(sample), calibration=chosen, rng=rng, progress=progress
        )
    chosen = INFORMATION_CALIBRATION if calibration == "own" else calibration
    data = PointwiseInformation.of(sample)
    return calibrated("mig", _gap, data, calibration=chosen, rng=rng, progress=progress)


def _as_reference(data: Binned, _rng: np.random.RandomState) -> ScoreOutcome:
    return _mean_gap(mutual_informations(data.bins, data.factors), entropies(data.factors), {}, notes=())


def _gap(data: "PointwiseInformation", _rng: np.random.RandomState) -> ScoreOutcome:
    information, entropy = data.information()
    top, _ = two_best(information)
    notes = (*data.notes(), *_few_notes(data, information, top))
    return _mean_gap(information, entropy, {"standard_error": data.standard_error}, notes=notes)


def _mean_gap(
    information: Floats, entropy: Floats, more: dict[str, Floats], *, notes: tuple[str, ...]
) -> ScoreOutcome:
    top, lead = two_best(information)
    # few data drawn anew may hold one value of a factor only
    gaps = np.divide(lead, entropy, out=np.zeros_like(entropy), where=entropy > 0)
    parts = {"mutual_information": information, **more, "entropy": entropy, "per_factor": gaps, "top": top}
    return ScoreOutcome(float(gaps.mean()), parts, notes=notes)


def two_best(known: Floats) -> tuple[Integers, Floats]:
    """The numbers of the two codes that know most of each factor, (2, K), and how far the first is ahead."""
    top = np.argsort(-known, axis=0, kind="stable")[:2]
    first, second = np.take_along_axis(known, top, axis=0)
    return top, first - second


# ---- What a code tells of a factor at each datum, from the datum's neighbours.

_LEVEL: Final = 1e-3  # of the matrix, that chance alone reaches one of its elements
_ROOTS: Final = 3.0  # neighbours are a third of the root of a value's data
_FINE: Final = 2  # neighbours of the finer look
_CLEAR: Final = 3.0  # standard errors between two looks that are not chance
_ALL_BUT: Final = 1e-3  # nats of a code that keeps the factor
_SURE: Final = 3.0  # standard errors that are to fit into
_TWENTIETH: Final = 0.05  # of the information


@final
@dataclass(frozen=True, eq=False)
class PointwiseInformation:
    r"""What each code tells of each factor at each datum, the mean of which is their mutual information.

    For a datum of a value that :math:`N_v` of N data have, with the k nearest of these among the m nearest of
    all, nearest by the code,

    .. math:: \psi(N) - \psi(N_v) + \psi(k) - \psi(m)

    estimates :math:`\ln p(v \mid z) - \ln p(v)`, without bias where :math:`p(v \mid z)` is the same for all
    of them, and its mean over shuffled data is 0 exactly. The information is the mean as a share of the mean
    of :math:`\psi(N) - \psi(N_v)`, which a code that keeps the factor has, times the entropy.

    Where at least k others of the value have the very code of the datum, all data with this code are its
    neighbours: codes of few values may be mere names. k is :math:`\sqrt{N_v} / 3`, or 2 where that sees
    significantly more or less, since structure is finer then. Where values end sharply, neighbours on each
    side by itself see that the code keeps the factor.

    Reference: Ross (2014), *Mutual information between discrete and continuous data sets*.
    """

    sample: Sample
    told: Floats  # (n, L, K), 0 for a datum that is alone with its value
    surprise: Floats  # (n, K), -ln p(v), the most that can be told, and 0 likewise
    common: NDArray[np.bool_]  # (n, K) the data that are not alone
    standard_error: Floats  # (L, K) of the mean
    stretch: Floats  # (L, K) of the standard error, over that of independent data
    beyond_chance: NDArray[np.bool_]  # (L, K)
    counts: Floats  # (n,) how often each datum is in the sample

    @classmethod
    def of(cls, sample: Sample) -> Self:
        # Equal codes in random order, since data often come in the order of a factor
        shuffled = np.random.RandomState(0).permutation(len(sample))
        orders = [shuffled[np.argsort(code[shuffled], kind="stable")] for code in sample.codes.T]
        bins = _bins_of(sample.codes)
        level = _LEVEL / (sample.num_codes * sample.num_factors)
        looks = [_look_at(column, sample.codes, orders, bins, level) for column in sample.factors.T]
        told, surprise, common, error, stretch, beyond = (
            np.stack(each, axis=-1) for each in zip(*looks, strict=True)
        )
        return cls(sample, told, surprise, common, error, stretch, beyond, np.ones(len(sample)))

    def information(self) -> tuple[Floats, Floats]:
        """Mutual information (L, K) and the factors' entropy (K,), in nats."""
        size, num_codes, num_factors = self.told.shape
        weights = self.counts[:, None] * self.common
        of_drawn = (self.counts @ self.told.reshape(size, -1)).reshape(num_codes, num_factors)
        total, drawn = self.common.sum(0), np.maximum(weights.sum(0), 1)
        mean = self.told.sum(0) / np.maximum(total, 1)
        # Neighbours have neighbours in common, so that means are spread more widely than of independent terms
        told = mean + self.stretch * (of_drawn / drawn - mean)
        most = (self.counts @ self.surprise) / drawn
        share = np.divide(told, most, out=np.zeros_like(told), where=self.beyond_chance & (most > 0))
        entropy = entropies(self.sample.factors)
        return share.clip(0, 1) * entropy, entropy

    @property
    def alone(self) -> Floats:
        """(K,) the share of the data that no other has the value of, and that are left out."""
        alone: Floats = 1 - self.common.mean(axis=0)
        return alone

    def notes(self) -> tuple[str, ...]:
        """A sentence on the data that are left out, if there are any."""
        found = [f"{self.alone[k]:.2g} of factor {k}" for k in np.flatnonzero(self.alone)]
        if not found:
            return ()
        return (
            f"Data with a value of their own tell nothing of it and are left out, a share of "
            f"{', '.join(found)}.",
        )

    def resampled(self, rng: np.random.RandomState) -> Self:
        """What is told at data drawn anew; among equal rows, looked at again, more would seem to be told."""
        size = len(self.counts)
        return replace(self, counts=np.bincount(rng.randint(size, size=size), minlength=size).astype(float))

    def permuted(self, rng: np.random.RandomState) -> Self:
        """The codes shuffled against the factors."""
        return self.of(self.sample.permuted(rng))

    def as_codes(self) -> Self:
        """The factors as codes."""
        return self.of(self.sample.as_codes())


class _Look(NamedTuple):
    """What all codes tell of one factor; fields as in :class:`PointwiseInformation`."""

    told: Floats  # (n, L)
    surprise: Floats  # (n,)
    common: NDArray[np.bool_]  # (n,)
    standard_error: Floats  # (L,)
    stretch: Floats  # (L,)
    beyond_chance: NDArray[np.bool_]  # (L,)


def _look_at(factor: Integers, codes: Floats, orders: list[Integers], bins: Integers, level: float) -> _Look:
    sizes = np.bincount(factor)
    common = sizes[factor] > 1
    total = int(common.sum())
    psi, _ = _polygammas(len(factor))
    surprise = np.where(common, psi[max(total, 1)] - psi[sizes[factor]], 0.0)
    told, num_codes = np.zeros(codes.shape), codes.shape[1]
    error, stretch = np.zeros(num_codes), np.ones(num_codes)
    if not total:
        return _Look(told, surprise, common, error, stretch, np.zeros(num_codes, dtype=np.bool_))
    for j, order in enumerate(orders):
        rows = order[common[order]]
        log_share, noise = _log_share(codes[rows, j], factor[rows])
        told[rows, j] = surprise[rows] + log_share
        plain = told[rows, j].var()
        error[j] = np.sqrt((plain + noise) / total)
        stretch[j] = np.sqrt(1 + noise / plain) if plain > 0 else 1.0
    # A look at groups of neighbours sees what is spread out, one at each datum what is fine
    clear = told.sum(0) / total > norm.isf(level / 2) * error
    binned_codes = bins if common.all() else _bins_of(codes[common])
    beyond = clear | _beyond_chance_in_bins(binned_codes, factor[common], level / 2)
    return _Look(told, surprise, common, error, stretch, beyond)


def _log_share(code: Floats, factor: Integers) -> tuple[Floats, float]:
    """ln p(v | z) at each datum, of codes that ascend, and the variance that neighbours in common add."""
    # Value by value, in each by the code; radix sort is for few bits
    place = np.argsort(factor.astype(np.min_scalar_type(factor.max())), kind="stable")
    counts = np.bincount(factor)
    counts = counts[counts > 0]
    neighbours = np.repeat(np.maximum(np.rint(np.sqrt(counts) / _ROOTS), 1).astype(np.int64), counts)
    groups = _Groups(code, place, counts)
    found = groups.log_share(neighbours)
    if neighbours.max() > _FINE:
        # What neighbours smooth away, or add where values end slowly
        finer = groups.log_share(np.minimum(neighbours, _FINE))
        found = finer if abs(_lead(finer, found)) > _CLEAR else found
    # What they miss where values end sharply
    sides = groups.to_each_side(neighbours)
    found = sides if _lead(sides, found) > _CLEAR and sides.each.mean() > -_ALL_BUT else found
    answer = np.empty(len(code))
    answer[place] = found.each
    return answer, found.noise


class _LogShare(NamedTuple):
    """ln p(v | z) at each datum, and the variance that neighbours in common add to the mean, times n."""

    each: Floats
    noise: float


def _lead(one: _LogShare, other: _LogShare) -> float:
    """How much more the one sees, in standard errors."""
    more = one.each - other.each
    error = np.sqrt((more.var() + one.noise) / len(more))
    return float(more.mean() / error) if error > 0 else 0.0


@final
class _Groups:
    """Ascending codes, and the places among them of each value's, which ascend too."""

    def __init__(self, code: Floats, place: Integers, counts: Integers) -> None:
        self._code, self._place, self._own = code, place, code[place]
        self._index = np.arange(len(code))
        self._before = self._index - np.repeat(np.cumsum(counts) - counts, counts)
        self._after = np.repeat(counts, counts) - 1 - self._before
        self._counts = counts

    def log_share(self, k: Integers) -> _LogShare:
        """ψ(k) - ψ(m) in the order of places, m data up to the k-th of one's value, and its mean variance."""
        distance, far, to_the_left = self._farthest(k)
        # Of data as far off on both sides those to the right count as nearer: then the m-th is one only
        ends = np.where(to_the_left, self._own + distance, self._own - distance)
        end = np.searchsorted(self._code, ends, side="right")
        m = np.where(to_the_left, end - far - 1, far - end)
        same = distance == 0
        if same.any():
            k, m = k.copy(), m.copy()
            k[same], m[same] = self._equal(same)
        psi, psi1 = _polygammas(len(self._code))
        return _LogShare(psi[k] - psi[m], float((psi1[k] - psi1[m]).mean()))

    def to_each_side(self, k: Integers) -> _LogShare:
        """As :meth:`log_share`, but of the data up to the k-th on the left and on the right, each by itself.

        They do not reach beyond the last of one's value, but from one group of them to the next.
        """
        psi, psi1 = _polygammas(len(self._code))
        size = np.repeat(self._counts, self._counts)
        ways = []
        for sign, there in ((1, self._after), (-1, self._before)):
            few = np.minimum(k, there)
            m = sign * (self._place[self._index + sign * few] - self._place)
            ways.append((few > 0, psi[few] - psi[m], psi1[few] - psi1[m]))
        (right, share, noise), (left, other_share, other_noise) = ways
        sides = np.maximum(right.astype(np.int64) + left, 1)
        # The expectation over shuffled data counts the datum itself as one of them
        whole = len(self._code)
        most, of_shuffled = psi[whole] - psi[size], psi[whole] + 1 / whole - psi[size] - 1 / size
        scale = np.divide(most, of_shuffled, out=np.ones_like(most), where=of_shuffled > 0)
        return _LogShare(scale * (share + other_share) / sides, float(((noise + other_noise) / sides).mean()))

    def _farthest(self, k: Integers) -> tuple[Floats, Integers, NDArray[np.bool_]]:
        """How far the k-th nearest of one's value is, its place, and on which side it lies.

        Of the k some number a lies to the left. With a the left end moves away and the right end comes
        closer, so that the least a at which the left end is as far is found by bisection.
        """
        own, index = self._own, self._index
        fewest, most = np.maximum(0, k - self._after), np.minimum(k, self._before)
        low, high = fewest.copy(), most + 1
        while (low < high).any():
            a = np.minimum((low + high) // 2, most)
            enough = own - own[index - a] >= own[index + k - a] - own
            open_ = low < high
            high, low = np.where(open_ & enough, a, high), np.where(open_ & ~enough, a + 1, low)
        left, right = index - np.minimum(low, most), index + k - np.maximum(low - 1, fewest)
        to_left = np.where(low <= most, own - own[left], np.inf)
        to_right = np.where(low > fewest, own[right] - own, np.inf)
        nearer = to_left < to_right
        return np.where(nearer, to_left, to_right), self._place[np.where(nearer, left, right)], nearer

    def _equal(self, same: NDArray[np.bool_]) -> tuple[Integers, Integers]:
        """How many data of one's value, and how many of all, have one's very code."""
        own = self._own[same]
        start, stop = (np.searchsorted(self._code, own, side=side) for side in ("left", "right"))
        value = np.repeat(np.arange(len(self._counts)), self._counts)[same]
        # Both ascend together, so that a group ends where one of them changes
        _, group, size = np.unique(value * len(self._code) + start, return_inverse=True, return_counts=True)
        return size[group], stop - start


def _bins_of(codes: Floats) -> Integers:
    """As many as leave as many data to each."""
    return rank_bins(codes, max(2, round(len(codes) ** 0.5)))


def _beyond_chance_in_bins(bins: Integers, factor: Integers, level: float) -> NDArray[np.bool_]:
    column = factor[:, None]
    chance = expected_by_chance(bins, column)
    return _beyond_chance(mutual_informations(bins, column), chance, level)[:, 0]


@lru_cache(maxsize=8)
def _polygammas(size: int) -> tuple[Floats, Floats]:
    """Digamma and trigamma of 0, which are taken for 0, to size."""
    inverse = 1 / np.arange(1, size)
    psi, psi1 = np.zeros((2, size + 1))
    psi[1:] = np.cumsum([-np.euler_gamma, *inverse])
    psi1[1:] = np.pi**2 / 6 - np.cumsum([0.0, *inverse**2])
    return psi, psi1


def _few_notes(data: PointwiseInformation, information: Floats, top: Integers) -> tuple[str, ...]:
    """On what is known of a factor to no better than a twentieth, and on what is known of none."""
    best = information.max(axis=0)
    pairs = [(code, k) for k, two in enumerate(top.T) for code in two if information[code, k] > 0]
    shares = {pair: _SURE * data.standard_error[pair] / best[pair[1]] for pair in pairs}
    unsure = [f"code {j} of factor {k} ({x:.0%})" for (j, k), x in shares.items() if x > _TWENTIETH]
    unknown = [str(k) for k in np.flatnonzero((best == 0) & (data.alone < 1))]
    notes = []
    if unsure:
        notes.append(
            f"{len(data.sample)} data are too few to be sure to 5 % of what is told by {', '.join(unsure)}."
        )
    if unknown:
        names = ("factor " if len(unknown) == 1 else "factors ") + ", ".join(unknown)
        notes.append(
            f"What the codes tell of {names} is no more than chance would show in {len(data.sample)} data."
        )
    return tuple(notes)


# ---- Mutual information of columns of small integers, and how much of it chance alone would show.

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
