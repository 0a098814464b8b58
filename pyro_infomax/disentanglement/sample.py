"""Codes beside the factors that made them, checked once for all scores."""

from dataclasses import dataclass, replace
from typing import Any, Final, Self, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Floats",
    "Integers",
    "Sample",
    "Split",
    "as_floats",
    "as_matrix",
    "codes_array",
    "to_sample",
    "to_split",
    "two_thirds",
]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_FEWEST: Final = 10
_TEST_SHARE: Final = 3  # one datum in so many
_LARGEST: Final = 1e60  # its fourth power is still a float, and that of its inverse
_LARGEST_INTEGER: Final = 2.0**53  # beyond it floats leave integers out


@final
@dataclass(frozen=True, eq=False)
class Sample:
    """N data: their codes, and the factors that they were made of.

    Args:
        codes: (n, L).
        factors: (n, K), each column recoded to 0, …, size - 1 in the order of its values.
        values: (n, K), the factors as they came.
        sizes: the number of values of each factor, in the data that the sample was first made of.
    """

    codes: Floats
    factors: Integers
    values: Floats
    sizes: tuple[int, ...]

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

    def take(self, index: NDArray[Any]) -> Self:
        """The data of these rows.

        Args:
            index: rows, or a mask of them.
        """
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
    """Codes and factors, checked.

    Args:
        codes: (n, L), real numbers up to 1e60; those below 1e-60 are taken for 0.
        factors: (n, K), integers; floats that are whole numbers will do.
        continuous: whether any real factors will do.

    Raises:
        ValueError: for other shapes, fewer than ten data, values that are not finite or too large, factors
            that are not integers, and a factor that is constant.

    Example:
        >>> sample = to_sample(np.zeros((10, 3)), np.arange(20).reshape(10, 2) % 4)
        >>> sample.sizes, sample.factors[:3, 1].tolist()
        ((2, 2), [0, 1, 0])
    """
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
    """Codes alone, checked.

    Args:
        codes: (n, L), up to 1e60; those below 1e-60 are taken for 0.

    Raises:
        ValueError: for another shape, fewer than ten data, or values that are not finite or too large.

    Example:
        >>> codes_array([[1.0, 2.0]] * 10).shape
        (10, 2)
    """
    array = as_matrix(codes, name="codes", columns="L")
    if len(array) < _FEWEST:
        raise ValueError(
            f"Expected at least {_FEWEST} data but got {len(array)}: a score of so few is noise."
        )
    return np.where(np.abs(array) < 1 / _LARGEST, 0.0, array)


def to_split(sample: Sample, *, reference: bool, rng: np.random.RandomState) -> Split:
    """Two thirds of the data to learn from, and one to judge by.

    Args:
        sample: the data.
        reference: whether the last third is the test part, as the reference draws one after the other;
            otherwise the data are shuffled, since a grid in order would not have all values in both.
        rng: shuffles.
    """
    size = len(sample)
    train, test = two_thirds(np.arange(size) if reference else rng.permutation(size))
    return Split(sample.take(train), sample.take(test))


def two_thirds(order: Integers) -> tuple[Integers, Integers]:
    """The first two thirds of some rows, and the rest.

    Args:
        order: the rows.

    Example:
        >>> two_thirds(np.arange(5))
        (array([0, 1, 2, 3]), array([4]))
    """
    cut = len(order) - len(order) // _TEST_SHARE
    return order[:cut], order[cut:]


def as_floats(values: Any, *, name: str) -> Floats:
    """An array or tensor as float64.

    Args:
        values: of any shape.
        name: for messages.

    Raises:
        ValueError: for what is no array of real numbers.
    """
    try:
        if getattr(values, "is_complex", lambda: np.iscomplexobj(values))():
            raise TypeError
        # NumPy knows fewer precisions than torch
        known = values.detach().cpu().double() if hasattr(values, "detach") else values
        array: Floats = np.ma.filled(np.ma.asarray(known, dtype=np.float64), np.nan)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Expected {name} to be an array of real numbers but got {type(values).__name__}."
        ) from error
    return array


def as_matrix(values: Any, *, name: str, columns: str) -> Floats:
    """An array or tensor as finite float64, (n, columns).

    Args:
        values: the array.
        name: for messages.
        columns: the letter of the second axis, for messages.

    Raises:
        ValueError: for another shape, or values that are not real, not finite, or beyond 1e60.

    Example:
        >>> as_matrix([[1], [2]], name="codes", columns="L").dtype
        dtype('float64')
    """
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
        raise ValueError(
            f"Expected factors to be integers but factor {column} holds {_first_odd(factors[:, column])}: "
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


def _first_odd(column: Floats) -> str:
    return f"{column[column != np.rint(column)][0]:g}"
