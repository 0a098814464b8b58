"""The total correlation by the covariance of the aggregate posterior: closed forms, scales, errors."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Independent,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from pyro_infomax.information import gaussian_total_correlation


def correlation_of(covariance: Tensor) -> Tensor:
    return (covariance.diagonal().log().sum() - covariance.logdet()) / 2


def covariance_of(posterior) -> Tensor:
    """By definition."""
    off = posterior.mean - posterior.mean.mean(0)
    return off.T @ off / len(off) + posterior.covariance_matrix.mean(0)


def diagonal(batch: int) -> Independent:
    return Independent(Normal(torch.randn(batch, 3) @ torch.randn(3, 3), torch.rand(batch, 3) + 0.1), 1)


def full(batch: int) -> MultivariateNormal:
    root = torch.randn(batch, 3, 3) * 0.3 + 0.5 * torch.eye(3)
    return MultivariateNormal(torch.randn(batch, 3), root @ root.mT + 0.01 * torch.eye(3))


def low_rank(batch: int) -> LowRankMultivariateNormal:
    return LowRankMultivariateNormal(
        torch.randn(batch, 3), torch.randn(batch, 3, 1), torch.rand(batch, 3) + 0.1
    )


@pytest.mark.parametrize("family", [full, low_rank])
@pytest.mark.parametrize("batch", [1, 7])
def test_full_covariances_give_the_formula(family, batch: int) -> None:
    posterior = family(batch)
    expected = correlation_of(covariance_of(posterior))
    found = gaussian_total_correlation(posterior).value
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_factors_give_the_formula() -> None:
    posterior = diagonal(20)
    twin = MultivariateNormal(posterior.mean, posterior.variance.diag_embed())
    found = gaussian_total_correlation(posterior)
    torch.testing.assert_close(found.value, correlation_of(covariance_of(twin)), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        found.population_standard_error, gaussian_total_correlation(twin).population_standard_error
    )


@pytest.mark.parametrize("factorised", [True, False])
def test_mixtures_add_the_spread_of_their_components(factorised: bool) -> None:
    means, weights = torch.randn(9, 4, 2), torch.rand(9, 4)
    components = Independent(Normal(means, 0.5), 1)
    if not factorised:
        components = MultivariateNormal(means, 0.25 * torch.eye(2))
    posterior = MixtureSameFamily(Categorical(weights), components)
    weights = (weights / weights.sum(1, keepdim=True) / 9).reshape(-1)  # of all components of all data
    flat = means.reshape(-1, 2)
    off = flat - weights @ flat
    expected = correlation_of((weights[:, None] * off).T @ off + 0.25 * torch.eye(2))
    torch.testing.assert_close(gaussian_total_correlation(posterior).value, expected)


def test_units_and_offsets_change_nothing() -> None:
    posterior = diagonal(50)
    units, offset = torch.tensor([1e-6, 1.0, 1e6]), torch.tensor([10.0, -3.0, 1e8])
    moved = Independent(Normal(posterior.mean * units + offset, posterior.stddev * units), 1)
    for field in ("value", "population_standard_error"):
        one, other = (getattr(gaussian_total_correlation(each), field) for each in (posterior, moved))
        torch.testing.assert_close(one, other, rtol=1e-7, atol=0)


@pytest.mark.parametrize("scale", [1e-3, 1e-12])
def test_collinear_means_under_tiny_noise_keep_their_digits(scale: float) -> None:
    line = torch.randn(100, 1) @ torch.ones(1, 2)
    variance = float(line[:, 0].var(correction=0))
    # C = variance 11' + scale^2 I, and |C| / (C_11 C_22) without the cancellation
    ratio = scale**2 * (2 * variance + scale**2) / (variance + scale**2) ** 2
    found = gaussian_total_correlation(Independent(Normal(line, scale), 1)).value
    assert float(found) == pytest.approx(-0.5 * math.log(ratio), abs=1e-3 if scale == 1e-12 else 1e-8)


@pytest.mark.parametrize(("offset", "scale"), [(0.0, 1.0), (0.1, 1e-12), (1e6, 1.0), (1e6, 1e-12)])
def test_a_constant_dimension_correlates_with_nothing(offset: float, scale: float) -> None:
    posterior = diagonal(30)
    mean = torch.cat([posterior.mean, torch.full((30, 1), offset)], 1)
    wide = torch.cat([posterior.stddev, torch.full((30, 1), scale)], 1)
    more = Independent(Normal(mean, wide), 1)
    for field in ("value", "population_standard_error"):
        one, other = (getattr(gaussian_total_correlation(each), field) for each in (posterior, more))
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


class Moments:
    """Two moments and nothing else."""

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        self.mean, self.covariance_matrix = mean, covariance
        self.batch_shape, self.event_shape = mean.shape[:1], mean.shape[1:]


@pytest.mark.parametrize("offset", [0.1, 1e6])
def test_a_dimension_without_variance_correlates_with_nothing(offset: float) -> None:
    posterior = full(20)
    mean = torch.cat([posterior.mean, torch.full((20, 1), offset)], 1)
    covariance = torch.nn.functional.pad(posterior.covariance_matrix, (0, 1, 0, 1))
    one, other = gaussian_total_correlation(posterior), gaussian_total_correlation(Moments(mean, covariance))
    torch.testing.assert_close(one.value, other.value)
    torch.testing.assert_close(one.population_standard_error, other.population_standard_error)


def test_what_is_fully_determined_is_infinite() -> None:
    line = torch.randn(20, 1) @ torch.ones(1, 2)
    found = gaussian_total_correlation(Moments(line, torch.zeros(20, 2, 2)))
    assert float(found.value) == math.inf
    assert found.population_standard_error.isnan()


def test_independent_dimensions_have_none() -> None:
    grid = torch.cartesian_prod(torch.arange(5.0), torch.arange(6.0))
    found = gaussian_total_correlation(Independent(Normal(grid, 0.4), 1)).value
    assert 0 <= float(found) < 1e-14


def test_a_single_datum_has_its_own_correlation_and_no_spread() -> None:
    posterior = full(1)
    found = gaussian_total_correlation(posterior)
    torch.testing.assert_close(found.value, correlation_of(posterior.covariance_matrix[0]))
    assert found.population_standard_error.isnan()


# without correlation the first order vanishes, and the error errs on the large side
@pytest.mark.parametrize(("correlation", "excess"), [(0.0, 0.25), (0.6, 0.0)])
def test_the_population_error_is_the_spread_and_the_bias_of_many_data_sets(
    correlation: float, excess: float
) -> None:
    batch, repeats = 100, 300
    c = torch.eye(3) * (1 - correlation) + correlation
    root = torch.linalg.cholesky(c - 0.1 * torch.eye(3))
    sets = torch.randn(repeats, batch, 3) @ root.T
    found = [gaussian_total_correlation(Independent(Normal(each, 0.1**0.5), 1)) for each in sets]
    errors = torch.stack([each.value for each in found]) - correlation_of(c)
    reported = torch.stack([each.population_standard_error for each in found]).mean()
    spread = (errors**2).mean().sqrt()
    tolerance = 4 / math.sqrt(2 * repeats)
    assert 1 - tolerance < float(reported / spread) < 1 + excess + tolerance


def test_the_population_error_is_of_the_first_and_second_order_in_the_moments() -> None:
    """The spread by the gradient; the bias by the curvature, and by what the mean of N data takes away."""
    posterior, size = full(6), 6
    c = covariance_of(posterior)
    off = posterior.mean - posterior.mean.mean(0)
    change = off[:, :, None] * off[:, None, :] + posterior.covariance_matrix - c
    slope = torch.autograd.functional.jacobian(correlation_of, c)
    second = torch.autograd.functional.hessian(correlation_of, c)
    influence = torch.einsum("ij,nij->n", slope, change)
    curvature = torch.einsum("nij,ijkl,nkl->n", change, second, change).mean()
    bias = (curvature / 2 - (slope * (off.T @ off / size)).sum()) / size
    expected = torch.hypot(influence.std() / math.sqrt(size), bias)
    found = gaussian_total_correlation(posterior).population_standard_error
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_data_that_do_not_fit_at_once_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    posterior = full(20)
    whole = gaussian_total_correlation(posterior).population_standard_error
    monkeypatch.setattr("pyro_infomax.information._quantities._ENTRIES_AT_ONCE", 3 * 9)
    torch.testing.assert_close(gaussian_total_correlation(posterior).population_standard_error, whole)


def test_a_mean_that_is_not_finite_is_refused_with_the_reason() -> None:
    codes = Independent(Categorical(logits=torch.zeros(4, 2, 3)), 1)
    with pytest.raises(NotImplementedError, match=r"Independent\(Categorical, 1\) has no such mean"):
        gaussian_total_correlation(codes)
