import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.infer import SVI, TraceMeanField_ELBO
from torch import nn

from pyro_infomax.guides import AmortizedNormal
from pyro_infomax.nn import MLPEncoder


def model_with(prior):
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(torch.zeros(4), 1.0).to_event(1), obs=x)

    return model


def guide_of(prior, **kwargs):
    return AmortizedNormal(model_with(prior), MLPEncoder(4, hidden=(7,)), **kwargs)


MIXTURE = dist.MixtureSameFamily(
    dist.Categorical(logits=torch.zeros(3)), dist.Normal(torch.zeros(3, 2), 1.0).to_event(1)
)


@pytest.mark.parametrize(
    "prior",
    [
        dist.Normal(0.0, 1.0),
        dist.StudentT(3.0, 0.0, 1.0),
        dist.Normal(torch.zeros(3), 1.0).to_event(1),
        dist.Normal(torch.zeros(2, 3), 1.0).to_event(2),
        dist.MultivariateNormal(torch.zeros(3), torch.eye(3)),
        MIXTURE,
    ],
    ids=lambda prior: type(prior).__name__,
)
def test_real_sites_of_any_event_shape(prior):
    q = guide_of(prior).posterior(torch.zeros(5, 4))["z"]
    assert (q.batch_shape, q.event_shape) == ((5,), prior.event_shape)
    assert guide_of(prior)(torch.zeros(5, 4))["z"].shape == (5, *prior.event_shape)


@pytest.mark.parametrize(
    ("prior", "kind"),
    [
        (dist.Gamma(2.0, 1.0), dist.LogNormal),
        (dist.Gamma(torch.ones(3), 1.0).to_event(1), dist.Independent),
        (dist.Beta(2.0, 1.0), dist.TransformedDistribution),
        (dist.Dirichlet(torch.ones(3)), dist.TransformedDistribution),
        (dist.LKJCholesky(3, 1.0), dist.TransformedDistribution),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_supports_through_a_bijection(prior, kind):
    guide, x = guide_of(prior), torch.zeros(5, 4)
    q = guide.posterior(x)["z"]
    assert isinstance(q, kind)
    assert (q.batch_shape, q.event_shape) == ((5,), prior.event_shape)
    assert bool(prior.support.check(guide(x)["z"]).all())


@pytest.mark.parametrize("prior", [dist.Bernoulli(0.5), dist.Categorical(torch.ones(3))])
def test_discrete_sites_are_refused(prior):
    message = r"'z' is discrete, with support .*heads=\{'z': AmortizedDiscrete\}.*hide=\['z'\].*TraceEnum"
    with pytest.raises(NotImplementedError, match=message):
        guide_of(prior)(torch.zeros(5, 4))


def test_each_site_is_a_normal_with_its_own_head():
    guide, x = guide_of(dist.Normal(torch.zeros(3), 1.0).to_event(1)), torch.randn(5, 4)
    q = guide.posterior(x)["z"]
    assert isinstance(q.base_dist, dist.Normal)
    out = guide.encoder(x) @ guide.heads[0].linear.weight.T + guide.heads[0].linear.bias
    torch.testing.assert_close(q.mean, out[:, :3])
    torch.testing.assert_close(q.stddev, torch.nn.functional.softplus(out[:, 3:]))


def test_the_rate_has_a_closed_form():
    prior = dist.Normal(torch.zeros(3), 2.0).to_event(1)
    guide, x = guide_of(prior), torch.randn(5, 4)
    q = pyro.poutine.trace(guide).get_trace(x).nodes["z"]["fn"]
    p = pyro.poutine.trace(model_with(prior)).get_trace(x).nodes["z"]["fn"]
    variance = q.variance
    expected = 0.5 * (variance / 4 + q.mean**2 / 4 - 1) - (variance.sqrt() / 2).log()
    torch.testing.assert_close(torch.distributions.kl_divergence(q, p), expected.sum(-1))


@pytest.mark.parametrize("scale", [0.1, 2.0])
def test_scales_start_at_init_scale(scale):
    q = guide_of(dist.Normal(0.0, 1.0), init_scale=scale).posterior(torch.randn(5, 4))["z"]
    torch.testing.assert_close(q.stddev, torch.full((5,), scale))


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan])
def test_an_init_scale_that_is_none_is_refused(scale):
    with pytest.raises(ValueError, match="Expected a finite init_scale > 0"):
        guide_of(dist.Normal(0.0, 1.0), init_scale=scale)


def test_the_median_is_the_mean():
    guide, x = guide_of(dist.Normal(0.0, 1.0)), torch.randn(5, 4)
    median = guide.median(x)["z"]
    torch.testing.assert_close(median, guide.posterior(x)["z"].mean.detach())
    assert not median.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_heads_have_the_dtype_of_the_features(dtype):
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(torch.zeros_like(x), 1.0).to_event(1), obs=x)

    guide = AmortizedNormal(model, MLPEncoder(4).to(dtype))
    assert guide(torch.zeros(5, 4, dtype=dtype))["z"].dtype == dtype
    assert {parameter.dtype for parameter in guide.parameters()} == {dtype}


# ---- training, on data whose evidence is known


def test_it_reaches_the_elbo_of_a_guide_by_hand():
    torch.manual_seed(0)
    weight = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    scale = 0.7
    covariance = weight @ weight.T + scale**2 * torch.eye(3)
    evidence = dist.MultivariateNormal(torch.zeros(3), covariance)
    x = evidence.sample((200,))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ weight.T, scale).to_event(1), obs=x)

    encoder, log_scale = nn.Linear(3, 2), torch.zeros(2)

    def by_hand(x):
        pyro.module("by_hand", encoder)
        posterior_scale = pyro.param("posterior_scale", log_scale.exp(), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), posterior_scale).to_event(1))

    losses = {}
    for name, guide in (
        ("amortised", AmortizedNormal(model, MLPEncoder(3, hidden=()))),
        ("by hand", by_hand),
    ):
        svi = SVI(model, guide, pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.98}), TraceMeanField_ELBO())
        for _ in range(200):
            svi.step(x)
        losses[name] = torch.tensor([svi.evaluate_loss(x) for _ in range(60)]) / len(x)
    error = math.sqrt(sum(loss.var() for loss in losses.values()) / 60)
    assert abs(losses["amortised"].mean() - losses["by hand"].mean()) < 4 * error + 1e-3
    # The columns of the weight are orthogonal, so the true posterior is a diagonal Normal: no gap is left
    truth = -evidence.log_prob(x).mean()
    assert abs(losses["amortised"].mean() - truth) < 4 * error + 1e-3
