"""Mutual information from the posterior alone."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal

from pyro_infomax.information import leave_one_out, mutual_information

POSTERIOR = Independent(Normal(torch.linspace(-1, 1, 100)[:, None], torch.tensor(0.5)), 1)


def by_quadrature() -> float:
    """The information between the index and z, on a grid."""
    loc = torch.linspace(-1, 1, 100).double()
    z = torch.linspace(-6, 6, 4001).double()
    density = Normal(loc, 0.5).log_prob(z[:, None])  # (grid, batch)
    mixture = density.logsumexp(1, keepdim=True) - math.log(100)
    return float((density.exp() * (density - mixture)).mean(1).sum() * (z[1] - z[0]))


@pytest.mark.parametrize("num_samples", [1, 8])
def test_the_mixture_gives_what_quadrature_gives(num_samples: int) -> None:
    found = mutual_information(POSTERIOR, num_samples=num_samples, seed=0)
    assert abs(float(found) - by_quadrature()) < 3 * float(found.standard_error)
    assert float(found.standard_error) < 0.01


def test_leaving_one_out_raises_it() -> None:
    low, high = mutual_information(POSTERIOR, seed=0), leave_one_out(POSTERIOR, seed=0)
    assert float(low) < float(high)
    assert (low.bound, high.bound) == ("exact", "upper")


def test_a_seed_repeats_and_leaves_the_global_state() -> None:
    before = torch.get_rng_state()
    assert float(mutual_information(POSTERIOR, seed=1)) == float(mutual_information(POSTERIOR, seed=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_single_datum_leaves_nothing_out() -> None:
    with pytest.raises(ValueError, match="Expected at least 2 data"):
        leave_one_out(Independent(Normal(torch.zeros(1, 2), 1.0), 1))
