"""Each term against closed forms, enumeration and long runs; errors against their coverage."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Independent,
    Laplace,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    Uniform,
)

from pyro_infomax.information import Account, Draws, Estimate

TERMS = ("mutual_information", "leave_one_out", "marginal_kl", "total_correlation", "dimensionwise_kl")


def standard_normal(latent: int) -> Independent:
    return Independent(Normal(torch.zeros(latent), 1.0), 1)


def encoded(batch: int, latent: int, scale: float = 0.4) -> Independent:
    """Posteriors of unequal widths around correlated means."""
    means = torch.randn(batch, latent) * (1 - scale**2) ** 0.5 + 0.5 * torch.randn(batch, 1)
    return Independent(Normal(means, scale * (0.5 + torch.rand(batch, latent))), 1)


# --- the linear-Gaussian population: x ~ N(0, S), q(z|x) = N(Vx, Delta), p(z) = N(0, I) ---


def linear_gaussian(v: Tensor, delta: Tensor, s: Tensor) -> dict[str, Tensor]:
    c = v @ s @ v.T + delta.diag()
    own, log_det = delta.log().sum(), c.logdet()
    return {
        "rate": 0.5 * (c.trace() - len(c) - own),
        "mutual_information": 0.5 * (log_det - own),
        "marginal_kl": 0.5 * (c.trace() - len(c) - log_det),
        "total_correlation": 0.5 * (c.diagonal().log().sum() - log_det),
        "dimensionwise_kl": 0.5 * (c.diagonal() - 1 - c.diagonal().log()),
    }


def correlated() -> tuple[Tensor, Tensor, Tensor]:
    root = torch.randn(4, 4, generator=torch.Generator().manual_seed(7))
    s = root @ root.T / 4 + 0.3 * torch.eye(4)
    v = 0.5 * torch.randn(3, 4, generator=torch.Generator().manual_seed(8))
    return v, torch.tensor([0.2, 0.3, 0.5]), s


def optimal() -> tuple[Tensor, Tensor, Tensor]:
    """The optimum at θ = 0.1: the aggregate posterior is the prior, so KL and correlation vanish."""
    eigenvalues, theta = torch.tensor([4.0, 2.0, 1.0]), 0.1
    return ((eigenvalues - theta).sqrt() / eigenvalues).diag(), theta / eigenvalues, eigenvalues.diag()


@pytest.mark.parametrize("problem", [correlated, optimal])
@pytest.mark.parametrize("num_samples", [1, 2])
def test_each_term_meets_the_linear_gaussian_closed_form(problem, num_samples: int) -> None:
    v, delta, s = problem()
    truth = linear_gaussian(v, delta, s)
    x = torch.randn(2000, len(s)) @ torch.linalg.cholesky(s).T
    posterior = Independent(Normal(x @ v.T, delta.sqrt().expand(2000, 3)), 1)
    account = Account(Draws(posterior, standard_normal(3), num_samples=num_samples, seed=0))
    for term in ("rate", "marginal_kl", "total_correlation", "dimensionwise_kl"):
        found = getattr(account, term)
        assert ((found.value - truth[term]).abs() <= 3 * found.population_standard_error).all(), term
    low, high = account.mutual_information, min(account.rate, account.leave_one_out, key=float)
    information = float(truth["mutual_information"])
    assert float(low) - 3 * float(low.population_standard_error) <= information
    assert information <= float(high) + 3 * float(high.population_standard_error)


def test_the_bounds_are_ordered_in_expectation() -> None:
    v, delta, s = correlated()
    information = float(linear_gaussian(v, delta, s)["mutual_information"])
    low, high = [], []
    for _ in range(60):
        x = torch.randn(100, 4) @ torch.linalg.cholesky(s).T
        account = Account(Draws(Independent(Normal(x @ v.T, delta.sqrt().expand(100, 3)), 1)))
        low.append(float(account.mutual_information))
        high.append(float(account.leave_one_out))
    for values, side in ((low, 1), (high, -1)):
        gap = side * (information - torch.tensor(values))
        assert float(gap.mean()) > 3 * float(gap.std()) / math.sqrt(60)


# --- the data at hand ---


def long_run(posterior: Independent, prior: Independent, num_samples: int = 4000) -> dict[str, Estimate]:
    """The data's own value of each term by plain averages, without any covariate."""
    draws = Draws(posterior, prior, num_samples=num_samples, seed=123)
    log_q, mixture, left = draws.log_posterior, draws.log_aggregate, draws.log_leave_one_out
    each, prior_each = draws.log_aggregate_marginals, draws.log_prior_marginals
    terms = {
        "mutual_information": log_q - mixture,
        "leave_one_out": log_q - left,
        "rate": log_q - draws.log_prior,
        "marginal_kl": mixture - draws.log_prior,
        "total_correlation": mixture - each.sum(-1),
        "dimensionwise_kl": each - prior_each,
    }
    batch = log_q.shape[1]
    return {
        term: Estimate(y.mean((0, 1)), (y.var(0).sum(0) / num_samples).sqrt() / batch, None, "exact", "")
        for term, y in terms.items()
    }


