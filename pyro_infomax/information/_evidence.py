"""The log-evidence of the data by importance weights: of draws, and of chains that are annealed."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Self, TypeAlias, final

import torch
from torch import Tensor

from pyro_infomax._checks import whole_number
from pyro_infomax._progress import patiently
from pyro_infomax._weights import tail_length
from pyro_infomax.information._estimate import Estimate, spread

# ---- Importance weights, the bound on the evidence that they make, and whether it can be trusted.

# few enough to keep for every datum, so many that what is left hardly moves the sum
_FEWEST_KEPT: Final = 64
_TARGET: Final = "the mean log-evidence of these data"


def importance_weighted_bound(log_weights: Tensor) -> Estimate:
    r"""The importance-weighted bound on the mean log-evidence of the data.

    .. math:: \frac1N \sum_n \log \frac1S \sum_s w_{sn} \le \frac1N \sum_n \log p(x_n)

    in expectation, for weights with :math:`E[w_{sn}] = p(x_n)`: those of :math:`p(x, z) / q(z \mid x)` under
    draws of z from q, or of annealed importance sampling. It is the ELBO at S = 1 and rises with S. See
    :class:`ImportanceWeights` for its error, and for weights that arrive in chunks.

    Reference: Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders.

    Args:
        log_weights: (samples, data), in nats, at least two samples.

    Returns:
        A lower bound, in nats per datum.

    Raises:
        ValueError: for another shape, fewer than two samples, and weights that are nan or plus infinity.

    >>> import torch
    >>> estimate = importance_weighted_bound(torch.tensor([[0.0, 1.0], [0.0, 1.0]], dtype=torch.float64))
    >>> float(estimate), float(estimate.standard_error) < 1e-7
    (0.5, True)
    """
    if log_weights.dim() != 2:
        raise ValueError(f"Expected log-weights of shape (samples, data) but got {tuple(log_weights.shape)}.")
    weights = ImportanceWeights(*log_weights.shape)
    weights.add(log_weights)
    return weights.estimate


@final
class ImportanceWeights:
    r"""What S log-weights of each of N data say, taken in chunk by chunk.

    Kept are the sums of the weights and of their squares, and the largest weights of each datum, about
    :math:`3 \sqrt S` of them.

    The variance of a datum's bound :math:`\log \frac1S \sum_s w_s` is the jackknife's. It is too large rather
    than too small in expectation (for the bound of S - 1 weights), whatever their distribution, and it does
    not level off at 1 as the delta method's does where a single weight outweighs the rest. No variance of the
    sample can know of weights that it missed: where the tail is heavy (a Pareto k above 0.7), trust neither
    the bound's tightness nor its error.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders.
        Efron and Stein (1981), The jackknife estimate of variance.

    Args:
        num_samples: S, at least 2.
        data_size: N.

    Raises:
        ValueError: for fewer than two samples, or no data.

    >>> import torch
    >>> weights = ImportanceWeights(4, 1)
    >>> for _ in range(2):
    ...     weights.add(torch.tensor([[1.0], [3.0]]).log())
    >>> weights.log_mean.exp(), weights.effective_sample_size
    (tensor([2.0000], dtype=torch.float64), tensor([3.2000], dtype=torch.float64))
    """

    def __init__(self, num_samples: int, data_size: int) -> None:
        if num_samples < 2:
            raise ValueError(f"Expected num_samples >= 2, for an error of the bound, but got {num_samples}.")
        if data_size < 1:
            raise ValueError(f"Expected at least one datum but got {data_size}.")
        self.num_samples = num_samples
        self.data_size = data_size
        self._kept = min(num_samples, max(_FEWEST_KEPT, tail_length(num_samples) + 1))
        self._sum = torch.full([data_size], -math.inf, dtype=torch.float64)
        self._square = self._sum
        self._largest = torch.zeros(0, data_size, dtype=torch.float64)
        self._added = 0

    def add(self, log_weights: Tensor) -> None:
        """Takes in some samples.

        Args:
            log_weights: (samples, data), in nats.

        Raises:
            ValueError: for another number of data, more samples than were announced, and weights that are nan
                or plus infinity.
        """
        tile = log_weights.detach().double().cpu()
        self._check_log_weights(tile)
        self._added += len(tile)
        self._sum = torch.logaddexp(self._sum, tile.logsumexp(0))
        self._square = torch.logaddexp(self._square, (2 * tile).logsumexp(0))
        both = torch.cat([self._largest, tile])
        self._largest = both.topk(min(self._kept, len(both)), dim=0).values

    def _check_log_weights(self, tile: Tensor) -> None:
        room = self.num_samples - self._added
        if tile.dim() != 2 or tile.shape[1] != self.data_size or len(tile) > room:
            raise ValueError(
                f"Expected log-weights of shape (samples, {self.data_size}), at most {room} samples, but got "
                f"{tuple(tile.shape)}."
            )
        wrong = (tile.isnan() | (tile == math.inf)).any(0)
        if bool(wrong.any()):
            raise ValueError(
                f"Expected log-weights below infinity but got nan or inf for {int(wrong.sum())} of "
                f"{self.data_size} data, the first in row {int(wrong.nonzero()[0])}; look for nan in the "
                "data or the log-densities."
            )

    @property
    def largest(self) -> Tensor:
        """The largest log-weights of each datum, largest first, (kept, data): the tail and some more."""
        return self._largest

    @property
    def log_mean(self) -> Tensor:
        r""":math:`\log \frac1S \sum_s w_s`, the bound of each datum, (data,)."""
        return self._complete(self._sum) - math.log(self.num_samples)

    @property
    def effective_sample_size(self) -> Tensor:
        r""":math:`(\sum_s w_s)^2 / \sum_s w_s^2`, between 1 and S, (data,); 0 where all weights are 0."""
        size = (2 * self._complete(self._sum) - self._complete(self._square)).exp()
        return size.nan_to_num(nan=0.0)

    @property
    def variance(self) -> Tensor:
        """The jackknife's variance of each datum's bound, (data,); infinite where one weight alone counts."""
        share = (self._largest - self._complete(self._sum)).exp()  # (kept, data)
        rest = (1 - share.sum(0)).clamp(min=0)
        rest_square = (1 / self.effective_sample_size - share.square().sum(0)).clamp(min=0)
        size, left = self.num_samples, self.num_samples - len(share)
        # log(1 - p) of the rest, whose shares p are small, to second order around an even share
        away = (rest - left / size) / (1 - 1 / size)
        away_square = (rest_square - 2 * rest / size + left / size**2).clamp(min=0) / (1 - 1 / size) ** 2
        change = self._change(share, rest) - math.log1p(-1 / size)
        total = change.sum(0) - away - away_square / 2
        square = change.square().sum(0) + away_square
        spread = (square - total.square() / size).clamp(min=0) * (size - 1) / size
        return spread.nan_to_num(nan=math.inf)

    def _change(self, share: Tensor, rest: Tensor) -> Tensor:
        """By how much the log of the sum changes without each of the largest weights, (kept, data)."""
        # 1 - p of the largest loses all digits as p -> 1, so that the others are added up instead
        log_rest = self._sum + rest.log()
        others = torch.cat([self._largest[1:], log_rest[None]]).logsumexp(0)
        return torch.cat([(others - self._sum)[None], torch.log1p(-share[1:])])

    @property
    def estimate(self) -> Estimate:
        """The mean of the bounds over the data."""
        value = self.log_mean
        error = self.variance.sum().sqrt() / self.data_size
        return Estimate(value.mean(), error, torch.maximum(spread(value), error), "lower", _TARGET)

    def _complete(self, running: Tensor) -> Tensor:
        if self._added < self.num_samples:
            raise ValueError(f"Expected {self.num_samples} samples but only {self._added} were added.")
        return running


# ---- States of chains between a start and a target, with all that any temperature needs to know of them.


@final
@dataclass(frozen=True)
class AnnealedState:
    r"""Where the chains stand, with both ends of the geometric path scored once.

    .. math:: \log f_b(z) = (1 - b) \log f_0(z) + b \log f_1(z)

    Attributes:
        z: (chains, data, latent), unconstrained.
        log_start: :math:`\log f_0(z)`, (chains, data), of a normalised density.
        log_target: :math:`\log f_1(z)`, (chains, data), of a density that need not be.
        start_gradient: of log_start in z, (chains, data, latent).
        target_gradient: of log_target in z, (chains, data, latent).
    """

    z: Tensor
    log_start: Tensor
    log_target: Tensor
    start_gradient: Tensor
    target_gradient: Tensor

    @property
    def log_ratio(self) -> Tensor:
        """log f_1 − log f_0, (chains, data)."""
        return self.log_target - self.log_start

    def log_prob(self, temperature: float) -> Tensor:
        """log f_b, (chains, data)."""
        return (1 - temperature) * self.log_start + temperature * self.log_target

    def gradient(self, temperature: float) -> Tensor:
        """The gradient of log f_b, (chains, data, latent), 0 where there is none."""
        mixed = (1 - temperature) * self.start_gradient + temperature * self.target_gradient
        return mixed.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)

    def where(self, mask: Tensor, other: "AnnealedState") -> "AnnealedState":
        """These states where the mask (chains, data) holds, and others elsewhere."""
        wide = mask[..., None]
        return AnnealedState(
            torch.where(wide, self.z, other.z),
            torch.where(mask, self.log_start, other.log_start),
            torch.where(mask, self.log_target, other.log_target),
            torch.where(wide, self.start_gradient, other.start_gradient),
            torch.where(wide, self.target_gradient, other.target_gradient),
        )


LogDensities: TypeAlias = Callable[[Tensor], AnnealedState]


# ---- A transition of Hamiltonian Monte Carlo, for many chains and data at once.

# trajectories of one length can come back to where they began
_SHORTEST: Final = 0.6


def hamiltonian_transition(
    state: AnnealedState, temperature: float, *, step: Tensor, num_leapfrog: int, score: LogDensities
) -> tuple[AnnealedState, Tensor]:
    r"""Moves every chain by a trajectory that leaves :math:`f_b` invariant and is its own reverse.

    Each trajectory takes a random fraction of the step (data, latent), which must not depend on the states.
    What it ends at is accepted with probability :math:`\min(1, e^{-\Delta H})`, and with 0 beyond the finite
    numbers. These probabilities, (chains, data), come with the new states.

    Reference: Neal (2011), MCMC using Hamiltonian dynamics.
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


