"""Arrays that stay on disk: their rows are read when a batch asks for them."""

import mmap
import os
from typing import Any, Final, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_infomax.training.row_file import RowFile

_SHARED_MODES: Final = ("r", "r+", "w+")


@final
class MappedRows:
    """The rows of a memory-mapped array, as tensors.

    They are read from the file, not through the mapping, whose pages would stay in memory. Only where that
    would not be the same, since the mapping is copy-on-write (``mode="c"``) or the file bears another name by
    now, are they read through it.

    Args:
        array: whose memory is a file's, (data, ...).
        path: the file; None where it is not known.
        offset: where in the file the array's first element lies, in bytes.
        name: what error messages call it.

    Raises:
        ValueError: for a dtype that tensors do not have, and if the elements of a row are scattered.
    """

    def __init__(self, array: NDArray[Any], *, path: str | None, offset: int, name: str = "data") -> None:
        self._array = array.view(np.ndarray)
        self._dtype = array.dtype.newbyteorder("=")
        _check_dtype(self._dtype, name)
        self._file = _file_of(self._array, path, offset)

    @property
    def on_disk(self) -> bool:
        """Whether rows are read from the file."""
        return self._file is not None

    def dim(self) -> int:
        """The number of axes."""
        return self._array.ndim

    def __len__(self) -> int:
        return len(self._array)

    def take(self, index: Tensor) -> Tensor:
        """The rows of an index, in memory of their own.

        Args:
            index: rows to take, (batch,).

        Returns:
            The rows in the dtype of the array, (batch, ...).
        """
        rows = index.numpy()
        found = self._array[rows] if self._file is None else self._file.read(rows)
        return torch.from_numpy(np.ascontiguousarray(found, dtype=self._dtype))

    def whole(self) -> Tensor:
        """All rows, in memory of their own."""
        return self.take(torch.arange(len(self), device="cpu"))


def mapped_rows(part: object, *, name: str = "data") -> MappedRows | None:
    """The rows of an array, or of a shared tensor, whose memory is a file's; None for anything else.

    A tensor is such a one if it comes from ``torch.from_file(..., shared=True)``, or is a view of one.
    """
    if isinstance(part, Tensor):
        return _rows_of_tensor(part, name)
    return _rows_of_array(part, name) if isinstance(part, np.ndarray) else None


def _rows_of_array(array: NDArray[Any], name: str) -> MappedRows | None:
    root = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    if not isinstance(root, np.memmap) or not isinstance(root.base, mmap.mmap):
        return None
    path = root.filename if root.mode in _SHARED_MODES else None
    offset = root.offset + array.ctypes.data - root.ctypes.data
    return MappedRows(array, path=None if path is None else os.fspath(path), offset=offset, name=name)


def _rows_of_tensor(tensor: Tensor, name: str) -> MappedRows | None:
    if tensor.layout is not torch.strided or tensor.device.type != "cpu":
        return None
    path = tensor.untyped_storage().filename
    if path is None:
        return None
    try:
        array = tensor.detach().numpy()
    except TypeError:
        return None
    offset = int(tensor.storage_offset()) * array.itemsize
    rows = MappedRows(array, path=path, offset=offset, name=name)
    return rows if rows.on_disk else None


def _file_of(array: NDArray[Any], path: str | None, offset: int) -> RowFile | None:
    if path is None or 0 in (array.ndim, array.size) or not os.path.isfile(path) or not hasattr(os, "preadv"):
        return None
    file = RowFile(path, offset=offset, shape=array.shape, strides=array.strides, dtype=array.dtype)
    return file if _same_ends(file, array) else None


def _same_ends(file: RowFile, array: NDArray[Any]) -> bool:
    # Another file may bear the name by now
    ends = np.array([0, len(array) - 1])
    try:
        return file.read(ends).tobytes() == array[ends].tobytes()
    except ValueError:
        return False


def _check_dtype(dtype: np.dtype[Any], name: str) -> None:
    try:
        torch.from_numpy(np.empty(0, dtype=dtype))
    except TypeError as error:
        raise ValueError(
            f"Expected the memory-mapped {name} to be of a dtype that tensors have but got {dtype}: "
            "save it as numbers."
        ) from error
