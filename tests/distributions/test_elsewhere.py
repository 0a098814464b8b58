"""Values far from draws."""

import pyro.distributions as dist
import pytest
import torch

from pyro_infomax.distributions import elsewhere


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
    found = elsewhere(fn, value)
    assert found.shape == value.shape
    assert found.isfinite().all()
    # rounding may lead a simplex off its sum
    assert fn.support.check(found).double().mean() > 0.99


@pytest.mark.parametrize(
    "fn", [dist.Normal(torch.full((1000,), 5.0), 0.1), dist.Laplace(torch.zeros(1000), 3.0)]
)
def test_real_values_are_far_from_the_mean(fn):
    distance = (elsewhere(fn, fn.sample()) - fn.mean) / fn.stddev
    assert float(distance.abs().max()) > 20
    assert (distance > 5).any()
    assert (distance < -5).any()


@pytest.mark.parametrize(
    "fn",
    [
        dist.Categorical(torch.tensor([1.0, 0.0, 0.0])).expand([1000]),
        dist.OneHotCategorical(torch.tensor([1.0, 0.0, 0.0])).expand([1000]),
        dist.Bernoulli(torch.full((1000,), 0.0)),
    ],
)
def test_states_that_are_never_drawn_come_too(fn):
    found = elsewhere(fn, fn.sample()).double()
    assert len(found.unique(dim=0)) == (2 if isinstance(fn, dist.Bernoulli) else 3)


def test_counts_that_are_rarely_drawn_come_too():
    found = elsewhere(dist.Poisson(torch.full((1000,), 1e-9)), torch.zeros(1000))
    assert len(found.unique()) == 2
