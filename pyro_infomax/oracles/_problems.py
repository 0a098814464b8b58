"""Problems of known mutual information, and maps that change everything but the information."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import torch
from numpy.typing import ArrayLike
from pyro.distributions import MultivariateStudentT
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    MultivariateNormal,
    Transform,
    TransformedDistribution,
    Uniform,
    constraints,
    identity_transform,
)
from torch.distributions.constraints import Constraint

from pyro_infomax._checks import seed_number, whole_number
from pyro_infomax.oracles._checks import covariance_of, finite, of_rank, positive_number

# ---- What a problem of known mutual information offers.


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
        n = whole_number("n", n, at_least=1)
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

    def _inputs(self, x: Tensor) -> Tensor:
        if x.dim() != 2 or x.shape[1] != self.x_dim:
            raise ValueError(f"Expected x of shape (n, {self.x_dim}) but got {tuple(x.shape)}.")
        return finite("x", x)

    def _outputs(self, y: Tensor) -> Tensor:
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
        torch.default_generator.manual_seed(seed_number(seed))
        yield


# ---- Two jointly Gaussian vectors.


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
        return self._blocks.gaussian_information

    def conditional(self, x: Tensor) -> MultivariateNormal:
        blocks = self._blocks
        return MultivariateNormal(self._inputs(x) @ blocks.slope.T, scale_tril=blocks.residual_scale)

    def log_marginal(self, y: Tensor) -> Tensor:
        zero = torch.zeros(self.y_dim, dtype=torch.float64)
        return MultivariateNormal(zero, scale_tril=self._blocks.y_scale).log_prob(self._outputs(y))

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


# ---- Two vectors with a joint multivariate Student distribution.


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
        return self._blocks.gaussian_information + self.tail_information

    @property
    def tail_information(self) -> Tensor:
        """What the sizes of x and y tell of each other, in nats; 0 for infinitely many degrees of freedom."""
        df, m, n = self.df, self.x_dim, self.y_dim
        return _f(df) + _f(df + m + n) - _f(df + m) - _f(df + n)

    def conditional(self, x: Tensor) -> MultivariateStudentT:
        """p(y|x), batch shape (n,), of x (n, x_dim): a wider one for an x further out."""
        blocks = self._blocks
        x = self._inputs(x)
        size = (x * torch.linalg.solve(blocks.x, x.T).T).sum(-1)  # (n,), the squared Mahalanobis distance
        df = self.df + self.x_dim
        scale = ((self.df + size) / df).sqrt()
        return MultivariateStudentT(df, x @ blocks.slope.T, scale.reshape(-1, 1, 1) * blocks.residual_scale)

    def log_marginal(self, y: Tensor) -> Tensor:
        zero = torch.zeros(self.y_dim, dtype=torch.float64)
        return MultivariateStudentT(self.df, zero, self._blocks.y_scale).log_prob(self._outputs(y))

    def _draw(self, n: int) -> tuple[Tensor, Tensor]:
        chi_square = 2 * torch.distributions.Gamma(self.df / 2, torch.ones_like(self.df)).sample((n, 1))
        return self._blocks.split(self._blocks.noise(n) * (self.df / chi_square).sqrt())


def _f(df: Tensor) -> Tensor:
    return torch.lgamma(df / 2) - df / 2 * torch.digamma(df / 2)


# ---- A uniform variable, seen with uniform noise.


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
        epsilon = self.epsilon
        little, much = epsilon - (2 * epsilon).log(), 1 / (4 * epsilon)
        return self.x_dim * torch.where(epsilon <= 0.5, little, much)

    def conditional(self, x: Tensor) -> Distribution:
        """p(y|x), batch shape (n,), of x (n, x_dim); minus infinity in the log outside its box."""
        x = self._inputs(x)
        noise = Uniform(x - self.epsilon, x + self.epsilon, validate_args=False)
        return Independent(noise, 1, validate_args=False)

    def log_marginal(self, y: Tensor) -> Tensor:
        """log p(y), (...), of y (..., y_dim): a trapezium in each dimension."""
        y = self._outputs(y)
        overlap = torch.minimum(y + self.epsilon, torch.ones_like(y)) - (y - self.epsilon).clamp(min=0)
        return (overlap.clamp(min=0) / (2 * self.epsilon)).log().sum(-1)

    def _draw(self, n: int) -> tuple[Tensor, Tensor]:
        x, noise = torch.rand(2, n, self.x_dim, dtype=torch.float64)
        return x, x + self.epsilon * (2 * noise - 1)


# ---- A problem seen through maps that change everything but its information.


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
        return self.problem.mutual_information

    def conditional(self, x: Tensor) -> Distribution:
        plain = self.problem.conditional(self.x_map.inv(self._inputs(x)))
        return TransformedDistribution(plain, [self.y_map], validate_args=False)

    def log_marginal(self, y: Tensor) -> Tensor:
        y = self._outputs(y)
        plain = self.y_map.inv(y)
        stretch = self.y_map.log_abs_det_jacobian(plain, y)
        return self.problem.log_marginal(plain) - _summed(stretch, y.dim() - 1)

    def _draw(self, n: int) -> tuple[Tensor, Tensor]:
        x, y = self.problem.sample(n)
        return self.x_map(x), self.y_map(y)


def _summed(values: Tensor, batch_dims: int) -> Tensor:
    return values.flatten(batch_dims).sum(-1) if values.dim() > batch_dims else values


# ---- Maps that change the margins of a vector and none of its information.


class _Increasing(Transform, ABC):
    """An increasing map of every coordinate by itself."""

    domain: Constraint = constraints.real
    codomain: Constraint = constraints.real
    bijective = True
    sign = 1


@final
class HalfCube(_Increasing):
    r"""Longer tails: :math:`x \mapsto x |x|^{1/2}`.

    Reference: Czyż et al. (2023), *Beyond Normal: On the Evaluation of Mutual Information Estimators*.

    Example:
        >>> HalfCube()(torch.tensor([-4.0, 4.0])).tolist()
        [-8.0, 8.0]
    """

    def _call(self, x: Tensor) -> Tensor:
        return x * x.abs().sqrt()

    def _inverse(self, y: Tensor) -> Tensor:
        return y.sign() * y.abs().pow(2 / 3)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        """ln 3/2 + 1/2 ln abs(x)."""
        return (1.5 * x.abs().sqrt()).log()


@final
class Asinh(_Increasing):
    r"""Shorter tails: :math:`x \mapsto \operatorname{asinh} x`.

    Reference: Czyż et al. (2023), *Beyond Normal: On the Evaluation of Mutual Information Estimators*.

    Example:
        >>> round(Asinh()(torch.tensor(1.0)).sinh().item(), 4)
        1.0
    """

    def _call(self, x: Tensor) -> Tensor:
        return x.asinh()

    def _inverse(self, y: Tensor) -> Tensor:
        return y.sinh()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        """-1/2 ln(1 + x^2)."""
        return -0.5 * x.square().log1p()


@final
class NormalCdf(_Increasing):
    """Uniform margins for a vector of standard normal ones: its copula.

    Reference: Czyż et al. (2023), *Beyond Normal: On the Evaluation of Mutual Information Estimators*.

    Example:
        >>> NormalCdf()(torch.tensor(0.0)).item()
        0.5
    """

    codomain = constraints.unit_interval

    def _call(self, x: Tensor) -> Tensor:
        return torch.special.ndtr(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return torch.special.ndtri(y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        """The standard normal log-density."""
        return torch.distributions.Normal(torch.zeros_like(x), 1.0).log_prob(x)


@final
class Spiral(Transform):
    r"""Winds the plane of the first two coordinates: a rotation by the angle :math:`v |x|^2`.

    The map keeps lengths and volumes, and mixes coordinates that were independent.

    Reference: Czyż et al. (2023), *Beyond Normal: On the Evaluation of Mutual Information Estimators*.

    Args:
        speed: v, in radians.

    Example:
        >>> turned = Spiral(torch.pi / 2)(torch.tensor([1.0, 0.0]))
        >>> [round(value, 6) + 0.0 for value in turned.tolist()]
        [0.0, 1.0]
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, speed: float) -> None:
        super().__init__()
        self.speed = speed

    def _call(self, x: Tensor) -> Tensor:
        return _turned(x, self.speed)

    def _inverse(self, y: Tensor) -> Tensor:
        return _turned(y, -self.speed)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        """Zero."""
        return torch.zeros_like(x[..., 0])


