"""Discrete posteriors: enumerated, their loss and gradients are exact; relaxed, their rate is."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from pyro_infomax.guides import AmortizedDiscrete, AmortizedNormal
from pyro_infomax.infer import (
    TraceEnum_BetaELBO,
    TraceEnum_InfoMaxELBO,
    TraceMeanField_BetaELBO,
    TraceMeanField_InfoMaxELBO,
)
from pyro_infomax.nn import MLPEncoder
from pyro_infomax.poutine import weight

START = {"prior": [0.2, -0.4, 0.5], "theta": [-1.5, 0.3, 2.0], "phi": [0.3, -0.2, 0.9], "eta": 0.8}


def param(name):
    return pyro.param(name, torch.tensor(START[name]))


# ---- the pairs: a model, its guide, and log q, log p(z), log p(x|z) by the states of z, (*states, data)


class Pair:
    def __init__(self, x):
        self.x = x
        self.guide = self.make_guide(MLPEncoder(2, hidden=(5,)))

    def make_guide(self, encoder):
        return AmortizedDiscrete(self.model, encoder)


class OneSite(Pair):
    """z of one family, x ~ N(θ_z, 1)."""

    def __init__(self, x, family="Bernoulli"):
        self.family = family
        self.states = torch.eye(3) if family == "OneHotCategorical" else torch.arange(3)
        if family == "Bernoulli":
            self.states = torch.tensor([0.0, 1.0])
        super().__init__(x)

    def prior(self):
        logits = param("prior")
        if self.family == "Bernoulli":
            return dist.Bernoulli(logits=logits[0] - logits[1])
        return getattr(dist, self.family)(logits=logits)

    def likelihood(self, z):
        theta = param("theta")
        return dist.Normal(z @ theta if self.family == "OneHotCategorical" else theta[z.long()], 1.0)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(z), obs=x[:, 0])

    def tables(self):
        z = self.states[:, None]
        log_q = self.guide.posterior(self.x)["z"].log_prob(z)
        return log_q, self.prior().log_prob(z), self.likelihood(z).log_prob(self.x[:, 0])


class TwoSites(Pair):
    """z of three values, y ~ Bernoulli(φ_z), x ~ N(θ_z + η y, 1)."""

    structured = False

    def make_guide(self, encoder):
        return AmortizedDiscrete(self.model, encoder, structured=self.structured)

    def prior(self, z):
        return dist.Categorical(logits=param("prior")), dist.Bernoulli(logits=param("phi")[z])

    def likelihood(self, z, y):
        return dist.Normal(param("theta")[z] + param("eta") * y, 1.0)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(logits=param("prior")))
            y = pyro.sample("y", self.prior(z)[1])
            pyro.sample("x", self.likelihood(z, y), obs=x[:, 0])

    def tables(self):
        y = torch.tensor([0.0, 1.0])[:, None, None]
        z = torch.arange(3)[:, None].expand(3, len(self.x))
        q = self.guide.posterior(self.x, given={"z": z} if self.structured else None)
        of_z, of_y = self.prior(z)
        log_q = q["z"].log_prob(z) + q["y"].log_prob(y)  # (y, z, data)
        return log_q, of_z.log_prob(z) + of_y.log_prob(y), self.likelihood(z, y).log_prob(self.x[:, 0])


class TwoDependentSites(TwoSites):
    structured = True


class NextToANormal(Pair):
    """u ~ N(φ_z, 1), x ~ N(θ_z + η u, 1), with the draw of u that the random state leads to."""

    def make_guide(self, encoder):
        return AmortizedNormal(self.model, encoder, heads={"z": AmortizedDiscrete}, structured=True)

    def likelihood(self, z, u):
        return dist.Normal(param("theta")[z] + param("eta") * u, 1.0)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(logits=param("prior")))
            u = pyro.sample("u", dist.Normal(param("phi")[z], 1.0))
            pyro.sample("x", self.likelihood(z, u), obs=x[:, 0])

    def tables(self):
        z = torch.arange(3)[:, None].expand(3, len(self.x))
        q = self.guide.posterior(self.x, given={"z": z})
        u = q["u"].rsample()
        log_q = q["z"].log_prob(z)
        # what is drawn, not summed, is no part of the weights
        log_ratio = dist.Normal(param("phi")[z], 1.0).log_prob(u) - q["u"].log_prob(u)
        log_prior = dist.Categorical(logits=param("prior")).log_prob(z) + log_ratio
        return log_q, log_prior, self.likelihood(z, u).log_prob(self.x[:, 0])


PAIRS = {
    "Bernoulli": OneSite,
    "Categorical": partial(OneSite, family="Categorical"),
    "OneHotCategorical": partial(OneSite, family="OneHotCategorical"),
    "two sites": TwoSites,
    "two dependent sites": TwoDependentSites,
    "next to a Normal that depends on it": NextToANormal,
}


@pytest.fixture
def x():
    return torch.randn(4, 2)


def leaves(pair):
    return [*pair.guide.parameters(), *(pyro.param(name) for name in START if name in pyro.get_param_store())]


def made(name, x):
    """A pair whose parameters are there and of no special value."""
    pair = PAIRS[name](x)
    pair.guide(x)
    with torch.no_grad():
        for parameter in pair.guide.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return pair


def exact(pair, observed, latent):
    """Loss, its gradients, distortion and rate, each the sum over all states."""
    log_q, log_prior, log_likelihood = pair.tables()
    distortion = -(log_q.exp() * log_likelihood).sum()
    rate = (log_q.exp() * (log_q - log_prior)).sum()
    loss = observed * distortion + latent * rate
    gradients = torch.autograd.grad(loss, leaves(pair), retain_graph=True)
    return loss, gradients, distortion, rate


OBJECTIVES = [
    (TraceEnum_BetaELBO(0.25, max_plate_nesting=1), 1.0, 0.25),
    (TraceEnum_BetaELBO(4.0, max_plate_nesting=1), 1.0, 4.0),
    (TraceEnum_InfoMaxELBO(3.0, max_plate_nesting=1), 4.0, 1.0),
]


@pytest.mark.parametrize(("elbo", "observed", "latent"), OBJECTIVES)
@pytest.mark.parametrize("name", PAIRS)
def test_the_enumerated_loss_its_terms_and_its_gradient_are_exact(x, name, elbo, observed, latent):
    pair = made(name, x)
    torch.manual_seed(7)
    found = elbo.loss_and_grads(pair.model, pair.guide, x)
    torch.manual_seed(7)
    loss, gradients, distortion, rate = exact(pair, observed, latent)
    assert found == pytest.approx(loss.item(), abs=1e-10)
    assert elbo.terms.distortion == pytest.approx(distortion.item(), abs=1e-10)
    assert elbo.terms.rate == pytest.approx(rate.item(), abs=1e-10)
    for leaf, gradient in zip(leaves(pair), gradients, strict=True):
        torch.testing.assert_close(leaf.grad, gradient, rtol=0.0, atol=1e-10)


def test_the_sites_depend_on_each_other_where_they_are_said_to(x):
    """Or the sums above would not be over dependent sites."""
    pair = made("two dependent sites", x)
    log_q = pair.tables()[0]
    product = log_q.logsumexp(0) + log_q.logsumexp(1, keepdim=True)
    assert (log_q - product).abs().max() > 0.01


# ---- relaxed


def bits(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Bernoulli(logits=param("prior")).to_event(1))
        pyro.sample("x", dist.Normal(z @ param("theta"), 1.0), obs=x[:, 0])


def one_of_three(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.OneHotCategorical(logits=param("prior")))
        pyro.sample("x", dist.Normal(z @ param("theta"), 1.0), obs=x[:, 0])


@pytest.mark.parametrize(
    ("model", "family"), [(bits, dist.Bernoulli), (one_of_three, dist.OneHotCategorical)]
)
@pytest.mark.parametrize(
    ("elbo", "latent"), [(TraceMeanField_BetaELBO(0.25), 0.25), (TraceMeanField_InfoMaxELBO(3.0), 1.0)]
)
def test_the_rate_of_a_relaxed_guide_is_exact_and_so_is_its_gradient(x, model, family, elbo, latent):
    guide = AmortizedDiscrete(model, MLPEncoder(2, hidden=(5,)), temperature=0.5)
    guide(x)
    elbo.loss_and_grads(weight(model, observed=0.0), guide, x)
    posterior = guide.posterior(x)["z"]
    logits = getattr(posterior, "base_dist", posterior).logits
    rate = kl_divergence(family(logits=logits), family(logits=param("prior").expand(4, 3))).sum()
    assert elbo.terms.rate == pytest.approx(rate.item(), abs=1e-10)
    parameters = list(guide.parameters())
    for each, gradient in zip(parameters, torch.autograd.grad(latent * rate, parameters), strict=True):
        torch.testing.assert_close(each.grad, gradient, rtol=0.0, atol=1e-10)


def test_a_continuous_site_is_sent_to_another_family(x):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(2.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    with pytest.raises(NotImplementedError, match=r"'z' is continuous.*use AmortizedNormal, with heads="):
        AmortizedDiscrete(model, MLPEncoder(2))(x)
