"""Bounds of several draws: value and expected gradient by quadrature and enumeration, and wrong variants."""

import itertools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, RenyiELBO
from pyro.infer.autoguide import AutoNormalMessenger

from pyro_infomax import CapturedSVI, FusedOptim, decompose, fit, to_arviz
from pyro_infomax.infer import (
    DReG_InfoMaxELBO,
    IWAE_InfoMaxELBO,
    Renyi_InfoMaxELBO,
    ReverseKL,
    RWS_InfoMaxELBO,
    STL_BetaELBO,
    STL_InfoMaxELBO,
    TVO_InfoMaxELBO,
    VIMCO_InfoMaxELBO,
    WakeSleepELBO,
    surrogate_loss,
)
from pyro_infomax.oracles import DiscreteVAE, LinearGaussian
from pyro_infomax.schedules import Linear

# ---- Draws at the nodes of a quadrature: each cell of the plate has those of one tuple of nodes.

X, SIGMA2 = 1.3, 0.5
START = {"w": 0.9, "a": 0.3, "log_s": math.log(0.9)}
BOUND, LOG_P = -1.875900, -1.698990
PIN = torch.tensor([-0.024881, 0.682073, -0.241655], dtype=torch.float64)


def nodes_and_weights(size):
    nodes, weights = np.polynomial.hermite_e.hermegauss(size)
    return torch.tensor(nodes), torch.tensor(weights / weights.sum())


def tuples(size, axes):
    """All tuples of nodes, (axes, cells), and what each cell counts for."""
    nodes, weights = nodes_and_weights(size)
    noise = torch.stack(torch.meshgrid(*[nodes] * axes, indexing="ij")).reshape(axes, -1)
    counts = torch.stack(torch.meshgrid(*[weights] * axes, indexing="ij")).reshape(axes, -1).prod(0)
    return noise, counts


class Drawn(dist.Normal):
    """Takes its noise from what is given, (particles, cells), all at once or one particle after another."""

    noise: list[torch.Tensor] = []

    def rsample(self, sample_shape=()):
        noise = Drawn.noise[0]
        if self.batch_shape == noise.shape:
            Drawn.noise = Drawn.noise[1:]
        else:
            noise, Drawn.noise = noise[0], [rest for rest in (noise[1:], *Drawn.noise[1:]) if len(rest)]
        return self.loc + self.scale * noise


class Line:
    """z ~ N(0, 1), x ~ N(w z, σ²) and the guide z ~ N(a x, s²), with parameters for each cell."""

    start = START

    def __init__(self, noise, x=X):
        self.noise, self.x = [noise[:, :]] if noise.dim() == 2 else list(noise), x
        self.cells = noise.shape[-1]

    def __getattr__(self, name):
        if name not in type(self).start:
            raise AttributeError(name)
        return pyro.param(name, torch.full((self.cells,), type(self).start[name]))

    def model(self):
        with pyro.plate("data", self.cells):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(self.w * z, SIGMA2**0.5), obs=torch.full((self.cells,), self.x))

    def guide(self):
        Drawn.noise = Drawn.noise or list(self.noise)
        with pyro.plate("data", self.cells):
            pyro.sample("z", Drawn(self.a * self.x, self.log_s.exp()))


def gradients(elbo, pair):
    """Of each cell: (parameters, cells)."""
    pyro.clear_param_store()
    Drawn.noise = []
    elbo.loss_and_grads(pair.model, pair.guide)
    store = pyro.get_param_store()
    found = [store[name].unconstrained().grad if name in store else None for name in pair.start]
    return -torch.stack([torch.zeros(pair.cells) if each is None else each for each in found])


def at_once(objective, num_particles=2, **kwargs):
    return objective(num_particles=num_particles, vectorize_particles=True, max_plate_nesting=1, **kwargs)


def log_weights(p, noise, *, lam=0.0, z=None, score=True):
    """Of the Line, with z as reparameterised noise, or given."""
    w, a, log_s = p
    if z is None:
        z = a * X + log_s.exp() * noise
    log_q = dist.Normal(a * X, log_s.exp()) if score else dist.Normal(a.detach() * X, log_s.detach().exp())
    log_x = dist.Normal(w * z, SIGMA2**0.5).log_prob(torch.tensor(X))
    return (1 + lam) * log_x + dist.Normal(0.0, 1.0).log_prob(z) - log_q.log_prob(z)


def expected_bound(p, noise, counts, *, lam=0.0, alpha=0.0):
    order = 1 - alpha
    logs = order * log_weights(p, noise, lam=lam)
    return (counts * (logs.logsumexp(0) - math.log(len(noise)))).sum() / order


def parameters(values=None):
    values = START.values() if values is None else values
    return [torch.tensor(each, requires_grad=True) for each in values]


def grid(size=161, end=9.0):
    """Pairs of points of the trapezoid rule, which wants no polynomials: (2, cells)."""
    points = torch.linspace(-end, end, size, dtype=torch.float64)
    weights = (-(points**2) / 2).exp() / (-(points**2) / 2).exp().sum()
    noise = torch.stack(torch.meshgrid(points, points, indexing="ij")).reshape(2, -1)
    return noise, (weights[:, None] * weights).reshape(-1)


