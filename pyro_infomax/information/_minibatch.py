"""The aggregate posterior of N data, as a minibatch of them shows it."""

import math
from dataclasses import replace
from typing import Literal, Self, final

import torch
from torch import Tensor

from pyro_infomax._checks import WHERE_FEW_ARE_LEFT
from pyro_infomax.distributions import Posterior, marginals_of
from pyro_infomax.information._aggregate import AggregatePosterior
from pyro_infomax.information._control_variates import ControlVariates
from pyro_infomax.information._draws import check_draws, draws_of
from pyro_infomax.information._estimate import Estimate
from pyro_infomax.information._mixture_engine import MixtureScores

# ---- The aggregate posterior of all data as a minibatch estimates it.


@final
class BatchMixture:
    r"""A weighted mixture of the posteriors of a minibatch, in which each draw's own component stands apart.

    .. math:: \hat q(z_i) = \frac1N\, q(z_i \mid x_i) + \frac{N-1}{N} \cdot \frac{1}{B-1}
        \sum_{n \ne i} q(z_i \mid x_n)

    With z fixed, its mean over the minibatches that hold datum i, drawn without replacement from N data, is
    the aggregate posterior of all of them (minibatch stratified sampling). With N = B, the default, it is the
    plain mean over the minibatch, as InfoNCE takes it. The weights belong to the mixture: the joint density
    has them once, and so has the density of each dimension by itself.

    Reference: Chen, Li, Grosse and Duvenaud (2018), Isolating sources of disentanglement in variational
    autoencoders, appendix C; here symmetrised over the minibatch.

    Args:
        posterior: batch shape (B,) with B >= 2, event shape (d,), as in :class:`AggregatePosterior`.
        data_size: N, at least B; None for N = B.

    Raises:
        ValueError: for another batch or event shape, fewer than two data, or a ``data_size`` below B.

    >>> import torch
    >>> from torch.distributions import Independent, Normal
    >>> means = torch.tensor([[0.0], [100.0]], dtype=torch.float64)
    >>> posterior = Independent(Normal(means, 1.0), 1)
    >>> z = means[None]  # each datum's own mean, as a single draw
    >>> ratio = BatchMixture(posterior, data_size=10).log_prob(z) - posterior.log_prob(z)
    >>> ratio.exp()  # the other one is far away
    tensor([[0.1000, 0.1000]], dtype=torch.float64)
    """

    def __init__(self, posterior: Posterior, *, data_size: int | None = None) -> None:
        self._aggregate = AggregatePosterior(posterior)
        self.posterior = self._aggregate.posterior
        if self.batch_size < 2:
            raise ValueError(
                f"Expected a minibatch of at least 2 data but got {self.batch_size}: {WHERE_FEW_ARE_LEFT}"
            )
        self.data_size = self.batch_size if data_size is None else data_size
        check_data_size(self.data_size, self.batch_size)
        self._log_mass = 0.0

    @classmethod
    def weighted(cls, posterior: Posterior, *, data_size: int) -> Self:
        r"""Minibatch weighted sampling: every component, the own one too, has the weight 1/(NB).

        .. math:: \hat q(z_i) = \frac{1}{NB} \sum_n q(z_i \mid x_n)

        Its weights sum to 1/N rather than to 1. It is no estimate of the aggregate posterior, and is here for
        comparison only.

        Args:
            posterior: as above.
            data_size: N, at least B.
        """
        mixture = cls(posterior)
        check_data_size(data_size, mixture.batch_size)
        mixture._log_mass = -math.log(data_size)
        return mixture

    @property
    def batch_size(self) -> int:
        """B, the number of components."""
        return self._aggregate.data_size

    def log_prob(self, z: Tensor) -> Tensor:
        r""":math:`\log \hat q(z_{si})`.

        Args:
            z: (S, B, d), each draw in the column of its own datum.

        Returns:
            (S, B), float64, in nats; differentiable in z and in the posterior's parameters.
        """
        check_draws(z, self.posterior)
        own = self.posterior.log_prob(z).double()
        return self._weighed(own, self._aggregate.evaluate(z.flatten(0, 1), index=self._own(z)))

    def log_prob_marginals(self, z: Tensor) -> Tensor:
        r""":math:`\log \hat q(z_{sij})` for every latent dimension j.

        Args:
            z: (S, B, d), each draw in the column of its own datum.

        Returns:
            (S, B, d), float64, in nats; differentiable in z and in the posterior's parameters.

        Raises:
            NotImplementedError: where the marginals of the posterior are not known.
        """
        check_draws(z, self.posterior)
        own = marginals_of(self.posterior).log_prob(z).double()
        found = self._aggregate.evaluate_marginals(z.flatten(0, 1), index=self._own(z))
        return self._weighed(own, found)

    def _own(self, z: Tensor) -> Tensor:
        return torch.arange(self.batch_size, device=z.device).repeat(len(z))

    def _weighed(self, own: Tensor, mixture: MixtureScores) -> Tensor:
        """From the own score, (samples, batch) or (samples, batch, latent), and the mean of the others."""
        assert mixture.leave_one_out is not None
        others = mixture.leave_one_out.unflatten(0, own.shape[:2])
        share = 1 / self.data_size
        return torch.logaddexp(own + math.log(share), others + math.log1p(-share)) + self._log_mass


