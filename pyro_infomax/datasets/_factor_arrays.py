"""Images that are at hand, looked up by their factors."""

import math
import os
import zipfile
from pathlib import Path
from typing import Final, final

import h5py
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_infomax._checks import whole_number
from pyro_infomax._types import Array, Floats, Integers
from pyro_infomax.datasets._factors import (
    Correlated,
    FactorDataset,
    Seed,
    Where,
    to_array,
    to_cells,
    to_distribution,
    to_random_state,
)
from pyro_infomax.datasets._stored import (
    MAX_BYTES,
    Channels,
    Hdf5Rows,
    Rows,
    channels_last,
    check_npz_size,
    check_size,
    checked_white,
    names_in,
    npz_rows,
    read_array,
    white_of_bytes,
)

# ---- Images in an array or a file, with every combination of their factors or some.

_CHUNK: Final = 4096
_SINGLE: Final = 1e-6  # of a value that was rounded to single precision
_DOUBLE: Final = 1e-11  # of the span of a factor, for values near 0
_LAST_PLACES: Final = 8


@final
class FactorArrays(FactorDataset):
    """Any images whose factors are known, with every combination of these or with some.

    Each column of factors is numbered from 0 in the order of its values. Floats that differ by no more than
    rounding, a millionth of themselves and of the factor's range, are one value. A combination comes as often
    as there are rows of it, and which of several rows is the observation is drawn. Images may stay in a file:
    of a memory-mapped array or an ``h5py`` dataset only the rows that are asked for are read.

    Args:
        images: array, tensor or frame, (N, \\*shape), or anything with ``shape`` and ``dtype`` that takes an
            index. Colour images with the channels last get them first.
        factors: of each image, finite real numbers, (N, K).
        factor_names: K names; None for "factor 0", "factor 1" and so on.
        white: the number that becomes 1; None for 255 where images are 8-bit integers that hold more than 0
            and 1, and 1 otherwise.
        channels: where (N, ., ., .) images have them, ``"first"`` or ``"last"``; None tells 1, 3 or 4
            channels by the shape, and refuses what could be either.
        where: which of the combinations there are: a function from factors (n, K), numbered, to booleans.
        correlated: which factors come together, as for :class:`Sprites`.

    Raises:
        ValueError: for arrays of other shapes, lengths or kinds, for names that are not K different ones,
            where it is open which number is white (bytes all below 128) or where the channels are, and where
            nothing is left. :meth:`observations` raises it for combinations without an image and for
            pixels outside [0, 1].

    Example:
        >>> images = np.arange(4, dtype=np.uint8).repeat(4).reshape(4, 2, 2) * 85
        >>> data = FactorArrays(images, [[5, 0], [5, 1], [9, 0], [9, 1]], factor_names=("size", "side"))
        >>> data.factor_sizes, data.factor_values["size"]
        ((2, 2), (5, 9))
        >>> data.observations([[1, 0]])
        tensor([[[0.6667, 0.6667],
                 [0.6667, 0.6667]]])
    """

    def __init__(
        self,
        images: Rows | Tensor,
        factors: npt.ArrayLike,
        *,
        factor_names: tuple[str, ...] | None = None,
        white: float | None = None,
        channels: Channels | None = None,
        where: Where | None = None,
        correlated: Correlated | None = None,
    ) -> None:
        self._images = _checked_images(_to_rows(images))
        values = _checked_factors(factors, rows=self._images.shape[0])
        names = _checked_names(factor_names, values.shape[1])
        self._channels_last = channels_last(self._images.shape, channels)
        numbered = [_numbered(column) for column in values.T]
        sizes = _checked_grid(tuple(len(distinct) for distinct, _ in numbered))
        self._distinct = tuple(distinct for distinct, _ in numbered)
        cells = to_cells(np.stack([number for _, number in numbered], axis=1), sizes)
        self._rows = np.argsort(cells, kind="stable")
        self._cells, self._starts, self._counts = np.unique(
            cells[self._rows], return_index=True, return_counts=True
        )
        self.draws = bool(self._counts.max() > 1)
        present, weights = self._present(math.prod(sizes))
        distribution = to_distribution(
            names, sizes, where=where, correlated=correlated, cells=present, log_weights=weights
        )
        super().__init__(names, distribution)
        self._white = _white(self._images) if white is None else checked_white(white)

    @property
    def factor_values(self) -> dict[str, tuple[float, ...]]:
        """What each factor's numbers stand for."""
        return {
            name: tuple(values.tolist())
            for name, values in zip(self.factor_names, self._distinct, strict=True)
        }

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """The images' shape, channels first."""
        shape = self._images.shape
        return (shape[-1], *shape[1:-1]) if self._channels_last else tuple(shape[1:])

    def _present(self, grid: int) -> tuple[Integers | None, Floats | None]:
        """The combinations that have images and their log-weights, None for all and for equal ones."""
        uneven = np.ptp(self._counts) > 0
        if len(self._cells) == grid and not uneven:
            return None, None
        return self._cells, np.log(self._counts) if uneven else None

    def _observe(self, factors: Integers, seed: Seed) -> Tensor:
        places = self._places(factors)
        rows = self._starts[places]
        if self.draws:
            share = to_random_state(seed).random_sample(len(factors))
            rows = rows + np.floor(share * self._counts[places]).astype(np.int64)
        images = np.asarray(self._images[self._rows[rows]])
        if self._channels_last:
            images = np.moveaxis(images, -1, 1)
        scaled = images.astype(np.float32, order="C") / np.float32(self._white)
        return torch.from_numpy(_checked_brightness(scaled))

    def _places(self, factors: Integers) -> Integers:
        cells = to_cells(factors, self.factor_sizes)
        places = np.searchsorted(self._cells, cells).clip(max=len(self._cells) - 1)
        missing = self._cells[places] != cells
        if missing.any():
            first = int(missing.argmax())
            raise ValueError(
                f"Expected combinations of factors that have an image but {missing.sum()} have none, the "
                f"first in row {first}: {factors[first].tolist()}; all_factors() lists those that have."
            )
        return places