def assert_within_errors(found: Estimate, truth: Estimate, term: str) -> None:
    error = torch.hypot(found.standard_error, truth.standard_error)
    assert ((found.value - truth.value).abs() <= 4 * error + 1e-12).all(), term


@pytest.mark.parametrize(("batch", "latent", "num_samples"), [(12, 2, 50), (150, 3, 1), (100, 3, 2)])
def test_each_term_meets_the_plain_average_of_a_long_run(batch: int, latent: int, num_samples: int) -> None:
    posterior, prior = encoded(batch, latent), standard_normal(latent)
    truth = long_run(posterior, prior, 25000 // batch)
    account = Account(Draws(posterior, prior, num_samples=num_samples, seed=0))
    for term in ("rate", *TERMS):
        assert_within_errors(getattr(account, term), truth[term], term)


def test_the_regression_is_worth_its_while() -> None:
    posterior, prior = encoded(400, 2), standard_normal(2)
    draws = Draws(posterior, prior, seed=0)
    plain = (draws.log_posterior - draws.log_aggregate).std() / math.sqrt(400)
    assert float(Account(draws).mutual_information.standard_error) < float(plain) / 3


@pytest.mark.parametrize("num_samples", [1, 2])
def test_the_error_is_the_spread_about_the_data_s_own_value(num_samples: int) -> None:
    """Deviations in units of their errors have mean square one; single draws may err on the safe side."""
    repeats = 120
    posterior, prior = encoded(80, 2), standard_normal(2)
    truth = Account(Draws(posterior, prior, num_samples=300, seed=0))
    accounts = [Account(Draws(posterior, prior, num_samples=num_samples)) for _ in range(repeats)]
    for term in TERMS:
        true, found = getattr(truth, term), [getattr(account, term) for account in accounts]
        errors = torch.stack([each.value - true.value for each in found])
        reported = torch.stack([each.standard_error for each in found])
        assert (true.standard_error < reported.mean(0) / 10).all(), term
        deviation = (errors / reported).square().mean(0).sqrt()
        assert ((deviation > 0.76) & (deviation < 1.19)).all(), (term, deviation)


def test_the_identities_hold_to_rounding() -> None:
    for batch in (3, 40, 400):
        for num_samples in (1, 2):
            draws = Draws(encoded(batch, 3), standard_normal(3), num_samples=num_samples)
            account = Account(draws)
            rate, kl = float(account.rate), float(account.marginal_kl)
            assert rate == pytest.approx(float(account.mutual_information) + kl, abs=1e-12)
            parts = float(account.total_correlation) + float(account.dimensionwise_kl.value.sum())
            assert kl == pytest.approx(parts, abs=1e-12)
            assert float(account.prior_dependence) == pytest.approx(0, abs=1e-12)


def test_bounds_and_targets_are_named() -> None:
    account = Account(Draws(encoded(10, 2), standard_normal(2)))
    assert account.leave_one_out.bound == "upper"
    for term in ("mutual_information", "rate", "marginal_kl", "total_correlation", "dimensionwise_kl"):
        assert getattr(account, term).bound == "exact"
    assert "empirical data distribution" in account.mutual_information.target
    assert "population" in account.leave_one_out.target
    assert len(account.dimensionwise_kl) == 2


def test_far_apart_posteriors_saturate_at_the_logarithm_of_the_data_size() -> None:
    posterior = Independent(Normal(torch.arange(50.0)[:, None] * 100, 1e-3), 1)
    account = Account(Draws(posterior, standard_normal(1), seed=0))
    assert float(account.mutual_information) == pytest.approx(math.log(50), abs=1e-9)
    assert float(account.leave_one_out) > 1e6
    # what the population's information may be, nobody can say from these data
    assert float(account.mutual_information.population_standard_error) > 1e6


@pytest.mark.parametrize("width", [1e-1, 1e-4])
def test_saturation_errs_by_no_more_than_the_kl(width: float) -> None:
    """Nor by less: over data sets the error holds how far the population's value is."""
    v, delta, s = torch.tensor([[1.0, 0.0], [0.5, 0.8]]), torch.full((2,), width**2), torch.eye(2)
    truth = linear_gaussian(v, delta, s)
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for seed in range(30):
        x = torch.randn(40, 2, generator=torch.Generator().manual_seed(seed))
        account = Account(Draws(Independent(Normal(x @ v.T, width), 1), standard_normal(2), seed=seed))
        for term in ("mutual_information", "marginal_kl", "total_correlation", "dimensionwise_kl"):
            estimate = getattr(account, term)
            off = estimate.value - truth[term]
            found.setdefault(term, []).append((off, estimate.population_standard_error))
    for term, pairs in found.items():
        off, error = (torch.stack(each).square().mean(0).sqrt() for each in zip(*pairs, strict=True))
        # the ratio of two such means over 30 sets of data is known to 1 / sqrt(60)
        assert (off < error * (1 + 60**-0.5)).all(), (term, off, error)
        assert (error < 3 * off.clamp(min=0.1)).all(), (term, off, error)


def test_the_population_error_has_half_of_what_the_own_components_add() -> None:
    """So narrow are these posteriors that all else in it is nothing beside."""
    posterior = Independent(Normal(torch.randn(40, 1), 1e-4), 1)
    account = Account(Draws(posterior, num_samples=2, seed=0))
    gap = float(account.leave_one_out) - float(account.mutual_information)
    error = float(account.mutual_information.population_standard_error)
    assert error == pytest.approx(gap / 2, rel=0.01)
    marginals = (account.draws.log_aggregate_marginals - account.draws.log_leave_one_out_marginals).mean()
    assert float(marginals) == pytest.approx(gap, rel=0.01)


def test_a_divergence_that_noise_takes_below_zero_has_no_bias() -> None:
    """The population's is at least 0, which leaves nothing for a bias to add."""
    mean = 0.05 * torch.randn(60, 1)
    found = [
        Account(Draws(Independent(Normal(mean, 1.0), 1), standard_normal(1), seed=seed)).marginal_kl
        for seed in range(12)
    ]
    below = [each for each in found if float(each) < -0.8 * float(each.standard_error)]
    assert below
    for each in below:
        assert float(each.population_standard_error) < 1.15 * float(each.standard_error)


def test_twins_halve_what_can_be_told_apart() -> None:
    apart = torch.arange(20.0)[:, None] * 100
    twins = Independent(Normal(apart.repeat_interleave(2, 0), 1.0), 1)
    account = Account(Draws(twins, seed=0))
    assert float(account.mutual_information) == pytest.approx(math.log(20), abs=1e-9)
    assert float(account.leave_one_out) == pytest.approx(math.log(39), abs=1e-9)


def test_a_posterior_that_is_the_prior_has_nothing() -> None:
    prior = standard_normal(2)
    account = Account(Draws(prior.expand([300]), prior, seed=0))
    for term in ("rate", *TERMS, "prior_dependence"):
        found = getattr(account, term)
        assert (found.value.abs() < 1e-12).all(), term
        assert (found.population_standard_error < 1e-12).all(), term


def test_a_single_datum_has_no_information_and_no_error() -> None:
    account = Account(Draws(encoded(1, 2), standard_normal(2), seed=0))
    assert float(account.mutual_information) == pytest.approx(0, abs=1e-12)
    assert float(account.marginal_kl) == pytest.approx(float(account.rate), abs=1e-12)
    assert float(account.rate.standard_error) == 0
    assert account.rate.population_standard_error.isnan()
    with pytest.raises(ValueError, match="at least 2 data"):
        _ = account.leave_one_out


def test_permuted_data_with_their_draws_give_the_same_numbers() -> None:
    posterior, prior, order = encoded(60, 2), standard_normal(2), torch.randperm(60)
    z = posterior.sample((2,))
    loc, scale = posterior.base_dist.loc[order], posterior.base_dist.scale[order]
    pair = (
        Account(Draws(posterior, prior, z=z)),
        Account(Draws(Independent(Normal(loc, scale), 1), prior, z=z[:, order])),
    )
    for term in TERMS:
        one, other = (getattr(account, term) for account in pair)
        for field in ("value", "standard_error", "population_standard_error"):
            torch.testing.assert_close(getattr(one, field), getattr(other, field), rtol=1e-9, atol=1e-12)


# --- other families ---


def full_covariance(batch: int) -> MultivariateNormal:
    root = torch.randn(batch, 2, 2) * 0.3 + 0.5 * torch.eye(2)
    return MultivariateNormal(torch.randn(batch, 2), root @ root.mT + 0.01 * torch.eye(2))


def laplace(batch: int) -> Independent:
    return Independent(Laplace(torch.randn(batch, 2), 0.3), 1)


class Bare:
    """The least that a posterior can be: no moments, no entropy, no registered divergence."""

    def __init__(self, batch: int) -> None:
        self.inner = encoded(batch, 2)
        self.batch_shape, self.event_shape = self.inner.batch_shape, self.inner.event_shape

    def sample(self, shape: tuple[int, ...]) -> Tensor:
        return self.inner.sample(shape)

    def log_prob(self, z: Tensor) -> Tensor:
        return self.inner.log_prob(z)

    def log_prob_marginals(self, z: Tensor) -> Tensor:
        return self.inner.base_dist.log_prob(z)


def mixture_prior() -> MixtureSameFamily:
    components = Independent(Normal(torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), 0.7), 1)
    return MixtureSameFamily(Categorical(torch.tensor([0.3, 0.7])), components)


