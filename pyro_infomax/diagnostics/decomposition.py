"""The account of a pair's nats."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, Literal, final

import pandas as pd
import torch
from torch.distributions import kl_divergence

from pyro_infomax.diagnostics.pair import Pair, ScoredDraws
from pyro_infomax.information import Account, Draws, Estimate, active_units
from pyro_infomax.information.closed_forms import joint_forms, moments
from pyro_infomax.information.families import is_factorised
from pyro_infomax.nn.module_modes import evaluation_mode
from pyro_infomax.poutine import Data
from pyro_infomax.random_state import seeded_draws

__all__ = ["Decomposition", "decompose"]

_POPULATION: Final = "the mutual information of the representation in the population"
_SATURATION: Final = 1.0  # nats below ln N
_NO_MARGINALS: Final = "single latent dimensions of the guide or the prior have no density in closed form"


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
        mutual_information_lower: a lower bound on the population's I in expectation: the exact mixture.
        mutual_information_upper: an upper bound on it in expectation: the smaller of rate and leave-one-out.
        active_units: the number of latent dimensions with Var_x E[z_j|x] > 0.01.
        data_size: N.
        saturated: whether I > ln N − 1, so that it says more about N than about the representation.
        latent_names: a name for every latent dimension.
        unavailable: field names to the reason why they are None.
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

    def estimates(self) -> Iterator[tuple[str, Estimate]]:
        """Every estimated quantity by name, vectors dimension by dimension."""
        for name in _QUANTITIES:
            estimate = getattr(self, name)
            if estimate is None:
                continue
            if estimate.value.dim():
                yield from ((f"{name}[{z}]", e) for z, e in zip(self.latent_names, estimate, strict=True))
            else:
                yield name, estimate

    def to_frame(self) -> pd.DataFrame:
        """A row a quantity, in nats per datum: value, its two standard errors, bound and target.

        ``active_units``, ``data_size`` and ``saturated`` follow as rows without errors.
        """
        rows = {name: _row(estimate) for name, estimate in self.estimates()}
        for name in ("active_units", "data_size", "saturated"):
            value = getattr(self, name)
            rows[name] = {"value": math.nan if value is None else float(value), "target": _PLAIN[name]}
        frame = pd.DataFrame.from_dict(rows, orient="index", columns=_COLUMNS)
        return frame.rename_axis("quantity")

    def __str__(self) -> str:
        return "\n".join([*self._table(), *self._notes()])

    def _table(self) -> Iterator[str]:
        estimates = list(self.estimates())
        width = max(len(name) for name, _ in estimates)
        yield f"{'nats per datum':<{width}}{'value':>12}{'s.e.':>10}{'pop. s.e.':>11}  bound"
        for name, estimate in estimates:
            row = _row(estimate)
            errors = f"{row['standard_error']:>10.4f}{row['population_standard_error']:>11.4f}"
            yield f"{name:<{width}}{row['value']:>z12.4f}{errors}  {row['bound']}"

    def _notes(self) -> Iterator[str]:
        latent = len(self.latent_names)
        units = latent if self.active_units is None else f"{self.active_units} active of {latent}"
        yield f"{units} latent dimensions, {self.data_size} data"
        if self.saturated:
            cap = math.log(self.data_size)
            yield f"saturated: I is within a nat of its cap ln N = {cap:.4f}; the population's may be larger"
        for reason in dict.fromkeys(self.unavailable.values()):
            names = [name for name, each in self.unavailable.items() if each == reason]
            yield f"not available: {', '.join(names)} ({reason.rstrip('.')})"


_QUANTITIES = (
    "distortion",
    "rate",
    "elbo",
    "mutual_information",
    "mutual_information_lower",
    "mutual_information_upper",
    "marginal_kl",
    "total_correlation",
    "prior_dependence",
    "dimensionwise_kl",
    "dimensionwise_rate",
)
_COLUMNS = ["value", "standard_error", "population_standard_error", "bound", "target"]
_PLAIN = {
    "active_units": "latent dimensions with Var_x E[z_j|x] > 0.01",
    "data_size": "N",
    "saturated": "whether I > ln N - 1",
}


def _row(estimate: Estimate) -> dict[str, Any]:
    population = estimate.population_standard_error
    return {
        "value": float(estimate.value),
        "standard_error": float(estimate.standard_error),
        "population_standard_error": math.nan if population is None else float(population),
        "bound": estimate.bound,
        "target": estimate.target,
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

    Returns:
        The account, in nats per datum.

    Raises:
        ValueError: for data with nan or of different lengths, a guide that lacks a site of the model, no data
            plate or several.
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
    with evaluation_mode(model, guide), torch.no_grad(), seeded_draws(seed):
        pair = Pair(model, guide, data, data_plate=data_plate, batch_size=batch_size)
        return account_of(pair, num_samples=num_samples)


def account_of(pair: Pair, *, num_samples: int = 1) -> Decomposition:
    """Accounts for the nats of a pair as it is, with draws from torch's global state; see :func:`decompose`.

    Args:
        pair: the two joints on their data.
        num_samples: draws of z per datum for the terms of q(z).
    """
    attempt = _Attempt()
    prior = attempt(pair.prior, *_OF_PRIOR)
    scored = pair.score(pair.draw(max(2, num_samples)))
    account = Account(Draws(pair.posterior, prior, z=scored.z[:num_samples], progress=True))
    distortion = _sampled(-scored.log_likelihood, "exact", "the distortion of these data")
    rate = _sampled_rate(scored) if prior is None else account.rate
    information = account.mutual_information
    of_dimensions = partial(attempt, reason=_NO_MARGINALS)
    return Decomposition(
        distortion=distortion,
        rate=rate,
        elbo=_elbo(distortion, rate, scored, account.draws),
        mutual_information=information,
        marginal_kl=attempt(lambda: account.marginal_kl, "marginal_kl"),
        total_correlation=of_dimensions(lambda: account.total_correlation, "total_correlation"),
        dimensionwise_kl=of_dimensions(lambda: account.dimensionwise_kl, "dimensionwise_kl"),
        prior_dependence=None
        if _factors(prior) is not None
        else of_dimensions(lambda: account.prior_dependence, "prior_dependence"),
        dimensionwise_rate=attempt(lambda: _dimensionwise_rate(account.draws), "dimensionwise_rate"),
        mutual_information_lower=replace(information, bound="lower", target=_POPULATION),
        mutual_information_upper=_upper(account),
        active_units=attempt(lambda: _active_units(pair.posterior), "active_units"),
        data_size=pair.data_size,
        saturated=float(information) > math.log(pair.data_size) - _SATURATION,
        latent_names=tuple(pair.latent_names()),
        unavailable=attempt.reasons,
    )


_OF_PRIOR = ("marginal_kl", "dimensionwise_kl", "prior_dependence", "dimensionwise_rate")


@final
class _Attempt:
    """Quantities that may not exist, and the reasons why those that do not are None."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def __call__(self, quantity: Callable[[], Any], *names: str, reason: str | None = None) -> Any:
        if names[0] in self.reasons:
            return None
        try:
            return quantity()
        except NotImplementedError as error:
            self.reasons.update(dict.fromkeys(names, reason or str(error)))
            return None


