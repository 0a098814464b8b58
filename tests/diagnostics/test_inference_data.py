"""The posterior for ArviZ: its groups, its weights, its file and what ArviZ makes of it."""

from functools import cache, partial
from pathlib import Path
from typing import Any

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

import pyro_infomax
from pyro_infomax.diagnostics import decompose, to_arviz
from pyro_infomax.oracles import LinearGaussian
from pyro_infomax.training import History


def oracle(full: bool = False) -> LinearGaussian:
    delta = torch.tensor([[0.4, 0.15], [0.15, 0.3]])
    v = torch.tensor([[0.5, 0.1, 0.0], [0.0, -0.4, 0.3]])
    return LinearGaussian(
        [2.0, 1.0, 0.5], v.T, 0.6, v, delta if full else delta.diagonal(), mu=[1.0, 0.0, -1.0]
    )


def model(x: Tensor, covariate: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        kind = pyro.sample("kind", dist.Bernoulli(0.3))
        pyro.sample("x", dist.Normal(z.sum(-1) + covariate, 0.5 + kind), obs=x)


def guide(x: Tensor, covariate: Tensor) -> None:
    with pyro.plate("data", len(x)):
        loc = torch.stack([0.4 * x, 0.3 * (x - covariate)], -1)
        pyro.sample("z", dist.Normal(loc, 0.4).to_event(1))
        pyro.sample("kind", dist.Bernoulli(logits=x))


def groups_of(native: Any) -> dict[str, xr.Dataset]:
    """By name, from the type of any ArviZ."""
    if isinstance(native, xr.DataTree):
        return {name: node.to_dataset().load() for name, node in native.children.items()}
    return {name: native[name].load() for name in native.groups()}


def data(size: int = 130) -> tuple[Tensor, Tensor]:
    return torch.randn(size), torch.randn(size)


# --- groups and their shapes ---

GROUPS = {
    "posterior": {"z": ("chain", "draw", "datum", "z_dim_0"), "kind": ("chain", "draw", "datum")},
    "sample_stats": {"log_weight": ("chain", "draw", "datum")},
    "prior": {"z": ("chain", "draw", "z_dim_0"), "kind": ("chain", "draw")},
    "posterior_predictive": {"x": ("chain", "draw", "datum")},
    "observed_data": {"x": ("datum",)},
    "constant_data": {"covariate": ("datum",)},
}


def test_every_group_has_its_arrays_and_dimensions() -> None:
    idata = to_arviz(model, guide, data(), num_samples=7, seed=0)
    groups = groups_of(idata)
    assert set(groups) == {*GROUPS, "information"}
    for group, arrays in GROUPS.items():
        assert {name: each.dims for name, each in groups[group].data_vars.items()} == arrays
    assert idata.posterior.z_dim_0.values.tolist() == [0, 1]
    assert dict(idata.posterior.sizes) == {"chain": 1, "draw": 7, "datum": 130, "z_dim_0": 2}
    assert idata.posterior_predictive.sizes["datum"] == 100
    assert idata.posterior_predictive.datum.values.tolist() == list(range(100))


def test_there_is_no_log_likelihood_by_which_loo_would_go_wrong() -> None:
    idata = to_arviz(model, guide, data(), num_samples=7, seed=0)
    assert "log_likelihood" not in groups_of(idata)


def test_every_group_says_where_it_comes_from() -> None:
    idata = to_arviz(model, guide, data(), num_samples=2, seed=0)
    for group in groups_of(idata).values():
        attributes = group.attrs
        assert attributes["inference_library"] == "pyro"
        assert attributes["inference_library_version"] == pyro.__version__
        assert attributes["creation_library"] == "pyro_infomax"
        assert attributes["creation_library_version"] == pyro_infomax.__version__


def test_the_data_are_kept_as_they_are() -> None:
    x, covariate = data()
    idata = to_arviz(model, guide, (x, covariate), num_samples=2, seed=0)
    np.testing.assert_array_equal(idata.observed_data["x"], x)
    np.testing.assert_array_equal(idata.constant_data["covariate"], covariate)


@pytest.mark.parametrize(("asked", "given"), [(3, 3), (None, 130), (500, 130)])
def test_as_many_data_are_predicted_as_asked_for(asked: int | None, given: int) -> None:
    idata = to_arviz(model, guide, data(), num_samples=2, predictive_data=asked, seed=0)
    assert idata.posterior_predictive.sizes["datum"] == given


def test_no_data_are_predicted_where_none_are_asked_for() -> None:
    idata = to_arviz(model, guide, data(), num_samples=2, predictive_data=0, seed=0)
    assert "posterior_predictive" not in groups_of(idata)


# --- the numbers ---


@pytest.mark.parametrize("full", [False, True])
def test_weights_belong_to_the_draws_that_are_kept(full: bool) -> None:
    problem = oracle(full)
    x = problem.sample(40, seed=0)
    idata = to_arviz(problem.model, problem.guide, x, num_samples=6, seed=0)
    z = torch.tensor(idata.posterior["z"].values[0])  # (draw, datum, latent)
    posterior = dist.MultivariateNormal((x - problem.mu) @ problem.V.T, problem.Delta).log_prob(z)
    prior = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    likelihood = dist.Normal(z @ problem.W.T + problem.mu, problem.s2.sqrt()).log_prob(x).sum(-1)
    weight = torch.tensor(idata.sample_stats["log_weight"].values[0])
    torch.testing.assert_close(weight, prior + likelihood - posterior)


def test_weights_of_several_sites_belong_to_the_draws_that_are_kept() -> None:
    x, covariate = data(30)
    idata = to_arviz(model, guide, (x, covariate), num_samples=6, seed=0)
    z, kind = (torch.tensor(idata.posterior[name].values[0]).double() for name in ("z", "kind"))
    loc = torch.stack([0.4 * x, 0.3 * (x - covariate)], -1)
    posterior = dist.Normal(loc, 0.4).log_prob(z).sum(-1) + dist.Bernoulli(logits=x).log_prob(kind)
    prior = dist.Normal(0.0, 1.0).log_prob(z).sum(-1) + dist.Bernoulli(0.3).log_prob(kind)
    likelihood = dist.Normal(z.sum(-1) + covariate, 0.5 + kind).log_prob(x)
    weight = torch.tensor(idata.sample_stats["log_weight"].values[0])
    torch.testing.assert_close(weight, prior + likelihood - posterior)


def test_weights_of_single_precision_belong_to_the_draws_that_are_kept() -> None:
    """A narrow posterior far from zero, where rounding moves a draw by a good part of its width."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.tensor(100.0, dtype=torch.float32), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 2e-5))

    x = 100 + torch.randn(20, dtype=torch.float32)
    idata = to_arviz(model, guide, x, num_samples=50, seed=0)
    assert idata.posterior["z"].dtype == np.float32
    z = torch.tensor(idata.posterior["z"].values[0].astype(np.float64))
    scale = torch.tensor(2e-5, dtype=torch.float32).double()
    posterior = dist.Normal(x.double(), scale).log_prob(z)
    prior = dist.Normal(torch.tensor(100.0), 1.0).log_prob(z)
    likelihood = dist.Normal(z.float(), torch.tensor(1.0)).log_prob(x).double()
    weight = torch.tensor(idata.sample_stats["log_weight"].values[0])
    torch.testing.assert_close(weight, prior + likelihood - posterior, rtol=0, atol=1e-5)


def test_posterior_and_predictions_have_the_moments_of_the_programs() -> None:
    problem = oracle(full=True)
    x = problem.sample(3, seed=0)
    idata = to_arviz(problem.model, problem.guide, x, num_samples=600, seed=0)
    z = torch.tensor(idata.posterior["z"].values[0])
    loc = (x - problem.mu) @ problem.V.T
    assert ((z.mean(0) - loc).abs() < 4 * (problem.Delta.diagonal() / 600).sqrt()).all()
    centred = z - loc
    covariance = torch.einsum("sni,snj->nij", centred, centred) / 600
    assert ((covariance - problem.Delta).abs() < 4 * 0.4 * (2 / 600) ** 0.5).all()

    predicted = torch.tensor(idata.posterior_predictive["x"].values[0])
    spread = problem.W @ problem.Delta @ problem.W.T + problem.s2 * torch.eye(3)
    error = (spread.diagonal() / 600).sqrt()
    assert ((predicted.mean(0) - loc @ problem.W.T - problem.mu).abs() < 4 * error).all()
    noise = predicted - z @ problem.W.T - problem.mu  # each prediction stands beside its own draw
    assert ((noise.var(0) / problem.s2 - 1).abs() < 5 * (2 / 600) ** 0.5).all()


def test_the_prior_has_the_moments_of_the_model() -> None:
    idata = to_arviz(model, guide, data(5), num_samples=600, seed=0)
    z, kind = idata.prior["z"].values, idata.prior["kind"].values
    assert np.all(np.abs(z.mean((0, 1))) < 4 / np.sqrt(600))
    assert np.all(np.abs(z.var((0, 1)) - 1) < 4 * np.sqrt(2 / 600))
    assert abs(kind.mean() - 0.3) < 4 * np.sqrt(0.21 / 600)


# --- the account and the history ---


def test_the_held_out_account_stands_in_the_same_group() -> None:
    problem = oracle()
    x, held = problem.sample(40, seed=0), problem.sample(20, seed=1)
    account = decompose(problem.model, problem.guide, x, seed=4, holdout=held)
    group = to_arviz(
        problem.model, problem.guide, x, num_samples=2, decomposition=account, seed=0
    ).information
    assert float(group["elbo"]) == float(account.elbo)
    assert float(group["holdout_elbo"]) == float(account.holdout.elbo)
    assert int(group["holdout_data_size"]) == 20
    error = account.holdout.prior_gap.standard_error
    assert float(group["holdout_prior_gap_standard_error"]) == float(error)
    assert "held-out" in group["holdout_prior_gap"].attrs["target"]
    np.testing.assert_array_equal(group["holdout_dimensionwise_kl"], account.holdout.dimensionwise_kl.value)
    reason = account.holdout.unavailable["decoder_gap"]
    assert group.attrs["holdout_decoder_gap_unavailable"] == reason


def test_the_account_is_a_group() -> None:
    problem = oracle()
    x = problem.sample(150, seed=0)
    account = decompose(problem.model, problem.guide, x, num_samples=3, seed=4)
    group = to_arviz(
        problem.model, problem.guide, x, num_samples=2, decomposition=account, seed=0
    ).information
    for name in ("distortion", "rate", "elbo", "mutual_information", "marginal_kl", "dimensionwise_kl"):
        estimate = getattr(account, name)
        np.testing.assert_array_equal(group[name], estimate.value)
        np.testing.assert_array_equal(group[f"{name}_standard_error"], estimate.standard_error)
        errors = group[f"{name}_population_standard_error"]
        np.testing.assert_array_equal(errors, estimate.population_standard_error)
        assert group[name].attrs["bound"] == estimate.bound
        assert group[name].attrs["units"] == "nats per datum"
    assert group["dimensionwise_kl"].dims == ("latent",)
    assert group.latent.values.tolist() == ["z[0]", "z[1]"]
    assert (int(group["active_units"]), int(group["data_size"]), int(group["saturated"])) == (2, 150, 0)


def test_accounts_of_sites_run_along_the_sites() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(a.unsqueeze(-1) * torch.ones(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(a, 0.5), obs=x)
            pyro.sample("y", dist.Normal(b.sum(-1), 0.5), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.5 * x, 0.5))
            pyro.sample("b", dist.Normal(a.unsqueeze(-1) * torch.ones(2), 1.0).to_event(1))

    x = torch.randn(30)
    account = decompose(model, guide, x, seed=0, holdout=torch.randn(20))
    group = to_arviz(model, guide, x, num_samples=2, decomposition=account, seed=0).information
    assert group["site_rate"].dims == group["holdout_site_rate"].dims == ("site",)
    assert group["site_rate_standard_error"].dims == ("site",)
    assert group["site_distortion"].dims == ("observed",)
    assert group.site.values.tolist() == ["a", "b"]
    assert group.observed.values.tolist() == ["x", "y"]
    assert group.latent.values.tolist() == ["a", "b[0]", "b[1]"]
    np.testing.assert_array_equal(group["site_rate"].sel(site="b"), account.site_rate.value[1])


def test_an_account_is_made_where_none_is_given() -> None:
    problem = oracle()
    x = problem.sample(150, seed=0)
    group = to_arviz(problem.model, problem.guide, x, num_samples=2, seed=0).information
    assert float(group["rate"]) == float(decompose(problem.model, problem.guide, x, seed=1).rate)


def test_what_the_account_lacks_is_said() -> None:
    def dependent(x: Tensor, covariate: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc = torch.stack([0.4 * x, 0.3 * (x - covariate)], -1)
            z = pyro.sample("z", dist.Normal(loc, 0.4).to_event(1))
            pyro.sample("kind", dist.Bernoulli(logits=z.sum(-1)))

    group = to_arviz(model, dependent, data(), num_samples=2, seed=0).information
    assert "total_correlation" not in group
    assert "closed form" in group.attrs["total_correlation_unavailable"]


def test_the_same_seed_gives_the_same_draws_with_or_without_an_account() -> None:
    problem = oracle()
    x = problem.sample(20, seed=0)
    account = decompose(problem.model, problem.guide, x, seed=0)
    one, other = (
        to_arviz(problem.model, problem.guide, x, num_samples=2, decomposition=each, seed=0)
        for each in (account, None)
    )
    for group in ("posterior", "prior", "posterior_predictive"):
        xr.testing.assert_identical(groups_of(one)[group], groups_of(other)[group])


def history() -> History:
    rows = History()
    rows.append({"epoch": 1, "step": 5, "loss": 3.0, "distortion": 2.0, "rate": 1.0, "seconds": 0.1})
    rows.append({"epoch": 2, "step": 10, "loss": 2.5, "distortion": 1.2, "rate": 1.3, "seconds": 0.1})
    return rows


@pytest.mark.parametrize("given", [history(), history().to_frame()], ids=["History", "DataFrame"])
def test_the_history_stands_along_the_steps(given: History | pd.DataFrame) -> None:
    svi = to_arviz(model, guide, data(5), num_samples=2, history=given, seed=0).svi
    assert svi["loss"].dims == ("step",)
    assert svi.step.values.tolist() == [5, 10]
    assert svi["loss"].sel(step=10) == 2.5
    assert set(svi.data_vars) == {"epoch", "loss", "distortion", "rate", "seconds"}


def test_a_plain_table_of_losses_gets_its_steps() -> None:
    svi = to_arviz(
        model, guide, data(5), num_samples=2, history=pd.DataFrame({"loss": [3.0, 2.0]}), seed=0
    ).svi
    assert svi.step.values.tolist() == [1, 2]
    assert set(svi.data_vars) == {"loss"}


# --- labels ---


def test_coords_and_dims_name_what_is_converted() -> None:
    problem = oracle()
    x = problem.sample(4, seed=0)
    names = ["a", "b", "c", "d"]
    idata = to_arviz(
        problem.model,
        problem.guide,
        x,
        num_samples=2,
        coords={"datum": names, "axis": ["u", "v"], "feature": [10, 20, 30]},
        dims={"z": ["axis"], "x": ["feature"]},
        predictive_data=3,
        seed=0,
    )
    assert idata.posterior["z"].sel(datum="c", axis="v").dims == ("chain", "draw")
    assert idata.prior["z"].dims == ("chain", "draw", "axis")
    assert idata.posterior_predictive["x"].dims == ("chain", "draw", "datum", "feature")
    assert idata.posterior_predictive.datum.values.tolist() == names[:3]
    assert idata.observed_data["x"].sel(datum="d", feature=20) == x[3, 1]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"coords": {"datum": ["a"]}}, "Expected 5 labels for the dimension 'datum' but got 1"),
        ({"coords": {"datum": ["a"] * 6}}, "Expected 5 labels for the dimension 'datum' but got 6"),
        ({"coords": {"z_dim_0": ["u"]}}, "Expected 2 labels for the dimension 'z_dim_0' of 'z' but got 1"),
        (
            {"dims": {"z": ["row", "column"]}},
            r"Expected 1 names of dimensions for 'z'.* but got \['row', 'column'\]",
        ),
        ({"coords": {"z_dim": ["u", "v"]}, "dims": {"y": []}}, r"nothing is called \['y', 'z_dim'\]"),
        ({"num_samples": 0}, "Expected num_samples to be an integer >= 1 but got 0"),
        ({"predictive_data": -1}, "Expected predictive_data to be an integer >= 0 but got -1"),
    ],
)
def test_wrong_arguments_are_named(names: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_arviz(model, guide, data(5), **names)


def test_arguments_that_are_not_observed_are_constants() -> None:
    def model(images: Tensor, *_: Tensor) -> None:
        with pyro.plate("data", len(images)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=images.float() / 2)

    def guide(images: Tensor, labels: Tensor, keep: Tensor) -> None:
        with pyro.plate("data", len(images)):
            pyro.sample("z", dist.Normal(0.1 * images + 0.1 * labels + keep, 1.0))

    images, labels, keep = torch.randn(6), torch.arange(6), torch.arange(6) > 2
    idata = to_arviz(model, guide, (images, labels, keep), num_samples=2, seed=0)
    assert list(idata.constant_data.data_vars) == ["images", "data_1", "data_2"]
    np.testing.assert_array_equal(idata.constant_data["data_1"], labels)
    np.testing.assert_array_equal(idata.constant_data["data_2"], keep)
    np.testing.assert_allclose(idata.observed_data["x"], images.float() / 2)


def test_an_argument_with_the_name_of_a_site_is_told_apart() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x / 2)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.1 * x, 1.0))

    idata = to_arviz(model, guide, torch.randn(6), num_samples=2, seed=0)
    assert list(idata.constant_data.data_vars) == ["x_argument"]


# --- programs of every kind ---


def test_a_subsampling_model_is_converted_whole() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=40) as rows:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(10 * z, 0.1), obs=x[rows])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=40) as rows:
            pyro.sample("z", dist.Normal(0.1 * x[rows], 0.01))

    x = 10 * torch.randn(110)
    idata = to_arviz(model, guide, x, num_samples=3, predictive_data=25, seed=0)
    assert idata.posterior.sizes["datum"] == 110
    np.testing.assert_array_equal(idata.observed_data["x"], x)
    assert idata.posterior_predictive["x"].shape == (1, 3, 25)
    assert np.abs(idata.posterior_predictive["x"].values[0] - x[:25].numpy()).max() < 2
    assert np.abs(idata.posterior["z"].values[0] - 0.1 * x.numpy()).max() < 0.06


def test_a_model_made_for_all_of_its_data_is_converted_whole() -> None:
    offsets = torch.randn(110)

    def model(x: Tensor) -> None:
        with pyro.plate("data", 110):
            z = pyro.sample("z", dist.Normal(torch.zeros(110), 1.0))
            pyro.sample("x", dist.Normal(z + offsets, 0.1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", 110):
            pyro.sample("z", dist.Normal(x - offsets, 0.01))

    x = torch.randn(110)
    idata = to_arviz(model, guide, x, num_samples=3, predictive_data=25, seed=0)
    assert idata.posterior_predictive["x"].shape == (1, 3, 25)
    assert np.abs(idata.posterior_predictive["x"].values[0] - x[:25].numpy()).max() < 0.6


def test_a_model_with_factors_has_no_prior_to_draw_from() -> None:
    def tilted(x: Tensor, covariate: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            kind = pyro.sample("kind", dist.Bernoulli(0.3))
            pyro.factor("tilt", -(z**2).sum(-1))
            pyro.sample("x", dist.Normal(z.sum(-1) + covariate, 0.5 + kind), obs=x)

    idata = to_arviz(tilted, guide, data(20), num_samples=3, seed=0)
    assert "prior" not in groups_of(idata)
    assert list(idata.observed_data.data_vars) == ["x"]
    assert list(idata.posterior_predictive.data_vars) == ["x"]


def test_a_prior_that_depends_on_data_is_drawn_for_them() -> None:
    def model(c: Tensor) -> None:
        with pyro.plate("data", len(c)):
            z = pyro.sample("z", dist.Normal(c, 0.01))
            pyro.sample("c", dist.Normal(z, 1.0), obs=c)

    def guide(c: Tensor) -> None:
        with pyro.plate("data", len(c)):
            pyro.sample("z", dist.Normal(c, 0.1))

    c = torch.tensor([-5.0, 0.0, 5.0])
    idata = to_arviz(model, guide, c, num_samples=7, seed=0)
    assert np.abs(idata.prior["z"].values[0] - c[torch.arange(7) % 3].numpy()).max() < 0.1
    assert "marginal_kl" not in idata.information


# --- no trace is left ---


def test_modes_gradients_and_a_seeded_random_state_are_left_alone() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(1, 2), nn.Dropout(0.5))

        def guide(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.layers(x[:, None]), 0.4).to_event(1))

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    encoder, x = Encoder(), 10 + torch.randn(30)
    before = torch.get_rng_state()
    one, other = (to_arviz(model, encoder.guide, x, num_samples=2, seed=0) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert encoder.training
    assert encoder.layers[1].training
    off = one.posterior["z"].values[0] - encoder.layers[0](x[:, None]).detach().numpy()
    assert np.abs(off).max() < 0.4 * 5  # no unit was dropped
    assert all(parameter.grad is None for parameter in encoder.parameters())
    np.testing.assert_array_equal(one.posterior["z"], other.posterior["z"])
    to_arviz(model, encoder.guide, x, num_samples=2)
    assert not torch.equal(torch.get_rng_state(), before)


# --- the file, and what ArviZ makes of it ---


@cache
def converted(path: str) -> tuple[Any, Any]:
    idata = to_arviz(model, guide, (*data(12),), num_samples=40, history=history(), seed=0)
    idata.to_netcdf(path)
    return idata, az.from_netcdf(path)


@pytest.fixture
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The same for all tests, which only read it: made, and what its file gives back."""
    return converted(str(tmp_path_factory.getbasetemp() / "posterior.nc"))


def test_a_file_gives_every_group_back(saved) -> None:
    before, after = map(groups_of, saved)
    assert after.keys() == before.keys()
    for name, group in before.items():
        xr.testing.assert_identical(after[name], group)


def test_booleans_and_integers_survive_the_file(tmp_path) -> None:
    def guide_of_three(x: Tensor, covariate: Tensor, keep: Tensor) -> None:
        guide(x, covariate)

    def model_of_three(x: Tensor, covariate: Tensor, keep: Tensor) -> None:
        model(x, covariate)

    keep = torch.arange(12) > 5
    idata = to_arviz(model_of_three, guide_of_three, (*data(12), keep), num_samples=2, seed=0)
    idata.to_netcdf(str(tmp_path / "posterior.nc"))
    back = az.from_netcdf(str(tmp_path / "posterior.nc"))
    np.testing.assert_array_equal(back.constant_data["keep"], keep)


def test_arviz_summarises_a_selection(saved) -> None:
    summary = az.summary(saved[1], coords={"datum": [0]}, var_names=["kind", "z"], kind="stats")
    assert set(summary.index) == {"kind[0]", "z[0, 0]", "z[0, 1]"}
    mean = float(saved[0].posterior["z"].sel(datum=0, z_dim_0=1).mean())
    assert float(summary.loc["z[0, 1]", "mean"]) == pytest.approx(mean, abs=0.01)


def test_arviz_plots_a_selection(saved) -> None:
    drawn = az.plot_forest(saved[1], var_names=["z"], coords={"datum": [0]})
    assert np.size(drawn) >= 1
    plt.close("all")


# ---- Names and labels of every kind.


class Conditional(nn.Module):
    def forward(self, x: Tensor, covariate: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1) + covariate, 1.0), obs=x)


