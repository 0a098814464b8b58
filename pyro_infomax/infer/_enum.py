"""Exact sums over enumerated sites in tensors alone, and weights on them."""

import math
import operator
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from itertools import chain
from typing import Any, NamedTuple, TypeVar, final

import torch
from opt_einsum import shared_intermediates
from pyro import poutine
from pyro.distributions.score_parts import ScoreParts
from pyro.infer import TraceEnum_ELBO
from pyro.infer.traceenum_elbo import _compute_model_factors
from pyro.infer.util import Dice
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from pyro.ops.rings import LinearRing
from pyro.poutine import Trace
from torch import Tensor

from pyro_infomax._recording import holds
from pyro_infomax._types import Args, Kwargs, Program, Site, State
from pyro_infomax.distributions import without_masks
from pyro_infomax.infer._elbo import (
    Evaluation,
    SurrogateLoss,
    Terms,
    Traces,
    WeightedELBO,
    accumulate_gradients,
    as_number,
    check_nesting,
)
from pyro_infomax.poutine import Weight, sample_sites, unweighted_log_prob, unweighted_scale_and_mask

# ---- Expected costs over the sites of a guide, in tensors alone.

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
    """

    def __init__(self, guide_trace: Trace, ordering: Mapping[str, frozenset[str]]) -> None:
        dice = Dice(guide_trace, ordering)
        self._weights = {plates: [packed.exp(log) for log in logs] for plates, logs in dice.log_probs.items()}
        self._log_counts = dice.log_denom  # of what is enumerated run by run, hence counted many times
        self._marginals: dict[tuple[object, ...], Packed] = {}

    def of(self, costs: Costs) -> Tensor:
        """The expected sum of costs, without axes."""
        with shared_intermediates():
            totals = [self._within(plates, terms) for plates, terms in costs.items()]
        return torch.as_tensor(reduce(operator.add, totals) if totals else 0.0)

    def _within(self, plates: frozenset[str], terms: list[Packed]) -> Tensor | float:
        weights = [weight for around, each in self._weights.items() if around <= plates for weight in each]
        parts = _independent_parts(weights, terms)
        log_count = sum(each for around, each in self._log_counts.items() if not around <= plates)
        total = self._cost(parts[0]) if len(parts) == 1 else self._sum_of_products(parts)
        return total * math.exp(-log_count) if log_count else total

    # The derivative of a product, one factor at a time: each part's cost times the masses of the others
    def _sum_of_products(self, parts: list["_Part"]) -> Tensor | float:
        total: Tensor | float = 0.0
        product: Tensor | float = 1.0
        for part in parts:
            mass = self._marginal(part.weights, "") if part.weights else 1.0
            total = total * mass + product * self._cost(part)
            product = product * mass
        return total

    def _cost(self, part: "_Part") -> Tensor | float:
        costs = [self._weighed(part.weights, cost) for cost in _added_by_dims(part.costs)]
        return reduce(operator.add, costs) if costs else 0.0

    def _weighed(self, weights: list[Packed], cost: Packed) -> Tensor:
        if not weights:
            return cost.sum()
        weight = self._marginal(weights, cost._pyro_dims)
        weight, cost = _aligned([weight, _summed(cost, weight._pyro_dims)])
        return (weight * cost.masked_fill(weight == 0, 0.0)).sum()

    def _marginal(self, weights: list[Packed], dims: str) -> Packed:
        """The product of weights, summed over all axes but the given ones."""
        others = _tensor_dims(weights).difference(dims)
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
    for weight in weights:
        parts = _with_group(parts, _Part(_tensor_dims([weight]), [weight], []))
    for cost in costs:
        parts = _with_group(parts, _Part(_tensor_dims([cost]), [], [cost]))
    return parts


_Group = TypeVar("_Group", "_Part", "Component")  # named tuples of axes and of two lists


def _with_group(groups: list[_Group], new: _Group) -> list[_Group]:
    """The groups and a new one, which takes in those that it shares axes with."""
    together = [*(group for group in groups if group.dims & new.dims), new]
    dims, first, second = (list(chain.from_iterable(each)) for each in zip(*together, strict=True))
    apart = [group for group in groups if not group.dims & new.dims]
    apart.append(type(new)(frozenset(dims), first, second))
    return apart


def _tensor_dims(tensors: Iterable[Packed]) -> frozenset[str]:
    return frozenset(dim for tensor in tensors for dim in tensor._pyro_dims)


def _added_by_dims(costs: list[Packed]) -> list[Packed]:
    """The costs of the same axes added up."""
    groups: dict[frozenset[str], list[Packed]] = {}
    for cost in costs:
        groups.setdefault(_tensor_dims([cost]), []).append(cost)
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


# ---- What the sites of a model cost, with those that it enumerates summed out.


class Component(NamedTuple):
    """Sites of the model that share enumerated dimensions."""

    dims: frozenset[str]
    sites: list[str]
    enumerated: list[str]


class ModelCosts(NamedTuple):
    """Log-probabilities of a model's sites as packed tensors, by the plates that they are in."""

    costs: Costs  # those that depend on nothing that the model enumerates
    factors: Costs  # those that are summed together over what it enumerates
    summed: set[str]  # the dimensions of these sums
    scale: Weight  # what their logarithms count for
    ordering: dict[str, frozenset[str]]  # the plates of the sites of model and guide

    def contracted(self) -> dict[frozenset[str], list[Packed]]:
        """The costs, with the logarithms of sums over enumerated sites added to them."""
        total = {plates: list(terms) for plates, terms in self.costs.items()}
        if self.factors:
            for plates, terms in contract_tensor_tree(OrderedDict(self.factors), self.summed).items():
                scaled = (packed.scale_and_mask(term, scale=self.scale) for term in terms)
                total.setdefault(plates, []).extend(scaled)
        return total

    def select(self, inside: Callable[[Tensor], bool]) -> "ModelCosts":
        """Some of the tensors only."""
        return self._replace(costs=_select(self.costs, inside), factors=_select(self.factors, inside))