def tilted_prior() -> MultivariateNormal:
    return MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.6], [0.6, 1.0]]))


@pytest.mark.parametrize(
    ("family", "prior"),
    [
        (encoded, mixture_prior),
        (full_covariance, lambda: standard_normal(2)),
        (full_covariance, tilted_prior),
        (laplace, mixture_prior),
        (Bare, lambda: standard_normal(2)),
        (Bare, tilted_prior),
    ],
    ids=lambda each: each.__name__,
)
def test_other_families_meet_a_long_run_and_keep_the_identities(family, prior) -> None:
    posterior, prior = family(80, 2) if family is encoded else family(80), prior()
    truth = long_run(posterior, prior, 500)
    account = Account(Draws(posterior, prior, num_samples=2, seed=0))
    for term in ("rate", *TERMS):
        assert_within_errors(getattr(account, term), truth[term], term)
    kl, dependence = float(account.marginal_kl), float(account.prior_dependence)
    assert float(account.rate) == pytest.approx(float(account.mutual_information) + kl, abs=1e-12)
    parts = float(account.total_correlation) + float(account.dimensionwise_kl.value.sum()) + dependence
    assert kl == pytest.approx(parts, abs=1e-12)


@pytest.mark.parametrize(
    ("posterior", "prior", "closed"),
    [
        (encoded, standard_normal(2), True),
        (full_covariance, standard_normal(2), True),
        (full_covariance, tilted_prior(), True),
        (laplace, standard_normal(2), True),
        (laplace, Independent(Laplace(torch.zeros(2), 1.0), 1), True),
        (laplace, mixture_prior(), False),
        (Bare, standard_normal(2), False),
    ],
)
def test_the_rate_is_a_closed_form_where_there_is_one(posterior, prior, closed: bool) -> None:
    posterior = encoded(30, 2) if posterior is encoded else posterior(30)
    rate = Account(Draws(posterior, prior, seed=0)).rate
    assert (float(rate.standard_error) == 0) == closed


