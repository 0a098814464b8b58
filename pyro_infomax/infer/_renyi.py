"""The variational Rényi bound in tensors alone, and weights on its likelihood."""

import math
from collections.abc import Callable, Sequence
from typing import final

import torch
from pyro.distributions.util import is_identically_zero
from pyro.infer import RenyiELBO
from pyro.infer.util import get_dependent_plate_dims, torch_sum
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from pyro_infomax._recording import holds
from pyro_infomax._types import Args, Kwargs, Program, Site
from pyro_infomax.infer._elbo import (
    SurrogateLoss,
    Terms,
    Traces,
    WeightedELBO,
    accumulate_gradients,
    as_number,
)
from pyro_infomax.poutine import (
    Weight,
    is_deterministic,
    sample_sites,
    unweighted_log_prob,
    unweighted_scale_and_mask,
)

# ---- RenyiELBO by a bound that stays in tensors.


class RenyiBound(RenyiELBO):
    r"""The variational Rényi bound, in one graph of tensor operations for all particles.

    .. math:: \frac{s}{1 - \alpha} \log \frac{1}{K} \sum_k w_k^{1 - \alpha}

    in each cell of the plates that all sites of the model share, with the scale s that its latents have in
    common, by a plate that subsamples or by :func:`pyro.poutine.scale`.

    Li and Turner, 2016, Rényi divergence variational inference.
    """

    def loss(self, model: Program, guide: Program, *args: object, **kwargs: object) -> float:
        """Minus the bound."""
        with torch.no_grad():
            return as_number(self._evaluated(model, guide, args, kwargs)[0])

    def loss_and_grads(self, model: Program, guide: Program, *args: object, **kwargs: object) -> float:
        """Minus the bound, its gradients added to the parameters'."""
        loss, surrogate, traces = self._evaluated(model, guide, args, kwargs)
        accumulate_gradients(surrogate, traces, retain_graph=self.retain_graph)
        return as_number(loss)

    def _evaluated(
        self, model: Program, guide: Program, args: Args, kwargs: Kwargs
    ) -> tuple[torch.Tensor, torch.Tensor, Traces]:
        """Loss, what has its gradient, and the traces that they come from."""
        traces = list(self._get_traces(model, guide, args, kwargs))
        return *self._loss_and_surrogate(traces), traces

    # The mean over particles is one over draws of z: a subsample must be the same for all
    def _get_traces(self, model: Program, guide: Program, args: Args, kwargs: Kwargs) -> Traces:
        if self.num_particles == 1 or self.vectorize_particles:
            return super()._get_traces(model, guide, args, kwargs)  # type: ignore[no-any-return]
        rows = _SameRows()
        return super()._get_traces(rows(model), rows(guide), args, kwargs)  # type: ignore[no-any-return]

    def _loss_and_surrogate(self, traces: Traces) -> tuple[torch.Tensor, torch.Tensor]:
        traces = list(traces)
        scale = self._common_scale(*traces[0])
        weights = self._by_particle([log_weight(*pair) / scale for pair in traces])
        bound = self._bounds(weights.detach()).sum()
        return -scale * bound, -scale * self._surrogate_bound(weights, traces)

    def _surrogate_bound(self, weights: torch.Tensor, traces: Traces) -> torch.Tensor:
        """What has the gradient of the bound, from log w with its graph: (particles, *shared plates)."""
        log_weights = weights.detach()
        scores = self._by_particle([self._scores(*pair) for pair in traces], like=weights)
        return (self._slopes(log_weights) * weights).sum() + (self._gains(log_weights) * scores).sum()

    def _slopes(self, log_weights: torch.Tensor) -> torch.Tensor:
        """The derivative of the bound by each log w."""
        return torch.softmax((1.0 - self.alpha) * log_weights, 0)

    # With the mean of the others in its place, as in VIMCO, which keeps the estimate unbiased (Mnih and
    # Rezende, 2016, Variational inference for Monte Carlo objectives)
    def _gains(self, log_weights: torch.Tensor) -> torch.Tensor:
        """What each particle adds to the bound, the cost of its score: (particles, *shared plates)."""
        if self.num_particles == 1:
            return log_weights
        powers = (1.0 - self.alpha) * log_weights
        mean_of_others = (powers.sum(0) - powers) / (self.num_particles - 1)
        without = torch.logaddexp(log_sum_of_others(powers), mean_of_others)
        bounds = (without - math.log(self.num_particles)) / (1.0 - self.alpha)
        return self._bounds(log_weights) - bounds

    # What all latents count for in common, by a plate that subsamples say, belongs outside of the mean
    def _common_scale(self, model_trace: Trace, guide_trace: Trace) -> Weight:
        """The scale of the latent sites, without weights; refuses what has none."""
        if self.num_particles == 1:
            return 1.0
        ours = type(self).__name__
        sites = [site for trace in (guide_trace, model_trace) for site in _scored(trace)]
        if apart := _subsampled_apart(sites, _shared_frames(model_trace)):
            raise NotImplementedError(
                f"{ours} cannot subsample the plate {apart[0]!r}, which some sites of the model are outside "
                "of: a mean of weights that are estimates themselves is no bound; take all of its rows, or "
                "use Trace_InfoMaxELBO"
            )
        latent = [site for site in sites if not site["is_observed"]] or sites
        scales = [unweighted_scale_and_mask(site)[0] for site in latent] or [1.0]
        names = sorted({site["name"] for site in latent})
        sentence = f"{ours} needs the latent sites {names} to have one scale, a number, in both"
        if not all(_is_number(each) and holds(_are_same(each, scales[0]), sentence) for each in scales):
            raise NotImplementedError(
                f"{sentence} programs but got {scales}; put one poutine.scale around all, or use "
                "Trace_InfoMaxELBO"
            )
        return scales[0]

    def _scores(self, model_trace: Trace, guide_trace: Trace) -> torch.Tensor:
        """The log-probabilities of the draws that are not reparameterised, without scales and masks."""
        return summed_within_particles(guide_trace, model_trace, self._score)

    def _score(self, site: Site) -> torch.Tensor | float:
        _, score_function, entropy_term = site["score_parts"]
        if not (is_identically_zero(score_function) or is_identically_zero(entropy_term)):
            raise NotImplementedError(
                f"{type(self).__name__} has no gradient for {site['name']!r}, which is reparameterised in "
                "part; use a Trace_ class"
            )
        score: torch.Tensor | float = score_function
        return score

    def _by_particle(self, each: Sequence[torch.Tensor], *, like: torch.Tensor | None = None) -> torch.Tensor:
        """(particles, *shared plates), as large as ``like`` if that is given."""
        if self.vectorize_particles and self.num_particles > 1:
            return each[0] if like is None else each[0].expand_as(like)
        cells = [] if like is None else [like[0]]
        return torch.stack(torch.broadcast_tensors(*each, *cells)[: len(each)])

    def _bounds(self, log_weights: torch.Tensor) -> torch.Tensor:
        """The bound of each cell of the shared plates."""
        order = 1.0 - self.alpha
        return (torch.logsumexp(order * log_weights, 0) - math.log(self.num_particles)) / order


