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
