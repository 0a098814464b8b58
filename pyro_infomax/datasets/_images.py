"""Images with labels: loaders of what is installed and of the user's own files."""

import gzip
import math
import os
import zipfile
import zlib
from numbers import Real
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_infomax._checks import whole_number
from pyro_infomax._random import seeded_draws
from pyro_infomax._types import Array
from pyro_infomax.datasets._stored import (
    MAX_BYTES,
    Channels,
    channels_last,
    check_npz_size,
    check_size,
    checked_white,
    names_in,
    read_array,
    undamaged,
    white_of_bytes,
)

# ---- What every loader returns.


class LabelledImages(NamedTuple):
    """Images and, where they are known, their labels: N points of the data distribution :math:`p_D(x)`.

    It is a tuple, so it unpacks, and with labels it is itself data: they travel along with the images.

    Args:
        images: (N, \\*shape); the loaders of this room return float32 in [0, 1].
        labels: (N,) int64, or None when there are none.

    Example:
        >>> import torch
        >>> data = LabelledImages(images=torch.zeros(2, 8, 8), labels=torch.tensor([4, 0]))
        >>> images, labels = data
        >>> tuple(images.shape), labels
        ((2, 8, 8), tensor([4, 0]))
    """

    images: Tensor
    labels: Tensor | None = None


# ---- The handwritten digits that come with scikit-learn.

_INK_LEVELS = 16  # an original pixel counts the dark ones in a 4 x 4 block of a bitmap


def load_digits() -> LabelledImages:
    """The 1,797 handwritten digits of scikit-learn, 8 by 8 pixels, read from the installed package.

    Pixels are the share of ink in a 4 by 4 block, so they lie on the grid 0, 1/16, ..., 1.

    Reference:
        Alpaydin and Kaynak (1998), *Optical Recognition of Handwritten Digits*, UCI Machine Learning
        Repository.

    Returns:
        ``images`` (1797, 8, 8) float32 in [0, 1] and ``labels`` (1797,) int64, the digits 0 to 9.

    Example:
        >>> data = load_digits()
        >>> tuple(data.images.shape), data.images.dtype
        ((1797, 8, 8), torch.float32)
        >>> data.labels[:5].tolist()
        [0, 1, 2, 3, 4]
    """
    import sklearn.datasets  # late, since most data come from elsewhere

    bunch = sklearn.datasets.load_digits()
    return LabelledImages(
        images=torch.as_tensor(bunch.images, dtype=torch.float32) / _INK_LEVELS,  # (datum, row, column)
        labels=torch.as_tensor(bunch.target, dtype=torch.int64),
    )


# ---- Square patches of the two photographs that come with scikit-learn.

_LUMA: Final = (0.299, 0.587, 0.114)  # red, green, blue: Recommendation ITU-R BT.601
_WHITE: Final = 255
_MOST_PATCHES: Final = 2**48  # more than any memory holds


def load_patches(*, side: int = 8, num_patches: int | None = None, seed: int | None = None) -> LabelledImages:
    r"""Grey square patches of scikit-learn's two photographs, a temple roof in China and a flower.

    Grey is the luma :math:`0.299\,r + 0.587\,g + 0.114\,b`. Natural images have a covariance that falls with
    frequency and tails that are far heavier than a Gaussian's, so they are a usual test of linear codes. The
    mean is not subtracted and nothing is whitened. The files are part of the installed package; to decode
    them takes Pillow, which Matplotlib brings.

    Reference:
        Olshausen and Field (1996), *Emergence of simple-cell receptive field properties by learning a sparse
        code for natural images*. The photographs, of 427 by 640 pixels, are by danielbuechele and vultilion,
        CC BY 2.0.

    Args:
        side: pixels along an edge of a patch, 1 to 427.
        num_patches: how many patches to draw: photograph and place are uniform, and patches may overlap.
            None takes each patch of a grid without overlap, from the upper left corner of each photograph.
        seed: isolates the drawn places from torch's global state; None draws from it. The grid ignores it.

    Returns:
        ``images`` (N, side, side) float32 in [0, 1] and ``labels`` (N,) int64, the photograph: 0 the roof,
        1 the flower.

    Raises:
        ValueError: if the side does not fit into the photographs, or ``num_patches`` is no integer of at
            least 1.

    Example:
        >>> data = load_patches(side=16, num_patches=500, seed=0)
        >>> tuple(data.images.shape), data.labels.unique().tolist()
        ((500, 16, 16), [0, 1])
        >>> len(load_patches(side=16).images)  # 26 rows of 40 patches, twice
        2080
    """
    photographs = _grey_photographs()  # (photograph, row, column)
    largest = min(photographs.shape[1:])
    if isinstance(side, bool) or not isinstance(side, int | np.integer) or not 1 <= side <= largest:
        raise ValueError(f"Expected side to be an integer from 1 to {largest} pixels but got {side!r}.")
    windows = photographs.unfold(1, side, 1).unfold(2, side, 1)  # (photograph, top, left, row, column)
    if num_patches is None:
        grid = windows[:, ::side, ::side]
        labels = torch.arange(len(grid)).repeat_interleave(grid.shape[1] * grid.shape[2])
        return LabelledImages(images=grid.flatten(0, 2), labels=labels)
    count = whole_number("num_patches", num_patches, at_least=1)
    whole_number("num_patches", count, at_most=_MOST_PATCHES)
    with seeded_draws(seed):
        labels, top, left = (torch.randint(size, (count,)) for size in windows.shape[:3])
    return LabelledImages(images=windows[labels, top, left], labels=labels)


