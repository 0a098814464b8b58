"""What a captured step is a function of: whatever else changes is followed, refused, or found and said.

The loss is Σ (x − a − c)²/2, where a is the parameter. Each row of the table is a way in which c, 0.5 at
first, can become 1.0 between two steps.
"""

import argparse
import array
import collections
import configparser
import contextvars
import ctypes
import dataclasses
import enum
import functools
import importlib
import io
import itertools
import math
import mmap
import os
import queue
import random
import sys
import threading
import types
import warnings
import weakref
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

from pyro_infomax.capture import CapturedSVI

RATE = 0.01
CHANGED = 8  # before this step; the one before and the one after are replays, comparisons are in 6 and 10
LAST = 10

WAYS = {}


def way(expected="equal"):
    """A function that returns how c is read, and how it is changed."""

    def add(make):
        assert make.__name__ not in WAYS
        WAYS[make.__name__] = make, expected
        return make

    return add


def held(name, value, read, change, expected="equal"):
    """A way by an object that the model closes over."""

    def make():
        own = value()
        return lambda: read(own), lambda: change(own)

    make.__name__ = name
    way(expected)(make)


# ---- containers and objects


class Plain:
    c = 0.5
    n = 0

    def __init__(self, value=0.5):
        self.value = value
        self.inner = {"c": [value]}

    def __call__(self):
        return self.value


class Heir(Plain):
    pass


class Slotted:
    __slots__ = ("value",)

    def __init__(self):
        self.value = 0.5


class Both(Slotted):
    __slots__ = ("__dict__", "more")


class Triple(NamedTuple):
    value: float
    inner: list


@dataclasses.dataclass
class Options:
    value: float = 0.5
    inner: dict = dataclasses.field(default_factory=lambda: {"c": 0.5})


@dataclasses.dataclass(slots=True)
class SlottedOptions:
    value: float = 0.5


@dataclasses.dataclass(frozen=True)
class FrozenOptions:
    value: float = 0.5


class Colour(enum.Enum):
    RED = "red"


class Computed:
    def __init__(self):
        self.value = 0.5

    def __getattr__(self, name):
        if name == "computed":
            return self.value
        raise AttributeError(name)

    @property
    def by_property(self):
        return GLOBAL["number"]

    @classmethod
    def by_classmethod(cls):
        return GLOBAL["number"]

    @staticmethod
    def by_staticmethod():
        return NUMBER

    @functools.cached_property
    def cached(self):
        return self.value


class Described:
    def __get__(self, owner, kind):
        return NUMBER


class WithDescriptor:
    described = Described()


def to(**values):
    return lambda own: vars(own).update(values)


def mapped():
    found = mmap.mmap(-1, 8)
    found[0] = 1
    return found


def attribute(own):
    return own.value


def item(own):
    return own["c"]


def set_item(own):
    own["c"] = 1.0


def set_value(own):
    own.value = 1.0


USED_UP = []


def nothing(own):
    USED_UP.append(own)


