"""White figures on black whose shape, size, orientation and place are the factors."""

import abc
import math
from collections.abc import Sequence
from typing import Final, NamedTuple, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_infomax._checks import shown, whole_number
from pyro_infomax._types import Floats, Integers
from pyro_infomax.datasets._factors import (
    Correlated,
    FactorDataset,
    Seed,
    Where,
    to_array,
    to_distribution,
    to_random_state,
)
from pyro_infomax.datasets._paints import Paint, Painting

# ---- The shapes of sprites: which points of the plane they hold.


class SpriteShape(abc.ABC):
    """A plane figure, upright, with its centre of mass at the origin.

    Lengths are in pixels of a 64 by 64 image at scale 1, where they leave the border free and meet no pixel's
    centre by chance. The radius is the largest distance of a point of it from the origin.
    """

    def __init__(self, name: str, *, area: float, radius: float) -> None:
        self.name = name
        self.area = area
        self.radius = radius

    @abc.abstractmethod
    def contains(self, x: Floats, y: Floats) -> npt.NDArray[np.bool_]:
        """Whether points, x to the right and y upwards, are in the figure; of any shape that broadcasts."""


@final
class Square(SpriteShape):
    """A square with horizontal and vertical sides."""

    _HALF: Final = 10.7

    def __init__(self) -> None:
        super().__init__("square", area=4 * self._HALF**2, radius=self._HALF * 2**0.5)

    def contains(self, x: Floats, y: Floats) -> npt.NDArray[np.bool_]:
        return np.maximum(np.abs(x), np.abs(y)) <= self._HALF


@final
class Ellipse(SpriteShape):
    """An ellipse that lies."""

    _HALF_AXES: Final = (15.1, 8.2)

    def __init__(self) -> None:
        a, b = self._HALF_AXES
        super().__init__("ellipse", area=np.pi * a * b, radius=a)

    def contains(self, x: Floats, y: Floats) -> npt.NDArray[np.bool_]:
        a, b = self._HALF_AXES
        return np.square(x / a) + np.square(y / b) <= 1


@final
class Heart(SpriteShape):
    r"""The heart whose edge is :math:`x = 16 \sin^3 t,\ y = 13 \cos t - 5 \cos 2t - 2 \cos 3t - \cos 4t`.

    For each :math:`|x| = 16 s^3` the edge passes twice, at t and at :math:`\pi - t`, which turns the sign of
    :math:`o = 13 \cos t - 2 \cos 3t` and keeps :math:`e = -5 \cos 2t - \cos 4t`. So a point is inside where
    :math:`|y - e| \le o`. The curve encloses an area of :math:`180 \pi`, with its centre of mass at
    :math:`y = 5/6`, and its tip, at :math:`y = -17`, is the point the furthest from there.
    """

    _RADIUS: Final = 15.4
    _CENTRE: Final = 5 / 6
    _UNIT: Final = _RADIUS / (17 + _CENTRE)
    _HALF_WIDTH: Final = 16

    def __init__(self) -> None:
        super().__init__("heart", area=180 * np.pi * self._UNIT**2, radius=self._RADIUS)

    def contains(self, x: Floats, y: Floats) -> npt.NDArray[np.bool_]:
        cubed = np.abs(x) / (self._UNIT * self._HALF_WIDTH)
        sine = np.cbrt(np.minimum(cubed, 1))
        cosine = np.sqrt(1 - sine**2)
        odd = 13 * cosine - 2 * (4 * cosine**3 - 3 * cosine)
        double = 2 * cosine**2 - 1
        even = -5 * double - (2 * double**2 - 1)
        return (np.abs(y / self._UNIT + self._CENTRE - even) <= odd) & (cubed <= 1)


SHAPES: Final[dict[str, SpriteShape]] = {shape.name: shape for shape in (Square(), Ellipse(), Heart())}


# ---- Where sprites stand on the pixels of an image, and which pixels they turn on.

_OFFICIAL_SIZE = 64
_FIRST, _SPAN = 16.5, 31  # pixels: 32 positions are a pixel apart, in the middle of the image
_DIGITS = 9
_CHUNK = 512


class Poses(NamedTuple):
    """Sprites at the origin, up to the part of a pixel by which they are off it; (n,) each."""

    shape: Integers  # its number in a list
    scale: Floats
    orientation: Floats  # radians
    x_offset: Floats  # from the left edge of the window's middle pixel to the centre, in pixels
    y_offset: Floats  # from its upper edge

    def take(self, index: Integers) -> "Poses":
        """Some of them."""
        return Poses._make(each[index] for each in self)


