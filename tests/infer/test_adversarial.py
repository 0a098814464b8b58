"""Objectives with a critic: values and gradients at the optimal one, critics that find it, and training."""

import contextlib
import copy
import math
import pickle
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions.testing.rejection_gamma import ShapeAugmentedGamma
from pyro.infer import SVI
from pyro.infer.reparam import LocScaleReparam
from pyro.nn import PyroModule
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence
from torch.testing._internal.distributed.fake_pg import FakeStore

from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.diagnostics import decompose, to_arviz
from pyro_infomax.distributions import StraightThroughBernoulli
from pyro_infomax.infer import AVB, AdversarialELBO, FactorVAE, SymmetricELBO
from pyro_infomax.nn import MLPCritic, QuadraticCritic
from pyro_infomax.oracles import LinearGaussian
from pyro_infomax.poutine import weight
from pyro_infomax.schedules import Linear
from pyro_infomax.training import fit

LBFGS = partial(torch.optim.LBFGS, max_iter=100, line_search_fn="strong_wolfe", tolerance_change=1e-12)

# ---- A linear pair whose draws are given, so that means over rows are exact.


class Noise:
    """Standard normal noise for each row."""

    def __init__(self, columns):
        self.columns = columns

    @classmethod
    def exact(cls, rows, size):
        """Of mean 0 and covariance 1, so that means of quadratic functions are exact."""
        noise = torch.randn(rows, size)
        noise = noise - noise.mean(0)
        factor = torch.linalg.cholesky(noise.T @ noise / rows)
        return cls(torch.linalg.solve_triangular(factor, noise.T, upper=False).T)

    @classmethod
    def dense(cls, size, seed=0):
        """So even that means of smooth functions are nearly exact."""
        uniform = torch.quasirandom.SobolEngine(size, scramble=True, seed=seed).draw(2**15).double()
        return cls(dist.Normal(0.0, 1.0).icdf(uniform.clamp(1e-9, 1 - 1e-9)))


class Pair:
    """q(z|x) = N(v x, s), p(z) = N(m, t) and p(x|z) = N(w z, sigma), all of them parameters."""

    start = {"v": [[0.5, 0.2], [-0.1, 0.6]], "log_s": [-0.5, -0.8], "m": [0.1, -0.2], "log_t": [0.1, 0.2]}
    start |= {"w": [[1.0, 0.3], [0.2, 0.8]], "log_sigma": [-0.3, 0.1]}

    def __init__(self, given, drawn=None, *, start=None):
        start = start or self.start
        self.p = {name: torch.tensor(value, requires_grad=True) for name, value in start.items()}
        size = len(start["m"])
        self.x, self.eps = given.columns[:, :size], given.columns[:, size:]
        self.latent, self.residual = (drawn or given).columns.split(size, dim=1)
        self.as_density = False

    def param(self, name):
        return pyro.param(name, self.p[name].detach().clone())

    def guide(self, x):
        with pyro.plate("data", len(x)):
            loc, scale = x @ self.param("v").T, self.param("log_s").exp()
            fn = dist.Normal(loc, scale) if self.as_density else dist.Delta(loc + scale * self.eps)
            pyro.sample("z", fn.to_event(1))

    def model(self, x):
        with pyro.plate("data", len(x)):
            prior = dist.Normal(self.param("m"), self.param("log_t").exp()).expand(x.shape)
            z = pyro.sample("z", prior.to_event(1))
            pyro.sample(
                "x", dist.Normal(z @ self.param("w").T, self.param("log_sigma").exp()).to_event(1), obs=x
            )

    def sampler(self, x):
        """The model as draws without densities."""
        with pyro.plate("data", len(x)):
            z = self.param("m") + self.param("log_t").exp() * self.latent
            z = pyro.sample("z", dist.Delta(z).to_event(1))
            x_drawn = z @ self.param("w").T + self.param("log_sigma").exp() * self.residual
            pyro.sample("x", dist.Delta(x_drawn).to_event(1), obs=x)

    def representation(self):
        """Q over (x, z), for data of covariance 1."""
        v, s = self.p["v"], self.p["log_s"].exp()
        eye = torch.eye(len(v))
        cov = torch.cat([torch.cat([eye, v.T], 1), torch.cat([v, v @ v.T + torch.diag(s**2)], 1)])
        return MultivariateNormal(torch.zeros(len(cov)), cov)

    def generative(self):
        """P over (x, z)."""
        w, t, m = self.p["w"], torch.diag((2 * self.p["log_t"]).exp()), self.p["m"]
        sigma = torch.diag((2 * self.p["log_sigma"]).exp())
        cov = torch.cat([torch.cat([w @ t @ w.T + sigma, w @ t], 1), torch.cat([t @ w.T, t], 1)])
        return MultivariateNormal(torch.cat([w @ m, m]), cov)

    def gradients_of(self, value):
        found = torch.autograd.grad(value, list(self.p.values()), materialize_grads=True)
        return dict(zip(self.p, found, strict=True))

    def gradients_by(self, elbo, model=None):
        """The loss of an objective, and its gradients, per datum."""
        store = pyro.get_param_store()
        store.clear()
        loss = elbo.loss_and_grads(model or self.model, self.guide, self.x)
        leaves = {name: store[name].unconstrained() for name in store}
        zero = {name: torch.zeros_like(each) for name, each in self.p.items()}
        grads = {name: each.grad / len(self.x) for name, each in leaves.items() if each.grad is not None}
        return loss / len(self.x), zero | grads


