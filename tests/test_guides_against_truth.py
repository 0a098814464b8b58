"""Trained guides against posteriors that are known, densities against quadrature, one script for all."""

import math
from functools import cache, partial
from itertools import pairwise

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from pyro.optim import ClippedAdam
from scipy.optimize import minimize
from torch import nn

from pyro_infomax.capture import CapturedSVI
from pyro_infomax.diagnostics import decompose
from pyro_infomax.guides import (
    AmortizedDelta,
    AmortizedDiscrete,
    AmortizedFlow,
    AmortizedLowRankNormal,
    AmortizedMultivariateNormal,
    AmortizedNormal,
)
from pyro_infomax.infer import BetaELBO, TraceEnum_BetaELBO
from pyro_infomax.joint import representation
from pyro_infomax.nn import MLP, MLPEncoder
from pyro_infomax.oracles import LinearGaussian
from pyro_infomax.training import fit


class Average:
    """The mean of the parameters over the last quarter of a training: they wander about their best."""

    def __init__(self, guide):
        self.parameters = list(guide.parameters())
        self.sums = [torch.zeros_like(each) for each in self.parameters]

    def __call__(self, state):
        for total, parameter in zip(self.sums, self.parameters, strict=True):
            total += parameter.detach() / state.epochs

    @torch.no_grad()
    def take(self):
        for total, parameter in zip(self.sums, self.parameters, strict=True):
            parameter.copy_(total)


def train(model, guide, x, *, epochs, batch_size=None, particles=1, lr=0.05):
    several = {"num_particles": particles, "vectorize_particles": particles > 1, "max_plate_nesting": 1}
    decay = 0.1 ** (1 / (epochs * math.ceil(len(x) / (batch_size or len(x)))))  # a step
    optim = ClippedAdam({"lr": lr, "betas": (0.9, 0.95), "lrd": decay, "clip_norm": 1e3})
    svi = CapturedSVI(model, guide, optim, BetaELBO(beta=1.0, **several))
    guide(x)  # makes the heads
    options = {"batch_size": batch_size, "progress": False}
    # apart from the last quarter, since each step after a callback is compared with an ordinary one
    first = 3 * epochs // 4
    fit(svi, x, epochs=first, seed=0, **options)
    average = Average(guide)
    fit(svi, x, epochs=epochs - first, callbacks=[average], seed=1, **options)
    average.take()
    return guide


# ---- linear-Gaussian models, whose posteriors are Normal with one covariance for all data

NOISE = 0.3
SLOPES = [[1.0, 0.5, 0.0], [0.0, 1.0, 0.6], [0.7, 0.0, 1.0], [0.5, 0.5, -0.5]]
# x_0, x_1 depend on a_0 and b_0 alone, x_2, x_3 on a_1 and b_1: given a, the elements of b are independent
PAIRED = [[1.0, 0.0, 0.5, 0.0], [0.6, 0.0, 0.8, 0.0], [0.0, 0.7, 0.0, -0.9], [0.0, -0.4, 0.0, 1.0]]


class Linear:
    """x ~ N(W z, 0.3 I), where the elements of z ~ N(0, I) are spread over sites."""

    def __init__(self, slopes, **events):
        self.events = {name: torch.Size(event) for name, event in events.items()}
        self.sizes = [event.numel() for event in self.events.values()]
        size = sum(self.sizes)
        self.weight = torch.tensor(slopes, dtype=torch.float64)[:, :size]  # (dim, latent)
        self.precision = torch.eye(size).double() + self.weight.T @ self.weight / NOISE
        self.covariance = torch.linalg.inv(self.precision)
        marginal = self.weight @ self.weight.T + NOISE * torch.eye(len(self.weight)).double()
        back = self.covariance @ self.weight.T / NOISE
        self.truth = LinearGaussian(marginal, self.weight, NOISE, back, self.covariance)

    def __call__(self, x):
        with pyro.plate("data", len(x)):
            z = {
                name: pyro.sample(name, dist.Normal(torch.zeros(event), 1.0).to_event(len(event)))
                for name, event in self.events.items()
            }
            pyro.sample("x", dist.Normal(self.flat(z) @ self.weight.T, NOISE**0.5).to_event(1), obs=x)

    def flat(self, sites):
        """Sites (..., *event) side by side, (..., latent)."""
        rows = [value if self.events[name] else value.unsqueeze(-1) for name, value in sites.items()]
        return torch.cat(rows, -1)

    def blocks(self, sizes):
        """The best posterior that is a product of parts: each has its own block of the precision."""
        parts = torch.arange(len(self.precision)).split(sizes)
        return torch.block_diag(*[torch.linalg.inv(self.precision[part][:, part]) for part in parts])

    def gap(self, covariance):
        """Log-evidence minus ELBO of a posterior with the true means, in closed form."""
        truth = self.truth
        pair = LinearGaussian(truth.S, truth.W, truth.s2, truth.V, covariance)
        return (pair.log_evidence - pair.elbo).item()


