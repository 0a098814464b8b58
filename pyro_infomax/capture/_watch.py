"""What a recorded step was recorded for, and so what it may be replayed for.

A recording fixes whatever is no operation on tensors. Here is what watches that: the key of a call, what is
around it, generators other than torch's own, and what the programs can reach in Python.
"""

import gc
import os
import pickle
import random
import sys
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dis import get_instructions
from functools import cached_property, lru_cache, partial
from itertools import chain
from operator import attrgetter, is_, itemgetter
from types import (
    BuiltinMethodType,
    CellType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
)
from typing import Any, Final, NamedTuple, TypeAlias, cast, final

import numpy as np
import torch
from pyro.distributions.distribution import Distribution as PyroDistribution
from pyro.infer import ELBO
from pyro.infer.util import is_validation_enabled
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, nn
from torch.distributions import Distribution, Transform
from torch.distributions.constraints import Constraint
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.hooks import RemovableHandle

from pyro_infomax._types import Args, Kwargs
from pyro_infomax.capture._refusals import NotCapturableError, is_library, package_of
from pyro_infomax.infer import WeightedELBO

# ---- What a step is recorded for: its arguments, and what is around it.

_PLAIN_ARGUMENTS = (bool, int, float, str, bytes, type(None), torch.dtype, torch.device)


@final
class Call:
    """The arguments of a step, taken apart into tensors and the rest.

    Attributes:
        tensors: the tensors in them, also those in containers.
        layout: all else, hashable: shapes, dtypes, containers and plain values.
        plain: the plain values.

    Raises:
        NotCapturableError: where something is neither a tensor nor a plain value.
    """

    def __init__(self, args: Args, kwargs: Kwargs) -> None:
        self._args, self._kwargs = args, kwargs
        # Bare tensors, which are the rule, need no walk through containers
        if not kwargs and all(type(each) is Tensor for each in args):
            self.tensors = cast(tuple[Tensor, ...], args)
            self.layout: Hashable = tuple(map(_layout, args))
            self.plain: tuple[object, ...] = ()
            return
        leaves, spec = tree_flatten((args, kwargs))
        self.tensors = tuple(each for each in leaves if isinstance(each, Tensor))
        self.layout = spec, tuple(map(_layout, leaves))
        self.plain = tuple(each for each in leaves if not isinstance(each, Tensor))

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
        if leaf.layout is not torch.strided:
            raise NotCapturableError("an argument is a sparse tensor; pass a dense one")
        return leaf.shape, leaf.stride(), leaf.dtype, leaf.device, type(leaf)
    if isinstance(leaf, _PLAIN_ARGUMENTS):
        # nan is no other value, and 0.0 and -0.0 are two
        return type(leaf), repr(leaf) if isinstance(leaf, float) else leaf
    raise NotCapturableError(
        f"an argument of the type {type(leaf).__name__} may change unseen; pass tensors and plain values"
    )


def surroundings() -> Hashable:
    """What else decides on the operations of a step, from around it.

    Pyro handlers around the step may say what they do by a hashable ``capture_key``.
    """
    if torch.is_anomaly_enabled():
        raise NotCapturableError("anomaly detection looks at each operation, which a replay would pass over")
    handlers = tuple(map(_key_of_handler, _PYRO_STACK)) if _PYRO_STACK else ()
    modes = torch._C._len_torch_function_stack() + torch._C._len_torch_dispatch_stack()
    autocast = torch._C._is_any_autocast_enabled() and [*filter(torch.is_autocast_enabled, _AUTOCAST)]
    return (
        handlers,
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        tuple(map(_key_of_mode, _modes())) if modes else (),
        tuple((each, torch.get_autocast_dtype(each)) for each in autocast) if autocast else (),
        # The first step after it is switched on is an ordinary one, which validates
        is_validation_enabled(),
        Distribution._validate_args,
    )


_AUTOCAST: Final = ("cpu", "cuda")


def _modes() -> list[object]:
    functions = [torch._C._get_function_stack_at(i) for i in range(torch._C._len_torch_function_stack())]
    return [*functions, *_get_current_dispatch_mode_stack()]


