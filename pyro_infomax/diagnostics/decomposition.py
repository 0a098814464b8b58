"""The account of a pair's nats."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final, final

import pandas as pd
import torch
from torch.distributions import kl_divergence

from pyro_infomax.diagnostics.pair import Pair, ScoredDraws
from pyro_infomax.information import Account, Draws, Estimate, active_units
from pyro_infomax.poutine import Data, evaluation_mode

__all__ = ["Decomposition", "decompose"]

_POPULATION: Final = "the mutual information of the representation in the population"
_SATURATION: Final = 1.0  # nats below ln N


@final
@dataclass(frozen=True)
class Decomposition:
    r"""Where the nats of a pair of joints are, per datum.

    .. math:: R = I + \mathrm{KL}[q(z) \| p(z)], \qquad
        \mathrm{KL}[q(z) \| p(z)] = \mathrm{TC} + \sum_j \mathrm{KL}[q(z_j) \| p(z_j)]

    A field that cannot be had is None, and :attr:`unavailable` says why.

    Attributes:
        distortion: −E log p(x|z).
        rate: E KL[q(z|x) ‖ p(z)].
        elbo: −distortion − rate.
        mutual_information: I[X;Z] under the empirical data distribution, by the exact mixture; at most ln N.
        marginal_kl: KL[q(z) ‖ p(z)].
        total_correlation: KL[q(z) ‖ Π_j q(z_j)].
        dimensionwise_kl: KL[q(z_j) ‖ p(z_j)], one a latent dimension.
        dimensionwise_rate: E KL[q(z_j|x) ‖ p(z_j)], one a latent dimension, where both factorise.
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
        lines = [f"{'nats per datum':<28}{'value':>10}{'s.e.':>9}{'pop. s.e.':>11}  bound"]
        for name, estimate in self.estimates():
            row = _row(estimate)
            errors = f"{row['standard_error']:>9.4f}{row['population_standard_error']:>11.4f}"
            lines.append(f"{name:<28}{row['value']:>10.4f}{errors}  {row['bound']}")
        lines.append(f"active units {self.active_units} of {len(self.latent_names)}, {self.data_size} data")
        if self.saturated:
            cap = math.log(self.data_size)
            lines.append(
                f"saturated: I is within a nat of its cap ln N = {cap:.4f}; the population's may be larger"
            )
        lines.extend(f"{name}: not available, since {reason}" for name, reason in self.unavailable.items())
        return "\n".join(lines)


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
    float64. Modules run in evaluation mode and without gradients; parameters and random state stay as they
    are.

    Reference: Hoffman and Johnson, 2016, ELBO surgery: yet another way to carve up the variational evidence
    lower bound.

    Args:
        model: a Pyro program with a plate around its observed sites.
        guide: a Pyro program over the same local latent sites.
        data: a tensor or a tuple of tensors, whose first axis is the data: the arguments of both.
        num_samples: draws of z per datum for the terms of q(z). The distortion takes at least two, by which
            its error is known.
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
        >>> float(account.rate) - float(account.mutual_information) - float(account.marginal_kl) < 1e-9
        True
    """
    if num_samples < 1:
        raise ValueError(f"Expected num_samples >= 1 but got {num_samples}")
    with evaluation_mode(model, guide), torch.no_grad(), torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        pair = Pair(model, guide, data, data_plate=data_plate, batch_size=batch_size)
        return _decomposed(pair, num_samples)


def _decomposed(pair: Pair, num_samples: int) -> Decomposition:
    unavailable: dict[str, str] = {}
    prior = _or_reason(lambda: pair.generative.prior(pair.space, pair.data), "marginal_kl", unavailable)
    z = pair.draw(max(2, num_samples))
    scored = pair.score(z)
    account = Account(Draws(pair.representation.posterior, prior, z=z[:num_samples], progress=True))
    closed = _closed_rates(pair.representation.posterior, prior)
    rate = account.rate if prior is not None else _sampled_rate(scored)
    distortion = _sampled(-scored.log_likelihood, "exact", "the distortion of these data")
    information = account.mutual_information

    def of_prior(name: str) -> Estimate | None:
        if prior is None:
            unavailable[name] = unavailable["marginal_kl"]
            return None
        found: Estimate | None = _or_reason(lambda: getattr(account, name), name, unavailable)
        return found

    size = pair.representation.data_size
    return Decomposition(
        distortion=distortion,
        rate=rate,
        elbo=_elbo(distortion, rate, scored, closed),
        mutual_information=information,
        marginal_kl=of_prior("marginal_kl"),
        total_correlation=_or_reason(lambda: account.total_correlation, "total_correlation", unavailable),
        dimensionwise_kl=of_prior("dimensionwise_kl"),
        prior_dependence=_dependence(of_prior("prior_dependence")),
        dimensionwise_rate=_dimensionwise_rate(pair.representation.posterior, prior),
        mutual_information_lower=replace(information, bound="lower", target=_POPULATION),
        mutual_information_upper=_upper(account, rate, size),
        active_units=_or_reason(
            lambda: int(active_units(pair.representation.posterior).sum()), "active_units", unavailable
        ),
        data_size=size,
        saturated=float(information) > math.log(size) - _SATURATION,
        latent_names=tuple(pair.latent_names()),
        unavailable=unavailable,
    )


def _or_reason(quantity: Callable[[], Any], name: str, unavailable: dict[str, str]) -> Any:
    """The quantity, or None with the reason kept."""
    try:
        return quantity()
    except (NotImplementedError, AttributeError) as error:
        unavailable[name] = str(error)
        return None


def _dependence(estimate: Estimate | None) -> Estimate | None:
    """The prior's own dependence, None where it is a product and has none."""
    if estimate is None or (float(estimate.value) == 0 and float(estimate.standard_error) == 0):
        return None
    return estimate


