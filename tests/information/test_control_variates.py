"""One regression for all quantities: its numbers, its covariates, and which data are neighbours."""

import math

import pytest
import torch
from scipy import spatial
from torch import Tensor
from torch.distributions import (
    Categorical,
    Exponential,
    Gamma,
    Independent,
    Laplace,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    Pareto,
    SigmoidTransform,
    StudentT,
    TransformedDistribution,
)

from pyro_infomax.information import Account, Draws
from pyro_infomax.information._control_variates import (
    ControlVariates,
    Covariates,
    affordable,
    covariates_of,
    nearest,
    trend_of,
)
from pyro_infomax.oracles import LinearGaussian

# ---- The regression, on numbers whose expectations are known.


def simulated(samples: int, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Covariates (samples, batch, 2), their means (batch, 2) and independent noise (samples, batch)."""
    exact = torch.randn(batch, 2)
    return exact + torch.randn(samples, batch, 2), exact, torch.randn(samples, batch)


@pytest.mark.parametrize(("samples", "batch"), [(1, 200), (5, 40)])
def test_what_the_covariates_explain_has_no_noise(samples: int, batch: int) -> None:
    covariates, exact, _ = simulated(samples, batch)
    weights = torch.tensor([2.0, -3.0])
    found = ControlVariates.of(covariates, exact).expectation(covariates @ weights + 1).estimate("exact", "")
    torch.testing.assert_close(found.value, (exact @ weights).mean() + 1, rtol=1e-12, atol=1e-12)
    assert float(found.standard_error) < 1e-12


@pytest.mark.parametrize(("samples", "batch"), [(1, 200), (2, 100)])
def test_the_error_is_that_of_the_remaining_noise(samples: int, batch: int) -> None:
    errors, reported = [], []
    for _ in range(200):
        covariates, exact, noise = simulated(samples, batch)
        y = covariates @ torch.tensor([2.0, -3.0]) + 0.5 * noise
        found = ControlVariates.of(covariates, exact).expectation(y).estimate("exact", "")
        errors.append(found.value - (exact @ torch.tensor([2.0, -3.0])).mean())
        reported.append(found.standard_error)
    spread, mean = torch.stack(errors).std(), torch.stack(reported).mean()
    assert abs(float(spread / mean) - 1) < 4 / math.sqrt(2 * 200)  # the error of a standard deviation
    assert float(mean) == pytest.approx(0.5 / math.sqrt(samples * batch), rel=0.05)


@pytest.mark.parametrize("samples", [1, 2])
def test_draws_far_out_which_the_fit_follows_do_not_make_the_error_too_small(samples: int) -> None:
    errors, reported = [], []
    for _ in range(600):
        z = torch.randn(samples, 60, 2)
        covariates = torch.cat([z, z**2], -1)
        exact = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(60, 4)
        found = ControlVariates.of(covariates, exact).expectation((z**4).sum(-1)).estimate("exact", "")
        errors.append(found.value - 6)
        reported.append(found.standard_error)
    assert float(torch.stack(errors).std() / torch.stack(reported).mean()) < 1.08


def test_single_draws_are_compared_with_their_neighbours() -> None:
    batch = 400
    means, exact = torch.linspace(-2, 2, batch), torch.zeros(batch, 0)
    neighbours = (torch.arange(batch) + 1).clamp(max=batch - 2)
    errors, reported = [], []
    for _ in range(300):
        y = (means**2 + 0.5 * torch.randn(batch))[None]
        plan = ControlVariates.of(exact[None], exact, neighbours=neighbours)
        found = plan.expectation(y).estimate("exact", "")
        errors.append(found.value - (means**2).mean())
        reported.append(found.standard_error)
    assert float(torch.stack(reported).mean()) == pytest.approx(0.5 / math.sqrt(batch), rel=0.02)
    hits = torch.stack(errors).abs() <= 1.96 * torch.stack(reported)
    assert 0.90 < float(hits.double().mean()) < 0.99


def test_pairs_have_fewer_degrees_of_freedom_than_draws() -> None:
    noise, neighbours = torch.tensor([1.0, -1.0] * 30), (torch.arange(60) + 1) % 60  # without skewness
    found = [
        ControlVariates.of(torch.zeros(1, 60, 0), torch.zeros(60, 0), neighbours=each).expectation(
            noise[None]
        )
        for each in (None, neighbours)
    ]
    alone, pairs = (each.estimate("exact", "").standard_error for each in found)
    assert float(alone) == pytest.approx((1 + 1.2 / 59) / math.sqrt(59))
    assert float(pairs) == pytest.approx(math.sqrt(2 / 59) * (1 + 1.2 * 1.5 / 59))


@pytest.mark.parametrize("samples", [1, 3, 10])
def test_skewness_is_seen_through_the_means_of_few_draws(samples: int) -> None:
    noise = Exponential(1.0).sample((samples, 20_000))  # of skewness 2
    plan = ControlVariates.of(torch.zeros(samples, 20_000, 0), torch.zeros(20_000, 0))
    found = float(plan.expectation(noise).estimate("exact", "").standard_error)
    spread = noise.var(0).mean() if samples > 1 else noise.var()
    plain = math.sqrt(float(spread) / noise.numel()) * (1 + 1.2 / plan.freedom)
    assert (found / plain - 1) * noise.numel() == pytest.approx(1.08 * 4, rel=0.3)


def test_what_the_data_tell_of_their_own_means_is_no_error() -> None:
    """A mean that is a function of the posterior's, beside noise of unit size."""
    mean = torch.randn(400, 2)
    trend = trend_of(Independent(Normal(mean, 1.0), 1))
    torch.testing.assert_close(trend.T @ trend, torch.eye(4))
    torch.testing.assert_close(trend.mean(0), torch.zeros(4), rtol=0, atol=1e-12)
    y = 5 * mean[:, 0] - 3 * mean[:, 1] ** 2 + torch.randn(400)
    plan = ControlVariates.of(torch.zeros(1, 400, 0), torch.zeros(400, 0), trend=trend)
    found = float(plan.expectation(y[None]).estimate("exact", "").standard_error)
    assert found == pytest.approx(1 / math.sqrt(400), rel=0.15)  # 4 / sqrt(2 * 400)


def test_moments_that_tell_nothing_are_no_trend() -> None:
    assert trend_of(Independent(Normal(torch.zeros(60, 2), 1.0), 1)).shape == (60, 0)
    twins = torch.randn(60, 1).expand(60, 2)
    assert trend_of(Independent(Normal(twins, 1.0), 1)).shape == (60, 2)
    assert trend_of(Independent(Normal(torch.randn(20, 4), 1.0), 1)).shape == (20, 5)  # one sum of squares
    assert trend_of(Independent(Normal(torch.randn(19, 4), 1.0), 1)) is None
    assert trend_of(Independent(Categorical(torch.rand(80, 2, 3)), 1)) is None


def test_several_draws_need_no_neighbours() -> None:
    covariates, exact, noise = simulated(2, 100)
    plans = (
        ControlVariates.of(covariates, exact),
        ControlVariates.of(covariates, exact, neighbours=torch.arange(100)),
    )
    one, other = (plan.expectation(noise).estimate("exact", "") for plan in plans)
    assert float(one.standard_error) == float(other.standard_error) > 0


def test_a_draw_that_the_fit_passes_through_leaves_the_rest_as_they_are() -> None:
    covariates, exact, noise = simulated(1, 100)
    lone = torch.zeros(1, 100, 1)
    lone[0, 7] = 1.0
    with_lone = ControlVariates.of(torch.cat([covariates, lone], -1), torch.cat([exact, lone[0]], -1))
    found = with_lone.expectation(noise).estimate("exact", "")
    before = ControlVariates.of(covariates, exact).expectation(noise).estimate("exact", "")
    assert float(found.standard_error) == pytest.approx(float(before.standard_error), rel=0.1)


def test_identical_and_constant_covariates_are_harmless() -> None:
    covariates, exact, noise = simulated(1, 100)
    more = torch.cat([covariates, covariates, torch.ones(1, 100, 1)], -1)
    one = ControlVariates.of(covariates, exact)
    other = ControlVariates.of(more, torch.cat([exact, exact, torch.ones(100, 1)], -1))
    assert one.freedom == other.freedom == 97
    pair = [plan.expectation(noise).estimate("exact", "") for plan in (one, other)]
    torch.testing.assert_close(pair[0].value, pair[1].value)
    torch.testing.assert_close(pair[0].standard_error, pair[1].standard_error)


def test_a_sum_has_the_error_of_the_sum() -> None:
    covariates, exact, noise = simulated(2, 100)
    plan, y = ControlVariates.of(covariates, exact), torch.stack([noise, covariates[..., 0] - noise], -1)
    total = plan.expectation(y).sum().estimate("exact", "")
    assert float(total.standard_error) < 1e-12
    torch.testing.assert_close(total.value, exact[:, 0].mean())
    difference = plan.expectation(noise) - plan.expectation(noise)
    assert float(difference.estimate("exact", "").standard_error) == 0


def test_a_closed_form_has_no_error_but_a_population_error() -> None:
    covariates, exact, _ = simulated(1, 50)
    found = ControlVariates.of(covariates, exact).known(exact[:, 0]).estimate("exact", "")
    assert float(found.standard_error) == 0
    torch.testing.assert_close(found.population_standard_error, exact[:, 0].std() / math.sqrt(50))


def test_a_bias_widens_the_population_error_only() -> None:
    covariates, exact, noise = simulated(1, 50)
    plain = ControlVariates.of(covariates, exact).expectation(noise)
    biased = plain.biased(torch.tensor(3.0)).estimate("exact", "")
    before = plain.estimate("exact", "")
    torch.testing.assert_close(biased.standard_error, before.standard_error)
    expected = torch.hypot(before.population_standard_error, torch.tensor(3.0))
    torch.testing.assert_close(biased.population_standard_error, expected)


def test_a_single_draw_of_a_single_datum_knows_no_error() -> None:
    found = ControlVariates.of(torch.zeros(1, 1, 0), torch.zeros(1, 0)).expectation(torch.ones(1, 1))
    estimate = found.estimate("exact", "")
    assert float(estimate) == 1
    assert estimate.standard_error.isnan()


def test_infinite_terms_give_an_infinite_mean_of_unknown_error() -> None:
    covariates, exact, noise = simulated(1, 50)
    noise[0, 0] = -math.inf
    estimate = ControlVariates.of(covariates, exact).expectation(noise).estimate("upper", "")
    assert float(estimate) == -math.inf
    assert estimate.standard_error.isnan()


def test_twenty_draws_bear_one_covariate() -> None:
    assert affordable(torch.zeros(1, 21, 1))
    assert not affordable(torch.zeros(1, 20, 1))
    assert affordable(torch.zeros(2, 20, 1))
    assert not affordable(torch.zeros(2, 20, 2))


# ---- Covariates in the coordinates where posteriors are Normal, without tails that no draw has reached.

TERMS = (
    "rate",
    "mutual_information",
    "leave_one_out",
    "marginal_kl",
    "total_correlation",
    "dimensionwise_kl",
)


@pytest.fixture
def oracle() -> LinearGaussian:
    return LinearGaussian.optimum([4.0, 2.0, 1.0], beta=1.0, latent_dim=2, s2=0.5)


def encoded(oracle: LinearGaussian, size: int) -> tuple[Tensor, Tensor]:
    x = oracle.sample(size, seed=0)
    return (x - oracle.mu) @ oracle.V.T, oracle.Delta.diagonal().sqrt().expand(size, 2)


def log_normal(loc: Tensor, scale: Tensor) -> Independent:
    return Independent(LogNormal(loc, scale), 1)


def on_the_interval(loc: Tensor, scale: Tensor) -> TransformedDistribution:
    return TransformedDistribution(Independent(Normal(loc, scale), 1), [SigmoidTransform()])


@pytest.mark.parametrize("samples", [1, 2])
def test_log_normals_have_the_terms_and_errors_of_their_normals(samples: int, oracle: LinearGaussian) -> None:
    parameters, standard = encoded(oracle, 200), (torch.zeros(2), torch.ones(2))
    normal = Draws(*(Independent(Normal(*each), 1) for each in (parameters, standard)), num_samples=samples)
    mapped = Draws(log_normal(*parameters), log_normal(*standard), z=normal.z.exp())
    for term in TERMS:
        one, other = (getattr(Account(draws), term) for draws in (normal, mapped))
        torch.testing.assert_close(other.value, one.value, rtol=0, atol=1e-8)
        torch.testing.assert_close(other.standard_error, one.standard_error, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("image", [log_normal, on_the_interval])
def test_the_image_of_an_oracle_has_its_terms(image, oracle: LinearGaussian) -> None:
    prior = image(torch.zeros(2), torch.ones(2))
    account = Account(Draws(image(*encoded(oracle, 1500)), prior, seed=0))
    for term in ("mutual_information", "total_correlation", "marginal_kl", "dimensionwise_kl"):
        found = getattr(account, term)
        distance = (found.value - getattr(oracle, term)).abs()
        assert bool((distance < 4 * found.population_standard_error).all()), term


def _by_quadrature(loc: Tensor, scale: Tensor, prior: Gamma) -> Tensor:
    """KL of the mixture of LogNormals from the prior, in log z."""
    u = torch.linspace(-30, 30, 6_001)
    log_mixture = Normal(loc, scale).log_prob(u[:, None]).logsumexp(1) - torch.tensor(float(len(loc))).log()
    return torch.trapezoid(log_mixture.exp() * (log_mixture - u - prior.log_prob(u.exp())), u)


def test_wide_log_normals_under_a_gamma_prior_are_covered() -> None:
    size, prior = 300, Gamma(torch.tensor(0.5), 0.5)
    loc, scale = torch.randn(size, 1) - 1, 1.0 + torch.rand(size, 1)
    expected = _by_quadrature(loc[:, 0], scale[:, 0], prior)
    posterior, product = Independent(LogNormal(loc, scale), 1), Independent(prior.expand((1,)), 1)
    found = [Account(Draws(posterior, product, seed=seed)).dimensionwise_kl for seed in range(40)]
    inside = [abs(float(each.value - expected)) < 2 * float(each.standard_error) for each in found]
    assert sum(inside) >= 34
    assert max(abs(float(each.value - expected)) for each in found) < 0.3


def test_means_that_the_draws_do_not_find_are_left_out() -> None:
    z = LogNormal(torch.tensor(0.0), 2.0).sample((1, 300, 1))
    moments = torch.stack([torch.tensor(k * k * 2.0).exp() for k in (0.25, 3.0)]).expand(300, 2)
    found = Covariates.of(torch.cat([z**0.25, z**3], -1), moments).estimable()
    assert torch.equal(found.values, z**0.25)
    assert torch.equal(found.exact, moments[:, :1])


def test_dimensions_that_depend_on_each_other_have_powers_of_their_coordinates() -> None:
    normal = MultivariateNormal(torch.randn(100, 2), torch.eye(2) + 0.5)
    draws = Draws(TransformedDistribution(normal, [SigmoidTransform()]), seed=0)
    values = next(covariates_of(draws)).values
    u = draws.z.logit() - normal.mean.mean(0)
    torch.testing.assert_close(values[..., -4:], torch.cat([u, u**2], -1))


# ---- Tails.


def test_powers_of_heavy_tails_are_no_covariates() -> None:
    for df in (3.0, 30.0):
        posterior = Independent(StudentT(df, torch.randn(60, 2), 0.5), 1)
        draws = Draws(posterior, Independent(Normal(torch.zeros(2), 1.0), 1), num_samples=20, seed=0)
        own = posterior.base_dist.log_prob(draws.z)
        expected = torch.cat([own.sum(-1, keepdim=True), own], -1)
        torch.testing.assert_close(next(covariates_of(draws)).values, expected)
    pair = torch.randn(60, 1, 2) + torch.tensor([[0.0], [1.0]])
    mixture = MixtureSameFamily(Categorical(torch.ones(60, 2)), Independent(StudentT(3.0, pair, 0.5), 1))
    assert (
        next(covariates_of(Draws(mixture, Independent(Normal(torch.zeros(2), 1.0), 1), seed=0))).values.shape[
            -1
        ]
        == 0
    )
    # the prior's log-density is linear in z, whose mean is known and whose variance is infinite
    draws = Draws(
        Independent(Pareto(torch.ones(60, 2), 1.5), 1), Independent(Exponential(torch.ones(2)), 1), seed=0
    )
    assert next(covariates_of(draws)).values.shape[-1] == 3


def test_light_tails_keep_their_powers() -> None:
    mean = torch.randn(60, 2)
    pair = torch.stack([mean, mean + 1], -2)
    mixture = MixtureSameFamily(Categorical(torch.ones(60, 2)), Independent(Normal(pair, 0.5), 1))
    for posterior in (
        Independent(Laplace(mean, 0.5), 1),
        mixture,
        MultivariateNormal(mean, torch.eye(2) + 0.5),
    ):
        draws = Draws(posterior, num_samples=20, seed=0)
        values = next(covariates_of(draws)).values
        u = draws.z - posterior.mean.mean(0)
        torch.testing.assert_close(values[..., -4:], torch.cat([u, u**2], -1))


# ---- The nearest posterior, against a search by hand.


def by_hand(position: Tensor) -> Tensor:
    return torch.cdist(position, position).fill_diagonal_(torch.inf).argmin(1)


def test_it_is_the_nearest_in_widths_of_the_posteriors() -> None:
    mean, width = torch.randn(80, 2) * torch.tensor([1.0, 100.0]), torch.tensor([0.01, 100.0])
    found = nearest(Independent(Normal(mean, width), 1))
    assert torch.equal(found, by_hand(mean / width))
    assert not torch.equal(found, by_hand(mean))


def test_dimensions_that_tell_nothing_do_not_count() -> None:
    mean = torch.randn(80, 9)
    mean[:, 1:6] *= 1e-3
    found = nearest(Independent(Normal(mean, 0.1), 1))
    assert torch.equal(found, by_hand(mean[:, [0, 6, 7, 8]]))


def test_twins_are_neighbours_and_nobody_is_their_own() -> None:
    mean = torch.arange(60.0)[:, None].expand(60, 2)
    for copies in (2, 3):
        found = nearest(Independent(Normal(mean.repeat(copies, 1), 1.0), 1))
        assert torch.equal(found % 60, torch.arange(60).repeat(copies))
        assert not (found == torch.arange(60 * copies)).any()


def test_few_data_and_codes_without_moments_have_none() -> None:
    assert nearest(Independent(Normal(torch.randn(49, 2), 1.0), 1)) is None
    assert nearest(Independent(Categorical(torch.rand(80, 2, 3)), 1)) is None


def test_a_crowd_of_twins_takes_no_longer_than_other_data(monkeypatch) -> None:
    """All in one leaf of the tree, each would be compared with all."""
    seen = []

    class Watched(spatial.cKDTree):
        def __init__(self, points: object) -> None:
            super().__init__(points)
            seen.append(self.size)

    monkeypatch.setattr(spatial, "cKDTree", Watched)
    found = nearest(Independent(Normal(torch.zeros(2000, 2), 1.0), 1))
    assert seen[0] > 200
    assert int((found - torch.arange(2000)).abs().max()) == 1
