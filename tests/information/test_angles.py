"""Angles: von Mises posteriors against von Mises priors, and what a line cannot serve."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Laplace, Normal, Uniform, VonMises

from pyro_infomax.distributions import SideBySide, moments
from pyro_infomax.information import (
    Account,
    Draws,
    active_units,
    gaussian_total_correlation,
    mutual_information,
    rate,
)

ANGLES = torch.tensor([-3.1, -1.0, 0.5, 3.0])
PRIOR = Independent(VonMises(torch.tensor([0.4]), 1.5), 1)


def angles(concentration: float = 4.0) -> Independent:
    return Independent(VonMises(ANGLES[:, None], concentration), 1)


def _grid(posterior: Independent) -> tuple[Tensor, Tensor]:
    """Points of one turn, and the posteriors' log-densities there, (point, data)."""
    turn = torch.linspace(-math.pi, math.pi, 20_001)[:, None]
    return turn, posterior.base_dist.log_prob(turn[:, None])[..., 0]


def test_rate_and_information_of_angles_are_those_of_quadrature() -> None:
    posterior = angles()
    turn, each = _grid(posterior)
    expected = torch.trapezoid(each.exp() * (each - PRIOR.log_prob(turn)[:, None]), turn, dim=0).mean()
    found = rate(posterior, PRIOR)
    assert float(found.standard_error) == 0
    torch.testing.assert_close(found.value, expected, rtol=1e-6, atol=1e-6)
    gain = each - each.logsumexp(1, keepdim=True) + math.log(4)
    expected = torch.trapezoid(each.exp() * gain, turn, dim=0).mean()
    found = mutual_information(posterior, num_samples=2000, seed=0)
    assert abs(float(found.value - expected)) < 4 * float(found.standard_error) < 0.05


@pytest.mark.parametrize(
    "wrap", [lambda q: q, lambda q: Independent(SideBySide([q.base_dist, q.base_dist]), 1)]
)
def test_means_on_the_circle_are_no_means(wrap) -> None:
    posterior = wrap(angles())
    assert moments(posterior) is None
    for estimator in (active_units, gaussian_total_correlation):
        with pytest.raises(NotImplementedError, match="has no such mean"):
            estimator(posterior)


def test_a_line_has_no_divergence_from_an_angle() -> None:
    line = Independent(Normal(ANGLES[:, None], 1.0), 1)
    with pytest.raises(
        ValueError, match=r"Expected posteriors of angles, such as VonMises, under .*VonMises"
    ):
        rate(line, PRIOR)
    prior = Independent(SideBySide([Laplace(torch.zeros(1), 1.0), PRIOR.base_dist]), 1)
    mixed = Independent(SideBySide([line.base_dist, angles().base_dist]), 1)
    assert bool(Account(Draws(mixed, prior, seed=0)).rate.value.isfinite())
    swapped = Independent(SideBySide([angles().base_dist, line.base_dist]), 1)
    with pytest.raises(ValueError, match="Expected posteriors of angles"):
        Draws(swapped, prior, seed=0)


def test_an_interval_serves_an_angle() -> None:
    turn = torch.linspace(-math.pi, math.pi, 20_001)[:-1]
    expected = -math.log(2 * math.pi) - PRIOR.log_prob(turn[:, None]).mean()
    whole = Independent(Uniform(torch.full((4, 1), -math.pi), math.pi), 1)
    found = rate(whole, PRIOR, num_samples=500, seed=0)
    assert abs(float(found.value - expected)) < 4 * float(found.standard_error) < 0.2
