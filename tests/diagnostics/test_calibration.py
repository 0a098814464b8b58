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


@pytest.mark.parametrize("seed", range(2))
def test_a_tenth_too_narrow_is_found(seed):
    found = calibration_of(scale=(0.9 * SD, 0.9 * SD), seed=seed, num_simulations=1000)
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


def test_in_few_simulations_a_narrow_guess_is_not_taken_for_the_prior():
    # half the variance of the prior, of which 50 simulations have an error of a fifth
    found = calibration_of(num_simulations=50, slope=(0.5, 0.0))
    assert found.quantities["z[1]"].contraction == pytest.approx(0.5, abs=4 * 0.5 * math.sqrt(2 / 50))
    assert found.verdict == "z[1] too narrow"


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


def test_arviz_is_given_the_ranks_that_were_tested(exact):
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
    with pytest.raises(ValueError, match="Expected level between 0 and 1"):
        exact.ecdf_frame(level=1.0)


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
    group = found.to_arviz()["prior_sbc"]
    for site in ("z_0", "z_1"):
        assert np.array_equal(group[site].values[0], found.quantities[site].ranks)
        # draws below the true value alone would be a third to a quarter as many
        assert abs(float(group[site].mean()) - 49.5) < 4 * 100 / math.sqrt(12 * 500)


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


def offset_model(x, centre, spread):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(centre, spread))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def offset_guide(x, centre, spread):
    with pyro.plate("data", len(x)):
        slope = spread**2 / (1 + spread**2)
        pyro.sample("z", dist.Normal(centre + slope * (x - centre), slope.sqrt()))


def offset_prior(x, centre, spread):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(centre, spread))


OFFSETS = torch.zeros(4), torch.tensor([-30.0, 8.0, 9.0, 40.0]), torch.tensor([1.0, 2.0, 1.0, 2.0])


def test_contraction_and_correlation_are_relative_to_the_prior_given_covariates():
    found = calibrate(offset_model, offset_guide, OFFSETS, seed=0)
    assert found.verdict.startswith("calibrated")
    # E Var[z|x, c] = (1/2 + 4/5) / 2 and E Var[z|c] = (1 + 4) / 2, from 99 draws of each of 500 rows
    posterior, prior = 0.65, 2.5
    z = found.quantities["z"]
    assert z.contraction == pytest.approx(1 - posterior / prior, abs=4 * 0.26 * 2 * math.sqrt(2 / 98 / 500))
    # from means of some 50 prior draws, and of 99 of the guide
    shared = prior - posterior
    both = (prior * 1.02) * (shared + prior / 50 + posterior / 99)
    expected = shared / math.sqrt(both)
    assert z.correlation == pytest.approx(expected, abs=4 * (1 - expected**2) * math.sqrt(2 / 500))
    assert found.mutual_information is None
    assert "the prior differs from datum to datum" in found.unavailable["mutual_information"]


def test_the_prior_given_covariates_is_a_collapse():
    # of few draws the means would agree by their noise, if truth and draws were less one and the same
    found = calibrate(offset_model, offset_prior, OFFSETS, num_draws=19, seed=0)
    assert found.verdict.startswith("collapsed: the posterior is the prior in all dimensions")
    z = found.quantities["z"]
    assert abs(z.contraction) < 4 * 2 * math.sqrt(4 / 18 / 500)
    assert abs(z.correlation) < 4 / math.sqrt(500) < z.predicted