held("a_dict", lambda: {"c": 0.5}, item, set_item)
held(
    "a_nested_dict",
    lambda: {"c": {"c": {"c": 0.5}}},
    lambda own: own["c"]["c"]["c"],
    lambda own: set_item(own["c"]["c"]),
)
held("a_dict_by_number", lambda: {1: 0.5, "c": 0.0}, lambda own: own[1], lambda own: own.update({1: 1.0}))
held(
    "a_key",
    lambda: {"half": None},
    lambda own: 0.5 if "half" in own else 1.0,
    lambda own: (own.pop("half"), own.update(whole=None)),
)
held("a_key_more", dict, lambda own: 0.5 + 0.5 * len(own), set_item)
held("a_list", lambda: [0.5], lambda own: own[0], lambda own: own.__setitem__(0, 1.0))
held("a_list_that_grows", lambda: [0.5], sum, lambda own: own.append(0.5))
held("the_order_of_a_list", lambda: [0.5, 1.0], lambda own: own[0], lambda own: own.reverse())
held("a_long_list", lambda: [0.0] * 3000 + [0.5], sum, lambda own: own.__setitem__(1500, 0.5))
held(
    "a_large_dict",
    lambda: {f"k{i}": 0.001 for i in range(500)},
    lambda own: sum(own.values()),
    lambda own: own.update(k300=0.501),
)
held(
    "two_thousand_objects",
    lambda: [[0.0] for _ in range(2100)],
    lambda own: 0.5 + own[0][0],
    lambda own: own[0].__setitem__(0, 0.5),
)
held(
    "too_many_objects",
    lambda: [[0.5] for _ in range(51_000)],
    lambda own: own[0][0],
    lambda own: own[0].__setitem__(0, 1.0),
    "refused",
)
held("a_set", lambda: {0.5}, sum, lambda own: own.add(0.5 + 1e-30) or (own.clear(), own.add(1.0)))
held("a_deque", lambda: collections.deque([0.5]), sum, lambda own: own.append(0.5))
held("an_ordered_dict", lambda: collections.OrderedDict(c=0.5), item, set_item)
held("a_defaultdict", lambda: collections.defaultdict(float, c=0.5), item, set_item)
held("a_counter", lambda: collections.Counter(c=1), lambda own: own["c"] / 2, lambda own: own.update("c"))
held("a_chain_map", lambda: collections.ChainMap({}, {"c": 0.5}), item, set_item)
held("a_user_dict", lambda: collections.UserDict(c=0.5), item, set_item)
held(
    "a_user_list",
    lambda: collections.UserList([0.5]),
    lambda own: own[0],
    lambda own: own.__setitem__(0, 1.0),
)
held("a_list_in_a_tuple", lambda: ([0.5], 2), lambda own: own[0][0], lambda own: own[0].__setitem__(0, 1.0))
held(
    "a_mapping_proxy",
    lambda: (base := {"c": 0.5}, types.MappingProxyType(base)),
    lambda own: own[1]["c"],
    lambda own: set_item(own[0]),
)
held("a_simple_namespace", lambda: types.SimpleNamespace(value=0.5), attribute, set_value)
held("an_argparse_namespace", lambda: argparse.Namespace(value=0.5), attribute, set_value)
held(
    "a_config_parser",
    lambda: configparser.ConfigParser(defaults={"c": "0.5"}),
    lambda own: own.getfloat("DEFAULT", "c"),
    lambda own: own.set("DEFAULT", "c", "1.0"),
)
held("an_attribute", Plain, attribute, set_value)
held(
    "an_attribute_of_an_attribute",
    Plain,
    lambda own: own.inner["c"][0],
    lambda own: own.inner["c"].__setitem__(0, 1.0),
)
held(
    "an_attribute_that_appears",
    Plain,
    lambda own: getattr(own, "late", 0.5),
    lambda own: setattr(own, "late", 1.0),
)
held("an_attribute_by_name", Plain, lambda own: getattr(own, "va" + "lue"), set_value)
held("a_callable_object", Plain, lambda own: own(), set_value)
held(
    "another_class",
    Plain,
    lambda own: (type(own) is Plain and 0.5) or 1.0,
    lambda own: setattr(own, "__class__", Heir),
)
held("slots", Slotted, attribute, set_value)
held("slots_of_a_parent", Both, attribute, set_value)
held(
    "attributes_beside_slots",
    lambda: (both := Both(), setattr(both, "c", 0.5))[0],
    lambda own: own.c,
    lambda own: setattr(own, "c", 1.0),
)
held(
    "a_named_tuple",
    lambda: [Triple(0.5, [])],
    lambda own: own[0].value,
    lambda own: own.__setitem__(0, Triple(1.0, [])),
)
held(
    "a_list_in_a_named_tuple",
    lambda: Triple(0.5, [0.5]),
    lambda own: own.inner[0],
    lambda own: own.inner.__setitem__(0, 1.0),
)
held("a_dataclass", Options, attribute, set_value)
held("a_dict_in_a_dataclass", Options, lambda own: own.inner["c"], lambda own: set_item(own.inner))
held("a_dataclass_with_slots", SlottedOptions, attribute, set_value)
held(
    "another_frozen_dataclass",
    lambda: [FrozenOptions()],
    lambda own: own[0].value,
    lambda own: own.__setitem__(0, FrozenOptions(1.0)),
)
held(
    "an_equal_dataclass_that_changes_later",
    lambda: [Options()],
    lambda own: own[0].value,
    lambda own: (own.__setitem__(0, Options()), set_value(own[0])),
)
held("computed_attributes", Computed, lambda own: own.computed, set_value)
held("a_cached_property", Computed, lambda own: own.cached, lambda own: vars(own).update(cached=1.0))
held(
    "thread_local",
    lambda: (local := threading.local(), set_value(local) or setattr(local, "value", 0.5))[0],
    attribute,
    set_value,
)
held(
    "a_context_variable",
    lambda: (variable := contextvars.ContextVar("c"), variable.set(0.5))[0],
    lambda own: own.get(),
    lambda own: own.set(1.0),
)
held(
    "a_dict_in_a_context_variable",
    lambda: (variable := contextvars.ContextVar("d"), variable.set({"c": 0.5}))[0],
    lambda own: own.get()["c"],
    lambda own: set_item(own.get()),
)
held(
    "a_weak_reference",
    lambda: (plain := Plain(), weakref.ref(plain)),
    lambda own: own[1]().value,
    lambda own: set_value(own[0]),
)
held("an_array_of_numpy", lambda: np.array([0.5]), lambda own: float(own[0]), lambda own: own.fill(1.0))
held("a_number_of_numpy", lambda: {"c": np.float64(0.5)}, item, lambda own: own.update(c=np.float64(1.0)))
held("a_number_of_numpy_in_an_array", lambda: np.array(0.5), float, lambda own: own.fill(1.0))
held("an_array_of_python_that_grows", lambda: array.array("d", [0.5]), sum, lambda own: own.append(0.5))
held(
    "an_array_of_python",
    lambda: array.array("d", [0.5]),
    lambda own: own[0],
    lambda own: own.__setitem__(0, 1.0),
)
held("a_bytearray", lambda: bytearray([1]), lambda own: own[0] / 2, lambda own: own.__setitem__(0, 2))
held(
    "memory_shared_with_numpy",
    lambda: np.array([0.5]),
    lambda own: torch.from_numpy(own)[0],
    lambda own: own.fill(1.0),
)
held("a_tensor_in_place", lambda: torch.tensor(0.5), lambda own: own, lambda own: own.fill_(1.0))
held(
    "the_data_of_a_tensor",
    lambda: torch.tensor(0.5),
    lambda own: own * 1,
    lambda own: setattr(own, "data", torch.tensor(1.0)),
)
held(
    "another_tensor_in_a_dict",
    lambda: {"c": torch.tensor(0.5)},
    item,
    lambda own: own.update(c=torch.tensor(1.0)),
)
held(
    "another_tensor_in_an_attribute",
    lambda: Plain(torch.tensor(0.5)),
    attribute,
    lambda own: setattr(own, "value", torch.tensor(1.0)),
)
held(
    "an_equal_tensor_that_changes_later",
    lambda: {"c": torch.tensor(0.5)},
    item,
    lambda own: (own.update(c=torch.tensor(0.5)), own["c"].fill_(1.0)),
)