def of_covariate(x: Tensor, covariate: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.stack([x, covariate], -1), 1.0).to_event(1))


@pytest.mark.parametrize("wrapped", [False, True])
def test_covariates_of_a_module_have_their_names(wrapped: bool) -> None:
    model = pyro.poutine.scale(Conditional(), scale=2.0) if wrapped else Conditional()
    found = to_arviz(model, of_covariate, (torch.randn(5), torch.randn(5)), num_samples=2, seed=0)
    assert list(found.constant_data) == ["covariate"]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (pd.Categorical(["a", "b", "a", "b", "a"]), ["a", "b", "a", "b", "a"]),
        (pd.array([3, 1, 4, 1, 5], dtype="Int64"), [3, 1, 4, 1, 5]),
        (pd.MultiIndex.from_product([["a"], range(5)]), [f"a, {n}" for n in range(5)]),
        (pd.Series(list("abcde"), dtype="string"), list("abcde")),
        (["a", 1, 2.5, "b", True], ["a", "1", "2.5", "b", "True"]),
    ],
)
def test_labels_of_pandas_survive_the_file(labels: Any, expected: list[Any], tmp_path: Path) -> None:
    data = torch.randn(5), torch.randn(5)
    found = to_arviz(Conditional(), of_covariate, data, num_samples=2, coords={"datum": labels}, seed=0)
    path = str(tmp_path / "labels.nc")
    found.to_netcdf(path)
    read = az.from_netcdf(path)
    assert read.posterior["datum"].values.tolist() == expected


