"""Images that a decoder makes, side by side."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from pyro_infomax.plots.arrays import Drawable, Floats, as_vector
from pyro_infomax.plots.canvas import axes_or_new, checked_names
from pyro_infomax.plots.mosaic import as_images, centres, show

_TILE = 0.7  # inches
_MARGIN = 0.9


def reconstructions(
    images: Drawable, reconstructions: Drawable, *, n: int = 10, ax: Axes | None = None
) -> Axes:
    """The first images above their reconstructions.

    Grey images lie between black at 0 and white at 1, colour images have three channels, and other
    channels stand side by side. Values outside [0, 1] widen the scale, for all tiles at once.

    Args:
        images: (N, H, W) or (N, C, H, W).
        reconstructions: of the same shape, such as the means of ``decode(z)``.
        n: how many to show; all N when there are fewer.
        ax: the Axes to draw on; a new figure's by default.

    Returns:
        The Axes, which hold one picture: a mosaic of two rows.

    Raises:
        ValueError: if the shapes differ or are not those of images, if a value is nan or infinite, or if n
            is below 1.

    Example:
        >>> import torch
        >>> ax = reconstructions(torch.rand(20, 1, 8, 8), torch.rand(20, 1, 8, 8), n=5)
        >>> ax.images[0].get_array().shape  # two rows of five images, a pixel between them
        (17, 44)
    """
    if n < 1:
        raise ValueError(f"Expected n >= 1 but got {n}.")
    pair = _first(images, n, name="images"), _first(reconstructions, n, name="reconstructions")
    if pair[0].shape != pair[1].shape:
        raise ValueError(
            f"Expected images and reconstructions of one shape but got {pair[0].shape} and {pair[1].shape}."
        )
    tiles = np.stack(pair)  # (row, column, height, width, ...)
    ax = show(tiles, ax=axes_or_new(ax, size=_size(tiles)))
    ax.set_yticks(centres(tiles, axis=0), ["data", "reconstruction"])
    ax.set_title("Reconstructions")
    return ax


def _first(values: Drawable, n: int, *, name: str) -> Floats:
    return as_images(values, name=name, axes=1)[:n]


def traversals(
    images: Drawable,
    *,
    values: Drawable | None = None,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""What the decoder changes when a single latent dimension moves: a row a dimension.

    Reference:
        Higgins, Matthey, Pal, Burgess, Glorot, Botvinick, Mohamed and Lerchner (2017), *beta-VAE: learning
        basic visual concepts with a constrained variational framework*.

    Args:
        images: (rows, columns, H, W) or (rows, columns, C, H, W): row j decodes z with :math:`z_j` set to
            each of the values in turn.
        values: (columns,) the values of :math:`z_j`, written below the columns; nothing by default.
        names: one name per row; by default :math:`z_0, z_1, \dots`
        ax: the Axes to draw on; a new figure's by default.

    Returns:
        The Axes, which hold one picture: the mosaic of all images.

    Raises:
        ValueError: if the shape is not that of rows of images, if a value is nan or infinite, or if the
            values or names do not match the columns or rows.

    Example:
        >>> import numpy as np
        >>> ax = traversals(np.random.default_rng(0).random((2, 3, 8, 8)), values=[-2, 0, 2])
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['$z_{0}$', '$z_{1}$']
    """
    tiles = as_images(images, name="images", axes=2)
    labels = checked_names(names, count=len(tiles), template="$z_{{{}}}$")
    steps = None if values is None else _checked_values(values, count=tiles.shape[1])
    ax = show(tiles, ax=axes_or_new(ax, size=_size(tiles)))
    ax.set_yticks(centres(tiles, axis=0), labels)
    if steps is not None:
        ax.set_xticks(
            centres(tiles, axis=1), [f"{step:.2g}".replace("-", "\N{MINUS SIGN}") for step in steps]
        )
        ax.tick_params(axis="x", labelsize="small")
        ax.set_xlabel("value of the latent dimension")
    ax.set_title("Latent traversals")
    return ax


def _checked_values(values: Drawable, *, count: int) -> Floats:
    vector = as_vector(values, name="values")
    if len(vector) != count:
        raise ValueError(f"Expected one value per column, {count} in all, but got {len(vector)}.")
    return vector


def _size(tiles: Floats) -> tuple[float, float]:
    rows, columns, height, width = tiles.shape[:4]
    return columns * _TILE * width / height + _MARGIN, rows * _TILE + _MARGIN
