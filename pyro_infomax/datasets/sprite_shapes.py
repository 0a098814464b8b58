"""The shapes of sprites: which points of the plane they hold."""

import abc
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

_Floats = npt.NDArray[np.float64]


class SpriteShape(abc.ABC):
    """A plane figure, upright, with its centre of mass at the origin.

    Lengths are in pixels of a 64 by 64 image at scale 1, where they leave the border free and meet no pixel's
    centre by chance.

    Args:
        name: what the factor's value is called.
        area: of the figure.
        radius: the largest distance of a point of it from the origin.
    """

    def __init__(self, name: str, *, area: float, radius: float) -> None:
        self.name = name
        self.area = area
        self.radius = radius

    @abc.abstractmethod
    def contains(self, x: Any, y: Any) -> npt.NDArray[np.bool_]:
        """Whether points, x to the right and y upwards, are in the figure; of any shape that broadcasts."""


@final
class Square(SpriteShape):
    """A square with horizontal and vertical sides."""

    _HALF: Final = 10.7

    def __init__(self) -> None:
        super().__init__("square", area=4 * self._HALF**2, radius=self._HALF * 2**0.5)

    def contains(self, x: Any, y: Any) -> npt.NDArray[np.bool_]:
        return np.maximum(np.abs(x), np.abs(y)) <= self._HALF


@final
class Ellipse(SpriteShape):
    """An ellipse that lies."""

    _HALF_AXES: Final = (15.1, 8.2)

    def __init__(self) -> None:
        a, b = self._HALF_AXES
        super().__init__("ellipse", area=np.pi * a * b, radius=a)

    def contains(self, x: Any, y: Any) -> npt.NDArray[np.bool_]:
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

    def contains(self, x: Any, y: Any) -> npt.NDArray[np.bool_]:
        cubed = np.abs(x) / (self._UNIT * self._HALF_WIDTH)
        sine = np.cbrt(np.minimum(cubed, 1))
        cosine = np.sqrt(1 - sine**2)
        odd = 13 * cosine - 2 * (4 * cosine**3 - 3 * cosine)
        double = 2 * cosine**2 - 1
        even = -5 * double - (2 * double**2 - 1)
        return (np.abs(y / self._UNIT + self._CENTRE - even) <= odd) & (cubed <= 1)


SHAPES: Final[dict[str, SpriteShape]] = {shape.name: shape for shape in (Square(), Ellipse(), Heart())}
