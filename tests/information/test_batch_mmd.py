"""The kernel discrepancy of a minibatch: its expectation in value and gradient."""

import itertools

import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor

from pyro_infomax.information import RBF, batch_mmd

LENGTH = 2.5
KERNEL = RBF(LENGTH)
MEANS = torch.tensor([0.9, -0.4, 1.6], dtype=torch.float64)
SCALES = torch.tensor([0.5, 0.8, 0.3], dtype=torch.float64)
PRIOR_SCALE = 0.9
N = len(MEANS)


def overlap(means: Tensor, scales: Tensor, others: Tensor, other_scales: Tensor) -> Tensor:
    """E k of all pairs of independent Normals."""
    total = LENGTH**2 + scales[:, None] ** 2 + other_scales**2
    return (-((means[:, None] - others) ** 2) / (2 * total)).exp() * LENGTH / total.sqrt()


def closed_form(means: Tensor, scales: Tensor) -> Tensor:
    prior = torch.zeros(1), torch.full((1,), PRIOR_SCALE)
    q = means, scales
    return overlap(*q, *q).mean() + overlap(*prior, *prior).mean() - 2 * overlap(*q, *prior).mean()


def unbiased(z: Tensor, again: Tensor, u: Tensor) -> Tensor:
    return batch_mmd(z, again, u, kernel=KERNEL, data_size=N)


def with_the_diagonal(z: Tensor, again: Tensor, u: Tensor) -> Tensor:
    """The V-statistic of most public code."""
    return KERNEL(z, z).mean() + KERNEL(u, u).mean() - 2 * KERNEL(z, u).mean()


def of_different_data(z: Tensor, again: Tensor, u: Tensor) -> Tensor:
    """The U-statistic over one draw for each datum."""
    return KERNEL(z, z)[0, 1] + KERNEL(u, u)[0, 1] - 2 * KERNEL(z, u).mean()


def expectations(estimates, means: Tensor, scales: Tensor) -> list[Tensor]:
    """Over draws by Gauss-Hermite, and over all minibatches of two data.

    Each draw meets others one by one, so that it is enough that pairs are independent: both data have one
    node of the first draw, and the second draw shares its node with the second draw of the prior.
    """
    nodes, weights = (torch.tensor(each) for each in hermegauss(6))
    weights = weights / weights.sum()
    totals = [torch.zeros(())] * len(estimates)
    for i, j, k in itertools.product(range(len(nodes)), repeat=3):
        z, again = means + scales * nodes[i], means + scales * nodes[j]
        u = PRIOR_SCALE * nodes[[k, j]][:, None]
        weight = weights[i] * weights[j] * weights[k] / 3
        for batch in itertools.combinations(range(N), 2):
            draws = z[list(batch), None], again[list(batch), None], u
            totals = [
                total + weight * estimate(*draws) for total, estimate in zip(totals, estimates, strict=True)
            ]
    return totals


def test_it_is_unbiased_in_value_and_gradient():
    leaves = [each.clone().requires_grad_() for each in (MEANS, SCALES)]
    truth = closed_form(*leaves)
    (found,) = expectations([unbiased], *leaves)
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-5)
    for one, other in zip(
        torch.autograd.grad(found, leaves), torch.autograd.grad(truth, leaves), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_published_variants_are_not():
    with torch.no_grad():
        for found in expectations([with_the_diagonal, of_different_data], MEANS, SCALES):
            assert abs(float(found - closed_form(MEANS, SCALES))) > 0.01


def test_codes_without_noise_are_a_mixture_of_points():
    z = torch.tensor([[0.3, 1.0], [-1.0, 0.2], [0.5, -0.7], [2.0, 1.1]], requires_grad=True)
    u = torch.randn(5, 2)
    batches = list(itertools.combinations(range(4), 3))
    found = sum(
        batch_mmd(z[list(each)], z[list(each)], u, kernel=KERNEL, data_size=4) for each in batches
    ) / len(batches)
    of_u = KERNEL(u, u)
    truth = KERNEL(z, z).mean() - 2 * KERNEL(z, u).mean() + (of_u.sum() - of_u.trace()) / 20
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-12)
    gradients = (torch.autograd.grad(each, z, retain_graph=True)[0] for each in (found, truth))
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_what_is_no_minibatch_and_no_kernel_is_refused():
    z = torch.zeros(3, 1)
    for rows, size in ((1, 5), (3, 2)):
        with pytest.raises(ValueError, match=f"2 to data_size={size} data but got {rows}"):
            batch_mmd(z[:rows], z[:rows], z, kernel=KERNEL, data_size=size)

    def over_the_wrong_axis(a, b):
        return KERNEL(a, b).mean(0)

    with pytest.raises(ValueError, match=r"to \(m, n\) but got \(3,\)"):
        batch_mmd(z, z, z, kernel=over_the_wrong_axis, data_size=3)
