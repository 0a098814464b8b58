"""The one regression, on numbers whose expectations are known."""

import math

import pytest
import torch
from torch import Tensor

from pyro_infomax.information._control_variates import ControlVariates, affordable


def simulated(samples: int, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Covariates (samples, batch, 2), their means (batch, 2) and independent noise (samples, batch)."""
    exact = torch.randn(batch, 2)
    return exact + torch.randn(samples, batch, 2), exact, torch.randn(samples, batch)


@pytest.mark.parametrize(("samples", "batch"), [(1, 200), (2, 100), (5, 40)])
def test_what_the_covariates_explain_has_no_noise(samples: int, batch: int) -> None:
    covariates, exact, _ = simulated(samples, batch)
    weights = torch.tensor([2.0, -3.0])
    found = ControlVariates(covariates, exact).expectation(covariates @ weights + 1).estimate("exact", "")
    torch.testing.assert_close(found.value, (exact @ weights).mean() + 1, rtol=1e-12, atol=1e-12)
    assert float(found.standard_error) < 1e-12


@pytest.mark.parametrize(("samples", "batch"), [(1, 200), (2, 100), (5, 40)])
def test_the_error_is_that_of_the_remaining_noise(samples: int, batch: int) -> None:
    errors, reported = [], []
    for _ in range(200):
        covariates, exact, noise = simulated(samples, batch)
        y = covariates @ torch.tensor([2.0, -3.0]) + 0.5 * noise
        found = ControlVariates(covariates, exact).expectation(y).estimate("exact", "")
        errors.append(found.value - (exact @ torch.tensor([2.0, -3.0])).mean())
        reported.append(found.standard_error)
    spread, mean = torch.stack(errors).std(), torch.stack(reported).mean()
    assert abs(float(spread / mean) - 1) < 4 / math.sqrt(2 * 200)  # the error of a standard deviation
    assert float(mean) == pytest.approx(0.5 / math.sqrt(samples * batch), rel=0.05)


@pytest.mark.parametrize("samples", [1, 2])
def test_draws_far_out_which_the_fit_follows_do_not_make_the_error_too_small(samples: int) -> None:
    errors, reported = [], []
    for _ in range(600):
        z = torch.randn(samples, 60, 2)
        covariates = torch.cat([z, z**2], -1)
        exact = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(60, 4)
        found = ControlVariates(covariates, exact).expectation((z**4).sum(-1)).estimate("exact", "")
        errors.append(found.value - 6)
        reported.append(found.standard_error)
    assert float(torch.stack(errors).std() / torch.stack(reported).mean()) < 1.08


def test_single_draws_are_compared_with_their_neighbours() -> None:
    batch = 400
    means, exact = torch.linspace(-2, 2, batch), torch.zeros(batch, 0)
    neighbours = (torch.arange(batch) + 1).clamp(max=batch - 2)
    errors, reported = [], []
    for _ in range(300):
        y = (means**2 + 0.5 * torch.randn(batch))[None]
        plan = ControlVariates(exact[None], exact, neighbours=neighbours)
        found = plan.expectation(y).estimate("exact", "")
        errors.append(found.value - (means**2).mean())
        reported.append(found.standard_error)
    assert float(torch.stack(reported).mean()) == pytest.approx(0.5 / math.sqrt(batch), rel=0.02)
    hits = torch.stack(errors).abs() <= 1.96 * torch.stack(reported)
    assert 0.90 < float(hits.double().mean()) < 0.99


def test_several_draws_need_no_neighbours() -> None:
    covariates, exact, noise = simulated(2, 100)
    plans = (
        ControlVariates(covariates, exact),
        ControlVariates(covariates, exact, neighbours=torch.arange(100)),
    )
    one, other = (plan.expectation(noise).estimate("exact", "") for plan in plans)
    assert float(one.standard_error) == float(other.standard_error) > 0


def test_a_draw_that_the_fit_passes_through_leaves_the_rest_as_they_are() -> None:
    covariates, exact, noise = simulated(1, 100)
    lone = torch.zeros(1, 100, 1)
    lone[0, 7] = 1.0
    with_lone = ControlVariates(torch.cat([covariates, lone], -1), torch.cat([exact, lone[0]], -1))
    found = with_lone.expectation(noise).estimate("exact", "")
    before = ControlVariates(covariates, exact).expectation(noise).estimate("exact", "")
    assert float(found.standard_error) == pytest.approx(float(before.standard_error), rel=0.1)


def test_identical_and_constant_covariates_are_harmless() -> None:
    covariates, exact, noise = simulated(1, 100)
    more = torch.cat([covariates, covariates, torch.ones(1, 100, 1)], -1)
    one = ControlVariates(covariates, exact)
    other = ControlVariates(more, torch.cat([exact, exact, torch.ones(100, 1)], -1))
    assert one.freedom == other.freedom == 97
    pair = [plan.expectation(noise).estimate("exact", "") for plan in (one, other)]
    torch.testing.assert_close(pair[0].value, pair[1].value)
    torch.testing.assert_close(pair[0].standard_error, pair[1].standard_error)


def test_a_sum_has_the_error_of_the_sum() -> None:
    covariates, exact, noise = simulated(2, 100)
    plan, y = ControlVariates(covariates, exact), torch.stack([noise, covariates[..., 0] - noise], -1)
    total = plan.expectation(y).sum().estimate("exact", "")
    assert float(total.standard_error) < 1e-12
    torch.testing.assert_close(total.value, exact[:, 0].mean())
    difference = plan.expectation(noise) - plan.expectation(noise)
    assert float(difference.estimate("exact", "").standard_error) == 0


def test_a_closed_form_has_no_error_but_a_population_error() -> None:
    covariates, exact, _ = simulated(1, 50)
    found = ControlVariates(covariates, exact).known(exact[:, 0]).estimate("exact", "")
    assert float(found.standard_error) == 0
    torch.testing.assert_close(found.population_standard_error, exact[:, 0].std() / math.sqrt(50))


def test_a_bias_widens_the_population_error_only() -> None:
    covariates, exact, noise = simulated(1, 50)
    plain = ControlVariates(covariates, exact).expectation(noise)
    biased = plain.biased(torch.tensor(3.0)).estimate("exact", "")
    before = plain.estimate("exact", "")
    torch.testing.assert_close(biased.standard_error, before.standard_error)
    expected = torch.hypot(before.population_standard_error, torch.tensor(3.0))
    torch.testing.assert_close(biased.population_standard_error, expected)


def test_a_single_draw_of_a_single_datum_knows_no_error() -> None:
    found = ControlVariates(torch.zeros(1, 1, 0), torch.zeros(1, 0)).expectation(torch.ones(1, 1))
    estimate = found.estimate("exact", "")
    assert float(estimate) == 1
    assert estimate.standard_error.isnan()


def test_infinite_terms_give_an_infinite_mean_of_unknown_error() -> None:
    covariates, exact, noise = simulated(1, 50)
    noise[0, 0] = -math.inf
    estimate = ControlVariates(covariates, exact).expectation(noise).estimate("upper", "")
    assert float(estimate) == -math.inf
    assert estimate.standard_error.isnan()


def test_twenty_draws_bear_one_covariate() -> None:
    assert affordable(torch.zeros(1, 21, 1))
    assert not affordable(torch.zeros(1, 20, 1))
    assert affordable(torch.zeros(2, 20, 1))
    assert not affordable(torch.zeros(2, 20, 2))
