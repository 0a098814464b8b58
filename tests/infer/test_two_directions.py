"""Sleep, wake–sleep and harmony: exact values and gradients, whose parameters they train, and failures."""

import copy
import gc
import itertools
import math
import pickle
import weakref

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, ReweightedWakeSleep
from pyro.infer.autoguide import AutoNormal, AutoNormalMessenger
from pyro.infer.reparam import LocScaleReparam

from pyro_infomax import CapturedSVI, FusedOptim, decompose, fit
from pyro_infomax.infer import HarmonyELBO, ReverseKL, RWS_InfoMaxELBO, TVO_InfoMaxELBO, WakeSleepELBO
from pyro_infomax.oracles import DiscreteVAE, LinearGaussian
from pyro_infomax.schedules import Linear

# ---- The line, x = w z + noise, with draws at the nodes of a quadrature.

SIGMA2 = 0.5
START = {"w": 0.9, "a": 0.3, "log_s": math.log(0.9)}


class AtNodes(dist.Normal):
    """Takes its noise from what is given, however it is expanded."""

    def __init__(self, loc, scale, noise):
        super().__init__(loc, scale)
        self.noise = noise

    def expand(self, batch_shape, _instance=None):
        return AtNodes(self.loc.expand(batch_shape), self.scale.expand(batch_shape), self.noise)

    def rsample(self, sample_shape=()):
        return self.loc + self.scale * self.noise


def at(noise, loc, scale):
    return AtNodes(torch.as_tensor(loc).expand(noise.shape), torch.as_tensor(scale), noise)


def nodes_and_weights(size):
    nodes, weights = np.polynomial.hermite_e.hermegauss(size)
    return torch.tensor(nodes), torch.tensor(weights / weights.sum())


class Line:
    """z ~ N(0, 1), x ~ N(w z, σ²) and the guide z ~ N(a x, s²); each cell counts for its nodes' weight."""

    def __init__(self, size=8):
        nodes, weights = nodes_and_weights(size)
        self.first, self.second = (each.reshape(-1) for each in torch.meshgrid(nodes, nodes, indexing="ij"))
        self.counts = (weights[:, None] * weights).reshape(-1)

    def param(self, name):
        return pyro.param(name, torch.tensor(START[name]))

    def model(self, x):
        with poutine.scale(scale=self.counts), pyro.plate("data", len(x)):
            z = pyro.sample("z", at(self.first, 0.0, 1.0))
            pyro.sample("x", at(self.second, self.param("w") * z, SIGMA2**0.5), obs=x)

    def guide(self, x):
        with poutine.scale(scale=self.counts), pyro.plate("data", len(x)):
            pyro.sample("z", at(self.first, self.param("a") * x, self.param("log_s").exp()))


def gradients(elbo, pair, *args, names=START):
    pyro.clear_param_store()
    loss = elbo.loss_and_grads(pair.model, pair.guide, *args)
    store = pyro.get_param_store()
    return loss, {name: store[name].unconstrained().grad for name in names}


def sleep_loss(w, a, log_s):
    """−E log q(z|x) under the model, where z − a x is Normal."""
    variance = (1 - a * w) ** 2 + a**2 * SIGMA2
    return 0.5 * math.log(2 * math.pi) + log_s + 0.5 * variance * (-2 * log_s).exp()


def parameters():
    return [torch.tensor(each, requires_grad=True) for each in START.values()]


def test_sleep_has_the_closed_value_and_gradient_and_trains_the_guide_alone():
    pair = Line()
    x = torch.linspace(3.0, 5.0, 64)  # unlike what the model makes up
    loss, found = gradients(ReverseKL(), pair, x)
    p = parameters()
    expected = sleep_loss(*p)
    _, *slopes = torch.autograd.grad(expected, p)
    assert loss == pytest.approx(expected.item(), abs=1e-12)
    assert found["w"] is None
    assert torch.stack([found["a"], found["log_s"]]).sub(torch.stack(slopes)).abs().max() < 1e-12


