"""Two steps are the same, or the check says what differs."""

import pytest
import torch
from torch import nn

from pyro_infomax.capture._captured_svi import Outcome, undone
from pyro_infomax.programs import ProgramState

WEIGHT = torch.ones(2)


def outcome(*, loss=1.0, gradient=(1.0, 2.0), buffer=(3.0,)):
    return Outcome({"loss": loss}, {WEIGHT: torch.tensor(gradient)}, {"mean": torch.tensor(buffer)})


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"loss": 1.001}, "the loss is 1.001 in place of 1"),
        ({"loss": float("nan")}, "the loss"),
        ({"gradient": (1.0, 2.001)}, "the gradient of w differs"),
        ({"gradient": (1.0, float("nan"))}, "the gradient of w differs"),
        ({"buffer": (3.001,)}, "the buffer mean differs"),
    ],
)
def test_differences(other, says):
    assert outcome().difference(outcome(**other), {WEIGHT: "w"}).startswith(says)


@pytest.mark.parametrize(
    "same",
    [{}, {"loss": 1.0 + 1e-12}, {"gradient": (1.0, 2.0 + 1e-12)}],
)
def test_rounding(same):
    assert outcome().difference(outcome(**same), {}) is None


def test_nan_on_both_sides():
    spoiled = {"loss": float("nan"), "gradient": (float("nan"), 1.0)}
    assert outcome(**spoiled).difference(outcome(**spoiled), {}) is None


def test_random_states():
    before = outcome()
    torch.rand(())
    assert before.difference(outcome(), {}) == "it draws other random numbers"


def test_other_parameters():
    other = Outcome({"loss": 1.0}, {}, {})
    assert outcome().difference(other, {}) == "other parameters have a gradient"


def test_undone():
    norm, average = nn.BatchNorm1d(2), torch.zeros(2)
    state, buffer = torch.get_rng_state(), norm.running_mean
    with undone(ProgramState(norm), [average]):
        norm(torch.randn(4, 2))
        norm.running_mean = torch.ones(2)
        average.add_(1)
    assert norm.running_mean is buffer
    assert torch.equal(buffer, torch.zeros(2))
    assert torch.equal(average, torch.zeros(2))
    assert int(norm.num_batches_tracked) == 0
    assert torch.equal(state, torch.get_rng_state())
