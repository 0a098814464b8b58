"""What a recording will find the same each time."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_infomax._recording import is_literal, literal_number

CLOSED_OVER = torch.tensor(2.0)


def overwritten(x):
    zeros = torch.zeros(2)
    view = zeros[1]
    zeros.copy_(x)
    return view


@pytest.mark.parametrize(
    ("make", "literal"),
    [
        (lambda x: x, False),
        (lambda x: x[0] + torch.ones(()), False),
        (lambda _: CLOSED_OVER, False),
        (lambda _: torch.tensor(2.0) * CLOSED_OVER, False),
        (lambda _: torch.rand(()), False),
        (overwritten, False),
        (lambda _: torch.tensor(2.0), True),
        (lambda _: torch.arange(3).unbind()[1] + 1, True),
        (lambda x: torch.zeros_like(torch.ones(2)).sum(), True),
    ],
)
def test_literals(make, literal):
    found = []

    def function(x):
        found.append(is_literal(make(x)))
        return x * 1

    make_fx(function)(torch.ones(2))
    assert found == [literal]


def test_none_outside_of_a_recording():
    assert not is_literal(torch.ones(()))


def test_number_leaves_no_trace():
    graph = make_fx(lambda x: x * literal_number(torch.tensor(3.0)))(torch.ones(()))
    assert float(graph(torch.tensor(2.0))) == 6.0


def test_many_paths():
    def function(x):
        one = torch.ones(())
        for _ in range(60):
            one = one + one
        assert is_literal(one)
        return x * 1

    make_fx(function)(torch.ones(()))
