"""How far posteriors, and their aggregate, are from the prior."""

from typing import Any

from pyro_infomax.information.account import Account
from pyro_infomax.information.draws import Draws
from pyro_infomax.information.estimate import Estimate


def rate(posterior: Any, prior: Any, *, num_samples: int = 1, seed: int | None = None) -> Estimate:
    r"""The mean divergence of the posteriors from the prior.

    .. math:: R = \frac1N \sum_i \mathrm{KL}[q(z \mid x_i) \| p(z)]

    In closed form, without an error, where torch has the divergence registered or where a Normal prior meets
    a posterior of known entropy, mean and variance; from the draws otherwise.

    Reference: Alemi, Poole, Fischer, Dillon, Saurous and Murphy (2018), Fixing a broken ELBO.

    Args:
        posterior: a torch or Pyro distribution, batch shape (N,), event shape (d,).
        prior: batch shape (), event shape (d,).
        num_samples: draws of z for each datum, where they are needed.
        seed: isolates the draws from torch's global state.

    Returns:
        An estimate in nats per datum, of bound "exact".

    Raises:
        ValueError: for shapes that do not fit, or fewer than one draw.

    >>> import torch
    >>> from torch.distributions import Independent, Normal
    >>> posterior = Independent(Normal(torch.ones(5, 2), 1.0), 1)
    >>> print(rate(posterior, Independent(Normal(torch.zeros(2), 1.0), 1)))
    1.000 (exact)
    """
    return Account(Draws(posterior, prior, num_samples=num_samples, seed=seed)).rate


def marginal_kl(posterior: Any, prior: Any, *, num_samples: int = 1, seed: int | None = None) -> Estimate:
    r"""The divergence of the aggregate posterior from the prior, by the exact mixture.

    .. math:: \mathrm{KL}[q(z) \| p(z)] = R - I_q[X; Z]

    It is exact for the N data as the whole data distribution; since :math:`I \le \ln N` there, it is at least
    :math:`R - \ln N`, and its expectation over data sets is at least the population's value.

    Reference: Hoffman and Johnson (2016), ELBO surgery: yet another way to carve up the variational evidence
    lower bound.

    Args:
        posterior: a torch or Pyro distribution, batch shape (N,), event shape (d,).
        prior: batch shape (), event shape (d,).
        num_samples: draws of z for each datum.
        seed: isolates the draws from torch's global state.

    Returns:
        An estimate in nats per datum, of bound "exact".

    Raises:
        ValueError: for shapes that do not fit, or fewer than one draw.

    >>> import torch
    >>> from torch.distributions import Independent, Normal
    >>> prior = Independent(Normal(torch.zeros(2), 1.0), 1)
    >>> print(marginal_kl(prior.expand([50]), prior, seed=0))
    0.000 ± 0.000 (exact)
    """
    return Account(Draws(posterior, prior, num_samples=num_samples, seed=seed)).marginal_kl


def dimensionwise_kl(
    posterior: Any, prior: Any, *, num_samples: int = 1, seed: int | None = None
) -> Estimate:
    r"""The divergence of each marginal of the aggregate posterior from the prior's, by the exact mixtures.

    .. math:: \mathrm{KL}[q(z_j) \| p(z_j)], \qquad q(z_j) = \frac1N \sum_n q(z_j \mid x_n)

    Reference: Chen, Li, Grosse and Duvenaud (2018), Isolating sources of disentanglement in variational
    autoencoders.

    Args:
        posterior: a torch or Pyro distribution, batch shape (N,), event shape (d,), with known marginals.
        prior: batch shape (), event shape (d,), with known marginals: Independent over univariate factors, a
            multivariate Normal, a mixture of these, or an object with ``log_prob_marginals``.
        num_samples: draws of z for each datum.
        seed: isolates the draws from torch's global state.

    Returns:
        A vector of d estimates in nats per datum, of bound "exact".

    Raises:
        ValueError: for shapes that do not fit, or fewer than one draw.
        NotImplementedError: where the marginals of posterior or prior are not known.

    >>> import torch
    >>> from torch.distributions import Independent, Normal
    >>> means = torch.tensor([[-3.0, 0.0], [3.0, 0.0]], dtype=torch.float64).repeat(50, 1)
    >>> prior = Independent(Normal(torch.zeros(2), 1.0), 1)
    >>> near, off = reversed(list(dimensionwise_kl(Independent(Normal(means, 1.0), 1), prior, seed=0)))
    >>> float(near) < 1e-6 < 3 < float(off)
    True
    """
    return Account(Draws(posterior, prior, num_samples=num_samples, seed=seed)).dimensionwise_kl


def prior_dependence(
    posterior: Any, prior: Any, *, num_samples: int = 1, seed: int | None = None
) -> Estimate:
    r"""What the prior's own dependence between dimensions adds to the marginal divergence.

    .. math:: \mathrm{E}_{q(z)} \Big[\sum_j \log p(z_j) - \log p(z)\Big]
        = \mathrm{KL}[q(z) \| p(z)] - \mathrm{TC} - \sum_j \mathrm{KL}[q(z_j) \| p(z_j)]

    It is 0 for a prior that factorises, and may have either sign for another.

    Args:
        posterior: a torch or Pyro distribution, batch shape (N,), event shape (d,).
        prior: batch shape (), event shape (d,), with known marginals.
        num_samples: draws of z for each datum.
        seed: isolates the draws from torch's global state.

    Returns:
        An estimate in nats per datum, of bound "exact".

    Raises:
        ValueError: for shapes that do not fit, or fewer than one draw.
        NotImplementedError: where the marginals of posterior or prior are not known.

    >>> import torch
    >>> from torch.distributions import Independent, Normal
    >>> prior = Independent(Normal(torch.zeros(2), 1.0), 1)
    >>> print(prior_dependence(prior.expand([50]), prior))
    0.000 (exact)
    """
    draws = Draws(posterior, prior, num_samples=num_samples, seed=seed)
    return Account(draws).prior_dependence
