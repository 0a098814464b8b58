"""The univariate marginals of a distribution over (d,), where they are to be had."""

from typing import Any, Protocol

from torch import Tensor
from torch.distributions import (
    Distribution,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
)

from pyro_infomax.information.factors import elementwise_of
from pyro_infomax.information.families import is_factorised, name


class Marginals(Protocol):
    """Scores each latent dimension by itself."""

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z_j), (..., latent), of z (..., latent)."""


class OwnMarginals:
    """The marginals of a distribution that brings its own ``log_prob_marginals``."""

    def __init__(self, distribution: Any) -> None:
        self.log_prob = distribution.log_prob_marginals


class MixtureMarginals:
    """The marginals of a mixture: the mixture of its components' marginals."""

    def __init__(self, mixture: MixtureSameFamily) -> None:
        self.weights = mixture.mixture_distribution.logits  # (*batch, component)
        self.components = marginals_of(mixture.component_distribution)

    def log_prob(self, z: Tensor) -> Tensor:
        scores = self.components.log_prob(z.unsqueeze(-2))  # (..., component, latent)
        return (scores + self.weights.unsqueeze(-1)).logsumexp(-2)


def marginals_of(distribution: Any) -> Marginals:
    """Univariate distributions of batch shape (*batch, latent), or an object that scores like them.

    Raises:
        NotImplementedError: where the marginals of the family are not known.
    """
    if hasattr(distribution, "log_prob_marginals"):
        return OwnMarginals(distribution)
    if is_factorised(distribution):
        return distribution.base_dist
    if isinstance(distribution, MultivariateNormal | LowRankMultivariateNormal):
        return Normal(distribution.mean, distribution.stddev, validate_args=False)
    if isinstance(distribution, MixtureSameFamily):
        return MixtureMarginals(distribution)
    if isinstance(distribution, TransformedDistribution) and (found := _transformed(distribution)):
        return found
    raise NotImplementedError(
        "Expected a distribution whose univariate marginals are known (Independent over univariate factors, "
        "a multivariate Normal, a mixture of these, either of the former transformed element by element) but "
        f"got {name(distribution)}; give it a method log_prob_marginals(z) of shape (..., d)."
    )


def _transformed(distribution: TransformedDistribution) -> Marginals | None:
    transform = elementwise_of(distribution)
    if transform is None:
        return None
    base: Any = marginals_of(distribution.base_dist)
    known = isinstance(base, Distribution)
    return TransformedDistribution(base, transform, validate_args=False) if known else None