@final
class _SameRows(Messenger):
    """Has every run take the subsamples of the first."""

    def __init__(self) -> None:
        super().__init__()
        self._rows: dict[str, torch.Tensor] = {}

    def _pyro_sample(self, msg: Site) -> None:
        if site_is_subsample(msg) and msg["name"] in self._rows:
            msg["value"], msg["done"] = self._rows[msg["name"]], True

    def _pyro_post_sample(self, msg: Site) -> None:
        if site_is_subsample(msg):
            self._rows[msg["name"]] = msg["value"]


def summed_within_particles(
    trace: Trace,
    model_trace: Trace,
    of_site: Callable[[Site], torch.Tensor | float] = lambda site: site["log_prob"],
) -> torch.Tensor:
    """A quantity of the sites of a trace, summed over what the sites of a model do not share."""
    dims = get_dependent_plate_dims(_scored(model_trace))
    terms = [of_site(site) for site in _scored(trace)]
    sums = [torch_sum(term, dims) if isinstance(term, torch.Tensor) else term for term in terms]
    return torch.as_tensor(sum(sums))


def log_weight(
    model_trace: Trace,
    guide_trace: Trace,
    of_site: Callable[[Site], torch.Tensor] = lambda site: site["log_prob"],
) -> torch.Tensor:
    """Of one particle, log p(x, z) − log q(z), in each cell of the plates that the model's sites share."""
    joint = summed_within_particles(model_trace, model_trace, of_site)
    return joint - summed_within_particles(guide_trace, model_trace, of_site)