def whole(problem):
    return problem.covariance


def by_element(problem):
    return problem.blocks([1] * len(problem.precision))


def by_site(problem):
    return problem.blocks(problem.sizes)


structured_normal = partial(AmortizedNormal, structured=True)
structured_full = partial(AmortizedMultivariateNormal, structured=True)
LINEAR = {
    "full": (partial(Linear, SLOPES, z=(3,)), AmortizedMultivariateNormal, whole),
    "low rank": (partial(Linear, SLOPES, z=(3,)), partial(AmortizedLowRankNormal, rank=2), whole),
    "diagonal": (partial(Linear, SLOPES, z=(3,)), AmortizedNormal, by_element),
    "full, two sites": (partial(Linear, SLOPES, a=(2,), b=(1,)), AmortizedMultivariateNormal, by_site),
    "structured scalars": (partial(Linear, SLOPES, a=(), b=()), structured_normal, whole),
    "structured diagonals": (partial(Linear, PAIRED, a=(2,), b=(2,)), structured_normal, whole),
    "structured full": (partial(Linear, SLOPES, a=(2,), b=()), structured_full, whole),
}
FEW, DRAWS = 15, 20_000


@cache
def linear(name):
    """The problem, its data, the trained guide, and the covariance of the best in its family."""
    torch.manual_seed(1)
    make, family, best = LINEAR[name]
    problem = make()
    x = problem.truth.sample(200, exact=True, seed=0)
    guide = family(problem, MLPEncoder(4, hidden=()))
    return problem, x, train(problem, guide, x, epochs=150, particles=20, lr=0.08), best(problem)


def moments(problem, guide, x):
    """Means (data, latent) and covariances (data, latent, latent): of draws where sites are dependent."""
    if guide.structured:
        z = problem.flat(guide.sample(x[:FEW], DRAWS, seed=0))  # (draws, data, latent)
        return z.mean(0), torch.stack([each.T.cov() for each in z.unbind(1)])
    with torch.no_grad():
        sites = guide.posterior(x).values()
    covariances = [getattr(q, "covariance_matrix", None) for q in sites]
    parts = [q.variance.diag_embed() if c is None else c for q, c in zip(sites, covariances, strict=True)]
    return torch.cat([q.mean for q in sites], -1), torch.stack(
        [torch.block_diag(*rows) for rows in zip(*parts, strict=True)]
    )


def root_mean_square(error):
    """Over the data, of the element that is worst."""
    return error.square().mean(0).sqrt().max().item()


@pytest.mark.parametrize("name", LINEAR)
def test_the_means_are_those_of_the_true_posterior(name):
    problem, x, guide, best = linear(name)
    means, _ = moments(problem, guide, x)
    error = means - x[: len(means)] @ problem.truth.V.T
    assert root_mean_square(error / best.diagonal().sqrt()) < 0.02


@pytest.mark.parametrize("name", LINEAR)
def test_the_covariances_are_the_best_of_the_family(name):
    problem, x, guide, best = linear(name)
    _, covariances = moments(problem, guide, x)
    scales = best.diagonal().sqrt()
    assert root_mean_square((covariances - best) / (scales * scales[:, None])) < 0.02


def log_weights(problem, guide, x, draws):
    """log p(x, z) − log q(z|x) of draws, (draws, data)."""
    sites = guide.sample(x, draws, seed=1)
    given = dict(list(sites.items())[:-1]) if guide.structured else None
    posterior = guide.posterior(x, given=given)
    z = problem.flat(sites)
    joint = dist.Normal(z @ problem.weight.T, NOISE**0.5).log_prob(x).sum(-1)
    joint = joint + dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    return joint - sum(posterior[name].log_prob(value) for name, value in sites.items())


