"""White figures on black whose shape, size, orientation and place are the factors."""

from collections.abc import Sequence
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_infomax.datasets.draws import Seed, to_random_state
from pyro_infomax.datasets.factor_checks import Factors
from pyro_infomax.datasets.factor_dataset import FactorDataset
from pyro_infomax.datasets.factor_distribution import Correlated, Where, to_distribution
from pyro_infomax.datasets.painting import Painting
from pyro_infomax.datasets.paints import Paint
from pyro_infomax.datasets.sprite_canvas import Canvas, Poses
from pyro_infomax.datasets.sprite_shapes import SHAPES
from pyro_infomax.datasets.stencils import GridValues, Stencils

Values = int | Sequence[float] | npt.NDArray[np.floating[Any]]
_Floats = npt.NDArray[np.float64]
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
        scales: Values = 6,
        orientations: Values = 40,
        endpoint: bool = True,
        positions: Values = 32,
        positions_x: Values | None = None,
        positions_y: Values | None = None,
        size: int = 64,
        sprite: Paint | None = None,
        background: Paint | None = None,
        where: Where | None = None,
        correlated: Correlated | None = None,
    ) -> None:
        self.size = _checked_size(size)
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
    def factor_values(self) -> dict[str, tuple[Any, ...]]:
        """What each factor's numbers stand for: names, scales, radians and positions."""
        own = dict(zip(_NAMES[1:], (tuple(values.tolist()) for values in self._values), strict=True))
        painted = {name: tuple(range(size)) for name, size in self._painting.factor_sizes.items()}
        return {"shape": self.shapes} | own | painted

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """(size, size) for grey images, (3, size, size) in colour."""
        return self._painting.shape

    def render(self, shape: str | Sequence[str], scale: Any, orientation: Any, x: Any, y: Any) -> Tensor:
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
        number, scales, angles, xs, ys = np.broadcast_arrays(
            numbers, *map(_vector, (scale, orientation, x, y))
        )
        left, x_offset = self._canvas.stand(_in_unit_interval(xs, "x"))
        top, y_offset = self._canvas.stand(_in_unit_interval(ys, "y"))
        poses = Poses(number, _checked_scales(scales), _finite(angles), x_offset, y_offset)
        return torch.from_numpy(self._canvas.place(self._canvas.draw(poses), left, top))

    def _observe(self, factors: Factors, seed: Seed) -> Tensor:
        own = len(_NAMES)
        images = self._stencils.images(factors[:, :own])
        # No seed is drawn where nothing asks for one: the global state stays as it was
        random_state = to_random_state(seed if self.draws else 0)
        return torch.from_numpy(self._painting.paint(images, factors[:, own:], random_state))

    def _shape_number(self, name: str) -> int:
        if name not in self.shapes:
            raise ValueError(f"Expected one of the shapes {', '.join(self.shapes)} but got {name!r}.")
        return self.shapes.index(name)


def _spread(
    values: Values, first: float, last: float, name: str, *, alone: float, endpoint: bool = True
) -> _Floats:
    if isinstance(values, int | np.integer) and not isinstance(values, bool):
        if values < 1:
            raise ValueError(f"Expected {name} to be a number of values >= 1 but got {values}.")
        return np.linspace(first, last, int(values), endpoint=endpoint) if values > 1 else np.array([alone])
    return _checked_values(np.asarray(values, dtype=np.float64), name)


def _checked_values(values: _Floats, name: str) -> _Floats:
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"Expected {name} to be a number or a list of finite values but got {values!r}.")
    if len(np.unique(values)) < len(values):
        raise ValueError(f"Expected {name} without repetition but got {values.tolist()}.")
    return values


def _vector(value: Any) -> _Floats:
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if array.ndim > 1:
        raise ValueError(f"Expected a number, or one for each image, but got shape {array.shape}.")
    return np.atleast_1d(array).astype(np.float64)


def _finite(angles: _Floats) -> _Floats:
    if not np.isfinite(angles).all():
        raise ValueError(f"Expected finite orientations but got {angles.tolist()}.")
    return angles


def _checked_scales(values: _Floats) -> _Floats:
    if not ((values > 0) & (values <= 1)).all():
        raise ValueError(f"Expected scales in (0, 1] but got {values.tolist()}.")
    return values


def _checked_visible(scales: _Floats, size: int) -> _Floats:
    # A disc of this radius holds the centre of a pixel wherever it is
    least = 0.5**0.5 * 64 / _THINNEST
    if scales.min() * size < least:
        raise ValueError(
            f"Expected figures that cannot fall between the centres of pixels, scale * size >= {least:.2f}, "
            f"but got scale {scales.min():g} and size {size}: take larger images or scales."
        )
    return scales


def _checked_positions(positions: Values) -> _Floats:
    return _in_unit_interval(_spread(positions, 0, 1, "positions", alone=0.5), "positions")


def _in_unit_interval(values: _Floats, name: str) -> _Floats:
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


def _checked_size(size: Any) -> int:
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < _SMALLEST_SIZE:
        raise ValueError(f"Expected size to be an integer >= {_SMALLEST_SIZE} pixels but got {size!r}.")
    return int(size)
