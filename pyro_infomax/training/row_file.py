"""Reading rows of an array from its file, so that none of it stays in memory."""

import os
import weakref
from collections.abc import Sequence
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

_WIDEST: Final = 2**24


@final
class RowFile:
    """The rows of an array that lies in a file.

    A page that was read through a mapping counts as the process's memory for as long as it is mapped, and the
    system maps up to megabytes around each. What is read by ``os.preadv`` never does.

    Args:
        path: the file.
        offset: where the first element of the array lies, in bytes.
        shape: of the array, (data, ...).
        strides: of the array in bytes, of any sign.
        dtype: of the array, in any byte order.

    Raises:
        ValueError: if the elements of a row are scattered over the file.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     np.arange(6.0).tofile(file.name)
        ...     rows = RowFile(file.name, offset=0, shape=(3, 2), strides=(16, 8), dtype=np.dtype(float))
        ...     rows.read(np.array([2, 0]))
        array([[4., 5.],
               [0., 1.]])
    """

    def __init__(
        self, path: str, *, offset: int, shape: Sequence[int], strides: Sequence[int], dtype: np.dtype[Any]
    ) -> None:
        reach = [(size - 1) * stride for size, stride in zip(shape[1:], strides[1:], strict=True)]
        self._before = -sum(each for each in reach if each < 0)
        self._span = self._before + sum(each for each in reach if each > 0) + dtype.itemsize
        self._start, self._stride = offset - self._before, strides[0]
        self._shape, self._strides, self._dtype = tuple(shape[1:]), tuple(strides[1:]), dtype
        _check_together(self._span, dtype.itemsize * int(np.prod(shape[1:])))
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Some rows in memory of their own.

        Args:
            rows: which ones, (batch,).

        Returns:
            The rows in the dtype of the file, (batch, ...).

        Raises:
            ValueError: if the file has become shorter.
        """
        found = np.empty((len(rows), self._span), dtype=np.uint8)
        if self._stride == self._span and bool((np.diff(rows) == 1).all()):
            self._fill(found.reshape(-1), self._start + int(rows[0]) * self._stride)
        else:
            for row, place in zip(found, (self._start + rows * self._stride).tolist(), strict=True):
                self._fill(row, place)
        return np.ndarray(
            (len(rows), *self._shape),
            dtype=self._dtype,
            buffer=found.data,
            offset=self._before,
            strides=(self._span, *self._strides),
        )

    def _fill(self, target: Any, place: int) -> None:
        done = os.preadv(self._descriptor, (target,), place)
        # One call reads 2 GB at most
        while done < len(target):
            more = os.preadv(self._descriptor, (target[done:],), place + done)
            if not more:
                raise ValueError(
                    f"Expected {self._path} to stay as it was but it has become shorter: leave the file "
                    "alone while it is read."
                )
            done += more


def _check_together(span: int, size: int) -> None:
    if span > max(_WIDEST, 2 * size):
        raise ValueError(
            f"Expected each row of a memory-mapped array to lie in one place but its {size:,} bytes are "
            f"scattered over {span:,} bytes of the file: save the array in C order, with the data along the "
            "first axis."
        )
