"""The account against closed forms, enumeration and repetition, on pairs of every kind."""

import math

import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.reparam import LocScaleReparam
from torch import Tensor, nn

from pyro_infomax.diagnostics import Decomposition, Pair, decompose
from pyro_infomax.information import Estimate
from pyro_infomax.nn import MLPDecoder, MLPEncoder
from pyro_infomax.oracles import LinearGaussian
from pyro_infomax.vae import VAE

# --- the linear-Gaussian pair ---


def free(full: bool = False, latent: int = 2) -> LinearGaussian:
    """No optimum: correlated data off the origin, an encoder and a decoder that do not fit each other."""
    generator = torch.Generator().manual_seed(3)
    root, w = (torch.randn(3, n, generator=generator) for n in (3, latent))
    v, spread = (torch.randn(latent, n, generator=generator) for n in (3, latent))
    delta = spread @ spread.T / 5 + 0.2 * torch.eye(latent)
    s = root @ root.T / 3 + 0.3 * torch.eye(3)
    return LinearGaussian(s, w, 0.7, 0.6 * v, delta if full else delta.diagonal(), mu=[1.0, -2.0, 0.5])


def best() -> LinearGaussian:
    return LinearGaussian.optimum([4.0, 2.0, 0.3], beta=1.0, latent_dim=3, s2=0.5)


def under_regularised() -> LinearGaussian:
    """A long way from the prior: wide, correlated means and narrow posteriors."""
    v = torch.tensor([[1.0, 0.4, 0.0], [0.8, -0.3, 0.5]])
    return LinearGaussian([2.0, 1.0, 0.5], v.T, 0.4, v, [0.05, 0.1])


CLOSED = ("distortion", "rate", "elbo", "marginal_kl", "total_correlation", "dimensionwise_kl")


def assert_population(account: Decomposition, oracle: LinearGaussian) -> None:
    for name in CLOSED:
        found: Estimate = getattr(account, name)
        assert found.population_standard_error is not None
        off = (found.value - getattr(oracle, name)).abs()
        # a collapsed dimension is known to rounding
        assert (off <= 3 * found.population_standard_error + 1e-12).all(), (name, off)
    # What each latent tells by itself, less what all of them do
    aggregate = oracle.V @ oracle.S @ oracle.V.T + oracle.Delta
    each = (aggregate.diagonal() / oracle.Delta.diagonal()).log() / 2
    off = abs(account.redundancy.value - (each.sum() - oracle.mutual_information))
    assert off <= 3 * account.redundancy.population_standard_error + 1e-12
    low, high, truth = (
        account.mutual_information_lower,
        account.mutual_information_upper,
        oracle.mutual_information,
    )
    assert float(low) - 3 * float(low.population_standard_error) <= truth
    assert truth <= float(high) + 3 * float(high.population_standard_error)


@pytest.mark.parametrize(("make", "seed"), [(free, 0), (best, 1), (under_regularised, 0)])
def test_every_closed_form_is_met(make, seed: int) -> None:
    oracle = make()
    account = decompose(oracle.model, oracle.guide, oracle.sample(5000, seed=seed), seed=seed)
    assert_population(account, oracle)


def test_every_closed_form_is_met_with_full_covariance() -> None:
    oracle = free(full=True)
    account = decompose(oracle.model, oracle.guide, oracle.sample(5000, seed=0), seed=0)
    assert_population(account, oracle)
    assert account.dimensionwise_rate is None
    assert account.prior_dependence is None
    within = 0.5 * (oracle.Delta.diagonal().log().sum() - torch.logdet(oracle.Delta))
    assert within > 0.01
    torch.testing.assert_close(account.conditional_total_correlation.value, within, rtol=0, atol=1e-9)


def test_the_oracles_have_something_to_find() -> None:
    """Else the test above could not tell an estimate of zero from one that is always zero."""
    for oracle in (free(), free(full=True), under_regularised()):
        assert min(oracle.total_correlation, oracle.marginal_kl, oracle.mutual_information) > 0.05
        assert oracle.dimensionwise_kl.max() > 0.02


# --- full enumeration of the mixture, on the same draws ---


def log_normal(z: Tensor, loc: Tensor, covariance: Tensor) -> Tensor:
    """log N(z_m; loc_n, covariance), (M, N)."""
    difference = z[:, None] - loc[None]
    square = torch.einsum("mni,ij,mnj->mn", difference, torch.linalg.inv(covariance), difference)
    return -0.5 * (square + torch.logdet(2 * math.pi * covariance))


def mixture(scores: Tensor) -> Tensor:
    return scores.logsumexp(1) - math.log(scores.shape[1])


def corrected(y: Tensor, covariates: Tensor, exact: Tensor) -> Tensor:
    """The mean of y (samples, data) without the noise that covariates (samples, data, k) explain."""
    axis = 0 if len(y) > 1 else 1
    centred = covariates - covariates.mean(axis, keepdim=True)
    left = (y - y.mean(axis, keepdim=True)).reshape(-1, 1)
    fit = torch.linalg.lstsq(centred.flatten(0, 1), left, driver="gelsd").solution[:, 0]
    return y.mean() - (covariates.mean((0, 1)) - exact.mean(0)) @ fit


def enumerated(
    oracle: LinearGaussian, x: Tensor, z: Tensor, *, training: Tensor | None = None
) -> dict[str, Tensor]:
    """Every quantity of (samples, data, latent) draws by scoring each draw under each datum.

    The prior gap is that of the data's own mixture, or of the one of training data.
    """
    samples, size, latent = z.shape
    loc, flat = (x - oracle.mu) @ oracle.V.T, z.flatten(0, 1)
    own = torch.arange(size).repeat(samples)
    variances = oracle.Delta.diagonal()
    joint = log_normal(flat, loc, oracle.Delta)
    each = [log_normal(flat[:, [j]], loc[:, [j]], variances[j].reshape(1, 1)) for j in range(latent)]
    rows = range(len(flat))
    own_joint, own_each = joint[rows, own], torch.stack([scores[rows, own] for scores in each], -1)
    others = joint.clone()
    others[rows, own] = -math.inf
    left_out = others.logsumexp(1) - math.log(size - 1)

    entropy = 0.5 * torch.logdet(2 * math.pi * math.e * oracle.Delta)
    entropies = 0.5 * torch.log(2 * math.pi * math.e * variances)
    centre = loc.mean(0)
    covariates = torch.cat([own_joint[:, None], own_each, flat - centre, (flat - centre) ** 2], -1)
    means = torch.cat([-entropy.reshape(1), -entropies]).expand(size, -1)
    means = torch.cat([means, loc - centre, (loc - centre) ** 2 + variances], -1)

    def expectation(y: Tensor) -> Tensor:
        return corrected(y.reshape(samples, size), covariates.reshape(samples, size, -1), means)

    log_q = expectation(mixture(joint) - own_joint) - entropy
    log_q_each = (
        torch.stack([expectation(mixture(each[j]) - own_each[:, j]) for j in range(latent)]) - entropies
    )
    train_loc = loc if training is None else (training - oracle.mu) @ oracle.V.T
    log_train = mixture(log_normal(flat, train_loc, oracle.Delta))
    log_p = -0.5 * (math.log(2 * math.pi) + flat**2).sum(-1)
    second = loc**2 + variances
    log_p_each = (-0.5 * (math.log(2 * math.pi) + second)).mean(0)
    return {
        "rate": -entropy - log_p_each.sum(),
        "mutual_information": -entropy - log_q,
        "leave_one_out": -entropy - (expectation(left_out - own_joint) - entropy),
        "marginal_kl": log_q - log_p_each.sum(),
        "prior_gap": expectation(log_train - log_p),
        "total_correlation": log_q - log_q_each.sum(),
        "dimensionwise_kl": log_q_each - log_p_each,
    }


ENUMERATED = (
    "rate",
    "mutual_information",
    "marginal_kl",
    "prior_gap",
    "total_correlation",
    "dimensionwise_kl",
)


