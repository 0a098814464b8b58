"""Total correlation, conditional and Gaussian, from the posterior alone."""

import math
from types import SimpleNamespace

import pyro.distributions as dist
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

# ---- By the mixtures


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
    torch.testing.assert_close(account.redundancy.value, right, rtol=1e-12, atol=1e-12)


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
    with pytest.raises(NotImplementedError, match="MultivariateStudentT has no such covariance"):
        gaussian_total_correlation(dist.MultivariateStudentT(2.0, torch.zeros(4, 2), torch.eye(2)))


# ---- By the covariance of the aggregate posterior: closed forms, extreme scales, errors


def correlation_of(covariance: Tensor) -> Tensor:
    return (covariance.diagonal().log().sum() - covariance.logdet()) / 2


def covariance_of(posterior) -> Tensor:
    """By definition."""
    off = posterior.mean - posterior.mean.mean(0)
    return off.T @ off / len(off) + posterior.covariance_matrix.mean(0)


def diagonal(batch: int) -> Independent:
    return Independent(Normal(torch.randn(batch, 3) @ torch.randn(3, 3), torch.rand(batch, 3) + 0.1), 1)


def full(batch: int) -> MultivariateNormal:
    root = torch.randn(batch, 3, 3) * 0.3 + 0.5 * torch.eye(3)
    return MultivariateNormal(torch.randn(batch, 3), root @ root.mT + 0.01 * torch.eye(3))


def low_rank(batch: int) -> LowRankMultivariateNormal:
    return LowRankMultivariateNormal(
        torch.randn(batch, 3), torch.randn(batch, 3, 1), torch.rand(batch, 3) + 0.1
    )


@pytest.mark.parametrize("family", [full, low_rank])
@pytest.mark.parametrize("batch", [1, 7])
def test_full_covariances_give_the_formula(family, batch: int) -> None:
    posterior = family(batch)
    expected = correlation_of(covariance_of(posterior))
    found = gaussian_total_correlation(posterior).value
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_a_student_is_wider_than_the_normal_that_it_scales() -> None:
    normal, df = full(20), torch.linspace(2.5, 9.0, 20)
    student = dist.MultivariateStudentT(df, normal.mean, normal.scale_tril)
    twin = Moments(normal.mean, (df / (df - 2))[:, None, None] * normal.covariance_matrix)
    found, right = gaussian_total_correlation(student), gaussian_total_correlation(twin)
    torch.testing.assert_close(found.value, right.value)
    torch.testing.assert_close(found.population_standard_error, right.population_standard_error)
    assert abs(found.value - gaussian_total_correlation(normal).value) > 1e-3


def test_a_singular_covariance_has_an_infinite_correlation() -> None:
    """All of it within the posteriors, of which a root of rank one rounds to eigenvalues below 0."""
    direction = torch.tensor([0.3, -1.7, 2.9])
    twins = SimpleNamespace(
        batch_shape=torch.Size([5]),
        event_shape=torch.Size([3]),
        log_prob=None,
        mean=torch.zeros(5, 3),
        covariance_matrix=(direction[:, None] * direction).expand(5, 3, 3),
    )
    assert float(torch.linalg.eigvalsh(twins.covariance_matrix[0])[0]) <= 0
    assert float(gaussian_total_correlation(twins)) == math.inf


def test_factors_give_the_formula() -> None:
    posterior = diagonal(20)
    twin = MultivariateNormal(posterior.mean, posterior.variance.diag_embed())
    found = gaussian_total_correlation(posterior)
    torch.testing.assert_close(found.value, correlation_of(covariance_of(twin)), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        found.population_standard_error, gaussian_total_correlation(twin).population_standard_error
    )


@pytest.mark.parametrize("factorised", [True, False])
def test_mixtures_add_the_spread_of_their_components(factorised: bool) -> None:
    means, weights = torch.randn(9, 4, 2), torch.rand(9, 4)
    components = Independent(Normal(means, 0.5), 1)
    if not factorised:
        components = MultivariateNormal(means, 0.25 * torch.eye(2))
    posterior = MixtureSameFamily(Categorical(weights), components)
    weights = (weights / weights.sum(1, keepdim=True) / 9).reshape(-1)  # of all components of all data
    flat = means.reshape(-1, 2)
    off = flat - weights @ flat
    expected = correlation_of((weights[:, None] * off).T @ off + 0.25 * torch.eye(2))
    torch.testing.assert_close(gaussian_total_correlation(posterior).value, expected)


def test_units_and_offsets_change_nothing() -> None:
    posterior = diagonal(50)
    units, offset = torch.tensor([1e-6, 1.0, 1e6]), torch.tensor([10.0, -3.0, 1e8])
    moved = Independent(Normal(posterior.mean * units + offset, posterior.stddev * units), 1)
    for field in ("value", "population_standard_error"):
        one, other = (getattr(gaussian_total_correlation(each), field) for each in (posterior, moved))
        torch.testing.assert_close(one, other, rtol=1e-7, atol=0)


@pytest.mark.parametrize("scale", [1e-3, 1e-12])
def test_collinear_means_under_tiny_noise_keep_their_digits(scale: float) -> None:
    line = torch.randn(100, 1) @ torch.ones(1, 2)
    variance = float(line[:, 0].var(correction=0))
    # C = variance 11' + scale^2 I, and |C| / (C_11 C_22) without the cancellation
    ratio = scale**2 * (2 * variance + scale**2) / (variance + scale**2) ** 2
    found = gaussian_total_correlation(Independent(Normal(line, scale), 1)).value
    assert float(found) == pytest.approx(-0.5 * math.log(ratio), abs=1e-3 if scale == 1e-12 else 1e-8)


