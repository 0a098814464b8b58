"""Binary images to painted ones."""

from typing import Any, final

import numpy as np
import numpy.typing as npt

from pyro_infomax.datasets.factor_checks import Factors
from pyro_infomax.datasets.paints import Grey, Paint

_Pixels = npt.NDArray[np.float32]


@final
class Painting:
    """Paint for the sprite and for what is behind it; as they are, images are white on black.

    Args:
        size: side of the images, in pixels.
        sprite: where a pixel is on; None for white.
        background: where it is off; None for black.

    Raises:
        ValueError: for anything that is no paint.
    """

    def __init__(self, *, size: int, sprite: Paint | None, background: Paint | None) -> None:
        self._size = size
        self._is_plain = sprite is None and background is None
        self._paints = {
            "sprite": _checked(Grey(1) if sprite is None else sprite, "sprite"),
            "background": _checked(Grey(0) if background is None else background, "background"),
        }
        self._channelled = (max(paint.channels for paint in self._paints.values()), size, size)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image, with an axis of channels where there is colour."""
        return self._channelled[1:] if self._channelled[0] == 1 else self._channelled

    @property
    def draws(self) -> bool:
        """Whether any of the paint is drawn anew for each image."""
        return any(paint.draws for paint in self._paints.values())

    @property
    def factor_sizes(self) -> dict[str, int]:
        """The numbers of values of those paints that are factors."""
        return {name: paint.num_values for name, paint in self._paints.items() if paint.num_values}

    def paint(self, images: _Pixels, factors: Factors, random_state: np.random.RandomState) -> _Pixels:
        """Painted images, (n, \\*shape).

        Args:
            images: 0 and 1, (n, size, size).
            factors: of the paints that are factors, (n, number of them).
            random_state: to draw from.
        """
        if self._is_plain:
            return images
        columns = dict(zip(self.factor_sizes, factors.T, strict=True))
        none = np.zeros(len(images), dtype=np.int64)
        sprite, background = (
            paint.brightness(columns.get(name, none), size=self._size, random_state=random_state)
            for name, paint in self._paints.items()
        )
        painted = np.empty((len(images), *self._channelled), dtype=np.float32)
        painted[...] = background
        np.copyto(painted, sprite, where=images[:, None] > 0)  # (datum, channel, row, column)
        return painted.reshape(-1, *self.shape)


def _checked(paint: Any, name: str) -> Paint:
    if not isinstance(paint, Paint):
        raise ValueError(f"Expected {name} to be a paint, such as Grey(0.5), but got {paint!r}.")
    return paint