@pytest.mark.parametrize(("full", "num_samples"), [(False, 3), (True, 1)])
def test_the_mixture_is_enumerated_in_full(full: bool, num_samples: int) -> None:
    oracle = free(full=full)
    x = oracle.sample(300, seed=0)
    state = torch.get_rng_state()
    z = Pair(oracle.model, oracle.guide, x).draw(max(2, num_samples))
    torch.set_rng_state(state)  # for the same draws
    account = decompose(oracle.model, oracle.guide, x, num_samples=num_samples)
    truth = enumerated(oracle, x, z[:num_samples])
    for name in ENUMERATED:
        torch.testing.assert_close(getattr(account, name).value, truth[name], rtol=0, atol=1e-9, msg=name)
    upper = min(truth["rate"], truth["leave_one_out"])
    torch.testing.assert_close(account.mutual_information_upper.value, upper, rtol=0, atol=1e-9)
    error = ((x - oracle.mu - z @ oracle.W.T) ** 2).sum(-1) / oracle.s2
    distortion = 0.5 * (error + 3 * torch.log(2 * math.pi * oracle.s2)).mean()
    torch.testing.assert_close(account.distortion.value, distortion, rtol=0, atol=1e-9)
    torch.testing.assert_close(account.elbo.value, -distortion - truth["rate"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("num_samples", [1, 3])
def test_held_out_data_are_enumerated_under_their_own_mixture(num_samples: int) -> None:
    """All but the prior gap, which takes the mixture of the training data."""
    oracle = free()
    x, held = oracle.sample(250, seed=0), 1.5 * oracle.sample(200, seed=1)
    state = torch.get_rng_state()
    drawn = [Pair(oracle.model, oracle.guide, each).draw(max(2, num_samples)) for each in (x, held)]
    torch.set_rng_state(state)  # for the same draws
    account = decompose(oracle.model, oracle.guide, x, num_samples=num_samples, holdout=held)
    assert account.holdout is not None
    training = enumerated(oracle, x, drawn[0][:num_samples])
    holdout = enumerated(oracle, held, drawn[1][:num_samples], training=x)
    assert abs(float(holdout["prior_gap"] - holdout["marginal_kl"])) > 0.01
    for name in ENUMERATED:
        torch.testing.assert_close(getattr(account, name).value, training[name], rtol=0, atol=1e-9, msg=name)
        torch.testing.assert_close(
            getattr(account.holdout, name).value, holdout[name], rtol=0, atol=1e-9, msg=name
        )


# --- standard errors ---


def values(accounts: list[Decomposition], name: str) -> Tensor:
    return torch.stack([getattr(each, name).value for each in accounts])


def mean_error(accounts: list[Decomposition], name: str, kind: str) -> Tensor:
    return torch.stack([getattr(getattr(each, name), kind) for each in accounts]).square().mean(0).sqrt()


DRAWN = ("distortion", "elbo", "mutual_information", "marginal_kl", "total_correlation", "dimensionwise_kl")


@pytest.mark.parametrize("num_samples", [1, 3])
def test_the_standard_error_is_the_spread_over_draws(num_samples: int) -> None:
    oracle = free()
    x = oracle.sample(80, seed=0)
    accounts = [
        decompose(oracle.model, oracle.guide, x, num_samples=num_samples, seed=seed) for seed in range(100)
    ]
    for name in DRAWN:
        ratio = values(accounts, name).std(0) / mean_error(accounts, name, "standard_error")
        # 100 repetitions know a spread to 7 %; the jackknife of few data errs on the safe side, and more so
        # with a single draw a datum
        assert (ratio < 1.25).all(), (name, ratio)
        assert (ratio > (0.7 if num_samples > 1 or name in ("distortion", "elbo") else 0.5)).all(), (
            name,
            ratio,
        )
    assert (values(accounts, "rate") == values(accounts, "rate")[0]).all()
    assert mean_error(accounts, "rate", "standard_error") == 0


def test_the_population_standard_error_is_the_spread_over_data() -> None:
    oracle = free()
    accounts = [
        decompose(oracle.model, oracle.guide, oracle.sample(80, seed=seed), seed=seed) for seed in range(100)
    ]
    for name in (*DRAWN, "rate"):
        error = mean_error(accounts, name, "population_standard_error")
        ratio = values(accounts, name).std(0) / error
        assert (ratio < 1.25).all(), (name, ratio)
        off = (values(accounts, name) - getattr(oracle, name)).square().mean(0).sqrt()
        if name != "mutual_information":  # bounded by the sandwich, not estimated
            assert (off < 1.25 * error).all(), (name, off / error)
    for name in ("distortion", "rate", "elbo"):
        ratio = values(accounts, name).std(0) / mean_error(accounts, name, "population_standard_error")
        assert ratio > 0.8, name


@pytest.mark.parametrize("seed", range(3))
def test_the_population_standard_error_is_never_the_smaller(seed: int) -> None:
    oracle = free()
    x = oracle.sample(1, seed=0).repeat(30, 1)  # no spread over data but by the draws
    for name, found in decompose(oracle.model, oracle.guide, x, seed=seed).estimates():
        population = found.population_standard_error
        assert population is None or population >= found.standard_error, name


def test_data_of_the_same_seed_do_not_lend_their_noise_to_the_draws() -> None:
    """Else z − E[z|x] would be the very noise of x, and the distortion off by many standard errors."""
    oracle = LinearGaussian(torch.ones(4), torch.eye(4), 1.0, torch.zeros(4, 4), torch.ones(4))
    torch.manual_seed(0)
    account = decompose(oracle.model, oracle.guide, torch.randn(500, 4), seed=0)
    off = float(account.distortion) - float(oracle.distortion)
    assert abs(off) < 4 * float(account.distortion.population_standard_error)


# --- pairs of every kind ---


def sequential_model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z1 = pyro.sample("z1", dist.Normal(0.0, 1.0))
        z2 = pyro.sample("z2", dist.Normal(0.6 * z1, 0.8))
        pyro.sample("x", dist.Normal(z1 + z2, 0.5), obs=x)


def sequential_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z2 = pyro.sample("z2", dist.Normal(0.5 * x, 0.6))
        pyro.sample("z1", dist.Normal(0.4 * x - 0.3 * z2, 0.5))


def independent_model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        shape = pyro.sample("shape", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        size = pyro.sample("size", dist.Normal(0.5, 2.0))
        pyro.sample("x", dist.Normal(shape.sum(-1) + size, 0.5), obs=x)


def independent_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("size", dist.Normal(0.3 * x, 0.7))
        pyro.sample("shape", dist.Normal(torch.stack([0.3 * x, -0.1 * x], -1), 0.5).to_event(1))


def bits_model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Bernoulli(torch.tensor([0.5, 0.3])).to_event(1))
        pyro.sample("x", dist.Normal(z @ torch.tensor([1.0, -2.0]), 0.5), obs=x)


def bits_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Bernoulli(logits=torch.stack([2 * x, -x], -1)).to_event(1))


def classes_model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.3, 0.2])))
        pyro.sample("x", dist.Normal(torch.tensor([-1.0, 0.0, 1.0])[z], 0.5), obs=x)


def classes_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Categorical(logits=torch.stack([-2 * x, torch.zeros_like(x), 2 * x], -1)))


def clusters() -> dist.MixtureSameFamily:
    """A prior whose dimensions depend on each other."""
    centres = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    return dist.MixtureSameFamily(
        dist.Categorical(torch.tensor([0.4, 0.6])), dist.Normal(centres, 0.7).to_event(1)
    )


def mixture_model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", clusters())
        pyro.sample("x", dist.Normal(z.sum(-1), 0.5), obs=x)


def mixture_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.stack([0.4 * x, 0.3 * x], -1), 0.4).to_event(1))


def conditional_model(x: Tensor, c: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(c, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def conditional_guide(x: Tensor, c: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.7 * x + 0.3 * c, 0.4))


def covariate_model(x: Tensor, c: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z + c, 0.5), obs=x)


def covariate_guide(x: Tensor, c: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.8 * (x - c), 0.45))


def subsampling_model(x: Tensor) -> None:
    with pyro.plate("data", len(x), subsample_size=40) as rows:
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1), 0.5), obs=x[rows])


def subsampling_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x), subsample_size=40) as rows:
        loc = torch.stack([0.4 * x[rows], 0.3 * x[rows]], -1)
        pyro.sample("z", dist.Normal(loc, 0.4).to_event(1))


def full_model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1), 0.5), obs=x)


