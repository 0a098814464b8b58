"""TraceEnum objectives: sites that are summed out in the guide, in the model, and in both."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormalMessenger

from pyro_infomax.infer import TraceEnum_BetaELBO, TraceEnum_InfoMaxELBO
from pyro_infomax.poutine import weight
from pyro_infomax.schedules import Linear

X = (0.9, -1.4, 0.3, 2.1)
MASK = (True, False, True, True)


class Mixture:
    """z → x ← y, z enumerated in the guide, y(z) in the model: x ~ N(θ_z + η y, 1)."""

    start = {"theta": [-1.0, 0.4, 1.3], "eta": 0.8, "logits": [0.1, -0.6, 0.5], "phi": [0.3, -0.2, 0.9]}

    def __init__(self, variant="plain"):
        self.variant = variant

    def parameters(self):
        return {name: torch.tensor(value, requires_grad=True) for name, value in self.start.items()}

    def param(self, name):
        return pyro.param(name, torch.tensor(self.start[name]))

    def plate(self):
        chosen = torch.tensor([0, 3]) if self.variant == "subsampled" else None
        return pyro.plate("data", 4, subsample=chosen)

    def model(self):
        theta, eta, phi = self.param("theta"), self.param("eta"), self.param("phi")
        with poutine.scale(scale=2.5 if self.variant == "scaled" else 1.0), self.plate() as index:
            z = pyro.sample("z", dist.Categorical(torch.ones(3).expand(len(index), 3)))
            y = pyro.sample("y", dist.Bernoulli(logits=phi[z]), infer={"enumerate": "parallel"})
            mask = torch.tensor(MASK) if self.variant == "masked" else True
            with poutine.mask(mask=mask):
                pyro.sample("x", dist.Normal(theta[z] + eta * y, 1.0), obs=torch.tensor(X)[index])

    def guide(self):
        logits = self.param("logits")
        with poutine.scale(scale=2.5 if self.variant == "scaled" else 1.0), self.plate() as index:
            posterior = dist.Categorical(logits=logits.expand(len(index), 3))
            pyro.sample("z", posterior, infer={"enumerate": "parallel"})

    def terms(self, p):
        """Distortion, of x and y together, and rate, each summed over z and y."""
        counts = torch.ones(4) * (2.5 if self.variant == "scaled" else 1.0)
        if self.variant == "subsampled":
            counts = torch.tensor([2.0, 0.0, 0.0, 2.0])
        log_q = p["logits"].log_softmax(-1)
        log_y = dist.Bernoulli(logits=p["phi"][:, None]).log_prob(torch.tensor([0.0, 1.0]))  # (z, y)
        means = p["theta"][:, None] + p["eta"] * torch.tensor([0.0, 1.0])  # (z, y)
        log_x = dist.Normal(means, 1.0).log_prob(torch.tensor(X)[:, None, None])  # (data, z, y)
        if self.variant == "masked":
            log_x = log_x * torch.tensor(MASK)[:, None, None]
        evidence = (log_y + log_x).logsumexp(-1)  # (data, z)
        distortion = -(counts * (log_q.exp() * evidence).sum(-1)).sum()
        return distortion, counts.sum() * (log_q.exp() * (log_q + torch.tensor(3.0).log())).sum()

    def expected(self, programs, observed, latent):
        p = self.parameters()
        distortion, rate = self.terms(p)
        loss = observed * distortion + latent * rate
        gradients = torch.autograd.grad(loss, list(p.values()))
        flat = torch.cat([g.reshape(-1) for g in gradients])
        return programs.Reference(loss.detach(), flat, distortion.detach(), rate.detach())


WEIGHTS = [
    (TraceEnum_InfoMaxELBO, {"lam": {"x": 3.0, "y": 3.0}}, 4.0, 1.0),
    (TraceEnum_InfoMaxELBO, {"lam": {"x": -0.75, "y": -0.75}}, 0.25, 1.0),
    (TraceEnum_BetaELBO, {"beta": {"z": 4.0}}, 1.0, 4.0),
    (TraceEnum_BetaELBO, {"beta": {"z": 0.0}}, 1.0, 0.0),
    (TraceEnum_BetaELBO, {"beta": {"x": 0.0, "y": 0.0}}, 0.0, 1.0),
]


@pytest.mark.parametrize(
    ("variant", "as_tensor"),
    [("plain", False), ("subsampled", False), ("scaled", True), ("masked", False)],
)
@pytest.mark.parametrize(("objective", "weights", "observed", "latent"), WEIGHTS)
def test_a_site_enumerated_in_the_model_joins_the_data(
    programs, objective, weights, observed, latent, as_tensor, variant
):
    pair = Mixture(variant)
    if as_tensor:
        weights = {key: {s: torch.tensor(v) for s, v in value.items()} for key, value in weights.items()}
    value = programs.evaluate(objective(**weights, max_plate_nesting=1), pair)
    assert programs.differing(value, pair.expected(programs, observed, latent)) == []


@pytest.mark.parametrize(
    ("elbo", "mapping"),
    [
        (TraceEnum_InfoMaxELBO(lam=3.0, max_plate_nesting=1), "lam"),
        (TraceEnum_InfoMaxELBO(lam={"x": 3.0}, max_plate_nesting=1), "lam"),
        (TraceEnum_BetaELBO(beta=4.0, max_plate_nesting=1), "beta"),
        (TraceEnum_BetaELBO(beta=0.0, max_plate_nesting=1), "beta"),
    ],
)
def test_sites_that_are_summed_together_must_weigh_alike(programs, elbo, mapping):
    sentence = f"summed over \\['y'\\] to carry one weight .* by a mapping, {mapping}={{'y': ..., 'x': ...}}"
    programs.assert_refused(ValueError, sentence, elbo.loss_and_grads, Mixture().model, Mixture().guide)


def test_a_weight_a_datum_cannot_leave_a_sum():
    pair = Mixture()

    def model():
        with poutine.scale(scale=torch.tensor([1.0, 2.0, 3.0, 4.0])):
            pair.model()

    with pytest.raises(ValueError, match=r"Expected a scalar scale at sites that are summed .* of shape"):
        TraceEnum_BetaELBO(beta={"z": 4.0}, max_plate_nesting=1).loss(model, pair.guide)


def test_a_site_that_is_enumerated_without_data_counts_as_rate():
    """w is sampled, its parent y is summed out: log p(w) belongs to the rate."""
    log_q, p_y, p_w = torch.tensor([0.4, 0.6]).log(), 0.3, torch.tensor([0.2, 0.9])

    def model():
        y = pyro.sample("y", dist.Bernoulli(p_y), infer={"enumerate": "parallel"})
        w = pyro.sample("w", dist.Bernoulli(p_w[y.long()]))
        pyro.sample("x", dist.Normal(w, 1.0), obs=torch.tensor(0.5))

    def guide():
        pyro.sample("w", dist.Bernoulli(log_q[1].exp()), infer={"enumerate": "parallel"})

    elbo = TraceEnum_InfoMaxELBO(lam=3.0, max_plate_nesting=0)
    loss = elbo.loss(model, guide)
    one = (1 - p_y) * p_w[0] + p_y * p_w[1]
    rate = (log_q.exp() * (log_q - torch.stack([1 - one, one]).log())).sum().item()
    distortion = -dist.Normal(0.5, 1.0).log_prob(torch.tensor(0.0)).item()
    assert elbo.terms.rate == pytest.approx(rate, abs=1e-10)
    assert elbo.terms.distortion == pytest.approx(distortion, abs=1e-10)
    assert loss == pytest.approx(4 * distortion + rate, abs=1e-10)


def test_independent_sums_must_weigh_alike_too(programs):
    """Pyro scales all of its sums in a model by one number."""
    a, b = torch.tensor(0.7), torch.tensor(-0.4)

    def model():
        for name, value in (("a", a), ("b", b)):
            y = pyro.sample(f"y_{name}", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            pyro.sample(f"x_{name}", dist.Normal(y, 1.0), obs=value)

    elbo = TraceEnum_InfoMaxELBO(lam={"x_a": 3.0, "y_a": 3.0}, max_plate_nesting=0)
    sentence = r"summed over \['y_a', 'y_b'\] to carry one weight"
    programs.assert_refused(ValueError, sentence, elbo.loss, model, lambda: None)


@pytest.mark.parametrize("enumerate", ["parallel", "sequential"])
@pytest.mark.parametrize("variant", ["score_factor", "auxiliary"])
def test_sums_what_only_the_guide_pays_for(programs, variant, enumerate):
    pair = programs.DiscretePair(variant, enumerate=enumerate)
    value = programs.evaluate(TraceEnum_BetaELBO(beta=4.0, max_plate_nesting=1), pair)
    assert programs.differing(value, programs.reference(pair, latent=4.0)) == []


@pytest.mark.parametrize("vectorize", [True, False])
def test_the_terms_are_averaged_over_particles(programs, vectorize):
    pair = programs.DiscretePair(enumerate="parallel")
    elbo = TraceEnum_BetaELBO(num_particles=3, vectorize_particles=vectorize, max_plate_nesting=1)
    value = programs.evaluate(elbo, pair)
    assert value.rate.item() == pytest.approx(programs.reference(pair).rate.item(), abs=1e-10)
    assert value.distortion.item() == pytest.approx(programs.reference(pair).distortion.item(), abs=1e-10)


def test_reading_the_terms_twice_gives_the_same(programs):
    pair = programs.DiscretePair(enumerate="sequential")
    elbo = TraceEnum_BetaELBO(max_plate_nesting=1)
    elbo.loss(pair.model, pair.guide)
    assert elbo.terms == elbo.terms


def test_the_terms_are_those_before_the_step(programs):
    """They are computed on access, when the optimiser may have moved the parameters."""
    pair = programs.DiscretePair(enumerate="parallel")
    elbo = TraceEnum_BetaELBO(max_plate_nesting=1)
    pyro.infer.SVI(pair.model, pair.guide, pyro.optim.SGD({"lr": 1.0}), elbo).step()
    assert elbo.terms.rate == pytest.approx(programs.reference(pair).rate.item(), abs=1e-10)


@pytest.mark.parametrize("enumerate", ["parallel", "sequential"])
def test_impossible_data_of_weight_zero_leave_no_nan(enumerate):
    """x is impossible under z = 0, which the guide finds possible."""

    def model():
        z = pyro.sample("z", dist.Bernoulli(0.5))
        support = dist.Uniform(0.0, 1.0 + z, validate_args=False)
        pyro.sample("x", support, obs=torch.tensor(1.5))

    def guide():
        q = pyro.param("q", torch.tensor(0.4))
        pyro.sample("z", dist.Bernoulli(logits=q), infer={"enumerate": enumerate})

    elbo = TraceEnum_BetaELBO(beta=1.0, max_plate_nesting=0)
    loss = elbo.loss_and_grads(weight(model, observed=0.0), guide)
    q = torch.tensor(0.4).sigmoid()
    rate = (q * (2 * q).log() + (1 - q) * (2 * (1 - q)).log()).item()
    assert loss == pytest.approx(rate, abs=1e-10)
    assert pyro.param("q").grad.item() == pytest.approx((q * (1 - q) * 0.4).item(), abs=1e-10)
    assert elbo.terms.rate == pytest.approx(rate, abs=1e-10)
    assert elbo.terms.distortion == torch.inf


def test_refuses_a_guide_that_is_a_messenger(programs):
    model = programs.NormalPair().model
    sentence = "a plain guide, or TraceGraph_BetaELBO"
    guide = AutoNormalMessenger(model)
    programs.assert_refused(NotImplementedError, sentence, TraceEnum_BetaELBO().loss, model, guide)


def test_it_can_be_copied_after_a_step_and_keeps_its_terms(programs):
    pair = programs.DiscretePair(enumerate="parallel")
    elbo = TraceEnum_BetaELBO(2.0, max_plate_nesting=1)
    elbo.loss_and_grads(pair.model, pair.guide)
    twin = copy.deepcopy(elbo)
    assert twin.terms == elbo.terms


def test_what_it_keeps_for_its_terms_holds_no_graph(programs):
    pair = programs.DiscretePair(enumerate="parallel")
    elbo = TraceEnum_BetaELBO(2.0, max_plate_nesting=1)
    elbo.loss_and_grads(pair.model, pair.guide)
    kept = [each for traces in elbo._traces for trace in traces for each in trace.nodes.values()]
    tensors = [t for site in kept if site["type"] == "sample" for t in site["packed"].values()]
    assert not any(t.requires_grad for t in tensors if isinstance(t, torch.Tensor))


# ---- sites of a guide, summed out: value and gradient are those of the explicit sums


class Summed:
    """What the pairs below share: their states are summed out by hand, one axis of a table each."""

    x = X

    def parameters(self):
        return {name: torch.tensor(value, requires_grad=True) for name, value in self.start.items()}

    def param(self, name):
        return pyro.param(name, torch.tensor(self.start[name]))

    def expected(self, programs, observed, latent):
        p = self.parameters()
        log_q, log_prior, log_likelihood = self.tables(p)  # (data, *states), or what broadcasts to it
        distortion = -(log_q.exp() * log_likelihood).sum()
        rate = (log_q.exp() * (log_q - log_prior)).sum() + self.further_rate(p, log_q)
        loss = observed * distortion + latent * rate
        gradients = torch.autograd.grad(loss, list(p.values()))
        flat = torch.cat([g.reshape(-1) for g in gradients])
        return programs.Reference(loss.detach(), flat, distortion.detach(), rate.detach())

    def further_rate(self, p, log_q):
        return torch.zeros(())


def guide_logits(p):
    return p["bias"] + p["slope"] * torch.tensor(X)[:, None]  # (data, state)


class OneSite(Summed):
    """z of one family, x ~ N(θ_z, 1)."""

    start = {
        "prior": [0.2, -0.4, 0.5],
        "theta": [-1.5, 0.3, 2.0],
        "bias": [0.1, 0.6, -0.3],
        "slope": [-0.8, 0.2, 0.9],
    }

    def __init__(self, family, enumerate="parallel"):
        self.family, self.enumerate = family, enumerate
        if family == "Bernoulli":
            self.start = {name: value[:2] for name, value in self.start.items()}

    def make(self, logits):
        if self.family == "Bernoulli":
            return dist.Bernoulli(logits=logits[..., 1] - logits[..., 0])
        return getattr(dist, self.family)(logits=logits)

    def mean(self, z):
        theta = self.param("theta")
        return z @ theta if self.family == "OneHotCategorical" else theta[z.long()]

    def model(self):
        prior = self.param("prior")
        with pyro.plate("data", 4):
            z = pyro.sample("z", self.make(prior))
            pyro.sample("x", dist.Normal(self.mean(z), 1.0), obs=torch.tensor(X))

    def guide(self):
        logits = guide_logits({name: self.param(name) for name in ("bias", "slope")})
        with pyro.plate("data", 4):
            pyro.sample("z", self.make(logits), infer={"enumerate": self.enumerate})

    def tables(self, p):
        log_x = dist.Normal(p["theta"], 1.0).log_prob(torch.tensor(X)[:, None])
        return guide_logits(p).log_softmax(-1), p["prior"].log_softmax(-1), log_x


class TwoSites(Summed):
    """y depends on z in model and guide: z of three values, y of two, x ~ N(θ_z + η y, 1)."""

    start = {
        "prior": [0.2, -0.4, 0.5],
        "phi": [0.3, -0.2, 0.9],
        "theta": [-1.5, 0.3, 2.0],
        "eta": 0.8,
        "bias": [0.1, 0.6, -0.3],
        "slope": [-0.8, 0.2, 0.9],
        "alpha": [-0.5, 0.4, 0.7],
        "gamma": 0.6,
    }

    def __init__(self, one_hot=False):
        self.one_hot = one_hot

    def make(self, logits):
        return dist.OneHotCategorical(logits=logits) if self.one_hot else dist.Categorical(logits=logits)

    def at(self, table, z):
        return z @ table if self.one_hot else table[z]

    def model(self):
        prior, phi, theta, eta = (self.param(name) for name in ("prior", "phi", "theta", "eta"))
        with pyro.plate("data", 4):
            z = pyro.sample("z", self.make(prior))
            y = pyro.sample("y", dist.Bernoulli(logits=self.at(phi, z)))
            pyro.sample("x", dist.Normal(self.at(theta, z) + eta * y, 1.0), obs=torch.tensor(X))

    def guide(self):
        p = {name: self.param(name) for name in ("bias", "slope", "alpha", "gamma")}
        enumerate = {"enumerate": "parallel"}
        with pyro.plate("data", 4):
            z = pyro.sample("z", self.make(guide_logits(p)), infer=enumerate)
            logits = self.at(p["alpha"], z) + p["gamma"] * torch.tensor(X)
            pyro.sample("y", dist.Bernoulli(logits=logits), infer=enumerate)

    def tables(self, p):
        y, x = torch.tensor([0.0, 1.0]), torch.tensor(X)[:, None, None]
        log_q_y = dist.Bernoulli(logits=(p["alpha"][:, None] + p["gamma"] * x)).log_prob(y)  # (data, z, y)
        log_p_y = dist.Bernoulli(logits=p["phi"][:, None]).log_prob(y)  # (z, y)
        log_x = dist.Normal(p["theta"][:, None] + p["eta"] * y, 1.0).log_prob(x)
        log_q = guide_logits(p).log_softmax(-1)[..., None] + log_q_y
        return log_q, p["prior"].log_softmax(-1)[:, None] + log_p_y, log_x


class NextToANormal(Summed):
    """u ~ N(μ_z, 1) is drawn once a value of z, x ~ N(θ_z + w u, 1): the sums are over z at these draws."""

    start = {
        "prior": [0.2, -0.4, 0.5],
        "mu": [-1.0, 0.2, 1.1],
        "theta": [-1.5, 0.3, 2.0],
        "w": 0.7,
        "bias": [0.1, 0.6, -0.3],
        "slope": [-0.8, 0.2, 0.9],
        "c": [0.4, -0.3, 0.1],
        "log_s": [-0.5, 0.2, -0.1],
    }

    def model(self):
        prior, mu, theta, w = (self.param(name) for name in ("prior", "mu", "theta", "w"))
        with pyro.plate("data", 4):
            z = pyro.sample("z", dist.Categorical(logits=prior))
            u = pyro.sample("u", dist.Normal(mu[z], 1.0))
            pyro.sample("x", dist.Normal(theta[z] + w * u, 1.0), obs=torch.tensor(X))

    def guide(self):
        p = {name: self.param(name) for name in ("bias", "slope", "c", "log_s")}
        with pyro.plate("data", 4):
            z = pyro.sample("z", dist.Categorical(logits=guide_logits(p)), infer={"enumerate": "parallel"})
            pyro.sample("u", dist.Normal(p["c"][z] * torch.tensor(X), p["log_s"].exp()[z]))

    def posterior_of_u(self, p):
        loc = p["c"] * torch.tensor(X)[:, None]  # (data, z)
        return dist.Normal(loc, p["log_s"].exp().expand(loc.shape))

    def u(self, p):
        # The guide's enumerated axis is on the left of the plate
        noise = dist.Normal(torch.zeros(3, 4), 1.0).sample().mT
        q = self.posterior_of_u(p)
        return q.loc + q.scale * noise

    def tables(self, p):
        self.drawn = self.u(p)
        log_x = dist.Normal(p["theta"] + p["w"] * self.drawn, 1.0).log_prob(torch.tensor(X)[:, None])
        return guide_logits(p).log_softmax(-1), p["prior"].log_softmax(-1), log_x

    def further_rate(self, p, log_q):
        ratio = self.posterior_of_u(p).log_prob(self.drawn) - dist.Normal(p["mu"], 1.0).log_prob(self.drawn)
        return (log_q.exp() * ratio).sum()


SUMMED = {
    **{family: lambda f=family: OneSite(f) for family in ("Bernoulli", "Categorical", "OneHotCategorical")},
    "Bernoulli, sequential": lambda: OneSite("Bernoulli", "sequential"),
    "Categorical, sequential": lambda: OneSite("Categorical", "sequential"),
    "OneHotCategorical, sequential": lambda: OneSite("OneHotCategorical", "sequential"),
    "two dependent sites": TwoSites,
    "two dependent sites, one-hot": lambda: TwoSites(one_hot=True),
    "next to a Normal that depends on it": NextToANormal,
}
BARE = [
    (TraceEnum_BetaELBO(0.25, max_plate_nesting=1), 1.0, 0.25),
    (TraceEnum_BetaELBO(4.0, max_plate_nesting=1), 1.0, 4.0),
    (TraceEnum_InfoMaxELBO(3.0, max_plate_nesting=1), 4.0, 1.0),
]


@pytest.mark.parametrize(("elbo", "observed", "latent"), BARE)
@pytest.mark.parametrize("name", SUMMED)
def test_sums_over_the_guides_sites_are_exact(programs, name, elbo, observed, latent):
    pair = SUMMED[name]()
    torch.manual_seed(5)
    value = programs.evaluate(elbo, pair)
    torch.manual_seed(5)
    expected = pair.expected(programs, observed, latent)
    assert programs.differing(value, expected) == []


def test_sites_that_share_no_axis_are_not_multiplied_out():
    """Forty sites of two values have a joint table of 2⁴⁰ entries."""

    def model():
        for n in range(40):
            pyro.sample(f"z_{n}", dist.Bernoulli(0.3))

    def guide():
        logits = pyro.param("logits", torch.linspace(-1.0, 1.0, 40))
        for n in range(40):
            pyro.sample(f"z_{n}", dist.Bernoulli(logits=logits[n]), infer={"enumerate": "parallel"})

    elbo = TraceEnum_BetaELBO(beta=2.0, max_plate_nesting=0, strict_enumeration_warning=False)
    loss = elbo.loss_and_grads(model, guide)
    logits = torch.linspace(-1.0, 1.0, 40, requires_grad=True)
    expected = torch.distributions.kl_divergence(dist.Bernoulli(logits=logits), dist.Bernoulli(0.3)).sum()
    assert loss == pytest.approx(2 * expected.item(), abs=1e-10)
    (gradient,) = torch.autograd.grad(2 * expected, logits)
    assert torch.allclose(pyro.param("logits").grad, gradient, rtol=0.0, atol=1e-10)


# ---- in tensors alone


class Program:
    """Programs of data x, whose parameters are attributes that start where ``start`` says."""

    start = {"theta": [-1.0, 0.4, 1.3], "logits": [0.1, -0.6, 0.5], "slope": [-0.8, 0.2, 0.9], "phi": 0.3}
    plates = 1
    lam = 3.0  # what Pyro's own objective can be given too

    def __getattr__(self, name):
        if name not in type(self).start:
            raise AttributeError(name)
        return pyro.param(name, torch.tensor(self.start[name]))

    def plate(self, x):
        return pyro.plate("data", len(x))

    def likelihood(self, mean, x):
        pyro.sample("x", dist.Normal(mean, self.phi.exp()), obs=x)


ENUMERATE = {"enumerate": "parallel"}


class Enumerated(Program):
    def __init__(self, family, enumerate="parallel"):
        self.family, self.infer = family, {"enumerate": enumerate}

    def make(self, logits):
        return (
            dist.Bernoulli(logits=logits[..., 0])
            if self.family == "Bernoulli"
            else getattr(dist, self.family)(logits=logits)
        )

    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", self.make(torch.zeros(3)))
            one_hot = self.family == "OneHotCategorical"
            self.likelihood(z @ self.theta if one_hot else self.theta[z.long()], x)

    def guide(self, x):
        with self.plate(x):
            pyro.sample("z", self.make(self.logits + self.slope * x[:, None]), infer=self.infer)


class WithDraws(Program):
    """z is enumerated, b drawn by its score, u is reparameterised and depends on both; f is the guide's."""

    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", dist.Categorical(torch.ones(3)))
            b = pyro.sample("b", dist.Bernoulli(0.4))
            u = pyro.sample("u", dist.Normal(b, 1.0))
            self.likelihood(self.theta[z] + b + u, x)

    def guide(self, x):
        with self.plate(x):
            z = pyro.sample(
                "z", dist.Categorical(logits=self.logits + self.slope * x[:, None]), infer=ENUMERATE
            )
            b = pyro.sample("b", dist.Bernoulli(logits=self.slope[z] * x))
            pyro.sample("u", dist.Normal(self.theta[z] * x + b, self.phi.exp()))
            pyro.factor("f", 0.7 * self.phi * b, has_rsample=False)


