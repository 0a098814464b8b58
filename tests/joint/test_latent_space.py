"""Sites by name and side by side."""

import pytest
import torch

from pyro_infomax.joint import LatentSpace
from pyro_infomax.programs import SiteLayout


def layout(name, inner, event, dtype=torch.float64):
    return SiteLayout(name, -1, inner, event, depth=2, rank=1, dtype=dtype)


@pytest.fixture
def space():
    return LatentSpace({"b": layout("b", ((-2, 3),), (2,)), "a": layout("a", (), (), torch.int64)})


def test_flatten_keeps_the_order_of_the_program(space):
    b, a = torch.arange(12.0).float().reshape(2, 3, 2), torch.tensor([7, 8])
    expected = torch.tensor([[0.0, 1, 2, 3, 4, 5, 7], [6.0, 7, 8, 9, 10, 11, 8]], dtype=torch.float64)
    flat = space.flatten({"a": a, "b": b})
    assert flat.dtype == torch.float64
    assert torch.equal(flat, expected)


def test_flatten_spreads_single_values(space):
    flat = space.flatten({"a": torch.zeros(1), "b": torch.zeros(4, 3, 2)})
    assert flat.shape == (4, 7)


def test_unflatten_is_the_inverse(space):
    flat = torch.randn(5, 2, space.size)
    sites = space.unflatten(flat)
    assert sites["b"].shape == (5, 2, 3, 2)
    assert sites["a"].shape == (5, 2)
    assert torch.equal(space.flatten(sites), flat)


def test_other_sites_may_be_allowed(space):
    sites = {"a": torch.zeros(4), "b": torch.zeros(4, 3, 2), "x": torch.zeros(9)}
    assert list(space.checked(sites, others=["x"])) == ["b", "a"]
    with pytest.raises(ValueError, match=r"\['x'\] too"):
        space.checked(sites)


def test_something_else_than_sites(space):
    with pytest.raises(ValueError, match="a dict of sites or a tensor but got list"):
        space.checked([1.0])


@pytest.mark.parametrize(
    ("z", "message"),
    [
        (torch.zeros(0), r"at least 1, but got \{'a': 0\}"),
        (torch.tensor(1.0), r"values of 'a' but got \(\)"),
        ({"a": 1.0}, "values of 'a' but got float"),
    ],
)
def test_what_has_no_number_of_values(z, message):
    with pytest.raises(ValueError, match=message):
        LatentSpace({"a": layout("a", (), ())}).checked(z)


def test_sites_of_different_numbers(space):
    space.checked({"a": torch.zeros(4), "b": torch.zeros(1, 3, 2)})
    with pytest.raises(ValueError, match=r"one number of values, at least 1, but got \{'b': 3, 'a': 2\}"):
        space.checked({"a": torch.zeros(2), "b": torch.zeros(3, 3, 2)})