PAIRS = {
    "dependent sites": (sequential_model, sequential_guide),
    "independent sites": (independent_model, independent_guide),
    "bits": (bits_model, bits_guide),
    "classes": (classes_model, classes_guide),
    "mixture prior": (mixture_model, mixture_guide),
    "subsampling": (subsampling_model, subsampling_guide),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("num_samples", [1, 5])
def test_the_identities_hold_on_reported_values(pair: str, num_samples: int) -> None:
    account = decompose(*PAIRS[pair], torch.randn(150), num_samples=num_samples, seed=0)
    assert_identities(account)


def assert_identities(account: Decomposition) -> None:
    assert account.marginal_kl is not None
    sides = [
        (account.elbo.value, -account.distortion.value - account.rate.value),
        (account.rate.value, account.mutual_information.value + account.marginal_kl.value),
    ]
    if account.decoder_gap is not None:
        pieces = account.distortion.value - account.data_entropy.value + account.mutual_information.value
        sides.append((account.decoder_gap.value, pieces))
    if account.dimensionwise_rate is not None:
        each = (account.dimensionwise_rate.value - account.dimensionwise_kl.value).sum()
        within = account.conditional_total_correlation.value
        information = account.mutual_information.value
        sides.append((account.total_correlation.value - within, each - information))
    if account.dimensionwise_kl is not None:
        assert account.total_correlation is not None
        parts = account.total_correlation.value + account.dimensionwise_kl.value.sum()
        if account.prior_dependence is not None:
            parts = parts + account.prior_dependence.value
        sides.append((account.marginal_kl.value, parts))
    for left, right in sides:
        torch.testing.assert_close(left, right, rtol=0, atol=1e-12)


def bits_exactly(x: Tensor) -> dict[str, Tensor]:
    """Every term of the bits by the sum over their four states."""
    states = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    q = torch.sigmoid(torch.stack([2 * x, -x], -1))  # (data, latent)
    p, w = torch.tensor([0.5, 0.3]), torch.tensor([1.0, -2.0])
    each = torch.where(states[:, None] == 1, q, 1 - q)  # (state, data, latent)
    joint, prior = each.prod(-1), torch.where(states == 1, p, 1 - p).prod(-1)
    aggregate, marginals = joint.mean(1), q.mean(0)
    log_likelihood = dist.Normal((states @ w)[:, None], 0.5).log_prob(x)
    product = torch.where(states == 1, marginals, 1 - marginals).prod(-1)
    dimensions = torch.stack([marginals, 1 - marginals]), torch.stack([p, 1 - p])
    distortion = -(joint * log_likelihood).sum(0).mean()
    rate = (joint * (joint / prior[:, None]).log()).sum(0).mean()
    return {
        "distortion": distortion,
        "rate": rate,
        "elbo": -distortion - rate,
        "mutual_information": (joint * (joint / aggregate[:, None]).log()).sum(0).mean(),
        "marginal_kl": (aggregate * (aggregate / prior).log()).sum(),
        "total_correlation": (aggregate * (aggregate / product).log()).sum(),
        "dimensionwise_kl": (dimensions[0] * (dimensions[0] / dimensions[1]).log()).sum(0),
    }


@pytest.mark.parametrize("num_samples", [1, 5])
def test_discrete_latents_meet_the_sum_over_their_states(num_samples: int) -> None:
    x = torch.randn(400)
    account = decompose(bits_model, bits_guide, x, num_samples=num_samples, seed=1)
    for name, truth in bits_exactly(x).items():
        found = getattr(account, name)
        assert ((found.value - truth).abs() <= 3.5 * found.standard_error + 1e-12).all(), name
    assert account.active_units == 2


def test_a_scalar_class_meets_the_sum_over_its_states() -> None:
    x = torch.randn(400)
    q = torch.stack([-2 * x, torch.zeros_like(x), 2 * x], -1).softmax(-1)  # (data, state)
    aggregate = q.mean(0)
    account = decompose(classes_model, classes_guide, x, num_samples=3, seed=1)
    information = (q * (q / aggregate).log()).sum(-1).mean()
    kl = (aggregate * (aggregate / torch.tensor([0.5, 0.3, 0.2])).log()).sum()
    for found, truth in ((account.mutual_information, information), (account.marginal_kl, kl)):
        assert abs(float(found) - float(truth)) <= 3.5 * float(found.standard_error)
    assert account.active_units is None
    assert "moments" in account.unavailable["active_units"]


@pytest.mark.parametrize("num_samples", [1, 4])
def test_dependent_sites_are_plain_means_over_the_draws(num_samples: int) -> None:
    x = torch.randn(120)
    state = torch.get_rng_state()
    z = Pair(sequential_model, sequential_guide, x).draw(max(2, num_samples))  # (samples, data, latent)
    torch.set_rng_state(state)  # for the same draws
    account = decompose(sequential_model, sequential_guide, x, num_samples=num_samples)
    assert account.latent_names == ("z2", "z1")

    z2, z1 = z[..., 0], z[..., 1]
    likelihood = dist.Normal(z1 + z2, 0.5).log_prob(x)
    torch.testing.assert_close(account.distortion.value, -likelihood.mean(), rtol=0, atol=1e-9)

    z2, z1 = z2[:num_samples, :, None], z1[:num_samples, :, None]
    scores = dist.Normal(0.5 * x, 0.6).log_prob(z2) + dist.Normal(0.4 * x - 0.3 * z2, 0.5).log_prob(z1)
    prior = (dist.Normal(0.0, 1.0).log_prob(z1) + dist.Normal(0.6 * z1, 0.8).log_prob(z2))[..., 0]
    own, aggregate = scores.diagonal(dim1=1, dim2=2), scores.logsumexp(-1) - math.log(120)
    for found, truth in (
        (account.rate, own - prior),
        (account.mutual_information, own - aggregate),
        (account.marginal_kl, aggregate - prior),
    ):
        torch.testing.assert_close(found.value, truth.mean(), rtol=0, atol=1e-9)
    assert account.total_correlation is None
    assert account.dimensionwise_kl is None
    assert set(account.unavailable) >= {"total_correlation", "dimensionwise_kl"}
    assert "not available: " in str(account)


def test_independent_sites_stand_in_the_order_of_the_guide() -> None:
    x = torch.randn(200)
    account = decompose(independent_model, independent_guide, x, seed=0)
    assert account.latent_names == ("size", "shape[0]", "shape[1]")
    loc, scale = torch.stack([0.3 * x, 0.3 * x, -0.1 * x], -1), torch.tensor([0.7, 0.5, 0.5])
    prior = dist.Normal(torch.tensor([0.5, 0.0, 0.0]), torch.tensor([2.0, 1.0, 1.0]))
    rates = torch.distributions.kl_divergence(dist.Normal(loc, scale), prior).mean(0)
    torch.testing.assert_close(account.dimensionwise_rate.value, rates)
    torch.testing.assert_close(account.rate.value, rates.sum())
    assert account.rate.standard_error == 0


def test_a_prior_that_is_no_product_adds_its_own_dependence() -> None:
    x = torch.randn(200)
    account = decompose(mixture_model, mixture_guide, x, num_samples=5, seed=0)
    z = Pair(mixture_model, mixture_guide, x).draw(4000)
    weights = torch.tensor([0.4, 0.6]).log()
    each = dist.Normal(torch.tensor([-1.0, 1.0]), 0.7).log_prob(z[..., None])  # (…, latent, component)
    gap = (each + weights).logsumexp(-1).sum(-1) - clusters().log_prob(z)
    error = torch.hypot(account.prior_dependence.standard_error, (gap.var(0).sum() / 4000).sqrt() / 200)
    assert abs(float(account.prior_dependence)) > 0.05
    assert abs(float(account.prior_dependence) - float(gap.mean())) < 3.5 * error
    assert account.dimensionwise_rate is None


def test_the_elbo_of_a_sampled_rate_knows_its_error() -> None:
    x = torch.randn(60)
    accounts = [decompose(mixture_model, mixture_guide, x, seed=seed) for seed in range(60)]
    ratio = values(accounts, "elbo").std() / mean_error(accounts, "elbo", "standard_error")
    assert 0.5 < ratio < 1.25  # at most the sum of the two errors, whatever they share


def test_a_prior_that_depends_on_data_leaves_rate_and_elbo() -> None:
    x, c = torch.randn(300), torch.randn(300)
    account = decompose(conditional_model, conditional_guide, (x, c), seed=0)
    loc = 0.7 * x + 0.3 * c
    rate = (0.5 * ((loc - c) ** 2 + 0.16 - 1) - math.log(0.4)).mean()
    distortion = (0.5 * ((x - loc) ** 2 + 0.16) / 0.25 + 0.5 * math.log(2 * math.pi * 0.25)).mean()
    torch.testing.assert_close(account.rate.value, rate)
    assert float(account.rate.standard_error) == 0
    assert abs(float(account.elbo) + float(rate + distortion)) < 3.5 * float(account.elbo.standard_error)
    for name in ("marginal_kl", "dimensionwise_kl", "prior_dependence", "dimensionwise_rate"):
        assert getattr(account, name) is None
        assert "the prior depends on the data" in account.unavailable[name]
    assert float(account.total_correlation) == pytest.approx(0, abs=1e-12)


def test_a_rate_against_a_prior_of_each_datum_is_no_bound_on_the_information() -> None:
    """A guide that repeats such a prior has rate 0 and may hold any information."""

    def model(c: Tensor) -> None:
        with pyro.plate("data", len(c)):
            z = pyro.sample("z", dist.Normal(c, 0.1))
            pyro.sample("c", dist.Normal(z, 1.0), obs=c)

    def guide(c: Tensor) -> None:
        with pyro.plate("data", len(c)):
            pyro.sample("z", dist.Normal(c, 0.1))

    account = decompose(model, guide, torch.randn(300), seed=0)
    assert float(account.rate) == pytest.approx(0, abs=1e-12)
    assert float(account.mutual_information_upper) >= float(account.mutual_information_lower) > 1


def test_covariates_travel_along() -> None:
    c = torch.randn(2000) * 5
    x = c + torch.randn(2000) * math.sqrt(1.25)
    account = decompose(covariate_model, covariate_guide, (x, c), seed=0)
    oracle = LinearGaussian([1.25], [[1.0]], 0.25, [[0.8]], [0.45**2])
    assert_population(account, oracle)


def test_subsampling_leaves_every_term_unscaled() -> None:
    """Whole data, in pieces of the plate, the last of which overlaps."""
    x = torch.randn(150)
    subsampled = decompose(subsampling_model, subsampling_guide, x, num_samples=4, seed=0)
    whole = decompose(full_model, mixture_guide, x, num_samples=4, seed=0)
    for (name, found), (_, truth) in zip(subsampled.estimates(), whole.estimates(), strict=True):
        torch.testing.assert_close(found.value, truth.value, msg=name)
    assert subsampled.data_size == 150


def test_a_scale_counts_for_nothing() -> None:
    x = torch.randn(100)
    scaled = decompose(pyro.poutine.scale(full_model, 7.0), pyro.poutine.scale(mixture_guide, 7.0), x, seed=0)
    plain = decompose(full_model, mixture_guide, x, seed=0)
    assert scaled.to_frame().equals(plain.to_frame())


def test_the_data_plate_can_be_named() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("pixels", 12, dim=-1), pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("pixels", 12, dim=-1), pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(0.5 * x, 0.7))

    x = torch.randn(12, 12)
    account = decompose(model, guide, x, data_plate="data", seed=0)
    assert account.latent_names == tuple(f"z[{i}]" for i in range(12))
    rates = 0.5 * ((0.5 * x) ** 2 + 0.49 - 1) - math.log(0.7)
    torch.testing.assert_close(account.dimensionwise_rate.value, rates.mean(0))


