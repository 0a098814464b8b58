"""How arrays become ArviZ's groups, under ArviZ 0.23 and, without torch, under ArviZ 1 (make test-arviz)."""

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from pyro_infomax import _native
from pyro_infomax._native import (
    OF_DATA,
    OF_DRAWS,
    OF_HOLDOUT,
    Labels,
    NativeFile,
    NativeParts,
    as_integers,
    elpd_data,
    history_group,
    in_chains,
    open_native,
    to_native,
)

IS_TREE = not az.__version__.startswith("0.")
PAGE = Path(__file__).resolve().parents[1] / "docs" / "arviz.md"
CHAINS, DRAWS, DATA, FEW, HELD = 2, 40, 6, 5, 3
SIZES = {"chain": CHAINS, "draw": DRAWS, "datum": DATA, "holdout": HELD}


def drawn(labels: Labels, size: int = DRAWS, first: int = 0) -> dict[str, xr.Dataset]:
    """Groups like those of to_arviz, of a pair with binary images: some of the draws of each chain."""
    random = np.random.default_rng(first)
    of_data, of_draws = (CHAINS, size, DATA), (CHAINS, size)
    z = np.linspace(-1, 1, DATA)[:, None] + 0.4 * random.normal(size=(*of_data, 2))
    on = 1 / (1 + np.exp(-z.sum(-1)))[..., None, None]
    x = as_integers((random.random((*of_data, 3, 3)) < on).astype(np.float32))
    kind = random.integers(0, 2, of_data)

    def group(arrays: dict[str, Any], lead: tuple[str, ...]) -> xr.Dataset:
        return labels.dataset(arrays, lead, first_draw=first)

    return {
        "posterior": group({"z": z, "kind": kind}, OF_DATA),
        "prior": group({"z": random.normal(size=(*of_draws, 2)), "kind": kind[:, :, 0]}, OF_DRAWS),
        "sample_stats": group({"log_weight": random.normal(size=of_data)}, OF_DATA),
        "posterior_predictive": group({"x": x[:, :, :FEW]}, OF_DATA),
        "predictions": group({"z": z[:, :, :HELD], "x": x[:, :, :HELD]}, OF_HOLDOUT),
    }


def given(labels: Labels) -> dict[str, xr.Dataset]:
    random = np.random.default_rng(1)
    x = random.integers(0, 2, (DATA, 3, 3))
    information = xr.Dataset(
        {"rate": 1.0, "dimensionwise_kl": ("latent", [0.1, 0.2])},
        coords={"latent": ["z[0]", "z[1]"]},
        attrs={"decoder_gap_unavailable": "there is none"},
    )
    return {
        "observed_data": labels.dataset({"x": x}, ["datum"]),
        "constant_data": labels.dataset({"keep": x[:, 0, 0] > 0, "label": np.arange(DATA)}, ["datum"]),
        "predictions_constant_data": labels.dataset({"x": x[:HELD]}, ["holdout"]),
        "svi": history_group(pd.DataFrame({"step": [5, 10], "loss": [3.0, 2.5]})),
        "information": information,
    }


def example_labels(**names: Any) -> Labels:
    return Labels(SIZES, **({"dims": {"z": ["axis"], "x": ["row", "column"]}} | names))


def groups_of(native: Any) -> dict[str, xr.Dataset]:
    """By name, from the type of any ArviZ."""
    if isinstance(native, xr.DataTree):
        return {name: node.to_dataset().load() for name, node in native.children.items()}
    return {name: native[name].load() for name in native.groups()}


def example() -> tuple[dict[str, xr.Dataset], Any]:
    labels = example_labels()
    groups = drawn(labels) | given(labels)
    return groups, to_native(groups)


@pytest.fixture(scope="module")
def idata() -> Any:
    return example()[1]


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


# ---- The native object, and its file.


def test_the_type_is_the_installed_one(idata: Any) -> None:
    assert type(idata) is (xr.DataTree if IS_TREE else az.InferenceData)


def test_groups_keep_arrays_dimensions_and_attributes() -> None:
    groups, native = example()
    found = groups_of(native)
    assert found.keys() == groups.keys()
    for name, group in groups.items():
        xr.testing.assert_identical(found[name], group)
    z = found["posterior"]["z"]
    assert dict(z.sizes) == {"chain": CHAINS, "draw": DRAWS, "datum": DATA, "axis": 2}
    assert found["posterior_predictive"]["datum"].values.tolist() == list(range(FEW))
    assert found["information"].attrs == {"decoder_gap_unavailable": "there is none"}


def test_arviz_reads_its_file(tmp_path: Path) -> None:
    groups, native = example()
    native.to_netcdf(str(tmp_path / "posterior.nc"))
    for back in (az.from_netcdf(str(tmp_path / "posterior.nc")), open_native(tmp_path / "posterior.nc")):
        assert type(back) is type(native)
        found = groups_of(back)
        assert found.keys() == groups.keys()
        for name, group in groups.items():
            xr.testing.assert_identical(found[name], group)