def test_sleep_rests_at_the_exact_posterior_whatever_the_data_are(monkeypatch):
    precision = 1 + 0.9**2 / SIGMA2
    posterior = {"w": 0.9, "a": 0.9 / SIGMA2 / precision, "log_s": -0.5 * math.log(precision)}
    monkeypatch.setitem(START, "a", posterior["a"])
    monkeypatch.setitem(START, "log_s", posterior["log_s"])
    elbo = ReverseKL(num_simulations=2)
    loss, found = gradients(elbo, Line(), torch.full((64,), -7.0))
    assert abs(found["a"]) < 1e-12
    assert abs(found["log_s"]) < 1e-12
    assert loss == pytest.approx(0.5 * math.log(2 * math.pi * math.e / precision), abs=1e-12)
    # the terms are those of the given data
    log_p = dist.Normal(0.0, (0.9**2 + SIGMA2) ** 0.5).log_prob(torch.tensor(-7.0)).item()
    assert elbo.terms.elbo == pytest.approx(log_p, abs=1e-9)
    assert elbo.terms.sleep == loss


def test_wake_and_sleep_train_a_program_each():
    pair = Line(16)
    x = torch.full((256,), 1.3)
    elbo = WakeSleepELBO()
    loss, found = gradients(elbo, pair, x)
    p = w, a, log_s = parameters()
    mean, variance = a * 1.3, (2 * log_s).exp()
    distortion = ((1.3 - w * mean) ** 2 + w**2 * variance) / (2 * SIGMA2) + 0.5 * math.log(
        2 * math.pi * SIGMA2
    )
    rate = 0.5 * (mean**2 + variance - 1) - log_s
    (of_model,) = torch.autograd.grad(distortion, [w], retain_graph=True)
    _, *of_guide = torch.autograd.grad(sleep_loss(*p), p)
    expected = torch.stack([of_model, *of_guide])
    assert (torch.stack([*found.values()]) - expected).abs().max() < 1e-10
    assert elbo.terms.elbo == pytest.approx(-(distortion + rate).item(), abs=1e-10)
    assert loss == pytest.approx((distortion + rate + sleep_loss(*p)).item(), abs=1e-10)
    # what the ELBO would do with the guide, and sleep with the model, is something else
    leaking = torch.stack(torch.autograd.grad(distortion + rate, p, retain_graph=True)) - expected
    assert leaking[1:].abs().min() > 0.1


@pytest.mark.parametrize("dim", [1, 3])
def test_sleep_of_a_linear_gaussian_pair_from_its_own_data(dim):
    torch.manual_seed(dim)
    W, V = torch.randn(4, dim), 0.3 * torch.randn(dim, 4)
    Delta = torch.diag(torch.rand(dim) + 0.5)
    pair = LinearGaussian(S=9.0 * torch.ones(4), W=W, s2=0.7, V=V, Delta=Delta)
    rest = torch.eye(dim) - V @ W
    spread = rest @ rest.T + 0.7 * V @ V.T
    expected = 0.5 * (dim * math.log(2 * math.pi) + Delta.logdet() + (spread / Delta.diagonal()).trace())
    elbo = ReverseKL()
    losses = torch.tensor([elbo.loss(pair.model, pair.guide, pair.sample(1000)) / 1000 for _ in range(20)])
    assert abs(losses.mean() - expected) < 5 * losses.std() / 20**0.5


# ---- Discrete pairs: all values of both sites, or all tuples of draws

TABLES = {
    "prior": [0.5, 0.3, 0.2],
    "likelihood": [[0.7, 0.3], [0.2, 0.8], [0.5, 0.5]],
    "encoder": [[0.5, 0.3, 0.2], [0.2, 0.6, 0.2]],
}
DISCRETE = DiscreteVAE(**TABLES)


class Chosen(dist.Categorical):
    """Draws the values that it is given, however it is expanded."""

    def __init__(self, values, logits):
        super().__init__(logits=logits)
        self.values = values

    def expand(self, batch_shape, _instance=None):
        return Chosen(self.values, self.logits.expand(*batch_shape, -1))

    def sample(self, sample_shape=()):
        return self.values


