"""The ceiling of the population's information by marginals that were fitted to other data."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions.transforms import ExpTransform

from pyro_infomax import decompose
from pyro_infomax.oracles import DiscreteVAE, LinearGaussian


@pytest.fixture(scope="module")
def skewed():
    """A pair whose aggregate posterior is a Gaussian far from the prior."""
    best = LinearGaussian.optimum([4.0, 2.0, 1.0], beta=1.0, latent_dim=2, s2=0.2)
    A = torch.tensor([[1.5, 0.5], [0.0, 0.7]], dtype=torch.float64)
    return LinearGaussian(best.S, best.W, best.s2, A @ best.V, A @ best.Delta @ A.T)


def account_of(oracle, x, **options):
    return decompose(oracle.model, oracle.guide, x, seed=0, progress=False, **options)


def close(estimate, expected, errors=4.0):
    return abs(float(estimate) - float(expected)) < errors * float(estimate.population_standard_error)


@pytest.mark.parametrize("seed", range(3))
def test_the_ceiling_is_the_information_where_a_gaussian_is_the_marginal(skewed, seed):
    account = account_of(skewed, skewed.sample(1000, seed=seed), ceiling=True)
    upper = account.mutual_information_upper
    assert upper.bound == "upper"
    assert close(upper, skewed.mutual_information)
    assert float(skewed.rate) - float(upper) > 0.7 * float(skewed.marginal_kl)
    # a Gaussian prior of the right covariance would win all of the marginal KL
    assert account.prior_gain.bound == "lower"
    assert close(account.prior_gain, skewed.marginal_kl)
    assert "prior_gain" in account.to_frame().index


def test_a_holdout_is_evaluated_under_the_marginal_of_the_training_data(skewed):
    x, holdout = skewed.sample(1000, seed=5), skewed.sample(400, seed=6)
    account = account_of(skewed, x, holdout=holdout, ceiling=True).holdout
    assert account.mutual_information_upper.target.endswith("in the population")
    assert close(account.mutual_information_upper, skewed.mutual_information)
    assert close(account.prior_gain, skewed.marginal_kl)


def test_a_map_of_the_latents_changes_nothing(skewed):
    x = skewed.sample(1000, seed=0)

    def program(oracle, name):
        def run(x):
            with pyro.plate("data", len(x)):
                if name == "guide":
                    mean, scale = 1 + x @ oracle.V.T, oracle.Delta.diagonal().sqrt()
                else:
                    mean, scale = torch.ones(2, dtype=x.dtype), 1.0
                fn = dist.TransformedDistribution(dist.Normal(mean, scale), [ExpTransform()]).to_event(1)
                z = pyro.sample("z", fn)
                if name == "model":
                    pyro.sample("x", dist.Normal((z.log() - 1) @ oracle.W.T, 1.0).to_event(1), obs=x)

        return run

    diagonal = LinearGaussian(skewed.S, skewed.W, 1.0, skewed.V, skewed.Delta.diagonal().diag())
    plain = account_of(diagonal, x, ceiling=True)
    mapped = decompose(
        program(diagonal, "model"), program(diagonal, "guide"), x, seed=0, ceiling=True, progress=False
    )
    for name in ("mutual_information_upper", "prior_gain"):
        found, expected = getattr(mapped, name), getattr(plain, name)  # by other draws
        error = math.hypot(float(found.standard_error), float(expected.standard_error))
        assert abs(float(found) - float(expected)) < 4 * error


def test_no_datum_is_scored_by_a_marginal_that_it_was_fitted_to():
    # the prior is the aggregate posterior, which a marginal fitted to forty data can only fall short of; the
    # data that it was fitted to would say the reverse
    eigenvalues = torch.linspace(4.0, 1.0, 8, dtype=torch.float64)
    oracle = LinearGaussian.optimum(eigenvalues, beta=1.0, latent_dim=8, s2=0.5)
    for seed in range(4):
        assert float(account_of(oracle, oracle.sample(80, seed=seed), ceiling=True).prior_gain) < 0


def test_few_data_and_bounds_that_are_close_are_left_as_they_are(skewed):
    few = account_of(skewed, skewed.sample(100, seed=0))
    assert few.prior_gain is None
    assert "prior_gain" not in few.unavailable
    assert "prior_gain" not in str(few)
    never = account_of(skewed, skewed.sample(1000, seed=0), ceiling=False)
    assert never.prior_gain is None


def test_discrete_latents_keep_the_other_bounds():
    oracle = DiscreteVAE.optimal_encoder([0.5, 0.5], [[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]], 1.0)
    x = oracle.sample(50, seed=0)
    account, without = (account_of(oracle, x, ceiling=each) for each in (True, False))
    assert "is discrete" in account.unavailable["prior_gain"]
    assert float(account.mutual_information_upper) == float(without.mutual_information_upper)


def test_a_seed_repeats_the_fit(skewed):
    x = skewed.sample(300, seed=0)
    first, again = (account_of(skewed, x, ceiling=True) for _ in range(2))
    assert float(first.mutual_information_upper) == float(again.mutual_information_upper)
    assert math.isfinite(float(first.mutual_information_upper))
