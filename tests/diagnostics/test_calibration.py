"""Calibration of guides that are exact, and of guides with one known fault each."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal

from pyro_infomax import calibrate
from pyro_infomax.diagnostics import CalibrationCheck
from pyro_infomax.oracles import DiscreteVAE, LinearGaussian

SD = math.sqrt(0.5)  # of the posterior of z ~ N(0, 1), x ~ N(z, 1)


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def guide_with(*, slope=(0.5, 0.5), shift=(0.0, 0.0), scale=(SD, SD)):
    def guide(x):
        with pyro.plate("data", len(x)):
            mean = x * torch.tensor(slope) + torch.tensor(shift)
            pyro.sample("z", dist.Normal(mean, torch.tensor(scale)).to_event(1))

    return guide


def calibration_of(*, num_simulations=500, seed=0, **fault) -> CalibrationCheck:
    data = torch.zeros(4, 2)
    return calibrate(model, guide_with(**fault), data, num_simulations=num_simulations, seed=seed)


# ---- The exact posterior, and one fault at a time.


@pytest.fixture(scope="module")
def exact():
    return calibration_of()


def test_the_exact_posterior_is_calibrated(exact):
    frame = exact.to_frame()
    assert list(frame.index) == ["z[0]", "z[1]", "log_likelihood", "tarp", "all_latents"]
    assert (frame["p_value"] > 0.05).all()
    assert exact.verdict.startswith("calibrated")


def test_coverage_contraction_and_information_are_those_of_the_exact_posterior(exact):
    frame = exact.to_frame()
    frame = frame.drop(index="all_latents")
    for column, probability in (("coverage_50", 0.5), ("coverage_90", 0.9)):
        error = math.sqrt(probability * (1 - probability) / 500)
        assert ((frame[column] - probability).abs() < 4 * error).all()
    latent = frame.loc[["z[0]", "z[1]"]]
    error = 0.5 * math.sqrt(2 / 500)  # of the true values' variance, which the contraction is relative to
    assert ((latent["contraction"] - 0.5).abs() < 4 * error).all()
    assert (latent["z_score"].abs() < 4 / math.sqrt(500)).all()
    assert ((latent["correlation"] - SD).abs() < 4 * 0.5 / math.sqrt(500)).all()
    assert frame.loc[["log_likelihood", "tarp"], "contraction"].isna().all()
    information = exact.mutual_information
    assert abs(float(information) - math.log(2)) < 4 * float(information.population_standard_error)


@pytest.mark.parametrize(
    ("fault", "verdict", "failing"),
    [
        ({"slope": (0.0, 0.0), "scale": (1.0, 1.0)}, "collapsed: the posterior is the prior", ["tarp"]),
        ({"slope": (0.5, 0.0), "scale": (SD, 1.0)}, "z[1] collapsed", ["log_likelihood", "tarp"]),
        ({"slope": (0.5, -0.5)}, "z[1] of the wrong sign", ["z[1]", "log_likelihood", "tarp"]),
        ({"scale": (0.8 * SD, SD)}, "z[0] too narrow", ["z[0]"]),
        ({"scale": (SD, 1.3 * SD)}, "z[1] too wide", ["z[1]"]),
        ({"shift": (0.0, 0.25)}, "z[1] shifted, too high", ["z[1]"]),
        ({"shift": (-0.25, 0.0)}, "z[0] shifted, too low", ["z[0]"]),
    ],
)
def test_a_fault_is_named(fault, verdict, failing):
    found = calibration_of(**fault)
    assert found.verdict.startswith(verdict)
    assert (found.to_frame().loc[failing, "p_value"] < 0.01).all()


@pytest.mark.parametrize("seed", range(3))
def test_a_tenth_too_narrow_is_found(seed):
    found = calibration_of(scale=(0.9 * SD, 0.9 * SD), seed=seed)
    assert "too narrow" in found.verdict


def test_ranks_of_z_alone_do_not_see_a_collapse():
    frame = calibration_of(slope=(0.0, 0.0), scale=(1.0, 1.0), seed=1).to_frame()
    assert (frame.loc[["z[0]", "z[1]"], "p_value"] > 0.05).all()
    assert (frame.loc[["log_likelihood", "tarp"], "p_value"] < 1e-6).all()
    assert (frame.loc[["z[0]", "z[1]"], "contraction"].abs() < 0.2).all()


def test_coverage_of_tarp_is_that_of_the_ball_around_the_reference():
    found = calibration_of(scale=(0.5 * SD, 0.5 * SD)).quantities
    tarp, z = found["tarp"], found["z[0]"]
    assert tarp.coverage_50 == pytest.approx((tarp.ranks < 50).mean())
    assert tarp.coverage_90 == pytest.approx((tarp.ranks < 90).mean())
    assert z.coverage_50 == pytest.approx(((z.ranks >= 25) & (z.ranks < 75)).mean())


def test_an_unused_dimension_is_no_fault():
    def unused(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z[:, :1], 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            mean = torch.cat([x / 2, torch.zeros_like(x)], 1)
            pyro.sample("z", dist.Normal(mean, torch.tensor([SD, 1.0])).to_event(1))

    found = calibrate(unused, guide, torch.zeros(4, 1), seed=0)
    assert found.verdict.startswith("calibrated")


# ---- Quantities, seeds, exports.


def test_a_quantity_of_ones_own():
    def sum_of(z, x):
        assert z["z"].shape == (60, 2) == x.shape
        return z["z"].sum(-1)

    correlated = dist.MultivariateNormal(torch.zeros(2), torch.tensor([[0.5, 0.3], [0.3, 0.5]]))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(x / 2, correlated.covariance_matrix))

    data = torch.zeros(4, 2)
    options = {"num_simulations": 60, "seed": 0, "quantities": {"sum": sum_of}}
    assert calibrate(model, guide_with(), data, **options).p_values["sum"] > 0.05
    # right in each dimension, too wide in their sum by sqrt(1.6), which 60 simulations do see
    off = calibrate(model, guide, data, **options)
    assert off.quantities["sum"].test.dispersion < 0.9
    with pytest.raises(ValueError, match=r"quantity 's' to give a number for each datum, \(60,\)"):
        calibrate(model, guide, data, **options | {"quantities": {"s": lambda z, x: x}})
    with pytest.raises(ValueError, match="quantity 's' but got nan"):
        calibrate(model, guide, data, **options | {"quantities": {"s": lambda z, x: x[:, 0] / 0 * 0}})
    with pytest.raises(ValueError, match=r"not taken but got \['tarp'\]"):
        calibrate(model, guide, data, **options | {"quantities": {"tarp": sum_of}})


def test_a_seed_repeats_all_and_leaves_the_global_state():
    state = torch.get_rng_state()
    first, again = (calibration_of(num_simulations=50, seed=3).to_frame() for _ in range(2))
    assert first.equals(again)
    assert torch.equal(state, torch.get_rng_state())


def test_counts_for_arviz_are_ranks_of_continuous_sites(exact):
    group = exact.to_arviz()["prior_sbc"]
    assert dict(group["z"].sizes) == {"chain": 1, "draw": 500, "z_dim_0": 2}
    assert group.attrs["num_draws"] == 99
    assert np.array_equal(group["z"].values[0, :, 1], exact.quantities["z[1]"].ranks)


def test_the_table_is_read_with_its_verdict(exact):
    lines = str(exact).splitlines()
    assert lines[0] == exact.verdict
    assert lines[-2] == "500 simulations, 99 draws each; p-values are corrected"
    assert lines[-1].startswith("mutual information 0.")


def test_the_picture_has_the_band_of_each_quantity(exact):
    frame = exact.ecdf_frame()
    assert set(frame["quantity"]) == set(exact.quantities) - {"all_latents"}
    assert ((frame["lower"] < 0) & (frame["upper"] > 0)).all()
    assert (frame["difference"].between(frame["lower"], frame["upper"])).all()
    off = calibration_of(shift=(0.25, 0.0)).ecdf_frame().query("quantity == 'z[0]'")
    assert not off["difference"].between(off["lower"], off["upper"]).all()


@pytest.mark.parametrize("name", ["num_simulations", "num_draws"])
def test_too_few_are_refused(name):
    with pytest.raises(ValueError, match=f"Expected {name} to be an integer >= "):
        calibrate(model, guide_with(), torch.zeros(4, 2), **{name: 5})


# ---- Programs of all kinds.


def test_discrete_latents_are_ranked_with_ties_broken_at_random():
    likelihood = [[[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]], [[0.3, 0.3, 0.4], [0.05, 0.05, 0.9]]]
    oracle = DiscreteVAE.optimal_encoder([[0.3, 0.2], [0.4, 0.1]], likelihood, 1.0)
    data = oracle.sample(6, seed=0)
    found = calibrate(oracle.model, oracle.guide, data, seed=0)
    assert found.verdict.startswith("calibrated")
    assert any(len(np.unique(each.ranks)) > 50 for each in found.quantities.values())


def test_constrained_latents():
    def gamma_model(x):
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    def posterior(excess):
        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("rate", dist.Gamma(2.0 + x + excess, 2.0))

        return guide

    data = torch.tensor([1.0, 2.0, 0.0])
    assert calibrate(gamma_model, posterior(0.0), data, seed=0).verdict.startswith("calibrated")
    assert calibrate(gamma_model, posterior(0.6), data, seed=0).verdict == "rate shifted, too high"


def covariate_model(x, shift, there):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(shift, 1.0))
        with poutine.mask(mask=there):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def covariate_guide(x, shift, there):
    assert (x[~there] == -7.0).all()  # what stands for what is missing
    with pyro.plate("data", len(x)):
        mean = torch.where(there, (x + shift) / 2, shift)
        pyro.sample("z", dist.Normal(mean, torch.where(there, SD, 1.0)))


def test_simulated_data_have_the_covariates_and_masks_of_the_data():
    there = torch.tensor([True, False, True])
    data = (torch.tensor([0.3, -7.0, 1.0]), torch.tensor([0.0, 5.0, 10.0]), there)
    found = calibrate(covariate_model, covariate_guide, data, seed=0)
    assert found.verdict.startswith("calibrated")
    off = calibrate(covariate_model, lambda x, s, t: covariate_guide(x, s + 0.5, t), data, seed=0)
    assert off.verdict == "z shifted, too high"


def test_masked_latents_are_ranked_where_they_count():
    def masked(program):
        def run(x, there):
            with pyro.plate("data", len(x)), poutine.mask(mask=there):
                program(x)

        return run

    def inner(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    data = torch.tensor([0.3, 0.0, 1.0]), torch.tensor([True, False, True])
    guide = masked(lambda x: pyro.sample("z", dist.Normal(x / 2, SD)))
    found = calibrate(masked(inner), guide, data, num_simulations=300, seed=0)
    assert len(found.quantities["z"].ranks) == 200
    assert found.mutual_information is None
    assert "mutual_information" in found.unavailable
    assert found.verdict.startswith("calibrated")


def test_local_latents_given_global_ones():
    def global_model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(mu, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def global_guide(x):
        mu = pyro.sample("mu", dist.Normal(4.0, 0.1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x + mu) / 2, SD))

    data = torch.zeros(5)
    found = calibrate(global_model, global_guide, data, seed=0)
    assert found.verdict.startswith("calibrated")
    assert "given their values" in found.unavailable["mu"]
    assert "not available: mu (" in str(found)
    assert list(found.to_frame().index) == ["z", "log_likelihood", "tarp"]


def test_plates_of_a_fixed_size_take_whole_data_sets():
    def fixed(x):
        with pyro.plate("data", 20):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 20):
            pyro.sample("z", dist.Normal(x / 2, SD))

    found = calibrate(fixed, guide, torch.zeros(20), num_simulations=110, seed=0)
    assert found.num_simulations == 120
    assert found.verdict.startswith("calibrated")


def test_parameters_that_belong_to_the_data_are_refused():
    def local(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    data = torch.zeros(60)
    guide = AutoNormal(local)
    guide(data)
    guide.locs.z.data = torch.randn(60)
    with pytest.raises(ValueError, match=r"its posteriors belong to the rows of the 60 data at hand"):
        calibrate(local, guide, data, num_simulations=60, seed=0)


def test_what_cannot_be_simulated_is_refused():
    def factor(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.factor("m", z)
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def inner(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x * 2 + 1)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, SD))

    with pytest.raises(NotImplementedError, match="factors"):
        calibrate(factor, guide, torch.zeros(5), seed=0)
    with pytest.raises(ValueError, match="is none of them"):
        calibrate(inner, guide, torch.zeros(5), seed=0)


def test_the_linear_gaussian_optimum_is_calibrated_only_at_beta_one():
    x = torch.zeros(1, 2, dtype=torch.float64)
    for beta, verdict in ((1.0, "calibrated"), (2.0, None)):
        oracle = LinearGaussian.optimum([4.0, 2.0], beta=beta, latent_dim=2, s2=0.5)
        found = calibrate(oracle.model, oracle.guide, x, seed=0).verdict
        assert found.startswith("calibrated") == (verdict is not None)
