"""The account of a pair's nats: what it says, how it is made, its terms, and what prints it."""

import hashlib
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, Final, Literal, TypeVar, final

import pandas as pd
import pyro.distributions as dist
import torch
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from pyro_infomax._checks import one_of, whole_number
from pyro_infomax._data import Data, SiteValues, rows_of
from pyro_infomax._progress import patiently
from pyro_infomax._random import isolated_random_state, seeded_draws
from pyro_infomax._ranks import Fabric, Ranks, ranks_of
from pyro_infomax._types import Array, Program, Site
from pyro_infomax.diagnostics._account_table import (
    Summary,
    frame_of,
    lines_of,
    missing_lines,
    noted_lines,
    shared_first,
    side_by_side,
    summary_lines,
)
from pyro_infomax.diagnostics._pair import Pair, ScoredDraws, held_out_pair
from pyro_infomax.diagnostics._population_information import (
    cross_fitted_ceiling,
    information_ceiling,
    information_lower_bound,
    information_upper_bound,
    is_saturated,
    is_worth_fitting,
)
from pyro_infomax.distributions import (
    Posterior,
    closed_divergence,
    full_name,
    in_dtype_of,
    in_parts,
    is_factorised,
    joint_forms,
    moments,
)
from pyro_infomax.information import (
    Account,
    Draws,
    Estimate,
    SiteAccount,
    active_units,
    held_out_gap,
    mean_of_draws,
    note_on,
    spread,
    sums_of,
    training_gap,
)
from pyro_infomax.nn import evaluation_mode
from pyro_infomax.programs import is_masked

# ---- The account, and what it says.


