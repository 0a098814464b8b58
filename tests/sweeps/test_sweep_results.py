from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from pyro_infomax.diagnostics import decompose
from pyro_infomax.information import Estimate
from pyro_infomax.oracles import LinearGaussian
from pyro_infomax.sweeps._results import as_dataset
from pyro_infomax.training import History


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
        (1.5, np.float64),
        (3, np.int64),
        (True, np.bool_),
        ("a", "<U1"),
        (np.float32(2), np.float32),
        (torch.tensor(2.0, dtype=torch.float32), np.float32),
        (torch.tensor(2.0, dtype=torch.bfloat16), np.float32),
        (torch.tensor(2.0, dtype=torch.float64, requires_grad=True), np.float64),
    ],
)
def test_a_number_keeps_its_kind(value, dtype):
    found = as_dataset({"a": value})["a"]
    assert found.dims == ()
    assert found.dtype == dtype
    assert found.item() == (value.item() if hasattr(value, "item") else value)


@pytest.mark.parametrize("value", [torch.ones(2, 3), np.ones((2, 3)), [[1, 1, 1]] * 2, [("a",) * 3] * 2])
def test_an_array_has_dimensions_of_its_name(value):
    assert dict(as_dataset({"a": value})["a"].sizes) == {"a_dim_0": 2, "a_dim_1": 3}


def test_a_result_is_a_copy():
    live = torch.zeros(2)
    found = as_dataset({"a": live})
    live += 1
    assert found["a"].values.tolist() == [0, 0]


def test_a_data_array_keeps_dimensions_labels_and_attributes():
    array = xr.DataArray(
        [1, 2], dims="axis", coords={"axis": ["p", "q"], "note": 3}, attrs={"units": "nats", "o": [1]}
    )
    found = as_dataset({"a": array})
    assert found["a"].dims == ("axis",)
    assert found["axis"].values.tolist() == ["p", "q"]
    assert found["axis"].dtype.kind == "U"
    assert found["a"].attrs == {"units": "nats"}
    assert "note" not in found.coords


def test_none_is_left_out():
    assert list(as_dataset({"a": None, "b": 1})) == ["b"]


def test_an_estimate_brings_errors_bound_and_target():
    found = as_dataset({"i": estimate(2.0)})
    assert list(found) == ["i", "i_standard_error"]
    assert found["i"].item() == 2
    assert found["i_standard_error"].item() == 0.2
    assert found["i"].attrs == {"bound": "upper", "target": "a number", "units": "nats per datum"}


def test_a_vector_of_estimates_shares_its_dimension_with_its_errors():
    found = as_dataset({"i": estimate([2.0, 3.0], population=torch.tensor([1.0, 4.0]))})
    assert [found[name].dims for name in found] == [("i_dim_0",)] * 3
    assert found["i_population_standard_error"].values.tolist() == [1, 4]


def test_a_decomposition_gives_its_fields(account):
    found = as_dataset(account)
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
    found = as_dataset({"last": account, "seconds": 1.0})
    assert found["last_rate"].item() == float(account.rate)
    assert {"last_dimensionwise_kl_standard_error", "seconds"} <= set(found)


@dataclass(frozen=True)
class Outer:
    a: float
    words: tuple[str, ...]
    note: str
    inner: object


def test_a_table_within_a_table_has_a_prefix():
    found = as_dataset(Outer(1.0, ("x",), "y", Outer(2.0, (), "", None)))
    assert {name: found[name].item() for name in found} == {"a": 1, "inner_a": 2}


def test_a_history_runs_along_its_epochs():
    history = History()
    history.append({"epoch": 1, "step": 3, "loss": 4.0, "seconds": 0.5})
    history.append({"epoch": 2, "step": 6, "loss": 2.0, "seconds": 0.5})
    found = as_dataset({"history": history})
    assert found["history_loss"].dims == ("epoch",)
    assert found["epoch"].values.tolist() == [1, 2]
    assert found["history_loss"].values.tolist() == [4, 2]
    assert as_dataset(history)["loss"].values.tolist() == [4, 2]


def test_a_frame_and_a_dataset_are_tables():
    frame = pd.DataFrame({"a": [1.0, 2.0]}, index=pd.Index(["x", "y"], name="row"))
    assert as_dataset(frame)["a"].sel(row="y").item() == 2
    assert as_dataset({"t": xr.Dataset({"a": ("n", [1, 2])})})["t_a"].dims == ("n",)


def test_a_tuple_gives_all_its_parts(account):
    found = as_dataset((account, {"seconds": 2.0}))
    assert {"rate", "seconds"} <= set(found)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (3.0, "Expected run to return a mapping from name to number.* but got float"),
        (None, "Expected run to return a mapping.* but got NoneType"),
        (torch.ones(2), "but got Tensor"),
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
        ({"a": xr.DataArray([1, 2], dims="beta")}, "other than those of the sweep but got beta"),
    ],
)
def test_another_result_gives_one_sentence(result, message):
    with pytest.raises(ValueError, match=message):
        as_dataset(result, taken={"beta"})