ENDINGS = [
    ".nc",
    pytest.param(".zarr", marks=pytest.mark.skipif(find_spec("zarr") is None, reason="zarr is an extra")),
]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_grows_with_the_draws_and_is_as_if_made_at_once(ending: str, tmp_path: Path) -> None:
    names = {"coords": {"draw": np.arange(DRAWS) * 10, "datum": list("abcdef")}}
    path, labels = tmp_path / f"posterior{ending}", example_labels(**names)
    with NativeParts() as parts, NativeFile(path) as file:
        for first, size in ((0, 16), (16, 16), (32, 8)):
            groups = drawn(labels, size, first)
            if not first:
                groups |= given(labels)
            parts.add(groups)
            file.add(groups)
        assert not path.exists()  # nor is there half of it
        whole, read = groups_of(parts.finish()), groups_of(file.finish())
    assert read.keys() == whole.keys()
    for name, group in whole.items():
        xr.testing.assert_identical(read[name], group)
    assert whole["posterior"]["draw"].values.tolist() == list(range(0, 10 * DRAWS, 10))
    assert whole["posterior_predictive"]["x"].dtype == read["posterior_predictive"]["x"].dtype == np.int32
    np.testing.assert_array_equal(whole["prior"]["z"][:, 16:32], drawn(labels, 16, 16)["prior"]["z"])
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_file_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "posterior.nc"
    path.write_text("before")
    labels = example_labels()
    later = drawn(labels, 10, 10)["posterior"]
    floats = {"posterior": later.assign(kind=later["kind"] * 1.0)}
    with NativeFile(path) as file:
        file.add(drawn(labels, 10))
        with pytest.raises(ValueError, match=r"one type of all draws of 'kind' in posterior but got int64"):
            file.add(floats)
    assert path.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1


def test_paths_that_cannot_be_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"ends in .nc \(netCDF\) or .zarr \(zarr\) but got 'posterior.csv'"):
        NativeFile("posterior.csv")
    with pytest.raises(ValueError, match="a folder that exists"):
        NativeFile(tmp_path / "nowhere" / "posterior.nc")
    monkeypatch.setattr(_native, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install zarr, or take a path that ends in \.nc"):
        NativeFile(tmp_path / "posterior.zarr")
    monkeypatch.setattr(_native, "find_spec", lambda name: name)
    (tmp_path / "posterior.zarr").mkdir()
    with pytest.raises(ValueError, match=r"nothing stands for a zarr store but .*posterior\.zarr exists"):
        NativeFile(tmp_path / "posterior.zarr")


# ---- Names, labels, types.


def test_chains_are_parts_of_the_draws() -> None:
    values = np.arange(24).reshape(6, 4)
    np.testing.assert_array_equal(in_chains(values, 2), [values[:3], values[3:]])


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([0.0, 1.0], np.float32), "int32"),
        (np.array([0.0, -3.0]), "int64"),
        (np.array([0.0, 2.0**40], np.float32), "int64"),
        (np.array([0.0, 2.0**63]), "float64"),
        (np.array([0.0, 0.5]), "float64"),
        (np.array([0.0, np.nan]), "float64"),
        (np.array([True]), "bool"),
        (np.array([], np.float32), "int32"),
    ],
)
def test_whole_numbers_become_integers_and_no_others(values: Any, dtype: str) -> None:
    found = as_integers(values)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, values)


