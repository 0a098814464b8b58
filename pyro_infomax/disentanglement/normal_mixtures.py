"""Mixtures of many one-dimensional Normals, grouped in many ways at once."""

import math
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, final

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline, make_interp_spline

from pyro_infomax.disentanglement.sample import Floats, Integers

__all__ = ["NormalMixtures"]

_REACH: Final = 7.0  # scales beyond which a component counts as nothing
_STEPS_PER_SCALE: Final = 4
_MARGIN: Final = 8  # nodes at either end of a stretch of the grid
_DEGREE: Final = 5
_BAND: Final = 2.0  # between the scales that stand together
_BLOCK: Final = 2**21  # pairs at once


class _Pairs(NamedTuple):
    """Some components and places that are in reach of each other."""

    component: Integers
    place: Integers
    density: Floats


@final
class NormalMixtures:
    r"""The log-densities of groups of Normals, each at draws of its own components.

    A labelling puts every component :math:`\mathcal{N}(\mu_i, \sigma_i^2)` into a group. For a draw
    :math:`z` of component i, which is in group g,

    .. math:: \log q(z \mid g) = \log \frac{1}{n_g} \sum_{i' \in g} \mathcal{N}(z; \mu_{i'}, \sigma_{i'}^2) .

    Only pairs within seven scales of each other are computed, once for all labellings. Components of like
    scale are taken together, at the draws themselves or, where that takes fewer numbers, on a grid of a
    quarter of their least scale from which a quintic spline of the log-density reaches the draws: the mean
    over the draws errs by less than 1e-6.

    Args:
        loc: (n,)
        scale: (n,), above 0.
        draws: (m,)
        owner: (m,) the component that each draw is of.
    """

    def __init__(self, loc: Floats, scale: Floats, draws: Floats, owner: Integers) -> None:
        unit = float(scale.min())
        middle = float(np.median(loc))
        self._loc, self._scale, self._draws = (loc - middle) / unit, scale / unit, (draws - middle) / unit
        self._owner = owner
        self._unit = unit

    def log_densities(self, labels: Integers) -> Floats:
        """Of each draw in the group of its component.

        Args:
            labels: (n, T) the group of each component, from 0 on, in T labellings.

        Returns:
            (m, T)

        Example:
            >>> mixtures = NormalMixtures(np.array([0.0, 0.0, 5.0]), np.ones(3), np.zeros(1), np.array([0]))
            >>> mixtures.log_densities(np.array([[0, 0], [0, 0], [0, 1]])).round(2)
            array([[-1.32, -0.92]])
        """
        sums = np.zeros((len(self._draws), labels.shape[1]))
        for members in _bands(self._scale):
            sums += self._sums(members, labels)
        sizes = np.stack([np.bincount(column)[column[self._owner]] for column in labels.T], axis=1)
        logs: Floats = np.log(sums / sizes) - math.log(self._unit * math.sqrt(2 * math.pi))
        return logs

    def _sums(self, members: Integers, labels: Integers) -> Floats:
        loc, scale = self._loc[members], self._scale[members]
        own = labels[self._owner]
        grid = _Grid(loc, scale)
        order = np.argsort(self._draws)
        draws = self._draws[order]
        if _count(loc, scale, draws) <= grid.cost(float(labels.max(axis=0).mean() + 1)):
            sums = np.empty((len(draws), labels.shape[1]))
            sums[order] = _direct(loc, scale, draws, labels[members], own[order])
            return sums
        return grid.sums(self._draws, labels[members], own)


def _direct(loc: Floats, scale: Floats, draws: Floats, labels: Integers, own: Integers) -> Floats:
    """The sums over the components that share a draw's group, without a grid; ``draws`` ascend."""
    sums = np.zeros(own.shape)
    for component, place, density in _pairs(loc, scale, draws):
        for t in range(own.shape[1]):
            alike = labels[component, t] == own[place, t]
            sums[:, t] += np.bincount(place, weights=density * alike, minlength=len(draws))
    return sums


