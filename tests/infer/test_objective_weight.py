"""Weights as they are given, resolved to a weight a site, and the terms that an evaluation leaves."""

import math

import pytest
import torch

from pyro_infomax.infer import Terms, Trace_BetaELBO, Trace_InfoMaxELBO
from pyro_infomax.schedules import Linear


def beta(value):
    return Trace_BetaELBO(beta=value).weights


def lam(value):
    return Trace_InfoMaxELBO(lam=value).weights


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
    assert lam({}).at(0).of("x", observed=observed) == 1.0


def test_a_name_is_for_both_halves_of_a_split_site_unless_they_have_their_own():
    weights = beta({"x": 4.0, "y": 4.0, "y_unobserved": 2.0}).at(0)
    for name, value in {"x": 4.0, "x_observed": 4.0, "x_unobserved": 4.0, "y_observed": 4.0}.items():
        assert weights.of(name, observed=True) == value
    assert weights.of("y_unobserved", observed=False) == 2.0


def test_a_schedule_is_read_at_the_step():
    weights = lam(Linear(0.0, 1.0, 10))
    found = [weights.at(step).of("x", observed=True) for step in (0, 5, 10, 99)]
    assert found == [1.0, 1.5, 2.0, 2.0]
    # any function of the step is one
    assert beta(lambda step: step**2).at(3).of("z", observed=False) == 9


def test_a_tensor_is_detached_and_follows_its_value():
    value = torch.tensor(2.0, requires_grad=True)
    weight = lam(value)
    with torch.no_grad():
        value.fill_(5.0)
    resolved = weight.at(0).of("x", observed=True)
    assert resolved == 6.0
    assert not resolved.requires_grad


def test_a_tensor_is_checked_where_asked():
    value = torch.tensor(2.0)
    weight = beta(value)
    value.fill_(-1.0)
    assert weight.at(0).of("z", observed=False) == -1.0
    with pytest.raises(ValueError, match="Expected beta >= 0 but got -1"):
        weight.at(0, check_tensors=True)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, Linear(1.0, -1.0, 4), lambda step: -1.0])
def test_refuses_what_is_out_of_range(value):
    with pytest.raises(ValueError, match="Expected beta >= 0 but got"):
        beta(value)


@pytest.mark.parametrize("value", [-1.0, math.nan, Linear(1.0, -1.0, 4), torch.tensor([0.0, -1.0])])
def test_refuses_lam_that_is_not_above_minus_one(value):
    with pytest.raises(ValueError, match="Expected lam > -1 but got"):
        lam(value)


@pytest.mark.parametrize("value", ["4", None, [4.0], lambda step: "4"])
def test_refuses_what_is_no_number(value):
    with pytest.raises(ValueError, match="Expected beta to be a number >= 0 but got"):
        beta(value)


def test_says_which_site_of_a_mapping_is_wrong():
    with pytest.raises(ValueError, match=r"Expected lam\['y'\] > -1 but got -1.0"):
        lam({"x": 3.0, "y": -1.0})


# ---- the terms

TERMS = Terms(distortion=3.0, rate=1.0, elbo=-4.0, loss=13.0)


def test_terms_are_a_mapping_in_a_fixed_order_with_its_items_as_attributes():
    assert dict(TERMS) == {"distortion": 3.0, "rate": 1.0, "elbo": -4.0, "loss": 13.0}
    assert list(TERMS) == ["distortion", "rate", "elbo", "loss"]
    assert len(TERMS) == 4
    assert [getattr(TERMS, name) for name in TERMS] == list(TERMS.values())


@pytest.mark.parametrize("name", ["kl", "_names", "keys"])
def test_other_names_are_no_terms(name):
    assert name not in TERMS
    with pytest.raises(KeyError, match=name):
        TERMS[name]


def test_terms_cannot_be_changed():
    with pytest.raises(AttributeError, match="Expected terms to be left as they were"):
        TERMS.rate = 2.0


def test_equal_terms_are_equal():
    assert Terms(distortion=3.0, rate=1.0, elbo=-4.0, loss=13.0) == TERMS
    assert Terms(distortion=3.0, rate=1.0, elbo=-4.0, loss=12.0) != TERMS
