"""Draws that leave no trace in torch's generators."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def isolated(seed: int | None) -> Iterator[None]:
    """Draw from ``seed`` and put the global state back; without a seed, draw from the global state as usual."""
    if seed is None:
        yield
        return
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
