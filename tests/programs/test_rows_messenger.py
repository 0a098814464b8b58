"""Rows of a subsampling plate by choice."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_infomax.programs import RowsMessenger


def program(x):
    with (
        pyro.plate("data", len(x), subsample_size=3) as rows,
        pyro.plate("inner", 4, subsample_size=2, dim=-2),
    ):
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x[rows])


def test_the_plate_takes_these_rows():
    x = torch.arange(10.0)
    trace = poutine.trace(RowsMessenger("data", torch.tensor([7, 0, 7]))(program)).get_trace(x)
    assert trace.nodes["x"]["value"].tolist() == [7.0, 0.0, 7.0]


def test_other_plates_stay_random():
    rows = RowsMessenger("data", torch.arange(3))
    inner = {
        tuple(poutine.trace(rows(program)).get_trace(torch.zeros(10)).nodes["inner"]["value"].tolist())
        for _ in range(20)
    }
    assert len(inner) > 1


def test_sites_of_that_name_are_left_alone():
    with RowsMessenger("z", torch.arange(3)):
        assert pyro.sample("z", dist.Normal(0.0, 1.0)).shape == ()


def test_another_number_of_rows_is_refused():
    with pytest.raises(ValueError, match="subsample_size does not match"):
        RowsMessenger("data", torch.arange(2))(program)(torch.zeros(10))
