"""The bound of importance weights, its error against brute force, and what is refused."""

import math

import pytest
import torch
from torch import Tensor

from pyro_infomax.information import ImportanceWeights, importance_weighted_bound


def taken(log_weights: Tensor, chunk: int | None = None) -> ImportanceWeights:
    weights = ImportanceWeights(*log_weights.shape)
    for part in log_weights.split(chunk or len(log_weights)):
        weights.add(part)
    return weights


def jackknife(log_weights: Tensor) -> Tensor:
    """The variance from the bounds that are left without each sample in turn."""
    size = len(log_weights)
    kept = [[i for i in range(size) if i != out] for out in range(size)]
    left = torch.stack([log_weights[rows].logsumexp(0) - math.log(size - 1) for rows in kept])
    return (left - left.mean(0)).square().sum(0) * (size - 1) / size


def test_the_bound_is_the_log_of_the_mean_weight() -> None:
    log_weights = torch.tensor([[1.0, 2.0], [3.0, 6.0]]).log()
    torch.testing.assert_close(taken(log_weights).log_mean.exp(), torch.tensor([2.0, 4.0]))
    estimate = importance_weighted_bound(log_weights)
    torch.testing.assert_close(estimate.value, torch.tensor([2.0, 4.0]).log().mean())
    assert estimate.bound == "lower"
    assert "log-evidence" in estimate.target


@pytest.mark.parametrize(("size", "skew"), [(2, 1.0), (10, 4.0), (60, 0.1), (300, 0.1), (300, 4.0)])
def test_the_variance_is_the_jackknife(size: int, skew: float) -> None:
    log_weights = skew * torch.randn(size, 6)
    found, truth = taken(log_weights).variance, jackknife(log_weights)
    # the weights that are not kept enter by two terms of their series
    torch.testing.assert_close(found, truth, rtol=1e-9 if size <= 64 else 1e-3, atol=1e-12)


def test_chunks_change_nothing() -> None:
    log_weights = 2 * torch.randn(300, 4)
    whole, parts = taken(log_weights), taken(log_weights, chunk=7)
    for name in ("log_mean", "variance", "effective_sample_size", "largest"):
        torch.testing.assert_close(getattr(whole, name), getattr(parts, name), rtol=1e-12, atol=1e-12)


def test_the_largest_weights_are_kept_in_order() -> None:
    log_weights = torch.randn(2000, 3)
    largest = taken(log_weights, chunk=300).largest
    assert len(largest) == math.ceil(3 * 2000**0.5) + 1
    torch.testing.assert_close(largest, log_weights.sort(0, descending=True).values[: len(largest)])


def test_the_error_is_the_spread_over_repetitions() -> None:
    weights = taken(torch.randn(50, 5000))  # the data are repetitions
    ratio = weights.variance.mean().sqrt() / weights.log_mean.std()
    # 5000 repetitions know a spread to 1 %; the jackknife errs on the large side
    assert 0.97 < ratio < 1.25
    assert weights.log_mean.mean() < 0.5  # log E w


def test_a_weight_that_outweighs_the_rest_counts_by_its_lead() -> None:
    log_weights = torch.zeros(100, 1)
    log_weights[17] = 50.0
    # the delta method would say 1
    assert 40 < float(taken(log_weights).variance.sqrt()) < 50
    log_weights[:17], log_weights[18:] = -math.inf, -math.inf
    assert taken(log_weights).variance.isinf().all()


def test_constant_weights_have_no_error() -> None:
    weights = taken(torch.full((500, 3), -1234.5))
    torch.testing.assert_close(weights.log_mean, torch.full((3,), -1234.5), rtol=0, atol=1e-11)
    assert (weights.variance < 1e-14).all()
    torch.testing.assert_close(weights.effective_sample_size, torch.full((3,), 500.0))


def test_errors_add_up_over_data() -> None:
    log_weights = torch.randn(100, 9)
    estimate = importance_weighted_bound(log_weights)
    error = jackknife(log_weights).sum().sqrt() / 9
    torch.testing.assert_close(estimate.standard_error, error, rtol=1e-2, atol=0)
    spread = (log_weights.logsumexp(0) - math.log(100)).std() / 3
    torch.testing.assert_close(
        estimate.population_standard_error, torch.maximum(spread, estimate.standard_error)
    )


def test_weights_of_zero_make_the_bound_minus_infinity() -> None:
    weights = taken(torch.full((30, 2), -math.inf))
    assert (weights.log_mean == -math.inf).all()
    assert weights.variance.isinf().all()
    assert (weights.effective_sample_size == 0).all()


def test_weights_without_number_are_refused() -> None:
    log_weights = torch.zeros(5, 3)
    log_weights[2, 1] = math.nan
    with pytest.raises(ValueError, match="nan or inf for 1 of 3 data, the first in row 1"):
        importance_weighted_bound(log_weights)
    log_weights[2, 1] = math.inf
    with pytest.raises(ValueError, match="below infinity"):
        importance_weighted_bound(log_weights)


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="num_samples >= 2"):
        importance_weighted_bound(torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"shape \(samples, data\) but got \(3,\)"):
        importance_weighted_bound(torch.zeros(3))
    with pytest.raises(ValueError, match="at least one datum"):
        importance_weighted_bound(torch.zeros(3, 0))
    weights = ImportanceWeights(4, 2)
    with pytest.raises(ValueError, match=r"\(samples, 2\), at most 4 samples, but got \(5, 2\)"):
        weights.add(torch.zeros(5, 2))
    weights.add(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="Expected 4 samples but only 3"):
        _ = weights.log_mean
