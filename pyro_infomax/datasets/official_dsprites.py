"""The official dSprites file."""

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyro_infomax.datasets.factor_arrays import FactorArrays
from pyro_infomax.datasets.factor_distribution import Correlated, Where
from pyro_infomax.datasets.stored_rows import npz_rows, undamaged

_NAMES = ("shape", "scale", "orientation", "position_x", "position_y")


def load_dsprites(
    path: str | os.PathLike[str],
    *,
    unpack_to: str | os.PathLike[str] | None = None,
    where: Where | None = None,
    correlated: Correlated | None = None,
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

    Returns:
        Images (64, 64) with the factors shape, scale, orientation, position_x and position_y.

    Raises:
        FileNotFoundError: if there is no such file, or no folder to unpack to.
        ValueError: if it is no npz file, is damaged or does not hold these arrays, and if ``unpack_to`` is
            there already and holds something else.
    """
    file = Path(path)
    classes = _classes(file)
    copy = None if unpack_to is None else Path(unpack_to)
    return FactorArrays(
        npz_rows(file, "imgs", unpack_to=copy),
        classes[:, 1:],
        factor_names=_NAMES,
        white=1,
        where=where,
        correlated=correlated,
    )


def _classes(path: Path) -> npt.NDArray[Any]:
    if not path.exists():
        raise FileNotFoundError(f"Expected the npz file of dSprites but there is no {path}.")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"Expected the npz file of dSprites but {path} is no npz file.")
    with undamaged(path), path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        if not {"imgs", "latents_classes"} <= set(file.files):
            raise ValueError(
                f"Expected arrays imgs and latents_classes in {path} but found {', '.join(file.files)}."
            )
        classes = file["latents_classes"]
    if np.ndim(classes) != 2 or classes.shape[1] != 1 + len(_NAMES):
        raise ValueError(
            f"Expected latents_classes of shape (N, {1 + len(_NAMES)}) in {path} but got {np.shape(classes)}."
        )
    return classes
