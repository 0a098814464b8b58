"""Images that are at hand, looked up by their factors."""

import math
from pathlib import Path
from typing import Any, final

import h5py  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_infomax.datasets.channels import channels_first, channels_last
from pyro_infomax.datasets.draws import Seed, to_random_state
from pyro_infomax.datasets.factor_checks import Factors
from pyro_infomax.datasets.factor_dataset import FactorDataset
from pyro_infomax.datasets.factor_distribution import Correlated, Where, to_cells, to_distribution
from pyro_infomax.datasets.stored_rows import Hdf5Rows, Rows

_Array = npt.NDArray[Any]
_Integers = npt.NDArray[np.int64]
_BYTE_WHITE = 255
_CHUNK = 4096


@final
class FactorArrays(FactorDataset):
    """Any images whose factors are known, with every combination of these or with some.

    Each column of factors is numbered from 0 in the order of its values. A combination comes as often as
    there are rows of it, and which of several rows is the observation is drawn. Images may stay in a file:
    of a memory-mapped array or an ``h5py`` dataset only the rows that are asked for are read.

    Args:
        images: array or tensor, (N, \\*shape), or anything with ``shape`` and ``dtype`` that takes an index.
            Colour images with the channels last get them first.
        factors: of each image, finite real numbers, (N, K).
        factor_names: K names; None for "factor 0", "factor 1" and so on.
        white: the number that becomes 1; None for 255 where images are 8-bit integers that hold more than 0
            and 1, and 1 otherwise.
        where: which of the combinations there are: a function from factors (n, K), numbered, to booleans.
        correlated: which factors come together, as for :class:`Sprites`.

    Raises:
        ValueError: for arrays of other shapes, lengths or kinds, for names that are not K different ones, and
            where nothing is left. :meth:`observations` raises it for combinations without an image and for
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
        factors: Any,
        *,
        factor_names: tuple[str, ...] | None = None,
        white: float | None = None,
        where: Where | None = None,
        correlated: Correlated | None = None,
    ) -> None:
        self._images = _checked_images(_to_rows(images))
        values = _checked_values(factors, rows=self._images.shape[0])
        names = _checked_names(factor_names, values.shape[1])
        numbered = [np.unique(column, return_inverse=True) for column in values.T]
        sizes = _checked_grid(tuple(len(distinct) for distinct, _ in numbered))
        self._distinct = tuple(distinct for distinct, _ in numbered)
        cells = to_cells(np.stack([number for _, number in numbered], axis=1), sizes)
        self._rows = np.argsort(cells, kind="stable")
        self._cells, self._starts, self._counts = np.unique(
            cells[self._rows], return_index=True, return_counts=True
        )
        self.draws = bool(self._counts.max() > 1)
        distribution = to_distribution(
            names, sizes, where=where, correlated=correlated, **self._present(math.prod(sizes))
        )
        super().__init__(names, distribution)
        self._white = _white(self._images) if white is None else _checked_white(white)

    @property
    def factor_values(self) -> dict[str, tuple[Any, ...]]:
        """What each factor's numbers stand for."""
        return {
            name: tuple(values.tolist())
            for name, values in zip(self.factor_names, self._distinct, strict=True)
        }

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """The images' shape, channels first."""
        shape = self._images.shape
        return (shape[-1], *shape[1:-1]) if channels_last(shape) else tuple(shape[1:])

    def _present(self, grid: int) -> dict[str, Any]:
        uneven = np.ptp(self._counts) > 0
        if len(self._cells) == grid and not uneven:
            return {}
        return {"cells": self._cells, "log_weights": np.log(self._counts) if uneven else None}

    def _observe(self, factors: Factors, seed: Seed) -> Tensor:
        places = self._places(factors)
        rows = self._starts[places]
        if self.draws:
            share = to_random_state(seed).random_sample(len(factors))
            rows = rows + np.floor(share * self._counts[places]).astype(np.int64)
        images = channels_first(np.asarray(self._images[self._rows[rows]]))
        scaled = images.astype(np.float32, order="C") / np.float32(self._white)
        return torch.from_numpy(_checked_range(scaled))

    def _places(self, factors: Factors) -> _Integers:
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


def _to_rows(images: Any) -> Any:
    if isinstance(images, Tensor):
        return images.detach().cpu().numpy()
    return Hdf5Rows(Path(images.file.filename), images.name) if isinstance(images, h5py.Dataset) else images


def _checked_images(images: Any) -> Rows:
    if not hasattr(images, "shape") or not hasattr(images, "dtype") or len(images.shape) < 2:
        raise ValueError(
            "Expected images as an array of at least two axes, the data first, but got "
            f"{getattr(images, 'shape', type(images).__name__)}."
        )
    if images.dtype.kind not in "buif":
        raise ValueError(f"Expected images of real numbers or booleans but got dtype {images.dtype}.")
    return images


def _checked_values(factors: Any, *, rows: int) -> _Array:
    values = factors.detach().cpu().numpy() if isinstance(factors, Tensor) else np.asarray(factors)
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


def _checked_white(white: float) -> float:
    if not white > 0:
        raise ValueError(f"Expected white > 0 but got {white!r}.")
    return white


def _white(images: Rows) -> float:
    if images.dtype != np.uint8:
        return 1
    starts = range(0, images.shape[0], _CHUNK)
    binary = all(images[start : start + _CHUNK].max() <= 1 for start in starts)
    return 1 if binary else _BYTE_WHITE


def _checked_range(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    if images.size and not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(
            f"Expected images in [0, 1] but got values from {images.min():.9g} to {images.max():.9g}; "
            "name the number that is white or scale them."
        )
    return images