def test_the_batch_size_does_not_matter() -> None:
    x = torch.randn(150)
    few, many = (decompose(full_model, mixture_guide, x, batch_size=n, seed=0) for n in (16, 1024))
    pd.testing.assert_frame_equal(few.to_frame(), many.to_frame(), rtol=1e-12)


# --- discrete data ---


def coded_model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Bernoulli(torch.tensor([0.5, 0.3])).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=z @ CODE - 0.5).to_event(1), obs=x)


def coded_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Bernoulli(logits=1.5 * x @ CODE.T - 0.3).to_event(1))


CODE = torch.tensor([[1.0, -2.0, 0.5], [0.3, 1.0, -1.0]], dtype=torch.float64)
STATES = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)


def coded_exactly(x: Tensor) -> dict[str, Tensor]:
    """Entropy, distortion, information and decoder gap by the sum over values and states."""
    values, counts = x.unique(dim=0, return_counts=True)
    shares = counts / len(x)  # (value,)
    posterior = dist.Bernoulli(logits=1.5 * values @ CODE.T - 0.3).to_event(1)
    q = posterior.log_prob(STATES[:, None]).exp()  # (state, value)
    log_p = dist.Bernoulli(logits=STATES @ CODE - 0.5).to_event(1).log_prob(values[:, None]).T
    aggregate = q @ shares  # (state,)
    inverted = q * shares / aggregate[:, None]  # q(x|z), (state, value)
    return {
        "data_entropy": -(shares * shares.log()).sum(),
        "distortion": -(q * shares * log_p).sum(),
        "mutual_information": (q * shares * (q / aggregate[:, None]).log()).sum(),
        "decoder_gap": (aggregate[:, None] * inverted * (inverted.log() - log_p)).sum(),
    }


@pytest.mark.parametrize("num_samples", [1, 5])
def test_the_decoder_gap_meets_the_sum_over_values_and_states(num_samples: int) -> None:
    x = (torch.rand(300, 3) < torch.tensor([0.3, 0.5, 0.8])).double()
    account = decompose(coded_model, coded_guide, x, num_samples=num_samples, seed=1)
    truth = coded_exactly(x)
    assert truth["data_entropy"] < math.log(8)
    assert truth["decoder_gap"] > 0.05
    for name, value in truth.items():
        found: Estimate = getattr(account, name)
        assert abs(float(found) - float(value)) <= 3.5 * float(found.standard_error) + 1e-12, name
    joint = account.distortion.value + account.rate.value - account.data_entropy.value
    torch.testing.assert_close(joint, account.marginal_kl.value + account.decoder_gap.value)
    assert_identities(account)


def test_the_error_of_the_decoder_gap_is_no_less_than_its_spread() -> None:
    x = (torch.rand(100, 3) < 0.5).double()
    accounts = [decompose(coded_model, coded_guide, x, num_samples=2, seed=seed) for seed in range(60)]
    ratio = values(accounts, "decoder_gap").std() / mean_error(accounts, "decoder_gap", "standard_error")
    assert 0.4 < ratio < 1.2  # at most the sum of two errors, whatever they share
    assert accounts[0].decoder_gap.population_standard_error is None


def test_densities_have_no_decoder_gap() -> None:
    oracle = free()
    account = decompose(oracle.model, oracle.guide, oracle.sample(50, seed=0), seed=0)
    assert account.decoder_gap is None
    assert account.data_entropy is None
    assert "densities" in account.unavailable["decoder_gap"]
    assert account.unavailable["data_entropy"] == account.unavailable["decoder_gap"]


# --- held-out data ---


def test_a_holdout_leaves_the_training_account_as_it_is() -> None:
    oracle = free()
    x = oracle.sample(100, seed=0)
    alone = decompose(oracle.model, oracle.guide, x, seed=0)
    account = decompose(oracle.model, oracle.guide, x, seed=0, holdout=oracle.sample(40, seed=1))
    assert alone.holdout is None
    pd.testing.assert_frame_equal(account.to_frame()[alone.to_frame().columns], alone.to_frame())


def test_both_accounts_keep_the_identities() -> None:
    oracle = free()
    x, held = oracle.sample(100, seed=0), oracle.sample(40, seed=1)
    account = decompose(oracle.model, oracle.guide, x, num_samples=2, seed=0, holdout=held)
    assert account.prior_gap.value == account.marginal_kl.value
    assert (account.data_size, account.holdout.data_size) == (100, 40)
    assert account.holdout.holdout is None
    for each in (account, account.holdout):
        assert_identities(each)


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_the_held_out_closed_forms_are_met(scale: float) -> None:
    """Held-out data that are narrower than the training data have other nats, the prior gap across both."""
    oracle = under_regularised()
    other = LinearGaussian(scale**2 * oracle.S, oracle.W, oracle.s2, oracle.V, oracle.Delta)
    x, held = oracle.sample(3000, seed=0), other.sample(2000, seed=1)
    account = decompose(oracle.model, oracle.guide, x, seed=0, holdout=held)
    assert_population(account.holdout, other)
    train, test, unit = (
        dist.MultivariateNormal(torch.zeros(2), c) for c in (oracle.C, other.C, torch.eye(2))
    )
    kl = torch.distributions.kl_divergence
    truth = kl(test, unit) - kl(test, train)
    assert truth * (scale - 0.5) > 0.02  # the mixture of wide data costs narrow ones
    gap = account.holdout.prior_gap
    # the mixture is that of finitely many training data, too
    error = math.hypot(gap.population_standard_error, account.prior_gap.population_standard_error)
    assert abs(float(gap) - float(truth)) < 3 * error


