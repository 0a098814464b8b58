"""Draws cut from the graph: whose score has no mean, what draws carry, and masks within a distribution."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.testing.rejection_gamma import ShapeAugmentedGamma

from pyro_infomax import CapturedSVI, FusedOptim
from pyro_infomax.distributions import FlowDistribution, TransformFlow
from pyro_infomax.infer import (
    DReG_InfoMaxELBO,
    IWAE_InfoMaxELBO,
    Renyi_InfoMaxELBO,
    RWS_InfoMaxELBO,
    STL_InfoMaxELBO,
    Trace_BetaELBO,
    TraceGraph_BetaELBO,
    TraceMeanField_BetaELBO,
    TVO_InfoMaxELBO,
    VIMCO_InfoMaxELBO,
    WakeSleepELBO,
)

# ---- Supports that parameters move


def line(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def within(family, *transforms):
    """A guide of one positive parameter."""

    def guide(x):
        b = pyro.param("b", torch.tensor(1.5), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            fn = family(b.expand(len(x)))
            steps = [make(b) for make in transforms]
            pyro.sample("z", dist.TransformedDistribution(fn, steps) if steps else fn)

    return guide


def scaled(b):
    return dist.transforms.AffineTransform(0.0, b)


def shifted(b):
    return dist.transforms.AffineTransform(b, 1.0)


def powered(b):
    return dist.transforms.PowerTransform(b)


def bent(_):
    return dist.transforms.LeakyReLUTransform()


def fixed(transform):
    return lambda _: transform


def noise(b):
    return dist.Normal(torch.zeros_like(b), 1.0)


def unit(b):
    return dist.Uniform(torch.zeros_like(b), 1.0)


def inner(b):
    return dist.Uniform(0.2 * torch.ones_like(b), 0.8)


def gamma(b):
    return dist.Gamma(2 * torch.ones_like(b), 1.0)


LOGIT, LOG = dist.transforms.SigmoidTransform().inv, dist.transforms.ExpTransform().inv
MOVING = {
    "Uniform": within(lambda b: dist.Uniform(-b, b)),
    "Pareto": within(lambda b: dist.Pareto(b, 3.0)),
    "Beta": within(lambda b: dist.Beta(2 * torch.ones_like(b), 1.0), scaled),
    "mask": within(lambda b: dist.Uniform(torch.zeros_like(b), b).mask(True)),
    "mixture": within(
        lambda b: dist.MixtureSameFamily(
            dist.Categorical(torch.ones(len(b), 2)), dist.Uniform(-b[:, None].expand(-1, 2), 2.0)
        )
    ),
    "logistic": within(
        lambda b: dist.Normal(b, 1.0),
        lambda _: dist.transforms.SigmoidTransform(),
        lambda b: dist.transforms.ComposeTransform([dist.transforms.AffineTransform(0.0, 2.0), scaled(b)]),
    ),
    "within the unit": within(inner, fixed(LOGIT), shifted),
    "above one": within(lambda b: dist.Pareto(torch.ones_like(b), 3.0), fixed(LOG), shifted),
    "half line": within(gamma, shifted),
    "power": within(inner, powered),
    "back again": within(gamma, fixed(scaled(-1.0)), fixed(LOG.inv), scaled),
    "bend": within(noise, bent, shifted),
    "each way": within(gamma, fixed(shifted(torch.tensor([-1.0, 1.0]))), scaled),
}
RESTING = [
    within(
        lambda b: dist.Normal(b, 1.0),
        scaled,
        lambda _: dist.transforms.SigmoidTransform(),
        lambda _: scaled(2.0),
    ),
    within(
        lambda b: dist.Uniform(torch.zeros_like(b), 1.0),
        lambda _: dist.transforms.SigmoidTransform().inv,
        scaled,
    ),
    within(gamma, scaled),
    within(noise, fixed(LOG.inv), scaled),
    within(noise, fixed(LOG.inv), powered),
    within(unit, powered),
    within(noise, bent, scaled),
    within(noise, fixed(dist.transforms.SigmoidTransform()), powered, fixed(LOGIT), shifted),
    within(lambda b: dist.Weibull(b, b)),
    within(lambda b: dist.Gumbel(b, b)),
]
SCORELESS = [
    lambda: DReG_InfoMaxELBO(num_particles=2),
    STL_InfoMaxELBO,
    lambda: TVO_InfoMaxELBO(num_particles=2),
    lambda: RWS_InfoMaxELBO(num_particles=2),
]


@pytest.mark.parametrize("make", SCORELESS)
def test_supports_that_parameters_move_are_refused_where_scores_must_have_no_mean(programs, make):
    x = torch.ones(2)
    sentence = "move the support of 'z' .*; use IWAE_InfoMaxELBO"
    for name, guide in MOVING.items():
        pyro.clear_param_store()
        if name in ("mask", "mixture") and make in SCORELESS[:2]:
            continue  # masked draws keep the plain gradient, and mixtures are not reparameterised
        programs.assert_refused(NotImplementedError, sentence, make().loss_and_grads, line, guide, x)
        assert not math.isnan(make().loss(line, guide, x))  # whose value needs no score
    for guide in RESTING:
        pyro.clear_param_store()
        assert math.isfinite(make().loss_and_grads(line, guide, x))


class Unsaid(dist.TorchDistribution):
    """Normal, of a class that says nothing of its support."""

    arg_constraints = {}
    has_rsample = True

    def __init__(self, loc):
        self.normal = dist.Normal(loc, 1.0)
        super().__init__(loc.shape, validate_args=False)

    def rsample(self, sample_shape=()):
        return self.normal.rsample(sample_shape)

    def log_prob(self, value):
        return self.normal.log_prob(value)


def test_a_family_that_states_no_support_is_refused_by_name(programs):
    for make in SCORELESS:
        pyro.clear_param_store()
        evaluate, sentence = make().loss_and_grads, "support of 'z' but Unsaid states none; give that class"
        programs.assert_refused(NotImplementedError, sentence, evaluate, line, within(Unsaid), torch.ones(2))


# ---- Densities that jump where draws move


class Quantiles(dist.Normal):
    """All draws together stand for the distribution."""

    def rsample(self, sample_shape=()):
        size = self.batch_shape[-1]
        return self.loc + self.scale * dist.Normal(0.0, 1.0).icdf((torch.arange(size) + 0.5) / size)

    def expand(self, batch_shape, _instance=None):
        return Quantiles(self.loc.expand(batch_shape), self.scale.expand(batch_shape))


def bent_line(x):
    with pyro.plate("data", len(x)):
        fn = dist.TransformedDistribution(dist.Normal(torch.zeros(len(x)), 1.0), [bent(None)])
        z = pyro.sample("z", fn)
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


ON_PATHS = [
    lambda: IWAE_InfoMaxELBO(num_particles=2),
    lambda: VIMCO_InfoMaxELBO(num_particles=2),
    lambda: DReG_InfoMaxELBO(num_particles=2),
    lambda: Trace_BetaELBO(1.0),
    lambda: TraceGraph_BetaELBO(1.0),
    lambda: TraceMeanField_BetaELBO(1.0),
]


@pytest.mark.parametrize("make", ON_PATHS)
def test_jumps_of_a_density_are_refused_where_parameters_move_draws_across(programs, make):
    """The entropy of leaky(b + ε) has the slope −log(0.01) φ(b), of which no draw has a part."""
    moved = within(lambda b: dist.Normal(b, 1.0), bent)
    plain = within(lambda b: dist.Normal(b, 1.0))
    evaluate, x = make().loss_and_grads, torch.ones(3)
    for model, guide in ((line, moved), (bent_line, plain)):
        pyro.clear_param_store()
        sentence = "'z', which miss that LeakyReLU .*, or TVO_InfoMaxELBO"
        programs.assert_refused(NotImplementedError, sentence, evaluate, model, guide, x)
        with torch.no_grad():
            assert math.isfinite(make().loss(model, guide, x))


def test_jumps_that_no_parameter_moves_draws_across_leave_the_gradient_right():
    size, b = 4001, 1.5
    guide = within(lambda b: Quantiles(torch.zeros_like(b), torch.ones_like(b)), bent, shifted)
    elbo = IWAE_InfoMaxELBO(num_particles=1)
    elbo.loss_and_grads(line, guide, torch.full((size,), 0.5))
    found = pyro.param("b").unconstrained().grad.item() / size / b
    mean = b + 0.99 / math.sqrt(2 * math.pi)
    assert found == pytest.approx(2 * mean - 0.5, abs=1e-3)
    # scores are right where parameters move draws alone: z = leaky(b + ε) has no jump that moves
    pyro.clear_param_store()
    tvo = TVO_InfoMaxELBO(num_particles=2)
    assert math.isfinite(tvo.loss_and_grads(line, within(lambda b: dist.Normal(b, 1.0), bent), torch.ones(2)))


# ---- Flows that remember their draws


def vectors(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)


class Dropping(torch.nn.Module):
    """The network of a coupling."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(-1.0, 1.0, 8))

    def forward(self, z):
        kept = torch.nn.functional.dropout(torch.tanh(z * self.weight), 0.5, self.training)
        return kept.mean(-1, keepdim=True), 0.3 * kept.sum(-1, keepdim=True)


