"""Draws cut from the graph: whose score has no mean, what draws carry, and masks within a distribution."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_infomax.infer import (
    DReG_InfoMaxELBO,
    RWS_InfoMaxELBO,
    STL_InfoMaxELBO,
    TVO_InfoMaxELBO,
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
