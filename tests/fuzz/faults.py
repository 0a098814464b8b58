"""Faults to plant in the library, each of which the fuzzer has to find: ``python -m tests.fuzz --faults``."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch

from pyro_infomax import infer
from pyro_infomax.diagnostics import _pair
from pyro_infomax.infer import (
    _adversarial,
    _decomposed,
    _elbo,
    _enum,
    _estimators,
    _im,
    _moments,
    _multi_sample,
    _targets,
    _two_directions,
    _weights,
)
from pyro_infomax.information import _account


@contextmanager
def changed(owner: Any, name: str, to: Callable[[Any], Any]) -> Iterator[None]:
    """Puts what ``to`` makes of an attribute in its place."""
    there = vars(owner)[name]
    setattr(owner, name, to(there))
    try:
        yield
    finally:
        setattr(owner, name, there)


def _weight_twice() -> Any:
    def to(site_weight: Any) -> Any:
        return lambda self, msg: site_weight(self, msg) ** 2

    return changed(_weights.ModelRole, "site_weight", to)


def _closed_form_without(what: str) -> Any:
    """The divergence of a site without its scale, or its mask."""

    def to(scale_and_mask: Any) -> Any:
        if what == "scale":
            return lambda value, scale=1.0, mask=None: scale_and_mask(value, 1.0, mask)
        return lambda value, scale=1.0, mask=None: scale_and_mask(value, scale, None)

    return changed(_estimators, "scale_and_mask", to)


def _any_order() -> Any:
    def to(drawn_in_turn: Any) -> Any:
        def every(model_trace: Any, guide_trace: Any) -> Any:
            for name, site in model_trace.nodes.items():
                if site["type"] == "sample" and not site["is_observed"] and name in guide_trace.nodes:
                    yield name, guide_trace.nodes[name]

        return every

    return changed(_estimators, "_drawn_in_turn", to)


def _particles_summed() -> Any:
    def to(reset: Any) -> Any:
        def without_mean(self: Any) -> None:
            reset(self)
            self._summed = 1

        return without_mean

    return changed(_elbo.WeightedELBO, "_reset", to)


def _auxiliary_sign() -> Any:
    def to(auxiliary: Any) -> Any:
        return lambda self, site, weight: -auxiliary(self, site, weight)

    return changed(_estimators.TraceMeanField_WeightedELBO, "_auxiliary", to)


def _guide_costs_unscored() -> Any:
    return changed(_estimators, "_score_of_guide_costs", lambda _: lambda model_trace, guide_trace: 0.0)


def _guide_factor_dropped() -> Any:
    def to(guide_costs: Any) -> Any:
        def without(guide_trace: Any, ordering: Any) -> Any:
            kept = guide_trace.copy()
            for name, site in guide_trace.nodes.items():
                if site["type"] == "sample" and site["is_observed"]:
                    kept.remove_node(name)
            return guide_costs(kept, ordering)

        return without

    return changed(_enum, "guide_costs", to)


def _summed_without_scale() -> Any:
    return changed(_enum, "_common_scale", lambda _: lambda model_trace, components: 1.0)


def _rate_without_a_site() -> Any:
    def to(terms: Any) -> Any:
        def without(self: Any, z: torch.Tensor) -> list[torch.Tensor]:
            latent, observed = terms(self, z)
            latent[..., -1] = 0.0
            return [latent, observed]

        return without

    return changed(_pair.Pair, "_terms", to)


def _information_without_own_term() -> Any:
    return changed(_account.Account, "mutual_information", lambda _: _account.Account.leave_one_out)


def _renyi_scale_within() -> Any:
    return changed(
        _multi_sample.RenyiBound, "_common_scale", lambda _: lambda self, model_trace, guide_trace: 1.0
    )


def _own_score() -> Any:
    return changed(_multi_sample.RenyiBound, "_gains", lambda _: lambda self, log_weights: log_weights)


def _path_once() -> Any:
    def to(surrogate_bound: Any) -> Any:
        def once(self: Any, weights: torch.Tensor, traces: Any) -> torch.Tensor:
            alpha, self.alpha = self.alpha, 1.0
            try:
                return surrogate_bound(self, weights, traces)
            finally:
                self.alpha = alpha

        return once

    return changed(_multi_sample._Pathwise, "_surrogate_bound", to)


def _alike_in_wake() -> Any:
    def to(wake: Any) -> Any:
        return lambda self, log_weights, posteriors: wake(self, torch.zeros_like(log_weights), posteriors)

    return changed(_two_directions.RWS_InfoMaxELBO, "_wake", to)


def _sleep_twice() -> Any:
    def to(sleep: Any) -> Any:
        def twice(self: Any, *args: Any) -> Any:
            total, traces = sleep(self, *args)
            return 2 * total, traces

        return twice

    return changed(_two_directions._Sleeping, "_sleep", to)


def _rate_in_harmony() -> Any:
    def to(_: Any) -> Any:
        def rate(self: Any, model_site: Any, guide_site: Any) -> Any:
            parent = super(_two_directions.HarmonyELBO, self)
            return {"prior_cross_entropy": parent.latent_cost(model_site, guide_site)["rate"]}

        return rate

    return changed(_two_directions.HarmonyELBO, "latent_cost", to)


def _sum_for_mean() -> Any:
    return changed(_targets.TargetELBO, "_number_of_data", lambda _: property(lambda self: 1))


def _mixture_of_batch() -> Any:
    def to(log_mixture: Any) -> Any:
        return lambda latents, data_size: log_mixture(latents, latents.batch_size)

    return changed(_decomposed, "log_mixture", to)


def _channel_charged() -> Any:
    return changed(_im, "_silence", lambda _: lambda site: None)


def _many_data() -> Any:
    def to(batch_mmd: Any) -> Any:
        return lambda *draws, kernel, data_size: batch_mmd(*draws, kernel=kernel, data_size=10 * data_size)

    return changed(_moments, "batch_mmd", to)


def _same_draw_twice() -> Any:
    def to(batch_mmd: Any) -> Any:
        return lambda z, again, u, **rest: batch_mmd(z, z, u, **rest)

    return changed(_moments, "batch_mmd", to)


def _unsorted() -> Any:
    def to(_: Any) -> Any:
        return lambda z, u, directions: ((z - u) @ directions).square().mean()

    return changed(_moments, "batch_sliced_wasserstein", to)


def _square_of_minibatch() -> Any:
    def to(squared_covariance: Any) -> Any:
        return lambda mean, rest, data_size: squared_covariance(mean, rest, len(mean))

    return changed(_moments, "_squared_covariance", to)


def _no_noise_in_covariance() -> Any:
    def to(moments: Any) -> Any:
        def without(latents: Any, of: str) -> Any:
            mean, covariance = moments(latents, of)
            return mean, covariance * (of == "prior")

        return without

    return changed(_moments, "_moments", to)


def _groups_exchanged() -> Any:
    names = ("total_correlation_between", "total_correlation_within")

    def to(marginal_terms: Any) -> Any:
        def exchanged(*args: Any) -> Any:
            terms = marginal_terms(*args)
            return {**terms, names[0]: terms[names[1]], names[1]: terms[names[0]]}

        return exchanged

    return changed(_decomposed.GroupedELBO, "marginal_terms", to)


def _infovae_exchanged() -> Any:
    return changed(
        infer, "infovae", lambda infovae: lambda alpha, lam, **rest: infovae(1 - lam, 1 - alpha, **rest)
    )


def _critic_of_rows_averaged() -> Any:
    return changed(
        _adversarial._CriticELBO, "_cost", lambda _: lambda self, first, second: first / len(first)
    )


def _critic_without_gradient() -> Any:
    def to(scores: Any) -> Any:
        return lambda critic, parts: scores(critic, tuple(part.detach() for part in parts))

    return changed(_adversarial, "scores_of", to)


def _prior_unscored() -> Any:
    return changed(_adversarial.AVB, "_score_of_prior", lambda _: lambda self, model_trace, run: 0.0)


def _critic_reversed() -> Any:
    def to(forms: Any) -> Any:
        return {name: type(form)(form.on_second, form.on_first) for name, form in forms.items()}

    return changed(_adversarial, "_DIVERGENCES", to)


def _latents_of_guide() -> Any:
    def to(simulate: Any) -> Any:
        def with_data_latents(run: Any, **kwargs: Any) -> Any:
            simulated = simulate(run, **kwargs)
            for name, site in run.guide_trace.nodes.items():
                if site["type"] == "sample" and name in simulated.nodes:
                    simulated.nodes[name]["value"] = site["value"]
            return simulated

        return with_data_latents

    return changed(_adversarial, "simulate", to)


FAULTS: Final[dict[str, Callable[[], Any]]] = {
    "a weight is applied twice": _weight_twice,
    "a closed form ignores the mask": lambda: _closed_form_without("mask"),
    "a closed form ignores scales and subsampling": lambda: _closed_form_without("scale"),
    "a closed form ignores the order of the latents": _any_order,
    "terms are summed over particles": _particles_summed,
    "an auxiliary site has the wrong sign": _auxiliary_sign,
    "the score function lacks what only the guide pays for": _guide_costs_unscored,
    "a guide's factor is dropped": _guide_factor_dropped,
    "a sum over enumerated values has no scale": _summed_without_scale,
    "the account's rate lacks a site": _rate_without_a_site,
    "the information lacks the datum's own term": _information_without_own_term,
    "Rényi's bound has the scale within the mean": _renyi_scale_within,
    "the score of several draws is of each one's own weight": _own_score,
    "DReG weighs the path by w": _path_once,
    "reweighted wake has no weights": _alike_in_wake,
    "sleep counts twice": _sleep_twice,
    "harmony has the rate in it": _rate_in_harmony,
    "a multiplier follows a sum over the data": _sum_for_mean,
    "the mixture is that of the minibatch": _mixture_of_batch,
    "pairs of one datum count as among ten times the data": _many_data,
    "the second draw of a datum is the first": _same_draw_twice,
    "draws are compared in their order, not by quantiles": _unsorted,
    "the square of a covariance is that of the minibatch's": _square_of_minibatch,
    "the covariance of q(z) is that of the means": _no_noise_in_covariance,
    "dependence between groups and within is exchanged": _groups_exchanged,
    "α and λ of InfoVAE are exchanged": _infovae_exchanged,
    "a critic's cost is a mean over rows": _critic_of_rows_averaged,
    "a critic passes no gradient on to the draws": _critic_without_gradient,
    "a prior has no gradient by a critic": _prior_unscored,
    "a critic's two sides are exchanged": _critic_reversed,
    "what the model draws has the latents of the guide": _latents_of_guide,
    "the channel is charged for": _channel_charged,
}
