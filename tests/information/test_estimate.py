"""Numbers that carry their errors."""

import dataclasses
import math

import pytest
import torch

from pyro_infomax.information import Estimate

SCALAR = Estimate(torch.tensor(1.2341), torch.tensor(0.005), torch.tensor(0.1), "exact", "a target")
VECTOR = Estimate(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.25]), None, "upper", "a target")


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (1.2341, 0.005, "1.234 ± 0.005 (lower)"),
        (1.2341, 0.0, "1.234 (lower)"),
        (1.23412, 0.00002, "1.23412 ± 0.00002 (lower)"),
        (12.0, 3.0, "12.000 ± 3.000 (lower)"),
        (-1e-17, 1e-17, "0.000 ± 0.000 (lower)"),
        (math.inf, math.nan, "inf ± nan (lower)"),
    ],
)
def test_a_scalar_reads_as_value_error_and_bound(value: float, error: float, text: str) -> None:
    assert str(Estimate(torch.tensor(value), torch.tensor(error), None, "lower", "")) == text


def test_a_vector_reads_as_a_list() -> None:
    assert str(VECTOR) == "[1.000, 2.000 ± 0.250] (upper)"


def test_a_scalar_is_a_float_without_a_length() -> None:
    assert float(SCALAR) == pytest.approx(1.2341)
    with pytest.raises(TypeError, match="this one is a scalar"):
        len(SCALAR)


def test_a_vector_is_a_sequence_of_scalars() -> None:
    assert len(VECTOR) == 2
    assert [float(each) for each in VECTOR] == [1.0, 2.0]
    last = VECTOR[-1]
    assert (float(last.standard_error), last.population_standard_error, last.bound) == (0.25, None, "upper")
    assert VECTOR[:1].value.tolist() == [1.0]
    assert [str(each) for each in VECTOR] == ["1.000 (upper)", "2.000 ± 0.250 (upper)"]


def test_population_errors_follow_the_index() -> None:
    both = Estimate(torch.zeros(2), torch.zeros(2), torch.tensor([3.0, 4.0]), "exact", "")
    assert float(both[1].population_standard_error) == 4.0


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SCALAR.bound = "lower"