PAIRS = grid()


@pytest.mark.parametrize("objective", [IWAE_InfoMaxELBO, DReG_InfoMaxELBO])
def test_expected_gradient_is_that_of_the_pin(objective):
    noise, counts = PAIRS
    found = (counts * gradients(at_once(objective), Line(noise))).sum(-1)
    assert (found - PIN).abs().max() < 1e-5
    p = parameters()
    bound = expected_bound(p, noise, counts)
    assert bound.item() == pytest.approx(BOUND, abs=1e-5)
    assert (found - torch.stack(torch.autograd.grad(bound, p))).abs().max() < 1e-7


def hooked(p, noise):
    """The hook form: the gradient by z is multiplied by the share, but the score is left in."""
    _, a, log_s = p
    z = a * X + log_s.exp() * noise
    shares = log_weights(p, noise).detach().softmax(0)
    z.register_hook(lambda slope: shares * slope)
    return (shares * log_weights(p, noise, z=z)).sum(0)


def score_dropped(p, noise):
    """Sticking the landing with normalised weights."""
    shares = log_weights(p, noise).detach().softmax(0)
    return (shares * log_weights(p, noise, score=False)).sum(0)


def not_detached(p, noise):
    logs = log_weights(p, noise)
    return (logs.softmax(0) * logs).sum(0)


def closed_form_within(p, noise):
    w, a, log_s = p
    z = a * X + log_s.exp() * noise
    log_x = dist.Normal(w * z, SIGMA2**0.5).log_prob(torch.tensor(X))
    rate = torch.distributions.kl_divergence(dist.Normal(a * X, log_s.exp()), dist.Normal(0.0, 1.0))
    return (log_x - rate).logsumexp(0) - math.log(len(noise))


@pytest.mark.parametrize(
    ("variant", "published"),
    [
        (hooked, (-0.0249, 0.196, -0.015)),
        (score_dropped, (-0.0249, 1.168, -0.468)),
        (not_detached, (0.173, 0.255, -0.006)),
        (closed_form_within, (-0.007, 0.989, -0.265)),
    ],
)
def test_wrong_variants_miss_the_pin(variant, published):
    noise, counts = PAIRS
    p = parameters()
    found = torch.stack(torch.autograd.grad((counts * variant(p, noise)).sum(), p))
    assert (found - torch.tensor(published)).abs().max() < 1e-3
    assert (found - PIN).abs().max() > 0.1


@pytest.mark.parametrize("lam", [0.0, 1.5])
def test_value_and_elbo_are_the_bound_and_not_the_mean_of_log_weights(lam):
    noise, counts = tuples(20, 2)
    for objective in (IWAE_InfoMaxELBO, DReG_InfoMaxELBO):
        elbo = at_once(objective, lam=lam)
        pair = Line(noise)
        loss = elbo.loss(pair.model, pair.guide)
        cells = [
            (log_weights(parameters(), noise, lam=each).logsumexp(0) - math.log(2)).sum() for each in (lam, 0)
        ]
        assert loss == pytest.approx(-cells[0].item(), rel=1e-12)
        assert elbo.terms.elbo == pytest.approx(cells[1].item(), rel=1e-12)
    logs = log_weights(parameters(), noise)
    published = (counts * (logs.softmax(0) * logs).sum(0)).sum().item()
    assert published == pytest.approx(-1.68898, abs=1e-4)
    assert published > LOG_P > BOUND


@pytest.mark.parametrize(("lam", "alpha"), [(1.5, 0.0), (-0.5, 0.0), (0.0, 0.5), (0.7, 2.0)])
def test_doubly_reparameterised_gradient_with_weights_and_of_other_orders(lam, alpha):
    noise, counts = PAIRS
    found = (counts * gradients(at_once(DReG_InfoMaxELBO, lam=lam, alpha=alpha), Line(noise))).sum(-1)
    p = parameters()
    expected = torch.autograd.grad(expected_bound(p, noise, counts, lam=lam, alpha=alpha), p)
    assert (found - torch.stack(expected)).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("objective", "weights"),
    [(STL_InfoMaxELBO, (2.5, 1.0)), (STL_BetaELBO, (1.0, 3.0)), (STL_BetaELBO, (1.0, 0.0))],
)
@pytest.mark.parametrize("as_tensor", [False, True])
def test_sticking_the_landing_has_the_weighted_gradient(objective, weights, as_tensor):
    """Of one draw: in expectation that of (1 + λ) D + R and of D + β R, in closed form."""
    noise, counts = tuples(20, 1)
    weight = weights[0] - 1 if objective is STL_InfoMaxELBO else weights[1]
    elbo = objective(torch.tensor(weight) if as_tensor else weight)
    found = (counts * gradients(elbo, Line(noise))).sum(-1)
    w, a, log_s = p = parameters()
    mean, variance = a * X, (2 * log_s).exp()
    distortion = ((X - w * mean) ** 2 + w**2 * variance) / (2 * SIGMA2)
    rate = 0.5 * (mean**2 + variance - 1) - log_s
    expected = torch.autograd.grad(-weights[0] * distortion - weights[1] * rate, p)
    assert (found - torch.stack(expected)).abs().max() < 1e-10
    plain = -elbo.terms.distortion - elbo.terms.rate
    assert elbo.terms.elbo == pytest.approx(plain, rel=1e-12)


