"""Information, divergences and correlations of the posteriors of all data, one function for each."""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Final, final

import torch
from torch import Tensor

from pyro_infomax.distributions import (
    Density,
    Posterior,
    full_name,
    joint_forms,
    known_covariance,
    known_mean,
)
from pyro_infomax.information._account import Account
from pyro_infomax.information._aggregate import AggregatePosterior
from pyro_infomax.information._draws import Draws
from pyro_infomax.information._estimate import Estimate
from pyro_infomax.information._sites import AggregateScorer, WholeAggregate

# ---- The mutual information between data and latents.


def mutual_information(posterior: Posterior, *, num_samples: int = 1, seed: int | None = None) -> Estimate:
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


def leave_one_out(posterior: Posterior, *, num_samples: int = 1, seed: int | None = None) -> Estimate:
    r"""The mutual information with each datum's own component left out of the mixture.

    .. math:: \frac1N \sum_i \mathrm{E}_{q(z|x_i)} \Big[\log q(z \mid x_i)
        - \log \frac{1}{N-1} \sum_{n \ne i} q(z \mid x_n)\Big]

    Its expectation over data sets, for a posterior that was not trained on them, is at least the population's
    mutual information; it has no maximum.

    Reference: Poole, Ozair, van den Oord, Alemi and Tucker (2019), On variational bounds of mutual
    information.

    Args:
        posterior: a torch or Pyro distribution, batch shape (N,) with N >= 2, event shape (d,).
        num_samples, seed: as for :func:`mutual_information`.

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


# ---- How far posteriors, and their aggregate, are from the prior.


def rate(posterior: Posterior, prior: Density, *, num_samples: int = 1, seed: int | None = None) -> Estimate:
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


def marginal_kl(
    posterior: Posterior, prior: Density, *, num_samples: int = 1, seed: int | None = None
) -> Estimate:
    r"""The divergence of the aggregate posterior from the prior, by the exact mixture.

    .. math:: \mathrm{KL}[q(z) \| p(z)] = R - I_q[X; Z]

    It is exact for the N data as the whole data distribution; since :math:`I \le \ln N` there, it is at least
    :math:`R - \ln N`, and its expectation over data sets is at least the population's value.

    Reference: Hoffman and Johnson (2016), ELBO surgery: yet another way to carve up the variational evidence
    lower bound.

    Args:
        posterior, prior, num_samples, seed: as for :func:`rate`.

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
    posterior: Posterior, prior: Density, *, num_samples: int = 1, seed: int | None = None
) -> Estimate:
    r"""The divergence of each marginal of the aggregate posterior from the prior's, by the exact mixtures.

    .. math:: \mathrm{KL}[q(z_j) \| p(z_j)], \qquad q(z_j) = \frac1N \sum_n q(z_j \mid x_n)

    Reference: Chen, Li, Grosse and Duvenaud (2018), Isolating sources of disentanglement in variational
    autoencoders.

    Args:
        posterior: a torch or Pyro distribution, batch shape (N,), event shape (d,), with known marginals.
        prior: batch shape (), event shape (d,), with known marginals: Independent over univariate factors, a
            multivariate Normal, a mixture of these, or an object with ``log_prob_marginals``.
        num_samples, seed: as for :func:`mutual_information`.

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
    posterior: Posterior, prior: Density, *, num_samples: int = 1, seed: int | None = None
) -> Estimate:
    r"""What the prior's own dependence between dimensions adds to the marginal divergence.

    .. math:: \mathrm{E}_{q(z)} \Big[\sum_j \log p(z_j) - \log p(z)\Big]
        = \mathrm{KL}[q(z) \| p(z)] - \mathrm{TC} - \sum_j \mathrm{KL}[q(z_j) \| p(z_j)]

    It is 0 for a prior that factorises, and may have either sign for another.

    Args:
        posterior: a torch or Pyro distribution, batch shape (N,), event shape (d,).
        prior: batch shape (), event shape (d,), with known marginals.
        num_samples, seed: as for :func:`mutual_information`.

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


# ---- The covariance of the aggregate posterior, and what the correlations in it amount to.

_ENTRIES_AT_ONCE: Final = 2**22


