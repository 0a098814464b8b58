"""Minibatches: one way to walk over tensors, memory-mapped arrays, datasets and loaders."""

import abc
import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from pyro_infomax._checks import whole_number
from pyro_infomax._data import as_tensor, count_nan, is_column
from pyro_infomax._types import Array

Batch = tuple[Tensor, ...]
Column = Tensor | Array
TrainingData = Any  # a tensor, array or frame, a tuple of these, a Dataset or a DataLoader

_BLOCK: Final = 1024


class Batches(abc.ABC):
    """An epoch of minibatches, as often as it is asked for."""

    @abc.abstractmethod
    def shuffled(self, skip: int = 0) -> Iterator[Batch]:
        """An epoch of training after its first ``skip`` batches, in an order drawn from torch's generator."""

    def stacked(self, skip: int, most: Callable[[int], int]) -> Iterator[Batch] | None:  # noqa: ARG002
        """The same batches, many at once: each tensor has one more axis in front, over the batches.

        None where they cannot be fetched ahead of the steps on them, since fetching them may draw too.

        Args:
            skip: as above.
            most: from the bytes of one batch, how many may come at once; asked anew each time.
        """
        return None

    def counts(self) -> dict[int, int]:
        """How many batches of which size an epoch has; empty where that is not known."""
        return {}

    @abc.abstractmethod
    def ordered(self) -> Iterator[Batch]:
        """The batches of one pass in the order of the data, which draws nothing where that can be helped."""

    @abc.abstractmethod
    def sharded(self, rank: int, world_size: int) -> "Batches":
        """The part of each batch that one of several processes takes.

        The processes draw from generators in one state, so that their parts make up the batches of a single
        process.
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

    def counts(self) -> dict[int, int]:
        return {len(self._tensors[0]): 1}

    def sharded(self, rank: int, world_size: int) -> "WholeBatch":
        _check_enough(len(self._tensors[0]), world_size, "data")
        return WholeBatch(tuple(tensor[rank::world_size] for tensor in self._tensors))


@final
@dataclass(frozen=True, eq=False)
class IndexedBatches(Batches):
    """Batches fetched by their indices; the last one may be short.

    Where it has fewer data than there are processes, it is one with the batch before it, since no process may
    stay without data.
    """

    take: Callable[[Tensor], Batch]  # from an index (batch,) to the batch
    size: int
    batch_size: int  # over all processes
    device: torch.device | str = "cpu"  # where the index is wanted
    rank: int = 0
    world_size: int = 1
    draws: bool = True  # whether fetching may draw random numbers, or rows share a graph of autograd

    def __post_init__(self) -> None:
        _check_enough(min(self.size, self.batch_size), self.world_size, "a batch")

    def shuffled(self, skip: int = 0) -> Iterator[Batch]:
        return self._walk(torch.randperm(self.size, device="cpu"), skip)

    def ordered(self) -> Iterator[Batch]:
        return self._walk(torch.arange(self.size, device="cpu"))

    def stacked(self, skip: int, most: Callable[[int], int]) -> Iterator[Batch] | None:
        if self.draws or self.world_size > 1:
            return None
        return self._stacks(torch.randperm(self.size, device="cpu"), skip, most)

    def _stacks(self, order: Tensor, skip: int, most: Callable[[int], int]) -> Iterator[Batch]:
        full, rest = divmod(self.size, self.batch_size)
        row = sum(each.nbytes for each in self.take(order[:1].to(self.device)))
        while skip < full:
            number = max(1, min(most(row * self.batch_size), full - skip))
            index = order[skip * self.batch_size : (skip + number) * self.batch_size].to(self.device)
            yield tuple(_apart(each, number, self.batch_size) for each in self.take(index))
            skip += number
        if rest and skip == full:
            yield tuple(each[None] for each in self.take(order[full * self.batch_size :].to(self.device)))

    def counts(self) -> dict[int, int]:
        full, rest = divmod(self.size, self.batch_size)
        whole = {self.batch_size: full} if full else {}
        return whole | ({rest: 1} if rest else {})

    def sharded(self, rank: int, world_size: int) -> "IndexedBatches":
        return replace(self, rank=rank, world_size=world_size)

    def _walk(self, order: Tensor, skip: int = 0) -> Iterator[Batch]:
        for index in self._indices(order.to(self.device), skip):
            part = index if self.world_size == 1 else index[self.rank :: self.world_size]
            yield self.take(part)

    def _indices(self, order: Tensor, skip: int) -> Iterator[Tensor]:
        last = (self._count - 1) * self.batch_size
        # One split makes views at a third of what slices cost, but of a long order they would not fit memory
        for block in order[skip * self.batch_size : last].split(_BLOCK * self.batch_size):
            yield from block.split(self.batch_size) if len(block) else ()
        if skip < self._count:
            yield order[last:]

    @property
    def _count(self) -> int:
        full, rest = divmod(self.size, self.batch_size)
        return full + (rest >= self.world_size)


_LINE: Final = 64  # bytes, at multiples of which torch's own tensors begin


def _apart(rows: Tensor, number: int, size: int) -> Tensor:
    """Rows as batches, (batch, row, ...), each of which begins where a tensor of its own would.

    Sums are rounded otherwise elsewhere in memory.
    """
    batches = rows.unflatten(0, (number, size))
    elements = batches[0].numel()
    over = elements * rows.element_size() % _LINE
    if number == 1 or not over:
        return batches
    padding = (_LINE - over) // rows.element_size()
    slots = rows.new_empty(number, elements + padding)[:, :elements].unflatten(1, batches.shape[1:])
    return slots.copy_(batches)


@final
class LoaderBatches(Batches):
    """The batches of a loader, which alone decides on their order, and on what each process gets."""

    def __init__(self, loader: DataLoader[object]) -> None:
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

    def __init__(self, stream: IterableDataset[object], *, batch_size: int, name: str) -> None:
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


def to_batches(data: TrainingData, *, batch_size: int | None, name: str = "data") -> Batches:
    """Turns any kind of data into batches, each a tuple of tensors; no batch size takes all at once."""
    if batch_size is not None:
        batch_size = whole_number("batch_size", batch_size, at_least=1)
    # A loader that went through fabric.setup_dataloaders is wrapped, and no DataLoader any more
    if type(data).__name__ == "_FabricDataLoader":
        return LoaderBatches(data)  # type: ignore[arg-type]
    match data:
        case DataLoader():
            return LoaderBatches(data)
        case TensorDataset():
            return _column_batches(data.tensors, batch_size, name)
        case IterableDataset():
            return _stream_batches(data, batch_size, name)
        case Dataset():
            return _dataset_batches(data, batch_size, name)
    parts = data if isinstance(data, tuple) else (data,)
    if parts and all(is_column(part) for part in parts):
        # Only what is in a file stays an array: its rows are read as they are needed
        columns = [part if _is_memory_mapped(part) else as_tensor(name, part) for part in parts]
        return _column_batches(columns, batch_size, name)
    raise ValueError(
        f"Expected {name} to be a tensor, an array, a frame, a tuple of these, a Dataset or a DataLoader but "
        f"got {_kind(data)}."
    )


def _column_batches(columns: Sequence[Column], batch_size: int | None, name: str) -> Batches:
    size = _common_length(columns, name)
    takes = [_taker(column, name) for column in columns]
    if batch_size is None:
        tensors = tuple(
            column if isinstance(column, Tensor) else take(torch.arange(size, device="cpu"))
            for column, take in zip(columns, takes, strict=True)
        )
        _check_nan(tensors, name)
        return WholeBatch(tensors)
    # To look for nan would read all of a file: they show as a loss that is not finite
    _check_nan(columns, name)
    device = next((column.device for column in columns if isinstance(column, Tensor)), "cpu")
    return IndexedBatches(
        lambda index: tuple([take(index) for take in takes]),
        size=size,
        batch_size=batch_size,
        device=device,
        draws=any(isinstance(each, Tensor) and each.requires_grad for each in columns),
    )


def _is_memory_mapped(part: object) -> bool:
    while isinstance(part, np.ndarray):
        if isinstance(part, np.memmap) and isinstance(part.base, mmap.mmap):
            return True
        part = part.base
    return False


def _taker(column: Column, name: str) -> Callable[[Tensor], Tensor]:
    """From an index (batch,) to a copy of these rows."""
    if isinstance(column, Tensor):
        return lambda index: column.index_select(0, index.to(column.device))
    array, dtype = column.view(np.ndarray), column.dtype.newbyteorder("=")
    try:
        torch.from_numpy(np.empty(0, dtype=dtype))
    except TypeError as error:
        raise ValueError(
            f"Expected the memory-mapped {name} to be of a dtype that tensors have but got {dtype}: "
            "save it as numbers."
        ) from error
    # Only the pages that hold the rows are read, and the system takes them back when it needs the memory
    return lambda index: torch.from_numpy(np.ascontiguousarray(array[index.cpu().numpy()], dtype=dtype))


def _dataset_batches(dataset: Dataset[object], batch_size: int | None, name: str) -> Batches:
    size = _dataset_length(dataset, name)
    if batch_size is None:
        return WholeBatch(_collect(dataset, torch.arange(size)))
    return IndexedBatches(lambda index: _collect(dataset, index), size=size, batch_size=batch_size)


def _stream_batches(dataset: IterableDataset[object], batch_size: int | None, name: str) -> Batches:
    if batch_size is None:
        raise ValueError(f"Expected a batch_size for {name}, an IterableDataset, but got None.")
    return StreamBatches(dataset, batch_size=batch_size, name=name)


def _collect(dataset: Dataset[object], index: Tensor) -> Batch:
    indices = index.tolist()
    fetch = getattr(dataset, "__getitems__", None)
    items = fetch(indices) if fetch else [dataset[i] for i in indices]
    return _as_batch(default_collate(items))


def _as_batch(item: object) -> Batch:
    parts = (item,) if isinstance(item, Tensor) else item
    if isinstance(parts, tuple | list) and parts and all(isinstance(part, Tensor) for part in parts):
        return tuple(parts)
    raise ValueError(f"Expected a batch to be a tensor or a tuple of tensors but got {_kind(item)}.")


def _kind(item: object) -> str:
    if isinstance(item, tuple | list):
        parts = " and ".join(sorted({type(part).__name__ for part in item})) or "nothing"
        return f"a {type(item).__name__} of {parts}"
    return f"the type {type(item).__name__}"


def _common_length(columns: Sequence[Column], name: str) -> int:
    if any(column.ndim == 0 for column in columns):
        raise ValueError(f"Expected {name} to have a first axis over the data but got a tensor without axes.")
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1:
        raise ValueError(f"Expected the tensors of {name} to be of one length but got lengths {lengths}.")
    return _nonzero(lengths[0], name)


def _dataset_length(dataset: Dataset[object], name: str) -> int:
    if not hasattr(dataset, "__len__"):
        raise ValueError(f"Expected {name} to have a length but {_kind(dataset)} has none: define __len__.")
    return _nonzero(len(dataset), name)


def _nonzero(size: int, name: str) -> int:
    if size == 0:
        raise ValueError(f"Expected {name} to hold at least one datum but it is empty.")
    return size


def _check_enough(size: int, world_size: int, what: str) -> None:
    if size < world_size:
        raise ValueError(
            f"Expected {what} to hold at least one datum for each of {world_size} processes but got {size}: "
            "use fewer processes."
        )


def _check_nan(columns: Sequence[Column], name: str) -> None:
    for position, column in enumerate(columns):
        count, first = count_nan(column) if isinstance(column, Tensor) else (0, -1)
        if count:
            raise ValueError(
                f"Expected {name} without nan but its tensor {position} holds {count}, "
                f"the first in row {first}: remove those rows or fill them in."
            )