def _grey_photographs() -> Tensor:
    import sklearn.datasets

    colours = np.stack(sklearn.datasets.load_sample_images().images)  # (photograph, row, column, channel)
    grey = torch.from_numpy(colours).double() @ torch.tensor(_LUMA, dtype=torch.float64)
    return (grey / _WHITE).float()


# ---- Images from the user's own npz file.

_IMAGE_NAMES: Final = ("images", "x")
_LABEL_NAMES: Final = ("labels", "y")


def load_npz(
    path: str | os.PathLike[str],
    *,
    images: str | None = None,
    labels: str | None = None,
    white: float | None = None,
    channels: Channels | None = None,
    max_bytes: int = MAX_BYTES,
) -> LabelledImages:
    """Images, and labels where there are any, from an npz file.

    The images are the array ``images`` or else ``x``, the labels ``labels`` or else ``y``; others are named,
    such as ``images="x_train", labels="y_train"`` for the file of Keras. Unsigned 8-bit integers are divided
    by 255 (unless they hold nothing but 0 and 1), booleans become 0 and 1, and other numbers are taken as
    they are. Colour images with the channels last, (N, H, W, 3), get them first. Nothing is unpickled, so a
    file from a stranger cannot run code, and nothing is unpacked that would be larger than ``max_bytes``.

    Args:
        path: an npz file with an array of images (N, \\*shape) and, optionally, labels (N,) or (N, 1).
        images: the name of the array of images.
        labels: the name of the array of labels.
        white: the number that becomes 1, such as 16 for digits of scikit-learn that are stored as bytes.
        channels: where (N, ., ., .) images have them, ``"first"`` or ``"last"``; None tells 1, 3 or 4
            channels by the shape, and refuses what could be either.
        max_bytes: how large the two arrays may be when they are unpacked.

    Returns:
        ``images`` (N, \\*shape) float32 in [0, 1] and ``labels`` (N,) int64, or None without labels. Labels
        that are words are numbered in alphabetical order.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no npz file, has no array of a known name, or one that is too large, empty, has
            fewer than two axes, is not real-valued, holds nan or infinite values, or leaves [0, 1]; if bytes
            are all below 128, so that white is not known; if it is open where the channels are; if the labels
            are not integers or words, one per image.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "noise.npz"
        ...     np.savez(file, digits=np.full((3, 4, 4), 8, dtype=np.uint8), labels=[2, 0, 1])
        ...     data = load_npz(file, images="digits", white=16)
        >>> data.images[0, 0], data.labels
        (tensor([0.5000, 0.5000, 0.5000, 0.5000]), tensor([2, 0, 1]))
    """
    max_bytes = whole_number("max_bytes", max_bytes, at_least=1)
    pixels, classes = _read(_checked_path(path), images, labels, max_bytes)
    return _labelled(pixels, classes, white=white, channels=channels)


def _labelled(
    images: Array, labels: Array | None, *, white: float | None, channels: Channels | None
) -> LabelledImages:
    images = _checked_shape(images)
    if channels_last(images.shape, channels):
        images = np.moveaxis(images, -1, 1)
    return LabelledImages(
        images=torch.from_numpy(_unit_scale(images, white)),
        labels=None if labels is None else torch.from_numpy(_checked_labels(labels, size=len(images))),
    )


def _checked_path(path: object) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"Expected the path of a file but got {type(path).__name__}.")
    return Path(path)