def _to_rows(images: Rows | Tensor) -> Rows:
    if isinstance(images, Tensor):
        return to_array(images, name="images")
    if isinstance(images, h5py.Dataset):
        return Hdf5Rows(Path(images.file.filename), images.name)
    is_frame = hasattr(images, "to_numpy")
    return images.to_numpy() if is_frame else images  # type: ignore[attr-defined]


def _checked_images(images: Rows) -> Rows:
    if not hasattr(images, "shape") or not hasattr(images, "dtype") or len(images.shape) < 2:
        raise ValueError(
            "Expected images as an array of at least two axes, the data first, but got "
            f"{getattr(images, 'shape', type(images).__name__)}."
        )
    if images.dtype.kind not in "buif":
        raise ValueError(f"Expected images of real numbers or booleans but got dtype {images.dtype}.")
    return images


def _checked_factors(factors: npt.ArrayLike, *, rows: int) -> Array:
    values = to_array(factors, name="factors")
    if values.ndim != 2 or len(values) != rows or 0 in values.shape:
        raise ValueError(
            f"Expected factors of shape ({rows}, K), a row for each image, but got shape {values.shape}."
        )
    if values.dtype.kind not in "buif" or not np.isfinite(values).all():
        raise ValueError(f"Expected factors as finite real numbers but got dtype {values.dtype} or nan.")
    return values


def _checked_names(names: tuple[str, ...] | None, number: int) -> tuple[str, ...]:
    if names is None:
        return tuple(f"factor {k}" for k in range(number))
    if len(set(names)) != number or len(names) != number:
        raise ValueError(f"Expected {number} different factor_names but got {list(names)}.")
    return tuple(names)


