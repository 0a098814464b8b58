"""Rényi objectives: the bound with weighed data, its gradients, and what cannot be weighed exactly."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import RenyiELBO
from pyro.infer.autoguide import AutoNormalMessenger

from pyro_infomax.infer import Renyi_InfoMaxELBO
from pyro_infomax.poutine import weight

WEIGHTS_APART = [-0.75, 3.0]  # where draws are averaged: less and more than 1, by one and the same product
PARTICLES = 5
TWO_SITES = ("obs_masked", "auxiliary")


def noise(size, *, sites, vectorize):
    """What seed 0 gives to the sites of a guide: (sites, particles, data)."""
    torch.manual_seed(0)
    if vectorize:
        return torch.stack([torch.normal(torch.zeros(PARTICLES, size), 1.0) for _ in range(sites)])
    draws = [torch.normal(torch.zeros(size), 1.0) for _ in range(PARTICLES * sites)]
    return torch.stack(draws).unflatten(0, (PARTICLES, sites)).transpose(0, 1)


def log_weights(programs, pair, p, observed, noise):
    """Of each particle and datum: (particles, data), without what the datum counts for."""
    first, other = noise[0], noise[-1]
    x = pair.x[list(programs.SUBSAMPLE)] if pair.variant == "subsampled" else pair.x
    mean, sigma = p["a"] * x + p["b"], p["log_sigma"].exp()
    z = mean + p["log_s"].exp() * first
    seen = torch.tensor(programs.OBSERVED) if pair.variant == "obs_masked" else torch.tensor(True)
    scale = programs.SCALE if pair.variant == "likelihood_scaled" else 1.0
    log_x = scale * seen * dist.Normal(p["w"] * z, sigma).log_prob(x)
    own = torch.zeros(())
    if pair.variant == "guide_factor":
        own = p["c"] * z
    if pair.variant == "auxiliary":
        u = z + p["c"].exp() * other
        own = dist.Normal(z, p["c"].exp()).log_prob(u)
    if pair.variant == "obs_masked":
        imputed = p["imputed"] + p["log_t"].exp() * other
        log_q = dist.Normal(p["imputed"], p["log_t"].exp()).log_prob(imputed)
        own = ~seen * (log_q - dist.Normal(p["w"] * z, sigma).log_prob(imputed))
    log_z = dist.Normal(0.0, 1.0).log_prob(z) - dist.Normal(mean, p["log_s"].exp()).log_prob(z)
    return observed * log_x + log_z - own


def bound(log_w, alpha, counts):
    """Each datum counts for as much as its plate says, outside of the mean."""
    means = ((1 - alpha) * log_w).logsumexp(0) - math.log(len(log_w))
    return (counts * means).sum() / (1 - alpha)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
@pytest.mark.parametrize(
    "variant",
    [
        "plain",
        "subsampled",
        "scaled",
        "likelihood_scaled",
        "masked",
        "obs_masked",
        "guide_factor",
        "auxiliary",
    ],
)
def test_reparameterised(programs, variant, alpha):
    """Loss and gradient are those of the bound at the same draws."""
    pair = programs.NormalPair(variant)
    size, sites = 2 if variant == "subsampled" else 4, 1 + (variant in TWO_SITES)
    counts = pair.counts()[list(programs.SUBSAMPLE)] if variant == "subsampled" else pair.counts()
    for lam, vectorize in itertools.product(WEIGHTS_APART, [True, False]):
        p = pair.parameters()
        noises = noise(size, sites=sites, vectorize=vectorize)
        loss = -bound(log_weights(programs, pair, p, 1 + lam, noises), alpha, counts)
        gradients = torch.autograd.grad(loss, list(p.values()), allow_unused=True, materialize_grads=True)
        torch.manual_seed(0)
        elbo = Renyi_InfoMaxELBO(
            lam=lam,
            alpha=alpha,
            num_particles=PARTICLES,
            vectorize_particles=vectorize,
            max_plate_nesting=1,
        )
        value = programs.evaluate(elbo, pair)
        assert torch.allclose(value.loss, loss, rtol=0.0, atol=1e-10)
        assert torch.allclose(value.gradient, torch.stack(gradients), rtol=0.0, atol=1e-10)
        unweighted = bound(log_weights(programs, pair, p, 1.0, noises), alpha, counts)
        assert elbo.terms.elbo == pytest.approx(unweighted.item(), abs=1e-10)


@pytest.mark.parametrize(
    ("variant", "lam"),
    [
        ("plain", -0.75),
        *itertools.product(
            ["plain", "subsampled", "scaled", "likelihood_scaled", "masked", "obs_masked", "guide_factor"],
            [3.0],
        ),
    ],
)
def test_distortion_and_rate_are_those_of_the_particles(programs, variant, lam):
    expected = programs.reference(programs.NormalPair(variant))
    estimate = programs.estimated(programs.NormalPair, variant, Renyi_InfoMaxELBO, lam=lam)
    assert programs.beyond_error(estimate, expected, ["distortion", "rate"]) == []


@pytest.mark.parametrize("lam", WEIGHTS_APART)
@pytest.mark.parametrize("variant", ["plain", "likelihood_scaled", "guide_factor", "score_factor"])
def test_score_function_loss_is_the_bound_of_two_particles(programs, variant, lam):
    """Its expectation, summed over all pairs of values."""
    pair, alpha = programs.DiscretePair(variant), 0.5
    p = pair.parameters()
    log_w, q = pair.log_weights(p, observed=1 + lam), pair.log_posterior(p).exp()
    expected = sum(
        (q[:, i] * q[:, j] * ((0.5 * log_w[:, [i, j]]).logsumexp(-1) - math.log(2)) / 0.5).sum()
        for i, j in itertools.product(range(3), repeat=2)
    )
    elbo = Renyi_InfoMaxELBO(
        lam=lam, alpha=alpha, num_particles=2, vectorize_particles=True, max_plate_nesting=1
    )
    # each datum has particles of its own, so that many copies of the data are many draws at once
    pair.x = pair.x.repeat(20)
    losses = torch.tensor([elbo.loss(pair.model, pair.guide) / 20 for _ in range(20)])
    assert abs(losses.mean() + expected) < 5 * losses.std() / math.sqrt(20)


@pytest.mark.parametrize("variant", ["plain", "scaled", "latent_masked"])
@pytest.mark.parametrize(("alpha", "vectorize"), [(0.0, True), (0.5, False), (2.0, True)])
def test_score_function_gradient_is_that_of_the_bound_of_a_few_particles(programs, alpha, variant, vectorize):
    """Of all pairs of values: sum q_i q_j L_ij, by autograd."""
    pair = programs.DiscretePair(variant)
    p = pair.parameters()
    log_w, q = pair.log_weights(p, observed=1.0), pair.log_posterior(p).exp()
    order = 1.0 - alpha
    bounds = [
        q[:, i] * q[:, j] * ((order * log_w[:, [i, j]]).logsumexp(-1) - math.log(2)) / order
        for i, j in itertools.product(range(3), repeat=2)
    ]
    counts = pair.counts()
    loss = -(counts * sum(bounds)).sum()
    gradients = torch.autograd.grad(loss, list(p.values()), allow_unused=True, materialize_grads=True)
    expected = torch.cat([gradient.reshape(-1) for gradient in gradients])
    elbo = Renyi_InfoMaxELBO(
        0.0, alpha=alpha, num_particles=2, vectorize_particles=vectorize, max_plate_nesting=1
    )
    # each datum has particles of its own, so that many copies of the data are many draws at once
    copies = 500
    pair.x = pair.x.repeat(copies)
    pair.latent_context = lambda: poutine.mask(
        mask=torch.tensor(programs.MASK).repeat(copies) if variant == "latent_masked" else torch.tensor(True)
    )
    found = torch.stack([programs.evaluate(elbo, pair).gradient / copies for _ in range(10)])
    assert ((found.mean(0) - expected).abs() < 6 * found.std(0) / math.sqrt(10) + 1e-9).all()


@pytest.mark.parametrize("alpha", [0.0, 0.5])
@pytest.mark.parametrize(
    ("variant", "lam"),
    [
        ("plain", -0.75),
        *itertools.product(
            [
                "plain",
                "likelihood_scaled",
                "guide_factor",
                "score_factor",
                "masked",
                "latent_masked",
                "scaled",
                "subsampled",
            ],
            [3.0],
        ),
    ],
)
def test_score_function_gradient_tends_to_that_of_the_bound(programs, variant, lam, alpha):
    """As the particles become many it is that of the integral."""
    pair = programs.DiscretePair(variant)
    p = pair.parameters()
    log_w = pair.log_weights(p, observed=1 + lam)
    each = (pair.log_posterior(p) + (1 - alpha) * log_w).logsumexp(-1) / (1 - alpha)
    loss = -(each if variant == "masked" else pair.counts() * each).sum()
    gradients = torch.autograd.grad(loss, list(p.values()), allow_unused=True, materialize_grads=True)
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    estimate = programs.estimated(
        programs.DiscretePair, variant, Renyi_InfoMaxELBO, num_particles=2000, lam=lam, alpha=alpha
    )
    # the bound of K particles is looser by something over K
    errors = (estimate.mean.gradient - flat).abs() - 4 / 2000
    assert (errors <= 5 * estimate.standard_error.gradient).all()


@pytest.mark.parametrize("lam", WEIGHTS_APART)
def test_score_function_gradient_with_imputed_data(programs, lam):
    """At alpha = 0 many particles give the evidence, to which missing data add nothing."""
    pair = programs.DiscretePair("obs_masked")
    p = pair.parameters()
    log_joint = pair.log_weights(p, observed=1 + lam) + pair.log_posterior(p)
    loss = -log_joint.logsumexp(-1)[torch.tensor(programs.OBSERVED)].sum()
    gradients = torch.autograd.grad(loss, list(p.values()), allow_unused=True, materialize_grads=True)
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    expected = programs.Reference(loss, flat, loss, loss)
    estimate = programs.estimated(
        programs.DiscretePair, "obs_masked", Renyi_InfoMaxELBO, num_particles=2000, lam=lam, alpha=0.0
    )
    assert programs.beyond_error(estimate, expected, ["gradient"]) == []


@pytest.mark.parametrize("variant", ["plain", "likelihood_scaled", "guide_factor", "score_factor"])
def test_distortion_and_rate_of_a_score_function(programs, variant):
    expected = programs.reference(programs.DiscretePair(variant))
    estimate = programs.estimated(
        programs.DiscretePair, variant, Renyi_InfoMaxELBO, num_particles=2000, lam=3.0, alpha=0.5
    )
    assert programs.beyond_error(estimate, expected, ["distortion", "rate"]) == []


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("method", ["loss", "loss_and_grads"])
def test_without_a_weight_its_elbo_is_the_bound_that_is_returned(programs, method, vectorize):
    pair = programs.DiscretePair("guide_factor")
    elbo = Renyi_InfoMaxELBO(lam=0.0, alpha=0.3, num_particles=4, vectorize_particles=vectorize)
    loss = getattr(elbo, method)(pair.model, pair.guide)
    assert elbo.terms.elbo == pytest.approx(-loss, abs=1e-10)


@pytest.mark.parametrize("vectorize", [True, False])
def test_one_particle_alone_gives_the_elbo(programs, vectorize):
    pair = programs.NormalPair("plain")
    elbo = Renyi_InfoMaxELBO(
        lam=0.0, alpha=0.5, num_particles=1, vectorize_particles=vectorize, max_plate_nesting=1
    )
    loss = elbo.loss(pair.model, pair.guide)
    assert loss == pytest.approx(elbo.terms.distortion + elbo.terms.rate, abs=1e-9)


def test_its_elbo_is_tighter_than_minus_distortion_minus_rate(programs):
    pair = programs.NormalPair()
    elbo = Renyi_InfoMaxELBO(lam=3.0, num_particles=10)
    elbo.loss(pair.model, pair.guide)
    assert elbo.terms.elbo > -elbo.terms.distortion - elbo.terms.rate


def test_impossible_data_of_weight_zero_leave_no_nan():
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Uniform(z - 1, z + 1, validate_args=False), obs=torch.tensor(9.0))

    def guide():
        pyro.sample("z", dist.Normal(pyro.param("m", torch.tensor(0.4)), 1.0))

    elbo = Renyi_InfoMaxELBO(lam=0.0)
    loss = elbo.loss_and_grads(weight(model, observed=0.0), guide)
    assert math.isfinite(loss)
    assert pyro.param("m").grad.isfinite()
    assert (elbo.terms.distortion, elbo.terms.elbo) == (math.inf, -math.inf)


# ---- plates that subsample


@pytest.mark.parametrize(("vectorize", "scale"), [(False, 1.0), (True, 1.0), (True, 0.01)])
def test_a_subsample_estimates_the_bound_of_all_data(vectorize, scale):
    """z ~ N(0, 1), x ~ N(z, 1/2): log p(x) less half the relative variance of the mean of K weights."""

    def plate(x):
        return pyro.plate("data", len(x), subsample_size=20)

    def model(x):
        with poutine.scale(scale=scale), plate(x) as rows:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x[rows])
        pyro.deterministic("outside", x.sum())

    def guide(x):
        with poutine.scale(scale=scale), plate(x) as rows:
            pyro.sample("z", dist.Normal(0.6 * x[rows], 0.8))

    x = torch.linspace(-2.0, 2.0, 100)
    elbo = Renyi_InfoMaxELBO(0.0, num_particles=20, vectorize_particles=vectorize, max_plate_nesting=1)
    losses = torch.tensor([elbo.loss(model, guide, x) for _ in range(20)]) / scale
    assert elbo.terms.elbo == pytest.approx(-losses[-1].item() * scale)

    z = torch.linspace(-6.0, 6.0, 2001)[:, None]  # (z, data), for the trapezoid rule
    log_joint = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z, 0.5).log_prob(x)
    log_evidence = dist.Normal(0.0, 1.25**0.5).log_prob(x)
    log_square = 2 * (log_joint - log_evidence) - dist.Normal(0.6 * x, 0.8).log_prob(z)
    variance = torch.trapezoid(log_square.exp(), z[:, 0], dim=0) - 1
    expected = (log_evidence - variance / (2 * 20)).sum()
    assert abs(losses.mean() + expected) < 4 * losses.std() / math.sqrt(20)


def test_particles_see_the_same_rows():
    """One by one as well as at once; a draw of rows for each would mix data in one mean."""
    seen = []

    def model(x):
        with pyro.plate("data", len(x), subsample_size=2) as rows:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            seen.append(tuple(rows.tolist()))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])

    def guide(x):
        with pyro.plate("data", len(x), subsample_size=2):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    elbo = Renyi_InfoMaxELBO(0.0, num_particles=8)
    for _ in range(3):
        elbo.loss(model, guide, torch.randn(100))
    assert [len(set(seen[k : k + 8])) for k in (0, 8, 16)] == [1, 1, 1]
    assert len(set(seen)) > 1


def test_refuses_to_subsample_a_plate_that_not_all_sites_share(programs):
    class Global(Normals):
        def plate(self, x):
            return pyro.plate("data", 5 * len(x), subsample_size=len(x))

    pair = Global()
    sentence = "cannot subsample the plate .data., which some sites .* use Trace_InfoMaxELBO"
    programs.assert_refused(
        NotImplementedError, sentence, Renyi_InfoMaxELBO().loss, pair.model, pair.guide, X
    )
    assert math.isfinite(Renyi_InfoMaxELBO(num_particles=1).loss(pair.model, pair.guide, X))


def test_refuses_latents_of_different_scales(programs):
    pair = Normals()

    def model(x):
        pair.model(x)
        with poutine.scale(scale=2.0):
            pyro.sample("v", dist.Normal(0.0, 1.0))

    def guide(x):
        pair.guide(x)
        with poutine.scale(scale=2.0):
            pyro.sample("v", dist.Normal(0.0, 1.0))

    sentence = "needs the latent sites .* to have one scale"
    programs.assert_refused(NotImplementedError, sentence, Renyi_InfoMaxELBO().loss, model, guide, X)


# ---- refusals


@pytest.mark.parametrize("lam", [{"z": 3.0}, {"z": torch.tensor(3.0), "x": 1.0}])
def test_refuses_a_weight_on_a_latent_site(programs, lam):
    pair, elbo = programs.NormalPair(), Renyi_InfoMaxELBO(lam=lam)
    sentence = "cannot weigh the latent site 'z' exactly; use Trace_"
    programs.assert_refused(NotImplementedError, sentence, elbo.loss, pair.model, pair.guide)


def test_takes_a_weight_by_the_name_of_an_observed_site(programs):
    pair = programs.NormalPair()
    by_name, bare = Renyi_InfoMaxELBO(lam={"x": 3.0}), Renyi_InfoMaxELBO(lam=3.0)
    torch.manual_seed(0)
    expected = bare.loss(pair.model, pair.guide)
    torch.manual_seed(0)
    assert by_name.loss(pair.model, pair.guide) == expected


def test_refuses_guide_sites_outside_of_the_shared_plates(programs):
    pair, elbo = programs.DiscretePair("global_factor"), Renyi_InfoMaxELBO()
    sentence = r"the guide's sites in every plate .* but \['f'\] are outside"
    programs.assert_refused(NotImplementedError, sentence, elbo.loss_and_grads, pair.model, pair.guide)


def noting(x):
    w = pyro.deterministic("w", torch.tensor(0.8))
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(w * z, 1.0), obs=x)


def with_own_global_site(x):
    u = pyro.sample("u", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(0.5 * x + 0.1 * u, 0.7))


@pytest.mark.parametrize("model", [noting, poutine.block(noting, hide=["w"])])
def test_which_plates_are_shared_is_said_by_sites_with_a_density(programs, model):
    """A guide's own sites may be in further plates, which are summed out, but in each shared one."""
    x, drawn = torch.randn(5), []

    def guide(x):
        slope = pyro.deterministic("slope", torch.tensor(0.5))
        with pyro.plate("data", len(x), dim=-1):
            with pyro.plate("parts", 3, dim=-2):
                u = pyro.sample("u", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
            drawn.append((u, pyro.sample("z", dist.Normal(slope * x + 0.1 * u.sum(-2), 0.7))))

    elbo = Renyi_InfoMaxELBO(0.0, num_particles=3)
    with pyro.validation_enabled(False):  # where Pyro would warn of a site that the model lacks
        elbo.loss(model, guide, x)
    u, z = (torch.stack(each) for each in zip(*drawn, strict=True))
    logs = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(0.8 * z, 1.0).log_prob(x)
    logs = logs - dist.Normal(0.5 * x + 0.1 * u.sum(-2), 0.7).log_prob(z)
    logs = logs - dist.Normal(0.0, 1.0).log_prob(u).sum(-2)
    assert elbo.terms.elbo == pytest.approx(bound(logs, 0.0, torch.ones(5)).item(), rel=1e-12)
    sentence = r"the guide's sites in every plate .* but \['u'\] are outside"
    for particles in (1, 3):
        elbo = Renyi_InfoMaxELBO(num_particles=particles)
        programs.assert_refused(NotImplementedError, sentence, elbo.loss, model, with_own_global_site, x)


@pytest.mark.parametrize("num_particles", [1, 4])
def test_an_axis_in_no_plate_is_counted_once(num_particles):
    """At the posterior every weight is the evidence, of a latent that all five cells of the data share."""
    x = torch.randn(5)

    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(x.sum() / 6, (1 / 6) ** 0.5))

    log_p = dist.MultivariateNormal(torch.zeros(5), torch.eye(5) + 1).log_prob(x).item()
    with pyro.validation_enabled(False):
        elbo = Renyi_InfoMaxELBO(0.0, num_particles=num_particles)
        assert elbo.loss(model, guide, x) == pytest.approx(-log_p, abs=1e-10)


