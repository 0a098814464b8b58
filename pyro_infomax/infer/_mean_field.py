"""TraceMeanField_ELBO with weights."""

from typing import Any

import torch
from pyro import poutine
from pyro.distributions.distribution import Distribution
from pyro.distributions.util import scale_and_mask
from pyro.infer import TraceMeanField_ELBO
from pyro.infer.trace_mean_field_elbo import _check_mean_field_requirement
from pyro.infer.util import check_fully_reparametrized, is_validation_enabled, torch_item
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match, check_site_shape

from pyro_infomax.distributions import closed_divergence, family_name, is_relaxed
from pyro_infomax.infer._elbo import Program, Trace, WeightedELBO, unweighted_sum
from pyro_infomax.poutine import SiteWeight, unweighted_scale_and_mask


class _ClosedFormELBO(TraceMeanField_ELBO):
    """Scores no value of a site whose divergence has a closed form, as nobody reads its log-probability."""

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        if isinstance(poutine.unwrap(guide), Messenger):
            traces = super()._get_trace(model, guide, args, kwargs)
            _note_divergences(*traces)
            return traces
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
        validate = is_validation_enabled()
        if validate:
            check_model_guide_match(model_trace, guide_trace, self.max_plate_nesting)
        model_trace, guide_trace = prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)
        closed = _note_divergences(model_trace, guide_trace)
        model_trace.compute_log_prob(lambda name, _: name not in closed)
        if any(node["type"] == "sample" and name not in closed for name, node in guide_trace.nodes.items()):
            _without(guide_trace, closed).compute_score_parts()
        if validate:
            self._check_traces(model_trace, guide_trace)
        return model_trace, guide_trace

    def _check_traces(self, model_trace: Trace, guide_trace: Trace) -> None:
        for trace in (model_trace, guide_trace):
            for site in trace.nodes.values():
                if site["type"] == "sample":
                    check_site_shape(_with_shape(site), self.max_plate_nesting)
        _check_mean_field_requirement(model_trace, guide_trace)


def _note_divergences(model_trace: Trace, guide_trace: Trace) -> set[str]:
    """Leaves each divergence that has a closed form at its sites in both traces, and names these."""
    found = set()
    for name, site in guide_trace.nodes.items():
        twin = model_trace.nodes.get(name)
        if site["type"] != "sample" or twin is None or twin["is_observed"]:
            continue
        if not _is_reparameterised(site["fn"]):
            continue
        divergence = closed_divergence(site["fn"], twin["fn"])
        if divergence is not None:
            site["divergence"] = twin["divergence"] = divergence
            found.add(name)
    return found


# Rejection samplers are reparameterised in part, and say so in score parts of their own
def _is_reparameterised(fn: Any) -> bool:
    inner = getattr(fn, "base_dist", fn)
    return fn.has_rsample and all(type(each).score_parts is Distribution.score_parts for each in (fn, inner))


def _without(trace: Trace, names: set[str]) -> Trace:
    rest = trace.copy()
    for name in names:
        rest.remove_node(name)
    return rest


def _with_shape(site: Any) -> Any:
    return site if "log_prob" in site else {**site, "log_prob": site["divergence"]}


class WeightedMeanFieldELBO(WeightedELBO, _ClosedFormELBO):
    """Closed-form KL divergences, sampled where there is none; reparameterised gradients only."""

    relaxes = True

    # The terms are recorded where the divergences are computed, so that none is computed twice.
    def _record(self, model_trace: Trace, guide_trace: Trace) -> None:
        pass

    def _differentiable_loss_particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[Any, Any]:
        sites = {name: site for name, site in model_trace.nodes.items() if site["type"] == "sample"}
        loss: Any = 0.0
        for name, site in sites.items():
            loss = loss + (
                self._observed(site) if site["is_observed"] else self._latent(site, guide_trace.nodes[name])
            )
        for name, site in guide_trace.nodes.items():
            if site["type"] == "sample" and name not in sites:
                loss = loss + self._auxiliary(site)
        return torch_item(loss), loss

    def _observed(self, site: Any) -> torch.Tensor:
        self._sums[0] -= unweighted_sum(site)
        return -site["log_prob_sum"]

    def _latent(self, model_site: Any, guide_site: Any) -> torch.Tensor:
        divergence = guide_site.get("divergence")
        if divergence is None:
            self._check_reparameterised(guide_site)
            self._check_not_relaxed(guide_site)
            self._sums[1] += unweighted_sum(guide_site) - unweighted_sum(model_site)
            return guide_site["score_parts"].entropy_term.sum() - model_site["log_prob_sum"]
        total = scale_and_mask(divergence, guide_site["scale"], guide_site["mask"]).sum()
        self._sums[1] += _unweighted_kl(divergence, total, guide_site)
        return total

    def _auxiliary(self, site: Any) -> torch.Tensor:
        if not site["infer"].get("is_auxiliary"):
            raise ValueError(
                f"Expected every site of the guide to be one of the model or auxiliary but {site['name']!r} "
                "is neither: mark it infer={'is_auxiliary': True}"
            )
        self._check_reparameterised(site)
        self._check_not_relaxed(site)
        self._sums[1] += unweighted_sum(site)
        return site["score_parts"].entropy_term.sum()

    def _check_reparameterised(self, site: Any) -> None:
        try:
            check_fully_reparametrized(site)
        except NotImplementedError:
            ours = type(self).__name__
            raise NotImplementedError(
                f"{ours} needs reparameterised guide sites but {site['name']!r} "
                f"({type(site['fn']).__name__}) is not; use {ours.replace('MeanField', 'Graph')} "
                "(or a TraceEnum_ class and enumerate it)"
            ) from None

    # What is sampled of a relaxed site passes no gradient on to its value.
    def _check_not_relaxed(self, site: Any) -> None:
        if is_relaxed(site["fn"]):
            ours = type(self).__name__
            raise NotImplementedError(
                f"{ours} needs a divergence in closed form for the relaxed site {site['name']!r} "
                f"({family_name(site['fn'])}) but finds none; give the site a prior of its own family in the "
                f"model, or use {ours.replace('MeanField', 'Enum')} and enumerate it without the relaxation"
            )


def _unweighted_kl(divergence: torch.Tensor, total: torch.Tensor, site: Any) -> torch.Tensor:
    record: SiteWeight | None = site.get("weight")
    if record is None:
        return total.detach()
    if not isinstance(record.weight, torch.Tensor) and record.weight != 0:
        return total.detach() / record.weight
    return scale_and_mask(divergence.detach(), *unweighted_scale_and_mask(site)).sum()
