"""Every test starts from an empty parameter store, in float64, and leaves torch's globals as they were."""

import gc
import os
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import matplotlib
import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import ELBO, SVI
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_infomax import _random
from pyro_infomax._ranks import Ranks
from pyro_infomax.infer import TraceMeanField_InfoMaxELBO

matplotlib.use("Agg")
# Compilers start no processes and try out no vector instructions, which is most of their time
os.environ |= {"TORCHINDUCTOR_COMPILE_THREADS": "1", "TORCHINDUCTOR_VEC_ISA_OK": "0"}


# torch.manual_seed notes where it is called from, once for each kind of device, and without one for nothing
seed_generators = torch.manual_seed if torch.cuda.is_available() else torch.default_generator.manual_seed


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Looks for no garbage while thousands of tests are collected, nor among them later: all of them stay."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Has every second worker begin at the end: from the middle on it finds what others have compiled."""
    report = yield
    if isinstance(collector, pytest.Dir) and int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 2:
        report.result.reverse()
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Workers must agree on the order: by file, and in each as written."""
    items.sort(key=lambda item: item.path)


@pytest.fixture(autouse=True)
def isolated() -> Iterator[None]:
    pyro.clear_param_store()
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    with torch.random.fork_rng(devices=[]), pyro.validation_enabled():
        seed_generators(0)
        yield
    torch.set_default_dtype(dtype)
    pyro.clear_param_store()
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


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


class NoLock:
    """For threads that stand for processes, which share nothing."""

    def acquire(self, timeout: float) -> bool:
        return True

    def release(self) -> None:
        pass


@pytest.fixture
def as_ranks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Calls a function as each of some processes at once; what they return, or the error that they raise."""
    monkeypatch.setattr(_random, "_PROCESS_STATE", NoLock())

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


class LinearPair(nn.Module):
    """z (batch, 2) and x (batch, 3), with a learned scale that the model creates while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 4)
        self.decoder = nn.Linear(2, 3)
        self.dropout = nn.Dropout(0.25)
        # put in place of one another: a program that fills a container cannot be recorded
        self.modes: tuple[tuple[bool, bool], ...] = ()

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        scale = pyro.param("scale", lambda: 1 + torch.rand(3), constraint=constraints.positive)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), scale).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        self.modes = (*self.modes, (torch.is_grad_enabled(), self.dropout.training))
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x), dim=-1):
            loc, log_scale = self.encoder(self.dropout(x)).chunk(2, dim=-1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def fresh_svi(elbo: ELBO | None = None, *, lr: float = 0.01) -> SVI:
    """An SVI over a new pair, the same each time, on an empty parameter store."""
    pyro.clear_param_store()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(42)
        pair = LinearPair()
    objective = elbo or TraceMeanField_InfoMaxELBO(lam=1.0)
    return SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": lr}), objective)


@pytest.fixture
def make_svi() -> Callable[..., SVI]:
    return fresh_svi


@pytest.fixture
def data() -> Tensor:
    return torch.randn(10, 3, generator=torch.Generator().manual_seed(1))
