"""The account of a pair's nats."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, Literal, final

import pandas as pd
import torch

from pyro_infomax.diagnostics import sandwich
from pyro_infomax.diagnostics.account_table import frame_of, lines_of, side_by_side
from pyro_infomax.diagnostics.attempt import NO_MARGINALS, Attempt, missing_lines
from pyro_infomax.diagnostics.discrete_data import data_entropy
from pyro_infomax.diagnostics.holdout_pair import held_out_pair
from pyro_infomax.diagnostics.pair import Pair, ScoredDraws
from pyro_infomax.information import (
    Account,
    Draws,
    Estimate,
    SiteAccount,
    active_units,
    closed_divergence,
)
from pyro_infomax.information.better_prior import held_out_gap, training_gap
from pyro_infomax.information.closed_forms import joint_forms, moments
from pyro_infomax.information.estimate import spread
from pyro_infomax.information.families import is_factorised
from pyro_infomax.nn.module_modes import evaluation_mode
from pyro_infomax.poutine import Data
from pyro_infomax.random_state import seeded_draws
from pyro_infomax.ranks import Ranks, ranks_of

__all__ = ["Decomposition", "decompose"]


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
        prior_gap: the ELBO that a better prior could win: marginal_kl on training data; on held-out data
            E[log q(z) − log p(z)] with the mixture q(z) of the training data, which may be negative.
        data_entropy: H[X] of the empirical data distribution, for discrete data: ln N if none comes twice.
        decoder_gap: G = distortion − data_entropy + I = E_q(z) KL[q(x|z) ‖ p(x|z)], for discrete data. Its
            error is at most the sum of theirs, which is reported.
        mutual_information_lower: a lower bound on the population's I in expectation: the exact mixture.
        mutual_information_upper: an upper bound on it in expectation: the smaller of rate and leave-one-out.
        active_units: the number of latent dimensions with Var_x E[z_j|x] > 0.01.
        data_size: N.
        saturated: whether I > ln N − 1, so that it says more about N than about the representation.
        latent_names: a name for every latent dimension.
        site_rate: of several latent sites, R_s = E[log q(z_s|z_<s, x) − log p(z_s|…)] of each, with its own
            densities in guide and model; sums to the rate. None for a single site, as the next two.
        site_information: I[X; Z_s | Z_<s], what each site tells beyond those before it; sums to I.
        site_marginal_kl: site_rate − site_information; sums to marginal_kl.
        site_distortion: of several observed sites, −E log p(x_s|…) of each; sums to the distortion.
        site_names: the latent sites in the guide's order, in which z_<s are those before.
        observed_names: the observed sites, factors included.
        unavailable: field names to the reason why they are None.
        holdout: the account of held-out data, with their own mixture and its ceiling ln N; None without any.
    """

    distortion: Estimate
    rate: Estimate
    elbo: Estimate
    mutual_information: Estimate
    marginal_kl: Estimate | None
    total_correlation: Estimate | None
    dimensionwise_kl: Estimate | None
    mutual_information_lower: Estimate
    mutual_information_upper: Estimate
    active_units: int | None
    data_size: int
    saturated: bool
    dimensionwise_rate: Estimate | None = None
    prior_dependence: Estimate | None = None
    latent_names: tuple[str, ...] = ()
    unavailable: dict[str, str] = field(default_factory=dict)
    conditional_total_correlation: Estimate | None = None
    prior_gap: Estimate | None = None
    data_entropy: Estimate | None = None
    decoder_gap: Estimate | None = None
    holdout: "Decomposition | None" = None
    site_rate: Estimate | None = None
    site_information: Estimate | None = None
    site_marginal_kl: Estimate | None = None
    site_distortion: Estimate | None = None
    site_names: tuple[str, ...] = ()
    observed_names: tuple[str, ...] = ()

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
        return frame if self.holdout is None else side_by_side(frame, self.holdout.to_frame())

    def _fact(self, name: str) -> float:
        value = getattr(self, name)
        return math.nan if value is None else float(value)

    def __str__(self) -> str:
        accounts = {"training data": self}
        if self.holdout is not None:
            accounts["held-out data"] = self.holdout
        table = lines_of({name: dict(account.estimates()) for name, account in accounts.items()})
        notes = {name: list(account._notes()) for name, account in accounts.items()}
        return "\n".join([*table, *_shared_first(notes)])

    def _notes(self) -> Iterator[str]:
        latent = len(self.latent_names)
        units = latent if self.active_units is None else f"{self.active_units} active of {latent}"
        yield f"{units} latent dimensions, {self.data_size} data"
        if self.saturated:
            cap = sandwich.ceiling(self.data_size)
            yield f"saturated: I is within a nat of its cap ln N = {cap:.4f}; the population's may be larger"
        yield from missing_lines(self.unavailable)


