"""Changes of what programs read are noticed, and those of a run put back."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from pyro_infomax.capture._watch import NotCapturableError, PythonState


def program(state):
    return lambda: state


def start():
    return {
        "number": 0.5,
        "nan": float("nan"),
        "tensor": torch.ones(()),
        "list": [1.0],
        "layer": nn.Linear(1, 1),
    }


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda state: state.update(number=1.0), "state['number']"),
        (lambda state: state.update(tensor=torch.ones(())), "state['tensor']"),
        (lambda state: state["list"].append(2.0), "state['list']"),
        (lambda state: state["list"].clear(), "state['list'][0]"),
        (lambda state: state.pop("number"), "state['number']"),
        (lambda state: setattr(state["layer"], "bias", nn.Parameter(torch.ones(1))), "state['layer'].bias"),
        (lambda state: state["layer"].register_forward_hook(lambda *_: None), "state['layer']"),
    ],
)
def test_changes(change, name):
    state = start()
    python = PythonState(program(state))
    assert python.changed() is None
    change(state)
    assert python.changed() == name


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.update(number=float("0.5"), nan=float("nan")),
        lambda state: state["tensor"].add_(1),
        lambda state: state["layer"].eval(),  # the key of a recording knows it
    ],
)
def test_no_changes(change):
    state = start()
    python = PythonState(program(state))
    change(state)
    assert python.changed() is None


def test_a_cell():
    number = 1

    def reads():
        return number

    python = PythonState(reads)
    number = 2
    assert python.changed() == "number"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state: state.update(number=1.0), r"state\['number'\]"),
        (lambda state: state["list"].append(2.0), r"state\['list'\]"),
        (lambda _: random.random(), "Python's random"),
        (lambda _: np.random.rand(), "NumPy's random"),  # noqa: NPY002
    ],
)
def test_runs_that_change_something(change, says):
    state = start()
    python = PythonState(program(state))
    draws = random.getstate(), str(np.random.get_state())  # noqa: NPY002
    with pytest.raises(NotCapturableError, match=says), python.restored():
        change(state)
    assert (state["number"], state["list"]) == (0.5, [1.0])
    assert (random.getstate(), str(np.random.get_state())) == draws  # noqa: NPY002


def test_rebound_tensors_are_passed_over():
    state = start()
    before = state["tensor"]
    python = PythonState(program(state))
    with python.restored():
        state["tensor"] = torch.zeros(())
    assert state["tensor"] is before
    state["tensor"] = torch.zeros(())
    assert python.changed() is None


def test_put_back_after_an_error():
    state = start()

    def fails():
        with PythonState(program(state)).restored():
            state["number"] = 1.0
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert state["number"] == 0.5
