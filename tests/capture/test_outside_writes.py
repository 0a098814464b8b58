"""Writes are undone."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_infomax.capture._watch import WritesUndone


@pytest.mark.parametrize(
    "write",
    [
        lambda x: x.mul_(2),
        lambda x: x[1:].add_(1),
        lambda x: (x[:2].add_(1), x[1:].mul_(3), x.zero_()),
        lambda x: torch.add(x, 1, out=x),
        lambda x: torch._foreach_add_([x], 1),
    ],
)
def test_undone(write):
    x = torch.arange(3.0)
    with WritesUndone():
        write(x)
        assert not torch.equal(x, torch.arange(3.0))
    assert torch.equal(x, torch.arange(3.0))


def test_undone_while_recording():
    average = torch.ones(2)
    with WritesUndone():
        graph = make_fx(lambda x: average.mul_(0.5).add_(x))(torch.ones(2))
    assert torch.equal(average, torch.ones(2))
    graph(torch.ones(2))
    assert torch.equal(average, torch.full((2,), 1.5))
