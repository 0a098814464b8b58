"""What all objectives share: weights, terms, schedules, state, and the programs that they take."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import ReweightedWakeSleep, Trace_ELBO, Trace_MMD, TraceTMC_ELBO
from pyro.infer.autoguide import AutoNormal, AutoNormalMessenger
from pyro.poutine.guide import GuideMessenger

from pyro_infomax.distributions import StraightThroughBernoulli
from pyro_infomax.infer import (
    Renyi_InfoMaxELBO,
    Trace_BetaELBO,
    Trace_InfoMaxELBO,
    TraceEnum_BetaELBO,
    TraceEnum_InfoMaxELBO,
    TraceGraph_BetaELBO,
    TraceGraph_InfoMaxELBO,
    TraceMeanField_BetaELBO,
    TraceMeanField_InfoMaxELBO,
    WeightedELBO,
)
from pyro_infomax.poutine import weight
from pyro_infomax.schedules import Constant, Cyclical, Linear

BETAS = [Trace_BetaELBO, TraceMeanField_BetaELBO, TraceGraph_BetaELBO, TraceEnum_BetaELBO]
LAMS = [Trace_InfoMaxELBO, TraceMeanField_InfoMaxELBO, TraceGraph_InfoMaxELBO, TraceEnum_InfoMaxELBO]
ALL = [*BETAS, *LAMS, Renyi_InfoMaxELBO]
MESSENGERS = [objective for objective in ALL if not objective.enumerates]
DIFFERENTIABLE = [o for o in ALL if not o.__name__.startswith(("TraceGraph", "Renyi"))]


def quiet(objective, *args, **kwargs):
    return objective(*args, strict_enumeration_warning=False, **kwargs)


# ---- a weight a site


@pytest.mark.parametrize("objective", LAMS)
@pytest.mark.parametrize("lam", [{"x": 3.0}, {"y": -0.75, "z1": 3.0}, {}], ids=str)
def test_a_mapping_weighs_named_sites_by_one_plus_lam(programs, lam, objective):
    pair = programs.TwoLatents()
    estimate = programs.repeated(programs.many_particles(objective, lam=lam), pair)
    expected = pair.expected({name: 1 + value for name, value in lam.items()})
    assert programs.beyond_error(estimate, expected) == []


@pytest.mark.parametrize("objective", BETAS)
@pytest.mark.parametrize("beta", [{"z1": 4.0}, {"z2": 0.0, "x": 0.25}, {}], ids=str)
def test_a_mapping_weighs_named_sites_by_beta(programs, beta, objective):
    pair = programs.TwoLatents()
    estimate = programs.repeated(programs.many_particles(objective, beta=beta), pair)
    assert programs.beyond_error(estimate, pair.expected(beta)) == []


@pytest.mark.parametrize("name", ["x", "x_observed", "x_unobserved"])
@pytest.mark.parametrize("objective", BETAS)
def test_a_mapping_names_sites_that_obs_mask_splits(programs, objective, name):
    """By the name of the whole or of a part; each draw is weighed on its own."""
    pair = programs.NormalPair("obs_masked")
    torch.manual_seed(0)
    trace = poutine.trace(pair.guide).get_trace()
    model_trace = poutine.trace(poutine.replay(pair.model, trace)).get_trace()
    model_trace.compute_log_prob()
    trace.compute_log_prob()
    parts = {
        "x_observed": -model_trace.nodes["x_observed"]["log_prob_sum"],
        "x_unobserved": trace.nodes["x_unobserved"]["log_prob_sum"]
        - model_trace.nodes["x_unobserved"]["log_prob_sum"],
    }
    if objective is TraceMeanField_BetaELBO:
        q, p = trace.nodes["x_unobserved"]["fn"], model_trace.nodes["x_unobserved"]["fn"]
        divergence = torch.distributions.kl_divergence(q, p)
        parts["x_unobserved"] = divergence[~torch.tensor(programs.OBSERVED)].sum()

    def loss(beta):
        torch.manual_seed(0)
        return quiet(objective, beta=beta, max_plate_nesting=1).loss(pair.model, pair.guide)

    expected = 3.0 * sum(part for half, part in parts.items() if half.startswith(name)).item()
    assert loss({name: 4.0}) - loss({}) == pytest.approx(expected)


@pytest.mark.parametrize("objective", ALL)
def test_refuses_a_name_that_no_site_of_the_model_bears(programs, objective):
    pair = programs.NormalPair()
    for name in ("typo", "w"):  # w is a parameter
        sentence = rf"to name sites of the model, \['z', 'x'\], but got '{name}'"
        elbo = quiet(objective, {"x": 2.0, name: 3.0})
        programs.assert_refused(ValueError, sentence, elbo.loss, pair.model, pair.guide)


def named_like_halves():
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("z_observed", dist.Normal(z, 1.0), obs=torch.tensor(0.5))


def test_refuses_a_name_that_might_mean_two_sites():
    def guide():
        pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="Expected beta to name 'z_observed' too, since it names 'z'"):
        Trace_BetaELBO(beta={"z": 4.0}).loss(named_like_halves, guide)


def test_takes_the_name_where_both_sites_are_named():
    def guide():
        pyro.sample("z", dist.Normal(0.0, 1.0))

    elbo = Trace_BetaELBO(beta={"z": 4.0, "z_observed": 1.0})
    assert elbo.loss(named_like_halves, guide) == pytest.approx(elbo.terms.distortion)  # a rate of 0


# ---- tensors


@pytest.mark.parametrize("objective", ALL)
@pytest.mark.parametrize("number", [0.0, 3.0])
def test_a_tensor_weighs_what_its_number_does_and_gets_no_gradient(programs, objective, number):
    pair, weight = programs.NormalPair(), torch.tensor(number, requires_grad=True)
    values = []
    for value in (number, weight):
        torch.manual_seed(0)
        values.append(programs.evaluate(quiet(objective, value), pair))
    assert all(torch.allclose(ours, theirs) for ours, theirs in zip(*values, strict=True))
    assert weight.grad is None


@pytest.mark.parametrize("objective", [Trace_BetaELBO, TraceMeanField_BetaELBO])
def test_a_change_of_a_tensor_in_place_is_seen(programs, objective):
    pair, value = programs.NormalPair(), torch.tensor(3.0)
    elbo = objective(value)
    value.fill_(0.5)
    loss = elbo.loss(pair.model, pair.guide)
    assert loss == pytest.approx(elbo.terms.distortion + 0.5 * elbo.terms.rate)


def test_a_tensor_that_became_nan_is_refused(programs):
    pair, value = programs.NormalPair(), torch.tensor(3.0)
    elbo = Trace_BetaELBO(value)
    value.fill_(math.nan)
    with pytest.raises(ValueError, match="Expected beta >= 0 but got nan"):
        elbo.loss(pair.model, pair.guide)


# ---- the terms


@pytest.mark.parametrize("objective", ALL)
def test_every_evaluation_leaves_its_terms(programs, objective):
    pair = programs.NormalPair()
    elbo = quiet(objective, 3.0)
    assert elbo.terms is None
    methods = ["loss", "loss_and_grads"] + ["differentiable_loss"] * (objective in DIFFERENTIABLE)
    for method in methods:
        loss = torch.as_tensor(getattr(elbo, method)(pair.model, pair.guide))
        assert elbo.terms.loss == pytest.approx(loss.item())
        if objective is not Renyi_InfoMaxELBO:
            assert elbo.terms.elbo == -elbo.terms.distortion - elbo.terms.rate


@pytest.mark.parametrize("objective", [*BETAS, *LAMS])
def test_without_weights_the_elbo_is_minus_the_loss(programs, objective):
    pair = programs.NormalPair("subsampled")
    elbo = quiet(objective, {}, num_particles=2)
    assert elbo.loss(pair.model, pair.guide) == pytest.approx(-elbo.terms.elbo)


@pytest.mark.parametrize("objective", BETAS)
def test_particles_one_after_another_are_averaged(programs, objective):
    """Those at once are held against closed forms, in the tests of each objective."""
    pair = programs.NormalPair()
    torch.manual_seed(3)
    elbo = quiet(objective, 0.25, num_particles=5, max_plate_nesting=1)
    loss = elbo.loss(pair.model, pair.guide)
    torch.manual_seed(3)
    single = quiet(objective, 0.25, max_plate_nesting=1)
    losses, terms = zip(*((single.loss(pair.model, pair.guide), single.terms) for _ in range(5)), strict=True)
    assert loss == pytest.approx(sum(losses) / 5)
    for name in ("distortion", "rate", "elbo"):
        assert elbo.terms[name] == pytest.approx(sum(each[name] for each in terms) / 5)


def impossible():
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Uniform(z - 1.0, z + 1.0, validate_args=False), obs=torch.tensor(99.0))


def impossible_guide():
    pyro.sample("z", dist.Normal(pyro.param("m", torch.tensor(0.5)), 1.0))


@pytest.mark.parametrize("zero", [0.0, torch.tensor(0.0)])
@pytest.mark.parametrize("objective", BETAS)
def test_impossible_data_of_weight_zero_leave_no_nan(objective, zero):
    elbo = quiet(objective, beta={"x": zero})
    loss = elbo.loss_and_grads(impossible, impossible_guide)
    assert loss == pytest.approx(elbo.terms.rate)
    assert math.isfinite(elbo.terms.rate)
    assert pyro.param("m").grad.isfinite()
    assert elbo.terms.distortion == math.inf


@pytest.mark.parametrize("objective", BETAS)
def test_an_impossible_prior_of_weight_zero_leaves_no_nan(objective):
    def model():
        z = pyro.sample("z", dist.Uniform(5.0, 6.0, validate_args=False))
        pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(0.5))

    elbo = quiet(objective, beta=0.0)
    loss = elbo.loss_and_grads(model, impossible_guide)
    assert loss == pytest.approx(elbo.terms.distortion)
    assert pyro.param("m").grad.isfinite()
    assert elbo.terms.rate == math.inf


@pytest.mark.parametrize("objective", [*BETAS, *LAMS])
def test_a_factor_of_the_model_counts_as_distortion(objective):
    def model():
        pyro.factor("f", torch.tensor(2.0))

    elbo = quiet(objective, 3.0)
    loss = elbo.loss(model, lambda: None)
    assert (elbo.terms.distortion, elbo.terms.rate) == (-2.0, 0.0)
    assert loss == (-8.0 if objective in LAMS else -2.0)


def test_a_failed_evaluation_leaves_no_terms(programs):
    pair = programs.NormalPair()
    elbo = Trace_BetaELBO()
    elbo.loss(pair.model, pair.guide)
    with pytest.raises(ValueError, match="lacks 'z'"):
        elbo.loss(pair.model, lambda: None)
    assert elbo.terms is None


@pytest.mark.parametrize("inner", [0.0, 4.0])
def test_weights_within_the_model_are_weights_too(programs, inner):
    """The terms know what they would be without any weight, in a plate that subsamples around it."""

    def model():
        with pyro.plate("data", 10, subsample=torch.tensor([1, 2])), weight(observed=inner):
            pyro.sample("x", dist.Normal(torch.zeros(2), 1.0), obs=torch.ones(2))

    elbo = Trace_InfoMaxELBO(lam=1.0)
    loss = elbo.loss(model, lambda: None)
    distortion = 10 * (0.5 + 0.5 * math.log(2 * math.pi))
    assert elbo.terms.distortion == pytest.approx(distortion)
    assert loss == pytest.approx(2 * inner * distortion)


# ---- schedules and state


def beta_of(elbo, loss):
    return (float(loss) - elbo.terms.distortion) / elbo.terms.rate


@pytest.mark.parametrize(("particles", "vectorize"), [(1, False), (3, False), (3, True)])
@pytest.mark.parametrize("objective", BETAS)
def test_a_schedule_advances_once_a_training_step(programs, objective, vectorize, particles):
    pair, schedule = programs.NormalPair(), Linear(0.0, 4.0, 4)
    elbo = quiet(
        objective, schedule, num_particles=particles, vectorize_particles=vectorize, max_plate_nesting=1
    )
    weights = []
    for step in range(6):
        assert elbo.step == step
        loss = elbo.loss_and_grads(pair.model, pair.guide)
        weights.append(beta_of(elbo, loss))
    assert weights == pytest.approx([0.0, 1.0, 2.0, 3.0, 4.0, 4.0])


@pytest.mark.parametrize("objective", ALL)
def test_a_schedule_does_not_advance_in_evaluations(programs, objective):
    pair = programs.NormalPair()
    elbo = quiet(objective, Linear(0.0, 4.0, 4))
    for _ in range(3):
        elbo.loss(pair.model, pair.guide)
    assert elbo.step == 0


def test_a_schedule_does_not_advance_in_evaluate_loss(programs):
    pair = programs.NormalPair()
    elbo = TraceMeanField_InfoMaxELBO(Linear(0.0, 4.0, 4))
    svi = pyro.infer.SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.01}), elbo)
    svi.step()
    svi.evaluate_loss()
    svi.evaluate_loss()
    assert elbo.step == 1


@pytest.mark.parametrize("objective", [Trace_BetaELBO, TraceMeanField_BetaELBO, TraceEnum_BetaELBO])
def test_a_differentiable_loss_is_a_step_where_gradients_are_enabled(programs, objective):
    pair = programs.NormalPair()
    elbo = quiet(objective, Linear(1.0, 4.0, 3))
    elbo.differentiable_loss(pair.model, pair.guide)
    assert elbo.step == 1


def test_a_differentiable_loss_is_no_step_without_gradients(programs):
    pair = programs.NormalPair()
    elbo = TraceMeanField_BetaELBO(Linear(1.0, 4.0, 3))
    with torch.no_grad():
        elbo.differentiable_loss(pair.model, pair.guide)
    assert elbo.step == 0


def test_a_failed_step_is_no_step(programs):
    elbo = Trace_BetaELBO()
    with pytest.raises(ValueError, match="lacks 'z'"):
        elbo.loss_and_grads(programs.NormalPair().model, lambda: None)
    assert elbo.step == 0


def test_schedules_of_a_mapping_advance_together(programs):
    pair = programs.TwoLatents()
    elbo = TraceMeanField_BetaELBO(
        {"z1": Linear(0.0, 1.0, 2), "z2": Cyclical(1.0, 3.0, 4), "x": 0.0, "y": 0.0}
    )
    costs = pair.costs(pair.parameters())
    losses = [elbo.loss_and_grads(pair.model, pair.guide) for _ in range(3)]
    expected = [costs["z2"], 0.5 * costs["z1"] + 2 * costs["z2"], costs["z1"] + 3 * costs["z2"]]
    assert losses == pytest.approx([cost.item() for cost in expected])


@pytest.mark.parametrize(
    ("value", "pending"),
    [
        (2.0, [0, 0]),
        (Constant(2.0), [0, 0]),
        (Linear(0.0, 1.0, 2), [2, 1]),
        ({"z": Linear(0.0, 1.0, 1)}, [1, 0]),
    ],
)
def test_pending_steps_are_those_until_every_schedule_stands(programs, value, pending):
    pair = programs.NormalPair()
    elbo = Trace_BetaELBO(value)
    before = elbo.pending_steps
    elbo.loss_and_grads(pair.model, pair.guide)
    assert [before, elbo.pending_steps] == pending


def test_pending_steps_end_at_zero(programs):
    pair = programs.NormalPair()
    elbo = Trace_BetaELBO(Linear(0.0, 1.0, 1))
    for _ in range(3):
        elbo.loss_and_grads(pair.model, pair.guide)
    assert elbo.pending_steps == 0


@pytest.mark.parametrize("objective", ALL)
def test_the_state_puts_a_schedule_back(programs, objective):
    pair = programs.NormalPair()
    elbo, other = (quiet(objective, Linear(0.0, 4.0, 4), max_plate_nesting=1) for _ in range(2))
    elbo.loss_and_grads(pair.model, pair.guide)
    other.load_state_dict(elbo.state_dict())
    losses = []
    for one in (elbo, other):
        torch.manual_seed(0)
        losses.append(one.loss(pair.model, pair.guide))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("state", [{}, {"epoch": 1}, {"step": 1, "epoch": 1}])
def test_refuses_a_state_that_is_not_its_own(state):
    with pytest.raises(ValueError, match="Expected a state with the key 'step' but got"):
        Trace_BetaELBO().load_state_dict(state)


def test_refuses_a_schedule_that_ends_out_of_range():
    with pytest.raises(ValueError, match="Expected beta >= 0 but got -1"):
        Trace_BetaELBO(Linear(1.0, -1.0, 10))


def test_refuses_a_function_that_leaves_the_range(programs):
    pair = programs.NormalPair()
    elbo = Trace_InfoMaxELBO(lambda step: 0.5 - step)
    elbo.loss_and_grads(pair.model, pair.guide)
    elbo.loss_and_grads(pair.model, pair.guide)
    with pytest.raises(ValueError, match=r"Expected lam > -1 but got -1\.5"):
        elbo.loss_and_grads(pair.model, pair.guide)


# ---- modules, guides and handlers


class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor(0.4))

    def forward(self, x):
        pyro.module("encoder", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.slope * x, 1.0))


class Decoder(torch.nn.Module):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.mark.parametrize("objective", [Trace_BetaELBO, TraceMeanField_BetaELBO])
def test_a_pair_of_modules_is_a_module(objective):
    x, encoder = torch.tensor([1.0, -2.0]), Encoder()
    module = objective(beta=4.0)(Decoder(), encoder)
    assert [*module.parameters()] == [encoder.slope]
    torch.manual_seed(1)
    module(x).backward()
    gradient, encoder.slope.grad = encoder.slope.grad, None
    torch.manual_seed(1)
    objective(beta=4.0).loss_and_grads(Decoder(), encoder, x)
    assert gradient.item() == pytest.approx(encoder.slope.grad.item())
    assert gradient != 0.0


@pytest.mark.parametrize("lam", [-0.75, 3.0])
@pytest.mark.parametrize("objective", MESSENGERS[:-1])
def test_a_messenger_guide_carries_the_weights(programs, objective, lam):
    """It runs the model within itself, so its observed sites are the model's."""
    model = programs.NormalPair().model
    guide = AutoNormalMessenger(model)
    guide()
    value = 1 + lam
    elbo = quiet(objective, lam if objective in LAMS else value)
    loss = elbo.loss_and_grads(model, guide)
    distortion, rate = elbo.terms.distortion, elbo.terms.rate
    expected = value * distortion + rate if objective in LAMS else distortion + value * rate
    assert loss == pytest.approx(expected)
    assert distortion > 0.0