def _read(
    path: Path, image_name: str | None, label_name: str | None, max_bytes: int
) -> tuple[Array, Array | None]:
    if not path.exists():
        raise FileNotFoundError(f"Expected an npz file but there is no {path}.")
    found = names_in(_zip_archive(path))
    of_images = _name_of("images", image_name, _IMAGE_NAMES, found, path)
    of_labels = _name_of("labels", label_name, _LABEL_NAMES, found, path)
    names = [each for each in (of_images, of_labels) if each is not None]
    check_npz_size(path, names, max_bytes=max_bytes)
    images, *labels = [read_array(path, name) for name in names]
    return images, labels[0] if labels else None


def _zip_archive(path: Path) -> Path:
    if not zipfile.is_zipfile(path):
        hint = "load_idx reads it" if _is_idx(path) else "write one by numpy.savez(path, images=...)"
        raise ValueError(f"Expected an npz file but {path} is none; {hint}.")
    return path


def _name_of(
    what: str, asked: str | None, known: tuple[str, ...], names: list[str], path: Path
) -> str | None:
    found = [name for name in (known if asked is None else (asked,)) if name in names]
    if found or (asked is None and what == "labels"):
        return found[0] if found else None
    wanted = " or ".join(map(repr, known if asked is None else (asked,)))
    raise ValueError(
        f"Expected an array named {wanted} in {path} but found {', '.join(names) or 'no array at all'}; "
        f"save one by numpy.savez(path, {what}=...), or say which it is, as {what}='arr_0'."
    )


# ---- What images and labels may be.


def _checked_shape(images: Array) -> Array:
    if images.ndim < 2:
        raise ValueError(
            f"Expected images with at least two axes, the data first, but got shape {images.shape}; "
            "add the missing axis."
        )
    if images.size == 0:
        raise ValueError(f"Expected at least one image and pixel but got shape {images.shape}.")
    return images


def _unit_scale(images: Array, white: float | None) -> Array:
    if images.dtype.kind not in "biuf":
        raise ValueError(
            f"Expected images of real numbers, 8-bit integers or booleans but got dtype {images.dtype}."
        )
    if white is not None:
        white = checked_white(white)
        scaled = _checked_finite(images) / np.float64(white)
        return _checked_range(scaled, hint=f"divided by white={white:g} they leave it").astype(
            np.float32, order="C"
        )
    if images.dtype == np.uint8:
        return images.astype(np.float32, order="C") / np.float32(white_of_bytes(int(images.max())))
    if images.dtype != np.bool_:
        images = _checked_range(_checked_finite(images))
    return images.astype(np.float32, order="C")


def _checked_finite(images: Array) -> Array:
    wrong = ~np.isfinite(images)
    if wrong.any():
        first = tuple(int(i) for i in np.unravel_index(wrong.argmax(), wrong.shape))
        raise ValueError(
            f"Expected finite images but got {wrong.sum()} nan or infinite values, "
            f"the first at index {first}; remove or impute them."
        )
    return images


_SCALE_THEM: Final = (
    "scale them to [0, 1], say what number is white, white=..., or save grey levels 0 to 255 as unsigned "
    "8-bit integers"
)


def _checked_range(images: Array, *, hint: str = _SCALE_THEM) -> Array:
    low, high = images.min(), images.max()
    if low < 0 or high > 1:
        raise ValueError(f"Expected images in [0, 1] but got values from {low:.9g} to {high:.9g}; {hint}.")
    return images


def _checked_labels(labels: Array, *, size: int) -> Array:
    if labels.shape not in ((size,), (size, 1)):
        one_hot = ", argmax(1) of one-hot labels" if labels.shape[:1] == (size,) else ""
        raise ValueError(
            f"Expected one label per image, shape ({size},){one_hot}, but got labels of shape {labels.shape}."
        )
    labels = labels.reshape(size)
    if labels.dtype.kind in "US":
        return np.unique(labels, return_inverse=True)[1].astype(np.int64)
    whole = labels.dtype.kind in "iub" or (labels.dtype.kind == "f" and (labels == np.rint(labels)).all())
    if not whole:
        raise ValueError(f"Expected integer labels but got dtype {labels.dtype}; number the classes from 0.")
    if labels.dtype.kind != "b" and not -_LARGEST_LABEL <= labels.min() <= labels.max() <= _LARGEST_LABEL:
        raise ValueError(
            f"Expected labels up to {_LARGEST_LABEL} but got {labels.max()}; number the classes from 0."
        )
    return labels.astype(np.int64)


_LARGEST_LABEL: Final = 2**53  # which floats hold, too


# ---- Images in the format of MNIST.

