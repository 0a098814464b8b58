"""Predictive checks against exact predictive distributions, and with programs of all kinds."""

import math
from typing import ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from scipy.stats import ks_2samp, norm, skew
from torch import nn

from pyro_infomax.diagnostics import PredictiveCheck, predictive_check
from pyro_infomax.oracles import LinearGaussian

DRAWS = 400


@pytest.fixture(scope="module")
def oracle():
    """One latent, one element of variance 2, and the exact posterior."""
    with torch.random.fork_rng(devices=[]):
        return LinearGaussian.optimum([2.0], beta=1.0, latent_dim=1, s2=0.5)


@pytest.fixture(scope="module")
def x(oracle):
    return oracle.sample(60, seed=3)


def value(x):
    return x[:, 0]


def check_of(oracle, x, **options) -> PredictiveCheck:
    options = {"num_draws": DRAWS, "seed": 0} | options
    return predictive_check(oracle.model, oracle.guide, x, {"x": value}, **options)


def predictive(oracle, x):
    """Mean (data,) and variance of a replicate given its datum."""
    w, v, delta, s2 = (float(each) for each in (oracle.W, oracle.V, oracle.Delta, oracle.s2))
    return w * v * x[:, 0], w * w * delta + s2


def within(found, expected, error, *, errors=4.5):
    return np.all(np.abs(np.asarray(found) - np.asarray(expected)) <= errors * np.asarray(error))


# ---- Exact answers.


def test_the_tail_of_a_prior_check_is_exact(oracle, x):
    row = check_of(oracle, x, kind="prior").to_frame().loc[("x", "mean")]
    expected = norm.sf(float(x.mean()) * math.sqrt(60 / 2.0))
    assert within(row["upper_tail"], expected, math.sqrt(expected * (1 - expected) / DRAWS))
    assert within(row["replicated"], 0, math.sqrt(2 / 60 / DRAWS))
    assert within(row["replicated_sd"], math.sqrt(2 / 60), math.sqrt(2 / 60 / (2 * DRAWS)))
    assert row["observed"] == pytest.approx(float(x.mean()))


def test_the_tail_of_a_posterior_check_is_exact(oracle, x):
    row = check_of(oracle, x).to_frame().loc[("x", "mean")]
    mean, variance = predictive(oracle, x)
    deviation = math.sqrt(variance / 60)
    expected = norm.sf((float(x.mean()) - float(mean.mean())) / deviation)
    assert within(row["upper_tail"], expected, math.sqrt(expected * (1 - expected) / DRAWS))
    assert within(row["replicated"], float(mean.mean()), deviation / math.sqrt(DRAWS))
    assert within(row["replicated_sd"], deviation, deviation / math.sqrt(2 * DRAWS))


def test_each_datum_has_its_tail(oracle, x):
    p_values = check_of(oracle, x).datum_p_values()["x"]
    mean, variance = predictive(oracle, x)
    upper = norm.sf((x[:, 0] - mean) / math.sqrt(variance))
    tail = np.minimum(upper, 1 - upper)
    # two-sided, so twice the error; near one half the smaller of both tails is taken after the noise
    error = 2 * np.sqrt(tail * (1 - tail) / DRAWS) + 2 / DRAWS
    assert within(p_values, 2 * tail, error)


def test_latents_of_an_aggregate_check_are_those_of_a_bootstrap_sample(oracle, x):
    held_out = oracle.sample(180, seed=4)
    row = check_of(oracle, x, kind="aggregate", holdout=held_out).to_frame().loc[("x", "mean")]
    mean, variance = predictive(oracle, x)
    between = float(mean.var(correction=0))
    expected = math.sqrt((between * (1 - 1 / 60) + variance) / 180 + between / 60)
    assert within(row["replicated"], float(mean.mean()), expected / math.sqrt(DRAWS))
    assert within(row["replicated_sd"], expected, expected / math.sqrt(2 * DRAWS))
    assert row["observed"] == pytest.approx(float(held_out.mean()))


