"""TraceEnum_ELBO with weights."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.distributions.score_parts import ScoreParts
from pyro.infer import TraceEnum_ELBO
from pyro.infer.traceenum_elbo import _compute_model_factors
from pyro.infer.util import Dice
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from pyro.ops.rings import SampleRing

from pyro_infomax.infer.objective_weight import ResolvedWeights
from pyro_infomax.infer.terms import Terms
from pyro_infomax.infer.weighted_elbo import Program, Trace, WeightedELBO
from pyro_infomax.poutine import unweighted_log_prob, unweighted_scale_and_mask

__all__ = ["WeightedEnumELBO"]

Costs = dict[Any, list[Any]]  # packed tensors by the plates they are in


class WeightedEnumELBO(WeightedELBO, TraceEnum_ELBO):
    """Exact sums over enumerated sites. The terms are computed when :attr:`terms` is read."""

    enumerates = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._traces: list[tuple[Trace, Trace]] = []

    @property
    def terms(self) -> Terms | None:
        """The unweighted terms of the last evaluation, None before the first."""
        if self._traces:
            terms = [_unweighted_terms(*each) for each in self._traces]
            self._sums = [sum(each) for each in zip(*terms, strict=True)]
            self._traces = []
        return super().terms

    def __getstate__(self) -> dict[str, Any]:
        """The state without traces, whose graphs can be neither copied nor pickled."""
        _ = self.terms
        return self.__dict__.copy()

    def _reset(self) -> None:
        super()._reset()
        self._traces = []

    def _get_traces(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Any:
        if isinstance(poutine.unwrap(guide), poutine.messenger.Messenger):
            ours = type(self).__name__
            raise NotImplementedError(
                f"{ours} cannot take a guide that is itself a messenger; use a plain guide, or "
                f"{ours.replace('TraceEnum', 'TraceGraph')}"
            )
        return super()._get_traces(model, guide, args, kwargs)

    def _record(self, model_trace: Trace, guide_trace: Trace) -> None:
        self._traces.append((model_trace, guide_trace))

    def _evaluate(self, *args: Any) -> Any:
        loss = super()._evaluate(*args)
        # what is kept for the terms must not keep the graph of the step
        self._traces = [(_detached(model), _detached(guide)) for model, guide in self._traces]
        return loss

    def _check(self, weights: ResolvedWeights, model_trace: Trace, guide_trace: Trace) -> None:
        super()._check(weights, model_trace, guide_trace)
        components = _enumerated_components(model_trace, guide_trace)
        sites = [site for component in components for site in component.sites]
        enumerated = [site for component in components for site in component.enumerated]
        self._check_one_scale({name: _number(model_trace.nodes[name]["scale"]) for name in sites}, enumerated)

    # Pyro scales all of its sums in a model by one number.
    def _check_one_scale(self, scales: dict[str, float], enumerated: list[str]) -> None:
        if len(set(scales.values())) > 1:
            mapping = ", ".join(f"{site!r}: ..." for site in scales)
            raise ValueError(
                f"Expected the sites summed over {enumerated} to carry one weight but got the scales "
                f"{scales}; weigh them alike by a mapping, {self.objective_weight.name}={{{mapping}}}"
            )


class _Component(NamedTuple):
    """Sites of the model that share enumerated dimensions."""

    dims: frozenset[str]
    sites: list[str]
    enumerated: list[str]


def _enumerated_components(model_trace: Trace, guide_trace: Trace) -> list[_Component]:
    sites = {name: site for name, site in model_trace.nodes.items() if site["type"] == "sample"}
    enumerated = [
        name
        for name, site in sites.items()
        if name not in guide_trace.nodes and site["infer"].get("_enumerate_dim") is not None
    ]
    if not enumerated:
        return []
    guide_dims = _dims(guide_trace.nodes.values())
    plates = {symbol for trace in (model_trace, guide_trace) for symbol in trace.plate_to_symbol.values()}
    summed = _dims(sites[name] for name in enumerated) - guide_dims - plates
    components: list[_Component] = []
    for name, site in sites.items():
        dims = frozenset(site["packed"]["log_prob"]._pyro_dims) & summed
        if dims:
            components = _joined(components, _Component(dims, [name], [name] if name in enumerated else []))
    return components


def _joined(components: list[_Component], new: _Component) -> list[_Component]:
    apart = [component for component in components if not component.dims & new.dims]
    for component in components:
        if component.dims & new.dims:
            new = _Component(
                component.dims | new.dims, component.sites + new.sites, component.enumerated + new.enumerated
            )
    return [*apart, new]


def _dims(sites: Iterable[Any]) -> set[str]:
    return {
        symbol
        for site in sites
        if site["type"] == "sample"
        for symbol in site["packed"]["log_prob"]._pyro_dims
    }


def _number(scale: Any) -> float:
    if isinstance(scale, torch.Tensor) and scale.dim():
        raise ValueError(
            "Expected a scalar scale at sites that are summed over an enumerated one but got one of shape "
            f"{tuple(scale.shape)}"
        )
    return float(scale)


@torch.no_grad()
def _unweighted_terms(model_trace: Trace, guide_trace: Trace) -> tuple[float, float]:
    """Distortion and rate of one particle, by Pyro's own expectation over the enumerated sites."""
    model_trace, guide_trace = _unweighted(model_trace), _unweighted(guide_trace)
    costs, factors, ordering, summed, scale = _compute_model_factors(model_trace, guide_trace)
    data = _tensors_of(model_trace, _sites_of_the_distortion(model_trace, guide_trace))
    dice = Dice(guide_trace, ordering)

    def expectation(of_data: bool) -> float:
        part = _contracted(_select(costs, data, of_data), _select(factors, data, of_data), summed, scale)
        return float(dice.compute_expectation(part))

    guide: Costs = {}
    for name, site in guide_trace.nodes.items():
        if site["type"] == "sample":
            guide.setdefault(ordering[name], []).append(site["packed"]["log_prob"])
    return -expectation(True), float(dice.compute_expectation(guide)) - expectation(False)


