"""Global latents: the account, the evidence and ArviZ's groups given their values, and over draws of them."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoGuideList, AutoMultivariateNormal, AutoNormal
from scipy import stats
from torch import nn
from torch.distributions import Normal, kl_divergence

from pyro_infomax import decompose, to_arviz
from pyro_infomax.diagnostics import evidence
from pyro_infomax.guides import AmortizedNormal

close = torch.testing.assert_close
X = torch.linspace(-2, 3, 70, dtype=torch.float64)


def model(x):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z + loc, scale), obs=x)


def by_hand(x):
    loc = pyro.sample("loc", dist.Normal(0.3, 0.2))
    pyro.sample("scale", dist.LogNormal(-0.4, 0.1))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.5 * (x - loc), 0.6))


def list_of(kind, whole_plate=False):
    def plate(x):
        return pyro.plate("data", len(X), subsample_size=len(x) if whole_plate else None, dim=-1)

    guide = AutoGuideList(model, create_plates=plate)
    guide.append(kind(poutine.block(model, expose=["loc", "scale"])))
    guide.append(AmortizedNormal(poutine.block(model, hide=["loc", "scale"]), nn.Unflatten(0, (-1, 1))))
    guide(X)
    return guide


def log_normal(x, variance):
    return -0.5 * (x.square() / variance + math.log(2 * math.pi * variance))


def check_account(account, loc, scale, mean, spread, x=X):
    """By the closed forms of a Normal posterior N(mean, spread²)."""
    rate = (mean.square() + spread**2 - 1 - 2 * math.log(spread)).mean() / 2
    close(account.rate.value, rate)
    distortion = (0.5 * math.log(2 * math.pi) + math.log(scale)) + (
        ((x - loc - mean).square() + spread**2).mean() / (2 * scale**2)
    )
    gap = float((account.distortion.value - distortion).abs())
    assert gap < 5 * float(account.distortion.standard_error)


def test_account_at_the_medians_of_the_guide():
    account = decompose(model, by_hand, X, seed=0)
    assert set(account.global_values) == {"loc", "scale"}
    loc, scale = 0.3, math.exp(-0.4)
    close(account.global_values["loc"], torch.tensor(loc))
    close(account.global_values["scale"], torch.tensor(scale))
    check_account(account, loc, scale, 0.5 * (X - loc), 0.6)
    assert account.elbo.target.endswith("given the global latents")
    assert "given global latents: loc = 0.3" in str(account)


def test_given_values_take_the_place_of_the_medians():
    given = {"loc": torch.tensor(-0.5)}
    account = decompose(model, by_hand, X, global_values=given, holdout=X[:30], seed=0)
    check_account(account, -0.5, math.exp(-0.4), 0.5 * (X + 0.5), 0.6)
    check_account(account.holdout, -0.5, math.exp(-0.4), 0.5 * (X[:30] + 0.5), 0.6, X[:30])
    bounds = evidence(model, by_hand, X, global_values=given, num_samples=400, seed=0)
    right = log_normal(X + 0.5, 1 + math.exp(-0.8))
    assert bool(((bounds.per_datum - right).abs() < 6 * bounds.standard_error + 0.01).all())


@pytest.mark.parametrize("kind", [AutoNormal, AutoDelta, AutoMultivariateNormal])
@pytest.mark.parametrize("whole_plate", [False, True])
def test_lists_of_guides(kind, whole_plate):
    guide = list_of(kind, whole_plate)
    account = decompose(model, guide, X, seed=0)
    median = guide[0].median(X)
    for name in ("loc", "scale"):
        close(account.global_values[name], median[name].detach())
    posterior = guide[1].posterior(X)["z"]
    right = kl_divergence(posterior, Normal(torch.zeros(len(X)), 1.0)).mean()
    close(account.rate.value, right.detach())


def test_draws_of_the_globals():
    account = decompose(model, by_hand, X, num_global_draws=40, seed=0)
    # E[(x − g)²] over g ~ N(0.3, 0.2²), and the spread of the rate over it
    mean_square = 0.25 * ((X - 0.3).square().mean() + 0.04)
    rate = (mean_square + 0.36 - 1 - 2 * math.log(0.6)) / 2
    gap = float((account.rate.value - rate).abs())
    assert gap < 4 * float(account.rate.standard_error)
    offset = X.mean() - 0.3
    spread = 0.125 * math.sqrt(4 * float(offset) ** 2 * 0.04 + 2 * 0.04**2)
    assert account.global_spread["rate"] == pytest.approx(spread, rel=4 / math.sqrt(80))
    close(account.rate.standard_error, torch.tensor(account.global_spread["rate"] / math.sqrt(40)))
    assert account.global_values == {}
    assert len(account.global_draws) == 40
    assert set(account.global_draws[0]) == {"loc", "scale"}
    frame = account.to_frame()
    assert frame.loc["rate", "global_spread"] == account.global_spread["rate"]
    parts = account.mutual_information.value + account.marginal_kl.value
    close(account.rate.value, parts)


@pytest.mark.parametrize(
    ("fn", "right"),
    [
        (dist.Gamma(2.0, 3.0), stats.gamma(2, scale=1 / 3).median()),
        (dist.Beta(2.0, 5.0), stats.beta(2, 5).median()),
        (dist.Bernoulli(0.7), 1.0),
        (dist.Poisson(3.3), 3.0),
        (dist.TransformedDistribution(dist.Gamma(2.0, 3.0), [dist.transforms.ExpTransform()]), 1.5e9),
    ],
)
def test_medians_of_many_families(fn, right):
    def with_global(x):
        pyro.sample("g", fn)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        pyro.sample("g", fn)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5 * x, 1.0))

    if right > 1e9:
        right = math.exp(stats.gamma(2, scale=1 / 3).median())
    value = float(decompose(with_global, guide, X, seed=0).global_values["g"])
    assert value == pytest.approx(right, rel=0.08)


def test_simplices_stay_simplices():
    def topics(x):
        with pyro.plate("topics", 3):
            words = pyro.sample("words", dist.Dirichlet(torch.ones(4)))
        with pyro.plate("documents", len(x)):
            share = pyro.sample("share", dist.Dirichlet(torch.ones(3)))
            pyro.sample("x", dist.Multinomial(10, probs=share @ words, validate_args=False), obs=x)

    def guide(x):
        with pyro.plate("topics", 3):
            pyro.sample("words", dist.Dirichlet(1 + torch.arange(12.0).reshape(3, 4)))
        with pyro.plate("documents", len(x)):
            pyro.sample("share", dist.Dirichlet(1 + x[:, :3]))

    counts = torch.distributions.Multinomial(10, torch.ones(4)).sample((20,))
    account = decompose(topics, guide, counts, seed=0)
    words = account.global_values["words"]
    close(words.sum(-1), torch.ones(3))
    q = dist.Dirichlet(1 + counts[:, :3])
    rate = kl_divergence(q, dist.Dirichlet(torch.ones(20, 3))).mean()
    close(account.rate.value, rate, rtol=0.05, atol=0.05)


def test_what_the_guide_alone_has_is_among_the_given():
    def plain(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def shifting(x):
        shift = pyro.sample("shift", dist.Normal(0.2, 2.0), infer={"is_auxiliary": True})
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5 * x + shift, 0.6))

    account = decompose(plain, shifting, X, seed=0)
    close(account.global_values, {"shift": torch.tensor(0.2)})
    check_account(account, 0.0, 1.0, 0.5 * X + 0.2, 0.6)


def test_what_is_refused():
    def local_only(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5 * x, 0.6))

    with pytest.raises(
        NotImplementedError, match=r"'loc' of the model.*as 'scale' is, .*give it to the guide too"
    ):
        decompose(model, local_only, X)
    given = {"loc": torch.tensor(0.0), "scale": torch.tensor(1.0)}
    account = decompose(model, local_only, X, global_values=given, seed=0)
    check_account(account, 0.0, 1.0, 0.5 * X, 0.6)
    with pytest.raises(ValueError, match="num_global_draws but it has none"):
        decompose(poutine.condition(model, data=given), local_only, X, num_global_draws=3)
    with pytest.raises(ValueError, match="num_global_draws"):
        decompose(model, by_hand, X, num_global_draws=1)
    with pytest.raises(ValueError, match=r"\['loc', 'scale'\], but got \['lco'\] too"):
        decompose(model, by_hand, X, global_values={"lco": torch.tensor(0.0)})
    with pytest.raises(ValueError, match=r"'loc' of shape \(\) but got \(2,\)"):
        decompose(model, by_hand, X, global_values={"loc": torch.zeros(2)})


def test_groups_of_arviz():
    found = to_arviz(model, by_hand, X, num_samples=100, dims={"z": []}, progress=False, seed=0)
    posterior, prior = found.posterior, found.prior
    assert posterior["loc"].dims == ("chain", "draw")
    assert posterior["z"].dims == ("chain", "draw", "datum")
    loc, z = posterior["loc"].values[0], posterior["z"].values[0]
    assert abs(loc.mean() - 0.3) < 5 * 0.2 / math.sqrt(100)
    # each draw of z is one given the draw of loc beside it
    rest = z - 0.5 * (X.numpy() - loc[:, None])
    assert abs(rest.std() / 0.6 - 1) < 5 / math.sqrt(2 * rest.size)
    assert abs(np.corrcoef(z.mean(-1), loc)[0, 1] + 1) < 0.6
    scale = posterior["scale"].values[0][:, None]
    joint = stats.norm(z + loc[:, None], scale).logpdf(X.numpy()) + stats.norm().logpdf(z)
    weights = joint - stats.norm(0.5 * (X.numpy() - loc[:, None]), 0.6).logpdf(z)
    np.testing.assert_allclose(found.sample_stats["log_weight"].values[0], weights, rtol=1e-6, atol=1e-6)
    assert abs(prior["loc"].values.std() - 1) < 5 / math.sqrt(200)
    predicted = found.posterior_predictive["x"].values[0]
    assert abs((predicted - z - loc[:, None]).std() - math.exp(-0.4)) < 0.05


def test_masked_latents_are_nan_in_arviz():
    present = torch.arange(70) % 2 == 0

    def masked(x, present):
        with pyro.plate("data", len(x)):
            with poutine.mask(mask=present):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z * present, 1.0), obs=x)

    def masked_guide(x, present):
        with pyro.plate("data", len(x)), poutine.mask(mask=present):
            pyro.sample("z", dist.Normal(0.5 * x, 0.7))

    z = to_arviz(masked, masked_guide, (X, present), num_samples=4, seed=0).posterior["z"].values
    assert (np.isnan(z) == ~present.numpy()).all()