def exact_posterior(lam=0.0):
    precision = 1 + (1 + lam) * 0.9**2 / SIGMA2
    return {"w": 0.9, "a": (1 + lam) * 0.9 / SIGMA2 / precision, "log_s": -0.5 * math.log(precision)}


@pytest.mark.parametrize(
    ("make", "lam"),
    [
        (lambda: at_once(DReG_InfoMaxELBO, 3), 0.0),
        (lambda: DReG_InfoMaxELBO(1.5, num_particles=3), 1.5),
        (STL_InfoMaxELBO, 0.0),
        (lambda: STL_BetaELBO(0.4), 1.5),
        (lambda: STL_BetaELBO(torch.tensor(0.4)), 1.5),
    ],
)
def test_no_gradient_at_any_draw_of_the_exact_posterior(make, lam, monkeypatch):
    monkeypatch.setattr(Line, "start", exact_posterior(lam))
    elbo = make()
    noise = torch.randn(elbo.num_particles, 50)
    model, *guide = gradients(elbo, Line(noise))
    assert max(each.abs().max() for each in guide) < 1e-12
    assert model.abs().max() > 0.1
    if lam == 0.0:
        _, *plain = gradients(at_once(IWAE_InfoMaxELBO, elbo.num_particles), Line(noise))
        assert min(each.abs().max() for each in plain) > 0.1


# ---- Guides whose draws depend on each other, and what is no density of a draw


class Chain(Line):
    """u → z in the guide, z → u in the model; the guide has what is no density of a draw, by variant."""

    start = {"w": 0.6, "a": 0.3, "log_s": -0.2, "b": 0.7, "c": 0.4, "log_t": 0.1}
    variant = "plain"

    def mask(self):
        return poutine.mask(mask=torch.tensor(self.variant != "masked"))

    def model(self):
        with pyro.plate("data", self.cells):
            with self.mask() if self.variant == "masked" else poutine.scale(scale=1.0):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
            v = pyro.sample("v", dist.Normal(z, 4.0)) if self.variant == "point" else 0.0
            u = pyro.sample("u", dist.Normal(self.w * z, 1.0))
            pyro.sample("x", dist.Normal(z + u + v, 4.0), obs=torch.full((self.cells,), self.x))

    def guide(self):
        Drawn.noise = Drawn.noise or list(self.noise)
        with pyro.plate("data", self.cells):
            u = pyro.sample("u", Drawn(self.a * self.x, self.log_s.exp()))
            if self.variant == "point":
                scale = 0.5 + self.c**2
                pyro.sample("v", dist.Delta(scale * u, log_density=-scale.log()))
                u = scale * u
            with self.mask() if self.variant == "masked" else poutine.scale(scale=1.0):
                slope = self.w if self.variant == "shared" else self.b
                z = pyro.sample("z", Drawn(slope * u, self.log_t.exp()))
            if self.variant == "factor":
                pyro.factor("f", 0.2 * self.c * z * u + self.b, has_rsample=True)


@pytest.mark.parametrize("variant", ["plain", "factor", "point", "masked", "shared"])
def test_draws_that_depend_on_each_other(variant, monkeypatch):
    """The expected gradient over all tuples of nodes is that of the plainly reparameterised bound."""
    monkeypatch.setattr(Chain, "variant", variant)
    noise, counts = tuples(12, 4)
    pair = Chain(noise.reshape(2, 2, -1))  # (sites, particles, cells)
    dreg = gradients(at_once(DReG_InfoMaxELBO), pair)
    plain = gradients(at_once(IWAE_InfoMaxELBO), pair)
    assert ((counts * (dreg - plain)).sum(-1)).abs().max() < 1e-4
    variance = [(counts * each**2).sum(-1) for each in (dreg, plain)]
    assert (variance[0] - variance[1]).abs().max() > 1e-2  # another estimator


