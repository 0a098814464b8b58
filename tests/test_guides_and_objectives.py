"""Every family of guides under every objective: it trains or is refused, and its account is brute force's."""

import functools
import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_infomax import infer
from pyro_infomax.diagnostics import decompose
from pyro_infomax.guides import (
    AmortizedDelta,
    AmortizedDiscrete,
    AmortizedFlow,
    AmortizedLowRankNormal,
    AmortizedMultivariateNormal,
    AmortizedNormal,
)
from pyro_infomax.joint import representation
from pyro_infomax.nn import MLPEncoder

SLOPES = [[1.0, -0.5, 0.3], [0.2, 0.8, -1.0]]
DATA = 24


class Continuous:
    """z ~ N(0, 1) in two dimensions, x ~ N(W z, 0.7²)."""

    def priors(self):
        return {"z": dist.Normal(torch.zeros(2), 1.0).to_event(1)}

    def likelihood(self, z):
        return dist.Normal(z["z"] @ pyro.param("weights", lambda: torch.tensor(SLOPES)), 0.7).to_event(1)

    def __call__(self, x):
        with pyro.plate("data", len(x)):
            z = {name: pyro.sample(name, prior) for name, prior in self.priors().items()}
            pyro.sample("x", self.likelihood(z), obs=x)


class Discrete(Continuous):
    """One of four states, each with a mean of x."""

    def priors(self):
        return {"z": dist.OneHotCategorical(torch.tensor([1.0, 2.0, 1.0, 3.0]))}

    def likelihood(self, z):
        means = pyro.param("means", lambda: torch.tensor([*SLOPES, [0.5, 0.5, 0.5], [-1.0, 0.0, 1.0]]))
        return dist.Normal(z["z"] @ means, 0.7).to_event(1)


class Both(Continuous):
    """One of two states, whose mean is moved by W z."""

    def priors(self):
        return {"y": dist.OneHotCategorical(torch.ones(2)), **super().priors()}

    def likelihood(self, z):
        means = pyro.param("means", lambda: torch.tensor([[0.5, 0.5, 0.5], [-1.0, 0.0, 1.0]]))
        return dist.Normal(z["y"] @ means + super().likelihood(z).mean, 0.7).to_event(1)


continuous, discrete, both = Continuous(), Discrete(), Both()
drawn = partial(AmortizedDiscrete, enumerate=False)
relaxed = partial(AmortizedDiscrete, temperature=0.5)
after_discrete = partial(AmortizedNormal, heads={"y": AmortizedDiscrete}, structured=True)
after_relaxed = partial(AmortizedNormal, heads={"y": relaxed}, structured=True)

PAIRS = {
    "Normal": (continuous, AmortizedNormal),
    "MultivariateNormal": (continuous, AmortizedMultivariateNormal),
    "LowRankNormal": (continuous, AmortizedLowRankNormal),
    "Flow": (continuous, AmortizedFlow),
    "Delta": (continuous, AmortizedDelta),
    "Discrete, enumerated": (discrete, AmortizedDiscrete),
    "Discrete, drawn": (discrete, drawn),
    "Discrete, relaxed": (discrete, relaxed),
    "Normal after Discrete": (both, after_discrete),
    "Normal after Discrete, relaxed": (both, after_relaxed),
}
CONTINUOUS = [name for name, (model, _) in PAIRS.items() if model is continuous]
WITH_DENSITY = [name for name in PAIRS if name != "Delta"]
TRAINS = [
    *(
        (name, estimator)
        for name in CONTINUOUS
        for estimator in ("Trace", "TraceMeanField", "TraceGraph", "TraceEnum")
    ),
    ("Discrete, enumerated", "TraceEnum"),
    ("Normal after Discrete", "TraceEnum"),
    *(("Discrete, drawn", estimator) for estimator in ("Trace", "TraceGraph", "TraceEnum")),
    ("Discrete, relaxed", "TraceMeanField"),
    ("Normal after Discrete, relaxed", "TraceMeanField"),
]
REFUSED = {
    **{
        (name, estimator): "use a TraceEnum objective"
        for name in ("Discrete, enumerated", "Normal after Discrete")
        for estimator in ("Trace", "TraceMeanField", "TraceGraph")
    },
    **{
        (name, estimator): "relaxed site '[yz]' .*; use TraceMeanField_{weighting}"
        for name in ("Discrete, relaxed", "Normal after Discrete, relaxed")
        for estimator in ("Trace", "TraceGraph", "TraceEnum")
    },
    ("Discrete, drawn", "TraceMeanField"): "'z' .* is not; use TraceGraph_{weighting} .or a TraceEnum_",
}
WEIGHTINGS = {"BetaELBO": 0.5, "InfoMaxELBO": 1.0}
# The InfoMax objectives are those of beta times 1 + lam, whatever the guide: one pair for each estimator
WEIGHTED = [
    *((*each, "BetaELBO") for each in TRAINS),
    *((*each, "InfoMaxELBO") for each in TRAINS if each[0] in ("LowRankNormal", "Normal after Discrete")),
]


def data():
    torch.manual_seed(0)
    return torch.randn(DATA, 2) @ torch.tensor(SLOPES) + 0.5 * torch.randn(DATA, 3)


@pytest.fixture
def x():
    return data()


