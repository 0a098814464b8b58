"""Expected costs over the sites of a guide, in tensors alone."""

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple, final

import torch
from opt_einsum import shared_intermediates  # type: ignore[import-untyped]
from pyro.infer.util import Dice
from pyro.ops import packed
from pyro.ops.rings import LinearRing

__all__ = ["Costs", "Expectation"]

Packed = Any  # a tensor that knows its axes as symbols, _pyro_dims
Costs = Mapping[frozenset[str], list[Packed]]  # packed tensors by the plates they are in


@final
class Expectation:
    r"""Expected costs over what a guide enumerates, and surrogates of them for what it draws.

    .. math:: \sum_c \sum_z \Big[\prod_{i \preceq c} w_i(z)\Big] \, c(z), \qquad 0 \cdot (-\infty) = 0

    The weights of the sites i in the plates of a cost c are probabilities where a site is enumerated and,
    where it is drawn, 1 with the gradient of its log-probability (Foerster et al., 2018, DiCE: The infinitely
    differentiable Monte-Carlo estimator). No value is looked at, so that a graph of these operations holds
    for other values too.

    Args:
        guide_trace: a trace of the guide with packed score parts.
        ordering: the plates of each site, as symbols.
    """

    def __init__(self, guide_trace: Any, ordering: Mapping[str, frozenset[str]]) -> None:
        dice = Dice(guide_trace, ordering)
        self._weights = {plates: [packed.exp(log) for log in logs] for plates, logs in dice.log_probs.items()}
        self._log_counts = dice.log_denom  # of what is enumerated run by run, hence counted many times
        self._marginals: dict[Any, Packed] = {}

    def of(self, costs: Costs) -> torch.Tensor:
        """The expected sum of costs, without axes."""
        with shared_intermediates():
            totals = [self._within(plates, terms) for plates, terms in costs.items()]
        return torch.as_tensor(reduce(operator.add, totals) if totals else 0.0)

    def _within(self, plates: frozenset[str], terms: list[Packed]) -> Any:
        weights = [weight for around, each in self._weights.items() if around <= plates for weight in each]
        parts = _independent_parts(weights, terms)
        log_count = sum(each for around, each in self._log_counts.items() if not around <= plates)
        total = self._cost(parts[0]) if len(parts) == 1 else self._sum_of_products(parts)
        return total * math.exp(-log_count) if log_count else total

    # The derivative of a product, one factor at a time: each part's cost times the masses of the others
    def _sum_of_products(self, parts: list["_Part"]) -> Any:
        total: Any = 0.0
        product: Any = 1.0
        for part in parts:
            mass = self._marginal(part.weights, "") if part.weights else 1.0
            total = total * mass + product * self._cost(part)
            product = product * mass
        return total

    def _cost(self, part: "_Part") -> Any:
        costs = [self._weighed(part.weights, cost) for cost in _added_by_dims(part.costs)]
        return reduce(operator.add, costs) if costs else 0.0

    def _weighed(self, weights: list[Packed], cost: Packed) -> torch.Tensor:
        if not weights:
            return cost.sum()
        weight = self._marginal(weights, cost._pyro_dims)
        weight, cost = _aligned([weight, _summed(cost, weight._pyro_dims)])
        return (weight * cost.masked_fill(weight == 0, 0.0)).sum()

    def _marginal(self, weights: list[Packed], dims: str) -> Packed:
        """The product of weights, summed over all axes but the given ones."""
        others = _dims(weights).difference(dims)
        if len(weights) == 1 and not others:
            return weights[0]
        key = (*map(id, weights), frozenset(others))
        if key not in self._marginals:
            self._marginals[key] = LinearRing().sumproduct(weights, others)
        return self._marginals[key]


class _Part(NamedTuple):
    """Weights and costs that share axes with each other and with nothing else."""

    dims: frozenset[str]
    weights: list[Packed]
    costs: list[Packed]


def _independent_parts(weights: list[Packed], costs: list[Packed]) -> list[_Part]:
    parts: list[_Part] = []
    for new in [_Part(_dims([w]), [w], []) for w in weights] + [_Part(_dims([c]), [], [c]) for c in costs]:
        touching = [part for part in parts if part.dims & new.dims]
        parts = [part for part in parts if not part.dims & new.dims]
        parts.append(_joined([*touching, new]))
    return parts


def _joined(parts: list[_Part]) -> _Part:
    return _Part(
        frozenset().union(*(part.dims for part in parts)),
        [weight for part in parts for weight in part.weights],
        [cost for part in parts for cost in part.costs],
    )


def _dims(tensors: Iterable[Packed]) -> frozenset[str]:
    return frozenset(dim for tensor in tensors for dim in tensor._pyro_dims)


def _added_by_dims(costs: list[Packed]) -> list[Packed]:
    """The costs of the same axes added up."""
    groups: dict[frozenset[str], list[Packed]] = {}
    for cost in costs:
        groups.setdefault(_dims([cost]), []).append(cost)
    return [_added(group) for group in groups.values()]


def _added(costs: list[Packed]) -> Packed:
    if len(costs) == 1:
        return costs[0]
    aligned = _aligned(costs)
    total = reduce(operator.add, aligned)
    total._pyro_dims = aligned[0]._pyro_dims
    return total


def _aligned(tensors: list[Packed]) -> Sequence[Packed]:
    """Tensors of the same axes with these in one order."""
    if all(tensor._pyro_dims == tensors[0]._pyro_dims for tensor in tensors):
        return tensors
    aligned: Sequence[Packed] = packed.broadcast_all(*tensors)
    return aligned


def _summed(tensor: Packed, kept: str) -> Packed:
    """The tensor summed over all axes but those to be kept."""
    others = [axis for axis, dim in enumerate(tensor._pyro_dims) if dim not in kept]
    if not others:
        return tensor
    total = tensor.sum(others)
    total._pyro_dims = "".join(dim for dim in tensor._pyro_dims if dim in kept)
    return total
