"""Where programs find values of Python: attributes, closures, globals, and containers of these."""

import random
from collections.abc import Iterable, Iterator
from dis import get_instructions
from functools import partial
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final, NamedTuple, final

import numpy as np
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_infomax.training.own_code import is_library

__all__ = ["PLAIN", "Entry", "Reach"]

PLAIN: Final = (bool, int, float, complex, str, bytes, type(None))

_LARGEST: Final = 100  # entries
_MOST_OBJECTS: Final = 2000
_OF_EVERY_MODULE: Final = frozenset(vars(nn.Module()))
_PARTS_OF_A_MODULE: Final = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")


class Entry(NamedTuple):
    """Where a value stands, which one, and what to call it."""

    container: Any
    key: Any
    value: object
    name: str


@final
class Reach:
    """The values that programs can reach from their code.

    It looks into functions, modules, handlers, objects of the user's own classes and small containers, not
    into libraries.

    Args:
        roots: functions, modules and objects.

    Attributes:
        entries: the values in dicts, lists and namespaces.
        cells: the values in closures, whose containers are cells.
        containers: dicts and lists all of whose entries are among these, by name.
        namespaces: the attributes of objects, by the object's name.
        generators: random generators other than the global ones, by name.

    Example:
        >>> def program(state):
        ...     return lambda: state["beta"]
        >>> state = {"beta": 0.5}
        >>> [entry.name for entry in Reach([program(state)]).entries]
        ["state['beta']"]
    """

    def __init__(self, roots: Iterable[object]) -> None:
        self.entries: list[Entry] = []
        self.cells: list[Entry] = []
        self.containers: list[tuple[Any, str]] = []
        self.namespaces: list[tuple[Any, str]] = []
        self.generators: list[tuple[Any, str]] = []
        self._seen: dict[int, object] = {}
        waiting = [(root, type(root).__name__) for root in roots]
        while waiting and len(self._seen) < _MOST_OBJECTS:
            value, name = waiting.pop()
            if id(value) in self._seen or isinstance(value, (*PLAIN, Tensor, type)):
                continue
            self._seen[id(value)] = value
            waiting += [(entry.value, entry.name) for entry in self._inside(value, name)]

    def _inside(self, value: Any, name: str) -> list[Entry]:
        match value:
            case torch.Generator() | np.random.Generator() | random.Random():
                self.generators.append((value, name))
                return []
            case FunctionType():
                return self._in_function(value)
            case MethodType():
                return [
                    Entry(None, None, each, type(each).__name__) for each in (value.__func__, value.__self__)
                ]
            case partial():
                return [Entry(None, None, each, name) for each in (value.func, value.args, value.keywords)]
            case nn.Module():
                return self._in_module(value, name)
            case dict() | list() if len(value) <= _LARGEST:
                return self._in_container(value, name)
            case tuple() if len(value) <= _LARGEST:
                return [Entry(None, None, each, f"{name}[{i}]") for i, each in enumerate(value)]
        if hasattr(value, "__dict__") and (isinstance(value, Messenger) or not is_library(type(value))):
            return self._in_object(value, vars(value), name)
        return []

    def _in_object(self, value: object, names: Iterable[str], name: str) -> list[Entry]:
        self.namespaces.append((vars(value), name))
        found = self._in_namespace(vars(value), names, name)
        for space in [vars(each) for each in type(value).__mro__ if not is_library(each)]:
            found += self._in_namespace(space, [key for key in space if not key.startswith("__")], name)
            found += [
                Entry(None, None, each, name) for each in space.values() if isinstance(each, FunctionType)
            ]
        return found

    def _in_function(self, function: FunctionType) -> list[Entry]:
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        found = [Entry(cell, None, cell.cell_contents, name) for name, cell in cells if _is_filled(cell)]
        self.cells += found
        defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        found += [Entry(None, None, each, function.__name__) for each in defaults]
        return found if is_library(function) else found + self._in_globals(function)

    def _in_globals(self, function: FunctionType) -> list[Entry]:
        names = dict.fromkeys(_names(function.__code__))
        found = self._in_namespace(function.__globals__, dict.fromkeys(_globals(function.__code__)), "")
        for spaces in [entry for entry in found if isinstance(entry.value, ModuleType | type)]:
            space: Any = spaces.value
            if not is_library(space):
                found += self._in_namespace(vars(space), names, spaces.name)
        return found

    def _in_namespace(self, namespace: Any, names: Iterable[str], owner: str) -> list[Entry]:
        prefix = f"{owner}." if owner else ""
        found = [
            Entry(namespace, each, namespace[each], prefix + each) for each in names if each in namespace
        ]
        self.entries += found
        return found

    def _in_module(self, module: nn.Module, name: str) -> list[Entry]:
        own = [each for each in vars(module) if each not in _OF_EVERY_MODULE]
        found = self._in_object(module, own, name)
        for part in _PARTS_OF_A_MODULE:
            found += self._in_container(getattr(module, part), name, "{name}.{key}")
        return found

    def _in_container(self, container: Any, name: str, form: str = "{name}[{key!r}]") -> list[Entry]:
        items = container.items() if isinstance(container, dict) else enumerate(container)
        found = [Entry(container, key, each, form.format(name=name, key=key)) for key, each in items]
        self.containers.append((container, name))
        self.entries += found
        return found


def _is_filled(cell: CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _names(code: CodeType) -> Iterator[str]:
    """The names that code looks up in globals or as attributes."""
    for each in _codes(code):
        yield from each.co_names


def _globals(code: CodeType) -> Iterator[str]:
    """The names that code looks up in globals."""
    for each in _codes(code):
        yield from (step.argval for step in get_instructions(each) if step.opname == "LOAD_GLOBAL")


def _codes(code: CodeType) -> Iterator[CodeType]:
    """The code, and that of the functions within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
