"""What to_arviz makes on request: chains, families of sites, some of the data, held-out data, files."""

from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from pyro_infomax.diagnostics import decompose, to_arviz
from pyro_infomax.oracles import LinearGaussian
from tests.test_native import example


def groups_of(native: Any) -> dict[str, xr.Dataset]:
    """By name, from the type of any ArviZ."""
    if isinstance(native, xr.DataTree):
        return {name: node.to_dataset().load() for name, node in native.children.items()}
    return {name: native[name].load() for name in native.groups()}


def model(x: Tensor, covariate: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        kind = pyro.sample("kind", dist.Bernoulli(0.3))
        logits = (z.sum(-1) + covariate + kind)[..., None, None].expand(*kind.shape, 3, 3)
        pyro.sample("x", dist.Bernoulli(logits=logits, validate_args=False).to_event(2), obs=x)


def guide(x: Tensor, covariate: Tensor) -> None:
    with pyro.plate("data", len(x)):
        mean = x.mean((-1, -2))
        pyro.sample("z", dist.Normal(torch.stack([mean, covariate], -1), 0.1).to_event(1))
        pyro.sample("kind", dist.Bernoulli(logits=mean))


def images(size: int = 12) -> tuple[Tensor, Tensor]:
    return (torch.rand(size, 3, 3) < 0.4).double(), torch.randn(size)


SHIFTED = torch.tensor([4.0, 2.0])


def shifted(x: Tensor) -> None:
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(shift, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def shifting(x: Tensor) -> None:
    """A global latent whose draws differ, beside which those of the local one can be known again."""
    shift = pyro.sample("shift", dist.Normal(100.0, 10.0))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x + shift, 1e-3))


def wide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(512), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.mean(-1), 0.5), obs=x)


def widening(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x[:, None].expand(-1, 512), 1.0).to_event(1))


# ---- Chains and types.


def test_the_calls_of_the_page_are_tried_on_groups_like_these() -> None:
    """Those of tests/test_native.py, which ArviZ 1 sees without torch."""
    dims = {"z": ["axis"], "x": ["row", "column"]}
    found = groups_of(
        to_arviz(model, guide, images(), num_samples=3, num_chains=2, holdout=images(2), dims=dims, seed=0)
    )
    stand_in, _ = example()

    def shown(group: xr.Dataset) -> dict[Any, Any]:
        return {name: (each.dims, each.dtype.kind) for name, each in group.data_vars.items()}

    for name in ("posterior", "prior", "sample_stats", "posterior_predictive", "observed_data"):
        assert shown(found[name]) == shown(stand_in[name]), name
    assert shown(found["predictions"]).items() >= shown(stand_in["predictions"]).items()
    assert {"dimensionwise_kl", "rate"} <= set(found["information"])


def test_chains_are_independent_draws_and_the_programs_are_those_of_one() -> None:
    data = images()
    several, one = (
        to_arviz(model, guide, data, num_samples=size, num_chains=chains, seed=0)
        for size, chains in ((200, 4), (800, 1))
    )
    z = several.posterior["z"]
    assert dict(z.sizes) == {"chain": 4, "draw": 200, "datum": 12, "z_dim_0": 2}
    np.testing.assert_array_equal(z.values.reshape(1, 800, 12, 2), one.posterior["z"])
    assert several.prior["kind"].shape == (4, 200)
    assert several.posterior_predictive["x"].shape == (4, 200, 12, 3, 3)
    mean = data[0].mean((-1, -2)).numpy()
    assert (np.abs(z[..., 0].mean("draw") - mean) < 5 * 0.1 / np.sqrt(200)).all()


def test_discrete_sites_are_integers() -> None:
    found = groups_of(to_arviz(model, guide, images(), num_samples=3, holdout=images(2), seed=0))
    for group, name in (
        ("posterior", "kind"),
        ("prior", "kind"),
        ("observed_data", "x"),
        ("posterior_predictive", "x"),
        ("predictions", "x"),
        ("predictions_constant_data", "x"),
    ):
        assert found[group][name].dtype == np.int64, (group, name)
    assert found["posterior"]["z"].dtype == found["constant_data"]["covariate"].dtype == np.float64


def test_grey_values_stay_as_they_are() -> None:
    x, covariate = images()
    found = to_arviz(model, guide, (0.9 * x, covariate), num_samples=3, seed=0)
    np.testing.assert_array_equal(found.observed_data["x"], 0.9 * x)
    assert found.posterior_predictive["x"].dtype == np.int64


