"""Values far from draws."""

import pyro.distributions as dist
import pytest
import torch

from pyro_infomax.distributions import alternatives


@pytest.mark.parametrize(
    "fn",
    [
        dist.Normal(torch.zeros(1000), 0.1),
        dist.LogNormal(torch.zeros(1000, 2), 0.1).to_event(1),
        dist.Uniform(torch.zeros(1000), 1.0),
        dist.Dirichlet(torch.ones(1000, 3)),
        dist.Bernoulli(torch.full((1000, 2), 1e-9)).to_event(1),
        dist.Categorical(torch.tensor([1.0, 0.0, 0.0])).expand([1000]),
        dist.OneHotCategorical(torch.tensor([1.0, 0.0, 0.0])).expand([1000]),
        dist.Binomial(torch.arange(1000.0), 0.5),
        dist.Poisson(torch.ones(1000)),
        dist.Poisson(torch.ones(1000, 2)).to_event(1),
        dist.Geometric(torch.full((1000,), 0.5)),
    ],
)
def test_values_are_in_the_support(fn):
    value = fn.sample()
    for found in alternatives(fn, value):
        assert found.shape == value.shape
        assert found.isfinite().all()
        # rounding may lead a simplex off its sum
        assert fn.support.check(found).double().mean() > 0.99


@pytest.mark.parametrize(
    "fn", [dist.Normal(torch.full((1000,), 5.0), 0.1), dist.Laplace(torch.zeros(1000), 3.0)]
)
def test_real_values_are_far_from_the_mean(fn):
    value = fn.sample()
    one, other = ((far - value) / fn.stddev for far in alternatives(fn, value))
    assert float(one.abs().max()) > 20
    # on both sides of each value
    assert (one.sign() == -other.sign()).all()


@pytest.mark.parametrize(
    "fn",
    [
        dist.Categorical(torch.tensor([1.0, 0.0, 0.0])).expand([1000]),
        dist.OneHotCategorical(torch.tensor([1.0, 0.0, 0.0])).expand([1000]),
        dist.Bernoulli(torch.full((1000,), 0.0)),
    ],
)
def test_states_that_are_never_drawn_come_too(fn):
    value = fn.sample()
    states = torch.stack([value, *alternatives(fn, value)], 1).double()
    # each value beside all others
    count = 2 if isinstance(fn, dist.Bernoulli) else 3
    assert all(len(each.unique(dim=0)) == count for each in states[:20])


def test_counts_that_are_rarely_drawn_come_too():
    (found,) = alternatives(dist.Poisson(torch.full((1000,), 1e-9)), torch.zeros(1000))
    assert len(found.unique()) == 2
