"""Factors as they come to factors that index a grid."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

Factors = npt.NDArray[np.int64]


def to_factors(factors: Any, *, names: Sequence[str], sizes: Sequence[int]) -> Factors:
    """Factors (n, K) as int64, each checked to lie on its grid.

    Args:
        factors: array or tensor of integers, (n, K).
        names: of the K factors.
        sizes: of the K factors.

    Raises:
        ValueError: for another shape, other numbers than integers, or a value off the grid.

    Example:
        >>> to_factors([[0, 5]], names=("shape", "scale"), sizes=(3, 6))
        array([[0, 5]])
    """
    array = factors.detach().cpu().numpy() if isinstance(factors, Tensor) else np.asarray(factors)
    if array.ndim != 2 or array.shape[1] != len(sizes):
        raise ValueError(
            f"Expected factors of shape (n, {len(sizes)}), a column for each of {', '.join(names)}, "
            f"but got shape {array.shape}."
        )
    if array.dtype.kind not in "iu":
        raise ValueError(
            f"Expected integer factors, which number the values of each from 0, but got dtype {array.dtype}."
        )
    _check_range(array, names, sizes)
    return array.astype(np.int64)


def _check_range(array: npt.NDArray[Any], names: Sequence[str], sizes: Sequence[int]) -> None:
    off = (array < 0) | (array >= np.asarray(sizes))  # (datum, factor)
    if not off.any():
        return
    row, column = (int(i) for i in np.argwhere(off)[0])
    raise ValueError(
        f"Expected factor {names[column]} in 0, ..., {sizes[column] - 1} but got {array[row, column]} "
        f"in row {row}."
    )