def test_each_account_has_the_ceiling_of_its_own_data() -> None:
    oracle = LinearGaussian([1.0], [[1.0]], 0.1, [[1.0]], [1e-3])
    x, held = oracle.sample(2000, seed=0), oracle.sample(15, seed=1)
    account = decompose(oracle.model, oracle.guide, x, seed=0, holdout=held)
    assert not account.saturated
    assert account.holdout.saturated
    assert float(account.holdout.mutual_information) <= math.log(15)
    lines = account.table().splitlines()
    assert not any(line.startswith("training data: saturated") for line in lines)
    assert any(
        line.startswith("held-out data: saturated") and f"{math.log(15):.4f}" in line for line in lines
    )


def test_a_prior_that_depends_on_data_has_no_gap_on_either_side() -> None:
    pairs = [(torch.randn(60), torch.randn(60)) for _ in range(2)]
    account = decompose(conditional_model, conditional_guide, pairs[0], seed=0, holdout=pairs[1])
    for each in (account, account.holdout):
        assert each.prior_gap is None
        assert "depends on the data" in each.unavailable["prior_gap"]


def test_dependent_sites_have_a_held_out_prior_gap() -> None:
    x, held = torch.randn(60), torch.randn(40)
    state = torch.get_rng_state()
    account = decompose(sequential_model, sequential_guide, x, num_samples=4, holdout=held)
    torch.set_rng_state(state)  # for the same draws
    Pair(sequential_model, sequential_guide, x).draw(4)
    z = Pair(sequential_model, sequential_guide, held).draw(4)  # (samples, data, latent)
    z2, z1 = z[..., 0, None], z[..., 1, None]
    scores = dist.Normal(0.5 * x, 0.6).log_prob(z2) + dist.Normal(0.4 * x - 0.3 * z2, 0.5).log_prob(z1)
    prior = (dist.Normal(0.0, 1.0).log_prob(z1) + dist.Normal(0.6 * z1, 0.8).log_prob(z2))[..., 0]
    truth = (scores.logsumexp(-1) - math.log(60) - prior).mean()
    torch.testing.assert_close(account.holdout.prior_gap.value, truth, rtol=0, atol=1e-9)


def test_both_accounts_are_printed_side_by_side() -> None:
    oracle = free()
    x, held = oracle.sample(300, seed=0), oracle.sample(50, seed=1)
    text = decompose(oracle.model, oracle.guide, x, seed=0, holdout=held).table()
    heading, columns, first, *_ = text.splitlines()
    assert heading.split() == ["training", "data", "held-out", "data"]
    assert columns.split().count("value") == 2
    assert len(first.split()) == 8
    assert text.count("densities have no decoder gap") == 1
    assert {
        "training data: 2 active of 2 latent dimensions, 300 data (ln N = 5.7038)",
        "held-out data: 2 active of 2 latent dimensions, 50 data (ln N = 3.9120)",
    } <= set(text.splitlines())


def test_both_accounts_are_in_the_frame(tmp_path) -> None:
    oracle = free()
    x, held = oracle.sample(300, seed=0), oracle.sample(50, seed=1)
    account = decompose(oracle.model, oracle.guide, x, seed=0, holdout=held)
    frame = account.to_frame()
    assert frame.loc["elbo", "value"] == float(account.elbo)
    assert frame.loc["elbo", "holdout_value"] == float(account.holdout.elbo)
    assert frame.loc["prior_gap", "holdout_target"] != frame.loc["prior_gap", "target"]
    assert frame.loc["data_size", "holdout_value"] == 50
    frame.to_csv(tmp_path / "decomposition.csv")
    back = pd.read_csv(tmp_path / "decomposition.csv", index_col="quantity")
    pd.testing.assert_frame_equal(back, frame)