@torch.no_grad()
@pytest.mark.parametrize("name", LINEAR)
def test_the_elbo_falls_short_of_the_evidence_by_the_closed_form(name):
    problem, x, guide, best = linear(name)
    weights = log_weights(problem, guide, x, 50)
    error = (weights.var(0).mean() / weights.numel()).sqrt().item()
    gap = (problem.truth.log_evidence - weights.mean()).item()
    # a five-hundredth of a nat for what the training leaves
    assert -4 * error < gap - problem.gap(best) < 4 * error + 0.002


@pytest.mark.parametrize("name", LINEAR)
def test_the_account_reports_that_gap(name):
    problem, x, guide, best = linear(name)
    elbo = decompose(problem, guide, x, num_samples=20, seed=0).elbo
    gap = problem.truth.log_evidence.item() - elbo.value.item()
    assert abs(gap - problem.gap(best)) < 4 * elbo.standard_error.item() + 0.002


def test_the_best_diagonal_loses_what_the_dependence_is_worth():
    problem = Linear(SLOPES, z=(3,))
    lost = 0.5 * (problem.precision.diagonal().log().sum() - torch.logdet(problem.precision))
    assert problem.gap(by_element(problem)) == pytest.approx(lost.item(), abs=1e-9)
    assert lost > 0.1


# ---- conjugate models


class Conjugate:
    """A prior on one site z and a likelihood of x, whose exact posterior has the family of the prior."""

    def __init__(self, data_shape):
        self.data_shape = data_shape

    def __call__(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(z), obs=x)

    def draw(self, size):
        """Data of the model's own."""
        return self.likelihood(self.prior().sample((size,))).sample()

    def counts(self, x):
        return x


class GammaPoisson(Conjugate):
    """A rate, and counts that have it."""

    family = dist.Gamma

    def prior(self):
        return dist.Gamma(2.0, 1.0)

    def likelihood(self, z):
        return dist.Poisson(z.unsqueeze(-1).expand(*z.shape, *self.data_shape)).to_event(1)

    def exact(self, x):
        return dist.Gamma(2.0 + x.sum(-1), 1.0 + x.shape[-1])

    def best_normal(self, x):
        """Of LogNormals: the remainder of Stirling's formula, about 1/12a."""
        a = self.exact(x).concentration
        return torch.lgamma(a) - (a - 0.5) * a.log() + a - 0.5 * math.log(2 * math.pi)


class BetaBernoulli(Conjugate):
    """A probability, and trials that have it."""

    family = dist.Beta

    def prior(self):
        return dist.Beta(2.0, 1.0)

    def likelihood(self, z):
        return dist.Bernoulli(z.unsqueeze(-1).expand(*z.shape, *self.data_shape)).to_event(1)

    def exact(self, x):
        return dist.Beta(2.0 + x.sum(-1), 1.0 + (1 - x).sum(-1))

    def counts(self, x):
        return torch.stack([x.sum(-1), (1 - x).sum(-1)], -1)

    def best_normal(self, x):
        q = self.exact(x)
        pairs = zip(q.concentration1.tolist(), q.concentration0.tolist(), strict=True)
        return torch.tensor([least_kl_of_logit_normal(a, b) for a, b in pairs])


class DirichletMultinomial(Conjugate):
    """Proportions, and ten things counted by kind."""

    family = dist.Dirichlet

    def prior(self):
        return dist.Dirichlet(torch.tensor([2.0, 1.5, 1.0]))

    def likelihood(self, z):
        return dist.Multinomial(10, probs=z)

    def exact(self, x):
        return dist.Dirichlet(torch.tensor([2.0, 1.5, 1.0]) + x)

    def best_normal(self, x):
        """The parts that are broken off a stick are independent Beta variables under a Dirichlet."""
        rest = self.exact(x).concentration.flip(-1).cumsum(-1).flip(-1)  # (data, parts)
        sticks = [[least_kl_of_logit_normal(a - b, b) for a, b in pairwise(row)] for row in rest.tolist()]
        return torch.tensor(sticks).sum(-1)