# ---- Some of the data, and other data.


@pytest.mark.parametrize("datum", [slice(5, 9, 2), [5, -5], np.array([5, 7]), torch.tensor([5, 7])])
def test_some_of_the_data_are_converted_with_their_labels(datum: Any) -> None:
    data, names = images(), list("abcdefghijkl")
    found = to_arviz(model, guide, data, num_samples=400, datum=datum, coords={"datum": names}, seed=0)
    for group in ("posterior", "sample_stats", "posterior_predictive", "observed_data", "constant_data"):
        assert found[group]["datum"].values.tolist() == ["f", "h"], group
    np.testing.assert_array_equal(found.observed_data["x"], data[0][[5, 7]])
    np.testing.assert_array_equal(found.constant_data["covariate"], data[1][[5, 7]])
    means = torch.stack([data[0].mean((-1, -2)), data[1]], -1)[[5, 7]]
    error = np.abs(found.posterior["z"].mean(("chain", "draw")) - means.numpy())
    assert (error < 5 * 0.1 / np.sqrt(400)).all()
    assert int(found.information["data_size"]) == 12


def test_some_of_the_data_of_a_guide_that_belongs_to_them() -> None:
    """Which has parameters for each, and is no guide of fewer."""

    def latent(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    x = torch.linspace(-3, 3, 6)
    own = AutoNormal(latent, init_loc_fn=lambda site: x.clone() if site["name"] == "z" else None)
    own(x)
    found = to_arviz(latent, own, x, num_samples=100, datum=[4, 1], predictive_data=1, seed=0)
    assert found.posterior["datum"].values.tolist() == [4, 1]
    assert (np.abs(found.posterior["z"].mean(("chain", "draw")) - x[[4, 1]].numpy()) < 0.1).all()
    assert found.posterior_predictive["datum"].values.tolist() == [4]
    assert abs(float(found.posterior_predictive["x"].mean()) - float(x[4])) < 5 * 0.51 / 10
    assert found.sample_stats["log_weight"].shape == (1, 100, 2)


def test_held_out_data_are_predicted() -> None:
    data, held = images(), images(3)
    found = to_arviz(
        model, guide, data, num_samples=400, holdout=held, coords={"holdout": list("uvw")}, seed=0
    )
    predictions, given = found.predictions, found.predictions_constant_data
    assert dict(predictions["x"].sizes) == {
        "chain": 1,
        "draw": 400,
        "holdout": 3,
        "x_dim_0": 3,
        "x_dim_1": 3,
    }
    assert predictions["holdout"].values.tolist() == given["holdout"].values.tolist() == list("uvw")
    np.testing.assert_array_equal(given["x"], held[0])
    np.testing.assert_array_equal(given["covariate"], held[1])
    z, kind = predictions["z"].values, predictions["kind"].values
    means = torch.stack([held[0].mean((-1, -2)), held[1]], -1).numpy()
    assert (np.abs(z.mean((0, 1)) - means) < 5 * 0.1 / np.sqrt(400)).all()
    # each prediction stands beside its own draw, and has nine pixels of one probability
    probability = 1 / (1 + np.exp(-(z.sum(-1) + held[1].numpy() + kind)))
    error = predictions["x"].values.mean((-1, -2)) - probability
    assert (np.abs(error.mean((0, 1))) < 5 * 0.5 / np.sqrt(9 * 400)).all()
    only = to_arviz(model, guide, data, num_samples=2, holdout=held, predictive_data=0, seed=0)
    assert set(only.predictions) == {"z", "kind"}


def test_held_out_latents_stand_beside_the_global_ones_of_their_draw() -> None:
    found = to_arviz(shifted, shifting, torch.randn(4), num_samples=20, holdout=SHIFTED, seed=0)
    shift = found.posterior["shift"]
    assert float(shift.std()) > 3
    for z, x in ((found.predictions["z"], SHIFTED), (found.posterior["z"], found.observed_data["x"])):
        assert np.abs(z.values - shift.values[..., None] - np.asarray(x)).max() < 0.01


def test_global_latents_know_all_data_where_some_are_converted() -> None:
    def guide(x: Tensor) -> None:
        shift = pyro.sample("shift", dist.Normal(x.mean(), 0.01))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x + shift, 1e-3))

    x = torch.arange(11.0)
    found = to_arviz(shifted, guide, x, num_samples=5, datum=[0, 2], holdout=SHIFTED, seed=0)
    assert (np.abs(found.posterior["shift"] - 5) < 0.06).all()
    assert len(np.unique(found.posterior["shift"])) == 5  # they are drawn, and not the medians
    assert (np.abs(found.posterior["z"] - [5.0, 7.0]) < 0.07).all()
    assert (np.abs(found.predictions["z"] - (5 + SHIFTED).numpy()) < 0.07).all()


