"""Data as the library takes them everywhere: tensors, arrays or frames whose first axis is the data."""

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import numpy as np
import torch

_ELEMENTS_PER_CHUNK: Final = 2**20

Tensors: TypeAlias = tuple[torch.Tensor, ...]
"""Tensors with one first axis, of the data."""

SiteValues: TypeAlias = Mapping[str, torch.Tensor]
"""Latent values, or others, by site."""

Data: TypeAlias = Any
"""A tensor, an array of NumPy's, a frame or series of pandas's, or a tuple of these."""

# torch has few operations on these
_WIDER: Final = {"uint16": np.int32, "uint32": np.int64, "uint64": np.int64}


def as_data(data: object, *, name: str = "data") -> Tensors:
    """The positional arguments of model and guide, tensors with a first axis of one length."""
    parts = data if isinstance(data, tuple | list) else (data,)
    if not parts or not all(is_column(each) for each in parts):
        kinds = [type(each).__name__ for each in parts]
        raise ValueError(
            f"Expected {name} to be a tensor, an array or a frame, or a tuple of these, whose first axis is "
            f"the data but got {kinds}."
        )
    tensors = tuple(as_tensor(name, each) for each in parts)
    if any(each.dim() == 0 for each in tensors):
        raise ValueError(f"Expected {name} to have a first axis over the data but got a tensor without axes.")
    lengths = [len(each) for each in tensors]
    if len(set(lengths)) != 1 or not lengths[0]:
        raise ValueError(
            f"Expected {name} to be tensors with one number of data, at least 1, but got the lengths "
            f"{lengths}."
        )
    return tensors


def is_column(value: object) -> bool:
    """Whether a value is a tensor, an array, or a frame, which knows its values as an array."""
    return isinstance(value, torch.Tensor | np.ndarray) or hasattr(value, "to_numpy")


def as_tensor(name: str, value: object) -> torch.Tensor:
    """A tensor, array or frame as a tensor of the same values.

    Tensors stay as they are and arrays keep their dtype. A frame, whose floats are double by default and not
    by choice, is given torch's default dtype.

    Raises:
        ValueError: for what is neither, and for values that are not all numbers or are missing.
    """
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, np.ndarray):
        return _from_array(name, value)
    if not hasattr(value, "to_numpy"):
        raise ValueError(
            f"Expected {name} to be a tensor, an array or a frame but got {type(value).__name__}."
        )
    array = np.asarray(value.to_numpy())
    # Columns of several dtypes, or of pandas's own, meet as objects
    tensor = _from_array(name, np.array(array.tolist()) if array.dtype == object else array)
    if not tensor.is_floating_point():
        return tensor
    if missing := int(tensor.isnan().sum()):
        raise ValueError(f"Expected {name} without missing values but got {missing}: drop or fill them.")
    return tensor.to(torch.get_default_dtype())


def _from_array(name: str, array: np.ndarray[Any, np.dtype[Any]]) -> torch.Tensor:
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        raise ValueError(f"Expected {name} without masked values: fill them in, as by array.filled(0).")
    dtype: Any = _WIDER.get(array.dtype.name, array.dtype.newbyteorder("="))
    if array.dtype.name == "uint64" and array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"Expected integers of {name} below 2**63 but got {array.max()}.")
    plain = np.asarray(array).astype(dtype, order="C", copy=False)
    try:
        # A tensor on an array that may not be written would allow it
        return torch.from_numpy(plain if plain.flags.writeable else plain.copy())
    except TypeError as error:
        raise ValueError(
            f"Expected {name} to be numbers, none of them missing, but got values of dtype {array.dtype}: "
            "encode categories as numbers, and drop or fill what is missing."
        ) from error


def as_arguments(args: tuple[object, ...]) -> tuple[object, ...]:
    """What a program is called with, its arrays and frames as tensors and all else as it is."""
    return tuple(as_tensor("data", each) if is_column(each) else each for each in args)


def rows_of(data: Tensors, rows: torch.Tensor | slice) -> Tensors:
    """Some of the data."""
    return tuple(each[rows] for each in data)


def count_nan(tensor: torch.Tensor) -> tuple[int, int]:
    """How many values of a tensor are nan, and the first row that has one (−1 if there is none).

    It counts chunk by chunk, so that a large tensor is not copied as a mask.
    """
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return 0, -1
    rows = max(1, _ELEMENTS_PER_CHUNK // max(1, tensor[:1].numel()))
    count, first = 0, -1
    for number, chunk in enumerate(tensor.detach().split(rows)):
        # A sum passes every nan on, and is ten times as fast as a mask
        if chunk.sum().isfinite():
            continue
        mask = chunk.isnan()
        found = int(mask.sum())
        if found and first < 0:
            first = number * rows + int(mask.nonzero()[0, 0])
        count += found
    return count, first
