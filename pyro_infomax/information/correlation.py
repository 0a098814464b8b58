"""How far the latent dimensions are from independence."""

from typing import Any

import torch

from pyro_infomax.information.account import Account
from pyro_infomax.information.aggregate_posterior import AggregatePosterior
from pyro_infomax.information.covariance import AggregateCovariance
from pyro_infomax.information.draws import Draws
from pyro_infomax.information.estimate import Estimate


def total_correlation(posterior: Any, *, num_samples: int = 1, seed: int | None = None) -> Estimate:
    r"""The total correlation of the aggregate posterior, by the exact mixtures.

    .. math:: \mathrm{TC} = \mathrm{KL}\Big[q(z) \,\Big\|\, \prod_j q(z_j)\Big]

    It is exact for the N data as the whole data distribution. Where the mutual information saturates at
    :math:`\ln N` it is inflated as a statement about the population.

    Reference: Watanabe (1960), Information theoretical analysis of multivariate correlation.

    Args:
        posterior: a torch or Pyro distribution, batch shape (N,), event shape (d,), with known marginals.
        num_samples: draws of z for each datum.
        seed: isolates the draws from torch's global state.

    Returns:
        An estimate in nats per datum, of bound "exact".

    Raises:
        ValueError: for another batch or event shape, or fewer than one draw.
        NotImplementedError: where the marginals of the posterior are not known.

    >>> import torch
    >>> from torch.distributions import Independent, Normal
    >>> line = torch.arange(4, dtype=torch.float64)[:, None] * torch.tensor([100.0, 100.0])
    >>> print(total_correlation(Independent(Normal(line, 1.0), 1), num_samples=2, seed=0))  # ln 4
    1.386 ± 0.000 (exact)
    """
    return Account(Draws(posterior, num_samples=num_samples, seed=seed)).total_correlation


def conditional_total_correlation(
    posterior: Any, *, num_samples: int = 1, seed: int | None = None
) -> Estimate:
    r"""The total correlation within the posterior of each datum, on average.

    .. math:: \mathrm{TC}(Z \mid X)
        = \frac1N \sum_i \mathrm{KL}\Big[q(z \mid x_i) \,\Big\|\, \prod_j q(z_j \mid x_i)\Big]

    It is 0 for a posterior that factorises, :math:`\tfrac12 [\sum_j \ln \Delta_{jj} - \ln|\Delta|]` on
    average for multivariate Normals of covariance :math:`\Delta`, both without an error, and comes from the
    draws for any other. The correlation that the data bring about is
    :math:`\mathrm{TC}(Z) - \mathrm{TC}(Z \mid X) = \sum_j I[X; Z_j] - I[X; Z]`.

    Reference: Ver Steeg and Galstyan (2015), Maximally informative hierarchical representations of
    high-dimensional data.

    Args:
        posterior: a torch or Pyro distribution, batch shape (N,), event shape (d,), with known marginals.
        num_samples: draws of z for each datum, where they are needed.
        seed: isolates the draws from torch's global state.

    Returns:
        An estimate in nats per datum, of bound "exact".

    Raises:
        ValueError: for another batch or event shape, or fewer than one draw.
        NotImplementedError: where the marginals of the posterior are not known.

    >>> import torch
    >>> from torch.distributions import MultivariateNormal
    >>> covariance = torch.tensor([[1.0, 0.6], [0.6, 1.0]], dtype=torch.float64)
    >>> means = torch.zeros(5, 2, dtype=torch.float64)
    >>> print(conditional_total_correlation(MultivariateNormal(means, covariance)))  # -ln(1 - 0.6 ** 2) / 2
    0.223 (exact)
    """
    draws = Draws(posterior, num_samples=num_samples, seed=seed)
    return Account(draws).conditional_total_correlation


@torch.no_grad()
def gaussian_total_correlation(posterior: Any) -> Estimate:
    r"""The total correlation of the Gaussian that has the covariance of the aggregate posterior.

    .. math:: \tfrac12 \Big[\sum_j \ln C_{jj} - \ln|C|\Big], \qquad
        C = \mathrm{Cov}_x(\mathrm{E}[z \mid x]) + \mathrm{E}_x[\mathrm{Cov}(z \mid x)]

    It needs no draws, and sees linear dependence only. For a Gaussian aggregate posterior it is the total
    correlation; for another it is no bound on it, on either side. A dimension that never moves correlates
    with nothing; where the correlation matrix is singular the value is infinite. The population's error is
    the delta method's.

    Reference: Locatello, Bauer, Lucic, Rätsch, Gelly, Schölkopf and Bachem (2019), Challenging common
    assumptions in the unsupervised learning of disentangled representations.

    Args:
        posterior: a torch or Pyro distribution, batch shape (N,), event shape (d,): Independent over
            univariate factors, a multivariate Normal, a mixture of these, or an object with ``mean`` and
            ``covariance_matrix``.

    Returns:
        An estimate in nats per datum, of bound "exact" for the Gaussian, without an error for the data at
        hand.

    Raises:
        ValueError: for another batch or event shape, or parameters that are not finite.
        NotImplementedError: where mean or covariance of the posterior are not known, or not finite.

    >>> import torch
    >>> from torch.distributions import Independent, Normal
    >>> means = torch.tensor([[-1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
    >>> print(gaussian_total_correlation(Independent(Normal(means, 1.0), 1)))  # C = [[2, 1], [1, 2]]
    0.144 (exact)
    """
    covariance = AggregateCovariance(AggregatePosterior(posterior).posterior)
    value = covariance.total_correlation
    target = "the total correlation of the Gaussian with the covariance of these data's aggregate posterior"
    return Estimate(value, torch.zeros_like(value), covariance.population_standard_error, "exact", target)
