"""The families of guides, each by what is its own."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.infer import SVI, TraceMeanField_ELBO
from torch import nn

from pyro_infomax.guides import (
    AmortizedDelta,
    AmortizedFlow,
    AmortizedLowRankNormal,
    AmortizedMultivariateNormal,
    AmortizedNormal,
)
from pyro_infomax.nn import MLPEncoder

# ---- Any family


def model_with(prior):
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(torch.zeros(4), 1.0).to_event(1), obs=x)

    return model


def guide_of(family, prior, **options):
    return family(model_with(prior), MLPEncoder(4, hidden=(7,)), **options)


VECTOR = dist.Normal(torch.zeros(3), 1.0).to_event(1)
# by how much a standard deviation may be off init_scale at the start, relatively
SCALED = {
    AmortizedNormal: 1e-6,
    AmortizedMultivariateNormal: 1e-6,
    AmortizedLowRankNormal: 0.1,
    AmortizedFlow: 0.5,
}


@pytest.mark.parametrize("scale", [0.1, 2.0])
@pytest.mark.parametrize("family", SCALED)
def test_scales_start_at_init_scale(family, scale):
    q = guide_of(family, VECTOR, init_scale=scale).posterior(torch.randn(5, 4))["z"]
    stddev = q.sample((1000,)).std(0) if family is AmortizedFlow else q.variance.sqrt()
    assert bool(((stddev / scale - 1).abs() < SCALED[family]).all())
    if family is AmortizedMultivariateNormal:
        torch.testing.assert_close(q.covariance_matrix, scale**2 * torch.eye(3).expand(5, 3, 3))


@pytest.mark.parametrize(
    ("family", "scale"),
    [*((family, 0.0) for family in SCALED), (AmortizedNormal, -1.0), (AmortizedNormal, math.nan)],
)
def test_an_init_scale_that_is_none_is_refused(family, scale):
    with pytest.raises(ValueError, match="Expected a finite init_scale > 0"):
        guide_of(family, VECTOR, init_scale=scale)


# ---- Normal

MIXTURE = dist.MixtureSameFamily(
    dist.Categorical(logits=torch.zeros(3)), dist.Normal(torch.zeros(3, 2), 1.0).to_event(1)
)


@pytest.mark.parametrize(
    "prior",
    [
        dist.Normal(0.0, 1.0),
        dist.StudentT(3.0, 0.0, 1.0),
        VECTOR,
        dist.Normal(torch.zeros(2, 3), 1.0).to_event(2),
        dist.MultivariateNormal(torch.zeros(3), torch.eye(3)),
        MIXTURE,
    ],
    ids=lambda prior: type(prior).__name__,
)
def test_real_sites_of_any_event_shape(prior):
    q = guide_of(AmortizedNormal, prior).posterior(torch.zeros(5, 4))["z"]
    assert (q.batch_shape, q.event_shape) == ((5,), prior.event_shape)
    assert guide_of(AmortizedNormal, prior)(torch.zeros(5, 4))["z"].shape == (5, *prior.event_shape)


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
    guide, x = guide_of(AmortizedNormal, prior), torch.zeros(5, 4)
    q = guide.posterior(x)["z"]
    assert isinstance(q, kind)
    assert (q.batch_shape, q.event_shape) == ((5,), prior.event_shape)
    assert bool(prior.support.check(guide(x)["z"]).all())


@pytest.mark.parametrize("prior", [dist.Bernoulli(0.5), dist.Categorical(torch.ones(3))])
def test_discrete_sites_are_refused(prior):
    message = r"'z' is discrete, with support .*heads=\{'z': AmortizedDiscrete\}.*hide=\['z'\].*TraceEnum"
    with pytest.raises(NotImplementedError, match=message):
        guide_of(AmortizedNormal, prior)(torch.zeros(5, 4))


def test_each_site_is_a_normal_with_its_own_head():
    guide, x = guide_of(AmortizedNormal, VECTOR), torch.randn(5, 4)
    q = guide.posterior(x)["z"]
    assert isinstance(q.base_dist, dist.Normal)
    out = guide.encoder(x) @ guide.heads[0].linear.weight.T + guide.heads[0].linear.bias
    torch.testing.assert_close(q.mean, out[:, :3])
    torch.testing.assert_close(q.stddev, torch.nn.functional.softplus(out[:, 3:]))


def test_the_rate_has_a_closed_form():
    prior = dist.Normal(torch.zeros(3), 2.0).to_event(1)
    guide, x = guide_of(AmortizedNormal, prior), torch.randn(5, 4)
    q = pyro.poutine.trace(guide).get_trace(x).nodes["z"]["fn"]
    p = pyro.poutine.trace(model_with(prior)).get_trace(x).nodes["z"]["fn"]
    variance = q.variance
    expected = 0.5 * (variance / 4 + q.mean**2 / 4 - 1) - (variance.sqrt() / 2).log()
    torch.testing.assert_close(torch.distributions.kl_divergence(q, p), expected.sum(-1))


def test_the_median_is_the_mean():
    guide, x = guide_of(AmortizedNormal, dist.Normal(0.0, 1.0)), torch.randn(5, 4)
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


# ---- Multivariate Normal


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


# ---- Low-rank Normal


@pytest.mark.parametrize(("rank", "expected"), [(None, 3), (1, 1), (9, 9)])
def test_the_rank(rank, expected):
    q = guide_of(AmortizedLowRankNormal, dist.Normal(torch.zeros(9), 1.0).to_event(1), rank=rank).posterior(
        torch.randn(5, 4)
    )["z"]
    assert q.cov_factor.shape == (5, 9, expected)


def test_a_rank_below_one_is_refused_at_once():
    with pytest.raises(ValueError, match="Expected rank to be an integer >= 1 but got 0"):
        guide_of(AmortizedLowRankNormal, dist.Normal(0.0, 1.0), rank=0)


@pytest.mark.parametrize("rank", [4, 7])
def test_a_rank_that_cannot_be_is_refused(rank):
    with pytest.raises(ValueError, match=f"rank.* but got .*{rank}"):
        guide_of(AmortizedLowRankNormal, VECTOR, rank=rank)(torch.randn(5, 4))


# ---- Flow


def test_the_flow_is_that_of_the_user():
    asked = []

    def flow(elements, features):
        asked.append((elements, features))
        return dist.transforms.conditional_spline(elements, features)

    guide_of(AmortizedFlow, VECTOR, flow=flow)(torch.randn(5, 4))
    ((elements, features),) = asked
    assert elements == 3
    assert features > 0


def test_a_flow_that_is_no_function_is_refused_at_once():
    with pytest.raises(ValueError, match=r"Expected flow to be a function .* but got 3"):
        guide_of(AmortizedFlow, dist.Normal(0.0, 1.0), flow=3)


def test_a_flow_of_zuko():
    flows = pytest.importorskip("zuko.flows")
    guide, x = guide_of(AmortizedFlow, VECTOR, flow=flows.NSF), torch.randn(5, 4)
    z = guide(x)["z"]
    assert bool(guide.posterior(x)["z"].log_prob(z).isfinite().all())


# ---- Delta


def test_draws_medians_and_quantiles_are_the_point():
    guide, x = guide_of(AmortizedDelta, VECTOR), torch.randn(5, 4)
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


# ---- angles, and heads whose draws the prior cannot be


def winding(x):
    with pyro.plate("data", len(x)):
        phi = pyro.sample("phi", dist.VonMises(0.0, 1.0))
        pyro.sample("x", dist.VonMises(phi, 4.0), obs=x[:, 0])


def positive(x):
    with pyro.plate("data", len(x)):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        pyro.sample("x", dist.Normal(rate, 1.0), obs=x[:, 0])


@pytest.mark.parametrize(
    "family", [AmortizedNormal, AmortizedFlow, AmortizedDelta, AmortizedMultivariateNormal]
)
def test_a_family_on_the_line_refuses_angles(family):
    with pytest.raises(NotImplementedError, match=r"'phi' is an angle.*heads=\{'phi': dist.VonMises\}"):
        family(winding, lambda x: x)(torch.zeros(5, 1))


def test_a_von_mises_head_serves_angles():
    guide = AmortizedNormal(winding, lambda x: x, heads={"phi": dist.VonMises})
    assert isinstance(guide.posterior(torch.zeros(5, 1))["phi"], dist.VonMises)


class Wide(nn.Module):
    def forward(self, features):
        return dist.Normal(features[..., 0], 1.0)


@pytest.mark.parametrize(
    ("program", "name", "head"),
    [
        (winding, "phi", dist.Normal),
        (positive, "rate", dist.Normal),
        (positive, "rate", Wide()),
        (positive, "rate", dist.Poisson),
    ],
)
def test_a_head_that_draws_what_the_prior_cannot_be_is_refused_at_once(program, name, head):
    with pytest.raises(NotImplementedError, match=f"'{name}'.*(support|turn)"):
        AmortizedNormal(program, lambda x: x, heads={name: head}).posterior(torch.zeros(5, 1))


@pytest.mark.parametrize("head", [dist.Gamma, dist.LogNormal, dist.Beta, dist.Exponential])
def test_a_head_may_draw_less_than_the_prior(head):
    AmortizedNormal(positive, lambda x: x, heads={"rate": head}).posterior(torch.zeros(5, 1))


def test_a_student_starts_with_a_variance():
    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    guide = AmortizedNormal(program, lambda x: x, heads={"z": dist.StudentT})
    assert guide.posterior(torch.randn(50, 1))["z"].variance.isfinite().all()
