"""Draws of data in which one factor is held fixed, and learners that are judged by which one it was."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Final, NamedTuple, Protocol, Self, TypeAlias, cast, final, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import chi2

from pyro_infomax._checks import whole_number
from pyro_infomax._progress import patiently
from pyro_infomax._types import Floats, Integers
from pyro_infomax.disentanglement._sample import Sample, as_matrix, to_sample, two_thirds
from pyro_infomax.disentanglement._score import Parts, ScoreOutcome

# ---- A source without the factors that take a single value.


@final
class VaryingFactors:
    """A source whose constant factors are held where they are, as no score can ask for them."""

    def __init__(self, source: "FactorSource") -> None:
        sizes = np.asarray(source.factor_sizes, dtype=np.int64)
        self._source = source
        self._number = len(sizes)
        self._varying = np.flatnonzero(sizes > 1)
        self.factor_sizes = tuple(sizes[self._varying].tolist())
        self.draws = bool(getattr(source, "draws", False))
        if not self.factor_sizes:
            raise ValueError(
                "Expected a source with a factor of two values or more but got sizes "
                f"{tuple(sizes.tolist())}: there is nothing to score codes against."
            )

    def sample_factors(self, n: int, *, seed: int | np.random.RandomState | None = None) -> Integers:
        """Those that vary, (n, K)."""
        whole = np.asarray(self._source.sample_factors(n, seed=seed))
        varying: Integers = whole[:, self._varying]
        return varying

    def observations(self, factors: ArrayLike, **drawn_with: object) -> object:
        """Of factors that vary, (n, K)."""
        rows = np.asarray(factors, dtype=np.int64)
        whole = np.zeros((len(rows), self._number), dtype=np.int64)
        whole[:, self._varying] = rows
        observe: Callable[..., object] = self._source.observations
        return observe(whole, **drawn_with)


# ---- From factors to codes: what an encoder makes of the observations that factors give.

NUM_TRAIN: Final = 10_000  # data, or draws of them, that a score learns from, or is made of
NUM_TEST: Final = 5_000  # that judge what was learned
NUM_POINTS: Final = NUM_TRAIN + NUM_TEST

_IMAGES_AT_ONCE: Final = 1024

Encode: TypeAlias = Callable[..., ArrayLike]
"""From a batch of observations to codes (batch, L)."""


@runtime_checkable
class FactorSource(Protocol):
    """Observations made from factors; every :class:`~pyro_infomax.datasets.FactorDataset` is one.

    Where the same factors give another observation each time, as with random noise, an attribute ``draws``
    that is true has every draw encoded by itself; then ``observations`` takes a ``seed`` as well. Factors of
    a single value are left out of all scores and their parts.
    """

    @property
    def factor_sizes(self) -> Sequence[int]:
        """The number of values of each factor; they are 0, …, size - 1."""

    def sample_factors(self, n: int, *, seed: int | np.random.RandomState | None = None) -> ArrayLike:
        """Factors of n data, (n, K) integers; a ``numpy.random.RandomState`` may be the seed."""

    def observations(self, factors: Integers) -> object:
        """A batch of observations of factors (n, K), in whatever form the encoder takes."""


@final
class Encoder:
    """Codes of factors, through the observations of a source.

    Each combination of factors is encoded once and kept, as a score may ask for the same many times, unless
    its observations are drawn.
    """

    def __init__(self, encode: Encode, source: FactorSource, *, progress: bool = True) -> None:
        constant = min(source.factor_sizes, default=0) < 2
        self.source: FactorSource = VaryingFactors(source) if constant else source
        self._encode = encode
        self._progress = progress
        self._keys: Integers = np.empty(0, dtype=np.int64)
        self._codes: Floats | None = None

    @property
    def draws(self) -> bool:
        """Whether the same factors give another observation each time."""
        return bool(getattr(self.source, "draws", False))

    def draw(self, number: int, rng: np.random.RandomState) -> tuple[Floats, Integers]:
        """The codes (number, L) of factors (number, K) that the source draws, and these."""
        points = np.asarray(self.source.sample_factors(number, seed=rng))
        return self.codes_of(points, rng=rng), points

    def codes_of(self, factors: ArrayLike, *, rng: np.random.RandomState) -> Floats:
        """The codes (n, L) of these factors (n, K); ``rng`` draws the observations of a source that draws."""
        rows = np.asarray(factors, dtype=np.int64)  # (datum, factor)
        if self.draws:
            return self._encoded(rows, seed=rng)
        keys = np.ravel_multi_index(tuple(rows.T), tuple(self.source.factor_sizes))
        distinct, first = np.unique(keys, return_index=True)
        self._learn(distinct, rows[first])
        assert self._codes is not None
        return self._codes[np.searchsorted(self._keys, keys)]

    def _learn(self, keys: Integers, rows: Integers) -> None:
        new = ~np.isin(keys, self._keys)
        if not new.any():
            return
        codes = self._encoded(rows[new])
        if self._codes is not None:
            codes = np.concatenate([self._codes, codes])
        joined = np.concatenate([self._keys, keys[new]])
        order = np.argsort(joined)
        self._keys, self._codes = joined[order], codes[order]

    def _encoded(self, rows: Integers, **drawn_with: object) -> Floats:
        return np.concatenate(list(self._batches(rows, drawn_with)))

    def _batches(self, rows: Integers, drawn_with: Mapping[str, object]) -> Iterator[Floats]:
        observe: Callable[..., object] = self.source.observations
        for start in patiently(range(0, len(rows), _IMAGES_AT_ONCE), "encoding", progress=self._progress):
            batch = rows[start : start + _IMAGES_AT_ONCE]
            codes = as_matrix(self._encode(observe(batch, **drawn_with)), name="codes", columns="L")
            if len(codes) != len(batch):
                raise ValueError(
                    f"Expected a row of codes for each of {len(batch)} observations but got {len(codes)}: "
                    "the encoder takes a batch and keeps its first axis."
                )
            yield codes


GivenCodes: TypeAlias = ArrayLike | Encode | Encoder
"""Codes (n, L), or what makes them of observations."""

GivenFactors: TypeAlias = ArrayLike | FactorSource
"""Factors (n, K), or what makes observations of them."""


def encoder_of(codes: GivenCodes, factors: GivenFactors | None, *, progress: bool = True) -> Encoder | None:
    """The encoder of a callable and a source, or the one that was given; None where there are arrays."""
    if isinstance(codes, Encoder):
        return codes
    if callable(codes):
        if isinstance(factors, FactorSource):
            return Encoder(codes, factors, progress=progress)
        raise ValueError(
            "Expected a source of factors, such as a FactorDataset, beside codes that are a function of "
            f"observations, but got {type(factors).__name__}."
        )
    if isinstance(factors, FactorSource):
        raise ValueError(
            "Expected codes to be a function of observations beside a source of factors but got "
            f"{type(codes).__name__}: give the factors of these codes as an array."
        )
    return None


def drawn(
    codes: GivenCodes,
    factors: GivenFactors | None,
    *,
    num_points: int,
    rng: np.random.RandomState,
    progress: bool = True,
) -> tuple[ArrayLike, ArrayLike]:
    """Codes and factors as arrays: those given, or the codes of factors drawn from a source."""
    encoder = encoder_of(codes, factors, progress=progress)
    if encoder is None:
        return cast(ArrayLike, codes), cast(ArrayLike, factors)
    return encoder.draw(whole_number("num_points", num_points, at_least=1), rng)


def drawn_sample(
    codes: GivenCodes,
    factors: GivenFactors,
    *,
    num_points: int,
    rng: np.random.RandomState,
    progress: bool,
    continuous: bool = False,
) -> Sample:
    """What :func:`drawn` gives, checked; real factors will do where they are continuous."""
    points = drawn(codes, factors, num_points=num_points, rng=rng, progress=progress)
    return to_sample(*points, continuous=continuous)


# ---- Draws in which one factor is held fixed, and a learner that is judged by which one it was.

_BATCH: Final = 64
_CHUNK: Final = 250  # draws whose codes stay in a processor's cache
_SIGNIFICANT: Final = 1e-3
_DEPENDENT: Final = 0.1  # Cramér's V
_GIVEN_THE_OTHERS: Final = (
    "Factors depend on each other ({}): data that share one are alike in the other too, which an "
    "intervention would not make them."
)
_AGAINST_THE_OTHERS: Final = (
    "Factors of the source depend on each other ({}): the one that is held fixed was set without regard to "
    "the others."
)


@final
@dataclass(frozen=True, eq=False)
class FixedFactorDraws:
    """Draws, in each of which one factor was held fixed."""

    fixed: Integers  # (draw,) the factor
    rows: Integers  # (draw, 64), or (draw, 2, 64) for pairs, of the data

    def __len__(self) -> int:
        return len(self.fixed)


@final
@dataclass(frozen=True, eq=False)
class Interventions:
    """Data, and draws from them with one factor held fixed."""

    sample: Sample  # the data that the rows of the draws count
    background: Integers  # rows drawn with nothing held fixed
    train: FixedFactorDraws  # to learn from
    test: FixedFactorDraws  # to judge by
    notes: tuple[str, ...] = ()

    def permuted(self, rng: np.random.RandomState) -> Self:
        """The codes shuffled against the factors: each datum, wherever it was drawn, has another's codes."""
        return replace(self, sample=self.sample.permuted(rng))

    def as_codes(self) -> Self:
        """The factors as codes."""
        return replace(self, sample=self.sample.as_codes())


