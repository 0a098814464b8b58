"""Shapes of one datum, checked where networks take and give tensors."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn


def to_shape(shape: int | Sequence[int], name: str) -> torch.Size:
    """The shape of one datum as a :class:`torch.Size`; an integer means one axis.

    Args:
        shape: sizes of the axes of one datum, without the batch.
        name: what the shape is called in the error.

    Raises:
        ValueError: for a size below 1.

    Example:
        >>> to_shape(8, "input_shape"), to_shape((8, 8), "input_shape")
        (torch.Size([8]), torch.Size([8, 8]))
    """
    sizes = torch.Size([shape] if isinstance(shape, int) else shape)
    if any(size < 1 for size in sizes):
        raise ValueError(f"Expected {name} to hold sizes >= 1 but got {tuple(sizes)}.")
    return sizes


def merge_batch(x: Tensor, event_shape: Sequence[int], *, name: str, fix: str) -> Tensor:
    """Flattens the leading axes of a batch: (..., \\*event) becomes (batch, \\*event).

    Args:
        x: tensor of shape (..., \\*event_shape).
        event_shape: shape of one datum.
        name: what the tensor is called in the error.
        fix: what to do about a mismatch.

    Raises:
        ValueError: if the trailing axes of ``x`` are not ``event_shape``.

    Example:
        >>> merge_batch(torch.zeros(5, 2, 3), (3,), name="z", fix="reshape it").shape
        torch.Size([10, 3])
    """
    split = x.dim() - len(event_shape)
    if split < 0 or tuple(x.shape[split:]) != tuple(event_shape):
        expected = ", ".join(["...", *map(str, event_shape)])
        raise ValueError(f"Expected {name} of shape ({expected}) but got {tuple(x.shape)}: {fix}.")
    return x.reshape(prod(x.shape[:split]), *event_shape)


def batch_axes(x: Tensor, event_shape: Sequence[int]) -> torch.Size:
    """The leading axes of a tensor, which come before one datum.

    Args:
        x: tensor of shape (..., \\*event_shape).
        event_shape: shape of one datum.

    Example:
        >>> batch_axes(torch.zeros(5, 2, 3), (3,))
        torch.Size([5, 2])
    """
    return x.shape[: x.dim() - len(event_shape)]


def as_parameters(x: Tensor, module: nn.Module) -> Tensor:
    """Data in the dtype that a module computes in: integers, booleans and doubles are cast.

    Args:
        x: any tensor.
        module: where it has no parameters, floating-point data stay as they are.

    Example:
        >>> as_parameters(torch.ones(2, dtype=torch.int64), nn.Linear(2, 1)).dtype
        torch.float32
    """
    parameter = next(module.parameters(), None)
    if parameter is None:
        return x if x.is_floating_point() else x.to(torch.get_default_dtype())
    return x.to(parameter.dtype)