@final
class AggregateCovariance:
    r"""The covariance C of the aggregate posterior, as a factor of its correlation matrix.

    .. math:: C = \frac1N \sum_n \big[(m_n - \bar m)(m_n - \bar m)^\top + \Delta_n\big]

    for posteriors of mean :math:`m_n` and covariance :math:`\Delta_n`. Rows :math:`(m_n - \bar m)/\sqrt N` on
    top of a root of :math:`\bar\Delta` are factorised without being multiplied out, so that a ratio of
    :math:`10^{12}` between the scales loses no more than four digits. A dimension without any variance
    is independent of all others, and counts as a dimension of its own.
    """

    def __init__(self, posterior: Posterior) -> None:
        mean = finite_mean(posterior)
        # (batch, latent), the diagonals, or (batch, latent, latent)
        self.covariances = _finite("covariance", posterior, known_covariance(posterior))
        self.size = len(mean)
        mean = mean - mean.mean(0)
        rows = torch.cat([mean / math.sqrt(self.size), _root(self.covariances.mean(0))])
        scale = rows.norm(dim=0)  # (latent,)
        self.scale = scale.masked_fill(scale == 0, 1.0)
        self.root = _triangle(rows / self.scale, scale == 0)  # (latent, latent), root^T root = correlation
        self.mean = mean / self.scale  # (batch, latent)

    @property
    def total_correlation(self) -> Tensor:
        r""":math:`\tfrac12 [\sum_j \ln C_{jj} - \ln|C|]`, infinite for a singular correlation matrix."""
        pivots = self.root.diagonal().abs()
        singular = bool((pivots <= len(pivots) * torch.finfo(pivots.dtype).eps).any())
        return pivots.new_tensor(math.inf) if singular else -pivots.log().sum().clamp(max=0)

    @property
    def population_standard_error(self) -> Tensor:
        """The delta method's, with the leading bias of a covariance of N data in quadrature."""
        if self.size == 1 or not bool(self.total_correlation.isfinite()):
            return self.scale.new_tensor(math.nan)
        parts = [self._derivatives(rows) for rows in self._parts()]
        influence, curvature = (torch.cat(each) for each in zip(*parts, strict=True))  # (batch,)
        return torch.hypot(influence.std() / math.sqrt(self.size), self._bias(curvature.mean()))

    def _bias(self, curvature: Tensor) -> Tensor:
        """Of the second order in the second moments, and of the first in the estimated mean."""
        of_mean = ((self.mean**2).sum() - ((self.mean @ self._whitener) ** 2).sum()) / self.size
        return (curvature - of_mean) / (2 * self.size)

    def _derivatives(self, rows: slice) -> tuple[Tensor, Tensor]:
        """First and second derivative of the total correlation towards each datum's second moment."""
        mean = self.mean[rows]
        moment = mean[:, :, None] * mean[:, None, :] + self._correlations(rows)  # (batch, latent, latent)
        own = moment.diagonal(dim1=-2, dim2=-1)
        white = self._whitener.T @ moment @ self._whitener
        trace = white.diagonal(dim1=-2, dim2=-1).sum(-1)
        change = white - torch.eye(len(self.scale), dtype=white.dtype, device=white.device)
        first = (own.sum(-1) - trace) / 2
        return first, ((change**2).sum((-2, -1)) - ((own - 1) ** 2).sum(-1)) / 2

    def _correlations(self, rows: slice) -> Tensor:
        found = self.covariances[rows]
        if found.dim() == 2:
            return (found / self.scale**2).diag_embed()
        return found / (self.scale[:, None] * self.scale)

    @cached_property
    def _whitener(self) -> Tensor:
        """K with K K^T the inverse of the correlation matrix, (latent, latent)."""
        eye = torch.eye(len(self.root), dtype=self.root.dtype, device=self.root.device)
        return torch.linalg.solve_triangular(self.root, eye, upper=True)

    def _parts(self) -> Iterator[slice]:
        step = max(1, _ENTRIES_AT_ONCE // len(self.scale) ** 2)
        return (slice(start, start + step) for start in range(0, self.size, step))


def _triangle(rows: Tensor, constant: Tensor) -> Tensor:
    """The triangular factor, with a unit entry of its own for a dimension that never moves."""
    return torch.linalg.qr(torch.cat([rows, constant.to(rows.dtype).diag()]), mode="r").R


def _root(covariance: Tensor) -> Tensor:
    """A matrix whose transpose times itself is the covariance, also a singular one; the latent axis last."""
    if covariance.dim() == 1:
        return covariance.sqrt().diag()
    scale = covariance.diagonal().sqrt()
    safe = scale.masked_fill(scale == 0, 1.0)
    values, vectors = torch.linalg.eigh(covariance / (safe[:, None] * safe))
    return values.clamp(min=0).sqrt()[:, None] * vectors.T * scale


def finite_mean(posterior: Posterior) -> Tensor:
    """E[z|x], (batch, latent), float64."""
    return _finite("mean", posterior, known_mean(posterior))


def _finite(what: str, posterior: Posterior, moment: Tensor | None) -> Tensor:
    if moment is None or not bool(moment.isfinite().all()):
        raise NotImplementedError(_unknown(what, posterior))
    return moment.detach()


def _unknown(what: str, posterior: Posterior) -> str:
    return (
        f"Expected a posterior of finite mean and covariance but {full_name(posterior)} has no such {what}; "
        "give it attributes mean of shape (N, d) and covariance_matrix of shape (N, d, d)."
    )


# ---- How far the latent dimensions are from independence.


def total_correlation(posterior: Posterior, *, num_samples: int = 1, seed: int | None = None) -> Estimate:
    r"""The total correlation of the aggregate posterior, by the exact mixtures.

    .. math:: \mathrm{TC} = \mathrm{KL}\Big[q(z) \,\Big\|\, \prod_j q(z_j)\Big]

    It is exact for the N data as the whole data distribution. Where the mutual information saturates at
    :math:`\ln N` it is inflated as a statement about the population.

    Reference: Watanabe (1960), Information theoretical analysis of multivariate correlation.

    Args:
        posterior: a torch or Pyro distribution, batch shape (N,), event shape (d,), with known marginals.
        num_samples, seed: as for :func:`mutual_information`.

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
    posterior: Posterior, *, num_samples: int = 1, seed: int | None = None
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
def gaussian_total_correlation(posterior: Posterior) -> Estimate:
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
            univariate factors, a multivariate Normal or Student's t, a mixture of these, or an object with
            ``mean`` and ``covariance_matrix``.

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


# ---- Which latent dimensions carry anything about the data.


def active_units(posterior: Posterior, *, threshold: float = 0.01) -> Tensor:
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


# ---- What the aggregate posterior would gain as the prior.

_ON_TRAINING_DATA: Final = (
    "the ELBO that a better prior could win on the training data, at least R - ln N and so inflated where "
    "I nears ln N"
)
_ON_HELD_OUT_DATA: Final = (
    "the ELBO that the aggregate posterior of the training data would win on held-out data as the prior"
)


def prior_gap(
    posterior: Posterior,
    prior: Density,
    *,
    holdout: Posterior | None = None,
    num_samples: int = 1,
    seed: int | None = None,
) -> Estimate:
    r"""The ELBO that a better prior could win.

    On the training data the best prior is their aggregate posterior :math:`q(z)`, and with it the ELBO rises
    by

    .. math:: \mathrm{KL}[q(z) \| p(z)] .

    This mixture has a component at each training datum. What it keeps on other data is

    .. math:: \mathrm{E}_{q_\text{test}(z)} [\log q_\text{train}(z) - \log p(z)]
        = \mathrm{KL}[q_\text{test}(z) \| p(z)] - \mathrm{KL}[q_\text{test}(z) \| q_\text{train}(z)] ,

    which is negative where the training data say less about held-out latents than the prior does.

    Reference: Tomczak and Welling (2018), VAE with a VampPrior, for the aggregate posterior as the best
    prior; Rosca, Lakshminarayanan and Mohamed (2018), Distribution matching in variational inference.

    Args:
        posterior: the posteriors of the training data, batch shape (N,), event shape (d,).
        prior: batch shape (), event shape (d,).
        holdout: the posteriors of held-out data under the same encoder, batch shape (M,), event shape (d,);
            None for the gap on the training data.
        num_samples: draws of z for each datum, of the held-out ones where there are any.
        seed: isolates the draws from torch's global state.

    Returns:
        An estimate in nats per datum, of bound "exact".

    Raises:
        ValueError: for shapes that do not fit, or fewer than one draw.

    >>> from torch.distributions import Independent, Normal
    >>> prior = Independent(Normal(torch.zeros(1), 1.0), 1)
    >>> train, test = (Independent(Normal(torch.full((200, 1), mean), 1.0), 1) for mean in (1.0, 0.0))
    >>> print(prior_gap(train, prior, seed=0))  # KL[N(1, 1) || N(0, 1)]
    0.500 ± 0.000 (exact)
    >>> print(prior_gap(train, prior, holdout=test, seed=0))
    -0.500 ± 0.000 (exact)
    """
    draws = Draws(posterior if holdout is None else holdout, prior, num_samples=num_samples, seed=seed)
    account = Account(draws)
    return training_gap(account) if holdout is None else held_out_gap(account, WholeAggregate(posterior))


def training_gap(account: Account) -> Estimate:
    """The gap on the data of the account, by their own mixture."""
    return replace(account.marginal_kl, target=_ON_TRAINING_DATA)


def held_out_gap(account: Account, training: AggregateScorer) -> Estimate:
    """The gap on the held-out data of the account, by the mixture of the training data."""
    draws = account.draws
    _check_dimensions(training.latent_dim, draws.aggregate.latent_dim)
    log_prior = draws.log_prior
    with torch.no_grad():
        log_training = training.joint(draws.z.flatten(0, 1)).log_prob.unflatten(0, draws.z.shape[:2])
    # the prior stays in the difference: it takes noise out where too few draws allow no regression
    gap = account.expectation(log_prior - log_training)
    endless = joint_forms(draws.posterior, draws.prior).endless
    gap = gap if endless is None else gap.endless(endless)
    return (account.known(torch.zeros_like(gap.datum)) - gap).estimate("exact", _ON_HELD_OUT_DATA)


def _check_dimensions(training: int, holdout: int) -> None:
    if training != holdout:
        raise ValueError(
            f"Expected held-out posteriors over the {training} latent dimensions of the training data but "
            f"got {holdout}; take both from one encoder."
        )
