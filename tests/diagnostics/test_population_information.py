"""The ceiling of the population's information by marginals that were fitted to other data."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions.transforms import ExpTransform, SigmoidTransform

from pyro_infomax import decompose
from pyro_infomax.diagnostics import Pair
from pyro_infomax.information import Account, Draws
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
    assert "in the population" in account.mutual_information_upper.target
    assert "the training data" in account.mutual_information_upper.target
    assert "new data" in account.prior_gain.target
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
    # of eighty data in eight dimensions a marginal wins less than the marginal KL; under one that was fitted
    # to these very data they would seem to win more
    best = LinearGaussian.optimum(torch.linspace(4.0, 1.0, 8), beta=1.0, latent_dim=8, s2=0.5)
    wide = LinearGaussian(best.S, best.W, best.s2, 2 * best.V, 4 * best.Delta)
    gains = [
        float(account_of(wide, wide.sample(80, seed=seed), ceiling=True).prior_gain) for seed in range(3)
    ]
    assert sum(gains) / len(gains) < float(wide.marginal_kl)


def test_where_the_prior_is_the_marginal_it_is_found():
    oracle = LinearGaussian.optimum([4.0, 2.0], beta=1.0, latent_dim=2, s2=0.5)
    account = account_of(oracle, oracle.sample(200, seed=0), ceiling=True)
    upper = account.mutual_information_upper
    assert abs(float(account.prior_gain)) < 0.02  # of nothing that can be won
    assert "prior" in upper.target
    assert close(upper, oracle.mutual_information)


def test_a_bound_that_is_lower_by_chance_alone_does_not_take_the_place_of_another(skewed):
    # the rate is what leave-one-out is on average for 64 data
    takes = []
    for seed in range(8):
        x = skewed.sample(64, seed=seed)
        torch.manual_seed(seed)
        pair = Pair(skewed.model, skewed.guide, x)
        z = pair.draw(2)[:1]
        torch.manual_seed(seed)  # for the same draws
        account = decompose(skewed.model, skewed.guide, x, ceiling=False, progress=False)
        draws = Draws(pair.posterior, pair.prior(), z=z)
        left_out = float(Account(draws).leave_one_out)
        error = float((draws.log_prior - draws.log_leave_one_out)[0].std()) / math.sqrt(64)
        takes.append(float(account.rate) - left_out > 2 * error)
        expected, name = (left_out, "leave-one-out") if takes[-1] else (float(account.rate), "the prior")
        assert float(account.mutual_information_upper) == pytest.approx(expected, abs=1e-9)
        assert name in account.mutual_information_upper.target
    assert set(takes) == {False, True}


# ---- Data in another order, few of them, and latents of all kinds.


def clustered(shift, scale):
    """Ten clusters far apart: pairs whose latents are data with noise."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(shift + torch.zeros(2, dtype=x.dtype), 10.0 * scale).to_event(1))
            pyro.sample("x", dist.Normal((z - shift) / scale, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(shift + scale * x, scale).to_event(1))

    return model, guide


def clusters(size, seed):
    generator = torch.Generator().manual_seed(seed)
    centres = 10 * torch.randn(10, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    noise = 0.3 * torch.randn(size, 2, generator=generator, dtype=torch.float64)
    return centres[torch.arange(size) * 10 // size] + noise


def test_data_that_are_sorted_are_shuffled():
    # in their order the last fifth of the training data, which weighs the mixtures, were two of ten clusters
    model, guide = clustered(0.0, 1.0)
    account = decompose(
        model, guide, clusters(150, 0), holdout=clusters(100, 1), seed=0, ceiling=True, progress=False
    )
    # ln 10 tells the clusters apart, each of them a Gaussian of variance 0.09 + 1 around posteriors of 1
    information = math.log(10) + math.log(1.09)
    assert float(account.holdout.mutual_information_upper) < information + 0.15
    assert float(account.holdout.prior_gain) > 1


@pytest.mark.parametrize("size", [1, 2, 19])
def test_few_data_have_the_other_bounds(skewed, size):
    x = skewed.sample(size, seed=0)
    account = account_of(skewed, x, ceiling=True)
    assert account.prior_gain is None
    assert f"fitted to {size // 2} data" in account.unavailable["prior_gain"]
    without = account_of(skewed, x, ceiling=False)
    assert float(account.mutual_information_upper) == float(without.mutual_information_upper)
    holdout = account_of(skewed, x[:9], holdout=skewed.sample(30, seed=1), ceiling=True).holdout
    assert "the training data" in holdout.unavailable["prior_gain"]


def test_the_scale_of_the_latents_is_of_no_consequence():
    x = clusters(40, 0)
    found = [
        decompose(*clustered(shift, scale), x, seed=0, ceiling=True, progress=False)
        for shift, scale in ((0.0, 1.0), (1.0, 1e-6), (-5.0, 1e6))
    ]
    for name in ("mutual_information_upper", "prior_gain"):
        values = [float(getattr(each, name)) for each in found]
        assert values == pytest.approx([values[0]] * 3, abs=0.02)


def test_several_sites_of_several_components_are_one_latent(skewed):
    # the same Gaussian pair, whose latents are told as a vector and, in exponentials, as a positive number
    x = skewed.sample(200, seed=0)
    diagonal = LinearGaussian(skewed.S, skewed.W, 1.0, skewed.V, skewed.Delta.diagonal().diag())
    joined = LinearGaussian(
        skewed.S,
        torch.cat([skewed.W, torch.zeros(3, 1)], 1),
        1.0,
        torch.cat([skewed.V, skewed.V[:1] - skewed.V[1:]]),
        torch.cat([skewed.Delta.diagonal(), torch.ones(1)]).diag(),
    )

    def program(is_guide):
        def run(x):
            with pyro.plate("data", len(x)):
                means = x @ joined.V.T if is_guide else torch.zeros(len(x), 3, dtype=x.dtype)
                scale = joined.Delta.diagonal().sqrt() if is_guide else torch.ones(3, dtype=x.dtype)
                first = pyro.sample("first", dist.Normal(means[:, :2], scale[:2]).to_event(1))
                pyro.sample("second", dist.LogNormal(means[:, 2], scale[2]))
                if not is_guide:
                    pyro.sample("x", dist.Normal(first @ diagonal.W.T, 1.0).to_event(1), obs=x)

        return run

    account = decompose(program(False), program(True), x, seed=0, ceiling=True, progress=False)
    assert account.site_names == ("first", "second")
    assert close(account.mutual_information_upper, joined.mutual_information)
    assert close(account.prior_gain, joined.marginal_kl)


def test_draws_at_the_bounds_of_their_support_and_masked_ones_keep_the_other_bounds():
    def program(scale, mask):
        def run(x):
            with pyro.plate("data", len(x)):
                mean = x if scale < 1 else torch.zeros_like(x)
                fn = dist.TransformedDistribution(dist.Normal(60 * mean, scale), [SigmoidTransform()])
                z = pyro.sample("z", fn.mask(mask(x)))
                if scale == 1:
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        return run

    x = torch.randn(60, generator=torch.Generator().manual_seed(0)).abs() + 1
    for mask, reason in ((lambda x: x > 0, "bounds of their support"), (lambda x: x > 1.5, "are masked")):
        account, without = (
            decompose(program(1, mask), program(0.5, mask), x, seed=0, ceiling=each, progress=False)
            for each in (True, False)
        )
        assert account.prior_gain is None
        assert reason in account.unavailable["prior_gain"]
        assert str(account.mutual_information_upper) == str(without.mutual_information_upper)


def test_latents_without_a_covariance_keep_the_other_bounds():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1e200))
            pyro.sample("x", dist.Normal(z / 1e200, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(1e200 * x, 1e200))

    x = torch.randn(60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    account = decompose(model, guide, x, seed=0, ceiling=True, progress=False)
    assert "no finite variance" in account.unavailable["prior_gain"]
    assert account.mutual_information_upper is not None


def test_a_prior_of_each_datum_has_a_ceiling_and_no_gain():
    def model(x, c):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(c, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, c):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(2 * x, 1.0))

    generator = torch.Generator().manual_seed(0)
    x, c = torch.randn(2, 150, generator=generator, dtype=torch.float64)
    account = decompose(model, guide, (x, c), seed=0, ceiling=True, progress=False)
    assert account.prior_gain is None
    assert "depends on the data" in account.unavailable["prior_gain"]
    assert close(account.mutual_information_upper, 0.5 * math.log(5))  # q(z) = N(0, 4 + 1)
    assert "prior" not in account.mutual_information_upper.target


def test_draws_of_global_latents_have_a_marginal_each():
    def model(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(mean + z, 1.0), obs=x)

    def guide(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(mean + 2 * x, 1.0))

    x = torch.randn(100, generator=torch.Generator().manual_seed(0)).double()
    account = decompose(model, guide, x, seed=0, num_global_draws=3, ceiling=True, progress=False)
    # given any value of it q(z) = N(mean, 5); one marginal for all of them would be of variance 105
    assert close(account.mutual_information_upper, 0.5 * math.log(5))
    assert "each draw of the global latents" in account.mutual_information_upper.target
    shift = torch.stack([each["mean"] for each in account.global_draws]).double()
    gains = 0.5 * (shift**2 + 5 - 1 - math.log(5))
    assert close(account.prior_gain, gains.mean())


def test_a_marginal_that_was_worth_fitting_for_some_draws_alone_is_said_to_be_missing():
    def program(is_guide):
        def run(x):
            mean = pyro.sample("mean", dist.Normal(0.0, 0.4)).double()
            with pyro.plate("data", len(x)):
                # q(z) is the prior, moved
                loc, scale = (mean + 0.8775**0.5 * x, 0.35) if is_guide else (torch.zeros_like(x), 1.0)
                z = pyro.sample("z", dist.Normal(loc, scale).to_event(1))
                if not is_guide:
                    pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

        return run

    x = torch.randn(1000, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    account = decompose(program(False), program(True), x, seed=6, num_global_draws=2, progress=False)
    assert sorted(abs(float(each["mean"])) > 0.2 for each in account.global_draws) == [False, True]
    assert account.prior_gain is None
    assert "not there for all draws" in account.unavailable["prior_gain"]


# ---- What does not change.


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


def test_a_ceiling_is_had_or_not(skewed):
    with pytest.raises(ValueError, match="ceiling to be True or False or None but got 'flow'"):
        account_of(skewed, skewed.sample(20, seed=0), ceiling="flow")


def test_a_seed_repeats_the_fit(skewed):
    x = skewed.sample(60, seed=0)
    first, again = (account_of(skewed, x, ceiling=True) for _ in range(2))
    assert float(first.mutual_information_upper) == float(again.mutual_information_upper)
    assert math.isfinite(float(first.mutual_information_upper))