def test_takes_a_guide_that_is_a_messenger(programs):
    model = programs.NormalPair().model
    elbo = Renyi_InfoMaxELBO(lam=0.0)
    assert elbo.loss(model, AutoNormalMessenger(model)) == pytest.approx(-elbo.terms.elbo)


@pytest.mark.parametrize(
    "name", ["Renyi_BetaELBO", "RWS_BetaELBO", "TraceTMC_BetaELBO", "Trace_MMD_BetaELBO"]
)
def test_objectives_that_do_not_exist_say_which_to_use(name):
    from pyro_infomax import infer

    with pytest.raises(NotImplementedError, match=rf"{name} does not exist: .* use .*ELBO"):
        getattr(infer, name)


# ---- in tensors alone


class Normals:
    """z and u are reparameterised; the guide pays for a factor of its own."""

    start = {"theta": 0.7, "slope": -0.4, "scale": 0.2}

    def __getattr__(self, name):
        if name not in type(self).start:
            raise AttributeError(name)
        return pyro.param(name, torch.tensor(self.start[name]))

    def plate(self, x):
        return pyro.plate("data", len(x))

    def likelihood(self, mean, x):
        pyro.sample("x", dist.Normal(mean, self.scale.exp()), obs=x)

    def model(self, x):
        u = pyro.sample("u", dist.Normal(0.0, 1.0))
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(u, 1.0))
            self.likelihood(self.theta * z, x)

    def guide(self, x):
        pyro.sample("u", dist.Normal(self.theta, 0.7))
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(self.slope * x, self.scale.exp()))
            pyro.factor("f", 0.3 * z, has_rsample=True)