def _select(costs: Costs, inside: Callable[[Tensor], bool]) -> Costs:
    chosen = {plates: [term for term in terms if inside(term)] for plates, terms in costs.items()}
    return {plates: terms for plates, terms in chosen.items() if terms}


def summed_elbo(model_trace: Trace, guide_trace: Trace) -> Tensor:
    """The ELBO of one particle, differentiable, with sums over what model and guide enumerate."""
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
    costs: dict[frozenset[str], list[Packed]] = {}
    for site in sample_sites(guide_trace):
        costs.setdefault(ordering[site["name"]], []).append(site["packed"]["log_prob"])
    return costs


def model_costs(model_trace: Trace, guide_trace: Trace) -> ModelCosts:
    """Log-probabilities of a model's sites, of which those that are summed together have one scale."""
    components = enumerated_components(model_trace, guide_trace)
    scale = _common_scale(model_trace, components)
    # Pyro's own comparison of scales would take their values
    if components:
        model_trace = mapped(model_trace, lambda site: {**site, "scale": 1.0})
    costs, factors, ordering, summed, _ = _compute_model_factors(model_trace, guide_trace)
    return ModelCosts(costs, factors, summed, scale, ordering)


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
    guide_dims = _site_dims(sample_sites(guide_trace))
    plates = {symbol for trace in (model_trace, guide_trace) for symbol in trace.plate_to_symbol.values()}
    summed = _site_dims(sites[name] for name in enumerated) - guide_dims - plates
    components: list[Component] = []
    for name, site in sites.items():
        dims = _site_dims([site]) & summed
        if dims or name in enumerated:
            new = Component(dims, [name], [name] if name in enumerated else [])
            components = _with_group(components, new)
    return components


# Pyro scales all of its sums in a model by one number, which the objectives have seen to
def _common_scale(model_trace: Trace, components: list[Component]) -> Weight:
    scale: Weight = model_trace.nodes[components[0].sites[0]]["scale"] if components else 1.0
    return scale


def mapped(trace: Trace, change: Callable[[Site], Site]) -> Trace:
    """The same trace with its sample sites changed."""
    copy = trace.copy()
    copy.plate_to_symbol, copy.symbol_to_dim = trace.plate_to_symbol, trace.symbol_to_dim
    for site in sample_sites(trace):
        copy.nodes[site["name"]] = change(site)
    return copy


def _site_dims(sites: Iterable[Site]) -> frozenset[str]:
    return frozenset(symbol for site in sites for symbol in site["packed"]["log_prob"]._pyro_dims)


# ---- TraceEnum_ELBO by expectations that stay in tensors.