@final
class Canvas:
    """A square image of a side of ``size`` pixels, y down, and the windows in which sprites stand on it.

    Every length is proportional to the side. A pixel is on where its centre is in the sprite.
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

    def stand(self, position: npt.ArrayLike) -> tuple[Integers, Floats]:
        """The first pixel of the window and the centre's offset in it, at positions in [0, 1] of an axis."""
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

    def place(self, windows: npt.NDArray[np.uint8], left: Integers, top: Integers) -> npt.NDArray[np.float32]:
        """Black images with these windows at these places, (n, size, size) with rows first."""
        images = np.zeros((len(windows), self.size, self.size), dtype=np.float32)
        frame = (self.window, self.window)
        views = np.lib.stride_tricks.sliding_window_view(images, frame, axis=(1, 2), writeable=True)
        views[np.arange(len(windows)), top, left] = windows
        return images

    def _upright(self, poses: Poses) -> tuple[Floats, Floats]:
        """The pixels' centres as the upright figure of scale 1 sees them, each (n, window, window)."""
        pixels = np.arange(-self._half, self._half + 1) + 0.5
        x = pixels - poses.x_offset[:, None, None]
        y = poses.y_offset[:, None, None] - pixels[:, None]
        # So that 0 and a full turn are the same
        angle = np.remainder(poses.orientation, 2 * np.pi)[:, None, None]
        unit = self._unit * poses.scale[:, None, None]
        cosine, sine = np.cos(angle), np.sin(angle)
        return (cosine * x + sine * y) / unit, (cosine * y - sine * x) / unit


# ---- The windows of a grid of sprites, drawn once.

_LARGEST_STORE: Final = 2**28  # bytes


class GridValues(NamedTuple):
    """The values of four factors."""

    scale: Floats  # in (0, 1]
    orientation: Floats  # in radians
    x: Floats  # in [0, 1]
    y: Floats  # in [0, 1]


