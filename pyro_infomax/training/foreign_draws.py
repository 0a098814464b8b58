"""Random numbers that are not drawn from torch's own state."""

import pickle
import random
from typing import Any, Final, final

import numpy as np
import torch
from torch import Tensor

__all__ = ["GLOBAL_GENERATORS", "ForeignDraws"]

GLOBAL_GENERATORS: Final = ((random, "Python's random"), (np.random, "NumPy's random"))


@final
class ForeignDraws:
    """The state of a generator, to be put back.

    Args:
        generator: the module ``random`` or ``numpy.random``, or a generator object of Python, NumPy or torch.
        name: what to call it.

    Example:
        >>> draws = ForeignDraws(random, "random")
        >>> _ = random.random()
        >>> draws.put_back(), draws.put_back()
        (True, False)
    """

    def __init__(self, generator: Any, name: str) -> None:
        self.name = name
        self._generator = generator
        self._state = self._read()

    def put_back(self) -> bool:
        """Puts the state back; whether it had moved."""
        if _same(self._read(), self._state):
            return False
        self._write()
        return True

    def _read(self) -> Any:
        generator = self._generator
        if isinstance(generator, np.random.Generator):
            return generator.bit_generator.state
        return generator.getstate() if hasattr(generator, "getstate") else generator.get_state()

    def _write(self) -> None:
        generator = self._generator
        if isinstance(generator, np.random.Generator):
            generator.bit_generator.state = self._state
        else:
            (generator.setstate if hasattr(generator, "setstate") else generator.set_state)(self._state)


def _same(state: Any, other: Any) -> bool:
    if isinstance(state, Tensor):
        return torch.equal(state, other)
    return pickle.dumps(state) == pickle.dumps(other)
