"""One point of a sweep, alone: whatever ran before it, and wherever it runs, its result is the same."""

import random
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import pyro
import torch

from pyro_infomax.random_state import isolated_random_state
from pyro_infomax.training.sweep_grid import FAILURE, SEED, Point
from pyro_infomax.training.sweep_results import as_dataset
from pyro_infomax.training.sweep_store import Failure, Outcome, Store

# Random states, the parameter store and torch's settings belong to the process, so that threads take turns
_ALONE: Final = threading.RLock()


@final
@dataclass(frozen=True)
class Worker:
    """Computes points, wherever it is sent.

    Args:
        run: the function of a point.
        store: where outcomes go as they come.
        dtype: torch's default, which a new process does not know.
        threads: of torch, for each point.
    """

    run: Callable[..., Any]
    store: Store
    dtype: torch.dtype
    threads: int

    def __call__(self, point: Point) -> Outcome:
        """The outcome of the point: what another sweep on this store has found meanwhile, or else its own."""
        found = self.store.read(point)
        if found is not None and not isinstance(found, Failure):
            return found
        outcome = self._compute(point)
        self.store.write(point, outcome)
        return outcome

    def _compute(self, point: Point) -> Outcome:
        with isolated_point(point.arguments[SEED], dtype=self.dtype, threads=self.threads):
            try:
                result = self.run(**point.arguments)
            except Exception as error:
                return Failure(type(error).__name__, str(error), traceback.format_exc())
            # A result of another kind is the same mistake at every point, and is raised
            return as_dataset(result, taken={*point.arguments, FAILURE})


@contextmanager
def isolated_point(seed: int, *, dtype: torch.dtype, threads: int) -> Iterator[None]:
    """Runs its block with seeded generators and an empty parameter store, and puts back what was before.

    The block draws what it would draw after ``pyro.set_rng_seed(seed)``: the generators of torch, NumPy and
    Python start there.

    Args:
        seed: where the generators start.
        dtype: torch's default inside.
        threads: of torch inside.
    """
    with _ALONE, isolated_random_state(), pyro.get_param_store().scope(), _restored():
        pyro.set_rng_seed(seed)
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)
        yield


@contextmanager
def _restored() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)
