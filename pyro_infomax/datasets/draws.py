"""Where factors and nuisances are drawn from."""

from typing import Any

import numpy as np
import torch

Seed = int | np.random.RandomState | None
_NUM_SEEDS = 2**32


def to_random_state(seed: Seed) -> np.random.RandomState:
    """NumPy's generator of a seed, so that its global state is never touched.

    The legacy generator, since a stream of it is the same for every version of NumPy, and since the scores of
    the field are defined with it.

    Args:
        seed: starts a generator; a generator is taken as it is and moves on; None draws the seed from torch's
            global generator, so that ``torch.manual_seed`` governs it.

    Raises:
        ValueError: for anything else.

    Example:
        >>> to_random_state(0).randint(10, size=3).tolist()
        [5, 0, 3]
    """
    if isinstance(seed, np.random.RandomState):
        return seed
    if seed is None:
        return np.random.RandomState(int(torch.randint(_NUM_SEEDS, (), device="cpu")))
    return np.random.RandomState(checked_seed(seed))


def checked_seed(seed: Any) -> int:
    """The seed, if it is a number that starts NumPy's generator.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < _NUM_SEEDS:
        raise ValueError(f"Expected seed to be an integer from 0 to 2**32 - 1 but got {seed!r}.")
    return int(seed)
