"""Why a step cannot be recorded, and what keeps a recording from hiding it.

In this order: the errors, whose code the line is that an error names, and reads of the values of tensors,
which a recording would fix.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_stack, walk_tb
from types import FrameType, FunctionType, ModuleType
from typing import Any, Final, TypeAlias, final

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode

from pyro_infomax._recording import (
    DispatchMode,
    NotCapturableError as NotCapturableError,
    is_literal,
    literal_number,
)
from pyro_infomax._types import Kwargs

# ---- The errors.

# As they reach the modes of torch
Arguments: TypeAlias = tuple[Any, ...]


@final
class NotCompilableError(Exception):
    """Why a recorded step cannot be compiled."""


@contextmanager
def compiling() -> Iterator[None]:
    """Has whatever fails in its block be a reason not to compile, since a graph can still be replayed.

    Raises:
        NotCompilableError: for any error.
    """
    try:
        yield
    except NotCompilableError:
        raise
    except Exception as error:
        raise NotCompilableError(first_line(error)) from error


def first_line(error: Exception) -> str:
    """What kind of error it is, and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


# ---- Which code is the user's own, to be looked into and to be named in a sentence.

LIBRARIES: Final = sys.stdlib_module_names | {
    *("arviz", "matplotlib", "numpy", "opt_einsum", "pandas", "pyro", "pyro_infomax", "scipy", "sklearn"),
    *(
        "torch",
        "xarray",
        "einops",
        "gpytorch",
        "IPython",
        "ipykernel",
        "jax",
        "joblib",
        "lightning",
        "numpyro",
    ),
    *("_pytest", "pytest", "tensorboard", "torchvision", "tqdm", "transformers", "wandb"),
}


def is_library(thing: FunctionType | ModuleType | type) -> bool:
    """Whether a function, a module or a class is of torch, Pyro, NumPy and their like."""
    if isinstance(thing, FunctionType):
        # A wrapper bears the module name of what it wraps
        return _names_library(thing.__globals__)
    return package_of(thing.__name__ if isinstance(thing, ModuleType) else thing.__module__) in LIBRARIES


def place_of(error: BaseException) -> str:
    """The line of the user's own that an error comes from, or Pyro's function, in brackets; or nothing."""
    return _innermost(list(walk_tb(error.__traceback__)))


def present_place() -> str:
    """The line of the user's own that has led here, in the same form."""
    return _innermost(list(walk_stack(None))[::-1])


def _innermost(frames: Iterable[tuple[FrameType, int]]) -> str:
    own, others = "", ""
    for frame, line in frames:
        module = str(frame.f_globals.get("__name__") or "")
        if module.startswith("pyro_infomax.capture._captured"):
            own = others = ""  # a line that calls a step is none of the programs
        elif module.startswith(("pyro.", "torch.distributions.")):
            others = f" (in {frame.f_code.co_qualname})"
        elif not _names_library(frame.f_globals) and frame.f_code.co_filename != "<string>":
            own = f" ({Path(frame.f_code.co_filename).name}, line {line})"
    return own or others


def _names_library(namespace: Mapping[str, object]) -> bool:
    return package_of(str(namespace.get("__name__") or "")) in LIBRARIES


def package_of(name: str) -> str:
    return name.partition(".")[0]


# ---- Programs that read the values of tensors, which a recording would fix.

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

    It fails at the end of the block too, should a program have caught the error.
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
    def __torch_function__(
        self, func: Callable[..., object], types: object, args: Arguments = (), kwargs: Kwargs | None = None
    ) -> object:
        if func in _WITHOUT_CHECKS:
            func = _WITHOUT_CHECKS[func]
        if (func in _READERS and not is_literal(args[0])) or (
            func in _MAKERS and any(map(_holds_tensors, (*args, *(kwargs or {}).values())))
        ):
            self._refuse()
        return func(*args, **(kwargs or {}))


class _OperationsThatRead(_Refusing, DispatchMode):
    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: Arguments = (), kwargs: Kwargs | None = None
    ) -> object:
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
_WITHOUT_CHECKS: Final[dict[Callable[..., object], Callable[..., object]]] = {
    torch._is_all_true: lambda _: True,
    torch.nn.functional.one_hot: _one_hot,
}


def _holds_tensors(value: object) -> bool:
    items = value if isinstance(value, list | tuple) else ()
    return any(isinstance(each, Tensor) or _holds_tensors(each) for each in items)