class NestedPlates(Program):
    """A global site and sites of two plates, enumerated and drawn."""

    plates = 2

    def model(self, x):
        g = pyro.sample("g", dist.Bernoulli(0.3))
        s = pyro.sample("s", dist.Bernoulli(0.6))
        with pyro.plate("inner", 2, dim=-2):
            c = pyro.sample("c", dist.Bernoulli(0.2))
            with self.plate(x):
                z = pyro.sample("z", dist.Categorical(torch.ones(3)))
                self.likelihood(self.theta[z.long()] + g * c + s, torch.stack([x, 2 * x]))

    def guide(self, x):
        pyro.sample("g", dist.Bernoulli(logits=self.phi), infer=ENUMERATE)
        s = pyro.sample("s", dist.Bernoulli(logits=self.logits[0]))
        with pyro.plate("inner", 2, dim=-2):
            pyro.sample("c", dist.Bernoulli(logits=self.logits[:2, None] + s))
            with self.plate(x):
                pyro.sample(
                    "z", dist.Categorical(logits=self.logits + self.slope * x[:, None]), infer=ENUMERATE
                )


class Subsampled(WithDraws):
    def plate(self, x):
        return pyro.plate("data", 5 * len(x), subsample_size=len(x))


class RandomlySubsampled(Enumerated):
    """The graph draws the rows anew."""

    def model(self, x):
        with pyro.plate("data", len(x), subsample_size=2) as rows:
            z = pyro.sample("z", self.make(torch.zeros(3)))
            self.likelihood(self.theta[z], x[rows])

    def guide(self, x):
        with pyro.plate("data", len(x), subsample_size=2) as rows:
            pyro.sample("z", self.make(self.logits + self.slope * x[rows, None]), infer=self.infer)


