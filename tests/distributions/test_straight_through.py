import math

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from pyro_infomax.distributions import StraightThroughBernoulli, StraightThroughOneHotCategorical

N = 50_000
FAMILIES = [
    (StraightThroughBernoulli, dist.Bernoulli),
    (StraightThroughOneHotCategorical, dist.OneHotCategorical),
]


def expected_slope(logit, temperature):
    """The mean over logistic noise of the slope of the relaxed draw, by quadrature."""
    noise = torch.linspace(-40, 40, 40_001)
    weights = noise.sigmoid() * (-noise).sigmoid()
    relaxed = ((logit + noise) / temperature).sigmoid()
    return torch.trapezoid(weights * relaxed * (1 - relaxed) / temperature, noise)


@pytest.mark.parametrize("family", [each for each, _ in FAMILIES])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
def test_draws_are_discrete_and_distributed_by_their_probabilities(family, temperature):
    q = family(temperature, logits=torch.tensor([-3.0, -1.0, 0.0, 2.0]))
    z = q.rsample((N,))
    assert q.support.check(z).all()
    assert ((z == 0) | (z == 1)).all()
    error = (q.probs * (1 - q.probs) / N).sqrt()
    assert ((z.mean(0) - q.probs).abs() < 5 * error).all()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("logit", [-2.0, 0.0, 1.0])
def test_the_gradient_of_a_bernoulli_is_that_of_the_relaxed_draw(logit, temperature):
    logits = torch.full((N,), logit, requires_grad=True)
    StraightThroughBernoulli(temperature, logits=logits).rsample().sum().backward()
    assert abs(logits.grad.mean() - expected_slope(logit, temperature)) < 5 * logits.grad.std() / N**0.5


@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
def test_the_gradient_of_two_categories_is_that_of_a_bernoulli(temperature):
    logits = torch.tensor([0.4, -0.8]).expand(N, 2).clone().requires_grad_()
    StraightThroughOneHotCategorical(temperature, logits=logits).rsample()[:, 0].sum().backward()
    slope = expected_slope(1.2, temperature)
    for slopes, exact in zip(logits.grad.T, (slope, -slope), strict=True):
        assert abs(slopes.mean() - exact) < 5 * slopes.std() / N**0.5


@pytest.mark.parametrize(("family", "plain"), FAMILIES)
@pytest.mark.parametrize("kind", ["logits", "probs"])
def test_probabilities_are_those_of_the_plain_distribution(family, plain, kind):
    parameters = torch.randn(5, 3).softmax(-1)
    q, p = family(0.5, **{kind: parameters}), plain(**{kind: parameters})
    z = q.rsample((7,))
    torch.testing.assert_close(q.log_prob(z), p.log_prob(z))
    torch.testing.assert_close(q.mean, p.mean)
    assert (q.batch_shape, q.event_shape) == (p.batch_shape, p.event_shape)


@pytest.mark.parametrize("family", [each for each, _ in FAMILIES])
def test_probabilities_sum_to_one(family):
    q = family(0.5, logits=torch.randn(5, 3))
    values = q.enumerate_support()
    torch.testing.assert_close(q.log_prob(values).exp().sum(0), torch.ones(q.batch_shape))


@pytest.mark.parametrize("family", [each for each, _ in FAMILIES])
def test_the_score_is_differentiable_in_the_value(family):
    q = family(0.5, logits=torch.tensor([-1.0, 0.5, 2.0]))
    z = q.sample().requires_grad_()
    q.log_prob(z).sum().backward()
    torch.testing.assert_close(z.grad, q.logits)


def test_an_impossible_category_is_never_drawn_and_spoils_no_score():
    q = StraightThroughOneHotCategorical(0.5, logits=torch.tensor([0.0, -torch.inf, 0.0]))
    z = q.rsample((1000,))
    assert not z[:, 1].any()
    assert q.log_prob(z).isfinite().all()