class SummedELBO(TraceEnum_ELBO):
    """Exact sums over enumerated sites, in one graph of tensor operations for all particles."""

    def _get_trace(self, model: Program, guide: Program, args: Args, kwargs: Kwargs) -> tuple[Trace, Trace]:
        model_trace, guide_trace = super()._get_trace(model, guide, args, kwargs)
        check_nesting(self.max_plate_nesting, model_trace, guide_trace)
        for site in sample_sites(model_trace):
            if site["infer"].get("_enumerate_dim") is not None and site["name"] not in guide_trace.nodes:
                _sum_to_one(site)
        return model_trace, guide_trace

    def loss(self, model: Program, guide: Program, *args: object, **kwargs: object) -> float:
        """Minus the ELBO."""
        return as_number(self._summed_loss(self._get_traces(model, guide, args, kwargs)))

    def loss_and_grads(self, model: Program, guide: Program, *args: object, **kwargs: object) -> float:
        """Minus the ELBO, its gradients added to the parameters'."""
        traces = list(self._get_traces(model, guide, args, kwargs))
        loss = self._summed_loss(traces)
        accumulate_gradients(loss, traces, retain_graph=self.retain_graph)
        return as_number(loss)

    def differentiable_loss(self, model: Program, guide: Program, *args: object, **kwargs: object) -> Tensor:
        """Minus the ELBO as a tensor."""
        return self._summed_loss(self._get_traces(model, guide, args, kwargs))

    def _summed_loss(self, traces: Traces) -> Tensor:
        return torch.as_tensor(sum(-summed_elbo(*pair) for pair in traces) / self.num_particles)


# What is summed out sums to 1 where a mask leaves it out: a handler's, which Pyro passes over, or its own
def _sum_to_one(site: Site) -> None:
    fn = without_masks(site["fn"])
    if fn is not site["fn"]:
        log_prob = packed.pack(fn.log_prob(site["value"]), site["infer"]["_dim_to_symbol"])
        site["packed"]["unscaled_log_prob"] = log_prob


# ---- Weights on these sums, and their terms.


class TraceEnum_WeightedELBO(WeightedELBO, SummedELBO):
    """Exact sums over enumerated sites. The terms are computed when :attr:`terms` is read."""

    enumerates = True
    state_of_evaluation = WeightedELBO.state_of_evaluation | {"_traces"}

    _traces: Sequence[tuple[Trace, Trace]] = ()  # of the last evaluation, until its terms are computed

    @property
    def terms(self) -> Terms | None:
        """The unweighted terms of the last evaluation, None before the first."""
        if self._traces:
            terms = [_unweighted_terms(*each) for each in self._traces]
            self._sums = dict(zip(("distortion", "rate"), map(sum, zip(*terms, strict=True)), strict=True))
            self._traces = ()
        return super().terms

    def __getstate__(self) -> State:
        """The state without traces, whose graphs can be neither copied nor pickled."""
        _ = self.terms
        return self.__dict__.copy()

    def _reset(self) -> None:
        super()._reset()
        self._traces = ()

    def _get_traces(self, model: Program, guide: Program, args: Args, kwargs: Kwargs) -> Traces:
        if isinstance(poutine.unwrap(guide), poutine.messenger.Messenger):
            ours = type(self).__name__
            raise NotImplementedError(
                f"{ours} cannot take a guide that is itself a messenger; use a plain guide, or "
                f"{ours.replace('TraceEnum', 'TraceGraph')}"
            )
        return super()._get_traces(model, guide, args, kwargs)

    def _record(self, model_trace: Trace, guide_trace: Trace) -> None:
        self._traces = [*self._traces, (model_trace, guide_trace)]

    def _evaluate(
        self, parent: Evaluation, model: Program, guide: Program, args: Args, kwargs: Kwargs
    ) -> Any:
        loss = super()._evaluate(parent, model, guide, args, kwargs)
        # what is kept for the terms must not keep the graph of the step
        self._traces = [(mapped(model, _detached), mapped(guide, _detached)) for model, guide in self._traces]
        return loss

    def _surrogate(self, model: Program, guide: Program, args: Args, kwargs: Kwargs) -> SurrogateLoss:
        particles = [_evaluated(*traces) for traces in self._get_traces(model, guide, args, kwargs)]
        elbo, distortion, rate = (sum(each) / self.num_particles for each in zip(*particles, strict=True))
        terms = {"distortion": distortion, "rate": rate}
        self._sums, self._summed, self._traces = dict(terms), 1, ()
        return SurrogateLoss(-elbo.detach(), -elbo, terms)

    def _check(self, model_trace: Trace, guide_trace: Trace) -> None:
        super()._check(model_trace, guide_trace)
        components = enumerated_components(model_trace, guide_trace)
        sites = [site for component in components for site in component.sites]
        enumerated = [site for component in components for site in component.enumerated]
        if not sites:
            return
        own = {name: _scalar(unweighted_scale_and_mask(model_trace.nodes[name])[0]) for name in sites}
        expected = f"Expected the sites summed over {enumerated} to have one scale"
        remedy = (
            "the logarithm of a sum over values is no sum over rows, so put all of them into the plate that "
            f"subsamples or the poutine.scale, take all rows of that plate, or enumerate {enumerated} in the "
            "guide"
        )
        # Scales of which one is a plate's may agree by chance
        if len(plates := {_subsampled_plates(model_trace.nodes[name]) for name in sites}) > 1:
            names = sorted(set().union(*plates))
            raise ValueError(f"{expected} but the plates {names} subsample around some of {sites}; {remedy}")
        _check_one_scale(own, expected, remedy)
        mapping = ", ".join(f"{site!r}: ..." for site in sites)
        _check_one_scale(
            {name: _scalar(model_trace.nodes[name]["scale"]) for name in sites},
            f"Expected the sites summed over {enumerated} to carry one weight",
            f"weigh them alike by a mapping, {self._weights.label_of_sites}={{{mapping}}}",
        )