held("memory_of_ctypes", lambda: ctypes.c_double(0.5), attribute, set_value)
held(
    "a_memory_view",
    lambda: memoryview(bytearray([1])),
    lambda own: own[0] / 2,
    lambda own: own.__setitem__(0, 2),
)
held("mapped_memory", mapped, lambda own: own[0] / 2, lambda own: own.__setitem__(0, 2))
held(
    "an_event_of_threading", threading.Event, lambda own: 1.0 if own.is_set() else 0.5, lambda own: own.set()
)
held(
    "a_zero_below",
    lambda: [0.0],
    lambda own: 0.75 - math.copysign(0.25, own[0]),
    lambda own: own.__setitem__(0, -0.0),
)
held(
    "the_type_of_a_number",
    lambda: [1],
    lambda own: 0.5 if type(own[0]) is int else 1.0,
    lambda own: own.__setitem__(0, True),
)
held("a_queue", queue.Queue, lambda own: 0.5 + 0.5 * own.qsize(), lambda own: own.put(1))
held(
    "a_weak_dictionary",
    lambda: (plain := Plain(), weakref.WeakValueDictionary(c=plain)),
    lambda own: own[1]["c"].value,
    lambda own: set_value(own[0]),
)


# ---- code: functions, classes, globals, modules

NUMBER = 0.5
GLOBAL = {"number": 0.5}
OBJECT = Plain()