class Masked(WithDraws):
    """The mask is one of the data."""

    def likelihood(self, mean, x):
        with poutine.mask(mask=x > 0):
            super().likelihood(mean, x)


class ZeroProbabilities(Program):
    """A value that the guide excludes, and that makes the data impossible."""

    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.2, 0.5, 0.3])))
            width = torch.tensor([0.0, 1.0, 2.0])[z]
            pyro.sample(
                "x",
                dist.Uniform(-5 * width - 1e-9, 5 * width + self.phi.exp() * width, validate_args=False),
                obs=x,
            )

    def guide(self, x):
        logits = self.logits + self.slope * x[:, None]
        excluded = torch.tensor([True, False, False])
        with self.plate(x):
            pyro.sample(
                "z", dist.Categorical(logits=logits.masked_fill(excluded, -torch.inf)), infer=ENUMERATE
            )


class Independent(Program):
    """Sites that share no plate: two are enumerated, one is drawn."""

    plates = 0

    def model(self, x):
        for n in range(3):
            z = pyro.sample(f"z_{n}", dist.Bernoulli(0.3))
            pyro.sample(f"x_{n}", dist.Normal(self.theta[n] * z, 1.0), obs=x[n])

    def guide(self, x):
        for n in range(3):
            logits = self.logits[n] * x[n]
            pyro.sample(f"z_{n}", dist.Bernoulli(logits=logits), infer=ENUMERATE if n else {})


