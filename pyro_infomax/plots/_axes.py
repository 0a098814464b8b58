"""What all plots share: Axes to draw on, arrays from whatever comes in, mosaics of images."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import seaborn as sns
from matplotlib.axes import Axes

from pyro_infomax._types import Array, Floats

# ---- Axes, colours and frames.

Colour = tuple[float, float, float]

TEXT_COLOUR = "0.25"

_FEW = 5
# ten hues of differing lightness, after Paul Tol (2021), Colour Schemes
_MUTED = (
    "#332288", "#CC6677", "#DDCC77", "#117733", "#88CCEE",
    "#882255", "#44AA99", "#999933", "#AA4499", "#BBBBBB",
)  # fmt: skip


def axes_or_new(ax: Axes | None, *, size: tuple[float, float] = (6.4, 4.2)) -> Axes:
    """The given Axes, or those of a new figure of ``size`` inches."""
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax


def colours(count: int) -> list[Colour]:
    """Colours that stay apart for readers who are colour-blind; beyond ten no palette does."""
    if count <= _FEW:
        return list(sns.color_palette("colorblind", count))
    return list(sns.color_palette(_MUTED, count) if count <= len(_MUTED) else sns.husl_palette(count))


def tidy(ax: Axes, *, grid: str | None = None) -> Axes:
    """Frames and grid lines reduced to what helps to read a value."""
    ax.spines[["top", "right"]].set_visible(False)
    if grid is not None:
        ax.grid(visible=True, axis=grid, color="0.9", linewidth=0.8)  # type: ignore[arg-type]
        ax.set_axisbelow(True)
    return ax


def checked_names(names: Sequence[str] | None, *, count: int, template: str) -> list[str]:
    """One name for each of ``count`` latent dimensions."""
    chosen = [template.format(i) for i in range(count)] if names is None else [str(name) for name in names]
    if len(chosen) != count:
        raise ValueError(f"Expected {count} names but got {len(chosen)}.")
    return chosen


# ---- Whatever comes in, a NumPy array to draw.

Drawable = npt.ArrayLike  # tensors too, by the protocol of arrays


def as_array(values: Drawable) -> Array:
    """The values as an array on the CPU, free of any gradient."""
    detach = getattr(values, "detach", None)  # so is a tensor known without importing torch
    return np.asarray(values if detach is None else detach().cpu())


def as_floats(values: Drawable, *, name: str) -> Floats:
    """The values in float64, all of them finite."""
    # NumPy has no bfloat16, so a tensor changes its dtype before it leaves torch
    double = getattr(values, "double", None)
    array = as_array(values if double is None else double()).astype(np.float64)
    wrong = np.count_nonzero(~np.isfinite(array))
    if wrong:
        raise ValueError(f"Expected finite {name} but got {wrong} nan or infinite values; leave them out.")
    return array


def as_points(values: Drawable, *, name: str) -> Floats:
    """At least two points, shape (point, dimension)."""
    points = as_floats(values, name=name)
    if points.ndim != 2 or len(points) < 2 or points.shape[1] < 1:
        raise ValueError(
            f"Expected {name} of shape (n, d) with n >= 2 and d >= 1 but got shape {points.shape}; "
            "flatten the latent dimensions into one axis."
        )
    return points


def as_vector(values: Drawable, *, name: str) -> Floats:
    """One number per latent dimension, or per pair of a sweep, shape (d,)."""
    vector = as_floats(values, name=name)
    if vector.ndim != 1 or vector.size == 0:
        raise ValueError(f"Expected {name} of shape (d,) with d >= 1 but got shape {vector.shape}.")
    return vector


def check_lengths(owner: str, **vectors: Floats) -> None:
    """Raises ValueError unless the vectors are of one length: a number for each ``owner``."""
    if len({len(vector) for vector in vectors.values()}) > 1:
        lengths = ", ".join(f"{name} {len(vector)}" for name, vector in vectors.items())
        raise ValueError(f"Expected one number per {owner} in each array but got the lengths {lengths}.")


# ---- Many small images as a single large one.

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
