"""States, the path from both ends against a normaliser that is known, and the chains that follow it."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.distributions import Gamma, Normal

from pyro_infomax.information import AnnealedState, Annealing, sigmoid_schedule, temperatures_of

# ---- Any temperature from one scoring of both ends.


def state(offset: float = 0.0) -> AnnealedState:
    z = torch.randn(3, 2, 4)
    return AnnealedState(
        z, torch.zeros(3, 2) + offset, torch.ones(3, 2) + offset, torch.zeros_like(z), torch.ones_like(z)
    )


def test_a_temperature_mixes_both_ends() -> None:
    here = state()
    torch.testing.assert_close(here.log_prob(0.25), torch.full((3, 2), 0.25))
    torch.testing.assert_close(here.gradient(0.25), torch.full((3, 2, 4), 0.25))
    torch.testing.assert_close(here.log_ratio, torch.ones(3, 2))


def test_what_has_no_gradient_gives_no_push() -> None:
    here = state()
    here.target_gradient[0, 0, 0] = math.nan
    here.target_gradient[1, 0, 0] = math.inf
    assert here.gradient(0.5).isfinite().all()
    assert here.gradient(0.5)[0, 0, 0] == 0


def test_states_are_chosen_chain_by_chain() -> None:
    a, b = state(), state(5.0)
    mask = torch.tensor([[True, False], [False, False], [True, True]])
    chosen = a.where(mask, b)
    for name in ("z", "log_start", "log_target", "start_gradient", "target_gradient"):
        found, of_a, of_b = (getattr(each, name) for each in (chosen, a, b))
        assert torch.equal(found[mask], of_a[mask])
        assert torch.equal(found[~mask], of_b[~mask])


# ---- The path.

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


def annealing(
    steps: int, *, data: int = 1, latent: int = 1, scored: Callable[[Tensor], AnnealedState] = score
) -> Annealing:
    temperatures = temperatures_of(sigmoid_schedule, steps)
    return Annealing.tuned(scored, torch.randn(8, data, latent), temperatures=temperatures, num_leapfrog=3)


def start(chains: int, data: int = 1) -> Tensor:
    return torch.randn(chains, data, 1)


def exact(chains: int, data: int = 1) -> Tensor:
    return LOC + SCALE * torch.randn(chains, data, 1)


def assert_mean(values: Tensor, truth: float) -> None:
    assert abs(values.mean() - truth) < 3.5 * values.std() / values.numel() ** 0.5


@pytest.mark.parametrize("steps", [2, 12])
def test_forward_weights_average_to_the_normaliser(steps: int) -> None:
    log_weight = annealing(steps).forward(start(4000)).log_weight
    assert_mean(log_weight.exp(), math.exp(LOG_Z))
    assert log_weight.mean() < LOG_Z


@pytest.mark.parametrize("steps", [2, 12])
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


# ---- A transition leaves its target as it is and is its own reverse, with fine steps and with coarse ones.


def step_from(
    z: Tensor, log_density: Callable[[Tensor], Tensor], step: float, *, num_leapfrog: int = 3
) -> tuple[Tensor, Tensor]:
    """Where one transition takes chains (chains, 1, 1) in one dimension, and how many it has accepted.

    With ends f_0 = f exp(-z / 2) and f_1 = f exp(z / 2) the density half-way is f, and the weight of a run
    over the temperatures 0, 1/2 and 1 is (z + z') / 2, of where a chain was and of where it is.
    """

    def score(z: Tensor) -> AnnealedState:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            log_p = log_density(z).sum(-1)
            (slope,) = torch.autograd.grad(log_p.sum(), z)
        z, log_p, half = z.detach(), log_p.detach(), z.detach().sum(-1) / 2
        return AnnealedState(z, log_p - half, log_p + half, slope - 0.5, slope + 0.5)

    run = Annealing(score, torch.tensor([0.0, 0.5, 1.0]), torch.full((1, 1, 1), step), num_leapfrog).forward(
        z
    )
    return (2 * run.log_weight - z.squeeze(-1))[..., None], run.acceptance


def log_gamma(z: Tensor) -> Tensor:
    """The log of a Gamma(2, 1) variable: skewed, by its density in log r."""
    return Gamma(2.0, 1.0).log_prob(z.exp()) + z


CHAINS = 20_000


def draws() -> Tensor:
    return Gamma(2.0, 1.0).sample((CHAINS, 1, 1)).log()


@pytest.mark.parametrize("step", [0.3, 2.0])
def test_the_target_is_left_as_it_is(step: float) -> None:
    """With coarse steps only the acceptance can see to it."""
    z, _ = step_from(draws(), log_gamma, step)
    r, truth = z.exp().flatten(), Gamma(2.0, 1.0)
    error = (2 / CHAINS) ** 0.5
    assert abs(r.mean() - 2) < 4 * error
    for level in (0.5, 1.5, 4.0):
        below, p = (r < level).double().mean(), truth.cdf(torch.tensor(level))
        assert abs(below - p) < 4 * (p * (1 - p) / CHAINS) ** 0.5, level


def test_it_is_its_own_reverse() -> None:
    """Detailed balance: before and after can be exchanged."""
    before = draws()
    after, _ = step_from(before, log_gamma, 1.2, num_leapfrog=2)
    here, there = before.flatten(), after.flatten()
    flow = (here < 0.3).double() * (there > 0.7).double() - (here > 0.7).double() * (there < 0.3).double()
    assert (flow != 0).sum() > 500
    assert abs(flow.mean()) < 4 * flow.std() / CHAINS**0.5


def test_it_moves_from_elsewhere_to_the_target() -> None:
    z = torch.full((4000, 1, 1), -2.0)
    for _ in range(15):
        z, accepted = step_from(z, log_gamma, 0.8)
    assert accepted.mean() > 0.7
    assert abs(z.exp().mean() - 2) < 4 * (2 / 4000) ** 0.5


def test_the_temperature_is_met() -> None:
    """A quarter of the way from N(0, 1) to N(2, 1) is N(0.5, 1)."""
    seen: list[Tensor] = []

    def score(z: Tensor) -> AnnealedState:
        seen.append(z)
        return AnnealedState(
            z, *(Normal(m, 1.0).log_prob(z).sum(-1) for m in (0.0, 2.0)), *(m - z for m in (0.0, 2.0))
        )

    z = 0.5 + torch.randn(CHAINS, 1, 1)
    run = Annealing(score, torch.tensor([0.0, 0.25, 1.0]), torch.full((1, 1, 1), 1.3), 2).forward(z)
    # log f_1 - log f_0 = 2 z - 2, a quarter of it where the chain was and the rest where it is
    after = ((run.log_weight - 0.25 * (2 * z.squeeze(-1) - 2)) / 0.75 + 2) / 2
    assert abs(after.mean() - 0.5) < 4 / CHAINS**0.5
    assert abs(after.var() - 1) < 4 * (2 / CHAINS) ** 0.5


def transition(start: Tensor, score: Callable[[Tensor], AnnealedState], step: float) -> tuple[Tensor, Tensor]:
    """The run over one transition: its weights, and the share that it accepts."""
    steps = torch.full((1, *start.shape[1:]), step)
    run = Annealing(score, torch.tensor([0.0, 0.5, 1.0]), steps, 2).forward(start)
    return run.log_weight, run.acceptance


def test_a_trajectory_that_runs_away_is_rejected() -> None:
    seen = []

    def score(z: Tensor) -> AnnealedState:
        seen.append(z)
        return AnnealedState(z, 0 * z.sum(-1), z.sum(-1), z, 1e300 * z)

    log_weight, accepted = transition(torch.ones(5, 2, 3), score, 1e10)
    assert all(z.isfinite().all() for z in seen)
    assert float(accepted) == 0
    assert torch.equal(log_weight, torch.full((5, 2), 3.0))


def test_a_step_beyond_the_numbers_is_rejected_by_itself() -> None:
    """On flat ground nothing but the overflow tells."""

    def flat(z: Tensor) -> AnnealedState:
        return AnnealedState(z, 0 * z.sum(-1), (z.sum(-1) != 0).double(), 0 * z, 0 * z)

    log_weight, accepted = transition(torch.zeros(500, 1, 1), flat, 1.7e308)
    stayed = log_weight == 0
    assert 0 < float(accepted) < 1
    assert set(log_weight.unique().tolist()) == {0.0, 0.5}
    assert float(accepted) == pytest.approx(float((~stayed).double().mean()), abs=0.2)


def test_a_density_of_infinity_is_rejected() -> None:
    """Where values round to the edge of their support, a density can have a pole."""

    def score(z: Tensor) -> AnnealedState:
        pole = torch.where(z.sum(-1) > 0, torch.inf, 0.0)
        return AnnealedState(z, pole, pole, 0 * z, 0 * z)

    log_weight, accepted = transition(torch.full((500, 1, 1), -1.0), score, 1.0)
    assert 0 < float(accepted) < 1
    assert torch.equal(log_weight, torch.zeros(500, 1))
