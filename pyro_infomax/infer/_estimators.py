"""Weights on Pyro's Trace, TraceGraph and TraceMeanField ELBOs; terms of one's own on the last."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NoReturn, cast

import torch
from pyro import poutine
from pyro.distributions.distribution import Distribution
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.infer import Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.infer.util import (
    MultiFrameTensor,
    check_fully_reparametrized,
    get_plate_stacks,
    is_validation_enabled,
    torch_item,
)
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match, check_site_shape
from torch import Tensor

from pyro_infomax._recording import holds
from pyro_infomax._types import Args, Kwargs, Program, Site
from pyro_infomax.distributions import closed_divergence, family_name, is_relaxed
from pyro_infomax.infer._elbo import Loss, WeightedELBO, unweighted_sum
from pyro_infomax.infer._latents import DependenceMessenger, LocalLatents
from pyro_infomax.infer._weights import ResolvedWeights, TermWeights
from pyro_infomax.poutine import SiteWeight, Weight, is_deterministic, unweighted_scale_and_mask

# ---- Log-probabilities alone.


class Trace_WeightedELBO(WeightedELBO, Trace_ELBO):
    """Sampled log-probabilities; reparameterised and score-function gradients."""

    def _differentiable_loss_particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[Loss, Loss]:
        loss, surrogate_loss = super()._differentiable_loss_particle(model_trace, guide_trace)
        return loss, surrogate_loss + _score_of_guide_costs(model_trace, guide_trace)


# Pyro's score-function term leaves out what only the guide pays for, factors and auxiliary sites, and is
# biased by it.
def _score_of_guide_costs(model_trace: Trace, guide_trace: Trace) -> Tensor | float:
    sites = {name: site for name, site in guide_trace.nodes.items() if site["type"] == "sample"}
    alone = [name for name in sites if name not in model_trace.nodes]
    if not alone:
        return 0.0
    stacks = get_plate_stacks(guide_trace)
    costs = MultiFrameTensor(*((stacks[name], sites[name]["log_prob"].detach()) for name in alone))
    scores = [(site["cond_indep_stack"], site["score_parts"].score_function) for site in sites.values()]
    terms = [(costs.sum_to(stack) * score).sum() for stack, score in scores if not is_identically_zero(score)]
    return sum(terms, start=0.0)


class TraceGraph_WeightedELBO(WeightedELBO, TraceGraph_ELBO):
    """Sampled log-probabilities; score-function gradients that know which sites depend on which."""


# ---- Closed-form divergences, and terms of one's own in their place.


class _ClosedFormELBO(TraceMeanField_ELBO):
    """Scores no value of a site whose divergence has a closed form, as nobody reads its log-probability."""

    def _get_trace(self, model: Program, guide: Program, args: Args, kwargs: Kwargs) -> tuple[Trace, Trace]:
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
            self._check_shapes(model_trace, guide_trace)
        return model_trace, guide_trace

    def _check_shapes(self, *traces: Trace) -> None:
        for trace in traces:
            for site in trace.nodes.values():
                if site["type"] == "sample":
                    check_site_shape(_with_shape(site), self.max_plate_nesting)


def _note_divergences(model_trace: Trace, guide_trace: Trace) -> set[str]:
    """Leaves each divergence that has a closed form at its sites in both traces, and names these."""
    found = set()
    for name, site in _drawn_in_turn(model_trace, guide_trace):
        twin: Site = model_trace.nodes[name]
        # Of two distributions with masks of their own, which may differ, Pyro's divergence takes both
        if not (is_reparameterised(site["fn"], wrappers=()) and counts_alike(site, twin)):
            continue
        divergence = closed_divergence(site["fn"], twin["fn"])
        if divergence is not None:
            site["divergence"] = twin["divergence"] = divergence
            found.add(name)
    return found


# A closed form is an expectation given what the prior depends on, which must not depend on the draw in turn
def _drawn_in_turn(model_trace: Trace, guide_trace: Trace) -> Iterator[tuple[str, Site]]:
    """The latent sites that the guide draws after all those that the model draws before them."""
    place = {name: k for k, name in enumerate(guide_trace.nodes)}
    last = -1
    for name, site in model_trace.nodes.items():
        if site["type"] == "sample" and not site["is_observed"] and place.get(name, -1) > last:
            last = place[name]
            yield name, guide_trace.nodes[name]


# The closed form is scaled and masked once, for both
def counts_alike(site: Site, twin: Site) -> bool:
    pairs = [(site[key], twin[key]) for key in ("scale", "mask")]
    one, other = site.get("weight"), twin.get("weight")
    if one is not None and other is not None:
        # a weight of 0 masks both, whatever else does
        pairs += [(one.scale, other.scale), (one.mask, other.mask)]
    return all(one is other or _same(one, other, site["name"]) for one, other in pairs)


def _same(one: Tensor | float | None, other: Tensor | float | None, name: str) -> bool:
    if not isinstance(one, Tensor) and not isinstance(other, Tensor):
        return (True if one is None else one) == (True if other is None else other)
    sentence = f"Expected {name!r} to have one scale and mask in model and guide, as when this was recorded"
    alike = torch.as_tensor(True if one is None else one) == torch.as_tensor(True if other is None else other)
    return holds(alike.all(), sentence)


# Rejection samplers are reparameterised in part, and say so in score parts of their own, which an event hides
def is_reparameterised(
    fn: Distribution, wrappers: tuple[type, ...] = (MaskedDistribution, ExpandedDistribution)
) -> bool:
    each: Any = fn
    while each is not None:
        if type(each).score_parts is not Distribution.score_parts and not isinstance(each, wrappers):
            return False
        each = getattr(each, "base_dist", None)
    return fn.has_rsample


def _without(trace: Trace, names: set[str]) -> Trace:
    rest = trace.copy()
    for name in names:
        rest.remove_node(name)
    return rest


def _with_shape(site: Site) -> Site:
    return site if "log_prob" in site else {**site, "log_prob": site["divergence"]}


# Names that terms and history give to something else
_TAKEN = {"distortion", "elbo", "loss", "epoch", "step", "seconds", "self", *dir(Mapping)}


class TraceMeanField_WeightedELBO(WeightedELBO, _ClosedFormELBO):
    r"""Weights on Pyro's mean-field estimator, and the place for terms of one's own.

    .. math:: w_D D + \sum_{\text{sites}} \sum_k w_k \, T_k , \qquad T = \{\text{rate}\} \text{ by default}

    KL divergences are in closed form where there is one and sampled where there is none; gradients are
    reparameterised. A subclass that overrides :meth:`latent_cost` splits the cost of each latent site into
    terms with names and weights; one that overrides :meth:`joint_cost` adds terms of all latent sites of the
    data plate together, or puts them in the place of the sites' own.

    Attributes:
        joint_cost_replaces: whether the terms of :meth:`joint_cost` are the whole cost of the latent sites in
            the data plate, for which :meth:`latent_cost` is not asked then. False: they come on top.

    Args:
        weights: by term, as in :class:`WeightedELBO`.
        **kwargs: those of :class:`pyro.infer.TraceMeanField_ELBO`.

    Raises:
        ValueError: if a weight is out of range, names no site of the model, or no term.
        NotImplementedError: where a guide site is not reparameterised or asks for enumeration.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> class Thrifty(TraceMeanField_WeightedELBO):
        ...     def latent_cost(self, model_site, guide_site):
        ...         rate = super().latent_cost(model_site, guide_site)["rate"]
        ...         return {"free": rate.clamp(max=0.1), "paid": (rate - 0.1).clamp(min=0.0)}
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> elbo = Thrifty(weights={"free": 0.0})
        >>> loss = elbo.loss(model, guide, torch.tensor([-1.0, 1.0]))
        >>> list(elbo.terms)
        ['distortion', 'rate', 'elbo', 'loss', 'free', 'paid']
        >>> abs(loss - (elbo.terms.distortion + elbo.terms.paid)) < 1e-4
        True
    """

    relaxes = True
    joint_cost_replaces: ClassVar[bool] = False
    _own_terms = True
    _has_joint_cost = False

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        base = TraceMeanField_WeightedELBO
        cls._has_joint_cost = cls.joint_cost is not base.joint_cost
        cls._rate_by_sites = cls.latent_cost is base.latent_cost and not cls._has_joint_cost

    def latent_cost(self, model_site: Site, guide_site: Site) -> Mapping[str, Tensor]:
        """The terms that make up the cost of one latent site, unweighted, in nats per datum.

        To be overridden. Plates' scales, masks and weights are applied to what it returns, which is then
        summed over the data. What only the guide samples costs as ``rate``, whatever is returned here, and
        the recorded rate is always the divergence. A captured step reads Python once, so let nothing in here
        depend on :attr:`step`, which is refused then: weights with schedules do.

        Args:
            model_site: the site in the model's trace; its ``"fn"`` is p(z).
            guide_site: the site in the guide's trace; its ``"fn"`` is q(z|x), its ``"value"`` the draw z.

        Returns:
            By name, a value for each datum, of the batch shape of ``guide_site["fn"]``, or one without axes
            that counts for each. They add up to the cost of the site. By default ``rate``, the divergence of
            q(z|x) from p(z) in closed form, or else its value at the draw.
        """
        divergence = guide_site.get("divergence")
        if divergence is None:
            z = guide_site["value"]
            divergence = guide_site["fn"].log_prob(z) - model_site["fn"].log_prob(z)
        return {"rate": divergence}

    def joint_cost(self, model_trace: Trace, guide_trace: Trace) -> Mapping[str, Tensor]:  # noqa: ARG002
        """The terms of all latent sites of the data plate together, unweighted, in nats per datum.

        To be overridden. They come on top of what :meth:`latent_cost` returns for each site, or stand in the
        place of it where :attr:`joint_cost_replaces`. The scale that the sites share is applied to what it
        returns, which is then summed over the data. A weight of such a term is one for all sites.

        Args:
            model_trace, guide_trace: those of one particle. ``LocalLatents(model_trace, guide_trace)`` has
                the sites as one vector, with q(z|x) and p(z) of it.

        Returns:
            By name, a value for each datum, (batch,), or one without axes that counts for each. By default
            there are none.
        """
        return {}

    def _get_trace(self, model: Program, guide: Program, args: Args, kwargs: Kwargs) -> tuple[Trace, Trace]:
        # A guide that is itself a messenger runs the model, in which all depends on all
        if self._has_joint_cost and not isinstance(poutine.unwrap(guide), Messenger):
            guide = DependenceMessenger()(guide)
        return super()._get_trace(model, guide, args, kwargs)

    # The terms are recorded where the divergences are computed, so that none is computed twice.
    def _record(self, model_trace: Trace, guide_trace: Trace) -> None:
        pass

    def _check_terms(self, weights: TermWeights) -> None:
        if self._rate_by_sites:
            super()._check_terms(weights)

    def _differentiable_loss_particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[Loss, Loss]:
        sites = {name: site for name, site in model_trace.nodes.items() if site["type"] == "sample"}
        terms = None if self._rate_by_sites else self._resolved_weights()
        costs: set[str] = set()
        loss: Loss = 0.0
        if terms is not None:
            loss = self._own_costs(model_trace, guide_trace, terms, costs)
        for name, site in sites.items():
            if site["is_observed"]:
                self._add("distortion", -unweighted_sum(site))
                loss = loss - site["log_prob_sum"]
            elif terms is None:
                loss = loss + self._latent(site, guide_trace.nodes[name])
        for name, site in guide_trace.nodes.items():
            if site["type"] == "sample" and name not in sites and not is_deterministic(site):
                weight = 1.0 if terms is None else terms.of_term("rate", name)
                loss = loss + self._auxiliary(site, weight)
                costs.add("rate")
        if terms is not None:
            self._check_returned(terms, costs)
        return torch_item(loss), loss

    # ---- the rate as the one term, weighted by messengers at the sites

    def _latent(self, model_site: Site, guide_site: Site) -> Tensor:
        divergence = guide_site.get("divergence")
        if divergence is None:
            self._check_reparameterised(guide_site)
            self._check_not_relaxed(guide_site)
            self._add("rate", unweighted_rate(model_site, guide_site))
            return guide_site["score_parts"].entropy_term.sum() - model_site["log_prob_sum"]
        total = scale_and_mask(divergence, guide_site["scale"], guide_site["mask"]).sum()
        self._add("rate", unweighted_rate(model_site, guide_site, total))
        return total

    def _auxiliary(self, site: Site, weight: Weight) -> Tensor:
        self._check_reparameterised(site)
        self._check_not_relaxed(site)
        self._add("rate", unweighted_sum(site))
        return _weighted(site["score_parts"].entropy_term, weight).sum()

    # ---- the terms of a subclass, weighted where they are summed

    def _own_costs(
        self, model_trace: Trace, guide_trace: Trace, weights: ResolvedWeights, seen: set[str]
    ) -> Tensor:
        latent: list[Site] = [
            site
            for site in model_trace.nodes.values()
            if site["type"] == "sample" and not site["is_observed"]
        ]
        pairs = [(site, guide_trace.nodes[site["name"]]) for site in latent]
        for pair in pairs:
            self._check_scorable(*pair)
        loss = torch.zeros(())
        replaced: tuple[str, ...] = ()
        if self._has_joint_cost:
            latents = LocalLatents(model_trace, guide_trace)
            for name in latents.names:
                refuse_weighted_data(guide_trace.nodes[name])
            costs = self.joint_cost(model_trace, guide_trace)
            loss = self._joint_terms(latents.names, latents.batch_size, costs, guide_trace, weights)
            replaced = latents.names if self.joint_cost_replaces else ()
            seen.update(costs)
        for model_site, guide_site in pairs:
            if guide_site["name"] not in replaced:
                costs = self.latent_cost(model_site, guide_site)
                loss = loss + self._latent_terms(costs, guide_site, weights)
                seen.update(costs)
            # Whatever the costs are, the recorded rate is the divergence, so that objectives can be compared
            self._add("rate", unweighted_rate(model_site, guide_site))
        return loss

    def _check_scorable(self, model_site: Site, guide_site: Site) -> None:
        name = guide_site["name"]
        if not is_reparameterised(guide_site["fn"]):
            self._refuse_score_function(guide_site)
        if is_relaxed(guide_site["fn"]):
            raise NotImplementedError(
                f"{type(self).__name__} computes terms from the value of the relaxed site {name!r}, through "
                "which no gradient would pass: use a guide without the relaxation, or a TraceEnum_ class"
            )
        if not counts_alike(guide_site, model_site):
            raise ValueError(
                f"Expected {name!r} to have one scale and mask in model and guide, since "
                f"{type(self).__name__} splits its cost: put poutine.scale and poutine.mask around both"
            )

    def _latent_terms(
        self, costs: Mapping[str, Tensor], guide_site: Site, weights: ResolvedWeights
    ) -> Tensor:
        name = guide_site["name"]
        scale, mask = unweighted_scale_and_mask(guide_site)
        by_messengers: SiteWeight | None = guide_site.get("weight")
        loss = torch.zeros(())
        for term, nats in costs.items():
            value = self._per_datum(term, nats, guide_site["fn"].batch_shape, f"latent_cost of {name!r}")
            if term != "rate":
                self._add(term, scale_and_mask(value.detach(), scale, mask).sum())
            weight = weights.of_term(term, name) * (1.0 if by_messengers is None else by_messengers.weight)
            loss = loss + scale_and_mask(_weighted(value, weight), scale, mask).sum()
        return loss

    def _joint_terms(
        self,
        names: Sequence[str],
        rows: int,
        costs: Mapping[str, Tensor],
        guide_trace: Trace,
        weights: ResolvedWeights,
    ) -> Tensor:
        first, *others = (cast(Site, guide_trace.nodes[name]) for name in names)
        if unlike := [site["name"] for site in others if not counts_alike(site, first)]:
            raise ValueError(
                f"Expected the local sites {list(names)} to have one scale, since {type(self).__name__} "
                f"takes them together, but that of {unlike[0]!r} differs: put poutine.scale around all"
            )
        scale, _ = unweighted_scale_and_mask(first)
        by_messengers: SiteWeight | None = first.get("weight")
        loss = torch.zeros(())
        for term, nats in costs.items():
            value = self._per_datum(term, nats, torch.Size([rows]), "joint_cost")
            if term == "rate":
                raise ValueError(
                    "Expected joint_cost to return terms of its own but got 'rate': name it otherwise."
                )
            if term in weights.terms and weights.terms[term].by_name:
                raise ValueError(
                    f"Expected one weight of {term!r}, a term of all latent sites together, but got weights "
                    f"by site, of {sorted(weights.terms[term].by_name)}."
                )
            self._add(term, (value.detach() * scale).sum())
            weight = weights.of_term(term, "") * (1.0 if by_messengers is None else by_messengers.weight)
            loss = loss + (_weighted(value, weight) * scale).sum()
        return loss

    def _per_datum(self, term: str, nats: object, shape: torch.Size, source: str) -> Tensor:
        hook, *_ = source.split()
        if not term.isidentifier() or term in _TAKEN or term.startswith(("_", "validation_")):
            raise ValueError(
                f"Expected {hook} to return terms of its own but got {term!r}: choose a name that is an "
                "identifier and stands for nothing else in terms and history."
            )
        if not isinstance(nats, Tensor) or (nats.dim() and nats.shape != shape):
            what = f"shape {tuple(nats.shape)}" if isinstance(nats, Tensor) else type(nats).__name__
            raise ValueError(
                f"Expected {hook} to return {term!r}{source.removeprefix(hook)} as a tensor of shape "
                f"{tuple(shape)}, a value for each datum, or () but got {what}."
            )
        return nats.expand(shape)

    def _check_returned(self, weights: ResolvedWeights, costs: set[str]) -> None:
        missing = sorted(weights.terms.keys() - costs)
        if missing:
            raise ValueError(
                f"Expected {'joint_cost' if self._has_joint_cost else 'latent_cost'} to return the weighted "
                f"terms {missing} but got {sorted(costs)}."
            )

    def _check_reparameterised(self, site: Site) -> None:
        if not is_reparameterised(site["fn"]):
            self._refuse_score_function(site)
        try:
            check_fully_reparametrized(site)
        except NotImplementedError:
            self._refuse_score_function(site)

    def _refuse_score_function(self, site: Site) -> NoReturn:
        ours = type(self).__name__
        graph = ours.replace("MeanField", "Graph") if "MeanField" in ours else "an objective TraceGraph_…"
        raise NotImplementedError(
            f"{ours} needs reparameterised guide sites but {site['name']!r} "
            f"({family_name(site['fn'])}) is not; use {graph} "
            "(or a TraceEnum_ class and enumerate it)"
        ) from None

    # What is sampled of a relaxed site passes no gradient on to its value.
    def _check_not_relaxed(self, site: Site) -> None:
        if is_relaxed(site["fn"]):
            ours = type(self).__name__
            raise NotImplementedError(
                f"{ours} needs a divergence in closed form for the relaxed site {site['name']!r} "
                f"({family_name(site['fn'])}) but finds none; give the site a prior of its own family in the "
                "model, after the same sites and with the same scale and mask in both programs, or use "
                f"{ours.replace('MeanField', 'Enum')} and enumerate it without the relaxation"
            )


def refuse_weighted_data(site: Site) -> None:
    """Refuses a site that counts more for one datum than for another, where data are compared."""
    scale, _ = unweighted_scale_and_mask(site)
    if isinstance(scale, Tensor) and scale.numel() > 1:
        raise NotImplementedError(
            f"the latent site {site['name']!r} has a scale of shape {tuple(scale.shape)}, by datum, but "
            "terms of all data together count them alike: scale all data by one number, or use BetaELBO"
        )


def _weighted(nats: Tensor, weight: Weight) -> Tensor:
    """A weight of 0 leaves nothing of what is infinite."""
    if isinstance(weight, Tensor):
        return torch.where(weight == 0, 0.0, weight * nats)
    if weight == 1:
        return nats
    return nats * weight if weight != 0 else torch.zeros_like(nats)


def unweighted_rate(model_site: Site, guide_site: Site, total: Tensor | None = None) -> Tensor:
    """The rate of a site, which is its weighted ``total`` where the weight is 1."""
    if "divergence" not in guide_site:
        return unweighted_sum(guide_site) - unweighted_sum(model_site)
    weight = guide_site["weight"].weight if "weight" in guide_site else 1.0
    # To divide the total by another weight would round, and otherwise than a recorded step does
    if total is not None and not isinstance(weight, Tensor) and weight == 1:
        return total.detach()
    divergence = guide_site["divergence"].detach()
    return scale_and_mask(divergence, *unweighted_scale_and_mask(guide_site)).sum()