class Verdicts(NamedTuple):
    """What a learner says of the draws it is judged by."""

    truth: Integers  # (draw,) the factor that was fixed
    guesses: Integers  # (draw,) what the learner takes for it; -1 for none
    parts: Parts = {}
    notes: tuple[str, ...] = ()


@final
@dataclass(frozen=True, eq=False)
class LearnerTrial:
    """A learner that was taught by interventions, and its verdicts on others.

    To resample it is to draw its verdicts anew, which takes no time: the spread is that of the draws that
    judge. Shuffled codes, and factors as codes, are learned from anew.
    """

    interventions: Interventions
    learn: Callable[[Interventions], Verdicts]
    verdicts: Verdicts

    @classmethod
    def of(cls, interventions: Interventions, learn: Callable[[Interventions], Verdicts]) -> Self:
        """The trial of a learner, from the function that teaches and judges it."""
        return cls(interventions, learn, learn(interventions))

    def resampled(self, rng: np.random.RandomState) -> Self:
        """Verdicts drawn with replacement."""
        truth, guesses, *_ = self.verdicts
        index = rng.randint(len(truth), size=len(truth))
        return replace(self, verdicts=Verdicts(truth[index], guesses[index]))

    def permuted(self, rng: np.random.RandomState) -> Self:
        """The trial of codes that know nothing, with verdicts drawn anew.

        The shares of the factors among the draws vary too, even where such codes all have the same guess.
        """
        return self.of(self.interventions.permuted(rng), self.learn).resampled(rng)

    def as_codes(self) -> Self:
        """The trial of the factors themselves."""
        return self.of(self.interventions.as_codes(), self.learn)


