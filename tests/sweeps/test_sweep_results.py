"""What runs return becomes one Dataset over the grid."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import pyro_infomax
from pyro_infomax.diagnostics import decompose
from pyro_infomax.information import Estimate
from pyro_infomax.oracles import LinearGaussian
from pyro_infomax.sweeps import sweep
from pyro_infomax.training import History

BETAS = {"beta": [1.0, 4.0]}
FAILURE = ValueError("no")


def variables_of(result):
    """The Dataset of one point, without what the sweep adds."""
    found = sweep(lambda beta, seed: result, {"beta": [1.0]}, progress=False)
    return found.isel(beta=0, seed=0, drop=True).drop_vars("failure")


def together(*results, grid=BETAS, seeds=2):
    """Over all points of a grid, the last result at those that are left; what is an error is raised."""
    waiting = list(results)

    def run(**point):
        result = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        if isinstance(result, Exception):
            raise result
        return result

    if any(isinstance(result, Exception) for result in results):
        with pytest.warns(UserWarning, match="points failed"):
            return sweep(run, grid, seeds=seeds, progress=False)
    return sweep(run, grid, seeds=seeds, progress=False)


# ---- one result


@pytest.fixture(scope="module")
def account():
    oracle = LinearGaussian.optimum(torch.tensor([4.0, 2.0]).double(), 1.0, 2, s2=0.5)
    return decompose(oracle.model, oracle.guide, oracle.sample(50, seed=0), seed=0)


def estimate(value, *, population=None):
    value = torch.as_tensor(value, dtype=torch.float64)
    return Estimate(value, 0.1 * value, population, bound="upper", target="a number")


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (3, np.int64),
        (True, np.bool_),
        ("a", "<U1"),
        (np.float32(2), np.float32),
        (torch.tensor(2.0, dtype=torch.bfloat16), np.float32),
        (torch.tensor(2.0, dtype=torch.float64, requires_grad=True), np.float64),
    ],
)
def test_a_number_keeps_its_kind(value, dtype):
    found = variables_of({"a": value})["a"]
    assert found.dims == ()
    assert found.dtype == dtype
    assert found.item() == (value.item() if hasattr(value, "item") else value)


@pytest.mark.parametrize("value", [torch.ones(2, 3), [[1, 1, 1]] * 2, [("a",) * 3] * 2])
def test_an_array_has_dimensions_of_its_name(value):
    found = together({"a": value})
    assert dict(found["a"].sizes) == {"beta": 2, "seed": 2, "a_dim_0": 2, "a_dim_1": 3}
    assert "a_dim_0" not in found.coords


def test_a_result_is_a_copy():
    live = torch.zeros(2)
    found = sweep(lambda beta, seed: {"a": live.add_(1)}, BETAS, progress=False)
    assert found["a"].values.tolist() == [[[1, 1]], [[2, 2]]]


def test_a_data_array_keeps_dimensions_labels_and_attributes():
    array = xr.DataArray(
        [1, 2], dims="axis", coords={"axis": ["p", "q"], "note": 3}, attrs={"units": "nats", "o": [1]}
    )
    found = variables_of({"a": array})
    assert found["a"].dims == ("axis",)
    assert found["axis"].values.tolist() == ["p", "q"]
    assert found["axis"].dtype.kind == "U"
    assert found["a"].attrs == {"units": "nats"}
    assert "note" not in found.coords


def test_none_is_left_out():
    assert list(variables_of({"a": None, "b": 1})) == ["b"]


def test_an_estimate_brings_errors_bound_and_target():
    found = variables_of({"i": estimate(2.0)})
    assert list(found) == ["i", "i_standard_error"]
    assert found["i"].item() == 2
    assert found["i_standard_error"].item() == 0.2
    assert found["i"].attrs == {"bound": "upper", "target": "a number", "units": "nats per datum"}


def test_an_estimate_that_bounds_nothing_says_so():
    number = torch.tensor(1.0)
    found = variables_of({"i": Estimate(number, number, None, bound=None, target="a number")})
    assert found["i"].attrs["bound"] == "none"


def test_a_vector_of_estimates_shares_its_dimension_with_its_errors():
    found = variables_of({"i": estimate([2.0, 3.0], population=torch.tensor([1.0, 4.0]))})
    assert [found[name].dims for name in found] == [("i_dim_0",)] * 3
    assert found["i_population_standard_error"].values.tolist() == [1, 4]


def test_a_decomposition_gives_its_fields(account):
    found = variables_of(account)
    assert found["rate"].item() == float(account.rate)
    assert found["distortion_standard_error"].item() == float(account.distortion.standard_error)
    assert found["mutual_information_lower"].attrs["bound"] == "lower"
    assert found["active_units"].item() == account.active_units
    assert found["saturated"].item() is account.saturated
    assert found["dimensionwise_kl"].dims == ("latent",)
    assert found["latent"].values.tolist() == list(account.latent_names)
    assert np.array_equal(found["dimensionwise_kl"], account.dimensionwise_kl.value)
    # reasons and names are no quantities, and no field is missing without one
    estimates = {name for name, value in vars(account).items() if isinstance(value, Estimate)}
    assert {name for name in found if not str(name).endswith("_error")} == estimates | {
        "active_units",
        "data_size",
        "saturated",
    }


def test_under_a_name_a_table_has_a_prefix(account):
    found = variables_of({"last": account, "seconds": 1.0})
    assert found["last_rate"].item() == float(account.rate)
    assert {"last_dimensionwise_kl_standard_error", "seconds"} <= set(found)


@dataclass(frozen=True)
class Outer:
    a: float
    words: tuple[str, ...]
    note: str
    inner: object


def test_a_table_within_a_table_has_a_prefix():
    found = variables_of(Outer(1.0, ("x",), "y", Outer(2.0, (), "", None)))
    assert {name: found[name].item() for name in found} == {"a": 1, "inner_a": 2}


def test_a_history_runs_along_its_epochs():
    history = History()
    history.append({"epoch": 1, "step": 3, "loss": 4.0, "seconds": 0.5})
    history.append({"epoch": 2, "step": 6, "loss": 2.0, "seconds": 0.5})
    found = variables_of(({"history": history}, history))
    assert found["history_loss"].dims == ("epoch",)
    assert found["epoch"].values.tolist() == [1, 2]
    assert found["history_loss"].values.tolist() == found["loss"].values.tolist() == [4, 2]


def test_a_frame_and_a_dataset_are_tables():
    frame = pd.DataFrame({"a": [1.0, 2.0]}, index=pd.Index(["x", "y"], name="row"))
    found = variables_of((frame, {"t": xr.Dataset({"a": ("n", [1, 2])})}))
    assert found["a"].sel(row="y").item() == 2
    assert found["t_a"].dims == ("n",)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "Expected run to return a mapping from name to number.* but got NoneType"),
        (torch.ones(2), "Expected run to return a mapping.* but got Tensor"),
        ({"a": object()}, "'a' in the result to be numbers, booleans or strings but got object"),
        ({"a": 1j}, "'a' in the result to be numbers.* dtype complex128"),
        ({"a": [[1, 2], [3]]}, "'a' in the result to be numbers"),
        ({"a": np.array([None])}, "'a' in the result to be numbers"),
        ({"a/b": 1.0}, "names in the result that are strings without '/' but got 'a/b'"),
        ({"": 1.0}, "names in the result that are strings"),
        ({1: 1.0}, "names in the result that are strings"),
        (({"a": 1.0}, {"a": 1.0}), "a result with one 'a' but got several.*becomes a prefix"),
        ({"a": xr.DataArray([1], dims="n"), "b": xr.DataArray([1, 2], dims="n")}, "agree on their dimen"),
        (
            {"a": xr.DataArray([1, 2], coords={"n": [0, 1]}), "b": xr.DataArray([1], coords={"n": [0]})},
            "agree on their dimensions",
        ),
        ({"a": xr.DataArray([1, 2], coords={"n": [0, 0]})}, r"labels of 'n' that differ but got \[0, 0\]"),
        ({"beta": 1.0}, "names in the result other than those of the sweep but got beta"),
        ({"failure": 1.0, "seed": 2}, "other than those of the sweep but got failure, seed"),
        ({"a": xr.DataArray([1, 2], dims="beta")}, "other than those of the sweep but got beta"),
    ],
)
def test_another_result_gives_one_sentence(result, message):
    with pytest.raises(ValueError, match=message):
        variables_of(result)


# ---- the results of all points


def labelled(values, labels, dim="n"):
    return {"a": xr.DataArray(values, dims=dim, coords={dim: labels})}


def test_points_stand_at_their_place():
    ds = together({"a": 0}, {"a": 1}, {"a": 2}, {"a": 3})
    assert ds["a"].dims == ("beta", "seed")
    assert [ds["a"].sel(beta=b, seed=s).item() for b in (1, 4) for s in (0, 1)] == [0, 1, 2, 3]
    assert ds["a"].dtype == np.int64
    assert (ds["failure"] == "").all()
    assert ds.attrs["creation_library_version"] == pyro_infomax.__version__


@pytest.mark.parametrize(
    ("value", "missing", "dtype"),
    [(1, np.nan, np.float64), (True, np.nan, np.float64), ("ab", "", "<U2"), (np.float32(1), np.nan, "f4")],
)
def test_a_failing_point_is_missing_and_says_why(value, missing, dtype):
    ds = together({"a": value}, FAILURE, {"a": value})
    assert ds["failure"].values.tolist() == [["", "ValueError: no"], ["", ""]]
    assert ds["a"].dtype == dtype
    np.testing.assert_equal(ds["a"].values, np.array([[value, missing], [value, value]], dtype=dtype))


def test_all_points_have_failed():
    ds = together(FAILURE, KeyError())
    assert list(ds) == ["failure"]
    assert ds["failure"].values.tolist() == [["ValueError: no", "KeyError"], ["KeyError"] * 2]


def test_booleans_stay_booleans_where_none_is_missing():
    found = together({"a": False}, {"a": True})["a"]
    assert found.dtype == np.bool_
    assert found.values.tolist() == [[False, True], [True, True]]


def test_a_variable_of_some_points_only():
    ds = together({"a": 1}, {"b": 2})
    np.testing.assert_equal(ds["a"].values, [[1, np.nan], [np.nan, np.nan]])
    np.testing.assert_equal(ds["b"].values, [[np.nan, 2], [2, 2]])


def test_booleans_and_numbers_become_numbers():
    assert together({"a": True}, {"a": 2}).a.values.tolist() == [[1, 2], [2, 2]]
    assert together({"a": True}, {"a": 0.5}).a.values.tolist() == [[1, 0.5], [0.5, 0.5]]


def test_shorter_arrays_end_in_nan():
    ds = together({"a": [1, 2, 3]}, {"a": [4]})
    np.testing.assert_equal(ds["a"].sel(beta=1.0).values, [[1, 2, 3], [4, np.nan, np.nan]])


def test_labels_are_matched_in_the_order_in_which_they_come():
    ds = together(labelled([1, 2], ["z[9]", "z[10]"]), labelled([3, 4, 5], ["z[10]", "z[11]", "z[9]"]))
    assert ds["n"].values.tolist() == ["z[9]", "z[10]", "z[11]"]
    np.testing.assert_equal(ds["a"].sel(beta=1.0).values, [[1, 2, np.nan], [5, 3, 4]])


def test_labels_that_are_numbers_are_sorted():
    ds = together(labelled([1, 3], [1, 3]), labelled([2, 4], [2.0, 4.5]))
    assert ds["n"].values.tolist() == [1, 2, 3, 4.5]
    np.testing.assert_equal(ds["a"].sel(beta=1.0, seed=1).values, [np.nan, 2, np.nan, 4])


def test_labels_shared_by_two_variables_hold_for_both():
    first = {"a": xr.DataArray([1], dims="n", coords={"n": ["p"]})}
    second = {"b": xr.DataArray([2], dims="n", coords={"n": ["q"]})}
    ds = together(first, second)
    assert ds["n"].values.tolist() == ["p", "q"]
    np.testing.assert_equal(ds["b"].sel(beta=1.0, seed=1).values, [np.nan, 2])


def test_attributes_on_which_all_points_agree():
    def variable(bound):
        return {"a": xr.DataArray(1.0, attrs={"units": "nats", "bound": bound})}

    assert together(variable("exact"), variable("upper"))["a"].attrs == {"units": "nats"}
    assert together(variable("exact"))["a"].attrs == {"units": "nats", "bound": "exact"}
    assert together(variable("exact"), {"a": 2.0})["a"].attrs == {}


def test_netcdf_brings_it_back(tmp_path):
    frame = pd.DataFrame({"loss": [1.0, 2.0]}, index=pd.Index([1, 2], name="epoch"))
    result = {"a": 1.5, "b": True, "c": "ä", "d": 3, "e": ["x", "yz"], "history": frame}
    ds = together(result, FAILURE, result, grid={"prior": [None, "vamp"], "flag": [True, False]}, seeds=1)
    ds.to_netcdf(tmp_path / "sweep.nc", engine="h5netcdf")
    back = xr.load_dataset(tmp_path / "sweep.nc", engine="h5netcdf")
    xr.testing.assert_equal(back, ds)
    assert back.attrs == ds.attrs
    assert back.sel(prior="None", flag=False)["failure"].item() == "ValueError: no"


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ({"a": [1]}, {"a": 1}, "'a' to have the same dimensions but the points have"),
        ({"a": "x"}, {"a": 1}, "'a' to have the same kind but the points have numbers and strings"),
        (
            labelled([1], [1]),
            labelled([1], ["p"]),
            "'n' to have the same kind of labels but .* numbers and s",
        ),
        (
            labelled([1], [1]),
            {"a": xr.DataArray([1], dims="n")},
            "'n' to have the same kind of labels but the points have none and numbers",
        ),
    ],
)
def test_points_that_disagree_give_one_sentence(one, other, message):
    with pytest.raises(ValueError, match=message):
        together(one, other)