def test_a_datum_that_is_chosen_again_has_other_latents(oracle, x):
    collapsed = LinearGaussian(oracle.S, oracle.W, oracle.s2, [[0.0]], [1.0])
    held_out = oracle.sample(50, seed=4)
    row = check_of(collapsed, x[:3], kind="aggregate", holdout=held_out).to_frame().loc[("x", "mean")]
    assert within(row["replicated_sd"], 0.2, 0.2 / math.sqrt(2 * DRAWS))
    assert within(row["replicated"], 0, 0.2 / math.sqrt(DRAWS))


def test_a_discrepancy_is_taken_at_the_latents_of_each_draw(oracle, x):
    w, s2 = float(oracle.W), float(oracle.s2)

    def squares(x, z):
        return (x[:, 0] - w * z[:, 0]).square() / s2

    check = check_of(oracle, x, discrepancies={"squares": squares})
    table = check.to_frame()
    row = table.loc[("squares", "mean")]
    residual = x[:, 0] * (1 - w * float(oracle.V))
    expected = float((residual.square() / s2).mean()) + w * w * float(oracle.Delta) / s2
    spread = check.observed["squares"].mean(-1).std() / math.sqrt(DRAWS)
    assert within(row["observed"], expected, spread)
    assert within(row["replicated"], 1, math.sqrt(2 / 60 / DRAWS))
    means = (check.replicated["squares"].mean(-1), check.observed["squares"].mean(-1))
    assert row["upper_tail"] == pytest.approx((1 + int((means[0] >= means[1]).sum())) / (1 + DRAWS))
    assert ("squares", "ks") not in table.index


# ---- What is made of the draws.


def test_the_table_by_an_independent_count(oracle, x):
    check = check_of(
        oracle, x, kind="prior", num_draws=30, over_data=("mean", "sd", "skewness", 0.9, "maximum")
    )
    observed, replicated = (each["x"].numpy() for each in (check.observed, check.replicated))
    assert observed.shape == (1, 60)
    assert replicated.shape == (30, 60)
    table = check.to_frame()
    spread = replicated.std(1).mean()
    functions = {
        "mean": lambda v: np.mean(v, 1),
        "sd": lambda v: np.std(v, 1),
        "skewness": lambda v: skew(v, axis=1),
        "0.9": lambda v: np.quantile(v, 0.9, axis=1),
        "maximum": lambda v: np.max(v, 1),
    }
    for over, function in functions.items():
        (here,), there = function(observed), function(replicated)
        row = table.loc[("x", over)]
        assert row["observed"] == pytest.approx(here)
        assert row["replicated"] == pytest.approx(there.mean())
        assert row["replicated_sd"] == pytest.approx(there.std(ddof=1))
        assert row["z_score"] == pytest.approx((here - there.mean()) / there.std(ddof=1))
        assert row["low"] <= row["replicated"] <= row["high"]
        upper, lower = ((1 + sum(tail)) / 31 for tail in (there >= here, there <= here))
        assert row["upper_tail"] == pytest.approx(upper)
        assert row["p_value"] == pytest.approx(min(1, 2 * min(upper, lower)))
        assert row["effect_size"] == pytest.approx(
            (here - there.mean()) / (1 if over == "skewness" else spread)
        )


def counts_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Gamma(2.0, 1.0))
        pyro.sample("x", dist.Poisson(z), obs=x)


def counts_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Gamma(2.0 + x, 2.0))