# ---- Annealed importance sampling between two densities, forwards and backwards.

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
    """The temperatures of a schedule, (steps + 1,), rising from 0 to 1."""
    num_temperatures = whole_number("num_temperatures", num_temperatures, at_least=1)
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
        progress: show a bar where a run takes more than a few seconds.
    """

    score: LogDensities
    temperatures: Tensor
    steps: Tensor
    num_leapfrog: int
    progress: bool = True

    @classmethod
    def tuned(
        cls,
        score: LogDensities,
        z: Tensor,
        *,
        temperatures: Tensor,
        num_leapfrog: int,
        progress: bool = True,
    ) -> Self:
        """Tunes the steps by a pilot run, datum by datum.

        At each temperature they follow the spread of the pilot's chains, times a factor that brings the
        acceptance near 0.8.

        Args:
            score: see the class.
            z: (chains, data, latent), draws of the start for the pilot alone, at least two chains.
            temperatures: (T + 1,), from 0 to 1.
            num_leapfrog: steps of a trajectory.
            progress: show a bar where this, or a run afterwards, takes more than a few seconds.

        Raises:
            ValueError: for fewer than one leapfrog step, and log-densities that are nan or plus infinity.
        """
        num_leapfrog = whole_number("num_leapfrog", num_leapfrog, at_least=1)
        state = score(z)
        _check_scores(state)
        pilot = _Pilot(score, state, num_leapfrog)
        inner = temperatures[1:-1].tolist()
        met = list(zip(inner, _rounds(len(inner)), strict=True))
        steps = [pilot.step_at(b, rounds) for b, rounds in patiently(met, "tuning", progress=progress)]
        none = z.new_zeros(0, *z.shape[1:])
        return cls(score, temperatures, torch.stack(steps) if steps else none, num_leapfrog, progress)

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
        for last, t in patiently(list(pairwise(intervals)), name, progress=self.progress):
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

    def __init__(self, score: LogDensities, state: AnnealedState, num_leapfrog: int) -> None:
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
