r"""The two weightings, on each estimator: β on the rate, λ on the information by its bound.

Higgins et al., 2017, beta-VAE: Learning basic visual concepts with a constrained variational framework.
"""

from typing import final

from pyro_infomax.infer._elbo import WeightedELBO
from pyro_infomax.infer._enum import TraceEnum_WeightedELBO
from pyro_infomax.infer._estimators import (
    Trace_WeightedELBO,
    TraceGraph_WeightedELBO,
    TraceMeanField_WeightedELBO,
)
from pyro_infomax.infer._weights import TermWeight, WeightsLike

# ---- Distortion plus β times rate.


class BetaWeighted(WeightedELBO):
    def __init__(self, beta: WeightsLike = 4.0, **kwargs: object) -> None:
        super().__init__(weights={"rate": TermWeight("beta", beta)}, **kwargs)

    @property
    def beta(self) -> WeightsLike:
        """The weight of the rate, as it was given."""
        return self.weights["rate"]

    @beta.setter
    def beta(self, value: WeightsLike) -> None:
        self.weights["rate"] = value


@final
class Trace_BetaELBO(BetaWeighted, Trace_WeightedELBO):
    """The beta-VAE objective by sampled log-probabilities, with reparameterised or score-function gradients.

    Weights, terms and errors are those of :class:`TraceMeanField_BetaELBO`; further arguments those of
    :class:`pyro.infer.Trace_ELBO`.

    Raises:
        NotImplementedError: where a site asks for enumeration.
    """


@final
class TraceMeanField_BetaELBO(BetaWeighted, TraceMeanField_WeightedELBO):
    r"""The beta-VAE objective with the KL divergence in closed form where there is one.

    .. math:: D + \beta R = -\mathbb{E} \log p(x \mid z) + \beta \, \mathbb{E} \log \frac{q(z \mid x)}{p(z)}

    Every site of the guide and every latent site of the model weighs β. The InfoMax objective with λ = 1/β −
    1 is this one times 1 + λ: the same minimiser, gradients that are smaller here by the factor β. After an
    evaluation ``terms`` holds the unweighted :class:`~pyro_infomax.infer.Terms`.

    Args:
        beta: a number or tensor >= 0, a schedule, or a mapping from site names of the model to these; sites
            that a mapping does not name keep weight 1.
        **kwargs: those of :class:`pyro.infer.TraceMeanField_ELBO`.

    Raises:
        ValueError: if a weight is negative or not finite, or names no site of the model.
        NotImplementedError: where a guide site is not reparameterised or asks for enumeration.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> elbo = TraceMeanField_BetaELBO(beta=4.0)
        >>> loss = elbo.loss(model, guide, torch.tensor([-1.0, 1.0]))
        >>> terms = elbo.terms
        >>> abs(loss - (terms.distortion + 4 * terms.rate)) < 1e-4
        True
    """


@final
class TraceGraph_BetaELBO(BetaWeighted, TraceGraph_WeightedELBO):
    """The beta-VAE objective with score-function gradients that know which sites depend on which.

    Weights, terms and errors are those of :class:`TraceMeanField_BetaELBO`; further arguments those of
    :class:`pyro.infer.TraceGraph_ELBO`.

    Raises:
        NotImplementedError: where a site asks for enumeration.
    """


@final
class TraceEnum_BetaELBO(BetaWeighted, TraceEnum_WeightedELBO):
    """The beta-VAE objective with exact sums over the sites that are enumerated.

    Weights, terms and errors are those of :class:`TraceMeanField_BetaELBO`; further arguments those of
    :class:`pyro.infer.TraceEnum_ELBO`.

    A site enumerated in the model must weigh the same as the sites that it is summed with, which a mapping
    says.

    Raises:
        NotImplementedError: where the guide is itself a messenger.
    """


# ---- The InfoMax objective: information rewarded at λ nats a nat, by its variational bound.
#
# Barber and Agakov (2003), The IM algorithm: a variational approach to information maximization.


class InfoMaxWeighted(WeightedELBO):
    def __init__(self, lam: WeightsLike = 3.0, **kwargs: object) -> None:
        weight = TermWeight("lam", lam, above=-1.0, offset=1.0)
        super().__init__(weights={"distortion": weight}, **kwargs)

    @property
    def lam(self) -> WeightsLike:
        """The InfoMax weight λ, as it was given."""
        return self.weights["distortion"]

    @lam.setter
    def lam(self, value: WeightsLike) -> None:
        self.weights["distortion"] = value


@final
class Trace_InfoMaxELBO(InfoMaxWeighted, Trace_WeightedELBO):
    """The InfoMax objective by sampled log-probabilities, with reparameterised or score-function gradients.

    Weights, terms and errors are those of :class:`TraceMeanField_InfoMaxELBO`; further arguments, and what is
    refused, those of :class:`Trace_BetaELBO`.
    """


@final
class TraceMeanField_InfoMaxELBO(InfoMaxWeighted, TraceMeanField_WeightedELBO):
    r"""The InfoMax objective with the KL divergence in closed form where there is one.

    .. math:: (1 + \lambda) D + R = -(1 + \lambda) \, \mathbb{E} \log p(x \mid z)
        + \mathbb{E} \log \frac{q(z \mid x)}{p(z)}

    Every observed site of the model weighs 1 + λ. It is the beta-VAE objective with β = 1/(1 + λ), times 1 +
    λ. After an evaluation ``terms`` holds the unweighted :class:`~pyro_infomax.infer.Terms`.

    Args:
        lam: a number or tensor > -1, a schedule, or a mapping from site names of the model to these: a named
            site weighs 1 + λ, the others keep weight 1.
        **kwargs: those of :class:`pyro.infer.TraceMeanField_ELBO`.

    Raises:
        ValueError: if a weight is not above -1 or not finite, or names no site of the model.
        NotImplementedError: where a guide site is not reparameterised or asks for enumeration.

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> pair = LinearGaussian(S=[2.0], W=[[1.0]], s2=1.0, V=[[0.5]], Delta=[0.5])
        >>> elbo = TraceMeanField_InfoMaxELBO(lam=3.0)
        >>> loss = elbo.loss(pair.model, pair.guide, pair.sample(10))
        >>> terms = elbo.terms
        >>> abs(loss - (4 * terms.distortion + terms.rate)) < 1e-4
        True
    """


@final
class TraceGraph_InfoMaxELBO(InfoMaxWeighted, TraceGraph_WeightedELBO):
    """The InfoMax objective with score-function gradients of lower variance, by dependencies between sites.

    Weights, terms and errors are those of :class:`TraceMeanField_InfoMaxELBO`; further arguments, and what is
    refused, those of :class:`TraceGraph_BetaELBO`.
    """


@final
class TraceEnum_InfoMaxELBO(InfoMaxWeighted, TraceEnum_WeightedELBO):
    """The InfoMax objective with exact sums over the sites that are enumerated.

    Weights, terms and errors are those of :class:`TraceMeanField_InfoMaxELBO`; further arguments, and what is
    refused, those of :class:`TraceEnum_BetaELBO`.
    """