@cache
def least_kl_of_logit_normal(a, b):
    """min KL[q ‖ Beta(a, b)] over logit-Normal q, by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

    def divergence(parameters):
        u = parameters[0] + math.exp(parameters[1]) * nodes
        expected = weights @ (a * np.logaddexp(0, -u) + b * np.logaddexp(0, u))
        return expected + log_beta - 0.5 * math.log(2 * math.pi * math.e) - parameters[1]

    return minimize(divergence, [math.log(a / b), 0.5 * math.log(1 / a + 1 / b)]).fun


class Counts(nn.Module):
    """Features of counts, whose logarithms vary as those of the posterior's parameters do."""

    def __init__(self, problem):
        super().__init__()
        self.problem = problem
        self.net = MLP(problem.counts(torch.zeros(1, *problem.data_shape)).shape[-1], 16, hidden=(32,))

    def forward(self, x):
        return nn.functional.silu(self.net(self.problem.counts(x).log1p()))


CONJUGATE = {
    "Gamma, Poisson": GammaPoisson((2,)),
    "Dirichlet, Multinomial": DirichletMultinomial((3,)),
    "Beta, 3 Bernoulli": BetaBernoulli((3,)),
}
CONJUGATE_FAMILIES = {
    "flow": lambda problem: (AmortizedFlow, 30, 0.02),
    "own family": lambda problem: (partial(AmortizedNormal, heads={"z": problem.family}), 50, 0.03),
    "Normal": lambda problem: (AmortizedNormal, 50, 0.03),
}


@cache
def held_out(name, family):
    """Held-out data, and KL[q ‖ exact] of each with its standard error."""
    torch.manual_seed(1)
    problem = CONJUGATE[name]
    x, other = problem.draw(300), problem.draw(100)
    kind, epochs, lr = CONJUGATE_FAMILIES[family](problem)
    guide = kind(problem, Counts(problem))
    train(problem, guide, x, epochs=epochs, batch_size=100, lr=lr)
    with torch.no_grad():
        q = guide.posterior(other)["z"]
        z = q.sample((500,))
        # a clone, since a flow remembers the score of what it drew
        ratio = q.log_prob(z.clone()) - problem.exact(other).log_prob(z)  # (draws, data)
    return other, ratio.mean(0), ratio.std(0) / math.sqrt(len(ratio))


@pytest.mark.parametrize("family", CONJUGATE_FAMILIES)
@pytest.mark.parametrize("name", CONJUGATE)
def test_the_posterior_of_held_out_data_is_the_exact_one(name, family):
    _, divergence, error = held_out(name, family)
    assert divergence.mean() + 4 * error.square().mean().sqrt() / math.sqrt(len(error)) < 0.05


@pytest.mark.parametrize("name", CONJUGATE)
def test_normals_come_near_the_best_that_a_normal_can_be(name):
    x, divergence, _ = held_out(name, "Normal")
    assert (divergence - CONJUGATE[name].best_normal(x)).mean() < 0.015


@pytest.mark.parametrize("name", CONJUGATE)
def test_normals_are_no_better_than_the_best(name):
    x, divergence, error = held_out(name, "Normal")
    assert (divergence - CONJUGATE[name].best_normal(x) > -5 * error).all()


def test_the_best_normal_is_worse_for_fewer_counts():
    few, many = (GammaPoisson((2,)).best_normal(torch.full((1, 2), count)).item() for count in (0.0, 9.0))
    assert (few, many) == pytest.approx((1 / 24, 1 / 240), rel=0.02)


# ---- one script: any batch, any number of data, either precision, subsamples, particles


def cluster(x):
    """One of three means of x."""
    return pyro.sample("y", dist.Categorical(x.new_ones(3))).unsqueeze(-1).to(x.dtype)


def one_hot_cluster(x):
    """The same, by a vector with a 1."""
    return pyro.sample("one_hot", dist.OneHotCategorical(x.new_ones(3))) @ x.new_tensor([[0.0], [1.0], [2.0]])


def mixed(x):
    """A positive number, a point of a simplex and a real vector."""
    one = x.new_ones(())
    rate = pyro.sample("rate", dist.Gamma(2 * one, one))
    parts = pyro.sample("parts", dist.Dirichlet(x.new_ones(3)))
    z = pyro.sample("z", dist.Normal(x.new_zeros(2), one).to_event(1))
    return torch.stack([rate, parts[..., 0], z[..., 0], z[..., 1]], -1)


def taking_all(latents, x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(latents(x), x.new_full((4,), 0.5)).to_event(1), obs=x)


