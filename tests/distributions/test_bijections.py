import pytest
import torch
from pyro.distributions import transforms
from torch.autograd.functional import jacobian

from pyro_infomax.distributions import LowerCholesky, Softplus, lower_triangular
from pyro_infomax.distributions._transforms import AffineWithin, CorrCholesky, Exp, StickBreaking

FLOATS = [torch.float32, torch.float64]


@pytest.mark.parametrize(
    ("ours", "theirs", "size"),
    [
        (Exp(), transforms.ExpTransform(), 4),
        (Softplus(), transforms.SoftplusTransform(), 4),
        (AffineWithin(-1.5, 3.0, low=-1.5), transforms.AffineTransform(-1.5, 3.0), 4),
        (StickBreaking(), transforms.StickBreakingTransform(), 4),
        (CorrCholesky(), transforms.CorrCholeskyTransform(), 6),
    ],
)
def test_the_function_is_that_of_torch_where_nothing_is_rounded(ours, theirs, size):
    x = torch.rand(7, size) * 2
    y = theirs(x)
    torch.testing.assert_close(ours(x), y)
    torch.testing.assert_close(ours.inv(y), x)
    torch.testing.assert_close(ours.log_abs_det_jacobian(x, y), theirs.log_abs_det_jacobian(x, y))
    assert ours.domain.event_dim == theirs.domain.event_dim
    assert ours.codomain.event_dim == theirs.codomain.event_dim


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_stick_breaking_has_the_jacobian_of_all_parts_but_the_last(parts):
    x = torch.randn(parts)
    exact = jacobian(lambda x: StickBreaking()(x)[:-1], x).slogdet().logabsdet
    torch.testing.assert_close(StickBreaking().log_abs_det_jacobian(x, StickBreaking()(x)), exact)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_corr_cholesky_has_the_jacobian_below_the_diagonal(n):
    x = torch.randn(n * (n - 1) // 2)
    row, column = torch.tril_indices(n, n, -1)
    exact = jacobian(lambda x: CorrCholesky()(x)[row, column], x).slogdet().logabsdet
    torch.testing.assert_close(CorrCholesky().log_abs_det_jacobian(x, CorrCholesky()(x)), exact)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_lower_cholesky_is_a_bijection_with_the_jacobian_of_the_lower_triangle(n):
    transform, x = LowerCholesky(), torch.randn(n * (n + 1) // 2)
    row, column = torch.tril_indices(n, n)
    y = transform(x)
    assert transform.codomain.check(y)
    assert transform.forward_shape((5, len(x))) == (5, n, n)
    assert transform.inverse_shape((5, n, n)) == (5, len(x))
    torch.testing.assert_close(transform.inv(y), x)
    exact = jacobian(lambda x: transform(x)[row, column], x).slogdet().logabsdet
    torch.testing.assert_close(transform.log_abs_det_jacobian(x, y), exact)


def test_lower_triangular():
    assert lower_triangular(torch.tensor([3.0]), 2, offset=-1).tolist() == [[0, 0], [3, 0]]
    assert lower_triangular(torch.zeros(5, 6), 3).shape == (5, 3, 3)


@pytest.mark.parametrize("dtype", FLOATS)
def test_bounds_are_not_reached(dtype):
    far = torch.tensor([-1e30, -200.0, 200.0, 1e30], dtype=dtype)
    assert (Exp()(far) > 0).all()
    assert Exp()(far).isfinite().all()
    inside = AffineWithin(0.1, 0.2, low=0.1, high=0.3)(torch.tensor([0.0, 1e-30, 1.0], dtype=dtype))
    low, high = torch.tensor([0.1, 0.3], dtype=dtype)
    assert ((inside > low) & (inside < high)).all()
    # Numbers below are denormal, which some devices take for 0
    tiny, zero = torch.finfo(dtype).tiny, torch.zeros((), dtype=dtype)
    assert AffineWithin(0.0, 5.0, low=0.0)(zero) == tiny
    assert AffineWithin(0.0, -5.0, high=0.0)(zero) == -tiny


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("transform", [Exp(), Softplus(), LowerCholesky()])
def test_reals_that_are_far_off_get_finite_gradients(transform, dtype):
    far = torch.tensor([-1e30, 200.0, 1e4], dtype=dtype, requires_grad=True)
    transform(far).sum().backward()
    assert far.grad.isfinite().all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_scale_and_its_square_are_above_zero(dtype):
    scale = Softplus()(torch.tensor([-1e30, -1e4, -200.0, 1e4], dtype=dtype))
    assert (scale.square() > 0).all()
    assert scale[-1] == 1e4


@pytest.mark.parametrize("dtype", FLOATS)
def test_bounds_take_the_dtype_of_the_value(dtype):
    low = torch.tensor([0.0, 1.0], dtype=torch.float64)
    transform = AffineWithin(low, 2 * low + 1, low=low)
    y = transform(torch.ones(3, 2, dtype=dtype))
    assert y.dtype == transform.inv(y).dtype == transform.log_abs_det_jacobian(y, y).dtype == dtype


@pytest.mark.parametrize("dtype", FLOATS)
def test_short_parts_of_a_stick_are_neither_lost_nor_rounded_to_nan(dtype):
    # Parts from e^-20 to e^-60
    x = torch.tensor([-20.0, 40.0, 20.0, -20.0], dtype=dtype)
    exact = StickBreaking()(x.double())
    y = StickBreaking()(x)
    torch.testing.assert_close(y.double(), exact, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=0)
    torch.testing.assert_close(StickBreaking().inv(y), x, rtol=1e-4, atol=0)
    far = 1e4 * torch.tensor([1.0, -1.0, 1.0], dtype=dtype)
    assert (StickBreaking()(far) > 0).all()
    assert StickBreaking().log_abs_det_jacobian(far, StickBreaking()(far)).isfinite()


@pytest.mark.parametrize("dtype", FLOATS)
def test_correlations_near_one_are_inverted(dtype):
    x = torch.tensor([6.0, -5.0, 4.0], dtype=dtype)
    y = CorrCholesky()(x)
    torch.testing.assert_close(CorrCholesky().inv(y), x, rtol=1e-2, atol=0)
    far = 1e3 * x
    assert CorrCholesky().log_abs_det_jacobian(far, CorrCholesky()(far)).isfinite()


@pytest.mark.parametrize(
    ("transform", "size"),
    [
        (Exp, 3),
        (StickBreaking, 3),
        (CorrCholesky, 3),
        (LowerCholesky, 3),
        (lambda **c: AffineWithin(1, 2, **c), 3),
    ],
)
def test_the_value_made_last_is_remembered(transform, size):
    cached, x = transform(cache_size=1), torch.randn(size)
    y = cached(x)
    assert cached.inv(y) is x
    assert cached.inv(y.clone()) is not x
    assert transform().with_cache(1)._cache_size == 1
