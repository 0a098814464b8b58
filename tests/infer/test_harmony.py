"""Harmony: its closed terms and gradients, what costs it nothing, and its two failures."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_infomax.infer import HarmonyELBO
from pyro_infomax.oracles import LinearGaussian


def test_what_a_guide_draws_beside_the_latents_costs_harmony_nothing(programs):
    x, drawn = torch.randn(4), []

    def model(x):
        with pyro.plate("data", 4):
            z = pyro.sample("z", dist.Normal(0.0, 2.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 4):
            a = pyro.sample("a", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
            drawn.append((a, pyro.sample("z", dist.Normal(x / 2 + a, 0.5))))

    def with_factor(x):
        with pyro.plate("data", 4):
            z = pyro.sample("z", dist.Normal(x / 2, 0.5))
            pyro.factor("f", z, has_rsample=True)

    elbo = HarmonyELBO()
    loss = elbo.loss(model, guide, x)
    a, z = drawn[-1]
    mean = x / 2 + a  # of z given a, whose expected log prior is closed
    expected = dist.Normal(z, 1.0).log_prob(x) + dist.Normal(0.0, 2.0).log_prob(mean) - 0.5**2 / 8
    assert loss == pytest.approx(-expected.sum().item(), rel=1e-12)
    assert loss == pytest.approx(elbo.terms.distortion + elbo.terms.prior_cross_entropy, rel=1e-12)
    programs.assert_refused(
        NotImplementedError, "'f', a factor of its density", elbo.loss, model, with_factor, x
    )
    weighted = HarmonyELBO(weights={"rate": 5.0})
    programs.assert_refused(ValueError, r"weighted terms \['rate'\] but got", weighted.loss, model, guide, x)


def linear(prior_scale=None):
    """A pair with parameters, at the start of test values, and its closed terms."""
    S = torch.tensor([[2.0, 0.3], [0.3, 1.0]])
    return S, LinearGaussian(S=S, W=[[0.9], [0.4]], s2=0.6, V=[[0.5, 0.2]], Delta=[0.3])


def exact_data(S):
    """Data with this very covariance and mean 0."""
    values, vectors = torch.linalg.eigh(S)
    rows = (len(S) * values).sqrt()[:, None] * vectors.T
    return torch.cat([rows, -rows])


def test_harmony_is_the_elbo_without_the_entropy_of_the_posterior_in_value_and_gradient():
    S, pair = linear()
    x = exact_data(S)

    def harmony_loss(V, log_delta, W):
        C = V @ S @ V.T + log_delta.exp()
        rest = torch.eye(2) - W @ V
        square = (rest @ S @ rest.T).trace() + log_delta.exp() * (W**2).sum()
        return math.log(2 * math.pi * 0.6) + square / 1.2 + 0.5 * math.log(2 * math.pi) + 0.5 * C.squeeze()

    p = [each.clone().requires_grad_() for each in (pair.V, pair.Delta.log().squeeze(), pair.W)]
    expected = 4 * harmony_loss(*p)

    def model(x):
        with pyro.plate("data", 4):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            mean = z @ pyro.param("W", pair.W.clone()).T
            pyro.sample("x", dist.Normal(mean, 0.6**0.5).to_event(1), obs=x)

    def guide(x):
        scale = (0.5 * pyro.param("log_delta", pair.Delta.log().squeeze().clone())).exp()
        with pyro.plate("data", 4):
            loc = x @ pyro.param("V", pair.V.clone()).T
            pyro.sample("z", AtPairs(loc, scale).to_event(1))

    class AtPairs(dist.Normal):  # the noise ±1 has the moments that matter
        def rsample(self, sample_shape=()):
            return self.loc + self.scale * torch.tensor([1.0, -1.0])[:, None, None].expand(2, 4, 1)

    elbo = HarmonyELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1)
    loss = elbo.loss_and_grads(model, guide, x)
    assert loss == pytest.approx(expected.item(), abs=1e-10)
    found = [pyro.param(name).unconstrained().grad for name in ("V", "log_delta", "W")]
    slopes = torch.autograd.grad(expected, p)
    assert max((one - other).abs().max() for one, other in zip(found, slopes, strict=True)) < 1e-10
    entropy = 0.5 * math.log(2 * math.pi * math.e * 0.3)
    assert -loss / 4 == pytest.approx(elbo.terms.elbo / 4 - entropy, abs=1e-10)
    assert elbo.terms.prior_cross_entropy / 4 == pytest.approx(elbo.terms.rate / 4 + entropy, abs=1e-10)
    assert elbo.terms.rate / 4 == pytest.approx(pair.rate.item(), abs=1e-10)


def test_harmony_without_a_closed_form_is_sampled():
    def model(x):
        with pyro.plate("data", 3):
            z = pyro.sample("z", dist.StudentT(3.0, 0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 3):
            drawn.append(pyro.sample("z", dist.Normal(x, 1.0)))

    drawn = []
    elbo = HarmonyELBO()
    elbo.loss(model, guide, torch.randn(3))
    expected = -dist.StudentT(3.0, 0.0, 1.0).log_prob(drawn[-1]).sum().item()
    assert elbo.terms.prior_cross_entropy == pytest.approx(expected, abs=1e-12)


def harmony_of(eigenvalues, decoder, encoder, noise, prior_scale):
    """The objective of narrow posteriors around z = encoder x, on data with these variances."""
    x = exact_data(torch.diag(eigenvalues))
    latent = decoder.shape[1]

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(latent), prior_scale).to_event(1))
            pyro.sample("x", dist.Normal(z @ decoder.T, noise).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ encoder.T, 1e-9 * prior_scale).to_event(1))

    elbo = HarmonyELBO()
    return -elbo.loss(model, guide, x) / len(x), elbo.terms.rate / len(x)


def test_harmony_shrinks_codes_for_ever_and_without_bound_if_the_prior_follows():
    eigenvalues, U = torch.tensor([4.0, 3.0, 1.0]), torch.eye(3)[:, :2]
    fixed, following = [], []
    for c in (1.0, 0.5, 0.25, 0.125, 1e-4):
        fixed.append(harmony_of(eigenvalues, U / c, c * U.T, 1.0, torch.ones(2)))
        following.append(harmony_of(eigenvalues, U / c, c * U.T, 1.0, c * torch.ones(2)))
    values = torch.tensor([value for value, _ in fixed])
    assert (values.diff() > 0).all()
    supremum = -1.5 * math.log(2 * math.pi) - 0.5 - math.log(2 * math.pi)
    assert values[-1].item() == pytest.approx(supremum, abs=1e-6)  # all codes at the mode of the prior
    rising = torch.tensor([value for value, _ in following])
    torch.testing.assert_close(rising[:4].diff(), torch.full((3,), 2 * math.log(2)), rtol=0, atol=1e-6)
    assert fixed[0][1] > 30  # nats: what such narrow posteriors really cost


def test_the_number_of_factors_that_harmony_chooses_depends_on_units():
    size = 20
    plain = torch.cat([torch.tensor([30.0, 20.0, 15.0, 10.0, 8.0]), torch.linspace(1.1, 0.9, 15)])
    chosen, by_likelihood = [], []
    for unit in (0.01, 1.0, 100.0):
        eigenvalues, values, scores = plain * unit**2, [], []
        for k in range(1, 19):
            U = torch.eye(size)[:, :k]
            noise = eigenvalues[k:].mean().sqrt()
            values.append(harmony_of(eigenvalues, U, U.T, noise, eigenvalues[:k].sqrt())[0])
            log_p = -0.5 * (eigenvalues[:k].log().sum() + (size - k) * noise.log() * 2 + size)
            free = size * k - k * (k - 1) / 2 + 1
            scores.append(log_p - 0.5 * free * math.log(1000) / 1000)  # of 1,000 data
        chosen.append(1 + int(torch.tensor(values).argmax()))
        by_likelihood.append(1 + int(torch.stack(scores).argmax()))
    assert chosen == [18, 5, 1]
    assert by_likelihood == [5, 5, 5]
