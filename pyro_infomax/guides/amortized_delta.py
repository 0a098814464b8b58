"""The family of amortised guides that give points."""

from typing import final

from torch import nn

from pyro_infomax.guides.amortized_guide import AmortizedGuide
from pyro_infomax.guides.prototype import LatentSite
from pyro_infomax.guides.supports import check_continuous
from pyro_infomax.nn import DeltaHead


@final
class AmortizedDelta(AmortizedGuide):
    r"""Point estimates whose values come from an encoder: amortised maximum a posteriori.

    .. math:: q_\psi(z \mid x) = \prod_s \delta\bigl(z_s - t_s(\mu_s(x))\bigr)

    with t a bijection onto the support, the identity for the reals. A point has no density, so that rate and
    information of such a guide are infinite: :func:`~pyro_infomax.decompose` refuses it.

    Reference: Bishop, 2006, "Pattern recognition and machine learning", section 4.1, for point estimates; the
    autoencoder is the oldest amortised one.

    Args:
        model: the Pyro model. Its positional arguments are the data, one datum a row of the first axis.
        encoder: from the same positional arguments to features (batch, h), such as
            :class:`~pyro_infomax.nn.MLPEncoder`.
        heads: site names to what serves these sites instead of the family; see :class:`AmortizedGuide`.
        structured: whether each site depends on those that the model samples before it.
        create_plates: from the arguments to the plates of the guide.

    Raises:
        ValueError: see :class:`AmortizedGuide`.
        NotImplementedError: for discrete sites, and as :class:`AmortizedGuide`.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> from pyro_infomax.nn import MLPEncoder
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        ...         pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 0.1).to_event(1), obs=x)
        >>> guide = AmortizedDelta(model, MLPEncoder(1))
        >>> x = torch.zeros(3, 1)
        >>> bool((guide(x)["z"] == guide.median(x)["z"]).all())
        True
        >>> pyro.clear_param_store()
    """

    def make_head(self, site: LatentSite, in_features: int) -> nn.Module:
        """A linear head, through a bijection where the site is not real.

        Args:
            site: a latent site inside the data plate.
            in_features: number of features.

        Raises:
            NotImplementedError: if the site is discrete, or its support has no bijection from the reals.
        """
        check_continuous(site, type(self).__name__)
        return DeltaHead(in_features, site.event_shape, support=site.support)