def test_sleep_of_a_discrete_pair_by_enumeration():
    """The cells are all values of z and x, each with its probability under the model."""
    z, x = (torch.tensor(each) for each in zip(*itertools.product(range(3), range(2)), strict=True))
    counts = DISCRETE.generative_joint.T.reshape(-1)

    class Pair:
        def model(self, data):
            with poutine.scale(scale=counts), pyro.plate("data", 6):
                logits = pyro.param("decoder", DISCRETE.likelihood.log())
                s = pyro.sample("z", Chosen(z, DISCRETE.prior.log().expand(6, 3)))
                pyro.sample("x", Chosen(x, logits[s]), obs=data)

        def guide(self, data):
            with poutine.scale(scale=counts), pyro.plate("data", 6):
                pyro.sample("z", dist.Categorical(logits=pyro.param("encoder", DISCRETE.encoder.log())[data]))

    loss, found = gradients(
        ReverseKL(), Pair(), torch.zeros(6, dtype=torch.long), names=("decoder", "encoder")
    )
    logits = DISCRETE.encoder.log().requires_grad_()
    expected = -(DISCRETE.generative_joint * logits.log_softmax(-1)).sum()
    assert loss == pytest.approx(expected.item(), abs=1e-12)
    assert found["decoder"] is None
    assert (found["encoder"] - torch.autograd.grad(expected, logits)[0]).abs().max() < 1e-12


class Relaxed(dist.OneHotCategorical):
    """The same draws with a gradient."""

    has_rsample = True

    def rsample(self, sample_shape=()):
        return super().sample(sample_shape) + (self.probs - self.probs.detach())

    sample = rsample


def test_relaxed_draws_are_taken_as_the_discrete_ones_that_they_are():
    """No gradient goes through them, so that they make no difference, draw by draw."""

    def of_clusters(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(logits=torch.tensor([0.2, 0.0, -0.3])))
            pyro.sample("x", dist.Normal(z @ pyro.param("m", torch.tensor([-1.0, 0.0, 1.0])), 0.7), obs=x)

    def by(family):
        def guide(x):
            with pyro.plate("data", len(x)):
                logits = pyro.param("b", torch.tensor([-0.5, 0.0, 0.5])) * x[:, None]
                pyro.sample("z", family(logits=logits))

        return guide

    x = torch.randn(5)
    for make in (ReverseKL, WakeSleepELBO, RWS_InfoMaxELBO, TVO_InfoMaxELBO):
        found = []
        for family in (dist.OneHotCategorical, Relaxed):
            pyro.clear_param_store()
            torch.manual_seed(4)
            elbo = make()
            loss = elbo.loss_and_grads(of_clusters, by(family), x)
            slopes = [pyro.param(name).grad for name in ("m", "b")]
            found.append(
                torch.cat([torch.tensor([loss]), *(torch.zeros(3) if s is None else s for s in slopes)])
            )
        torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-12)


class Tuples:
    """The datum 0 with all tuples of draws, with parameters for each."""

    def __init__(self, num_particles):
        self.values = torch.tensor(list(itertools.product(range(3), repeat=num_particles))).T
        self.cells = self.values.shape[1]
        self.counts = DISCRETE.encoder[0][self.values].prod(0)

    def model(self):
        logits = pyro.param("decoder", DISCRETE.likelihood.log().expand(self.cells, 3, 2).clone())
        with pyro.plate("data", self.cells):
            z = pyro.sample("z", dist.Categorical(DISCRETE.prior))
            logits = logits[torch.arange(self.cells), z]
            pyro.sample("x", dist.Categorical(logits=logits), obs=torch.zeros(self.cells, dtype=torch.long))

    def guide(self):
        logits = pyro.param("encoder", DISCRETE.encoder[0].log().expand(self.cells, 3).clone())
        with pyro.plate("data", self.cells):
            pyro.sample("z", Chosen(self.values, logits.expand(*self.values.shape, 3)))


@pytest.mark.parametrize(("num_particles", "lam"), [(2, 0.0), (3, 1.5)])
def test_reweighted_gradients_over_all_tuples_of_draws(num_particles, lam):
    pair = Tuples(num_particles)
    elbo = RWS_InfoMaxELBO(lam, num_particles=num_particles, vectorize_particles=True, max_plate_nesting=1)
    loss, found = gradients(elbo, pair, names=("decoder", "encoder"))
    found = [(pair.counts * each.movedim(0, -1)).sum(-1) for each in found.values()]
    decoder, encoder = DISCRETE.likelihood.log(), DISCRETE.encoder[0].log()
    p = [decoder.requires_grad_(), encoder.requires_grad_()]
    log_x, log_q = p[0].log_softmax(-1)[:, 0], p[1].log_softmax(-1)
    log_w = ((1 + lam) * log_x + DISCRETE.prior.log() - log_q.detach())[pair.values]
    shares = log_w.detach().softmax(0)
    bounds = log_w.logsumexp(0) - math.log(num_particles)
    wakes = -(shares * log_q[pair.values]).sum(0)
    expected = torch.autograd.grad((pair.counts * (wakes - bounds)).sum(), p)
    assert max((one - other).abs().max() for one, other in zip(found, expected, strict=True)) < 1e-12
    assert loss == pytest.approx((wakes - bounds).sum().item(), abs=1e-10)
    plain = (log_w.detach() - lam * log_x.detach()[pair.values]).softmax(0)
    assert elbo.terms.wake == pytest.approx(-(plain * log_q[pair.values]).sum().item(), abs=1e-10)