@pytest.mark.parametrize("counts", [True, False])
def test_the_distance_of_distributions_is_kolmogorovs_with_ties_too(oracle, x, counts):
    if counts:
        programs, x, statistics = (counts_model, counts_guide), dist.Poisson(2.0).sample([40]), None
    else:
        programs, statistics = (oracle.model, oracle.guide), {"x": value}
    check = predictive_check(*programs, x, statistics, kind="prior", num_draws=9, seed=0)
    sets = np.concatenate([check.observed["x"].numpy(), check.replicated["x"].numpy()])
    found = [ks_2samp(sets[s], np.delete(sets, s, 0).ravel()).statistic for s in range(10)]
    row = check.to_frame().loc[("x", "ks")]
    assert row["observed"] == pytest.approx(found[0])
    assert row["replicated"] == pytest.approx(np.mean(found[1:]))
    assert (
        row["p_value"] == row["upper_tail"] == pytest.approx((1 + sum(np.array(found[1:]) >= found[0])) / 10)
    )


def test_ties_count_on_both_sides():
    check = predictive_check(
        counts_model, counts_guide, torch.ones(5), {"one": torch.ones_like}, num_draws=19, seed=0
    )
    table = check.to_frame()
    assert (table["p_value"] == 1).all()
    assert table["z_score"].isna().all()
    assert (check.datum_p_values() == 1).all(axis=None)


def test_a_summary_that_is_not_defined_has_no_p_value():
    check = predictive_check(
        counts_model,
        counts_guide,
        torch.ones(5),
        {"one": torch.ones_like},
        over_data=["skewness"],
        num_draws=5,
    )
    assert check.to_frame()["p_value"].isna().all()
    assert "1 rows have no p-value" in str(check)


def test_misfit_is_found_by_the_statistic_that_sees_it(oracle):
    noisy = LinearGaussian(oracle.S, oracle.W, 4 * oracle.s2, oracle.V, oracle.Delta)
    x = oracle.sample(200, exact=True, seed=0)
    table = check_of(noisy, x, kind="prior").to_frame()["p_value"].loc["x"]
    assert table["sd"] <= 2 / (1 + DRAWS) < 0.1 < table["mean"]
    # of the same mean and variance as the data of the model, but skewed
    skewed = (torch.distributions.Exponential(1.0).icdf((torch.arange(200.0) + 0.5) / 200))[:, None]
    skewed = (skewed - skewed.mean()) / skewed.std(correction=0) * math.sqrt(2)
    table = check_of(oracle, skewed, kind="prior", over_data=("mean", "sd", "skewness", "ks")).to_frame()
    p_values = table["p_value"].loc["x"]
    assert p_values["skewness"] <= 2 / (1 + DRAWS)
    assert p_values["ks"] <= 2 / (1 + DRAWS)
    assert min(p_values["mean"], p_values["sd"]) > 0.1


def test_a_holdout_is_checked_in_place_of_the_data(oracle, x):
    held_out = oracle.sample(20, seed=5)
    for kind in ("posterior", "prior"):
        check = check_of(oracle, x, kind=kind, holdout=held_out, num_draws=5)
        alone = check_of(oracle, held_out, kind=kind, num_draws=5)
        assert check.held_out
        assert not alone.held_out
        assert torch.equal(check.replicated["x"], alone.replicated["x"])
        assert torch.equal(check.observed["x"][0], held_out[:, 0])


def test_a_check_prints_what_its_p_values_mean(oracle, x):
    text = str(check_of(oracle, x, num_draws=50))
    assert "posterior predictive check of 60 data, replicated 50 times" in text
    assert "latents have seen the data" in text
    assert "holdout=" in text
    prior = str(check_of(oracle, x, kind="prior", holdout=x + 5, num_draws=50))
    assert "60 held-out data" in prior
    assert "p <= 0.05 in" in prior
    assert "furthest off is x, " in prior
    assert "holdout=" not in prior
    few = str(check_of(oracle, x, num_draws=10))
    assert "10 replicated data sets are too few for a two-sided p <= 0.05" in few
    assert "in none of 3 rows" in few


def test_draws_leave_no_trace(oracle, x):
    state = torch.get_rng_state()
    first, second = (check_of(oracle, x, num_draws=3) for _ in range(2))
    assert torch.equal(first.replicated["x"], second.replicated["x"])
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first.replicated["x"], check_of(oracle, x, num_draws=3, seed=1).replicated["x"])