@final
@dataclass(frozen=True)
class Decomposition:
    r"""Where the nats of a pair of joints are, per datum.

    .. math:: R = I + \mathrm{KL}[q(z) \| p(z)], \qquad
        \mathrm{KL}[q(z) \| p(z)] = \mathrm{TC} + \sum_j \mathrm{KL}[q(z_j) \| p(z_j)]

    A field that cannot be had is None, and :attr:`unavailable` says why. The identities hold on the reported
    values, to rounding.

    Attributes:
        distortion: −E log p(x|z).
        rate: E KL[q(z|x) ‖ p(z)].
        elbo: −distortion − rate.
        mutual_information: I[X;Z] under the empirical data distribution, by the exact mixture; at most ln N.
        marginal_kl: KL[q(z) ‖ p(z)].
        total_correlation: KL[q(z) ‖ Π_j q(z_j)].
        dimensionwise_kl: KL[q(z_j) ‖ p(z_j)], one a latent dimension.
        dimensionwise_rate: E KL[q(z_j|x) ‖ p(z_j)], one a latent dimension, where both factorise.
        prior_dependence: E_q(z)[Σ_j log p(z_j) − log p(z)], what joins the right side of the second identity
            where the prior is no product of its dimensions; None where it is one.
        conditional_total_correlation: E KL[q(z|x) ‖ Π_j q(z_j|x)]; 0 for a product.
        redundancy: Σ_j I[X; Z_j] − I[X; Z] = total_correlation − conditional_total_correlation: what the
            latent dimensions tell more than once; below 0 where they tell more together (synergy).
        prior_gap: the ELBO that a better prior could win: marginal_kl on training data; on held-out data
            E[log q(z) − log p(z)] with the mixture q(z) of the training data, which may be negative.
        data_entropy: H[X] of the empirical data distribution, for discrete data: ln N if none comes twice.
        decoder_gap: G = distortion − data_entropy + I = E_q(z) KL[q(x|z) ‖ p(x|z)], for discrete data. Its
            error is at most the sum of theirs, which is reported.
        mutual_information_lower: a lower bound on the population's I in expectation: the exact mixture.
        mutual_information_upper: an upper bound on it in expectation, for data that the guide was not trained
            on: the rate, the leave-one-out bound or, of many data, the rate against a marginal that was
            fitted to other data. Its ``target`` says which.
        prior_gain: what such a marginal as the prior would add to the ELBO of data that it was not fitted to,
            at least in expectation: new data in the account of a holdout. None where none was fitted.
        active_units: the number of latent dimensions with Var_x E[z_j|x] > 0.01.
        data_size: N.
        saturated: whether I > ln N − 1, so that it says more about N than about the representation; None
            where there is no I.
        latent_names: a name for every latent dimension.
        site_rate: of several latent sites, R_s = E[log q(z_s|z_<s, x) − log p(z_s|…)] of each, with its own
            densities in guide and model; sums to the rate. None for a single site, as the next two.
        site_information: I[X; Z_s | Z_<s], what each site tells beyond those before it; sums to I.
        site_marginal_kl: site_rate − site_information; sums to marginal_kl.
        site_distortion: of several observed sites, −E log p(x_s|…) of each; sums to the distortion.
        site_names: the latent sites in the guide's order, in which z_<s are those before.
        observed_names: the observed sites, factors included.
        unavailable: field names to the reason why they are None.
        global_values: the values of global latent sites, those outside the data plate, given which all of
            this holds; empty where there are none, or where draws of them were averaged.
        global_draws: these draws, all accounted for with the same noise in the local latents.
        global_spread: names of quantities to their standard deviation over draws of the global latents.
        holdout: the account of held-out data, with their own mixture and its ceiling ln N; None without any.
    """

    distortion: Estimate
    rate: Estimate
    elbo: Estimate
    mutual_information: Estimate | None
    marginal_kl: Estimate | None
    total_correlation: Estimate | None
    dimensionwise_kl: Estimate | None
    mutual_information_lower: Estimate | None
    mutual_information_upper: Estimate | None
    active_units: int | None
    data_size: int
    saturated: bool | None
    dimensionwise_rate: Estimate | None = None
    prior_dependence: Estimate | None = None
    latent_names: tuple[str, ...] = ()
    unavailable: dict[str, str] = field(default_factory=dict)
    conditional_total_correlation: Estimate | None = None
    redundancy: Estimate | None = None
    prior_gap: Estimate | None = None
    prior_gain: Estimate | None = None
    data_entropy: Estimate | None = None
    decoder_gap: Estimate | None = None
    holdout: "Decomposition | None" = None
    site_rate: Estimate | None = None
    site_information: Estimate | None = None
    site_marginal_kl: Estimate | None = None
    site_distortion: Estimate | None = None
    site_names: tuple[str, ...] = ()
    observed_names: tuple[str, ...] = ()
    global_values: dict[str, torch.Tensor] = field(default_factory=dict)
    global_draws: tuple[SiteValues, ...] = ()
    global_spread: dict[str, float] = field(default_factory=dict)

    def axis(self, quantity: str) -> tuple[str, tuple[str, ...]]:
        """What a vector of estimates runs along: ``latent``, ``site`` or ``observed``, and the names there.

        Args:
            quantity: its name.
        """
        names = {"latent": self.latent_names, "site": self.site_names, "observed": self.observed_names}
        along = _ALONG.get(quantity, "latent")
        return along, names[along]

    def estimates(self) -> Iterator[tuple[str, Estimate]]:
        """Every estimated quantity by name, vectors dimension by dimension or site by site: ``site_rate[z]``.

        The rows of a site begin with ``site_``, so that they clash with none of a dimension.
        """
        for name in _QUANTITIES:
            estimate = getattr(self, name)
            if estimate is None:
                continue
            if estimate.value.dim():
                labels = self.axis(name)[1]
                yield from ((f"{name}[{each}]", e) for each, e in zip(labels, estimate, strict=True))
            else:
                yield name, estimate

    def to_frame(self) -> pd.DataFrame:
        """A row a quantity, in nats per datum: value, its two standard errors, bound and target.

        ``active_units``, ``data_size`` and ``saturated`` follow as rows without errors. The columns of
        held-out data stand beside, ``holdout_value`` and so on.
        """
        frame = frame_of(dict(self.estimates()), {name: (self._fact(name), _PLAIN[name]) for name in _PLAIN})
        if self.global_spread:
            frame["global_spread"] = pd.Series(self.global_spread)
        return frame if self.holdout is None else side_by_side(frame, self.holdout.to_frame())

    def _fact(self, name: str) -> float:
        value = getattr(self, name)
        return math.nan if value is None else float(value)

    def table(self) -> str:
        """All quantities as lines to print, with every note and every reason why one is missing."""
        accounts = self._accounts()
        table = lines_of({name: dict(each.estimates()) for name, each in accounts.items()})
        notes = {name: list(each._notes()) for name, each in accounts.items()}
        return "\n".join([*table, *shared_first(notes)])

    def __str__(self) -> str:
        holdout = None if self.holdout is None else self.holdout._summary()
        return "\n".join(summary_lines(self._summary(), holdout, _ACCOUNTS))

    def _accounts(self) -> "dict[str, Decomposition]":
        accounts = [self] if self.holdout is None else [self, self.holdout]
        return dict(zip(_ACCOUNTS, accounts, strict=False))

    def _summary(self) -> Summary:
        return Summary(
            estimates=dict(self.estimates()),
            latent_names=self.latent_names,
            site_names=self.site_names,
            data_size=self.data_size,
            ceiling=information_ceiling(self.data_size),
            saturated=self.saturated,
            active_units=self.active_units,
            global_values=self.global_values,
            num_global_draws=len(self.global_draws),
            global_spread=self.global_spread,
            unavailable=self.unavailable,
        )

    def _notes(self) -> Iterator[str]:
        yield from self._summary().facts()
        if self.saturated:
            cap = information_ceiling(self.data_size)
            yield f"saturated: I is within a nat of its cap ln N = {cap:.4f}; the population's may be larger"
        yield from noted_lines({name: getattr(self, name) for name in _QUANTITIES})
        yield from missing_lines(self.unavailable)


