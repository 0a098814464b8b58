import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_infomax.oracles import blahut_arimoto, channel_capacity


def close(a: Tensor, b: Tensor | float, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=tolerance, atol=tolerance)


def h(p: float) -> float:
    return -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)


def information(p: Tensor, channel: Tensor) -> Tensor:
    joint = p[:, None] * channel
    return torch.where(joint > 0, joint * (joint / (p[:, None] * joint.sum(0))).log(), 0).sum()


ERRORS = [0.0, 0.1, 0.5, 1.0]


# channels whose capacity is a formula


@pytest.mark.parametrize("e", ERRORS)
def test_binary_symmetric_channel(e: float) -> None:
    found = channel_capacity([[1 - e, e], [e, 1 - e]])
    close(found.capacity, math.log(2) - h(e))
    close(found.input, torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize("e", ERRORS)
def test_erasure_channel(e: float) -> None:
    found = channel_capacity([[1 - e, e, 0.0], [0.0, e, 1 - e]])
    close(found.capacity, (1 - e) * math.log(2))


@pytest.mark.parametrize("e", [0.01, 0.5, 0.95])
def test_z_channel_and_its_uneven_input(e: float) -> None:
    found = channel_capacity([[1.0, 0.0], [e, 1 - e]], tolerance=1e-13)
    close(found.capacity, math.log(1 + (1 - e) * e ** (e / (1 - e))))
    uneven = 1 / ((1 - e) * (1 + math.exp(h(e) / (1 - e))))
    close(found.input, torch.tensor([1 - uneven, uneven]), tolerance=1e-6)
    assert uneven < 0.495


def test_noisy_typewriter() -> None:
    keys = torch.eye(26)
    close(channel_capacity((keys + keys.roll(1, 0)) / 2).capacity, math.log(13))


def test_useless_and_perfect_channels() -> None:
    close(channel_capacity([[0.3, 0.7], [0.3, 0.7]]).capacity, 0.0)
    close(channel_capacity([[0.3, 0.7]]).capacity, 0.0)
    close(channel_capacity(torch.eye(7)).capacity, math.log(7))


# any channel


@pytest.fixture(params=[(3, 4), (20, 7), (7, 20)], ids=str)
def channel(request: pytest.FixtureRequest) -> Tensor:
    return (2 * torch.randn(request.param)).softmax(-1)


def test_bounds_enclose_the_capacity(channel: Tensor) -> None:
    found = channel_capacity(channel, tolerance=1e-11)
    assert 0 <= found.upper_bound - found.capacity <= 1e-11
    close(found.capacity, information(found.input, channel))
    close(found.output, found.input @ channel)
    divergences = (channel * (channel / found.output).log()).sum(1)
    close(divergences.max(), found.upper_bound, tolerance=1e-10)


def test_no_input_carries_more(channel: Tensor) -> None:
    found = channel_capacity(channel)
    near = (found.input.clamp(min=1e-9).log() + 0.1 * torch.randn(100, len(channel))).softmax(-1)
    for p in torch.cat([near, torch.randn(100, len(channel)).softmax(-1)]):
        assert information(p, channel) <= found.upper_bound


def test_twin_inputs_and_unreachable_outputs_change_nothing(channel: Tensor) -> None:
    found = channel_capacity(channel).capacity
    close(channel_capacity(channel.repeat(3, 1)).capacity, found)
    close(channel_capacity(torch.cat([channel, torch.zeros(len(channel), 2)], 1)).capacity, found)


def test_inputs_that_the_optimum_leaves_out() -> None:
    found = channel_capacity([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]], tolerance=1e-12)
    close(found.capacity, math.log(2) - h(0.1))
    close(found.input, torch.tensor([0.5, 0.0, 0.5]), tolerance=1e-6)


# costs


@pytest.mark.parametrize("budget", [0.001, 0.3, 0.499])
def test_cost_of_ones_through_a_perfect_channel(budget: float) -> None:
    found = channel_capacity(torch.eye(2), cost=[0.0, 1.0], budget=budget)
    close(found.capacity, h(budget))
    close(found.cost, budget)
    close(found.slope, math.log((1 - budget) / budget), tolerance=1e-4)


def test_budget_may_be_a_tensor() -> None:
    found = channel_capacity([[1.0, 0.0], [0.0, 1.0]], cost=[0.0, 1.0], budget=torch.tensor(0.25))
    assert found.input[1].item() == pytest.approx(0.25)


def test_budget_that_is_not_needed_is_not_spent() -> None:
    found = channel_capacity(torch.eye(2), cost=[0.0, 1.0], budget=0.8)
    close(found.capacity, math.log(2))
    close(found.cost, 0.5)
    assert found.slope == 0


