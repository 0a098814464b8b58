import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_infomax.nn import Bernoulli, Categorical, ContinuousBernoulli, Gaussian, to_likelihood

LOGITS = torch.linspace(-3, 3, 7, dtype=torch.float64)


@pytest.mark.parametrize("x", [0.0, 1.0, 0.3])
def test_bernoulli(x):
    expected = x * LOGITS - torch.log1p(LOGITS.exp())
    torch.testing.assert_close(Bernoulli()(LOGITS).log_prob(torch.tensor(x)), expected)


@pytest.mark.parametrize("x", [0.0, 1.0, 0.3])
def test_continuous_bernoulli(x):
    logits = LOGITS[LOGITS.abs() > 0.5]
    # The integral of exp(x l) over x in [0, 1]
    normaliser = (logits.exp() - 1) / logits
    expected = x * logits - normaliser.log()
    torch.testing.assert_close(ContinuousBernoulli()(logits).log_prob(torch.tensor(x)), expected)


@pytest.mark.parametrize("scale", [None, 0.3])
def test_gaussian(scale):
    likelihood, x = Gaussian(scale), torch.tensor(0.7)
    s = 1.0 if scale is None else scale
    expected = -((x - LOGITS) ** 2) / (2 * s**2) - math.log(s) - math.log(2 * math.pi) / 2
    torch.testing.assert_close(likelihood(LOGITS).log_prob(x), expected)
    torch.testing.assert_close(likelihood.scale.detach(), torch.tensor(s))


def test_a_learned_scale_is_one_parameter_and_its_gradient_is_exact():
    likelihood, x = Gaussian(), torch.randn(7)
    ((parameter),) = likelihood.parameters()
    assert parameter.shape == ()
    likelihood(torch.zeros(7)).log_prob(x).sum().backward()
    torch.testing.assert_close(parameter.grad, (x**2 - 1).sum())


def test_a_fixed_scale_is_no_parameter():
    assert list(Gaussian(0.3).parameters()) == []
    assert "log_scale" in Gaussian(0.3).state_dict()


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_that_is_none_is_refused(scale):
    with pytest.raises(ValueError, match="Expected a finite scale > 0 but got"):
        Gaussian(scale)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
def test_categorical(dtype):
    logits, x = torch.randn(5, 2, 4), torch.randint(4, (5, 2))
    expected = logits.log_softmax(-1).gather(-1, x[..., None]).squeeze(-1)
    torch.testing.assert_close(Categorical()(logits).log_prob(x.to(dtype)), expected)


def test_the_centre():
    assert Bernoulli().centre(Bernoulli()(torch.tensor(0.0))) == 0.5
    assert Categorical().centre(Categorical()(torch.tensor([0.0, 2.0, 1.0]))) == 1


@pytest.mark.parametrize(
    ("likelihood", "x", "message"),
    [
        (Bernoulli(), [0.0, 255.0], r"Expected data in \[0, 1\] .* values from 0 to 255: divide"),
        (Bernoulli(), [-1.0, 1.0], r"values from -1 to 1"),
        (Bernoulli(), [0.0, math.nan], r"1 values that are nan or infinite"),
        (ContinuousBernoulli(), [0.0, 1.5], r"Expected data in \[0, 1\] for the continuous"),
        (ContinuousBernoulli(), [0.0, math.nan], r"1 values that are nan or infinite"),
        (Gaussian(), [math.nan, math.inf], r"Expected finite data .* 2 values that are nan or infinite"),
        (Categorical(), [0.0, 2.0], r"Expected data in \[0, 1\] for the categorical .* here 2"),
        (Categorical(), [0.0, 0.5], r"Expected integer classes .* such as 0\.5"),
        (Categorical(), [0.0, math.nan], r"nan or infinite"),
    ],
)
def test_data_that_cannot_be_are_refused(likelihood, x, message):
    with pytest.raises(ValueError, match=message):
        likelihood.check(torch.tensor(x), torch.zeros(2, 2))


@pytest.mark.parametrize(
    ("likelihood", "x"),
    [
        (Bernoulli(), [0.0, 1.0]),
        (Bernoulli(), [0.2, 0.9]),
        (ContinuousBernoulli(), [0.0, 1.0]),
        (Gaussian(), [-1e9, 1e9]),
        (Categorical(), [0.0, 1.0]),
        (Categorical(), [0, 1]),
    ],
)
def test_data_that_can_be_are_accepted(likelihood, x):
    likelihood.check(torch.tensor(x), torch.zeros(2, 2))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("bernoulli", Bernoulli),
        ("gaussian", Gaussian),
        ("continuous_bernoulli", ContinuousBernoulli),
        ("categorical", Categorical),
    ],
)
def test_names(name, kind):
    assert type(to_likelihood(name)) is kind


def test_objects_stay_and_callables_are_wrapped():
    gaussian, linear = Gaussian(0.5), nn.Linear(2, 2)
    assert to_likelihood(gaussian) is gaussian
    wrapped = to_likelihood(lambda p: dist.Laplace(p, 1.0))
    assert isinstance(wrapped(torch.zeros(3)), dist.Laplace)
    assert list(to_likelihood(linear).parameters()) == list(linear.parameters())


def test_what_is_no_likelihood_is_refused():
    with pytest.raises(ValueError, match=r"one of 'bernoulli', 'gaussian'.* but got 'bernouli'"):
        to_likelihood("bernouli")
    with pytest.raises(ValueError, match=r"pyro\.distributions but got Tensor"):
        to_likelihood(lambda p: p)(torch.zeros(3))
