"""Mean-field objectives: closed-form divergences, what is sampled instead, what is refused."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions.testing.rejection_gamma import ShapeAugmentedGamma
from pyro.infer.autoguide import AutoNormal

from pyro_infomax.distributions import StraightThroughBernoulli, StraightThroughOneHotCategorical
from pyro_infomax.infer import Trace_BetaELBO, TraceMeanField_BetaELBO, TraceMeanField_InfoMaxELBO
from pyro_infomax.poutine import weight


def gauss_hermite(f, mean, scale):
    """E f(u), u ~ N(mean, scale²)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = torch.tensor(weights / math.sqrt(2 * math.pi))
    return (weights * f(mean + scale * torch.tensor(nodes))).sum()


@pytest.mark.parametrize("beta", [0.0, 0.25])
@pytest.mark.parametrize("variant", ["plain", "subsampled", "scaled", "likelihood_scaled", "masked"])
def test_the_rate_is_the_divergence_in_closed_form(programs, variant, beta):
    pair = programs.NormalPair(variant)
    value = programs.evaluate(TraceMeanField_BetaELBO(beta=beta), pair)
    assert torch.allclose(value.rate, programs.reference(pair).rate, rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("beta", [0.25, 4.0])
def test_the_gradient_of_the_rate_is_that_of_the_closed_form(programs, beta):
    """Without the data nothing is sampled."""
    pair = programs.NormalPair()
    expected = programs.reference(pair, observed=0.0, latent=beta)
    pair.model = weight(pair.model, observed=0.0)
    value = programs.evaluate(TraceMeanField_BetaELBO(beta=beta), pair)
    assert torch.allclose(value.gradient, expected.gradient, rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("beta", [0.0, 4.0])
def test_takes_auxiliary_sites(programs, beta):
    expected = programs.reference(programs.NormalPair("auxiliary"), latent=beta)
    estimate = programs.estimated(programs.NormalPair, "auxiliary", TraceMeanField_BetaELBO, beta=beta)
    assert programs.beyond_error(estimate, expected) == []


# ---- divergences that have no closed form, or a wrong one


def estimated_rate(elbo, model, guide):
    draws = []
    for _ in range(20):
        elbo.loss(model, guide)
        draws.append(elbo.terms.rate)
    return np.mean(draws), np.std(draws) / math.sqrt(20)


def vectorized(objective, **weights):
    return objective(num_particles=500, vectorize_particles=True, max_plate_nesting=0, **weights)


@pytest.mark.parametrize("beta", [0.25, 4.0])
def test_a_divergence_without_closed_form_is_sampled(beta):
    def model():
        pyro.sample("z", dist.StudentT(3.0))

    def guide():
        pyro.sample("z", dist.Normal(pyro.param("m", torch.tensor(0.7)), 0.5))

    def rate(m):
        q, p = dist.Normal(m, 0.5), dist.StudentT(3.0)
        return gauss_hermite(lambda u: q.log_prob(u) - p.log_prob(u), m, 0.5)

    m = torch.tensor(0.7, requires_grad=True)
    expected = beta * rate(m)
    expected.backward()
    losses, gradients = [], []
    for _ in range(20):
        pyro.clear_param_store()
        losses.append(vectorized(TraceMeanField_BetaELBO, beta=beta).loss_and_grads(model, guide))
        gradients.append(pyro.param("m").grad.item())
    assert abs(np.mean(losses) - expected.item()) < 4 * np.std(losses) / math.sqrt(20)
    assert abs(np.mean(gradients) - m.grad.item()) < 4 * np.std(gradients) / math.sqrt(20)


def sigmoid_rate(loc, scale):
    """Of a logistic Normal against Beta(2, 5)."""

    def log_ratio(u):
        z = u.sigmoid()
        log_q = dist.Normal(loc, scale).log_prob(u) - z.log() - (1 - z).log()
        return log_q - dist.Beta(2.0, 5.0).log_prob(z)

    return gauss_hermite(log_ratio, loc, scale).item()


@pytest.mark.parametrize("beta", [0.25, 1.0, 4.0])
def test_an_autoguide_on_constrained_support_keeps_its_jacobian(beta):
    def model():
        pyro.sample("z", dist.Beta(2.0, 5.0))

    guide = AutoNormal(model, init_loc_fn=pyro.infer.autoguide.init_to_value(values={"z": torch.tensor(0.6)}))
    guide()
    mean, error = estimated_rate(vectorized(TraceMeanField_BetaELBO, beta=beta), model, guide)
    expected = sigmoid_rate(torch.tensor(0.6).logit(), torch.tensor(0.1))
    assert abs(mean - expected) < 4 * error


@pytest.mark.parametrize("wrap", [lambda d: d.mask(True), lambda d: d.expand((2,)).to_event(1).mask(True)])
def test_a_wrapped_point_mass_keeps_its_density(wrap):
    """Its log density carries a Jacobian, which a closed form of the point mass forgets."""
    point = dist.Delta(torch.tensor(0.3), log_density=1.5)

    def model():
        pyro.sample("z", wrap(dist.Normal(0.0, 1.0)))

    def guide():
        pyro.sample("z", wrap(point))

    elbo = TraceMeanField_BetaELBO(beta=2.0)
    loss = elbo.loss(model, guide)
    size = wrap(point).event_shape.numel()
    expected = size * (1.5 - dist.Normal(0.0, 1.0).log_prob(torch.tensor(0.3)).item())
    assert elbo.terms.rate == pytest.approx(expected)
    assert loss == pytest.approx(2.0 * expected)


def test_a_divergence_that_is_a_plain_number_counts():
    """Masked distributions diverge by the number 0."""

    def program():
        with pyro.plate("three", 3):
            pyro.sample("z", dist.Normal(0.0, 1.0).mask(False))

    elbo = TraceMeanField_BetaELBO(beta=2.0)
    assert elbo.loss(program, program) == 0.0
    assert elbo.terms.rate == 0.0


# ---- refusals


@pytest.mark.parametrize("objective", [TraceMeanField_BetaELBO, TraceMeanField_InfoMaxELBO])
def test_refuses_sites_that_are_not_reparameterised(programs, objective):
    pair = programs.DiscretePair()
    sentence = f"guide sites but 'z' .* use {objective.__name__.replace('MeanField', 'Graph')}"
    for evaluate in (objective().loss, objective().loss_and_grads):
        programs.assert_refused(NotImplementedError, sentence, evaluate, pair.model, pair.guide)


@pytest.mark.parametrize("wrap", [lambda fn: fn, lambda fn: fn.expand((2,)).to_event(1)])
def test_refuses_sites_that_are_reparameterised_in_part(programs, wrap):
    """Though their class has a divergence in closed form, its gradient lacks that of the rejections."""

    def model():
        pyro.sample("z", wrap(dist.Gamma(2.0, 1.0)))

    def guide():
        pyro.sample("z", wrap(ShapeAugmentedGamma(torch.tensor(3.0), torch.tensor(1.0))))

    evaluate = TraceMeanField_BetaELBO().loss
    programs.assert_refused(NotImplementedError, "guide sites but 'z'", evaluate, model, guide)


def test_refuses_auxiliary_sites_that_are_not_reparameterised(programs):
    def guide():
        pyro.sample("u", dist.Bernoulli(0.5), infer={"is_auxiliary": True})

    sentence = "guide sites but 'u' .* use TraceGraph_BetaELBO"
    programs.assert_refused(
        NotImplementedError, sentence, TraceMeanField_BetaELBO().loss, lambda: None, guide
    )


def test_refuses_a_guide_site_that_is_neither_the_models_nor_auxiliary():
    def guide():
        pyro.sample("stray", dist.Normal(0.0, 1.0))

    with (
        pyro.validation_enabled(False),
        pytest.raises(ValueError, match="'stray' is neither: mark it infer="),
    ):
        TraceMeanField_BetaELBO().loss(lambda: None, guide)


def test_the_loss_as_a_tensor_has_the_gradients_of_a_step(programs):
    pair = programs.NormalPair()
    torch.manual_seed(1)
    expected = programs.evaluate(TraceMeanField_InfoMaxELBO(lam=3.0), pair)
    pyro.clear_param_store()
    torch.manual_seed(1)
    loss = TraceMeanField_InfoMaxELBO(lam=3.0).differentiable_loss(pair.model, pair.guide)
    loss.backward()
    names = ["a", "b", "log_s", "w", "log_sigma"]
    gradient = torch.stack([pyro.param(name).unconstrained().grad for name in names])
    assert torch.allclose(gradient, expected.gradient[:5])
    assert loss.item() == pytest.approx(expected.loss.item())


def test_masks_of_the_programs_mask_the_divergence():
    def program(mean):
        with poutine.mask(mask=torch.tensor([True, False])), pyro.plate("two", 2):
            pyro.sample("z", dist.Normal(mean, 1.0))

    elbo = TraceMeanField_BetaELBO(beta=4.0)
    elbo.loss(lambda: program(torch.zeros(2)), lambda: program(torch.tensor([1.0, 5.0])))
    assert elbo.terms.rate == pytest.approx(0.5)


# ---- divergences that torch lacks


@pytest.mark.parametrize("beta", [0.25, 4.0])
def test_full_covariances_have_their_divergence(beta):
    """Against the usual standard Normal, without the data: nothing is sampled, in loss and gradient."""

    def model():
        with pyro.plate("data", 3):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    def guide():
        tril = pyro.param("tril", torch.tensor([[0.8, 0.0], [-0.4, 0.6]]))
        with pyro.plate("data", 3):
            pyro.sample("z", dist.MultivariateNormal(torch.tensor([0.5, -1.0]), scale_tril=tril))

    elbo = TraceMeanField_BetaELBO(beta=beta)
    loss = elbo.loss_and_grads(model, guide)
    tril = torch.tensor([[0.8, 0.0], [-0.4, 0.6]], requires_grad=True)
    covariance = tril @ tril.mT
    rate = 1.5 * (covariance.trace() + 0.25 + 1.0 - 2.0 - covariance.logdet())
    (gradient,) = torch.autograd.grad(beta * rate, tril)
    assert elbo.terms.rate == pytest.approx(rate.item(), abs=1e-10)
    assert loss == pytest.approx(beta * rate.item(), abs=1e-10)
    assert torch.allclose(pyro.param("tril").grad.tril(), gradient.tril(), rtol=0.0, atol=1e-10)


# ---- relaxed sites: drawn as they are, with the gradient of what is continuous


class Relaxed:
    """Three bits, or one of three, a datum; z ~ q(z|x) with the logits a x + b, x ~ N(w·z, 1)."""

    start = {"a": [0.5, -0.3, 0.8], "b": [0.1, 0.4, -0.6], "w": [1.0, -0.5, 2.0], "prior": [0.2, 0.0, -0.7]}
    x = (0.9, -1.4, 0.3, 2.1)

    def __init__(self, family):
        self.is_one_hot = family == "one-hot"

    def parameters(self):
        return {name: torch.tensor(value, requires_grad=True) for name, value in self.start.items()}

    def prior(self, logits):
        return (
            dist.OneHotCategorical(logits=logits)
            if self.is_one_hot
            else dist.Bernoulli(logits=logits).to_event(1)
        )

    def posterior(self, logits):
        if self.is_one_hot:
            return StraightThroughOneHotCategorical(0.5, logits=logits)
        return StraightThroughBernoulli(0.5, logits=logits).to_event(1)

    def model(self):
        with pyro.plate("data", 4):
            z = pyro.sample("z", self.prior(pyro.param("prior", torch.tensor(self.start["prior"]))))
            mean = z @ pyro.param("w", torch.tensor(self.start["w"]))
            pyro.sample("x", dist.Normal(mean, 1.0), obs=torch.tensor(self.x))

    def guide(self):
        a, b = (pyro.param(name, torch.tensor(self.start[name])) for name in "ab")
        with pyro.plate("data", 4):
            pyro.sample("z", self.posterior(a * torch.tensor(self.x)[:, None] + b))

    def logits(self, p):
        return p["a"] * torch.tensor(self.x)[:, None] + p["b"]

    def rate(self, p):
        """By the sum over the values of each site."""
        q, prior = self.logits(p), p["prior"]
        if not self.is_one_hot:
            q, prior = (torch.stack([-each / 2, each / 2], -1) for each in (q, prior))
        log_q, log_p = q.log_softmax(-1), prior.log_softmax(-1)
        return (log_q.exp() * (log_q - log_p)).sum()

    def reference(self, programs, observed, latent):
        """With the draw that the same random state leads to."""
        p = self.parameters()
        z = self.posterior(self.logits(p)).rsample()
        distortion, rate = -dist.Normal(z @ p["w"], 1.0).log_prob(torch.tensor(self.x)).sum(), self.rate(p)
        loss = observed * distortion + latent * rate
        gradients = torch.autograd.grad(loss, list(p.values()))
        return programs.Reference(loss.detach(), torch.cat(gradients), distortion.detach(), rate.detach())


RELAXED_FAMILIES = ["bits", "one-hot"]


@pytest.mark.parametrize("family", RELAXED_FAMILIES)
@pytest.mark.parametrize(
    ("elbo", "latent"), [(TraceMeanField_BetaELBO(0.25), 0.25), (TraceMeanField_InfoMaxELBO(3.0), 1.0)]
)
def test_the_rate_of_relaxed_sites_is_exact_and_so_is_its_gradient(elbo, latent, family):
    pair = Relaxed(family)
    elbo.loss_and_grads(weight(pair.model, observed=0.0), pair.guide)
    p = pair.parameters()
    rate = pair.rate(p)
    assert elbo.terms.rate == pytest.approx(rate.item(), abs=1e-10)
    for name, gradient in zip("ab", torch.autograd.grad(latent * rate, [p["a"], p["b"]]), strict=True):
        assert torch.allclose(pyro.param(name).grad, gradient, rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("family", RELAXED_FAMILIES)
@pytest.mark.parametrize(
    ("elbo", "observed", "latent"),
    [(TraceMeanField_BetaELBO(0.25), 1.0, 0.25), (TraceMeanField_InfoMaxELBO(3.0), 4.0, 1.0)],
)
def test_the_likelihood_of_relaxed_sites_has_the_relaxed_gradient(programs, elbo, observed, latent, family):
    pair = Relaxed(family)
    torch.manual_seed(3)
    value = programs.evaluate(elbo, pair)
    torch.manual_seed(3)
    expected = pair.reference(programs, observed, latent)
    assert programs.differing(value, expected) == []


class OtherPrior(Relaxed):
    """The prior is a mixture, whose divergence is not known."""

    def prior(self, logits):
        weights, components = dist.Categorical(torch.ones(2)), torch.stack([logits, -logits])
        return dist.MixtureSameFamily(weights, dist.OneHotCategorical(logits=components))


@pytest.mark.parametrize("objective", [TraceMeanField_BetaELBO, TraceMeanField_InfoMaxELBO])
def test_refuses_to_sample_the_divergence_of_a_relaxed_site(programs, objective):
    pair = OtherPrior("one-hot")
    enum = objective.__name__.replace("MeanField", "Enum")
    sentence = f"relaxed site 'z' .StraightThroughOneHotCategorical. but finds none; .* use {enum}"
    programs.assert_refused(NotImplementedError, sentence, objective().loss, pair.model, pair.guide)


def test_refuses_to_sample_the_cost_of_a_relaxed_auxiliary_site():
    def guide():
        u = StraightThroughBernoulli(0.5, logits=torch.tensor(0.3))
        pyro.sample("u", u, infer={"is_auxiliary": True})

    with pytest.raises(NotImplementedError, match=r"relaxed site 'u' .* but finds none"):
        TraceMeanField_BetaELBO().loss(lambda: None, guide)


@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize(
    "handler", [poutine.scale(scale=3.0), poutine.mask(mask=torch.tensor([False, True]))]
)
def test_a_site_that_counts_otherwise_in_the_guide_has_no_closed_form(handler, beta):
    def model(x):
        with pyro.plate("data", 2):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 2), handler:
            pyro.sample("z", dist.Normal(torch.full((2,), 0.5), 1.0))

    x = torch.zeros(2)
    found, plain = (
        kind(beta=beta, num_particles=20_000, vectorize_particles=True, max_plate_nesting=1)
        for kind in (TraceMeanField_BetaELBO, Trace_BetaELBO)
    )
    for elbo in (found, plain):
        elbo.loss(model, guide, x)
    count = 6.0 if isinstance(handler, poutine.scale_messenger.ScaleMessenger) else 1.0
    negative_entropy = -0.5 * math.log(2 * math.pi) - 0.5
    right = count * negative_entropy + 2 * (0.5 * math.log(2 * math.pi) + 0.5 * 1.25)
    for elbo in (found, plain):
        assert abs(elbo.terms.rate - right) < 5 * 4 / math.sqrt(20_000)
