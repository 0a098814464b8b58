"""Comparisons by held-out evidence, where log p(x) is known exactly."""

import math

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from scipy.optimize import minimize_scalar
from torch.distributions import MultivariateNormal

from pyro_infomax import compare, from_weights
from pyro_infomax.diagnostics import Comparison, evidence, good_pareto_k, to_native
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


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pareto k
@pytest.mark.filterwarnings("ignore:The inplace keyword")  # of ArviZ 0.23 under pandas 3
def test_leave_one_out_of_arviz_ranks_the_guide_that_is_too_narrow_first(oracle, x, exact):
    found = {}
    for name, scale in {"half": 0.5, "exact": 1.0}.items():
        pair = with_scale(oracle, scale)
        noise = torch.randn(200, SIZE, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        z = x @ pair.V.T + scale * oracle.Delta.diagonal().sqrt() * noise
        each = dist.Normal(z @ pair.W.T, pair.s2.sqrt()).log_prob(x).sum(-1)
        posterior = xr.Dataset({"z": (("chain", "draw", "datum", "latent"), z[None].numpy())})
        likelihood = xr.Dataset({"x": (("chain", "draw", "datum"), each[None].numpy())})
        loo = az.loo(to_native({"posterior": posterior, "log_likelihood": likelihood}))
        found[name] = float(loo.elpd_loo if hasattr(loo, "elpd_loo") else loo.elpd) / SIZE
    # the evidence of both is the same
    assert found["half"] > found["exact"] + 0.3
    assert found["half"] > exact.mean() + 0.3


def gaussian(likelihood=lambda z: dist.Normal(z, 1.0)):
    """z ~ N(0, 1), x ~ N(z, 1) by default, and the posterior of that."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", likelihood(z), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    return model, guide


def test_a_density_and_a_probability_are_not_compared():
    bits = torch.tensor([0.0, 1.0] * 5)
    models = {"density": gaussian(), "probability": gaussian(lambda z: dist.Bernoulli(logits=z))}
    with pytest.raises(
        ValueError,
        match=r"'density' 10 continuous and 0 discrete; 'probability' 0 continuous and 10 discrete",
    ):
        compare(models, bits, num_samples=5)


def test_a_density_and_a_point_mass_are_not_compared():
    models = {"density": gaussian(), "point": gaussian(lambda z: dist.Delta(0 * z))}
    with pytest.raises(ValueError, match=r"'point' 0 continuous and 4 discrete"):
        compare(models, torch.zeros(4), num_samples=5)


def test_a_category_counts_once_in_either_form():
    def logits(z):
        return torch.stack([z, 0 * z, -z], -1)

    def one_hot(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0 * x, 1.0))
            bits = torch.nn.functional.one_hot(x.long(), 3).to(x)
            pyro.sample("x", dist.OneHotCategorical(logits=logits(z)), obs=bits)

    model, guide = gaussian(lambda z: dist.Categorical(logits=logits(z)))
    x = torch.tensor([0.0, 1.0, 2.0, 2.0])
    found = compare({"number": (model, guide), "vector": (one_hot, guide)}, x, num_samples=5, seed=0)
    number, vector = (found.evidence[name].per_datum for name in ("number", "vector"))
    torch.testing.assert_close(number, vector)


def test_a_factor_is_named():
    model, guide = gaussian()

    def shifted(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.factor("shift", 0 * z + 1.0)

    found = compare({"own": (model, guide), "more": (shifted, guide)}, torch.randn(4), num_samples=5, seed=0)
    assert float(found.to_frame()["elpd_diff"].max()) == pytest.approx(4.0, abs=1e-5)
    assert "more has 1 factor: it is comparable only if" in str(found)
    assert "own has" not in str(found)


def test_models_that_leave_out_other_values_are_not_compared():
    model, guide = gaussian()

    def half(x):
        with pyro.poutine.mask(mask=torch.arange(len(x)) % 2 == 0):
            model(x)

    def half_guide(x):
        with pyro.poutine.mask(mask=torch.arange(len(x)) % 2 == 0):
            guide(x)

    with pytest.raises(ValueError, match=r"'all' 8 continuous and 0 discrete; 'half' 4 continuous"):
        compare({"all": (model, guide), "half": (half, half_guide)}, torch.randn(8), num_samples=5)


def test_global_latents_are_given_by_model_and_named():
    def model(x):
        m = pyro.sample("m", dist.Normal(0.0, 3.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(m, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        m = pyro.sample("m", dist.Normal(0.25, 0.1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x + m) / 2, 0.5**0.5))

    x = torch.randn(50)
    pairs = {"medians": (model, guide), "given": (model, guide), "none": gaussian()}
    found = compare(pairs, x, num_samples=5, seed=0, global_values={"given": {"m": 1.5}})
    for name, m in {"medians": 0.25, "given": 1.5, "none": 0.0}.items():
        truth = dist.Normal(m, 2**0.5).log_prob(x)
        torch.testing.assert_close(found.evidence[name].per_datum, truth.double(), rtol=0, atol=1e-5)
    for name in ("medians", "given"):
        assert f"{name} is compared given its global latents m, at one value of each" in str(found)
    assert "none is compared" not in str(found)
    with pytest.raises(ValueError, match=r"global_values of the pairs \['a', 'b'\] but got some of \['c'\]"):
        compare({"a": gaussian(), "b": gaussian()}, x, global_values={"c": {"m": 1.0}})


def test_weights_from_elsewhere_and_annealed_evidence_are_compared(oracle, x, exact):
    pair = oracle.model, oracle.guide
    few = evidence(*pair, x, num_samples=30, seed=0)
    elsewhere = from_weights(np.tile(exact, (100, 1)), data=x)
    annealed = evidence(*pair, x, method="annealed", num_temperatures=3, num_samples=5, seed=0)
    found = compare(
        {"few": few, "elsewhere": elsewhere, "annealed": annealed, "own": pair}, x, num_samples=40
    )
    frame = found.to_frame()
    assert np.allclose(frame["evidence"], exact.mean(), atol=1e-8)
    assert frame.loc["elsewhere", "pareto_k_share"] == 0
    assert math.isnan(frame.loc["elsewhere", "rate"])
    assert "of different numbers of draws" in str(found)
    for each in ("few 30", "elsewhere 100", "own 40"):
        assert each in str(found)
    with pytest.raises(ValueError, match=r"that of others.*\(of the model 'elsewhere'\)"):
        compare({"elsewhere": from_weights(np.tile(exact, (100, 1)), data=x + 1), "own": pair}, x)


def test_data_that_no_model_can_have_made_are_counted(oracle, x, exact):
    log_weight = np.tile(exact, (30, 1))
    log_weight[:, :2] = -np.inf
    models = {"a": from_weights(log_weight), "b": from_weights(log_weight)}
    models["c"] = from_weights(np.tile(exact, (30, 1)))
    found = compare(models, x)
    assert found.ranking[0] == "c"
    assert "a gives no density to 2 of 60 data" in str(found)
    assert "c gives no density" not in str(found)
    both = compare({name: models[name] for name in "ab"}, x)
    assert both.to_frame()["elpd_diff"].tolist() == [0.0, 0.0]


def test_information_near_its_ceiling_is_named(oracle):
    sharp = LinearGaussian(oracle.S, oracle.W, oracle.s2, oracle.V, 1e-8 * oracle.Delta)
    models = {"sharp": (sharp.model, sharp.guide), "exact": (oracle.model, oracle.guide)}
    text = str(compare(models, oracle.sample(30, seed=0), num_samples=5, seed=0))
    assert "mutual_information of sharp is near ln N = 3.40" in text


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
    assert "Pareto k too large or unknown for some data of" in lines[-1]
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