def test_covariates_of_the_prior_in_a_plate_of_a_fixed_size():
    def fixed(x, centre):
        with pyro.plate("data", 50):
            z = pyro.sample("z", dist.Normal(centre, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, centre):
        with pyro.plate("data", 50):
            pyro.sample("z", dist.Normal((x + centre) / 2, SD))

    data = torch.zeros(50), torch.arange(50.0)
    found = calibrate(fixed, guide, data, num_simulations=50, num_draws=19, seed=0)
    # two variances of 18 degrees of freedom for each of 50 rows
    error = 0.5 * math.sqrt(2 * 2 / 18 / 50)
    assert found.quantities["z"].contraction == pytest.approx(0.5, abs=4 * error)


@pytest.mark.parametrize(("rows", "fewest", "most"), [(2000, 0, 1), (40, 1, 2)])
def test_rows_are_taken_at_random_and_equally_often(rows, fewest, most):
    seen = []

    def position(z, x, centre, spread):
        seen.append(spread)
        return z["z"]

    data = torch.zeros(rows), torch.zeros(rows), 1.0 + torch.arange(rows)
    options = {"num_simulations": 60, "num_draws": 19, "quantities": {"position": position}}
    for seed in (0, 1):
        calibrate(offset_model, offset_guide, data, seed=seed, **options)
    first, other = (seen[i].long() - 1 for i in (0, 20))
    counts = first.bincount(minlength=rows)
    assert counts.sum() == 60
    assert (counts.min(), counts.max()) == (fewest, most)
    assert not torch.equal(first, other)
    # the mean of 60 of 2000 in any order, or all of 40 and 20 more of them
    standard_error = rows / math.sqrt(12) / math.sqrt(60 if rows == 2000 else 180)
    assert abs(float(first.double().mean()) - rows / 2) < 4 * standard_error


def two_masked_model(x, y, *there):
    with pyro.plate("data", len(x)):
        for i, (observed, mask) in enumerate(zip((x, y), there, strict=True)):
            with poutine.mask(mask=mask):
                z = pyro.sample(f"z_{i}", dist.Normal(0.0, 1.0))
                pyro.sample(f"x_{i}", dist.Normal(z, 1.0), obs=observed)


def two_masked_guide(scale=SD):
    def guide(x, y, *there):
        with pyro.plate("data", len(x)):
            for i, (mean, mask) in enumerate(zip((x / 2, y / 2), there, strict=True)):
                with poutine.mask(mask=mask):
                    pyro.sample(f"z_{i}", dist.Normal(mean, scale))

    return guide


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
    assert found.mutual_information is None
    assert "mutual_information" in found.unavailable
    assert found.verdict.startswith("calibrated")
    # where no latent counts, nothing that depends on them does
    assert {name: len(each.ranks) for name, each in found.quantities.items()} == dict.fromkeys(
        ["z", "log_likelihood", "tarp"], 200
    )
    exported = found.to_arviz()["prior_sbc"]["z"].values[0]
    assert np.isnan(exported).sum() == 100
    assert np.array_equal(exported[~np.isnan(exported)], found.quantities["z"].ranks)
    assert "num_simulations" in str(found)


def test_each_quantity_has_the_band_of_its_own_ranks():
    x, always, seldom = torch.zeros(4), torch.ones(4, dtype=torch.bool), torch.arange(4) < 1

    def found_for(mask, num_simulations):
        options = {"num_simulations": num_simulations, "num_draws": 19, "seed": 0}
        return calibrate(two_masked_model, two_masked_guide(), (x, x, always, mask), **options)

    found, fewer = found_for(seldom, 240), found_for(always, 60).ecdf_frame(level=0.9)
    numbers = {"z_0": 240, "z_1": 60, "log_likelihood": 240, "tarp": 240, "all_latents": 240}
    assert found.to_frame()["num_simulations"].to_dict() == numbers
    frame = found.ecdf_frame(level=0.9)
    of_all, of_few, expected = (
        each.query(f"quantity == {name!r}")[["lower", "upper"]].to_numpy()
        for each, name in ((frame, "z_0"), (frame, "z_1"), (fewer, "z_1"))
    )
    assert np.array_equal(of_few, expected)
    # half as wide for four times as many, but for whole ranks
    assert np.allclose((of_few[:, 1] - of_few[:, 0]) / (of_all[:, 1] - of_all[:, 0]), 2, atol=0.35)


def test_nothing_is_said_of_latents_that_are_not_ranked():
    x, never, seldom = torch.zeros(10), torch.zeros(10, dtype=torch.bool), torch.arange(10) < 4
    options = {"num_simulations": 100, "num_draws": 19, "seed": 0}
    found = calibrate(two_masked_model, two_masked_guide(), (x, x, never, never), **options)
    assert found.verdict.startswith("not judged")
    assert found.quantities == {}
    assert found.unavailable["z_0"] == found.unavailable["tarp"] == "masked in all simulations"
    assert found.to_frame().empty
    assert found.ecdf_frame().empty
    assert "not available: z_1 (masked in all simulations)" in str(found)
    # much too narrow, in too few simulations to say so
    found = calibrate(two_masked_model, two_masked_guide(0.2), (x, x, seldom, seldom), **options)
    assert found.verdict.startswith("not judged")
    assert found.unavailable["z_0"].startswith("not masked in 40 simulations alone, where 50 are needed")
    # no dimension has simulations enough, but all of them together have
    found = calibrate(two_masked_model, two_masked_guide(0.2), (x, x, seldom, seldom.flip(0)), **options)
    assert list(found.quantities) == ["log_likelihood", "tarp"]
    assert found.verdict == "the latents together too narrow"
    assert found.unavailable["all_latents"] == "of 0 of the 2 latent dimensions there are ranks enough"


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
    noise = 1e-4

    def fixed(x):
        with pyro.plate("data", 20):
            z = pyro.sample("z", dist.Normal(0.0, 10.0))
            pyro.sample("x", dist.Normal(z, noise), obs=x)

    def guide(x):
        with pyro.plate("data", 20):
            pyro.sample("z", dist.Normal(x, noise))

    found = calibrate(fixed, guide, torch.zeros(20), num_simulations=50, seed=0)
    assert found.num_simulations == 60
    assert found.verdict.startswith("calibrated")
    # posteriors so narrow tell all 60 simulated data apart
    assert float(found.mutual_information) == pytest.approx(math.log(60), abs=0.05)


def local_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def local_guide(posterior):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", posterior(x))

    return guide


def test_parameters_that_belong_to_the_data_are_refused():
    data = torch.zeros(60)
    guide = AutoNormal(local_model)
    guide(data)
    guide.locs.z.data = torch.randn(60)
    with pytest.raises(ValueError, match=r"its posteriors belong to the rows of the 60 data at hand"):
        calibrate(local_model, guide, data, num_simulations=60, seed=0)


IGNORES = "the posteriors are the same whatever is observed, as of a guide that is not amortised; "


@pytest.mark.parametrize(
    ("posterior", "verdict"),
    [
        (lambda x: dist.Normal(torch.full_like(x, 0.9), SD), IGNORES + "z shifted, too high"),
        # a posterior for each row, as many as are wanted
        (lambda x: dist.Normal(torch.linspace(-0.5, 0.5, len(x)), 0.3), IGNORES + "z too narrow"),
        (lambda x: dist.Normal(torch.zeros_like(x), 1.0), "collapsed: the posterior is the prior in all dim"),
        (lambda x: dist.Normal(x / 2, 0.2), "z too narrow"),
    ],
    ids=["one", "rows", "prior", "amortised"],
)
def test_posteriors_that_follow_no_data_are_told_from_those_that_do(posterior, verdict):
    found = calibrate(local_model, local_guide(posterior), torch.zeros(3), num_simulations=60, seed=0)
    assert found.verdict.startswith(verdict)
    assert found.ignores_data == (verdict != "z too narrow")


def test_parameters_of_the_rows_that_are_still_alike_follow_no_data():
    guide = AutoNormal(local_model, init_scale=0.1)
    data = torch.zeros(60)
    guide(data)
    guide.locs.z.data = torch.zeros(60)
    found = calibrate(local_model, guide, data, num_simulations=60, seed=0)
    assert found.verdict == IGNORES + "z too narrow"


def test_where_nothing_is_observed_a_guide_has_nothing_to_follow():
    def unseen(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with poutine.mask(mask=False):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    guide = local_guide(lambda x: dist.Normal(torch.zeros_like(x), 1.0))
    found = calibrate(unseen, guide, torch.zeros(3), num_simulations=50, num_draws=19, seed=0)
    assert not found.ignores_data


NAN = {
    "the draws of 'z' are nan": (lambda z: z, lambda x: (x / 2).where(x < 1, math.nan)),
    # the model never draws what the guide does
    r"log p\(x\|z\) of the draws are nan": (lambda z: (30 - z).log() - 3, lambda x: x + 31),
    "a model that scores what it draws but the log-density of": (lambda z: z.log(), lambda x: x),
}


@pytest.mark.parametrize("message", NAN)
def test_nan_has_no_rank(message):
    decode, encode = NAN[message]

    def observed(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(decode(z), 1.0), obs=x)

    guide = local_guide(lambda x: dist.Normal(encode(x), SD))
    with pyro.validation_enabled(False), pytest.raises(ValueError, match=f"Expected .*{message}"):
        calibrate(observed, guide, torch.zeros(3), num_simulations=50, num_draws=19, seed=0)


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
