"""What the sites of a model cost, with those that it enumerates summed out."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from pyro.infer.traceenum_elbo import _compute_model_factors
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree

from pyro_infomax.infer.expectation import Costs, Expectation
from pyro_infomax.infer.recorded_check import holds
from pyro_infomax.poutine import sample_sites

__all__ = [
    "Component",
    "ModelCosts",
    "elbo_costs",
    "enumerated_components",
    "guide_costs",
    "mapped",
    "model_costs",
    "summed_elbo",
]

Trace = Any
Site = Any


class Component(NamedTuple):
    """Sites of the model that share enumerated dimensions."""

    dims: frozenset[str]
    sites: list[str]
    enumerated: list[str]


class ModelCosts(NamedTuple):
    """Log-probabilities of a model's sites as packed tensors, by the plates that they are in.

    Attributes:
        costs: those that depend on nothing that the model enumerates.
        factors: those that are summed together over what it enumerates.
        summed: the dimensions of these sums.
        scale: what their logarithms count for.
        ordering: the plates of the sites of model and guide.
    """

    costs: Costs
    factors: Costs
    summed: set[str]
    scale: Any
    ordering: dict[str, frozenset[str]]

    def contracted(self) -> dict[frozenset[str], list[Any]]:
        """The costs, with the logarithms of sums over enumerated sites added to them."""
        total = {plates: list(terms) for plates, terms in self.costs.items()}
        if self.factors:
            for plates, terms in contract_tensor_tree(OrderedDict(self.factors), self.summed).items():
                scaled = (packed.scale_and_mask(term, scale=self.scale) for term in terms)
                total.setdefault(plates, []).extend(scaled)
        return total

    def select(self, inside: Callable[[torch.Tensor], bool]) -> "ModelCosts":
        """Some of the tensors only."""
        return self._replace(costs=_select(self.costs, inside), factors=_select(self.factors, inside))


def _select(costs: Costs, inside: Callable[[torch.Tensor], bool]) -> Costs:
    chosen = {plates: [term for term in terms if inside(term)] for plates, terms in costs.items()}
    return {plates: terms for plates, terms in chosen.items() if terms}


def summed_elbo(model_trace: Trace, guide_trace: Trace) -> torch.Tensor:
    """The ELBO of one particle, differentiable, with sums over what model and guide enumerate.

    Args:
        model_trace: a trace with packed log-probabilities.
        guide_trace: a trace with packed score parts.
    """
    costs = model_costs(model_trace, guide_trace)
    return Expectation(guide_trace, costs.ordering).of(elbo_costs(costs, guide_trace))


def elbo_costs(costs: ModelCosts, guide_trace: Trace) -> Costs:
    """What the ELBO is the expectation of: a model's log-probabilities minus those of a guide."""
    total = costs.contracted()
    for plates, terms in guide_costs(guide_trace, costs.ordering).items():
        total.setdefault(plates, []).extend(map(packed.neg, terms))
    return total


def guide_costs(guide_trace: Trace, ordering: dict[str, frozenset[str]]) -> Costs:
    """Log-probabilities of a guide's sites, by the plates that they are in."""
    costs: dict[frozenset[str], list[Any]] = {}
    for site in sample_sites(guide_trace):
        costs.setdefault(ordering[site["name"]], []).append(site["packed"]["log_prob"])
    return costs


def model_costs(model_trace: Trace, guide_trace: Trace) -> ModelCosts:
    """Log-probabilities of a model's sites.

    Raises:
        ValueError: where sites that are summed together have different scales.
    """
    components = enumerated_components(model_trace, guide_trace)
    # Pyro's own comparison of scales would take their values
    unscaled = mapped(model_trace, lambda site: {**site, "scale": 1.0}) if components else model_trace
    costs, factors, ordering, summed, _ = _compute_model_factors(unscaled, guide_trace)
    return ModelCosts(costs, factors, summed, _common_scale(model_trace, components), ordering)


def enumerated_components(model_trace: Trace, guide_trace: Trace) -> list[Component]:
    """The sums that a model's enumerated sites need, each over sites that cannot be told apart by scale."""
    sites = {site["name"]: site for site in sample_sites(model_trace)}
    enumerated = [
        name
        for name, site in sites.items()
        if name not in guide_trace.nodes and site["infer"].get("_enumerate_dim") is not None
    ]
    if not enumerated:
        return []
    guide_dims = _dims(sample_sites(guide_trace))
    plates = {symbol for trace in (model_trace, guide_trace) for symbol in trace.plate_to_symbol.values()}
    summed = _dims(sites[name] for name in enumerated) - guide_dims - plates
    components: list[Component] = []
    for name, site in sites.items():
        dims = _dims([site]) & summed
        if dims or name in enumerated:
            components = _joined(components, Component(dims, [name], [name] if name in enumerated else []))
    return components


def _joined(components: list[Component], new: Component) -> list[Component]:
    apart = [component for component in components if not component.dims & new.dims]
    for component in components:
        if component.dims & new.dims:
            new = Component(
                component.dims | new.dims, component.sites + new.sites, component.enumerated + new.enumerated
            )
    return [*apart, new]


# Pyro scales all of its sums in a model by one number.
def _common_scale(model_trace: Trace, components: list[Component]) -> Any:
    names = [name for component in components for name in component.sites]
    scales = [model_trace.nodes[name]["scale"] for name in names]
    sentence = f"Expected the sites {names}, which are summed together, to have one scale"
    if not all(holds(scale == scales[0], sentence) for scale in scales[1:]):
        raise ValueError(f"{sentence} but got {scales}")
    return scales[0] if scales else 1.0


def mapped(trace: Trace, change: Callable[[Site], Site]) -> Trace:
    """The same trace with its sample sites changed."""
    copy = trace.copy()
    copy.plate_to_symbol, copy.symbol_to_dim = trace.plate_to_symbol, trace.symbol_to_dim
    for site in sample_sites(trace):
        copy.nodes[site["name"]] = change(site)
    return copy


def _dims(sites: Iterable[Site]) -> frozenset[str]:
    return frozenset(symbol for site in sites for symbol in site["packed"]["log_prob"]._pyro_dims)
