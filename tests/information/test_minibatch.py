"""Bias by random minibatches of a fixed data set, gradients by closed forms and by differences."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MultivariateNormal, Normal

from pyro_infomax.information import (
    AggregatePosterior,
    Estimate,
    info_nce,
    minibatch_stratified,
    minibatch_weighted,
    mutual_information,
)

ESTIMATORS = (info_nce, minibatch_stratified, minibatch_weighted)
N = 200


def normal(loc: Tensor, scale: Tensor | float) -> Independent:
    return Independent(Normal(loc, torch.as_tensor(scale).expand(loc.shape)), 1)


def encoded(batch: int = N) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 3), 0.3 * (0.5 + torch.rand(batch, 3))


@pytest.fixture
def bias() -> Callable[..., tuple[float, float]]:
    """How far the mean over random minibatches is from the information of all N, and its error."""
    loc, scale = encoded()
    truth = mutual_information(normal(loc, scale), num_samples=20)

    def over_batches(estimator: Callable[..., Estimate], size: int, repeats: int) -> tuple[float, float]:
        members = [torch.randperm(N)[:size] for _ in range(repeats)]
        values = torch.tensor([float(estimator(normal(loc[m], scale[m]), data_size=N)) for m in members])
        error = math.hypot(float(values.std()) / math.sqrt(repeats), float(truth.standard_error))
        return float(values.mean()) - float(truth), error

    return over_batches


def test_info_nce_is_below_on_average_and_less_so_in_larger_minibatches(bias) -> None:
    few, many = bias(info_nce, 4, 100), bias(info_nce, 40, 30)
    for size, (mean, error) in ((4, few), (40, many)):
        assert -math.log(N / size) - 3 * error < mean < -5 * error, size
    assert many[0] - few[0] > 5 * math.hypot(few[1], many[1])


def test_stratified_sampling_is_above_on_average_and_less_so_in_larger_minibatches(bias) -> None:
    few, many = bias(minibatch_stratified, 4, 100), bias(minibatch_stratified, 40, 30)
    assert many[0] > 5 * many[1]
    assert few[0] - many[0] > 5 * math.hypot(few[1], many[1])


@pytest.mark.parametrize(("size", "repeats"), [(4, 100), (N, 20)])
def test_weighted_sampling_is_above_by_the_log_of_the_batch_size_to_that_of_the_data_size(
    size: int, repeats: int, bias
) -> None:
    mean, error = bias(minibatch_weighted, size, repeats)
    assert math.log(size) - 3 * error < mean < math.log(N) + 3 * error


@pytest.mark.parametrize("num_samples", [1, 3])
def test_of_all_data_the_values_are_exact(num_samples: int) -> None:
    posterior = normal(*encoded(30))
    truth = mutual_information(posterior, num_samples=300, seed=1)
    for estimator, gap in ((info_nce, 0.0), (minibatch_stratified, 0.0), (minibatch_weighted, math.log(30))):
        found = estimator(posterior, data_size=30, num_samples=num_samples, seed=0)
        error = math.hypot(float(found.standard_error), float(truth.standard_error))
        assert abs(float(found) - gap - float(truth)) < 3.5 * error, estimator


@pytest.mark.parametrize("num_samples", [1, 2])
def test_the_values_differ_as_their_weights_do(num_samples: int) -> None:
    posterior = normal(*encoded(20))
    nce, stratified, weighted = (
        estimator(posterior, data_size=N, num_samples=num_samples, seed=3) for estimator in ESTIMATORS
    )
    assert float(weighted) == pytest.approx(float(nce) + math.log(N), abs=1e-12)
    assert float(nce) < float(stratified) < float(weighted)


def test_far_apart_they_have_nothing_to_do_with_the_data() -> None:
    posterior = normal(torch.arange(8.0)[:, None] * 1000, 1.0)
    assert float(info_nce(posterior, seed=0)) == pytest.approx(math.log(8), abs=1e-12)
    assert float(minibatch_stratified(posterior, data_size=500)) == pytest.approx(math.log(500), abs=1e-12)
    assert float(minibatch_weighted(posterior, data_size=500)) == pytest.approx(math.log(8 * 500), abs=1e-12)


def test_no_value_of_info_nce_exceeds_its_maximum() -> None:
    for size in (2, 3, 10):
        loc, scale = encoded(size)
        assert max(float(info_nce(normal(loc, scale * 0.1))) for _ in range(20)) <= math.log(size) + 1e-12


@pytest.mark.parametrize(
    ("estimator", "num_samples"), [(info_nce, 5), (minibatch_stratified, 2), (minibatch_weighted, 3)]
)
def test_the_error_is_the_spread_over_draws_for_the_minibatch_at_hand(
    estimator: Callable[..., Estimate], num_samples: int
) -> None:
    posterior = normal(*encoded(25))
    found = [estimator(posterior, data_size=N, num_samples=num_samples) for _ in range(120)]
    spread = torch.stack([each.value for each in found]).std()
    reported = torch.stack([each.standard_error for each in found]).mean()
    assert abs(float(spread / reported) - 1) < 4 / math.sqrt(2 * 120)


def test_the_error_of_single_draws_is_on_the_large_side() -> None:
    posterior = normal(*encoded(25))
    found = [minibatch_stratified(posterior, data_size=N) for _ in range(120)]
    spread = torch.stack([each.value for each in found]).std()
    reported = torch.stack([each.standard_error for each in found]).mean()
    assert 0.4 < float(spread / reported) < 1 + 3 / math.sqrt(2 * 120)


def test_the_population_error_has_the_spread_over_the_data_of_the_minibatch() -> None:
    loc, scale = encoded(40)
    scale[::2] *= 30  # half of the data carry nothing
    found = minibatch_stratified(normal(loc, scale), data_size=N, num_samples=200, seed=0)
    assert float(found.population_standard_error) > 5 * float(found.standard_error) > 0


def test_bounds_and_targets_are_named() -> None:
    posterior = normal(*encoded(20))
    nce, stratified, weighted = (estimator(posterior, data_size=N) for estimator in ESTIMATORS)
    assert [each.bound for each in (nce, stratified, weighted)] == ["lower", "upper", "upper"]
    assert "under all 200 data" in stratified.target
    assert "under all data" in info_nce(posterior).target
    assert "exceeded by ln 20 to ln 200: not to be reported" in weighted.target


def test_a_seed_repeats_and_leaves_the_global_state() -> None:
    posterior = normal(*encoded(20))
    before = torch.get_rng_state()
    for estimator in ESTIMATORS:
        one, other, third = (float(estimator(posterior, data_size=N, seed=seed)) for seed in (1, 1, 2))
        assert one == other != third
    assert torch.equal(torch.get_rng_state(), before)


# --- gradients ---


def gradients(value: Tensor, parameters: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, parameters)


@pytest.mark.parametrize(
    ("estimator", "num_samples"), [(info_nce, 1), (minibatch_stratified, 3), (minibatch_weighted, 2)]
)
def test_of_all_data_the_gradient_is_that_of_the_exact_mixture(
    estimator: Callable[..., Estimate], num_samples: int
) -> None:
    loc, scale = (each.requires_grad_() for each in encoded(15))
    state = torch.get_rng_state()
    found = estimator(normal(loc, scale), data_size=15, num_samples=num_samples).value
    posterior = normal(loc, scale)
    torch.set_rng_state(state)  # for the same draws
    z = posterior.rsample((num_samples,))
    aggregate = AggregatePosterior(posterior).log_prob(z.flatten(0, 1)).view(num_samples, 15)
    exact = posterior.log_prob(z) - aggregate
    gap = math.log(15) if estimator is minibatch_weighted else 0.0
    torch.testing.assert_close(found, exact.mean() + gap, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        gradients(found, (loc, scale)), gradients(exact.mean(), (loc, scale)), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_gradient_is_that_of_finite_differences(estimator: Callable[..., Estimate]) -> None:
    def value(loc: Tensor, log_scale: Tensor) -> Tensor:
        return estimator(normal(loc, log_scale.exp()), data_size=N, num_samples=2, seed=0).value

    loc, scale = encoded(6)
    assert torch.autograd.gradcheck(value, (loc.requires_grad_(), scale.log().requires_grad_()))


def test_on_average_the_gradient_is_that_of_the_closed_form() -> None:
    """Of two data, whose distance is all that counts, by quadrature."""

    def closed(distance: Tensor) -> Tensor:
        z = torch.linspace(-12, 12, 4001)
        pair = torch.stack([Normal(-distance / 2, 1.0).log_prob(z), Normal(distance / 2, 1.0).log_prob(z)])
        mixture = pair.logsumexp(0) - math.log(2)
        return (pair.exp() * (pair - mixture)).mean(0).sum() * (z[1] - z[0])

    distance = torch.tensor(1.5, requires_grad=True)
    (wanted,) = gradients(closed(distance), (distance,))
    loc = torch.stack([-distance / 2, distance / 2])[:, None]
    single = []
    for _ in range(100):
        value = minibatch_stratified(normal(loc, 1.0), data_size=2, num_samples=50).value
        single.append(torch.autograd.grad(value, distance, retain_graph=True)[0])
    found = torch.stack(single)
    assert abs(float(found.mean() - wanted)) < 3.5 * float(found.std()) / math.sqrt(100)


def test_training_by_a_lower_bound_raises_the_information() -> None:
    loc = (0.1 * torch.randn(40, 2)).requires_grad_()
    before = float(mutual_information(normal(loc.detach(), 1.0), num_samples=20, seed=0))
    optimiser = torch.optim.Adam([loc], lr=0.2)
    for step in range(30):
        optimiser.zero_grad()
        members = torch.randperm(40)[:10]
        (-info_nce(normal(loc[members], 1.0), data_size=40, seed=step).value).backward()
        optimiser.step()
    assert float(mutual_information(normal(loc.detach(), 1.0), num_samples=20, seed=0)) > before + 1


def test_only_the_value_is_differentiable() -> None:
    loc, scale = (each.requires_grad_() for each in encoded(10))
    found = minibatch_stratified(normal(loc, scale), data_size=N)
    assert found.value.requires_grad
    assert not found.standard_error.requires_grad
    assert not found.population_standard_error.requires_grad


def test_where_no_gradient_is_wanted_nothing_is_recorded() -> None:
    loc, scale = encoded(10)
    assert not minibatch_stratified(normal(loc, scale), data_size=N).value.requires_grad
    learning = normal(loc.requires_grad_(), scale)
    with torch.no_grad():
        plain = minibatch_stratified(learning, data_size=N, seed=0)
    assert not plain.value.requires_grad
    recorded = minibatch_stratified(learning, data_size=N, seed=0)
    assert float(recorded) == pytest.approx(float(plain), abs=1e-12)


def test_a_float32_encoder_gets_float32_gradients_of_a_float64_value() -> None:
    loc = torch.randn(10, 2, dtype=torch.float32, requires_grad=True)
    value = info_nce(Independent(Normal(loc, 0.5), 1)).value
    value.backward()
    assert (value.dtype, loc.grad.dtype) == (torch.float64, torch.float32)
    assert bool(loc.grad.isfinite().all())
    assert bool(loc.grad.abs().sum() > 0)


# --- other families ---


def test_a_full_covariance_meets_the_exact_mixture_and_learns() -> None:
    root = (0.3 * torch.randn(20, 2, 2) + 0.5 * torch.eye(2)).requires_grad_()
    posterior = MultivariateNormal(torch.randn(20, 2), root @ root.mT + 0.01 * torch.eye(2))
    truth = mutual_information(posterior, num_samples=2000, seed=1)
    found = minibatch_stratified(posterior, data_size=20, num_samples=20, seed=0)
    error = math.hypot(float(found.standard_error), float(truth.standard_error))
    assert abs(float(found) - float(truth)) < 3.5 * error
    (gradient,) = torch.autograd.grad(found.value, root)
    assert bool(gradient.isfinite().all())
    assert bool(gradient.abs().sum() > 0)


def test_discrete_codes_have_a_value_but_no_half_of_a_gradient() -> None:
    logits = torch.tensor([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 4.0]], requires_grad=True)
    posterior = Independent(Categorical(logits=logits[:, None].expand(3, 2, 3)), 1)
    found = info_nce(posterior, num_samples=4000, seed=0)
    truth = mutual_information(posterior, num_samples=4000, seed=1)
    error = math.hypot(float(found.standard_error), float(truth.standard_error))
    assert abs(float(found) - float(truth)) < 3.5 * error
    assert not found.value.requires_grad


# --- refusals ---


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_what_cannot_be_estimated_is_refused(estimator: Callable[..., Estimate]) -> None:
    loc, scale = encoded(5)
    with pytest.raises(ValueError, match="Expected a minibatch of at least 2 data but got 1"):
        estimator(normal(loc[:1], scale[:1]), data_size=N)
    with pytest.raises(ValueError, match="Expected data_size >= 5, the size of the minibatch, but got 4"):
        estimator(normal(loc, scale), data_size=4)
    with pytest.raises(ValueError, match="Expected num_samples to be an integer >= 1 but got 0"):
        estimator(normal(loc, scale), data_size=N, num_samples=0)
    with pytest.raises(ValueError, match="Expected positive, finite scales"):
        estimator(Independent(Normal(loc, -1.0, validate_args=False), 1), data_size=N)
    with pytest.raises(ValueError, match=r"Expected a posterior of batch shape \(N,\)"):
        estimator(Normal(loc, scale), data_size=N)


class Broken:
    """An adapter of an encoder that has gone astray."""

    batch_shape, event_shape, has_rsample = torch.Size([4]), torch.Size([2]), False

    def sample(self, shape: torch.Size) -> Tensor:
        return torch.full((*shape, 4, 2), math.nan)

    def log_prob(self, z: Tensor) -> Tensor:
        return torch.zeros(torch.broadcast_shapes(z.shape[:-1], (4,)))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_draws_that_are_not_finite_are_refused(estimator: Callable[..., Estimate]) -> None:
    with pytest.raises(ValueError, match="Expected finite draws from the posterior but got 8 that are not"):
        estimator(Broken(), data_size=10)
