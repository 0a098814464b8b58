"""Pareto's k against ArviZ, against the truth, and where there is nothing to fit."""

import math

import arviz as az
import pytest
import torch
from torch import Tensor

from pyro_infomax.diagnostics._evidence import pareto_k
from pyro_infomax.information import ImportanceWeights


def k_of(log_weights: Tensor) -> Tensor:
    weights = ImportanceWeights(*log_weights.shape)
    for part in log_weights.split(100):
        weights.add(part)
    return pareto_k(weights)


@pytest.mark.skipif(not hasattr(az, "psislw"), reason="ArviZ 1 has no psislw")
@pytest.mark.parametrize("samples", [30, 200, 1000])
def test_it_agrees_with_arviz(samples: int) -> None:
    heaviness = torch.tensor([0.1, 0.5, 1.0, 2.0, 4.0])
    log_weights = heaviness * torch.randn(samples, 5) - 100
    _, truth = az.psislw(log_weights.T.numpy())
    # the two leave out other negligible weights of the fit
    torch.testing.assert_close(k_of(log_weights), torch.from_numpy(truth), rtol=0, atol=1e-6)


@pytest.mark.parametrize("k", [0.2, 0.7, 1.2])
def test_it_finds_the_tail_of_a_pareto_distribution(k: float) -> None:
    log_weights = -k * torch.rand(4000, 40).log()  # w = u^-k
    found = k_of(log_weights)
    assert abs(found.mean() - k) < 0.1


def test_weights_of_a_perfect_proposal_are_light() -> None:
    """Constant to rounding, whose noise must not be fitted."""
    assert (k_of(torch.full((500, 2), -3.0)) == -math.inf).all()
    assert (k_of(-3.0 + 1e-13 * torch.randn(500, 2)) == -math.inf).all()


def test_most_weights_at_the_largest_are_light() -> None:
    log_weights = torch.zeros(1000, 1)
    log_weights[::2] = -5.0
    assert k_of(log_weights) == -math.inf


def test_too_few_weights_above_the_rest_cannot_be_trusted() -> None:
    log_weights = torch.zeros(1000, 3)
    log_weights[:3, 0] = 5.0
    log_weights[:, 1] = -1e3 * torch.arange(1000)
    log_weights[:, 2] = -math.inf
    assert (k_of(log_weights) == math.inf).all()


def test_too_few_samples_give_no_k() -> None:
    assert k_of(torch.randn(20, 3)).isnan().all()
    assert k_of(torch.randn(21, 3)).isfinite().all()
