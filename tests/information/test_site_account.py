"""The account of each site against closed forms, enumeration and the account of all."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Independent,
    Laplace,
    LogNormal,
    MultivariateNormal,
    Normal,
    StudentT,
    kl_divergence,
)

from pyro_infomax.distributions import SideBySide
from pyro_infomax.information import Account, Draws, SiteAccount

SIZES = [1, 2]
ROOT = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.5, 0.0], [-0.4, 0.3, 0.7]], dtype=torch.float64)
DELTA = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)


def normal(size: int) -> Independent:
    """Means of covariance ROOT ROOT^T, posterior variances DELTA."""
    return Independent(Normal(torch.randn(size, 3) @ ROOT.T, DELTA.sqrt()), 1)


def standard() -> Independent:
    return Independent(Normal(torch.zeros(3), 1.0), 1)


def log_prior_sites(account: Account) -> Tensor:
    each = Normal(0.0, 1.0).log_prob(account.draws.z)
    return torch.stack([part.sum(-1) for part in each.split(SIZES, -1)], -1)


@pytest.mark.parametrize("num_samples", [1, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_closed_forms_of_a_gaussian_are_met_site_by_site(num_samples: int, seed: int) -> None:
    account = Account(Draws(normal(600), standard(), num_samples=num_samples, seed=seed, site_sizes=SIZES))
    sites = SiteAccount(account, log_prior_sites(account))
    means = ROOT @ ROOT.T
    whole = means + DELTA.diag()
    information = (
        torch.stack([whole[0, 0] / DELTA[0], whole.det() / whole[0, 0] / DELTA[1:].prod()]).log() / 2
    )
    rates = (whole.diagonal() - 1 - DELTA.log()) / 2
    rate = torch.stack([rates[0], rates[1:].sum()])
    for found, truth in (
        (sites.rate, rate),
        (sites.mutual_information, information),
        (sites.marginal_kl, rate - information),
    ):
        assert len(found) == 2
        assert ((found.value - truth).abs() < 3.5 * found.population_standard_error).all()
    assert (sites.rate.standard_error == 0).all()


@pytest.mark.parametrize("num_samples", [1, 3])
def test_sums_over_sites_are_the_account_of_all(num_samples: int) -> None:
    account = Account(Draws(normal(80), standard(), num_samples=num_samples, seed=0, site_sizes=SIZES))
    plain = Account(Draws(normal(1), standard(), z=torch.zeros(1, 1, 3)))
    assert plain.draws.site_sizes is None
    sites = SiteAccount(account, log_prior_sites(account))
    for name in ("rate", "mutual_information", "marginal_kl"):
        total = getattr(sites, name).value.sum()
        torch.testing.assert_close(total, getattr(account, name).value, rtol=0, atol=1e-12)


def test_draws_that_know_their_sites_have_the_same_joint_account() -> None:
    posterior = normal(80)
    one, other = (Account(Draws(posterior, standard(), seed=0, site_sizes=each)) for each in (None, SIZES))
    for name in ("rate", "mutual_information", "marginal_kl", "leave_one_out", "total_correlation"):
        for part in ("value", "standard_error", "population_standard_error"):
            pair = (getattr(getattr(each, name), part) for each in (one, other))
            torch.testing.assert_close(*pair, rtol=0, atol=1e-9)


def mixed(size: int) -> Independent:
    parts = [LogNormal(torch.randn(size, 1), 0.5), Laplace(torch.randn(size, 2), 0.5)]
    return Independent(SideBySide(parts), 1)


def test_rates_have_closed_forms_where_all_sites_have() -> None:
    posterior = mixed(50)
    prior = Independent(SideBySide([LogNormal(torch.zeros(1), 1.0), Laplace(torch.zeros(2), 1.0)]), 1)
    account = Account(Draws(posterior, prior, seed=0, site_sizes=SIZES))
    first, second = posterior.base_dist.parts
    expected = [
        kl_divergence(first, LogNormal(torch.zeros(1), 1.0)).sum(-1).mean(),
        kl_divergence(second, Laplace(torch.zeros(2), 1.0)).sum(-1).mean(),
    ]
    rate = SiteAccount(account, torch.zeros(1, 50, 2)).rate
    torch.testing.assert_close(rate.value, torch.stack(expected))
    torch.testing.assert_close(rate.value.sum(), account.rate.value)


@pytest.mark.parametrize("num_samples", [1, 3])
def test_sites_under_a_correlated_prior_sum_to_torchs_divergence(num_samples: int) -> None:
    """Independent Normals, and a prior of correlation .8: site by site they are .987, together 2.322."""
    covariance = torch.tensor([[1.0, 0.8, 0.8], [0.8, 1.0, 0.8], [0.8, 0.8, 1.0]])
    posterior, prior = normal(60), MultivariateNormal(torch.zeros(3), covariance)
    account = Account(Draws(posterior, prior, num_samples=num_samples, seed=0, site_sizes=SIZES))
    first = Normal(0.0, 1.0).log_prob(account.draws.z[..., 0])
    rest = account.draws.log_prior - first
    found = SiteAccount(account, torch.stack([first, rest], -1)).rate
    dense = MultivariateNormal(posterior.mean, scale_tril=posterior.stddev.diag_embed())
    expected = kl_divergence(dense, prior.expand([60])).mean()
    torch.testing.assert_close(found.value.sum(), expected)
    alone = kl_divergence(Normal(posterior.mean[:, 0], posterior.stddev[:, 0]), Normal(0.0, 1.0)).mean()
    assert abs(float(found.value[0] - alone)) < 4 * float(found.standard_error[0]) + 1e-9
    assert found.note is None or "draws" in found.note


def test_without_closed_forms_the_sites_take_the_regression_of_all() -> None:
    posterior = mixed(50)
    prior = Independent(SideBySide([LogNormal(torch.zeros(1), 1.0), StudentT(torch.full((2,), 4.0))]), 1)
    account = Account(Draws(posterior, prior, num_samples=2, seed=0, site_sizes=SIZES))
    scores = prior.base_dist.log_prob(account.draws.z)
    log_prior = torch.stack([scores[..., 0], scores[..., 1:].sum(-1)], -1)
    sites = SiteAccount(account, log_prior)
    own = account.draws.log_posterior_sites
    expected = account.expectation(own[..., 1] - log_prior[..., 1]).estimate("exact", "")
    torch.testing.assert_close(sites.rate[1].value, expected.value)
    torch.testing.assert_close(sites.rate[1].standard_error, expected.standard_error)
    for name in ("rate", "marginal_kl"):
        total = getattr(sites, name).value.sum()
        torch.testing.assert_close(total, getattr(account, name).value, rtol=0, atol=1e-12)


def test_the_information_of_a_site_is_enumerated_by_prefixes() -> None:
    posterior = mixed(30)
    account = Account(Draws(posterior, num_samples=1, seed=0, site_sizes=SIZES))
    z = account.draws.z[0]
    scores = posterior.base_dist.log_prob(z[:, None])
    first, both = scores[..., 0], scores.sum(-1)  # (draw, data)
    log_first, log_both = (each.logsumexp(1) - math.log(30) for each in (first, both))
    conditional = (both - first).diagonal() - (log_both - log_first)
    expected = account.expectation(conditional[None]).datum.mean(0)
    torch.testing.assert_close(SiteAccount(account).mutual_information[1].value, expected, rtol=0, atol=1e-9)


def test_the_standard_error_is_the_spread_over_draws() -> None:
    posterior = mixed(60)
    found = [
        SiteAccount(Account(Draws(posterior, num_samples=2, seed=seed, site_sizes=SIZES))).mutual_information
        for seed in range(80)
    ]
    ratio = torch.stack([each.value for each in found]).std(0) / torch.stack(
        [each.standard_error for each in found]
    ).mean(0)
    assert (ratio > 0.7).all()
    assert (ratio < 1.3).all()


def test_rates_need_densities_of_the_model() -> None:
    account = Account(Draws(normal(20), standard(), seed=0, site_sizes=SIZES))
    with pytest.raises(ValueError, match="Expected log-densities of the sites under the model but got None"):
        _ = SiteAccount(account).rate


def test_the_population_error_holds_the_bias_of_a_finite_number_of_data() -> None:
    """Narrow posteriors, of which the first site tells all data apart."""
    posterior = Independent(Normal(torch.randn(50, 3), torch.tensor([1e-4, 3.0, 3.0])), 1)
    account = Account(Draws(posterior, num_samples=2, seed=0, site_sizes=SIZES))
    first, second = SiteAccount(account).mutual_information.population_standard_error
    draws = account.draws
    gap = (draws.log_aggregate_prefixes - draws.log_leave_one_out_prefixes).mean((0, 1)) / 2
    assert first >= gap[0] > 100
    assert second >= (gap[1] - gap[0]).abs()
    torch.testing.assert_close(gap[1], account.self_vote)
