"""Tensors with names along their axes."""

import pytest
import torch

from pyro_infomax.diagnostics._arviz import Labels


def test_unnamed_dimensions_are_named_after_their_array_and_numbered() -> None:
    z = Labels(3, coords={}, dims={}).dataset({"z": torch.zeros(3, 2, 4)}, ["datum"])["z"]
    assert z.dims == ("datum", "z_dim_0", "z_dim_1")
    assert z.coords["z_dim_1"].values.tolist() == [0, 1, 2, 3]


def test_fewer_data_take_the_first_labels() -> None:
    labels = Labels(3, coords={"datum": ["a", "b", "c"]}, dims={})
    few = labels.dataset({"x": torch.arange(2)}, ["datum"])["x"]
    assert few.sel(datum="b").item() == 1
    assert few.coords["datum"].values.tolist() == ["a", "b"]


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "c", "d"]])
def test_every_datum_needs_its_label(names: list[str]) -> None:
    with pytest.raises(ValueError, match=f"Expected 3 labels for the dimension 'datum' but got {len(names)}"):
        Labels(3, coords={"datum": names}, dims={})


def test_the_number_of_labels_is_checked() -> None:
    labels = Labels(3, coords={"axis": ["u"]}, dims={"z": ["axis"]})
    with pytest.raises(ValueError, match="Expected 2 labels for the dimension 'axis' but got 1"):
        labels.dataset({"z": torch.zeros(3, 2)}, ["datum"])


def test_the_number_of_dimensions_is_checked() -> None:
    labels = Labels(3, coords={}, dims={"z": ["row", "column"]})
    with pytest.raises(
        ValueError, match=r"Expected 1 names of dimensions for 'z' but got \['row', 'column'\]"
    ):
        labels.dataset({"z": torch.zeros(3, 2)}, ["datum"])


def test_names_of_nothing_are_refused() -> None:
    labels = Labels(3, coords={"axes": ["u", "v"]}, dims={"z": ["axis"], "y": []})
    labels.dataset({"z": torch.zeros(3, 2)}, ["datum"])
    with pytest.raises(ValueError, match=r"nothing is called \['axes', 'y'\]"):
        labels.check_used()


def test_names_that_are_used_pass() -> None:
    labels = Labels(3, coords={"axis": ["u", "v"]}, dims={"z": ["axis"]})
    labels.dataset({"z": torch.zeros(3, 2)}, ["datum"])
    labels.check_used()