# ---- Reweighted wake–sleep at the pin


class Cells:
    """The line at x = 1.3, with parameters for each cell and given noise, (particles, cells)."""

    def __init__(self, noise):
        self.noise = noise

    def __getattr__(self, name):
        if name not in START:
            raise AttributeError(name)
        return pyro.param(name, torch.full((self.noise.shape[-1],), START[name]))

    def model(self):
        x = torch.full((self.noise.shape[-1],), 1.3)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(self.w * z, SIGMA2**0.5), obs=x)

    def guide(self):
        with pyro.plate("data", self.noise.shape[-1]):
            pyro.sample("z", at(self.noise, self.a * 1.3, self.log_s.exp()))


def reweighted(noise, counts):
    elbo = RWS_InfoMaxELBO(num_particles=len(noise), vectorize_particles=True, max_plate_nesting=1)
    _, found = gradients(elbo, Cells(noise))
    return torch.stack([-(counts * each).sum() for each in found.values()])


INCLUSIVE = torch.tensor([0.807, -0.216])  # −∇ KL[p(z|x) ‖ q(z|x)]


def test_reweighted_gradient_is_that_of_the_pin_and_biased_for_few_draws():
    points = torch.linspace(-9.0, 9.0, 161)
    weights = (-(points**2) / 2).exp() / (-(points**2) / 2).exp().sum()
    noise = torch.stack([each.reshape(-1) for each in torch.meshgrid(points, points, indexing="ij")])
    counts = (weights[:, None] * weights).reshape(-1)
    found = reweighted(noise, counts)
    assert found[0].item() == pytest.approx(-0.024881, abs=1e-5)
    assert (found[1:] - torch.tensor([0.486, -0.227])).abs().max() < 1e-3
    assert (found[1:] - INCLUSIVE).abs().max() > 0.3

    p = _, a, log_s = parameters()
    z = (a * 1.3 + log_s.exp() * noise).detach()
    log_q = dist.Normal(a * 1.3, log_s.exp()).log_prob(z)
    log_joint = dist.Normal(0.9 * z, SIGMA2**0.5).log_prob(torch.tensor(1.3)) + dist.Normal(
        0.0, 1.0
    ).log_prob(z)
    shares = (log_joint - log_q).detach().softmax(0)
    slopes = torch.autograd.grad((counts * (shares * log_q).sum(0)).sum(), p[1:])
    assert (found[1:] - torch.stack(slopes)).abs().max() < 1e-10


def test_reweighted_gradient_of_many_draws_is_that_of_the_inclusive_divergence():
    quantiles = dist.Normal(0.0, 1.0).icdf((torch.arange(20001) + 0.5) / 20001)
    found = reweighted(quantiles[:, None], torch.ones(1))
    assert (found[1:] - INCLUSIVE).abs().max() < 2e-3


def test_weights_are_each_datums_own_unlike_pyros():
    pair = LinearGaussian(S=[2.0], W=[[1.0]], s2=1.0, V=[[0.3]], Delta=[0.8])
    x = pair.sample(5)
    torch.manual_seed(1)
    elbo = RWS_InfoMaxELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    elbo.loss(pair.model, pair.guide, x)
    torch.manual_seed(1)
    z = dist.Normal(0.3 * x, 0.8**0.5).expand((3, 5, 1)).sample()
    log_w = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(x)
    log_w = (log_w - dist.Normal(0.3 * x, 0.8**0.5).log_prob(z)).squeeze(-1)
    each = log_w.logsumexp(0) - math.log(3)
    assert elbo.terms.elbo == pytest.approx(each.sum().item(), abs=1e-10)
    torch.manual_seed(1)
    theirs, _ = ReweightedWakeSleep(num_particles=3, max_plate_nesting=1).loss(pair.model, pair.guide, x)
    assert theirs.item() == pytest.approx(-(log_w.sum(-1).logsumexp(0) - math.log(3)).item(), abs=1e-10)
    assert abs(theirs.item() + elbo.terms.elbo) > 0.1