class Branches(Program):
    """Two parts that share no axis, each with a drawn site whose score the costs of the other one need."""

    plates = 0

    def model(self, x):
        for n, (first, second) in enumerate((("a", "b"), ("c", "d"))):
            value = pyro.sample(first, dist.Bernoulli(0.3))
            drawn = pyro.sample(second, dist.Bernoulli(0.6))
            pyro.sample(f"x_{n}", dist.Normal(self.theta[n] * value + drawn, 1.0), obs=x[n])

    def guide(self, x):
        for n, (first, second) in enumerate((("a", "b"), ("c", "d"))):
            value = pyro.sample(first, dist.Bernoulli(logits=self.logits[n]), infer=ENUMERATE)
            pyro.sample(second, dist.Bernoulli(logits=self.slope[n] + self.phi * value))


class InTurn(Program):
    """A site in a plate is enumerated run by run; one outside of it comes in every run, and counts once."""

    def model(self, x):
        b = pyro.sample("b", dist.Categorical(torch.ones(3)))
        pyro.sample("y", dist.Normal(self.theta[b], 1.0), obs=x[1])
        with pyro.plate("one", 1):
            a = pyro.sample("a", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(self.theta[0] * a, 1.0), obs=x[:1])

    def guide(self, x):
        pyro.sample("b", dist.Categorical(logits=self.logits + self.slope * x[1]), infer=ENUMERATE)
        with pyro.plate("one", 1):
            logits = self.phi * x[:1]
            pyro.sample("a", dist.Bernoulli(logits=logits), infer={"enumerate": "sequential"})


