r"""The beta-VAE objective: distortion plus β times rate.

Higgins et al., 2017, beta-VAE: Learning basic visual concepts with a constrained variational framework.
"""

from typing import Any, final

from pyro_infomax.infer.objective_weight import ObjectiveWeight, WeightsLike
from pyro_infomax.infer.weighted_elbo import WeightedELBO
from pyro_infomax.infer.weighted_enum import WeightedEnumELBO
from pyro_infomax.infer.weighted_graph import WeightedGraphELBO
from pyro_infomax.infer.weighted_mean_field import WeightedMeanFieldELBO
from pyro_infomax.infer.weighted_trace import WeightedTraceELBO

__all__ = ["TraceEnum_BetaELBO", "TraceGraph_BetaELBO", "TraceMeanField_BetaELBO", "Trace_BetaELBO"]


class _Beta(WeightedELBO):
    def __init__(self, beta: WeightsLike = 4.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.beta = beta

    @property
    def beta(self) -> WeightsLike:
        """The weight of the rate, as it was given."""
        return self.objective_weight.value

    @beta.setter
    def beta(self, value: WeightsLike) -> None:
        self.objective_weight = ObjectiveWeight("beta", value, role="latent")


@final
class Trace_BetaELBO(_Beta, WeightedTraceELBO):
    """The beta-VAE objective by sampled log-probabilities, with reparameterised or score-function gradients.

    Weights, terms and errors are those of :class:`TraceMeanField_BetaELBO`; further arguments those of
    :class:`pyro.infer.Trace_ELBO`.

    Raises:
        NotImplementedError: where a site asks for enumeration.
    """


@final
class TraceMeanField_BetaELBO(_Beta, WeightedMeanFieldELBO):
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
class TraceGraph_BetaELBO(_Beta, WeightedGraphELBO):
    """The beta-VAE objective with score-function gradients that know which sites depend on which.

    Weights, terms and errors are those of :class:`TraceMeanField_BetaELBO`; further arguments those of
    :class:`pyro.infer.TraceGraph_ELBO`.

    Raises:
        NotImplementedError: where a site asks for enumeration.
    """


@final
class TraceEnum_BetaELBO(_Beta, WeightedEnumELBO):
    """The beta-VAE objective with exact sums over the sites that are enumerated.

    Weights, terms and errors are those of :class:`TraceMeanField_BetaELBO`; further arguments those of
    :class:`pyro.infer.TraceEnum_ELBO`.

    A site enumerated in the model must weigh the same as the sites that it is summed with, which a mapping
    says.

    Raises:
        NotImplementedError: where the guide is itself a messenger.
    """
