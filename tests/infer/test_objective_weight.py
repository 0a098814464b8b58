"""The weight of an objective, resolved to a weight a site."""

import math

import pytest
import torch

from pyro_infomax.infer._weights import TermWeight, TermWeights
from pyro_infomax.schedules import Constant, Linear


def beta(value):
    return TermWeights({"rate": TermWeight("beta", value)})


def lam(value):
    return TermWeights({"distortion": TermWeight("lam", value, above=-1.0, offset=1.0)})


def test_a_bare_weight_is_for_the_sites_of_its_role():
    assert beta(4.0).at(0).of("z", observed=False) == 4.0
    assert beta(4.0).at(0).of("x", observed=True) == 1.0
    assert lam(3.0).at(0).of("z", observed=False) == 1.0
    assert lam(3.0).at(0).of("x", observed=True) == 4.0


@pytest.mark.parametrize("observed", [True, False])
def test_a_mapping_is_for_the_sites_it_names_whatever_their_role(observed):
    weights = lam({"y": 3.0}).at(0)
    assert weights.of("y", observed=observed) == 4.0
    assert weights.of("x", observed=observed) == 1.0


@pytest.mark.parametrize("name", ["x", "x_observed", "x_unobserved"])
def test_a_name_is_for_both_halves_of_a_split_site(name):
    assert beta({"x": 4.0}).at(0).of(name, observed=True) == 4.0


def test_the_name_of_a_half_comes_before_that_of_the_whole():
    weights = beta({"x": 4.0, "x_unobserved": 2.0}).at(0)
    assert weights.of("x_unobserved", observed=False) == 2.0
    assert weights.of("x_observed", observed=True) == 4.0


def test_halves_of_named_sites_are_ambiguous_unless_named():
    weights = TermWeight("beta", {"z": 4.0})
    assert weights.ambiguous("z", ["z", "z_observed", "x"]) == ["z_observed"]
    both = TermWeight("beta", {"z": 4.0, "z_observed": 1.0})
    assert both.ambiguous("z", ["z", "z_observed", "x"]) == []


def test_an_empty_mapping_weighs_nothing():
    assert lam({}).at(0).of("x", observed=True) == 1.0


@pytest.mark.parametrize(("step", "value"), [(0, 1.0), (5, 1.5), (10, 2.0), (99, 2.0)])
def test_a_schedule_is_read_at_the_step(step, value):
    assert lam(Linear(0.0, 1.0, 10)).at(step).of("x", observed=True) == value


def test_any_function_of_the_step_is_a_schedule():
    assert beta(lambda step: step**2).at(3).of("z", observed=False) == 9


@pytest.mark.parametrize(
    ("value", "duration"),
    [(1.0, 0), (Constant(1.0), 0), (Linear(0.0, 1.0, 10), 10), ({"a": Linear(0.0, 1.0, 3), "b": 1.0}, 3)],
)
def test_the_duration_is_that_of_the_longest_schedule(value, duration):
    assert beta(value).duration == duration


def test_the_sites_are_those_of_a_mapping():
    assert TermWeight("beta", {"a": 1.0, "b": 2.0}).sites == {"a", "b"}
    assert TermWeight("beta", 1.0).sites == frozenset()


def test_a_tensor_is_detached_and_follows_its_value():
    value = torch.tensor(2.0, requires_grad=True)
    weight = lam(value)
    with torch.no_grad():
        value.fill_(5.0)
    resolved = weight.at(0).of("x", observed=True)
    assert resolved == 6.0
    assert not resolved.requires_grad


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, Linear(1.0, -1.0, 4), lambda step: -1.0])
def test_refuses_what_is_out_of_range(value):
    with pytest.raises(ValueError, match="Expected beta >= 0 but got"):
        beta(value)


@pytest.mark.parametrize("value", [-1.0, math.nan, Linear(1.0, -1.0, 4), torch.tensor([0.0, -1.0])])
def test_refuses_lam_that_is_not_above_minus_one(value):
    with pytest.raises(ValueError, match="Expected lam > -1 but got"):
        lam(value)


@pytest.mark.parametrize("value", ["4", None, lambda step: "4"])
def test_refuses_what_is_no_number(value):
    with pytest.raises(ValueError, match="Expected beta to be a number >= 0 but got"):
        beta(value)


def test_says_which_site_of_a_mapping_is_wrong():
    with pytest.raises(ValueError, match=r"Expected lam\['y'\] > -1 but got -1.0"):
        lam({"x": 3.0, "y": -1.0})


def test_a_tensor_is_checked_where_asked():
    value = torch.tensor(2.0)
    weight = beta(value)
    value.fill_(-1.0)
    assert weight.at(0).of("z", observed=False) == -1.0
    with pytest.raises(ValueError, match="Expected beta >= 0 but got -1"):
        weight.at(0, check_tensors=True)
