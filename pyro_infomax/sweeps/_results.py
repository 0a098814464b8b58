"""The outcomes of a sweep: what a run returns, how it is kept, and all of them as one Dataset."""

import dataclasses
import json
import os
import uuid
import warnings
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypeVar, final, runtime_checkable

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import DTypeLike

from pyro_infomax._types import Array
from pyro_infomax._version import creation_attributes
from pyro_infomax.information import Estimate
from pyro_infomax.sweeps._grid import FAILURE, Axis, Point

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# ---- What a run returned, as a Dataset.

_UNITS: Final = "nats per datum"
_KINDS: Final = "biufU"  # booleans, integers, floats and strings: what netCDF and npz hold as they are
_ERRORS: Final = ("standard_error", "population_standard_error")
_ALLOWED: Final = (
    "a mapping from name to number, array, DataArray, Estimate, Decomposition or History, one of the last "
    "two, a Dataset, or a tuple of these"
)

Dims: TypeAlias = list[str] | dict[str, list[object]]
"""Names of dimensions, with their labels where they have any."""


@runtime_checkable
class _Framed(Protocol):
    def to_frame(self) -> pd.DataFrame: ...


def as_dataset(result: object, *, taken: Iterable[str] = ()) -> xr.Dataset:
    """What a run returned as a Dataset; see :func:`~pyro_infomax.sweep` for the rules.

    Neither a variable nor a dimension may have a name that is taken.
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


def _parts(result: object) -> Iterator[tuple[str, xr.DataArray]]:
    if isinstance(result, tuple | list):
        for each in result:
            yield from _parts(each)
    elif isinstance(result, Mapping) or _is_table(result):
        yield from _entries(result)
    else:
        raise ValueError(f"Expected run to return {_ALLOWED}, but got {type(result).__name__}.")


def _entries(table: object) -> Iterator[tuple[str, xr.DataArray]]:
    """The named arrays of a mapping, a Dataset, a frame or a dataclass."""
    if isinstance(table, xr.Dataset):
        yield from (
            (_checked_name(name), _plain_array(array, name)) for name, array in table.data_vars.items()
        )
    elif isinstance(table, Mapping):
        for name, value in table.items():
            yield from _named(_checked_name(name), value)
    elif dataclasses.is_dataclass(table):
        yield from _of_fields(table)
    elif isinstance(table, pd.DataFrame):
        yield from _entries(xr.Dataset.from_dataframe(table))
    elif isinstance(table, _Framed):
        yield from _entries(table.to_frame())


def _named(name: str, value: object) -> Iterator[tuple[str, xr.DataArray]]:
    if value is None:
        return
    if isinstance(value, Estimate):
        yield from _of_estimate(name, value, _own_dims(name, value.value))
    elif isinstance(value, xr.DataArray):
        yield name, _plain_array(value, name)
    elif isinstance(value, Mapping) or _is_table(value):
        yield from ((f"{name}_{inner}", array) for inner, array in _entries(value))
    else:
        array = _as_array(value, name)
        yield name, xr.DataArray(array, dims=_own_dims(name, array))


def _is_table(value: object) -> bool:
    """Whether it has named quantities: a frame, a History by its frame, a Decomposition as a dataclass."""
    if isinstance(value, type | xr.DataArray | Estimate):
        return False
    if isinstance(value, xr.Dataset | pd.DataFrame) or dataclasses.is_dataclass(value):
        return True
    return isinstance(value, _Framed) and not isinstance(value, pd.Series | pd.Index)


def _of_fields(table: "DataclassInstance | type[DataclassInstance]") -> Iterator[tuple[str, xr.DataArray]]:
    """Numbers, estimates and arrays of a dataclass; its other fields say what is no quantity."""
    for field in dataclasses.fields(table):
        value = getattr(table, field.name)
        if isinstance(value, Estimate) and value.value.dim() and hasattr(table, "axis"):
            dim, labels = table.axis(field.name)
            yield from _of_estimate(field.name, value, {dim: list(labels)})
        elif _is_quantity(value):
            yield from _named(field.name, value)


def _is_quantity(value: object) -> bool:
    numbers = bool | int | float | np.ndarray | np.generic | torch.Tensor
    return isinstance(value, numbers | Estimate | xr.DataArray) or _is_table(value)


def _of_estimate(name: str, estimate: Estimate, dims: Dims) -> Iterator[tuple[str, xr.DataArray]]:
    # A file has no None
    attrs = {"bound": estimate.bound or "none", "target": estimate.target, "units": _UNITS}
    yield name, _labelled(estimate.value, name, dims).assign_attrs(attrs)
    for error in _ERRORS:
        if (value := getattr(estimate, error)) is not None:
            yield f"{name}_{error}", _labelled(value, name, dims).assign_attrs(units=_UNITS)


def _labelled(tensor: torch.Tensor, name: str, dims: Dims) -> xr.DataArray:
    coords = dims if isinstance(dims, dict) else None
    return xr.DataArray(_as_array(tensor, name), dims=list(dims), coords=coords)


def _own_dims(name: str, array: torch.Tensor | Array) -> list[str]:
    return [f"{name}_dim_{axis}" for axis in range(array.ndim)]


def _as_array(value: object, name: object) -> Array:
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


def _plain_array(array: xr.DataArray, name: object) -> xr.DataArray:
    """With the labels of its dimensions and its plain attributes, and nothing else."""
    coords = {
        dim: _as_array(array.indexes[dim].to_numpy(), dim) for dim in array.dims if dim in array.indexes
    }
    attrs = {str(key): value for key, value in array.attrs.items() if isinstance(value, str | int | float)}
    return xr.DataArray(_as_array(array.values, name), dims=array.dims, coords=coords, attrs=attrs)


def _checked_name(name: object) -> str:
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


# ---- Where the outcomes of a sweep are kept: one file a point, written at once or not at all.

_FORMAT: Final = "pyro_infomax sweep point"
_VERSION: Final = 1
# zipfile knows a compression or a password that it lacks as a RuntimeError
_UNREADABLE: Final = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    RuntimeError,
    MemoryError,  # of a size that a damaged file declares
    zipfile.BadZipFile,
)


@final
@dataclass(frozen=True)
class Failure:
    """Why a point has no result."""

    kind: str  # the class of the exception
    message: str
    traceback: str

    @property
    def origin(self) -> tuple[str, ...]:
        """The class of the exception and the lines of code that it came through."""
        lines = self.traceback.splitlines()
        return self.kind, *(line for line in lines if line.startswith('  File "'))

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}" if self.message else self.kind


PointOutcome = xr.Dataset | Failure


class Store(ABC):
    """Outcomes by their points."""

    @abstractmethod
    def read(self, point: Point) -> PointOutcome | None:
        """The point's result, or else its failure; None if it has neither."""

    @abstractmethod
    def write(self, point: Point, outcome: PointOutcome) -> None:
        """Keeps the outcome of the point in the place of an older one."""

    @abstractmethod
    def where(self, point: Point, failure: Failure) -> str:
        """Words that say where to read the traceback of the point's failure."""