class ManyDraws(Program):
    """A site is drawn several times at once, each for its share."""

    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            self.likelihood(self.theta[0] * z, x)

    def guide(self, x):
        with self.plate(x):
            several = {**ENUMERATE, "num_samples": 4}
            pyro.sample("z", dist.Normal(self.slope[0] * x, self.phi.exp()), infer=several)


class ModelEnumerated(Program):
    """y is summed out in the model, under z of the guide and next to a Normal; w joins what has no data."""

    lam = 0.0
    summed = ("w", "v", "y", "x")

    def model(self, x):
        with self.plate(x):
            w = pyro.sample("w", dist.Bernoulli(0.4), infer=ENUMERATE)
            pyro.sample("v", dist.Bernoulli(0.3 + 0.4 * w))
            z = pyro.sample("z", dist.Categorical(torch.ones(3)))
            u = pyro.sample("u", dist.Normal(0.0, 1.0))
            y = pyro.sample("y", dist.Bernoulli(logits=self.theta[z]), infer=ENUMERATE)
            self.likelihood(self.slope[z] + y + u, x)

    def guide(self, x):
        with self.plate(x):
            pyro.sample("v", dist.Bernoulli(logits=self.phi))
            z = pyro.sample("z", dist.Categorical(logits=self.logits), infer=ENUMERATE)
            pyro.sample("u", dist.Normal(self.slope[z] * x, 1.0))


