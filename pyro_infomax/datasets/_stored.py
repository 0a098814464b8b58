"""Arrays in files, of which the rows that are asked for are read."""

import os
import shutil
import uuid
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from tokenize import TokenError
from typing import Protocol, final

import h5py
import numpy as np

from pyro_infomax._types import Array, Integers, State

# ---- Rows of arrays in HDF5 and npz files.

_LOCAL_HEADER = 30  # bytes of a zip member's own header, before its name and its extra field


class Rows(Protocol):
    """What rows can be taken from: an array, a memory-mapped one, or one in a file."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[np.generic]: ...

    def __getitem__(self, index: slice | Integers, /) -> Array: ...


@final
class Hdf5Rows:
    """A dataset of an HDF5 file, opened when it is first read, in each process anew."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path.absolute()
        self._name = name
        with h5py.File(path, "r") as file:
            self.shape: tuple[int, ...] = file[name].shape
            self.dtype: np.dtype[np.generic] = file[name].dtype
        self._opened: tuple[int, h5py.Dataset] | None = None

    def __getitem__(self, index: slice | Integers) -> Array:
        rows = np.arange(self.shape[0])[index]
        dataset = self._dataset()
        read = np.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        # One by one: a selection of scattered rows takes HDF5 many times as long, and must ascend
        for place, row in enumerate(rows.tolist()):
            read[place] = dataset[row]
        return read

    def __getstate__(self) -> State:
        return self.__dict__ | {"_opened": None}

    def _dataset(self) -> h5py.Dataset:
        # A handle must not be shared with a process that was forked
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), h5py.File(self._path, "r")[self._name])
        return self._opened[1]


@final
class MappedRows:
    """An uncompressed array in a file, mapped into memory, and mapped anew where it is sent to."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[np.generic], offset: int) -> None:
        self.shape, self.dtype = shape, dtype
        self._where = (path.absolute(), shape, dtype, offset)
        self._array = np.memmap(path, dtype=dtype, mode="r", shape=shape, offset=offset)

    def __getitem__(self, index: slice | Integers) -> Array:
        return self._array[index]

    def __reduce__(self) -> tuple[object, ...]:
        return MappedRows, self._where


@final
class PackedRows:
    """A compressed array of an npz file, unpacked into memory when it is first read."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path.absolute()
        self._name = name
        self.shape, self.dtype, _ = _header(path, name)

    def __getitem__(self, index: slice | Integers) -> Array:
        return self._array[index]

    def __getstate__(self) -> State:
        return {key: value for key, value in self.__dict__.items() if key != "_array"}

    @cached_property
    def _array(self) -> Array:
        with undamaged(self._path), np.load(self._path, allow_pickle=False) as file:
            return file[self._name]


@contextmanager
def undamaged(path: Path) -> Iterator[None]:
    """Says in one sentence that an npz file is damaged, in whichever way that shows as it is read."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, TokenError) as error:
        raise ValueError(
            f"Expected an npz file but {path} is damaged ({error}); fetch or write it again."
        ) from None


def npz_rows(path: Path, name: str, *, unpack_to: Path | None = None) -> Rows:
    """An array of an npz file: mapped where it is stored as it is, and unpacked where it is compressed.

    It is unpacked into memory, or once to an npy file that is mapped then.
    """
    with undamaged(path):
        if unpack_to is not None:
            _header(path, name)  # refuses what must not be unpacked
            if not unpack_to.exists():
                _unpack(path, name, unpack_to)
            return _mapped_copy(unpack_to, path, name)
        with zipfile.ZipFile(path) as archive:
            stored = archive.getinfo(f"{name}.npy").compress_type == zipfile.ZIP_STORED
        return _mapped_member(path, name) if stored else PackedRows(path, name)


def _mapped_member(path: Path, name: str) -> Rows:
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        start = archive.getinfo(f"{name}.npy").header_offset
        file.seek(start)
        local = file.read(_LOCAL_HEADER)
    lengths = (int.from_bytes(local[at : at + 2], "little") for at in (26, 28))
    shape, dtype, header = _header(path, name)
    return MappedRows(path, shape, dtype, start + _LOCAL_HEADER + sum(lengths) + header)


def _mapped_copy(copy: Path, path: Path, name: str) -> Rows:
    try:
        found = np.lib.format.open_memmap(copy, mode="r")
    except (ValueError, OSError) as error:
        raise _other_copy(copy, path, name, got=str(error)) from None
    shape, dtype, _ = _header(path, name)
    if (found.shape, found.dtype) != (shape, dtype) or not found.flags.c_contiguous:
        raise _other_copy(copy, path, name, got=f"{found.dtype} of shape {found.shape}")
    return MappedRows(copy, shape, dtype, found.offset)


def _other_copy(copy: Path, path: Path, name: str, *, got: str) -> ValueError:
    return ValueError(
        f"Expected {copy} to hold {name} of {path} but got {got}: remove it or name another file."
    )


def _unpack(path: Path, name: str, copy: Path) -> None:
    if not copy.parent.is_dir():
        raise FileNotFoundError(f"Expected a folder to unpack {name} to but there is no {copy.parent}.")
    # Whole or not at all: a reader must never meet half a file
    part = copy.with_name(f"{copy.name}.{uuid.uuid4().hex}.part")
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member, part.open("xb") as file:
            shutil.copyfileobj(member, file)
        part.replace(copy)
    finally:
        part.unlink(missing_ok=True)


def _header(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype[np.generic], int]:
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


# ---- Which axis of images holds their channels.

_CHANNELS = (1, 3, 4)


def channels_last(shape: Sequence[int]) -> bool:
    """Whether images of this shape, the data first, have their channels last and not first."""
    return len(shape) == 4 and shape[-1] in _CHANNELS and shape[1] not in _CHANNELS


def channels_first(images: Array) -> Array:
    """Images with the axis of channels, where there is one, before rows and columns."""
    return np.moveaxis(images, -1, 1) if channels_last(images.shape) else images