def _sampled(per_draw: torch.Tensor, bound: Literal["lower", "upper", "exact"], target: str) -> Estimate:
    """The mean of (samples, data) values, at least two samples, by whose spread its own error is known."""
    samples, size = per_draw.shape
    error = (per_draw.var(0).sum() / samples).sqrt() / size
    return Estimate(per_draw.mean(), error, _spread(per_draw.mean(0)), bound, target)


def _spread(per_datum: torch.Tensor) -> torch.Tensor:
    size = len(per_datum)
    return per_datum.std(0) / math.sqrt(size) if size > 1 else torch.full_like(per_datum[0], math.nan)


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


def _upper(account: Account) -> Estimate:
    """The smaller of the two upper bounds, where there are two.

    The rate against a prior that depends on the data bounds nothing; a single datum, which has no other to
    leave in, cannot show such a prior.
    """
    bounds = [] if account.draws.prior is None else [account.rate]
    if account.draws.data_size > 1:
        bounds.append(account.leave_one_out)
    return replace(min(bounds, key=float), bound="upper", target=_POPULATION)


def _dimensionwise_rate(draws: Draws) -> Estimate:
    posterior, prior = _factors(draws.posterior), _factors(draws.prior)
    if posterior is None or prior is None:
        raise NotImplementedError("guide and prior are not both products over the latent dimensions")
    rates = kl_divergence(posterior, prior.expand(posterior.batch_shape)).double()  # (data, latent)
    target = "the rate of each latent dimension of these data"
    return Estimate(rates.mean(0), torch.zeros_like(rates[0]), _spread(rates), "exact", target)


def _active_units(posterior: Any) -> int:
    if moments(posterior) is None:
        raise NotImplementedError("the moments of z given x have no closed form")
    return int(active_units(posterior).sum())