def check_data_size(data_size: int, batch_size: int) -> None:
    """Refuse data that are fewer than those in the minibatch."""
    if not batch_size <= data_size < math.inf:
        raise ValueError(
            f"Expected data_size >= {batch_size}, the size of the minibatch, but got {data_size}; "
            "pass the number of data that it was drawn from."
        )


# ---- The mutual information of a representation as a minibatch shows it, each estimate with its bias.


def info_nce(
    posterior: Posterior, *, data_size: int | None = None, num_samples: int = 1, seed: int | None = None
) -> Estimate:
    r"""A lower bound on the mutual information, which grows with the minibatch.

    .. math:: \frac1B \sum_i \mathrm{E}_{q(z|x_i)} \Big[\log q(z \mid x_i)
        - \log \frac1B \sum_n q(z \mid x_n)\Big] \le \ln B

    This is InfoNCE with the posterior itself as its critic. In expectation over minibatches it is at most the
    mutual information under all data, and reaches it for B = N. An objective that rewards information should
    reward this bound: :func:`minibatch_stratified` is biased up, and training would exploit that.

    References: van den Oord, Li and Vinyals (2018), Representation learning with contrastive predictive
    coding; Poole, Ozair, van den Oord, Alemi and Tucker (2019), On variational bounds of mutual information.

    Args:
        posterior: a torch or Pyro distribution of a minibatch, batch shape (B,) with B >= 2, event shape
            (d,); its data drawn without replacement.
        data_size: N, the number of data that the minibatch was drawn from, at least B. The value does not
            depend on it.
        num_samples: draws of z for each datum.
        seed: isolates the draws from torch's global state.

    Returns:
        An estimate in nats per datum, of bound "lower". Its value is differentiable in the parameters of a
        posterior that has ``rsample``, and a plain number for any other. Its errors are those of this very
        minibatch, and another one moves the value too.

    Raises:
        ValueError: for another batch or event shape, fewer than two data, a ``data_size`` below B, or fewer
            than one draw.

    >>> import torch
    >>> from torch.distributions import Independent, Normal
    >>> far_apart = torch.tensor([[0.0], [100.0], [200.0], [300.0]], dtype=torch.float64)
    >>> print(info_nce(Independent(Normal(far_apart, 1.0), 1), seed=0))  # ln 4, however many data there are
    1.386 ± 0.000 (lower)
    """
    mixture = BatchMixture(posterior)
    if data_size is not None:
        check_data_size(data_size, mixture.batch_size)
    return _information(mixture, num_samples, seed, "lower", _target(data_size))