def helper():
    return NUMBER


def other_helper():
    return 1.0


def set_global(**values):
    globals().update(values)


def restore_globals():
    set_global(NUMBER=0.5, GLOBAL={"number": 0.5}, OBJECT=Plain(), helper=HELPER)
    Plain.c, Plain.__call__, Computed.c = 0.5, CALL, 0.5
    HELPER.__code__ = CODE


HELPER, CODE, CALL = helper, helper.__code__, Plain.__call__
RAISE_NUMBER = functools.partial(set_global, NUMBER=1.0)


def raise_entry():
    GLOBAL["number"] = 1.0


def fixed(name, read, change, expected="equal"):
    """A way by what the model finds in globals."""

    def make():
        return read, change

    make.__name__ = name
    way(expected)(make)


def in_a_loop():
    return sum(each * NUMBER for each in [0.5, 0.5])


def decorated(function):
    @functools.wraps(function)
    def call(*args):
        return function(*args)

    return call


fixed("a_global", lambda: NUMBER, RAISE_NUMBER)
fixed("an_entry_of_a_global", lambda: GLOBAL["number"], raise_entry)
fixed("an_attribute_of_a_global", lambda: OBJECT.value, lambda: set_value(OBJECT))
fixed("a_global_of_a_helper", lambda: helper(), RAISE_NUMBER)
fixed("a_global_in_a_generator", in_a_loop, RAISE_NUMBER)
fixed("a_global_of_an_inner_function", lambda: (lambda: (lambda: NUMBER)())(), RAISE_NUMBER)
fixed("a_global_by_its_name", lambda: globals()["NUMBER"], RAISE_NUMBER)
fixed("a_global_in_a_property", lambda: Computed().by_property, raise_entry)
fixed("a_global_in_a_classmethod", lambda: Computed.by_classmethod(), raise_entry)
fixed("a_global_in_a_staticmethod", lambda: Computed.by_staticmethod(), RAISE_NUMBER)
fixed("a_global_in_a_descriptor", lambda: WithDescriptor().described, RAISE_NUMBER)
fixed("a_global_behind_a_decorator", decorated(helper), RAISE_NUMBER)
fixed("another_helper", lambda: helper(), lambda: set_global(helper=other_helper))
fixed("other_code", lambda: helper(), lambda: setattr(helper, "__code__", other_helper.__code__))
fixed("a_class_attribute", lambda: Plain.c, lambda: setattr(Plain, "c", 1.0))
fixed("an_inherited_class_attribute", lambda: Heir().c, lambda: setattr(Plain, "c", 1.0))
fixed("another_method", lambda: Plain()(), lambda: setattr(Plain, "__call__", lambda _: 1.0))
fixed(
    "a_member_of_an_enumeration", lambda: getattr(Colour.RED, "c", 0.5), lambda: setattr(Colour.RED, "c", 1.0)
)


@way()
def a_class_in_a_closure():
    class Local:
        c = 0.5

    return lambda: Local.c, lambda: setattr(Local, "c", 1.0)


@way()
def a_closure():
    c = 0.5

    def change():
        nonlocal c
        c = 1.0

    return lambda: c, change


@way()
def a_closure_in_a_closure():
    c = 0.5

    def change():
        nonlocal c
        c = 1.0

    def outer():
        return (lambda: c)()

    return lambda: outer(), change


def defaults(names):
    def make():
        def read(c=0.5, *, d=0.5):
            return c if names == "__defaults__" else d

        value = (1.0,) if names == "__defaults__" else {"d": 1.0}
        return lambda: read(), lambda: setattr(read, names, value)

    make.__name__ = names
    way()(make)


defaults("__defaults__")
defaults("__kwdefaults__")


@way()
def an_entry_of_kwdefaults():
    def read(*, c=0.5):
        return c

    return lambda: read(), lambda: read.__kwdefaults__.update(c=1.0)


@way()
def a_mutable_default():
    def read(c=[0.5]):  # noqa: B006
        return c[0]

    return lambda: read(), lambda: read.__defaults__[0].__setitem__(0, 1.0)