def _checked_grid(sizes: tuple[int, ...]) -> tuple[int, ...]:
    if math.prod(sizes) > np.iinfo(np.int64).max:
        raise ValueError(
            f"Expected factors of few values each but got grids of {', '.join(map(str, sizes))}, whose "
            "combinations are too many to be numbered: round continuous factors first."
        )
    return sizes


def _numbered(column: Array) -> tuple[Array, Integers]:
    """The values of a factor in their order, and which of them each row has."""
    distinct, number = np.unique(column, return_inverse=True)
    if column.dtype.kind != "f":
        return distinct, number
    values = distinct.astype(np.float64)
    near = _rounding_of(values)
    group = np.concatenate([[0], np.cumsum(np.diff(values) > near[1:])])
    first = np.searchsorted(group, np.arange(group[-1] + 1))
    last = np.append(first[1:], len(values)) - 1
    # A factor that runs through many values is none of a few with rounding
    if (values[last] - values[first] > near[last]).any():
        return distinct, number
    return distinct[first], group[number]


def _rounding_of(values: Floats) -> Floats:
    """How far each of ascending values may be from one below and still be the same but for rounding."""
    size, span = np.abs(values), float(values[-1] - values[0])
    # A millionth of both: scales may be logarithmic, and dates are large numbers close together
    single = _SINGLE * np.minimum(size, span)
    return np.maximum(single, np.maximum(_DOUBLE * span, _LAST_PLACES * np.spacing(size)))


def _white(images: Rows) -> float:
    if images.dtype != np.uint8:
        return 1
    brightest = 0
    for start in range(0, images.shape[0], _CHUNK):
        brightest = max(brightest, int(images[start : start + _CHUNK].max(initial=0)))
        if 2 * brightest > np.iinfo(np.uint8).max:
            break  # bright enough for a grey level of 255
    return white_of_bytes(brightest)


def _checked_brightness(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    if images.size and not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(
            f"Expected images in [0, 1] but got values from {images.min():.9g} to {images.max():.9g}; "
            "name the number that is white or scale them."
        )
    return images


# ---- The official dSprites file.

_DSPRITES_FACTORS = ("shape", "scale", "orientation", "position_x", "position_y")


def load_dsprites(
    path: str | os.PathLike[str],
    *,
    unpack_to: str | os.PathLike[str] | None = None,
    where: Where | None = None,
    correlated: Correlated | None = None,
    max_bytes: int = 4 * MAX_BYTES,
) -> FactorArrays:
    """The dSprites of the official npz file, by their factors.

    The arrays ``imgs`` and ``latents_classes`` are read and nothing is ever unpickled. Of the six columns of
    the latter the first, the colour, has one value and is left out. The file is compressed: its images are
    unpacked to memory, 3 GB, when they are first asked for, or once to an npy file of that size, which is
    memory-mapped then and by later calls. Where they are stored uncompressed they are mapped in place.

    Reference:
        Matthey, Higgins, Hassabis and Lerchner (2017), *dSprites: Disentanglement testing Sprites dataset*.

    Args:
        path: the npz file.
        unpack_to: the npy file to unpack the images to, if they are not to be kept in memory.
        where: which combinations there are, as for :class:`Sprites`.
        correlated: which factors come together, as for :class:`Sprites`.
        max_bytes: how large the arrays may be, unpacked: 4 GiB, where the official ones take 3.

    Returns:
        Images (64, 64) with the factors shape, scale, orientation, position_x and position_y.

    Raises:
        FileNotFoundError: if there is no such file, or no folder to unpack to.
        ValueError: if it is no npz file, is damaged, does not hold these arrays or larger ones than allowed,
            and if ``unpack_to`` is there already and holds something else.
    """
    file = Path(path)
    classes = _classes(file, whole_number("max_bytes", max_bytes, at_least=1))
    copy = None if unpack_to is None else Path(unpack_to)
    return FactorArrays(
        npz_rows(file, "imgs", unpack_to=copy),
        classes[:, 1:],
        factor_names=_DSPRITES_FACTORS,
        white=1,
        where=where,
        correlated=correlated,
    )


def _classes(path: Path, max_bytes: int) -> Array:
    if not path.exists():
        raise FileNotFoundError(f"Expected the npz file of dSprites but there is no {path}.")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"Expected the npz file of dSprites but {path} is no npz file.")
    if not {"imgs", "latents_classes"} <= set(found := names_in(path)):
        raise ValueError(f"Expected arrays imgs and latents_classes in {path} but found {', '.join(found)}.")
    check_npz_size(path, ("imgs", "latents_classes"), max_bytes=max_bytes)
    classes = read_array(path, "latents_classes")
    if np.ndim(classes) != 2 or classes.shape[1] != 1 + len(_DSPRITES_FACTORS):
        raise ValueError(
            f"Expected latents_classes of shape (N, {1 + len(_DSPRITES_FACTORS)}) in {path} "
            f"but got {np.shape(classes)}."
        )
    return classes