class Dropping(nn.Module):
    """A model whose noise would be larger in training."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            scale = self.dropout(torch.full((len(x), 1), 1e-3))
            pyro.sample("x", dist.Normal(self.dropout(0 * z + 1), scale + 1e-6).to_event(1), obs=x)


def test_modules_run_in_evaluation_mode_and_are_put_back():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    model = Dropping()
    check = predictive_check(model, guide, torch.ones(4, 1), num_draws=20, seed=0)
    assert float((check.replicated["x"] - 1).abs().max()) < 0.01
    assert model.training


# ---- Programs of all kinds.


def test_vectors_have_a_statistic_an_element():
    oracle = LinearGaussian.optimum([2.0, 1.0], beta=1.0, latent_dim=1, s2=0.5)
    x = oracle.sample(10, seed=0)
    check = predictive_check(oracle.model, oracle.guide, x, num_draws=3, seed=0)
    assert list(check.replicated) == ["mean", "sd", "minimum", "maximum", "x[0]", "x[1]"]
    assert torch.equal(check.observed["x[1]"][0], x[:, 1].double())
    assert check.examples["x"].shape == (10, 2)
    assert check.replicates["x"].shape == (3, 10, 2)
    assert torch.equal(check.replicates["x"][:, :, 0].double(), check.replicated["x[0]"])
    assert check.num_draws == 3
    assert check.data_size == 10


def regression(x, c):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z + c, 0.5), obs=x)


def regression_guide(x, c):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.8 * (x - c), math.sqrt(0.2)))


@pytest.mark.parametrize("kind", ["posterior", "prior", "aggregate"])
def test_replicates_have_the_covariates_of_their_datum(kind):
    c = torch.arange(30.0)
    x = c + torch.randn(30)
    check = predictive_check(regression, regression_guide, (x, c), kind=kind, num_draws=100, seed=0)
    mean = 0.8 * (x - c) if kind == "posterior" else torch.zeros(30)
    expected = c + (mean if kind != "aggregate" else (0.8 * (x - c)).mean())
    assert within(check.replicated["x"].mean(0), expected, math.sqrt(2.0) / 10)


def two_sites(x, label):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        label = pyro.sample("label", dist.Bernoulli(0.3), obs=label)
        pyro.sample("x", dist.Normal(z + 10 * label[:, None], 0.1).to_event(1), obs=x)


def two_sites_guide(x, label):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x - 10 * label[:, None], 0.1).to_event(1))


@pytest.mark.parametrize("kind", ["posterior", "prior", "aggregate"])
def test_several_observed_sites_are_drawn_together(kind):
    label = (torch.arange(40) % 10 < 3).double()
    data = torch.randn(40, 2) + 10 * label[:, None], label

    def agree(sites):
        return (sites["x"][:, 0] > 5).double() == sites["label"]

    check = predictive_check(
        two_sites, two_sites_guide, data, {"agree": agree}, kind=kind, num_draws=50, seed=0
    )
    assert bool((check.replicated["agree"] == 1).all())
    check = predictive_check(two_sites, two_sites_guide, data, kind=kind, num_draws=50, seed=0)
    assert {"label", "x.sd", "x[0]", "x[1]"} <= check.replicated.keys()
    share = check.to_frame().loc[("label", "mean"), "replicated"]
    assert within(share, 0.3, math.sqrt(0.21 / 40 / 50))


def masked_model(x, present):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).mask(present).to_event(1), obs=x)


def masked_in_a_plate(x, present):
    with pyro.plate("data", len(x), dim=-2), pyro.plate("time", 3, dim=-1):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with poutine.mask(mask=present):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def masked_guide(x, present):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.where(present, x / 2, 0.0), 0.7).to_event(1))


@pytest.mark.parametrize("model", [masked_model, masked_in_a_plate])
@pytest.mark.parametrize("kind", ["posterior", "prior"])
def test_what_is_masked_is_no_difference(model, kind):
    present = torch.arange(3) < torch.arange(12)[:, None] % 4  # every fourth datum has nothing
    x = torch.where(present, torch.randn(12, 3), 1e3)
    check = predictive_check(
        model, masked_guide, (x, present), {"sum": lambda x: x.sum(-1)}, kind=kind, num_draws=20, seed=0
    )
    first = present[:10]
    assert bool((check.replicates["x"][:, ~first] == 1e3).all())
    assert bool((check.replicates["x"][:, first].abs() < 50).all())
    assert torch.equal(check.replicated["sum"].isnan(), (torch.arange(12) % 4 == 0).expand(20, 12))
    assert torch.equal(check.observed["sum"][0].isnan(), torch.arange(12) % 4 == 0)
    row = check.to_frame().loc[("sum", "mean")]
    assert row["replicated"] == pytest.approx(float(check.replicated["sum"].nanmean()))
    assert row["observed"] == pytest.approx(float(x[present.any(1)].sum(-1).mean()))
    assert check.datum_p_values()["sum"].isna().tolist() == [True, False, False, False] * 3


def partly_observed(x, there):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x, obs_mask=there)


def partly_observed_guide(x, there):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.where(there, x / 2, 0.0), 0.7))
        with poutine.mask(mask=~there):
            pyro.sample("x_unobserved", dist.Normal(z, 1.0))


@pytest.mark.parametrize("kind", ["posterior", "prior"])
def test_data_that_are_not_observed_are_left_out(kind):
    there = torch.arange(12) % 3 > 0
    x = torch.where(there, torch.randn(12), 1e3)
    check = predictive_check(
        partly_observed, partly_observed_guide, (x, there), kind=kind, num_draws=20, seed=0
    )
    (name,) = check.replicated
    assert torch.equal(check.replicated[name].isnan(), ~there.expand(20, 12))
    assert check.to_frame().loc[(name, "mean"), "observed"] == pytest.approx(float(x[there].mean()))
    assert float(check.replicated[name].nan_to_num().abs().max()) < 50


def shifted(x):
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z + shift, 0.5), obs=x)


def shifted_guide(x):
    shift = pyro.sample("shift", dist.Normal(3.0, 0.4))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.8 * (x - shift), math.sqrt(0.2)))


def test_global_latents_are_drawn_for_each_data_set():
    x = 3 + torch.randn(25)
    rows = [
        predictive_check(shifted, shifted_guide, x, kind="prior", num_draws=40, seed=0, global_values=values)
        .to_frame()
        .loc[("x", "mean")]
        for values in (None, {"shift": 3.0})
    ]
    for row, variance in zip(rows, (0.16 + 1.25 / 25, 1.25 / 25), strict=True):
        assert within(row["replicated"], 3, math.sqrt(variance / 40))
        assert within(row["replicated_sd"], math.sqrt(variance), math.sqrt(variance / 80))


def test_global_latents_are_those_of_the_data_for_a_holdout():
    x, held_out = 3 + torch.randn(25), torch.randn(8)
    for kind in ("prior", "aggregate"):
        check = predictive_check(shifted, shifted_guide, x, kind=kind, holdout=held_out, num_draws=8, seed=0)
        assert check.replicated["x"].shape == (8, 8)
        assert within(check.to_frame().loc[("x", "mean"), "replicated"], 3, 0.2)


def clusters(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        c = pyro.sample("c", dist.Bernoulli(0.25), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(20 * c + z, 0.1), obs=x)


def clusters_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.where(x > 10, x - 20, x), 0.1))


def test_latents_that_are_summed_out_are_recovered_or_drawn():
    c = torch.arange(20) % 2
    x = 20.0 * c + torch.randn(20)
    upper = {"upper": lambda x: (x > 10).double()}
    recovered = predictive_check(clusters, clusters_guide, x, upper, num_draws=10, seed=0)
    assert torch.equal(recovered.replicated["upper"], c.expand(10, 20).double())
    for kind in ("prior", "aggregate"):
        drawn = predictive_check(clusters, clusters_guide, x, upper, kind=kind, num_draws=50, seed=0)
        assert within(float(drawn.replicated["upper"].mean()), 0.25, math.sqrt(0.1875 / 1000))


def classes_before_latents(x):
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Bernoulli(0.25), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(20 * c, 1.0))
        pyro.sample("x", dist.Normal(z + 100 * c, 0.1), obs=x)


def test_latents_that_depend_on_what_is_summed_out_are_not_exchanged():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.where(x > 60, x - 100, x), 0.1))

    c = torch.arange(20) % 2
    x = 120.0 * c + torch.randn(20)
    upper = {"upper": lambda x: (x > 60).double()}
    recovered = predictive_check(classes_before_latents, guide, x, upper, num_draws=10, seed=0)
    assert torch.equal(recovered.replicated["upper"], c.expand(10, 20).double())
    with pytest.raises(NotImplementedError, match=r"\['c'\] that the model sums out come before"):
        predictive_check(classes_before_latents, guide, x, upper, kind="aggregate", num_draws=2)


def test_ragged_sequences_are_checked_where_they_are():
    def model(x, present):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("time", 3, dim=-1), poutine.mask(mask=present):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, present):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("time", 3, dim=-1), poutine.mask(mask=present):
            pyro.sample("z", dist.Normal(torch.where(present, x / 2, 0.0), math.sqrt(0.5)))

    present = torch.arange(3) < 1 + torch.arange(40)[:, None] % 3
    x = torch.where(present, torch.randn(40, 3), 0.0)
    check = predictive_check(model, guide, (x, present), {"sum": lambda x: x.sum(-1)}, num_draws=200, seed=0)
    row = check.to_frame().loc[("sum", "mean")]
    deviation = math.sqrt(1.5 * float(present.sum()) / 40**2)
    assert within(row["replicated"], float(x.sum()) / 2 / 40, deviation / math.sqrt(200))
    assert within(row["replicated_sd"], deviation, deviation / 20)


def test_a_mask_of_everything_leaves_nothing_to_check():
    nothing = torch.zeros(5, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="'mean' but a mask leaves all of them out"):
        predictive_check(masked_model, masked_guide, (torch.zeros(5, 3), nothing), num_draws=2)


def autoguided(x):
    with pyro.plate("data", 30, dim=-1):
        z = pyro.sample("z", dist.LogNormal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.log(), 1.0), obs=x)


def test_a_program_made_for_its_data_and_a_guide_of_pyros():
    guide = AutoNormal(autoguided)
    x = torch.randn(30)
    guide(x)
    check = predictive_check(autoguided, guide, x, kind="prior", num_draws=50, seed=0)
    assert within(check.to_frame().loc[("x", "mean"), "replicated"], 0, math.sqrt(2 / 30 / 50))
    with pytest.raises(ValueError, match="holdout"):
        predictive_check(autoguided, guide, x, holdout=x[:7], num_draws=2)


# ---- What is refused.


def with_factor(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("penalty", -z.square())
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def autoregressive(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        before = torch.zeros(len(x))
        for t in range(3):
            pyro.sample(f"x{t}", dist.Normal(z + 0.5 * before, 0.5), obs=x[:, t])
            before = x[:, t]


def from_its_own_values(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        before = torch.zeros(len(x))
        for t in range(3):
            before = pyro.sample(f"x{t}", dist.Normal(z + 0.5 * before, 0.5), obs=x[:, t])


class WithoutDraws(dist.TorchDistribution):
    """A density that cannot be drawn from."""

    arg_constraints: ClassVar[dict[str, object]] = {}
    support = torch.distributions.constraints.real

    def __init__(self, loc, validate_args=None):
        self.loc = loc
        super().__init__(loc.shape, validate_args=validate_args)

    def log_prob(self, value):
        return -(value - self.loc).abs() - math.log(2)

    def expand(self, batch_shape, _instance=None):
        return WithoutDraws(self.loc.expand(batch_shape))


def without_draws(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", WithoutDraws(z), obs=x)


def simple_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.reshape(len(x), -1)[:, 0], 0.5))


def test_models_that_cannot_be_replicated_are_refused():
    with pytest.raises(NotImplementedError, match=r"factors, \['penalty'\]"):
        predictive_check(with_factor, simple_guide, torch.zeros(5))
    for kind in ("posterior", "prior"):
        with pytest.raises(NotImplementedError, match=r"\['x'\], that can be drawn"):
            predictive_check(without_draws, simple_guide, torch.zeros(5), kind=kind, num_draws=2)
    with pytest.raises(NotImplementedError, match="argument 0, which is the value of 'x0'"):
        predictive_check(autoregressive, simple_guide, torch.randn(5, 3))
    check = predictive_check(
        from_its_own_values, simple_guide, torch.randn(5, 3), kind="prior", num_draws=200
    )
    last = check.replicated["x2"]
    # z + (z + (z + e) / 2 + e) / 2 + e
    variance = 1.75**2 + 0.25 * (1 + 0.25 + 0.0625)
    assert within(float(last.var()), variance, variance * math.sqrt(2 / 1000))


def test_an_aggregate_needs_one_prior_and_latents_of_all_data():
    def by_covariate(x, c):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(c, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def without_some(program):
        def run(x, present):
            with poutine.mask(mask=present):
                return program(x, torch.zeros(len(x)))

        return run

    x, c = torch.randn(5), torch.arange(5.0)
    with pytest.raises(NotImplementedError, match="prior depends on the data"):
        predictive_check(by_covariate, regression_guide, (x, c), kind="aggregate", num_draws=2)
    masked = without_some(regression), without_some(regression_guide), (x, c > 1)
    with pytest.raises(NotImplementedError, match=r"'z'.* masked"):
        predictive_check(*masked, kind="aggregate", num_draws=2)


@pytest.mark.parametrize(
    ("statistics", "options", "sentence"),
    [
        (
            {"all": lambda x: x.mean()},
            {},
            r"'all' of 6 data to be of shape \(6,\) or \(6, k\) but got shape \(\)",
        ),
        ({"log": lambda x: (x - 1e9).log()}, {}, "'log' to be finite but got 6 nan"),
        ({"x": 3.0}, {}, "functions of the data|statistics to be"),
        ({}, {}, "one at least, but got none"),
        ({"x": value}, {"discrepancies": {"x": lambda x, z: z[:, 0]}}, r"two of the names \['x'\]"),
        (
            None,
            {"discrepancies": {"d": lambda x, z: z}, "kind": "prior"},
            "discrepancies with kind='posterior'",
        ),
        (None, {"kind": "mixed"}, "kind to be 'posterior' or 'prior' or 'aggregate' but got 'mixed'"),
        (None, {"num_draws": 1}, "num_draws to be an integer >= 2 but got 1"),
        (None, {"over_data": "mean"}, "over_data to be several of"),
        (None, {"over_data": ["median"]}, r"over_data to be several of .* but got \['median'\]"),
        (None, {"over_data": [1.5]}, "numbers between 0 and 1"),
        (None, {"over_data": []}, "over_data to be several of"),
        (None, {"holdout": torch.zeros(3, 2)}, r"holdout like the data.*\(1,\).*\(2,\)"),
    ],
)
def test_wrong_arguments_are_named(oracle, x, statistics, options, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        predictive_check(oracle.model, oracle.guide, x[:6], statistics, **{"num_draws": 2} | options)
