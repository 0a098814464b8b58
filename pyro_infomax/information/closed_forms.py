"""Expectations under each datum's posterior that need no draws; None where no closed form is known."""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.distributions import Normal, kl_divergence

from pyro_infomax.information.families import diagonal_normal


def entropy(distribution: Any) -> Tensor | None:
    """The entropy of every element of the batch."""
    method = getattr(distribution, "entropy", None)
    return None if method is None else _closed(method)


def divergence(posterior: Any, prior: Any) -> Tensor | None:
    """KL[q(z|x_i) ‖ p(z)] as torch has it registered, one for every element of the posterior's batch."""
    return _closed(lambda: kl_divergence(posterior, prior))


def moments(posterior: Any) -> tuple[Tensor, Tensor] | None:
    """Mean and variance, both (batch, latent)."""
    mean, variance = (_closed(lambda which=which: getattr(posterior, which)) for which in ("mean", "variance"))
    return None if mean is None or variance is None else (mean, variance)


def expected_log_normal(posterior: Any, prior: Any) -> Tensor | None:
    """E log p(z_j), (batch, latent), for the Normal factors of a prior: all that it takes is two moments."""
    factors = _normal_factors(prior)
    known = moments(posterior)
    if factors is None or known is None:
        return None
    (loc, scale), (mean, variance) = factors, known
    squares = ((mean - loc) ** 2 + variance) / scale**2
    return -0.5 * squares - scale.log() - 0.5 * math.log(2 * math.pi)


def _normal_factors(prior: Any) -> tuple[Tensor, Tensor] | None:
    return (prior.loc, prior.scale) if isinstance(prior, Normal) else diagonal_normal(prior)


def _closed(evaluate: Callable[[], Tensor]) -> Tensor | None:
    try:
        value = evaluate()
    except (NotImplementedError, AttributeError):
        return None
    return value.double() if bool(value.isfinite().all()) else None
