"""Which code is the user's own."""

import functools
import json
import types

import pytest
import torch

from pyro_infomax.capture._watch import is_library, place_of, present_place


@pytest.mark.parametrize("thing", [json, json.dumps, torch, torch.nn.Linear, functools.partial, place_of])
def test_libraries(thing):
    assert is_library(thing)


def test_own():
    def program():
        pass

    assert not is_library(program)
    assert not is_library(types.ModuleType("mine"))


def test_places():
    def fails():
        torch.zeros(2).view(3)

    with pytest.raises(RuntimeError) as caught:
        fails()
    line = fails.__code__.co_firstlineno + 1
    assert place_of(caught.value) == f" (test_own_code.py, line {line})"
    assert present_place().startswith(" (")