# ---- Made-up data: what is drawn, what stays, what is refused


def model(x, y):
    with pyro.plate("data", 12, subsample_size=len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        w = pyro.param("w", torch.tensor([[0.8, 0.1], [-0.3, 0.5], [0.2, 0.9]]))
        with poutine.mask(mask=y > 0):
            pyro.sample("x", dist.Normal(z @ w.T + y[:, None], 0.7).to_event(1), obs=x)


def guide(x, y):
    with pyro.plate("data", 12, subsample_size=len(x)):
        v = pyro.param("v", 0.1 * torch.ones(3, 2))
        loc = (x - y[:, None]) @ v
        pyro.sample("z", dist.Normal(loc, pyro.param("s", torch.zeros(2)).exp()).to_event(1))


def test_covariates_and_masked_data_stay_and_the_rest_is_made_up():
    seen = []

    def seeing(x, y):
        seen.append((x.clone(), y.clone()))
        guide(x, y)

    x, y = torch.randn(6, 3), torch.tensor([1.0, -1.0, 2.0, 3.0, -2.0, 1.0])
    elbo = ReverseKL(num_simulations=2)
    elbo.loss_and_grads(model, seeing, x, y=y)
    (wake_x, _), *asleep = seen
    assert torch.equal(wake_x, x)
    assert len(asleep) == 2
    for made_up, covariates in asleep:
        assert torch.equal(covariates, y)
        assert torch.equal(made_up[y < 0], x[y < 0])
        assert (made_up != x)[y > 0].all()
    assert not torch.equal(asleep[0][0], asleep[1][0])


def test_a_site_that_does_not_count_at_all_stays():
    def of_class(c, x):
        with pyro.plate("data", len(x)):
            with poutine.mask(mask=False):
                pyro.sample("c", dist.Bernoulli(0.5), obs=c)
            z = pyro.sample("z", dist.Normal(c, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def by_class(c, x):
        assert torch.equal(c, torch.ones(3))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(c + x, 1.0))

    ReverseKL().loss(of_class, by_class, torch.ones(3), torch.zeros(3))


def test_images_of_integers_are_put_back_in_shape_and_type():
    shapes = []

    def of_images(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Bernoulli(logits=z[:, None].expand(-1, 4)).to_event(1), obs=x.flatten(1))

    def of_codes(x):
        shapes.append((tuple(x.shape), x.dtype))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.double().mean((1, 2)), 1.0))

    ReverseKL().loss(of_images, of_codes, torch.ones(3, 2, 2, dtype=torch.float32))
    assert shapes == [((3, 2, 2), torch.float32)] * 2


def test_a_reparameterised_model_is_dreamt_of_as_one_that_is_written_so():
    def centred(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.full((len(x),), 3.0), 2.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def written(x):
        with pyro.plate("data", len(x)):
            z = 3.0 + 2.0 * pyro.sample("z_decentered", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z_decentered", dist.Normal(x, 1.0))

    losses = []
    for model in (written, poutine.reparam(centred, {"z": LocScaleReparam(0.0)})):
        torch.manual_seed(0)
        losses.append(ReverseKL().loss(model, guide, torch.zeros(5)))
    assert math.isclose(*losses)


def test_asking_a_model_leaves_no_trace():
    """Neither in the random state nor in buffers: statistics are of the two runs that train."""
    norm = torch.nn.BatchNorm1d(3)

    def of_norm(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(norm(z[:, None].expand(-1, 3)), 1.0).to_event(1), obs=x)

    losses, elbo = [], ReverseKL()
    for _ in range(2):
        torch.manual_seed(0)
        losses.append(elbo.loss(of_norm, prior, torch.randn(4, 3)))
    assert int(norm.num_batches_tracked) == 4
    assert losses[0] == losses[1]


def teacher_forced(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[:, None] + x.roll(1, -1), 1.0).to_event(1), obs=x)


def with_another_prior(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.where(x[:, 0] > 0, 1.0, 0.0), 1.0))
        pyro.sample("x", dist.Normal(z[:, None].expand(-1, 3), 1.0).to_event(1), obs=x)


def of_another_shape(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[:, None], 1.0).to_event(1), obs=x)


def computed(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[:, None].expand(-1, 3), 1.0).to_event(1), obs=x / 2)


