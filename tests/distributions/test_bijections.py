"""The bijections from the reals that sites are given, where numbers are rounded."""

import pytest
import torch
from pyro.distributions import constraints, transforms
from torch.autograd.functional import jacobian
from torch.distributions import biject_to

from pyro_infomax.distributions import LowerCholesky, SiteTransform, Softplus, lower_triangular

FLOATS = [torch.float32, torch.float64]


def bijection(support, *event):
    return transforms.ComposeTransform(SiteTransform.of(support, event).transforms())


def exp():
    return bijection(constraints.positive)


def stick_breaking(parts):
    return bijection(constraints.simplex, parts)


def corr_cholesky(n):
    return bijection(constraints.corr_cholesky, n, n)


@pytest.mark.parametrize(
    ("support", "event", "size"),
    [
        (constraints.positive, (4,), 4),
        (constraints.greater_than(-1.5), (4,), 4),
        (constraints.less_than(2.5), (4,), 4),
        (constraints.interval(-1.5, 1.5), (4,), 4),
        (constraints.simplex, (5,), 4),
        (constraints.corr_cholesky, (4, 4), 6),
    ],
    ids=str,
)
def test_the_function_is_that_of_torch_where_nothing_is_rounded(support, event, size):
    ours, theirs = bijection(support, *event), biject_to(support)
    x = torch.rand(7, size) * 2
    y = theirs(x)
    torch.testing.assert_close(ours(x), y)
    torch.testing.assert_close(ours.inv(y), x)
    torch.testing.assert_close(ours.log_abs_det_jacobian(x, y), theirs.log_abs_det_jacobian(x, y))
    assert ours.domain.event_dim == theirs.domain.event_dim
    assert ours.codomain.event_dim == theirs.codomain.event_dim


def test_softplus_is_that_of_torch_where_nothing_is_rounded():
    x = torch.rand(7, 4) * 2
    torch.testing.assert_close(Softplus()(x), torch.nn.functional.softplus(x))
    torch.testing.assert_close(Softplus().inv(Softplus()(x)), x)


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_stick_breaking_has_the_jacobian_of_all_parts_but_the_last(parts):
    x, transform = torch.randn(parts), stick_breaking(parts + 1)
    exact = jacobian(lambda x: transform(x)[:-1], x).slogdet().logabsdet
    torch.testing.assert_close(transform.log_abs_det_jacobian(x, transform(x)), exact)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_corr_cholesky_has_the_jacobian_below_the_diagonal(n):
    x, transform = torch.randn(n * (n - 1) // 2), corr_cholesky(n)
    row, column = torch.tril_indices(n, n, -1)
    exact = jacobian(lambda x: transform(x)[row, column], x).slogdet().logabsdet
    torch.testing.assert_close(transform.log_abs_det_jacobian(x, transform(x)), exact)


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
    low, high = torch.tensor([0.1, 0.3], dtype=dtype)
    tiny = torch.finfo(dtype).tiny  # numbers below are denormal, which some devices take for 0
    positive = exp()(far)
    assert (positive >= tiny).all()
    assert positive.isfinite().all()
    assert (bijection(constraints.greater_than(0.1))(far) > low).all()
    assert (bijection(constraints.less_than(0.3))(far) < high).all()
    inside = bijection(constraints.interval(0.1, 0.3))(far)
    assert ((inside > low) & (inside < high)).all()
    assert (bijection(constraints.interval(0.0, 1e-30))(far) >= tiny).all()
    assert (bijection(constraints.interval(-1e-30, 0.0))(far) <= -tiny).all()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("transform", [exp(), Softplus(), LowerCholesky()])
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
    transform = bijection(constraints.interval(low, 2 * low + 1), 2)
    y = transform(torch.ones(3, 2, dtype=dtype))
    assert y.dtype == transform.inv(y.clone()).dtype == transform.log_abs_det_jacobian(y, y).dtype == dtype


@pytest.mark.parametrize("dtype", FLOATS)
def test_short_parts_of_a_stick_are_neither_lost_nor_rounded_to_nan(dtype):
    # Parts from e^-20 to e^-60
    x, transform = torch.tensor([-20.0, 40.0, 20.0, -20.0], dtype=dtype), stick_breaking(5)
    exact, y = transform(x.double()), transform(x)
    torch.testing.assert_close(y.double(), exact, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=0)
    torch.testing.assert_close(transform.inv(y.clone()), x, rtol=1e-4, atol=0)
    far = 1e4 * torch.tensor([1.0, -1.0, 1.0], dtype=dtype)
    parts = stick_breaking(4)(far)
    assert (parts > 0).all()
    assert stick_breaking(4).log_abs_det_jacobian(far, parts).isfinite()


@pytest.mark.parametrize("dtype", FLOATS)
def test_correlations_near_one_are_inverted(dtype):
    x, transform = torch.tensor([6.0, -5.0, 4.0], dtype=dtype), corr_cholesky(3)
    torch.testing.assert_close(transform.inv(transform(x).clone()), x, rtol=1e-2, atol=0)
    far = 1e3 * x
    assert transform.log_abs_det_jacobian(far, transform(far)).isfinite()


@pytest.mark.parametrize(
    ("support", "event"),
    [
        (constraints.greater_than(0.5), (3,)),
        (constraints.interval(0.5, 2.0), (3,)),
        (constraints.simplex, (4,)),
        (constraints.corr_cholesky, (3, 3)),
        (constraints.lower_cholesky, (2, 2)),
    ],
    ids=str,
)
def test_the_value_made_last_is_remembered_if_it_is_to_be(support, event):
    site = SiteTransform.of(support, event)
    for size in (0, 1):
        cached = transforms.ComposeTransform([each.with_cache(size) for each in site.transforms()])
        x = torch.randn(site.unconstrained_shape)
        y = cached(x)
        assert (cached.inv(y) is x) == bool(size)
        assert cached.inv(y.clone()) is not x
        torch.testing.assert_close(cached.inv(y.clone()), x)
        # and what is far off still stays inside
        assert site.support.check(cached(torch.full_like(x, -300.0))).all()