_ACCOUNTS: Final = ("training data", "held-out data")
_QUANTITIES = (
    "distortion",
    "rate",
    "elbo",
    "mutual_information",
    "mutual_information_lower",
    "mutual_information_upper",
    "marginal_kl",
    "prior_gap",
    "prior_gain",
    "total_correlation",
    "conditional_total_correlation",
    "redundancy",
    "prior_dependence",
    "data_entropy",
    "decoder_gap",
    "dimensionwise_kl",
    "dimensionwise_rate",
    "site_distortion",
    "site_rate",
    "site_information",
    "site_marginal_kl",
)
_ALONG = {
    "site_distortion": "observed",
    "site_rate": "site",
    "site_information": "site",
    "site_marginal_kl": "site",
}
_PLAIN = {
    "active_units": "latent dimensions with Var_x E[z_j|x] > 0.01",
    "data_size": "N",
    "saturated": "whether I > ln N - 1",
}


# ---- Making an account.

_OF_MIXTURE = (
    "mutual_information",
    "mutual_information_lower",
    "mutual_information_upper",
    "saturated",
    "marginal_kl",
    "prior_gap",
    "total_correlation",
    "conditional_total_correlation",
    "redundancy",
    "dimensionwise_kl",
    "prior_dependence",
    "decoder_gap",
    "active_units",
)
_OF_PRIOR = ("marginal_kl", "prior_gap", "dimensionwise_kl", "prior_dependence", "dimensionwise_rate")