def with_factor(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("f", -(z**2))
        pyro.sample("x", dist.Normal(z[:, None].expand(-1, 3), 1.0).to_event(1), obs=x)


def masked_within(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[:, None], 1.0).mask(x > 0).to_event(1), obs=x)


def simple(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample(
            "x", dist.Normal(z[:, None] * pyro.param("shared", torch.ones(())), 1.0).to_event(1), obs=x
        )


def prior(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.mean(-1), pyro.param("s", torch.ones(()))))


def sharing(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(pyro.param("shared", torch.ones(())) * x.mean(-1), 1.0))


def at_points(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Delta(pyro.param("m", torch.zeros(())) + x.mean(-1)))


def at_several(x, y):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[:, None].expand(-1, 3), 1.0).to_event(1), obs=x)


def unobserved(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def of_rows(x):
    mean = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 100, subsample_size=len(x)):
        pyro.sample("x", dist.Normal(mean, 1.0).expand([3]).to_event(1), obs=x)


def by_rows(x):
    with pyro.plate("data", 100, subsample_size=len(x)):
        pass
    pyro.sample("z", dist.Normal(pyro.param("m", torch.zeros(())) + x.mean(), 1.0))


class Decoder(torch.nn.Module):
    """Looks at its data, or draws its noise anew, in training alone."""

    def __init__(self, *, forced):
        super().__init__()
        self.forced = forced
        self.dropout = torch.nn.Dropout(0.0 if forced else 0.5)

    def forward(self, z, x):
        seen = x.roll(1, -1) if self.forced and self.training else torch.zeros_like(x)
        return self.dropout(z[:, None].expand(-1, 3)) + seen

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(self(z, x), 1.0).to_event(1), obs=x)


TRUNK = torch.nn.Linear(1, 1).double()


def on_trunk(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(TRUNK(z[:, None]).expand(-1, 3), 1.0).to_event(1), obs=x)


def by_trunk(x):
    pyro.module("trunk", TRUNK)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(TRUNK(x[:, :1])[:, 0], 1.0))


def stating_trunk(x):
    pyro.module("trunk", TRUNK)
    on_trunk(x)


def by_unstated_trunk(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(TRUNK(x[:, :1])[:, 0], 1.0))


SLEEPING = (ReverseKL, WakeSleepELBO)
ALL = (*SLEEPING, RWS_InfoMaxELBO)


@pytest.mark.parametrize(
    ("objectives", "model", "guide", "error", "sentence"),
    [
        (SLEEPING, teacher_forced, prior, ValueError, "it scores 'x' on data that it has drawn otherwise"),
        (
            SLEEPING,
            with_another_prior,
            prior,
            ValueError,
            "it scores 'z' on data that it has drawn otherwise",
        ),
        (SLEEPING, computed, prior, ValueError, "'x' is none of them"),
        (SLEEPING, of_another_shape, prior, ValueError, r"the shape \(4, 3\) of its data but got \(4, 1\)"),
        (
            SLEEPING,
            unobserved,
            prior,
            ValueError,
            "a model with observed sites, which .* makes up, but got none",
        ),
        (
            SLEEPING,
            of_rows,
            by_rows,
            NotImplementedError,
            "cannot subsample the plate 'data'.* its rows alone",
        ),
        (SLEEPING, Decoder(forced=True).model, prior, ValueError, "it scores 'x' on data that it has drawn"),
        (SLEEPING, Decoder(forced=False).model, prior, ValueError, "modules with dropout in evaluation mode"),
        (
            (WakeSleepELBO, RWS_InfoMaxELBO),
            on_trunk,
            by_trunk,
            ValueError,
            r"both have \['trunk.*bias', 'trunk",
        ),
        (ALL, stating_trunk, by_unstated_trunk, ValueError, r"both have \['trunk.*bias', 'trunk.*weight'\]"),
        (SLEEPING, with_factor, prior, NotImplementedError, "the factor 'f', by which its sites"),
        (SLEEPING, masked_within, prior, NotImplementedError, "put poutine.mask around the site"),
        (ALL, simple, sharing, ValueError, r"but both have \['shared'\]"),
        (ALL, simple, at_points, NotImplementedError, "point mass there; use IWAE_InfoMaxELBO"),
        (ALL, simple, AutoNormalMessenger(simple), NotImplementedError, "AutoNormalMessenger, a messenger"),
        (ALL, simple, AutoNormal(simple), NotImplementedError, "the guide has .* beside them|point mass"),
    ],
)
def test_what_is_refused(programs, objectives, model, guide, error, sentence):
    for objective in objectives:
        programs.assert_refused(error, sentence, objective().loss_and_grads, model, guide, torch.randn(4, 3))


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (
            lambda: ReverseKL(num_particles=2),
            NotImplementedError,
            "one particle for its terms; use num_simulations",
        ),
        (lambda: ReverseKL(alpha=0.5), TypeError, "no alpha and no weights"),
        (lambda: WakeSleepELBO(weights={"rate": 2.0}), TypeError, "no alpha and no weights"),
        (lambda: ReverseKL(num_simulations=0), ValueError, "num_simulations to be an integer >= 1 but got 0"),
        (
            lambda: RWS_InfoMaxELBO(num_particles=1),
            ValueError,
            "num_particles to be an integer >= 2 but got 1",
        ),
        (lambda: RWS_InfoMaxELBO(alpha=0.5), TypeError, "no alpha; use Renyi_InfoMaxELBO"),
    ],
)
def test_what_arguments_are_refused(make, error, sentence):
    with pytest.raises(error, match=sentence):
        make()