class ModelEnumeratedChain(Program):
    """All latent sites are summed out in the model, a chain of two; the guide has none."""

    lam = 0.0
    summed = ("y", "t", "x")

    def model(self, x):
        with self.plate(x):
            y = pyro.sample("y", dist.Categorical(logits=self.logits), infer=ENUMERATE)
            t = pyro.sample("t", dist.Bernoulli(logits=self.slope[y]), infer=ENUMERATE)
            self.likelihood(self.theta[y] + t, x)

    def guide(self, x):
        pass


IN_TENSORS = {
    **{
        family: lambda f=family: Enumerated(f) for family in ("Bernoulli", "Categorical", "OneHotCategorical")
    },
    "sequential": lambda: Enumerated("Categorical", "sequential"),
    "with draws": WithDraws,
    "nested plates": NestedPlates,
    "subsampled": Subsampled,
    "randomly subsampled": lambda: RandomlySubsampled("Categorical"),
    "masked": Masked,
    "zero probabilities": ZeroProbabilities,
    "independent": Independent,
    "branches": Branches,
    "in turn": InTurn,
    "many draws": ManyDraws,
    "model": ModelEnumerated,
    "chain in the model": ModelEnumeratedChain,
}
# Their graphs are those of others, or are recorded in another test
NO_GRAPH_OF_THEIR_OWN = ("Bernoulli", "OneHotCategorical", "with draws", "branches", "in turn", "many draws")
PARTICLES = [{"num_particles": 1}, {"num_particles": 3}, {"num_particles": 3, "vectorize_particles": True}]