def decompose(
    model: Program,
    guide: Program,
    data: Data,
    *,
    num_samples: int = 1,
    batch_size: int = 1024,
    seed: int | None = None,
    data_plate: str | None = None,
    holdout: Data | None = None,
    global_values: Mapping[str, Any] | None = None,
    num_global_draws: int = 0,
    ceiling: bool | None = None,
    fabric: Fabric | None = None,
    progress: bool = True,
) -> Decomposition:
    r"""Accounts for the nats of a pair: distortion, rate, information, marginal KL and its parts.

    The aggregate posterior :math:`q(z) = \frac1N \sum_n q(z \mid x_n)` is the exact mixture over all data, in
    float64. Modules run in evaluation mode and without gradients, and are put back; parameters stay as they
    are, and with a seed torch's random state too.

    Reference: Hoffman and Johnson, 2016, ELBO surgery: yet another way to carve up the variational evidence
    lower bound.

    Args:
        model: a Pyro program with a plate around its observed sites.
        guide: a Pyro program over the same local latent sites.
        data: a tensor or a tuple of tensors, whose first axis is the data: the arguments of both.
        num_samples: draws of z per datum for the terms of q(z). The distortion takes at least two, by which
            its error is known. Where the rate has no closed form, the error of the ELBO is at most the sum of
            theirs, which is reported.
        batch_size: the most data that a program is run on at once, where it follows the length of its
            arguments.
        seed: isolates the draws from torch's global state.
        data_plate: the name of the data plate, where it is not the only candidate.
        holdout: further data of the same kind, which neither model nor guide was trained on: a tensor or a
            tuple of tensors like ``data``.
        global_values: values of global latent sites, those outside the data plate; the account is that of the
            local ones given these. None for the medians that the guide gives them.
        num_global_draws: at least 2 to average the account over draws of the guide's global latents instead,
            and to report its spread; its standard errors are then those of these draws.
        ceiling: whether a weighted sum of the prior and of mixtures of Gaussians is fitted to halves of the
            data, or to all of them for the holdout, for a closer ceiling of the population's information. It
            takes seconds, for 10,000 data up to a minute, and at least 20 data. None to do so for at least
            1,000 data, where the bounds at hand are more than half a nat apart.
        fabric: a ``lightning_fabric.Fabric`` that was launched, whose processes each pass the part of the
            data (and of the holdout) that they hold, as many as they like; None for one process. Each of
            them runs the programs on its own data and scores all draws under its own posteriors alone; the
            mixture is put together by a reduced logsumexp, exactly.
        progress: show a bar where the mixture takes more than a few seconds.

    Returns:
        The account, in nats per datum; that of the held-out data in its ``holdout``. Over several processes
        the same on each, and that of a single process that holds their data one after the other, with the
        same draws under the same seed. Where running the guide is the only way to draw (sites that depend on
        each other, flows), the draws differ from a single process's.

    Raises:
        ValueError: for data with nan or of different lengths, a guide that lacks a site of the model, no data
            plate or several; for a holdout of another kind, or a guide whose parameters belong to the
            training data; for a ceiling that is neither a bool nor None.
        NotImplementedError: for global latents of the model that the guide has not, which
            :func:`pyro.poutine.condition` can fix, and for latents that only one of the two masks.

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> oracle = LinearGaussian.optimum(torch.tensor([4.0, 2.0]), 1.0, 2, s2=0.5)
        >>> account = decompose(oracle.model, oracle.guide, oracle.sample(100, seed=0), seed=0)
        >>> parts = float(account.mutual_information) + float(account.marginal_kl)
        >>> abs(float(account.rate) - parts) < 1e-9
        True
    """
    whole_number("num_samples", num_samples, at_least=1)
    one_of("ceiling", ceiling, (True, False, None))
    ranks = ranks_of(fabric)
    with evaluation_mode(model, guide), torch.no_grad(), seeded_draws(_seed_of_all(seed, ranks)):
        options: dict[str, Any] = {"data_plate": data_plate, "batch_size": batch_size, "ranks": ranks}
        build: Callable[..., Pair] = partial(Pair, model, guide, progress=progress, **options)
        pair = build(data, global_values=global_values)
        if num_global_draws:
            drawn = _global_draws(pair, num_global_draws)
            rounds = patiently(drawn, "global latents", progress=progress)
            # with the same noise in the local latents, so that the spread is that of the global ones
            noise = int(torch.randint(2**62, (), device="cpu"))
            made = []
            for each in rounds:
                with isolated_random_state(noise):
                    made.append(_made(pair.at(each), build, holdout, num_samples, ceiling))
            account = _averaged(made)
        else:
            account = _made(pair, build, holdout, num_samples, ceiling)
    # What is the same to rounding would still print and compare as different
    return ranks.broadcast(account)


def _made(
    pair: Pair,
    build: Callable[..., Pair],
    holdout: Data | None,
    num_samples: int,
    ceiling: bool | None,
) -> Decomposition:
    """The account of a pair, with that of held-out data given the same values of the global latents."""
    given = partial(build, global_values=pair.global_values)
    held_out = None if holdout is None else held_out_pair(pair, given, holdout)
    account = account_of(pair, num_samples=num_samples, ceiling=ceiling)
    if held_out is None:
        return account
    held_account = account_of(held_out, num_samples=num_samples, training=pair, ceiling=ceiling)
    return replace(account, holdout=held_account)


def _global_draws(pair: Pair, number: int) -> list[SiteValues]:
    whole_number("num_global_draws", number, at_least=2)
    if not pair.global_values:
        raise ValueError(
            "Expected a guide with latent sites outside its data plate for num_global_draws but it has none"
        )
    return [pair.draw_global_values() for _ in range(number)]