_IDX_TYPES: Final = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def load_idx(
    images: str | os.PathLike[str],
    labels: str | os.PathLike[str] | None = None,
    *,
    white: float | None = None,
    channels: Channels | None = None,
    max_bytes: int = MAX_BYTES,
) -> LabelledImages:
    """Images, and labels where there are any, from the IDX files of MNIST, compressed by gzip or not.

    Reference:
        LeCun, Cortes and Burges (1998), *The MNIST database of handwritten digits*.

    Args:
        images: the file of images, such as ``train-images-idx3-ubyte.gz``.
        labels: the file of labels, such as ``train-labels-idx1-ubyte.gz``.
        white, channels, max_bytes: as for :func:`load_npz`.

    Returns:
        As for :func:`load_npz`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no IDX file, is damaged, or holds what :func:`load_npz` refuses.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "images-idx3-ubyte"
        ...     _ = file.write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 255]))
        ...     load_idx(file).images
        tensor([[[0., 1.]]])
    """
    max_bytes = whole_number("max_bytes", max_bytes, at_least=1)
    pixels = _read_idx(_checked_path(images), max_bytes)
    classes = None if labels is None else _read_idx(_checked_path(labels), max_bytes)
    return _labelled(pixels, classes, white=white, channels=channels)


def _read_idx(path: Path, max_bytes: int) -> Array:
    if not path.exists():
        raise FileNotFoundError(f"Expected an IDX file but there is no {path}.")
    if not _is_idx(path):
        raise ValueError(f"Expected an IDX file, as those of MNIST, but {path} is none.")
    with undamaged(path), _opened(path) as file:
        _, _, kind, axes = file.read(4)
        sizes = file.read(4 * axes)
        shape = tuple(int.from_bytes(sizes[at : at + 4], "big") for at in range(0, 4 * axes, 4))
        dtype = np.dtype(_IDX_TYPES[kind])
        size = math.prod(shape) * dtype.itemsize
        check_size(size, of=f"{shape} of {path}", max_bytes=max_bytes)
        content = file.read(size + 1)
        if len(sizes) < 4 * axes or len(content) != size:
            raise EOFError(f"it holds other than the {size} bytes that it declares")
    array = np.frombuffer(content, dtype=dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="))


def _is_idx(path: Path) -> bool:
    try:
        with _opened(path) as file:
            start = file.read(4)
    except (OSError, EOFError, zlib.error):
        return False
    return len(start) == 4 and start[:2] == b"\0\0" and start[2] in _IDX_TYPES and start[3] > 0


def _opened(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path, "rb")) if packed else path.open("rb")


# ---- Grey images to black and white ones.


def binarize(images: Tensor | npt.ArrayLike, *, threshold: float = 0.5) -> Tensor:
    """Images with each pixel 1 where it exceeds a threshold and 0 elsewhere.

    A Bernoulli likelihood is a probability mass on {0, 1} only: on grey values its "nats" are those of no
    distribution. On binary images distortion, rate and :math:`H[X]` are measured on one base measure.

    Args:
        images: any shape, on the scale [0, 1].
        threshold: where black turns to white, in [0, 1).

    Returns:
        A tensor of 0 and 1 with the shape and dtype of ``images``.

    Raises:
        ValueError: if the threshold is outside [0, 1), and for pixels that are nan or outside [0, 1], such as
            bytes from 0 to 255.

    Example:
        >>> binarize(torch.tensor([0.2, 0.5, 0.7]))
        tensor([0., 0., 1.])
    """
    if isinstance(threshold, bool) or not isinstance(threshold, Real) or not 0 <= float(threshold) < 1:
        raise ValueError(f"Expected 0 <= threshold < 1 but got {threshold!r}.")
    tensor = _as_pixels(images)
    if tensor.numel() and not (tensor.min() >= 0 and tensor.max() <= 1):
        raise ValueError(
            f"Expected images in [0, 1] but got values from {tensor.min():.9g} to {tensor.max():.9g}; divide "
            "them by the number that is white, and leave out or impute nan."
        )
    return torch.gt(tensor, float(threshold)).to(tensor.dtype)


def _as_pixels(images: Tensor | npt.ArrayLike) -> Tensor:
    if isinstance(images, Tensor):
        tensor = images
    else:
        array = np.asarray(images)
        if array.dtype.kind not in "biuf":
            raise ValueError(
                "Expected images as a tensor or array of real numbers but got "
                f"{type(images).__name__} of dtype {array.dtype}."
            )
        tensor = torch.tensor(array)
    if tensor.is_complex() or tensor.is_meta:
        raise ValueError(
            f"Expected images of real numbers but got dtype {tensor.dtype} on the device {tensor.device}."
        )
    return tensor
