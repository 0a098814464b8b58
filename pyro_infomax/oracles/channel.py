"""The capacity of a discrete memoryless channel."""

from dataclasses import dataclass
from functools import partial
from typing import Final, final

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .checks import finite, non_negative, of_rank, probabilities, shaped
from .constraint import Point, at_resource
from .entropies import entropy
from .simplex import maximise

_LEAST: Final = 1e-300  # of an output's probability, below which it counts as this


@final
@dataclass(frozen=True, eq=False)
class ChannelCapacity:
    """The input that carries the most information through a channel, in nats per use.

    Attributes:
        capacity: the mutual information I(X; Y) of ``input``, which is a lower bound on the capacity.
        upper_bound: an upper bound on the capacity at this cost, within the tolerance of ``capacity``.
        input: the optimal p(x), (input,).
        output: its p(y), (output,).
        cost: the expected cost of ``input``; 0 without costs.
        slope: what one more unit of cost is worth, in nats.
    """

    capacity: Tensor
    upper_bound: Tensor
    input: Tensor
    output: Tensor
    cost: Tensor
    slope: Tensor


@torch.no_grad()
def channel_capacity(
    channel: ArrayLike | Tensor,
    *,
    cost: ArrayLike | Tensor | None = None,
    budget: float | None = None,
    tolerance: float = 1e-10,
    max_iterations: int = 200,
) -> ChannelCapacity:
    r"""The capacity of a discrete channel, also under a limit on the expected cost of its input.

    .. math:: C(B) = \max_{p(x)} I(X; Y) \quad \text{with} \quad E[c(X)] \le B

    :func:`blahut_arimoto` solves it at each price of a unit of cost; the price is found by chords and
    tangents of the concave curve, which certify the result.

    References:
        Arimoto (1972), *An Algorithm for Computing the Capacity of Arbitrary Discrete Memoryless Channels*.
        Blahut (1972), *Computation of Channel Capacity and Rate-Distortion Functions*.

    Args:
        channel: p(y|x), (input, output).
        cost: c(x), (input,).
        budget: the most that the expected cost may be.
        tolerance: the gap between the bounds that is accepted, in nats.
        max_iterations: of the multiplicative update, before Newton's steps.

    Raises:
        ValueError: If the channel is no table of probabilities, only one of cost and budget is given, or the
            budget is below the least cost.
        RuntimeError: If the bounds do not come within the tolerance.

    Example:
        >>> noiseless = [[1.0, 0.0], [0.0, 1.0]]
        >>> print(f"{channel_capacity(noiseless).capacity:.4f}")  # ln 2
        0.6931
        >>> limited = channel_capacity(noiseless, cost=[0.0, 1.0], budget=0.11)  # the entropy of 0.11
        >>> print(f"{limited.capacity:.4f} at p(1) = {limited.input[1]:.4f}")
        0.3465 at p(1) = 0.1100
    """
    table = _table(channel)
    solve = partial(_solved, table, tolerance=tolerance / 4, max_iterations=max_iterations)
    if cost is None and budget is None:
        return priced_capacity(table, tolerance=tolerance, max_iterations=max_iterations)
    if cost is None or budget is None:
        lacking = "budget" if budget is None else "cost"
        raise ValueError(f"Expected cost and budget together but got no {lacking}.")
    costs, budget = _costs(cost, table), float(budget)
    if not budget >= costs.min():
        raise ValueError(f"Expected budget >= {costs.min().item()}, the least cost, but got {budget}.")
    free = solve(costs, 0.0)
    if free.resource <= budget:
        return _report(table, costs, free.solution, -free.dual, 0.0)
    scarce = _cheapest(table, costs, tolerance=tolerance / 4, max_iterations=max_iterations)
    found = at_resource(partial(solve, costs), budget, scarce, free, tolerance=tolerance)
    return _report(table, costs, found.solution, -found.lower_bound, found.slope)


@torch.no_grad()
def priced_capacity(
    channel: ArrayLike | Tensor,
    *,
    cost: ArrayLike | Tensor | None = None,
    slope: float = 0.0,
    tolerance: float,
    max_iterations: int,
) -> ChannelCapacity:
    """The maximum of I(X; Y) - slope E[c(X)]."""
    table = _table(channel)
    price = non_negative("slope", slope).item()
    if price and cost is None:
        raise ValueError(f"Expected a cost for the slope to weigh but got slope={price} alone.")
    costs = torch.zeros(len(table), dtype=torch.float64) if cost is None else _costs(cost, table)
    point = _solved(table, costs, price, tolerance=tolerance, max_iterations=max_iterations)
    return _report(table, costs, point.solution, -point.dual + price * point.resource, price)


@final
class _Transmission:
    """J(p) = I(X; Y) - E[charge], as a function of the input distribution."""

    def __init__(self, table: Tensor, charge: Tensor) -> None:
        self.size = len(table)
        self._table = table  # (input, output)
        self._constant = -entropy(table, 1) - charge  # (input,)

    def log_gain(self, weights: Tensor) -> Tensor:
        return self._constant - self._table @ self._output(weights).log()

    def gap(self, weights: Tensor) -> float:
        gain = self.log_gain(weights)
        return (gain.max() - weights @ gain).item()

    def gradient(self, weights: Tensor) -> Tensor:
        return self.log_gain(weights) - 1

    def curvature(self, weights: Tensor) -> Tensor:
        return self._table / self._output(weights) @ self._table.T

    def _output(self, weights: Tensor) -> Tensor:
        return (weights @ self._table).clamp(min=_LEAST)


def _solved(table: Tensor, costs: Tensor, slope: float, *, tolerance: float, max_iterations: int) -> Point:
    function = _Transmission(table, slope * costs)
    weights = maximise(function, tolerance=tolerance, max_iterations=max_iterations)
    gain = function.log_gain(weights)
    resource = weights @ costs
    value = -(weights @ gain) - slope * resource
    return Point(resource.item(), value.item(), -gain.max().item(), weights)


def _cheapest(table: Tensor, costs: Tensor, *, tolerance: float, max_iterations: int) -> Point:
    """The best input among those of the least cost."""
    is_cheapest = costs == costs.min()
    point = _solved(
        table[is_cheapest], costs[is_cheapest], 0.0, tolerance=tolerance, max_iterations=max_iterations
    )
    weights = torch.zeros_like(costs).masked_scatter(is_cheapest, point.solution)
    return Point(costs.min().item(), point.value, point.dual, weights)


def _report(table: Tensor, costs: Tensor, weights: Tensor, upper: float, slope: float) -> ChannelCapacity:
    output = weights @ table
    information = (entropy(output) - weights @ entropy(table, 1)).clamp(min=0)
    above = information.new_tensor(max(upper, information.item()))
    return ChannelCapacity(
        information, above, weights, output, weights @ costs, information.new_tensor(slope)
    )


def _table(channel: ArrayLike | Tensor) -> Tensor:
    return of_rank("channel", probabilities("channel", channel), "input, output")


def _costs(cost: ArrayLike | Tensor, table: Tensor) -> Tensor:
    return shaped("cost", finite("cost", cost), (len(table),))