def _averaged(accounts: Sequence[Decomposition]) -> Decomposition:
    """The means over accounts given draws of the global latents, and their spread."""
    first = accounts[0]
    fields = {name: [getattr(each, name) for each in accounts] for name in _QUANTITIES}
    means: dict[str, Any] = {
        name: None if None in each else _mean_over_draws(each) for name, each in fields.items()
    }
    columns = [dict(account.estimates()) for account in accounts]
    shared = [name for name in columns[0] if all(name in each for each in columns)]
    values = {name: torch.tensor([float(each[name]) for each in columns]) for name in shared}
    information = means["mutual_information"]
    units = {each.active_units for each in accounts}
    unavailable = {name: reason for each in accounts for name, reason in each.unavailable.items()}
    for name, each in fields.items():
        if None in each and len(set(map(type, each))) > 1 and name not in unavailable:
            unavailable[name] = "it is not there for all draws of the global latents"
    if len(units) > 1:
        unavailable["active_units"] = "they are not as many for all draws of the global latents"
    holdouts = [each.holdout for each in accounts if each.holdout is not None]
    return replace(
        first,
        **means,
        saturated=None if information is None else is_saturated(information, first.data_size),
        unavailable=unavailable,
        active_units=units.pop() if len(units) == 1 else None,
        global_values={},
        global_draws=tuple(each.global_values for each in accounts),
        global_spread={name: float(each.std()) for name, each in values.items()},
        holdout=_averaged(holdouts) if holdouts else None,
    )


def _mean_over_draws(estimates: Sequence[Estimate]) -> Estimate:
    values = torch.stack([each.value for each in estimates])
    errors = [
        each.population_standard_error for each in estimates if each.population_standard_error is not None
    ]
    population = torch.stack(errors).square().mean(0).sqrt() if errors else None
    own = torch.stack([each.standard_error for each in estimates]).mean(0)  # of noise that all have
    error = torch.hypot(values.std(0) / math.sqrt(len(values)), own)
    if population is not None:
        population = torch.maximum(population, error)
    return replace(
        estimates[0],
        value=values.mean(0),
        standard_error=error,
        population_standard_error=population,
        target=_common([each.target for each in estimates]),
    )


def _common(targets: Sequence[str]) -> str:
    """What is estimated; by what, where it is the same for all draws of the global latents."""
    if len(set(targets)) == 1:
        return targets[0]
    return targets[0].split(", by ")[0] + ", each draw of the global latents by what bounds it closest"


def _seed_of_all(seed: int | None, ranks: Ranks) -> int | None:
    """Processes that compute with the same draws need one seed."""
    if seed is not None or ranks.world_size == 1:
        return seed
    return int(ranks.broadcast(int(torch.randint(2**62, (), device="cpu"))))