class Scores(Normals):
    """z is drawn by its score, u is reparameterised and depends on it."""

    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", dist.Bernoulli(0.4))
            u = pyro.sample("u", dist.Normal(z, 1.0))
            self.likelihood(self.theta * u + z, x)

    def guide(self, x):
        with self.plate(x):
            z = pyro.sample("z", dist.Bernoulli(logits=self.slope * x))
            pyro.sample("u", dist.Normal(self.theta * x + z, self.scale.exp()))


class Masked(Scores):
    """The mask is one of the data."""

    def likelihood(self, mean, x):
        with poutine.mask(mask=x > 0):
            super().likelihood(mean, x)


class MaskedScores(Scores):
    """The mask is one of the data, around all."""

    def model(self, x):
        with poutine.mask(mask=x > 0):
            super().model(x)

    def guide(self, x):
        with poutine.mask(mask=x > 0):
            super().guide(x)


X = torch.tensor([0.9, -1.4, 0.3, 2.1], dtype=torch.float64)
IN_TENSORS = [Normals, Scores, Masked, MaskedScores]
KINDS = [(0.0, False), (0.5, False), (0.5, True)]


def seeded(evaluate, *args):
    torch.manual_seed(7)
    return evaluate(*args)


@pytest.mark.parametrize("make_pair", IN_TENSORS)
def test_a_step_evaluates_what_pyros_own_objective_and_the_surrogate_do(programs, make_pair):
    pair = make_pair()
    for alpha, vectorize in KINDS:
        kwargs = {"alpha": alpha, "num_particles": 3, "vectorize_particles": vectorize}
        elbo = Renyi_InfoMaxELBO(3.0, max_plate_nesting=1, **kwargs)
        stock, weighed = RenyiELBO(max_plate_nesting=1, **kwargs), weight(pair.model, observed=4.0)
        elbo.loss(pair.model, pair.guide, X)
        args = elbo, pair.model, pair.guide, X
        expected = seeded(programs.evaluated, *args)
        of_pyro = seeded(programs.evaluated, stock, weighed, pair.guide, X)
        # Pyro's gradient of a score is that of a bound of infinitely many particles
        count = len(of_pyro) if make_pair is Normals else 1
        assert programs.agree([expected[0], *expected[4:]][:count], of_pyro[:count]), kwargs
        assert programs.agree(seeded(programs.evaluated_in_tensors, *args), expected), kwargs
        terms = [torch.tensor(each) for each in elbo.terms.values()]
        assert programs.agree(terms, [*expected[1:4], expected[0]]), kwargs


