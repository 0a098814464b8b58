"""Data whose true factors are known."""

import abc
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Final, final

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import logsumexp
from torch import Tensor
from torch.utils.data import Dataset

from pyro_infomax._checks import whole_number
from pyro_infomax._progress import patiently
from pyro_infomax._types import Array, Floats, Integers

# ---- Factors as they come to factors that index a grid.


def to_array(values: npt.ArrayLike, *, name: str) -> Array:
    """An array, tensor or list as an array; messages call it by its name."""
    if not isinstance(values, Tensor):
        return np.asarray(values)
    if values.is_meta:
        raise ValueError(f"Expected {name} with values but got a tensor of the device meta, which has none.")
    return values.detach().cpu().numpy()


def to_factors(factors: npt.ArrayLike, *, names: Sequence[str], sizes: Sequence[int]) -> Integers:
    """Factors (n, K), an array or tensor of integers, as int64; each is checked to lie on its grid."""
    array = to_array(factors, name="factors")
    if array.ndim != 2 or array.shape[1] != len(sizes):
        raise ValueError(
            f"Expected factors of shape (n, {len(sizes)}), a column for each of {', '.join(names)}, "
            f"but got shape {array.shape}."
        )
    if array.dtype.kind not in "iu":
        raise ValueError(
            f"Expected integer factors, which number the values of each from 0, but got dtype {array.dtype}."
        )
    _check_range(array, names, sizes)
    return array.astype(np.int64)


def _check_range(array: Array, names: Sequence[str], sizes: Sequence[int]) -> None:
    off = (array < 0) | (array >= np.asarray(sizes))  # (datum, factor)
    if not off.any():
        return
    row, column = (int(i) for i in np.argwhere(off)[0])
    raise ValueError(
        f"Expected factor {names[column]} in 0, ..., {sizes[column] - 1} but got {array[row, column]} "
        f"in row {row}."
    )


# ---- How often each combination of factors comes.

_MOST_DRAWS: Final = 2**48  # more than any memory holds

Where = Callable[[Integers], npt.NDArray[np.bool_]]
Correlated = Mapping[tuple[str, str], float]
_SMALLEST_SIGMA: Final = 1e-6  # far below the step of any factor: values that differ never come together


class FactorDistribution(abc.ABC):
    """The distribution :math:`p(v)` of K factors on a grid; its length is the number of its combinations."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = tuple(int(size) for size in sizes)

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def sample(self, n: int, random_state: np.random.RandomState) -> Integers:
        """Independent draws, (n, K)."""

    @abc.abstractmethod
    def combinations(self) -> Integers:
        """Each combination once, (len, K), the last factor changing fastest."""

    @abc.abstractmethod
    def log_prob(self, factors: Integers) -> Floats:
        """The log-probability of each row, (n,), in nats; minus infinity where it never comes."""

    @property
    @abc.abstractmethod
    def is_uniform(self) -> bool:
        """Whether all combinations come equally often."""

    def probabilities(self) -> Floats:
        """The probability of each of the :meth:`combinations`, (len,)."""
        return np.exp(self.log_prob(self.combinations()))


@final
class FullGrid(FactorDistribution):
    """Independent uniform factors, drawn column by column, as the field's reference draws them."""

    def __len__(self) -> int:
        return math.prod(self.sizes)

    def sample(self, n: int, random_state: np.random.RandomState) -> Integers:
        columns = [random_state.randint(size, size=n) for size in self.sizes]
        return np.stack(columns, axis=1).astype(np.int64)

    def combinations(self) -> Integers:
        return _unravelled(np.arange(len(self)), self.sizes)

    def log_prob(self, factors: Integers) -> Floats:
        return np.full(len(factors), -math.log(len(self)))

    @property
    def is_uniform(self) -> bool:
        return True


