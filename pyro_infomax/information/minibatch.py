"""The mutual information of a representation as a minibatch shows it, each estimate with its bias."""

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_infomax.information.batch_mixture import BatchMixture, check_data_size
from pyro_infomax.information.control_variates import ControlVariates
from pyro_infomax.information.draws import draws_of
from pyro_infomax.information.estimate import Estimate


def info_nce(
    posterior: Any, *, data_size: int | None = None, num_samples: int = 1, seed: int | None = None
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
    posterior: Any, *, data_size: int, num_samples: int = 1, seed: int | None = None
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
        posterior: a torch or Pyro distribution of a minibatch, batch shape (B,) with B >= 2, event shape
            (d,); its data drawn without replacement.
        data_size: N, the number of data that the minibatch was drawn from, at least B.
        num_samples: draws of z for each datum.
        seed: isolates the draws from torch's global state.

    Returns:
        An estimate in nats per datum, of bound "upper". Its value is differentiable in the parameters of a
        posterior that has ``rsample``, and a plain number for any other. Its errors are those of this very
        minibatch, and another one moves the value too.

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
    posterior: Any, *, data_size: int, num_samples: int = 1, seed: int | None = None
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
        posterior: a torch or Pyro distribution of a minibatch, batch shape (B,) with B >= 2, event shape
            (d,); its data drawn without replacement.
        data_size: N, the number of data that the minibatch was drawn from, at least B.
        num_samples: draws of z for each datum.
        seed: isolates the draws from torch's global state.

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
    plan = ControlVariates(difference.new_zeros(samples, batch, 0), difference.new_zeros(batch, 0))
    return plan.expectation(difference).estimate(bound, target)
