"""Writes to tensors that were there before."""

from collections.abc import Hashable
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["WritesUndone"]


@final
class WritesUndone(TorchDispatchMode):
    """Puts back, at its end, what tensors held before operations of its block wrote to them.

    Example:
        >>> average = torch.zeros(2)
        >>> with WritesUndone():
        ...     _ = average.add_(1)
        >>> average
        tensor([0., 0.])
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[Hashable, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.is_mutable:
            given = {each.name: value for each, value in zip(func._schema.arguments, args, strict=False)}
            given |= kwargs or {}
            for argument in func._schema.arguments:
                if argument.alias_info is not None and argument.alias_info.is_write:
                    self._keep(given.get(argument.name))
        return func(*args, **(kwargs or {}))

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        # Windows on the same memory were kept at different times: the first time comes last
        with torch.no_grad():
            for tensor, copy in reversed(self._kept.values()):
                tensor.copy_(copy)

    def _keep(self, written: Any) -> None:
        for tensor in written if isinstance(written, list | tuple) else [written]:
            if isinstance(tensor, Tensor) and tensor.numel():
                window = tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
                # One that was made in this block is kept as well: nobody is there to mind
                if window not in self._kept:
                    self._kept[window] = tensor.detach(), tensor.detach().clone()
