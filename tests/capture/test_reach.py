"""What programs reach."""

import functools
import random

import pytest
import torch
from torch import nn

from pyro_infomax.capture._watch import Reach

NUMBER, UNREAD = 0.5, 1.0


class Callable:
    kind = 3

    def __init__(self):
        self.scale = 2.0

    def __call__(self):
        return self.scale * NUMBER


def closed_over():
    number = 0.5
    return lambda: number


def in_global():
    return NUMBER


def nested():
    return [NUMBER for _ in range(3)]


def with_default(*, options=(1.5,)):
    return options


def module():
    found = nn.Sequential(nn.Dropout(0.25))
    found.own = 7
    return found


def reached(*roots):
    reach = Reach(roots)
    return {entry.name: entry.value for entry in (*reach.entries, *reach.cells)}


@pytest.mark.parametrize("program", [in_global, nested])
def test_globals(program):
    found = reached(program)
    assert found["NUMBER"] == 0.5
    assert "UNREAD" not in found


def test_closures():
    assert reached(closed_over()) == {"number": 0.5}


def test_objects():
    found = reached(Callable())
    assert found["Callable.scale"] == 2.0
    assert found["Callable.kind"] == 3
    assert found["NUMBER"] == 0.5


def test_methods_and_partials():
    assert "Callable.scale" in reached(functools.partial(Callable().__call__))


def test_modules():
    found = reached(module())
    assert found["Sequential.own"] == 7
    assert found["Sequential.0.p"] == 0.25


def test_containers():
    state = {"a": [1.0, {"b": 2.0}], "long": list(range(101))}
    found = reached(lambda: state)
    assert found["state['a'][1]['b']"] == 2.0
    assert "state['long'][0]" not in found


def test_generators():
    generators = [random.Random(0), torch.Generator()]
    assert [value for value, _ in Reach([lambda: generators]).generators][::-1] == generators


def test_what_refers_to_itself():
    state = {}
    state["self"] = state
    assert reached(lambda: state)["state['self']"] is state