@final
class _Grid:
    """Equally spaced nodes wherever components reach; where none does, stretches of nodes end.

    Args:
        loc: (n,) of components of like scale.
        scale: (n,)
    """

    def __init__(self, loc: Floats, scale: Floats) -> None:
        self._loc, self._scale = loc, scale
        self._step = float(scale.min()) / _STEPS_PER_SCALE
        reach = _REACH * float(scale.max()) + _MARGIN * self._step
        order = np.sort(loc)
        (gaps,) = np.nonzero(np.diff(order) > 2 * reach)
        self._starts = order[np.r_[0, gaps + 1]] - reach
        ends = order[np.r_[gaps, len(order) - 1]] + reach
        self._lengths = np.ceil((ends - self._starts) / self._step).astype(np.int64) + 1
        self._offsets = np.r_[0, np.cumsum(self._lengths)[:-1]]

    @property
    def size(self) -> int:
        return int(self._lengths.sum())

    def cost(self, groups: float) -> float:
        """Roughly the numbers that a labelling takes."""
        return float((2 * _REACH * self._scale / self._step).sum()) + 2 * _DEGREE * self.size * groups

    def sums(self, draws: Floats, labels: Integers, own: Integers) -> Floats:
        """(m, T) the sums over the components of each draw's group, 0 beyond the reach of all."""
        stretch = np.searchsorted(self._starts, draws, side="right") - 1
        within = (draws - self._starts[stretch]) / self._step
        (near,) = np.nonzero((stretch >= 0) & (within <= self._lengths[stretch] - 1))
        position = self._offsets[stretch[near]] + within[near]
        between = _Between(position, self.size)
        sums = np.zeros(own.shape)
        # empty nodes get what a single component has at the end of its reach, for the spline's sake
        floor = math.exp(-(_REACH**2) / 2) / float(self._scale.max())
        for t, table in enumerate(self._tables(labels, own)):
            values = between(np.log(np.maximum(table, floor)), own[near, t])
            sums[near, t] = np.where(values > math.log(2 * floor), np.exp(values), 0.0)
        return sums

    def _tables(self, labels: Integers, own: Integers) -> list[Floats]:
        """For each labelling the sums (node, group)."""
        groups = np.maximum(labels.max(axis=0), own.max(axis=0)) + 1
        tables = [np.zeros(self.size * size) for size in groups]
        for component, place, density in _pairs(self._loc, self._scale, self._nodes()):
            for t, size in enumerate(groups):
                cell = place * size + labels[component, t]
                tables[t] += np.bincount(cell, weights=density, minlength=len(tables[t]))
        return [table.reshape(self.size, size) for table, size in zip(tables, groups, strict=True)]

    def _nodes(self) -> Floats:
        stretch = np.repeat(np.arange(len(self._starts)), self._lengths)
        nodes: Floats = self._starts[stretch] + (np.arange(self.size) - self._offsets[stretch]) * self._step
        return nodes


@final
class _Between:
    """Splines through tables of one length, at positions between their nodes.

    Args:
        position: (m,) in steps from the first node.
        size: number of nodes.
    """

    def __init__(self, position: Floats, size: int) -> None:
        self._nodes = np.arange(float(size))
        inner = (_DEGREE + 1) // 2
        ends = np.full(_DEGREE + 1, size - 1.0)
        self._knots = np.concatenate([0 * ends, self._nodes[inner:-inner], ends])
        basis = BSpline.design_matrix(position, self._knots, _DEGREE)
        self._index, self._weights = (
            part.reshape(len(position), _DEGREE + 1) for part in (basis.indices, basis.data)
        )

    def __call__(self, table: Floats, column: Integers) -> Floats:
        """The table (node, group), for each position in one of its columns."""
        coefficients = make_interp_spline(self._nodes, table, k=_DEGREE, t=self._knots).c
        values: Floats = (self._weights * coefficients[self._index, column[:, None]]).sum(axis=1)
        return values


def _bands(scale: Floats) -> Iterator[Integers]:
    """Components whose scales are within a factor of two."""
    band = np.floor(np.log(scale) / math.log(_BAND))
    return (np.flatnonzero(band == value) for value in np.unique(band))


def _windows(loc: Floats, scale: Floats, places: Floats) -> tuple[Integers, Integers]:
    """The first place in reach of each component, and how many there are."""
    first = np.searchsorted(places, loc - _REACH * scale)
    # a scale may be lost beside its mean, and a place in the middle still is in reach
    return first, np.searchsorted(places, loc + _REACH * scale, side="right") - first


def _count(loc: Floats, scale: Floats, places: Floats) -> int:
    return int(_windows(loc, scale, places)[1].sum())


def _pairs(loc: Floats, scale: Floats, places: Floats) -> Iterator[_Pairs]:
    """All pairs in reach, in blocks; ``places`` ascend, and densities are in units of 1/√(2π)."""
    first, counts = _windows(loc, scale, places)
    total = np.cumsum(counts)
    cuts = np.searchsorted(total, np.arange(_BLOCK, total[-1], _BLOCK), side="left")
    for block in np.split(np.arange(len(loc)), cuts):
        if len(block):
            yield _paired(block, loc, scale, places, first, counts)


def _paired(
    block: NDArray[Any], loc: Floats, scale: Floats, places: Floats, first: Integers, counts: Integers
) -> _Pairs:
    component = np.repeat(block, counts[block])
    start = np.cumsum(counts[block]) - counts[block]
    place = np.arange(len(component)) + np.repeat(first[block] - start, counts[block])
    distance = (places[place] - loc[component]) / scale[component]
    return _Pairs(component, place, np.exp(-0.5 * distance * distance) / scale[component])
