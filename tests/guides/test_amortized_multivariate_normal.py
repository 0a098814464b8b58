import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_infomax.guides import AmortizedMultivariateNormal
from pyro_infomax.nn import MLPEncoder


def guide_of(prior, **options):
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(torch.zeros(4), 1.0).to_event(1), obs=x)

    return AmortizedMultivariateNormal(model, MLPEncoder(4, hidden=(7,)), **options)


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
        NotImplementedError, match=r"which AmortizedMultivariateNormal does not cover.*AmortizedDiscrete"
    ):
        guide_of(dist.Bernoulli(0.5))(torch.zeros(5, 4))


def test_elements_are_correlated_and_sites_are_not():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            s = pyro.sample("s", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.sum(-1) + s, 1.0), obs=x[:, 0])

    guide, x = AmortizedMultivariateNormal(model, MLPEncoder(4, hidden=(7,))), torch.randn(5, 4)
    guide(x)
    torch.nn.init.normal_(guide.heads[0].linear.weight)
    q = guide.posterior(x)
    assert isinstance(q["z"], dist.MultivariateNormal)
    assert bool((q["z"].covariance_matrix[:, 0, 1].abs() > 1e-3).all())
    assert q["s"].batch_shape == (5,)


@pytest.mark.parametrize("scale", [0.1, 2.0])
def test_scales_start_at_init_scale(scale):
    q = guide_of(dist.Normal(torch.zeros(3), 1.0).to_event(1), init_scale=scale).posterior(torch.randn(5, 4))[
        "z"
    ]
    torch.testing.assert_close(q.covariance_matrix, scale**2 * torch.eye(3).expand(5, 3, 3))


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_an_init_scale_that_is_none_is_refused(scale):
    with pytest.raises(ValueError, match="Expected a finite init_scale > 0"):
        guide_of(dist.Normal(0.0, 1.0), init_scale=scale)
