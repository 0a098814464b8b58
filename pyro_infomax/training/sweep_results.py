"""What a run returns, as one Dataset of named numbers and arrays."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import NDArray

from pyro_infomax.information import Estimate

_UNITS: Final = "nats per datum"
_KINDS: Final = "biufU"  # booleans, integers, floats and strings: what netCDF and npz hold as they are
_ERRORS: Final = ("standard_error", "population_standard_error")
_ALLOWED: Final = (
    "a mapping from name to number, array, DataArray, Estimate, Decomposition or History, one of the last "
    "two, a Dataset, or a tuple of these"
)


def as_dataset(result: Any, *, taken: Iterable[str] = ()) -> xr.Dataset:
    """What a run returned as a Dataset; see :func:`~pyro_infomax.training.sweep` for the rules.

    Args:
        result: what the run returned.
        taken: names that neither a variable nor a dimension may have.

    Raises:
        ValueError: if the result is of another kind, a name comes twice or is taken, or an array holds what
            is neither number, boolean nor string.

    Example:
        >>> as_dataset({"rate": 1.5, "active": [True, False]})["active"].dims
        ('active_dim_0',)
    """
    arrays: dict[str, xr.DataArray] = {}
    for name, array in _parts(result):
        if name in arrays:
            raise ValueError(
                f"Expected a result with one {name!r} but got several; put one of them under a name of its "
                f"own, which becomes a prefix: {{'history': history}}."
            )
        arrays[name] = array
    _check_free(arrays, set(taken))
    try:
        # labels that only some arrays of a point know would leave holes in the others
        found = xr.merge(
            [array.rename(name) for name, array in arrays.items()], join="exact", compat="equals"
        )
    except ValueError as error:
        raise ValueError(f"Expected arrays that agree on their dimensions but got: {error}") from error
    _check_labels(found)
    return found


def _parts(result: Any) -> Iterator[tuple[str, xr.DataArray]]:
    if isinstance(result, tuple | list):
        for each in result:
            yield from _parts(each)
    elif isinstance(result, Mapping) or _is_table(result):
        yield from _entries(result)
    else:
        raise ValueError(f"Expected run to return {_ALLOWED}, but got {type(result).__name__}.")


def _entries(table: Any) -> Iterator[tuple[str, xr.DataArray]]:
    """The named arrays of a mapping, a Dataset, a frame or a dataclass."""
    if isinstance(table, xr.Dataset):
        yield from ((_checked(name), _plain(array, name)) for name, array in table.data_vars.items())
    elif isinstance(table, Mapping):
        for name, value in table.items():
            yield from _named(_checked(name), value)
    elif dataclasses.is_dataclass(table):
        yield from _of_fields(table)
    else:
        frame = table if isinstance(table, pd.DataFrame) else table.to_frame()
        yield from _entries(xr.Dataset.from_dataframe(frame))


def _named(name: str, value: Any) -> Iterator[tuple[str, xr.DataArray]]:
    if value is None:
        return
    if isinstance(value, Estimate):
        yield from _of_estimate(name, value, _own_dims(name, value.value))
    elif isinstance(value, xr.DataArray):
        yield name, _plain(value, name)
    elif isinstance(value, Mapping) or _is_table(value):
        yield from ((f"{name}_{inner}", array) for inner, array in _entries(value))
    else:
        array = _as_array(value, name)
        yield name, xr.DataArray(array, dims=_own_dims(name, array))


def _is_table(value: Any) -> bool:
    """Whether it has named quantities: a frame, a History by its frame, a Decomposition as a dataclass."""
    if isinstance(value, type | xr.DataArray | Estimate):
        return False
    if isinstance(value, xr.Dataset | pd.DataFrame) or dataclasses.is_dataclass(value):
        return True
    return hasattr(value, "to_frame") and not isinstance(value, pd.Series | pd.Index)


def _of_fields(table: Any) -> Iterator[tuple[str, xr.DataArray]]:
    """Numbers, estimates and arrays of a dataclass; its other fields say what is no quantity."""
    for field in dataclasses.fields(table):
        value = getattr(table, field.name)
        if isinstance(value, Estimate) and value.value.dim() and hasattr(table, "axis"):
            dim, labels = table.axis(field.name)
            yield from _of_estimate(field.name, value, {dim: list(labels)})
        elif _is_quantity(value):
            yield from _named(field.name, value)


def _is_quantity(value: Any) -> bool:
    numbers = bool | int | float | np.ndarray | np.generic | torch.Tensor
    return isinstance(value, numbers | Estimate | xr.DataArray) or _is_table(value)


def _of_estimate(name: str, estimate: Estimate, dims: Any) -> Iterator[tuple[str, xr.DataArray]]:
    attrs = {"bound": estimate.bound, "target": estimate.target, "units": _UNITS}
    yield name, _labelled(estimate.value, name, dims).assign_attrs(attrs)
    for error in _ERRORS:
        if (value := getattr(estimate, error)) is not None:
            yield f"{name}_{error}", _labelled(value, name, dims).assign_attrs(units=_UNITS)


def _labelled(tensor: torch.Tensor, name: str, dims: Any) -> xr.DataArray:
    coords = dims if isinstance(dims, dict) else None
    return xr.DataArray(_as_array(tensor, name), dims=list(dims), coords=coords)


def _own_dims(name: str, array: Any) -> list[str]:
    return [f"{name}_dim_{axis}" for axis in range(array.ndim)]


def _as_array(value: Any, name: object) -> NDArray[Any]:
    """A copy of the values: the program may go on with its tensors."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        # NumPy has no bfloat16
        value = value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy()
    try:
        array = np.array(value)
    except ValueError:
        array = np.array(None)
    if array.dtype.kind == "O" and array.size and all(isinstance(each, str) for each in array.flat):
        array = array.astype(str)
    if array.dtype.kind not in _KINDS:
        raise ValueError(
            f"Expected {name!r} in the result to be numbers, booleans or strings but got "
            f"{type(value).__name__} of dtype {array.dtype}."
        )
    return array


def _plain(array: xr.DataArray, name: object) -> xr.DataArray:
    """With the labels of its dimensions and its plain attributes, and nothing else."""
    coords = {
        dim: _as_array(array.indexes[dim].to_numpy(), dim) for dim in array.dims if dim in array.indexes
    }
    attrs = {str(key): value for key, value in array.attrs.items() if isinstance(value, str | int | float)}
    return xr.DataArray(_as_array(array.values, name), dims=array.dims, coords=coords, attrs=attrs)


def _checked(name: object) -> str:
    if not isinstance(name, str) or not name or "/" in name:
        raise ValueError(f"Expected names in the result that are strings without '/' but got {name!r}.")
    return name


def _check_free(arrays: Mapping[str, xr.DataArray], taken: set[str]) -> None:
    names = set(arrays) | {str(dim) for array in arrays.values() for dim in array.dims}
    if both := sorted(names & taken):
        raise ValueError(
            f"Expected names in the result other than those of the sweep but got {', '.join(both)}; rename "
            "them."
        )


def _check_labels(found: xr.Dataset) -> None:
    for dim, index in found.indexes.items():
        if not index.is_unique:
            raise ValueError(f"Expected labels of {dim!r} that differ but got {list(index)}.")
