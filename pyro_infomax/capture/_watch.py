"""What a recorded step was recorded for, and so what it may be replayed for.

A recording fixes whatever is no operation on tensors. Here is what watches that: the key of a call, random
numbers and writes that a recording does not show, reads of values, and what the programs can reach in Python.
"""

import pickle
import random
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dis import get_instructions
from functools import partial
from pathlib import Path
from traceback import walk_stack, walk_tb
from types import CellType, CodeType, FrameType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any, Final, NamedTuple, TypeAlias, cast, final

import numpy as np
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from pyro_infomax._recording import is_literal, literal_number
from pyro_infomax._types import Args, Kwargs
from pyro_infomax.infer import WeightedELBO

# ---- What a step is recorded for: its arguments, and what is around it.

# As they reach the modes of torch
Arguments: TypeAlias = tuple[Any, ...]

_PLAIN_ARGUMENTS = (bool, int, float, str, bytes, type(None), torch.dtype, torch.device)


@final
class NotCapturableError(Exception):
    """Why a step cannot be recorded, or not be replayed."""


@final
class NotCompilableError(Exception):
    """Why a recorded step cannot be compiled."""


@final
class Call:
    """The arguments of a step, taken apart into tensors and the rest.

    Attributes:
        tensors: the tensors in them, also those in containers.
        layout: all else, hashable: shapes, dtypes, containers and plain values.

    Raises:
        NotCapturableError: where something is neither a tensor nor a plain value.
    """

    def __init__(self, args: Args, kwargs: Kwargs) -> None:
        self._args, self._kwargs = args, kwargs
        # Bare tensors, which are the rule, need no walk through containers
        if not kwargs and all(type(each) is Tensor for each in args):
            self.tensors = cast(tuple[Tensor, ...], args)
            self.layout: Hashable = tuple(map(_layout, args))
            return
        leaves, spec = tree_flatten((args, kwargs))
        self.tensors = tuple(each for each in leaves if isinstance(each, Tensor))
        self.layout = spec, tuple(map(_layout, leaves))

    def rebuilt(self, tensors: Sequence[Tensor]) -> tuple[Args, Kwargs]:
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
    if isinstance(leaf, _PLAIN_ARGUMENTS):
        return type(leaf), leaf
    raise NotCapturableError(
        f"an argument of the type {type(leaf).__name__} may change unseen; pass tensors and plain values"
    )


def surroundings() -> Hashable:
    """What else decides on the operations of a step, from around it.

    Pyro handlers around the step may say what they do by a hashable ``capture_key``.
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


# ---- Random numbers that are not drawn from torch's own state.

GLOBAL_GENERATORS: Final = ((random, "Python's random"), (np.random, "NumPy's random"))


@final
class ForeignDraws:
    """The state of a generator of Python, NumPy or torch, to be put back."""

    def __init__(self, generator: Any, name: str) -> None:
        self.name = name
        self._generator = generator
        self._state = self._read()

    def put_back(self) -> bool:
        """Puts the state back; whether it had moved."""
        if _same_state(self._read(), self._state):
            return False
        self._write()
        return True

    def _read(self) -> object:
        generator = self._generator
        if isinstance(generator, np.random.Generator):
            return generator.bit_generator.state
        return generator.getstate() if hasattr(generator, "getstate") else generator.get_state()

    def _write(self) -> None:
        generator = self._generator
        if isinstance(generator, np.random.Generator):
            generator.bit_generator.state = cast(dict[str, object], self._state)
        else:
            (generator.setstate if hasattr(generator, "setstate") else generator.set_state)(self._state)


def _same_state(state: object, other: object) -> bool:
    if isinstance(state, Tensor) and isinstance(other, Tensor):
        return torch.equal(state, other)
    return pickle.dumps(state) == pickle.dumps(other)


# ---- Writes to tensors that were there before.


@final
class WritesUndone(TorchDispatchMode):
    """Puts back, at its end, what tensors held before operations of its block wrote to them."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[Hashable, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: Arguments = (), kwargs: Kwargs | None = None
    ) -> object:
        if func._schema.is_mutable:
            given = {each.name: value for each, value in zip(func._schema.arguments, args, strict=False)}
            given |= kwargs or {}
            for argument in func._schema.arguments:
                if argument.alias_info is not None and argument.alias_info.is_write:
                    self._keep(given.get(argument.name))
        return func(*args, **(kwargs or {}))

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        # Windows on the same memory were kept at different times: the first time comes last
        with torch.no_grad():
            for tensor, copy in reversed(self._kept.values()):
                tensor.copy_(copy)

    def _keep(self, written: object) -> None:
        for tensor in written if isinstance(written, list | tuple) else [written]:
            if isinstance(tensor, Tensor) and tensor.numel():
                window = tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
                # One that was made in this block is kept as well: nobody is there to mind
                if window not in self._kept:
                    self._kept[window] = tensor.detach(), tensor.detach().clone()


