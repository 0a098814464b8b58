"""What estimators ask of q(z|x) and p(z): a few methods of torch's distributions."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Density(Protocol):
    """What is asked of a prior: shapes and a log-density.

    Every distribution of torch's and Pyro's is one.
    """

    @property
    def batch_shape(self) -> torch.Size:
        """() for a prior."""

    @property
    def event_shape(self) -> torch.Size:
        """(d,), the latent dimensions."""

    def log_prob(self, value: Tensor, /) -> Tensor:
        """log p(z), (...), of z (..., d), in nats; leading axes broadcast against the batch."""


@runtime_checkable
class Posterior(Density, Protocol):
    r"""What is asked of :math:`q(z \mid x_n)` of N data: batch shape (N,), event shape (d,).

    Every distribution of torch's and Pyro's over vectors is a posterior, and so is any object with these
    members, such as a network that scores and draws by itself; nothing has to be inherited. Only
    ``batch_shape``, ``event_shape`` and ``log_prob`` are needed where draws are given, or none are made. Some
    estimators use more where it is there:

    - ``rsample`` in place of ``sample``, for gradients in the parameters of the posterior; whether it exists
      is told by ``has_rsample``.
    - ``log_prob_marginals(z)``, the log-densities of the latent dimensions one by one, (..., d), where they
      cannot be read from the family.
    - ``rows_at_once``, the number of data that it scores at a time, to plan the memory that it takes.

    >>> from pyro_infomax.information import AggregatePosterior
    >>> class Laplace:
    ...     def __init__(self, loc):  # (N, d)
    ...         self.loc, self.batch_shape, self.event_shape = loc, loc.shape[:1], loc.shape[1:]
    ...
    ...     def log_prob(self, z):
    ...         return torch.distributions.Laplace(self.loc, 1.0).log_prob(z).sum(-1)
    ...
    ...     def sample(self, sample_shape=()):
    ...         return torch.distributions.Laplace(self.loc, 1.0).sample(sample_shape)
    >>> posterior = Laplace(torch.tensor([[-1.0], [1.0]]))
    >>> isinstance(posterior, Posterior)
    True
    >>> AggregatePosterior(posterior).log_prob(torch.zeros(1, 1))
    tensor([-1.6931], dtype=torch.float64)
    """

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ..., /) -> Tensor:
        """z_n ~ q(z|x_n), (*sample_shape, N, d), without gradients."""
