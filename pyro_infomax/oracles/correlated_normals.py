"""Two jointly Gaussian vectors."""

from typing import final

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.distributions import MultivariateNormal

from .checks import covariance_of, finite, of_rank
from .information_problem import InformationProblem


@final
class CorrelatedNormals(InformationProblem):
    r"""The parts x and y of a Gaussian vector of mean zero.

    .. math:: I(X; Y) = \tfrac12 \ln \frac{|\Sigma_x| |\Sigma_y|}{|\Sigma|}

    References:
        Kraskov, Stögbauer and Grassberger (2004), *Estimating Mutual Information*.
        Czyż, Grabowski, Vogt, Beerenwinkel and Marx (2023), *Beyond Normal: On the Evaluation of Mutual
        Information Estimators*.

    Args:
        covariance: of (x, y), (size, size), positive definite; see :func:`dense_covariance` and
            :func:`sparse_covariance`.
        x_dim: how many of its dimensions, the first, are x.

    Raises:
        ValueError: If the covariance is none, or nothing is left for x or for y.

    Example:
        >>> pair = CorrelatedNormals([[1.0, 0.6], [0.6, 1.0]], x_dim=1)
        >>> print(f"{pair.mutual_information:.4f}")  # -ln(1 - 0.36) / 2
        0.2231
        >>> x, y = pair.sample(100, seed=0)
        >>> pair.conditional(x).event_shape
        torch.Size([1])
    """

    def __init__(self, covariance: ArrayLike | Tensor, x_dim: int) -> None:
        self._blocks = JointBlocks(covariance, x_dim)
        self.x_dim, self.y_dim = self._blocks.x_dim, self._blocks.y_dim

    @property
    def mutual_information(self) -> Tensor:
        """I(X; Y), float64, in nats."""
        return self._blocks.gaussian_information

    def conditional(self, x: Tensor) -> MultivariateNormal:
        """p(y|x), batch shape (n,), of x (n, x_dim)."""
        blocks = self._blocks
        return MultivariateNormal(self._checked(x) @ blocks.slope.T, scale_tril=blocks.residual_scale)

    def log_marginal(self, y: Tensor) -> Tensor:
        """log p(y), (...), of y (..., y_dim)."""
        zero = torch.zeros(self.y_dim, dtype=torch.float64)
        return MultivariateNormal(zero, scale_tril=self._blocks.y_scale).log_prob(self._checked_output(y))

    def _draw(self, n: int) -> tuple[Tensor, Tensor]:
        return self._blocks.split(self._blocks.noise(n))


@final
class JointBlocks:
    """A covariance of (x, y) in blocks, with what the two conditional families take from it."""

    def __init__(self, covariance: ArrayLike | Tensor, x_dim: int) -> None:
        self.joint = covariance_of("covariance", covariance)
        if not 0 < x_dim < len(self.joint):
            raise ValueError(f"Expected 0 < x_dim < {len(self.joint)} but got {x_dim}.")
        self.x_dim, self.y_dim = x_dim, len(self.joint) - x_dim
        self.x = self.joint[:x_dim, :x_dim]
        across, self.y = self.joint[x_dim:, :x_dim], self.joint[x_dim:, x_dim:]
        self.slope = torch.linalg.solve(self.x, across.T).T  # (y, x), E[y|x] = slope x
        self.scale = torch.linalg.cholesky(self.joint)
        # the lower right block of the factor is that of the Schur complement
        self.residual_scale = self.scale[x_dim:, x_dim:]  # (y, y)
        self.y_scale = torch.linalg.cholesky(self.y)  # (y, y)

    @property
    def gaussian_information(self) -> Tensor:
        """Half the log-ratio of the determinants of the covariance of y and of y given x."""
        return self.y_scale.diagonal().log().sum() - self.residual_scale.diagonal().log().sum()

    def noise(self, n: int) -> Tensor:
        """Gaussian draws of (x, y), (n, size)."""
        return torch.randn(n, len(self.joint), dtype=torch.float64) @ self.scale.T

    def split(self, both: Tensor) -> tuple[Tensor, Tensor]:
        """x and y of (n, size)."""
        return both[:, : self.x_dim], both[:, self.x_dim :]


def dense_covariance(size: int, correlation: float) -> Tensor:
    """The covariance of variables of variance one that are all equally correlated.

    Args:
        size: number of variables, x and y together.
        correlation: of each two, above -1 / (size - 1) and below 1.

    Returns:
        (size, size), float64.

    Raises:
        ValueError: If there is no such covariance.

    Example:
        >>> dense_covariance(3, 0.5)[0].tolist()
        [1.0, 0.5, 0.5]
    """
    if size < 2 or not -1 / (size - 1) < correlation < 1:
        raise ValueError(
            f"Expected size >= 2 and a correlation above -1 / (size - 1) and below 1 but got size={size}, "
            f"correlation={correlation}."
        )
    eye = torch.eye(size, dtype=torch.float64)
    return correlation + (1 - correlation) * eye


def sparse_covariance(x_dim: int, y_dim: int, correlations: ArrayLike | Tensor) -> Tensor:
    """The covariance of variables of variance one of which only x_j and y_j are correlated, for the first j.

    Args:
        x_dim: the dimension of x.
        y_dim: the dimension of y.
        correlations: of the first pairs, (pairs,), above -1 and below 1: the canonical correlations.

    Returns:
        (x_dim + y_dim, x_dim + y_dim), float64.

    Raises:
        ValueError: If there are more correlations than pairs, or one is out of range.

    Example:
        >>> sparse_covariance(2, 1, [0.8]).tolist()
        [[1.0, 0.0, 0.8], [0.0, 1.0, 0.0], [0.8, 0.0, 1.0]]
    """
    values = of_rank("correlations", finite("correlations", correlations), "pairs")
    if len(values) > min(x_dim, y_dim):
        raise ValueError(
            f"Expected at most {min(x_dim, y_dim)} correlations, one a pair, but got {len(values)}."
        )
    if not (values.abs() < 1).all():
        raise ValueError(f"Expected correlations within (-1, 1) but got {values.tolist()}.")
    across = torch.zeros(x_dim, y_dim, dtype=torch.float64)
    across.diagonal()[: len(values)] = values
    upper = torch.cat([torch.eye(x_dim, dtype=torch.float64), across], dim=1)
    lower = torch.cat([across.T, torch.eye(y_dim, dtype=torch.float64)], dim=1)
    return torch.cat([upper, lower])
