"""The official 3D Shapes file."""

import os
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt

from pyro_infomax.datasets.factor_arrays import FactorArrays
from pyro_infomax.datasets.factor_distribution import Correlated, Where
from pyro_infomax.datasets.stored_rows import Hdf5Rows

_NAMES = ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")


def load_shapes3d(
    path: str | os.PathLike[str], *, where: Where | None = None, correlated: Correlated | None = None
) -> FactorArrays:
    """The 3D Shapes of the official HDF5 file, by their factors; images are read when they are asked for.

    Reference:
        Burgess and Kim (2018), *3D Shapes Dataset*.

    Args:
        path: the HDF5 file, with ``images`` (N, 64, 64, 3), bytes, and ``labels`` (N, 6).
        where: which combinations there are, as for :class:`Sprites`.
        correlated: which factors come together, as for :class:`Sprites`.

    Returns:
        Images (3, 64, 64) with the factors floor_hue, wall_hue, object_hue, scale, shape and orientation,
        each numbered in the order of its values.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no HDF5 file, is damaged or does not hold these arrays.
    """
    file = Path(path)
    if not file.exists():
        raise FileNotFoundError(f"Expected the HDF5 file of 3D Shapes but there is no {file}.")
    if not h5py.is_hdf5(file):
        raise ValueError(f"Expected the HDF5 file of 3D Shapes but {file} is no HDF5 file.")
    labels = _labels(file)
    rows = Hdf5Rows(file, "images")
    return FactorArrays(rows, labels, factor_names=_NAMES, white=255, where=where, correlated=correlated)


def _labels(path: Path) -> npt.NDArray[Any]:
    try:
        archive = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(
            f"Expected the HDF5 file of 3D Shapes but {path} is damaged ({error}); fetch it again."
        ) from None
    with archive:
        images, labels = (archive.get(name) for name in ("images", "labels"))
        if not isinstance(images, h5py.Dataset) or not isinstance(labels, h5py.Dataset):
            raise ValueError(f"Expected images and labels in {path} but found {', '.join(archive)}.")
        if images.dtype != np.uint8:
            raise ValueError(f"Expected images of bytes in {path} but got dtype {images.dtype}.")
        if labels.ndim != 2 or labels.shape[1] != len(_NAMES):
            raise ValueError(f"Expected labels of shape (N, {len(_NAMES)}) in {path} but got {labels.shape}.")
        return labels[:]
