"""Minibatches: one way to walk over tensors, datasets and loaders."""

import abc
from collections.abc import Callable, Iterator
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from pyro_infomax.poutine import count_nan

Batch = tuple[Tensor, ...]
Data = Tensor | Batch | Dataset[Any] | DataLoader[Any]


class Batches(abc.ABC):
    """An epoch of minibatches, as often as it is asked for."""

    @abc.abstractmethod
    def shuffled(self) -> Iterator[Batch]:
        """The batches of an epoch of training, in an order drawn from torch's generator."""

    @abc.abstractmethod
    def ordered(self) -> Iterator[Batch]:
        """The batches of one pass in the order of the data, which draws nothing where that can be helped."""


@final
class WholeBatch(Batches):
    """All the data at once, the same tensors each time."""

    def __init__(self, tensors: Batch) -> None:
        self._tensors = tensors

    def shuffled(self) -> Iterator[Batch]:
        yield self._tensors

    def ordered(self) -> Iterator[Batch]:
        yield self._tensors


@final
class IndexedBatches(Batches):
    """Batches fetched by their indices; the last one may be short."""

    def __init__(self, take: Callable[[Tensor], Batch], *, size: int, batch_size: int) -> None:
        self._take = take
        self._size = size
        self._batch_size = batch_size

    def shuffled(self) -> Iterator[Batch]:
        return self._walk(torch.randperm(self._size, device="cpu"))

    def ordered(self) -> Iterator[Batch]:
        return self._walk(torch.arange(self._size, device="cpu"))

    def _walk(self, order: Tensor) -> Iterator[Batch]:
        return map(self._take, order.split(self._batch_size))


@final
class LoaderBatches(Batches):
    """The batches of a loader, which alone decides on their order."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = loader

    def shuffled(self) -> Iterator[Batch]:
        return map(_as_batch, self._loader)

    def ordered(self) -> Iterator[Batch]:
        return self.shuffled()


def to_batches(data: Data, *, batch_size: int | None, name: str = "data") -> Batches:
    """Turns any kind of data into batches.

    Args:
        data: a tensor or a tuple of tensors whose first axis is the data, a Dataset whose items are
            a tensor or a tuple of them, or a DataLoader, which has batches of its own.
        batch_size: number of data in a batch; None for all of them at once.
        name: what error messages call the data.

    Returns:
        The batches, each a tuple of tensors.

    Raises:
        ValueError: for other kinds of data, empty data, lengths that differ, nan, or a batch size below 1.

    Example:
        >>> batches = to_batches(torch.arange(5), batch_size=2)
        >>> [x.tolist() for (x,) in batches.ordered()]
        [[0, 1], [2, 3], [4]]
    """
    _check_batch_size(batch_size)
    match data:
        case DataLoader():
            return LoaderBatches(data)
        case Tensor():
            return _tensor_batches((data,), batch_size, name)
        case TensorDataset():
            return _tensor_batches(data.tensors, batch_size, name)
        case tuple() if data and all(isinstance(part, Tensor) for part in data):
            return _tensor_batches(data, batch_size, name)
        case IterableDataset():
            return _stream_batches(data, batch_size, name)
        case Dataset():
            return _dataset_batches(data, batch_size, name)
    raise ValueError(
        f"Expected {name} to be a tensor, a tuple of tensors, a Dataset or a DataLoader "
        f"but got {_kind(data)}."
    )


def _tensor_batches(tensors: Batch, batch_size: int | None, name: str) -> Batches:
    size = _common_length(tensors, name)
    _check_nan(tensors, name)
    if batch_size is None:
        return WholeBatch(tensors)
    return IndexedBatches(lambda index: _select(tensors, index), size=size, batch_size=batch_size)


def _dataset_batches(dataset: Dataset[Any], batch_size: int | None, name: str) -> Batches:
    size = _dataset_length(dataset, name)
    if batch_size is None:
        return WholeBatch(_collect(dataset, torch.arange(size)))
    return IndexedBatches(lambda index: _collect(dataset, index), size=size, batch_size=batch_size)


def _stream_batches(dataset: IterableDataset[Any], batch_size: int | None, name: str) -> Batches:
    if batch_size is None:
        raise ValueError(f"Expected a batch_size for {name}, an IterableDataset, but got None.")
    return LoaderBatches(DataLoader(dataset, batch_size=batch_size))


def _select(tensors: Batch, index: Tensor) -> Batch:
    return tuple(tensor.index_select(0, index.to(tensor.device)) for tensor in tensors)


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


def _common_length(tensors: Batch, name: str) -> int:
    if any(tensor.dim() == 0 for tensor in tensors):
        raise ValueError(f"Expected {name} to have a first axis over the data but got a tensor without axes.")
    lengths = [len(tensor) for tensor in tensors]
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


def _check_nan(tensors: Batch, name: str) -> None:
    for position, tensor in enumerate(tensors):
        count, first = count_nan(tensor)
        if count:
            raise ValueError(
                f"Expected {name} without nan but its tensor {position} holds {count}, "
                f"the first in row {first}: remove those rows or fill them in."
            )