@final
class FactorTable(FactorDistribution):
    """Some combinations (C,) of the grid, by their place in it, ascending; each with its weight."""

    def __init__(self, sizes: Sequence[int], cells: Integers, log_weights: Floats | None = None) -> None:
        super().__init__(sizes)
        self._cells = cells
        uniform = log_weights is None or float(np.ptp(log_weights)) == 0
        self._log_prob = None if log_weights is None or uniform else log_weights - logsumexp(log_weights)

    def __len__(self) -> int:
        return len(self._cells)

    def sample(self, n: int, random_state: np.random.RandomState) -> Integers:
        return _unravelled(self._cells[self._places(n, random_state)], self.sizes)

    def combinations(self) -> Integers:
        return _unravelled(self._cells, self.sizes)

    def log_prob(self, factors: Integers) -> Floats:
        cells = to_cells(factors, self.sizes)
        places = np.searchsorted(self._cells, cells).clip(max=len(self) - 1)
        known = -math.log(len(self)) if self._log_prob is None else self._log_prob[places]
        return np.where(self._cells[places] == cells, known, -np.inf)

    @property
    def is_uniform(self) -> bool:
        return self._log_prob is None

    def _places(self, n: int, random_state: np.random.RandomState) -> Integers:
        if self._log_prob is None:
            return random_state.randint(len(self), size=n)
        reached = np.cumsum(np.exp(self._log_prob))
        return np.searchsorted(reached, reached[-1] * random_state.random_sample(n), side="right")


def to_distribution(
    names: Sequence[str],
    sizes: Sequence[int],
    *,
    where: Where | None = None,
    correlated: Correlated | None = None,
    cells: Integers | None = None,
    log_weights: Floats | None = None,
) -> FactorDistribution:
    r"""The distribution of factors with what is left out and what goes together.

    A correlated pair weighs each combination by :math:`\exp(-(u - v)^2 / (2 \sigma^2))`, where u and v are
    the two factors' values, their numbers scaled to [0, 1]. The combinations that there are at all are the
    cells, by their place in the grid, or those of the full grid.

    Reference:
        Träuble et al. (2021), *On Disentangled Representations Learned from Correlated Data*.
    """
    if correlated is not None and not isinstance(correlated, Mapping):
        raise ValueError(
            f"Expected correlated to be a mapping from pairs of names to sigma but got {correlated!r}."
        )
    if where is None and not correlated and cells is None:
        return FullGrid(sizes)
    cells = np.arange(math.prod(sizes)) if cells is None else cells
    weights = np.zeros(len(cells)) if log_weights is None else log_weights
    factors = _unravelled(cells, sizes)  # (combination, factor)
    kept = _allowed(factors, where)
    cells, factors, weights = cells[kept], factors[kept], weights[kept]
    for pair, sigma in (correlated or {}).items():
        weights = weights + _log_affinity(factors, pair, sigma, names, sizes)
    return FactorTable(sizes, cells, weights)


def to_cells(factors: Integers, sizes: Sequence[int]) -> Integers:
    """The place of each combination (n, K) in the grid, (n,), the last factor changing fastest."""
    return np.ravel_multi_index(tuple(factors.T), tuple(sizes)).astype(np.int64)


def _unravelled(cells: Integers, sizes: Sequence[int]) -> Integers:
    return np.stack(np.unravel_index(cells, tuple(sizes)), axis=1).astype(np.int64)


def _allowed(factors: Integers, where: Where | None) -> npt.NDArray[np.bool_]:
    if where is None:
        return np.ones(len(factors), dtype=bool)
    answer = np.asarray(where(factors))
    if answer.shape != (len(factors),) or answer.dtype != np.bool_:
        raise ValueError(
            f"Expected where to give a boolean for each combination, shape ({len(factors)},), but got "
            f"dtype {answer.dtype} and shape {answer.shape}."
        )
    if not answer.any():
        raise ValueError("Expected where to leave at least one combination of factors but it leaves none.")
    return answer


def _log_affinity(
    factors: Integers, pair: tuple[str, str], sigma: float, names: Sequence[str], sizes: Sequence[int]
) -> Floats:
    first, second = _columns(pair, names)
    if not _SMALLEST_SIGMA <= sigma < math.inf:
        raise ValueError(
            f"Expected a finite sigma >= {_SMALLEST_SIGMA} for the correlated pair {pair} but got {sigma!r}."
        )
    values = [factors[:, k] / max(sizes[k] - 1, 1) for k in (first, second)]
    return -np.square(values[0] - values[1]) / (2 * sigma**2)


