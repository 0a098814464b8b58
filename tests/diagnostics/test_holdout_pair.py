"""Held-out data are refused where the training data's model and guide cannot take them."""

import math
import re

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_infomax.diagnostics import Decomposition, decompose


def model(x, c=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)


def guide(x, c=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.4 * x, 0.4).to_event(1))


def guide_of_rows(x):
    loc = pyro.param("loc", lambda: torch.randn(20, 2))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, 0.4).to_event(1))


def subsampling_model(x):
    with pyro.plate("data", len(x), subsample_size=5) as rows:
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x[rows])


def subsampling_guide(x):
    with pyro.plate("data", len(x), subsample_size=5) as rows:
        pyro.sample("z", dist.Normal(0.4 * x[rows], 0.4).to_event(1))


def subsampling_guide_of_rows(x):
    loc = pyro.param("loc", lambda: torch.randn(20, 2))
    with pyro.plate("data", len(x), subsample_size=5) as rows:
        pyro.sample("z", dist.Normal(loc[rows], 0.4).to_event(1))


def held_out(model, guide, holdout, data=None) -> Decomposition:
    return decompose(model, guide, torch.randn(20, 2) if data is None else data, holdout=holdout).holdout


# fewer than the training data, as many, and more
@pytest.mark.parametrize(
    ("pair", "size"),
    [((model, guide), 7), ((subsampling_model, subsampling_guide), 20), ((model, guide), 33)],
)
def test_data_of_any_number_are_encoded(pair, size):
    x = torch.randn(size, 2)
    account = held_out(*pair, x)
    assert account.data_size == size
    # of N(0.4 x, 0.16) from N(0, 1)
    rate = 0.5 * ((0.4 * x) ** 2 + 0.16 - 1 - math.log(0.16)).sum(1).mean()
    torch.testing.assert_close(account.rate.value, rate)


@pytest.mark.parametrize(
    ("pair", "size"),
    [
        ((model, guide_of_rows), 7),
        ((model, guide_of_rows), 20),
        ((subsampling_model, subsampling_guide_of_rows), 20),
        ((subsampling_model, subsampling_guide_of_rows), 33),
    ],
)
def test_parameters_of_the_training_data_serve_no_others(pair, size):
    with pytest.raises(ValueError, match=r"parameters belong to the 20 training data.* amortised guide"):
        held_out(*pair, torch.randn(size, 2))


@pytest.mark.parametrize(
    ("holdout", "message"),
    [
        (torch.randn(7, 3), "rows of the shapes [(2,)], but got [(3,)]"),
        ((torch.randn(7, 2), torch.randn(7)), "rows of the shapes [(2,)], but got [(2,), ()]"),
        (torch.full((7, 2), torch.nan), "argument 0 holds 14, the first in row 0"),
        (torch.randn(0, 2), "at least 1, but got the lengths [0] (of the holdout)"),
        ([1.0], "(of the holdout)"),
    ],
)
def test_data_of_another_kind_are_refused(holdout, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        held_out(model, guide, holdout)
    assert str(caught.value).startswith("Expected")
    assert "holdout" in str(caught.value)


def test_covariates_are_asked_for():
    with pytest.raises(ValueError, match=re.escape("shapes [(2,), ()], but got [(2,)]")):
        held_out(model, guide, torch.randn(7, 2), data=(torch.randn(20, 2), torch.randn(20)))