def make(name):
    torch.manual_seed(1)
    model, family = PAIRS[name]
    return model, family(model, MLPEncoder(3, hidden=(8,)))


def objective(estimator, weighting, **options):
    weight = WEIGHTINGS[weighting]
    kind = getattr(infer, f"{estimator}_{weighting}")
    return kind(weight, max_plate_nesting=1, strict_enumeration_warning=False, **options)


def loss_now(elbo, model, guide, x):
    """With many particles of one random state, so that two of them differ by the parameters."""
    torch.manual_seed(2)
    return elbo.loss(model, guide, x)


# ---- training


@pytest.mark.parametrize(("name", "estimator", "weighting"), WEIGHTED)
def test_it_trains(name, estimator, weighting, x):
    model, guide = make(name)
    particles = objective(estimator, weighting, num_particles=10, vectorize_particles=True)
    before = loss_now(particles, model, guide, x)
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), objective(estimator, weighting))
    losses = [svi.step(x) for _ in range(15)]
    assert all(map(math.isfinite, losses))
    assert 0 < loss_now(particles, model, guide, x) < 0.95 * before


@pytest.mark.parametrize(("name", "estimator"), REFUSED)
def test_it_is_refused_with_the_class_that_can(name, estimator, x):
    model, guide = make(name)
    for weighting in WEIGHTINGS:
        sentence = REFUSED[name, estimator].format(weighting=weighting)
        with pytest.raises(NotImplementedError, match=sentence):
            objective(estimator, weighting).loss_and_grads(model, guide, x)


def test_every_combination_trains_or_is_refused():
    estimators = ("Trace", "TraceMeanField", "TraceGraph", "TraceEnum")
    assert sorted([*TRAINS, *REFUSED]) == sorted((name, e) for name in PAIRS for e in estimators)


# ---- the account: against every posterior evaluated at every draw


def moved(name, x):
    """A pair whose guide has left its start, where many parameters are zero."""
    model, guide = make(name)
    guide(x)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model, guide


def log_posteriors(guide, x, z):
    """log q(z|x_n) of each z (..., event) at each n, (..., data)."""
    rows = {name: v.unsqueeze(-2).expand(*v.shape[:-1], len(x), -1) for name, v in z.items()}
    posterior = guide.posterior(x, given={"y": rows["y"]} if guide.structured else None)
    return sum(posterior[name].log_prob(v) for name, v in rows.items())


def log_aggregate(guide, x, z):
    return log_posteriors(guide, x, z).logsumexp(-1) - math.log(len(x))


@pytest.mark.parametrize("name", WITH_DENSITY)
def test_the_aggregate_posterior_is_the_mean_of_all(name, x):
    _, guide = moved(name, x)
    joint = representation(guide, x)
    z = joint.sample(15)
    expected = log_aggregate(guide, x, z)
    torch.testing.assert_close(joint.log_aggregate(z), expected, rtol=0.0, atol=1e-9)


FIELDS = ("distortion", "rate", "mutual_information", "marginal_kl")


@functools.cache
def brute_force(name):
    """The terms of draws of a pair, (samples, data) each."""
    x = data()
    model, guide = moved(name, x)
    with torch.no_grad():
        z = guide.sample(x, 100, seed=3)
        own = log_posteriors(guide, x, z).diagonal(dim1=-2, dim2=-1)
        aggregate = log_aggregate(guide, x, z)
        prior = sum(each.log_prob(z[site]) for site, each in model.priors().items())
        terms = -model.likelihood(z).log_prob(x), own - prior, own - aggregate, aggregate - prior
    return dict(zip(FIELDS, terms, strict=True))


@pytest.mark.parametrize("name", WITH_DENSITY)
def test_its_account_is_that_of_brute_force(name, x):
    account = decompose(*moved(name, x), x, num_samples=10, seed=0)
    for field, terms in brute_force(name).items():
        estimate, means = getattr(account, field), terms.mean(1)
        error = math.hypot(estimate.standard_error, (means.std() / math.sqrt(len(means))).item())
        assert abs(estimate.value - means.mean().item()) < 5 * error, field
    if name != "Flow" and "after" not in name:
        # which has a closed form
        assert account.rate.standard_error < 1e-12


@pytest.mark.parametrize(
    ("name", "estimator", "weighting"), [each for each in WEIGHTED if each[0] in WITH_DENSITY]
)
def test_the_terms_of_training_are_those_of_brute_force(name, estimator, weighting, x):
    model, guide = moved(name, x)
    elbo = objective(estimator, weighting, num_particles=100, vectorize_particles=True)
    loss = elbo.loss(model, guide, x)
    for field in ("distortion", "rate"):
        means = brute_force(name)[field].mean(1)
        error = means.std() * math.sqrt(1 / 100 + 1 / len(means))
        assert abs(getattr(elbo.terms, field) / DATA - means.mean()) < 5 * error
    observed, latent = (1.0, 0.5) if weighting == "BetaELBO" else (2.0, 1.0)
    assert loss == pytest.approx(observed * elbo.terms.distortion + latent * elbo.terms.rate)


def test_points_have_no_account(x):
    model, guide = moved("Delta", x)
    with pytest.raises(NotImplementedError, match="Deltas, which have no density"):
        decompose(model, guide, x)