def test_particles_one_by_one_and_at_once():
    noise = torch.randn(2, 3, 7)
    for objective in (IWAE_InfoMaxELBO, DReG_InfoMaxELBO, TVO_InfoMaxELBO):
        kinds = []
        for pair, elbo in (
            (Chain(noise), at_once(objective, 3)),
            (Chain(noise.transpose(0, 1).reshape(6, 1, 7)), objective(num_particles=3)),
        ):
            kinds.append((gradients(elbo, pair), torch.tensor([*elbo.terms.values()])))
        for one, other in zip(*kinds, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "make",
    [
        lambda: IWAE_InfoMaxELBO(0.5, num_particles=4),
        lambda: DReG_InfoMaxELBO(0.5, num_particles=4),
        lambda: VIMCO_InfoMaxELBO(0.5, num_particles=4),
        lambda: TVO_InfoMaxELBO(0.5, num_particles=4),
        lambda: STL_BetaELBO(0.5),
        lambda: RWS_InfoMaxELBO(0.5, num_particles=4),
        lambda: WakeSleepELBO(num_particles=4),
        lambda: ReverseKL(num_simulations=2),
    ],
)
def test_scales_stay_outside_of_the_mean(make):
    """A plate that subsamples, and a scale around all, multiply bound, terms and gradient."""
    x = torch.tensor([0.7, -1.2])

    def evaluated(size, scale):
        def rows():
            return pyro.plate("data", size, subsample=torch.arange(2))

        def model(x):
            with poutine.scale(scale=scale), rows():
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(pyro.param("w", torch.tensor(0.8)) * z, 1.0), obs=x)

        def guide(x):
            with poutine.scale(scale=scale), rows():
                pyro.sample("z", dist.Normal(pyro.param("a", torch.tensor(0.3)) * x, 0.9))

        pyro.clear_param_store()
        torch.manual_seed(3)
        elbo = make()
        loss = elbo.loss_and_grads(model, guide, x)
        slopes = [pyro.param(name).grad for name in ("w", "a")]
        return torch.tensor([loss, *elbo.terms.values(), *(0.0 if each is None else each for each in slopes)])

    torch.testing.assert_close(evaluated(10, 3.0), 15 * evaluated(2, 1.0), rtol=1e-10, atol=1e-10)


# ---- Discrete draws: all tuples of values


TABLES = {
    "prior": [0.5, 0.3, 0.2],
    "likelihood": [[0.7, 0.3], [0.2, 0.8], [0.5, 0.5]],
    "encoder": [[0.5, 0.3, 0.2], [0.2, 0.6, 0.2]],
}
DISCRETE = DiscreteVAE(**TABLES)


class Chosen(dist.Categorical):
    """Draws what it is told to, (particles, cells)."""

    values = torch.zeros(0)

    def sample(self, sample_shape=()):
        return Chosen.values


class Table:
    """The symbol 0 of the tables, with the parameters of each cell."""

    start = {"decoder": DISCRETE.likelihood.log(), "encoder": DISCRETE.encoder[0].log()}

    def __init__(self, num_particles):
        values = torch.tensor(list(itertools.product(range(3), repeat=num_particles))).T  # (particles, cells)
        self.cells = values.shape[1]
        Chosen.values = values

    def param(self, name):
        start = self.start[name]
        return pyro.param(name, start.expand(self.cells, *start.shape).clone())

    def model(self):
        with pyro.plate("data", self.cells):
            z = pyro.sample("z", dist.Categorical(DISCRETE.prior))
            logits = self.param("decoder")[torch.arange(self.cells), z]
            pyro.sample("x", dist.Categorical(logits=logits), obs=torch.zeros(self.cells, dtype=torch.long))

    def guide(self):
        with pyro.plate("data", self.cells):
            pyro.sample("z", Chosen(logits=self.param("encoder")))

    def expected_gradient(self, elbo):
        """Over all tuples: of decoder and encoder, in one vector."""
        pyro.clear_param_store()
        elbo.loss_and_grads(self.model, self.guide)
        counts = DISCRETE.encoder[0][Chosen.values].prod(0)  # (cells,)
        slopes = [pyro.param(name).grad for name in self.start]
        slopes = [
            torch.zeros(self.cells, 9 if k == 0 else 3) if s is None else s for k, s in enumerate(slopes)
        ]
        return -torch.cat([(counts * each.reshape(self.cells, -1).T).sum(-1) for each in slopes])


def tuple_log_weights(decoder, encoder, lam, num_particles):
    """log w and q of all tuples of draws."""
    log_q = encoder.log_softmax(-1)
    logs = (1 + lam) * decoder.log_softmax(-1)[:, 0] + DISCRETE.prior.log() - log_q
    index = torch.tensor(list(itertools.product(range(3), repeat=num_particles))).T
    return logs[index], log_q.exp()[index].prod(0)


def left_sum(logs, betas):
    widths = [high - low for low, high in itertools.pairwise(betas)]
    means = [((beta * logs).softmax(0) * logs).sum(0) for beta in betas[:-1]]
    return sum(width * mean for width, mean in zip(widths, means, strict=True))


def importance_weighted(logs):
    return logs.logsumexp(0) - math.log(len(logs))


BETAS = (0.0, 0.2, 0.6, 1.0)


def gradient_of_expectation(bound, lam, num_particles):
    p = [each.clone().requires_grad_() for each in Table.start.values()]
    logs, q = tuple_log_weights(*p, lam, num_particles)
    value = (q * bound(logs)).sum()
    return value, torch.cat([each.reshape(-1) for each in torch.autograd.grad(value, p)])


