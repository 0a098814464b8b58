"""Codes beside the factors that made them, checked once for all scores."""

from dataclasses import dataclass, replace
from typing import Final, Self, final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from pyro_infomax._types import Array, Floats, Integers

# ---- The sample: codes beside factors, whole or in a part to learn from and one to judge by.

_FEWEST: Final = 10
_TEST_SHARE: Final = 3  # one datum in so many
_LARGEST: Final = 1e60  # its fourth power is still a float, and that of its inverse
_LARGEST_INTEGER: Final = 2.0**53  # beyond it floats leave integers out


@final
@dataclass(frozen=True, eq=False)
class Sample:
    """N data: their codes, and the factors that they were made of."""

    codes: Floats  # (n, L)
    factors: Integers  # (n, K), each column recoded to 0, …, size - 1 in the order of its values
    values: Floats  # (n, K), the factors as they came
    sizes: tuple[int, ...]  # of the factors, in the data that the sample was first made of

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def num_codes(self) -> int:
        return self.codes.shape[1]

    @property
    def num_factors(self) -> int:
        return self.factors.shape[1]

    @property
    def dead(self) -> NDArray[np.bool_]:
        """(L,) the codes that never move."""
        dead: NDArray[np.bool_] = np.ptp(self.codes, axis=0) == 0
        return dead

    def take(self, index: Array) -> Self:
        """The data of these rows, or of a mask of them."""
        return replace(self, codes=self.codes[index], factors=self.factors[index], values=self.values[index])

    def resampled(self, rng: np.random.RandomState) -> Self:
        """As many data, drawn with replacement."""
        return self.take(rng.randint(len(self), size=len(self)))

    def permuted(self, rng: np.random.RandomState) -> Self:
        """The codes shuffled against the factors, so that they know nothing of them."""
        return replace(self, codes=self.codes[rng.permutation(len(self))])

    def as_codes(self) -> Self:
        """The factors as codes, one each; a single factor gets a dead code beside it."""
        codes = self.values
        if self.num_factors == 1:
            codes = np.concatenate([codes, np.zeros_like(codes)], axis=1)
        return replace(self, codes=codes)


@final
@dataclass(frozen=True, eq=False)
class Split:
    """The data that a learner sees, and those it is judged by."""

    train: Sample
    test: Sample

    def resampled(self, rng: np.random.RandomState) -> Self:
        """Each part resampled by itself: a datum on both sides would be judged by what was learned of it."""
        return replace(self, train=self.train.resampled(rng), test=self.test.resampled(rng))

    def permuted(self, rng: np.random.RandomState) -> Self:
        """The codes shuffled against the factors, in each part."""
        return replace(self, train=self.train.permuted(rng), test=self.test.permuted(rng))

    def as_codes(self) -> Self:
        """The factors as codes."""
        return replace(self, train=self.train.as_codes(), test=self.test.as_codes())


def to_sample(codes: ArrayLike, factors: ArrayLike, *, continuous: bool = False) -> Sample:
    """Codes (n, L) and factors (n, K), checked: whole numbers, or any real ones if ``continuous``."""
    code_array = codes_array(codes)
    values = as_matrix(factors, name="factors", columns="K")
    if len(code_array) != len(values):
        raise ValueError(
            f"Expected a row of factors for every row of codes but got {len(code_array)} rows of codes and "
            f"{len(values)} of factors."
        )
    if not continuous:
        _check_integers(values)
    factor_array, sizes = _recoded(values)
    return Sample(code_array, factor_array, values, sizes)


def codes_array(codes: ArrayLike) -> Floats:
    """Codes (n, L) alone, checked; those below 1e-60 are taken for 0."""
    array = as_matrix(codes, name="codes", columns="L")
    if len(array) < _FEWEST:
        raise ValueError(
            f"Expected at least {_FEWEST} data but got {len(array)}: a score of so few is noise."
        )
    return np.where(np.abs(array) < 1 / _LARGEST, 0.0, array)


def to_split(sample: Sample, *, reference: bool, rng: np.random.RandomState) -> Split:
    """Two thirds of the data to learn from, and one to judge by.

    The reference takes the last third; otherwise the data are shuffled, since a grid in order would not have
    all values in both.
    """
    size = len(sample)
    train, test = two_thirds(np.arange(size) if reference else rng.permutation(size))
    return Split(sample.take(train), sample.take(test))


def two_thirds(order: Integers) -> tuple[Integers, Integers]:
    """The first two thirds of some rows, and the rest."""
    cut = len(order) - len(order) // _TEST_SHARE
    return order[:cut], order[cut:]