@pytest.mark.parametrize(
    ("holdout", "message"),
    [
        (torch.randn(5, 2), "Expected a holdout like the data"),
        ((torch.randn(5), torch.randn(5)), "Expected a holdout like the data"),
        (torch.full((5,), torch.nan), "Expected data without nan .* holdout"),
    ],
)
def test_a_holdout_of_another_kind_is_refused(holdout: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decompose(full_model, mixture_guide, torch.randn(5), holdout=holdout)


# --- flags and corners ---


def test_a_representation_that_tells_all_data_apart_is_saturated() -> None:
    oracle = LinearGaussian([1.0], [[1.0]], 0.1, [[1.0]], [1e-8])
    account = decompose(oracle.model, oracle.guide, oracle.sample(200, seed=0), seed=0)
    assert account.saturated
    assert float(account.mutual_information) == pytest.approx(math.log(200), abs=0.05)
    assert "saturated" in str(account)
    assert f"{math.log(200):.4f}" in str(account)


def test_a_modest_representation_is_not_saturated() -> None:
    oracle = best()
    account = decompose(oracle.model, oracle.guide, oracle.sample(200, seed=0), seed=0)
    assert not account.saturated
    assert "saturated" not in str(account)


def on_a_line(scale: float) -> Decomposition:
    """Forty posteriors side by side on a line, under a standard normal prior."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, scale))

    return decompose(model, guide, torch.linspace(-2, 2, 40), seed=0)


def test_the_upper_bound_is_the_smaller_of_two() -> None:
    wide, narrow = on_a_line(0.5), on_a_line(0.001)
    # the wide components overlap, so that the others stand in for the own one; the narrow ones stand alone
    assert float(wide.mutual_information) < float(wide.mutual_information_upper) < float(wide.rate)
    assert float(narrow.mutual_information_upper) == float(narrow.rate)
    assert float(wide.mutual_information_lower) == float(wide.mutual_information)
    for bound, side in ((wide.mutual_information_lower, "lower"), (wide.mutual_information_upper, "upper")):
        assert bound.bound == side
        assert "population" in bound.target


def test_saturation_begins_a_nat_below_the_ceiling() -> None:
    accounts = [on_a_line(scale) for scale in (0.04, 0.05, 0.055, 0.06, 0.07)]
    excess = [float(each.mutual_information) - math.log(40) + 1 for each in accounts]
    assert [each.saturated for each in accounts] == [above > 0 for above in excess]
    assert -0.3 < min(excess) < 0 < max(excess) < 0.5


def test_collapsed_dimensions_are_not_active() -> None:
    oracle = LinearGaussian.optimum([4.0, 2.0, 0.3, 0.1], beta=1.0, latent_dim=4, s2=0.5)
    account = decompose(oracle.model, oracle.guide, oracle.sample(200, seed=0), seed=0)
    assert account.active_units == 2
    assert "2 active of 4 latent dimensions, 200 data" in str(account)
    assert account.dimensionwise_rate.value[2:].abs().max() < 1e-12


@pytest.mark.parametrize("num_samples", [1, 5])
def test_a_single_datum_holds_no_information(num_samples: int) -> None:
    oracle = free()
    account = decompose(oracle.model, oracle.guide, oracle.sample(1, seed=0), num_samples=num_samples, seed=0)
    assert float(account.mutual_information) == pytest.approx(0, abs=1e-12)
    assert float(account.total_correlation) == pytest.approx(0, abs=1e-12)
    assert float(account.mutual_information_upper) == float(account.rate)
    assert account.elbo.population_standard_error.isnan()
    assert account.distortion.standard_error > 0
    assert account.active_units == 0
    assert_identities(account)
    assert "nan" in str(account)


def test_a_single_datum_cannot_show_that_its_prior_depends_on_it() -> None:
    account = decompose(conditional_model, conditional_guide, (torch.ones(1), torch.ones(1)), seed=0)
    assert float(account.mutual_information_upper) == float(account.rate)
    assert_identities(account)


@pytest.mark.parametrize("num_samples", [1, 5])
def test_two_data_are_enough(num_samples: int) -> None:
    oracle = free()
    account = decompose(oracle.model, oracle.guide, oracle.sample(2, seed=0), num_samples=num_samples, seed=0)
    assert abs(float(account.mutual_information) - math.log(2) / 2) < 0.6
    assert_identities(account)


# --- no trace is left ---


class Noisy(nn.Module):
    """An encoder that is random in training mode."""

    out_features = 6

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.fixture
def float32():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def vae(float32) -> VAE:
    return VAE(Noisy(), MLPDecoder(3, (4,), hidden=(8,)), latent_dim=3, likelihood="gaussian")


def test_a_float32_vae_is_accounted_for_in_float64(vae: VAE) -> None:
    x = torch.randn(200, 4)
    account = decompose(vae.model, vae.guide, x, seed=0)
    assert all(estimate.value.dtype == torch.float64 for _, estimate in account.estimates())
    assert_identities(account)
    vae.eval()
    with torch.no_grad():
        posterior = vae.encode(x).base_dist
        loc, scale = posterior.loc.double(), posterior.scale.double()
        rate = 0.5 * (loc**2 + scale**2 - 1) - scale.log()
    torch.testing.assert_close(account.dimensionwise_rate.value, rate.mean(0))
    truth = dist.Normal(loc, scale).to_event(1)
    z = truth.sample((200,))
    with torch.no_grad():
        distortion = -torch.stack([vae.decode(each.float()).log_prob(x) for each in z]).double()
    error = torch.hypot(account.distortion.standard_error, (distortion.var(0).sum() / 200).sqrt() / 200)
    assert abs(float(account.distortion) - float(distortion.mean())) < 3.5 * error


def test_a_float32_guide_with_full_covariance_is_scored(float32) -> None:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc = torch.stack([0.4 * x, 0.3 * x], -1)
            pyro.sample("z", dist.MultivariateNormal(loc, torch.tensor([[0.4, 0.1], [0.1, 0.3]])))

    x = torch.randn(50)
    account = decompose(full_model, guide, x, seed=0)
    assert account.rate.value.dtype == torch.float64
    assert account.rate.standard_error == 0
    assert_identities(account)


def test_a_prior_without_marginals_takes_the_dimensions_alone(float32) -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
            bend = dist.transforms.AffineCoupling(
                1, lambda z: (torch.tanh(z), torch.zeros(z.shape)), log_scale_min_clip=-1.0
            )
            z = pyro.sample("z", dist.TransformedDistribution(base, [bend]))
            pyro.sample("x", dist.Normal(z.sum(-1), 0.5), obs=x)

    account = decompose(model, mixture_guide, torch.randn(50), seed=0)
    assert float(account.total_correlation) > 0
    assert account.total_correlation.population_standard_error.isfinite()
    assert account.dimensionwise_kl is None
    assert float(account.rate) == pytest.approx(
        float(account.mutual_information) + float(account.marginal_kl)
    )


def test_a_float32_flow_is_scored(float32) -> None:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            base = dist.Normal(torch.stack([0.4 * x, 0.3 * x], -1), 0.4)
            shift = dist.transforms.AffineTransform(torch.ones(2), torch.full((2,), 0.5))
            pyro.sample("z", dist.TransformedDistribution(base, [shift]).to_event(1))

    account = decompose(full_model, guide, torch.randn(50), seed=0)
    assert_identities(account)


def test_the_modes_of_modules_are_put_back(vae: VAE) -> None:
    vae.train()
    vae.encoder.layers[1].eval()
    decompose(vae.model, vae.guide, torch.randn(50, 4), seed=0)
    assert [each.training for each in vae.encoder.layers] == [True, False, True]
    assert vae.decoder.training


def test_parameters_gradients_and_store_are_left_alone(vae: VAE) -> None:
    x = torch.randn(50, 4)
    svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.1}), pyro.infer.Trace_ELBO())
    svi.step(x)
    svi.loss_and_grads(vae.model, vae.guide, x)
    state = {name: value.clone() for name, value in vae.state_dict().items()}
    gradients = {name: value.grad.clone() for name, value in vae.named_parameters() if value.grad is not None}
    store = {name: value.detach().clone() for name, value in pyro.get_param_store().items()}
    decompose(vae.model, vae.guide, x)
    assert gradients
    assert all(torch.equal(value, state[name]) for name, value in vae.state_dict().items())
    assert all(torch.equal(dict(vae.named_parameters())[n].grad, g) for n, g in gradients.items())
    assert store.keys() == pyro.get_param_store().keys()
    assert all(torch.equal(pyro.get_param_store()[name], value) for name, value in store.items())
    assert torch.is_grad_enabled()


def test_a_seed_leaves_the_random_state_and_repeats_itself() -> None:
    x = torch.randn(60)
    before = torch.get_rng_state()
    first = decompose(mixture_model, mixture_guide, x, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.randn(3)
    assert decompose(mixture_model, mixture_guide, x, seed=0).to_frame().equals(first.to_frame())
    assert not decompose(mixture_model, mixture_guide, x, seed=1).to_frame().equals(first.to_frame())


def test_without_a_seed_the_draws_come_from_the_global_state() -> None:
    x = torch.randn(60)
    frames = []
    for seed in (4, 4, 5):
        torch.manual_seed(seed)
        frames.append(decompose(full_model, mixture_guide, x).to_frame())
    assert frames[0].equals(frames[1])
    assert not frames[0].equals(frames[2])
    assert not decompose(full_model, mixture_guide, x).to_frame().equals(frames[2])


# --- what is shown ---


def test_the_print_has_a_line_for_each_quantity() -> None:
    oracle = free()
    text = decompose(oracle.model, oracle.guide, oracle.sample(300, seed=0), seed=0).table()
    lines = text.splitlines()
    assert lines[0].split() == ["nats", "per", "datum", "value", "s.e.", "pop.", "s.e.", "bound"]
    assert [line.split()[0] for line in lines[1:4]] == ["distortion", "rate", "elbo"]
    assert "dimensionwise_kl[z[1]]" in text
    *table, size, missing = lines
    assert len({line.rindex(" ") for line in table}) == 1  # the columns stand below each other
    assert missing.startswith("not available: data_entropy, decoder_gap (densities have no decoder gap")
    assert size == "2 active of 2 latent dimensions, 300 data (ln N = 5.7038)"


def test_the_frame_survives_a_csv(tmp_path) -> None:
    oracle = free()
    account = decompose(oracle.model, oracle.guide, oracle.sample(300, seed=0), seed=0)
    frame = account.to_frame()
    frame.to_csv(tmp_path / "decomposition.csv")
    back = pd.read_csv(tmp_path / "decomposition.csv", index_col="quantity")
    pd.testing.assert_frame_equal(back, frame)
    assert frame.loc["rate", "value"] == float(account.rate)
    assert frame.loc["mutual_information", "standard_error"] == float(
        account.mutual_information.standard_error
    )
    assert frame.loc["dimensionwise_kl[z[1]]", "value"] == float(account.dimensionwise_kl[1])
    assert frame.loc["elbo", "bound"] == "lower"
    assert frame.loc["data_size", "value"] == 300
    assert frame.loc["active_units", "value"] == 2
    assert frame.loc["saturated", "value"] == 0


# --- errors ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 0}, "Expected num_samples to be an integer >= 1 but got 0"),
        ({"batch_size": 0}, "Expected batch_size to be an integer >= 1 but got 0"),
        ({"data_plate": "rows"}, "Expected a plate 'rows'"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decompose(full_model, mixture_guide, torch.randn(5), **arguments)


def test_global_latents_are_refused() -> None:
    def model(x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(w * z.sum(-1), 0.5), obs=x)

    with pytest.raises(NotImplementedError, match="condition"):
        decompose(model, mixture_guide, torch.randn(5))
    fixed = pyro.poutine.condition(model, {"w": torch.tensor(1.0)})
    x = torch.randn(5)
    found, plain = (decompose(each, mixture_guide, x, seed=0) for each in (fixed, full_model))
    assert float(found.rate) == float(plain.rate)


def test_a_model_without_a_plate_is_refused() -> None:
    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(2))
        pyro.sample("x", dist.Normal(z.sum(-1), 0.5).to_event(1), obs=x)

    with pytest.raises(ValueError, match="Expected a vectorised plate"):
        decompose(model, mixture_guide, torch.randn(5))


def test_a_lone_class_is_its_own_marginal():
    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])))
            pyro.sample("x", dist.Normal(k.unsqueeze(-1) * torch.ones(3), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(logits=x))

    account = decompose(model, guide, torch.randn(30, 3), num_samples=3, seed=0)
    assert float(account.total_correlation) == pytest.approx(0.0, abs=1e-9)
    assert float(account.dimensionwise_kl[0]) == pytest.approx(float(account.marginal_kl), abs=1e-9)


@pytest.mark.parametrize("family", [dist.Bernoulli, lambda p: dist.Laplace(p, 0.5)])
def test_a_product_prior_has_no_dependence_and_a_rate_for_each_dimension(family):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", family(torch.full((4,), 0.3)).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", family(x.sigmoid()).to_event(1))

    account = decompose(model, guide, torch.randn(30, 4), seed=0)
    assert account.prior_dependence is None
    assert "prior_dependence" not in account.unavailable
    assert float(account.dimensionwise_rate.value.sum()) == pytest.approx(
        float(account.rate), abs=3 * float(account.rate.standard_error) + 1e-9
    )


def test_what_is_wrong_with_the_data_is_one_sentence():
    vae = VAE(MLPEncoder((4, 4)), MLPDecoder(2, (4, 4)), latent_dim=2)
    with pytest.raises(ValueError, match=r"^Expected .*\[0, 1\]") as caught:
        decompose(vae.model, vae.guide, 2 * torch.ones(5, 4, 4))
    assert "\n" not in str(caught.value)


# --- several sites, one by one ---


class Chain:
    """x ~ N(0, 1.5); the guide draws z1 from x and z2 from both, the model in the same or in the other order.

    Of v = (x, z1, z2) the guide has z1 = 0.6 x and z2 = 0.3 z1 + 0.4 x, and the model one of two forms.
    """

    def __init__(self, *, top_down: bool) -> None:
        self.top_down = top_down
        # gains of z1 and z2 in the prior, and its variances
        first, second = torch.tensor([0.0, 0.0, 0.7]), torch.tensor([0.0, 0.7, 0.0])
        self.prior = {"z1": first, "z2": 0 * second} if top_down else {"z1": 0 * first, "z2": second}
        self.noise = {"z1": 0.8, "z2": 1.0} if top_down else {"z1": 1.0, "z2": 0.8}

    def data(self, size: int) -> Tensor:
        return torch.randn(size) * 1.5**0.5

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(0.6 * x, 0.3**0.5))
            pyro.sample("z2", dist.Normal(0.3 * z1 + 0.4 * x, 0.5**0.5))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            if self.top_down:
                z2 = pyro.sample("z2", dist.Normal(0.0, 1.0))
                z1 = pyro.sample("z1", dist.Normal(0.7 * z2, 0.8**0.5))
            else:
                z1 = pyro.sample("z1", dist.Normal(0.0, 1.0))
                z2 = pyro.sample("z2", dist.Normal(0.7 * z1, 0.8**0.5))
            pyro.sample("x", dist.Normal(z1 + 0.5 * z2, 1.0), obs=x)
            pyro.sample("y", dist.Normal(z1, 2.0), obs=x)

    @property
    def moments(self) -> Tensor:
        """Second moments of (x, z1, z2) under the representation joint."""
        mix = torch.tensor([[1.0, 0.0, 0.0], [0.6, 1.0, 0.0], [0.58, 0.3, 1.0]])
        return mix @ torch.tensor([1.5, 0.3, 0.5]).diag() @ mix.T

    def truth(self) -> dict[str, Tensor]:
        second = self.moments
        log_q = -0.5 * torch.tensor([0.3, 0.5]).log() - 0.5 * math.log(2 * math.pi * math.e)
        log_p = []
        for own, name in ((1, "z1"), (2, "z2")):
            off = torch.eye(3)[own] - self.prior[name]
            variance = self.noise[name]
            log_p.append(-0.5 * (off @ second @ off / variance + math.log(2 * math.pi * variance)))
        rate = log_q - torch.stack(log_p)
        spread = second[1:, 1:]
        given = spread[1, 1] - spread[0, 1] ** 2 / spread[0, 0]
        information = 0.5 * torch.stack([spread[0, 0] / 0.3, given / 0.5]).log()
        residuals = torch.tensor([[1.0, -1.0, -0.5], [1.0, -1.0, 0.0]])
        noise = torch.tensor([1.0, 4.0])
        squares = ((residuals @ second) * residuals).sum(-1)
        distortion = 0.5 * (squares / noise + (2 * math.pi * noise).log())
        return {
            "site_rate": rate,
            "site_information": information,
            "site_marginal_kl": rate - information,
            "site_distortion": distortion,
        }


@pytest.mark.parametrize(("top_down", "seed"), [(False, 0), (True, 1)])
def test_the_closed_forms_of_a_two_layer_pair_are_met_site_by_site(top_down: bool, seed: int) -> None:
    pair = Chain(top_down=top_down)
    torch.manual_seed(seed)
    account = decompose(pair.model, pair.guide, pair.data(500), num_samples=2, seed=seed)
    assert account.site_names == ("z1", "z2")
    assert account.observed_names == ("x", "y")
    for name, truth in pair.truth().items():
        found = getattr(account, name)
        assert ((found.value - truth).abs() < 3.5 * found.population_standard_error).all(), name
        assert (found.population_standard_error < 0.3).all(), name


SITES = {"site_rate": "rate", "site_information": "mutual_information", "site_marginal_kl": "marginal_kl"}


def assert_sites_sum(account: Decomposition) -> None:
    for vector, scalar in SITES.items():
        total, joint = getattr(account, vector).value.sum(), getattr(account, scalar).value
        torch.testing.assert_close(total, joint, rtol=0, atol=1e-11)
    if account.site_distortion is not None:
        torch.testing.assert_close(account.site_distortion.value.sum(), account.distortion.value)


def family_model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        kind = pyro.sample("kind", dist.Categorical(torch.tensor([0.3, 0.7])))
        with pyro.plate("inner", 2, dim=-2):
            shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(rate + kind + shift.sum(-2), 1.0), obs=x)


def family_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("kind", dist.Categorical(logits=torch.stack([-x, x], -1)))
        with pyro.plate("inner", 2, dim=-2):
            pyro.sample("shift", dist.Normal(0.4 * x * torch.tensor([[1.0], [-1.0]]), 0.7))
        pyro.sample("rate", dist.LogNormal(0.3 * x, 0.6))


SEVERAL = {
    "dependent sites": (sequential_model, sequential_guide),
    "independent sites": (independent_model, independent_guide),
    "several families": (family_model, family_guide),
    "chain": (Chain(top_down=True).model, Chain(top_down=True).guide),
}


@pytest.mark.parametrize("pair", SEVERAL)
@pytest.mark.parametrize("num_samples", [1, 3])
def test_what_the_sites_add_sums_to_the_account(pair: str, num_samples: int) -> None:
    account = decompose(
        *SEVERAL[pair], torch.randn(60), num_samples=num_samples, seed=0, holdout=torch.randn(30)
    )
    assert account.holdout is not None
    for each in (account, account.holdout):
        assert_sites_sum(each)
        assert_identities(each)


def states_model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        b = pyro.sample("b", dist.Bernoulli(0.3))
        c = pyro.sample("c", dist.Categorical(PRIOR_OF_C[b.long()]))
        pyro.sample("x", dist.Normal(b - c, 1.0), obs=x)


def states_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Categorical(logits=x.unsqueeze(-1) * torch.tensor([1.0, 0.0, -1.0])))
        pyro.sample("b", dist.Bernoulli(logits=0.7 * x + c - 1))


PRIOR_OF_C = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]], dtype=torch.float64)


def states_exactly(x: Tensor) -> dict[str, Tensor]:
    """By the sum over the six states (c, b), in the guide's order."""
    q_c = (x[:, None] * torch.tensor([1.0, 0.0, -1.0])).softmax(-1)  # (data, c)
    on = torch.sigmoid(0.7 * x[:, None] + torch.arange(3.0) - 1)
    q_b = torch.stack([1 - on, on], -1)  # (data, c, b)
    q = q_c[..., None] * q_b
    p_c, p_b = PRIOR_OF_C.T, torch.tensor([0.7, 0.3])  # (c, b) given b, and (b)
    mixture_c, mixture = q_c.mean(0), q.mean(0)

    def mean(value: Tensor) -> Tensor:
        return (q * value).sum((1, 2)).mean()

    log_q_c, log_q_b = q_c.log()[..., None].expand(q.shape), q_b.log()
    rate = [mean(log_q_c - p_c.log()), mean(log_q_b - p_b.log())]
    conditional = (mixture / mixture_c[:, None]).log()
    information = [mean(log_q_c - mixture_c.log()[:, None]), mean(log_q_b - conditional)]
    return {"site_rate": torch.stack(rate), "site_information": torch.stack(information)}


def test_discrete_sites_meet_the_sum_over_their_states() -> None:
    x = torch.randn(300)
    account = decompose(states_model, states_guide, x, num_samples=20, seed=1)
    assert account.site_names == ("c", "b")
    for name, truth in states_exactly(x).items():
        found = getattr(account, name)
        assert ((found.value - truth).abs() < 3.5 * found.standard_error).all(), name
        assert (found.standard_error < 0.02).all()


def test_discrete_sites_are_enumerated_draw_by_draw() -> None:
    x = torch.randn(50)
    state = torch.get_rng_state()
    z = Pair(states_model, states_guide, x).draw(2)  # (samples, data, latent)
    torch.set_rng_state(state)  # for the same draws
    account = decompose(states_model, states_guide, x, num_samples=2)
    c, b = z[..., 0].long(), z[..., 1].long()
    q_c = (x[:, None] * torch.tensor([1.0, 0.0, -1.0])).softmax(-1)
    on = torch.sigmoid(0.7 * x[:, None] + torch.arange(3.0) - 1)
    q_b = torch.stack([1 - on, on], -1)  # (data, c, b)
    each = torch.arange(50)
    own = torch.stack([q_c[each, c].log(), q_b[each, c, b].log()], -1)  # (samples, data, sites)
    mixture_c, mixture = q_c.mean(0), (q_c[..., None] * q_b).mean(0)
    conditional = torch.stack([mixture_c[c].log(), (mixture / mixture_c[:, None])[c, b].log()], -1)
    prior = torch.stack([PRIOR_OF_C[b, c].log(), torch.tensor([0.7, 0.3])[b].log()], -1)
    for name, values in (("site_rate", own - prior), ("site_information", own - conditional)):
        found = getattr(account, name)
        torch.testing.assert_close(found.value, values.mean((0, 1)), rtol=0, atol=1e-9)
        error = (values.var(0).sum(0) / 2).sqrt() / 50
        torch.testing.assert_close(found.standard_error, error, rtol=0.03, atol=0)


def test_the_distortion_of_each_observed_site_has_an_error_of_its_own() -> None:
    pair = Chain(top_down=True)
    x = pair.data(40)
    state = torch.get_rng_state()
    account = decompose(pair.model, pair.guide, x, num_samples=3)
    torch.set_rng_state(state)  # for the same draws
    z = Pair(pair.model, pair.guide, x).draw(3)
    scores = (
        dist.Normal(z[..., 0] + 0.5 * z[..., 1], 1.0).log_prob(x),
        dist.Normal(z[..., 0], 2.0).log_prob(x),
    )
    for found, score in zip(account.site_distortion, scores, strict=True):
        torch.testing.assert_close(found.value, -score.mean())
        torch.testing.assert_close(found.standard_error, (score.var(0).sum() / 3).sqrt() / 40)
        spread = score.mean(0).std() / 40**0.5
        torch.testing.assert_close(
            found.population_standard_error, torch.maximum(spread, found.standard_error)
        )


def test_the_standard_errors_of_sites_are_the_spread_over_draws() -> None:
    x = torch.randn(60)
    accounts = [
        decompose(sequential_model, sequential_guide, x, num_samples=2, seed=seed) for seed in range(40)
    ]
    for name in [*SITES]:
        ratio = values(accounts, name).std(0) / mean_error(accounts, name, "standard_error")
        assert ((ratio > 0.6) & (ratio < 1.4)).all(), name


def test_a_single_site_has_no_account_of_its_own() -> None:
    account = decompose(bits_model, bits_guide, torch.randn(40), seed=0)
    for name in [*SITES, "site_distortion"]:
        assert getattr(account, name) is None
        assert name not in account.unavailable
    assert account.site_names == ("z",)


def test_sites_have_rows_of_their_own() -> None:
    """A scalar site has the name of its dimension."""
    account = decompose(family_model, family_guide, torch.randn(40), seed=0)
    frame = account.to_frame()
    assert frame.index.is_unique
    assert {"site_rate[kind]", "dimensionwise_rate[shift[0]]", "dimensionwise_kl[kind]"} <= set(frame.index)
    assert frame.loc["site_information[rate]", "value"] == float(account.site_information[2])
    assert "site_marginal_kl[shift]" in account.table()
    assert account.axis("site_rate") == ("site", ("kind", "shift", "rate"))
    assert account.axis("dimensionwise_kl") == ("latent", ("kind", "shift[0]", "shift[1]", "rate"))


def test_independent_sites_of_several_families_have_their_dimensions_accounted_for() -> None:
    x = torch.randn(300)
    account = decompose(family_model, family_guide, x, num_samples=3, seed=0)
    assert account.conditional_total_correlation.value == 0
    assert set(account.unavailable) <= {"active_units", "data_entropy", "decoder_gap"}
    loc = torch.stack([0.4 * x, -0.4 * x], -1)
    expected = torch.distributions.kl_divergence(dist.Normal(loc, 0.7), dist.Normal(0.0, 1.0)).mean(0)
    torch.testing.assert_close(account.dimensionwise_rate.value[1:3], expected)
    q = torch.stack([-x, x], -1).softmax(-1)
    prior = torch.tensor([0.3, 0.7])
    aggregate = q.mean(0)
    kl = (aggregate * (aggregate / prior).log()).sum()
    off = abs(float(account.dimensionwise_kl[0]) - float(kl))
    assert off < 3.5 * float(account.dimensionwise_kl[0].standard_error) + 1e-12
    torch.testing.assert_close(account.dimensionwise_rate.value[0], (q * (q / prior).log()).sum(-1).mean())


def test_active_units_count_over_sites_of_several_families() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Gamma(2.0, 1.0))
            b = pyro.sample("b", dist.Laplace(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(a + b.sum(-1), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.LogNormal(0.5 * x, 0.3))
            pyro.sample("b", dist.Laplace(torch.stack([x, 0 * x], -1), 0.5).to_event(1))

    assert decompose(model, guide, torch.randn(50), seed=0).active_units == 2


def test_the_reason_says_which_sites_depend_on_which() -> None:
    reasons = decompose(sequential_model, sequential_guide, torch.randn(40), seed=0).unavailable
    for name in ("total_correlation", "dimensionwise_kl"):
        assert "in the guide 'z1' depends on 'z2', in the model 'z2' depends on 'z1'" in reasons[name]


def test_a_prior_of_each_datum_leaves_the_rates_of_sites() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x, 1.0))
            b = pyro.sample("b", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(a + b, 0.5), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.Normal(0.5 * x, 1.0))
            pyro.sample("b", dist.Normal(0.5 * x, 0.5))

    x = torch.randn(100)
    account = decompose(model, guide, x, num_samples=4, seed=0)
    truth = torch.stack([0.125 * (x**2).mean(), 0.125 * (x**2).mean() + 0.125 - 0.5 - math.log(0.5)])
    torch.testing.assert_close(account.site_rate.value, truth)
    torch.testing.assert_close(account.site_rate.value.sum(), account.rate.value)
    torch.testing.assert_close(account.site_information.value.sum(), account.mutual_information.value)
    assert account.site_marginal_kl is None
    assert "depends on the data" in account.unavailable["site_marginal_kl"]


