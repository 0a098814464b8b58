import math

import pytest
import torch

from pyro_infomax.oracles import UniformNoise


@pytest.mark.parametrize("epsilon", [0.05, 0.3, 0.5, 0.75, 3.0])
def test_truth_is_the_entropy_of_y_less_that_of_the_noise(epsilon: float) -> None:
    problem = UniformNoise(epsilon)
    y = torch.linspace(-epsilon, 1 + epsilon, 400_001)
    density = problem.log_marginal(y[:, None]).exp()
    assert torch.trapezoid(density, y).item() == pytest.approx(1, abs=1e-9)
    entropy = torch.trapezoid(torch.special.entr(density), y).item()
    assert problem.mutual_information.item() == pytest.approx(entropy - math.log(2 * epsilon), abs=1e-8)


def test_marginal_is_the_convolution() -> None:
    x = torch.linspace(0, 1, 200_001)[:, None]
    problem = UniformNoise(0.3)
    y = torch.tensor([[-0.2], [0.1], [0.5], [1.25], [1.31]])
    found = problem.conditional(x).log_prob(y[:, None]).exp().mean(1)
    torch.testing.assert_close(problem.log_marginal(y).exp(), found, atol=1e-4, rtol=0)


def test_dimensions_add_up() -> None:
    assert UniformNoise(0.2, dim=3).mutual_information == 3 * UniformNoise(0.2).mutual_information
    x, y = UniformNoise(0.2, dim=3).sample(100, seed=0)
    assert x.shape == y.shape == (100, 3)
    assert (y - x).abs().max() < 0.2


@pytest.mark.parametrize(("epsilon", "dim"), [(0.0, 1), (-1.0, 1), (0.5, 0)])
def test_wrong_arguments_are_refused(epsilon: float, dim: int) -> None:
    with pytest.raises(ValueError, match=r"Expected (epsilon > 0|dim >= 1) but got"):
        UniformNoise(epsilon, dim=dim)
