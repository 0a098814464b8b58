"""Images with labels: loaders of what is installed and of the user's own files."""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_infomax._checks import whole_number
from pyro_infomax._random import seeded_draws
from pyro_infomax._types import Array
from pyro_infomax.datasets._stored import channels_first, undamaged

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
    with seeded_draws(seed):
        labels, top, left = (torch.randint(size, (count,)) for size in windows.shape[:3])
    return LabelledImages(images=windows[labels, top, left], labels=labels)


def _grey_photographs() -> Tensor:
    import sklearn.datasets

    colours = np.stack(sklearn.datasets.load_sample_images().images)  # (photograph, row, column, channel)
    grey = torch.from_numpy(colours).double() @ torch.tensor(_LUMA, dtype=torch.float64)
    return (grey / _WHITE).float()


# ---- Images from the user's own npz file.

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


def _read(path: Path) -> tuple[Array, Array | None]:
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


def _checked_array(array: object, path: Path) -> Array:
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


def _first(file: Mapping[str, Array], names: tuple[str, ...]) -> Array | None:
    return next((file[name] for name in names if name in file), None)


def _checked_shape(images: Array) -> Array:
    if images.ndim < 2:
        raise ValueError(
            f"Expected images with at least two axes, the data first, but got shape {images.shape}; "
            "add the missing axis."
        )
    if images.size == 0:
        raise ValueError(f"Expected at least one image and pixel but got shape {images.shape}.")
    return images


def _unit_scale(images: Array) -> Array:
    if images.dtype == np.bool_:
        return images.astype(np.float32, order="C")
    if images.dtype == np.uint8 and images.max() > 1:
        return images.astype(np.float32, order="C") / np.float32(255)
    if images.dtype.kind not in "iuf":
        raise ValueError(
            f"Expected images of real numbers, 8-bit integers or booleans but got dtype {images.dtype}."
        )
    return _checked_range(_checked_finite(images)).astype(np.float32, order="C")


def _checked_finite(images: Array) -> Array:
    wrong = ~np.isfinite(images)
    if wrong.any():
        first = tuple(int(i) for i in np.unravel_index(wrong.argmax(), wrong.shape))
        raise ValueError(
            f"Expected finite images but got {wrong.sum()} nan or infinite values, "
            f"the first at index {first}; remove or impute them."
        )
    return images


def _checked_range(images: Array) -> Array:
    low, high = images.min(), images.max()
    if low < 0 or high > 1:
        raise ValueError(
            f"Expected images in [0, 1] but got values from {low:.9g} to {high:.9g}; scale them to [0, 1], "
            "or save grey levels 0 to 255 as unsigned 8-bit integers."
        )
    return images


def _checked_labels(labels: Array, *, size: int) -> Array:
    if labels.dtype.kind not in "iub":
        raise ValueError(f"Expected integer labels but got dtype {labels.dtype}; number the classes from 0.")
    if labels.shape != (size,):
        raise ValueError(
            f"Expected one label per image, shape ({size},), but got labels of shape {labels.shape}."
        )
    return labels.astype(np.int64)


# ---- Grey images to black and white ones.


def binarize(images: Tensor, *, threshold: float = 0.5) -> Tensor:
    """Images with each pixel 1 where it exceeds a threshold and 0 elsewhere.

    A Bernoulli likelihood is a probability mass on {0, 1} only: on grey values its "nats" are those of no
    distribution. On binary images distortion, rate and :math:`H[X]` are measured on one base measure.

    Args:
        images: any shape, floating point, on the scale [0, 1].
        threshold: where black turns to white, in [0, 1).

    Returns:
        A tensor of 0 and 1 with the shape and dtype of ``images``.

    Raises:
        ValueError: if the threshold is outside [0, 1).

    Example:
        >>> binarize(torch.tensor([0.2, 0.5, 0.7]))
        tensor([0., 0., 1.])
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"Expected 0 <= threshold < 1 but got {threshold}.")
    return torch.gt(images, threshold).to(images.dtype)