# ---- Families of sites.


def test_a_sequence_is_one_variable() -> None:
    def chain(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = torch.zeros(len(x))
            for t in range(11):
                z = pyro.sample(f"z_{t}", dist.Normal(z, 1.0))
                pyro.sample(f"x_{t}", dist.Normal(z, 0.5), obs=x[:, t])

    def encoder(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            for t in range(11):
                pyro.sample(f"z_{t}", dist.Normal(x[:, t], 0.01))

    x = torch.randn(5, 11)
    found = to_arviz(
        chain, encoder, x, num_samples=4, stack={"z": "time", "x": "time"}, decomposition=False, seed=0
    )
    assert found.posterior["z"].dims == ("chain", "draw", "datum", "time")
    assert np.abs(found.posterior["z"].values - x.numpy()).max() < 0.06
    assert found.prior["z"].dims == ("chain", "draw", "time")
    np.testing.assert_array_equal(found.observed_data["x"], x)
    assert np.abs(found.posterior_predictive["x"].values - x.numpy()).max() < 3.5
    assert "x_0" not in found.observed_data


# ---- The account, and files.


def test_an_account_is_not_made_of_many_data_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = LinearGaussian.optimum([2.0, 1.0], beta=1.0, latent_dim=1, s2=0.5)
    x = oracle.sample(10_001, seed=0)
    found = to_arviz(oracle.model, oracle.guide, x, num_samples=1, datum=slice(3), seed=0).information
    assert list(found.data_vars) == ["data_size"]
    assert "10001 data takes long" in found.attrs["account_unavailable"]
    account = decompose(oracle.model, oracle.guide, x[:20], seed=0)
    few = to_arviz(oracle.model, oracle.guide, x[:20], num_samples=1, decomposition=True, seed=0)
    assert float(few.information["rate"]) == float(account.rate)
    none = to_arviz(oracle.model, oracle.guide, x[:20], num_samples=1, decomposition=False, seed=0)
    assert "information" not in groups_of(none)


@pytest.mark.parametrize("kind", ["local", "global"])
def test_a_file_holds_what_is_made_in_memory(kind: str, tmp_path: Path) -> None:
    """More draws than are made at once: 2²¹ numbers of local latents, or 16 draws of global ones."""
    if kind == "local":
        programs, data, size = (wide, widening), torch.randn(40), 120
    else:
        programs, data, size = (shifted, shifting), torch.randn(5), 20
    options: dict[str, Any] = {"num_samples": size, "decomposition": False, "seed": 0}
    read = to_arviz(*programs, data, path=tmp_path / "posterior.nc", **options)
    whole = groups_of(to_arviz(*programs, data, **options))
    found = groups_of(read)
    assert found.keys() == whole.keys()
    for name, group in whole.items():
        xr.testing.assert_identical(found[name], group)
    assert len(np.unique(whole["posterior"]["z"].values[0, :, 0])) >= size  # no draw comes twice
    assert whole["posterior"]["draw"].values.tolist() == list(range(size))


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing is called \['nothing'\]"):
        to_arviz(model, guide, images(), path=tmp_path / "posterior.nc", dims={"nothing": []})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_chains": 0}, "Expected num_chains to be an integer >= 1 but got 0"),
        ({"datum": [12]}, r"a slice, or numbers of the 12 data, but got \[12\]"),
        ({"datum": 3}, "a slice, or numbers of the 12 data, but got 3"),
        ({"datum": [1, -11]}, r"each once, but it names some more than once: \[1, -11\]"),
        ({"datum": slice(12, None)}, "each once, but it names none"),
        ({"coords": {"holdout": ["a"]}}, r"nothing is called \['holdout'\]"),
        ({"stack": {"z": "time"}}, r"there is none of \['z'\]"),
        ({"holdout": torch.zeros(3)}, "a holdout like the data"),
        ({"decomposition": "none"}, "an account by decompose, True, False or None but got 'none'"),
        ({"path": "posterior.csv"}, r"ends in \.nc \(netCDF\) or \.zarr"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_arviz(model, guide, images(), num_samples=2, **options)
