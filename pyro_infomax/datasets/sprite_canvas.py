"""Where sprites stand on the pixels of an image, and which pixels they turn on."""

from collections.abc import Sequence
from typing import Any, NamedTuple, final

import numpy as np
import numpy.typing as npt

from pyro_infomax.datasets.sprite_shapes import SpriteShape

_Floats = npt.NDArray[np.float64]
_Integers = npt.NDArray[np.int64]
_OFFICIAL_SIZE = 64
_FIRST, _SPAN = 16.5, 31  # pixels: 32 positions are a pixel apart, in the middle of the image
_DIGITS = 9
_CHUNK = 512


class Poses(NamedTuple):
    """Sprites at the origin, up to the part of a pixel by which they are off it.

    Args:
        shape: number of the shape in a list, (n,).
        scale: (n,).
        orientation: radians, (n,).
        x_offset: from the left edge of the window's middle pixel to the centre, in pixels, (n,).
        y_offset: from its upper edge, (n,).
    """

    shape: _Integers
    scale: _Floats
    orientation: _Floats
    x_offset: _Floats
    y_offset: _Floats

    def take(self, index: _Integers) -> "Poses":
        """Some of them."""
        return Poses(
            self.shape[index],
            self.scale[index],
            self.orientation[index],
            self.x_offset[index],
            self.y_offset[index],
        )


@final
class Canvas:
    """A square image of a side of ``size`` pixels, y down, and the windows in which sprites stand on it.

    Every length is proportional to the side. A pixel is on where its centre is in the sprite.

    Args:
        size: side of the image, in pixels.
        shapes: what there is to draw.
    """

    def __init__(self, size: int, shapes: Sequence[SpriteShape]) -> None:
        self.size = size
        self._unit = size / _OFFICIAL_SIZE
        self._shapes = tuple(shapes)
        self._half = int(max(shape.radius for shape in shapes) * self._unit + 0.5)

    @property
    def window(self) -> int:
        """Side of the window that holds any sprite, in pixels."""
        return 2 * self._half + 1

    def stand(self, position: Any) -> tuple[_Integers, _Floats]:
        """The first pixel of the window and the offset of the centre in it, along one axis.

        Args:
            position: in [0, 1], of any shape.
        """
        centre = self._unit * (_FIRST + _SPAN * np.asarray(position, dtype=np.float64))
        # Rounded, so that positions a whole pixel apart have one and the same offset
        centre = np.round(centre, _DIGITS)
        middle = np.floor(centre).astype(np.int64).clip(self._half, self.size - 1 - self._half)
        return middle - self._half, np.round(centre - middle, _DIGITS)

    def draw(self, poses: Poses) -> npt.NDArray[np.uint8]:
        """The windows of sprites, 1 where a pixel is on, (n, window, window) with rows first."""
        windows = np.zeros((len(poses.shape), self.window, self.window), dtype=np.uint8)
        for number, shape in enumerate(self._shapes):
            chosen = np.flatnonzero(poses.shape == number)
            for part in np.split(chosen, range(_CHUNK, len(chosen), _CHUNK)):
                windows[part] = shape.contains(*self._upright(poses.take(part)))
        return windows

    def place(
        self, windows: npt.NDArray[np.uint8], left: _Integers, top: _Integers
    ) -> npt.NDArray[np.float32]:
        """Black images with these windows at these places, (n, size, size) with rows first."""
        images = np.zeros((len(windows), self.size, self.size), dtype=np.float32)
        frame = (self.window, self.window)
        views = np.lib.stride_tricks.sliding_window_view(images, frame, axis=(1, 2), writeable=True)
        views[np.arange(len(windows)), top, left] = windows
        return images

    def _upright(self, poses: Poses) -> tuple[_Floats, _Floats]:
        """The pixels' centres as the upright figure of scale 1 sees them, each (n, window, window)."""
        pixels = np.arange(-self._half, self._half + 1) + 0.5
        x = pixels - poses.x_offset[:, None, None]
        y = poses.y_offset[:, None, None] - pixels[:, None]
        # So that 0 and a full turn are the same
        angle = np.remainder(poses.orientation, 2 * np.pi)[:, None, None]
        unit = self._unit * poses.scale[:, None, None]
        cosine, sine = np.cos(angle), np.sin(angle)
        return (cosine * x + sine * y) / unit, (cosine * y - sine * x) / unit