@pytest.mark.parametrize("as_flow", [False, True])
def test_flows_with_dropout_are_refused_where_draws_are_led_back(programs, as_flow):
    step, x = dist.transforms.AffineCoupling(1, Dropping()), torch.randn(50)
    flow = TransformFlow([step], 2)

    def guide(x):
        pyro.module("flow", flow)
        loc = pyro.param("loc", torch.zeros(2))
        with pyro.plate("data", len(x)):
            base = dist.Normal(loc.expand(len(x), 2), 1.0).to_event(1)
            fn = FlowDistribution(flow, batch_shape=[len(x)], loc=loc) if as_flow else None
            pyro.sample("z", fn or dist.TransformedDistribution(base, [step]))

    for make in SCORELESS:
        pyro.clear_param_store()
        sentence = "'z' is not that of the draws as they were made: its flow is random"
        flow.train()
        programs.assert_refused(NotImplementedError, sentence, make().loss_and_grads, vectors, guide, x)
        programs.assert_refused(NotImplementedError, sentence, make().loss, vectors, guide, x)
        flow.eval()
        assert math.isfinite(make().loss_and_grads(vectors, guide, x))
    flow.train()
    assert math.isfinite(IWAE_InfoMaxELBO(num_particles=2).loss_and_grads(vectors, guide, x))


