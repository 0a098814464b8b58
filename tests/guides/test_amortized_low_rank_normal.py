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


@pytest.mark.parametrize(("rank", "expected"), [(None, 3), (1, 1), (9, 9)])
def test_the_rank(rank, expected):
    q = guide_of(dist.Normal(torch.zeros(9), 1.0).to_event(1), rank=rank).posterior(torch.randn(5, 4))["z"]
    assert q.cov_factor.shape == (5, 9, expected)


def test_a_rank_below_one_is_refused_at_once():
    with pytest.raises(ValueError, match="Expected rank to be an integer >= 1 but got 0"):
        guide_of(dist.Normal(0.0, 1.0), rank=0)


@pytest.mark.parametrize("rank", [4, 7])
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
