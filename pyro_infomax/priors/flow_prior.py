"""A normalising flow as prior."""

from collections.abc import Callable
from typing import Any, final

from pyro_infomax.flows import FlowDistribution, to_flow
from pyro_infomax.priors.prior import Prior, check_latent_dim

__all__ = ["FlowPrior"]


@final
class FlowPrior(Prior):
    r"""A flow that turns z into standard Normal noise, with an exact density.

    .. math::
        \log p(z) = \log \mathcal{N}\bigl(T(z);\, 0, 1\bigr)
            + \log \Bigl| \det \frac{\partial T}{\partial z} \Bigr|

    A prior is scored in training and drawn from afterwards: T leads from z to noise, so that scoring is the
    fast direction of autoregressive transforms. The default is fast in both, and is the standard Normal at
    first. The marginals of a flow are not known, so that the account has no dimension-wise KL of it.

    Reference: Chen, Kingma, Salimans, Duan, Dhariwal, Schulman, Sutskever and Abbeel, 2017, "Variational
    lossy autoencoder"; Papamakarios, Pavlakou and Murray, 2017, "Masked autoregressive flow for density
    estimation".

    Args:
        latent_dim: number of latent dimensions.
        flow: what :func:`pyro_infomax.flows.to_flow` takes: a function of the latent dimension that returns
            Pyro's transforms, as ``dist.transforms.affine_autoregressive`` does, or a flow of zuko, as
            ``zuko.flows.NSF`` does (``pip install pyro_infomax[flows]``); None for
            :class:`~pyro_infomax.flows.CouplingFlow`.

    Raises:
        ValueError: unless latent_dim is an integer above 0, and for what is no flow without context.

    Example:
        >>> import torch
        >>> prior = FlowPrior(3)
        >>> prior().log_prob(torch.zeros(3))
        tensor(-2.7568, grad_fn=...)
    """

    def __init__(self, latent_dim: int, *, flow: Callable[..., Any] | None = None) -> None:
        super().__init__()
        check_latent_dim(latent_dim)
        self.flow = to_flow(flow, latent_dim, to_noise=True)

    def forward(self) -> FlowDistribution:
        """The prior.

        Returns:
            A distribution with batch shape () and event shape (latent_dim,).
        """
        return self.flow()