def account_of(
    pair: Pair, *, num_samples: int = 1, training: Pair | None = None, ceiling: bool | None = None
) -> Decomposition:
    """Accounts for the nats of a pair as it is, with draws from torch's global state; see :func:`decompose`.

    Where its data are held out, ``training`` is the pair of the training data.
    """
    # What cannot be had of these programs becomes None, and the reason is kept
    attempt = Attempt()
    several = len(pair.site_names) > 1
    sizes = pair.site_sizes if several else None
    # Posteriors of which a mask leaves out parts have no mixture, and still a rate by the scores of the draws
    of_sites = ["site_information", "site_marginal_kl"] if several else []
    mixtures = attempt(lambda: pair.mixtures(sizes), *_OF_MIXTURE, *of_sites)
    # Without one prior for all data there is no KL from it, but still a rate by the scores of the draws
    prior = attempt(pair.prior, *_OF_PRIOR, *(["site_marginal_kl"] if several else []))
    # The distortion's error is taken from its spread over draws, hence two at least
    scored = pair.score(pair.draw(max(2, num_samples)))
    # All terms of q(z) come from one exact mixture over the data, so that their identities hold
    draws = Draws(pair.posterior, prior, z=scored.z[:num_samples], site_sizes=sizes, mixtures=mixtures)
    account = Account(draws)
    distortion = _sampled(-scored.log_likelihood, "exact", "the distortion of these data")
    each = None if prior is not None else pair.closed_rates()  # (data, latent or 1)
    rates = joint_forms(pair.posterior, prior).rate if each is None else each.sum(-1)  # (data,)
    rate = account.rate if prior is not None else _rate(scored, rates)
    information = attempt(lambda: account.mutual_information, "mutual_information")
    entropy = attempt(lambda: data_entropy(pair), "data_entropy", "decoder_gap")
    site_rate, site_information, site_marginal_kl = _of_sites(account, scored, each, attempt)
    of_dimensions = partial(attempt, reason=cache(lambda: _no_marginals(pair)))
    lower = attempt(lambda: information_lower_bound(account), "mutual_information_lower")
    upper = attempt(lambda: information_upper_bound(account), "mutual_information_upper")
    # A marginal that was fitted to other data bounds closer than the prior, where data are many
    size = pair.data_size if training is None else min(pair.data_size, training.data_size)
    prior_gain = None
    if ceiling or (ceiling is None and is_worth_fitting(lower, upper, size)):
        fitted = attempt(lambda: cross_fitted_ceiling(pair, prior, training=training), "prior_gain")
        if fitted is not None:
            prior_gain = fitted.prior_gain
            upper = attempt(lambda: information_upper_bound(account, fitted), "mutual_information_upper")
            if prior_gain is None:
                attempt.reasons["prior_gain"] = attempt.reasons["marginal_kl"]
    return Decomposition(
        distortion=distortion,
        rate=rate,
        elbo=_elbo(
            distortion,
            rate,
            scored,
            rates,
            paired=prior is None,
            target=evidence_target(given_globals=bool(pair.global_values)),
        ),
        mutual_information=information,
        marginal_kl=attempt(lambda: account.marginal_kl, "marginal_kl"),
        prior_gap=attempt(lambda: _prior_gap(account, training), "prior_gap"),
        total_correlation=of_dimensions(lambda: account.total_correlation, "total_correlation"),
        conditional_total_correlation=of_dimensions(
            lambda: account.conditional_total_correlation, "conditional_total_correlation"
        ),
        redundancy=of_dimensions(lambda: account.redundancy, "redundancy"),
        dimensionwise_kl=of_dimensions(lambda: account.dimensionwise_kl, "dimensionwise_kl"),
        prior_dependence=None
        if _factors(prior) is not None
        else of_dimensions(lambda: account.prior_dependence, "prior_dependence"),
        dimensionwise_rate=attempt(lambda: _dimensionwise_rate(account.draws), "dimensionwise_rate"),
        mutual_information_lower=lower,
        mutual_information_upper=upper,
        prior_gain=prior_gain,
        active_units=attempt(lambda: _active_units(pair.posterior), "active_units"),
        data_size=pair.data_size,
        saturated=None if information is None else is_saturated(information, pair.data_size),
        data_entropy=entropy,
        decoder_gap=None
        if entropy is None or information is None
        else _decoder_gap(distortion, information, entropy),
        latent_names=tuple(pair.latent_names()),
        global_values=pair.global_sites,
        unavailable=attempt.reasons,
        site_names=tuple(pair.site_names),
        observed_names=tuple(pair.observed_names),
        site_distortion=_site_distortion(scored),
        site_rate=site_rate,
        site_information=site_information,
        site_marginal_kl=site_marginal_kl,
    )


def _no_marginals(pair: Pair) -> str:
    found = pair.ranks.together(pair.dependences)
    return f"{NO_MARGINALS}: {found}" if found else NO_MARGINALS


# ---- Its terms, one by one.


def _of_sites(
    account: Account, scored: ScoredDraws, rates: torch.Tensor | None, attempt: "Attempt"
) -> tuple[Estimate | None, ...]:
    """Rate, information and marginal KL of each latent site; without a prior no marginal KL.

    ``rates`` are those of each datum and dimension, (data, latent), where they are known without a prior.
    """
    draws = account.draws
    if draws.site_sizes is None:
        return None, None, None
    known = None if draws.prior is None else scored.log_prior_sites[: len(draws.z)]
    sites = SiteAccount(account, known)
    if draws.prior is not None:
        rate = sites.rate
    elif rates is not None:
        rate = _closed(sums_of(rates, draws.site_sizes), "the rate of each site")
    else:
        per_draw = scored.log_posterior_sites - scored.log_prior_sites
        rate = _sampled(per_draw, "exact", "the rate of each site")
    information = attempt(lambda: sites.mutual_information, "site_information")
    return rate, information, attempt(lambda: sites.marginal_kl, "site_marginal_kl")


def _site_distortion(scored: ScoredDraws) -> Estimate | None:
    scores = scored.log_likelihood_sites
    target = "the distortion of each observed site of these data"
    return _sampled(-scores, "exact", target) if scores.shape[-1] > 1 else None


def _sampled(per_draw: torch.Tensor, bound: Literal["lower", "upper", "exact"], target: str) -> Estimate:
    """The mean of the draws, with a note where their error cannot be trusted."""
    return replace(mean_of_draws(per_draw, bound, target), note=note_on(per_draw))