@pytest.mark.parametrize(("num_particles", "lam"), [(2, 0.0), (2, 1.5), (4, -0.4)])
def test_expected_gradients_over_all_tuples_of_draws(num_particles, lam):
    pair = Table(num_particles)
    for elbo, bound in (
        (at_once(VIMCO_InfoMaxELBO, num_particles, lam=lam), importance_weighted),
        (
            at_once(TVO_InfoMaxELBO, num_particles, lam=lam, betas=BETAS),
            lambda logs: left_sum(logs, BETAS),
        ),
    ):
        _, expected = gradient_of_expectation(bound, lam, num_particles)
        assert (pair.expected_gradient(elbo) - expected).abs().max() < 1e-12


def test_pyros_renyi_bound_of_discrete_draws_and_a_baseline_with_its_own_draw_miss():
    _, expected = gradient_of_expectation(importance_weighted, 0.0, 2)
    found = Table(2).expected_gradient(
        RenyiELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1)
    )
    assert expected[-3:].abs().max() > 0.01
    assert (found[-3:] == 0).all()
    logs, q = tuple_log_weights(*Table.start.values(), 0.0, 2)
    slopes = torch.eye(3)[Chosen.values] - DISCRETE.encoder[0]  # of log q, (particles, cells, 3)
    gains = importance_weighted(logs) - logs.mean(0)  # the baseline of all draws
    biased = (
        q[:, None] * (gains[:, None] * slopes.sum(0) - (logs.softmax(0)[..., None] * slopes).sum(0))
    ).sum(0)
    assert (biased - expected[-3:]).abs().max() > 0.01


# ---- The thermodynamic bound


def test_covariance_estimator_of_two_draws_is_biased_for_the_guide_alone():
    """As published, with self-normalised weights in expectation and covariance."""
    logs, q = tuple_log_weights(*Table.start.values(), 0.0, 2)
    slopes = torch.eye(3)[Table(2) and Chosen.values] - DISCRETE.encoder[0]  # (particles, cells, 3)
    found = torch.zeros(3)
    for low, high in itertools.pairwise(BETAS):
        shares = (low * logs).softmax(0)
        spread = shares * (logs - (shares * logs).sum(0))
        each = -shares[..., None] * slopes + spread[..., None] * (1 - low) * slopes
        found = found + (high - low) * (q[:, None] * each.sum(0)).sum(0)
    _, expected = gradient_of_expectation(lambda logs: left_sum(logs, BETAS), 0.0, 2)
    assert (found - expected[-3:]).abs().max() > 0.01


def test_left_and_right_sums_are_those_of_a_gaussian_path_and_bound_the_evidence():
    r"""π_β is Normal and log w quadratic in z, so that E log w is closed; the draws are 20,001 quantiles."""
    w, a, s2 = 0.9, 0.3 * X, 0.81
    betas = torch.tensor([0.0, 0.05, 0.2, 0.5, 1.0])
    precision = (1 - betas) / s2 + betas * (1 + w**2 / SIGMA2)
    mean = ((1 - betas) * a / s2 + betas * w * X / SIGMA2) / precision
    square = 1 / precision + mean**2
    log_x = -0.5 * math.log(2 * math.pi * SIGMA2) - (X**2 - 2 * w * X * mean + w**2 * square) / (2 * SIGMA2)
    log_ratio = 0.5 * math.log(s2) - square / 2 + (square - 2 * a * mean + a**2) / (2 * s2)
    means, widths = log_x + log_ratio, betas.diff()
    assert (means.diff() > 0).all()
    left, right = (widths * means[:-1]).sum().item(), (widths * means[1:]).sum().item()
    assert left < LOG_P < right

    size = 20001
    noise = dist.Normal(0.0, 1.0).icdf((torch.arange(size) + 0.5) / size)[:, None]
    elbo = at_once(TVO_InfoMaxELBO, size, betas=betas.tolist())
    pair = Line(noise)
    assert elbo.loss(pair.model, pair.guide) == pytest.approx(-left, abs=2e-4)
    assert elbo.terms.elbo == pytest.approx(left, abs=2e-4)
    assert elbo.terms.right_sum == pytest.approx(right, abs=2e-4)


def test_sums_of_any_draws_are_below_and_above_their_importance_weighted_bound():
    noise = torch.randn(3, 200)
    pair = Line(noise)
    bounds = []
    for elbo in (at_once(TVO_InfoMaxELBO, 3), at_once(IWAE_InfoMaxELBO, 3)):
        elbo.loss(pair.model, pair.guide)
        bounds.append(elbo.terms)
    plain = -bounds[0].distortion - bounds[0].rate
    assert plain < bounds[0].elbo < bounds[1].elbo < bounds[0].right_sum
    two_points = at_once(TVO_InfoMaxELBO, 3, betas=(0, 1))
    two_points.loss(pair.model, pair.guide)
    assert two_points.terms.elbo == pytest.approx(plain, rel=1e-12)
    # few draws: the right sum is no bound on the evidence
    assert bounds[0].right_sum / 200 < LOG_P


