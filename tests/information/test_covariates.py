"""Covariates in the coordinates where posteriors are Normal, and without tails that no draw has reached."""

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Gamma,
    Independent,
    LogNormal,
    MultivariateNormal,
    Normal,
    SigmoidTransform,
    TransformedDistribution,
)

from pyro_infomax.information import Account, Draws
from pyro_infomax.information._control_variates import Covariates, covariates_of
from pyro_infomax.oracles import LinearGaussian

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


@pytest.mark.parametrize("samples", [1, 3])
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
    u = torch.linspace(-30, 30, 60_001)
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
    found = Covariates(torch.cat([z**0.25, z**3], -1), moments).estimable()
    assert torch.equal(found.values, z**0.25)
    assert torch.equal(found.exact, moments[:, :1])


def test_dimensions_that_depend_on_each_other_have_powers_of_their_coordinates() -> None:
    normal = MultivariateNormal(torch.randn(100, 2), torch.eye(2) + 0.5)
    draws = Draws(TransformedDistribution(normal, [SigmoidTransform()]), seed=0)
    values = covariates_of(draws)[0].values
    u = draws.z.logit() - normal.mean.mean(0)
    torch.testing.assert_close(values[..., -4:], torch.cat([u, u**2], -1))
