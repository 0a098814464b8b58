"""Trace_ELBO with weights."""

from typing import Any

import torch
from pyro.distributions.util import is_identically_zero
from pyro.infer import Trace_ELBO, TraceGraph_ELBO
from pyro.infer.util import MultiFrameTensor, get_plate_stacks

from pyro_infomax.infer._elbo import Trace, WeightedELBO

# ---- weighted trace


class WeightedTraceELBO(WeightedELBO, Trace_ELBO):
    """Sampled log-probabilities; reparameterised and score-function gradients."""

    def _record(self, model_trace: Trace, guide_trace: Trace) -> None:
        self._record_sampled(model_trace, guide_trace)

    def _differentiable_loss_particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[Any, Any]:
        loss, surrogate_loss = super()._differentiable_loss_particle(model_trace, guide_trace)
        return loss, surrogate_loss + _score_of_guide_costs(model_trace, guide_trace)


# Pyro's score-function term leaves out what only the guide pays for, factors and auxiliary sites, and is
# biased by it.
def _score_of_guide_costs(model_trace: Trace, guide_trace: Trace) -> torch.Tensor | float:
    sites = {name: site for name, site in guide_trace.nodes.items() if site["type"] == "sample"}
    alone = [name for name in sites if name not in model_trace.nodes]
    if not alone:
        return 0.0
    stacks = get_plate_stacks(guide_trace)
    costs = MultiFrameTensor(*((stacks[name], sites[name]["log_prob"].detach()) for name in alone))
    scores = [(site["cond_indep_stack"], site["score_parts"].score_function) for site in sites.values()]
    terms = [(costs.sum_to(stack) * score).sum() for stack, score in scores if not is_identically_zero(score)]
    return sum(terms, start=0.0)


# ---- TraceGraph_ELBO with weights.


class WeightedGraphELBO(WeightedELBO, TraceGraph_ELBO):
    """Sampled log-probabilities; score-function gradients that know which sites depend on which."""

    def _record(self, model_trace: Trace, guide_trace: Trace) -> None:
        self._record_sampled(model_trace, guide_trace)
