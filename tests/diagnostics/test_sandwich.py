import math

import torch
from torch.distributions import Independent, Normal

from pyro_infomax.diagnostics._decompose import (
    information_ceiling,
    information_lower_bound,
    information_upper_bound,
    is_saturated,
)
from pyro_infomax.information import Account, Draws


def account(scale, prior=True, size=40):
    posterior = Independent(Normal(torch.linspace(-2, 2, size)[:, None], scale), 1)
    return Account(Draws(posterior, Independent(Normal(torch.zeros(1), 1.0), 1) if prior else None, seed=0))


def test_the_lower_bound_is_the_exact_mixture():
    of = account(0.5)
    found = information_lower_bound(of)
    assert float(found) == float(of.mutual_information)
    assert found.bound == "lower"
    assert "population" in found.target


def test_the_upper_bound_is_the_smaller_of_two():
    wide, narrow = account(0.5), account(0.001)
    # the wide components overlap, so that the others stand in for the own one; the narrow ones stand alone
    assert float(information_upper_bound(wide)) == float(wide.leave_one_out) < float(wide.rate)
    assert float(information_upper_bound(narrow)) == float(narrow.rate) < float(narrow.leave_one_out)
    assert information_upper_bound(wide).bound == "upper"


def test_without_a_prior_only_leave_one_out_is_an_upper_bound():
    of = account(0.001, prior=False)
    assert float(information_upper_bound(of)) == float(of.leave_one_out)


def test_without_other_data_only_the_rate_is():
    of = account(0.5, size=1)
    assert float(information_upper_bound(of)) == float(of.rate)


def test_saturation_begins_a_nat_below_the_ceiling():
    assert information_ceiling(40) == math.log(40)
    assert is_saturated(information_lower_bound(account(0.001)), 40)
    information = account(0.5).mutual_information
    just_above, just_below = (int(math.exp(float(information) + 1)) + step for step in (1, 0))
    assert not is_saturated(information, just_above)
    assert is_saturated(information, just_below)
