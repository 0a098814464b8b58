"""The maximum of a concave function of weights that sum to one, with a certificate."""

from typing import Final, Protocol

import torch
from torch import Tensor
from tqdm.auto import tqdm

_NEWTON_STEPS: Final = 100
_PATIENCE: Final = 3.0  # seconds without a progress bar
_TO_THE_EDGE: Final = 0.995  # of the way to the boundary


class ConcaveFunction(Protocol):
    """What the search knows of a concave function J of weights w, (size,)."""

    size: int

    def log_gain(self, weights: Tensor) -> Tensor:
        """The log of the factors by which the weights grow, (size,): the update of Blahut and Arimoto."""

    def gap(self, weights: Tensor) -> float:
        """A bound on max J - J(weights)."""

    def gradient(self, weights: Tensor) -> Tensor:
        """dJ/dw, (size,)."""

    def curvature(self, weights: Tensor) -> Tensor:
        """The Hessian of -J, (size, size)."""


def maximise(function: ConcaveFunction, *, tolerance: float, max_iterations: int) -> Tensor:
    """The weights of the maximum, (size,), to within the tolerance by the function's own certificate.

    The multiplicative update needs no step size and is fast where it counts, but where weights must vanish
    its certificate closes only as one over the number of iterations. What it leaves over, Newton steps in the
    interior close in a few dozen.

    Args:
        function: what is maximised.
        tolerance: the gap that is accepted, positive.
        max_iterations: of the update, before the Newton steps.

    Raises:
        ValueError: If the tolerance is not positive.
        RuntimeError: If the gap stays above the tolerance.
    """
    if not tolerance > 0:
        raise ValueError(f"Expected tolerance > 0 but got {tolerance}.")
    weights = torch.full((function.size,), 1 / function.size, dtype=torch.float64)
    gap = function.gap(weights)
    for _ in _with_bar(max_iterations):
        if gap <= tolerance:
            return weights
        weights = (weights.log() + function.log_gain(weights)).softmax(0)
        gap = function.gap(weights)
    return weights if gap <= tolerance else _newton(function, weights, tolerance)


def _newton(function: ConcaveFunction, weights: Tensor, tolerance: float) -> Tensor:
    """Primal-dual interior-point steps, from weights that are moved off the boundary."""
    weights = 0.9 * weights + 0.1 / function.size
    gradient = function.gradient(weights)
    level = gradient.max() + 0.1 * gradient.abs().max().clamp(min=1e-3)
    slack = level - gradient  # (size,), positive: what a weight would lose
    for _ in _with_bar(_NEWTON_STEPS):
        if function.gap(weights) <= tolerance:
            return weights / weights.sum()
        steps = _newton_step(function, weights, slack, level)
        length = min(_longest(weights, steps[0]), _longest(slack, steps[1]))
        weights, slack, level = (
            value + length * step for value, step in zip((weights, slack, level), steps, strict=True)
        )
    raise RuntimeError(
        f"Expected a certificate within {tolerance:.3g} nats but the bounds stay {function.gap(weights):.3g} "
        "apart; allow a larger tolerance."
    )


def _newton_step(
    function: ConcaveFunction, weights: Tensor, slack: Tensor, level: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    target = 0.1 * (weights * slack).mean()
    factor = torch.linalg.cholesky(function.curvature(weights) + torch.diag(slack / weights))
    residual = function.gradient(weights) - level + target / weights
    sides = torch.stack([residual, torch.ones_like(weights)], dim=1)
    along, across = torch.cholesky_solve(sides, factor).T
    level_step = (along.sum() - (1 - weights.sum())) / across.sum()
    step = along - level_step * across
    return step, target / weights - slack - slack / weights * step, level_step


def _longest(values: Tensor, step: Tensor) -> float:
    """The largest part of a step, at most all of it, that keeps the values positive."""
    reach = torch.where(step < 0, -values / step, torch.inf).min().item()
    return min(1.0, _TO_THE_EDGE * reach)


def _with_bar(iterations: int) -> "tqdm[int]":
    return tqdm(range(iterations), desc="blahut-arimoto", delay=_PATIENCE, leave=False)
