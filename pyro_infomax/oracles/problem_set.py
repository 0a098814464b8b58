"""A standard set of problems of known mutual information."""

import torch

from .bijections import Asinh, HalfCube, NormalCdf, Spiral
from .correlated_normals import CorrelatedNormals, dense_covariance, sparse_covariance
from .correlated_student import CorrelatedStudent
from .information_problem import InformationProblem
from .transformed_problem import TransformedProblem
from .uniform_noise import UniformNoise


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
