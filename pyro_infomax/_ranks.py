"""The processes that work on one thing together, each on its own part of the data."""

import io
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final, Literal, Protocol, TypeVar, final

import torch
from torch import Tensor

_Result = TypeVar("_Result")
_REPLICATED: Final = ("SingleDeviceStrategy", "DDPStrategy")
_OPERATIONS: Final = {"sum": torch.distributed.ReduceOp.SUM, "max": torch.distributed.ReduceOp.MAX}
# What callers may catch must be the same in all processes; a subclass stands before its parent
_KINDS: Final = (NotImplementedError, ValueError, RuntimeError)
_MOST_DEVICES: Final = 64  # of one machine


class Fabric(Protocol):
    """What is asked of a ``Fabric``: those of ``lightning_fabric`` and ``lightning.fabric`` are some."""

    @property
    def global_rank(self) -> int:
        """The number of this process."""

    @property
    def world_size(self) -> int:
        """How many processes there are."""

    @property
    def device(self) -> torch.device:
        """Where this process computes."""

    @property
    def strategy(self) -> object:
        """How the processes share a model."""

    def broadcast(self, obj: _Result, src: int = ...) -> _Result:
        """What one process holds, on all of them."""

    def to_device(self, obj: Tensor) -> Tensor:
        """A tensor on the device of this process."""

    def autocast(self) -> AbstractContextManager[None]:
        """Runs in the precision of the Fabric."""


class PeerError(Exception):
    """Another process met an error of a kind that this one does not know to raise."""


class Ranks(ABC):
    """Processes that run the same program, counted from 0, and what they say to each other.

    Every method is called by all of them, in the same order: a process that calls none of the others' methods
    keeps them waiting. What may fail on one of them alone goes through :meth:`together`.
    """

    rank: int  # the number of this process
    world_size: int

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and shows what all of them know."""
        return self.rank == 0

    @abstractmethod
    def broadcast(self, thing: _Result, source: int = 0) -> _Result:
        """What one process holds, whatever can be pickled, on all of them."""

    @abstractmethod
    def reduce(self, tensor: Tensor, how: Literal["sum", "max"] = "sum") -> Tensor:
        """Element by element over all processes, of tensors of one shape."""

    @abstractmethod
    def rows(self, tensor: Tensor) -> Tensor:
        """The rows of all processes, one process after the other; each may hold another number of them."""

    def all_of(self, thing: _Result) -> list[_Result]:
        """What every process holds, in their order."""
        return [self.broadcast(thing, source) for source in range(self.world_size)]

    def log_sum(self, tensor: Tensor) -> Tensor:
        r"""The reduced logsumexp, :math:`\log \sum_r \exp t_r`, element by element."""
        largest = self.reduce(tensor.clone(), "max")
        # where no process has any density, inf - inf would be nan
        reference = largest.masked_fill(largest.isinf(), 0.0)
        return reference + self.reduce((tensor - reference).exp()).log()

    def together(self, compute: Callable[[], _Result]) -> _Result:
        """The result of what may fail on one process alone, so that it fails on all or on none.

        ``compute`` says nothing to the other processes. Where it went well, the error of the first process
        that failed is raised, as one of the same kind.
        """
        result, error = result_or_error(compute)
        if not int(self.reduce(torch.tensor([error is not None], dtype=torch.int64))):
            return result  # type: ignore[return-value]
        failures = [each for each in self.all_of(_told(error)) if each is not None]
        # A kind that the caller may catch must be the same on all of them
        chosen = next((each for each in failures if each[0] != "NotImplementedError"), failures[0])
        if error is not None and _told(error) == chosen:
            raise error
        raise _retold(*chosen) from error

    def end_together(self, error: Exception | None) -> None:
        """Ends all processes if one of them has met an error, as :meth:`together` does."""
        self.together(lambda: _raise(error))


@final
class OneRank(Ranks):
    """A process by itself."""

    rank = 0
    world_size = 1

    def broadcast(self, thing: _Result, source: int = 0) -> _Result:  # noqa: ARG002
        return thing

    def reduce(self, tensor: Tensor, how: Literal["sum", "max"] = "sum") -> Tensor:  # noqa: ARG002
        return tensor

    def rows(self, tensor: Tensor) -> Tensor:
        return tensor

    def log_sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def together(self, compute: Callable[[], _Result]) -> _Result:
        return compute()


ONE_RANK: Final = OneRank()


@final
class FabricRanks(Ranks):
    """The processes of a launched ``Fabric`` of Lightning's, of which only its own methods are called."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.rank = int(fabric.global_rank)
        self.world_size = int(fabric.world_size)

    def broadcast(self, thing: _Result, source: int = 0) -> _Result:
        # Through a file in memory, which brings tensors to the device of the process that reads them
        packed = _packed(thing) if self.rank == source and self.world_size > 1 else b""
        if self.world_size == 1:
            return thing
        found: _Result = _unpacked(self.fabric.broadcast(packed, src=source), self.fabric.device)
        return found

    def reduce(self, tensor: Tensor, how: Literal["sum", "max"] = "sum") -> Tensor:
        if self.world_size == 1:
            return tensor
        here = tensor.detach().to(self.fabric.device, copy=True).contiguous()
        # Fabric's own all_reduce would wait at a barrier first, which doubles what a small tensor costs
        torch.distributed.all_reduce(here, op=_OPERATIONS[how])
        return here.to(tensor.device)

    def rows(self, tensor: Tensor) -> Tensor:
        if self.world_size == 1:
            return tensor
        sizes = [int(size) for size in self.all_of(len(tensor))]
        padded = tensor.new_zeros(max(sizes), *tensor.shape[1:], device=self.fabric.device)
        padded[: len(tensor)] = tensor.detach()
        parts = [torch.empty_like(padded) for _ in sizes]
        torch.distributed.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)]).to(tensor.device)


