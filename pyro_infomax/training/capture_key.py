"""What a recorded step was recorded for, and so what it may be replayed for."""

from collections.abc import Hashable, Sequence
from typing import Any, final

import torch
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

__all__ = ["Call", "NotCapturableError", "NotCompilableError", "surroundings"]

_PLAIN = (bool, int, float, str, bytes, type(None), torch.dtype, torch.device)


@final
class NotCapturableError(Exception):
    """Why a step cannot be recorded, or not be replayed."""


@final
class NotCompilableError(Exception):
    """Why a recorded step cannot be compiled."""


@final
class Call:
    """The arguments of a step, taken apart into tensors and the rest.

    Args:
        args: positional arguments.
        kwargs: keyword arguments.

    Attributes:
        tensors: the tensors in them, also those in containers.
        layout: all else, hashable: shapes, dtypes, containers and plain values.

    Raises:
        NotCapturableError: where something is neither a tensor nor a plain value.

    Example:
        >>> call = Call((torch.zeros(2), 3), {"weights": [torch.ones(1)]})
        >>> [tensor.tolist() for tensor in call.tensors]
        [[0.0, 0.0], [1.0]]
        >>> call.rebuilt([torch.ones(2), torch.zeros(1)])
        ((tensor([1., 1.]), 3), {'weights': [tensor([0.])]})
    """

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._args, self._kwargs = args, kwargs
        if not kwargs and all(type(each) is Tensor for each in args):
            self.tensors: tuple[Tensor, ...] = args
            self.layout: Hashable = tuple(map(_layout, args))
            return
        leaves, spec = tree_flatten((args, kwargs))
        self.tensors = tuple(each for each in leaves if isinstance(each, Tensor))
        self.layout = spec, tuple(map(_layout, leaves))

    def rebuilt(self, tensors: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The same arguments with other tensors."""
        leaves, spec = tree_flatten((self._args, self._kwargs))
        rest = iter(tensors)
        filled = [next(rest) if isinstance(each, Tensor) else each for each in leaves]
        args, kwargs = tree_unflatten(filled, spec)
        return args, kwargs


def _layout(leaf: object) -> Hashable:
    if isinstance(leaf, Tensor):
        if leaf.requires_grad:
            raise NotCapturableError("an argument collects a gradient of its own")
        return leaf.shape, leaf.stride(), leaf.dtype, leaf.device
    if isinstance(leaf, _PLAIN):
        return type(leaf), leaf
    raise NotCapturableError(
        f"an argument of the type {type(leaf).__name__} may change unseen; pass tensors and plain values"
    )


def surroundings() -> Hashable:
    """What else decides on the operations of a step, from around it.

    Pyro handlers around the step may say what they do by a hashable ``capture_key``.

    Raises:
        NotCapturableError: for a handler that says nothing.
    """
    handlers = tuple(map(_key_of_handler, _PYRO_STACK)) if _PYRO_STACK else ()
    return (
        handlers,
        torch.get_default_dtype(),
        torch.is_autocast_enabled("cpu"),
        torch.is_autocast_enabled("cuda"),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
    )


def _key_of_handler(handler: object) -> Hashable:
    try:
        return handler.capture_key  # type: ignore[attr-defined]
    except AttributeError:
        raise NotCapturableError(
            f"it runs inside of the handler {type(handler).__name__}; wrap model and guide with it instead"
        ) from None