@pytest.mark.parametrize("objective", [TraceMeanField_BetaELBO, TraceMeanField_InfoMaxELBO])
def test_the_rate_of_a_messenger_guide_is_exact(programs, objective):

    class Own(GuideMessenger):
        def get_posterior(self, name, prior):
            return dist.Normal(0.5, 0.8)

    model = programs.NormalPair("subsampled").model
    elbo = objective(3.0)
    elbo.loss(model, Own(model))
    expected = 4 * 0.5 * (0.5**2 + 0.8**2 - 1.0 - 2 * math.log(0.8))
    assert elbo.terms.rate == pytest.approx(expected)


@pytest.mark.parametrize("objective", [*BETAS, *LAMS])
def test_an_autoguide_carries_the_weights(programs, objective):
    model = programs.NormalPair().model
    guide = AutoNormal(model)
    guide()
    elbo = quiet(objective, 3.0)
    loss = elbo.loss_and_grads(model, guide)
    terms = elbo.terms
    observed, latent = (4.0, 1.0) if objective in LAMS else (1.0, 3.0)
    assert loss == pytest.approx(observed * terms.distortion + latent * terms.rate)


@pytest.mark.parametrize("objective", [*BETAS, *LAMS])
def test_a_conditioned_site_counts_as_observed(programs, objective):
    pair = programs.TwoLatents()
    model = poutine.condition(pair.model, {"z2": torch.tensor(0.3)})
    guide = poutine.block(pair.guide, hide=["z2"])
    elbo = quiet(objective, 3.0)
    elbo.loss(model, guide)
    p = pair.parameters()
    if elbo.__class__ in (TraceMeanField_BetaELBO, TraceMeanField_InfoMaxELBO):
        assert elbo.terms.rate == pytest.approx(pair.costs(p)["z1"].item())
    own = -dist.Normal(0.0, 1.0).log_prob(torch.tensor(0.3)) - dist.Normal(0.3, 1.0).log_prob(
        torch.tensor(-1.4)
    )
    torch.manual_seed(0)
    elbo.loss(model, guide)
    rest = elbo.terms.distortion - own.item()
    torch.manual_seed(0)
    elbo.loss(poutine.block(model, hide=["z2", "y"]), guide)
    assert elbo.terms.distortion == pytest.approx(rest)