@pytest.mark.parametrize("objective", [VIMCO_InfoMaxELBO, Renyi_InfoMaxELBO])
@pytest.mark.parametrize("num_particles", [2, 3])
def test_impossible_draws_leave_the_gradient_unbiased(objective, num_particles):
    """Where the bound of draws that are all impossible is 0 in place of −∞, to have an expectation at all."""
    pair = Table(num_particles)
    possible = torch.tensor([True, False, True])

    def model():
        with pyro.plate("data", pair.cells):
            z = pyro.sample("z", dist.Categorical(DISCRETE.prior))
            log_x = pair.param("decoder").log_softmax(-1)[torch.arange(pair.cells), z, 0]
            pyro.factor("x", torch.where(possible[z], log_x, -math.inf))

    pyro.clear_param_store()
    elbo = at_once(objective, num_particles, lam=0.0)
    surrogate_loss(elbo, model, pair.guide).surrogate.backward()
    known = possible[Chosen.values].any(0)  # (cells,)
    counts = DISCRETE.encoder[0][Chosen.values].prod(0)[known]
    found = -(counts * pyro.param("encoder").grad[known].T).sum(-1)
    assert (pyro.param("encoder").grad[~known] == 0).all()
    assert (pyro.param("decoder").grad[~known] == 0).all()
    with pytest.warns(UserWarning, match="infinite loss of .*, and the gradient is infinite or leaves"):
        assert elbo.loss_and_grads(model, pair.guide) == math.inf

    decoder, encoder = pair.start["decoder"], pair.start["encoder"].clone().requires_grad_()
    logs, q = tuple_log_weights(decoder, encoder, 0.0, num_particles)
    logs = torch.where(possible[Chosen.values], logs, -math.inf)[:, known]
    (expected,) = torch.autograd.grad((q[known] * importance_weighted(logs)).sum(), encoder)
    assert (found - expected).abs().max() < 1e-12


# ---- Refusals


def continuous(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        w = pyro.param("w", torch.tensor([[0.8, 0.1], [-0.3, 0.5], [0.2, 0.9]]))
        pyro.sample("x", dist.Normal(z @ w.T, 0.7).to_event(1), obs=x)


def amortised(x):
    with pyro.plate("data", len(x)):
        v = pyro.param("v", 0.1 * torch.ones(3, 2))
        pyro.sample("z", dist.Normal(x @ v, pyro.param("s", torch.zeros(2)).exp()).to_event(1))


def counts(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.3, 0.2])))
        means = pyro.param("means", torch.tensor([[-1.0, 0.0, 1.0]] * 3))
        pyro.sample("x", dist.Normal(means[z], 0.7).to_event(1), obs=x)


def classified(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Categorical(logits=x @ pyro.param("v", 0.1 * torch.ones(3, 3))))


def with_factor(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x @ pyro.param("v", 0.1 * torch.ones(3, 2)), 1.0).to_event(1))
        pyro.factor("u", z.sum(-1), has_rsample=True)


def flowing(x):
    flow = pyro.module("flow", dist.transforms.Planar(2).double())
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.TransformedDistribution(dist.Normal(x[:, :2], 1.0).to_event(1), [flow]))


def at_points(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Delta(x @ pyro.param("v", 0.1 * torch.ones(3, 2))).to_event(1))


@pytest.mark.parametrize(
    ("elbo", "model", "guide", "sentence"),
    [
        (
            IWAE_InfoMaxELBO(),
            DISCRETE.model,
            DISCRETE.guide,
            "'z' .Categorical. is not; use VIMCO_InfoMaxELBO",
        ),
        (
            DReG_InfoMaxELBO(),
            DISCRETE.model,
            DISCRETE.guide,
            "'z' .Categorical. is not; use VIMCO_InfoMaxELBO",
        ),
        (STL_BetaELBO(), DISCRETE.model, DISCRETE.guide, "'z' .Categorical. is not; use VIMCO_InfoMaxELBO"),
        (DReG_InfoMaxELBO({"z": 1.0}), continuous, amortised, "cannot weigh the latent site 'z' exactly"),
        (TVO_InfoMaxELBO({"z": 1.0}), continuous, amortised, "cannot weigh the latent site 'z' exactly"),
        (DReG_InfoMaxELBO(), continuous, AutoNormalMessenger(continuous), "AutoNormalMessenger, a messenger"),
        (TVO_InfoMaxELBO(), continuous, AutoNormalMessenger(continuous), "AutoNormalMessenger, a messenger"),
        (
            TVO_InfoMaxELBO(),
            continuous,
            with_factor,
            "the guide has 'u' beside them; use IWAE_InfoMaxELBO",
        ),
        (TVO_InfoMaxELBO(), continuous, at_points, "point mass there; use IWAE_InfoMaxELBO"),
        (DReG_InfoMaxELBO(), continuous, flowing, "its flow needs an inverse: use one that has it"),
        (TVO_InfoMaxELBO(), continuous, flowing, "its flow needs an inverse: use one that has it"),
        (RWS_InfoMaxELBO(), continuous, flowing, "its flow needs an inverse: use one that has it"),
    ],
)
def test_what_is_refused(programs, elbo, model, guide, sentence):
    x = torch.tensor([0, 1]) if model == DISCRETE.model else torch.randn(2, 3)
    programs.assert_refused(NotImplementedError, sentence, elbo.loss_and_grads, model, guide, x)


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (
            lambda: STL_InfoMaxELBO(num_particles=2),
            NotImplementedError,
            "one particle but got 2.*DReG_InfoMaxELBO",
        ),
        (
            lambda: STL_BetaELBO(num_particles=5),
            NotImplementedError,
            "one particle but got 5.*DReG_InfoMaxELBO",
        ),
        (
            lambda: VIMCO_InfoMaxELBO(num_particles=1),
            ValueError,
            "num_particles to be an integer >= 2 but got 1",
        ),
        (
            lambda: TVO_InfoMaxELBO(num_particles=1),
            ValueError,
            "num_particles to be an integer >= 2 but got 1",
        ),
        (lambda: IWAE_InfoMaxELBO(alpha=0.5), TypeError, "no alpha; use DReG_InfoMaxELBO or Renyi"),
        (lambda: STL_BetaELBO(alpha=0.5), TypeError, "no alpha, since all bounds of one draw"),
        (lambda: TVO_InfoMaxELBO(betas=(0.0, 0.5)), ValueError, "betas that rise from 0 to 1"),
        (lambda: TVO_InfoMaxELBO(betas=(0.0, 0.5, 0.5, 1.0)), ValueError, "betas that rise from 0 to 1"),
    ],
)
def test_what_arguments_are_refused(make, error, sentence):
    with pytest.raises(error, match=sentence):
        make()