def ranks_of(fabric: Fabric | None) -> Ranks:
    """The processes of a launched Fabric; a process by itself where there is none."""
    if fabric is None:
        return ONE_RANK
    _check_fabric(fabric)
    return FabricRanks(fabric)


def _check_fabric(fabric: Fabric) -> None:
    needed = ("global_rank", "world_size", "strategy", "device", "all_reduce", "all_gather", "broadcast")
    if not all(hasattr(fabric, name) for name in needed):
        raise ValueError(
            f"Expected fabric to be a Fabric of Lightning's but got {type(fabric).__name__}; pass None to "
            "work in one process."
        )
    kinds = [kind.__name__ for kind in type(fabric.strategy).__mro__]
    if not any(name in kinds for name in _REPLICATED):
        raise NotImplementedError(
            f"{kinds[0]} splits the model or steps by itself, which SVI over several processes cannot do: "
            'use strategy="ddp".'
        )
    if fabric.world_size > 1 and not torch.distributed.is_initialized():
        raise ValueError(
            f"Expected a Fabric of {fabric.world_size} processes that were started but they were not; "
            "call fabric.launch() first, or pass your function to it."
        )


def result_or_error(compute: Callable[[], _Result]) -> tuple[_Result | None, Exception | None]:
    """The result, or the error that came in its place, for the other processes to hear of it first."""
    try:
        return compute(), None
    except Exception as error:
        return None, error


def _raise(error: Exception | None) -> None:
    if error is not None:
        raise error


def _told(error: Exception | None) -> tuple[str, str] | None:
    if error is None:
        return None
    kind = next((kind.__name__ for kind in _KINDS if isinstance(error, kind)), type(error).__name__)
    return kind, str(error)


def _retold(kind: str, message: str) -> Exception:
    known = {each.__name__: each for each in _KINDS}
    return known[kind](message) if kind in known else PeerError(f"{kind} in another process: {message}")


def _packed(thing: object) -> bytes:
    file = io.BytesIO()
    torch.save(thing, file)
    return file.getvalue()


def _unpacked(packed: bytes, device: torch.device) -> Any:
    here = {f"cuda:{number}": str(device) for number in range(_MOST_DEVICES)}
    # From a process of this very run, hence not weights only
    return torch.load(io.BytesIO(packed), map_location=here, weights_only=False)
