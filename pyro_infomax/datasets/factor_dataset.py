"""Data whose true factors are known."""

import abc
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_infomax.datasets.draws import Seed, checked_seed, to_random_state
from pyro_infomax.datasets.factor_checks import Factors, to_factors
from pyro_infomax.datasets.factor_distribution import FactorDistribution
from pyro_infomax.datasets.factor_images import FactorImages
from pyro_infomax.progress import patiently

_CHUNK = 1024
_Floats = npt.NDArray[np.float64]


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
    def _observe(self, factors: Factors, seed: Seed) -> Tensor:
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

    def sample_factors(self, n: int, *, seed: Seed = None) -> Factors:
        """Factors drawn from their distribution, with replacement.

        Args:
            n: how many.
            seed: a seed, or a ``RandomState``, which moves on; None draws from torch's global generator.

        Returns:
            (n, K) int64.

        Raises:
            ValueError: if n is no integer of at least 1.
        """
        return self._distribution.sample(_checked_count(n), to_random_state(seed))

    def observations(self, factors: Any, *, seed: Seed = None) -> Tensor:
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

    def sample(self, n: int, *, seed: Seed = None) -> tuple[Tensor, Factors]:
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

    def all_factors(self) -> Factors:
        """Each combination that may come once, (len, K), the last factor changing fastest."""
        return self._distribution.combinations()

    def images_and_factors(self, *, seed: Seed = None, progress: bool = True) -> tuple[Tensor, Factors]:
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

    def log_prob(self, factors: Any) -> _Floats:
        """The logarithm of the probability that each row of factors comes, in nats.

        Args:
            factors: array or tensor of integers, (n, K).

        Returns:
            (n,), minus infinity for combinations that never come.
        """
        checked = to_factors(factors, names=self.factor_names, sizes=self.factor_sizes)
        return self._distribution.log_prob(checked)

    def probabilities(self) -> _Floats:
        """The probability of each of :meth:`all_factors`, (len,)."""
        return self._distribution.probabilities()

    def _in_chunks(self, factors: Factors, random_state: np.random.RandomState, *, progress: bool) -> Tensor:
        images = torch.empty(len(factors), *self.observation_shape, dtype=torch.float32, device="cpu")
        starts = range(0, len(factors), _CHUNK)
        for start in patiently(starts, "observations", progress=progress):
            images[start : start + _CHUNK] = self._observe(factors[start : start + _CHUNK], random_state)
        return images


def _checked_count(n: Any) -> int:
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"Expected the number of draws to be an integer >= 1 but got {n!r}.")
    return int(n)
