"""Total correlation, conditional and Gaussian, from the posterior alone."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Gumbel,
    Independent,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
    TransformedDistribution,
)
from torch.distributions.transforms import AffineTransform, StickBreakingTransform

from pyro_infomax.information import (
    Account,
    Draws,
    conditional_total_correlation,
    gaussian_total_correlation,
    mutual_information,
    total_correlation,
)
from pyro_infomax.oracles import LinearGaussian


def test_points_on_a_diagonal_are_fully_correlated() -> None:
    line = torch.arange(8.0)[:, None].expand(8, 3) * 100
    found = total_correlation(Independent(Normal(line, 1.0), 1), num_samples=2, seed=0)
    assert float(found) == pytest.approx(2 * math.log(8), abs=1e-9)


def test_points_on_a_grid_are_not_correlated() -> None:
    grid = torch.cartesian_prod(torch.arange(5.0), torch.arange(6.0))
    found = total_correlation(Independent(Normal(grid, 0.4), 1), num_samples=2, seed=0)
    assert float(found) == pytest.approx(0, abs=1e-12)


def test_unknown_marginals_are_refused_with_the_reason() -> None:
    base = Independent(Normal(torch.zeros(4, 2), 1.0), 1)
    with pytest.raises(NotImplementedError, match="univariate marginals are known"):
        total_correlation(TransformedDistribution(base, [StickBreakingTransform()]))


@pytest.mark.parametrize("num_samples", [1, 3])
def test_factors_have_no_conditional_correlation(num_samples: int) -> None:
    skewed = Independent(Gumbel(torch.randn(20, 3), 0.5), 1)
    found = conditional_total_correlation(skewed, num_samples=num_samples)
    assert (float(found), float(found.standard_error), found.bound) == (0, 0, "exact")
    assert float(found.population_standard_error) == 0


def roots(batch: int) -> Tensor:
    return torch.randn(batch, 3, 3) * 0.3 + torch.eye(3)


def test_full_covariances_have_the_formula() -> None:
    root = roots(15)
    covariance = root @ root.mT + 0.01 * torch.eye(3)
    diagonals = covariance.diagonal(dim1=-2, dim2=-1)
    expected = (diagonals.log().sum(-1) - covariance.logdet()) / 2
    found = conditional_total_correlation(MultivariateNormal(torch.randn(15, 3), covariance))
    torch.testing.assert_close(found.value, expected.mean())
    assert float(found.standard_error) == 0
    torch.testing.assert_close(found.population_standard_error, expected.std() / math.sqrt(15))


def test_low_ranks_have_the_formula() -> None:
    loc, factor, diagonal = torch.randn(15, 3), torch.randn(15, 3, 1), torch.rand(15, 3) + 0.1
    covariance = factor @ factor.mT + diagonal.diag_embed()
    expected = (covariance.diagonal(dim1=-2, dim2=-1).log().sum(-1) - covariance.logdet()).mean() / 2
    found = conditional_total_correlation(LowRankMultivariateNormal(loc, factor, diagonal))
    torch.testing.assert_close(found.value, expected)
    assert float(found.standard_error) == 0


def test_another_family_comes_from_the_draws() -> None:
    weights = torch.tensor([0.3, 0.7])
    corners = torch.tensor([[-1.0, -1.0], [1.0, 1.0]]).expand(40, 2, 2)
    posterior = MixtureSameFamily(Categorical(weights.expand(40, 2)), Independent(Normal(corners, 0.6), 1))
    grid = torch.linspace(-5, 5, 401)
    each = (weights * Normal(corners[0, :, 0], 0.6).log_prob(grid[:, None]).exp()).sum(-1)
    density = Normal(corners[0, :, 0], 0.6).log_prob(grid[:, None]).exp()  # (grid, component)
    joint = torch.einsum("ak,bk,k->ab", density, density, weights)
    truth = (joint * (joint / torch.outer(each, each)).log()).sum() * (grid[1] - grid[0]) ** 2
    found = conditional_total_correlation(posterior, num_samples=20, seed=0)
    assert 0 < abs(float(found.value - truth)) < 3 * float(found.standard_error)


def full_oracle() -> LinearGaussian:
    root = torch.tensor([[0.5, 0.0, 0.0], [0.4, 0.3, 0.0], [-0.2, 0.3, 0.4]])
    v = 0.5 * torch.randn(3, 4, generator=torch.Generator().manual_seed(8))
    s = torch.tensor([2.0, 1.5, 1.0, 0.5])
    return LinearGaussian(S=s, W=torch.zeros(4, 3), s2=1.0, V=v, Delta=root @ root.T)


def test_each_correlation_and_each_information_meets_the_oracle_and_their_difference_agrees() -> None:
    oracle = full_oracle()
    x = oracle.sample(1500, exact=True, seed=0)
    posterior = MultivariateNormal(x @ oracle.V.T, oracle.Delta)
    each = Independent(Normal(x @ oracle.V.T, oracle.Delta.diagonal().sqrt()), 1)  # its marginals
    joint = total_correlation(posterior, seed=0)
    own = conditional_total_correlation(posterior)
    whole = mutual_information(posterior, seed=0)
    parts = [
        mutual_information(Independent(Normal(loc[:, None], scale), 1), seed=0)
        for loc, scale in zip(each.mean.T, each.stddev[0], strict=True)
    ]
    delta, c = oracle.Delta, oracle.C
    expected = (delta.diagonal().log().sum() - delta.logdet()) / 2
    torch.testing.assert_close(own.value, expected, rtol=1e-10, atol=0)
    for found, truth in zip(parts, (c.diagonal() / delta.diagonal()).log() / 2, strict=True):
        assert abs(float(found.value - truth)) < 3 * float(found.population_standard_error)
    pairs = ((joint, oracle.total_correlation), (whole, oracle.mutual_information))
    for found, truth in pairs:
        assert abs(float(found.value - truth)) < 3 * float(found.population_standard_error)
    left = joint.value - own.value
    right = sum(part.value for part in parts) - whole.value
    error = math.hypot(*(float(found.standard_error) for found in (joint, whole, *parts)))
    assert abs(float(left - right)) < 4 * error


@pytest.mark.parametrize("factorised", [True, False])
def test_the_identity_with_the_informations_holds_to_rounding_within_an_account(factorised: bool) -> None:
    means, root = torch.randn(60, 3), 0.3 * roots(60)
    if factorised:
        posterior = Independent(Normal(means, 0.5), 1)
    else:
        posterior = MultivariateNormal(means, root @ root.mT + 0.01 * torch.eye(3))
    account = Account(Draws(posterior, num_samples=2, seed=0))
    differences = account.draws.log_posterior_marginals - account.draws.log_aggregate_marginals
    informations = account.expectation(differences.sum(-1)).datum.mean()
    left = account.total_correlation.value - account.conditional_total_correlation.value
    right = informations - account.mutual_information.value
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


def test_a_single_datum_is_only_its_own_correlation() -> None:
    posterior = MultivariateNormal(torch.zeros(1, 2), torch.tensor([[1.0, 0.6], [0.6, 1.0]]))
    found, whole = conditional_total_correlation(posterior), total_correlation(posterior, num_samples=50)
    assert float(found) == pytest.approx(-math.log(1 - 0.36) / 2, abs=1e-12)
    assert float(whole) == pytest.approx(float(found), abs=4 * float(whole.standard_error) + 1e-12)


def test_a_gaussian_aggregate_has_the_oracle_s_correlation() -> None:
    oracle = full_oracle()
    x = oracle.sample(200, exact=True, seed=0)
    found = gaussian_total_correlation(MultivariateNormal(x @ oracle.V.T, oracle.Delta))
    torch.testing.assert_close(found.value, oracle.total_correlation, rtol=1e-10, atol=0)
    assert (float(found.standard_error), found.bound) == (0, "exact")
    assert "Gaussian with the covariance" in found.target


@pytest.mark.parametrize(("angles", "above"), [(4, True), (200, False)])
def test_the_gaussian_correlation_bounds_nothing(angles: int, above: bool) -> None:
    """Dependence without correlation, and heavy correlation of few far corners, lie on either side."""
    if above:
        means = torch.tensor([[-1.0, -1.0], [1.0, 1.0]]) * 100
        sure = total_correlation(Independent(Normal(means, 1.0), 1), num_samples=4, seed=0)  # ln 2
        assert float(gaussian_total_correlation(Independent(Normal(means, 1.0), 1))) > float(sure) + 1
    else:
        turn = torch.arange(angles) * 2 * math.pi / angles
        circle = Independent(Normal(torch.stack([turn.cos(), turn.sin()], 1), 0.1), 1)
        assert float(gaussian_total_correlation(circle)) < 1e-12
        assert float(total_correlation(circle, seed=0)) > 0.5


def test_moments_that_are_not_known_are_asked_for() -> None:
    base = Independent(Normal(torch.zeros(4, 2), 1.0), 1)
    with pytest.raises(NotImplementedError, match="TransformedDistribution has no such mean"):
        gaussian_total_correlation(TransformedDistribution(base, [AffineTransform(0.0, 2.0, event_dim=1)]))
    with pytest.raises(NotImplementedError, match=r"Independent\(StudentT, 1\) has no such covariance"):
        gaussian_total_correlation(Independent(StudentT(1.5, torch.zeros(4, 2)), 1))