def minibatch_stratified(
    posterior: Posterior, *, data_size: int, num_samples: int = 1, seed: int | None = None
) -> Estimate:
    r"""The mutual information under all data by minibatch stratified sampling, symmetrised (MSS).

    .. math:: \frac1B \sum_i \mathrm{E}_{q(z|x_i)} \Big[\log q(z \mid x_i) - \log \Big(\frac1N q(z \mid x_i)
        + \frac{N-1}{N(B-1)} \sum_{n \ne i} q(z \mid x_n)\Big)\Big]

    The estimate of q(z) within the logarithm is unbiased over minibatches, so that the value is biased up, by
    0 to ln N - I: nothing for B = N, and much where a minibatch holds no neighbours of a datum. Any
    divergence of the aggregate posterior from a prior comes out too small by as much.

    Reference: Chen, Li, Grosse and Duvenaud (2018), Isolating sources of disentanglement in variational
    autoencoders, appendix C; here with the stratum of each datum's own component for every datum alike.

    Args:
        posterior, num_samples, seed: as for :func:`info_nce`.
        data_size: N, the number of data that the minibatch was drawn from, at least B.

    Returns:
        An estimate in nats per datum, of bound "upper", and otherwise as that of :func:`info_nce`.

    Raises:
        ValueError: for another batch or event shape, fewer than two data, a ``data_size`` below B, or fewer
            than one draw.

    >>> import torch
    >>> from torch.distributions import Independent, Normal
    >>> far_apart = torch.tensor([[0.0], [100.0], [200.0], [300.0]], dtype=torch.float64)
    >>> posterior = Independent(Normal(far_apart, 1.0), 1)
    >>> print(minibatch_stratified(posterior, data_size=1000, seed=0))  # ln 1000
    6.908 ± 0.000 (upper)
    """
    mixture = BatchMixture(posterior, data_size=data_size)
    return _information(mixture, num_samples, seed, "upper", _target(data_size))


def minibatch_weighted(
    posterior: Posterior, *, data_size: int, num_samples: int = 1, seed: int | None = None
) -> Estimate:
    r"""What minibatch weighted sampling (MWS) gives for the mutual information. It must not be reported.

    .. math:: \frac1B \sum_i \mathrm{E}_{q(z|x_i)} \Big[\log q(z \mid x_i)
        - \log \frac{1}{NB} \sum_n q(z \mid x_n)\Big] = \texttt{info\_nce} + \ln N

    The weights sum to 1/N rather than to 1. In expectation over minibatches the value therefore exceeds the
    mutual information under all data by ln B at least and by ln N at most, at B = N by the whole of ln N,
    and often exceeds ln N, which no mutual information of N data can. It is here for comparison with what has
    been published; report :func:`mutual_information`, and train with :func:`minibatch_stratified` or
    :func:`info_nce`.

    Reference: Chen, Li, Grosse and Duvenaud (2018), Isolating sources of disentanglement in variational
    autoencoders, section 4.1.

    Args:
        posterior, num_samples, seed: as for :func:`info_nce`.
        data_size: N, the number of data that the minibatch was drawn from, at least B.

    Returns:
        An estimate in nats per datum, of bound "upper", whose ``target`` repeats the warning. Its value is
        differentiable in the parameters of a posterior that has ``rsample``, a plain number for any other.

    Raises:
        ValueError: for another batch or event shape, fewer than two data, a ``data_size`` below B, or fewer
            than one draw.

    >>> import torch
    >>> from torch.distributions import Independent, Normal
    >>> twins = Independent(Normal(torch.zeros(4, 1, dtype=torch.float64), 1.0), 1)  # no information at all
    >>> print(minibatch_weighted(twins, data_size=1000, seed=0))  # ln 1000
    6.908 ± 0.000 (upper)
    """
    mixture = BatchMixture.weighted(posterior, data_size=data_size)
    warning = f"exceeded by ln {mixture.batch_size} to ln {data_size}: not to be reported"
    return _information(mixture, num_samples, seed, "upper", f"{_target(data_size)}, {warning}")


def _target(data_size: int | None) -> str:
    data = "all data" if data_size is None else f"all {data_size} data"
    return f"the mutual information of the representation under {data} that the minibatch was drawn from"


def _information(
    mixture: BatchMixture,
    num_samples: int,
    seed: int | None,
    bound: Literal["lower", "upper"],
    target: str,
) -> Estimate:
    """The mean of log q(z|x) - log q̂(z), with a gradient only where it would be the whole one."""
    reparametrised = getattr(mixture.posterior, "has_rsample", False)
    with torch.set_grad_enabled(torch.is_grad_enabled() and reparametrised):
        z = draws_of(mixture.posterior, num_samples, seed)
        difference = mixture.posterior.log_prob(z).double() - mixture.log_prob(z)  # (samples, batch)
    return replace(_plain_mean(difference.detach(), bound, target), value=difference.mean())


def _plain_mean(difference: Tensor, bound: Literal["lower", "upper"], target: str) -> Estimate:
    # without covariates: a correction would have to be differentiated too, and the minibatch moves it more
    samples, batch = difference.shape
    plan = ControlVariates.of(difference.new_zeros(samples, batch, 0), difference.new_zeros(batch, 0))
    return plan.expectation(difference).estimate(bound, target)
