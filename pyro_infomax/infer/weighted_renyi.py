"""RenyiELBO with weights."""

import math
from typing import Any

import torch
from pyro.distributions.util import is_identically_zero
from pyro.infer import RenyiELBO
from pyro.infer.util import get_dependent_plate_dims, torch_sum

from pyro_infomax.infer.objective_weight import ResolvedWeights
from pyro_infomax.infer.weighted_elbo import Program, Trace, WeightedELBO
from pyro_infomax.poutine import is_deterministic, unweighted_log_prob

__all__ = ["WeightedRenyiELBO"]


class WeightedRenyiELBO(WeightedELBO, RenyiELBO):
    """The variational Rényi bound; only observed sites can be weighed exactly."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._log_weights: list[torch.Tensor] = []

    def _reset(self) -> None:
        super()._reset()
        self._log_weights = []

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The weighted loss, its gradients added to the parameters'.

        Raises:
            NotImplementedError: where a guide site that is not reparameterised is scaled, by a subsampling
                plate say, or masked while later sites are not: its score term would be wrong.
        """
        self._refuse_wrong_scores = True
        try:
            return super().loss_and_grads(model, guide, *args, **kwargs)
        finally:
            self._refuse_wrong_scores = False

    _refuse_wrong_scores = False

    def _check(self, weights: ResolvedWeights, model_trace: Trace, guide_trace: Trace) -> None:
        super()._check(weights, model_trace, guide_trace)
        self._check_plates(model_trace, guide_trace)
        for name, site in guide_trace.nodes.items():
            if site["type"] == "sample":
                self._check_guide_site(name, site)
                self._check_score(name, model_trace, guide_trace)

    # Pyro keeps the plates that all sites of the model share; a site outside of them would count many times.
    def _check_plates(self, model_trace: Trace, guide_trace: Trace) -> None:
        own = [site for name, site in guide_trace.nodes.items() if name not in model_trace.nodes]
        model_sites = list(model_trace.nodes.values())
        if get_dependent_plate_dims(model_sites) != get_dependent_plate_dims([*model_sites, *own]):
            names = [site["name"] for site in own if site["type"] == "sample"]
            raise NotImplementedError(
                f"{type(self).__name__} needs the guide's own sites, {names}, in every plate that the sites "
                "of the model share; move them into it, or use Trace_InfoMaxELBO"
            )

    def _check_guide_site(self, name: str, site: Any) -> None:
        ours = type(self).__name__
        if "weight" in site:
            raise NotImplementedError(
                f"{ours} cannot weigh the latent site {name!r} exactly; "
                f"use Trace_, TraceGraph_ or TraceMeanField_{ours.split('_')[-1]}"
            )

    def _check_score(self, name: str, model_trace: Trace, guide_trace: Trace) -> None:
        site = guide_trace.nodes[name]
        if not self._refuse_wrong_scores or is_identically_zero(site["score_parts"].score_function):
            return
        if not _is_one(site["scale"]) or any(_outlives(site, each) for each in (model_trace, guide_trace)):
            raise NotImplementedError(
                f"{type(self).__name__} has no right gradient for {name!r}, which is not reparameterised yet "
                "scaled (by poutine.scale or a subsampling plate), or masked where later sites are not; "
                "use Trace_InfoMaxELBO"
            )

    def _record(self, model_trace: Trace, guide_trace: Trace) -> None:
        self._record_sampled(model_trace, guide_trace)
        summed = get_dependent_plate_dims(model_trace.nodes.values())
        self._log_weights.append(_log_weight(model_trace, summed) - _log_weight(guide_trace, summed))

    def _elbo(self, distortion: float, rate: float) -> float:  # noqa: ARG002 - its bound is no sum of the two
        vectorized = self.vectorize_particles and self.num_particles > 1
        particles = self._log_weights[0] if vectorized else torch.stack(self._log_weights)
        order = 1.0 - self.alpha
        bound = torch.logsumexp(order * particles, dim=0) - math.log(self.num_particles)
        return float(bound.sum()) / order


def _is_one(scale: Any) -> bool:
    return bool((torch.as_tensor(scale) == 1).all())


# A masked site has no score term, which is right only if nothing that counts depends on its value.
def _outlives(site: Any, trace: Trace) -> bool:
    """Whether the trace has a site after the given one that counts where that one is masked out."""
    names = list(trace.nodes)
    later = names[names.index(site["name"]) + 1 :] if site["name"] in names else []
    masked = ~_as_mask(site["mask"])
    return any(
        bool((masked & _as_mask(node["mask"])).any())
        for node in (trace.nodes[name] for name in later)
        if node["type"] == "sample" and not is_deterministic(node)
    )


def _as_mask(mask: Any) -> torch.Tensor:
    return torch.as_tensor(True if mask is None else mask)


def _log_weight(trace: Trace, summed_dims: list[int]) -> torch.Tensor:
    terms = [
        torch_sum(unweighted_log_prob(site).detach(), summed_dims)
        for site in trace.nodes.values()
        if site["type"] == "sample"
    ]
    return torch.as_tensor(sum(terms))