def test_a_positive_site_is_accounted_for_like_the_normal_behind_it() -> None:
    """Rate and information do not change with the coordinates."""
    oracle = free()

    def positive_model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.LogNormal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.log() @ oracle.W.T + oracle.mu, oracle.s2**0.5).to_event(1), obs=x)

    def positive_guide(x: Tensor) -> None:
        loc = (x - oracle.mu) @ oracle.V.T
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.LogNormal(loc, oracle.Delta.diagonal().sqrt()).to_event(1))

    x = oracle.sample(400, seed=0)
    account = decompose(positive_model, positive_guide, x, num_samples=3, seed=0)
    for name in ("distortion", "rate", "marginal_kl", "total_correlation", "dimensionwise_kl"):
        found = getattr(account, name)
        off = (found.value - getattr(oracle, name)).abs()
        assert (off < 3.5 * found.population_standard_error).all(), name


def test_a_reparameterised_model_has_the_account_of_one_that_is_written_so() -> None:
    def centred(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.full((len(x), 1), 3.0), 2.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def written(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = 3.0 + 2.0 * pyro.sample("z_decentered", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z_decentered", dist.Normal(x, 1.0).to_event(1))

    x = torch.randn(6, 1)
    reparameterised = poutine.reparam(centred, {"z": LocScaleReparam(0.0)})
    frames = [decompose(each, guide, x, seed=0).to_frame() for each in (written, reparameterised)]
    pd.testing.assert_frame_equal(*frames)
