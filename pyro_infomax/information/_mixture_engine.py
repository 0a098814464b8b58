"""The log-density of a mixture of N posteriors at M points, exact and in flat memory.

Normals take the quick way: a tile of scores is one matrix product of features of the points and weights of
the components, and tiles that provably do not matter are never computed. Their univariate marginals are read
off a grid where that is quicker still. All other posteriors, and all gradients, go through ``log_prob``.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol, Self, TypeVar, cast, final

import numpy as np
import torch
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal

from pyro_infomax._progress import patiently
from pyro_infomax.distributions import Density, Marginals, diagonal_normal, is_parametric, marginals_of

# ---- What an evaluation finds.


@final
@dataclass(frozen=True)
class MixtureScores:
    """The log-density of an equally weighted mixture, with and without the own component of each point.

    ``leave_one_out`` is None when no own component was named, and nan for a mixture of one component.
    """

    log_prob: Tensor  # (points,) or (points, latent)
    leave_one_out: Tensor | None

    @classmethod
    def of(cls, others: Tensor, own: Tensor | None, size: int) -> "MixtureScores":
        """From the log-sums over the other components: subtracting from the full sum would cancel."""
        if own is None:
            return cls(others - math.log(size), None)
        left = others - math.log(size - 1) if size > 1 else torch.full_like(others, math.nan)
        return cls(torch.logaddexp(others, own) - math.log(size), left)

    @property
    def last(self) -> "MixtureScores":
        """The last column of several."""
        left = self.leave_one_out
        return MixtureScores(self.log_prob[..., -1], None if left is None else left[..., -1])

    def less(self, stretch: Tensor) -> "MixtureScores":
        """The densities of what a map stretches by this log-volume."""
        if stretch.dim() and not any(stretch.stride()):  # one number for all, which is that of no map: 0
            return self
        left = self.leave_one_out
        return MixtureScores(self.log_prob - stretch, None if left is None else left - stretch)

    @classmethod
    def cat(cls, parts: Sequence["MixtureScores"]) -> "MixtureScores":
        left = [part.leave_one_out for part in parts if part.leave_one_out is not None]
        return cls(torch.cat([part.log_prob for part in parts]), torch.cat(left) if left else None)

    @classmethod
    def stack(cls, parts: Sequence["MixtureScores"]) -> "MixtureScores":
        """Latent dimensions side by side."""
        left = [part.leave_one_out for part in parts if part.leave_one_out is not None]
        joint = torch.stack([part.log_prob for part in parts], dim=-1)
        return cls(joint, torch.stack(left, dim=-1) if left else None)


# ---- Runs over many points, some at a time.


def blocks(points: int, rows: int, name: str, *, progress: bool = True) -> Iterator[slice]:
    """Slices of at most ``rows`` points each, one at least, under a bar when they take long."""
    starts = range(0, max(1, points), rows)
    return (slice(start, start + rows) for start in patiently(starts, name, progress=progress))


# ---- A log-sum-exp over columns that arrive tile by tile.

# exp of anything lower is subnormal, and costs 50 to 100 times as much
_LOWEST_EXPONENT: Final = -700.0
_HIGHEST_EXPONENT: Final = 300.0


@final
class RunningLogSumExp:
    """log Σ_n exp(t_mn) for rows m, in memory that does not grow with the columns n."""

    def __init__(self, like: Tensor) -> None:
        # a finite start, so that a tile of -inf alone does not turn into inf - inf
        self.reference = torch.full_like(like, torch.finfo(like.dtype).min)  # (rows,)
        self.total = torch.zeros_like(like)  # (rows,)

    def bears(self, rows: Tensor, bound: Tensor) -> bool:
        """Whether scores up to ``bound``, (chosen,), can be taken in relative to the present reference."""
        return bool((bound - self.reference[rows] <= _HIGHEST_EXPONENT).all())

    def add(self, rows: Tensor, tile: Tensor) -> None:
        """Take in a tile (chosen, columns) of some rows (chosen,); the tile is overwritten."""
        before = self.reference[rows]
        reference = torch.maximum(before, tile.amax(1))
        self.total[rows] *= (before - reference).exp_()
        self.reference[rows] = reference
        self.add_relative(rows, tile.sub_(reference[:, None]))

    def add_relative(self, rows: Tensor, tile: Tensor) -> None:
        """Take in a tile from which the rows' reference is subtracted already."""
        self.total[rows] += tile.clamp_(min=_LOWEST_EXPONENT).exp_().sum(1)

    def result(self) -> Tensor:
        empty = self.reference == torch.finfo(self.reference.dtype).min
        return (self.reference + self.total.log()).masked_fill(empty, -torch.inf)