@way()
def an_attribute_of_a_function():
    def read():
        return read.c

    read.c = 0.5
    return read, lambda: setattr(read, "c", 1.0)


@way()
def keywords_of_a_partial():
    read = functools.partial(lambda c: c, c=0.5)
    return lambda: read(), lambda: read.keywords.update(c=1.0)


@way()
def an_object_in_a_partial():
    plain = Plain()
    return functools.partial(attribute, plain), lambda: set_value(plain)


@way()
def a_bound_method():
    plain = Plain()
    return plain.__call__, lambda: set_value(plain)


@way()
def a_builtin_method():
    own = {"c": 0.5}
    get = own.get
    return lambda: get("c"), lambda: set_item(own)


@way()
def a_cached_function():
    @functools.lru_cache
    def read():
        return NUMBER

    return lambda: read(), lambda: (RAISE_NUMBER(), read.cache_clear())


def a_module(expected="equal"):
    def add(read):
        def make():
            module = types.ModuleType("settings_of_a_test")
            module.c = 0.5
            sys.modules[module.__name__] = module
            return (lambda: read(module)), lambda: setattr(module, "c", 1.0)

        make.__name__ = read.__name__
        way(expected)(make)

    return add


@a_module()
def an_attribute_of_a_module(module):
    return module.c


@a_module()
def an_attribute_of_a_module_by_its_name(module):
    return getattr(module, "c")  # noqa: B009


@a_module()
def an_import_inside(_):
    import settings_of_a_test as settings

    return settings.c


@a_module()
def a_from_import_inside(_):
    from settings_of_a_test import c

    return c


@a_module()
def an_import_by_its_name(_):
    return importlib.import_module("settings_of_a_test").c


@way()
def the_environment():
    os.environ["C_OF_A_TEST"] = "0.5"
    return lambda: float(os.environ["C_OF_A_TEST"]), lambda: os.environ.update(C_OF_A_TEST="1.0")


@way()
def the_environment_by_getenv():
    os.environ["C_OF_A_TEST"] = "0.5"
    return lambda: float(os.getenv("C_OF_A_TEST")), lambda: os.environ.update(C_OF_A_TEST="1.0")


# ---- modules, distributions, handlers


class Forward(nn.Module):
    def forward(self, x):
        return x * NUMBER


class Family(torch.distributions.Normal):
    @property
    def mean(self):
        return self.loc * NUMBER


held("a_global_in_forward", Forward, lambda own: own(torch.ones(())), lambda _: RAISE_NUMBER())
held("a_global_in_a_distribution", lambda: Family(1.0, 1.0), lambda own: own.mean, lambda _: RAISE_NUMBER())

module_ways = {
    "an_attribute_of_a_torch_module": (lambda own: own.c, lambda own: setattr(own, "c", 1.0)),
    "a_buffer_in_place": (lambda own: own.buffer, lambda own: own.buffer.fill_(1.0)),
    "another_buffer": (lambda own: own.buffer, lambda own: setattr(own, "buffer", torch.tensor(1.0))),
    "a_weight_in_place": (lambda own: own[0].weight.sum(), lambda own: own[0].weight.data.fill_(1.0)),
    "another_weight": (
        lambda own: own[0].weight.sum(),
        lambda own: setattr(own[0], "weight", nn.Parameter(torch.ones(1, 1), requires_grad=False)),
    ),
    "another_submodule": (lambda own: own(torch.ones(1)), lambda own: own.__setitem__(0, nn.Flatten(0))),
    "a_forward_hook": (
        lambda own: own(torch.ones(1)),
        lambda own: own[0].register_forward_hook(lambda *args: 2 * args[-1]),
    ),
    "a_forward_pre_hook": (
        lambda own: own(torch.ones(1)),
        lambda own: own.register_forward_pre_hook(lambda _, args: (2 * args[0],)),
    ),
    "the_mode_of_a_module": (lambda own: 0.5 if own.training else 1.0, lambda own: own.eval()),
    "a_method_put_on_a_module": (
        lambda own: own(torch.ones(1)),
        lambda own: setattr(own, "forward", lambda x: x),
    ),
    "a_list_of_a_module": (lambda own: own.inner[0], lambda own: own.inner.__setitem__(0, 1.0)),
}


