"""What belongs to the whole process, and is a point's own while it runs: generators, parameters, settings."""

import os
import random
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import pyro
import torch

from pyro_infomax._random import isolated_random_state
from pyro_infomax._types import State
from pyro_infomax.programs import RandomStreams

# ---- One point of a sweep, alone: whatever ran before it, and wherever it runs, its result is the same.

# Random states, the parameter store and torch's settings belong to the process, so that threads take turns
_ALONE: Final = threading.RLock()


@final
@dataclass(frozen=True)
class Settings:
    """What is set for the whole process, beside its generators and its parameter store."""

    dtype: torch.dtype
    device: torch.device
    threads: int  # of torch
    determinism: int
    matmul: str
    anomalies: tuple[bool, bool]  # whether they are looked for, and nan too
    numpy: Mapping[str, Any]  # what becomes of divisions by zero, overflows and the like
    pyro: Mapping[str, Any]
    filters: tuple[Any, ...]  # of warnings
    folder: str | None

    @classmethod
    def present(cls) -> "Settings":
        """Those of this process now."""
        return cls(
            dtype=torch.get_default_dtype(),
            device=torch.get_default_device(),
            threads=torch.get_num_threads(),
            determinism=torch.get_deterministic_debug_mode(),
            matmul=torch.get_float32_matmul_precision(),
            anomalies=(torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
            numpy=np.geterr(),
            pyro=pyro.settings.get(),
            filters=tuple(warnings.filters),
            folder=_folder(),
        )

    def take_effect(self) -> None:
        """Sets them all."""
        torch.set_default_dtype(self.dtype)
        if torch.get_default_device() != self.device:
            # The name of the usual device would slow every factory of tensors down
            torch.set_default_device(None if self.device.type == "cpu" else self.device)
        torch.set_num_threads(self.threads)
        torch.set_deterministic_debug_mode(self.determinism)
        torch.set_float32_matmul_precision(self.matmul)
        torch.autograd.set_detect_anomaly(*self.anomalies)
        np.seterr(**self.numpy)
        pyro.settings.set(**self.pyro)
        if tuple(warnings.filters) != self.filters:  # setting them makes Python show all warnings again
            warnings.resetwarnings()
            warnings.filters[:] = self.filters  # type: ignore[index]
        if self.folder is not None and self.folder != _folder() and os.path.isdir(self.folder):
            os.chdir(self.folder)


def _folder() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:  # it was removed
        return None


@final
class PointState:
    """What a point finds when it begins, and what it has left when it goes on.

    It begins with what a new process has after ``pyro.set_rng_seed(seed)``: the generators of torch, NumPy
    and Python start there, and the parameter store is empty. Gradients are recorded, whatever the caller
    does.
    """

    def __init__(self, seed: int, *, settings: Settings) -> None:
        self._seed, self._settings = seed, settings
        self._store: Any = {"params": {}, "constraints": {}}
        self._kept: State | None = None

    @property
    def random_state(self) -> State:
        """Where torch's random streams stand, while it is not in force."""
        assert self._kept is not None
        found: State = self._kept["torch"]
        return found

    @random_state.setter
    def random_state(self, state: State) -> None:
        assert self._kept is not None
        self._kept["torch"] = state

    @property
    def settings(self) -> Settings:
        """What it has set, while it is not in force."""
        assert self._kept is not None
        found: Settings = self._kept["settings"]
        return found

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Has its block find it, and forgets what generators and settings become there."""
        kept = self._kept
        try:
            with self.in_force():
                yield
        finally:
            self._kept = kept

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Has its block find it, and puts back what was before."""
        with (
            _ALONE,
            isolated_random_state(),
            pyro.get_param_store().scope(self._store),
            _restored(),
            torch.inference_mode(False),  # which enables gradients under no_grad too
        ):
            if self._kept is None:
                pyro.set_rng_seed(self._seed)
                self._settings.take_effect()
            else:
                _put(self._kept)
            try:
                yield
            finally:
                self._kept = _present()


def _present() -> State:
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002
        "torch": RandomStreams().state_dict(),
        "settings": Settings.present(),
        "environment": dict(os.environ),
    }


def _put(state: State) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    RandomStreams().load_state_dict(state["torch"])
    state["settings"].take_effect()
    if dict(os.environ) != state["environment"]:
        os.environ.clear()
        os.environ.update(state["environment"])


@contextmanager
def _restored() -> Iterator[None]:
    before = _present()
    try:
        yield
    finally:
        _put(before)