def test_without_any_closed_form_terms_are_paired_differences() -> None:
    draws = Draws(Bare(50), seed=0)
    found = Account(draws).mutual_information
    difference = (draws.log_posterior - draws.log_aggregate)[0]
    torch.testing.assert_close(found.value, difference.mean())
    noise = difference - difference.mean()
    skewness = (noise**3).mean() / (noise**2).mean() ** 1.5
    wider = (1 + 1.2 / 49) * (1 + 1.08 * skewness**2 / 50)
    torch.testing.assert_close(found.standard_error, wider * difference.std() / math.sqrt(50))


def test_parameters_that_learn_give_plain_numbers() -> None:
    loc, width = torch.randn(100, 2, requires_grad=True), torch.ones(2, requires_grad=True)
    account = Account(
        Draws(Independent(Normal(loc, width), 1), Independent(Normal(torch.zeros(2), width), 1))
    )
    for term in ("rate", *TERMS, "prior_dependence"):
        assert not getattr(account, term).value.requires_grad, term


def test_discrete_codes_count_too() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0]])[:, None].expand(3, 2, 3)
    posterior = Independent(Categorical(logits=logits), 1)
    account = Account(Draws(posterior, num_samples=500, seed=0))
    joint = posterior.base_dist.probs  # (batch, latent, class)
    pairs = torch.einsum("na,nb->nab", joint[:, 0], joint[:, 1])
    aggregate = pairs.mean(0)
    truth = (pairs * (pairs / aggregate).log()).sum() / 3
    found = account.mutual_information
    assert abs(float(found.value - truth)) < 4 * float(found.standard_error)
    correlation = (aggregate * (aggregate / torch.outer(aggregate.sum(1), aggregate.sum(0))).log()).sum()
    found = account.total_correlation
    assert abs(float(found.value - correlation)) < 4 * float(found.standard_error)