@final
class NoStore(Store):
    """Keeps nothing."""

    def read(self, point: Point) -> PointOutcome | None:  # noqa: ARG002
        return None

    def write(self, point: Point, outcome: PointOutcome) -> None:
        pass

    def where(self, point: Point, failure: Failure) -> str:  # noqa: ARG002
        return f"Its traceback:\n{failure.traceback}"


@final
class FolderStore(Store):
    """A folder with a file a point: ``KEY.npz`` with its result, or ``KEY.failure.json``.

    A file is written under a name of its own and then renamed, so that whoever reads finds it whole or not
    at all, and of two sweeps that write the same point the last wins. Nothing in a file is ever executed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        # workers may have another working directory
        self._folder = Path(folder).expanduser().absolute()
        if self._folder.exists() and not self._folder.is_dir():
            raise ValueError(f"Expected store to be a folder but got the file {self._folder}.")
        self._folder.mkdir(parents=True, exist_ok=True)

    def read(self, point: Point) -> PointOutcome | None:
        for path, load in ((self._result(point), _load_result), (self._failure(point), _load_failure)):
            try:
                return load(path, point)
            except FileNotFoundError:
                continue
            except _UNREADABLE as error:
                warnings.warn(f"{path} is not the outcome of {point} and is made anew: {error}", stacklevel=2)
        return None

    def write(self, point: Point, outcome: PointOutcome) -> None:
        if isinstance(outcome, Failure):
            record = {"point": point.text, **asdict(outcome)}
            text = json.dumps(record, indent=1).encode()
            _write_at_once(self._failure(point), lambda file: file.write(text))
        else:
            arrays = _packed(outcome, point)
            _write_at_once(self._result(point), lambda file: np.savez(file, **arrays))
            self._failure(point).unlink(missing_ok=True)

    def where(self, point: Point, failure: Failure) -> str:  # noqa: ARG002
        return f"Its traceback is in {self._failure(point)}"

    def _failure(self, point: Point) -> Path:
        return self._folder / f"{point.key}.failure.json"

    def _result(self, point: Point) -> Path:
        return self._folder / f"{point.key}.npz"


def store_at(store: str | os.PathLike[str] | None) -> Store:
    """The store of a folder; one that keeps nothing for None."""
    return NoStore() if store is None else FolderStore(store)


def _write_at_once(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _packed(result: xr.Dataset, point: Point) -> dict[str, Any]:
    names = list(result.variables)
    variables = [[name, result[name].dims, result[name].attrs] for name in names]
    header = {
        "format": _FORMAT,
        "version": _VERSION,
        "point": point.text,
        "variables": variables,
        "shapes": [list(result[name].shape) for name in names],
    }
    arrays = {f"array_{i}": result[name].values for i, name in enumerate(names)}
    return {"header": np.array(json.dumps(header)), **arrays}


def _load_result(path: Path, point: Point) -> xr.Dataset:
    # NumPy would leave a file open that it cannot read
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        header = json.loads(str(arrays["header"]))
        if (header["format"], header["version"], header["point"]) != (_FORMAT, _VERSION, point.text):
            raise ValueError("it is of another point or another format")
        variables = header["variables"]
        places = [f"array_{i}" for i in range(len(variables))]
        if {*arrays.files} != {"header", *places}:
            raise ValueError("it does not hold the arrays that it names")
        found = [arrays[place] for place in places]
    shapes = [list(array.shape) for array in found]
    if header.get("shapes", shapes) != shapes or any(array.dtype.kind not in _KINDS for array in found):
        raise ValueError("its arrays are of other shapes or kinds than it says")
    result = xr.Dataset(
        {name: (dims, array, attrs) for (name, dims, attrs), array in zip(variables, found, strict=True)}
    )
    # The rules for what a run returns hold for what a file holds
    if not result.equals(as_dataset(result, taken={*point.arguments, FAILURE})):
        raise ValueError("it is not what a run returns")
    return result


def _load_failure(path: Path, point: Point) -> Failure:
    record = json.loads(path.read_bytes())
    if record.pop("point") != point.text:
        raise ValueError("it is of another point")
    if not all(isinstance(each, str) for each in record.values()):
        raise ValueError("it does not say why the point failed")
    return Failure(**record)


# ---- The outcomes of all points as one Dataset over the grid.

_Feature = TypeVar("_Feature")
Results = Mapping[int, xr.Dataset]
Index: TypeAlias = "pd.Index[Any]"
Variable: TypeAlias = tuple[list[str], Array, dict[str, object]]
DimensionLabels = Mapping[str, Index]


def assemble(axes: Sequence[Axis], outcomes: Sequence[PointOutcome]) -> xr.Dataset:
    """One Dataset with the axes as its first dimensions; the last axis of the outcomes runs fastest."""
    results = {i: each for i, each in enumerate(outcomes) if isinstance(each, xr.Dataset)}
    dims, shape = [axis.name for axis in axes], [len(axis) for axis in axes]
    labels = _labels(results)
    variables: dict[str, Variable] = {}
    for name in dict.fromkeys(name for each in results.values() for name in each.data_vars):
        own, array, attrs = _gathered(str(name), results, labels, size=len(outcomes))
        variables[str(name)] = ([*dims, *own], array.reshape([*shape, *array.shape[1:]]), attrs)
    failures = [str(each) if isinstance(each, Failure) else "" for each in outcomes]
    variables[FAILURE] = (dims, np.array(failures).reshape(shape), {})
    named = {dim for each in results.values() for dim in each.coords}
    coords = {axis.name: axis.coordinate for axis in axes}
    coords |= {dim: _plain_labels(index) for dim, index in labels.items() if dim in named}
    return xr.Dataset(variables, coords=coords, attrs=creation_attributes())


def _gathered(name: str, results: Results, labels: DimensionLabels, *, size: int) -> Variable:
    """A variable of all points: its own dimensions, its values (point, *own), and what all say about it."""
    found = {i: each[name] for i, each in results.items() if name in each.data_vars}
    dims = _agreed(name, "dimensions", [tuple(map(str, array.dims)) for array in found.values()])
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


def _labels(results: Results) -> dict[str, Index]:
    """All labels of each dimension, numbers in order, words as they come up; positions where it has none."""
    labels: dict[str, Index] = {}
    for dim in dict.fromkeys(str(dim) for each in results.values() for dim in each.dims):
        having = [each for each in results.values() if dim in each.dims]
        _agreed(dim, "kind of labels", [_kind(each, dim) for each in having])
        union = pd.Index(np.concatenate([_index(each, dim).to_numpy() for each in having])).unique()
        labels[dim] = union.sort_values() if union.dtype.kind in "iuf" else union
    return labels


def _index(array: xr.DataArray | xr.Dataset, dim: str) -> Index:
    return array.indexes[dim] if dim in array.indexes else pd.RangeIndex(array.sizes[dim])


def _kind(array: xr.Dataset, dim: str) -> str:
    """A label of one kind would become one of another, and not be found again."""
    if dim not in array.indexes:
        return "none"
    kind = array.indexes[dim].dtype.kind
    return "numbers" if kind in "iuf" else "booleans" if kind == "b" else "strings"


def _plain_labels(index: Index) -> Array:
    return index.to_numpy() if index.dtype.kind in "biuf" else index.to_numpy().astype(str)


def _dtype(
    name: str, dtypes: Sequence[np.dtype[np.generic]], *, whole: bool
) -> tuple[DTypeLike, float | str]:
    """Where points are missing, strings are empty, and what has no nan becomes a float that has."""
    _agreed(name, "kind", ["strings" if dtype.kind == "U" else "numbers" for dtype in dtypes])
    # a boolean and a number have no type in common, and become numbers
    booleans = all(dtype.kind == "b" for dtype in dtypes)
    numeric = [dtype if booleans or dtype.kind != "b" else np.dtype(np.int64) for dtype in dtypes]
    dtype = np.result_type(*numeric)
    if dtype.kind == "U":
        return dtype, ""
    return dtype if whole or dtype.kind == "f" else np.float64, 0 if whole else np.nan


def _agreed(name: str, what: str, each: Sequence[_Feature]) -> _Feature:
    if len(set(each)) > 1:
        seen = " and ".join(sorted(map(str, set(each))))
        raise ValueError(f"Expected {name!r} to have the same {what} but the points have {seen}.")
    return each[0]
