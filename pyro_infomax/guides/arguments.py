"""The arguments of a guide: data first, each with a row a datum."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from pyro_infomax.guides.prototype import DataPlate

__all__ = ["data_size", "first_rows", "rows", "split_count"]


def data_size(args: tuple[Any, ...]) -> int:
    """The number of data.

    Raises:
        ValueError: if the first argument is no tensor with a row a datum.
    """
    if not args or not isinstance(args[0], Tensor) or args[0].dim() == 0:
        got = type(args[0]).__name__ if args else "no positional argument"
        raise ValueError(
            f"Expected the data as first positional argument, a tensor with a row a datum, but got {got}."
        )
    return len(args[0])


def rows(arg: Any, size: int, indices: Any) -> Any:
    """The rows of what is data; other arguments stay whole."""
    is_data = isinstance(arg, Tensor) and arg.shape[:1] == (size,)
    return arg[indices] if is_data else arg


def first_rows(args: tuple[Any, ...], plate: DataPlate) -> Iterator[Any]:
    """As many rows as the plate takes: an encoder of subsamples need not fit all data into memory."""
    few = slice(plate.subsample_size)
    return (rows(arg, data_size(args), few) for arg in args)


def split_count(args: tuple[Any, ...], num_samples: int | None) -> tuple[tuple[Any, ...], int]:
    """The data, and the number of samples, which may come last.

    Raises:
        ValueError: for a number below 1.
    """
    # a flag of the model is an int too
    if num_samples is None and args and isinstance(args[-1], int) and not isinstance(args[-1], bool):
        args, num_samples = args[:-1], args[-1]
    num_samples = 1 if num_samples is None else num_samples
    if num_samples < 1:
        raise ValueError(f"Expected num_samples >= 1 but got {num_samples}.")
    return args, num_samples