def _rate(scored: ScoredDraws, rates: torch.Tensor | None) -> Estimate:
    """The rate from priors that depend on the data, by those of each datum (data,) where they are known."""
    target = "the rate of these data"
    if rates is None:
        return _sampled(scored.log_posterior - scored.log_prior, "exact", target)
    return _closed(rates, target)


def _closed(of_each: torch.Tensor, target: str) -> Estimate:
    """The mean of values of each datum that are known, (data,) or (data, several)."""
    return Estimate(of_each.mean(0), torch.zeros_like(of_each[0]), spread(of_each), "exact", target)


def evidence_target(*, given_globals: bool) -> str:
    """What a bound on the evidence bounds."""
    return "the mean log-evidence of these data" + (", given the global latents" if given_globals else "")


def _elbo(
    distortion: Estimate,
    rate: Estimate,
    scored: ScoredDraws,
    rates: torch.Tensor | None,
    *,
    paired: bool,
    target: str,
) -> Estimate:
    """Distortion and rate together; ``paired`` says that both are plain means of the same draws."""
    per_draw = scored.log_weight if rates is None else scored.log_likelihood - rates  # (samples, data)
    found = _sampled(per_draw, "lower", target)
    error = found.standard_error
    if rates is None and not paired:
        # the regression took noise out of the rate alone, which therefore no longer cancels the distortion's
        error = distortion.standard_error + rate.standard_error
    assert found.population_standard_error is not None
    population = torch.maximum(found.population_standard_error, error)
    value = -distortion.value - rate.value
    return replace(found, value=value, standard_error=error, population_standard_error=population)


def _factors(distribution: object) -> Distribution | None:
    """The univariate factors of a distribution that is a product of them, None for another."""
    fn = getattr(distribution, "fn", distribution)
    return fn.base_dist if is_factorised(fn) else None


def _prior_gap(account: Account, training: Pair | None) -> Estimate:
    if training is None:
        return training_gap(account)
    return held_out_gap(account, training.mixtures())


def _decoder_gap(distortion: Estimate, information: Estimate, entropy: Estimate) -> Estimate:
    value = distortion.value - entropy.value + information.value
    # one more number of the same draws: whether their noise adds up or cancels is not known
    error = distortion.standard_error + information.standard_error
    return Estimate(value, error, None, "exact", "what the variational bound on I loses on these data")


def _dimensionwise_rate(draws: Draws) -> Estimate:
    posterior, prior = _factors(draws.posterior), _factors(draws.prior)
    if posterior is None or prior is None:
        raise NotImplementedError("guide and prior are not both known to be products over the dimensions")
    rates = []
    for some in in_parts(posterior):
        found = closed_divergence(some, prior)  # (rows, latent)
        if found is None:
            raise NotImplementedError("the divergence of single latent dimensions has no closed form")
        rates.append(found.double())
    return _closed(torch.cat(rates), "the rate of each latent dimension of these data")


def _active_units(posterior: Posterior) -> int:
    if moments(posterior) is None:
        raise NotImplementedError("the moments of z given x have no closed form")
    return int(active_units(posterior).sum())


# ---- The entropy of discrete data, which what a pair loses in decoding is measured from.

_SAME_SCORE: Final = (
    1e-4  # nats, absolute and relative: float32 programs round differently from batch to batch
)


@torch.no_grad()
def data_entropy(pair: Pair) -> Estimate:
    r"""The entropy of the data of a pair in nats, where its decoder gap is known from it.

    .. math:: H[X] = -\sum_x p_D(x) \ln p_D(x), \qquad D = H[X] - I_q[X; Z] + G

    over the distinct values x of the observed sites: ln N if no datum comes twice. The second equation
    needs :math:`p(x \mid z)` to be a pmf of these values and of nothing else, and z to depend on the datum
    by x alone. So there is none for densities, factors, masks and further arguments, nor where equal data
    have different posteriors.
    """
    with isolated_random_state():
        first = _first_equals(pair)
        _check_posteriors(pair, first)
    shares = first.unique(return_counts=True)[1].double() / len(first)
    entropy = -(shares * shares.log()).sum()
    return Estimate(entropy, torch.zeros_like(entropy), None, "exact", "the entropy of these data")