def accuracy(trial: LearnerTrial, rng: np.random.RandomState) -> ScoreOutcome:
    """How often the learner names the factor that was fixed."""
    del rng
    truth, guesses, parts, notes = trial.verdicts
    return ScoreOutcome(float((truth == guesses).mean()), parts, {}, trial.interventions.notes + notes)


# ---- How they are drawn: from a source, or from the data at hand.


def held_fixed(
    codes: GivenCodes,
    factors: GivenFactors,
    *,
    pairs: bool,
    num_background: int,
    reference: bool,
    rng: np.random.RandomState,
    progress: bool = True,
) -> Interventions:
    """10,000 draws to learn from and 5,000 to judge by, of 64 data or 64 pairs each.

    The reference draws from a source one by one and in its order, after ``num_background`` data with nothing
    held fixed; and from data at hand as though they were all there are. Otherwise 15,000 points of a source
    are the data at hand; where their factors depend on each other, the one to be held fixed is shuffled
    against the others and encoded anew. A third of the data judges, and no datum is paired with itself.
    """
    encoder = encoder_of(codes, factors, progress=progress)
    draw = fixed_pairs if pairs else fixed_groups
    if encoder is None:
        sample = to_sample(cast(ArrayLike, codes), cast(ArrayLike, factors))
        return _of_data(sample, draw, reference=reference, rng=rng)
    if reference:
        return _of_source(encoder, pairs, num_background, rng, progress)
    return _of_points(encoder, draw, rng)


def fixed_pairs(
    factors: Integers, fixed: int, number: int, *, distinct: bool, rng: np.random.RandomState
) -> Integers:
    """Pairs of rows that share a factor's value: the first is any row, the second any that shares it.

    They are (number, 2, 64); where they are to be ``distinct``, no row is paired with itself.
    """
    shelf = _Shelf.of(factors, fixed, fewest=1 + distinct)
    first = rng.randint(len(shelf.rows), size=(number, _BATCH))
    step = distinct + rng.randint(shelf.counts[first] - distinct)
    start = shelf.starts[first]
    second = start + (first - start + step) % shelf.counts[first]
    return shelf.rows[np.stack([first, second], axis=1)]