def at_the_end(x):
    with pyro.plate("data", len(x)):
        base = dist.Normal(pyro.param("m", torch.tensor(1.0, dtype=x.dtype)) * x, 1.0)
        tanh = dist.transforms.TanhTransform(cache_size=1)
        pyro.sample("z", dist.TransformedDistribution(base, [tanh]))


def test_draws_beyond_precision_are_refused_in_captured_steps_too():
    """tanh is 1 in double precision beyond some 19, whose density cannot be told from the draw."""
    svi = CapturedSVI(line, at_the_end, FusedOptim(torch.optim.SGD, {"lr": 0.0}), STL_InfoMaxELBO())
    for _ in range(4):
        assert math.isfinite(svi.step(torch.ones(3)))
    assert svi.captured
    with (
        pyro.validation_enabled(False),
        pytest.raises(NotImplementedError, match=r"what torch.float64 resolves"),
    ):
        svi.step(torch.full((3,), 20.0))


def test_batch_norm_in_a_latent_is_refused_in_training_alone(programs):
    """In evaluation it is the identity here."""
    norm, x = dist.transforms.BatchNorm(2), torch.ones(4)

    def guide(x):
        pyro.module("norm", norm)
        with pyro.plate("data", len(x)):
            base = dist.Normal(3 * torch.ones(len(x), 2), 0.5).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [norm]))

    for make in (STL_InfoMaxELBO, lambda: Trace_BetaELBO(1.0), lambda: TVO_InfoMaxELBO(num_particles=2)):
        norm.train()
        sentence = "got BatchNorm, under which the density of a vector depends on .*: leave it out of 'z'"
        for method in ("loss", "loss_and_grads"):
            programs.assert_refused(NotImplementedError, sentence, getattr(make(), method), vectors, guide, x)
    norm = dist.transforms.BatchNorm(2).eval()
    elbo = Trace_BetaELBO(1.0)
    torch.manual_seed(0)
    elbo.loss(vectors, guide, x)
    torch.manual_seed(0)
    z = 3 + 0.5 * torch.randn(4, 2)
    rate = (dist.Normal(3.0, 0.5).log_prob(z) - dist.Normal(0.0, 1.0).log_prob(z)).sum()
    assert elbo.terms.rate == pytest.approx(rate.item(), rel=1e-3)


