import pytest
import torch
from torch.distributions import Transform
from torch.distributions.transforms import AbsTransform, AffineTransform, StickBreakingTransform

from pyro_infomax.oracles import (
    Asinh,
    CorrelatedNormals,
    HalfCube,
    Spiral,
    TransformedProblem,
    dense_covariance,
)

PLAIN = CorrelatedNormals(dense_covariance(5, 0.5), x_dim=2)


def test_draws_are_the_mapped_ones() -> None:
    x, y = PLAIN.sample(10, seed=3)
    bent_x, bent_y = TransformedProblem(PLAIN, x_map=HalfCube(), y_map=Asinh()).sample(10, seed=3)
    torch.testing.assert_close(bent_x, HalfCube()(x))
    torch.testing.assert_close(bent_y, y.asinh())


@pytest.mark.parametrize("y_map", [HalfCube(), Spiral(0.5), AffineTransform(1.0, -3.0)])
def test_pointwise_information_is_unchanged(y_map: Transform) -> None:
    x, y = PLAIN.sample(10, seed=3)
    bent = TransformedProblem(PLAIN, x_map=Spiral(-0.4), y_map=y_map)
    found = bent.log_ratio(bent.x_map(x), bent.y_map(y))
    torch.testing.assert_close(found, PLAIN.log_ratio(x, y))
    assert bent.mutual_information == PLAIN.mutual_information


@pytest.mark.parametrize("y_map", [HalfCube(), Spiral(0.5), AffineTransform(1.0, -3.0)])
def test_densities_are_stretched_by_the_map(y_map: Transform) -> None:
    x, y = PLAIN.sample(10, seed=3)
    bent = TransformedProblem(PLAIN, y_map=y_map)
    jacobians = torch.stack([torch.autograd.functional.jacobian(y_map, each) for each in y])
    stretch = torch.linalg.slogdet(jacobians)[1]
    torch.testing.assert_close(bent.log_marginal(y_map(y)), PLAIN.log_marginal(y) - stretch)
    found = bent.conditional(x).log_prob(y_map(y))
    torch.testing.assert_close(found, PLAIN.conditional(x).log_prob(y) - stretch)


def test_dimensions_are_those_after_the_map() -> None:
    problem = TransformedProblem(PLAIN, y_map=StickBreakingTransform())
    x, y = problem.sample(5, seed=0)
    assert (x.shape[1], y.shape[1]) == (problem.x_dim, problem.y_dim)
    torch.testing.assert_close(problem.log_ratio(x, y), PLAIN.log_ratio(*PLAIN.sample(5, seed=0)))


@pytest.mark.parametrize("wrong", [torch.exp, Asinh])
def test_what_is_no_transform_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"Expected bijective maps but got .*; take a torch"):
        TransformedProblem(PLAIN, x_map=wrong)


def test_maps_that_lose_information_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected bijective maps but got AbsTransform"):
        TransformedProblem(PLAIN, y_map=AbsTransform())