@pytest.mark.parametrize("objective", ALL)
def test_an_unconditioned_site_must_be_in_the_guide(programs, objective):
    pair = programs.NormalPair()
    model = poutine.uncondition(pair.model)
    sentence = "every latent site .* it lacks 'x'"
    programs.assert_refused(ValueError, sentence, quiet(objective).loss, model, pair.guide)


@pytest.mark.parametrize("objective", [*BETAS, *LAMS])
def test_a_blocked_site_counts_for_nothing(programs, objective):
    pair = programs.TwoLatents()
    elbo = quiet(objective, 3.0)
    hidden = ["z2", "y"]
    elbo.loss(poutine.block(pair.model, hide=hidden), poutine.block(pair.guide, hide=hidden))
    if "MeanField" in objective.__name__:
        assert elbo.terms.rate == pytest.approx(pair.costs(pair.parameters())["z1"].item())
    assert elbo.terms.distortion >= 0.5 * math.log(2 * math.pi)


@pytest.mark.parametrize("infer", [{}, {"is_auxiliary": True}])
@pytest.mark.parametrize("objective", ALL)
def test_refuses_a_guide_that_lacks_a_site(programs, objective, infer):
    def model():
        pyro.sample("z", dist.Normal(0.0, 1.0), infer=infer)

    sentence = (
        "Expected the guide to sample every latent site of the model but it lacks 'z': sample it in the "
        "guide, or enumerate it in the model and use a TraceEnum objective"
    )
    for vectorize in (True, False):
        elbo = quiet(objective, num_particles=2, vectorize_particles=vectorize)
        for evaluate in (elbo.loss, elbo.loss_and_grads):
            programs.assert_refused(ValueError, sentence, evaluate, model, lambda: None)


