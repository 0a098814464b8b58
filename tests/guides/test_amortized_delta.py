import pyro
import pyro.distributions as dist
import torch

from pyro_infomax.guides import AmortizedDelta
from pyro_infomax.nn import MLPEncoder


def guide_of(prior, **options):
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(torch.zeros(4), 1.0).to_event(1), obs=x)

    return AmortizedDelta(model, MLPEncoder(4, hidden=(7,)), **options)


def test_draws_medians_and_quantiles_are_the_point():
    guide, x = guide_of(dist.Normal(torch.zeros(3), 1.0).to_event(1)), torch.randn(5, 4)
    point = guide(x)["z"].detach()
    assert torch.equal(guide.median(x)["z"], point)
    assert torch.equal(guide.quantiles([0.1, 0.9], x)["z"], point.expand(2, 5, 3))
    assert torch.equal(guide.sample(x, 4)["z"], point.expand(4, 5, 3))


def test_it_finds_the_mode():
    def model(x):
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(3.0, 1.0))
            pyro.sample("x", dist.Poisson(rate), obs=x[:, 0])

    x = torch.tensor([[0.0], [1.0], [4.0], [9.0]])
    guide = AmortizedDelta(model, lambda x: torch.cat([x, torch.eye(4)], -1))
    svi = pyro.infer.SVI(
        model, guide, pyro.optim.ClippedAdam({"lr": 0.2, "lrd": 0.97}), pyro.infer.Trace_ELBO()
    )
    for _ in range(150):
        svi.step(x)
    # Gamma(3 + x, 2) has its mode at (2 + x) / 2
    torch.testing.assert_close(guide.median(x)["rate"], (2 + x[:, 0]) / 2, rtol=1e-2, atol=0)
