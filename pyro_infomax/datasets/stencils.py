"""The windows of a grid of sprites, drawn once."""

import math
from typing import Final, NamedTuple, final

import numpy as np
import numpy.typing as npt

from pyro_infomax.datasets.sprite_canvas import Canvas, Poses

_Integers = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float64]
_LARGEST_STORE: Final = 2**28  # bytes


class GridValues(NamedTuple):
    """The values of four factors.

    Args:
        scale: in (0, 1].
        orientation: in radians.
        x: in [0, 1].
        y: in [0, 1].
    """

    scale: _Floats
    orientation: _Floats
    x: _Floats
    y: _Floats


@final
class Stencils:
    """Images of a grid of sprites: windows that are kept, put at their places.

    A window depends on shape, scale and orientation, and on the part of a pixel by which the position is off;
    where positions are whole pixels apart that is one for all. Windows are drawn when they are first asked
    for. Where all of them would take more than 256 MB they are drawn each time.

    Args:
        canvas: draws.
        num_shapes: number of shapes on it.
        values: of the other factors.
    """

    def __init__(self, canvas: Canvas, *, num_shapes: int, values: GridValues) -> None:
        self._canvas = canvas
        self._left, x_offsets = canvas.stand(values.x)
        self._top, y_offsets = canvas.stand(values.y)
        x_phases, self._x_phase = np.unique(x_offsets, return_inverse=True)
        y_phases, self._y_phase = np.unique(y_offsets, return_inverse=True)
        self._poses = Poses(np.arange(num_shapes), values.scale, values.orientation, x_phases, y_phases)
        self._sizes = tuple(len(values) for values in self._poses)
        self._kept, self._drawn = self._empty(math.prod(self._sizes))

    def images(self, factors: _Integers) -> npt.NDArray[np.float32]:
        """Images (n, size, size) of shape, scale, orientation, x and y by number, (n, 5)."""
        shape, scale, orientation, x, y = factors.T
        phases = (self._x_phase[x], self._y_phase[y])
        cells = np.ravel_multi_index((shape, scale, orientation, *phases), self._sizes)
        return self._canvas.place(self._windows(cells), self._left[x], self._top[y])

    def _empty(self, number: int) -> tuple[npt.NDArray[np.uint8] | None, npt.NDArray[np.bool_]]:
        if number * self._canvas.window**2 > _LARGEST_STORE:
            return None, np.zeros(0, dtype=bool)
        window = (self._canvas.window, self._canvas.window)
        return np.zeros((number, *window), dtype=np.uint8), np.zeros(number, dtype=bool)

    def _windows(self, cells: _Integers) -> npt.NDArray[np.uint8]:
        if self._kept is None:
            distinct, place = np.unique(cells, return_inverse=True)
            return self._draw(distinct)[place]
        missing = np.unique(cells[~self._drawn[cells]])
        if len(missing):
            self._kept[missing] = self._draw(missing)
            self._drawn[missing] = True
        return self._kept[cells]

    def _draw(self, cells: _Integers) -> npt.NDArray[np.uint8]:
        shape, scale, orientation, x, y = np.unravel_index(cells, self._sizes)
        axes = self._poses
        return self._canvas.draw(
            Poses(
                axes.shape[shape],
                axes.scale[scale],
                axes.orientation[orientation],
                axes.x_offset[x],
                axes.y_offset[y],
            )
        )
