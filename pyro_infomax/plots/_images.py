"""Images that a decoder makes, side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from pyro_infomax._types import Floats
from pyro_infomax.plots._axes import (
    Drawable,
    as_images,
    as_vector,
    axes_or_new,
    centres,
    checked_names,
    scale,
    show,
)

# ---- Grids of images.

_GRID_TILE = 0.7  # inches
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
    given = {"images": images, "reconstructions": reconstructions}
    pair = [as_images(values, name=name, axes=1)[:n] for name, values in given.items()]
    if pair[0].shape != pair[1].shape:
        raise ValueError(
            f"Expected images and reconstructions of one shape but got {pair[0].shape} and {pair[1].shape}."
        )
    tiles = np.stack(pair)  # (row, column, height, width, ...)
    ax = show(tiles, ax=axes_or_new(ax, size=_size(tiles)))
    ax.set_yticks(centres(tiles, axis=0), ["data", "reconstruction"])
    ax.set_title("Reconstructions")
    return ax


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
    steps = None if values is None else _checked_values(values, per="column", count=tiles.shape[1])
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


def _checked_values(values: Drawable, *, per: str, count: int) -> Floats:
    vector = as_vector(values, name="values")
    if len(vector) != count:
        raise ValueError(f"Expected one value per {per}, {count} in all, but got {len(vector)}.")
    return vector


def _size(tiles: Floats) -> tuple[float, float]:
    rows, columns, height, width = tiles.shape[:4]
    return columns * _GRID_TILE * width / height + _MARGIN, rows * _GRID_TILE + _MARGIN


# ---- Traversals in motion.

_FRAME_TILE = 1.2  # inches
_NAME = 0.3  # above a tile
_LETTER = 0.085  # of a name
_DOTS_PER_INCH = 80
_MOST_IN_A_ROW = 8
_RATES = (0.1, 50.0)  # GIFs count hundredths of a second, and viewers slow down what is faster


def traversal_animation(
    images: Drawable,
    path: str | Path,
    *,
    fps: float = 10.0,
    values: Drawable | None = None,
    names: Sequence[str] | None = None,
) -> Path:
    r"""A GIF of what the decoder changes when a single latent dimension moves: a tile a dimension.

    All move forth and back, so that the end is the beginning. The same images, side by side, are
    :func:`traversals`; :func:`most_informative` says which dimensions are worth a tile.

    Args:
        images: (rows, frames, H, W) or (rows, frames, C, H, W): row j decodes z with :math:`z_j` set to each
            of the values in turn. Three channels are colour, others stand side by side.
        path: where to, a name that ends with .gif; a file of that name is overwritten.
        fps: frames per second, from 0.1 to 50.
        values: (frames,) the values of :math:`z_j`, written below; nothing by default.
        names: one name per row, above its tile; by default :math:`z_0, z_1, \dots`

    Raises:
        ValueError: if the shape is not that of rows of two images or more, a value is nan or infinite, the
            values or names do not match the frames or rows, fps is out of range, or the path does not end
            with .gif.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     traversal_animation(np.random.rand(2, 5, 8, 8), f"{folder}/latents.gif").name
        'latents.gif'
    """
    tiles = as_images(images, name="images", axes=2)
    target = _checked_path(path)
    if tiles.shape[1] < 2:
        raise ValueError("Expected two frames or more but got 1: nothing would move.")
    if not _RATES[0] <= fps <= _RATES[1]:
        raise ValueError(f"Expected fps from {_RATES[0]:g} to {_RATES[1]:g} but got {fps}.")
    labels = checked_names(names, count=len(tiles), template="$z_{{{}}}$")
    captions = _captions(values, count=tiles.shape[1])
    low, high = scale(tiles)
    _write(_Film((tiles - low) / (high - low), labels, captions), target, fps=fps)
    return target


def _checked_path(path: str | Path) -> Path:
    target = Path(path)
    if target.suffix.lower() != ".gif":
        raise ValueError(f"Expected a path that ends with .gif but got {str(target)!r}.")
    return target


def _captions(values: Drawable | None, *, count: int) -> list[str] | None:
    if values is None:
        return None
    vector = _checked_values(values, per="frame", count=count)
    return [f"{value:+.2f}".replace("-", "\N{MINUS SIGN}") for value in vector]


@final
class _Film:
    """A figure that shows one frame at a time."""

    def __init__(self, tiles: Floats, labels: list[str], captions: list[str] | None) -> None:
        self.length = tiles.shape[1]
        self._tiles, self._captions = tiles, captions
        rows = -(-len(tiles) // _MOST_IN_A_ROW)
        columns = -(-len(tiles) // rows)
        height, width = tiles.shape[2:4]
        below = _NAME if captions else 0.0
        across = max(_FRAME_TILE * max(1.0, width / height), _LETTER * max(map(len, labels)))
        size = (columns * across, rows * (_FRAME_TILE + _NAME) + below)
        self.figure = Figure(figsize=size, dpi=_DOTS_PER_INCH, layout="constrained")
        self._canvas = FigureCanvasAgg(self.figure)
        axes = self.figure.subplots(rows, columns, squeeze=False).ravel()
        self._axes: list[Axes] = list(axes[: len(tiles)])
        for ax in axes[len(tiles) :]:
            ax.set_axis_off()
        for ax, tile, label in zip(self._axes, tiles, labels, strict=True):
            show(tile[None, :1], ax=ax).set_title(label, fontsize="medium")

    def frame(self, number: int) -> Image.Image:
        """The picture of one frame."""
        for ax, tile in zip(self._axes, self._tiles, strict=True):
            ax.images[0].set_data(tile[number])
        if self._captions:
            self.figure.supxlabel(self._captions[number], fontsize="medium")
        self._canvas.draw()
        # Nothing moves from its place after the first frame
        self.figure.set_layout_engine("none")
        return Image.fromarray(np.asarray(self._canvas.buffer_rgba())[..., :3].copy())


def _write(film: _Film, path: Path, *, fps: float) -> None:
    forth = [film.frame(number) for number in range(film.length)]
    forth[0].save(
        path,
        format="GIF",
        save_all=True,
        append_images=[*forth[1:], *forth[-2:0:-1]],
        duration=round(1000 / fps),
        loop=0,
    )
