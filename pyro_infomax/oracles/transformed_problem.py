"""A problem seen through maps that change everything but its information."""

from typing import final

from torch import Tensor
from torch.distributions import Distribution, Transform, TransformedDistribution, identity_transform

from .information_problem import InformationProblem


@final
class TransformedProblem(InformationProblem):
    r"""A problem whose x and y have each gone through a bijection.

    .. math:: I(f(X); g(Y)) = I(X; Y)

    Reference: Kraskov, Stögbauer and Grassberger (2004), *Estimating Mutual Information*.

    Args:
        problem: the problem of known information.
        x_map: f, a bijective ``torch.distributions.Transform``, such as :class:`HalfCube`, :class:`Asinh`,
            :class:`NormalCdf` or :class:`Spiral`; the identity by default.
        y_map: g.

    Raises:
        ValueError: If a map is no transform, or not bijective.

    Example:
        >>> from pyro_infomax.oracles import CorrelatedNormals, HalfCube, NormalCdf
        >>> plain = CorrelatedNormals([[1.0, 0.6], [0.6, 1.0]], x_dim=1)
        >>> bent = TransformedProblem(plain, x_map=HalfCube(), y_map=NormalCdf())
        >>> print(f"{bent.mutual_information:.4f}")
        0.2231
        >>> x, y = bent.sample(1000, seed=0)
        >>> bool(y.min() > 0 and y.max() < 1)
        True
    """

    def __init__(
        self,
        problem: InformationProblem,
        *,
        x_map: Transform = identity_transform,
        y_map: Transform = identity_transform,
    ) -> None:
        for each in (x_map, y_map):
            if not isinstance(each, Transform) or not each.bijective:
                raise ValueError(
                    f"Expected bijective maps but got {each!r}; take a torch.distributions.Transform."
                )
        self.problem = problem
        self.x_map, self.y_map = x_map, y_map
        (self.x_dim,) = x_map.forward_shape((problem.x_dim,))
        (self.y_dim,) = y_map.forward_shape((problem.y_dim,))

    @property
    def mutual_information(self) -> Tensor:
        """I(X; Y), float64, in nats."""
        return self.problem.mutual_information

    def conditional(self, x: Tensor) -> Distribution:
        """p(y|x), batch shape (n,), of x (n, x_dim)."""
        plain = self.problem.conditional(self.x_map.inv(self._checked(x)))
        return TransformedDistribution(plain, [self.y_map], validate_args=False)

    def log_marginal(self, y: Tensor) -> Tensor:
        """log p(y), (...), of y (..., y_dim)."""
        y = self._checked_output(y)
        plain = self.y_map.inv(y)
        stretch = self.y_map.log_abs_det_jacobian(plain, y)
        return self.problem.log_marginal(plain) - _summed(stretch, y.dim() - 1)

    def _draw(self, n: int) -> tuple[Tensor, Tensor]:
        x, y = self.problem.sample(n)
        return self.x_map(x), self.y_map(y)


def _summed(values: Tensor, batch_dims: int) -> Tensor:
    return values.flatten(batch_dims).sum(-1) if values.dim() > batch_dims else values
