"""From factors to codes: what an encoder makes of the observations that factors give."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol, final, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from pyro_infomax.disentanglement.sample import Floats, Integers, as_matrix
from pyro_infomax.disentanglement.varying_factors import VaryingFactors
from pyro_infomax.progress import patiently

__all__ = [
    "NUM_POINTS",
    "NUM_TEST",
    "NUM_TRAIN",
    "Encoder",
    "FactorSource",
    "drawn",
    "encoder_of",
    "is_encoded",
]

NUM_TRAIN: Final = 10_000  # data, or draws of them, that a score learns from, or is made of
NUM_TEST: Final = 5_000  # that judge what was learned
NUM_POINTS: Final = NUM_TRAIN + NUM_TEST

_BATCH: Final = 1024


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

    def sample_factors(self, n: int, *, seed: Any = None) -> Any:
        """Factors of n data, (n, K) integers; a ``numpy.random.RandomState`` may be the seed."""

    def observations(self, factors: Any) -> Any:
        """A batch of observations of factors (n, K), in whatever form the encoder takes."""


@final
class Encoder:
    """Codes of factors, through the observations of a source.

    Each combination of factors is encoded once and kept, as a score may ask for the same many times, unless
    its observations are drawn.

    Args:
        encode: from a batch of observations to codes (batch, L): an array, or a tensor, which is detached.
        source: makes the observations.
        progress: whether a bar may show.

    Raises:
        ValueError: if no factor varies, and if the codes are not finite or not a row for each observation.
    """

    def __init__(self, encode: Callable[[Any], Any], source: FactorSource, *, progress: bool = True) -> None:
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

    def codes_of(self, factors: ArrayLike, *, rng: np.random.RandomState) -> Floats:
        """The codes of these factors.

        Args:
            factors: (n, K) integers.
            rng: draws the observations of a source that draws.

        Returns:
            (n, L).
        """
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

    def _encoded(self, rows: Integers, **drawn_with: Any) -> Floats:
        return np.concatenate(list(self._batches(rows, drawn_with)))

    def _batches(self, rows: Integers, drawn_with: Mapping[str, Any]) -> Iterator[Floats]:
        for start in patiently(range(0, len(rows), _BATCH), "encoding", progress=self._progress):
            batch = rows[start : start + _BATCH]
            codes = as_matrix(
                self._encode(self.source.observations(batch, **drawn_with)), name="codes", columns="L"
            )
            if len(codes) != len(batch):
                raise ValueError(
                    f"Expected a row of codes for each of {len(batch)} observations but got {len(codes)}: "
                    "the encoder takes a batch and keeps its first axis."
                )
            yield codes


def is_encoded(codes: Any, factors: Any) -> bool:
    """Whether codes are to be made by an encoder, from a source of factors.

    Args:
        codes: an array, or a callable or an :class:`Encoder`.
        factors: an array, or a source.

    Raises:
        ValueError: for one of each.

    Example:
        >>> is_encoded([[0.0]], [[1]])
        False
    """
    if isinstance(codes, Encoder):
        return True
    is_source = isinstance(factors, FactorSource)
    if callable(codes) and not is_source:
        raise ValueError(
            "Expected a source of factors, such as a FactorDataset, beside codes that are a function of "
            f"observations, but got {type(factors).__name__}."
        )
    if is_source and not callable(codes):
        raise ValueError(
            "Expected codes to be a function of observations beside a source of factors but got "
            f"{type(codes).__name__}: give the factors of these codes as an array."
        )
    return is_source


def encoder_of(codes: Any, factors: Any, *, progress: bool = True) -> Encoder:
    """The encoder of a callable and a source, or the one that was given.

    Args:
        codes: from observations to codes, or an :class:`Encoder`.
        factors: the source; not looked at beside an :class:`Encoder`.
        progress: whether a bar may show.
    """
    return codes if isinstance(codes, Encoder) else Encoder(codes, factors, progress=progress)


def drawn(
    codes: Any, factors: Any, *, num_points: int, rng: np.random.RandomState, progress: bool = True
) -> tuple[Any, Any]:
    """Codes and factors as arrays: those given, or the codes of factors drawn from a source.

    Args:
        codes: (n, L), or a callable from observations to codes.
        factors: (n, K), or a source.
        num_points: how many to draw from a source.
        rng: draws them.
        progress: whether a bar may show.

    Raises:
        ValueError: for a callable without a source, or the other way round, and if there is nothing to draw.

    Example:
        >>> drawn([[0.0]], [[1]], num_points=100, rng=np.random.RandomState(0))
        ([[0.0]], [[1]])
    """
    if not is_encoded(codes, factors):
        return codes, factors
    if not isinstance(num_points, int | np.integer) or num_points < 1:
        raise ValueError(f"Expected num_points to be an integer >= 1 but got {num_points!r}.")
    encoder = encoder_of(codes, factors, progress=progress)
    points = np.asarray(encoder.source.sample_factors(int(num_points), seed=rng))
    return encoder.codes_of(points, rng=rng), points
