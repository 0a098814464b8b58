"""Posteriors with tails of a power: covariates with a variance, infinite rates, and errors that cover."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Cauchy,
    Exponential,
    Gamma,
    HalfCauchy,
    HalfNormal,
    Independent,
    InverseGamma,
    Laplace,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    Pareto,
    StudentT,
    Uniform,
)

from pyro_infomax.distributions import SideBySide, joint_forms, marginal_forms
from pyro_infomax.information import Account, Draws, Estimate, marginal_kl, note_on, prior_gap, rate

SIZE = 60


def product(factors) -> Independent:
    return Independent(factors, 1)


def standard(size: int) -> Independent:
    return product(Normal(torch.zeros(size), 1.0))


def student(df: float | Tensor, size: int = SIZE, latent: int = 2) -> Independent:
    return product(StudentT(df, torch.randn(size, latent), 0.5))


def mixture_of(df: float) -> MixtureSameFamily:
    pair = torch.randn(SIZE, 1, 2) + torch.tensor([[0.0], [1.0]])
    return MixtureSameFamily(Categorical(torch.ones(SIZE, 2)), product(StudentT(df, pair, 0.5)))


# ---- Noise.


def _spread(posterior: Independent, seeds: int) -> tuple[Tensor, Tensor, Tensor]:
    """Information by the account, by the plain mean of its terms, and the account's errors, (seeds,)."""
    draws = [Draws(posterior, standard(posterior.event_shape[0]), seed=seed) for seed in range(seeds)]
    found = [Account(each).mutual_information for each in draws]
    plain = [(each.log_posterior - each.log_aggregate).mean() for each in draws]
    return *(torch.stack(each) for each in ([f.value for f in found], plain)), torch.stack(
        [f.standard_error for f in found]
    )


def test_the_account_is_no_noisier_than_the_plain_mean_and_its_error_covers() -> None:
    posterior = student(2.2, 100, 1)
    u = torch.linspace(-300.0, 300.0, 30_001)[:, None]
    each = StudentT(2.2, posterior.base_dist.loc[:, 0], 0.5).log_prob(u)  # (point, data)
    mixed = each.logsumexp(1) - math.log(100)
    truth = -torch.trapezoid(mixed.exp() * mixed, u[:, 0]) - posterior.entropy().mean()
    found, plain, errors = _spread(posterior, 60)
    assert found.std() < 1.05 * plain.std()
    assert abs(float(found.mean() - truth)) < 4 * float(found.std()) / math.sqrt(60)
    covered = ((found - truth).abs() < 1.96 * errors).double().mean()
    assert 0.88 < float(covered) <= 1.0
    assert float(errors.mean()) < 1.3 * float(found.std())


# ---- Rates that have no number.


@pytest.mark.parametrize(
    ("factors", "prior", "infinite"),
    [
        (StudentT(2.0, torch.zeros(SIZE, 2)), Normal(torch.zeros(2), 1.0), True),
        (StudentT(1.0, torch.zeros(SIZE, 2)), Normal(torch.zeros(2), 1.0), True),
        (StudentT(2.1, torch.zeros(SIZE, 2)), Normal(torch.zeros(2), 1.0), False),
        (Cauchy(torch.zeros(SIZE, 2), 1.0), Normal(torch.zeros(2), 1.0), True),
        (Cauchy(torch.zeros(SIZE, 2), 1.0), Laplace(torch.zeros(2), 1.0), True),
        (StudentT(2.0, torch.zeros(SIZE, 2)), Laplace(torch.zeros(2), 1.0), False),
        (Cauchy(torch.zeros(SIZE, 2), 1.0), Cauchy(torch.ones(2), 1.0), False),
        (HalfCauchy(torch.ones(SIZE, 2)), HalfNormal(torch.ones(2)), True),
        (HalfCauchy(torch.ones(SIZE, 2)), Gamma(torch.ones(2), 2.0), True),
        (InverseGamma(torch.ones(SIZE, 2), 1.0), Exponential(torch.ones(2)), True),
        (InverseGamma(torch.full((SIZE, 2), 1.5), 1.0), Exponential(torch.ones(2)), False),
        (Pareto(torch.ones(SIZE, 2), 0.9), Exponential(torch.ones(2)), True),
        (Pareto(torch.ones(SIZE, 2), 1.5), Normal(torch.zeros(2), 1.0), True),
        (Uniform(torch.zeros(SIZE, 2), 1.001), Uniform(torch.zeros(2), 1.0, validate_args=False), True),
    ],
)
def test_a_rate_is_infinite_where_its_mean_is(factors, prior, infinite) -> None:
    account = Account(Draws(product(factors), product(prior), seed=0))
    for name in ("rate", "marginal_kl", "dimensionwise_kl"):
        found = getattr(account, name)
        assert bool((found.value == math.inf).all()) is infinite, name
        assert bool(found.value.isfinite().all()) is not infinite, name
        if infinite:
            assert "no finite value" in found.note
            assert bool((found.standard_error == 0).all())
    assert bool(account.total_correlation.value.isfinite())


