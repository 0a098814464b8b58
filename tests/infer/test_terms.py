"""The terms of an evaluation."""

import pytest

from pyro_infomax.infer import Terms

TERMS = Terms(distortion=3.0, rate=1.0, elbo=-4.0, loss=13.0)


def test_is_a_mapping_in_a_fixed_order():
    assert dict(TERMS) == {"distortion": 3.0, "rate": 1.0, "elbo": -4.0, "loss": 13.0}
    assert list(TERMS) == ["distortion", "rate", "elbo", "loss"]
    assert len(TERMS) == 4


@pytest.mark.parametrize("name", ["distortion", "rate", "elbo", "loss"])
def test_an_attribute_is_an_item(name):
    assert TERMS[name] == getattr(TERMS, name)


@pytest.mark.parametrize("name", ["kl", "_names", "keys"])
def test_other_names_are_no_items(name):
    assert name not in TERMS
    with pytest.raises(KeyError, match=name):
        TERMS[name]


def test_cannot_be_changed():
    with pytest.raises(AttributeError, match="Expected terms to be left as they were"):
        TERMS.rate = 2.0


def test_equal_terms_are_equal():
    assert Terms(distortion=3.0, rate=1.0, elbo=-4.0, loss=13.0) == TERMS
    assert Terms(distortion=3.0, rate=1.0, elbo=-4.0, loss=12.0) != TERMS
