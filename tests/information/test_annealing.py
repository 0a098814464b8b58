"""The path from both ends against a normaliser that is known, and the steps that a pilot run finds."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from pyro_infomax.information import AnnealedState, Annealing, sigmoid_schedule, temperatures_of
from pyro_infomax.information._evidence import LogDensities

LOC, SCALE, LOG_Z = 1.5, 0.4, 0.7


def score(z: Tensor, loc: float = LOC, scale: float = SCALE) -> AnnealedState:
    """From N(0, 1) to exp(0.7) N(loc, scale²) in each dimension, whose normaliser is exp(0.7) for one."""
    return AnnealedState(
        z,
        Normal(0.0, 1.0).log_prob(z).sum(-1),
        Normal(loc, scale).log_prob(z).sum(-1) + LOG_Z,
        -z,
        (loc - z) / scale**2,
    )


def annealing(steps: int, *, data: int = 1, latent: int = 1, scored: LogDensities = score) -> Annealing:
    temperatures = temperatures_of(sigmoid_schedule, steps)
    return Annealing.tuned(scored, torch.randn(8, data, latent), temperatures=temperatures, num_leapfrog=3)


def start(chains: int, data: int = 1) -> Tensor:
    return torch.randn(chains, data, 1)


def exact(chains: int, data: int = 1) -> Tensor:
    return LOC + SCALE * torch.randn(chains, data, 1)


def assert_mean(values: Tensor, truth: float) -> None:
    assert abs(values.mean() - truth) < 3.5 * values.std() / values.numel() ** 0.5


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_forward_weights_average_to_the_normaliser(steps: int) -> None:
    log_weight = annealing(steps).forward(start(4000)).log_weight
    assert_mean(log_weight.exp(), math.exp(LOG_Z))
    assert log_weight.mean() < LOG_Z


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_reverse_weights_average_to_its_inverse(steps: int) -> None:
    """To a target wider than the start: else the inverse weights have no variance to test by."""
    path = annealing(steps, scored=partial(score, loc=0.8, scale=1.4))
    log_weight = path.reverse(0.8 + 1.4 * torch.randn(4000, 1, 1)).log_weight
    assert_mean((-log_weight).exp(), math.exp(-LOG_Z))
    assert log_weight.mean() > LOG_Z


def test_the_gap_shrinks_with_the_temperatures() -> None:
    gaps = []
    for steps in (2, 8, 32):
        path = annealing(steps)
        up, low = path.reverse(exact(2000)).log_weight, path.forward(start(2000)).log_weight
        gaps.append(float(up.mean() - low.mean()))
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2] > 0


def test_one_step_is_importance_sampling() -> None:
    z = start(10)
    run = annealing(1).forward(z)
    state = score(z)
    assert torch.equal(run.log_weight, state.log_target - state.log_start)
    assert len(run.acceptance) == 0


def test_a_start_at_the_target_has_constant_weights() -> None:
    """Whatever the transitions do, every increment is the same."""

    def flat(z: Tensor) -> AnnealedState:
        log_p = Normal(0.0, 1.0).log_prob(z).sum(-1)
        return AnnealedState(z, log_p, log_p + LOG_Z, -z, -z)

    temperatures = temperatures_of(sigmoid_schedule, 7)
    path = Annealing.tuned(flat, start(8, 2), temperatures=temperatures, num_leapfrog=2)
    for run in (path.forward(start(5, 2)), path.reverse(start(5, 2))):
        torch.testing.assert_close(run.log_weight, torch.full((5, 2), LOG_Z), rtol=0, atol=1e-12)


def test_steps_are_tuned_for_every_temperature_and_then_fixed() -> None:
    path = annealing(40, data=3, latent=2)
    assert path.steps.shape == (39, 3, 2)
    narrowing = path.steps[-1].mean() / path.steps[0].mean()
    assert SCALE / 2 < narrowing < 2 * SCALE
    before = path.steps.clone()
    run = path.forward(torch.randn(500, 3, 2))
    assert torch.equal(path.steps, before)
    assert (run.acceptance > 0.55).all()
    assert (run.acceptance < 0.98).all()


def test_forward_and_reverse_use_one_transition_a_temperature() -> None:
    path = annealing(6)
    reverse = path.reverse(exact(2000)).acceptance
    forward = path.forward(start(2000)).acceptance
    assert reverse.shape == forward.shape == (5,)
    assert (reverse > 0).all()


def test_each_leapfrog_step_scores_once() -> None:
    calls = []

    def counted(z: Tensor) -> AnnealedState:
        calls.append(len(z))
        return score(z)

    temperatures = temperatures_of(sigmoid_schedule, 5)
    path = Annealing(counted, temperatures, torch.full((4, 1, 1), 0.3), 7)
    path.forward(start(10))
    assert len(calls) == 1 + 4 * 7


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_log_densities_that_are_not_below_infinity_are_refused(value: float) -> None:
    def broken(z: Tensor) -> AnnealedState:
        state = score(z)
        state.log_target[:, 1] = value
        return state

    with pytest.raises(ValueError, match="nan or inf for 1 of 3 data, the first in row 1"):
        Annealing.tuned(
            broken, start(8, 3), temperatures=temperatures_of(sigmoid_schedule, 3), num_leapfrog=2
        )


def test_the_sigmoid_schedule_is_a_sigmoid() -> None:
    temperatures = temperatures_of(sigmoid_schedule, 100)
    raw = torch.sigmoid(torch.linspace(-4, 4, 101))
    torch.testing.assert_close(temperatures, (raw - raw[0]) / (raw[-1] - raw[0]))


def test_schedules_that_do_not_rise_from_0_to_1_are_refused() -> None:
    assert temperatures_of(lambda t: t**2, 2).tolist() == [0.0, 0.25, 1.0]
    with pytest.raises(ValueError, match="from 0 at 0 to 1 at 1"):
        temperatures_of(lambda t: t / 2, 10)
    with pytest.raises(ValueError, match="from 0 at 0 to 1 at 1"):
        temperatures_of(lambda t: t[:-1], 10)
    with pytest.raises(ValueError, match="that rises"):
        temperatures_of(lambda t: t.round(), 10)
    with pytest.raises(ValueError, match="num_temperatures to be an integer >= 1 but got 0"):
        temperatures_of(sigmoid_schedule, 0)


def test_no_leapfrog_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="num_leapfrog to be an integer >= 1 but got 0"):
        Annealing.tuned(score, start(8), temperatures=temperatures_of(sigmoid_schedule, 3), num_leapfrog=0)