# ---- Which code is the user's own, to be looked into and to be named in a sentence.

_LIBRARIES: Final = sys.stdlib_module_names | {
    *("arviz", "matplotlib", "numpy", "opt_einsum", "pandas", "pyro", "pyro_infomax", "scipy", "sklearn"),
    *("torch", "xarray"),
}


def is_library(thing: FunctionType | ModuleType | type) -> bool:
    """Whether a function, a module or a class is of torch, Pyro, NumPy and their like."""
    if isinstance(thing, FunctionType):
        # A wrapper bears the module name of what it wraps
        return _names_library(thing.__globals__)
    return _package(thing.__name__ if isinstance(thing, ModuleType) else thing.__module__) in _LIBRARIES


def place_of(error: BaseException) -> str:
    """The line of the user's own that an error comes from, as ``" (model.py, line 3)"``; or nothing."""
    return _last_own_line(list(walk_tb(error.__traceback__)))


def present_place() -> str:
    """The line of the user's own that has led here, in the same form."""
    return _last_own_line(list(walk_stack(None))[::-1])


def _last_own_line(frames: Iterable[tuple[FrameType, int]]) -> str:
    own = [
        f" ({Path(frame.f_code.co_filename).name}, line {line})"
        for frame, line in frames
        if not _names_library(frame.f_globals) and frame.f_code.co_filename != "<string>"
    ]
    return own[-1] if own else ""


def _names_library(namespace: Mapping[str, object]) -> bool:
    return _package(str(namespace.get("__name__") or "")) in _LIBRARIES


def _package(name: str) -> str:
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


class _OperationsThatRead(_Refusing, TorchDispatchMode):
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


# ---- Where programs find values of Python: attributes, closures, globals, and containers of these.

_COUNTED_BY_VALUE: Final = (bool, int, float, complex, str, bytes, type(None))

_LARGEST: Final = 100  # entries
_MOST_OBJECTS: Final = 2000
_OF_EVERY_MODULE: Final = frozenset(vars(nn.Module()))
_PARTS_OF_A_MODULE: Final = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")


Container: TypeAlias = Any  # a dict, a list, the attributes of an object, or the cell of a closure


class Entry(NamedTuple):
    """Where a value stands, which one, and what to call it."""

    container: Container
    key: object
    value: object
    name: str


@final
class Reach:
    """The values that programs can reach from their code.

    It looks into functions, modules, handlers, objects of the user's own classes and small containers, not
    into libraries.

    Attributes:
        entries: the values in dicts, lists and namespaces.
        cells: the values in closures, whose containers are cells.
        containers: dicts and lists all of whose entries are among these, by name.
        namespaces: the attributes of objects, by the object's name.
        generators: random generators other than the global ones, by name.
    """

    def __init__(self, roots: Iterable[object]) -> None:
        self.entries: list[Entry] = []
        self.cells: list[Entry] = []
        self.containers: list[tuple[Container, str]] = []
        self.namespaces: list[tuple[Container, str]] = []
        self.generators: list[tuple[object, str]] = []
        self._seen: dict[int, object] = {}
        waiting = [(root, type(root).__name__) for root in roots]
        # Depth first, each object once; a program that reaches more than this is not followed to its end
        while waiting and len(self._seen) < _MOST_OBJECTS:
            value, name = waiting.pop()
            if id(value) in self._seen or isinstance(value, (*_COUNTED_BY_VALUE, Tensor, type)):
                continue
            self._seen[id(value)] = value
            waiting += [(entry.value, entry.name) for entry in self._inside(value, name)]

    def _inside(self, value: object, name: str) -> list[Entry]:
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
        if isinstance(value, WeightedELBO):
            return self._in_object(value, vars(value).keys() - value.state_of_evaluation, name)
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

    def _in_namespace(self, namespace: Mapping[str, object], names: Iterable[str], owner: str) -> list[Entry]:
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

    def _in_container(self, container: Container, name: str, form: str = "{name}[{key!r}]") -> list[Entry]:
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


