import numpy as np
import pandas as pd
import pytest
import xarray as xr

from pyro_infomax._version import __version__
from pyro_infomax.sweeps._grid import axes_of
from pyro_infomax.sweeps._results import Failure, as_dataset, assemble

AXES = axes_of({"beta": [1.0, 4.0]}, 2)
FAILURE = Failure("ValueError", "no", "")


def together(*results):
    """Over two values and two seeds, the last result at all places that are left."""
    parts = [*results, *results[-1:] * 3][:4]
    return assemble(AXES, [each if isinstance(each, Failure) else as_dataset(each) for each in parts])


def labelled(values, labels, dim="n"):
    return {"a": xr.DataArray(values, dims=dim, coords={dim: labels})}


def test_points_stand_at_their_place():
    ds = together({"a": 0}, {"a": 1}, {"a": 2}, {"a": 3})
    assert ds["a"].dims == ("beta", "seed")
    assert [ds["a"].sel(beta=b, seed=s).item() for b in (1, 4) for s in (0, 1)] == [0, 1, 2, 3]
    assert ds["a"].dtype == np.int64
    assert (ds["failure"] == "").all()


def test_arrays_have_dimensions_after_those_of_the_grid():
    ds = together(*({"a": np.full((2, 3), i)} for i in range(4)))
    assert ds["a"].dims == ("beta", "seed", "a_dim_0", "a_dim_1")
    assert (ds["a"].sel(beta=4.0, seed=0) == 2).all()
    assert "a_dim_0" not in ds.coords


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
    ds = together(FAILURE)
    assert list(ds) == ["failure"]
    assert (ds["failure"] == "ValueError: no").all()


@pytest.mark.parametrize("value", [True, False])
def test_booleans_stay_booleans_where_none_is_missing(value):
    assert together({"a": value})["a"].values.tolist() == [[value] * 2] * 2


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


def test_the_dataset_names_its_makers():
    assert together({"a": 1}).attrs["creation_library_version"] == __version__


def test_netcdf_brings_it_back(tmp_path):
    axes = axes_of({"prior": [None, "vamp"], "flag": [True, False]}, 1)
    frame = pd.DataFrame({"loss": [1.0, 2.0]}, index=pd.Index([1, 2], name="epoch"))
    result = as_dataset({"a": 1.5, "b": True, "c": "ä", "d": 3, "e": ["x", "yz"], "history": frame})
    ds = assemble(axes, [result, FAILURE, result, result])
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
