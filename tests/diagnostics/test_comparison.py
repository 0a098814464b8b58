"""Comparisons by held-out evidence, where log p(x) is known exactly."""

import math

import arviz as az
import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.distributions import MultivariateNormal

from pyro_infomax import compare
from pyro_infomax.diagnostics import Comparison, evidence, good_pareto_k
from pyro_infomax.oracles import LinearGaussian

SIZE = 60


@pytest.fixture(scope="module")
def oracle():
    with torch.random.fork_rng(devices=[]):
        return LinearGaussian.optimum([4.0, 2.0, 1.0], beta=1.0, latent_dim=2, s2=0.3)


@pytest.fixture(scope="module")
def x(oracle):
    return oracle.sample(SIZE, seed=1)


@pytest.fixture(scope="module")
def exact(oracle, x):
    """log p(x), (data,)."""
    marginal = MultivariateNormal(x.new_zeros(3), oracle.W @ oracle.W.T + oracle.s2 * torch.eye(3))
    return marginal.log_prob(x).numpy()


def with_scale(oracle, scale):
    return LinearGaussian(oracle.S, oracle.W, oracle.s2, oracle.V, scale**2 * oracle.Delta)


@pytest.fixture(scope="module")
def guides(oracle, x) -> Comparison:
    """Three guides of one model, the worst first."""
    pairs = {"half": 0.5, "double": 2.0, "exact": 1.0}
    models = {name: with_scale(oracle, scale) for name, scale in pairs.items()}
    return compare({n: (each.model, each.guide) for n, each in models.items()}, x, num_samples=200, seed=0)


def test_the_exact_guide_comes_first_with_the_exact_evidence(guides, exact):
    assert guides.ranking == ["exact", "double", "half"]
    frame = guides.to_frame()
    assert list(frame.index) == guides.ranking
    assert list(frame["rank"]) == [0, 1, 2]
    assert np.allclose(guides.evidence["exact"].per_datum, exact, atol=1e-9)
    assert frame.loc["exact", "elpd"] == pytest.approx(exact.sum())
    assert frame.loc["exact", "evidence"] == pytest.approx(exact.mean())
    assert frame.loc["exact", "se"] == pytest.approx(math.sqrt(SIZE) * exact.std())
    assert not frame.loc["exact", "warning"]
    assert frame.loc["half", "warning"]
    assert frame.loc["half", "pareto_k_share"] > 0.5