def _turned(x: Tensor, speed: float) -> Tensor:
    if x.shape[-1] < 2:
        raise ValueError(f"Expected at least 2 coordinates to wind but got {x.shape[-1]}.")
    angle = speed * x.square().sum(-1)
    first, second = x[..., 0], x[..., 1]
    plane = [angle.cos() * first - angle.sin() * second, angle.sin() * first + angle.cos() * second]
    return torch.cat([torch.stack(plane, dim=-1), x[..., 2:]], dim=-1)


# ---- A standard set of problems of known mutual information.


def information_problems() -> dict[str, InformationProblem]:
    """Problems of known mutual information by name, from easy to hard.

    Normals and Students in few and in several dimensions, with dense and with sparse dependence, their
    monotone and their winding transforms, and uniform noise. What an estimator reports on the normals and
    on their transforms shows how much it owes to the margins.

    Reference: Czyż et al. (2023), *Beyond Normal: On the Evaluation of Mutual Information Estimators*.

    Example:
        >>> for name, problem in information_problems().items():
        ...     print(f"{name:<28}{problem.x_dim} x {problem.y_dim}{problem.mutual_information:8.3f}")
        normal                      1 x 1   0.413
        ...
        uniform noise, much         1 x 1   0.333
    """
    pair = CorrelatedNormals(dense_covariance(2, 0.75), x_dim=1)
    sparse = CorrelatedNormals(sparse_covariance(3, 3, [0.8, 0.8]), x_dim=3)
    return {
        "normal": pair,
        "normal, half-cube": TransformedProblem(pair, x_map=HalfCube(), y_map=HalfCube()),
        "normal, asinh": TransformedProblem(pair, x_map=Asinh(), y_map=Asinh()),
        "normal, uniform margins": TransformedProblem(pair, x_map=NormalCdf(), y_map=NormalCdf()),
        "normal, dense": CorrelatedNormals(dense_covariance(5, 0.5), x_dim=2),
        "normal, sparse": sparse,
        "normal, sparse, spiral": TransformedProblem(sparse, x_map=Spiral(1 / 3), y_map=Spiral(-1 / 3)),
        "normal, sparse, large": CorrelatedNormals(sparse_covariance(25, 25, [0.8, 0.8]), x_dim=25),
        "Student, no correlation": CorrelatedStudent(torch.eye(2), x_dim=1, df=1.0),
        "Student, dense": CorrelatedStudent(dense_covariance(5, 0.5), x_dim=2, df=3.0),
        "Student, sparse": CorrelatedStudent(sparse_covariance(3, 3, [0.8, 0.8]), x_dim=3, df=5.0),
        "uniform noise, little": UniformNoise(0.1),
        "uniform noise, much": UniformNoise(0.75),
    }
