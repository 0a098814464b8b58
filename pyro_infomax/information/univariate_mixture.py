"""The mixture of univariate Normals, band by band of their scales, on a grid where that is quicker."""

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Final, final

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from pyro_infomax.information.mixture import Mixture
from pyro_infomax.information.normal_components import DiagonalNormals
from pyro_infomax.information.normal_mixture import NormalMixture

# below so many pairs one pass is quicker than any plan
_WORTH_A_PLAN: Final = 2**22
_BAND: Final = 4.0  # between the scales that stand together
_STEPS_PER_SCALE: Final = 4
_TOLERANCE: Final = 1e-6
# a cubic spline on twice the step errs 16 times as much
_COARSENING: Final = 16
_OUTSIDE: Final = 5.0  # scales beyond the outermost means, where the grid ends
_APART: Final = 16.0  # scales between points that do not share a grid
_CROWD: Final = 64  # points that are worth a grid of their own
_UNCERTAIN: Final = 0.5


@final
class UnivariateMixture:
    r"""log q(z_j) for N univariate Normals, to some 1e-6, and exactly where that is as cheap.

    Components of like scale (within a factor of four) stand together. Each such band is evaluated exactly
    at the points or, where that takes fewer evaluations, on a grid of a quarter of its least scale under each
    crowd of points, from which a cubic spline of the log-density reaches them. The spline is checked half-way
    between the nodes of twice the step; where it would miss by more than the tolerance, as in the gaps
    between far components, the points are evaluated exactly.

    Args:
        loc: (N,), float64.
        scale: (N,), float64.
    """

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc = loc
        self.scale = scale
        self.size = len(loc)
        self.whole = DiagonalNormals(loc[:, None], scale[:, None])

    def evaluate(self, z: Tensor, index: Tensor | None = None) -> Mixture:
        """The mixture at z (points,), with each point's own component left out where it is named."""
        sums = self._log_sums(z)
        if index is None:
            return Mixture.of(sums, None, self.size)
        own = self.whole.log_prob(z[:, None], index)
        share = (own - sums).exp().clamp(max=1.0)
        others = sums + torch.log1p(-share)
        (unsure,) = torch.where(~(share < _UNCERTAIN))  # a difference of near equals
        others[unsure] = self._log_sums(z[unsure], index[unsure])
        return Mixture.of(others, own, self.size)

    def _log_sums(self, z: Tensor, index: Tensor | None = None) -> Tensor:
        if len(z) * self.size <= _WORTH_A_PLAN:
            return self._together.log_sums(z[:, None], index)
        total = torch.full_like(z, -torch.inf)
        for band in self._bands:
            total = torch.logaddexp(total, band.log_sums(z, index, floor=total))
        return total

    @cached_property
    def _together(self) -> NormalMixture:
        return NormalMixture(self.whole)

    @cached_property
    def _bands(self) -> list["_Band"]:
        """The widest first: beside them most of the others do not matter at a point."""
        band = (self.scale.log() / math.log(_BAND)).floor()
        return [_Band(self.whole, members) for members in _groups(band)]


@final
class _Band:
    """Components whose scales are within a factor of four."""

    def __init__(self, whole: DiagonalNormals, members: Tensor) -> None:
        components = whole[members]
        self.mixture = NormalMixture(components)
        self.members = members
        self.scale = float(components.scale.min())
        self.low = float(components.loc.min()) - _OUTSIDE * self.scale
        self.high = float(components.loc.max()) + _OUTSIDE * self.scale

    def log_sums(self, z: Tensor, index: Tensor | None, floor: Tensor) -> Tensor:
        if index is not None:
            return self.mixture.log_sums(z[:, None], self._position(index), floor=floor)
        (within,) = torch.where((z >= self.low) & (z <= self.high))
        sums = torch.full_like(z, torch.nan)
        for crowd in _crowds(z[within], _APART * self.scale):
            chosen = within[crowd]
            grid = self._grid(z[chosen])
            if grid is not None:
                sums[chosen] = grid(z[chosen])
        (left,) = torch.where(sums.isnan())
        sums[left] = self.mixture.log_sums(z[left, None], floor=floor[left])
        return sums

    def _position(self, index: Tensor) -> Tensor:
        """Where components stand among the members, which ascend; -1 where they do not."""
        place = torch.searchsorted(self.members, index).clamp(max=len(self.members) - 1)
        return place.masked_fill(self.members[place] != index, -1)

    def _grid(self, z: Tensor) -> "_Grid | None":
        """None where it would have more nodes than there are points."""
        low, high = float(z.min()), float(z.max())
        cells = max(2, math.ceil((high - low) / self.scale * _STEPS_PER_SCALE / 2))
        if 2 * cells + 1 >= len(z):
            return None
        nodes = torch.linspace(low, high, 2 * cells + 1, dtype=z.dtype, device=z.device)
        return _Grid(nodes, self.mixture.log_sums(nodes[:, None]))


@final
class _Grid:
    """A cubic spline through an odd number of nodes, nan in the cells where it may miss.

    Args:
        nodes: (2 cells + 1,), equally spaced.
        values: at the nodes.
    """

    def __init__(self, nodes: Tensor, values: Tensor) -> None:
        x, y = nodes.cpu().numpy(), values.cpu().numpy()
        self.spline = CubicSpline(x, y)
        missed = np.abs(CubicSpline(x[::2], y[::2])(x[1::2]) - y[1::2]) > _COARSENING * _TOLERANCE
        self.trusted = ~np.convolve(missed, np.ones(5), mode="same").astype(bool)  # with two cells about each
        self.low, self.step = x[0], x[2] - x[0]

    def __call__(self, z: Tensor) -> Tensor:
        x = z.cpu().numpy()
        cell = ((x - self.low) / self.step).astype(int).clip(0, len(self.trusted) - 1)
        return torch.from_numpy(np.where(self.trusted[cell], self.spline(x), np.nan)).to(z)


def _crowds(z: Tensor, apart: float) -> Iterator[Tensor]:
    """Positions of points without a gap wider than ``apart`` among them."""
    order = z.argsort()
    (gaps,) = torch.where(z[order].diff() > apart)
    return (crowd for crowd in order.tensor_split((gaps + 1).tolist()) if len(crowd) >= _CROWD)


def _groups(key: Tensor) -> Iterator[Tensor]:
    """Positions of equal keys, ascending, from the largest key to the smallest."""
    order = key.argsort(descending=True, stable=True)
    _, counts = key[order].unique_consecutive(return_counts=True)
    yield from order.split(counts.tolist())
