"""The way to the installed ArviZ's type."""

from typing import Any

import arviz as az
import numpy as np
import xarray as xr

from pyro_infomax.diagnostics import to_native


def groups() -> dict[str, xr.Dataset]:
    z = xr.DataArray(np.arange(6.0).reshape(1, 2, 3), dims=("chain", "draw", "datum"))
    loss = xr.DataArray([2.0, 1.0], dims="step", coords={"step": [10, 20]})
    return {"posterior": xr.Dataset({"z": z}), "svi": xr.Dataset({"loss": loss}, attrs={"library": "pyro"})}


def dataset(native: Any, name: str) -> xr.Dataset:
    group = native[name]
    return (group.to_dataset() if isinstance(native, xr.DataTree) else group).load()


def test_the_type_is_the_installed_one() -> None:
    assert type(to_native(groups())) is (az.InferenceData if az.__version__.startswith("0.") else xr.DataTree)


def test_groups_keep_their_names_arrays_and_attributes() -> None:
    native = to_native(groups())
    for name, group in groups().items():
        xr.testing.assert_identical(dataset(native, name), group)


def test_a_file_gives_the_groups_back(tmp_path) -> None:
    to_native(groups()).to_netcdf(str(tmp_path / "some.nc"))
    back = az.from_netcdf(str(tmp_path / "some.nc"))
    for name, group in groups().items():
        xr.testing.assert_identical(dataset(back, name), group)
