"""What a decoder tells about the mutual information, and what it leaves untold."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from pyro_infomax.distributions import Posterior
from pyro_infomax.information._account import Account
from pyro_infomax.information._draws import Draws
from pyro_infomax.information._estimate import Estimate

_OF_DATA: Final = "the gap between the decoder and the inverted posterior of these data"
_OF_POPULATION: Final = "the gap between the decoder and the inverted posterior in the population"


def barber_agakov(
    posterior: Posterior,
    log_likelihood: Callable[[Tensor], Tensor],
    *,
    data_entropy: Tensor | float,
    num_samples: int = 1,
    seed: int | None = None,
) -> Estimate:
    r"""The decoder's lower bound on the mutual information.

    .. math:: I_q[X; Z] \ge \mathrm{H}[X]
        + \frac1N \sum_i \mathrm{E}_{q(z|x_i)} \log p(x_i \mid z) = \mathrm{H}[X] - D

    The bound holds in expectation over data sets for the information of the population, and loses
    :func:`decoder_gap` there.

    Reference: Barber and Agakov (2003), The IM algorithm: a variational approach to information maximization.

    Args:
        posterior: a torch or Pyro distribution, batch shape (N,), event shape (d,).
        log_likelihood: from z, (N, d), each row under its own datum, to :math:`\log p(x_i \mid z_i)`, (N,),
            in nats. It is called once for each of the draws, without gradients, and with z in float64 where
            the posterior is Normal.
        data_entropy: H[X] of the population in nats, on the base measure of the likelihood: the entropy for a
            pmf, the differential entropy for a density.
        num_samples: draws of z for each datum.
        seed: isolates the draws from torch's global state.

    Returns:
        An estimate in nats per datum, of bound "lower".

    Raises:
        ValueError: for shapes that do not fit, log-likelihoods that are nan or plus infinity, a data
            entropy that is not finite, or fewer than one draw.

    >>> import torch
    >>> from pyro_infomax.oracles import LinearGaussian
    >>> oracle = LinearGaussian.optimum([4.0, 1.0], beta=1.0, latent_dim=1, s2=0.5)
    >>> x = oracle.sample(500, exact=True, seed=0)
    >>> z_given_x = torch.distributions.Normal(x @ oracle.V.T, oracle.Delta.diagonal().sqrt())
    >>> def log_likelihood(z):
    ...     return torch.distributions.Normal(z @ oracle.W.T, oracle.s2.sqrt()).log_prob(x).sum(-1)
    >>> posterior = torch.distributions.Independent(z_given_x, 1)
    >>> found = barber_agakov(posterior, log_likelihood, data_entropy=oracle.data_entropy, seed=0)
    >>> truth = oracle.mutual_information - oracle.decoder_gap
    >>> bool((found.value - truth).abs() < 3 * found.standard_error)
    True
    """
    entropy = _finite_entropy(data_entropy)
    draws = Draws(posterior, num_samples=num_samples, seed=seed)
    target = "the mutual information of the representation in the population"
    return Account(draws).expectation(_score(draws, log_likelihood) + entropy).estimate("lower", target)


def decoder_gap(
    posterior: Posterior,
    log_likelihood: Callable[[Tensor], Tensor],
    *,
    data_entropy: Tensor | float | None = None,
    num_samples: int = 1,
    seed: int | None = None,
) -> Estimate:
    r"""How far the decoder is from the inverted posterior: what its bound on the information loses.

    .. math:: G = \mathrm{E}_{q(z)} \mathrm{KL}[q(x \mid z) \| p(x \mid z)] = D - \mathrm{H}[X] + I_q[X; Z],
        \qquad q(x_n \mid z) = \frac{q(z \mid x_n)}{N q(z)}

    Data and likelihood need one base measure. Without ``data_entropy`` the N data are the data distribution,
    of entropy :math:`\ln N`: they must be distinct, and :math:`p(x \mid z)` a probability mass. A density has
    no gap from N points. With the population's entropy the gap is the population's; the information, by a
    mixture of N components, is then too low in expectation, and so is the gap.

    Reference: Barber and Agakov (2003), The IM algorithm: a variational approach to information maximization.

    Args:
        posterior, log_likelihood, num_samples, seed: as for :func:`barber_agakov`.
        data_entropy: H[X] of the population in nats, on the base measure of the likelihood; None for that of
            N distinct data. The empirical entropy of repeated data, whose copies share their posterior, may
            stand here too: the value is then that of these data.

    Returns:
        An estimate in nats per datum: of bound "exact" for the data themselves, which makes no statement on a
        population; of bound "lower" with an entropy.

    Raises:
        ValueError: for shapes that do not fit, log-likelihoods that are nan or plus infinity, a data
            entropy that is not finite, or fewer than one draw.

    >>> import torch
    >>> from torch.distributions import Bernoulli, Independent, Normal
    >>> x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    >>> posterior = Independent(Normal(200 * x - 100, 1.0), 1)  # it tells the two apart, and so does
    >>> def log_likelihood(z):
    ...     return Bernoulli(logits=z).log_prob(x).sum(-1)
    >>> print(decoder_gap(posterior, log_likelihood, num_samples=2, seed=0))
    0.000 ± 0.000 (exact)
    """
    entropy = None if data_entropy is None else _finite_entropy(data_entropy)
    draws = Draws(posterior, num_samples=num_samples, seed=seed)
    information = draws.log_posterior - draws.log_aggregate
    known = math.log(draws.data_size) if entropy is None else entropy
    account = Account(draws)
    gap = account.expectation(information - _score(draws, log_likelihood) - known)
    if entropy is None:
        return replace(gap.estimate("exact", _OF_DATA), population_standard_error=None)
    return gap.biased(account.self_vote).estimate("lower", _OF_POPULATION)


@torch.no_grad()
def _score(draws: Draws, log_likelihood: Callable[[Tensor], Tensor]) -> Tensor:
    """log p(x_i|z_si), (samples, batch)."""
    return torch.stack([_below_infinity(log_likelihood(z), draws.data_size) for z in draws.z]).double()


def _below_infinity(scores: Tensor, data_size: int) -> Tensor:
    if scores.shape != (data_size,):
        raise ValueError(
            f"Expected log-likelihoods of shape ({data_size},) but got {tuple(scores.shape)}; "
            "sum over the event of each datum."
        )
    wrong = ~(scores < math.inf)  # nan, or a density of infinity
    if bool(wrong.any()):
        raise ValueError(
            f"Expected log-likelihoods below infinity but got {int(wrong.sum())} that are nan or inf; check "
            "the decoder."
        )
    return scores


def _finite_entropy(data_entropy: Tensor | float) -> float:
    entropy = torch.as_tensor(data_entropy)
    if entropy.dim() or not bool(entropy.isfinite()):
        raise ValueError(
            f"Expected a finite number of nats for data_entropy but got {data_entropy}; "
            "data without an entropy on the likelihood's base measure have no such bound."
        )
    return float(entropy)
