"""Every test starts from an empty parameter store, in float64, and leaves torch's globals as they were."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import matplotlib
import pyro
import pytest
import torch

from pyro_infomax.ranks import Ranks

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def isolated() -> Iterator[None]:
    pyro.clear_param_store()
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    with torch.random.fork_rng(devices=[]), pyro.validation_enabled():
        torch.manual_seed(0)
        yield
    torch.set_default_dtype(dtype)
    pyro.clear_param_store()


class ThreadRanks(Ranks):
    """Processes that are threads: what does not draw can be tested with several of them in no time.

    One computes at a time, until it waits for the others: torch's global generator, which processes have each
    for themselves, would let two threads that ask for its state at once wait for each other for ever.

    Args:
        rank: of this one.
        board: where each leaves what the others are to see.
        barrier: that all wait at.
        turn: held by the one that computes.
    """

    def __init__(self, rank: int, board: list[Any], barrier: threading.Barrier, turn: threading.Lock) -> None:
        self.rank = rank
        self.world_size = len(board)
        self._board = board
        self._barrier = barrier
        self._turn = turn

    def _exchanged(self, thing: Any) -> list[Any]:
        self._board[self.rank] = thing
        self._wait()
        things = list(self._board)
        self._wait()
        return things

    def _wait(self) -> None:
        self._turn.release()
        try:
            self._barrier.wait()
        finally:
            self._turn.acquire()

    def broadcast(self, thing: Any, source: int = 0) -> Any:
        return self._exchanged(thing)[source]

    def reduce(self, tensor: torch.Tensor, how: Literal["sum", "max"] = "sum") -> torch.Tensor:
        together = torch.stack(self._exchanged(tensor))
        return together.sum(0) if how == "sum" else together.amax(0)

    def rows(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat(self._exchanged(tensor))


@pytest.fixture
def as_ranks() -> Callable[..., list[Any]]:
    """Calls a function as each of some processes at once; what they return, or the error that they raise."""

    def run(size: int, function: Callable[[Ranks], Any]) -> list[Any]:
        board: list[Any] = [None] * size
        # One that waits for another in vain shall fail
        barrier = threading.Barrier(size, timeout=20)
        turn = threading.Lock()

        def one(rank: int) -> Any:
            with turn:
                try:
                    return function(ThreadRanks(rank, board, barrier, turn))
                except Exception as error:
                    return error

        with ThreadPoolExecutor(size) as pool:
            return list(pool.map(one, range(size)))

    return run