def _subsampled_plates(site: Site) -> frozenset[str]:
    frames = site["cond_indep_stack"]
    return frozenset(frame.name for frame in frames if (frame.full_size or frame.size) > frame.size)


def _check_one_scale(scales: dict[str, Weight], expected: str, remedy: str) -> None:
    first = next(iter(scales.values()))
    for scale in scales.values():
        # What a weight was taken out of is known up to its rounding
        if not holds((scale - first) ** 2 <= (1e-5 * first) ** 2, f"{expected}; {remedy}"):
            numbers = {name: float(each) for name, each in scales.items()}
            raise ValueError(f"{expected} but got the scales {numbers}; {remedy}")


def _scalar(scale: Weight) -> Weight:
    if isinstance(scale, Tensor) and scale.dim():
        raise ValueError(
            "Expected a scalar scale at sites that are summed over an enumerated one but got one of shape "
            f"{tuple(scale.shape)}"
        )
    return scale


def _evaluated(model_trace: Trace, guide_trace: Trace) -> tuple[Tensor, Tensor, Tensor]:
    """The weighted ELBO of one particle, and its unweighted distortion and rate."""
    costs = model_costs(model_trace, guide_trace)
    expectation = Expectation(guide_trace, costs.ordering)
    elbo = expectation.of(elbo_costs(costs, guide_trace))
    return elbo, *_unweighted_terms(model_trace, guide_trace, expectation)


@torch.no_grad()
def _unweighted_terms(
    model_trace: Trace, guide_trace: Trace, expectation: Expectation | None = None
) -> tuple[Tensor, Tensor]:
    """Distortion and rate of one particle; weights move costs alone, so that an expectation serves both."""
    model_trace, guide_trace = mapped(model_trace, _unweighted), mapped(guide_trace, _unweighted)
    costs = model_costs(model_trace, guide_trace)
    expectation = expectation or Expectation(guide_trace, costs.ordering)
    names = _sites_of_the_distortion(model_trace, guide_trace)
    # Pyro's factors carry no names, so a tensor is known by what it is
    data = {id(tensor) for name in names for tensor in model_trace.nodes[name]["packed"].values()}
    of_data = costs.select(lambda tensor: id(tensor) in data)
    others = costs.select(lambda tensor: id(tensor) not in data)
    return -expectation.of(of_data.contracted()), -expectation.of(elbo_costs(others, guide_trace))


def _detached(site: Site) -> Site:
    """The site without the graph of its log-probabilities."""
    parts = {key: _detached_tensor(each) for key, each in site["packed"].items()}
    if "score_parts" in parts:
        scores = [_detached_tensor(each) for each in site["packed"]["score_parts"]]
        parts["score_parts"] = ScoreParts(*scores)
    return {**site, "packed": parts, "unscaled_log_prob": site["unscaled_log_prob"].detach()}


def _detached_tensor(each: Packed) -> Packed:
    if not isinstance(each, Tensor):
        return each
    detached = each.detach()
    detached._pyro_dims = each._pyro_dims  # type: ignore[attr-defined]
    return detached


def _unweighted(site: Site) -> Site:
    if "weight" not in site:
        return site
    scale, mask = unweighted_scale_and_mask(site)
    dims = site["infer"]["_dim_to_symbol"]
    packed_mask, log_prob = packed.pack(mask, dims), packed.pack(unweighted_log_prob(site), dims)
    contents = {key: value for key, value in site["packed"].items() if key != "masked_log_prob"}
    contents = {**contents, "mask": packed_mask, "log_prob": log_prob}
    return {**site, "scale": scale, "mask": mask, "packed": contents}


def _sites_of_the_distortion(model_trace: Trace, guide_trace: Trace) -> set[str]:
    """Observed sites, and enumerated sites with what they are summed with if data are among it."""
    observed = {site["name"] for site in sample_sites(model_trace) if site["is_observed"]}
    for component in enumerated_components(model_trace, guide_trace):
        if not observed.isdisjoint(component.sites):
            observed.update(component.sites)
    return observed