def _shared_first(notes: dict[str, list[str]]) -> Iterator[str]:
    """What is said of all, then what is said of one, under its name."""
    shared = [note for note in next(iter(notes.values())) if all(note in each for each in notes.values())]
    yield from shared
    for name, each in notes.items():
        yield from (f"{name}: {note}" for note in each if note not in shared)


_QUANTITIES = (
    "distortion",
    "rate",
    "elbo",
    "mutual_information",
    "mutual_information_lower",
    "mutual_information_upper",
    "marginal_kl",
    "prior_gap",
    "total_correlation",
    "conditional_total_correlation",
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


def decompose(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Data,
    *,
    num_samples: int = 1,
    batch_size: int = 1024,
    seed: int | None = None,
    data_plate: str | None = None,
    holdout: Data | None = None,
    fabric: Any = None,
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
        fabric: a ``lightning_fabric.Fabric`` that was launched, whose processes each pass the part of the
            data (and of the holdout) that they hold, as many as they like; None for one process. Each of
            them runs the programs on its own data and scores all draws under its own posteriors alone; the
            mixture is put together by a reduced logsumexp, exactly.

    Returns:
        The account, in nats per datum; that of the held-out data in its ``holdout``. Over several processes
        the same on each, and that of a single process that holds their data one after the other, with the
        same draws under the same seed. Where running the guide is the only way to draw (sites that depend on
        each other, flows), the draws differ from a single process's.

    Raises:
        ValueError: for data with nan or of different lengths, a guide that lacks a site of the model, no data
            plate or several; for a holdout of another kind, or a guide whose parameters belong to the
            training data.
        NotImplementedError: for global latents, which :func:`pyro.poutine.condition` can fix.

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> oracle = LinearGaussian.optimum(torch.tensor([4.0, 2.0]), 1.0, 2, s2=0.5)
        >>> account = decompose(oracle.model, oracle.guide, oracle.sample(100, seed=0), seed=0)
        >>> parts = float(account.mutual_information) + float(account.marginal_kl)
        >>> abs(float(account.rate) - parts) < 1e-9
        True
    """
    if num_samples < 1:
        raise ValueError(f"Expected num_samples >= 1 but got {num_samples}")
    ranks = ranks_of(fabric)
    with evaluation_mode(model, guide), torch.no_grad(), seeded_draws(_common(seed, ranks)):
        build = partial(Pair, model, guide, data_plate=data_plate, batch_size=batch_size, ranks=ranks)
        pair = build(data)
        held_out = None if holdout is None else held_out_pair(pair, build, holdout)
        account = account_of(pair, num_samples=num_samples)
        if held_out is not None:
            account = replace(account, holdout=account_of(held_out, num_samples=num_samples, training=pair))
    # What is the same to rounding would still print and compare as different
    return ranks.broadcast(account)  # type: ignore[no-any-return]


def _common(seed: int | None, ranks: Ranks) -> int | None:
    """Processes that compute with the same draws need one seed."""
    if seed is not None or ranks.world_size == 1:
        return seed
    return int(ranks.broadcast(int(torch.randint(2**62, (), device="cpu"))))


def account_of(pair: Pair, *, num_samples: int = 1, training: Pair | None = None) -> Decomposition:
    """Accounts for the nats of a pair as it is, with draws from torch's global state; see :func:`decompose`.

    Args:
        pair: the two joints on their data.
        num_samples: draws of z per datum for the terms of q(z).
        training: the pair of the training data, where these are held out.
    """
    attempt = Attempt()
    several = len(pair.site_names) > 1
    prior = attempt(pair.prior, *_OF_PRIOR, *(["site_marginal_kl"] if several else []))
    scored = pair.score(pair.draw(max(2, num_samples)))
    sizes = pair.site_sizes if several else None
    draws = Draws(
        pair.posterior, prior, z=scored.z[:num_samples], site_sizes=sizes, mixtures=pair.mixtures(sizes)
    )
    account = Account(draws)
    distortion = _sampled(-scored.log_likelihood, "exact", "the distortion of these data")
    rate = _sampled_rate(scored) if prior is None else account.rate
    information = account.mutual_information
    entropy = attempt(lambda: data_entropy(pair), "data_entropy", "decoder_gap")
    site_rate, site_information, site_marginal_kl = _of_sites(account, scored)
    of_dimensions = partial(attempt, reason=cache(lambda: _no_marginals(pair)))
    return Decomposition(
        distortion=distortion,
        rate=rate,
        elbo=_elbo(distortion, rate, scored, account.draws),
        mutual_information=information,
        marginal_kl=attempt(lambda: account.marginal_kl, "marginal_kl"),
        prior_gap=attempt(lambda: _prior_gap(account, training), "prior_gap"),
        total_correlation=of_dimensions(lambda: account.total_correlation, "total_correlation"),
        conditional_total_correlation=of_dimensions(
            lambda: account.conditional_total_correlation, "conditional_total_correlation"
        ),
        dimensionwise_kl=of_dimensions(lambda: account.dimensionwise_kl, "dimensionwise_kl"),
        prior_dependence=None
        if _factors(prior) is not None
        else of_dimensions(lambda: account.prior_dependence, "prior_dependence"),
        dimensionwise_rate=attempt(lambda: _dimensionwise_rate(account.draws), "dimensionwise_rate"),
        mutual_information_lower=sandwich.lower(account),
        mutual_information_upper=sandwich.upper(account),
        active_units=attempt(lambda: _active_units(pair.posterior), "active_units"),
        data_size=pair.data_size,
        saturated=sandwich.is_saturated(information, pair.data_size),
        data_entropy=entropy,
        decoder_gap=None if entropy is None else _decoder_gap(distortion, information, entropy),
        latent_names=tuple(pair.latent_names()),
        unavailable=attempt.reasons,
        site_names=tuple(pair.site_names),
        observed_names=tuple(pair.observed_names),
        site_distortion=_site_distortion(scored),
        site_rate=site_rate,
        site_information=site_information,
        site_marginal_kl=site_marginal_kl,
    )


def _of_sites(account: Account, scored: ScoredDraws) -> tuple[Estimate | None, ...]:
    """Rate, information and marginal KL of each latent site; without a prior no marginal KL."""
    draws = account.draws
    if draws.site_sizes is None:
        return None, None, None
    if draws.prior is None:
        rate = _sampled(scored.log_posterior_sites - scored.log_prior_sites, "exact", "the rate of each site")
        return rate, SiteAccount(account).mutual_information, None
    sites = SiteAccount(account, scored.log_prior_sites[: len(draws.z)])
    return sites.rate, sites.mutual_information, sites.marginal_kl


def _site_distortion(scored: ScoredDraws) -> Estimate | None:
    scores = scored.log_likelihood_sites
    target = "the distortion of each observed site of these data"
    return _sampled(-scores, "exact", target) if scores.shape[-1] > 1 else None


def _no_marginals(pair: Pair) -> str:
    found = pair.ranks.together(pair.dependences)
    return f"{NO_MARGINALS}: {found}" if found else NO_MARGINALS


_OF_PRIOR = ("marginal_kl", "prior_gap", "dimensionwise_kl", "prior_dependence", "dimensionwise_rate")


def _sampled(per_draw: torch.Tensor, bound: Literal["lower", "upper", "exact"], target: str) -> Estimate:
    """The mean of (samples, data) values, at least two samples, by whose spread its own error is known.

    Of (samples, data, sites) values those of each site.
    """
    samples, size = per_draw.shape[:2]
    error = (per_draw.var(0).sum(0) / samples).sqrt() / size
    # the spread has the draws in it too, and falls short of their error by chance alone
    population = torch.maximum(spread(per_draw.mean(0)), error)
    return Estimate(per_draw.mean((0, 1)), error, population, bound, target)


def _sampled_rate(scored: ScoredDraws) -> Estimate:
    return _sampled(scored.log_posterior - scored.log_prior, "exact", "the rate of these data")


def _elbo(distortion: Estimate, rate: Estimate, scored: ScoredDraws, draws: Draws) -> Estimate:
    rates = joint_forms(draws.posterior, draws.prior).rate  # (data,)
    per_draw = scored.log_weight if rates is None else scored.log_likelihood - rates
    paired = _sampled(per_draw, "lower", "the mean log-evidence of these data")
    error = paired.standard_error
    if rates is None and draws.prior is not None:
        # the regression took noise out of the rate alone, which therefore no longer cancels the distortion's
        error = distortion.standard_error + rate.standard_error
    assert paired.population_standard_error is not None
    population = torch.maximum(paired.population_standard_error, error)
    value = -distortion.value - rate.value
    return replace(paired, value=value, standard_error=error, population_standard_error=population)


def _factors(distribution: Any) -> Any:
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
    rates = closed_divergence(posterior, prior)  # (data, latent)
    if rates is None:
        raise NotImplementedError("the divergence of single latent dimensions has no closed form")
    rates = rates.double()
    target = "the rate of each latent dimension of these data"
    return Estimate(rates.mean(0), torch.zeros_like(rates[0]), spread(rates), "exact", target)


def _active_units(posterior: Any) -> int:
    if moments(posterior) is None:
        raise NotImplementedError("the moments of z given x have no closed form")
    return int(active_units(posterior).sum())
