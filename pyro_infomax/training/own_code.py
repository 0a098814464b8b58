"""Which code is the user's own, to be looked into and to be named in a sentence."""

import sys
from collections.abc import Iterable
from pathlib import Path
from traceback import walk_stack, walk_tb
from types import FrameType, FunctionType, ModuleType
from typing import Any, Final

__all__ = ["is_library", "place_of", "present_place"]

_LIBRARIES: Final = sys.stdlib_module_names | {
    *("arviz", "matplotlib", "numpy", "opt_einsum", "pandas", "pyro", "pyro_infomax", "scipy", "sklearn"),
    *("torch", "xarray"),
}


def is_library(thing: FunctionType | ModuleType | type) -> bool:
    """Whether a function, a module or a class is of torch, Pyro, NumPy and their like.

    Example:
        >>> is_library(Path), is_library(type("Model", (), {"__module__": "mine"}))
        (True, False)
    """
    if isinstance(thing, FunctionType):
        # A wrapper bears the module name of what it wraps
        return _names_library(thing.__globals__)
    return _top(thing.__name__ if isinstance(thing, ModuleType) else thing.__module__) in _LIBRARIES


def place_of(error: BaseException) -> str:
    """The line of the user's own that an error comes from, as ``" (model.py, line 3)"``; or nothing."""
    return _last(list(walk_tb(error.__traceback__)))


def present_place() -> str:
    """The line of the user's own that has led here, in the same form."""
    return _last(list(walk_stack(None))[::-1])


def _last(frames: Iterable[tuple[FrameType, int]]) -> str:
    own = [
        f" ({Path(frame.f_code.co_filename).name}, line {line})"
        for frame, line in frames
        if not _names_library(frame.f_globals) and frame.f_code.co_filename != "<string>"
    ]
    return own[-1] if own else ""


def _names_library(namespace: dict[str, Any]) -> bool:
    return _top(namespace.get("__name__") or "") in _LIBRARIES


def _top(name: str) -> str:
    return name.partition(".")[0]
