"""The mixture of Normals by matrix products, tile by tile, without the tiles that cannot matter."""

import math
from functools import cached_property
from typing import Final, final

import torch
from torch import Tensor

from pyro_infomax.information.blocks import blocks
from pyro_infomax.information.leaves import Leaves, ordered
from pyro_infomax.information.logsumexp import RunningLogSumExp
from pyro_infomax.information.mixture import Mixture
from pyro_infomax.information.normal_components import NormalComponents

_LEAF: Final = 1024
_ROWS: Final = 512  # of a tile, which takes some 8 MB then
_BLOCK: Final = 4096  # points whose bounds are held at once
_BOUNDS_AT_ONCE: Final = 2**21
_CERTIFIED: Final = math.log(1e-12)
_ACCURATE: Final = 1e-10
# terms further below the largest than this may be off by what a matrix product leaves
_NEAR: Final = 40.0
_NUMBERS_AT_ONCE: Final = 2**19  # of pairs that are scored by differences
_WEIGHTS_KEPT: Final = 2**23
# leaves that are visited before the others, because they are likely to hold the largest terms
_ROUNDS: Final = 2


@final
class NormalMixture:
    r"""Points against all N components, as one matrix product a tile.

    A tile is a run of points against a leaf of neighbouring components. It is skipped for the points at
    which even the leaf's bound, N times over, is below :math:`10^{-12}` of what was found before, so that all
    that is skipped changes no log-density by more. Where the product may have cancelled, which it does for
    narrow components, the terms that count are computed again by differences.

    Args:
        components: N Normals.
        skip: whether to skip tiles.
    """

    def __init__(self, components: NormalComponents, *, skip: bool = True) -> None:
        self.size = len(components.loc)
        self.given = components
        self.skip = skip
        self._weights: dict[int, tuple[Tensor, Tensor]] = {}

    @cached_property
    def leaves(self) -> Leaves:
        return Leaves(self.given, size=_LEAF)

    @cached_property
    def _keeps(self) -> bool:
        return self.size * (self.given.features_per_point + 2) <= _WEIGHTS_KEPT

    def evaluate(self, z: Tensor, index: Tensor | None = None, *, progress: bool = False) -> Mixture:
        """The mixture at z (points, latent), with each point's own component left out where it is named."""
        others = self.log_sums(z, index, progress=progress)
        return Mixture.of(others, None if index is None else self.given.log_prob(z, index), self.size)

    def log_sums(
        self,
        z: Tensor,
        index: Tensor | None = None,
        *,
        floor: Tensor | None = None,
        progress: bool = False,
    ) -> Tensor:
        """log Σ_n N(z; n), (points,), without each point's own component where it is named.

        Args:
            z: (points, latent).
            index: (points,), the component that is left out of each point's sum, -1 for none.
            floor: (points,), the log of what will be added to the sums, beside which terms may be skipped.
            progress: show a bar when it takes long.
        """
        sums = torch.empty_like(z[:, 0])
        rows = max(1, min(_BLOCK, _BOUNDS_AT_ONCE // len(self.leaves)))
        finite = bool(z.isfinite().all())
        order = ordered(z, rows)[0] if self.skip and finite else torch.arange(len(z), device=z.device)
        for part in blocks(len(z), rows, "aggregate posterior", progress=progress):
            chosen = order[part]
            sums[chosen] = self._block(
                z[chosen],
                None if index is None else index[chosen],
                None if floor is None else floor[chosen],
            )
        return sums

    def _block(self, z: Tensor, index: Tensor | None, floor: Tensor | None) -> Tensor:
        visit = _Visit(self, z, index, floor)
        if not self.skip:
            for leaf in range(len(self.leaves)):
                visit.take(leaf, torch.arange(len(z), device=z.device))
            return visit.sums.result()
        for _ in range(min(_ROUNDS, len(self.leaves))):
            visit.take_best()
        visit.take_rest()
        return visit.sums.result()

    def weights(self, leaf: int) -> tuple[Tensor, Tensor]:
        """Weights (feature + 2, leaf): of the features, of 1, of the reference; and the largest of each."""
        known = self._weights.get(leaf)
        if known is not None:
            return known
        components, part = self.leaves.components, self.leaves.parts[leaf]
        weights, constants = components.weights(part, self.leaves.centre[leaf])
        whole = torch.cat([weights, constants[None], torch.full_like(constants[None], -1)])
        found = whole, whole.abs().amax(1)
        if self._keeps:
            self._weights[leaf] = found
        return found


@final
class _Visit:
    """A block of points on its way through the leaves."""

    def __init__(self, mixture: NormalMixture, z: Tensor, index: Tensor | None, floor: Tensor | None) -> None:
        self.mixture = mixture
        self.z = z
        self.floor = floor
        self.bounds = mixture.leaves.bounds(z)  # (points, leaf)
        self.sums = RunningLogSumExp(z[:, 0])
        self.home = None if index is None else self._homes(index)
        self.margin = _CERTIFIED - math.log(mixture.size)
        self.buffer = z.new_empty(min(_ROWS, len(z)) * mixture.leaves.largest)

    def _homes(self, index: Tensor) -> tuple[Tensor, Tensor]:
        leaf, column = self.mixture.leaves.home(index.clamp(min=0))
        return leaf.masked_fill(index < 0, -1), column

    def _least(self) -> Tensor:
        """What a leaf's bound has to exceed, (points,)."""
        found = self.sums.result()
        return (found if self.floor is None else torch.maximum(found, self.floor)) + self.margin

    def take_best(self) -> None:
        """Each point visits the leaf with its highest bound."""
        highest, best = self.bounds.max(1)
        best = best.masked_fill(highest <= self._least(), -1)
        order = best.argsort()
        leaves, counts = best[order].unique_consecutive(return_counts=True)
        for leaf, rows in zip(leaves.tolist(), order.split(counts.tolist()), strict=True):
            if leaf >= 0:
                self.take(leaf, rows)
                self.bounds[rows, leaf] = -torch.inf

    def take_rest(self) -> None:
        """Points visit all other leaves that may matter to them, the most wanted first."""
        wanted = (self.bounds > self._least()[:, None]).sum(0)
        leaves = wanted.argsort(descending=True)[: int((wanted > 0).sum())]
        for leaf in leaves.tolist():
            (rows,) = torch.where(self.bounds[:, leaf] > self._least())
            if len(rows):
                self.take(leaf, rows)

    def take(self, leaf: int, rows: Tensor) -> None:
        for some in rows.split(_ROWS):
            self._tile(leaf, some)

    def _tile(self, leaf: int, rows: Tensor) -> None:
        relative = self.sums.bears(rows, self.bounds[rows, leaf])
        reference = self.sums.reference[rows] if relative else torch.zeros_like(self.z[rows, 0])
        features = self._features(leaf, rows, reference)
        weights, largest = self.mixture.weights(leaf)
        tile = torch.mm(features, weights, out=self._buffer(len(rows), weights.shape[1]))
        if self.home is not None:
            (own,) = torch.where(self.home[0][rows] == leaf)
            tile[own, self.home[1][rows[own]]] = -torch.inf
        error = 2 * torch.finfo(tile.dtype).eps * (features.abs() @ largest)  # (rows,)
        if bool((error > _ACCURATE).any()):
            self._refine(tile, leaf, rows, reference, error)
        if relative:
            self.sums.add_relative(rows, tile)
        else:
            self.sums.add(rows, tile)

    def _buffer(self, rows: int, columns: int) -> Tensor:
        """One piece of memory for all tiles: asking for it anew costs as much as filling it."""
        return self.buffer[: rows * columns].view(rows, columns)

    def _features(self, leaf: int, rows: Tensor, reference: Tensor) -> Tensor:
        centred = self.z[rows] - self.mixture.leaves.centre[leaf]
        features = self.mixture.leaves.components.features(centred)
        return torch.cat([features, torch.ones_like(centred[:, :1]), reference[:, None]], 1)

    def _refine(self, tile: Tensor, leaf: int, rows: Tensor, reference: Tensor, error: Tensor) -> None:
        """Put exact scores in the place of all that may count."""
        least = torch.maximum(tile.amax(1), self.sums.reference[rows] - reference) - _NEAR - 2 * error
        near, column = torch.where(tile >= least[:, None])
        start = self.mixture.leaves.parts[leaf].start
        at_once = max(1, _NUMBERS_AT_ONCE // self.mixture.given.features_per_point)
        for i, n in zip(near.split(at_once), column.split(at_once), strict=True):
            exact = self.mixture.leaves.components.log_prob(self.z[rows[i]], start + n)
            tile[i, n] = exact - reference[i]