# ---- The official 3D Shapes file.

_SHAPES3D_FACTORS = ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")


def load_shapes3d(
    path: str | os.PathLike[str],
    *,
    where: Where | None = None,
    correlated: Correlated | None = None,
    max_bytes: int = MAX_BYTES,
) -> FactorArrays:
    """The 3D Shapes of the official HDF5 file, by their factors; images are read when they are asked for.

    Reference:
        Burgess and Kim (2018), *3D Shapes Dataset*.

    Args:
        path: the HDF5 file, with ``images`` (N, 64, 64, 3), bytes, and ``labels`` (N, 6).
        where: which combinations there are, as for :class:`Sprites`.
        correlated: which factors come together, as for :class:`Sprites`.
        max_bytes: how large the labels may be, which alone are read at once.

    Returns:
        Images (3, 64, 64) with the factors floor_hue, wall_hue, object_hue, scale, shape and orientation,
        each numbered in the order of its values.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no HDF5 file, is damaged, does not hold these arrays or larger ones than allowed.
    """
    file = Path(path)
    if not file.exists():
        raise FileNotFoundError(f"Expected the HDF5 file of 3D Shapes but there is no {file}.")
    if not h5py.is_hdf5(file):
        raise ValueError(f"Expected the HDF5 file of 3D Shapes but {file} is no HDF5 file.")
    labels = _labels(file, whole_number("max_bytes", max_bytes, at_least=1))
    rows = Hdf5Rows(file, "images")
    return FactorArrays(
        rows,
        labels,
        factor_names=_SHAPES3D_FACTORS,
        white=255,
        channels="last",
        where=where,
        correlated=correlated,
    )


def _labels(path: Path, max_bytes: int) -> Array:
    try:
        with h5py.File(path, "r") as archive:
            return _labels_in(archive, path, max_bytes)
    except (OSError, RuntimeError, KeyError) as error:
        raise ValueError(
            f"Expected the HDF5 file of 3D Shapes but {path} is damaged ({error}); fetch it again."
        ) from None


def _labels_in(archive: h5py.File, path: Path, max_bytes: int) -> Array:
    images, labels = (archive.get(name) for name in ("images", "labels"))
    if not isinstance(images, h5py.Dataset) or not isinstance(labels, h5py.Dataset):
        raise ValueError(f"Expected images and labels in {path} but found {', '.join(archive)}.")
    if images.dtype != np.uint8:
        raise ValueError(f"Expected images of bytes in {path} but got dtype {images.dtype}.")
    if labels.ndim != 2 or labels.shape[1] != len(_SHAPES3D_FACTORS):
        raise ValueError(
            f"Expected labels of shape (N, {len(_SHAPES3D_FACTORS)}) in {path} but got {labels.shape}."
        )
    check_size(int(labels.nbytes), of=f"labels {labels.shape} of {path}", max_bytes=max_bytes)
    return labels[:]
