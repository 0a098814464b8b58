"""The outcomes of all points as one Dataset over the grid."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyro
import xarray as xr
from numpy.typing import DTypeLike, NDArray

from pyro_infomax._version import __version__
from pyro_infomax.training.sweep_grid import FAILURE, Axis
from pyro_infomax.training.sweep_store import Failure, Outcome

Results = Mapping[int, xr.Dataset]
Labels = Mapping[str, "pd.Index[Any]"]


def assemble(axes: Sequence[Axis], outcomes: Sequence[Outcome]) -> xr.Dataset:
    """One Dataset with the axes as its first dimensions.

    Args:
        axes: of the grid.
        outcomes: of its points, the last axis running fastest.

    Raises:
        ValueError: if the points disagree on the dimensions or the kind of a variable, or on whether a
            dimension has labels.
    """
    results = {i: each for i, each in enumerate(outcomes) if isinstance(each, xr.Dataset)}
    dims, shape = [axis.name for axis in axes], [len(axis) for axis in axes]
    labels = _labels(results)
    variables: dict[str, Any] = {}
    for name in dict.fromkeys(name for each in results.values() for name in each.data_vars):
        own, array, attrs = _gathered(str(name), results, labels, size=len(outcomes))
        variables[str(name)] = ([*dims, *own], array.reshape([*shape, *array.shape[1:]]), attrs)
    failures = [str(each) if isinstance(each, Failure) else "" for each in outcomes]
    variables[FAILURE] = (dims, np.array(failures).reshape(shape))
    named = {dim for each in results.values() for dim in each.coords}
    coords = {axis.name: axis.coordinate for axis in axes}
    coords |= {dim: _plain(index) for dim, index in labels.items() if dim in named}
    return xr.Dataset(variables, coords=coords, attrs=_attributes())


def _gathered(
    name: str, results: Results, labels: Labels, *, size: int
) -> tuple[list[str], NDArray[Any], dict[str, Any]]:
    """A variable of all points: its own dimensions, its values (point, *own), and what all say about it."""
    found = {i: each[name] for i, each in results.items() if name in each.data_vars}
    dims = _same(name, "dimensions", [tuple(map(str, array.dims)) for array in found.values()])
    shape = [len(labels[dim]) for dim in dims]
    whole = len(found) == size and all(list(array.shape) == shape for array in found.values())
    dtype, missing = _dtype(name, [array.dtype for array in found.values()], whole=whole)
    full = np.full((size, *shape), missing, dtype)
    for i, array in found.items():
        place: Any = np.ix_(*(labels[dim].get_indexer(_index(array, dim)) for dim in dims))
        full[(i, *place)] = array.values
    first, *others = (array.attrs for array in found.values())
    shared = {key: value for key, value in first.items() if all(each.get(key) == value for each in others)}
    return list(dims), full, shared


def _labels(results: Results) -> dict[str, "pd.Index[Any]"]:
    """All labels of each dimension, numbers in order, words as they come up; positions where it has none."""
    labels: dict[str, Any] = {}
    for dim in dict.fromkeys(str(dim) for each in results.values() for dim in each.dims):
        having = [each for each in results.values() if dim in each.dims]
        _same(dim, "kind of labels", [_kind(each, dim) for each in having])
        union = pd.Index(np.concatenate([_index(each, dim).to_numpy() for each in having])).unique()
        labels[dim] = union.sort_values() if union.dtype.kind in "iuf" else union
    return labels


def _index(array: xr.DataArray | xr.Dataset, dim: str) -> "pd.Index[Any]":
    return array.indexes[dim] if dim in array.indexes else pd.RangeIndex(array.sizes[dim])


def _kind(array: xr.Dataset, dim: str) -> str:
    """A label of one kind would become one of another, and not be found again."""
    if dim not in array.indexes:
        return "none"
    kind = array.indexes[dim].dtype.kind
    return "numbers" if kind in "iuf" else "booleans" if kind == "b" else "strings"


def _plain(index: "pd.Index[Any]") -> NDArray[Any]:
    return index.to_numpy() if index.dtype.kind in "biuf" else index.to_numpy().astype(str)


def _dtype(name: str, dtypes: Sequence[np.dtype[Any]], *, whole: bool) -> tuple[DTypeLike, Any]:
    """Where points are missing, strings are empty, and what has no nan becomes a float that has."""
    _same(name, "kind", ["strings" if dtype.kind == "U" else "numbers" for dtype in dtypes])
    # a boolean and a number have no type in common, and become numbers
    booleans = all(dtype.kind == "b" for dtype in dtypes)
    numeric = [dtype if booleans or dtype.kind != "b" else np.dtype(np.int64) for dtype in dtypes]
    dtype = np.result_type(*numeric)
    if dtype.kind == "U":
        return dtype, ""
    return dtype if whole or dtype.kind == "f" else np.float64, 0 if whole else np.nan


def _same(name: str, what: str, each: Sequence[Any]) -> Any:
    if len(set(each)) > 1:
        seen = " and ".join(sorted(map(str, set(each))))
        raise ValueError(f"Expected {name!r} to have the same {what} but the points have {seen}.")
    return each[0]


def _attributes() -> dict[str, str]:
    return {
        "inference_library": "pyro",
        "inference_library_version": pyro.__version__,
        "creation_library": "pyro_infomax",
        "creation_library_version": __version__,
    }