# ---- Normal distributions as columns of a matrix product: features of a point times weights of a component.

# with more, the products of pairs of dimensions take more memory than the components themselves
_MOST_FULL_DIMENSIONS: Final = 32
_ALL: Final = slice(None)
_HALF_LOG_TWO_PI: Final = 0.5 * math.log(2 * math.pi)


class NormalComponents(ABC):
    """N Normal distributions over (d,), of which every attribute is a tensor with a row for each.

    Attributes:
        loc: the means, (batch, latent).
        peak: the log-densities at the means, (batch,).
    """

    loc: Tensor
    peak: Tensor

    def __getitem__(self, index: Tensor) -> Self:
        """Some of the components, in another order."""
        chosen = copy(self)
        for name, values in vars(self).items():
            setattr(chosen, name, values[index])
        return chosen

    @abstractmethod
    def decay(self, part: slice = _ALL) -> Tensor:
        """(part, latent): away from its mean a component falls off at least as fast as
        ``-(decay * distance)²`` summed over the dimensions.
        """

    @property
    @abstractmethod
    def features_per_point(self) -> int:
        """The length of a row of :meth:`features`."""

    @abstractmethod
    def features(self, z: Tensor) -> Tensor:
        """(points, feature), of z (points, latent)."""

    @abstractmethod
    def weights(self, part: slice, centre: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (feature, part) and constants (part,) of the log-density, for z relative to ``centre``."""

    @abstractmethod
    def log_prob(self, z: Tensor, index: Tensor) -> Tensor:
        """The log-density of each point (points, latent) under its own component, by differences."""


@final
class DiagonalNormals(NormalComponents):
    """Independent dimensions, of loc and scale (N, d) in float64."""

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc = loc
        self.scale = scale
        self.peak = -(scale.log() + _HALF_LOG_TWO_PI).sum(-1)

    def decay(self, part: slice = _ALL) -> Tensor:
        return math.sqrt(0.5) / self.scale[part]

    @property
    def features_per_point(self) -> int:
        return 2 * self.loc.shape[1]

    def features(self, z: Tensor) -> Tensor:
        return torch.cat([z * z, z], 1)

    def weights(self, part: slice, centre: Tensor) -> tuple[Tensor, Tensor]:
        square, mean = 0.5 / self.scale[part] ** 2, self.loc[part] - centre
        linear = 2 * square * mean
        return torch.cat([-square, linear], 1).T, self.peak[part] - (square * mean * mean).sum(1)

    def log_prob(self, z: Tensor, index: Tensor) -> Tensor:
        return self.peak[index] - 0.5 * ((z - self.loc[index]) / self.scale[index]).square().sum(-1)


@final
class FullNormals(NormalComponents):
    """Any covariance, by its Cholesky factors (N, d, d) in float64."""

    def __init__(self, loc: Tensor, scale_tril: Tensor) -> None:
        self.loc = loc
        identity = torch.eye(loc.shape[1], dtype=loc.dtype, device=loc.device)
        self.root = math.sqrt(0.5) * torch.linalg.solve_triangular(scale_tril, identity, upper=False)
        self.slowest = torch.linalg.svdvals(self.root)[:, -1]
        self.peak = -(scale_tril.diagonal(dim1=-2, dim2=-1).log() + _HALF_LOG_TWO_PI).sum(-1)

    def decay(self, part: slice = _ALL) -> Tensor:
        return self.slowest[part, None].expand_as(self.loc[part])

    @property
    def features_per_point(self) -> int:
        d = self.loc.shape[1]
        return d * (d + 1) // 2 + d

    def features(self, z: Tensor) -> Tensor:
        i, j = self._pairs()
        return torch.cat([z[:, i] * z[:, j], z], 1)

    def weights(self, part: slice, centre: Tensor) -> tuple[Tensor, Tensor]:
        i, j = self._pairs()
        root, mean = self.root[part], self.loc[part] - centre
        precision = root.mT @ root  # (part, latent, latent), halved
        linear = (precision @ mean[..., None]).squeeze(-1)
        twice = torch.where(i == j, 1.0, 2.0)  # off the diagonal a product stands for two
        quadratic = precision[:, i, j] * twice
        return torch.cat([-quadratic, 2 * linear], 1).T, self.peak[part] - (linear * mean).sum(1)

    def log_prob(self, z: Tensor, index: Tensor) -> Tensor:
        difference = (z - self.loc[index])[..., None]
        return self.peak[index] - (self.root[index] @ difference).square().sum((-2, -1))

    def _pairs(self) -> tuple[Tensor, Tensor]:
        d = self.loc.shape[1]
        i, j = torch.triu_indices(d, d, device=self.loc.device)
        return i, j


def normal_components(posterior: Density) -> NormalComponents | None:
    """The components of a batch (N,) of Normals over (d,), in float64; None for any other posterior."""
    factors = diagonal_normal(posterior)
    if factors is not None:
        return DiagonalNormals(*(each.double() for each in factors))
    if not isinstance(posterior, MultivariateNormal | LowRankMultivariateNormal):
        return None
    if posterior.event_shape[0] > _MOST_FULL_DIMENSIONS:
        return None
    return FullNormals(posterior.loc.double(), _scale_tril(posterior))


def _scale_tril(normal: MultivariateNormal | LowRankMultivariateNormal) -> Tensor:
    """A low-rank covariance is never formed: nearly singular ones would lose half of their digits."""
    if isinstance(normal, MultivariateNormal):
        return normal.scale_tril.double()
    root = torch.cat([normal.cov_factor.double(), normal.cov_diag.double().sqrt().diag_embed()], -1)
    upper = torch.linalg.qr(root.mT, mode="r").R
    return (upper * upper.diagonal(dim1=-2, dim2=-1).sign()[..., None]).mT


# ---- Components in runs of neighbours, so that whole runs can be shown not to matter.

_ROWS_AT_ONCE: Final = 64
# how much a factor e between scales counts, in typical scales of distance between means
_WORTH_OF_A_SCALE: Final = 4.0


@final
class Leaves:
    """Components ordered in space and by scale, in runs ("leaves") of at most two times ``size``.

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
    """An order that keeps neighbours together, and where its runs of at most ``2 * size`` points stop."""
    if len(points) <= size:
        return torch.arange(len(points), device=points.device), [len(points)]
    from scipy.spatial import cKDTree  # late: it takes as long to import as all of this room

    tree = cKDTree(points.cpu().numpy(), leafsize=2 * size, compact_nodes=False)
    stops, nodes = [], [tree.tree]
    while nodes:
        node = nodes.pop()
        if node.split_dim == -1:  # a leaf; one of equal points is as large as they are many
            stops += [*range(node.start_idx + 2 * size, node.end_idx, 2 * size), node.end_idx]
        else:
            nodes += [node.greater, node.lesser]
    return torch.from_numpy(tree.indices.copy()).to(points.device), stops


def _coordinates(components: NormalComponents) -> Tensor:
    """Means in units of a typical scale, and the scales where they differ."""
    decay = components.decay()
    typical = decay.median(0).values
    means = (components.loc - components.loc.mean(0)).mul_(typical)
    spread = (decay / typical).log_()
    differ = spread.amax(0) > spread.amin(0)
    return torch.cat([means, _WORTH_OF_A_SCALE * spread[:, differ]], 1) if bool(differ.any()) else means


# ---- The mixture of Normals by matrix products, tile by tile, without the tiles that cannot matter.

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
    """Points against all N components, as one matrix product a tile.

    A tile is a run of points against a leaf of neighbouring components. It is skipped for the points at
    which even the leaf's bound, N times over, is below :math:`10^{-12}` of what was found before, so that all
    that is skipped changes no log-density by more. Where the product may have cancelled, which it does for
    narrow components, the terms that count are computed again by differences.
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

    def evaluate(self, z: Tensor, index: Tensor | None = None, *, progress: bool = False) -> MixtureScores:
        """The mixture at z (points, latent), with each point's own component left out where it is named."""
        others = self.log_sums(z, index, progress=progress)
        return MixtureScores.of(others, None if index is None else self.given.log_prob(z, index), self.size)

    def log_sums(
        self,
        z: Tensor,
        index: Tensor | None = None,
        *,
        floor: Tensor | None = None,
        progress: bool = False,
    ) -> Tensor:
        """log Σ_n N(z; n), (points,), without each point's own component where it is named, -1 for none.

        ``floor`` is the log of what will be added to the sums, beside which terms may be skipped.
        """
        sums = torch.empty_like(z[:, 0])
        # Neighbouring points want the same leaves: in the order of space a block skips more of them
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
        # Without skipping, every point visits every leaf
        if not self.skip:
            for leaf in range(len(self.leaves)):
                visit.take(leaf, torch.arange(len(z), device=z.device))
            return visit.sums.result()
        # The leaves with the highest bounds first: what they give is the measure by which others are skipped
        for _ in range(min(_ROUNDS, len(self.leaves))):
            visit.take_best()
        visit.take_rest()
        return visit.sums.result()

    def weights(self, leaf: int) -> tuple[Tensor, Tensor]:
        """Weights (feature + 2, leaf): of the features, of 1, of the reference; and the largest of each."""
        known = self._weights.get(leaf)
        if known is not None:
            return known
        # One product gives score minus reference: the features of a point end with 1 and its reference. About
        # the centre of the leaf the numbers are small, and least is lost where they cancel
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
        # Points with the same best leaf go there together, as one tile
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
        # Scores relative to the largest so far, if none can overflow, need no second pass over the tile
        relative = self.sums.bears(rows, self.bounds[rows, leaf])
        reference = self.sums.reference[rows] if relative else torch.zeros_like(self.z[rows, 0])
        features = self._features(leaf, rows, reference)
        weights, largest = self.mixture.weights(leaf)
        tile = torch.mm(features, weights, out=self._buffer(len(rows), weights.shape[1]))
        # The own component is left out here, and added once at the end: taking it off the sum would cancel
        if self.home is not None:
            (own,) = torch.where(self.home[0][rows] == leaf)
            tile[own, self.home[1][rows[own]]] = -torch.inf
        # Where the product may have cancelled, the scores that count are computed again by differences
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


# ---- The mixture of univariate Normals, band by band of their scales, on a grid where that is quicker.

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
    """log q(z_j) for N univariate Normals, to some 1e-6, and exactly where that is as cheap.

    Components of like scale (within a factor of four) stand together. Each such band is evaluated exactly
    at the points or, where that takes fewer evaluations, on a grid of a quarter of its least scale under each
    crowd of points, from which a cubic spline of the log-density reaches them. The spline is checked half-way
    between the nodes of twice the step; where it would miss by more than the tolerance, as in the gaps
    between far components, the points are evaluated exactly.
    """

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc = loc
        self.scale = scale
        self.size = len(loc)
        self.whole = DiagonalNormals(loc[:, None], scale[:, None])

    def evaluate(self, z: Tensor, index: Tensor | None = None) -> MixtureScores:
        """The mixture at z (points,), with each point's own component left out where it is named."""
        # The sum over all components first, so that a grid may serve; each point's own is taken off after
        sums = self._log_sums(z)
        if index is None:
            return MixtureScores.of(sums, None, self.size)
        own = self.whole.log_prob(z[:, None], index)
        share = (own - sums).exp().clamp(max=1.0)
        others = sums + torch.log1p(-share)
        # Where the own component is most of the sum, what is left is a difference of near equals: sum anew
        (unsure,) = torch.where(~(share < _UNCERTAIN))
        others[unsure] = self._log_sums(z[unsure], index[unsure])
        return MixtureScores.of(others, own, self.size)

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
        # A grid under each crowd of points, where the components are; gaps between crowds need no nodes
        (within,) = torch.where((z >= self.low) & (z <= self.high))
        sums = torch.full_like(z, torch.nan)
        for crowd in _crowds(z[within], _APART * self.scale):
            chosen = within[crowd]
            grid = self._grid(z[chosen])
            if grid is not None:
                sums[chosen] = grid(z[chosen])
        # Points without a grid, and those in cells where the spline may miss, are evaluated exactly
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
    """A cubic spline through an odd number of equally spaced nodes, nan in the cells where it may miss."""

    def __init__(self, nodes: Tensor, values: Tensor) -> None:
        from scipy.interpolate import CubicSpline  # late: it takes as long to import as all of this room

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


# ---- The mixtures of all latent dimensions, one by one.

# with more components times dimensions, plans that wait for another call would take too much memory
_KEPT: Final = 2**20


@final
class MarginalMixtures:
    """log q(z_j) for every dimension of N Normals, of loc and scale (N, d) in float64."""

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc = loc
        self.scale = scale
        self._kept: dict[int, UnivariateMixture] = {}

    def _mixture(self, j: int) -> UnivariateMixture:
        if j in self._kept:
            return self._kept[j]
        mixture = UnivariateMixture(self.loc[:, j], self.scale[:, j])
        if self.loc.numel() <= _KEPT:
            self._kept[j] = mixture
        return mixture

    def evaluate(self, z: Tensor, index: Tensor | None, *, progress: bool = False) -> MixtureScores:
        """Of z (points, latent), with each point's own component left out where it is named."""
        whole = torch.empty_like(z)
        left = None if index is None else torch.empty_like(z)
        for j in patiently(range(z.shape[1]), "aggregate posterior of each dimension", progress=progress):
            found = self._mixture(j).evaluate(z[:, j], index)
            whole[:, j] = found.log_prob
            if left is not None and found.leave_one_out is not None:
                left[:, j] = found.leave_one_out
        return MixtureScores(whole, left)


# ---- The mixture of any posteriors through their own log-density, differentiable.

_SCORES_AT_ONCE: Final = 2**22
_NUMBERS_OF_A_NETWORK: Final = 32  # that it holds at a time for each number that it scores


class _BySite(Protocol):
    def log_prob_sites(self, z: Tensor, /) -> Tensor:
        """log q(z_s|z_<s, x), (..., sites)."""


@final
class Dense:
    """Points against all components at once, as many points as fit into a fixed number of scores."""

    def __init__(self, posterior: Density) -> None:
        self.posterior = posterior
        self.size = posterior.batch_shape[0]
        self.rows = points_at_once(posterior)
        # its parameters have been checked, so that nan is what a transform makes of z beyond its reach
        self.bounded = is_parametric(posterior)

    @cached_property
    def _marginals(self) -> Marginals:
        return marginals_of(self.posterior)

    def evaluate(self, z: Tensor, index: Tensor | None, *, progress: bool = False) -> MixtureScores:
        """The mixture at z (points, latent), with each point's own component left out where it is named."""
        return self._evaluate(for_one_evaluation(self.posterior).log_prob, z, index, progress)

    def evaluate_marginals(self, z: Tensor, index: Tensor | None, *, progress: bool = False) -> MixtureScores:
        """The same of every latent dimension by itself."""
        posterior = for_one_evaluation(self.posterior)
        marginals = self._marginals if posterior is self.posterior else marginals_of(posterior)
        return self._evaluate(marginals.log_prob, z, index, progress)

    def evaluate_prefixes(self, z: Tensor, index: Tensor | None, *, progress: bool = False) -> MixtureScores:
        """The mixtures of the posterior's first sites, (points, sites), by its ``log_prob_sites``."""
        posterior = cast(_BySite, for_one_evaluation(self.posterior))
        return self._evaluate(lambda z: posterior.log_prob_sites(z).cumsum(-1), z, index, progress)

    def _evaluate(
        self, log_prob: Callable[[Tensor], Tensor], z: Tensor, index: Tensor | None, progress: bool
    ) -> MixtureScores:
        parts = blocks(len(z), self.rows, "aggregate posterior", progress=progress)
        return MixtureScores.cat(
            [
                _mixture(self._scores(log_prob, z[part]), None if index is None else index[part])
                for part in parts
            ]
        )

    def _scores(self, log_prob: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
        """(points, batch, *latent)."""
        scores = log_prob(z[:, None]).double()
        if not self.bounded:
            return scores
        unknown = z.isnan().any(-1).reshape(-1, *(1,) * (scores.dim() - 1))
        return scores.masked_fill(scores.isnan() & ~unknown, -torch.inf)


_D = TypeVar("_D")


def for_one_evaluation(posterior: _D) -> _D:
    """The posterior for calls between which it does not change.

    What is computed of data at each call, so that it is never out of date, is computed once then.
    """
    fixed = getattr(posterior, "for_one_evaluation", None)
    return posterior if fixed is None else cast(_D, fixed())


def points_at_once(posterior: Density) -> int:
    """How many points are scored against all components without taking much memory, at least one.

    What shows no parameters of its own, such as a flow or a guide that is run, is taken to run networks: on
    all components at once, unless its ``rows_at_once`` are fewer.
    """
    (size,), latent = posterior.batch_shape, max(1, posterior.event_shape[0])
    rows = 0 if is_parametric(posterior) else min(size, getattr(posterior, "rows_at_once", size))
    return max(1, _SCORES_AT_ONCE // (max(size, rows * _NUMBERS_OF_A_NETWORK) * latent))


def _mixture(scores: Tensor, index: Tensor | None) -> MixtureScores:
    if index is None:
        return MixtureScores.of(_log_sum(scores), None, scores.shape[1])
    entries = index.reshape(-1, *(1,) * (scores.dim() - 1)).expand(-1, 1, *scores.shape[2:])
    others = _log_sum(scores.scatter(1, entries, -torch.inf))
    return MixtureScores.of(others, scores.gather(1, entries).squeeze(1), scores.shape[1])


def _log_sum(scores: Tensor) -> Tensor:
    """Over the components; where none has any density, with the gradient 0 rather than nan."""
    empty = (scores == -torch.inf).all(1)
    sums = scores.masked_fill(empty.unsqueeze(1), 0.0).logsumexp(1)
    return sums.masked_fill(empty, -torch.inf)