# ---- Whether what programs find in Python is as it was.


@final
class PythonState:
    """The values of Python that programs can reach, as they are when it is made.

    Numbers and strings count by their value, everything else, tensors among it, by its identity.
    """

    def __init__(self, *roots: object) -> None:
        reach = Reach(roots)
        self._entries, self._cells = reach.entries, reach.cells
        self._containers, self._generators = reach.containers, reach.generators
        sized = [*reach.containers, *reach.namespaces]
        self._sized, self._names = [each for each, _ in sized], [name for _, name in sized]
        self._sizes = list(map(len, self._sized))

    def changed(self) -> str | None:
        """What is no longer as it was, by name; None if everything is."""
        # This runs before each replay, so that values are compared only where they are other objects
        name = None
        try:
            for container, key, value, name in self._entries:
                if container[key] is not value and not _unchanged(container[key], value):
                    return name
            for cell, _, value, name in self._cells:
                if cell.cell_contents is not value and not _unchanged(cell.cell_contents, value):
                    return name
        except (KeyError, IndexError, ValueError):
            return name
        if list(map(len, self._sized)) != self._sizes:
            return next(
                name
                for each, size, name in zip(self._sized, self._sizes, self._names, strict=True)
                if len(each) != size
            )
        return None

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Puts everything back that its block changes, Python's and NumPy's random states too.

        From then on it passes over what the block has put other objects in place of. It refuses programs that
        change numbers, strings or the size of a container, or draw from one of the two random states.
        """
        copies = [(container, container.copy(), name) for container, name in self._containers]
        draws = [ForeignDraws(*each) for each in [*GLOBAL_GENERATORS, *self._generators]]
        try:
            yield
        finally:
            drawn = [each.name for each in draws if each.put_back()]
            changed = [*_resized(copies), *self._rebound()]
            self._sizes = list(map(len, self._sized))
        if drawn:
            raise NotCapturableError(
                f"the programs draw random numbers from {drawn[0]}, not from torch's own state"
            )
        if changed:
            raise NotCapturableError(f"the programs change {changed[0]} whenever they run")

    def _rebound(self) -> list[str]:
        """Puts rebound values back; the names of those that are numbers and the like."""
        names = []
        for entry in [
            each for each in (*self._entries, *self._cells) if not _unchanged(_present(each), each.value)
        ]:
            if isinstance(entry.value, _COUNTED_BY_VALUE) and isinstance(_present(entry), _COUNTED_BY_VALUE):
                names.append(entry.name)
            _put_back(entry)
            (self._cells if isinstance(entry.container, CellType) else self._entries).remove(entry)
        return names


def _present(entry: Entry) -> object:
    if isinstance(entry.container, CellType):
        return entry.container.cell_contents
    return entry.container[entry.key]


def _put_back(entry: Entry) -> None:
    if isinstance(entry.container, CellType):
        entry.container.cell_contents = entry.value
    elif not isinstance(entry.container, MappingProxyType):  # that of a class is read alone
        entry.container[entry.key] = entry.value


def _resized(containers: Sequence[tuple[Container, Container, str]]) -> Iterator[str]:
    """Puts back containers that are of another size, and names them."""
    for container, copy, name in containers:
        if len(container) != len(copy):
            container.clear()
            (container.update if isinstance(container, dict) else container.extend)(copy)
            yield name


def _unchanged(value: object, other: object) -> bool:
    if value is other:
        return True
    alike = type(value) is type(other) and isinstance(value, _COUNTED_BY_VALUE)
    return alike and (value == other or (value != value and other != other))
