"""Draws that leave no trace in torch's generators."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

_GOLDEN_RATIO: Final = 0x9E3779B97F4A7C15
_LARGEST_SEED: Final = 2**63 - 1


@contextmanager
def isolated(seed: int | None) -> Iterator[None]:
    """Draw from ``seed`` and put the global state back; without a seed, draw from the global state."""
    if seed is None:
        yield
        return
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        # data that were simulated after manual_seed(seed) would otherwise carry the very noise of these draws
        torch.manual_seed((seed + 1) * _GOLDEN_RATIO % _LARGEST_SEED)
        yield