# ---- Pyro's straight-through draws, whose density is that of the relaxed value

STRAIGHT_THROUGH = {
    "bits": lambda logits: dist.RelaxedBernoulliStraightThrough(torch.tensor(0.7), logits=logits).to_event(1),
    "one hot": lambda logits: dist.RelaxedOneHotCategoricalStraightThrough(torch.tensor(0.7), logits=logits),
}


def of_codes(family):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", family(torch.zeros(len(x), 3)))
            pyro.sample("x", dist.Normal(z @ pyro.param("m", torch.tensor([-1.0, 0.0, 1.0])), 0.7), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            drawn.append(
                pyro.sample("z", family(pyro.param("b", torch.tensor([-0.5, 0.0, 0.5])) * x[:, None]))
            )

    drawn = []
    return model, guide, drawn


@pytest.mark.parametrize("name", STRAIGHT_THROUGH)
def test_straight_through_draws_are_scored_at_the_relaxed_value(programs, name):
    family, x = STRAIGHT_THROUGH[name], torch.randn(5)
    model, guide, drawn = of_codes(family)
    for make in (RWS_InfoMaxELBO, TVO_InfoMaxELBO, WakeSleepELBO, IWAE_InfoMaxELBO):
        pyro.clear_param_store()
        elbo = make(num_particles=2)
        drawn.clear()
        assert math.isfinite(elbo.loss_and_grads(model, guide, x))
        rate = 0.0
        for z in drawn[:2]:  # the others are of dreams
            relaxed = z._unquantize.detach()
            posterior = family(torch.tensor([-0.5, 0.0, 0.5]) * x[:, None])
            rate += (
                posterior.log_prob(relaxed) - family(torch.zeros(5, 3)).log_prob(relaxed)
            ).sum().item() / 2
        assert elbo.terms.rate == pytest.approx(rate, rel=1e-10)
    sentence = "'z' has that of another value, through which it draws straight; use IWAE_InfoMaxELBO"
    for make in (DReG_InfoMaxELBO, STL_InfoMaxELBO):
        programs.assert_refused(NotImplementedError, sentence, make().loss_and_grads, model, guide, x)


# ---- Masks within a distribution, which keep nothing from being drawn


class Chosen(dist.Categorical):
    """Draws all pairs of values, (particles, cells)."""

    values = torch.tensor(list(itertools.product(range(3), repeat=2))).T

    def sample(self, sample_shape=()):
        return Chosen.values

    def expand(self, batch_shape, _instance=None):
        return Chosen(logits=self.logits.expand(*batch_shape, 3))


def importance_weighted(logs):
    return logs.logsumexp(0) - math.log(2)


def thermodynamic(logs):
    return 0.5 * (logs.mean(0) + ((0.5 * logs).softmax(0) * logs).sum(0))


@pytest.mark.parametrize(
    ("objective", "bound", "kwargs"),
    [
        (VIMCO_InfoMaxELBO, importance_weighted, {}),
        (TVO_InfoMaxELBO, thermodynamic, {"betas": (0.0, 0.5, 1.0)}),
    ],
)
@pytest.mark.parametrize("mask", [False, torch.tensor(False)])
def test_masked_draws_keep_their_score(objective, bound, kwargs, mask):
    prior, encoder = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.5, 0.3, 0.2])
    likelihood = torch.tensor([0.7, 0.2, 0.5]).log()

    def model():
        with pyro.plate("data", 9):
            z = pyro.sample("z", dist.Categorical(prior).mask(mask))
            pyro.factor("x", likelihood[z])

    def guide():
        logits = pyro.param("logits", encoder.log().expand(9, 3).clone())
        with pyro.plate("data", 9):
            pyro.sample("z", Chosen(logits=logits.expand(2, 9, 3)).mask(mask))

    elbo = objective(num_particles=2, vectorize_particles=True, max_plate_nesting=1, **kwargs)
    elbo.loss_and_grads(model, guide)
    found = -(encoder[Chosen.values].prod(0) * pyro.param("logits").grad.T).sum(-1)
    logits = encoder.log().requires_grad_()
    q = logits.softmax(-1)[Chosen.values].prod(0)
    (expected,) = torch.autograd.grad((q * bound(likelihood[Chosen.values])).sum(), logits)
    assert (found - expected).abs().max() < 1e-12


