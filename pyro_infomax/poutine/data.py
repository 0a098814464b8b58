"""Data as the library takes them everywhere: a tensor or a tuple of tensors whose first axis is the data."""

from typing import Any, TypeAlias

import torch

__all__ = ["Data", "as_data", "rows_of"]

Data: TypeAlias = torch.Tensor | tuple[torch.Tensor, ...]


def as_data(data: Any) -> tuple[torch.Tensor, ...]:
    """The positional arguments of model and guide.

    Raises:
        ValueError: if it is no tensor or tuple of tensors with a first axis of one length.
    """
    tensors = data if isinstance(data, tuple | list) else (data,)
    if not tensors or not all(isinstance(each, torch.Tensor) and each.dim() for each in tensors):
        kinds = [type(each).__name__ for each in tensors]
        raise ValueError(
            "Expected data to be a tensor, or a tuple of tensors, whose first axis is the data but got "
            f"{kinds}"
        )
    lengths = [len(each) for each in tensors]
    if len(set(lengths)) != 1 or not lengths[0]:
        raise ValueError(
            f"Expected tensors with one number of data, at least 1, but got the lengths {lengths}"
        )
    return tuple(tensors)


def rows_of(data: tuple[torch.Tensor, ...], rows: torch.Tensor | slice) -> tuple[torch.Tensor, ...]:
    """Some of the data."""
    return tuple(each[rows] for each in data)
