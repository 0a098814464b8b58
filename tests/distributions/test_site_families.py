"""What an objective knows of a distribution: whether it is discrete, relaxed, an angle, and its name."""

import pyro.distributions as dist
import pytest
import torch

from pyro_infomax.distributions import (
    SideBySide,
    StraightThroughBernoulli,
    StraightThroughOneHotCategorical,
    family_name,
    is_angular,
    is_discrete,
    is_relaxed,
)


class Secretive(dist.Normal):
    """Does not tell its support."""

    @property
    def support(self):
        raise NotImplementedError


def wrapped(d):
    return d.expand([4, 2]).to_event(1).mask(torch.ones(4).bool())


@pytest.mark.parametrize("wrap", [lambda d: d, wrapped])
@pytest.mark.parametrize(
    "make",
    [
        lambda: StraightThroughBernoulli(0.5, torch.tensor(0.3)),
        lambda: StraightThroughOneHotCategorical(0.5, torch.ones(3)),
        lambda: dist.OneHotCategoricalStraightThrough(torch.ones(3)),
    ],
)
def test_a_discrete_draw_with_a_gradient_is_relaxed(make, wrap):
    assert is_relaxed(wrap(make()))


@pytest.mark.parametrize("wrap", [lambda d: d, wrapped])
@pytest.mark.parametrize(
    "make",
    [
        lambda: dist.Bernoulli(0.3),
        lambda: dist.OneHotCategorical(torch.ones(3)),
        lambda: dist.Normal(0.0, 1.0),
        lambda: dist.RelaxedBernoulli(torch.tensor(0.5), torch.tensor(0.3)),
        lambda: dist.Delta(torch.tensor(1.0)),
        lambda: Secretive(0.0, 1.0),
    ],
)
def test_other_draws_are_not(make, wrap):
    assert not is_relaxed(wrap(make()))


@pytest.mark.parametrize(
    ("fn", "expected"),
    [(dist.Poisson(2.0), True), (dist.Gamma(1.0, 1.0), False), (Secretive(0.0, 1.0), None)],
)
def test_a_distribution_may_not_tell_whether_it_is_discrete(fn, expected):
    assert is_discrete(fn) is expected


def test_the_name_is_that_within_wrappers():
    assert family_name(wrapped(dist.Bernoulli(0.3))) == "Bernoulli"


ANGLE = dist.VonMises(torch.zeros(2), 1.0)
TORUS = dist.SineBivariateVonMises(torch.tensor(0.0), torch.tensor(0.0), 1.0, 1.0, 0.1)


@pytest.mark.parametrize(
    ("fn", "angular"),
    [
        (ANGLE, True),
        (ANGLE.expand([4, 2]).to_event(1).mask(torch.ones(4).bool()), True),
        (TORUS, True),
        (dist.SineSkewed(TORUS, torch.tensor([0.1, 0.2])), True),
        (dist.TransformedDistribution(ANGLE, [dist.transforms.AffineTransform(1.0, 1.0)]), True),
        (dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), ANGLE), True),
        (dist.MaskedMixture(torch.tensor([True, False]), dist.Normal(torch.zeros(2), 1.0), ANGLE), True),
        (SideBySide([dist.Normal(torch.zeros(1), 1.0), ANGLE]), True),
        (dist.Normal(torch.zeros(2), 1.0).to_event(1), False),
        (dist.Uniform(-torch.pi, torch.pi), False),
        (dist.VonMises3D(torch.tensor([1.0, 0.0, 0.0])), False),  # its support says that it is a sphere
        (dist.Delta(torch.zeros(2)), False),
    ],
)
def test_angles_are_told_whatever_their_support_says(fn, angular):
    assert is_angular(fn) is angular