# ---- Draws that are reparameterised in part


def positive(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Gamma(2.0, 1.0))
        pyro.sample("x", dist.Normal(z[:, None].expand(-1, 3), 0.7).to_event(1), obs=x)


def by_rejection(x):
    with pyro.plate("data", len(x)):
        shape = pyro.param("shape", torch.tensor(2.0)).expand(len(x))
        pyro.sample("z", ShapeAugmentedGamma(shape, torch.ones(len(x))))


def test_draws_reparameterised_in_part_are_refused(programs):
    for make, sentence in (
        (VIMCO_InfoMaxELBO, "'z', which is reparameterised in part"),
        (Renyi_InfoMaxELBO, "'z', which is reparameterised in part"),
        (IWAE_InfoMaxELBO, "'z' .* is not; use VIMCO_InfoMaxELBO"),
    ):
        evaluate = make().loss_and_grads
        programs.assert_refused(
            NotImplementedError, sentence, evaluate, positive, by_rejection, torch.ones(2, 3)
        )


# ---- Draws that are impossible under the model


def at_once(objective, num_particles, **kwargs):
    return objective(num_particles=num_particles, vectorize_particles=True, max_plate_nesting=1, **kwargs)


def within_one():
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Uniform(z - 1, z + 1, validate_args=False), obs=torch.tensor(0.0))


def beyond_one():
    pyro.sample("z", dist.Normal(pyro.param("m", torch.tensor(0.0)), 2.0))


def test_impossible_draws_leave_bounds_infinite_or_finite_and_never_nan():
    torch.manual_seed(1)
    tvo = at_once(TVO_InfoMaxELBO, 8)
    assert tvo.loss(within_one, beyond_one) == math.inf
    assert math.isfinite(tvo.terms.right_sum)
    for objective in (IWAE_InfoMaxELBO, DReG_InfoMaxELBO, VIMCO_InfoMaxELBO, RWS_InfoMaxELBO):
        for _ in range(5):
            assert math.isfinite(at_once(objective, 8).loss(within_one, beyond_one))
    for _ in range(5):
        assert math.isfinite(at_once(RWS_InfoMaxELBO, 8).loss_and_grads(within_one, beyond_one))
    assert pyro.param("m").grad.isfinite()
    # no draw is possible
    pyro.param("m").data.fill_(1e3)
    for objective in (TVO_InfoMaxELBO, IWAE_InfoMaxELBO, VIMCO_InfoMaxELBO):
        elbo = at_once(objective, 8)
        assert elbo.loss(within_one, beyond_one) == math.inf
        assert elbo.terms.elbo == -math.inf
        assert elbo.terms.get("right_sum", -math.inf) == -math.inf


