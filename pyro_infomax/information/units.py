"""Which latent dimensions carry anything about the data."""

from typing import Any

from torch import Tensor

from pyro_infomax.information.aggregate_posterior import AggregatePosterior
from pyro_infomax.information.covariance import finite_mean


def active_units(posterior: Any, *, threshold: float = 0.01) -> Tensor:
    r"""The latent dimensions whose posterior mean moves with the data.

    .. math:: \mathrm{Var}_x\big(\mathrm{E}[z_j \mid x]\big) > \text{threshold}

    Reference: Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders.

    Args:
        posterior: a torch or Pyro distribution, batch shape (N,), event shape (d,), with a ``mean``.
        threshold: in the squared units of z.

    Returns:
        (d,), bool; its sum is their number.

    Raises:
        ValueError: for another batch or event shape, parameters that are not finite, or a negative threshold.
        NotImplementedError: where the mean of the posterior is not known, or not finite.

    >>> import torch
    >>> from torch.distributions import Independent, Normal
    >>> means = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    >>> active_units(Independent(Normal(means, 1.0), 1))
    tensor([ True, False])
    """
    if not threshold >= 0:
        raise ValueError(f"Expected threshold >= 0 but got {threshold}.")
    mean = finite_mean(AggregatePosterior(posterior).posterior)  # (batch, latent)
    # constants cancel without rounding only if the first is taken off
    return (mean - mean[0]).var(0, correction=0) > threshold  # (latent,)
