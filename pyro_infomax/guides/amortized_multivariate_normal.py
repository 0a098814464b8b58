"""The full-covariance Normal family of amortised guides."""

from typing import final

from pyro_infomax.guides.continuous_guide import ContinuousGuide
from pyro_infomax.nn import MultivariateNormalHead


@final
class AmortizedMultivariateNormal(ContinuousGuide):
    r"""Normal posteriors with full covariances, which come from an encoder.

    .. math:: q_\psi(z \mid x) = \prod_s \mathcal{N}\bigl(z_s;\, \mu_s(x), L_s(x) L_s(x)^\top\bigr)

    with a covariance over all elements of a site. Sites are independent of each other given the data, unless
    ``structured=True``. Supports other than the reals are reached through a bijection. A site of n elements
    takes n (n + 1) / 2 numbers a datum for its covariance:
    :class:`~pyro_infomax.guides.AmortizedLowRankNormal` takes fewer.

    Reference: Rezende, Mohamed and Wierstra, 2014, "Stochastic backpropagation and approximate inference in
    deep generative models".

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
        ...         pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 0.1).to_event(1), obs=x)
        >>> guide = AmortizedMultivariateNormal(model, MLPEncoder(1))
        >>> guide.posterior(torch.zeros(3, 1))["z"].covariance_matrix.shape
        torch.Size([3, 2, 2])
        >>> pyro.clear_param_store()
    """

    head_class = MultivariateNormalHead
