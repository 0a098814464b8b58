"""Arrays in files, of which the rows that are asked for are read."""

import errno
import gzip
import lzma
import math
import os
import shutil
import uuid
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from numbers import Real
from pathlib import Path
from tokenize import TokenError
from typing import Final, Literal, Protocol, TypeAlias, final

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
        return read_array(self._path, self._name)


@contextmanager
def undamaged(path: Path) -> Iterator[None]:
    """Says in one sentence that a packed file is damaged, in whichever way that shows as it is read."""
    try:
        yield
    except OSError as error:
        # Only what a wrong place in the file or a wrong checksum gives: a full disk is another matter
        if error.errno != errno.EINVAL and not isinstance(error, gzip.BadGzipFile):
            raise
        raise _damaged(path, error) from None
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, TokenError) as error:
        raise _damaged(path, error) from None
    except (NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"Expected a file that Python can unpack but {path} is packed otherwise or encrypted ({error}); "
            "write it again by numpy.savez."
        ) from None


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"Expected a whole file but {path} is damaged ({error}); fetch or write it again.")


def names_in(path: Path) -> list[str]:
    """The names of the arrays of an npz file, and of whatever else is in it."""
    with undamaged(path), zipfile.ZipFile(path) as archive:
        return [each.removesuffix(".npy") for each in archive.namelist()]


def read_array(path: Path, name: str) -> Array:
    """A whole array of an npz file, never unpickled."""
    with undamaged(path), zipfile.ZipFile(path) as archive:
        if f"{name}.npy" not in archive.namelist():
            raise ValueError(
                f"Expected {name} of {path} to be an array but got a file of another kind; "
                f"write one by numpy.savez(path, {name}=...)."
            )
        if _declared(path, name)[2].hasobject:
            raise ValueError(
                f"Expected arrays of numbers in {path} but got pickled Python objects, which NumPy reads by "
                "allow_pickle=True and which may run any code; save numeric arrays."
            )
        with archive.open(f"{name}.npy") as member:
            array: Array = np.lib.format.read_array(member, allow_pickle=False)
            return array


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
    shape, fortran_order, dtype, length = _declared(path, name)
    if fortran_order or dtype.hasobject:
        raise ValueError(f"Expected {name} of {path} as numbers in C order but got {dtype}; save it anew.")
    return shape, dtype, length


def _declared(path: Path, name: str) -> tuple[tuple[int, ...], bool, np.dtype[np.generic], int]:
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
        try:
            version = np.lib.format.read_magic(member)
            first = version == (1, 0)
            read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
            return (*read(member), member.tell())
        except ValueError as error:
            said = str(error).splitlines()[0]
            raise zipfile.BadZipFile(f"{name} does not begin as an array: {said}") from None


# ---- How much a file may become in memory.

MAX_BYTES: Final = 2**30
_GIBIBYTE: Final = 2**30


def check_npz_size(path: Path, names: Sequence[str], *, max_bytes: int) -> None:
    """Refuses arrays that would be larger than allowed, before anything is unpacked.

    A compressed file may be a thousandth of what it holds, and a damaged one may declare any size.
    """
    with undamaged(path), zipfile.ZipFile(path) as archive:
        members = {each.filename: each.file_size for each in archive.infolist()}
        arrays = {name: _declared(path, name) for name in names if f"{name}.npy" in members}
        # As many bytes as are stored, or as the arrays say of themselves
        stored = {name: members[f"{name}.npy" if name in arrays else name] for name in names}
        declared = {
            name: math.prod(shape) * dtype.itemsize
            for name, (shape, _, dtype, _) in arrays.items()
            if not dtype.hasobject
        }
        total = sum(max(size, declared.get(name, 0)) for name, size in stored.items())
        shapes = (f"{name} {arrays[name][0]}" if name in arrays else name for name in names)
        check_size(total, of=f"{', '.join(shapes)} of {path}", max_bytes=max_bytes)
        for name, size in declared.items():
            if min(arrays[name][0], default=0) < 0 or size > stored[name]:
                raise zipfile.BadZipFile(f"{name} is shorter than the shape {arrays[name][0]} it declares")


def check_size(size: int, *, of: str, max_bytes: int) -> None:
    """Refuses what is larger than allowed."""
    if size > max_bytes:
        raise ValueError(
            f"Expected at most {max_bytes / _GIBIBYTE:.3g} GiB but {of} would take {size / _GIBIBYTE:.3g}; "
            f"if the file is what you want, pass max_bytes={size}."
        )


# ---- What a file or an array leaves open: where the channels are, and what number is white.

Channels: TypeAlias = Literal["first", "last"]
_CHANNELS: Final = (1, 3, 4)
_FEW: Final = 16  # more channels are rows
_LONGEST: Final = 2  # side of a picture, over the shorter
_BYTE_WHITE: Final = 255


def channels_last(shape: Sequence[int], channels: Channels | None = None) -> bool:
    """Whether images of this shape, the data first, have their channels last and not first.

    Without a word of the user (N, C, H, W) and (N, H, W, C) are told by C = 1, 3 or 4 where only one of the
    two could be meant, and pictures are about as wide as high; else they are refused.
    """
    if channels not in (None, "first", "last"):
        raise ValueError(f"Expected channels to be 'first', 'last' or None but got {channels!r}.")
    if channels is not None or len(shape) != 4:
        return channels == "last" and len(shape) == 4
    _, front, middle, back = shape
    first, last = front in _CHANNELS, back in _CHANNELS
    if first and (not last or front != middle == back):
        return False
    if last and not first and max(front, middle) <= _LONGEST * min(front, middle):
        return True
    if not first and not last and not (front == middle != back and back <= _FEW):
        return False
    raise ValueError(
        f"Expected to know which axis of images {tuple(shape)} holds the channels but it may be the second "
        "or the last: say channels='first' or channels='last'."
    )


def white_of_bytes(brightest: int) -> int:
    """The number that is white in images of bytes, none of which is brighter than this one."""
    if brightest > 1 and 2 * brightest <= _BYTE_WHITE:
        raise ValueError(
            f"Expected bytes to be grey levels from 0 to {_BYTE_WHITE} but the brightest is {brightest}: say "
            f"what number is white, white={brightest} or white={_BYTE_WHITE}."
        )
    return _BYTE_WHITE if brightest > 1 else 1


def checked_white(white: object) -> float:
    """A number above 0."""
    if isinstance(white, bool) or not isinstance(white, Real) or not 0 < float(white) < math.inf:
        raise ValueError(f"Expected white > 0 but got {white!r}.")
    return float(white)
