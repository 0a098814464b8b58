"""Closed forms between families on the positive half-line, from the few moments that their densities take.

Each log-density here is linear in log z, (log z)² and one or two powers of z. An entropy on one side, these
moments on it, and the coefficients on the other side give every pair.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import Tensor
from torch.distributions import Exponential, Gamma, HalfNormal, LogNormal, Weibull


@final
@dataclass(frozen=True)
class LogMoments:
    """Moments of log z, each (*batch), and log E z^k as a function of k."""

    mean: Tensor
    variance: Tensor
    log_power: Callable[[Any], Tensor]


def positive_divergence(posterior: Any, prior: Any) -> Tensor | None:
    """KL between two univariate positive families, (*batch); None where one of the two is not known."""
    moments = _of_family(_MOMENTS, posterior)
    expected = _of_family(_EXPECTED_LOG_DENSITIES, prior)
    if moments is None or expected is None:
        return None
    divergence: Tensor = -posterior.entropy() - expected(prior, moments(posterior))
    return divergence


def _of_family(table: dict[type, Callable[..., Any]], distribution: Any) -> Callable[..., Any] | None:
    return next((value for family, value in table.items() if isinstance(distribution, family)), None)


# ---- moments of a posterior


def _log_normal_moments(q: LogNormal) -> LogMoments:
    variance = q.scale**2
    return LogMoments(q.loc, variance, lambda k: k * q.loc + k**2 * variance / 2)


def _gamma_moments(q: Gamma) -> LogMoments:
    return _moments_of_gamma(q.concentration, q.rate)


def _exponential_moments(q: Exponential) -> LogMoments:
    return _moments_of_gamma(torch.ones_like(q.rate), q.rate)


def _moments_of_gamma(a: Tensor, rate: Tensor) -> LogMoments:
    def log_power(k: Any) -> Tensor:
        return (a + k).lgamma() - a.lgamma() - k * rate.log()

    return LogMoments(a.digamma() - rate.log(), torch.polygamma(1, a), log_power)


def _weibull_moments(q: Weibull) -> LogMoments:
    # (z / scale)^concentration is a standard exponential variable
    standard = _moments_of_gamma(torch.ones_like(q.scale), torch.ones_like(q.scale))
    return _scaled_root(standard, q.scale, q.concentration)


def _half_normal_moments(q: HalfNormal) -> LogMoments:
    # (z / scale)² is a chi-squared variable of one degree of freedom
    half = torch.full_like(q.scale, 0.5)
    return _scaled_root(_moments_of_gamma(half, half), q.scale, torch.full_like(q.scale, 2.0))


def _scaled_root(inner: LogMoments, scale: Tensor, order: Tensor) -> LogMoments:
    """Of scale · u^(1/order), where the moments of u are given."""

    def log_power(k: Any) -> Tensor:
        return k * scale.log() + inner.log_power(k / order)

    return LogMoments(scale.log() + inner.mean / order, inner.variance / order**2, log_power)


_MOMENTS: Final[dict[type, Callable[..., Any]]] = {
    LogNormal: _log_normal_moments,
    Gamma: _gamma_moments,
    Exponential: _exponential_moments,
    Weibull: _weibull_moments,
    HalfNormal: _half_normal_moments,
}


# ---- expected log-densities of a prior


def _expected_log_normal(p: LogNormal, z: LogMoments) -> Tensor:
    squares = ((z.mean - p.loc) ** 2 + z.variance) / p.scale**2
    return -z.mean - p.scale.log() - 0.5 * math.log(2 * math.pi) - 0.5 * squares


def _expected_gamma(p: Gamma, z: LogMoments) -> Tensor:
    a, rate = p.concentration, p.rate
    return a * rate.log() - a.lgamma() + (a - 1) * z.mean - rate * z.log_power(1.0).exp()


def _expected_exponential(p: Exponential, z: LogMoments) -> Tensor:
    return p.rate.log() - p.rate * z.log_power(1.0).exp()


def _expected_weibull(p: Weibull, z: LogMoments) -> Tensor:
    k, log_scale = p.concentration, p.scale.log()
    return k.log() - log_scale + (k - 1) * (z.mean - log_scale) - (z.log_power(k) - k * log_scale).exp()


def _expected_half_normal(p: HalfNormal, z: LogMoments) -> Tensor:
    return 0.5 * math.log(2 / math.pi) - p.scale.log() - 0.5 * z.log_power(2.0).exp() / p.scale**2


_EXPECTED_LOG_DENSITIES: Final[dict[type, Callable[..., Any]]] = {
    LogNormal: _expected_log_normal,
    Gamma: _expected_gamma,
    Exponential: _expected_exponential,
    Weibull: _expected_weibull,
    HalfNormal: _expected_half_normal,
}
