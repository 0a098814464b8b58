"""Total correlation from the posterior alone."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import AffineTransform

from pyro_infomax.information import total_correlation


def test_points_on_a_diagonal_are_fully_correlated() -> None:
    line = torch.arange(8.0)[:, None].expand(8, 3) * 100
    found = total_correlation(Independent(Normal(line, 1.0), 1), num_samples=2, seed=0)
    assert float(found) == pytest.approx(2 * math.log(8), abs=1e-9)


def test_points_on_a_grid_are_not_correlated() -> None:
    grid = torch.cartesian_prod(torch.arange(5.0), torch.arange(6.0))
    found = total_correlation(Independent(Normal(grid, 0.4), 1), num_samples=2, seed=0)
    assert float(found) == pytest.approx(0, abs=1e-12)


def test_unknown_marginals_are_refused_with_the_reason() -> None:
    base = Independent(Normal(torch.zeros(4, 2), 1.0), 1)
    with pytest.raises(NotImplementedError, match="univariate marginals are known"):
        total_correlation(TransformedDistribution(base, [AffineTransform(0.0, 2.0, event_dim=1)]))
