"""What every problem of known mutual information offers."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributions import Distribution

from .checks import finite


class InformationProblem(ABC):
    """Two random vectors whose mutual information is known, with draws and exact densities.

    Attributes:
        x_dim: the dimension of x.
        y_dim: the dimension of y.
    """

    x_dim: int
    y_dim: int

    @property
    @abstractmethod
    def mutual_information(self) -> Tensor:
        """I(X; Y), float64, in nats."""

    @abstractmethod
    def conditional(self, x: Tensor) -> Distribution:
        """p(y|x) of each x, what an encoder is to its data.

        Args:
            x: (n, x_dim).

        Returns:
            A distribution of batch shape (n,) and event shape (y_dim,), as the functions of
            :mod:`pyro_infomax.information` take posteriors.
        """

    @abstractmethod
    def log_marginal(self, y: Tensor) -> Tensor:
        """log p(y), (...), in nats.

        Args:
            y: (..., y_dim).
        """

    @abstractmethod
    def _draw(self, n: int) -> tuple[Tensor, Tensor]:
        """n draws of x and y, from torch's global generator."""

    def sample(self, n: int, *, seed: int | None = None) -> tuple[Tensor, Tensor]:
        """Draws of both vectors.

        Args:
            n: number of draws.
            seed: isolates the draws from torch's global generator; None draws from it.

        Returns:
            x, (n, x_dim), and y, (n, y_dim), float64.
        """
        with _seeded(seed):
            return self._draw(n)

    def log_ratio(self, x: Tensor, y: Tensor) -> Tensor:
        r"""The pointwise mutual information :math:`\ln p(y|x) / p(y)`, (n,): the optimal critic.

        Its mean over draws estimates the mutual information without bias.

        Args:
            x: (n, x_dim).
            y: (n, y_dim).
        """
        return self.conditional(x).log_prob(y) - self.log_marginal(y)

    def _checked(self, x: Tensor) -> Tensor:
        if x.dim() != 2 or x.shape[1] != self.x_dim:
            raise ValueError(f"Expected x of shape (n, {self.x_dim}) but got {tuple(x.shape)}.")
        return finite("x", x)

    def _checked_output(self, y: Tensor) -> Tensor:
        if not y.dim() or y.shape[-1] != self.y_dim:
            raise ValueError(f"Expected y of shape (..., {self.y_dim}) but got {tuple(y.shape)}.")
        return finite("y", y)


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would reseed the accelerators too
        torch.default_generator.manual_seed(seed)
        yield
