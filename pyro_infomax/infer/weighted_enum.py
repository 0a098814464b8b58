"""TraceEnum_ELBO with weights."""

from typing import Any

import torch
from pyro import poutine
from pyro.distributions.score_parts import ScoreParts
from pyro.ops import packed

from pyro_infomax.infer.enumerated_costs import elbo_costs, enumerated_components, mapped, model_costs
from pyro_infomax.infer.expectation import Expectation
from pyro_infomax.infer.objective_weight import ResolvedWeights
from pyro_infomax.infer.recorded_check import holds
from pyro_infomax.infer.summed_elbo import SummedELBO
from pyro_infomax.infer.tensor_loss import SurrogateLoss
from pyro_infomax.infer.terms import Terms
from pyro_infomax.infer.weighted_elbo import Program, Trace, WeightedELBO
from pyro_infomax.poutine import sample_sites, unweighted_log_prob, unweighted_scale_and_mask

__all__ = ["WeightedEnumELBO"]


class WeightedEnumELBO(WeightedELBO, SummedELBO):
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

    def _surrogate(self, model: Program, guide: Program, args: Any, kwargs: Any) -> SurrogateLoss:
        particles = [_evaluated(*traces) for traces in self._get_traces(model, guide, args, kwargs)]
        elbo, distortion, rate = (sum(each) / self.num_particles for each in zip(*particles, strict=True))
        self._sums, self._summed, self._traces = [distortion, rate], 1, []
        return SurrogateLoss(-elbo.detach(), -elbo, distortion, rate)

    def _check(self, weights: ResolvedWeights, model_trace: Trace, guide_trace: Trace) -> None:
        super()._check(weights, model_trace, guide_trace)
        components = enumerated_components(model_trace, guide_trace)
        sites = [site for component in components for site in component.sites]
        enumerated = [site for component in components for site in component.enumerated]
        self._check_one_scale({name: _scalar(model_trace.nodes[name]["scale"]) for name in sites}, enumerated)

    def _check_one_scale(self, scales: dict[str, Any], enumerated: list[str]) -> None:
        expected = f"Expected the sites summed over {enumerated} to carry one weight"
        mapping = ", ".join(f"{site!r}: ..." for site in scales)
        remedy = f"weigh them alike by a mapping, {self.objective_weight.name}={{{mapping}}}"
        for scale in scales.values():
            if not holds(scale == next(iter(scales.values())), f"{expected}; {remedy}"):
                numbers = {name: float(each) for name, each in scales.items()}
                raise ValueError(f"{expected} but got the scales {numbers}; {remedy}")


def _scalar(scale: Any) -> Any:
    if isinstance(scale, torch.Tensor) and scale.dim():
        raise ValueError(
            "Expected a scalar scale at sites that are summed over an enumerated one but got one of shape "
            f"{tuple(scale.shape)}"
        )
    return scale


def _evaluated(model_trace: Trace, guide_trace: Trace) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The weighted ELBO of one particle, and its unweighted distortion and rate."""
    costs = model_costs(model_trace, guide_trace)
    expectation = Expectation(guide_trace, costs.ordering)
    elbo = expectation.of(elbo_costs(costs, guide_trace))
    return elbo, *_unweighted_terms(model_trace, guide_trace, expectation)


@torch.no_grad()
def _unweighted_terms(
    model_trace: Trace, guide_trace: Trace, expectation: Expectation | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Distortion and rate of one particle; weights move costs alone, so that an expectation serves both."""
    model_trace, guide_trace = _unweighted(model_trace), _unweighted(guide_trace)
    costs = model_costs(model_trace, guide_trace)
    expectation = expectation or Expectation(guide_trace, costs.ordering)
    data = _tensors_of(model_trace, _sites_of_the_distortion(model_trace, guide_trace))
    of_data = costs.select(lambda tensor: id(tensor) in data)
    others = costs.select(lambda tensor: id(tensor) not in data)
    return -expectation.of(of_data.contracted()), -expectation.of(elbo_costs(others, guide_trace))


def _unweighted(trace: Trace) -> Trace:
    return mapped(trace, lambda site: _unweighted_site(site) if "weight" in site else site)


def _detached(trace: Trace) -> Trace:
    """The trace without the graph of its log-probabilities."""
    return mapped(trace, _detached_site)


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
    observed = {site["name"] for site in sample_sites(model_trace) if site["is_observed"]}
    for component in enumerated_components(model_trace, guide_trace):
        if not observed.isdisjoint(component.sites):
            observed.update(component.sites)
    return observed


# Pyro's factors carry no names, so a tensor is known by what it is.
def _tensors_of(trace: Trace, names: set[str]) -> set[int]:
    return {id(tensor) for name in names for tensor in trace.nodes[name]["packed"].values()}
