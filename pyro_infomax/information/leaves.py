"""Components in runs of neighbours, so that whole runs can be shown not to matter."""

from collections.abc import Callable, Sequence
from typing import Final, final

import numpy as np
import torch
from sklearn.neighbors import KDTree
from torch import Tensor

from pyro_infomax.information.normal_components import NormalComponents

_ROWS_AT_ONCE: Final = 64
# how much a factor e between scales counts, in typical scales of distance between means
_WORTH_OF_A_SCALE: Final = 4.0


@final
class Leaves:
    """Components ordered in space and by scale, in runs ("leaves") of one to two times ``size``.

    Args:
        components: N components.
        size: of a leaf.

    Attributes:
        components: in their new order.
        rank: (N,), where each component stands now.
        parts: the leaves, slices of the new order.
        centre: (leaf, latent), of the box that holds a leaf's means.
    """

    def __init__(self, components: NormalComponents, *, size: int) -> None:
        order, stops = ordered(_coordinates(components), size)
        self.components = components[order]
        self.rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        self.parts = [slice(start, stop) for start, stop in zip([0, *stops], stops, strict=False)]
        self._stops = torch.tensor(stops, device=order.device)
        low, high = self._each(lambda part: self.components.loc[part].aminmax(dim=0))
        self.centre = (low + high) / 2
        self._reach = (high - low) / 2
        (self._decay,) = self._each(lambda part: (self.components.decay(part).amin(0),))
        (self._peak,) = self._each(lambda part: (self.components.peak[part].amax(0),))

    def __len__(self) -> int:
        return len(self.parts)

    @property
    def largest(self) -> int:
        """The number of components of the largest leaf."""
        return max(part.stop - part.start for part in self.parts)

    def _each(self, extremes: Callable[[slice], Sequence[Tensor]]) -> list[Tensor]:
        """Extremes of every leaf, (leaf, ...) each."""
        return [torch.stack(each) for each in zip(*map(extremes, self.parts), strict=True)]

    def home(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Leaf and column within it of components, by their old numbers."""
        rank = self.rank[index]
        leaf = torch.searchsorted(self._stops, rank, right=True)
        starts = torch.cat([self._stops.new_zeros(1), self._stops])
        return leaf, rank - starts[leaf]

    def bounds(self, z: Tensor) -> Tensor:
        """No component of a leaf has a higher log-density at a point than this, (points, leaf)."""
        bounds = self._peak.repeat(len(z), 1)
        for some, bound in zip(z.split(_ROWS_AT_ONCE), bounds.split(_ROWS_AT_ONCE), strict=True):
            for j, z_j in enumerate(some.T):
                outside = (z_j[:, None] - self.centre[:, j]).abs_().sub_(self._reach[:, j]).clamp_(min=0)
                outside.mul_(self._decay[:, j])
                bound.addcmul_(outside, outside, value=-1)
        return bounds


def ordered(points: Tensor, size: int) -> tuple[Tensor, list[int]]:
    """An order of points in which neighbours stand together, and where its runs of ``size`` or more stop."""
    if len(points) <= size:
        return torch.arange(len(points), device=points.device), [len(points)]
    _, order, nodes, _ = KDTree(points.cpu().numpy(), leaf_size=size).get_arrays()
    stops = nodes["idx_end"][nodes["is_leaf"].astype(bool)]
    return torch.from_numpy(np.array(order)).to(points.device), sorted(stops.tolist())


def _coordinates(components: NormalComponents) -> Tensor:
    """Means in units of a typical scale, and the scales where they differ."""
    decay = components.decay()
    typical = decay.median(0).values
    means = (components.loc - components.loc.mean(0)).mul_(typical)
    spread = (decay / typical).log_()
    differ = spread.amax(0) > spread.amin(0)
    return torch.cat([means, _WORTH_OF_A_SCALE * spread[:, differ]], 1) if bool(differ.any()) else means
