"""The prior gap against Gaussian closed forms, enumeration on the same draws, and repetition."""

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
    kl_divergence,
)

from pyro_infomax.information import Draws, Estimate, marginal_kl, prior_gap
from pyro_infomax.oracles import LinearGaussian


def standard(latent: int) -> Independent:
    return Independent(Normal(torch.zeros(latent), 1.0), 1)


def free(variances: tuple[float, ...] = (2.0, 1.0, 0.4)) -> LinearGaussian:
    """No optimum; data of other variances have the same encoder and another aggregate."""
    v = torch.tensor([[0.9, 0.5, 0.0], [0.3, -0.6, 0.8]])
    return LinearGaussian(variances, v.T, 0.7, v, [0.4, 0.6])


def encoded(oracle: LinearGaussian, x: Tensor) -> Independent:
    return Independent(Normal(x @ oracle.V.T, oracle.Delta.diagonal().sqrt()), 1)


def held_out_truth(train: LinearGaussian, test: LinearGaussian) -> float:
    """E_test[log N(z; 0, C) − log p(z)] for aggregates that are the populations'."""
    zero = torch.zeros(2)
    q_train, q_test = MultivariateNormal(zero, train.C), MultivariateNormal(zero, test.C)
    return float(
        kl_divergence(q_test, MultivariateNormal(zero, torch.eye(2))) - kl_divergence(q_test, q_train)
    )


def test_the_gap_on_the_training_data_is_the_marginal_kl():
    posterior = encoded(free(), free().sample(300, seed=0))
    gap, divergence = (f(posterior, standard(2), seed=0) for f in (prior_gap, marginal_kl))
    assert float(gap) == float(divergence)
    assert float(gap.standard_error) == float(divergence.standard_error)
    assert "a better prior could win on the training data" in gap.target
    assert "inflated" in gap.target


@pytest.mark.parametrize("num_samples", [1, 4])
def test_the_training_gap_meets_the_closed_form_of_many_data(num_samples):
    oracle = free()
    gap = prior_gap(
        encoded(oracle, oracle.sample(2000, seed=1)), standard(2), num_samples=num_samples, seed=0
    )
    assert abs(float(gap) - float(oracle.marginal_kl)) < 3 * float(gap.population_standard_error)
    assert float(oracle.marginal_kl) > 0.1


# what is held out comes from the same population, from a wider and from a narrower one
@pytest.mark.parametrize(
    ("variances", "sign"), [((2.0, 1.0, 0.4), 1), ((3.0, 1.5, 0.6), 1), ((0.05, 0.05, 0.05), -1)]
)
def test_the_held_out_gap_meets_the_closed_form_of_many_data(variances, sign):
    train, test = free(), free(variances)
    truth = held_out_truth(train, test)
    assert truth * sign > 0.05
    gap = prior_gap(
        encoded(train, train.sample(3000, seed=0)),
        standard(2),
        holdout=encoded(test, test.sample(1500, seed=1)),
        seed=0,
    )
    # the training mixture errs too, by less than its own population error
    own = prior_gap(encoded(train, train.sample(3000, seed=0)), standard(2), seed=0).population_standard_error
    assert abs(float(gap) - truth) < 3 * math.hypot(float(gap.population_standard_error), float(own))
    assert gap.bound == "exact"
    assert "held-out" in gap.target


def test_the_held_out_gap_of_one_population_is_its_training_gap():
    oracle = free()
    assert held_out_truth(oracle, oracle) == pytest.approx(float(oracle.marginal_kl), abs=1e-12)