def subsampling(latents, x):
    with pyro.plate("data", len(x), subsample_size=4) as rows:
        pyro.sample("x", dist.Normal(latents(x), x.new_full((4,), 0.5)).to_event(1), obs=x[rows])


own_families = {"rate": dist.Gamma, "parts": dist.Dirichlet}
EVERY_FAMILY = {
    "Normal": (mixed, AmortizedNormal),
    "MultivariateNormal": (mixed, AmortizedMultivariateNormal),
    "LowRankNormal": (mixed, AmortizedLowRankNormal),
    "Flow": (mixed, AmortizedFlow),
    "Delta": (mixed, AmortizedDelta),
    "own families": (mixed, partial(AmortizedNormal, heads=own_families)),
    "structured Normal": (mixed, structured_normal),
    "structured Flow": (mixed, partial(AmortizedFlow, structured=True)),
    "Discrete, enumerated": (cluster, AmortizedDiscrete),
    "Discrete, relaxed": (one_hot_cluster, partial(AmortizedDiscrete, temperature=0.5)),
}
WAYS = {
    "minibatches": (taking_all, 4, {}),
    "particles": (taking_all, 4, {"num_particles": 3, "vectorize_particles": True}),
    "subsamples": (subsampling, None, {}),
}
EVENTS = {"rate": (), "parts": (3,), "z": (2,), "y": (), "one_hot": (3,)}


def trained_pair(name, way, x):
    """After epochs whose last batch is of one datum, or of subsamples."""
    latents, family = EVERY_FAMILY[name]
    program, batch_size, several = WAYS[way]
    model = partial(program, latents)
    guide = family(model, MLPEncoder(4, hidden=(8,)).to(x.device))
    kind = TraceEnum_BetaELBO if family is AmortizedDiscrete else BetaELBO
    svi = SVI(model, guide, ClippedAdam({"lr": 0.01}), kind(1.0, max_plate_nesting=1, **several))
    history = fit(svi, x, epochs=2, batch_size=batch_size, progress=False, seed=0)
    assert history.to_frame()["loss"].map(math.isfinite).all()
    return model, guide


def check_values(values, lead, x):
    """Latents by site name: their shapes, and the precision and the device of the data."""
    for name, value in values.items():
        assert tuple(value.shape) == (*lead, *EVENTS[name])
        assert value.device == x.device
        assert value.dtype == x.dtype or not value.is_floating_point()
        assert value.isfinite().all()


def check_script(name, way, dtype, device="cpu"):
    torch.set_default_dtype(dtype)
    x = torch.randn(9, 4, device=device)
    model, guide = trained_pair(name, way, x)
    for other in (torch.randn(5, 4, device=device), torch.randn(1, 4, device=device)):
        posterior = guide.posterior(other)
        assert {tuple(q.batch_shape) for q in posterior.values()} == {(len(other),)}
        check_values(guide(other), (min(len(other), 4 if way == "subsamples" else 5),), x)
        check_values(guide.median(other), (len(other),), x)
        check_values(guide.quantiles([0.1, 0.9], other, num_samples=20), (2, len(other)), x)
        check_values(guide.sample(other, num_samples=3), (3, len(other)), x)
    other = torch.randn(7, 4, device=device)
    if name == "Delta":
        with pytest.raises(NotImplementedError, match="no density"):
            decompose(model, guide, other)
    else:
        account = decompose(model, guide, other, seed=0)
        assert account.data_size == 7
        assert math.isfinite(account.elbo)


@pytest.mark.parametrize("name", EVERY_FAMILY)
def test_one_script_serves(name):
    check_script(name, "minibatches", torch.float32)


# Particles and subsamples are for the guide around the heads, whose family matters no more than its kind
@pytest.mark.parametrize("way", ["particles", "subsamples"])
@pytest.mark.parametrize("name", ["Normal", "Delta", "structured Normal", "Discrete, enumerated"])
def test_one_script_serves_particles_and_subsamples(name, way):
    check_script(name, way, torch.float64)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", EVERY_FAMILY)
def test_the_same_script_serves_on_a_gpu(name, way):
    check_script(name, way, torch.float32, "cuda")


# ---- densities


def lone(prior):
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", prior())
            pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1), obs=x)

    return model


