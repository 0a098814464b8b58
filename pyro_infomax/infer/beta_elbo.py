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
    r"""The beta-VAE objective by sampled log-probabilities, with reparameterised or score-function gradients.

    .. math:: D + \beta R = -\mathbb{E} \log p(x \mid z) + \beta \, \mathbb{E} \log \frac{q(z \mid x)}{p(z)}

    Every site of the guide and every latent site of the model weighs β. The InfoMax objective with λ = 1/β −
    1 is this one times 1 + λ: the same minimiser, gradients that are smaller here by the factor β. After an
    evaluation ``terms`` holds the unweighted :class:`~pyro_infomax.infer.Terms`.

    Args:
        beta: a number or tensor >= 0, a schedule, or a mapping from site names of the model to these; sites
            that a mapping does not name keep weight 1.
        **kwargs: those of :class:`pyro.infer.Trace_ELBO`.

    Raises:
        ValueError: if a weight is negative or not finite, or names no site of the model.
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
    """


@final
class TraceGraph_BetaELBO(_Beta, WeightedGraphELBO):
    r"""The beta-VAE objective with score-function gradients of lower variance, by the dependencies between
    the sites.

    .. math:: D + \beta R = -\mathbb{E} \log p(x \mid z) + \beta \, \mathbb{E} \log \frac{q(z \mid x)}{p(z)}

    Every site of the guide and every latent site of the model weighs β. The InfoMax objective with λ = 1/β −
    1 is this one times 1 + λ: the same minimiser, gradients that are smaller here by the factor β. After an
    evaluation ``terms`` holds the unweighted :class:`~pyro_infomax.infer.Terms`.

    Args:
        beta: a number or tensor >= 0, a schedule, or a mapping from site names of the model to these; sites
            that a mapping does not name keep weight 1.
        **kwargs: those of :class:`pyro.infer.TraceGraph_ELBO`.

    Raises:
        ValueError: if a weight is negative or not finite, or names no site of the model.
        NotImplementedError: where a site asks for enumeration.
    """


@final
class TraceEnum_BetaELBO(_Beta, WeightedEnumELBO):
    r"""The beta-VAE objective with exact sums over the sites that are enumerated.

    .. math:: D + \beta R = -\mathbb{E} \log p(x \mid z) + \beta \, \mathbb{E} \log \frac{q(z \mid x)}{p(z)}

    Every site of the guide and every latent site of the model weighs β. The InfoMax objective with λ = 1/β −
    1 is this one times 1 + λ: the same minimiser, gradients that are smaller here by the factor β. After an
    evaluation ``terms`` holds the unweighted :class:`~pyro_infomax.infer.Terms`.

    A site enumerated in the model must weigh the same as the sites that it is summed with, which a mapping
    says.

    Args:
        beta: a number or tensor >= 0, a schedule, or a mapping from site names of the model to these; sites
            that a mapping does not name keep weight 1.
        **kwargs: those of :class:`pyro.infer.TraceEnum_ELBO`.

    Raises:
        ValueError: if a weight is negative or not finite, or names no site of the model.
        NotImplementedError: where the guide is itself a messenger.
    """