def a_torch_module():
    found = nn.Sequential(nn.Linear(1, 1, bias=False)).requires_grad_(False)
    found[0].weight.fill_(0.5)
    found.register_buffer("buffer", torch.tensor(0.5))
    found.c, found.inner = 0.5, [0.5]
    return found


for name, (read, change) in module_ways.items():
    held(name, a_torch_module, read, change)

held(
    "a_hook_of_all_modules",
    a_torch_module,
    lambda own: own(torch.ones(1)),
    lambda own: UNDO.append(
        torch.nn.modules.module.register_module_forward_hook(
            lambda *args: (2 if type(args[0]) is nn.Linear else 1) * args[-1]
        )
    ),
)
held(
    "torch_script",
    lambda: torch.jit.script(a_torch_module()),
    lambda own: own(torch.ones(1)),
    lambda own: own.buffer.fill_(1.0) and getattr(own, "0").weight.fill_(1.0),
    "refused",
)
held(
    "a_distribution",
    lambda: dist.Normal(torch.tensor(0.5), 1.0),
    lambda own: own.loc,
    lambda own: setattr(own, "loc", torch.tensor(1.0)),
)
held(
    "a_distribution_in_place",
    lambda: dist.Normal(torch.tensor(0.5), 1.0),
    lambda own: own.mean,
    lambda own: own.loc.fill_(1.0),
)
held(
    "the_base_of_a_distribution",
    lambda: dist.Normal(torch.full((1,), 0.5), 1.0).to_event(1),
    lambda own: own.mean[0],
    lambda own: setattr(own.base_dist, "loc", torch.ones(1)),
)
held(
    "a_transform",
    lambda: torch.distributions.AffineTransform(0.5, 1.0),
    lambda own: own(torch.zeros(())),
    lambda own: setattr(own, "loc", 1.0),
)
held(
    "a_constraint",
    lambda: torch.distributions.constraints.interval(0.5, 2.0),
    lambda own: own.lower_bound,
    lambda own: setattr(own, "lower_bound", 1.0),
)
held(
    "a_handler",
    lambda: poutine.scale(lambda: None, 0.5),
    lambda own: own.args[0].scale if hasattr(own, "args") and own.args else own.func.__self__.scale,
    lambda own: vars(own.args[0] if own.args else own.func.__self__).update(scale=1.0),
)


# ---- what no watch reaches is found at the next comparison

FILE = "c.txt"


@way("late")
def a_file():
    def write(number):
        with open(FILE, "w", encoding="utf-8") as file:
            file.write(str(number))

    def read():
        with open(FILE, encoding="utf-8") as file:
            return float(file.read())

    write(0.5)
    return read, lambda: write(1.0)


held(
    "a_large_array", lambda: np.full(1000, 0.5), lambda own: float(own[7]), lambda own: own.fill(1.0), "late"
)
held(
    "a_frame",
    lambda: pd.DataFrame({"c": [0.5]}),
    lambda own: float(own.c[0]),
    lambda own: own.__setitem__("c", [1.0]),
    "late",
)
fixed("evaluated_text", lambda: eval("NUMBER"), RAISE_NUMBER, "late")
fixed(
    "an_attribute_of_a_library",
    lambda: math.pi_of_a_test if hasattr(math, "pi_of_a_test") else 0.5,
    lambda: setattr(math, "pi_of_a_test", 1.0),
    "late",
)

# ---- what a run of the programs uses up is refused

