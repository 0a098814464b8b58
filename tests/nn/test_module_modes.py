from functools import partial

import pytest
from pyro import poutine
from torch import nn

from pyro_infomax.nn import evaluation_mode, modules_behind


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Dropout()

    def forward(self, x):
        return x

    def model(self, x):
        return x


PAIR = Pair()


@pytest.mark.parametrize(
    "program",
    [PAIR, PAIR.model, partial(PAIR.model, 1), poutine.scale(PAIR.model, scale=2.0),
     poutine.mask(poutine.scale(PAIR, scale=2.0), mask=True), partial(lambda net, x: x, PAIR)],
)  # fmt: skip
def test_finds_the_module(program):
    assert list(modules_behind(program)) == [PAIR]


@pytest.mark.parametrize("program", [lambda x: PAIR(x), "abc".upper, print])
def test_functions_keep_theirs_to_themselves(program):
    assert list(modules_behind(program)) == []


def test_each_module_gets_its_own_mode_back():
    pair, other = Pair(), Pair()
    pair.inner.eval()
    other.eval()
    with evaluation_mode(pair.model, other):
        assert [module.training for module in (pair, pair.inner, other)] == [False, False, False]
    assert (pair.training, pair.inner.training, other.training) == (True, False, False)


def test_modes_come_back_after_an_error():
    pair = Pair()
    with pytest.raises(RuntimeError), evaluation_mode(pair):
        raise RuntimeError
    assert pair.training
    assert pair.inner.training
