"""Many small images as a single large one."""

import numpy as np
from matplotlib.axes import Axes

from pyro_infomax.plots.arrays import Drawable, Floats, as_floats

_MOST_PIXELS_PER_GUTTER = 16


def as_images(values: Drawable, *, name: str, axes: int) -> Floats:
    """Images in a common form, (\\*axes, H, W, 3) for three channels, else (\\*axes, H, W)."""
    images = as_floats(values, name=name)
    lead = ", ".join(["n"] if axes == 1 else ["rows", "columns"])
    if images.ndim not in (axes + 2, axes + 3) or images.size == 0:
        raise ValueError(
            f"Expected {name} of shape ({lead}, H, W) or ({lead}, C, H, W) but got shape {images.shape}; "
            "reshape flat images first."
        )
    return images if images.ndim == axes + 2 else _channels_drawable(images)


def _channels_drawable(images: Floats) -> Floats:
    if images.shape[-3] == 3:
        return np.moveaxis(images, -3, -1)
    # neither grey nor colour: the channels stand side by side, so that none is hidden
    return np.concatenate(list(np.moveaxis(images, -3, 0)), axis=-1)


def scale(images: Floats) -> tuple[float, float]:
    """The values that are drawn black and white: 0 and 1 unless the images go beyond."""
    return min(0.0, float(images.min())), max(1.0, float(images.max()))


def tile(images: Floats, *, fill: float) -> Floats:
    """The images (row, column, H, W, ...) in one picture, gutters of ``fill`` between them."""
    rows, columns, height, width = images.shape[:4]
    gutter = gutter_of(images)
    picture = np.full(
        (rows * (height + gutter) - gutter, columns * (width + gutter) - gutter, *images.shape[4:]), fill
    )
    for i, j in np.ndindex(rows, columns):
        top, left = i * (height + gutter), j * (width + gutter)
        picture[top : top + height, left : left + width] = images[i, j]
    return picture


def gutter_of(images: Floats) -> int:
    """Pixels between the tiles: visible beside large images, slight beside small ones."""
    return -(-max(images.shape[2:4]) // _MOST_PIXELS_PER_GUTTER)


def show(images: Floats, *, ax: Axes) -> Axes:
    """Draws the images (row, column, H, W, ...) as a mosaic without frame and ticks."""
    low, high = scale(images)
    picture = tile(images, fill=high)
    # imshow scales grey values only
    colourful = (picture - low) / (high - low) if picture.ndim == 3 else picture
    ax.imshow(colourful, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return ax


def centres(images: Floats, *, axis: int) -> Floats:
    """Where the tiles' middles lie, in pixels of the mosaic: of the rows (axis 0) or columns (axis 1)."""
    pitch = images.shape[2 + axis] + gutter_of(images)
    return np.arange(images.shape[axis]) * pitch + (images.shape[2 + axis] - 1) / 2