@pytest.mark.parametrize("name", ["IWAE", "DReG", "VIMCO", "TVO"])
def test_a_weight_on_the_rate_within_a_mean_does_not_exist(name):
    from pyro_infomax import infer

    with pytest.raises(
        NotImplementedError, match=f"{name}_BetaELBO does not exist: .* use {name}_InfoMaxELBO"
    ):
        getattr(infer, f"{name}_BetaELBO")


# ---- Training

TRAINED = {
    "IWAE": lambda: IWAE_InfoMaxELBO(num_particles=3),
    "DReG": lambda: DReG_InfoMaxELBO(Linear(0.0, 1.0, 6), num_particles=3, vectorize_particles=True),
    "STL": lambda: STL_BetaELBO(Linear(0.2, 1.0, 6)),
    "TVO": lambda: TVO_InfoMaxELBO(num_particles=3, vectorize_particles=True),
    "VIMCO": lambda: VIMCO_InfoMaxELBO(num_particles=3),
}


@pytest.mark.parametrize("name", TRAINED)
def test_training_with_ordinary_and_captured_steps_is_one(name, tmp_path):
    data = torch.randn(12, 3)
    model, guide = (counts, classified) if name == "VIMCO" else (continuous, amortised)
    found = []
    for kind in (SVI, CapturedSVI):
        pyro.clear_param_store()
        torch.manual_seed(0)
        elbo = TRAINED[name]()
        svi = kind(model, guide, FusedOptim(torch.optim.Adam, {"lr": 0.01}), elbo)
        history = fit(
            svi, data, epochs=3, batch_size=4, progress=False, seed=0, checkpoint=tmp_path / kind.__name__
        )
        found.append((history.to_frame(), elbo))
    assert svi.captured, svi.reason
    (frame, elbo), (captured, other) = found
    columns = ["loss", "distortion", "rate", "elbo", *(["right_sum"] if name == "TVO" else [])]
    np.testing.assert_allclose(captured[columns], frame[columns], rtol=1e-9)
    assert elbo.state_dict() == other.state_dict() == {"step": 9}
    if name == "DReG":
        decompose(model, guide, data, seed=0)
        to_arviz(model, guide, data, num_samples=3, history=history, seed=0)


OBJECTIVES = [*list(TRAINED.values())[:4], ReverseKL, WakeSleepELBO, RWS_InfoMaxELBO, Renyi_InfoMaxELBO]


def noting(x):
    with pyro.plate("data", len(x)):
        loc = pyro.deterministic("loc", x @ pyro.param("v", 0.1 * torch.ones(3, 2)), event_dim=1)
        pyro.sample("z", dist.Normal(loc, pyro.param("s", torch.zeros(2)).exp()).to_event(1))