def log_mixture(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """log q(z) at z (M, d) by scoring each point under each component."""
    return Normal(loc, scale).log_prob(z[:, None]).sum(-1).logsumexp(1) - math.log(len(loc))


@pytest.mark.parametrize("num_samples", [1, 2])
def test_few_draws_are_plain_means(num_samples):
    """Too few for a regression: the mean of log q_train(z) − log p(z), each point under each component."""
    train, test = torch.randn(9, 2), torch.randn(8, 2) + 0.5
    posteriors = [Independent(Normal(loc, 0.4), 1) for loc in (train, test)]
    z = Draws(posteriors[1], standard(2), num_samples=num_samples, seed=3).z
    truth = log_mixture(z.flatten(0, 1), train, torch.tensor(0.4)) - standard(2).log_prob(z.flatten(0, 1))
    gap = prior_gap(posteriors[0], standard(2), holdout=posteriors[1], num_samples=num_samples, seed=3)
    assert float(gap) == pytest.approx(float(truth.mean()), abs=1e-9)


@pytest.mark.parametrize("num_samples", [1, 3])
def test_many_draws_lose_the_noise_that_their_moments_explain(num_samples):
    """The enumerated mixture, corrected by a least-squares fit of its own."""
    train, test = torch.randn(40, 2), 0.7 * torch.randn(200, 2) + 0.5
    scale = torch.tensor([0.4, 0.6])
    posteriors = [Independent(Normal(loc, scale), 1) for loc in (train, test)]
    z = Draws(posteriors[1], standard(2), num_samples=num_samples, seed=3).z
    flat = z.flatten(0, 1)
    y = (log_mixture(flat, train, scale) - standard(2).log_prob(flat)).reshape(num_samples, -1)

    own = Normal(test, scale).log_prob(z)
    c = torch.cat([own, z, z**2], -1)  # (samples, data, covariate)
    entropies = Normal(test, scale).entropy()
    means = torch.cat([-entropies, test, test**2 + scale**2], -1)
    axis = 0 if num_samples > 1 else 1
    left, right = (
        (c - c.mean(axis, keepdim=True)).flatten(0, 1),
        (y - y.mean(axis, keepdim=True)).reshape(-1, 1),
    )
    fit = torch.linalg.lstsq(left, right, driver="gelsd").solution[:, 0]
    truth = y.mean() - (c.mean((0, 1)) - means.mean(0)) @ fit

    gap = prior_gap(posteriors[0], standard(2), holdout=posteriors[1], num_samples=num_samples, seed=3)
    assert float(gap) == pytest.approx(float(truth), abs=1e-9)


def spread_over_error(gaps: list[Estimate], kind: str) -> float:
    errors = torch.stack([getattr(gap, kind) for gap in gaps]).square().mean().sqrt()
    return float(torch.stack([gap.value for gap in gaps]).std() / errors)


@pytest.mark.parametrize("num_samples", [1, 2])
def test_the_errors_are_the_spreads_over_draws_and_over_data(num_samples):
    """40 repetitions know a spread to 11 %; a single draw a datum errs on the safe side."""
    oracle, prior = free(), standard(2)
    train, *tests = (encoded(oracle, oracle.sample(200, seed=seed)) for seed in range(41))
    over_draws = [
        prior_gap(train, prior, holdout=tests[0], num_samples=num_samples, seed=seed) for seed in range(40)
    ]
    assert (0.7 if num_samples > 1 else 0.4) < spread_over_error(over_draws, "standard_error") < 1.3
    over_data = [prior_gap(train, prior, holdout=test, num_samples=num_samples, seed=0) for test in tests]
    assert 0.75 < spread_over_error(over_data, "population_standard_error") < 1.3


def test_held_out_data_far_from_all_others_lose():
    gap = prior_gap(
        Independent(Normal(torch.zeros(50, 1), 0.01), 1),
        standard(1),
        holdout=Independent(Normal(torch.full((20, 1), 1.0), 0.01), 1),
        seed=0,
    )
    assert float(gap) < -1000
    assert gap.value.isfinite()


def test_posteriors_and_priors_of_any_kind():
    prior = MixtureSameFamily(
        Categorical(torch.tensor([0.4, 0.6])),
        Independent(Normal(torch.tensor([[-1.0, 0.0], [1.0, 0.5]]), 1.0), 1),
    )
    train, test = torch.randn(30, 2), torch.randn(20, 2)
    posteriors = [Independent(Laplace(loc, 0.4), 1) for loc in (train, test)]
    z = Draws(posteriors[1], prior, num_samples=2000, seed=0).z
    scores = Laplace(train, 0.4).log_prob(z.flatten(0, 1)[:, None]).sum(-1)
    each = (scores.logsumexp(1) - math.log(30)).reshape(2000, 20) - prior.log_prob(z)
    gap = prior_gap(posteriors[0], prior, holdout=posteriors[1], num_samples=20, seed=1)
    error = math.hypot(float(gap.standard_error), float((each.var(0).sum() / 2000).sqrt()) / 20)
    assert abs(float(gap) - float(each.mean())) < 3.5 * error


def test_a_seed_isolates_the_draws():
    posterior, holdout = (Independent(Normal(torch.randn(20, 2), 0.5), 1) for _ in range(2))
    before = torch.get_rng_state()
    first, second = (float(prior_gap(posterior, standard(2), holdout=holdout, seed=7)) for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), before)


def test_other_latent_dimensions_are_refused():
    posterior, holdout = (Independent(Normal(torch.zeros(5, d), 1.0), 1) for d in (2, 3))
    with pytest.raises(ValueError, match="over the 2 latent dimensions of the training data but got 3"):
        prior_gap(posterior, standard(3), holdout=holdout)
    with pytest.raises(ValueError, match="Expected a prior"):
        prior_gap(posterior, standard(2), holdout=holdout)
    with pytest.raises(ValueError, match="num_samples to be an integer >= 1"):
        prior_gap(posterior, standard(2), holdout=posterior, num_samples=0)