@pytest.mark.parametrize(
    ("family", "plain", "axes", "values"),
    [
        (*FAMILIES[0], 1, [[i, j, k] for i in (0.0, 1.0) for j in (0.0, 1.0) for k in (0.0, 1.0)]),
        (*FAMILIES[1], 0, [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
    ],
)
def test_the_divergence_from_a_plain_prior_is_closed(family, plain, axes, values):
    q = family(0.5, logits=torch.randn(5, 3)).to_event(axes)
    p = plain(logits=torch.randn(3)).to_event(axes).expand([5])
    values = torch.tensor(values).unsqueeze(1)
    exact = (q.log_prob(values).exp() * (q.log_prob(values) - p.log_prob(values))).sum(0)
    torch.testing.assert_close(kl_divergence(q, p), exact)
    torch.testing.assert_close(kl_divergence(q.expand((2, 5)), p.expand((2, 5))), exact.expand(2, 5))


@pytest.mark.parametrize("family", [each for each, _ in FAMILIES])
def test_expanding_keeps_class_and_temperature(family):
    temperature = torch.tensor(0.5)
    q = family(temperature, logits=torch.randn(5, 3)).expand(
        (2, *family(1, logits=torch.zeros(5, 3)).batch_shape)
    )
    assert type(q) is family
    assert q.temperature is temperature
    assert q.relaxed
    assert q.has_rsample
    assert q.rsample((4,)).shape == (4, 2, 5, 3)


@pytest.mark.parametrize("family", [each for each, _ in FAMILIES])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_and_reach_logits_and_temperature(family, dtype):
    logits = (30 * torch.randn(1000, 3, dtype=dtype)).requires_grad_()
    temperature = torch.tensor(0.2, dtype=dtype, requires_grad=True)
    z = family(temperature, logits=logits).rsample()
    assert z.dtype == dtype
    (z * torch.arange(3)).sum().backward()
    assert logits.grad.isfinite().all()
    assert logits.grad.any()
    assert temperature.grad.isfinite()
    assert temperature.grad != 0


@pytest.mark.parametrize("family", [each for each, _ in FAMILIES])
def test_noise_of_zero_spoils_no_gradient(family):
    # In half precision one uniform number in 2048 is 0
    logits = torch.zeros(20_000, 3, dtype=torch.float16, requires_grad=True)
    temperature = torch.tensor(0.5, dtype=torch.float16, requires_grad=True)
    z = family(temperature, logits=logits, validate_args=False).rsample()
    z[:, 0].double().mean().backward()
    assert logits.grad.isfinite().all()
    assert temperature.grad.isfinite()


@pytest.mark.parametrize("family", [each for each, _ in FAMILIES])
def test_sample_has_no_gradient(family):
    q = family(0.5, logits=torch.randn(5, 3, requires_grad=True))
    assert not q.sample().requires_grad
    assert q.rsample().requires_grad


@pytest.mark.parametrize("family", [each for each, _ in FAMILIES])
@pytest.mark.parametrize("temperature", [0.0, -1.0, torch.tensor(0.0), float("nan")])
def test_a_temperature_that_is_none_is_refused(family, temperature):
    with pytest.raises(ValueError, match="Expected temperature > 0 but got"):
        family(temperature, logits=torch.zeros(3))


@pytest.mark.parametrize("temperature", [None, "1", torch.ones(3), [1.0], -1.0, math.nan])
def test_a_temperature_that_is_no_number_is_refused(temperature):
    with pytest.raises(ValueError, match=r"Expected temperature > 0 but got"):
        StraightThroughBernoulli(temperature, torch.tensor(0.3))


@pytest.mark.parametrize("family", [StraightThroughBernoulli, StraightThroughOneHotCategorical])
@pytest.mark.parametrize("probs", ["a", [0.5, 0.5], {}])
def test_probabilities_that_are_no_tensor_are_refused(family, probs):
    with pytest.raises(TypeError, match="Expected probs or logits, a tensor, but got"):
        family(0.5, probs)
