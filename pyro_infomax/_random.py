"""Randomness that leaves no trace in torch's global generators."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

_GOLDEN_RATIO: Final = 0x9E3779B97F4A7C15
_LARGEST_SEED: Final = 2**63 - 1


@contextmanager
def isolated_random_state(seed: int | None = None) -> Iterator[None]:
    """Runs its block on copies of torch's generators, which are put back afterwards.

    The copies start at the seed, or continue from the present state where there is none.
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        if seed is not None:
            _seed(seed, cuda=bool(devices))
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
    with isolated_random_state((seed + 1) * _GOLDEN_RATIO % _LARGEST_SEED):
        yield


def _seed(seed: int, *, cuda: bool) -> None:
    # torch.manual_seed would also leave a seed behind for devices that are not in use yet
    torch.default_generator.manual_seed(seed)
    if cuda:
        torch.cuda.manual_seed_all(seed)