def as_floats(values: ArrayLike, *, name: str) -> Floats:
    """An array or tensor of real numbers, of any shape, as float64."""
    try:
        if getattr(values, "is_complex", lambda: np.iscomplexobj(values))():
            raise TypeError
        # NumPy knows fewer precisions than torch
        detach = getattr(values, "detach", None)
        known = values if detach is None else detach().cpu().double()
        array: Floats = np.ma.filled(np.ma.asarray(known, dtype=np.float64), np.nan)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Expected {name} to be an array of real numbers but got {type(values).__name__}."
        ) from error
    return array


def as_matrix(values: ArrayLike, *, name: str, columns: str) -> Floats:
    """An array or tensor as finite float64, (n, columns); messages call it by its name and that letter."""
    array = as_floats(values, name=name)
    if array.ndim != 2 or array.shape[1] < 1:
        raise ValueError(
            f"Expected {name} of shape (n, {columns}), a row a datum, but got {array.shape}: a single column "
            "is (n, 1)."
        )
    if not np.isfinite(array).all():
        row, column = np.argwhere(~np.isfinite(array))[0]
        raise ValueError(
            f"Expected finite {name} but got {array[row, column]} in row {row}, column {column}: leave such "
            "data out, or look at the encoder that made them."
        )
    if (np.abs(array) > _LARGEST).any():
        row, column = np.argwhere(np.abs(array) > _LARGEST)[0]
        raise ValueError(
            f"Expected {name} between {-_LARGEST:g} and {_LARGEST:g} but got {array[row, column]:g} in row "
            f"{row}, column {column}: divide them by some number, or look at the encoder that made them."
        )
    return array


def _check_integers(factors: Floats) -> None:
    odd = (factors != np.rint(factors)).any(0)
    if odd.any():
        column = int(np.argmax(odd))
        value = next(each for each in factors[:, column] if each != np.rint(each))
        raise ValueError(
            f"Expected factors to be integers but factor {column} holds {value:g}: "
            "put continuous factors into bins (np.digitize at their quantiles), or use sap(continuous=True)."
        )
    largest = np.abs(factors).max(0)
    if (largest > _LARGEST_INTEGER).any():
        column = int(np.argmax(largest > _LARGEST_INTEGER))
        raise ValueError(
            f"Expected factors up to {_LARGEST_INTEGER:g} but factor {column} holds {largest[column]:g}: "
            "number its values from 0 (np.unique with return_inverse)."
        )


def _recoded(values: Floats) -> tuple[Integers, tuple[int, ...]]:
    columns, sizes = [], []
    for k, column in enumerate(values.T):
        distinct, index = np.unique(column, return_inverse=True)
        if len(distinct) < 2:
            raise ValueError(
                f"Expected every factor to take two values or more but factor {k} is always "
                f"{distinct[0]:g}: leave it out of the factors."
            )
        columns.append(index.reshape(-1))
        sizes.append(len(distinct))
    return np.stack(columns, axis=1).astype(np.int64), tuple(sizes)


