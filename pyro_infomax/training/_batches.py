"""Minibatches: one way to walk over tensors, memory-mapped arrays, datasets and loaders."""

import abc
import mmap
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from pyro_infomax._data import count_nan

# ---- Reading rows of an array from its file, so that none of it stays in memory.

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


# ---- Arrays that stay on disk: their rows are read when a batch asks for them.

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


# ---- batches

Batch = tuple[Tensor, ...]
Array = Tensor | NDArray[Any]
Data = Array | tuple[Array, ...] | Dataset[Any] | DataLoader[Any]
Column = Tensor | MappedRows

_BLOCK: Final = 1024


class Batches(abc.ABC):
    """An epoch of minibatches, as often as it is asked for."""

    @abc.abstractmethod
    def shuffled(self, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch of training, in an order drawn from torch's generator.

        Args:
            skip: how many batches to leave out at the beginning; those after them are the same as without.
        """

    @abc.abstractmethod
    def ordered(self) -> Iterator[Batch]:
        """The batches of one pass in the order of the data, which draws nothing where that can be helped."""

    @abc.abstractmethod
    def sharded(self, rank: int, world_size: int) -> "Batches":
        """The part of each batch that one of several processes takes.

        The processes draw from generators in one state, so that their parts make up the batches of a single
        process.

        Args:
            rank: which process this is, counted from 0.
            world_size: how many there are.

        Raises:
            ValueError: where there are too few data for all processes, and for data that cannot be split.
        """


@final
class WholeBatch(Batches):
    """All the data at once, the same tensors each time."""

    def __init__(self, tensors: Batch) -> None:
        self._tensors = tensors

    def shuffled(self, skip: int = 0) -> Iterator[Batch]:
        return islice((self._tensors,), skip, None)

    def ordered(self) -> Iterator[Batch]:
        return self.shuffled()

    def sharded(self, rank: int, world_size: int) -> "WholeBatch":
        _check_enough(len(self._tensors[0]), world_size, "data")
        return WholeBatch(tuple(tensor[rank::world_size] for tensor in self._tensors))


@final
class IndexedBatches(Batches):
    """Batches fetched by their indices; the last one may be short.

    Where it has fewer data than there are processes, it is one with the batch before it, since no process may
    stay without data.

    Args:
        take: from an index (batch,) to the batch.
        size: number of data.
        batch_size: number of data in a batch, over all processes.
        device: where the index is wanted.
        rank: which process this is.
        world_size: how many processes share each batch.
    """

    def __init__(
        self,
        take: Callable[[Tensor], Batch],
        *,
        size: int,
        batch_size: int,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        _check_enough(min(size, batch_size), world_size, "a batch")
        self._take = take
        self._size = size
        self._batch_size = batch_size
        self._device = device
        self._rank = rank
        self._world_size = world_size

    def shuffled(self, skip: int = 0) -> Iterator[Batch]:
        return self._walk(torch.randperm(self._size, device="cpu"), skip)

    def ordered(self) -> Iterator[Batch]:
        return self._walk(torch.arange(self._size, device="cpu"))

    def sharded(self, rank: int, world_size: int) -> "IndexedBatches":
        return IndexedBatches(
            self._take,
            size=self._size,
            batch_size=self._batch_size,
            device=self._device,
            rank=rank,
            world_size=world_size,
        )

    def _walk(self, order: Tensor, skip: int = 0) -> Iterator[Batch]:
        for index in self._indices(order.to(self._device), skip):
            part = index if self._world_size == 1 else index[self._rank :: self._world_size]
            yield self._take(part)

    def _indices(self, order: Tensor, skip: int) -> Iterator[Tensor]:
        last = (self._count - 1) * self._batch_size
        # One split makes views at a third of what slices cost, but of a long order they would not fit memory
        for block in order[skip * self._batch_size : last].split(_BLOCK * self._batch_size):
            yield from block.split(self._batch_size) if len(block) else ()
        if skip < self._count:
            yield order[last:]

    @property
    def _count(self) -> int:
        full, rest = divmod(self._size, self._batch_size)
        return full + (rest >= self._world_size)


@final
class LoaderBatches(Batches):
    """The batches of a loader, which alone decides on their order, and on what each process gets."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = loader

    def shuffled(self, skip: int = 0) -> Iterator[Batch]:
        # What the skipped ones draw is drawn here and now, not when the first batch is asked for
        left = iter(self._loader)
        for _ in islice(left, skip):
            pass
        return map(_as_batch, left)

    def ordered(self) -> Iterator[Batch]:
        return self.shuffled()

    def sharded(self, rank: int, world_size: int) -> "LoaderBatches":  # noqa: ARG002
        return self


@final
class StreamBatches(Batches):
    """The batches of a stream, in its own order."""

    def __init__(self, stream: IterableDataset[Any], *, batch_size: int, name: str) -> None:
        self._batches = LoaderBatches(DataLoader(stream, batch_size=batch_size))
        self._name = name

    def shuffled(self, skip: int = 0) -> Iterator[Batch]:
        return self._batches.shuffled(skip)

    def ordered(self) -> Iterator[Batch]:
        return self._batches.ordered()

    def sharded(self, rank: int, world_size: int) -> "Batches":
        if world_size == 1:
            return self
        raise ValueError(
            f"Expected {self._name} for process {rank} of {world_size} to come from a DataLoader but got an "
            "IterableDataset, which only you can split: give each process its own part of the stream, in a "
            "DataLoader."
        )


def to_batches(data: Data, *, batch_size: int | None, name: str = "data") -> Batches:
    """Turns any kind of data into batches.

    Args:
        data: a tensor or a memory-mapped array, or a tuple of these, whose first axis is the data, a Dataset
            whose items are a tensor or a tuple of them, or a DataLoader, which has batches of its own.
        batch_size: number of data in a batch; None for all of them at once.
        name: what error messages call the data.

    Returns:
        The batches, each a tuple of tensors.

    Raises:
        ValueError: for other kinds of data, empty data, lengths that differ, nan in a tensor, or a batch
            size below 1.

    Example:
        >>> batches = to_batches(torch.arange(5), batch_size=2)
        >>> [x.tolist() for (x,) in batches.ordered()]
        [[0, 1], [2, 3], [4]]
    """
    _check_batch_size(batch_size)
    # A loader that went through fabric.setup_dataloaders is wrapped, and no DataLoader any more
    if type(data).__name__ == "_FabricDataLoader":
        return LoaderBatches(data)  # type: ignore[arg-type]
    match data:
        case DataLoader():
            return LoaderBatches(data)
        case TensorDataset():
            return _column_batches(_as_columns(data.tensors, name), batch_size, name)
        case IterableDataset():
            return _stream_batches(data, batch_size, name)
        case Dataset():
            return _dataset_batches(data, batch_size, name)
    if columns := _as_columns(data, name):
        return _column_batches(columns, batch_size, name)
    raise ValueError(
        f"Expected {name} to be a tensor, a memory-mapped array, a tuple of these, a Dataset or a "
        f"DataLoader but got {_kind(data)}."
    )


def _column_batches(columns: tuple[Column, ...], batch_size: int | None, name: str) -> Batches:
    size = _common_length(columns, name)
    if batch_size is None:
        tensors = tuple(_in_memory(column) for column in columns)
        _check_nan(tensors, name)
        return WholeBatch(tensors)
    _check_nan(columns, name)
    takes = [_taker(column) for column in columns]
    device = next((column.device for column in columns if isinstance(column, Tensor)), "cpu")
    return IndexedBatches(
        lambda index: tuple([take(index) for take in takes]), size=size, batch_size=batch_size, device=device
    )


def _as_columns(data: object, name: str) -> tuple[Column, ...]:
    """The columns that the data are made of; none where a part of them is no array."""
    found = [_as_column(part, name) for part in (data if isinstance(data, tuple) else (data,))]
    columns = tuple(column for column in found if column is not None)
    return columns if len(columns) == len(found) else ()


def _as_column(part: object, name: str) -> Column | None:
    mapped = mapped_rows(part, name=name)
    return part if mapped is None and isinstance(part, Tensor) else mapped


def _in_memory(column: Column) -> Tensor:
    return column.whole() if isinstance(column, MappedRows) else column


def _taker(column: Column) -> Callable[[Tensor], Tensor]:
    if isinstance(column, MappedRows):
        return column.take
    return lambda index: column.index_select(0, index.to(column.device))


def _dataset_batches(dataset: Dataset[Any], batch_size: int | None, name: str) -> Batches:
    size = _dataset_length(dataset, name)
    if batch_size is None:
        return WholeBatch(_collect(dataset, torch.arange(size)))
    return IndexedBatches(lambda index: _collect(dataset, index), size=size, batch_size=batch_size)


def _stream_batches(dataset: IterableDataset[Any], batch_size: int | None, name: str) -> Batches:
    if batch_size is None:
        raise ValueError(f"Expected a batch_size for {name}, an IterableDataset, but got None.")
    return StreamBatches(dataset, batch_size=batch_size, name=name)


def _collect(dataset: Dataset[Any], index: Tensor) -> Batch:
    indices = index.tolist()
    fetch = getattr(dataset, "__getitems__", None)
    items = fetch(indices) if fetch else [dataset[i] for i in indices]
    return _as_batch(default_collate(items))


def _as_batch(item: Any) -> Batch:
    parts = (item,) if isinstance(item, Tensor) else item
    if isinstance(parts, tuple | list) and parts and all(isinstance(part, Tensor) for part in parts):
        return tuple(parts)
    raise ValueError(f"Expected a batch to be a tensor or a tuple of tensors but got {_kind(item)}.")


def _kind(item: object) -> str:
    if isinstance(item, tuple | list):
        parts = " and ".join(sorted({type(part).__name__ for part in item})) or "nothing"
        return f"a {type(item).__name__} of {parts}"
    return f"the type {type(item).__name__}"


def _common_length(columns: tuple[Column, ...], name: str) -> int:
    if any(column.dim() == 0 for column in columns):
        raise ValueError(f"Expected {name} to have a first axis over the data but got a tensor without axes.")
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1:
        raise ValueError(f"Expected the tensors of {name} to be of one length but got lengths {lengths}.")
    return _nonzero(lengths[0], name)


def _dataset_length(dataset: Dataset[Any], name: str) -> int:
    if not hasattr(dataset, "__len__"):
        raise ValueError(f"Expected {name} to have a length but {_kind(dataset)} has none: define __len__.")
    return _nonzero(len(dataset), name)


def _nonzero(size: int, name: str) -> int:
    if size == 0:
        raise ValueError(f"Expected {name} to hold at least one datum but it is empty.")
    return size


def _check_batch_size(batch_size: int | None) -> None:
    if batch_size is None:
        return
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(
            f"Expected batch_size to be an integer >= 1, or None for the whole data, but got {batch_size!r}."
        )


def _check_enough(size: int, world_size: int, what: str) -> None:
    if size < world_size:
        raise ValueError(
            f"Expected {what} to hold at least one datum for each of {world_size} processes but got {size}: "
            "use fewer processes."
        )


def _check_nan(columns: tuple[Column, ...], name: str) -> None:
    for position, column in enumerate(columns):
        # What is mapped stays on disk: its nan show as a loss that is not finite
        count, first = (0, -1) if isinstance(column, MappedRows) else count_nan(column)
        if count:
            raise ValueError(
                f"Expected {name} without nan but its tensor {position} holds {count}, "
                f"the first in row {first}: remove those rows or fill them in."
            )
