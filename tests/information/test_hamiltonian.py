"""The transition leaves its target as it is and is its own reverse, with fine steps and with coarse ones."""

import pytest
import torch
from torch import Tensor
from torch.distributions import Gamma, Normal

from pyro_infomax.information import AnnealedState
from pyro_infomax.information._evidence import hamiltonian_transition


def scored(z: Tensor, start, target) -> AnnealedState:
    """Both ends with their gradients, of densities from (chains, data, latent) to (chains, data)."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        values = start(z), target(z)
        gradients = [torch.autograd.grad(each.sum(), z, retain_graph=True)[0] for each in values]
    return AnnealedState(z.detach(), *(each.detach() for each in values), *gradients)


def log_gamma(z: Tensor) -> Tensor:
    """The log of a Gamma(2, 1) variable: skewed, by its density in log r."""
    return (Gamma(2.0, 1.0).log_prob(z.exp()) + z).sum(-1)


def wide(z: Tensor) -> Tensor:
    return Normal(0.0, 3.0).log_prob(z).sum(-1)


CHAINS = 40_000


def draws() -> Tensor:
    return Gamma(2.0, 1.0).sample((CHAINS, 1, 1)).log()


def moved(z: Tensor, step: float, num_leapfrog: int = 3) -> tuple[Tensor, Tensor]:
    def score(z: Tensor) -> AnnealedState:
        return scored(z, wide, log_gamma)

    state, accepted = hamiltonian_transition(
        score(z), 1.0, step=torch.full((1, 1), step), num_leapfrog=num_leapfrog, score=score
    )
    return state.z, accepted


@pytest.mark.parametrize("step", [0.3, 1.2, 2.0])
def test_the_target_is_left_as_it_is(step: float) -> None:
    """With coarse steps only the acceptance can see to it."""
    z, _ = moved(draws(), step)
    r, truth = z.exp().flatten(), Gamma(2.0, 1.0)
    error = (2 / CHAINS) ** 0.5
    assert abs(r.mean() - 2) < 4 * error
    for level in (0.5, 1.5, 4.0):
        below, p = (r < level).double().mean(), truth.cdf(torch.tensor(level))
        assert abs(below - p) < 4 * (p * (1 - p) / CHAINS) ** 0.5, level


@pytest.mark.parametrize("step", [0.3, 1.2])
def test_it_is_its_own_reverse(step: float) -> None:
    """Detailed balance: before and after can be exchanged."""
    before = draws()
    after, _ = moved(before, step, num_leapfrog=2)
    here, there = before.flatten(), after.flatten()
    flow = (here < 0.3).double() * (there > 0.7).double() - (here > 0.7).double() * (there < 0.3).double()
    assert (flow != 0).sum() > 1000
    assert abs(flow.mean()) < 4 * flow.std() / CHAINS**0.5


def test_it_moves_from_elsewhere_to_the_target() -> None:
    z = torch.full((4000, 1, 1), -2.0)
    for _ in range(15):
        z, accepted = moved(z, 0.8)
    assert accepted.mean() > 0.7
    assert abs(z.exp().mean() - 2) < 4 * (2 / 4000) ** 0.5


def test_the_temperature_is_met() -> None:
    """Half-way between N(0, 1) and N(2, 1) is N(1, 1)."""

    def score(z: Tensor) -> AnnealedState:
        ends = (lambda z, m=m: Normal(m, 1.0).log_prob(z).sum(-1) for m in (0.0, 2.0))
        return scored(z, *ends)

    state = score(torch.randn(CHAINS, 1, 1) + 1)
    step = torch.full((1, 1), 1.3)
    for _ in range(2):
        state, _ = hamiltonian_transition(state, 0.5, step=step, num_leapfrog=2, score=score)
    assert abs(state.z.mean() - 1) < 4 / CHAINS**0.5
    assert abs(state.z.var() - 1) < 4 * (2 / CHAINS) ** 0.5


def test_a_trajectory_that_runs_away_is_rejected() -> None:
    seen = []

    def score(z: Tensor) -> AnnealedState:
        seen.append(z)
        return AnnealedState(z, z.sum(-1), z.sum(-1), z, 1e300 * z)

    start = score(torch.ones(5, 2, 3))
    state, accepted = hamiltonian_transition(
        start, 1.0, step=torch.full((2, 3), 1e10), num_leapfrog=4, score=score
    )
    assert all(z.isfinite().all() for z in seen)
    assert (accepted == 0).all()
    assert torch.equal(state.z, start.z)


def test_a_step_beyond_the_numbers_is_rejected_by_itself() -> None:
    """On flat ground nothing but the overflow tells."""

    def flat(z: Tensor) -> AnnealedState:
        return AnnealedState(z, z.sum(-1) * 0, z.sum(-1) * 0, 0 * z, 0 * z)

    start = flat(torch.zeros(500, 1, 1))
    state, accepted = hamiltonian_transition(
        start, 1.0, step=torch.full((1, 1), 1.7e308), num_leapfrog=1, score=flat
    )
    assert set(accepted.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(accepted == 0, state.z[..., 0] == 0)


def test_a_density_of_infinity_is_rejected() -> None:
    """Where values round to the edge of their support, a density can have a pole."""

    def score(z: Tensor) -> AnnealedState:
        pole = torch.where(z.sum(-1) > 0, torch.inf, 0.0)
        return AnnealedState(z, pole, pole, 0 * z, 0 * z)

    start = score(torch.full((500, 1, 1), -1.0))
    state, accepted = hamiltonian_transition(
        start, 0.5, step=torch.full((1, 1), 1.0), num_leapfrog=2, score=score
    )
    assert set(accepted.unique().tolist()) == {0.0, 1.0}
    assert (state.z < 0).all()