def test_one_heavy_dimension_is_infinite_and_the_other_is_not() -> None:
    posterior = student(torch.tensor([1.5, 30.0]))
    found = Account(Draws(posterior, standard(2), num_samples=50, seed=0)).dimensionwise_kl
    assert found.value.isinf().tolist() == [True, False]
    assert float(rate(posterior, standard(2), seed=0)) == math.inf
    alone = product(StudentT(30.0, posterior.base_dist.loc[:, 1:], 0.5))
    other = marginal_kl(alone, standard(1), num_samples=50, seed=1)
    error = math.hypot(float(found.standard_error[1]), float(other.standard_error))
    assert abs(float(found[1]) - float(other)) < 4 * error


def test_one_heavy_datum_makes_the_mean_infinite() -> None:
    df = torch.full((SIZE, 1), 5.0)
    df[7] = 2.0
    forms = joint_forms(student(df), standard(2))
    assert forms.rate is None
    assert forms.endless.nonzero().tolist() == [[7]]
    assert float(rate(student(df), standard(2), seed=0)) == math.inf


@pytest.mark.parametrize(
    "prior",
    [
        MultivariateNormal(torch.zeros(2), torch.eye(2) + 0.5),
        MixtureSameFamily(Categorical(torch.ones(3)), product(Normal(torch.zeros(3, 2), 1.0))),
        product(SideBySide([Normal(torch.zeros(1), 1.0), StudentT(torch.tensor([3.0]))])),
        dist.Normal(torch.zeros(2), 1.0).expand([2]).to_event(1),
        torch.distributions.TransformedDistribution(
            standard(2), [torch.distributions.AffineTransform(1.0, 2.0)]
        ),
    ],
)
def test_priors_within_priors_are_looked_into(prior) -> None:
    assert float(rate(student(2.0), prior, seed=0)) == math.inf
    assert float(rate(mixture_of(2.0), prior, seed=0)) == math.inf


def test_only_the_dimensions_under_a_light_prior_are_infinite() -> None:
    prior = product(SideBySide([Normal(torch.zeros(1), 1.0), StudentT(torch.tensor([3.0]))]))
    assert marginal_forms(student(2.0), prior).endless.all(0).tolist() == [True, False]


def test_the_dependence_of_a_prior_is_refused_where_it_is_no_number() -> None:
    prior = MultivariateNormal(torch.zeros(2), torch.eye(2) + 0.5)
    with pytest.raises(NotImplementedError, match="their difference is no number"):
        _ = Account(Draws(student(2.0), prior, seed=0)).prior_dependence


def test_held_out_tails_make_the_gap_infinite() -> None:
    found = prior_gap(student(5.0), standard(2), holdout=student(2.0), seed=0)
    assert float(found) == math.inf
    assert "no finite value" in found.note


# ---- Notes.


def _information(posterior, num_samples: int) -> Estimate:
    return Account(Draws(posterior, standard(2), num_samples=num_samples, seed=0)).mutual_information


def test_few_draws_are_said_to_be_few() -> None:
    posterior = product(Normal(torch.randn(10, 2), 1.0))
    assert (
        "10 draws are too few to judge its error by: take num_samples >= 5" in _information(posterior, 1).note
    )
    assert "num_samples >= 5" in _information(posterior, 4).note
    assert _information(posterior, 20).note is None
    assert "see its note" in str(_information(posterior, 1))
    assert rate(posterior, standard(2)).note is None  # a closed form


def test_a_saturated_information_is_said_to_be_one() -> None:
    mean = torch.randn(100, 2)
    near, far = (
        Account(Draws(product(Normal(mean, scale)), standard(2), num_samples=2, seed=0))
        for scale in (0.5, 0.05)
    )
    for name in ("mutual_information", "marginal_kl"):
        assert "its cap ln N" in getattr(far, name).note
        assert getattr(near, name).note is None
    apart = product(Normal(1000.0 * torch.arange(60.0)[:, None], 1.0))
    assert Account(Draws(apart, seed=0)).mutual_information.note is None  # without any noise


def test_a_value_that_a_few_draws_decide_is_said_to_be_one() -> None:
    account = Account(Draws(product(Normal(torch.randn(100, 2), 1.0)), seed=0))
    values = torch.zeros(1, 100)
    values[0, :2] = 5.0
    found = account.expectation(values + 0.1 * torch.randn(1, 100)).estimate("exact", "")
    assert "a few draws far out decide it" in found.note
    assert account.expectation(torch.randn(1, 100)).estimate("exact", "").note is None


@pytest.mark.parametrize("num_samples", [1, 2, 3, 20])
def test_the_plain_mean_of_heavy_tails_has_a_note(num_samples: int) -> None:
    """Without a mean nearly always; without a variance mostly; with light tails never."""
    notes = [note_on(Cauchy(0.0, 1.0).sample((num_samples, 100))) for _ in range(40)]
    assert sum(each is not None and "far out" in each for each in notes) > 28
    assert all(note_on(torch.randn(num_samples, 100)) is None for _ in range(20))
    assert all(note_on(Exponential(1.0).sample((num_samples, 100))) is None for _ in range(10))


def test_skewed_noise_widens_the_error_to_second_order() -> None:
    noise = Exponential(1.0).sample((1, 50, 20_000))  # as many values of each draw
    account = Account(Draws(product(Normal(torch.zeros(50, 1), 1.0)), seed=0))
    found = account.expectation(noise).estimate("exact", "")
    hits = (found.value - 1).abs() < 1.96 * found.standard_error
    plain = (noise.mean(1) - 1).abs() < 1.96 * noise.std(1) / math.sqrt(50)
    assert plain.double().mean() < 0.935 < 0.938 < hits.double().mean() < 0.96
