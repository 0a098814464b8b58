"""Two vectors with a joint multivariate Student distribution."""

from typing import final

import torch
from numpy.typing import ArrayLike
from pyro.distributions import MultivariateStudentT
from torch import Tensor

from .checks import positive_number
from .correlated_normals import JointBlocks
from .information_problem import InformationProblem


@final
class CorrelatedStudent(InformationProblem):
    r"""The parts x and y of a multivariate Student vector of location zero: heavy tails in all directions.

    .. math::

        I(X; Y) = \tfrac12 \ln \frac{|\Sigma_x| |\Sigma_y|}{|\Sigma|}
            + f(\nu) + f(\nu + m + n) - f(\nu + m) - f(\nu + n), \qquad
        f(\nu) = \ln \Gamma(\tfrac\nu2) - \tfrac\nu2 \psi(\tfrac\nu2)

    for dimensions m and n. The second part does not depend on :math:`\Sigma` and is positive: even without
    any correlation the sizes of x and y tell of each other.

    References:
        Arellano-Valle, Contreras-Reyes and Genton (2013), *Shannon Entropy and Mutual Information for
        Multivariate Skew-Elliptical Distributions*.
        Czyż et al. (2023), *Beyond Normal: On the Evaluation of Mutual Information Estimators*.

    Args:
        dispersion: :math:`\Sigma` of (x, y), (size, size), positive definite; the covariance where
            :math:`\nu > 2` is :math:`\nu / (\nu - 2)` times it.
        x_dim: how many of its dimensions, the first, are x.
        df: the degrees of freedom :math:`\nu`, positive.

    Raises:
        ValueError: If the dispersion is no covariance, nothing is left for x or for y, or df is not positive.

    Example:
        >>> pair = CorrelatedStudent([[1.0, 0.0], [0.0, 1.0]], x_dim=1, df=1.0)
        >>> print(f"{pair.mutual_information:.4f}")  # two Cauchy variables without correlation
        0.2242
    """

    def __init__(self, dispersion: ArrayLike | Tensor, x_dim: int, df: Tensor | float) -> None:
        self._blocks = JointBlocks(dispersion, x_dim)
        self.x_dim, self.y_dim = self._blocks.x_dim, self._blocks.y_dim
        self.df = positive_number("df", df)

    @property
    def mutual_information(self) -> Tensor:
        """I(X; Y), float64, in nats."""
        return self._blocks.gaussian_information + self.tail_information

    @property
    def tail_information(self) -> Tensor:
        """What the sizes of x and y tell of each other, in nats; 0 for infinitely many degrees of freedom."""
        df, m, n = self.df, self.x_dim, self.y_dim
        return _f(df) + _f(df + m + n) - _f(df + m) - _f(df + n)

    def conditional(self, x: Tensor) -> MultivariateStudentT:
        """p(y|x), batch shape (n,), of x (n, x_dim): a wider one for an x further out."""
        blocks = self._blocks
        x = self._checked(x)
        size = (x * torch.linalg.solve(blocks.x, x.T).T).sum(-1)  # (n,), the squared Mahalanobis distance
        df = self.df + self.x_dim
        scale = ((self.df + size) / df).sqrt()
        return MultivariateStudentT(df, x @ blocks.slope.T, scale.reshape(-1, 1, 1) * blocks.residual_scale)

    def log_marginal(self, y: Tensor) -> Tensor:
        """log p(y), (...), of y (..., y_dim)."""
        zero = torch.zeros(self.y_dim, dtype=torch.float64)
        return MultivariateStudentT(self.df, zero, self._blocks.y_scale).log_prob(self._checked_output(y))

    def _draw(self, n: int) -> tuple[Tensor, Tensor]:
        chi_square = 2 * torch.distributions.Gamma(self.df / 2, torch.ones_like(self.df)).sample((n, 1))
        return self._blocks.split(self._blocks.noise(n) * (self.df / chi_square).sqrt())


def _f(df: Tensor) -> Tensor:
    return torch.lgamma(df / 2) - df / 2 * torch.digamma(df / 2)