def test_a_family_of_sites_is_stacked_in_the_order_of_its_numbers() -> None:
    arrays = {f"z_{t}": np.full((1, 2, 3, 4), t) for t in (11, 2, 3, 4, 5, 6, 7, 8, 9, 10)}
    labels = Labels({"chain": 1, "draw": 2, "datum": 3}, stack={"z": "time"}, dims={"z": ["axis"]})
    found = labels.dataset({**arrays, "z_max": np.zeros((1, 2, 3))}, OF_DATA)
    assert set(found) == {"z", "z_max"}
    assert found["z"].dims == ("chain", "draw", "datum", "time", "axis")
    assert found["time"].values.tolist() == list(range(2, 12))
    assert all(bool((found["z"].sel(time=t) == t).all()) for t in range(2, 12))
    labels.check_used()
    dated = Labels({"datum": 3}, stack={"x": "time"}, coords={"time": ["mon", "tue"]})
    found = dated.dataset({"x0": np.zeros(3), "x1": np.ones(3)}, ["datum"])
    assert found["x"].sel(time="tue").values.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ({"z_0": (), "z_2": ()}, r"one number after the other for the family 'z' but got \['z_0', 'z_2'\]"),
        ({"z_0": (2,), "z_1": (3,)}, r"one shape for the family 'z' but .*\{'z_0': \(2,\), 'z_1': \(3,\)\}"),
        ({"z_0": (), "z_1": (), "z": ()}, r"there is a site 'z' beside \['z_0', 'z_1'\]"),
        ({"z_1": (), "z1": ()}, r"one site of each number for the family 'z' but got \['z1', 'z_1'\]"),
    ],
)
def test_families_that_cannot_be_stacked_are_refused(sites: dict[str, Any], message: str) -> None:
    labels = Labels({"datum": 2}, stack={"z": "time"})
    with pytest.raises(ValueError, match=message):
        labels.dataset({name: np.zeros((2, *shape)) for name, shape in sites.items()}, ["datum"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"coords": {"datum": ["a"]}}, "Expected 2 labels for the dimension 'datum' but got 1"),
        ({"coords": {"axis": ["a"]}}, "Expected 3 labels for the dimension 'axis' of 'a' but got 1"),
        ({"coords": {"axis": ["a", None, "c"]}}, "a label for each place along 'axis' but some are missing"),
        ({"dims": {"a": ["i"], "b": ["i"]}}, "dimension 'i' but it is 3 for the site 'a' and 4 for 'b'"),
        ({"dims": {"a": ["i", "j"]}}, r"1 names of dimensions for 'a', .*shape \(3,\).* got \['i', 'j'\]"),
        ({"dims": {"a": ["b"]}}, r"names of dimensions for 'a' that no site.* got \['b'\]"),
        ({"dims": {"a": ["draw"]}}, r"names of dimensions for 'a' that no site.* got \['draw'\]"),
        ({"dims": {"a": "axis"}}, r"a list of names of dimensions for 'a' but got the string 'axis'"),
        ({"dims": {"c": ["i"]}, "coords": {"j": [1]}}, r"nothing is called \['c', 'j'\]"),
        ({"stack": {"c": "time"}}, r"there is none of \['c'\]: 'c' stands for sites called c_0, c_1"),
    ],
)
def test_names_that_clash_are_named(names: dict[str, Any], message: str) -> None:
    def convert() -> None:
        labels = Labels({"datum": 2}, **({"dims": {"a": ["axis"]}} | names))
        labels.dataset({"a": np.zeros((2, 3)), "b": np.zeros((2, 4))}, ["datum"])
        labels.check_used()

    with pytest.raises(ValueError, match=message):
        convert()


def test_a_site_of_the_name_of_a_dimension_is_refused() -> None:
    with pytest.raises(ValueError, match="there is a site 'draw'; rename it"):
        Labels({"datum": 2}).dataset({"draw": np.zeros(2)}, ["datum"])


def test_chosen_data_keep_their_labels() -> None:
    rows = np.array([4, 1])
    plain = Labels({"datum": 6}, rows=rows).dataset({"x": np.zeros(2)}, ["datum"])
    assert plain["datum"].values.tolist() == [4, 1]
    named = Labels({"datum": 6}, rows=rows, coords={"datum": list("abcdef")})
    assert named.dataset({"x": np.zeros(2)}, ["datum"])["datum"].values.tolist() == ["e", "b"]


# ---- The calls of the page, each with the object that the page makes.


def calls() -> list[str]:
    """The code in the column of the installed ArviZ, of each row of the page's table of calls."""
    table = PAGE.read_text().split("<!-- calls -->")[1].split("<!-- end -->")[0]
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("|")]
    cells = [row[2 if IS_TREE else 1] for row in rows[2:]]
    return [code for cell in cells for code in re.findall(r"`([^`]+)`", cell)]


def test_the_page_has_calls() -> None:
    assert len(calls()) > 10


@pytest.mark.parametrize("call", calls())
@pytest.mark.filterwarnings("ignore")  # ArviZ's advice, and its own ways
def test_a_call_of_the_page_works(idata: Any, call: str) -> None:
    selections = PAGE.read_text().split("<!-- selections -->")[1]
    names: dict[str, Any] = {"az": az, "idata": idata}
    exec(re.findall(r"^```python\n(.*?)^```$", selections, re.DOTALL | re.MULTILINE)[0], names)
    assert eval(call, names) is not None


def test_r_hat_of_independent_draws_is_about_one(idata: Any) -> None:
    table = az.summary(idata, var_names=["z"], coords={"datum": [0]})
    assert list(table.index) == ["z[0, 0]", "z[0, 1]"]
    assert (np.abs(pd.to_numeric(table["r_hat"]) - 1) < 0.1).all()


def test_no_call_makes_a_summary_of_the_account(idata: Any) -> None:
    """So that the page gives another."""
    with pytest.raises(ValueError):
        az.summary(idata, group="information")


# ---- What ArviZ compares.


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # of ArviZ 0.23 under pandas 3
def test_arviz_compares_log_predictive_densities():
    random = np.random.default_rng(0)
    better = random.normal(size=50)
    worse = better - 0.5 + 0.1 * random.normal(size=50)
    both = {
        name: elpd_data(each, np.linspace(0, 0.8, 50), num_samples=100, good_k=0.5)
        for name, each in {"worse": worse, "better": better}.items()
    }
    frame = az.compare(both, round_to="none") if IS_TREE else az.compare(both)
    assert list(frame.index) == ["better", "worse"]
    assert frame.loc["worse", "dse"] == pytest.approx(np.sqrt(50 * np.var(better - worse)))
    assert abs(frame.loc["worse", "elpd_diff"]) == pytest.approx(np.sum(better - worse))
    assert both["better"]["n_data_points"] == 50
    assert both["better"]["warning"]
    assert "elpd_loo" in str(both["better"])
