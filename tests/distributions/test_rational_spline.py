import pytest
import torch

from pyro_infomax.distributions._flows import RationalSpline

X = torch.linspace(-8, 8, 401, dtype=torch.float64)


@pytest.fixture
def spline():
    return RationalSpline.of(2 * torch.randn(3 * 6 - 1))


def test_zeros_are_the_identity():
    y, log_slope = RationalSpline.of(torch.zeros(11)).forward(X)
    torch.testing.assert_close(y, X)
    torch.testing.assert_close(log_slope, torch.zeros_like(X))


def test_it_goes_through_its_knots(spline):
    x, y = spline.knots
    torch.testing.assert_close(spline.forward(x)[0], y)
    torch.testing.assert_close(spline.forward(5 * x.sign())[0], 5 * x.sign())


def test_it_rises_and_leaves_the_rest_alone(spline):
    y, _ = spline.forward(X)
    assert (y.diff() > 0).all()
    outside = X.abs() > 5
    assert torch.equal(y[outside], X[outside])
    assert (y[~outside] - X[~outside]).abs().max() > 0.1


def test_the_slope_is_the_derivative(spline):
    x = X.clone().requires_grad_()
    y, log_slope = spline.forward(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope.log(), log_slope)


def test_backward_undoes_forward(spline):
    y, log_slope = spline.forward(X)
    x, same = spline.backward(y)
    torch.testing.assert_close(x, X)
    torch.testing.assert_close(same, log_slope)


def test_backward_has_the_gradient_of_the_inverse(spline):
    raw = torch.randn(17, requires_grad=True)
    y = torch.linspace(-6.1, 6.2, 25, requires_grad=True)
    assert torch.autograd.gradcheck(lambda raw, y: RationalSpline.of(raw).backward(y), (raw, y))


@pytest.fixture(params=range(3))
def many(request):
    """Splines of single precision, most of them steep or flat somewhere."""
    torch.manual_seed(request.param)
    return RationalSpline.of(3 * torch.randn(23, 2000, 1, dtype=torch.float32))


def test_single_precision_stays_finite_and_inverts_within_its_digits(many):
    x = torch.randn(2000, 50, dtype=torch.float32) * 3
    y, log_slope = many.forward(x)
    back, _ = many.backward(y)
    assert log_slope.isfinite().all()
    # Some thirty operations there and back, each rounded by at most eps of a number up to the bound 5;
    # an error of y counts as much more as the spline is flat there
    tolerance = 32 * torch.finfo(torch.float32).eps * 5
    assert tolerance < 2e-5
    assert ((back - x).abs() * log_slope.exp().clamp(max=1)).max() < tolerance


def test_single_precision_finds_the_slope_of_the_inverse(many):
    y = torch.randn(2000, 50, dtype=torch.float32) * 3
    _, log_slope = many.backward(y)
    exact_y = y.double().requires_grad_()
    _, exact = RationalSpline(many.knots.double(), many.slopes.double()).backward(exact_y)
    # The log-slope moves with y, or with x where the spline is steep, within their own roundings
    (change,) = torch.autograd.grad(exact.sum(), exact_y)
    rounding = 5 * torch.finfo(torch.float32).eps * (1 + change.abs() * exact.exp().clamp(min=1))
    assert ((log_slope - exact).abs() < 16 * rounding).all()


def test_shapes_broadcast():
    spline = RationalSpline.of(torch.randn(11, 5, 2))
    y, log_slope = spline.forward(torch.randn(4, 1, 1).expand(4, 5, 2))
    assert y.shape == log_slope.shape == (4, 5, 2)
