"""Draws cut from the graph: whose score has no mean, what draws carry, and masks within a distribution."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.testing.rejection_gamma import ShapeAugmentedGamma

from pyro_infomax.infer import (
    DReG_InfoMaxELBO,
    IWAE_InfoMaxELBO,
    Renyi_InfoMaxELBO,
    RWS_InfoMaxELBO,
    STL_InfoMaxELBO,
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
