"""The diagonal Normal family of amortised guides."""

from collections.abc import Callable
from typing import Any, final

from pyro.distributions import constraints
from torch import Tensor, nn
from torch.distributions.constraints import Constraint

from pyro_infomax.guides.amortized_guide import AmortizedGuide, Plates
from pyro_infomax.guides.prototype import LatentSite
from pyro_infomax.nn import NormalHead
from pyro_infomax.nn.normal_head import check_init_scale


@final
class AmortizedNormal(AmortizedGuide):
    r"""Diagonal Normal posteriors whose locations and scales come from an encoder.

    .. math:: q_\psi(z \mid x) = \prod_s \mathcal{N}\bigl(z_s;\, \mu_s(x), \mathrm{diag}\, \sigma_s(x)^2\bigr)

    It covers every latent site with real support inside the data plate, whatever its event shape, in
    models that take whole data or minibatches, or that subsample themselves by
    ``pyro.plate(..., subsample_size=...)``. Each site is a plain Normal under its own name, so that
    closed-form KL terms apply.

    Reference: Kingma and Welling, 2014, "Auto-encoding variational Bayes"; Rezende, Mohamed and Wierstra,
    2014, "Stochastic backpropagation and approximate inference in deep generative models".

    Args:
        model: the Pyro model. Its positional arguments are the data, one datum a row of the first axis.
        encoder: from the same positional arguments to features (batch, h), such as
            :class:`~pyro_infomax.nn.MLPEncoder`.
        init_scale: standard deviation of every latent at first, in units of the latent.
        create_plates: from the arguments to the plates of the guide, needed only where the data are a part
            of a larger plate.

    Raises:
        ValueError: unless init_scale > 0; at the first call, if the model has no data plate, several, or no
            latent site; at any call, if the number of features' rows is not the number of data.
        NotImplementedError: at the first call, for global latents, latents in further plates, discrete
            latents and supports other than the reals.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> from pyro_infomax.nn import MLPEncoder
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        ...         loc = z.sum(-1, keepdim=True) * torch.ones(4)
        ...         pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)
        >>> guide = AmortizedNormal(model, MLPEncoder(4))
        >>> guide(torch.zeros(5, 4))["z"].shape
        torch.Size([5, 2])
        >>> guide.posteriors(torch.zeros(3, 4))["z"].stddev[0]
        tensor([0.5000, 0.5000], grad_fn=...)
        >>> pyro.clear_param_store()
    """

    def __init__(
        self,
        model: Callable[..., Any],
        encoder: Callable[..., Tensor],
        *,
        init_scale: float = 0.5,
        create_plates: Callable[..., Plates] | None = None,
    ) -> None:
        check_init_scale(init_scale)
        super().__init__(model, encoder, create_plates=create_plates)
        self._init_scale = init_scale

    def make_head(self, site: LatentSite, in_features: int) -> nn.Module:
        """A linear head, if the site is real.

        Args:
            site: a latent site inside the data plate.
            in_features: number of features.

        Raises:
            NotImplementedError: for another support.
        """
        _check_real(site)
        return NormalHead(in_features, site.event_shape, init_scale=self._init_scale)

    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The posterior median of each latent, which for a Normal is its mean.

        Args:
            *args: the data.
            **kwargs: further arguments of the model.

        Returns:
            Medians by site name.
        """
        return {name: posterior.mean.detach() for name, posterior in self.posteriors(*args, **kwargs).items()}


def _check_real(site: LatentSite) -> None:
    if site.support.is_discrete:
        raise NotImplementedError(
            f"Latent site {site.name!r} is discrete, with support {site.support}, which a Normal does not "
            f"cover: hide it by pyro.poutine.block(model, hide=[{site.name!r}]) and enumerate it with a "
            "TraceEnum objective."
        )
    if not isinstance(_elementwise(site.support), type(constraints.real)):
        raise NotImplementedError(
            f"Latent site {site.name!r} has support {site.support}, but a Normal covers the reals: let "
            "the model sample a real site and transform it, as in pyro.deterministic(name, z.exp())."
        )


def _elementwise(support: Constraint) -> Constraint:
    # independent(real, 1) and the support of a mixture wrap that of one element
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support
