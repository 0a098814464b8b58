"""The mutual information of a representation."""

from typing import Any

from pyro_infomax.information.account import Account
from pyro_infomax.information.draws import Draws
from pyro_infomax.information.estimate import Estimate


def mutual_information(posterior: Any, *, num_samples: int = 1, seed: int | None = None) -> Estimate:
    r"""The mutual information between data and latents, by the exact mixture.

    .. math:: I_q[X; Z] = \frac1N \sum_i \mathrm{E}_{q(z|x_i)} [\log q(z \mid x_i) - \log q(z)]

    It is exact for the N data as the whole data distribution, and cannot exceed :math:`\ln N` there. In
    expectation over data sets, for a posterior that was not trained on them, the population's value lies
    between this and the smaller of :func:`rate` and :func:`leave_one_out`.

    Reference: Hoffman and Johnson (2016), ELBO surgery: yet another way to carve up the variational evidence
    lower bound.

    Args:
        posterior: a torch or Pyro distribution, batch shape (N,), event shape (d,).
        num_samples: draws of z for each datum.
        seed: isolates the draws from torch's global state.

    Returns:
        An estimate in nats per datum, of bound "exact".

    Raises:
        ValueError: for another batch or event shape, or fewer than one draw.

    >>> import torch
    >>> from torch.distributions import Independent, Normal
    >>> far_apart = torch.tensor([[0.0], [100.0], [200.0], [300.0]], dtype=torch.float64)
    >>> estimate = mutual_information(Independent(Normal(far_apart, 1.0), 1), num_samples=2, seed=0)
    >>> print(estimate)  # ln 4
    1.386 ± 0.000 (exact)
    """
    return Account(Draws(posterior, num_samples=num_samples, seed=seed)).mutual_information


def leave_one_out(posterior: Any, *, num_samples: int = 1, seed: int | None = None) -> Estimate:
    r"""The mutual information with each datum's own component left out of the mixture.

    .. math:: \frac1N \sum_i \mathrm{E}_{q(z|x_i)} \Big[\log q(z \mid x_i)
        - \log \frac{1}{N-1} \sum_{n \ne i} q(z \mid x_n)\Big]

    Its expectation over data sets, for a posterior that was not trained on them, is at least the population's
    mutual information; it has no maximum.

    Reference: Poole, Ozair, van den Oord, Alemi and Tucker (2019), On variational bounds of mutual
    information.

    Args:
        posterior: a torch or Pyro distribution, batch shape (N,) with N >= 2, event shape (d,).
        num_samples: draws of z for each datum.
        seed: isolates the draws from torch's global state.

    Returns:
        An estimate in nats per datum, of bound "upper".

    Raises:
        ValueError: for N = 1, another batch or event shape, or fewer than one draw.

    >>> import torch
    >>> from torch.distributions import Independent, Normal
    >>> means = torch.linspace(-1, 1, 100, dtype=torch.float64)[:, None]
    >>> posterior = Independent(Normal(means, 0.5), 1)
    >>> float(leave_one_out(posterior, seed=0)) > float(mutual_information(posterior, seed=0))
    True
    """
    return Account(Draws(posterior, num_samples=num_samples, seed=seed)).leave_one_out
