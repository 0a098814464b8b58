"""Expectations under each datum's posterior that need no draws; None where no closed form is known."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast, final

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

from pyro_infomax.distributions._divergences import closed_divergence, expected_log_normal_density
from pyro_infomax.distributions._families import diagonal_normal
from pyro_infomax.distributions._posterior import Density, Posterior
from pyro_infomax.distributions._products import Marginals, marginals_of


@final
@dataclass(frozen=True)
class ClosedForms:
    """Means over each datum's posterior, (batch,), or (batch, latent) for the dimensions one by one."""

    log_posterior: Tensor | None = None  # E log q(z|x_n), minus the entropy
    log_prior: Tensor | None = None  # E log p(z), minus the cross-entropy
    rate: Tensor | None = None  # KL[q(z|x_n) ‖ p(z)]


@torch.no_grad()
def joint_forms(posterior: Posterior, prior: Density | None) -> ClosedForms:
    """Of z as a whole."""
    log_normal = expected_log_normal(posterior, prior)
    return _forms(posterior, prior, None if log_normal is None else log_normal.sum(-1))


@torch.no_grad()
def marginal_forms(posterior: Posterior, prior: Density | None) -> ClosedForms:
    """Of each z_j by itself; nothing where the marginals are not to be had."""
    one, other = _marginals_or_none(posterior), _marginals_or_none(prior)
    return _forms(one, other, expected_log_normal(one, other))


def _forms(posterior: object, prior: object, log_prior: Tensor | None) -> ClosedForms:
    # whether it is a distribution that knows its entropy is seen by asking
    q, p = cast(Distribution, posterior), cast(Distribution, prior)
    entropies = _closed(lambda: q.entropy())
    own = None if entropies is None else -entropies
    if log_prior is not None:
        return ClosedForms(own, log_prior, None if own is None else own - log_prior)
    rate = _closed(lambda: closed_divergence(q, p))
    return ClosedForms(own, None if own is None or rate is None else own - rate, rate)


def moments(posterior: object) -> tuple[Tensor, Tensor] | None:
    """Mean and variance, both (batch, latent)."""
    mean = _closed(lambda: cast(Distribution, posterior).mean)
    variance = _closed(lambda: cast(Distribution, posterior).variance)
    return None if mean is None or variance is None else (mean, variance)


def expected_log_normal(posterior: object, prior: object) -> Tensor | None:
    """E log p(z_j), (batch, latent), for the Normal factors of a prior: all that it takes is two moments."""
    factors = (prior.loc, prior.scale) if isinstance(prior, Normal) else diagonal_normal(prior)
    known = moments(posterior)
    if factors is None or known is None:
        return None
    (loc, scale), (mean, variance) = factors, known
    return expected_log_normal_density(mean, variance, loc, scale)


def _marginals_or_none(distribution: object) -> Marginals | None:
    try:
        return marginals_of(distribution)
    except NotImplementedError:
        return None


def _closed(evaluate: Callable[[], Tensor | None]) -> Tensor | None:
    """A missing formula or moment is no error here: the draws take its place."""
    try:
        value = evaluate()
    except (NotImplementedError, AttributeError):
        return None
    return None if value is None or not bool(value.isfinite().all()) else value.double()
