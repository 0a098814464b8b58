"""Annealed importance sampling between two densities, forwards and backwards."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Self, final

import torch
from torch import Tensor

from pyro_infomax.information.annealed_state import AnnealedState, Score
from pyro_infomax.information.hamiltonian import hamiltonian_transition
from pyro_infomax.progress import patiently

_STEEPNESS: Final = 4.0
_ACCEPTANCE: Final = 0.8
_FIRST_SIZE: Final = 0.5  # standard deviations
_PILOT_TRANSITIONS: Final = 30
_FIRST_TRANSITIONS: Final = 10
_RATE: Final = 0.5
_MEMORY: Final = 0.7
_LEAST_VARIANCE: Final = 1e-20


def sigmoid_schedule(fraction: Tensor) -> Tensor:
    r"""Temperatures that change slowly near both ends: a sigmoid from -4 to 4, moved onto [0, 1].

    Reference: Grosse, Ghahramani and Adams (2015), Sandwiching the marginal likelihood using bidirectional
    Monte Carlo.

    Args:
        fraction: of the way, each in [0, 1].

    Returns:
        The temperatures, shaped like ``fraction``.

    >>> import torch
    >>> sigmoid_schedule(torch.tensor([0.0, 0.1, 0.5, 1.0]))
    tensor([0.0000, 0.0220, 0.5000, 1.0000])
    """
    # tanh is the sigmoid already centred at zero
    return 0.5 + 0.5 * torch.tanh(_STEEPNESS * (fraction - 0.5)) / math.tanh(_STEEPNESS / 2)


def temperatures_of(schedule: Callable[[Tensor], Tensor], num_temperatures: int) -> Tensor:
    """The temperatures of a schedule, (steps + 1,), from 0 to 1.

    Raises:
        ValueError: if there is no step, or if they do not rise from 0 to 1.
    """
    if num_temperatures < 1:
        raise ValueError(f"Expected num_temperatures >= 1 but got {num_temperatures}.")
    found = schedule(torch.linspace(0, 1, num_temperatures + 1, dtype=torch.float64))
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    if found.shape != (num_temperatures + 1,) or not torch.allclose(found[[0, -1]].double(), ends):
        raise ValueError(
            f"Expected a schedule from 0 at 0 to 1 at 1 for {num_temperatures + 1} fractions but got "
            f"{tuple(found.shape)}: {found.flatten()[:1].tolist()} to {found.flatten()[-1:].tolist()}."
        )
    if not bool((found.diff() > 0).all()):
        raise ValueError("Expected a schedule that rises but it stays or falls; give it another form.")
    return torch.cat([ends[:1], found[1:-1].double(), ends[1:]])


@final
@dataclass(frozen=True)
class AnnealedRun:
    """What a run along the path leaves.

    Attributes:
        log_weight: (chains, data), in nats.
        acceptance: the mean probability of acceptance at each inner temperature, (steps - 1,), from 0 to 1.
    """

    log_weight: Tensor
    acceptance: Tensor


@final
@dataclass(frozen=True)
class Annealing:
    r"""The geometric path from a start :math:`f_0` to a target :math:`f_1`, and chains that follow it.

    A chain meets the temperatures :math:`0 = b_0 < \dots < b_T = 1` in turn, with one transition of
    Hamiltonian Monte Carlo at each inner one:

    .. math:: \log w = \sum_{t=1}^T (b_t - b_{t-1}) [\log f_1(z_{t-1}) - \log f_0(z_{t-1})]

    Forwards, from draws of :math:`f_0`, :math:`E[w]` is the normaliser Z of :math:`f_1`, so that log w is a
    lower bound on log Z in expectation. Backwards, from an exact draw of :math:`f_1 / Z`, :math:`E[1 / w]` is
    1 / Z, so that log w is an upper bound. Both need transitions that do not depend on the states that are
    weighed: steps are tuned by :meth:`tuned` on other chains, and fixed from then on.

    References:
        Neal (2001), Annealed importance sampling.
        Grosse, Ghahramani and Adams (2015), Sandwiching the marginal likelihood using bidirectional Monte
        Carlo.

    Args:
        score: from z (chains, data, latent), unconstrained and float64, to a state: both log-densities and
            their gradients.
        temperatures: (T + 1,), from 0 to 1.
        steps: (T - 1, data, latent), the steps at each inner temperature.
        num_leapfrog: steps of a trajectory.
    """

    score: Score
    temperatures: Tensor
    steps: Tensor
    num_leapfrog: int

    @classmethod
    def tuned(cls, score: Score, z: Tensor, *, temperatures: Tensor, num_leapfrog: int) -> Self:
        """Tunes the steps by a pilot run, datum by datum.

        At each temperature they follow the spread of the pilot's chains, times a factor that brings the
        acceptance near 0.8.

        Args:
            score: see the class.
            z: (chains, data, latent), draws of the start for the pilot alone, at least two chains.
            temperatures: (T + 1,), from 0 to 1.
            num_leapfrog: steps of a trajectory.

        Raises:
            ValueError: for fewer than one leapfrog step, and log-densities that are nan or plus infinity.
        """
        if num_leapfrog < 1:
            raise ValueError(f"Expected num_leapfrog >= 1 but got {num_leapfrog}.")
        state = score(z)
        _check_scores(state)
        pilot = _Pilot(score, state, num_leapfrog)
        inner = temperatures[1:-1].tolist()
        steps = [
            pilot.step_at(b, rounds)
            for b, rounds in patiently(list(zip(inner, _rounds(len(inner)), strict=True)), "tuning")
        ]
        none = z.new_zeros(0, *z.shape[1:])
        return cls(score, temperatures, torch.stack(steps) if steps else none, num_leapfrog)

    def forward(self, z: Tensor) -> AnnealedRun:
        """From draws of the start: an unbiased weight, a lower bound by its log.

        Args:
            z: (chains, data, latent).
        """
        return self._run(z, range(len(self.temperatures) - 1), "annealing")

    def reverse(self, z: Tensor) -> AnnealedRun:
        """From exact draws of the target: an unbiased inverse weight, an upper bound by the weight's log.

        Args:
            z: (chains, data, latent); the chains of a datum may share one draw.
        """
        return self._run(z, range(len(self.temperatures) - 2, -1, -1), "reverse")

    def _run(self, z: Tensor, intervals: Sequence[int], name: str) -> AnnealedRun:
        """Along intervals from b_t to b_t+1, in either order, with a transition wherever two of them meet."""
        width = self.temperatures.diff().tolist()
        state = self.score(z)
        log_weight = width[intervals[0]] * state.log_ratio
        acceptance = torch.zeros_like(self.temperatures[1:-1])
        for last, t in patiently(list(pairwise(intervals)), name):
            inner = max(last, t)
            state, accepted = self._transition(state, inner)
            acceptance[inner - 1] = accepted.mean()
            log_weight = log_weight + width[t] * state.log_ratio
        return AnnealedRun(log_weight, acceptance)

    def _transition(self, state: AnnealedState, inner: int) -> tuple[AnnealedState, Tensor]:
        return hamiltonian_transition(
            state,
            float(self.temperatures[inner]),
            step=self.steps[inner - 1],
            num_leapfrog=self.num_leapfrog,
            score=self.score,
        )


@final
class _Pilot:
    """Chains of their own that find the steps."""

    def __init__(self, score: Score, state: AnnealedState, num_leapfrog: int) -> None:
        self._score = score
        self._state = state
        self._num_leapfrog = num_leapfrog
        self._variance = state.z.var(0)  # (data, latent)
        latent = state.z.shape[-1]
        # the energy's error grows with the dimensions
        self._log_size = torch.full_like(state.z[0, :, :1], math.log(_FIRST_SIZE / latent**0.25))

    def step_at(self, temperature: float, rounds: int) -> Tensor:
        """The steps (data, latent) at a temperature that has been met several times."""
        for _ in range(rounds):
            self._move(temperature)
        return self._step

    @property
    def _step(self) -> Tensor:
        return self._log_size.exp() * self._variance.clamp(min=_LEAST_VARIANCE).sqrt()

    def _move(self, temperature: float) -> None:
        self._state, accepted = hamiltonian_transition(
            self._state, temperature, step=self._step, num_leapfrog=self._num_leapfrog, score=self._score
        )
        self._variance = _MEMORY * self._variance + (1 - _MEMORY) * self._state.z.var(0)
        self._log_size = self._log_size + _RATE * (accepted.mean(0)[:, None] - _ACCEPTANCE)


def _rounds(temperatures: int) -> list[int]:
    """Transitions of the pilot at each temperature, some more at the first one, and enough in all."""
    each = math.ceil(_PILOT_TRANSITIONS / max(1, temperatures))
    return [each if position else max(_FIRST_TRANSITIONS, each) for position in range(temperatures)]


def _check_scores(state: AnnealedState) -> None:
    # nan and plus infinity are not below infinity
    wrong = ~((state.log_start < math.inf) & (state.log_target < math.inf)).all(0)
    if bool(wrong.any()):
        raise ValueError(
            f"Expected log-densities below infinity but got nan or inf for {int(wrong.sum())} of "
            f"{len(wrong)} data, the first in row {int(wrong.nonzero()[0])}; look for nan in the data or the "
            "parameters, or for latents that round to the edge of their support, and try float64."
        )
