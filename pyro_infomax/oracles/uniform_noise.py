"""A uniform variable, seen with uniform noise."""

from typing import final

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Uniform

from .checks import positive_number
from .information_problem import InformationProblem


@final
class UniformNoise(InformationProblem):
    r"""Independent dimensions of a uniform variable to which uniform noise is added.

    .. math::

        x_j \sim U(0, 1), \quad y_j = x_j + U(-\epsilon, \epsilon): \qquad
        I(X_j; Y_j) = \begin{cases}
            \epsilon - \ln 2\epsilon & \epsilon \le \tfrac12 \\
            1 / 4\epsilon & \epsilon \ge \tfrac12
        \end{cases}

    The densities have edges, and the information is unbounded as the noise vanishes.

    Reference: Czyż et al. (2023), *Beyond Normal: On the Evaluation of Mutual Information Estimators*.

    Args:
        epsilon: half the width of the noise, positive.
        dim: the dimension of x and of y.

    Raises:
        ValueError: If epsilon is not positive or dim is below 1.

    Example:
        >>> print(f"{UniformNoise(0.1).mutual_information:.4f}")
        1.7094
    """

    def __init__(self, epsilon: Tensor | float, *, dim: int = 1) -> None:
        self.epsilon = positive_number("epsilon", epsilon)
        if dim < 1:
            raise ValueError(f"Expected dim >= 1 but got {dim}.")
        self.x_dim = self.y_dim = dim

    @property
    def mutual_information(self) -> Tensor:
        """I(X; Y), float64, in nats."""
        epsilon = self.epsilon
        little, much = epsilon - (2 * epsilon).log(), 1 / (4 * epsilon)
        return self.x_dim * torch.where(epsilon <= 0.5, little, much)

    def conditional(self, x: Tensor) -> Distribution:
        """p(y|x), batch shape (n,), of x (n, x_dim); minus infinity in the log outside its box."""
        x = self._checked(x)
        noise = Uniform(x - self.epsilon, x + self.epsilon, validate_args=False)
        return Independent(noise, 1, validate_args=False)

    def log_marginal(self, y: Tensor) -> Tensor:
        """log p(y), (...), of y (..., y_dim): a trapezium in each dimension."""
        y = self._checked_output(y)
        overlap = torch.minimum(y + self.epsilon, torch.ones_like(y)) - (y - self.epsilon).clamp(min=0)
        return (overlap.clamp(min=0) / (2 * self.epsilon)).log().sum(-1)

    def _draw(self, n: int) -> tuple[Tensor, Tensor]:
        x, noise = torch.rand(2, n, self.x_dim, dtype=torch.float64)
        return x, x + self.epsilon * (2 * noise - 1)