def fixed_groups(
    factors: Integers, fixed: int, number: int, *, distinct: bool, rng: np.random.RandomState
) -> Integers:
    """Rows that all share a factor's value, which is that of any row; with replacement.

    They are (number, 64); where they are to be ``distinct``, the value has two rows or more, as one row does
    not vary.
    """
    shelf = _Shelf.of(factors, fixed, fewest=1 + distinct)
    one = rng.randint(len(shelf.rows), size=(number, 1))
    within = rng.randint(np.broadcast_to(shelf.counts[one], (number, _BATCH)))
    return shelf.rows[shelf.starts[one] + within]


def in_chunks(draws: FixedFactorDraws) -> Iterator[Integers]:
    """The rows of a few draws at a time, since the codes of all are large."""
    return (draws.rows[start : start + _CHUNK] for start in range(0, len(draws), _CHUNK))


class _Shelf(NamedTuple):
    """Rows in the order of a factor's values, and for each where those of its value begin, and how many."""

    rows: Integers
    starts: Integers
    counts: Integers

    @classmethod
    def of(cls, factors: Integers, fixed: int, *, fewest: int) -> Self:
        counts = np.bincount(factors[:, fixed])[factors[:, fixed]]
        rows = np.flatnonzero(counts >= fewest)
        if not len(rows):
            raise ValueError(
                f"Expected two data that share a value of factor {fixed}, which is held fixed, but got "
                f"{len(factors)} that all differ in a part of the data: give more data, or merge values."
            )
        rows = rows[np.argsort(factors[rows, fixed], kind="stable")]
        values = factors[rows, fixed]
        return cls(rows, np.searchsorted(values, values), counts[rows])


def _of_data(
    sample: Sample, draw: Callable[..., Integers], *, reference: bool, rng: np.random.RandomState
) -> Interventions:
    _check_several(sample.num_factors)
    rows = np.arange(len(sample))
    # what is learned of a datum must not judge
    parts = (rows, rows) if reference else two_thirds(rng.permutation(rows))
    pools = [[part] * sample.num_factors for part in parts]
    notes = tuple(_GIVEN_THE_OTHERS.format(each) for each in _dependences(sample))
    return _drawn_from(pools, sample, rows, draw, notes, distinct=not reference, rng=rng)


def _of_points(encoder: Encoder, draw: Callable[..., Integers], rng: np.random.RandomState) -> Interventions:
    """Of points that a source has drawn, as data at hand; intervened in where their factors are dependent."""
    codes, points = encoder.draw(NUM_POINTS, rng)
    sample = to_sample(codes, points)
    notes = tuple(_AGAINST_THE_OTHERS.format(each) for each in _dependences(sample))
    if not notes:
        return _of_data(sample, draw, reference=False, rng=rng)
    pools = [points, *_intervened(points, rng)]
    encoded = [encoder.codes_of(pool, rng=rng) for pool in pools[1:]]
    table = to_sample(np.concatenate([codes, *encoded]), np.concatenate(pools))
    parts = two_thirds(rng.permutation(len(points)))
    rows = [[part + (k + 1) * len(points) for k in range(sample.num_factors)] for part in parts]
    return _drawn_from(rows, table, np.arange(len(points)), draw, notes, distinct=True, rng=rng)


def _intervened(points: Integers, rng: np.random.RandomState) -> Iterator[Integers]:
    """The points with one factor after the other set without regard to the rest, by a shuffle."""
    for k in range(points.shape[1]):
        shuffled = points.copy()
        shuffled[:, k] = points[rng.permutation(len(points)), k]
        yield shuffled


def _drawn_from(
    pools: Sequence[Sequence[Integers]],
    sample: Sample,
    background: Integers,
    draw: Callable[..., Integers],
    notes: tuple[str, ...],
    *,
    distinct: bool,
    rng: np.random.RandomState,
) -> Interventions:
    """Train and test draws, from the rows that each part has for each of the factors to be held fixed."""
    train, test = (
        _draws(sample.factors, rows, number, partial(draw, distinct=distinct, rng=rng), rng)
        for rows, number in zip(pools, (NUM_TRAIN, NUM_TEST), strict=True)
    )
    return Interventions(sample, background, train, test, notes)


def _draws(
    factors: Integers,
    pools: Sequence[Integers],
    number: int,
    draw: Callable[..., Integers],
    rng: np.random.RandomState,
) -> FixedFactorDraws:
    fixed = np.sort(rng.randint(len(pools), size=number))
    counts = np.bincount(fixed, minlength=len(pools))
    rows = [
        pool[draw(factors[pool], k, count)] for k, (pool, count) in enumerate(zip(pools, counts, strict=True))
    ]
    return FixedFactorDraws(fixed, np.concatenate(rows))


