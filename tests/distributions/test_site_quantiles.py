import math

import pyro.distributions as dist
import pytest
import torch

from pyro_infomax.distributions import check_levels, closed_quantiles, sorted_quantiles

LEVELS = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.0, 0.9], [0.9, 4.0]])


@pytest.mark.parametrize(
    "distribution",
    [
        dist.Normal(torch.randn(5), 2.0),
        dist.Normal(torch.randn(5, 2), 2.0).to_event(1),
        dist.LogNormal(torch.randn(5, 2, 3), 0.5).to_event(2),
        dist.Laplace(torch.randn(5), 2.0),
        dist.TransformedDistribution(dist.Normal(torch.randn(5), 1.0), [dist.transforms.SigmoidTransform()]),
        dist.MultivariateNormal(torch.randn(5, 2), COVARIANCE),
        dist.LowRankMultivariateNormal(torch.randn(5, 2), torch.ones(5, 2, 1), torch.ones(5, 2)),
        dist.Bernoulli(torch.tensor([0.05, 0.3, 0.7, 0.95])),
        dist.Categorical(torch.tensor([[0.2, 0.5, 0.3], [0.05, 0.05, 0.9]])),
    ],
    ids=lambda d: type(d).__name__,
)
def test_closed_quantiles_are_those_of_many_draws(distribution):
    closed = closed_quantiles(distribution, LEVELS)
    draws = distribution.sample((100_000,))
    assert closed.shape == (3, *distribution.batch_shape, *distribution.event_shape)
    below = (draws <= closed.unsqueeze(1)).double().mean(1)
    strictly = (draws < closed.unsqueeze(1)).double().mean(1)
    levels = LEVELS.reshape(-1, *[1] * (closed.dim() - 1))
    assert bool((below > levels - 0.006).all())
    assert bool((strictly < levels + 0.006).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", [dist.Normal, dist.LogNormal, dist.Laplace, dist.Bernoulli])
def test_levels_take_the_dtype_of_the_distribution(family, dtype):
    parameters = [torch.full((5, 2), 0.4, dtype=dtype)] * (1 if family is dist.Bernoulli else 2)
    assert closed_quantiles(family(*parameters).to_event(1), LEVELS).dtype == dtype


def test_the_quantile_of_a_one_hot_is_that_of_its_index():
    probs = torch.tensor([[0.2, 0.5, 0.3], [0.05, 0.05, 0.9]])
    found = closed_quantiles(dist.OneHotCategorical(probs), LEVELS)
    index = closed_quantiles(dist.Categorical(probs), LEVELS)
    assert torch.equal(found.argmax(-1), index)
    assert torch.equal(found.sum(-1), torch.ones(3, 2))


@pytest.mark.parametrize("event", [0, 1])
def test_a_point_is_its_own_quantile(event):
    value = torch.randn(5, 2)
    found = closed_quantiles(dist.Delta(value, event_dim=event), LEVELS)
    assert torch.equal(found, value.expand(3, 5, 2))


@pytest.mark.parametrize(
    "distribution",
    [
        dist.Gamma(torch.ones(5), 1.0),
        dist.Dirichlet(torch.ones(5, 3)),
        dist.TransformedDistribution(
            dist.Normal(torch.zeros(5, 2), 1.0).to_event(1), [dist.transforms.StickBreakingTransform()]
        ),
    ],
    ids=lambda d: type(d).__name__,
)
def test_others_have_none(distribution):
    assert closed_quantiles(distribution, LEVELS) is None


def test_quantiles_of_draws_are_interpolated():
    draws = torch.randn(11, 4, 2)
    torch.testing.assert_close(sorted_quantiles(draws, LEVELS), torch.quantile(draws, LEVELS, dim=0))


def test_quantiles_of_integers_are_integers():
    assert sorted_quantiles(torch.tensor([3, 1, 2, 0]), torch.tensor([0.5])).tolist() == [1]


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan, [0.5, 2.0], [[0.5]]])
def test_levels_outside_of_the_unit_interval_are_refused(q):
    with pytest.raises(ValueError, match=r"Expected one level or a list of levels from 0 to 1 but got"):
        check_levels(q)


def test_a_tie_goes_to_the_lower_value():
    """Half of the mass is reached at the first of two equally likely values: the least with F(z) >= q."""
    half = torch.tensor([0.5])
    assert closed_quantiles(dist.Bernoulli(half), half).tolist() == [[0.0]]
    assert closed_quantiles(dist.Categorical(torch.tensor([0.5, 0.5])), half).tolist() == [0]


def test_the_last_level_is_the_last_value():
    """The sum of these probabilities rounds to less than 1."""
    probs = torch.full((1, 10), 0.1)
    assert float(probs.cumsum(-1)[0, -1]) < 1
    assert closed_quantiles(dist.Categorical(probs), torch.ones(1)).tolist() == [[9]]