def assert_same(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, each in expected.items():
        torch.testing.assert_close(
            found[name], each, **tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


def product_of_marginals(normal):
    return MultivariateNormal(normal.loc, normal.covariance_matrix.diagonal().diag())


def joint_of_parts(first, second):
    loc = torch.cat([first.loc, second.loc])
    return MultivariateNormal(loc, torch.block_diag(first.covariance_matrix, second.covariance_matrix))


def latents_of(joint):
    size = len(joint.loc) // 2
    return MultivariateNormal(joint.loc[size:], joint.covariance_matrix[size:, size:])


def fixed(normal):
    return MultivariateNormal(normal.loc.detach(), normal.covariance_matrix.detach())


# ---- values and gradients at the optimal critic


def test_factor_vae_has_the_total_correlation_and_its_gradient():
    pair = Pair(Noise.exact(20, 4))
    q = latents_of(pair.representation())
    tc = 0.5 * (q.covariance_matrix.diagonal().log().sum() - torch.logdet(q.covariance_matrix))
    critic = QuadraticCritic(2).to_log_ratio(fixed(q), fixed(product_of_marginals(q)))
    elbos = [FactorVAE(critic, gamma=gamma, critic_steps=0) for gamma in (3.0, 1.0)]
    (more, more_grads), (less, less_grads) = (pair.gradients_by(elbo) for elbo in elbos)
    assert math.isclose(elbos[0].terms.critic_total_correlation / 20, tc.item(), rel_tol=1e-9)
    assert math.isclose((more - less) / 2, tc.item(), rel_tol=1e-9)
    found = {name: (more_grads[name] - less_grads[name]) / 2 for name in more_grads}
    assert_same(found, pair.gradients_of(tc))
    # The critic of the joint, between q(z) and p(z), is another one
    prior = latents_of(pair.generative())
    other = FactorVAE(QuadraticCritic(2).to_log_ratio(fixed(q), fixed(prior)), critic_steps=0)
    other.loss(pair.model, pair.guide, pair.x)
    assert abs(other.terms.critic_total_correlation / 20 - tc.item()) > 0.1


def test_avb_has_the_rate_and_the_gradient_of_the_elbo():
    pair = Pair(Noise.exact(20, 4))
    q, p = pair.representation(), pair.generative()
    prior = latents_of(p)
    data = MultivariateNormal(torch.zeros(2), torch.eye(2))
    critic = QuadraticCritic(2, 2).to_log_ratio(fixed(q), fixed(joint_of_parts(data, prior)))
    elbo = AVB(critic, critic_steps=0)
    loss, grads = pair.gradients_by(elbo)
    negative_elbo = kl_divergence(q, p) + data.entropy()
    rate = kl_divergence(q, joint_of_parts(data, prior))
    assert math.isclose(elbo.terms.critic_rate / 20, rate.item(), rel_tol=1e-9)
    assert math.isclose(loss, negative_elbo.item(), rel_tol=1e-9)
    assert_same(grads, pair.gradients_of(negative_elbo))
    assert list(elbo.terms) == ["distortion", "loss", "critic_rate"]  # what nobody knows is not there
    assert math.isclose(elbo.terms.distortion / 20, (negative_elbo - rate).item(), rel_tol=1e-9)
    twice, grads_of_two = pair.gradients_by(AVB(critic, critic_steps=0, num_particles=2))
    assert math.isclose(twice, loss, rel_tol=1e-9)  # whose particles draw the same noise
    assert_same(grads_of_two, grads)


def test_a_prior_over_several_latents_gets_its_gradient_and_gives_the_guide_none():
    slope, shift = 0.7, 0.3
    eps = torch.randn(10, 2)

    def model(x):
        with pyro.plate("data", 10):
            u = pyro.sample("u", dist.Normal(0.0, 1.0).expand([10]))
            z = pyro.sample("z", dist.Normal(pyro.param("slope", torch.tensor(slope)) * u, 0.5))
            pyro.sample("x", dist.Normal(u + z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 10):
            u = pyro.sample("u", dist.Delta(pyro.param("shift", torch.tensor(shift)) * x + eps[:, 0]))
            pyro.sample("z", dist.Delta(u + eps[:, 1]))

    x = torch.randn(10)
    AVB(Sum(), beta=2.0).loss_and_grads(model, guide, x)
    a, b = torch.tensor(slope, requires_grad=True), torch.tensor(shift, requires_grad=True)
    u = b * x + eps[:, 0]
    z = u + eps[:, 1]
    cost = -dist.Normal(u + z, 1.0).log_prob(x).sum() + 2 * (x + u + z).sum()
    score = dist.Normal(a * u.detach(), 0.5).log_prob(z.detach()).sum()
    expected = torch.autograd.grad(cost, b)[0], torch.autograd.grad(-2 * score, a)[0]
    found = pyro.param("shift").grad, pyro.param("slope").grad
    torch.testing.assert_close(found, expected)


def test_the_prior_may_be_given_the_data():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)
            pyro.sample("z", dist.Normal(10 * pyro.deterministic("loc", x), 1.0))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(x))

    elbo = AVB(Seen())
    elbo.loss_and_grads(model, guide, torch.arange(5.0))
    (x, _), (same, z) = elbo.critic.scored[:2]
    assert torch.equal(x, same)
    assert torch.allclose(z, 10 * x, atol=6.0)


def test_a_guide_that_draws_more_than_the_model_is_refused():
    model, guide = programs()

    def more(x):
        guide(x)
        with pyro.plate("more", len(x)):
            pyro.sample("u", dist.Normal(torch.zeros(3), 1.0))

    for make in (AVB, AdversarialELBO, SymmetricELBO):
        with pytest.raises(ValueError, match="'u'"):
            make(Seen()).loss_and_grads(model, more, torch.zeros(3))


def test_noise_that_is_a_site_or_hidden_leaves_no_rate():
    def model(x):
        with pyro.plate("data", 3):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 3):
            noise = pyro.sample("noise", dist.Normal(x, 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(noise, 1.0))

    def hidden(x):
        with pyro.plate("data", 3):
            pyro.sample("z", dist.Normal(x + torch.randn(3), 1.0))

    for each in (guide, hidden):
        elbo = AVB(Sum())
        loss = elbo.loss(model, each, torch.zeros(3))
        assert list(elbo.terms) == ["distortion", "loss", "critic_rate"]
        assert math.isclose(loss, elbo.terms.distortion + elbo.terms.critic_rate)


SCALAR = {"v": [[0.3]], "log_s": [-0.2], "m": [0.4], "log_t": [0.0], "w": [[0.5]], "log_sigma": [-0.2]}


def divergence(kind, q, p):
    if kind == "js":
        axis = torch.linspace(-9, 9, 181)
        points = torch.cartesian_prod(axis, axis)
        log_q, log_p = q.log_prob(points), p.log_prob(points)
        log_m = torch.logaddexp(log_q, log_p) - math.log(2)
        mean = (log_q.exp() * (log_q - log_m) + log_p.exp() * (log_p - log_m)) / 2
        return mean.sum() * (axis[1] - axis[0]) ** 2
    parts = {"kl": kl_divergence(q, p), "reverse_kl": kl_divergence(p, q)}
    return parts["kl"] + parts["reverse_kl"] if kind == "jeffreys" else parts[kind]


@pytest.mark.parametrize("kind", ["js", "kl", "reverse_kl", "jeffreys"])
def test_the_divergence_of_the_joints_and_its_gradient(kind):
    pair = Pair(Noise.dense(2), Noise.dense(2, seed=1), start=SCALAR)
    q, p = pair.representation(), pair.generative()
    critic = QuadraticCritic(1, 1).to_log_ratio(fixed(q), fixed(p))
    elbo = AdversarialELBO(critic, kind, critic_steps=0)
    loss, grads = pair.gradients_by(elbo, pair.sampler)
    exact = divergence(kind, q, p)
    assert math.isclose(loss, exact.item(), rel_tol=0.01)
    assert math.isclose(elbo.terms[f"critic_{kind}"] / len(pair.x), loss)
    assert list(elbo.terms) == [f"critic_{kind}", "loss"]
    assert_same(grads, pair.gradients_of(exact), rtol=0.03, atol=0.003)


def test_a_critic_held_fixed_on_one_side_misses_the_gradient_of_jeffreys():
    # E_Q T - E_P T alone, as published, has the value and not the gradient
    pair = Pair(Noise.dense(2), Noise.dense(2, seed=1), start=SCALAR)
    q, p = pair.representation(), pair.generative()
    exact = pair.gradients_of(divergence("jeffreys", q, p))
    first = torch.cat([pair.x, pair.x @ pair.p["v"].T + pair.p["log_s"].exp() * pair.eps], 1)
    critic = QuadraticCritic(1, 1).to_log_ratio(fixed(q), fixed(p))
    plain = pair.gradients_of(critic(*first.split(1, 1)).mean())
    assert abs(float(plain["v"] - exact["v"])) > 0.1 * abs(float(exact["v"]))


def test_the_symmetric_elbo_adds_the_reverse_divergence():
    pair = Pair(Noise.dense(2), start=SCALAR)
    pair.as_density = True
    q, p = pair.representation(), pair.generative()
    critic = QuadraticCritic(1, 1).to_log_ratio(fixed(q), fixed(p))
    found = {}
    for gamma in (0.0, 2.0):
        torch.manual_seed(0)
        elbo = SymmetricELBO(critic, gamma=gamma, beta=0.5, critic_steps=0)
        found[gamma] = pair.gradients_by(elbo)
    exact = divergence("reverse_kl", q, p)
    rows = len(pair.x)
    assert math.isclose(elbo.terms.critic_reverse_kl / rows, exact.item(), rel_tol=0.05)
    assert math.isclose(elbo.terms.elbo, -elbo.terms.distortion - elbo.terms.rate)
    (less, less_grads), (more, more_grads) = found.values()
    assert math.isclose(less * rows, elbo.terms.distortion + 0.5 * elbo.terms.rate, rel_tol=1e-9)
    assert math.isclose((more - less) / 2 * rows, elbo.terms.critic_reverse_kl, rel_tol=1e-9)
    difference = {name: (more_grads[name] - less_grads[name]) / 2 for name in more_grads}
    assert_same(difference, pair.gradients_of(exact), rtol=0.1, atol=0.03)


# ---- critics that are trained find the optimum, where they can hold it

FAR = {"v": [[0.6, 0.1], [0.0, 0.5]], "log_s": [-0.3, -0.2], "m": [1.3, -0.85], "log_t": [0.0, 0.1]}
FAR |= {"w": [[0.5, 0.1], [0.0, 0.4]], "log_sigma": [-0.2, -0.1]}
CORRELATED = FAR | {"v": [[1.0, 0.1], [0.95, 0.3]], "log_s": [-1.6, -1.6]}


def trained(elbo, start, program):
    """The critic's term, per datum, on new draws; and both joints."""
    pairs = [Pair(Noise.dense(4, seed), Noise.dense(4, seed + 1), start=start) for seed in (0, 2)]
    torch.manual_seed(0)
    elbo.loss_and_grads(getattr(pairs[0], program), pairs[0].guide, pairs[0].x)
    elbo.loss(getattr(pairs[1], program), pairs[1].guide, pairs[1].x)
    found = elbo.terms[elbo.critic_term] / len(pairs[1].x)
    return found, fixed(pairs[1].representation()), fixed(pairs[1].generative())


def test_critics_find_the_total_correlation():
    found, q, _ = trained(FactorVAE(QuadraticCritic(2), critic_optim=LBFGS), CORRELATED, "model")
    z = latents_of(q)
    exact = kl_divergence(z, product_of_marginals(z)).item()
    assert 1.0 < exact < 3.0
    assert math.isclose(found, exact, rel_tol=0.03)


def test_critics_find_the_rate():
    found, q, p = trained(AVB(QuadraticCritic(2, 2), critic_optim=LBFGS), FAR, "model")
    data = MultivariateNormal(torch.zeros(2), torch.eye(2))
    exact = kl_divergence(q, joint_of_parts(data, latents_of(p))).item()
    assert 1.0 < exact < 3.0
    assert math.isclose(found, exact, rel_tol=0.03)


def test_one_critic_finds_all_divergences_of_the_joints():
    elbo = AdversarialELBO(QuadraticCritic(2, 2), critic_optim=LBFGS)
    found, q, p = trained(elbo, FAR, "sampler")
    assert math.isclose(found, jensen_shannon_by_draws(q, p), rel_tol=0.03)
    pair = Pair(Noise.dense(4, 4), Noise.dense(4, 5), start=FAR)
    for kind in ("kl", "reverse_kl", "jeffreys"):
        exact = divergence(kind, q, p).item()
        assert 1.0 < exact < 3.0
        loss = AdversarialELBO(elbo.critic, kind).loss(pair.sampler, pair.guide, pair.x)
        assert math.isclose(loss / len(pair.x), exact, rel_tol=0.03)


def jensen_shannon_by_draws(q, p):
    """From exact densities at many draws."""
    at_q, at_p = q.sample((60_000,)), p.sample((60_000,))
    ratios = q.log_prob(at_q) - p.log_prob(at_q), p.log_prob(at_p) - q.log_prob(at_p)
    return math.log(2) + float(sum(nn.functional.logsigmoid(each).mean() for each in ratios)) / 2


# ---- a guide that is trained by a critic in training lands where the objective has its optimum


def trained_guide(elbo, pair, program):
    """The guide's parameters after a short training with the model as it is."""
    torch.manual_seed(0)
    rates = {name: {"lr": 0.1 if name in ("v", "log_s") else 0.0, "lrd": 0.95} for name in pair.p}
    svi = SVI(getattr(pair, program), pair.guide, pyro.optim.ClippedAdam(lambda name: rates[name]), elbo)
    for _ in range(80):
        svi.step(pair.x)
    return {name: pyro.param(name).detach() for name in ("v", "log_s")}


ADAM = {"critic_optim": partial(torch.optim.Adam, lr=0.05, betas=(0.8, 0.99)), "critic_steps": 3}


@pytest.mark.parametrize(
    ("make", "program", "near"),
    [(AVB, "model", 0.05), (partial(AdversarialELBO, divergence="jeffreys"), "sampler", 0.02)],
)
def test_the_guide_becomes_the_posterior(make, program, near):
    start = {
        "v": [[0.1]],
        "log_s": [0.0],
        "m": [0.0],
        "log_t": [0.0],
        "w": [[0.6]],
        "log_sigma": [math.log(0.8)],
    }
    pair = Pair(Noise.exact(200, 2), Noise.exact(200, 2), start=start)
    found = trained_guide(make(QuadraticCritic(1, 1), **ADAM), pair, program)
    assert_same(
        found, {"v": torch.tensor([[0.6]]), "log_s": torch.tensor([math.log(0.8)])}, rtol=0, atol=near
    )


def best_guide(pair, closed):
    """The optimum of a closed form of the two joints, by a method that shares nothing with SVI."""
    wanted = {name: pair.p[name] for name in ("v", "log_s")}
    optimizer = LBFGS(wanted.values())

    def closure():
        optimizer.zero_grad()
        loss = closed(pair.representation(), pair.generative())
        loss.backward()
        return loss

    optimizer.step(closure)
    return {name: each.detach() for name, each in wanted.items()}


def test_the_symmetric_objective_rests_between_the_two_directions():
    """Where the model cannot be the data, KL(Q ‖ P) and KL(P ‖ Q) have different best guides."""
    start = {"v": [[0.1]], "log_s": [0.0], "m": [0.0], "log_t": [0.0], "w": [[0.9]], "log_sigma": [-0.1]}
    pair = Pair(Noise.exact(200, 2), Noise.exact(200, 2), start=start)
    pair.as_density = True
    elbo = SymmetricELBO(QuadraticCritic(1, 1), gamma=3.0, beta=2.0, **ADAM)
    found = trained_guide(elbo, pair, "model")
    data = MultivariateNormal(torch.zeros(1), torch.eye(1))

    def closed(q, p, gamma=3.0):
        rate = kl_divergence(q, joint_of_parts(data, latents_of(p)))
        return kl_divergence(q, p) + rate + gamma * kl_divergence(p, q)

    assert_same(found, best_guide(pair, closed), rtol=0, atol=0.04)
    # Without the other direction it would rest elsewhere
    assert float((found["v"] - best_guide(pair, partial(closed, gamma=0.0))["v"]).abs()) > 0.1


def test_factor_vae_trades_distortion_for_independence():
    start = {"v": [[0.5, 0.1], [0.1, 0.5]], "log_s": [-0.3, -0.3], "m": [0.0, 0.0], "log_t": [0.0, 0.0]}
    start |= {"w": [[1.0, 0.6], [0.6, 1.0]], "log_sigma": [-0.3, -0.3]}
    pair = Pair(Noise.exact(200, 4), start=start)
    pair.as_density = True
    elbo = FactorVAE(QuadraticCritic(2), gamma=1.0, beta=0.1, **ADAM)
    found = trained_guide(elbo, pair, "model")
    data = MultivariateNormal(torch.zeros(2), torch.eye(2))

    def closed(q, p):
        z = latents_of(q)
        rate = kl_divergence(q, joint_of_parts(data, latents_of(p)))
        return kl_divergence(q, p) - 0.9 * rate + kl_divergence(z, product_of_marginals(z))

    wanted = best_guide(pair, closed)
    assert_same(found, wanted, rtol=0, atol=0.06)
    assert abs(float(wanted["v"][0, 1])) < 0.3  # which is -0.62 without the total correlation


ORACLE = LinearGaussian(
    S=[2.0, 1.0], W=[[1.0, 0.2], [0.3, 0.8]], s2=0.5, V=[[0.6, 0.5], [0.1, 0.7]], Delta=[0.3, 0.2]
)


class Seen(nn.Module):
    """A critic that keeps what it has scored."""

    def __init__(self):
        super().__init__()
        self.scored = []
        self.slope = nn.Parameter(torch.ones(()))

    def forward(self, *parts):
        self.scored.append(parts)
        return self.slope * sum(part.reshape(len(part), -1).sum(1) for part in parts)


def test_each_dimension_is_shuffled_by_itself():
    elbo = FactorVAE(Seen())
    elbo.loss_and_grads(ORACLE.model, ORACLE.guide, ORACLE.sample(6000))
    (z,), (shuffled,) = elbo.critic.scored[:2]
    assert torch.equal(shuffled.sort(0).values, z.sort(0).values)  # the same values in each dimension
    deviations = float(ORACLE.C.diagonal().prod().sqrt())
    assert abs(float(torch.cov(shuffled.T)[0, 1])) < 5 * deviations / math.sqrt(6000)
    assert abs(float(torch.cov(z.T)[0, 1])) > 0.3  # which one order for all dimensions would leave


def test_a_lone_datum_teaches_the_critic_nothing():
    elbo = FactorVAE(Seen())
    elbo.loss_and_grads(ORACLE.model, ORACLE.guide, ORACLE.sample(1))
    assert len(elbo.critic.scored) == 1  # in the objective itself


# ---- what a step leaves, and what an evaluation leaves as it was


def small_pair():
    pyro.clear_param_store()
    torch.manual_seed(0)
    pair = Pair(Noise.exact(12, 4))
    pair.as_density = True
    return pair


OBJECTIVES = {
    "factor": lambda **options: FactorVAE(MLPCritic(2, hidden=(8,)), gamma=Linear(0.0, 2.0, 3), **options),
    "avb": lambda **options: AVB(MLPCritic(2, 2, hidden=(8,)), **options),
    "ali": lambda **options: AdversarialELBO(MLPCritic(2, 2, hidden=(8,)), **options),
    "symmetric": lambda **options: SymmetricELBO(MLPCritic(2, 2, hidden=(8,)), **options),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_loss_leaves_everything_as_it_was_and_a_step_trains_the_critic(name):
    pair = small_pair()
    elbo = OBJECTIVES[name](critic_steps=3, gradient_penalty=0.1)
    before = elbo.state_dict()
    kept = copy.deepcopy(before)
    elbo.loss(pair.model, pair.guide, pair.x)
    with torch.no_grad():
        elbo.differentiable_loss(pair.model, pair.guide, pair.x)
    assert_equal_states(elbo.state_dict(), before)
    assert elbo.step == 0
    elbo.loss_and_grads(pair.model, pair.guide, pair.x)
    after = elbo.state_dict()
    assert elbo.step == 1
    assert_equal_states(before, kept)  # a state is one of its time
    assert all(each["step"] == 3 for each in after["critic_optim"]["state"].values())
    assert not torch.equal(after["critic"]["layers.0.weight"], before["critic"]["layers.0.weight"])
    assert all(each.grad is None for each in elbo.critic.parameters())
    assert all(each.requires_grad for each in elbo.critic.parameters())
    loss = elbo.differentiable_loss(pair.model, pair.guide, pair.x)
    assert loss.requires_grad
    assert elbo.step == 2


def assert_equal_states(one, other):
    one, other = (torch.utils._pytree.tree_flatten(each) for each in (one, other))
    assert one[1] == other[1]
    for a, b in zip(one[0], other[0], strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_the_gradient_penalty_is_that_of_its_formula():
    pair = Pair(Noise.exact(20, 4), Noise.exact(20, 4))
    critic = QuadraticCritic(2, 2)
    nn.init.normal_(critic.matrix)
    nn.init.normal_(critic.vector)
    losses = []

    class Watched(torch.optim.SGD):
        def step(self, closure):
            losses.append(float(closure()))

    for penalty in (0.0, 3.0):
        elbo = AdversarialELBO(critic, gradient_penalty=penalty, critic_optim=partial(Watched, lr=0.1))
        elbo.loss_and_grads(pair.sampler, pair.guide, pair.x)
    z = poutine.trace(pair.guide).get_trace(pair.x).nodes["z"]["value"]
    drawn = poutine.trace(poutine.uncondition(pair.sampler)).get_trace(pair.x).nodes
    v = torch.cat([torch.cat([pair.x, z], 1), torch.cat([drawn["x"]["value"], drawn["z"]["value"]], 1)])
    gradient = v @ (critic.matrix + critic.matrix.T) + critic.vector
    squares = gradient.detach().square().sum(-1).mean()
    assert math.isclose(losses[1] - losses[0], 1.5 * float(squares))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_training_goes_on_from_a_checkpoint_to_the_bit(name, tmp_path):
    x = torch.randn(30, 2)

    def run(path, epochs, *, resume=False, captured=False):
        pair = small_pair()
        pair.x = x
        elbo = OBJECTIVES[name](critic_steps=2)
        kind, optim = (CapturedSVI, FusedOptim(torch.optim.Adam, {"lr": 0.01}))
        if not captured:
            kind, optim = SVI, pyro.optim.Adam({"lr": 0.01})
        svi = kind(pair.model, pair.guide, optim, elbo)
        options = {"batch_size": 15, "progress": False, "seed": 3, "validation": x[:5]}
        history = fit(svi, x, epochs=epochs, checkpoint=path, resume=resume, **options)
        return pair, elbo, history, svi

    _, whole, history, _ = run(tmp_path / "whole.pt", 3)
    run(tmp_path / "part.pt", 2)
    pair, elbo, resumed, _ = run(tmp_path / "part.pt", 3, resume=True)
    assert_equal_states(elbo.state_dict(), whole.state_dict())
    columns = [elbo.critic_term, "loss", f"validation_{elbo.critic_term}"]
    assert history.to_frame()[columns].equals(resumed.to_frame()[columns])
    assert math.isfinite(float(decompose(pair.model, pair.guide, x, seed=0).rate))
    assert to_arviz(pair.model, pair.guide, x, num_samples=3, history=history, seed=0) is not None
    *_, captured, svi = run(tmp_path / "captured.pt", 3, captured=True)
    assert svi.captured, svi.reason
    assert captured.to_frame()[columns].shape == (3, 3)


def test_a_state_of_something_else_is_refused():
    elbo = FactorVAE(QuadraticCritic(2))
    with pytest.raises(ValueError, match="keys"):
        elbo.load_state_dict({"step": 1})
    other = FactorVAE(QuadraticCritic(3)).state_dict()
    with pytest.raises(ValueError, match="state of a critic with"):
        elbo.load_state_dict(other)
    elbo.load_state_dict(FactorVAE(QuadraticCritic(2)).state_dict() | {"step": 4})
    assert elbo.step == 4


def test_estimates_are_scaled_as_the_plate_says():
    pair = small_pair()

    def scaled(program):
        def run(x):
            with poutine.scale(scale=torch.tensor(10.0)):
                program(x)

        return run

    for make in OBJECTIVES.values():
        elbo = make()
        torch.manual_seed(1)
        loss = elbo.loss(pair.model, pair.guide, pair.x)
        torch.manual_seed(1)
        assert math.isclose(elbo.loss(scaled(pair.model), scaled(pair.guide), pair.x), 10 * loss)


def test_sites_that_count_apart_are_refused():
    def counting(scale):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                with poutine.scale(scale=scale):
                    pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

        return model

    x = torch.randn(3, 2)
    for scale in (2.0, torch.tensor([1.0, 2.0, 3.0])):
        with pytest.raises(NotImplementedError, match=r"\['x', 'z'\] as a whole but they are scaled by"):
            AdversarialELBO(Sum()).loss(counting(scale), ORACLE.guide, x)
    assert math.isfinite(FactorVAE(Sum()).loss(counting(2.0), ORACLE.guide, x))
    by_row = poutine.scale(scale=scale)
    for make in (FactorVAE, AVB, AdversarialELBO, SymmetricELBO):
        with pytest.raises(NotImplementedError, match="as a whole but they are scaled by"):
            make(Sum()).loss(by_row(ORACLE.model), by_row(ORACLE.guide), x)


@pytest.mark.parametrize("make", [FactorVAE, AVB, AdversarialELBO, SymmetricELBO])
def test_latents_that_count_in_one_program_alone_are_refused(make):
    def latents_in(handler):
        def model(x):
            with pyro.plate("data", len(x)):
                with handler:
                    z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

        return model

    x = torch.randn(3, 2)
    plain, half = latents_in(contextlib.nullcontext()), torch.arange(3) > 1
    for model, guide in (
        (latents_in(poutine.scale(scale=10.0)), ORACLE.guide),
        (plain, poutine.scale(ORACLE.guide, scale=10.0)),
        (latents_in(weight(latent=2.0)), ORACLE.guide),
        (latents_in(poutine.mask(mask=half)), ORACLE.guide),
        (plain, poutine.mask(ORACLE.guide, mask=half)),
    ):
        with pytest.raises(NotImplementedError, match=r"'z'.* (they are scaled by|masked)"):
            make(Sum()).loss(model, guide, x)


def test_weights_by_a_messenger_count_for_what_the_critic_says_too():
    def run(elbo, **weights):
        pair = small_pair()
        pair.guide = weight(pair.guide, latent=weights.get("latent", 1.0))
        return *pair.gradients_by(elbo, weight(pair.model, **weights)), elbo.terms

    quiet = {"critic_steps": 0}
    for plain, weighted in (
        (FactorVAE(Sum(), 6.0, beta=2.0, **quiet), FactorVAE(Sum(), 3.0, beta=1.0, **quiet)),
        (AVB(Sum(), 2.0, **quiet), AVB(Sum(), 1.0, **quiet)),
    ):
        loss, grads, terms = run(plain)
        same_loss, same_grads, same_terms = run(weighted, latent=2.0)
        assert math.isclose(loss, same_loss)
        assert_same(same_grads, grads)
        assert dict(terms) == pytest.approx(dict(same_terms))
        lost, *_ = run(weighted, latent=0.0)
        assert math.isclose(lost, terms.distortion / 12)
    for make in (AdversarialELBO, SymmetricELBO):
        (loss, *_), (more, *_) = run(make(Sum())), run(make(Sum()), latent=3.0, observed=3.0)
        assert math.isclose(more, 3 * loss)
        with pytest.raises(NotImplementedError, match="they are scaled by"):
            run(make(Sum()), latent=3.0)


def test_an_evaluation_drops_nothing_of_the_critic():
    class Dropping(Sum):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, *parts):
            return self.drop(super().forward(*parts))

    pair = Pair(Noise.exact(12, 4))
    elbo = FactorVAE(Dropping())
    losses = {elbo.loss(pair.model, pair.guide, pair.x) for _ in range(3)}
    assert len(losses) == 1
    assert elbo.critic.training


def test_latents_may_be_numbers():
    model, guide = programs()
    for make in (AVB, AdversarialELBO, SymmetricELBO):
        elbo = make(QuadraticCritic((), ()), gradient_penalty=1.0)
        assert math.isfinite(elbo.loss_and_grads(model, guide, torch.arange(3.0)))
        assert elbo.critic.matrix.any()


@pytest.mark.parametrize("make", [AdversarialELBO, SymmetricELBO])
def test_a_subsample_is_the_same_in_both_programs(make):
    x = torch.randn(20, 1)

    def model():
        with pyro.plate("data", 20, subsample_size=6) as index:
            z = pyro.sample("z", dist.Normal(torch.zeros(6, 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[index])

    def guide():
        with pyro.plate("data", 20, subsample_size=6) as index:
            pyro.sample("z", dist.Normal(x[index], 1e-9).to_event(1))

    elbo = make(Seen())
    with pytest.warns(UserWarning, match="which is not given them as tensors, and may read them unseen"):
        elbo.loss_and_grads(model, guide)
    for given, drawn in (elbo.critic.scored[:2], elbo.critic.scored[2:]):
        assert torch.allclose(*given, atol=1e-6)  # each datum beside its own latent
        assert not torch.allclose(*drawn, atol=1e-6)
    assert elbo.stands_for(6) == 20
    elbo.loss(model, guide)  # which says so once


def test_the_score_of_a_prior_is_of_the_rows_that_the_guide_has_taken():
    taken = []

    def model(x):
        with pyro.plate("data", 20, subsample_size=4) as index:
            z = pyro.sample("z", dist.Normal(pyro.param("m", torch.zeros(20))[index], 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 20, subsample_size=4) as index:
            taken.append(index)
            pyro.sample("z", dist.Delta(x))

    AVB(Sum()).loss_and_grads(model, guide, torch.ones(4))
    expected = torch.zeros(20)
    expected[taken[0]] = -20 / 4
    assert torch.equal(pyro.param("m").grad, expected)


# ---- what is refused


def programs(latent=None, observed=None, *, mask=True, plated=True, factor=False):
    def model(x, *_):
        with pyro.plate("data", len(x)), poutine.mask(mask=mask):
            z = pyro.sample("z", (latent or dist.Normal(0.0, 1.0)).expand([len(x)]))
            if factor:
                pyro.factor("f", z)
            pyro.sample("x", observed or dist.Normal(z, 1.0), obs=x)

    def guide(x, *_):
        with pyro.plate("data", len(x)), poutine.mask(mask=mask):
            pyro.sample("z", (latent or dist.Normal(0.0, 1.0)).expand([len(x)]))

    def whole(program):
        def run(x):
            pyro.sample("g", dist.Normal(0.0, 1.0))
            program(x)

        return run

    return (model, guide) if plated else (whole(model), whole(guide))


def test_a_model_that_reads_its_data_does_not_generate_them():
    def reading(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            before = nn.functional.pad(x[:, :-1], (1, 0))  # as a teacher-forced decoder does
            pyro.sample("x", dist.Normal(z + before, 1.0).to_event(1), obs=x)

    def sampling(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
            noise = pyro.param("noise", lambda: torch.rand(()))  # which the first run draws
            pyro.sample("x", dist.Normal(z, 1.0 + noise).to_event(1), obs=x)

    def normalising(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(x.mean(0) + z, 1.0).to_event(1), obs=x)

    guide, x = ORACLE.guide, torch.randn(3, 2)
    for make in (AdversarialELBO, SymmetricELBO):
        with pytest.raises(NotImplementedError, match=r"draws of \['x'\] depends on the data"):
            make(Sum()).loss(normalising, guide, x)
        assert math.isfinite(make(Sum()).loss(sampling, guide, x))
        elbo = make(Sum())
        elbo.loss(reading, guide, x[:1])  # a lone datum does not tell
        with pytest.raises(NotImplementedError, match=r"draws of \['x'\] depends on the data"):
            elbo.loss_and_grads(reading, guide, x)
    assert math.isfinite(AVB(Sum()).loss(reading, guide, x))  # which draws latents alone


@pytest.mark.parametrize("row", range(5))
def test_a_model_that_reads_an_extreme_of_its_data_does_not_generate_them(row):
    def scaling(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z * x.max(), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    x = torch.arange(5.0).roll(row)
    with pytest.raises(NotImplementedError, match="depends on the data"):
        AdversarialELBO(Sum()).loss(scaling, guide, x)


class Forced(PyroModule):
    """Reads its data in training alone, after which its buffers are others."""

    def __init__(self, *, forces):
        super().__init__()
        self.forces, self.norm = forces, nn.BatchNorm1d(2)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc = self.norm(z) + (x.roll(1, 1) if self.training and self.forces else 0.0)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


def test_a_model_that_reads_its_data_in_training_alone_is_asked_in_training():
    x, elbo = torch.randn(4, 2), AdversarialELBO(Sum())
    forced = Forced(forces=True).eval()
    assert math.isfinite(elbo.loss(forced, ORACLE.guide, x))
    with pytest.raises(NotImplementedError, match="depends on the data"):
        elbo.loss_and_grads(forced.train(), ORACLE.guide, x)
    # What asking moves is put back: these are the runs of the steps
    model = Forced(forces=False).train()
    for program in (model, lambda x: model(x)):
        elbo.loss_and_grads(program, ORACLE.guide, x)
    assert model.norm.num_batches_tracked == 2


def test_what_was_alike_in_a_minibatch_is_asked_about_again():
    def reading(x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("y", dist.Normal(torch.zeros(2), 1.0).to_event(1), obs=y)
            pyro.sample("x", dist.Normal(z + y, 1.0).to_event(1), obs=x)

    def guide(x, y):
        ORACLE.guide(x)

    elbo, x = AdversarialELBO(Sum()), torch.randn(4, 2)
    assert math.isfinite(elbo.loss(reading, guide, x, torch.zeros(4, 2)))
    with pytest.raises(NotImplementedError, match=r"draws of \['x'\] depends on the data"):
        elbo.loss(reading, guide, x, x.flip(0))


@pytest.mark.parametrize("reading", [True, False])
def test_data_within_an_object_are_out_of_reach(reading):
    def model(batch):
        with pyro.plate("data", len(batch.x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc = z + batch.x.roll(1, 1) if reading else z
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=batch.x)

    elbo, batch = AdversarialELBO(Sum()), SimpleNamespace(x=torch.randn(3, 2))
    with pytest.warns(UserWarning, match="not given them as tensors, and may read them unseen"):
        elbo.loss(model, lambda batch: ORACLE.guide(batch.x), batch)
    elbo.loss(model, lambda batch: ORACLE.guide(batch.x), batch)  # which says so once


def test_a_model_is_known_by_itself_and_not_by_its_address():
    def made(reading):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z + x.roll(1) if reading else z, 1.0).to_event(1), obs=x)

        return model

    elbo, x = AdversarialELBO(Sum()), torch.randn(3, 2)
    for _ in range(5):
        assert math.isfinite(elbo.loss(made(False), ORACLE.guide, x))
        with pytest.raises(NotImplementedError, match="depends on the data"):
            elbo.loss(made(True), ORACLE.guide, x)
    elbo.loss(made(False), ORACLE.guide, x)
    pickle.dumps(elbo)  # without the model, which cannot be


def test_latents_of_another_plate_are_no_rows_of_the_data():
    def model(x):
        with pyro.plate("topics", 4):
            w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + w.mean(0), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("topics", 4):
            pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        ORACLE.guide(x)

    for make in (FactorVAE, AVB, AdversarialELBO, SymmetricELBO):
        with pytest.raises(NotImplementedError, match=r"in the plates \['data', 'topics'\]"):
            make(Sum()).loss(model, guide, torch.randn(4, 2))


def test_discrete_noise_of_the_guide_alone_is_refused():
    def guide(x):
        odds = pyro.param("odds", torch.zeros(2)).expand(len(x), 2)
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Bernoulli(logits=odds).to_event(1), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(u + torch.randn(len(x), 2)).to_event(1))

    for make in (AVB, AdversarialELBO):
        for run in ("loss", "loss_and_grads"):
            elbo = make(QuadraticCritic(2, 2))
            with pytest.raises(NotImplementedError, match="the draws of the guide's site 'u'"):
                getattr(elbo, run)(ORACLE.model, guide, torch.zeros(3, 2))
            assert not elbo.critic.matrix.any()


def test_what_a_reparameterisation_leaves_is_no_data():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.full((len(x),), 10.0), 2.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z_decentered", dist.Normal(x, 1e-9))

    reparameterised = poutine.reparam(model, {"z": LocScaleReparam(0.0)})
    x = torch.arange(3.0)
    for make in (AdversarialELBO, SymmetricELBO, AVB):
        elbo = make(Seen(), critic_steps=0)
        elbo.loss(reparameterised, guide, x)
        for parts in elbo.critic.scored:
            assert len(parts) == 2  # neither the draw of z nor anything that was made of it
        torch.testing.assert_close(elbo.critic.scored[0], (x, x))


def learned_prior(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Delta(pyro.param("m", torch.ones(())) + torch.randn(len(x))))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def test_a_learned_prior_without_a_density_is_refused():
    def fixed(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(pyro.param("m", torch.ones(())), 1.0))
            z = pyro.sample("z", dist.Delta(u.square()))  # of which nothing is learned beyond u
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Delta(pyro.param("a", torch.zeros(())) + x))
            pyro.sample("z", dist.Delta(u + 1.0))

    def of_z(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(pyro.param("a", torch.zeros(())) + x))

    x = torch.arange(3.0)
    with pytest.raises(NotImplementedError, match=r"draws \['z'\] as point masses"):
        AVB(Sum()).loss_and_grads(learned_prior, of_z, x)
    with torch.no_grad():
        assert math.isfinite(AVB(Sum()).loss(learned_prior, of_z, x))  # which is right
    for divergence in ("js", "kl"):
        AdversarialELBO(Sum(), divergence).loss_and_grads(learned_prior, of_z, x)
    loss = AVB(Sum()).differentiable_loss(fixed, guide, x)
    m, a = (pyro.param(name) for name in "ma")
    found = torch.autograd.grad(loss, [m, a])
    # log p(u) is that of a normal; the critic's x + u + z has the slope 2 in a, and the decoder z - x = 1
    torch.testing.assert_close(found, ((1.0 - x).sum(), torch.tensor(3 * 2.0 + 3 * 1.0)))
    assert loss.isfinite()


def test_a_refusal_comes_before_anything_has_moved():
    def reading(x):
        slope = pyro.param("slope", torch.ones(()))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + slope * x.roll(1), 1.0).to_event(1), obs=x)

    for make in (AdversarialELBO, SymmetricELBO):
        for steps in (0, 1):
            elbo = make(QuadraticCritic(2, 2), critic_steps=steps)
            with pytest.raises(NotImplementedError, match="depends on the data"):
                elbo.loss_and_grads(reading, ORACLE.guide, torch.randn(3, 2))
            assert pyro.param("slope").grad is None
            assert not elbo.critic.matrix.any()
            assert elbo.terms is None


def test_an_error_within_an_evaluation_leaves_an_objective_that_can_be_copied():
    class Failing(Sum):
        def forward(self, *parts):
            raise RuntimeError("no score")

    pair = small_pair()
    for make in (FactorVAE, AVB, AdversarialELBO, SymmetricELBO):
        elbo = make(Failing())
        with pytest.raises(RuntimeError, match="no score"):
            elbo.loss_and_grads(pair.model, pair.guide, pair.x)
        copied = copy.deepcopy(elbo)
        copied.critic = Sum()
        assert math.isfinite(copied.loss_and_grads(pair.model, pair.guide, pair.x))


def test_several_processes_are_refused():
    torch.distributed.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    try:
        with pytest.raises(NotImplementedError, match="trains in one process"):
            FactorVAE(Sum()).loss_and_grads(ORACLE.model, ORACLE.guide, torch.zeros(3, 2))
    finally:
        torch.distributed.destroy_process_group()


def test_a_factor_of_the_guide_is_refused_or_counts_as_rate():
    model, plain = ORACLE.model, ORACLE.guide

    def guide(x):
        plain(x)
        pyro.factor("f", torch.tensor(-5.0), has_rsample=True)

    x = torch.zeros(3, 2)
    for make in (AVB, AdversarialELBO, SymmetricELBO):
        with pytest.raises(NotImplementedError, match="which say nothing of the factor 'f'"):
            make(Sum()).loss(model, guide, x)
    losses = []
    for each in (plain, guide):
        torch.manual_seed(0)
        losses.append(FactorVAE(Sum()).loss(model, each, x))
    assert math.isclose(losses[0] - losses[1], 5.0)


def test_draws_that_reject_are_not_reparameterised():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(torch.ones(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", ShapeAugmentedGamma(torch.full((len(x), 2), 2.0), torch.ones(())).to_event(1))

    for make in (FactorVAE, AVB, AdversarialELBO, SymmetricELBO):
        with pytest.raises(NotImplementedError, match="ShapeAugmentedGamma is not reparameterised"):
            make(Sum()).loss(model, guide, torch.ones(3, 2))


@pytest.mark.parametrize("of_model", [True, False])
@pytest.mark.parametrize("make", [FactorVAE, AVB, AdversarialELBO, SymmetricELBO])
def test_a_critic_has_parameters_of_its_own(make, of_model):
    class Shared(Sum):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, *parts):
            return super().forward(self.layer(parts[-1]))

    critic = Shared()

    def program(x):
        pyro.module("layer", critic.layer)

    def both(x, program=program):
        program(x)
        return (ORACLE.model if of_model else ORACLE.guide)(x)

    programs = (both, ORACLE.guide) if of_model else (ORACLE.model, both)
    for steps in (0, 1):
        with pytest.raises(ValueError, match="a critic with parameters of its own"):
            make(critic, critic_steps=steps).loss_and_grads(*programs, torch.randn(3, 2))


class Sum(nn.Module):
    """A critic without parameters."""

    def forward(self, *parts):
        return sum(part.reshape(len(part), -1).sum(1) for part in parts)


@pytest.mark.parametrize(
    ("make", "pair", "message"),
    [
        (AVB, programs(dist.Bernoulli(0.5)), "gradients through the draws of the guide's site 'z'"),
        (AVB, programs(StraightThroughBernoulli(0.5, logits=torch.zeros(()))), "guide's site 'z'"),
        (AdversarialELBO, programs(observed=dist.Bernoulli(0.5)), "draws of the model's site 'x'"),
        (SymmetricELBO, programs(observed=dist.Poisson(2.0)), "draws of the model's site 'x'"),
        (AdversarialELBO, programs(factor=True), "not possible with the factor 'f'"),
        (AVB, programs(mask=torch.tensor([True, False, True])), "'z' is masked"),
        (AVB, programs(dist.Normal(0.0, torch.ones(3)).mask(torch.arange(3) > 1)), "'z' is masked"),
        (AVB, programs(plated=False), "one value of 'g' for each datum"),
        (AdversarialELBO, programs(plated=False), "one value of 'g' for each datum"),
        (FactorVAE, programs(), "at least 2 latent dimensions"),
    ],
)
def test_pairs_that_cannot_be_compared_are_refused(make, pair, message):
    elbo = make(Sum())
    with pytest.raises((NotImplementedError, ValueError), match=message):
        elbo.loss(*pair, torch.zeros(3))


def test_covariates_and_other_rows_are_refused():
    model, guide = programs()
    with pytest.raises(NotImplementedError, match="what they condition on without observing it"):
        AdversarialELBO(Sum()).loss(model, guide, torch.zeros(3), torch.ones(3))
    with pytest.raises(ValueError, match="arguments of 3 rows"):
        AVB(Sum()).loss(model, guide, torch.zeros(3), torch.zeros(4))
    assert math.isfinite(AVB(Sum()).loss(model, guide, torch.zeros(3), torch.ones(3)))  # conditional rates


@dataclass
class Batch:
    covariate: torch.Tensor


@pytest.mark.parametrize(
    "given",
    [
        {"c": torch.ones(3)},
        [torch.ones(3)],
        {torch.ones(3)},
        np.ones(3),
        Batch(torch.ones(3)),
        MappingProxyType({"c": [torch.ones(3)]}),
    ],
)
def test_covariates_within_other_things_are_seen(given):
    model, guide = programs()
    for make in (AdversarialELBO, SymmetricELBO):
        with pytest.raises(NotImplementedError, match="programs are given 2 tensors"):
            make(Sum()).loss(model, guide, torch.zeros(3), given)
    with pytest.raises(ValueError, match="and 1 elsewhere"):
        AVB(Sum()).loss(model, guide, torch.zeros(3), given)


def test_data_within_a_container_are_read_too():
    def model(batch):
        with pyro.plate("data", 3):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0))
            pyro.sample("x", dist.Normal(z + batch["x"], 1.0), obs=batch["x"])

    def guide(batch):
        with pyro.plate("data", 3):
            pyro.sample("z", dist.Normal(torch.zeros(3), 1.0))

    with pytest.raises(NotImplementedError, match="depends on the data"):
        AdversarialELBO(Sum()).loss(model, guide, {"x": torch.arange(3.0)})


def scored_by(critic):
    return FactorVAE(critic).loss(ORACLE.model, ORACLE.guide, torch.zeros(3, 2))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: AVB(lambda x, z: x), TypeError, "critic to be a module"),
        (lambda: AVB(Sum(), beta=-1.0), ValueError, "beta >= 0"),
        (lambda: FactorVAE(Sum(), gamma={"z": 1.0}), ValueError, "gamma to be one weight"),
        (lambda: AdversarialELBO(Sum(), "wasserstein"), ValueError, "'js' or 'kl'"),
        (lambda: AVB(Sum(), num_particles=2, vectorize_particles=True), ValueError, "vectorize_particles"),
        (lambda: AVB(Sum(), weights={"rate": 2.0}), ValueError, r"has arguments for but got \['rate'\]"),
        (lambda: AdversarialELBO(Sum(), weights={"distortion": 2.0}), ValueError, "'distortion'"),
        (lambda: AVB(Sum(), critic_steps=-1), ValueError, "critic_steps to be an integer >= 0"),
        (
            lambda: FactorVAE(nn.Identity()).loss(ORACLE.model, ORACLE.guide, torch.zeros(3, 2)),
            ValueError,
            "score 1",
        ),
    ],
)
def test_wrong_arguments_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
