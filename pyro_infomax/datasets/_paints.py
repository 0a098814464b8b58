"""What sprites and their background are painted with."""

import abc
import colorsys
from typing import Final, final

import numpy as np
import numpy.typing as npt

from pyro_infomax._checks import whole_number
from pyro_infomax._types import Integers

# ---- Paints: the brightness of pixels.

_Pixels = npt.NDArray[np.float32]
_RED_GREEN_BLUE: Final = 3
_WORDS: Final = 2**32


class Paint(abc.ABC):
    """The brightness of pixels, in [0, 1], for each channel.

    A paint may be plain, may have a number of values of its own, which make one more factor of the data, or
    may be drawn anew for each image, which makes a nuisance that no factor counts.

    Args:
        channels: 1 for grey, 3 for colour.
        num_values: how many values the paint's own factor has; 0 for no factor.
        draws: whether anything is drawn.
    """

    def __init__(self, *, channels: int, num_values: int = 0, draws: bool = False) -> None:
        self.channels = channels
        self.num_values = num_values
        self.draws = draws

    @abc.abstractmethod
    def brightness(self, values: Integers, *, size: int, random_state: np.random.RandomState) -> _Pixels:
        """The paint of n images.

        Args:
            values: of the paint's own factor, (n,); zeros where it has none.
            size: side of the images, in pixels.
            random_state: to draw from.

        Returns:
            (n, channels, rows, columns), rows and columns 1 or ``size``.
        """


@final
class Grey(Paint):
    """One grey for all images.

    Args:
        level: from 0, black, to 1, white.

    Raises:
        ValueError: for a level outside [0, 1].
    """

    def __init__(self, level: float) -> None:
        super().__init__(channels=1)
        self.level = _checked_level(level)

    def brightness(self, values: Integers, *, size: int, random_state: np.random.RandomState) -> _Pixels:  # noqa: ARG002
        return np.full((len(values), 1, 1, 1), self.level, dtype=np.float32)


@final
class GreyLevels(Paint):
    """Some greys, which are the values of a factor.

    Args:
        *levels: at least one, each from 0, black, to 1, white.

    Raises:
        ValueError: for no level, for one outside [0, 1] and for one that comes twice.

    Example:
        >>> from pyro_infomax.datasets import Sprites
        >>> dim = Sprites(scales=2, orientations=4, positions=4, size=16, background=GreyLevels(0.0, 0.2))
        >>> dim.factor_names[-1], dim.factor_sizes
        ('background', (3, 2, 4, 4, 4, 2))
    """

    def __init__(self, *levels: float) -> None:
        if not levels:
            raise ValueError("Expected at least one grey level but got none.")
        super().__init__(channels=1, num_values=len(levels))
        self.levels = tuple(_checked_level(level) for level in levels)
        if len(set(self.levels)) < len(levels):
            raise ValueError(f"Expected grey levels without repetition but got {list(self.levels)}.")

    def brightness(self, values: Integers, *, size: int, random_state: np.random.RandomState) -> _Pixels:  # noqa: ARG002
        return np.asarray(self.levels, dtype=np.float32)[values].reshape(-1, 1, 1, 1)


@final
class Hues(Paint):
    """Pure colours around the colour wheel from red on, which are the values of a factor.

    Args:
        number: how many hues.

    Raises:
        ValueError: if it is no integer of at least 1.
    """

    def __init__(self, number: int) -> None:
        number = whole_number("the number of hues", number, at_least=1)
        super().__init__(channels=_RED_GREEN_BLUE, num_values=number)
        self._colours = np.array([colorsys.hsv_to_rgb(k / number, 1, 1) for k in range(number)], np.float32)

    def brightness(self, values: Integers, *, size: int, random_state: np.random.RandomState) -> _Pixels:  # noqa: ARG002
        return self._colours[values][:, :, None, None]


@final
class RandomColour(Paint):
    """A colour for each image, each channel uniform from ``low`` to ``high``.

    From one half to 1 it makes the coloured sprites of Locatello et al. (2019), *Challenging Common
    Assumptions in the Unsupervised Learning of Disentangled Representations*.

    Args:
        low: from 0.
        high: to 1.

    Raises:
        ValueError: unless 0 <= low < high <= 1.
    """

    def __init__(self, low: float = 0.5, high: float = 1.0) -> None:
        super().__init__(channels=_RED_GREEN_BLUE, draws=True)
        self.low, self.high = _checked_span(low, high)

    def brightness(self, values: Integers, *, size: int, random_state: np.random.RandomState) -> _Pixels:  # noqa: ARG002
        colours = random_state.uniform(self.low, self.high, size=(len(values), self.channels, 1, 1))
        return colours.astype(np.float32)


@final
class Noise(Paint):
    """Every pixel of every image uniform from ``low`` to ``high``, each channel by itself.

    As the background, from 0 to 1 and in colour, it makes the noisy sprites of Locatello et al. (2019),
    *Challenging Common Assumptions in the Unsupervised Learning of Disentangled Representations*.

    Args:
        low: from 0.
        high: to 1.
        channels: 3 for colour, 1 for grey.

    Raises:
        ValueError: unless 0 <= low < high <= 1 and channels is 1 or 3.
    """

    def __init__(self, low: float = 0.0, high: float = 1.0, *, channels: int = _RED_GREEN_BLUE) -> None:
        if channels not in (1, _RED_GREEN_BLUE):
            raise ValueError(f"Expected 1 or 3 channels of noise but got {channels!r}.")
        super().__init__(channels=channels, draws=True)
        self.low, self.high = _checked_span(low, high)

    def brightness(self, values: Integers, *, size: int, random_state: np.random.RandomState) -> _Pixels:
        # The legacy generator draws at double the bytes and a third of the speed, so that it only seeds
        words = random_state.randint(_WORDS, size=4, dtype=np.uint32)
        generator = np.random.Generator(np.random.SFC64(words))
        noise = generator.random((len(values), self.channels, size, size), dtype=np.float32)
        noise *= self.high - self.low
        noise += self.low
        return noise


def _checked_level(level: object) -> float:
    if not isinstance(level, int | float | np.number) or not 0 <= level <= 1:
        raise ValueError(f"Expected a grey level from 0 (black) to 1 (white) but got {level!r}.")
    return float(level)


def _checked_span(low: float, high: float) -> tuple[float, float]:
    if not 0 <= low < high <= 1:
        raise ValueError(f"Expected 0 <= low < high <= 1 but got low {low!r} and high {high!r}.")
    return float(low), float(high)


# ---- Binary images to painted ones.


@final
class Painting:
    """Paint for the sprite and for what is behind it; by default images are white on black."""

    def __init__(self, *, size: int, sprite: Paint | None, background: Paint | None) -> None:
        self._size = size
        self._is_plain = sprite is None and background is None
        self._paints = {
            "sprite": _checked_paint(Grey(1) if sprite is None else sprite, "sprite"),
            "background": _checked_paint(Grey(0) if background is None else background, "background"),
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

    def paint(self, images: _Pixels, factors: Integers, random_state: np.random.RandomState) -> _Pixels:
        """Painted images (n, ...) of this shape from images of 0 and 1, (n, size, size)."""
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


def _checked_paint(paint: object, name: str) -> Paint:
    if not isinstance(paint, Paint):
        raise ValueError(f"Expected {name} to be a paint, such as Grey(0.5), but got {paint!r}.")
    return paint
