"""Programs that read the values of tensors, which a recording would fix."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_infomax.infer.recorded_literal import is_literal, literal_number
from pyro_infomax.training.capture_key import NotCapturableError
from pyro_infomax.training.own_code import present_place

__all__ = ["value_reads_refused"]

# None of these is an operation on tensors: what they give is Python's, or memory that Python can read
_READERS: Final = frozenset(
    {
        Tensor.__array__,
        Tensor.__dlpack__,
        Tensor.__format__,
        Tensor.__repr__,
        Tensor.numpy,
        Tensor.storage,
        Tensor.tolist,
        Tensor.untyped_storage,
    }
)
_MAKERS: Final = frozenset({torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor})


@contextmanager
def value_reads_refused() -> Iterator[None]:
    """Has its block fail where the value of a tensor becomes one of Python's.

    Raises:
        NotCapturableError: which says where. It is raised at the end of the block too, should a program have
            caught it.

    Example:
        >>> with value_reads_refused():
        ...     x = torch.ones(2) + 1
        >>> with value_reads_refused():
        ...     float(x.sum())
        Traceback (most recent call last):
        pyro_infomax.training.capture_key.NotCapturableError: the programs read the value of a tensor ...
    """
    refused: list[NotCapturableError] = []
    with _PythonReads(refused), _OperationsThatRead(refused):
        yield
    if refused:
        raise refused[0]


class _Refusing:
    """Refuses, and keeps what it has raised."""

    def __init__(self, refused: list[NotCapturableError]) -> None:
        super().__init__()
        self._refused = refused

    def _refuse(self) -> None:
        place = present_place()
        sentence = f"the programs read the value of a tensor{place}, which a recording would fix"
        self._refused.append(NotCapturableError(sentence))
        raise self._refused[-1]


class _PythonReads(_Refusing, TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _WITHOUT_CHECKS:
            func = _WITHOUT_CHECKS[func]
        if (func in _READERS and not is_literal(args[0])) or (
            func in _MAKERS and any(map(_holds_tensors, (*args, *(kwargs or {}).values())))
        ):
            self._refuse()
        return func(*args, **(kwargs or {}))


class _OperationsThatRead(_Refusing, TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and is_literal(args[0]):
            return literal_number(args[0])
        if torch.Tag.data_dependent_output in func.tags:
            self._refuse()
        return func(*args, **(kwargs or {}))


def _one_hot(index: Tensor, num_classes: int = -1) -> Tensor:
    if num_classes < 0:
        return torch.nn.functional.one_hot(index, num_classes)
    return (index.unsqueeze(-1) == torch.arange(num_classes, device=index.device)).long()


# Functions of torch that read values only to raise errors. By the first one distributions validate
# themselves, whatever the switch of Pyro says.
_WITHOUT_CHECKS: Final[dict[Any, Callable[..., Any]]] = {
    torch._is_all_true: lambda _: True,
    torch.nn.functional.one_hot: _one_hot,
}


def _holds_tensors(value: object) -> bool:
    items = value if isinstance(value, list | tuple) else ()
    return any(isinstance(each, Tensor) or _holds_tensors(each) for each in items)