REPARAMETERISED = [IWAE_InfoMaxELBO, DReG_InfoMaxELBO, VIMCO_InfoMaxELBO, Renyi_InfoMaxELBO]


@pytest.mark.parametrize("objective", REPARAMETERISED)
def test_paths_out_of_the_support_are_refused(programs, objective):
    """The weights of possible draws say nothing of how many of them there are, which parameters move."""

    def model():
        z = pyro.sample("z", dist.Uniform(-1.0, 1.0, validate_args=False))
        pyro.factor("x", torch.where(z < 0.5, 0.0, -math.inf))

    def guide():
        pyro.sample("z", dist.Normal(pyro.param("m", torch.tensor(0.6)), 0.3))

    for torn in (model, within_one):
        pyro.clear_param_store()
        torch.manual_seed(1)
        for method in ("loss_and_grads", "differentiable_loss"):
            evaluate = getattr(at_once(objective, 64), method)
            sentence = "misses that parameters move draws across its edge, but 'x'.* has the log-prob"
            programs.assert_refused(ValueError, sentence, evaluate, torn, guide)
        assert pyro.param("m").grad is None
    with pytest.raises(ValueError, match="edge"):
        STL_InfoMaxELBO().loss_and_grads(model, lambda: pyro.sample("z", dist.Normal(pyro.param("m"), 9.0)))


def test_captured_steps_refuse_paths_out_of_the_support_too():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.factor("x", torch.where(z < x, 0.0, -math.inf))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("m", torch.tensor(0.0)).expand(len(x)), 1.0))

    svi = CapturedSVI(
        model, guide, FusedOptim(torch.optim.SGD, {"lr": 0.0}), IWAE_InfoMaxELBO(num_particles=9)
    )
    for _ in range(4):
        assert math.isfinite(svi.step(torch.full((20,), 50.0)))
    assert svi.captured
    with pytest.raises(ValueError, match="'x' has the log-probability -inf"):
        svi.step(torch.zeros(20))


@pytest.mark.parametrize(
    ("objective", "kwargs"),
    [(TVO_InfoMaxELBO, {}), (Renyi_InfoMaxELBO, {"alpha": 2.0, "lam": 0.0})],
)
def test_bounds_that_one_impossible_draw_makes_infinite_refuse_to_train_by_it(programs, objective, kwargs):
    def model():
        with pyro.plate("data", 4):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.3, 0.2])))
            pyro.factor("x", torch.tensor([0.0, -math.inf, -1.0])[z])

    def guide():
        with pyro.plate("data", 4):
            pyro.sample("z", dist.Categorical(logits=pyro.param("logits", torch.zeros(3)).expand(4, 3)))

    torch.manual_seed(0)
    evaluate = at_once(objective, 8, **kwargs).loss_and_grads
    sentence = "is -inf otherwise, but 'x' has .*, or VIMCO_InfoMaxELBO"
    programs.assert_refused(ValueError, sentence, evaluate, model, guide)
    assert at_once(objective, 8, **kwargs).loss(model, guide) == math.inf
    assert math.isfinite(at_once(VIMCO_InfoMaxELBO, 8).loss_and_grads(model, guide))
    # the ELBO says at least that its loss is no number
    pyro.clear_param_store()
    with pytest.warns(UserWarning, match="infinite loss of Trace_BetaELBO: draws of q"):
        assert Trace_BetaELBO(1.0, num_particles=8).loss_and_grads(model, guide) == math.inf