def seeded(evaluate, *args):
    torch.manual_seed(7)
    return evaluate(*args)


@pytest.mark.parametrize("name", IN_TENSORS)
def test_a_step_evaluates_what_pyros_own_objective_and_the_surrogate_do(programs, name):
    pair = IN_TENSORS[name]()
    for particles in PARTICLES:
        elbo = TraceEnum_InfoMaxELBO(pair.lam, max_plate_nesting=pair.plates, **particles)
        stock = TraceEnum_ELBO(max_plate_nesting=pair.plates, **particles)
        weighed = weight(pair.model, observed=1 + pair.lam)
        elbo.loss(pair.model, pair.guide, torch.tensor(X))
        args = elbo, pair.model, pair.guide, torch.tensor(X)
        expected = seeded(programs.evaluated, *args)
        of_pyro = seeded(programs.evaluated, stock, weighed, pair.guide, torch.tensor(X))
        assert programs.agree([expected[0], *expected[4:]], of_pyro), particles
        step = elbo.step
        assert programs.agree(seeded(programs.evaluated_in_tensors, *args), expected), particles
        assert elbo.step == step
        terms = [torch.tensor(each) for each in elbo.terms.values()]
        assert programs.agree(terms, [*expected[1:4], expected[0]]), particles


@pytest.mark.parametrize(
    ("name", "particles"),
    [
        *((name, PARTICLES[0]) for name in IN_TENSORS if name not in NO_GRAPH_OF_THEIR_OWN),
        *(("Bernoulli", each) for each in PARTICLES[1:]),
    ],
)
def test_a_recorded_graph_holds_for_other_data_parameters_and_weights(programs, name, particles):
    pair = IN_TENSORS[name]()
    elbo = TraceEnum_InfoMaxELBO(torch.tensor(pair.lam), max_plate_nesting=pair.plates, **particles)
    if pair.lam == 0:  # its sums weigh alike
        elbo.lam = dict.fromkeys(pair.summed, torch.tensor(3.0))
    recording = programs.Recording(elbo, pair.model, pair.guide, torch.tensor(X), elbo.variable_weights())
    programs.move_parameters()
    lam = torch.tensor(0.4)
    elbo.lam = dict.fromkeys(elbo.lam, lam) if isinstance(elbo.lam, dict) else lam
    x = torch.tensor(X).flip(0) * 1.3
    expected = seeded(programs.evaluated, elbo, pair.model, pair.guide, x)
    assert programs.agree(seeded(recording, x, elbo.variable_weights()), expected)


