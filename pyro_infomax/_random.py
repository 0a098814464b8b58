"""Randomness that leaves no trace in torch's global generators."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from pyro_infomax._checks import seed_number

_GOLDEN_RATIO: Final = 0x9E3779B97F4A7C15
_LARGEST_SEED: Final = 2**63 - 1
_PATIENCE: Final = 10.0  # seconds

# The generators, Pyro's handlers and its parameter store are the process's, not the thread's
_PROCESS_STATE: Final = threading.RLock()


@contextmanager
def one_thread(what: str, *, patience: float = _PATIENCE) -> Iterator[None]:
    """Runs its block while no other thread runs one of these.

    A second thread would draw from the first one's seed and be sent back with it, without a word. What is
    short is waited for. What is long is refused, since threads that wait for each other would wait for ever.

    Args:
        what: for the sentence of the error.
        patience: how long to wait for another thread, in seconds.
    """
    if not _PROCESS_STATE.acquire(timeout=patience):
        raise RuntimeError(
            f"Expected one thread at a time to {what}, but another one has not finished: torch's generators "
            "and Pyro's handlers belong to the whole process. Run them one after the other, or in processes "
            "as sweep(..., n_jobs=2) does."
        )
    try:
        yield
    finally:
        _PROCESS_STATE.release()


def is_within_one_thread() -> bool:
    """Whether this thread runs within a block of :func:`one_thread`."""
    found: bool = _PROCESS_STATE._is_owned()  # type: ignore[attr-defined]
    return found


@contextmanager
def other_threads_run() -> Iterator[None]:
    """Lets other threads run blocks of :func:`one_thread` while this one, which is within one, waits."""
    kept = _PROCESS_STATE._release_save()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        _PROCESS_STATE._acquire_restore(kept)  # type: ignore[attr-defined]


@contextmanager
def isolated_random_state(seed: int | None = None) -> Iterator[None]:
    """Runs its block on copies of torch's generators, which are put back afterwards.

    The copies start at the seed, or continue from the present state where there is none.
    """
    start = None if seed is None else seed_number(seed)
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with one_thread("draw with a seed"), torch.random.fork_rng(devices=devices):
        if start is not None:
            _seed(start, cuda=bool(devices))
        yield


@contextmanager
def seeded_draws(seed: int | None) -> Iterator[None]:
    """Draws of their own from a seed, or from the global state where there is none.

    Data that were simulated, or networks that were trained, after ``torch.manual_seed(seed)`` know the noise
    that follows it. Draws that are to judge them by the same seed would carry that very noise, so that the
    seed is scrambled.
    """
    if seed is None:
        yield
        return
    with isolated_random_state(_scrambled(seed_number(seed))):
        yield


@contextmanager
def simulated_draws(seed: int | None) -> Iterator[None]:
    """As :func:`seeded_draws`, for data that are judged later, perhaps by draws of the same seed."""
    with seeded_draws(None if seed is None else _scrambled(seed_number(seed))):
        yield


def _scrambled(seed: int) -> int:
    return (seed + 1) * _GOLDEN_RATIO % _LARGEST_SEED


def _seed(seed: int, *, cuda: bool) -> None:
    # torch.manual_seed would also leave a seed behind for devices that are not in use yet
    torch.default_generator.manual_seed(seed)
    if cuda:
        torch.cuda.manual_seed_all(seed)
