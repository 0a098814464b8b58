import math

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from pyro_infomax.oracles import CorrelatedNormals, dense_covariance, sparse_covariance


def covariance(size: int) -> torch.Tensor:
    factor = torch.randn(size, size)
    return factor @ factor.T / size + 0.2 * torch.eye(size)


@pytest.mark.parametrize(("x_dim", "y_dim"), [(1, 1), (1, 4), (3, 2)])
def test_truth_is_the_divergence_from_independence(x_dim: int, y_dim: int) -> None:
    joint = covariance(x_dim + y_dim)
    apart = torch.block_diag(joint[:x_dim, :x_dim], joint[x_dim:, x_dim:])
    zero = torch.zeros(x_dim + y_dim)
    truth = kl_divergence(MultivariateNormal(zero, joint), MultivariateNormal(zero, apart))
    torch.testing.assert_close(CorrelatedNormals(joint, x_dim).mutual_information, truth)


def test_densities_make_up_the_joint() -> None:
    joint = covariance(5)
    pair = CorrelatedNormals(joint, x_dim=2)
    x, y = torch.randn(6, 2), torch.randn(6, 3)
    both = MultivariateNormal(torch.zeros(5), joint).log_prob(torch.cat([x, y], 1))
    alone = MultivariateNormal(torch.zeros(2), joint[:2, :2]).log_prob(x)
    torch.testing.assert_close(alone + pair.conditional(x).log_prob(y), both)
    torch.testing.assert_close(
        pair.log_marginal(y), MultivariateNormal(torch.zeros(3), joint[2:, 2:]).log_prob(y)
    )


def test_draws_have_the_covariance() -> None:
    joint = covariance(3)
    both = torch.cat(CorrelatedNormals(joint, x_dim=1).sample(50_000, seed=0), 1)
    error = ((joint.diagonal()[:, None] * joint.diagonal() + joint**2) / 50_000).sqrt()
    assert ((both.T @ both / 50_000 - joint).abs() < 4.5 * error).all()


def test_truth_is_differentiable_in_the_covariance() -> None:
    rho = torch.tensor(0.6, requires_grad=True)
    joint = torch.eye(2) + rho * torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    CorrelatedNormals(joint, x_dim=1).mutual_information.backward()
    torch.testing.assert_close(rho.grad, torch.tensor(0.6 / (1 - 0.36)))


@pytest.mark.parametrize("correlation", [-0.2, 0.0, 0.5, 0.99])
def test_dense_covariance_and_its_formula(correlation: float) -> None:
    """det of a dense covariance of k variables is (1 - rho)^(k - 1) (1 + (k - 1) rho)."""

    def logdet(k: int) -> float:
        return (k - 1) * math.log(1 - correlation) + math.log(1 + (k - 1) * correlation)

    pair = CorrelatedNormals(dense_covariance(5, correlation), x_dim=2)
    truth = 0.5 * (logdet(2) + logdet(3) - logdet(5))
    assert pair.mutual_information.item() == pytest.approx(truth, abs=1e-12)


def test_sparse_covariance_and_its_formula() -> None:
    joint = sparse_covariance(4, 3, [0.8, -0.3])
    truth = -0.5 * (math.log(1 - 0.64) + math.log(1 - 0.09))
    assert CorrelatedNormals(joint, x_dim=4).mutual_information.item() == pytest.approx(truth, abs=1e-12)
    assert (joint[0, 4], joint[5, 1]) == (0.8, -0.3)
    assert joint.count_nonzero() == 7 + 4


@pytest.mark.parametrize("x_dim", [0, 2, -1])
def test_wrong_split_is_refused(x_dim: int) -> None:
    with pytest.raises(ValueError, match=f"Expected 0 < x_dim < 2 but got {x_dim}"):
        CorrelatedNormals(torch.eye(2), x_dim)


def test_wrong_covariances_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected covariance to be positive definite"):
        CorrelatedNormals(torch.ones(2, 2), 1)
    with pytest.raises(ValueError, match=r"Expected covariance of shape \(size, size\) but got \(2,\)"):
        CorrelatedNormals(torch.ones(2), 1)
    with pytest.raises(ValueError, match=r"Expected covariance of shape \(1, 1\) but got \(1, 2\)"):
        CorrelatedNormals(torch.ones(1, 2), 1)
    for size, correlation in ((1, 0.0), (3, -0.5), (3, 1.0)):
        with pytest.raises(ValueError, match="Expected size >= 2 and a correlation"):
            dense_covariance(size, correlation)
    with pytest.raises(ValueError, match="Expected at most 1 correlations, one a pair, but got 2"):
        sparse_covariance(1, 3, [0.1, 0.2])
    with pytest.raises(ValueError, match=r"Expected correlations within \(-1, 1\)"):
        sparse_covariance(1, 3, [1.0])
