"""Randomness that leaves no trace in torch's global generators."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def isolated_random_state(seed: int | None = None) -> Iterator[None]:
    """Runs its block on copies of torch's generators, which are put back afterwards.

    Args:
        seed: where the copies start; None continues from the present state.

    Example:
        >>> state = torch.get_rng_state()
        >>> with isolated_random_state(seed=0):
        ...     _ = torch.rand(())
        >>> torch.equal(state, torch.get_rng_state())
        True
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        if seed is not None:
            _seed(seed, cuda=bool(devices))
        yield


def _seed(seed: int, *, cuda: bool) -> None:
    # torch.manual_seed would also leave a seed behind for devices that are not in use yet
    torch.default_generator.manual_seed(seed)
    if cuda:
        torch.cuda.manual_seed_all(seed)
