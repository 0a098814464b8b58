"""Images from the user's own npz file."""

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pyro_infomax.datasets.channels import channels_first
from pyro_infomax.datasets.images import LabelledImages
from pyro_infomax.datasets.stored_rows import undamaged

_Array = npt.NDArray[Any]
_IMAGE_NAMES = ("images", "x")
_LABEL_NAMES = ("labels", "y")


def load_npz(path: str | os.PathLike[str]) -> LabelledImages:
    """Images, and labels where there are any, from an npz file.

    The images are the array ``images`` or else ``x``, the labels ``labels`` or else ``y``. Unsigned 8-bit
    integers are divided by 255 (unless they hold nothing but 0 and 1), booleans become 0 and 1, and other
    numbers are taken as they are. Colour images with the channels last, (N, H, W, 3), get them first. Nothing
    is unpickled, so a file from a stranger cannot run code.

    Args:
        path: an npz file with an array of images (N, \\*shape) and, optionally, integer labels (N,).

    Returns:
        ``images`` (N, \\*shape) float32 in [0, 1] and ``labels`` (N,) int64, or None without labels.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no npz file, has no array of a known name, or the array is empty, has fewer
            than two axes, is not real-valued, holds nan or infinite values, or leaves [0, 1]; if the labels
            are not integers, one per image.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "noise.npz"
        ...     np.savez(file, images=np.full((3, 4, 4), 51, dtype=np.uint8), labels=[2, 0, 1])
        ...     data = load_npz(file)
        >>> data.images[0, 0], data.labels
        (tensor([0.2000, 0.2000, 0.2000, 0.2000]), tensor([2, 0, 1]))
    """
    images, labels = _read(Path(path))
    return LabelledImages(
        images=torch.from_numpy(_unit_scale(channels_first(_checked_shape(images)))),
        labels=None if labels is None else torch.from_numpy(_checked_labels(labels, size=len(images))),
    )


def _read(path: Path) -> tuple[_Array, _Array | None]:
    if not path.exists():
        raise FileNotFoundError(f"Expected an npz file but there is no {path}.")
    try:
        with undamaged(path), np.load(_zip_archive(path), allow_pickle=False) as file:
            images, labels = file[_image_name(file.files, path)], _first(file, _LABEL_NAMES)
            return _checked_array(images, path), None if labels is None else _checked_array(labels, path)
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise ValueError(
            f"Expected arrays of numbers in {path} but got pickled Python objects; save numeric arrays."
        ) from None


def _checked_array(array: Any, path: Path) -> _Array:
    if not isinstance(array, np.ndarray):
        raise ValueError(
            f"Expected arrays in {path} but got a file of another kind; "
            "write one by numpy.savez(path, images=...)."
        )
    return array


def _zip_archive(path: Path) -> Path:
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"Expected an npz file but {path} is none; write one by numpy.savez(path, images=...)."
        )
    return path


def _image_name(names: list[str], path: Path) -> str:
    for name in _IMAGE_NAMES:
        if name in names:
            return name
    raise ValueError(
        f"Expected an array named 'images' or 'x' in {path} "
        f"but found {', '.join(names) or 'no array at all'}; save one by numpy.savez(path, images=...)."
    )


def _first(file: Any, names: tuple[str, ...]) -> _Array | None:
    return next((file[name] for name in names if name in file.files), None)


def _checked_shape(images: _Array) -> _Array:
    if images.ndim < 2:
        raise ValueError(
            f"Expected images with at least two axes, the data first, but got shape {images.shape}; "
            "add the missing axis."
        )
    if images.size == 0:
        raise ValueError(f"Expected at least one image and pixel but got shape {images.shape}.")
    return images


def _unit_scale(images: _Array) -> _Array:
    if images.dtype == np.bool_:
        return images.astype(np.float32, order="C")
    if images.dtype == np.uint8 and images.max() > 1:
        return images.astype(np.float32, order="C") / np.float32(255)
    if images.dtype.kind not in "iuf":
        raise ValueError(
            f"Expected images of real numbers, 8-bit integers or booleans but got dtype {images.dtype}."
        )
    return _checked_range(_checked_finite(images)).astype(np.float32, order="C")


def _checked_finite(images: _Array) -> _Array:
    wrong = ~np.isfinite(images)
    if wrong.any():
        first = tuple(int(i) for i in np.unravel_index(wrong.argmax(), wrong.shape))
        raise ValueError(
            f"Expected finite images but got {wrong.sum()} nan or infinite values, "
            f"the first at index {first}; remove or impute them."
        )
    return images


def _checked_range(images: _Array) -> _Array:
    low, high = images.min(), images.max()
    if low < 0 or high > 1:
        raise ValueError(
            f"Expected images in [0, 1] but got values from {low:.9g} to {high:.9g}; scale them to [0, 1], "
            "or save grey levels 0 to 255 as unsigned 8-bit integers."
        )
    return images


def _checked_labels(labels: _Array, *, size: int) -> _Array:
    if labels.dtype.kind not in "iub":
        raise ValueError(f"Expected integer labels but got dtype {labels.dtype}; number the classes from 0.")
    if labels.shape != (size,):
        raise ValueError(
            f"Expected one label per image, shape ({size},), but got labels of shape {labels.shape}."
        )
    return labels.astype(np.int64)
