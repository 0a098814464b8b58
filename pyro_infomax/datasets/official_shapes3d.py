"""The official 3D Shapes file."""

import os
from pathlib import Path

import h5py  # type: ignore[import-untyped]

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
        ValueError: if it is no HDF5 file or does not hold these arrays.
    """
    file = Path(path)
    if not file.exists():
        raise FileNotFoundError(f"Expected the HDF5 file of 3D Shapes but there is no {file}.")
    if not h5py.is_hdf5(file):
        raise ValueError(f"Expected the HDF5 file of 3D Shapes but {file} is no HDF5 file.")
    with h5py.File(file, "r") as archive:
        if not {"images", "labels"} <= set(archive):
            raise ValueError(f"Expected images and labels in {file} but found {', '.join(archive)}.")
        labels = archive["labels"][:]
    if labels.ndim != 2 or labels.shape[1] != len(_NAMES):
        raise ValueError(f"Expected labels of shape (N, {len(_NAMES)}) in {file} but got {labels.shape}.")
    rows = Hdf5Rows(file, "images")
    return FactorArrays(rows, labels, factor_names=_NAMES, white=255, where=where, correlated=correlated)