@pytest.mark.parametrize(("offset", "scale"), [(0.0, 1.0), (0.1, 1e-12), (1e6, 1.0), (1e6, 1e-12)])
def test_a_constant_dimension_correlates_with_nothing(offset: float, scale: float) -> None:
    posterior = diagonal(30)
    mean = torch.cat([posterior.mean, torch.full((30, 1), offset)], 1)
    wide = torch.cat([posterior.stddev, torch.full((30, 1), scale)], 1)
    more = Independent(Normal(mean, wide), 1)
    for field in ("value", "population_standard_error"):
        one, other = (getattr(gaussian_total_correlation(each), field) for each in (posterior, more))
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


class Moments:
    """Two moments and nothing else."""

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        self.mean, self.covariance_matrix = mean, covariance
        self.batch_shape, self.event_shape = mean.shape[:1], mean.shape[1:]


@pytest.mark.parametrize("offset", [0.1, 1e6])
def test_a_dimension_without_variance_correlates_with_nothing(offset: float) -> None:
    posterior = full(20)
    mean = torch.cat([posterior.mean, torch.full((20, 1), offset)], 1)
    covariance = torch.nn.functional.pad(posterior.covariance_matrix, (0, 1, 0, 1))
    one, other = gaussian_total_correlation(posterior), gaussian_total_correlation(Moments(mean, covariance))
    torch.testing.assert_close(one.value, other.value)
    torch.testing.assert_close(one.population_standard_error, other.population_standard_error)


def test_what_is_fully_determined_is_infinite() -> None:
    line = torch.randn(20, 1) @ torch.ones(1, 2)
    found = gaussian_total_correlation(Moments(line, torch.zeros(20, 2, 2)))
    assert float(found.value) == math.inf
    assert found.population_standard_error.isnan()
    for _ in range(5):  # eigenvalues of 0 come out a little below it
        direction = torch.randn(4, 1)
        dense = (direction @ direction.T).expand(3, 4, 4)
        found = gaussian_total_correlation(Moments(torch.zeros(3, 4), dense))
        assert float(found.value) == math.inf


def test_independent_dimensions_have_none() -> None:
    grid = torch.cartesian_prod(torch.arange(5.0), torch.arange(6.0))
    found = gaussian_total_correlation(Independent(Normal(grid, 0.4), 1)).value
    assert 0 <= float(found) < 1e-14


def test_a_single_datum_has_its_own_correlation_and_no_spread() -> None:
    posterior = full(1)
    found = gaussian_total_correlation(posterior)
    torch.testing.assert_close(found.value, correlation_of(posterior.covariance_matrix[0]))
    assert found.population_standard_error.isnan()


# without correlation the first order vanishes, and the error errs on the large side
@pytest.mark.parametrize(("correlation", "excess"), [(0.0, 0.25), (0.6, 0.0)])
def test_the_population_error_is_the_spread_and_the_bias_of_many_data_sets(
    correlation: float, excess: float
) -> None:
    batch, repeats = 100, 300
    c = torch.eye(3) * (1 - correlation) + correlation
    root = torch.linalg.cholesky(c - 0.1 * torch.eye(3))
    sets = torch.randn(repeats, batch, 3) @ root.T
    found = [gaussian_total_correlation(Independent(Normal(each, 0.1**0.5), 1)) for each in sets]
    errors = torch.stack([each.value for each in found]) - correlation_of(c)
    reported = torch.stack([each.population_standard_error for each in found]).mean()
    spread = (errors**2).mean().sqrt()
    tolerance = 4 / math.sqrt(2 * repeats)
    assert 1 - tolerance < float(reported / spread) < 1 + excess + tolerance


def test_the_population_error_is_of_the_first_and_second_order_in_the_moments() -> None:
    """The spread by the gradient; the bias by the curvature, and by what the mean of N data takes away."""
    posterior, size = full(6), 6
    c = covariance_of(posterior)
    off = posterior.mean - posterior.mean.mean(0)
    change = off[:, :, None] * off[:, None, :] + posterior.covariance_matrix - c
    slope = torch.autograd.functional.jacobian(correlation_of, c)
    second = torch.autograd.functional.hessian(correlation_of, c)
    influence = torch.einsum("ij,nij->n", slope, change)
    curvature = torch.einsum("nij,ijkl,nkl->n", change, second, change).mean()
    bias = (curvature / 2 - (slope * (off.T @ off / size)).sum()) / size
    expected = torch.hypot(influence.std() / math.sqrt(size), bias)
    found = gaussian_total_correlation(posterior).population_standard_error
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_data_that_do_not_fit_at_once_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    posterior = full(20)
    whole = gaussian_total_correlation(posterior).population_standard_error
    monkeypatch.setattr("pyro_infomax.information._quantities._ENTRIES_AT_ONCE", 3 * 9)
    torch.testing.assert_close(gaussian_total_correlation(posterior).population_standard_error, whole)


def test_a_mean_that_is_not_finite_is_refused_with_the_reason() -> None:
    codes = Independent(Categorical(logits=torch.zeros(4, 2, 3)), 1)
    with pytest.raises(NotImplementedError, match=r"Independent\(Categorical, 1\) has no such mean"):
        gaussian_total_correlation(codes)