def _key_of_mode(mode: object) -> Hashable:
    if isinstance(mode, DeviceContext):
        return mode.device
    raise NotCapturableError(
        f"it runs inside of the mode {type(mode).__name__}, which looks at each operation of torch"
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


# ---- Where programs find values of Python: attributes, closures, globals, and containers of these.

_COUNTED_BY_VALUE: Final = (bool, int, float, complex, str, bytes, type(None))
_WITHOUT_PARTS: Final = frozenset(
    {*_COUNTED_BY_VALUE, torch.dtype, torch.device, torch.Size, range, slice}
    | {GetSetDescriptorType, MemberDescriptorType}
)

_MOST_VALUES: Final = 50_000  # a millisecond for each look at them
_LARGEST_CONTENT: Final = 4096  # bytes
_OF_EVERY_MODULE: Final = frozenset(vars(nn.Module()))
_PARTS_OF_A_MODULE: Final = ("_parameters", "_buffers", "_modules")
_HOOKS_OF_A_MODULE: Final = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_HOOKS_OF_ALL_MODULES: Final = tuple(
    getattr(torch.nn.modules.module, f"_global{hooks}") for hooks in _HOOKS_OF_A_MODULE
)
_PARTS_OF_A_FUNCTION: Final = attrgetter("__code__", "__defaults__", "__kwdefaults__", "__closure__")
_HOOKS_OF_A_TENSOR: Final = attrgetter("_backward_hooks", "_post_accumulate_grad_hooks")
_CACHED_FUNCTION: Final = type(lru_cache(int))
_CONSTRUCTORS: Final = ("__init__", "__new__", "__post_init__")
_METHODS: Final = (FunctionType, classmethod, property, staticmethod, cached_property)

# Instances of libraries that users fill with values of their own; those of other libraries are left alone
_LOOKED_INTO: Final = (
    *(Constraint, Distribution, ELBO, Messenger, PyroDistribution, Transform),
    *(deque, dict, list, partial, set),
)
_PACKAGES_LOOKED_INTO: Final = frozenset(
    {
        "_thread",
        "_weakrefset",
        "argparse",
        "builtins",
        "collections",
        "configparser",
        "functools",
        "os",
        "queue",
    }
    | {"threading", "types", "weakref"}
)

Container: TypeAlias = Any  # what holds values: a dict, a list, an object, the cell of a closure
View: TypeAlias = Callable[[], Iterable[object]]

# How the entries of a container are called
_ENTRY: Final = "{name}[{key!r}]"
_ATTRIBUTE: Final = "{name}.{key}"


@final
class Holder(NamedTuple):
    """A container, or some of its keys; ``owner`` is the class whose namespace it is."""

    container: Container
    name: str
    form: str = "{name}"
    keys: tuple[Any, ...] | None = None
    owner: type | None = None

    def name_of(self, key: object) -> str:
        """What an entry is called."""
        return self.form.format(name=self.name, key=key)

    def view(self) -> View:
        """A function that gives the values."""
        if self.keys is None:
            return partial(gc.get_referents, self.container)
        if isinstance(self.container, Slots):
            return partial(attrgetter(*self.keys, self.keys[0]), self.container.object)
        return partial(itemgetter(*self.keys, self.keys[0]), cast(Any, self.container))


@final
class Slots:
    """The attributes of an object that stand in slots, as a mapping."""

    def __init__(self, value: object) -> None:
        self.object = value

    def __contains__(self, key: str) -> bool:
        return hasattr(self.object, key)

    def __getitem__(self, key: str) -> object:
        return getattr(self.object, key)

    def __setitem__(self, key: str, value: object) -> None:
        object.__setattr__(self.object, key, value)


@final
class Reach:
    """The values that programs can reach from their code.

    It looks into functions, classes and objects of the user's own, modules, handlers, distributions and
    containers, and into no other part of a library. Of a namespace that many share, such as the globals of a
    file, it takes what the code names.

    Args:
        roots: the programs.
        parameters: the tensors that they train, by name.
        called: the modules whose training mode is looked at elsewhere.

    Attributes:
        parts: what holds values.
        objects: whose class may be another one, with their names.
        functions: whose code and defaults may be replaced.
        keyed: dicts whose keys count too, with their names.
        namespaces: of which some keys alone are in parts, but what comes and goes is seen, with their names.
        hooks: functions that give the hooks of modules and tensors, with their names.
        contents: arrays and other memory that counts by its bytes, with its name.
        contexts: context variables and weak references, with their names.
        generators: random generators other than the global ones, with their names.

    Raises:
        NotCapturableError: for iterators, which a run of the programs advances; for TorchScript, whose
            attributes Python does not see; for hooks that no replay calls; and for more values than can be
            looked at in each step.
    """

    def __init__(
        self, roots: Iterable[object], parameters: Mapping[str, Tensor], called: Iterable[nn.Module]
    ) -> None:
        self._called = frozenset(called)
        self.parts: list[Holder] = []
        self.objects: list[tuple[object, str]] = []
        self.functions: list[FunctionType] = []
        self.keyed: list[tuple[Container, str]] = []
        self.namespaces: list[tuple[Container, str]] = []
        self.hooks: list[tuple[View, str]] = [(_hooks_of_all_modules, "a hook of all modules")]
        self.contents: list[tuple[Any, str]] = []
        self.contexts: list[tuple[ContextVar[Any] | weakref.ref[Any], str]] = []
        self.generators: list[tuple[object, str]] = []
        self._seen: dict[int, object] = {}
        # What code names is watched in the globals of its file and in each module that the programs reach
        self._globals: dict[int, tuple[Container, str, set[str]]] = {}
        self._names = {"__getattr__"}
        self._methods: list[tuple[str, object, str]] = []
        self._constructors: list[tuple[str, object, str]] = []
        self._waiting: list[tuple[object, str]] = [
            (root, type(root).__name__) for root in (*self._called, *roots)
        ]
        self._waiting += [(parameter, name) for name, parameter in parameters.items()]
        self._waiting += [(hook, "a hook of all modules") for hook in _hooks_of_all_modules()]
        self._follow()
        self.parts += [
            Holder(space, name, _ATTRIBUTE if name else "{key}", tuple(taken))
            for space, name, taken in self._globals.values()
            if taken
        ]

    def _follow(self) -> None:
        while self._waiting:
            while self._waiting:
                value, name = self._waiting.pop()
                if type(value) not in _WITHOUT_PARTS and id(value) not in self._seen:
                    self._seen[id(value)] = value
                    self._look_into(value, name)
            for space, name, _ in list(self._globals.values()):
                if name:
                    self._take_names(space, name, self._names & space.keys())
            self._waiting += [(value, name) for key, value, name in self._methods if self._is_run(key)]
            self._methods = [each for each in self._methods if not self._is_run(each[0])]
            self._waiting += [
                (value, name) for kind, value, name in self._constructors if self._is_made(kind)
            ]
            self._constructors = [each for each in self._constructors if not self._is_made(each[0])]

    def _is_run(self, name: str) -> bool:
        return name in self._names or (name.startswith("__") and name.endswith("__"))

    def _is_made(self, kind: str) -> bool:
        return kind in self._names or not self._names.isdisjoint({"__class__", "type"})

    def _look_into(self, value: Any, name: str) -> None:
        match value:
            case Tensor():
                self._look_into_tensor(value, name)
            case random.SystemRandom():
                raise NotCapturableError(f"{name} draws random numbers that nobody can draw again")
            case torch.Generator() | np.random.Generator() | np.random.RandomState() | random.Random():
                self.generators.append((value, name))
            case torch.jit.ScriptModule() | torch.jit.ScriptFunction():
                raise NotCapturableError(
                    f"{name} is TorchScript, whose attributes may change unseen; "
                    "use the module that it is made from"
                )
            case _ if (size := _size_of_memory(value)) is not None:
                if size <= _LARGEST_CONTENT:
                    self.contents.append((value, name))
            case FunctionType():
                self._look_into_function(value)
            case CellType():
                self._hold(value, name, enumerate(gc.get_referents(value)))
            case MethodType() | BuiltinMethodType() | MethodWrapperType():
                self._waiting += [(value.__self__, type(value.__self__).__name__)]
                self._waiting += [(getattr(value, "__func__", None), name)]
            case ModuleType():
                if not is_library(value):
                    self._take_names(vars(value), value.__name__.rpartition(".")[2], ())
            case type():
                self._look_into_class(value)
            case nn.Module():
                self._look_into_module(value, name)
            case WeightedELBO():
                self._take(vars(value), vars(value).keys() - value.state_of_evaluation, name)
                self._look_into_class(type(value))
            case ContextVar():
                self.contexts.append((value, name))
                self._waiting.append((value.get(None), name))
            case weakref.ref():
                self.contexts.append((value, name))
                self._waiting.append((value(), name))
            case tuple() | frozenset() | MappingProxyType() | property() | classmethod() | staticmethod():
                self._waiting += [(each, name) for each in gc.get_referents(value)]
            case _ if type(value) is _CACHED_FUNCTION:
                self._waiting.append((value.__wrapped__, name))
            case _ if not is_library(type(value)):
                self.objects.append((value, name))
                self._look_into_object(value, name)
                self._look_into_class(type(value))
            case Iterator():
                raise NotCapturableError(
                    f"the programs reach the iterator {name}, which a replay would not advance"
                )
            case _ if (
                isinstance(value, _LOOKED_INTO) or package_of(type(value).__module__) in _PACKAGES_LOOKED_INTO
            ):
                self._look_into_object(value, name)

    def _look_into_tensor(self, tensor: Tensor, name: str) -> None:
        if not (tensor.requires_grad and tensor.is_leaf):
            return
        self.hooks.append((partial(_HOOKS_OF_A_TENSOR, tensor), f"a hook of {name}"))
        if tensor._post_accumulate_grad_hooks:
            raise NotCapturableError(
                f"a hook waits until the gradient of {name} is accumulated, which a replay does not do"
            )
        self._waiting.append((tensor._backward_hooks, f"the hooks of {name}"))

    def _look_into_object(self, value: Any, name: str) -> None:
        attributes = getattr(value, "__dict__", None)
        match value:
            case dict():
                self.keyed.append((value, name))
                self._hold(value, name, value.items(), _ENTRY)
            case list() | deque():
                self._hold(value, name, enumerate(value), _ENTRY)
            case set():
                self._hold(value, name, enumerate(value))
            case partial():
                self._hold(value, name, enumerate(gc.get_referents(value)))
            case _ if own := _slots_of(value):
                self._take(Slots(value), own, name)
            case _ if attributes is None:
                self._hold(value, name, enumerate(gc.get_referents(value)))
        if isinstance(attributes, dict) and id(attributes) not in self._seen:
            self._seen[id(attributes)] = attributes
            self._hold(attributes, name, attributes.items(), _ATTRIBUTE)

    def _look_into_module(self, module: nn.Module, name: str) -> None:
        own = [each for each in vars(module) if each not in _OF_EVERY_MODULE]
        if module not in self._called:
            own.append("training")  # of those that are called, a recording is for one mode
        self._take(vars(module), own, name)
        self.namespaces.append((vars(module), name))
        for part in _PARTS_OF_A_MODULE:
            self._hold(getattr(module, part), name, getattr(module, part).items(), _ATTRIBUTE)
        for part in _HOOKS_OF_A_MODULE:
            hooks = getattr(module, part)
            self.hooks.append((hooks.values, f"a hook of {name}"))
            if hooks:
                self._hold(hooks, f"a hook of {name}", hooks.items())
        self._look_into_class(type(module))

    def _look_into_class(self, kind: type) -> None:
        for each in kind.__mro__:
            # The dict itself, of which Python shows a proxy
            (space,) = gc.get_referents(vars(each))
            if not is_library(each) and id(space) not in self._seen:
                self._seen[id(space)] = space
                # Methods that no code names are not run, unless a library knows their names
                own = all(is_library(parent) <= (parent is object) for parent in kind.__mro__)
                methods = {key for key, value in space.items() if own and isinstance(value, _METHODS)}
                # A constructor is run where code names the class, and not for objects that are there
                made = {key for key in _CONSTRUCTORS if isinstance(space.get(key), FunctionType)}
                self._constructors += [(kind.__name__, space[key], f"{each.__name__}.{key}") for key in made]
                methods |= made
                self._methods += [(key, space[key], f"{each.__name__}.{key}") for key in methods - made]
                values = [(key, value) for key, value in space.items() if key not in methods]
                self._hold(space, each.__name__, values, _ATTRIBUTE, owner=each)

    def _look_into_function(self, function: FunctionType) -> None:
        name = function.__name__
        self.functions.append(function)
        # A wrapper of a library leads to what it wraps, and nowhere else
        own = not is_library(function)
        if own:
            self._hold(vars(function), name, vars(function).items(), _ATTRIBUTE)
            self._waiting.append((function.__kwdefaults__, name))
        defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        self._waiting += [(each, name) for each in defaults]
        if own:
            self._look_into_code(function)
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        self._waiting += [(cell, variable) for variable, cell in cells]

    def _look_into_code(self, function: FunctionType) -> None:
        space, codes = function.__globals__, list(_codes(function.__code__))
        steps = [step for code in codes for step in get_instructions(code)]
        called = {step.argval for step in steps if step.opname == "LOAD_GLOBAL"}
        # A name may come as a string: globals()["beta"], getattr(config, "beta")
        texts = {each for code in codes for each in code.co_consts if isinstance(each, str)}
        self._take_names(space, "", (called | texts if "globals" in called else called) & space.keys())
        names = {each for code in codes for each in code.co_names} | texts
        self._names |= names
        # What a function imports itself is in no namespace
        places = {place for each in names for place in (each, f"{space.get('__package__') or ''}.{each}")}
        self._waiting += [(sys.modules[place], place) for place in places & sys.modules.keys()]
        if names & {"environ", "getenv"}:
            self._waiting.append((os.environ, "os.environ"))

    def _take_names(self, space: Container, name: str, keys: Iterable[str]) -> None:
        _, known, taken = self._globals.get(id(space), (space, "", set()))
        name = name or known
        self._globals[id(space)] = space, name, taken
        prefix = f"{name}." if name else ""
        self._waiting += [(space[key], prefix + key) for key in keys if key not in taken]
        taken.update(keys)

    def _take(self, space: Container, keys: Iterable[str], name: str) -> None:
        if found := tuple(keys):
            self.parts.append(Holder(space, name, _ATTRIBUTE, found))
            self._waiting += [(space[key], f"{name}.{key}") for key in found]

    def _hold(
        self,
        value: Container,
        name: str,
        items: Iterable[tuple[object, object]],
        form: str = "{name}",
        *,
        owner: type | None = None,
    ) -> None:
        if isinstance(value, Sized) and len(value) > _MOST_VALUES:
            refuse_too_much(name)
        self.parts.append(part := Holder(value, name, form, owner=owner))
        self._waiting += [(each, part.name_of(key)) for key, each in items]


def _slots_of(value: object) -> list[str]:
    return [
        name
        for kind in type(value).__mro__
        for name, each in vars(kind).items()
        if isinstance(each, MemberDescriptorType) and not is_library(kind) and hasattr(value, name)
    ]


def _size_of_memory(value: Any) -> int | None:
    """How many bytes an array, or whatever else lends its memory, has; None for other things."""
    try:
        with memoryview(value) as memory:
            return None if memory.format == "O" else memory.nbytes
    except (BufferError, TypeError, ValueError):
        return None


def _content_of(value: Any) -> bytes:
    # No view is kept, which would forbid that the memory is given back or made larger
    with memoryview(value) as memory:
        return memory.tobytes()


def _present(context: ContextVar[Any] | weakref.ref[Any]) -> object:
    return context.get(None) if isinstance(context, ContextVar) else context()


def _hooks_of_all_modules() -> list[object]:
    """Those of users; our own watch which modules are called, and change nothing."""
    if not any(_HOOKS_OF_ALL_MODULES):
        return []
    hooks = [hook for each in _HOOKS_OF_ALL_MODULES for hook in each.values()]
    return [each for each in hooks if not str(getattr(each, "__module__", "")).startswith("pyro_infomax.")]


def refuse_too_much(name: str) -> None:
    """Refuses to look at so much in each step."""
    raise NotCapturableError(
        f"the programs reach more than {_MOST_VALUES:,} values of Python, those of {name} among them, too "
        "many to look at in each step; make them a tuple or a tensor, or keep them out of reach"
    )


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

    def __init__(
        self,
        roots: Iterable[object] = (),
        parameters: Mapping[str, Tensor] | None = None,
        called: Iterable[nn.Module] = (),
    ) -> None:
        self._reach = Reach(roots, parameters or {}, called)
        self._contents = [(each, _content_of(each), name) for each, name in self._reach.contents]
        self._take_down()
        if len(self._values) > _MOST_VALUES:
            _, largest = max((len(each), number) for number, each in enumerate(self._by_name))
            refuse_too_much(self._named[largest][1].name)

    def changed(self) -> str | None:
        """What is no longer as it was, by name; None if everything is."""
        try:
            found = self._look()
        except (AttributeError, LookupError):
            return self._first_change() or "what the programs reach"
        if not _all_same(found, self._values) and not self._hooks_alone_are_new(found):
            if (name := self._first_change()) is not None:
                return name
            # Other objects of equal values, which are the known ones from now on
            self._take_down()
        for each, content, name in self._contents:
            if _content_of(each) != content:
                return name
        return None

    def _hooks_alone_are_new(self, found: list[object]) -> bool:
        """Whether nothing has changed but that hooks came and went, as one of ours does each epoch."""
        if not _all_same(found[:-1], self._values[:-1]) or not _all_same(self._all_hooks(), self._hooks):
            return False
        self._values[-1] = found[-1]
        return True

    def _all_hooks(self) -> list[object]:
        return [hook for view, _ in self._reach.hooks for hook in view()]

    def _look(self) -> list[object]:
        # This comes before each replay: one call for as much as possible
        found = gc.get_referents(*self._whole)
        for view in self._views:
            found += view()
        # Each new hook of torch takes a number: where there was none, nobody need look for one
        found.append(RemovableHandle.next_id)
        return found

    def _take_down(self) -> None:
        """Notes what is there now."""
        reach = self._reach
        whole = [part for part in reach.parts if part.keys is None]
        some = [part for part in reach.parts if part.keys is not None]
        self._whole = [part.container for part in whole]
        others: list[tuple[Sized, View]] = [
            (reach.objects, partial(map, type, [each for each, _ in reach.objects])),
            (reach.functions, lambda: chain.from_iterable(map(_PARTS_OF_A_FUNCTION, reach.functions))),
            (reach.keyed, partial(chain.from_iterable, [each for each, _ in reach.keyed])),
            (reach.namespaces, partial(map, len, [each for each, _ in reach.namespaces])),
            (_hooks_of_all_modules(), _hooks_of_all_modules),
            (reach.contexts, partial(map, _present, [each for each, _ in reach.contexts])),
        ]
        self._views: list[View] = [part.view() for part in some]
        self._views += [view for things, view in others if things]
        self._values = self._look()
        self._hooks = self._all_hooks()
        # The same one by one, to find out what it was that changed
        self._named: list[tuple[View, Holder]] = [
            *((part.view(), part) for part in (*whole, *some)),
            *((partial(map, type, [each]), Holder(None, name)) for each, name in reach.objects),
            *((partial(_PARTS_OF_A_FUNCTION, each), Holder(None, each.__name__)) for each in reach.functions),
            *((partial(iter, each), Holder(None, name)) for each, name in reach.keyed),
            *((partial(map, len, [each]), Holder(None, name)) for each, name in reach.namespaces),
            *((view, Holder(None, name)) for view, name in reach.hooks),
            *((partial(map, _present, [each]), Holder(None, name)) for each, name in reach.contexts),
        ]
        self._by_name = [list(view()) for view, _ in self._named]

    def _first_change(self) -> str | None:
        for (view, part), values in zip(self._named, self._by_name, strict=True):
            try:
                found = list(view())
            except (AttributeError, LookupError):
                return part.name or "a global"
            if len(found) != len(values):
                return part.name
            for place, (value, other) in enumerate(zip(found, values, strict=True)):
                if not _unchanged(value, other):
                    return part.name_of(_key_at(part, place, len(values)))
        return None

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Puts everything back that its block changes, Python's and NumPy's random states too.

        From then on it passes over what the block has put other objects in place of. It refuses programs that
        change numbers, strings or the size of a container, or draw from one of the two random states.
        """
        copies = [Copy(part) for part in self._reach.parts]
        contexts = [(each, _present(each), name) for each, name in self._reach.contexts]
        draws = [ForeignDraws(*each) for each in [*GLOBAL_GENERATORS, *self._reach.generators]]
        context = copy_context()
        variables = [each for each, _, _ in contexts if isinstance(each, ContextVar) and each in context]
        tokens = [each.set(context[each]) for each in variables]
        try:
            yield
        finally:
            drawn = [each.name for each in draws if each.put_back()]
            changed = [name for each, value, name in contexts if not _unchanged(_present(each), value)]
            for token in tokens:
                token.var.reset(token)
            for each, content, name in self._contents:
                if _content_of(each) != content:
                    _write(each, content)
                    changed.append(name)
            changed += [name for copy in copies for name in copy.put_back()]
            self._reach.parts = [part for copy in copies if (part := copy.rest()) is not None]
            self._take_down()
        if drawn:
            raise NotCapturableError(
                f"the programs draw random numbers from {drawn[0]}, not from torch's own state"
            )
        if changed:
            raise NotCapturableError(f"the programs change {changed[0]} whenever they run")


@final
class Copy:
    """The entries of a container, to be put back."""

    def __init__(self, part: Holder) -> None:
        self._part, self._container = part, part.container
        self._entries = self._present()
        self._rebound: set[object] = set()

    def _present(self) -> dict[Any, object]:
        container = self._container
        if self._part.keys is not None:
            return {key: container[key] for key in self._part.keys if _has(container, key)}
        if isinstance(container, dict):
            return dict(container)
        ordered = isinstance(container, list | deque)
        return dict(enumerate(container if ordered else gc.get_referents(container)))

    def put_back(self) -> list[str]:
        """Puts the entries back; the names of those that were not just put another object in place of."""
        now, entries = self._present(), self._entries
        self._rebound = {key for key in entries if key not in now or not _unchanged(now[key], entries[key])}
        plain = [
            self._part.name_of(key)
            for key in self._rebound & now.keys()
            if isinstance(now[key], _COUNTED_BY_VALUE) and isinstance(entries[key], _COUNTED_BY_VALUE)
        ]
        # Attributes may be left behind. What comes into another container is there to be read
        resized = now.keys() < entries.keys() or (
            now.keys() != entries.keys() and self._part.form != _ATTRIBUTE
        )
        if resized or (self._rebound and not self._put(self._rebound)):
            self._refill()
            return [*plain, self._part.name]
        return plain

    def rest(self) -> Holder | None:
        """What there is beside the entries that others were put in place of."""
        if not self._rebound:
            return self._part
        keys = tuple(key for key in self._entries if key not in self._rebound)
        return self._part._replace(keys=keys) if keys and not isinstance(self._container, CellType) else None

    def _put(self, keys: Iterable[Any]) -> bool:
        """Whether entries can be put in their places one by one."""
        container = self._container
        for key in keys:
            if self._part.owner is not None:
                setattr(self._part.owner, key, self._entries[key])
            elif isinstance(container, CellType):
                container.cell_contents = self._entries[key]
            elif isinstance(container, dict | list | Slots):
                container[key] = self._entries[key]
            else:
                return False
        return True

    def _refill(self) -> None:
        container, values = self._container, list(self._entries.values())
        if isinstance(container, dict) and self._part.keys is None:
            container.clear()
            container.update(self._entries)
        elif isinstance(container, dict | Slots):
            self._put(self._entries)
        elif isinstance(container, list | deque):
            container.clear()
            container.extend(values)
        elif isinstance(container, set):
            container.clear()
            container.update(values)


def _all_same(values: list[object], others: list[object]) -> bool:
    return len(values) == len(others) and all(map(is_, values, others))


def _has(container: Any, key: Any) -> bool:
    return 0 <= key < len(container) if isinstance(container, list | deque) else key in container


def _key_at(part: Holder, place: int, count: int) -> object:
    """The key of one of the values that a part has given."""
    if part.keys is not None:
        return part.keys[place % len(part.keys)]
    if isinstance(part.container, dict) and count:
        # The keys come with the values where not all are strings
        return list(part.container)[place * len(part.container) // count]
    return place


def _write(value: Any, content: bytes) -> None:
    with memoryview(value) as memory:
        if memory.nbytes == len(content) and memory.c_contiguous:
            memory.cast("B")[:] = content


def _unchanged(value: object, other: object) -> bool:
    if value is other:
        return True
    if type(value) is not type(other) or not isinstance(value, _COUNTED_BY_VALUE):
        return False
    # nan is no other value, and 0.0 and -0.0 are two
    return value == other if value and value == value else repr(value) == repr(other)
