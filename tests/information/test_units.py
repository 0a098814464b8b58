"""Active dimensions."""

import pytest
import torch
from torch.distributions import Categorical, Independent, Normal

from pyro_infomax.information import active_units

MEANS = torch.tensor([[-1.0, 0.05, 0.0], [1.0, -0.05, 0.0]])


def test_a_dimension_is_active_when_its_mean_moves() -> None:
    posterior = Independent(Normal(MEANS, 1.0), 1)
    assert active_units(posterior).tolist() == [True, False, False]
    assert active_units(posterior, threshold=0.002).tolist() == [True, True, False]


def test_a_constant_dimension_is_inactive_at_any_threshold() -> None:
    assert not active_units(Independent(Normal(MEANS, 1.0), 1), threshold=0.0)[2]


def test_a_single_datum_has_no_active_dimension() -> None:
    assert active_units(Independent(Normal(MEANS[:1], 1.0), 1)).tolist() == [False] * 3


def test_a_negative_threshold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Expected threshold >= 0 but got -0\.1"):
        active_units(Independent(Normal(MEANS, 1.0), 1), threshold=-0.1)


@pytest.mark.parametrize("offset", [0.1, 1e6])
def test_an_offset_does_not_activate_a_constant_dimension(offset: float) -> None:
    constant = Independent(Normal(torch.full((1000, 1), offset), 1e-12), 1)
    assert active_units(constant, threshold=0.0).tolist() == [False]


def test_codes_without_a_mean_are_refused_with_the_reason() -> None:
    with pytest.raises(NotImplementedError, match=r"Independent\(Categorical, 1\) has no such mean"):
        active_units(Independent(Categorical(logits=torch.zeros(4, 2, 3)), 1))


def test_a_threshold_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected threshold >= 0 but got nan"):
        active_units(Independent(Normal(MEANS, 1.0), 1), threshold=float("nan"))