@pytest.mark.parametrize("objective", MESSENGERS)
def test_refuses_sites_that_model_or_guide_ask_to_enumerate(programs, objective):
    def asks():
        pyro.sample("y", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})

    def draws():
        pyro.sample("y", dist.Bernoulli(0.3))

    sentence = (
        f"{objective.__name__} cannot enumerate but the site 'y' asks for it; use a TraceEnum objective"
    )
    for model, guide in ((asks, lambda: None), (draws, asks)):
        for evaluate in (objective().loss, objective().loss_and_grads):
            programs.assert_refused(NotImplementedError, sentence, evaluate, model, guide)


@pytest.mark.parametrize("base", [ReweightedWakeSleep, TraceTMC_ELBO, Trace_MMD])
def test_refuses_estimators_that_cannot_be_weighed(base):
    with pytest.raises(NotImplementedError, match="Mine cannot be weighed exactly; use a Trace_"):
        type("Mine", (WeightedELBO, base), {})


@pytest.mark.parametrize("objective", ALL)
def test_takes_the_arguments_of_pyros_objective(objective):
    elbo = objective(3.0, num_particles=7, vectorize_particles=True, max_plate_nesting=2)
    assert (elbo.num_particles, elbo.max_plate_nesting) == (7, 3)


def test_passes_the_arguments_of_the_programs():
    def model(x, *, scale):
        pyro.sample("x", dist.Normal(0.0, scale), obs=x)

    elbo = Trace_InfoMaxELBO(lam=1.0)
    loss = elbo.loss(model, lambda x, *, scale: None, torch.tensor(1.0), scale=2.0)
    assert loss == pytest.approx(-2 * dist.Normal(0.0, 2.0).log_prob(torch.tensor(1.0)).item())