def _unweighted(trace: Trace) -> Trace:
    return _mapped(trace, lambda site: _unweighted_site(site) if "weight" in site else site)


def _mapped(trace: Trace, change: Callable[[Any], Any]) -> Trace:
    """The same trace with its sample sites changed."""
    copy = trace.copy()
    copy.plate_to_symbol, copy.symbol_to_dim = trace.plate_to_symbol, trace.symbol_to_dim
    for name, site in trace.nodes.items():
        if site["type"] == "sample":
            copy.nodes[name] = change(site)
    return copy


def _detached(trace: Trace) -> Trace:
    """The trace without the graph of its log-probabilities."""
    return _mapped(trace, _detached_site)


def _detached_site(site: Any) -> Any:
    parts = {key: _detached_tensor(each) for key, each in site["packed"].items()}
    if "score_parts" in parts:
        scores = [_detached_tensor(each) for each in site["packed"]["score_parts"]]
        parts["score_parts"] = ScoreParts(*scores)
    return {**site, "packed": parts, "unscaled_log_prob": site["unscaled_log_prob"].detach()}


def _detached_tensor(each: Any) -> Any:
    if not isinstance(each, torch.Tensor):
        return each
    detached = each.detach()
    detached._pyro_dims = each._pyro_dims  # type: ignore[attr-defined]
    return detached


def _unweighted_site(site: Any) -> Any:
    scale, mask = unweighted_scale_and_mask(site)
    dims = site["infer"]["_dim_to_symbol"]
    packed_mask, log_prob = packed.pack(mask, dims), packed.pack(unweighted_log_prob(site), dims)
    contents = {key: value for key, value in site["packed"].items() if key != "masked_log_prob"}
    contents = {**contents, "mask": packed_mask, "log_prob": log_prob}
    return {**site, "scale": scale, "mask": mask, "packed": contents}


def _sites_of_the_distortion(model_trace: Trace, guide_trace: Trace) -> set[str]:
    """Observed sites, and enumerated sites with what they are summed with if data are among it."""
    observed = {
        n for n, site in model_trace.nodes.items() if site["type"] == "sample" and site["is_observed"]
    }
    for component in _enumerated_components(model_trace, guide_trace):
        if not observed.isdisjoint(component.sites):
            observed.update(component.sites)
    return observed


# Pyro's factors carry no names, so a tensor is known by what it is.
def _tensors_of(trace: Trace, names: set[str]) -> set[int]:
    return {id(tensor) for name in names for tensor in trace.nodes[name]["packed"].values()}


def _select(costs: Costs, tensors: set[int], inside: bool) -> Costs:
    chosen = {ordinal: [t for t in terms if (id(t) in tensors) == inside] for ordinal, terms in costs.items()}
    return {ordinal: terms for ordinal, terms in chosen.items() if terms}


def _contracted(costs: Costs, factors: Costs, summed: set[str], scale: Any) -> Costs:
    """The costs, with the logarithms of sums over enumerated sites added to them."""
    total = {ordinal: list(terms) for ordinal, terms in costs.items()}
    if factors:
        ring = SampleRing(dim_to_size=_sizes(factors))
        for ordinal, terms in contract_tensor_tree(OrderedDict(factors), summed, ring=ring).items():
            total.setdefault(ordinal, []).extend(packed.scale_and_mask(term, scale=scale) for term in terms)
    return total


def _sizes(factors: Costs) -> dict[str, int]:
    terms = [term for terms in factors.values() for term in terms]
    return {dim: size for term in terms for dim, size in zip(term._pyro_dims, term.shape, strict=True)}
