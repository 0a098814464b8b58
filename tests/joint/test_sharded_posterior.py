"""The posteriors of several processes, put together or left where they are."""

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import (
    Distribution,
    Independent,
    LogNormal,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
)

from pyro_infomax.distributions import SideBySide
from pyro_infomax.joint import joined_posteriors, posterior_of_all

SIZES = (4, 7)
N = sum(SIZES)


def normal(loc, scale):
    return dist.Normal(loc, scale).to_event(1)


def full(loc, scale):
    return MultivariateNormal(loc, scale_tril=scale.diag_embed())


def two_families(loc, scale):
    return Independent(SideBySide([Normal(loc, scale), LogNormal(loc[:, :1], scale[:, :1])]), 1)


def shared_scale(loc, scale):
    return full(loc, scale[:1] * 0 + 0.5)


@pytest.fixture
def parameters():
    return torch.randn(N, 2), torch.rand(N, 2) + 0.3


def own(ranks, family, parameters):
    return family(*(each.split(SIZES)[ranks.rank] for each in parameters))


@pytest.mark.parametrize("family", [normal, full, two_families, shared_scale], ids=lambda each: each.__name__)
def test_what_a_few_numbers_describe_is_put_together(as_ranks, family, parameters):
    expected = family(*parameters)
    z = expected.sample()
    for found in as_ranks(2, lambda ranks: posterior_of_all(own(ranks, family, parameters), ranks)):
        assert type(found) is type(expected)
        assert found.batch_shape == (N,)
        assert found.event_shape == expected.event_shape
        torch.testing.assert_close(found.log_prob(z), expected.log_prob(z), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("family", [normal, full, two_families, shared_scale], ids=lambda each: each.__name__)
def test_those_of_several_data_sets_are_those_of_one(family, parameters):
    parts = [family(*each) for each in zip(*(each.split(SIZES) for each in parameters), strict=True)]
    expected, found = family(*parameters), joined_posteriors(parts)
    z = expected.sample()
    torch.testing.assert_close(found.log_prob(z), expected.log_prob(z), rtol=0.0, atol=1e-12)
    assert joined_posteriors(parts[:1]) is parts[0]


def test_those_of_several_classes_are_not_put_together(parameters):
    parts = [normal(*parameters), full(*parameters)]
    with pytest.raises(NotImplementedError, match="distributions of one class without networks"):
        joined_posteriors(parts)


def test_one_process_keeps_its_own(as_ranks, parameters):
    posterior = normal(*parameters)
    (found,) = as_ranks(1, lambda ranks: posterior_of_all(posterior, ranks))
    assert found is posterior


@pytest.mark.parametrize("sizes", [SIZES, (2, 2)], ids=str)
def test_what_is_shared_within_each_process_alone_is_not_put_together(as_ranks, parameters, sizes):
    """A covariance that all data of a process share, and those of another do not; also of as many rows."""
    loc, z = (torch.randn(sum(sizes), 2) for _ in range(2))
    scales = [(1.0 + rank) * torch.eye(2) for rank in range(2)]
    parts = [MultivariateNormal(*each) for each in zip(loc.split(sizes), scales, strict=True)]
    expected = torch.cat([part.log_prob(each) for part, each in zip(parts, z.split(sizes), strict=True)])
    for found in as_ranks(2, lambda ranks: posterior_of_all(parts[ranks.rank], ranks).log_prob(z)):
        torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-12)


class Networks:
    """Scores by a program of its own."""

    def __init__(self, posterior):
        self.posterior = posterior
        self.batch_shape, self.event_shape = posterior.batch_shape, posterior.event_shape

    def sample(self, shape=()):
        return self.posterior.sample(shape)

    def log_prob(self, z):
        return self.posterior.log_prob(z)


class NetworksOfSites(Networks):
    def log_prob_sites(self, z):
        return self.posterior.base_dist.log_prob(z)


def test_what_needs_its_program_stays_where_it_is(as_ranks, parameters):
    whole = normal(*parameters)
    z = whole.sample((3,))

    def scores(ranks):
        posterior = posterior_of_all(Networks(own(ranks, normal, parameters)), ranks)
        assert not isinstance(posterior, Distribution)
        return posterior.log_prob(z), hasattr(posterior, "log_prob_sites")

    for found, has_sites in as_ranks(2, scores):
        assert torch.equal(found, whole.log_prob(z))
        assert not has_sites


def test_scores_of_sites_are_handed_on(as_ranks, parameters):
    whole = normal(*parameters)
    z = whole.sample((3,))

    def scores(ranks):
        return posterior_of_all(NetworksOfSites(own(ranks, normal, parameters)), ranks).log_prob_sites(z)

    for found in as_ranks(2, scores):
        assert torch.equal(found, whole.base_dist.log_prob(z))


def test_each_process_draws_for_its_own_data(as_ranks):
    means = 100.0 * torch.arange(N)[:, None]
    parameters = means, 1e-3 * torch.ones(N, 1)

    def drawn(ranks):
        return posterior_of_all(Networks(own(ranks, normal, parameters)), ranks).sample((2,))

    one, other = as_ranks(2, drawn)
    assert torch.equal(one, other)
    assert one.shape == (2, N, 1)
    assert float((one - means).abs().max()) < 0.01
    assert len((one - means).unique()) == 2 * N


def test_a_transform_with_networks_is_not_put_together(as_ranks, parameters):
    class Bend(torch.distributions.transforms.ExpTransform):
        """Anything that holds more than numbers."""

        def __init__(self):
            super().__init__()
            self.network = torch.nn.Linear(1, 1)

    def family(loc, scale):
        return TransformedDistribution(Independent(Normal(loc, scale), 1), [Bend()])

    found = as_ranks(2, lambda ranks: posterior_of_all(own(ranks, family, parameters), ranks))
    assert not any(isinstance(each, Distribution) for each in found)
