"""Data as the library takes them everywhere: a tensor or a tuple of tensors whose first axis is the data."""

from collections.abc import Mapping
from typing import Final, TypeAlias

import torch

_ELEMENTS_PER_CHUNK: Final = 2**20

Tensors: TypeAlias = tuple[torch.Tensor, ...]
"""Tensors with one first axis, of the data."""

SiteValues: TypeAlias = Mapping[str, torch.Tensor]
"""Latent values, or others, by site."""

Data: TypeAlias = torch.Tensor | Tensors


def as_data(data: object) -> Tensors:
    """The positional arguments of model and guide, tensors with a first axis of one length."""
    parts = data if isinstance(data, tuple | list) else (data,)
    tensors = tuple(each for each in parts if isinstance(each, torch.Tensor) and each.dim())
    if not parts or len(tensors) < len(parts):
        kinds = [type(each).__name__ for each in parts]
        raise ValueError(
            "Expected data to be a tensor, or a tuple of tensors, whose first axis is the data but got "
            f"{kinds}"
        )
    lengths = [len(each) for each in tensors]
    if len(set(lengths)) != 1 or not lengths[0]:
        raise ValueError(
            f"Expected tensors with one number of data, at least 1, but got the lengths {lengths}"
        )
    return tensors


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
