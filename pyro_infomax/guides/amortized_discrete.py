"""The discrete family of amortised guides."""

from collections.abc import Callable, Mapping
from typing import Any, final

from torch import Tensor, nn

from pyro_infomax.guides.amortized_guide import AmortizedGuide, Head, Plates
from pyro_infomax.guides.prototype import LatentSite
from pyro_infomax.guides.supports import check_discrete
from pyro_infomax.nn import discrete_head
from pyro_infomax.nn.discrete_heads import Temperature, check_discrete_options


@final
class AmortizedDiscrete(AmortizedGuide):
    r"""Bernoulli, Categorical and one-hot posteriors whose logits come from an encoder.

    .. math:: q_\psi(z \mid x) = \prod_s \mathrm{Cat}\bigl(z_s;\, \mathrm{softmax}\, \ell_s(x)\bigr)

    There are three ways to their gradient. By default each site asks to be enumerated, and a TraceEnum
    objective sums over its values exactly. With ``enumerate=False`` the site is drawn, and a Trace or
    TraceGraph objective takes the score function. With a ``temperature`` the draw is still exactly discrete,
    and its gradient that of a relaxed draw, which is biased, and less so the lower the temperature; a
    TraceMeanField objective then takes the KL in closed form. In a guide of another family, it serves the
    discrete sites: ``AmortizedNormal(model, encoder, heads={"y": AmortizedDiscrete})``.

    References:
        Jang, Gu and Poole, 2017, "Categorical reparameterization with Gumbel-softmax".
        Maddison, Mnih and Teh, 2017, "The concrete distribution".

    Args:
        model: the Pyro model. Its positional arguments are the data, one datum a row of the first axis.
        encoder: from the same positional arguments to features (batch, h), such as
            :class:`~pyro_infomax.nn.MLPEncoder`.
        enumerate: whether the sites ask for enumeration; None if there is no temperature.
        temperature: of the relaxed gradient, a number above 0, or a function without arguments that gives
            one at each call; None for no relaxation.
        heads: site names to what serves these sites instead of the family; see :class:`AmortizedGuide`.
        structured: whether each site depends on those that the model samples before it.
        create_plates: from the arguments to the plates of the guide.

    Raises:
        ValueError: unless temperature > 0, and for a temperature with ``enumerate=True``; and as
            :class:`AmortizedGuide`.
        NotImplementedError: for continuous sites, infinite supports, and events with axes that are to be
            enumerated; and as :class:`AmortizedGuide`.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> from pyro_infomax.nn import MLPEncoder
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         y = pyro.sample("y", dist.Categorical(torch.ones(3)))
        ...         pyro.sample("x", dist.Normal(y.to(x.dtype), 1.0), obs=x[..., 0])
        >>> guide = AmortizedDiscrete(model, MLPEncoder(1))
        >>> guide.posterior(torch.zeros(5, 1))["y"].probs.shape
        torch.Size([5, 3])
        >>> pyro.clear_param_store()
    """

    def __init__(
        self,
        model: Callable[..., Any],
        encoder: Callable[..., Tensor],
        *,
        enumerate: bool | None = None,
        temperature: Temperature | None = None,
        heads: Mapping[str, Head] | None = None,
        structured: bool = False,
        create_plates: Callable[..., Plates] | None = None,
    ) -> None:
        check_discrete_options(enumerate, temperature)
        super().__init__(model, encoder, heads=heads, structured=structured, create_plates=create_plates)
        self._enumerate = enumerate
        self._temperature = temperature

    def make_head(self, site: LatentSite, in_features: int) -> nn.Module:
        """A linear head of logits.

        Args:
            site: a latent site inside the data plate.
            in_features: number of features.

        Raises:
            NotImplementedError: if the site is continuous, or cannot be served as asked for.
        """
        check_discrete(site, type(self).__name__)
        return discrete_head(
            site.support,
            site.event_shape,
            in_features,
            enumerate=self._enumerate,
            temperature=self._temperature,
        )