def test_without_weights_it_is_pyros_objective(programs):
    pair = programs.NormalPair("guide_factor")
    losses = []
    for elbo in (Trace_ELBO(num_particles=3), Trace_BetaELBO(beta=1.0, num_particles=3)):
        torch.manual_seed(0)
        losses.append(elbo.loss(pair.model, pair.guide))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def subsampling(x):
    with pyro.plate("data", 40, subsample_size=len(x)):
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)


def test_it_knows_how_many_data_a_subsample_stands_for():
    elbo = Trace_BetaELBO(1.0)
    elbo.loss(subsampling, lambda x: None, torch.zeros(8))
    assert (elbo.stands_for(8), elbo.stands_for(40)) == (40, 40)


def test_data_that_are_subsampled_by_the_model_stand_for_themselves():
    """Though as many pixels are drawn in each of them as there are rows."""

    def program(x, observe=True):
        with pyro.plate("data", len(x), subsample_size=3, dim=-2) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            with pyro.plate("pixels", 60, subsample_size=len(x), dim=-1) as seen:
                if observe:
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows][:, seen])

    elbo = Trace_BetaELBO(1.0)
    elbo.loss(program, lambda x: program(x, observe=False), torch.zeros(12, 60))
    assert elbo.stands_for(12) == 12