def test_budget_of_the_least_cost_leaves_the_cheapest_inputs() -> None:
    costs = [2.0, 1.0, 1.0, 3.0]
    found = channel_capacity(torch.eye(4), cost=costs, budget=1.0)
    close(found.capacity, math.log(2))
    close(found.input, torch.tensor([0.0, 0.5, 0.5, 0.0]))


def test_budget_certificate(channel: Tensor) -> None:
    costs = torch.rand(len(channel))
    free = channel_capacity(channel, cost=costs, budget=10.0)
    budget = 0.5 * (costs.min() + free.cost).item()
    found = channel_capacity(channel, cost=costs, budget=budget, tolerance=1e-9)
    assert 0 <= found.upper_bound - found.capacity <= 1e-9
    close(found.cost, budget)
    assert found.capacity < free.capacity
    for p in (3 * torch.randn(100, len(channel))).softmax(-1):
        spent = p @ costs
        if spent > budget:  # mixed with the cheapest input until it is within the budget
            cheapest = torch.eye(len(channel))[costs.argmin()]
            share = (budget - costs.min()) / (spent - costs.min())
            p = share * p + (1 - share) * cheapest
        assert information(p, channel) <= found.upper_bound


def test_price_and_budget_agree(channel: Tensor) -> None:
    costs = torch.rand(len(channel))
    priced = blahut_arimoto(channel, cost=costs, slope=0.5)
    found = channel_capacity(channel, cost=costs, budget=priced.cost.item())
    close(found.capacity, priced.capacity, tolerance=1e-8)
    close(priced.upper_bound, priced.capacity, tolerance=1e-8)


def test_quantised_gaussian_channel_with_a_power_limit_is_near_its_formula() -> None:
    x, y = torch.linspace(-4, 4, 41), torch.linspace(-9, 9, 181)
    channel = torch.exp(-0.5 * (y - x[:, None]).square())
    channel = channel / channel.sum(1, keepdim=True)
    found = channel_capacity(channel, cost=x.square(), budget=1.0, tolerance=1e-7)
    close(found.cost, 1.0)
    close(found.capacity, 0.5 * math.log(2), tolerance=1e-3)


def test_upper_bound_of_a_loose_tolerance_is_above_the_truth() -> None:
    channel, costs = (2 * torch.randn(6, 5)).softmax(-1), torch.rand(6)
    loose = blahut_arimoto(channel, cost=costs, slope=0.5, tolerance=0.05)
    truth = channel_capacity(channel, cost=costs, budget=loose.cost.item())
    assert loose.capacity + 1e-6 < truth.capacity <= loose.upper_bound <= loose.capacity + 0.05


# failures


def test_a_certificate_that_cannot_be_given_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"Expected tolerance > 0 but got 0\.0"):
        channel_capacity(torch.eye(2), tolerance=0.0)
    sentence = r"a certificate within .* nats but the bounds stay .* apart; allow a larger tolerance"
    # on some processor the bounds of one channel meet to the last bit, but not those of twenty
    channels = torch.randn(20, 9, 6).softmax(-1)
    with pytest.raises(RuntimeError, match=sentence):
        [blahut_arimoto(channel, tolerance=1e-30) for channel in channels]
    with pytest.raises(RuntimeError, match=sentence):
        [channel_capacity(channel, cost=torch.rand(9), budget=0.4, tolerance=1e-30) for channel in channels]


def test_arrays_may_run_backwards_be_read_only_or_come_in_a_list() -> None:
    row = np.array([0.2, 0.3, 0.5])
    row.flags.writeable = False
    expected = channel_capacity([[0.2, 0.3, 0.5], [0.5, 0.3, 0.2]]).capacity
    for rows in (
        np.stack([row[::-1], row])[::-1],
        [row, row[::-1]],
        [torch.tensor(row), torch.tensor(row[::-1].copy(), dtype=torch.float32)],
    ):
        close(channel_capacity(rows).capacity, expected, tolerance=1e-7)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"channel": [0.5, 0.5]}, r"Expected channel of shape \(input, output\) but got \(2,\)"),
        ({"channel": [[0.5, 0.6]]}, r"Expected channel to sum to 1 but got 1\.1"),
        ({"channel": [[1.5, -0.5]]}, r"Expected channel >= 0 but got -0\.5"),
        ({"channel": [[math.nan, 0.5]]}, "Expected channel to be finite"),
        ({"cost": [1.0, 2.0]}, "Expected cost and budget together but got no budget"),
        ({"budget": 1.0}, "Expected cost and budget together but got no cost"),
        ({"cost": [1.0], "budget": 1.0}, r"Expected cost of shape \(2,\) but got \(1,\)"),
        ({"cost": [1.0, 2.0], "budget": 0.5}, r"Expected budget >= 1\.0, the least cost, but got 0\.5"),
        ({"cost": [1.0, 2.0], "budget": math.nan}, "but got nan"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        channel_capacity(**({"channel": [[0.5, 0.5], [0.1, 0.9]]} | arguments))
