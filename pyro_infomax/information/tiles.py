"""The mixture of diagonal Normals, in tiles that fit the cache."""

import math
from typing import Final, final

import torch
from torch import Tensor

from pyro_infomax.information.logsumexp import RunningLogSumExp
from pyro_infomax.information.mixture import Evaluation, Mixture

# A tile below 2**15 entries stays in the cache, and torch leaves most of its operations to one thread:
# on a CPU that is shared, waiting for each other takes the threads longer than the work.
_ROWS: Final = {"cpu": 32}
_ROWS_ELSEWHERE: Final = 8192
_COLUMNS: Final = 1000


@final
class TiledNormal:
    """Points against all components, by differences: a matrix product would cancel for narrow components.

    Args:
        loc: (N, d), float64.
        scale: (N, d), float64.
    """

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc = loc.T.contiguous()  # (latent, batch)
        self.precision = (math.sqrt(0.5) / scale).T.contiguous()  # (latent, batch)
        self.peak = -(scale.log() + 0.5 * math.log(2 * math.pi)).T.contiguous()  # (latent, batch)
        self.size = len(loc)
        self.rows = _ROWS.get(loc.device.type, _ROWS_ELSEWHERE)
        self.buffers = [loc.new_empty(self.rows * _COLUMNS) for _ in range(3)]

    def evaluate(self, z: Tensor, index: Tensor | None, marginals: bool) -> Evaluation:
        """All that is asked about at most ``rows`` points z (points, latent), in one pass."""
        joint = RunningLogSumExp(z[:, 0])
        each = [RunningLogSumExp(z[:, 0]) for _ in range(z.shape[1])] if marginals else []
        for start in range(0, self.size, _COLUMNS):
            self._add(z, index, slice(start, min(start + _COLUMNS, self.size)), joint, each)
        return self._mixtures(z, index, joint, each)

    def _add(
        self,
        z: Tensor,
        index: Tensor | None,
        columns: slice,
        joint: RunningLogSumExp,
        each: list[RunningLogSumExp],
    ) -> None:
        total, distance, score = self._tiles(len(z), columns.stop - columns.start)
        own = _own_entries(index, columns)
        total.copy_(self.peak[:, columns].sum(0))
        for j, z_j in enumerate(z.T):
            torch.sub(z_j[:, None], self.loc[j, columns], out=distance).mul_(self.precision[j, columns])
            total.addcmul_(distance, distance, value=-1)
            if each:
                torch.addcmul(self.peak[j, columns], distance, distance, value=-1, out=score)
                each[j].add(_without(score, own))
        joint.add(_without(total, own))

    def _tiles(self, rows: int, columns: int) -> list[Tensor]:
        return [buffer[: rows * columns].view(rows, columns) for buffer in self.buffers]

    def _mixtures(
        self, z: Tensor, index: Tensor | None, joint: RunningLogSumExp, each: list[RunningLogSumExp]
    ) -> Evaluation:
        own = None if index is None else self._own(z, index)  # (points, latent)
        total = Mixture.of(joint.result(), None if own is None else own.sum(-1), self.size)
        if not each:
            return Evaluation(total, None)
        others = torch.stack([running.result() for running in each], dim=-1)  # (points, latent)
        return Evaluation(total, Mixture.of(others, own, self.size))

    def _own(self, z: Tensor, index: Tensor) -> Tensor:
        return self.peak.T[index] - ((z - self.loc.T[index]) * self.precision.T[index]) ** 2


def _own_entries(index: Tensor | None, columns: slice) -> tuple[Tensor, Tensor] | None:
    """Row and column, within the tile, of the points whose own component lies in it."""
    if index is None:
        return None
    (rows,) = torch.where((index >= columns.start) & (index < columns.stop))
    return rows, index[rows] - columns.start


def _without(tile: Tensor, own: tuple[Tensor, Tensor] | None) -> Tensor:
    if own is not None:
        tile[own] = -torch.inf
    return tile