def moved(guide, x, scale=0.3):
    """The guide away from its start, where many parameters are zero; flows bend more than others."""
    torch.manual_seed(2)
    guide(x)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(
                (0.2 if isinstance(guide, AmortizedFlow) else 1.0) * scale * torch.randn_like(parameter)
            )
    return guide


def real(size=2000, reach=25.0):
    """u from −reach to reach, and its logarithmic weights."""
    return torch.linspace(-reach, reach, size), torch.full((size,), math.log(2 * reach / (size - 1)))


def positive(size=2000, reach=25.0):
    u, weight = real(size, reach)
    return u.exp(), weight + u


def interval(size=2000, reach=25.0, low=-1.0, width=3.0):
    u, weight = real(size, reach)
    share = u.sigmoid()
    return low + width * share, weight + math.log(width) + share.log() + (-u).sigmoid().log()


def unit_interval(size=2000, reach=25.0):
    return interval(size, reach, 0.0, 1.0)


def product(first, second):
    """A grid of pairs (points, 2), and its weights."""
    (a, log_a), (b, log_b) = first, second
    return torch.cartesian_prod(a, b), (log_a[:, None] + log_b).flatten()


def plane(size=120, reach=8.0):
    return product(real(size, reach), real(size, reach))


def simplex(size=120, reach=8.0):
    """Of three parts: a share of the whole, and a share of the rest."""
    pair, weight = product(unit_interval(size, reach), unit_interval(size, reach))
    first, second = pair.unbind(-1)
    rest = 1 - first
    return torch.stack([first, rest * second, rest * (1 - second)], -1), weight + rest.log()


GRIDS = {
    "real": (lambda: dist.Normal(0.0, 1.0), real, dist.Gumbel),
    "positive": (lambda: dist.Gamma(2.0, 1.0), positive, dist.Gamma),
    "interval": (lambda: dist.Uniform(-1.0, 2.0), interval, None),
    "unit interval": (lambda: dist.Beta(2.0, 1.0), unit_interval, dist.Beta),
    "plane": (lambda: dist.Normal(torch.zeros(2), 1.0).to_event(1), plane, dist.MultivariateNormal),
    "simplex": (lambda: dist.Dirichlet(torch.ones(3)), simplex, dist.Dirichlet),
}
WITH_DENSITY = {
    "Normal": AmortizedNormal,
    "MultivariateNormal": AmortizedMultivariateNormal,
    "LowRankNormal": AmortizedLowRankNormal,
    "Flow": AmortizedFlow,
}
TWO_DATA = [[0.3, -0.8], [1.5, 0.4]]


def check_integral(guide, x, z, log_weights):
    """Of both data, over a grid or over all values."""
    joint = representation(guide, x)
    for datum in x.split(1):
        scores = joint.log_posterior(z, datum) + log_weights
        # splines have kinks, which quadrature feels
        tolerance = 2e-3 if isinstance(guide, AmortizedFlow) else 1e-5
        assert scores.logsumexp(0).exp().item() == pytest.approx(1.0, abs=tolerance)


@pytest.mark.parametrize("support", GRIDS)
@pytest.mark.parametrize("name", WITH_DENSITY)
def test_densities_integrate_to_one(name, support):
    prior, grid, _ = GRIDS[support]
    x = torch.tensor(TWO_DATA)
    guide = moved(WITH_DENSITY[name](lone(prior), MLPEncoder(2, hidden=())), x)
    check_integral(guide, x, *grid())


@pytest.mark.parametrize("support", [name for name, (*_, family) in GRIDS.items() if family])
def test_densities_of_families_of_ones_own_integrate_to_one(support):
    prior, grid, family = GRIDS[support]
    x = torch.tensor(TWO_DATA)
    guide = moved(AmortizedNormal(lone(prior), MLPEncoder(2, hidden=()), heads={"z": family}), x, scale=0.1)
    # tails of the exponential family reach further than those of Normals
    check_integral(guide, x, *grid(reach=25.0))


def chained(x):
    """A positive number, and a real one that depends on it."""
    with pyro.plate("data", len(x)):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        z = pyro.sample("z", dist.Normal(rate, 1.0))
        pyro.sample("x", dist.Normal(torch.stack([rate, z], -1), 0.5).to_event(1), obs=x)