@final
class Stencils:
    """Images of a grid of sprites: windows that are kept, put at their places.

    A window depends on shape, scale and orientation, and on the part of a pixel by which the position is off;
    where positions are whole pixels apart that is one for all. Windows are drawn when they are first asked
    for. Where all of them would take more than 256 MB they are drawn each time.
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

    def images(self, factors: Integers) -> npt.NDArray[np.float32]:
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

    def _windows(self, cells: Integers) -> npt.NDArray[np.uint8]:
        if self._kept is None:
            distinct, place = np.unique(cells, return_inverse=True)
            return self._draw(distinct)[place]
        missing = np.unique(cells[~self._drawn[cells]])
        if len(missing):
            self._kept[missing] = self._draw(missing)
            self._drawn[missing] = True
        return self._kept[cells]

    def _draw(self, cells: Integers) -> npt.NDArray[np.uint8]:
        places = np.unravel_index(cells, self._sizes)
        poses = Poses._make(axis[at] for axis, at in zip(self._poses, places, strict=True))
        return self._canvas.draw(poses)


# ---- The data.

CountOrValues = int | npt.ArrayLike
_TURN: Final = 2 * np.pi
_SMALLEST_SIZE: Final = 8
_THINNEST: Final = 8.2  # pixels: half the ellipse's thickness at scale 1 in an image of 64 by 64
_NAMES: Final = ("shape", "scale", "orientation", "position_x", "position_y")


@final
class Sprites(FactorDataset):
    r"""Squares, ellipses and hearts in six sizes, forty orientations and 32 by 32 places, drawn on demand.

    The grid of factors is that of dSprites, in its order, and the images of any part of it are computed;
    nothing is stored. The figures are our own: pixels differ from the official ones, but what is public of
    these holds. Images are binary, and a pixel is on where its centre is in the figure. The area goes with
    the square of the scale. The centre of mass is at the position, whose 32 values are a pixel apart, so that
    figures shift exactly, and they never touch the border (of images of 24 pixels or more). Orientation turns
    counterclockwise, from an upright heart; position x goes to the right and y down.

    The forty orientations run from 0 to :math:`2\pi` and contain both, which look the same, so that at most
    718,848 of the 737,280 images differ. Orientations k and 39 − k mirror each other. The square and the
    ellipse also come back after a quarter and a half of a turn, but these angles are not on the grid.

    Reference:
        Matthey, Higgins, Hassabis and Lerchner (2017), *dSprites: Disentanglement testing Sprites dataset*;
        Higgins et al. (2017), *beta-VAE: Learning Basic Visual Concepts with a Constrained Variational
        Framework*.

    Args:
        shapes: some of "square", "ellipse" and "heart".
        scales: how many, evenly from 1/2 to 1 (one alone is 1), or the values themselves, in (0, 1].
        orientations: how many, evenly from 0 to a full turn (one alone is 0), or the values, in radians.
        endpoint: whether the full turn, which looks like 0, is the last of the evenly spaced orientations.
        positions: how many along either axis, evenly from 0 to 1 (one alone is 1/2), or the values.
        positions_x: the same for one axis alone; None for ``positions``.
        positions_y: the same for the other.
        size: side of the images in pixels, at least 8. Lengths are proportional to it, and it must be large
            enough for the smallest scale, 12 for one half.
        sprite: what figures are painted with, if not white.
        background: what is behind them, if not black. A paint with values of its own makes one more
            factor, "sprite" or "background", after the five; paint that is drawn makes a nuisance.
        where: which combinations there are: a function from factors (n, K), integers, to booleans (n,). The
            others are never drawn, but :meth:`observations` of them may be had.
        correlated: which factors come together: from pairs of names to :math:`\sigma`. A pair's values u and
            v, as numbers scaled to [0, 1], weigh a combination by :math:`\exp(-(u-v)^2 / (2\sigma^2))`
            (Träuble et al. 2021, *On Disentangled Representations Learned from Correlated Data*).

    Raises:
        ValueError: for unknown shapes, for values out of range or repeated, for figures so small that they
            might miss every pixel, and where nothing is left.

    Example:
        >>> sprites = Sprites()
        >>> sprites.factor_names, sprites.factor_sizes, len(sprites)
        (('shape', 'scale', 'orientation', 'position_x', 'position_y'), (3, 6, 40, 32, 32), 737280)
        >>> images, factors = sprites.sample(5, seed=0)
        >>> tuple(images.shape), factors.shape, images.unique()
        ((5, 64, 64), (5, 5), tensor([0., 1.]))
        >>> heart = Sprites(shapes=("heart",), scales=[1.0], orientations=1, positions=[0.5], size=16)
        >>> for row in heart.observations([[0, 0, 0, 0, 0]])[0, 6:11, 5:11].int().tolist():
        ...     print("".join(".#"[pixel] for pixel in row))
        ######
        ######
        ######
        .####.
        ..##..
    """

    def __init__(
        self,
        *,
        shapes: Sequence[str] = ("square", "ellipse", "heart"),
        scales: CountOrValues = 6,
        orientations: CountOrValues = 40,
        endpoint: bool = True,
        positions: CountOrValues = 32,
        positions_x: CountOrValues | None = None,
        positions_y: CountOrValues | None = None,
        size: int = 64,
        sprite: Paint | None = None,
        background: Paint | None = None,
        where: Where | None = None,
        correlated: Correlated | None = None,
    ) -> None:
        self.size = whole_number("size", size, at_least=_SMALLEST_SIZE)
        whole_number("size", self.size, at_most=_LARGEST_SIZE)
        self.shapes = _checked_shapes(shapes)
        self._values = GridValues(
            _checked_visible(_checked_scales(_spread(scales, 0.5, 1, "scales", alone=1)), self.size),
            _spread(orientations, 0, _TURN, "orientations", alone=0, endpoint=endpoint),
            _checked_positions(positions if positions_x is None else positions_x),
            _checked_positions(positions if positions_y is None else positions_y),
        )
        self._painting = Painting(size=self.size, sprite=sprite, background=background)
        self.draws = self._painting.draws
        sizes = (len(self.shapes), *map(len, self._values), *self._painting.factor_sizes.values())
        names = (*_NAMES, *self._painting.factor_sizes)
        super().__init__(names, to_distribution(names, sizes, where=where, correlated=correlated))
        self._canvas = Canvas(self.size, [SHAPES[name] for name in self.shapes])
        self._stencils = Stencils(self._canvas, num_shapes=len(self.shapes), values=self._values)

    @property
    def factor_values(self) -> dict[str, tuple[str | float, ...]]:
        """What each factor's numbers stand for: names, scales, radians and positions."""
        own = dict(zip(_NAMES[1:], (tuple(values.tolist()) for values in self._values), strict=True))
        painted = {name: tuple(range(size)) for name, size in self._painting.factor_sizes.items()}
        return {"shape": self.shapes} | own | painted

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """(size, size) for grey images, (3, size, size) in colour."""
        return self._painting.shape

    def render(
        self,
        shape: str | Sequence[str],
        scale: npt.ArrayLike,
        orientation: npt.ArrayLike,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
    ) -> Tensor:
        """White figures on black at any values, on the grid or off it.

        Args:
            shape: name of one of the shapes, or one for each image.
            scale: in (0, 1]; a number or one for each image. A figure smaller than a pixel may miss them all.
            orientation: radians, counterclockwise; likewise.
            x: position from 0, left, to 1, right; likewise.
            y: position from 0, top, to 1, bottom; likewise.

        Returns:
            (n, size, size) float32.

        Raises:
            ValueError: for a shape that these sprites do not have, and for values out of range.

        Example:
            >>> square = Sprites().render("square", 1.0, [0.0, torch.pi / 2], 0.5, 0.5)
            >>> torch.equal(square[0], square[1])
            True
        """
        names = [shape] if isinstance(shape, str) else shape
        numbers = np.array([self._shape_number(name) for name in names])
        vectors = [numbers, *map(_vector, (scale, orientation, x, y))]
        if len({len(each) for each in vectors} - {1}) > 1 or not all(map(len, vectors)):
            raise ValueError(
                "Expected shape, scale, orientation, x and y to be one each, or one for each image, but got "
                f"{', '.join(str(len(each)) for each in vectors)}."
            )
        number, scales, angles, xs, ys = np.broadcast_arrays(*vectors)
        left, x_offset = self._canvas.stand(_in_unit_interval(xs, "x"))
        top, y_offset = self._canvas.stand(_in_unit_interval(ys, "y"))
        poses = Poses(number, _checked_scales(scales), _finite(angles), x_offset, y_offset)
        return torch.from_numpy(self._canvas.place(self._canvas.draw(poses), left, top))

    def _observe(self, factors: Integers, seed: Seed) -> Tensor:
        own = len(_NAMES)
        images = self._stencils.images(factors[:, :own])
        # No seed is drawn where nothing asks for one: the global state stays as it was
        random_state = to_random_state(seed if self.draws else 0)
        return torch.from_numpy(self._painting.paint(images, factors[:, own:], random_state))

    def _shape_number(self, name: str) -> int:
        if name not in self.shapes:
            raise ValueError(f"Expected one of the shapes {', '.join(self.shapes)} but got {name!r}.")
        return self.shapes.index(name)


