"""Which axis of images holds their channels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_CHANNELS = (1, 3, 4)


def channels_last(shape: Sequence[int]) -> bool:
    """Whether images of this shape, the data first, have their channels last and not first.

    Example:
        >>> channels_last((5, 64, 64, 3)), channels_last((5, 3, 64, 64)), channels_last((5, 64, 64))
        (True, False, False)
    """
    return len(shape) == 4 and shape[-1] in _CHANNELS and shape[1] not in _CHANNELS


def channels_first(images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Images with the axis of channels, where there is one, before rows and columns."""
    return np.moveaxis(images, -1, 1) if channels_last(images.shape) else images
