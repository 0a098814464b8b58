"""The diagonal Normal family of amortised guides."""

from typing import final

from pyro_infomax.guides.continuous_guide import ContinuousGuide
from pyro_infomax.nn import NormalHead


@final
class AmortizedNormal(ContinuousGuide):
    r"""Diagonal Normal posteriors whose locations and scales come from an encoder.

    .. math:: q_\psi(z \mid x) = \prod_s \mathcal{N}\bigl(z_s;\, \mu_s(x), \mathrm{diag}\, \sigma_s(x)^2\bigr)

    It covers every continuous latent site inside the data plate, whatever its event shape, in models that
    take whole data or minibatches, or that subsample themselves by ``pyro.plate(..., subsample_size=...)``.
    A real site is a plain Normal under its own name, so that closed-form KL terms apply. A site with another
    support is a Normal through a bijection, with its exact density: LogNormal for positive ones,
    logit-Normal for intervals, by stick breaking for the simplex.

    Reference: Kingma and Welling, 2014, "Auto-encoding variational Bayes"; Rezende, Mohamed and Wierstra,
    2014, "Stochastic backpropagation and approximate inference in deep generative models".

    Args:
        model: the Pyro model. Its positional arguments are the data, one datum a row of the first axis.
        encoder: from the same positional arguments to features (batch, h), such as
            :class:`~pyro_infomax.nn.MLPEncoder`.
        init_scale: standard deviation of every latent at first, in units of the latent, or of the real
            variable behind it.
        heads: site names to what serves these sites instead of the family; see :class:`AmortizedGuide`.
        structured: whether each site depends on those that the model samples before it.
        create_plates: from the arguments to the plates of the guide.

    Raises:
        ValueError: unless init_scale > 0; see :class:`AmortizedGuide`.
        NotImplementedError: for discrete sites, and as :class:`AmortizedGuide`.

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
        >>> guide.posterior(torch.zeros(3, 4))["z"].stddev[0]
        tensor([0.5000, 0.5000], grad_fn=...)
        >>> pyro.clear_param_store()
    """

    head_class = NormalHead