def test_a_prior_that_factorises_has_no_dependence_whatever_its_support() -> None:
    unit = Independent(Uniform(torch.zeros(2), 1.0, validate_args=False), 1, validate_args=False)
    account = Account(Draws(Independent(Normal(torch.zeros(20, 2), 1.0), 1), unit, seed=0))
    assert float(account.rate) == math.inf
    assert float(account.prior_dependence) == 0.0


@pytest.mark.parametrize("shape", [(3,), (20, 1), (2, 20)])
def test_further_values_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    account = Account(Draws(Independent(Normal(torch.zeros(20, 2), 1.0), 1), seed=0))
    with pytest.raises(ValueError, match=r"Expected values of shape \(1, 20\), \(samples, batch\), but got"):
        account.expectation(torch.zeros(shape))
    assert account.expectation(torch.zeros(1, 20, dtype=torch.float32)).datum.dtype == torch.float64


def test_several_values_at_once_are_expected_one_by_one() -> None:
    account = Account(Draws(Independent(Normal(torch.randn(200, 2), 1.0), 1), seed=0))
    both = torch.stack(
        [account.draws.z[..., 0] ** 3, account.draws.z.sum(-1)], -1
    )  # (samples, batch, several)
    together, apart = account.expectation(both), [account.expectation(each) for each in both.unbind(-1)]
    for name in ("datum", "residual", "bias"):
        one_by_one = torch.stack([getattr(each, name) for each in apart], -1)
        torch.testing.assert_close(getattr(together, name), one_by_one)


def test_what_is_known_has_no_error() -> None:
    account = Account(Draws(Independent(Normal(torch.randn(20, 2), 1.0), 1), seed=0))
    estimate = account.known(torch.arange(20.0)).estimate("exact", "a mean")
    assert float(estimate) == 9.5
    assert estimate.standard_error == 0
