"""What tells steps of one kind from those of another."""

import pytest
import torch
from pyro import poutine

from pyro_infomax.capture._watch import Call, NotCapturableError, surroundings

X = torch.zeros(2, 3)


def layout(*args, **kwargs):
    return Call(args, kwargs).layout


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((X,), (torch.zeros(3, 3),)),
        ((X,), (X.double(),)),
        ((X,), (torch.zeros(3, 2).T,)),
        ((X, 1), (X, 2)),
        ((X, 1), (X, True)),
        ((X, 1), (X, 1.0)),
        ((X, None), (X,)),
        (([X],), ((X,),)),
        (({"a": X},), ({"b": X},)),
    ],
)
def test_layouts_that_differ(one, other):
    assert layout(*one) != layout(*other)
    assert layout(*one) == layout(*one)
    hash(layout(*one))


def test_keywords():
    assert layout(X, y=X) != layout(X, X)


def test_tensors_are_found_and_put_back():
    call = Call((X, {"b": [X + 1]}), {"c": "plain"})
    assert [float(each.sum()) for each in call.tensors] == [0.0, 6.0]
    (x, options), kwargs = call.rebuilt([X + 2, X + 3])
    assert (float(x.sum()), float(options["b"][0].sum()), kwargs) == (12.0, 18.0, {"c": "plain"})


@pytest.mark.parametrize(
    ("argument", "says"),
    [(object(), "type object"), (X.numpy(), "ndarray"), (torch.zeros(2, requires_grad=True), "gradient")],
)
def test_refused(argument, says):
    with pytest.raises(NotCapturableError, match=says):
        layout(argument)


@pytest.mark.parametrize(
    "around",
    [
        torch.no_grad,
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    ],
)
def test_surroundings(around):
    outside = surroundings()
    with around():
        assert surroundings() != outside
    assert surroundings() == outside


def test_handlers_around():
    with poutine.scale(scale=2.0), pytest.raises(NotCapturableError, match="ScaleMessenger"):
        surroundings()