def test_a_model_is_asked_once_in_each_mode():
    decoder, x, sleep = Decoder(forced=True), torch.randn(4, 3), ReverseKL()
    runs = []
    decoder.register_forward_hook(lambda *_: runs.append(decoder.training))
    asked, again = [], []
    decoder.eval()
    for found in (asked, again):
        runs.clear()
        sleep.loss(decoder.model, prior, x)
        found.extend(runs)
    assert len(asked) > len(again) == 2  # awake and asleep
    decoder.train()
    with pytest.raises(ValueError, match="it scores 'x' on data that it has drawn otherwise"):
        sleep.loss(decoder.model, prior, x)
    decoder.eval()
    runs.clear()
    sleep.loss(decoder.model, prior, x)
    assert len(runs) == 2


def test_an_objective_lets_go_of_its_model_and_is_copied_without_it():
    decoder, x, sleep = Decoder(forced=True).eval(), torch.randn(4, 3), ReverseKL()
    sleep.loss(decoder.model, prior, x)
    for twin in (pickle.loads(pickle.dumps(sleep)), copy.deepcopy(sleep)):
        torch.manual_seed(0)
        loss = sleep.loss(decoder.model, prior, x)
        torch.manual_seed(0)
        assert twin.loss(decoder.model, prior, x) == loss
    kept = weakref.ref(decoder)
    del decoder
    gc.collect()
    assert kept() is None


def test_arguments_that_hold_one_tensor_are_refused(programs):
    x = torch.randn(4, 3)
    for objective in SLEEPING:
        programs.assert_refused(
            ValueError, "'x' is several of them", objective().loss, at_several, lambda x, y: prior(x), x, x
        )


# ---- Harmony


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


# ---- Training

TRAINED = {
    "sleep": (ReverseKL, ["sleep"]),
    "wake–sleep": (lambda: WakeSleepELBO(num_particles=2, vectorize_particles=True), ["sleep"]),
    "reweighted": (lambda: RWS_InfoMaxELBO(Linear(0.0, 1.0, 6), num_particles=3), ["wake"]),
    "harmony": (HarmonyELBO, ["prior_cross_entropy"]),
}


@pytest.mark.parametrize("name", TRAINED)
def test_training_with_ordinary_and_captured_steps_is_one(name, tmp_path):
    make, terms = TRAINED[name]
    data = torch.randn(12, 3), torch.ones(12)
    found = []
    for kind in (SVI, CapturedSVI):
        pyro.clear_param_store()
        torch.manual_seed(0)
        elbo = make()
        svi = kind(model, guide, FusedOptim(torch.optim.Adam, {"lr": 0.01}), elbo)
        history = fit(
            svi, data, epochs=3, batch_size=4, progress=False, seed=0, checkpoint=tmp_path / kind.__name__
        )
        found.append((history.to_frame(), elbo))
    assert svi.captured, svi.reason
    (frame, elbo), (captured, other) = found
    columns = ["loss", "distortion", "rate", "elbo", *terms]
    np.testing.assert_allclose(captured[columns], frame[columns], rtol=1e-9)
    assert elbo.state_dict() == other.state_dict() == {"step": 9}
    if name == "sleep":
        assert decompose(model, guide, data, seed=0).rate.value > 0
