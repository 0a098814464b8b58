"""Kernels by their formulae."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Independent, Normal

from pyro_infomax.information import RBF, InverseMultiquadric

A = torch.tensor([[0.0, 0.0], [1.0, 2.0]], dtype=torch.float64)
B = torch.tensor([[0.0, 2.0], [3.0, 4.0], [1.0, 2.0]], dtype=torch.float64)
SQUARES = torch.tensor([[4.0, 25.0, 5.0], [1.0, 8.0, 0.0]], dtype=torch.float64)


def test_the_gaussian_kernel_is_its_formula() -> None:
    torch.testing.assert_close(RBF(1.5)(A, B), (-SQUARES / (2 * 1.5**2)).exp())


def test_the_inverse_multiquadric_is_a_sum_of_seven() -> None:
    scales = 3.0 * torch.tensor([0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0])[:, None, None]
    torch.testing.assert_close(InverseMultiquadric(3.0)(A, B), (scales / (scales + SQUARES)).sum(0))
    one = InverseMultiquadric(3.0, multiples=(2.0,))
    torch.testing.assert_close(one(A, B), 6.0 / (6.0 + SQUARES))


@pytest.mark.parametrize("kernel", [RBF(0.7), InverseMultiquadric(2.0)])
def test_kernels_are_symmetric_and_positive_definite(kernel) -> None:
    z = torch.randn(30, 3)
    gram = kernel(z, z)
    torch.testing.assert_close(gram, gram.T)
    assert float(torch.linalg.eigvalsh(gram).min()) > -1e-12


def test_points_far_from_the_origin_keep_their_distances() -> None:
    kernel = InverseMultiquadric(3.0, multiples=(1.0,))
    torch.testing.assert_close(kernel(A + 1e8, B + 1e8), 3.0 / (3.0 + SQUARES), rtol=1e-7, atol=0)


def test_kernels_have_gradients_also_where_points_meet() -> None:
    z = A.clone().requires_grad_()
    found = torch.autograd.grad(RBF(1.5)(z, B).sum(), z)[0]
    gram = (-SQUARES / (2 * 1.5**2)).exp()
    torch.testing.assert_close(found, (gram[..., None] * (B - A[:, None])).sum(1) / 1.5**2)


def standard_normal(scale: float = 1.0) -> Independent:
    return Independent(Normal(torch.zeros(3), scale), 1)


def test_the_median_distance_is_the_prior_s() -> None:
    # two draws differ by N(0, 2I): the median of chi with three degrees of freedom, times sqrt(2)
    expected = math.sqrt(2 * 2.36597)
    assert RBF.median(standard_normal()).lengthscale == pytest.approx(expected, rel=0.05)
    wide = RBF.median(standard_normal(10.0))
    assert wide.lengthscale == pytest.approx(10 * RBF.median(standard_normal()).lengthscale)


def test_the_median_distance_is_always_the_same_and_leaves_the_global_state() -> None:
    before = torch.get_rng_state()
    one, other = (RBF.median(standard_normal()).lengthscale for _ in range(2))
    assert one == other
    assert torch.equal(torch.get_rng_state(), before)


def test_a_prior_of_one_point_has_no_median_distance() -> None:
    with pytest.raises(ValueError, match=r"Expected a prior whose draws differ .* pass a kernel"):
        RBF.median(Independent(Bernoulli(torch.ones(2)), 1))


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_widths_that_are_not_positive_and_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="Expected lengthscale > 0 and finite but got"):
        RBF(value)
    with pytest.raises(ValueError, match="Expected scale > 0 and finite but got"):
        InverseMultiquadric(value)
    with pytest.raises(ValueError, match="Expected multiples > 0 and finite but got"):
        InverseMultiquadric(1.0, multiples=(1.0, value))


def test_no_multiples_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected at least one of multiples"):
        InverseMultiquadric(1.0, multiples=())


@pytest.mark.parametrize(
    ("kernel", "text"), [(RBF(2.0), "RBF(2)"), (InverseMultiquadric(4.5), "InverseMultiquadric(4.5)")]
)
def test_kernels_say_what_they_are(kernel, text: str) -> None:
    assert repr(kernel) == text
