"""Arrays in files, of which the rows that are asked for are read."""

import os
import shutil
import tempfile
import zipfile
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, final

import h5py  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[Any]
_LOCAL_HEADER = 30  # bytes of a zip member's own header, before its name and its extra field


class Rows(Protocol):
    """What rows can be taken from: an array, a memory-mapped one, or one in a file."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, index: Any, /) -> Any: ...


@final
class Hdf5Rows:
    """A dataset of an HDF5 file, opened when it is first read, in each process anew.

    Args:
        path: of the file.
        name: of the dataset.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name
        with h5py.File(path, "r") as file:
            self.shape: tuple[int, ...] = file[name].shape
            self.dtype: np.dtype[Any] = file[name].dtype
        self._opened: tuple[int, Any] | None = None

    def __getitem__(self, index: Any) -> _Array:
        rows = np.arange(self.shape[0])[index]
        # HDF5 reads rows in ascending order, each once
        distinct, place = np.unique(rows, return_inverse=True)
        return self._dataset()[distinct][place]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def _dataset(self) -> Any:
        # A handle must not be shared with a process that was forked
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), h5py.File(self._path, "r")[self._name])
        return self._opened[1]


@final
class PackedRows:
    """A compressed array of an npz file, unpacked into memory when it is first read.

    Args:
        path: of the file.
        name: of the array.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name
        self.shape, self.dtype, _ = _header(path, name)

    def __getitem__(self, index: Any) -> _Array:
        return self._array[index]

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_array"}

    @cached_property
    def _array(self) -> _Array:
        with np.load(self._path, allow_pickle=False) as file:
            return file[self._name]


def npz_rows(path: Path, name: str, *, unpack_to: Path | None = None) -> Rows:
    """An array of an npz file: mapped where it is stored as it is, and unpacked where it is compressed.

    Args:
        path: of the npz file.
        name: of the array.
        unpack_to: an npy file to unpack a compressed array to, once, and to map; None unpacks into memory.
    """
    if unpack_to is not None:
        if not unpack_to.exists():
            _unpack(path, name, unpack_to)
        return _mapped_copy(unpack_to, path, name)
    with zipfile.ZipFile(path) as archive:
        stored = archive.getinfo(f"{name}.npy").compress_type == zipfile.ZIP_STORED
    return _mapped_member(path, name) if stored else PackedRows(path, name)


def _mapped_member(path: Path, name: str) -> Rows:
    shape, dtype, header = _header(path, name)
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        start = archive.getinfo(f"{name}.npy").header_offset
        file.seek(start)
        local = file.read(_LOCAL_HEADER)
    lengths = (int.from_bytes(local[at : at + 2], "little") for at in (26, 28))
    return np.memmap(
        path, dtype=dtype, mode="r", shape=shape, offset=start + _LOCAL_HEADER + sum(lengths) + header
    )


def _mapped_copy(copy: Path, path: Path, name: str) -> Rows:
    rows = np.load(copy, mmap_mode="r", allow_pickle=False)
    shape, dtype, _ = _header(path, name)
    if (rows.shape, rows.dtype) != (shape, dtype):
        raise ValueError(
            f"Expected {copy} to hold {name} of {path}, {dtype} of shape {shape}, but got {rows.dtype} of "
            f"shape {rows.shape}: remove it or name another file."
        )
    return rows


def _unpack(path: Path, name: str, copy: Path) -> None:
    # Whole or not at all: a reader must never meet half a file
    with (
        tempfile.NamedTemporaryFile(dir=copy.parent, suffix=".part", delete=False) as part,
        zipfile.ZipFile(path) as archive,
        archive.open(f"{name}.npy") as member,
    ):
        shutil.copyfileobj(member, part)
    Path(part.name).replace(copy)


def _header(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape and dtype of an array, and how long its npy header is in bytes."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, fortran_order, dtype = read(member)
        length = member.tell()
    if fortran_order or dtype.hasobject:
        raise ValueError(f"Expected {name} of {path} as numbers in C order but got {dtype}; save it anew.")
    return shape, dtype, length