held(
    "numbers_of_a_random_state",
    lambda: np.random.RandomState(0),
    lambda own: 0.5 + 0 * own.rand(),
    nothing,
    "refused",
)
held("numbers_of_the_system", random.SystemRandom, lambda own: 0.5 + 0 * own.random(), nothing, "refused")
held("a_queue_that_is_filled", queue.Queue, lambda own: (own.put(1), 0.5)[1], nothing, "refused")
held("a_list_iterator", lambda: iter([0.5] * 99), next, nothing, "refused")
held("a_generator", lambda: (0.5 for _ in range(99)), next, nothing, "refused")
held("a_count", lambda: itertools.count(0), lambda own: 0.5 + 0 * next(own), nothing, "refused")
held(
    "text_in_memory",
    lambda: io.StringIO("0.5"),
    lambda own: float(own.getvalue()),
    nothing,
    "refused",
)
held(
    "a_context_variable_that_counts",
    lambda: (variable := contextvars.ContextVar("n"), variable.set(0))[0],
    lambda own: (own.set(own.get() + 1), 0.5)[1],
    nothing,
    "refused",
)
fixed(
    "a_class_that_counts", lambda: (setattr(Plain, "n", Plain.n + 1), 0.5)[1], lambda: nothing(0), "refused"
)
held(
    "an_enumeration_that_counts",
    lambda: Colour.RED,
    lambda own: (setattr(own, "n", getattr(own, "n", 0) + 1), 0.5)[1],
    nothing,
    "refused",
)
held(
    "an_array_that_grows",
    lambda: array.array("d", [0.0]),
    lambda own: (own.append(0.0), 0.5)[1],
    nothing,
    "refused",
)
held(
    "a_slot_that_counts",
    Slotted,
    lambda own: (setattr(own, "value", own.value + 1), 0.5)[1],
    nothing,
    "refused",
)
held(
    "a_deque_that_is_filled",
    collections.deque,
    lambda own: (own.append(1), 0.5)[1],
    nothing,
    "refused",
)
held("a_set_that_is_filled", set, lambda own: (own.add(object()), 0.5)[1], nothing, "refused")
held(
    "an_array_that_is_filled",
    lambda: np.zeros(3),
    lambda own: (own.__iadd__(1.0), 0.5)[1],
    nothing,
    "refused",
)


UNDO = []


@pytest.fixture(autouse=True)
def as_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    restore_globals()
    yield
    restore_globals()
    USED_UP.clear()
    while UNDO:
        UNDO.pop().remove()
    vars(math).pop("pi_of_a_test", None)
    vars(Colour.RED).pop("c", None)
    os.environ.pop("C_OF_A_TEST", None)
    sys.modules.pop("settings_of_a_test", None)


def batch(step):
    return torch.linspace(-1.0, 2.0 + step, 5)


class Found:
    """Which steps were wrong, and what was said of them."""

    def __init__(self, svi, change, *, a="a", before=(0.5, 1.0), after=(1.0, 1.0), steps=LAST):
        self.svi, self.wrong, self.warned = svi, [], {}
        for step in range(1, steps + 1):
            if step == CHANGED:
                change()
            shift, factor = before if step < CHANGED or USED_UP else after
            x, at = batch(step), pyro.get_param_store()[a].item() if step > 1 else 0.0
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                loss = svi.step(x)
            for each in caught:
                self.warned[step] = str(each.message)
            residual = x - at - shift
            right = 0.5 * residual.square().sum()
            moved = at + RATE * factor * residual.sum()
            values = torch.tensor([loss, pyro.get_param_store()[a].item()])
            if not torch.allclose(values, torch.stack([right, moved]), rtol=1e-9):
                self.wrong.append(step)

    @property
    def outcome(self):
        svi = self.svi
        assert svi.captured or svi.reason is not None
        if not self.warned:
            return "silent" if self.wrong else "equal"
        ((step, sentence),) = self.warned.items()
        assert svi.reason in sentence
        if not self.wrong:
            return "refused"
        said = f"; steps 7 to {step - 1} may have been wrong, since the two were last compared in step 6"
        inside = min(self.wrong) >= 7 and max(self.wrong) < step
        return "late" if inside and said in sentence and step == 10 else "silent"


def loss_of(model, _, x):
    return 0.5 * (x - model(x)).square().sum()


def svi_of(model, objective=loss_of):
    return CapturedSVI(model, lambda _: None, pyro.optim.SGD({"lr": RATE}), objective)


def model_that_reads(read):
    return lambda _: pyro.param("a", torch.zeros(())) + read()


@pytest.mark.parametrize("name", WAYS)
def test_ways_of_changing_what_programs_read(name):
    make, expected = WAYS[name]
    read, change = make()
    # A step that is right after a change is an ordinary one; what is recorded anew is tested elsewhere
    last = LAST if expected == "late" else CHANGED
    assert Found(svi_of(model_that_reads(read)), change, steps=last).outcome == expected