def _columns(pair: tuple[str, str], names: Sequence[str]) -> tuple[int, int]:
    known = isinstance(pair, tuple) and len(pair) == 2 and pair[0] != pair[1] and set(pair) <= set(names)
    if not known:
        raise ValueError(
            f"Expected correlated to name pairs of two of the factors {', '.join(names)} but got {pair!r}."
        )
    return names.index(pair[0]), names.index(pair[1])


# ---- Where factors and nuisances are drawn from.

Seed = int | np.random.RandomState | None
_NUM_SEEDS = 2**32


def to_random_state(seed: Seed) -> np.random.RandomState:
    """NumPy's generator of a seed, so that its global state is never touched.

    The legacy generator, since a stream of it is the same for every version of NumPy, and since the scores of
    the field are defined with it. A generator is taken as it is and moves on; None draws the seed from
    torch's global generator, so that ``torch.manual_seed`` governs it.
    """
    if isinstance(seed, np.random.RandomState):
        return seed
    if seed is None:
        return np.random.RandomState(int(torch.randint(_NUM_SEEDS, (), device="cpu")))
    return np.random.RandomState(checked_seed(seed))


def checked_seed(seed: object) -> int:
    """The seed, if it is a number that starts NumPy's generator."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < _NUM_SEEDS:
        raise ValueError(f"Expected seed to be an integer from 0 to 2**32 - 1 but got {seed!r}.")
    return int(seed)


# ---- Observations that are made when a batch asks for them.

Render = Callable[[Integers, Seed], Tensor]


@final
class FactorImages(Dataset[Tensor]):
    """The observations of some factors, one datum each, as a torch ``Dataset`` that ``fit`` takes as data.

    A nuisance that is drawn, noise say, is drawn from a seed of each datum, so that a datum is the same
    whenever it is asked for: N points, as an empirical :math:`p_D(x)` has them.

    Args:
        render: from factors (n, K) and a seed to observations (n, \\*shape).
        factors: of each datum, (N, K).
        draws: whether the observations hold anything that is drawn.
        seed: of what is drawn; with its place in the data it seeds each datum.
    """

    def __init__(self, render: Render, factors: Integers, *, draws: bool, seed: int) -> None:
        self.factors = factors
        self._render = render
        self._draws = draws
        self._seed = seed

    def __len__(self) -> int:
        return len(self.factors)

    def __getitem__(self, index: int) -> Tensor:
        place = range(len(self))[operator.index(index)]
        # A pair, so that data of neighbouring seeds do not share the nuisances of neighbouring data
        random_state = np.random.RandomState([self._seed, place])
        return self._render(self.factors[place : place + 1], random_state)[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Tensor]:
        if self._draws:
            return [self[index] for index in indices]
        return list(self._render(self.factors[np.asarray(indices, dtype=np.int64)], None).unbind(0))


# ---- The base of all kinds.

_CHUNK = 1024


class FactorDataset(abc.ABC):
    r"""Observations of K discrete factors, each numbered from 0: :math:`v \sim p(v),\ x \sim p(x \mid v)`.

    Its length is the number of combinations of factors that may come. A kind defines ``observation_shape``
    and how observations are made; where anything in them is drawn, beyond the factors, it says so by
    ``draws``.

    Args:
        factor_names: of the K factors.
        distribution: of the factors.
    """

    #: Whether an observation has a nuisance that is drawn, such as noise, and that no factor counts.
    draws: bool = False

    def __init__(self, factor_names: tuple[str, ...], distribution: FactorDistribution) -> None:
        self.factor_names = factor_names
        self._distribution = distribution

    @property
    @abc.abstractmethod
    def observation_shape(self) -> tuple[int, ...]:
        """The shape of one observation."""

    @abc.abstractmethod
    def _observe(self, factors: Integers, seed: Seed) -> Tensor:
        """Observations of checked factors, (n, \\*shape) float32 in [0, 1]."""

    @property
    def factor_sizes(self) -> tuple[int, ...]:
        """The number of values of each factor."""
        return self._distribution.sizes

    @property
    def num_factors(self) -> int:
        """The number K of factors."""
        return len(self.factor_sizes)

    def __len__(self) -> int:
        return len(self._distribution)

    def sample_factors(self, n: int, *, seed: Seed = None) -> Integers:
        """Factors drawn from their distribution, with replacement.

        Args:
            n: how many.
            seed: a seed, or a ``RandomState``, which moves on; None draws from torch's global generator.

        Returns:
            (n, K) int64.

        Raises:
            ValueError: if n is no integer of at least 1.
        """
        count = whole_number("the number of draws", n, at_least=1, at_most=_MOST_DRAWS)
        return self._distribution.sample(count, to_random_state(seed))

    def observations(self, factors: npt.ArrayLike, *, seed: Seed = None) -> Tensor:
        """Observations of factors, whether or not they may come.

        Args:
            factors: array or tensor of integers, (n, K).
            seed: of the nuisances that are drawn, if there are any; as in :meth:`sample_factors`.

        Returns:
            (n, \\*shape) float32 in [0, 1].

        Raises:
            ValueError: for factors of another shape or kind, and for values off the grid.
        """
        checked = to_factors(factors, names=self.factor_names, sizes=self.factor_sizes)
        return self._observe(checked, seed)

    def sample(self, n: int, *, seed: Seed = None) -> tuple[Tensor, Integers]:
        """Draws of observations together with their factors.

        Args:
            n: how many.
            seed: as in :meth:`sample_factors`.

        Returns:
            Observations (n, \\*shape) and factors (n, K).
        """
        random_state = to_random_state(seed)
        factors = self.sample_factors(n, seed=random_state)
        return self._in_chunks(factors, random_state, progress=True), factors

    def all_factors(self) -> Integers:
        """Each combination that may come once, (len, K), the last factor changing fastest."""
        return self._distribution.combinations()

    def images_and_factors(self, *, seed: Seed = None, progress: bool = True) -> tuple[Tensor, Integers]:
        """An observation of each combination that may come, in one tensor: for grids that fit memory.

        Where combinations come unequally often, by :meth:`probabilities`, these are not draws: take
        :meth:`sample`, or :meth:`as_dataset` with a number of points, to train on what comes.

        Args:
            seed: as in :meth:`observations`.
            progress: whether there may be a bar.

        Returns:
            Observations (len, \\*shape) and factors (len, K), in the order of :meth:`all_factors`.
        """
        factors = self.all_factors()
        return self._in_chunks(factors, to_random_state(seed), progress=progress), factors

    def as_dataset(self, num_points: int | None = None, *, seed: int = 0) -> FactorImages:
        """The data as a torch ``Dataset``, whose observations are made batch by batch.

        Args:
            num_points: how many draws; None for each combination once.
            seed: of the draws, and of the nuisances of each datum; an integer, since these are made again
                whenever they are asked for.

        Returns:
            A ``Dataset`` with the factors of its data as ``factors``, (N, K).

        Raises:
            ValueError: for each combination once where they come unequally often, and for a seed that is no
                integer from 0 to 2**32 - 1.
        """
        if num_points is None and not self._distribution.is_uniform:
            raise ValueError(
                "Expected num_points, since these factors come unequally often and each once would be other "
                "data, but got None."
            )
        factors = self.all_factors() if num_points is None else self.sample_factors(num_points, seed=seed)
        return FactorImages(self._observe, factors, draws=self.draws, seed=checked_seed(seed))

    def log_prob(self, factors: npt.ArrayLike) -> Floats:
        """The logarithm of the probability that each row of factors comes, in nats.

        Args:
            factors: array or tensor of integers, (n, K).

        Returns:
            (n,), minus infinity for combinations that never come.
        """
        checked = to_factors(factors, names=self.factor_names, sizes=self.factor_sizes)
        return self._distribution.log_prob(checked)

    def probabilities(self) -> Floats:
        """The probability of each of :meth:`all_factors`, (len,)."""
        return self._distribution.probabilities()

    def _in_chunks(self, factors: Integers, random_state: np.random.RandomState, *, progress: bool) -> Tensor:
        images = torch.empty(len(factors), *self.observation_shape, dtype=torch.float32, device="cpu")
        starts = range(0, len(factors), _CHUNK)
        for start in patiently(starts, "observations", progress=progress):
            images[start : start + _CHUNK] = self._observe(factors[start : start + _CHUNK], random_state)
        return images