def _sampled(per_draw: torch.Tensor, bound: Any, target: str) -> Estimate:
    """The mean of (samples, data) values with its errors; the draws' own shows from two samples a datum on."""
    samples, size = per_draw.shape
    error = (per_draw.var(0).sum() / samples).sqrt() / size
    return Estimate(per_draw.mean(), error, _spread(per_draw.mean(0)), bound, target)


def _spread(per_datum: torch.Tensor) -> torch.Tensor:
    size = len(per_datum)
    return per_datum.std(0) / math.sqrt(size) if size > 1 else torch.full_like(per_datum[0], math.nan)


def _sampled_rate(scored: ScoredDraws) -> Estimate:
    return _sampled(scored.log_posterior - scored.log_prior, "exact", "the rate of these data")


def _closed_rates(posterior: Any, prior: Any) -> torch.Tensor | None:
    """KL[q(z|x_n) ‖ p(z)] of each datum, (data,), None where it has no closed form."""
    try:
        rates = kl_divergence(posterior, prior).double()
    except NotImplementedError:
        return None
    return rates if rates.shape == posterior.batch_shape else None


def _elbo(distortion: Estimate, rate: Estimate, scored: ScoredDraws, closed: torch.Tensor | None) -> Estimate:
    per_draw = scored.log_weight if closed is None else scored.log_likelihood - closed
    error = _sampled(per_draw, "lower", "the mean log-evidence of these data")
    return replace(error, value=-distortion.value - rate.value)


def _upper(account: Account, rate: Estimate, size: int) -> Estimate:
    """The smaller of the two upper bounds; a single datum has no other to leave in."""
    bounds = [rate] if size == 1 else [rate, account.leave_one_out]
    return replace(min(bounds, key=float), bound="upper", target=_POPULATION)


def _dimensionwise_rate(posterior: Any, prior: Any) -> Estimate | None:
    factors: list[Any] = [getattr(each, "base_dist", None) for each in (posterior, prior)]
    if any(each is None or each.event_shape for each in factors):
        return None
    try:
        rates = kl_divergence(*factors).double()  # (data, latent)
    except NotImplementedError:
        return None
    target = "the rate of each latent dimension of these data"
    return Estimate(rates.mean(0), torch.zeros_like(rates[0]), _spread(rates), "exact", target)
