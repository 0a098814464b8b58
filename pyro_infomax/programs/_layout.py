"""Where the data, the inner plates and the event stand in the values of a site."""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_infomax.distributions import batch_mapped


@final
@dataclass(frozen=True)
class SiteLayout:
    """Where the data, the inner plates and the event stand in the values of a site.

    Example:
        >>> layout = SiteLayout("z", -1, ((-2, 4),), (3,), depth=2, rank=2, dtype=torch.float32)
        >>> layout.shape, layout.place(torch.zeros(1, 5, 4, 3), 5).shape
        ((4, 3), torch.Size([1, 4, 5, 3]))
    """

    name: str
    data_dim: int  # of the data plate, counted from the right of the batch shape
    inner: tuple[tuple[int, int], ...]  # dimensions and sizes of the other plates, from left to right
    event_shape: tuple[int, ...]  # of one value within all plates
    depth: int  # the batch dimensions of the program, an outer one to their left not counted
    rank: int  # the batch dimensions of this site's own values, at most the depth
    dtype: torch.dtype
    discrete: bool = False  # whether its values are, in whatever dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the site for one datum: inner plates, then event."""
        return (*(size for _, size in self.inner), *self.event_shape)

    @property
    def size(self) -> int:
        """The number of scalars of the site for one datum."""
        return math.prod(self.shape)

    def place(self, z: torch.Tensor, rows: int) -> torch.Tensor:
        """Values with all batch dimensions of the program.

        Args:
            z: (outer, rows or 1, *shape).
            rows: the number of data in the plate.

        Returns:
            (outer, *batch, *event).
        """
        z = z.expand(-1, rows, *self.shape)
        # inner plates stand in the order of their dimensions, so that only the data axis has to move
        spread = z.reshape(len(z), rows, *self._other_sizes, *self.event_shape)
        return spread.movedim(1, self._data_axis)

    def held(self, z: torch.Tensor, rows: int) -> torch.Tensor:
        """Values as the program holds them: as :meth:`place` gives them, in the site's dtype.

        A lone outer axis, and axes of size 1 that the site does not have, are left out, since programs
        rarely expect them.
        """
        placed = self.place(z.to(self.dtype), rows)
        return placed if len(placed) > 1 else placed.reshape(placed.shape[1 + self.depth - self.rank :])

    def rows(self, value: torch.Tensor, rows: int) -> torch.Tensor:
        """Datum by datum what the program holds: the inverse of :meth:`held`, (outer, rows, *shape)."""
        value = self._by_datum(value, rows, len(self.event_shape))
        return value.reshape(len(value), rows, *self.shape)

    def summed(self, batch: torch.Tensor, rows: int) -> torch.Tensor:
        """A tensor of the site's batch shape with its inner plates summed: (outer, rows)."""
        return self._by_datum(batch, rows, 0).reshape(-1, rows, math.prod(self._other_sizes)).sum(-1)

    def _by_datum(self, value: torch.Tensor, rows: int, events: int) -> torch.Tensor:
        """(outer, rows, *other batch dimensions, *event)."""
        missing = self.depth + 1 + events - value.dim()
        value = value.reshape((1,) * missing + tuple(value.shape)).movedim(self._data_axis, 1)
        return value.expand(-1, rows, *self._other_sizes, *value.shape[value.dim() - events :])

    @property
    def _data_axis(self) -> int:
        return 1 + self.depth + self.data_dim

    @property
    def _other_sizes(self) -> list[int]:
        sizes = [1] * self.depth
        for dim, size in self.inner:
            sizes[dim] = size
        del sizes[self.data_dim]
        return sizes


def factors_by_datum(factors: Distribution, layout: SiteLayout, rows: int) -> Distribution:
    """Univariate factors of the shape of a site, (*batch, *event), as (rows, size), in float64.

    Raises:
        NotImplementedError: where they hold something that is neither of the batch nor the same for all.
    """
    batch = factors.batch_shape
    missing = (1,) * (layout.depth + len(layout.event_shape) - len(batch))

    def flat(tensors: list[Tensor]) -> Tensor:
        (tensor,) = tensors
        rest = tensor.shape[len(batch) :]
        spread = tensor.reshape(*batch, -1).movedim(-1, 0).reshape(-1, *missing, *batch)
        by_datum = layout.rows(spread, rows)  # (rest, rows, *shape)
        values = by_datum.movedim(0, -1).reshape(rows, layout.size, *rest)
        return values.double() if values.is_floating_point() else values

    return batch_mapped([factors], [rows, layout.size], flat)