def half(size: int, rng: np.random.RandomState) -> Integers:
    """Half of the rows, without replacement.

    A score of half the data is spread around that of all as widely as that of all around the truth. Rows
    that come twice, as in a bootstrap, would tell of each other: what codes that know nothing show of the
    factors doubles with them.
    """
    return rng.permutation(size)[: size // 2]


# ---- Codes as small integers, for scores that count.

REFERENCE_BINS: Final = 20


@final
@dataclass(frozen=True, eq=False)
class Binned:
    """Codes in bins beside the factors, which are drawn anew together."""

    bins: Integers  # (n, L), from 0
    factors: Integers  # (n, K), from 0
    best: Integers  # (n, K'), the factors as codes, in bins

    def resampled(self, rng: np.random.RandomState) -> Self:
        """Half of the data, as :func:`half` draws them."""
        rows = half(len(self.bins), rng)
        return replace(self, bins=self.bins[rows], factors=self.factors[rows], best=self.best[rows])

    def permuted(self, rng: np.random.RandomState) -> Self:
        """The codes shuffled against the factors."""
        return replace(self, bins=self.bins[rng.permutation(len(self.bins))])

    def as_codes(self) -> Self:
        """The factors as codes."""
        return replace(self, bins=self.best)


def binned(sample: Sample) -> Binned:
    """The codes of a sample in 20 bins of equal width, as the reference has them."""
    return Binned(equal_width_bins(sample.codes), sample.factors, equal_width_bins(sample.as_codes().codes))


def equal_width_bins(codes: Floats) -> Integers:
    """20 bins of equal width from the smallest to the largest value of each code; a constant code has one."""
    columns = [np.digitize(code, np.histogram_bin_edges(code, REFERENCE_BINS)[:-1]) - 1 for code in codes.T]
    return np.stack(columns, axis=1).astype(np.int64)


def rank_bins(codes: Floats, num_bins: int) -> Integers:
    """Bins of as many data each, from 0 and without gaps, which no increasing map of a code changes.

    Equal values stay together. A code of no more than ``num_bins`` distinct values has them for its bins.
    """
    return np.stack([_rank_bins(code, num_bins) for code in codes.T], axis=1).astype(np.int64)


def _rank_bins(code: Floats, num_bins: int) -> Integers:
    ranks = rankdata(code, method="dense") - 1
    if ranks.max() >= num_bins:
        middles = rankdata(code) - 0.5  # from 0 to n
        _, ranks = np.unique(np.floor(middles * num_bins / len(code)), return_inverse=True)
    return ranks.reshape(-1).astype(np.int64)


# ---- Codes by their order alone, so that neither scale nor shape of a code matters to what is learned of it.


def ordered(split: Split) -> Split:
    """The codes as ranks among the distinct values of the train part, those of the test part interpolated.

    A threshold halfway between two ranks is one halfway between the two values, so that trees which split
    the ranks are those that split the codes; but single precision, which scikit-learn's trees keep of what
    they are given, is exact for ranks, and lost on codes far from 0.
    """
    pairs = [_ranks(*pair) for pair in zip(split.train.codes.T, split.test.codes.T, strict=True)]
    train, test = (np.stack(columns, axis=1) for columns in zip(*pairs, strict=True))
    return Split(replace(split.train, codes=train), replace(split.test, codes=test))


def _ranks(train: Floats, test: Floats) -> tuple[Floats, Floats]:
    distinct, rank = np.unique(train, return_inverse=True)
    return rank.reshape(-1).astype(np.float64), np.interp(test, distinct, np.arange(len(distinct)))


# ---- How much of a code's variance each factor explains.

_SMALLEST_SHARE: Final = 0.01
_STANDARD_ERRORS: Final = 4.0


def variance_shares(sample: Sample) -> Floats:
    r"""The share of each code's variance that lies between the values of each factor, (L, K).

    .. math:: \omega^2 = \frac{S_b - (s - 1) M_w}{S_t + M_w}

    with the sums of squares between values and in total, and the mean square within the s values: the
    correlation ratio without its bias, so that a code that knows nothing has 0 in the mean, and is a little
    below at times. A dead code has 0.

    Reference: Hays (1963), *Statistics for psychologists*.
    """
    codes = sample.codes - sample.codes.mean(0)
    codes[:, sample.dead] = 0
    shares = [
        _explained(codes, column, size) for column, size in zip(sample.factors.T, sample.sizes, strict=True)
    ]
    return np.stack(shares, axis=1)


def moved_by_factors(sample: Sample) -> NDArray[np.bool_]:
    """The codes (L,) that some single factor moves, whatever their scale.

    A factor moves a code if it explains at least a hundredth of its variance, and by four standard errors
    more than it would by chance.
    """
    sizes = np.array(sample.sizes)
    by_chance = np.sqrt(2 * (sizes - 1)) / np.maximum(len(sample) - sizes, 1)
    moved: NDArray[np.bool_] = (
        variance_shares(sample) > np.maximum(_SMALLEST_SHARE, _STANDARD_ERRORS * by_chance)
    ).any(1)
    return moved


def group_means(codes: Floats, values: Integers, size: int) -> Floats:
    """The mean code of each value 0, …, size - 1 of a factor, (size, L); 0 for one that no datum has."""
    counts = np.maximum(np.bincount(values, minlength=size), 1)
    sums = [np.bincount(values, weights=code, minlength=size) for code in codes.T]
    return np.stack(sums, axis=1) / counts[:, None]


def _explained(codes: Floats, values: Integers, size: int) -> Floats:
    """Of one factor, (L,); the codes have mean 0."""
    counts = np.bincount(values, minlength=size)
    present = np.count_nonzero(counts)
    total = (codes**2).sum(0)
    between = (counts[:, None] * group_means(codes, values, size) ** 2).sum(0)
    within = np.maximum(total - between, 0) / max(len(codes) - present, 1)
    share: Floats = np.divide(
        between - (present - 1) * within, total + within, out=np.zeros_like(total), where=total > 0
    )
    return share