@pytest.mark.parametrize("name", WITH_DENSITY)
def test_densities_over_dependent_sites_integrate_to_one(name):
    x = torch.tensor(TWO_DATA)
    guide = moved(WITH_DENSITY[name](chained, MLPEncoder(2, hidden=()), structured=True), x, scale=0.1)
    (u, weight), wide = real(80, 4.0), real(200, 20.0)
    pairs, log_weights = product((u.exp(), weight + u), wide)
    check_integral(guide, x, dict(zip(("rate", "z"), pairs.unbind(-1), strict=True)), log_weights)


DISCRETE = {
    "Bernoulli": (lambda: dist.Bernoulli(0.3), torch.tensor([0.0, 1.0])),
    "Bernoulli vector": (
        lambda: dist.Bernoulli(torch.full((2,), 0.3)).to_event(1),
        torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 2),
    ),
    "Categorical": (lambda: dist.Categorical(torch.ones(4)), torch.arange(4)),
    "OneHot": (lambda: dist.OneHotCategorical(torch.ones(4)), torch.eye(4)),
}
KINDS = {
    "enumerated": {},
    "drawn": {"enumerate": False},
    "relaxed": {"temperature": 0.3},
}
NOT_SERVED = {("enumerated", "Bernoulli vector"), ("relaxed", "Categorical")}
SERVED = [(kind, site) for kind in KINDS for site in DISCRETE if (kind, site) not in NOT_SERVED]


@pytest.mark.parametrize(("kind", "site"), SERVED)
def test_masses_sum_to_one(kind, site):
    prior, values = DISCRETE[site]
    x = torch.tensor(TWO_DATA)
    guide = moved(AmortizedDiscrete(lone(prior), MLPEncoder(2, hidden=()), **KINDS[kind]), x, scale=1.0)
    values = values.to(torch.float64) if values.is_floating_point() else values
    check_integral(guide, x, values, torch.zeros(len(values)))


# ---- the aggregate posterior, against each datum's posterior in turn


def three_sites(x):
    with pyro.plate("data", len(x)):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        parts = pyro.sample("parts", dist.Dirichlet(torch.ones(3)))
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(parts[..., :2] * rate[..., None] + z, 1.0).to_event(1), obs=x)


def in_cells(x):
    """One latent a datum, and two a cell, in data (batch, 2) of one number a cell."""
    with pyro.plate("data", len(x), dim=-2):
        top = pyro.sample("top", dist.Normal(0.0, 1.0))
        with pyro.plate("cells", x.shape[1], dim=-1):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(top + z.sum(-1), rate), obs=x)


def log_posterior_of(guide, datum, z):
    """log q(z|x) of each z under one datum, (M,)."""
    posterior = guide.posterior(datum)
    # (M, 1 datum, *cells, *event): a site outside of the cells has an axis of size 1 for them
    lead = {
        n: each.reshape(len(each), *(posterior[n].batch_shape + posterior[n].event_shape))
        for n, each in z.items()
    }
    given = dict(list(lead.items())[:-1]) if guide.structured else None
    scores = [q.log_prob(lead[name]) for name, q in guide.posterior(datum, given=given).items()]
    return sum(each.flatten(1).sum(1) for each in scores)


def one_by_one(name, model, structured):
    """A joint, draws of it, and log q(z|x) of all of them under each datum, (M, data)."""
    torch.manual_seed(1)
    x = torch.randn(6, 2)
    guide = moved(WITH_DENSITY[name](model, MLPEncoder(2, hidden=(5,)), structured=structured), x)
    joint = representation(guide, x)
    z = joint.sample(8, seed=0)
    with torch.no_grad():
        return joint, z, torch.stack([log_posterior_of(guide, datum, z) for datum in x.split(1)], -1)


EACH_JOINT = [
    (name, model, structured)
    for name in WITH_DENSITY
    for model in (three_sites, in_cells)
    for structured in (False, True)
]


@torch.no_grad()
@pytest.mark.parametrize(("name", "model", "structured"), EACH_JOINT)
def test_aggregate_and_inverted_posterior_are_the_mean_and_the_share_of_each_datum(name, model, structured):
    joint, z, scores = one_by_one(name, model, structured)
    expected = scores.logsumexp(-1) - math.log(6)
    torch.testing.assert_close(joint.log_aggregate(z), expected, rtol=0.0, atol=1e-9)
    torch.testing.assert_close(joint.log_inverted(z), scores.log_softmax(-1), rtol=0.0, atol=1e-9)
