"""Observations that are made when a batch asks for them."""

import operator
from collections.abc import Callable, Sequence
from typing import final

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from pyro_infomax.datasets.draws import Seed
from pyro_infomax.datasets.factor_checks import Factors

Render = Callable[[Factors, Seed], Tensor]


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

    def __init__(self, render: Render, factors: Factors, *, draws: bool, seed: int) -> None:
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