@pytest.mark.parametrize("make", OBJECTIVES)
def test_what_a_guide_computes_has_no_part(make):
    x = torch.randn(4, 3)
    found = []
    for guide in (amortised, noting):
        pyro.clear_param_store()
        elbo = make()
        with pyro.validation_enabled(False):  # where Pyro would warn of a site that the model lacks
            elbo.loss(continuous, guide, x)
            torch.manual_seed(2)
            loss = elbo.loss_and_grads(continuous, guide, x)
        found.append(torch.tensor([loss, *elbo.terms.values(), *pyro.param("v").grad.flatten()]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", OBJECTIVES)
def test_all_evaluations_are_one(make):
    """Of loss and terms, and of gradients by ``loss_and_grads``, a differentiable loss and a surrogate."""
    x = torch.randn(4, 3)
    elbo = make()
    elbo.loss(continuous, amortised, x)  # counts the plates
    names, found = sorted(pyro.get_param_store()), []
    for evaluate in (
        elbo.loss_and_grads,
        elbo.differentiable_loss,
        lambda *args: surrogate_loss(elbo, *args),
    ):
        for name in names:
            pyro.param(name).unconstrained().grad = None
        torch.manual_seed(2)
        elbo.load_state_dict({"step": 3})
        value = evaluate(continuous, amortised, x)
        if not isinstance(value, float):
            getattr(value, "surrogate", value).backward()
        value = float(torch.as_tensor(getattr(value, "loss", value)).detach())
        slopes = [pyro.param(name).unconstrained().grad for name in names]
        found.append(torch.cat([torch.zeros(1) if each is None else each.flatten() for each in slopes]))
        found[-1] = torch.cat([found[-1], torch.tensor([value, *elbo.terms.values()])])
    torch.testing.assert_close(found[1], found[0], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(found[2], found[0], rtol=1e-11, atol=1e-11)


def test_a_surrogate_has_value_and_terms_of_the_evaluation():
    x = torch.randn(4, 3)
    for make in OBJECTIVES:
        elbo = make()
        elbo.loss(continuous, amortised, x)
        torch.manual_seed(2)
        loss = elbo.loss(continuous, amortised, x)
        terms = dict(elbo.terms)
        torch.manual_seed(2)
        found = surrogate_loss(elbo, continuous, amortised, x)
        assert found.loss.item() == pytest.approx(loss, rel=1e-12)
        assert {n: t.item() for n, t in found.terms.items()} == pytest.approx(
            {n: v for n, v in terms.items() if n != "loss"}, rel=1e-12
        )


def test_at_the_posterior_each_bound_is_the_evidence_at_every_draw():
    pair = LinearGaussian(S=[2.0], W=[[1.0]], s2=1.0, V=[[0.5]], Delta=[0.5])
    x = pair.sample(20)
    log_p = dist.Normal(0.0, 2.0**0.5).log_prob(x).sum().item()
    for elbo in (DReG_InfoMaxELBO(), TVO_InfoMaxELBO(), STL_InfoMaxELBO(), Renyi_InfoMaxELBO(0.0)):
        assert elbo.loss(pair.model, pair.guide, x) == pytest.approx(-log_p, abs=1e-9)


@pytest.mark.parametrize(
    ("make", "beta"),
    [
        (lambda: STL_InfoMaxELBO(), 1.0),
        (lambda: STL_BetaELBO(2.0), 2.0),
        (lambda: DReG_InfoMaxELBO(1.0, num_particles=4, vectorize_particles=True), 0.5),
    ],
)
def test_training_lands_on_the_posterior_and_stays(make, beta):
    """The optimal guide of a decoder of variance σ² is the posterior of one of variance βσ²."""
    precision = 1 + 0.9**2 / (beta * SIGMA2)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(0.9 * z, SIGMA2**0.5), obs=x)

    def guide(x):
        a, log_s = pyro.param("a", torch.tensor(0.2)), pyro.param("log_s", torch.tensor(0.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(a * x, log_s.exp()))

    x = 2.0 * torch.randn(30)
    svi = CapturedSVI(model, guide, FusedOptim(torch.optim.Adam, {"lr": 0.03}), make())
    for _ in range(400):
        svi.step(x)
    assert pyro.param("a").item() == pytest.approx(0.9 / (beta * SIGMA2) / precision, abs=1e-4)
    assert pyro.param("log_s").item() == pytest.approx(-0.5 * math.log(precision), abs=1e-4)


def test_a_mask_within_a_distribution_leaves_the_score_of_its_draws():
    keep, x = torch.tensor([True, False, False]), torch.tensor([0.3, -1.0, 2.0])

    def gradient(draw):
        pyro.clear_param_store()

        def model(x):
            with pyro.plate("data", len(x)):
                z = draw(dist.Bernoulli(torch.full((len(x),), 0.4)))
                pyro.sample("x", dist.Normal(2 * z, 1.0), obs=x)

        def guide(x):
            logits = pyro.param("logits", torch.tensor([0.2, -0.3, 0.5]))
            with pyro.plate("data", len(x)):
                draw(dist.Bernoulli(logits=logits))

        torch.manual_seed(0)
        TVO_InfoMaxELBO(num_particles=4).loss_and_grads(model, guide, x)
        return pyro.param("logits").unconstrained().grad

    def around(fn):
        with pyro.poutine.mask(mask=keep):
            return pyro.sample("z", fn)

    within = gradient(lambda fn: pyro.sample("z", fn.mask(keep)))
    torch.testing.assert_close(within, gradient(around))
    assert float(within[1:].abs().min()) > 0