def _check_pmf(site: Site) -> None:
    fn = site["fn"]
    if isinstance(fn, dist.Unit):
        raise NotImplementedError(f"the factor {site['name']!r} is no distribution of data")
    if not _support_of(fn).is_discrete:
        raise NotImplementedError(
            "densities have no decoder gap under the empirical data distribution, and "
            f"{site['name']!r} is {full_name(fn)}"
        )
    if is_masked(site):
        raise NotImplementedError(f"{site['name']!r} is masked, so that its values are known in part only")
    value = site["value"]
    if value.shape[value.dim() - len(fn.event_shape) :] != fn.event_shape:
        raise NotImplementedError(
            f"the values of {site['name']!r} are of another shape than its distribution"
        )
    if not bool(_support_of(fn).check(value).all()):
        raise NotImplementedError(
            f"{site['name']!r} has values to which {full_name(fn)} gives no probability"
        )


def _support_of(fn: Distribution) -> Constraint:
    try:
        support = fn.support
    except NotImplementedError:
        support = None
    if support is None:
        raise NotImplementedError(f"{full_name(fn)} does not tell whether it is discrete")
    return support


def _first_equals(pair: Pair) -> torch.Tensor:
    """The number of the first datum whose observed values are equal, (data,)."""
    digests = pair.of_all(pair.ranks.together(lambda: _digests(pair)))
    first: dict[tuple[int, ...], int] = {}
    return torch.tensor([first.setdefault(tuple(key), n) for n, key in enumerate(digests.tolist())])


def _digests(pair: Pair) -> torch.Tensor:
    """What tells the observed values of the data of this process apart, (own data, 2)."""
    program = pair.program
    if not program.observed:
        raise NotImplementedError("the model observes nothing")

    def run(rows: torch.Tensor) -> dict[str, torch.Tensor]:
        nodes = program.trace(pair.data, rows).nodes
        for site in program.observed:
            _check_pmf(nodes[site])
        layouts = program.observed.items()
        values = [_flat(each.rows(nodes[site]["value"], len(rows))[0]) for site, each in layouts]
        together = torch.cat(values, 1)
        _check_arguments([_flat(each) for each in rows_of(pair.data, rows)], [*values, together])
        return {"": torch.tensor([_digest(row) for row in together.cpu().numpy()])}

    return program.together(pair.own_size, run)[""]


def _flat(values: torch.Tensor) -> torch.Tensor:
    """(rows, elements), in one type for all, in which -0.0 has become 0.0."""
    return values.reshape(len(values), -1).double() + 0.0


def _digest(row: Array) -> list[int]:
    """What tells rows apart and takes little room, however long they are."""
    return list(struct.unpack("qq", hashlib.blake2b(row.tobytes(), digest_size=16).digest()))


def _check_arguments(arguments: list[torch.Tensor], observed: list[torch.Tensor]) -> None:
    """Each argument, in whatever shape and type, must be an observed site, or all of them in a row."""
    for position, each in enumerate(arguments):
        if not any(torch.equal(each, values) for values in observed):
            raise NotImplementedError(
                f"argument {position} is not observed, so that entropy and information would be those given "
                "its values"
            )


def _check_posteriors(pair: Pair, first: torch.Tensor) -> None:
    """Each datum's posterior must be that of the first datum equal to it, shown by a draw from the latter."""
    if torch.equal(first, torch.arange(len(first))):
        return
    z = pair.draw(1)[0, first]  # (data, latent)
    scores = pair.posterior.log_prob(in_dtype_of(pair.posterior, z)).double()
    if not torch.allclose(scores, scores[first], rtol=_SAME_SCORE, atol=_SAME_SCORE):
        raise NotImplementedError("equal data have different posteriors, by which z tells more than x")


# ---- Quantities that may not exist, and why they do not.

_Quantity = TypeVar("_Quantity")

NO_MARGINALS: Final = "single latent dimensions of the guide or the prior have no density in closed form"


@final
class Attempt:
    """Evaluates quantities, and keeps the reasons why some of them are None."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def __call__(
        self, quantity: Callable[[], _Quantity], *names: str, reason: Callable[[], str] | str | None = None
    ) -> _Quantity | None:
        """The quantity, None where it raises NotImplementedError or its first name is known to be missing.

        A ``reason`` takes the place of the error's own; a function is called only where one is needed.
        """
        if names[0] in self.reasons:
            return None
        try:
            return quantity()
        except NotImplementedError as error:
            found = reason() if callable(reason) else reason
            self.reasons.update(dict.fromkeys(names, found or str(error)))
            return None