def test_leave_one_out_of_arviz_ranks_the_guide_that_is_too_narrow_first(oracle, x):
    found = {}
    for name, scale in {"half": 0.5, "exact": 1.0}.items():
        pair = with_scale(oracle, scale)
        noise = torch.randn(200, SIZE, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        z = x @ pair.V.T + scale * oracle.Delta.diagonal().sqrt() * noise
        each = torch.distributions.Normal(z @ pair.W.T, pair.s2.sqrt()).log_prob(x).sum(-1)
        found[name] = float((-(-each).logsumexp(0) + math.log(200)).mean())  # leave-one-out by its definition
    assert found["half"] > found["exact"] + 0.5


def test_terms_of_the_account_stand_beside(oracle, guides):
    frame = guides.to_frame()
    wide = with_scale(oracle, 2.0)
    account = guides.accounts["double"]
    assert frame.loc["double", "rate"] == float(account.rate)
    assert frame.loc["double", "mutual_information"] == float(account.mutual_information)
    assert abs(float(account.rate) - float(wide.rate)) < 6 * float(account.rate.population_standard_error)


@pytest.fixture(scope="module")
def models(oracle, x) -> Comparison:
    small = LinearGaussian.optimum([4.0, 2.0, 1.0], beta=1.0, latent_dim=1, s2=0.5)
    pairs = {"one": (small.model, small.guide), "two": (oracle.model, oracle.guide)}
    return compare(pairs, x, num_samples=50, seed=0)


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # of ArviZ 0.23 under pandas 3
def test_arviz_finds_the_same_differences(models):
    frame, theirs = models.to_frame(), az.compare(models.elpd)
    assert list(frame.index) == list(theirs.index) == ["two", "one"]
    for column in ("elpd_diff", "dse", "se"):
        assert np.allclose(frame[column], theirs[column].astype(float).abs(), rtol=1e-6)
    assert np.allclose(frame["weight"], theirs["weight"].astype(float), atol=2e-3)
    assert {"rank", "elpd", "p", "elpd_diff", "weight", "se", "dse", "warning"} <= set(frame)
    assert np.allclose(models.differences()["one"].sum(), frame.loc["one", "elpd_diff"])


def test_weights_are_those_of_the_best_mixture(models):
    both = np.stack([models.evidence[name].per_datum.numpy() for name in ("two", "one")], 1)

    def loss(weight):
        return -np.logaddexp(np.log(weight) + both[:, 0], np.log1p(-weight) + both[:, 1]).sum()

    best = minimize_scalar(loss, bounds=(1e-9, 1 - 1e-9), method="bounded", options={"xatol": 1e-8}).x
    assert models.to_frame().loc["two", "weight"] == pytest.approx(best, abs=1e-3)


def test_weights_of_densities_below_the_smallest_number(oracle, x):
    found = evidence(oracle.model, oracle.guide, x, num_samples=2, seed=0, progress=False)
    found.per_datum[0] = -math.inf  # and one datum that no model can have made
    far = {
        name: evidence(oracle.model, oracle.guide, x, num_samples=2, seed=s, progress=False)
        for s, name in enumerate("ab")
    }
    for each in far.values():
        each.per_datum.sub_(5000.0)
        each.per_datum[0] = -math.inf
    weights = compare({"near": found} | far, x).to_frame()["weight"]
    assert weights["near"] == pytest.approx(1.0)
    assert np.isfinite(weights).all()


def test_what_is_printed_says_what_to_do(guides, models):
    lines = str(guides).splitlines()
    assert lines[1].split()[0] == "model"
    assert "Pareto k too large for some data of" in lines[-1]
    assert "anneal" in lines[-1]
    assert "not told apart from two by two standard errors: one" in str(models)


def test_too_few_draws_for_a_k_and_guides_that_are_alike(oracle, x):
    pair = oracle.model, oracle.guide
    found = compare({"a": pair, "b": pair}, x, num_samples=5, seed=0)
    assert "not told apart from a by two standard errors: b" in str(found)
    assert "Pareto k of a, b is not known" in str(found)
    assert found.to_frame()["pareto_k_share"].isna().all()
    assert found.to_frame()["warning"].all()


def test_the_threshold_follows_the_number_of_draws():
    assert good_pareto_k(100) == pytest.approx(0.5)
    assert good_pareto_k(10**6) == 0.7
    assert good_pareto_k(1) == -math.inf


def test_wrong_input_is_named(oracle, x):
    pair = oracle.model, oracle.guide
    with pytest.raises(ValueError, match=r"at least two models to compare but got \['a'\]"):
        compare({"a": pair}, x)
    short = evidence(*pair, x[:5], num_samples=5, seed=0, progress=False)
    with pytest.raises(ValueError, match=r"same 60 data but got that of 5 \(of the model 'b'\)"):
        compare({"a": pair, "b": short}, x, num_samples=5)
    with pytest.raises(
        ValueError, match=r"pair \(model, guide\) or evidence but got function \(of the model 'b'\)"
    ):
        compare({"a": pair, "b": lambda x: x}, x, num_samples=5)
    other = evidence(*pair, x + 1, num_samples=5, seed=0, progress=False)
    with pytest.raises(
        ValueError, match=r"evidence of these 60 data but got that of others.*\(of the model 'b'\)"
    ):
        compare({"a": pair, "b": other}, x, num_samples=5)
    with pytest.raises(ValueError, match="at least two data"):
        compare({"a": pair, "b": pair}, x[:1], num_samples=5)
    with pytest.raises(ValueError, match=r"names of models that are strings but got \[1\]"):
        compare({"a": pair, 1: pair}, x, num_samples=5)
    with pytest.raises(ValueError, match=r"without nan .*\(of the model 'a'\)"):
        compare({"a": pair, "b": pair}, x * math.nan, num_samples=5)