def test_a_latent_plate_that_subsamples_says_nothing_of_the_data():
    def program(x, observe=True):
        with pyro.plate("codes", 100, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        if observe:
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(z.mean(), 1.0), obs=x)

    elbo = Trace_BetaELBO(1.0)
    elbo.loss(program, lambda x: program(x, observe=False), torch.zeros(8))
    assert elbo.stands_for(8) == 8


@pytest.mark.parametrize(("rows", "full", "expected"), [(25, None, 25), (20, None, 20), (20, 100, 100)])
def test_only_the_data_plate_counts_as_data(rows, full, expected):
    """Inside of it 20 of 60 pixels are drawn, perhaps as many as there are data."""

    def model(x):
        with pyro.plate("data", full or len(x), subsample_size=len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            with pyro.plate("pixels", x.shape[1], subsample_size=20, dim=-1) as seen:
                pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, seen])

    def guide(x):
        with pyro.plate("data", full or len(x), subsample_size=len(x), dim=-2):
            pyro.sample("z", dist.Normal(torch.ones(()), 1.0))

    for particles in (1, rows):
        elbo = TraceMeanField_BetaELBO(
            1.0, num_particles=particles, vectorize_particles=True, max_plate_nesting=2
        )
        elbo.loss(model, guide, torch.zeros(rows, 60))
        assert elbo.terms.rate / elbo.stands_for(rows) == pytest.approx(0.5)
        assert elbo.stands_for(rows) == expected