def _of_source(
    encoder: Encoder, pairs: bool, num_background: int, rng: np.random.RandomState, progress: bool
) -> Interventions:
    source = encoder.source
    sizes = tuple(int(size) for size in source.factor_sizes)
    _check_several(len(sizes))
    background = np.empty(0, dtype=np.int64)
    if num_background:
        background = _keys(source.sample_factors(num_background, seed=rng), sizes)
    one = _keys_of_pairs if pairs else _keys_of_group
    plan = patiently(range(NUM_POINTS), "interventions", progress=progress)
    results = [one(source, sizes, rng) for _ in plan]
    fixed = np.array([index for index, _ in results], dtype=np.int64)
    keys = np.stack([each for _, each in results])
    together = np.concatenate([background, keys.reshape(-1)])
    sample, rows = _encoded(encoder, together, sizes, rng)
    at_random, drawn_rows = rows[: len(background)], rows[len(background) :].reshape(keys.shape)
    train = FixedFactorDraws(fixed[:NUM_TRAIN], drawn_rows[:NUM_TRAIN])
    test = FixedFactorDraws(fixed[NUM_TRAIN:], drawn_rows[NUM_TRAIN:])
    return Interventions(sample, at_random, train, test)


def _keys_of_pairs(
    source: FactorSource, sizes: tuple[int, ...], rng: np.random.RandomState
) -> tuple[int, Integers]:
    index = int(rng.randint(len(sizes)))
    first = np.asarray(source.sample_factors(_BATCH, seed=rng))
    second = np.array(source.sample_factors(_BATCH, seed=rng))
    second[:, index] = first[:, index]
    return index, np.stack([_keys(first, sizes), _keys(second, sizes)])


def _keys_of_group(
    source: FactorSource, sizes: tuple[int, ...], rng: np.random.RandomState
) -> tuple[int, Integers]:
    index = int(rng.randint(len(sizes)))
    factors = np.array(source.sample_factors(_BATCH, seed=rng))
    factors[:, index] = factors[0, index]
    return index, _keys(factors, sizes)


def _keys(factors: ArrayLike, sizes: tuple[int, ...]) -> Integers:
    """One number for each combination, since millions of them are drawn."""
    return np.ravel_multi_index(tuple(np.asarray(factors, dtype=np.int64).T), sizes).astype(np.int64)


def _encoded(
    encoder: Encoder, keys: Integers, sizes: tuple[int, ...], rng: np.random.RandomState
) -> tuple[Sample, Integers]:
    """The data of these combinations, and the row of each."""
    if encoder.draws:
        rows = np.arange(len(keys))
    else:
        keys, rows = np.unique(keys, return_inverse=True)
    factors = np.stack(np.unravel_index(keys, sizes), axis=1).astype(np.int64)
    codes = encoder.codes_of(factors, rng=rng)
    return Sample(codes, factors, factors.astype(np.float64), sizes), rows.reshape(-1)


def _check_several(num_factors: int) -> None:
    if num_factors < 2:
        raise ValueError("Expected two factors or more, one of which is held fixed, but got one.")


# ---- Whether to hold a factor fixed in the data at hand is to intervene.


def _dependences(sample: Sample) -> Iterator[str]:
    """The pairs of factors that depend on each other and how strongly, if there are any."""
    strengths = {pair: _cramers_v(sample, *pair) for pair in combinations(range(sample.num_factors), 2)}
    dependent = {pair: strength for pair, strength in strengths.items() if strength > _DEPENDENT}
    if dependent:
        yield "Cramér's V " + ", ".join(f"of {i} and {j} {v:.2f}" for (i, j), v in dependent.items())


def _cramers_v(sample: Sample, i: int, j: int) -> float:
    """Cramér's V without its bias, 0 where chance explains it (Bergsma, 2013, A bias-correction for V)."""
    size, (rows, columns) = len(sample), (sample.sizes[i], sample.sizes[j])
    left, right = sample.factors[:, i], sample.factors[:, j]
    pairs, counts = np.unique(left * columns + right, return_counts=True)
    expected = np.bincount(left)[pairs // columns] * np.bincount(right)[pairs % columns] / size
    statistic = float((counts**2 / expected).sum()) - size
    freedom = (rows - 1) * (columns - 1)
    if chi2.sf(statistic, freedom) > _SIGNIFICANT:
        return 0.0
    excess = max(0.0, statistic / size - freedom / (size - 1))
    smaller = min(rows - (rows - 1) ** 2 / (size - 1), columns - (columns - 1) ** 2 / (size - 1)) - 1
    return float(np.sqrt(excess / smaller)) if smaller > 0 else 0.0