_LARGEST_SIZE: Final = 2**15  # pixels of a side
_MOST_VALUES: Final = 2**24  # of a factor, which memory holds


def _spread(
    values: CountOrValues, first: float, last: float, name: str, *, alone: float, endpoint: bool = True
) -> Floats:
    if isinstance(values, int | np.integer) and not isinstance(values, bool):
        if not 1 <= values <= _MOST_VALUES:
            raise ValueError(
                f"Expected {name} to be a number of values >= 1 and <= {_MOST_VALUES} but got {values}."
            )
        return np.linspace(first, last, int(values), endpoint=endpoint) if values > 1 else np.array([alone])
    array = to_array(values, name=name)
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"Expected {name} to be a number or a list of finite values but got {shown(values)}."
        )
    return _checked_grid_values(array.astype(np.float64), name)


def _checked_grid_values(values: Floats, name: str) -> Floats:
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"Expected {name} to be a number or a list of finite values but got {values!r}.")
    if len(np.unique(values)) < len(values):
        raise ValueError(f"Expected {name} without repetition but got {values.tolist()}.")
    return values


def _vector(value: npt.ArrayLike) -> Floats:
    array = to_array(value, name="scale, orientation, x and y")
    if array.ndim > 1 or array.dtype.kind not in "biuf":
        raise ValueError(
            f"Expected a number, or one for each image, but got shape {array.shape} and dtype {array.dtype}."
        )
    return np.atleast_1d(array).astype(np.float64)


def _finite(angles: Floats) -> Floats:
    if not np.isfinite(angles).all():
        raise ValueError(f"Expected finite orientations but got {angles.tolist()}.")
    return angles


def _checked_scales(values: Floats) -> Floats:
    if not ((values > 0) & (values <= 1)).all():
        raise ValueError(f"Expected scales in (0, 1] but got {values.tolist()}.")
    return values


def _checked_visible(scales: Floats, size: int) -> Floats:
    # A disc of this radius holds the centre of a pixel wherever it is
    least = 0.5**0.5 * 64 / _THINNEST
    if scales.min() * size < least:
        raise ValueError(
            f"Expected figures that cannot fall between the centres of pixels, scale * size >= {least:.2f}, "
            f"but got scale {scales.min():g} and size {size}: take larger images or scales."
        )
    return scales


def _checked_positions(positions: CountOrValues) -> Floats:
    return _in_unit_interval(_spread(positions, 0, 1, "positions", alone=0.5), "positions")


def _in_unit_interval(values: Floats, name: str) -> Floats:
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"Expected {name} in [0, 1] but got {values.tolist()}.")
    return values


def _checked_shapes(shapes: Sequence[str]) -> tuple[str, ...]:
    names = (shapes,) if isinstance(shapes, str) else tuple(shapes)
    if not names or not set(names) <= SHAPES.keys() or len(set(names)) < len(names):
        raise ValueError(
            f"Expected shapes to be some of {', '.join(SHAPES)}, each once, but got {list(names)}."
        )
    return names
