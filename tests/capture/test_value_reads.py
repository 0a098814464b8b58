"""Reads of values are refused, operations are not."""

import contextlib

import numpy as np
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_infomax.capture._watch import NotCapturableError, value_reads_refused


@pytest.mark.parametrize(
    "read",
    [
        float,
        int,
        bool,
        np.asarray,
        torch.Tensor.item,
        torch.Tensor.tolist,
        torch.Tensor.numpy,
        torch.from_dlpack,
        "{}".format,
        lambda x: torch.tensor([x, x]),
        lambda x: torch.tensor(data=[[x]]),
        lambda x: torch.equal(x, x),
        lambda x: range(3)[x],
    ],
)
def test_refused(read):
    with pytest.raises(NotCapturableError, match=r"test_value_reads.py, line"), value_reads_refused():
        read(torch.tensor(1))


def test_refused_although_caught():
    def caught():
        with contextlib.suppress(NotCapturableError):
            float(torch.ones(()))

    with pytest.raises(NotCapturableError), value_reads_refused():
        caught()


def test_literals_are_read():
    def function(x):
        with value_reads_refused():
            return x * int(torch.arange(4).max()) + sum(torch.arange(3).tolist())

    assert float(make_fx(function)(torch.ones(()))(torch.tensor(2.0))) == 9.0


def test_one_hot_without_its_check():
    index = torch.tensor([[0, 2], [1, 1]])
    expected = torch.nn.functional.one_hot(index, 3)
    with value_reads_refused():
        found = torch.nn.functional.one_hot(index, 3)
    assert torch.equal(found, expected)
    assert found.dtype == expected.dtype


def test_distributions_that_validate_themselves():
    normal = torch.distributions.Normal(torch.zeros(2), 1.0, validate_args=True)
    with value_reads_refused():
        normal.log_prob(torch.ones(2))
