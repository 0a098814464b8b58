import math

import pytest
import torch

from pyro_infomax.oracles import ChannelCapacity, RateDistortion, blahut_arimoto

HAMMING = [[0.0, 1.0], [1.0, 0.0]]


def h(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def test_a_table_alone_is_a_channel() -> None:
    found = blahut_arimoto([[0.9, 0.1], [0.1, 0.9]])
    assert isinstance(found, ChannelCapacity)
    assert found.capacity.item() == pytest.approx(math.log(2) - h(0.1), abs=1e-12)


@pytest.mark.parametrize("slope", [0.1, 2.0, 30.0])
def test_with_a_source_it_is_a_table_of_distortions(slope: float) -> None:
    found = blahut_arimoto(HAMMING, source=[0.5, 0.5], slope=slope)
    error = 1 / (1 + math.exp(slope))
    assert isinstance(found, RateDistortion)
    assert found.distortion.item() == pytest.approx(error, abs=1e-12)
    assert found.rate.item() == pytest.approx(math.log(2) - h(error), abs=1e-12)


@pytest.mark.parametrize("slope", [0.0, 4.0, 1e3])
def test_price_of_ones_through_a_perfect_channel(slope: float) -> None:
    found = blahut_arimoto(torch.eye(2), cost=[0.0, 1.0], slope=slope)
    ones = 1 / (1 + math.exp(slope)) if slope < 700 else 0.0
    assert found.cost.item() == pytest.approx(ones, abs=1e-6)
    assert (found.capacity - slope * found.cost).item() == pytest.approx(
        math.log1p(math.exp(-min(slope, 700)))
    )
    assert 0 <= found.upper_bound - found.capacity <= 1e-10


@pytest.mark.parametrize("max_iterations", [0, 30])
def test_newton_steps_meet_the_iteration(max_iterations: int) -> None:
    """Also where the optimum leaves out an input: there the iteration alone closes slowly."""
    for channel in (torch.randn(9, 6).softmax(-1), torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]])):
        slow = blahut_arimoto(channel, tolerance=1e-5, max_iterations=100_000)
        quick = blahut_arimoto(channel, tolerance=1e-12, max_iterations=max_iterations)
        assert 0 <= quick.capacity - slow.capacity <= 1e-5
        assert quick.upper_bound - quick.capacity <= 1e-12


def test_result_is_detached_and_float64() -> None:
    torch.set_default_dtype(torch.float32)
    channel = torch.eye(3, requires_grad=True)
    found = blahut_arimoto(channel)
    assert not found.capacity.requires_grad
    assert {each.dtype for each in vars(found).values()} == {torch.float64}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"slope": 1.0}, r"Expected a cost for the slope to weigh but got slope=1\.0 alone"),
        ({"slope": -1.0, "cost": [0.0, 1.0]}, r"Expected slope >= 0 but got -1\.0"),
        ({"source": [0.5, 0.5]}, "Expected a slope and no cost beside a source.*no slope"),
        ({"source": [0.5, 0.5], "slope": 1.0, "cost": [0.0, 1.0]}, "but got a cost"),
        ({"source": [0.5, 0.5], "slope": 0.0}, r"Expected slope > 0 but got 0\.0"),
    ],
)
def test_mixed_up_arguments_are_refused(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        blahut_arimoto(HAMMING, **arguments)
