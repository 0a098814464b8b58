"""State that consists of tensors and plain values, which a file can hold without any code."""

from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

_VALUES: Final = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
_BASES: Final[tuple[Any, ...]] = (str, int, float, tuple)
_MAPPINGS: Final = (dict, OrderedDict, Counter)
_SEQUENCES: Final = (list, tuple, set)


def plain_state(state: Any, *, of: str) -> Any:
    """A state as ``torch.load(weights_only=True)`` reads it.

    Args:
        state: mappings, sequences, tensors and plain values, nested as they may be.
        of: what error messages call its owner.

    Returns:
        The same state; tensors without their graphs, and NumPy's numbers as Python's.

    Raises:
        ValueError: for anything else in it, such as functions and objects.

    Example:
        >>> plain_state({"best": np.float64(0.5), "seen": (1, 2)}, of="a callback")
        {'best': 0.5, 'seen': (1, 2)}
    """
    return _plain(state, of, "")


def _plain(value: Any, of: str, path: str) -> Any:
    if isinstance(value, Tensor):
        return _own(value.detach())
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in _VALUES:
        return value
    if type(value) in _MAPPINGS:
        pairs = ((key, each, f"{path}.{key}") for key, each in value.items())
        return type(value)({_plain(key, of, at): _plain(each, of, at) for key, each, at in pairs})
    if type(value) in _SEQUENCES:
        return type(value)(_plain(each, of, f"{path}.{number}") for number, each in enumerate(value))
    for kind in _BASES:
        if isinstance(value, kind):
            return _plain(kind(value), of, path)
    if isinstance(value, Mapping):
        return _plain(dict(value), of, path)
    raise ValueError(
        f"Expected the state of {of} to consist of tensors and plain values, so that a checkpoint can hold "
        f"it, but got a {type(value).__name__} at {path.removeprefix('.') or 'its root'!r}."
    )


def _own(tensor: Tensor) -> Tensor:
    # A file would hold all of the storage that a view looks at
    shared = tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size()
    return tensor.clone() if shared else tensor