def test_names_and_labels_that_cannot_be_are_refused() -> None:
    data = torch.randn(5), torch.randn(5)
    convert = partial(to_arviz, Conditional(), of_covariate, data, num_samples=2, seed=0)
    for dims in (["z"], ["draw"], ["datum"]):
        with pytest.raises(ValueError, match="that no site and no other dimension has"):
            convert(dims={"z": dims})
    with pytest.raises(ValueError, match="some are missing"):
        convert(coords={"datum": pd.array([1, None, 2, 3, 4], dtype="Int64")})


def test_a_likelihood_that_cannot_be_drawn() -> None:
    class Scored(dist.TorchDistribution):
        arg_constraints = {}
        support = dist.constraints.real
        has_rsample = False

        def __init__(self, loc: Tensor) -> None:
            self.loc = loc
            super().__init__(loc.shape, validate_args=False)

        def expand(self, batch_shape: Any, _instance: Any = None) -> "Scored":
            return Scored(self.loc.expand(batch_shape))

        def log_prob(self, value: Tensor) -> Tensor:
            return -(value - self.loc).abs()

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", Scored(z), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    x = torch.randn(5)
    with pytest.raises(NotImplementedError, match=r"'x'.*pass predictive_data=0"):
        to_arviz(model, guide, x, num_samples=2)
    found = to_arviz(model, guide, x, num_samples=2, predictive_data=0, seed=0)
    assert {"posterior", "prior"} <= set(found.groups())