@pytest.mark.parametrize(
    "weights", [{"beta": Linear(0.0, 2.0, 4)}, {"beta": {"z": torch.tensor(0.5), "x": 3.0}}]
)
def test_a_recorded_graph_takes_schedules_and_weights_a_site(programs, weights):
    pair = WithDraws()
    elbo = TraceEnum_BetaELBO(**weights, max_plate_nesting=1)
    recording = programs.Recording(elbo, pair.model, pair.guide, torch.tensor(X), elbo.variable_weights())
    for _ in range(2):
        given = elbo.variable_weights()
        expected = seeded(programs.evaluated, elbo, pair.model, pair.guide, torch.tensor(X))
        assert programs.agree(seeded(recording, torch.tensor(X), given), expected)


def test_a_recorded_weight_may_become_zero(programs):
    pair = ZeroProbabilities()
    elbo = TraceEnum_BetaELBO(torch.tensor(4.0), max_plate_nesting=1)
    recording = programs.Recording(elbo, pair.model, pair.guide, torch.tensor(X), elbo.variable_weights())
    elbo.beta = torch.tensor(0.0)
    expected = seeded(programs.evaluated, elbo, pair.model, pair.guide, torch.tensor(X))
    found = seeded(recording, torch.tensor(X), elbo.variable_weights())
    assert programs.agree(found, expected)
    assert all(each.isfinite().all() for each in found)


def test_a_recorded_sum_still_sees_that_its_sites_weigh_alike(programs):
    pair = ModelEnumeratedChain()
    elbo = TraceEnum_InfoMaxELBO(dict.fromkeys(pair.summed, torch.tensor(3.0)), max_plate_nesting=1)
    weights = elbo.variable_weights()
    recording = programs.Recording(elbo, pair.model, pair.guide, torch.tensor(X), weights)
    sentence = r"Expected the sites summed over \['y', 't'\] to carry one weight; weigh them alike"
    with pytest.raises(RuntimeError, match=sentence):
        recording(torch.tensor(X), {**weights, "lam['y']": torch.tensor(5.0)})


def test_a_nan_of_the_guide_shows_in_the_loss():
    def guide():
        pyro.sample("z", dist.Bernoulli(logits=torch.tensor(torch.nan)), infer=ENUMERATE)

    elbo = TraceEnum_BetaELBO(max_plate_nesting=0)
    with pyro.validation_enabled(False), pytest.warns(UserWarning, match="Encountered NaN"):
        assert math.isnan(elbo.loss(lambda: pyro.sample("z", dist.Bernoulli(0.5)), guide))
