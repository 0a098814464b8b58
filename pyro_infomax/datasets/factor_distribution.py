"""How often each combination of factors comes."""

import abc
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from pyro_infomax.datasets.factor_checks import Factors

Where = Callable[[Factors], npt.NDArray[np.bool_]]
Correlated = Mapping[tuple[str, str], float]
_Floats = npt.NDArray[np.float64]
_SMALLEST_SIGMA: Final = 1e-6  # far below the step of any factor: values that differ never come together


class FactorDistribution(abc.ABC):
    """The distribution :math:`p(v)` of K factors on a grid; its length is the number of its combinations.

    Args:
        sizes: number of values of each factor.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = tuple(int(size) for size in sizes)

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def sample(self, n: int, random_state: np.random.RandomState) -> Factors:
        """Independent draws, (n, K)."""

    @abc.abstractmethod
    def combinations(self) -> Factors:
        """Each combination once, (len, K), the last factor changing fastest."""

    @abc.abstractmethod
    def log_prob(self, factors: Factors) -> _Floats:
        """The log-probability of each row, (n,), in nats; minus infinity where it never comes."""

    @property
    @abc.abstractmethod
    def is_uniform(self) -> bool:
        """Whether all combinations come equally often."""

    def probabilities(self) -> _Floats:
        """The probability of each of the :meth:`combinations`, (len,)."""
        return np.exp(self.log_prob(self.combinations()))


@final
class FullGrid(FactorDistribution):
    """Independent uniform factors, drawn column by column, as the field's reference draws them."""

    def __len__(self) -> int:
        return math.prod(self.sizes)

    def sample(self, n: int, random_state: np.random.RandomState) -> Factors:
        columns = [random_state.randint(size, size=n) for size in self.sizes]
        return np.stack(columns, axis=1).astype(np.int64)

    def combinations(self) -> Factors:
        return _unravelled(np.arange(len(self)), self.sizes)

    def log_prob(self, factors: Factors) -> _Floats:
        return np.full(len(factors), -math.log(len(self)))

    @property
    def is_uniform(self) -> bool:
        return True


@final
class FactorTable(FactorDistribution):
    """Some combinations of the grid, each with its weight.

    Args:
        sizes: number of values of each factor.
        cells: the combinations, by their place in the grid, ascending, (C,).
        log_weights: (C,), up to a constant; None for equal ones.
    """

    def __init__(
        self, sizes: Sequence[int], cells: npt.NDArray[np.int64], log_weights: _Floats | None = None
    ) -> None:
        super().__init__(sizes)
        self._cells = cells
        uniform = log_weights is None or float(np.ptp(log_weights)) == 0
        self._log_prob = None if log_weights is None or uniform else log_weights - logsumexp(log_weights)

    def __len__(self) -> int:
        return len(self._cells)

    def sample(self, n: int, random_state: np.random.RandomState) -> Factors:
        return _unravelled(self._cells[self._places(n, random_state)], self.sizes)

    def combinations(self) -> Factors:
        return _unravelled(self._cells, self.sizes)

    def log_prob(self, factors: Factors) -> _Floats:
        cells = to_cells(factors, self.sizes)
        places = np.searchsorted(self._cells, cells).clip(max=len(self) - 1)
        known = -math.log(len(self)) if self._log_prob is None else self._log_prob[places]
        return np.where(self._cells[places] == cells, known, -np.inf)

    @property
    def is_uniform(self) -> bool:
        return self._log_prob is None

    def _places(self, n: int, random_state: np.random.RandomState) -> npt.NDArray[np.int64]:
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
    cells: npt.NDArray[np.int64] | None = None,
    log_weights: _Floats | None = None,
) -> FactorDistribution:
    r"""The distribution of factors with what is left out and what goes together.

    A correlated pair weighs each combination by :math:`\exp(-(u - v)^2 / (2 \sigma^2))`, where u and v are
    the two factors' values, their numbers scaled to [0, 1].

    Reference:
        Träuble et al. (2021), *On Disentangled Representations Learned from Correlated Data*.

    Args:
        names: of the K factors.
        sizes: of the K factors.
        where: from combinations (n, K) to whether each may come, (n,).
        correlated: from a pair of names to its :math:`\sigma \ge 10^{-6}`; the smaller, the stronger.
        cells: the combinations that there are at all, by their place in the grid; None for the full grid.
        log_weights: of these cells; None for equal ones.

    Raises:
        ValueError: for unknown names, a sigma that is too small, a predicate that does not answer for each
            combination, and where nothing is left.
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


def to_cells(factors: Factors, sizes: Sequence[int]) -> npt.NDArray[np.int64]:
    """The place of each combination (n, K) in the grid, (n,), the last factor changing fastest."""
    return np.ravel_multi_index(tuple(factors.T), tuple(sizes)).astype(np.int64)


def _unravelled(cells: npt.NDArray[np.int64], sizes: Sequence[int]) -> Factors:
    return np.stack(np.unravel_index(cells, tuple(sizes)), axis=1).astype(np.int64)


def _allowed(factors: Factors, where: Where | None) -> npt.NDArray[np.bool_]:
    if where is None:
        return np.ones(len(factors), dtype=bool)
    answer: Any = np.asarray(where(factors))
    if answer.shape != (len(factors),) or answer.dtype != np.bool_:
        raise ValueError(
            f"Expected where to give a boolean for each combination, shape ({len(factors)},), but got "
            f"dtype {answer.dtype} and shape {answer.shape}."
        )
    if not answer.any():
        raise ValueError("Expected where to leave at least one combination of factors but it leaves none.")
    return answer


def _log_affinity(
    factors: Factors, pair: tuple[str, str], sigma: float, names: Sequence[str], sizes: Sequence[int]
) -> _Floats:
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