def test_a_mapping_cannot_weigh_a_deterministic_site():
    def model():
        mu = pyro.deterministic("mu", torch.tensor(1.0))
        pyro.sample("x", dist.Normal(mu, 1.0), obs=torch.tensor(0.0))

    with pytest.raises(ValueError, match=r"sites of the model, \['x'\], but got 'mu'"):
        Trace_InfoMaxELBO({"mu": 3.0}).loss(model, lambda: None)


# ---- relaxed sites

SAMPLED = [objective for objective in ALL if not objective.relaxes]


@pytest.mark.parametrize("objective", SAMPLED)
def test_refuses_relaxed_sites_where_the_rate_is_sampled(programs, objective):
    """The gradient through the value would be lacking, which no value shows."""

    def model():
        pyro.sample("z", dist.Bernoulli(0.5).expand([2]).to_event(1))

    def guide():
        relaxed = StraightThroughBernoulli(0.5, logits=pyro.param("logits", torch.zeros(2)))
        pyro.sample("z", relaxed.to_event(1))

    mean_field = f"TraceMeanField_{objective.__name__.split('_')[1]}"
    sentence = f"relaxed site 'z' .StraightThroughBernoulli.; use {mean_field}, which"
    elbo = quiet(objective, max_plate_nesting=0)
    for evaluate in (elbo.loss, elbo.loss_and_grads):
        programs.assert_refused(NotImplementedError, sentence, evaluate, model, guide)


@pytest.mark.parametrize("objective", SAMPLED)
def test_refuses_the_relaxed_sites_of_torch(objective):
    def model():
        pyro.sample("z", dist.OneHotCategorical(torch.ones(3)))

    def guide():
        pyro.sample("z", dist.OneHotCategoricalStraightThrough(torch.ones(3)))

    with pytest.raises(NotImplementedError, match=r"relaxed site 'z' .OneHotCategoricalStraightThrough."):
        quiet(objective, max_plate_nesting=0).loss(model, guide)
