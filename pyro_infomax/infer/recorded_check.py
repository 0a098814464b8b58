"""Checks of values that hold in a recorded graph too."""

import torch
from torch.fx.experimental.proxy_tensor import get_proxy_mode

__all__ = ["holds"]


def holds(condition: bool | torch.Tensor, sentence: str) -> bool:
    """Whether a condition holds.

    While a graph of tensor operations is recorded, what a tensor's value will be is unknown. The check then
    becomes an operation of the graph, which raises a RuntimeError where it fails.

    Args:
        condition: a truth value, or a tensor of one.
        sentence: what the graph says where it does not hold.

    Example:
        >>> from torch.fx.experimental.proxy_tensor import make_fx
        >>> def root(x):
        ...     if not holds((x >= 0).all(), "Expected x >= 0"):
        ...         raise ValueError(f"Expected x >= 0 but got {x}")
        ...     return x.sqrt()
        >>> make_fx(root)(torch.ones(2))(-torch.ones(2))
        Traceback (most recent call last):
        RuntimeError: Expected x >= 0
    """
    if isinstance(condition, torch.Tensor) and get_proxy_mode() is not None:
        torch._assert_async(condition, sentence)
        return True
    return bool(condition)