def log_sum_of_others(values: torch.Tensor) -> torch.Tensor:
    """Along the first axis, the logarithm of the sum of the exponentials of all values but each one."""
    none = torch.full_like(values[:1], -math.inf)
    before = torch.cat([none, values.logcumsumexp(0)[:-1]])
    after = torch.cat([values.flip(0).logcumsumexp(0).flip(0)[1:], none])
    return torch.logaddexp(before, after)


def _scored(trace: Trace) -> list[Site]:
    return [site for site in sample_sites(trace) if not is_deterministic(site)]


def _shared_frames(model_trace: Trace) -> set[str]:
    each = [{frame.name for frame in site["cond_indep_stack"]} for site in _scored(model_trace)]
    return set.intersection(*each) if each else set()


def _is_number(scale: Weight) -> bool:
    return not isinstance(scale, torch.Tensor) or scale.numel() == 1


def _subsampled_apart(sites: list[Site], shared: set[str]) -> list[str]:
    """The plates that subsample and that not all sites of the model share."""
    frames = (frame for site in sites for frame in site["cond_indep_stack"])
    return [f.name for f in frames if f.name not in shared and (f.full_size or f.size) > f.size]


def _are_same(scale: Weight, other: Weight) -> bool | torch.Tensor:
    if not isinstance(scale, torch.Tensor) and not isinstance(other, torch.Tensor):
        return scale is other or bool(scale == other)
    return (torch.as_tensor(scale) == torch.as_tensor(other)).all()


# ---- Weights on the likelihood within the bound.


class Renyi_WeightedELBO(WeightedELBO, RenyiBound):
    """The variational Rényi bound; only observed sites can be weighed exactly."""

    state_of_evaluation = WeightedELBO.state_of_evaluation | {"_log_weights", "_scale"}
    _log_weights: Sequence[torch.Tensor] = ()  # of the particles of the last evaluation
    _scale: Weight = 1.0

    def _reset(self) -> None:
        super()._reset()
        self._log_weights = ()

    def _surrogate(self, model: Program, guide: Program, args: Args, kwargs: Kwargs) -> SurrogateLoss:
        loss, surrogate, _ = self._evaluated(model, guide, args, kwargs)
        terms = {name: torch.as_tensor(total) / self._summed for name, total in self._sums.items()}
        return SurrogateLoss(loss, surrogate, {**terms, **self._bound_terms()})

    def _check(self, model_trace: Trace, guide_trace: Trace) -> None:
        super()._check(model_trace, guide_trace)
        self._check_plates(model_trace, guide_trace)
        for name, site in guide_trace.nodes.items():
            if site["type"] == "sample":
                self._check_guide_site(name, site)

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

    def _check_guide_site(self, name: str, site: Site) -> None:
        ours = type(self).__name__
        if "weight" in site:
            raise NotImplementedError(
                f"{ours} cannot weigh the latent site {name!r} exactly; "
                f"use Trace_, TraceGraph_ or TraceMeanField_{ours.split('_')[-1]}"
            )

    def _record(self, model_trace: Trace, guide_trace: Trace) -> None:
        super()._record(model_trace, guide_trace)
        unweighted = log_weight(model_trace, guide_trace, lambda site: unweighted_log_prob(site).detach())
        self._log_weights = [*self._log_weights, unweighted]
        self._scale = self._common_scale(model_trace, guide_trace)

    def _named_terms(self, values: dict[str, float], loss: float) -> Terms:
        # The bound is no sum of the two; one that was computed elsewhere is among the values
        if self._log_weights:
            values |= {name: float(bound) for name, bound in self._bound_terms().items()}
        return super()._named_terms(values, loss)

    def _bound_terms(self) -> dict[str, torch.Tensor]:
        """The bound without weights, and what else there is to say of its particles."""
        return {"elbo": self._scale * self._bounds(self._unweighted()).sum()}

    def _unweighted(self) -> torch.Tensor:
        """log w without weights and the common scale, (particles, *shared plates)."""
        return self._by_particle(self._log_weights) / self._scale
