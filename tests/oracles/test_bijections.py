import pytest
import torch
from torch.distributions import Transform

from pyro_infomax.oracles import Asinh, HalfCube, NormalCdf, Spiral

ELEMENTWISE = [HalfCube(), Asinh(), NormalCdf()]


@pytest.mark.parametrize("bijection", [*ELEMENTWISE, Spiral(0.7)], ids=lambda b: type(b).__name__)
def test_inverse_leads_back(bijection: Transform) -> None:
    x = torch.randn(50, 3)
    torch.testing.assert_close(bijection.inv(bijection(x)), x, atol=1e-9, rtol=1e-9)
    y = bijection(torch.randn(50, 3))
    torch.testing.assert_close(bijection(bijection.inv(y)), y)


@pytest.mark.parametrize("bijection", ELEMENTWISE, ids=lambda b: type(b).__name__)
def test_increasing_maps_and_their_slopes(bijection: Transform) -> None:
    x = torch.linspace(-3, 3, 100, requires_grad=True)
    y = bijection(x)
    assert (y.diff() > 0).all()
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(bijection.log_abs_det_jacobian(x, y), slope.log())


def test_spiral_keeps_lengths_and_volumes() -> None:
    spiral, x = Spiral(0.7), torch.randn(20, 4)
    y = spiral(x)
    torch.testing.assert_close(y.norm(dim=1), x.norm(dim=1))
    assert (y[:, :2] - x[:, :2]).abs().max() > 0.5
    torch.testing.assert_close(y[:, 2:], x[:, 2:])
    jacobians = torch.stack([torch.autograd.functional.jacobian(spiral, each) for each in x])
    torch.testing.assert_close(torch.linalg.slogdet(jacobians)[1], spiral.log_abs_det_jacobian(x, y))


def test_spiral_turns_by_its_angle() -> None:
    y = Spiral(0.25)(torch.tensor([2.0, 0.0]))
    torch.testing.assert_close(y, 2 * torch.tensor([torch.tensor(1.0).cos(), torch.tensor(1.0).sin()]))
    with pytest.raises(ValueError, match="Expected at least 2 coordinates to wind but got 1"):
        Spiral(0.25)(torch.randn(5, 1))
