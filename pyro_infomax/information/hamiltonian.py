"""A transition of Hamiltonian Monte Carlo, for many chains and data at once."""

from typing import Final

import torch
from torch import Tensor

from pyro_infomax.information.annealed_state import AnnealedState, Score

# trajectories of one length can come back to where they began
_SHORTEST: Final = 0.6


def hamiltonian_transition(
    state: AnnealedState, temperature: float, *, step: Tensor, num_leapfrog: int, score: Score
) -> tuple[AnnealedState, Tensor]:
    r"""Moves every chain by a trajectory that leaves :math:`f_b` invariant and is its own reverse.

    Each trajectory takes a random fraction of the step, and what it ends at is accepted with probability
    :math:`\min(1, e^{-\Delta H})`; a trajectory that leaves the finite numbers is rejected.

    Reference: Neal (2011), MCMC using Hamiltonian dynamics.

    Args:
        state: where the chains stand.
        temperature: b.
        step: (data, latent), the largest step in each dimension; it must not depend on the states.
        num_leapfrog: steps of a trajectory, each of which scores once.
        score: from z (chains, data, latent) to a state.

    Returns:
        The new states, and the probabilities with which they were accepted, (chains, data).
    """
    size = torch.rand_like(state.log_start)[..., None]
    step = step * (_SHORTEST + (1 - _SHORTEST) * size)  # (chains, data, latent)
    momentum = torch.randn_like(state.z)
    before = _log_density(state, momentum, temperature)
    moved, alive = state, torch.ones_like(before, dtype=torch.bool)
    for _ in range(num_leapfrog):
        momentum = momentum + step / 2 * moved.gradient(temperature)
        z = moved.z + step * momentum
        alive = alive & z.isfinite().all(-1)
        moved = score(torch.where(alive[..., None], z, state.z))
        momentum = momentum + step / 2 * moved.gradient(temperature)
    after = _log_density(moved, momentum, temperature)
    # an infinite density is one that values too small for their dtype were rounded to
    alive = alive & (after < torch.inf)
    probability = (after - before).clamp(max=0).exp().nan_to_num(nan=0.0) * alive
    accepted = torch.rand_like(probability) < probability
    return moved.where(accepted, state), probability


def _log_density(state: AnnealedState, momentum: Tensor, temperature: float) -> Tensor:
    return state.log_prob(temperature) - momentum.square().sum(-1) / 2
