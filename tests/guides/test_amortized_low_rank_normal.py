import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_infomax.guides import AmortizedLowRankNormal
from pyro_infomax.nn import MLPEncoder


def guide_of(prior, **options):
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(torch.zeros(4), 1.0).to_event(1), obs=x)

    return AmortizedLowRankNormal(model, MLPEncoder(4, hidden=(7,)), **options)


@pytest.mark.parametrize(
    "prior",
    [
        dist.Normal(0.0, 1.0),
        dist.Normal(torch.zeros(3), 1.0).to_event(1),
        dist.Normal(torch.zeros(2, 3), 1.0).to_event(2),
        dist.Gamma(torch.ones(3), 1.0).to_event(1),
        dist.Beta(2.0, 1.0),
        dist.Dirichlet(torch.ones(3)),
    ],
    ids=lambda prior: f"{type(prior).__name__}{len(prior.event_shape)}",
)
def test_sites_of_any_shape_and_support(prior):
    guide, x = guide_of(prior), torch.randn(5, 4)
    q = guide.posterior(x)["z"]
    assert (q.batch_shape, q.event_shape) == ((5,), prior.event_shape)
    z = guide(x)["z"]
    assert z.shape == (5, *prior.event_shape)
    assert bool(prior.support.check(z).all())
    assert bool(q.log_prob(z).isfinite().all())


def test_discrete_sites_are_refused():
    with pytest.raises(
        NotImplementedError, match=r"which AmortizedLowRankNormal does not cover.*AmortizedDiscrete"
    ):
        guide_of(dist.Bernoulli(0.5))(torch.zeros(5, 4))


@pytest.mark.parametrize(("rank", "expected"), [(None, 3), (1, 1), (9, 9)])
def test_the_rank(rank, expected):
    q = guide_of(dist.Normal(torch.zeros(9), 1.0).to_event(1), rank=rank).posterior(torch.randn(5, 4))["z"]
    assert q.cov_factor.shape == (5, 9, expected)


@pytest.mark.parametrize("rank", [0, 4])
def test_a_rank_that_cannot_be_is_refused(rank):
    with pytest.raises(ValueError, match=f"rank.* but got .*{rank}"):
        guide_of(dist.Normal(torch.zeros(3), 1.0).to_event(1), rank=rank)(torch.randn(5, 4))


@pytest.mark.parametrize("scale", [0.1, 2.0])
def test_scales_start_at_init_scale(scale):
    q = guide_of(dist.Normal(torch.zeros(3), 1.0).to_event(1), init_scale=scale).posterior(torch.randn(5, 4))[
        "z"
    ]
    assert bool(((q.stddev / scale - 1).abs() < 0.1).all())


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_an_init_scale_that_is_none_is_refused(scale):
    with pytest.raises(ValueError, match="Expected a finite init_scale > 0"):
        guide_of(dist.Normal(0.0, 1.0), init_scale=scale)