@pytest.mark.parametrize(
    ("make_pair", "alpha", "vectorize"),
    [*((each, 0.5, True) for each in (Normals, Masked, MaskedScores)), (Scores, 0.0, False)],
)
def test_a_recorded_graph_holds_for_other_data_parameters_and_weights(programs, make_pair, alpha, vectorize):
    pair = make_pair()
    elbo = Renyi_InfoMaxELBO(
        torch.tensor(3.0), alpha=alpha, num_particles=2, vectorize_particles=vectorize, max_plate_nesting=1
    )
    recording = programs.Recording(elbo, pair.model, pair.guide, X, elbo.variable_weights())
    programs.move_parameters()
    elbo.lam = torch.tensor(0.4)
    x = X.flip(0) * 1.3
    expected = seeded(programs.evaluated, elbo, pair.model, pair.guide, x)
    assert programs.agree(seeded(recording, x, elbo.variable_weights()), expected)


def test_it_takes_over_what_was_evaluated_elsewhere(programs):
    pair = Normals()
    elbo = Renyi_InfoMaxELBO(3.0)
    found = elbo.surrogate(pair.model, pair.guide, X)
    elbo.loss(pair.model, pair.guide, X)
    elbo.adopt(found, {})
    assert elbo.terms.elbo == pytest.approx(found.terms["elbo"].item(), abs=1e-12)
    assert elbo.step == 1
    loss = elbo.loss_and_grads(pair.model, pair.guide, X)
    assert elbo.terms.loss == loss
    assert elbo.terms.elbo != pytest.approx(found.terms["elbo"].item(), abs=1e-12)
