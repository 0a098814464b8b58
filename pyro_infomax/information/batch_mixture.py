"""The aggregate posterior of N data, as a minibatch of them shows it."""

import math
from typing import Any, Self, final

import torch
from torch import Tensor

from pyro_infomax.information.aggregate_posterior import AggregatePosterior
from pyro_infomax.information.draws import check_draws
from pyro_infomax.information.marginals import marginals_of
from pyro_infomax.information.mixture import Mixture


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

    def __init__(self, posterior: Any, *, data_size: int | None = None) -> None:
        self._aggregate = AggregatePosterior(posterior)
        self.posterior = self._aggregate.posterior
        if self.batch_size < 2:
            raise ValueError(f"Expected a minibatch of at least 2 data but got {self.batch_size}.")
        self.data_size = self.batch_size if data_size is None else data_size
        check_data_size(self.data_size, self.batch_size)
        self._log_mass = 0.0

    @classmethod
    def weighted(cls, posterior: Any, *, data_size: int) -> Self:
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

    def _weighed(self, own: Tensor, mixture: Mixture) -> Tensor:
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
