import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_infomax.guides import AmortizedFlow
from pyro_infomax.nn import MLPEncoder


def guide_of(prior, **options):
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(torch.zeros(4), 1.0).to_event(1), obs=x)

    return AmortizedFlow(model, MLPEncoder(4, hidden=(7,)), **options)


def test_the_flow_is_that_of_the_user():
    asked = []

    def flow(elements, features):
        asked.append((elements, features))
        return dist.transforms.conditional_spline(elements, features)

    guide_of(dist.Normal(torch.zeros(3), 1.0).to_event(1), flow=flow)(torch.randn(5, 4))
    ((elements, features),) = asked
    assert elements == 3
    assert features > 0


def test_a_flow_that_is_no_function_is_refused_at_once():
    with pytest.raises(ValueError, match=r"Expected flow to be a function .* but got 3"):
        guide_of(dist.Normal(0.0, 1.0), flow=3)


def test_a_flow_of_zuko():
    flows = pytest.importorskip("zuko.flows")
    guide, x = guide_of(dist.Normal(torch.zeros(3), 1.0).to_event(1), flow=flows.NSF), torch.randn(5, 4)
    z = guide(x)["z"]
    assert bool(guide.posterior(x)["z"].log_prob(z).isfinite().all())


@pytest.mark.parametrize("scale", [0.1, 2.0])
def test_scales_start_at_init_scale(scale):
    q = guide_of(dist.Normal(torch.zeros(3), 1.0).to_event(1), init_scale=scale).posterior(torch.randn(5, 4))[
        "z"
    ]
    draws = q.sample((2000,))
    assert bool(((draws.std(0) / scale - 1).abs() < 0.5).all())


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_an_init_scale_that_is_none_is_refused(scale):
    with pytest.raises(ValueError, match="Expected a finite init_scale > 0"):
        guide_of(dist.Normal(0.0, 1.0), init_scale=scale)
