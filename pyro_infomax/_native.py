"""Arrays as ArviZ's groups: their names, labels and types, the native object and its file. Without torch."""

import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from math import prod
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Final, Self, final

import numpy as np
import pandas as pd
import xarray as xr

from pyro_infomax._types import Array

CHAIN: Final = "chain"
DRAW: Final = "draw"
DATUM: Final = "datum"
HOLDOUT: Final = "holdout"
# The axes that arrays begin with, in each group
OF_DRAWS: Final = (CHAIN, DRAW)
OF_DATA: Final = (CHAIN, DRAW, DATUM)
OF_HOLDOUT: Final = (CHAIN, DRAW, HOLDOUT)
_LEADING: Final = frozenset({CHAIN, DRAW, DATUM, HOLDOUT})

# ---- The installed ArviZ's native type.


def to_native(groups: Mapping[str, xr.Dataset]) -> Any:
    """Wraps groups as ``InferenceData`` before ArviZ 1 and as ``DataTree`` from 1 on.

    Args:
        groups: names of groups (``posterior``, ``observed_data``, also custom ones) to their datasets.

    Returns:
        The native object; its ``to_netcdf`` and ``arviz.from_netcdf`` are the way to disk and back.

    Example:
        >>> native = to_native({"posterior": xr.Dataset({"z": (("chain", "draw"), [[0.5, 1.5]])})})
        >>> float(native["posterior"]["z"].mean())
        1.0
    """
    az = _arviz()
    if _is_tree(az):
        return xr.DataTree.from_dict({f"/{name}": group for name, group in groups.items()})
    return az.InferenceData(**groups)


def open_native(path: str | os.PathLike[str]) -> Any:
    """The native object in a netCDF file or zarr store, which reads its values when they are asked for."""
    if _suffix(path) == ".zarr":
        _require_zarr()
        tree = xr.open_datatree(path, engine="zarr", consolidated=False)  # type: ignore[arg-type]
    else:
        tree = xr.open_datatree(path, engine="h5netcdf")
    az = _arviz()
    return tree if _is_tree(az) else az.InferenceData.from_datatree(tree)


def _arviz() -> ModuleType:
    """ArviZ, imported at first use: it takes as long as all the rest, and few runs convert."""
    with warnings.catch_warnings():
        # 0.23 announces its successor on import, which must not end a program that makes errors of warnings
        warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing a major refactor", FutureWarning)
        import arviz
    return arviz


def _is_tree(az: ModuleType) -> bool:
    # 1.1 and later have an attribute InferenceData too, so that only the version tells
    return int(az.__version__.split(".")[0]) >= 1


def elpd_data(elpd: Array, pareto_k: Array, *, num_samples: int, good_k: float) -> Any:
    """Log predictive densities, datum by datum, as the installed ArviZ's ``ELPDData``, for its ``compare``.

    ArviZ calls what it compares ``elpd_loo``, and so does the object.

    Args:
        elpd: of each datum, (data,), in nats.
        pareto_k: of each datum, (data,).
        num_samples: draws of each datum.
        good_k: the largest Pareto k that is trusted.
    """
    az = _arviz()
    size = len(elpd)
    each, k = (xr.DataArray(values, dims=[DATUM]) for values in (elpd, pareto_k))
    known: dict[str, Any] = {
        "se": float(np.sqrt(size * np.var(elpd))),
        "n_samples": num_samples,
        "n_data_points": size,
        "scale": "log",
        "warning": bool((pareto_k > good_k).any()),
        "good_k": good_k,
        "pareto_k": k,
    }
    total = float(np.sum(elpd))
    if not _is_tree(az):
        values = {"elpd_loo": total, "p_loo": np.nan, "loo_i": each} | known
        # it prints by place
        first = ["elpd_loo", "se", "p_loo", "n_samples", "n_data_points", "warning", "loo_i"]
        names = [*first, "pareto_k", "scale", "good_k"]
        return az.ELPDData(data=[values[name] for name in names], index=names)
    utils = import_module("arviz_stats.utils")
    if hasattr(utils, "ELPDDataLOO"):
        return utils.ELPDDataLOO(elpd=total, p=np.nan, elpd_i=each, **known)
    return utils.ELPDData(kind="loo", elpd=total, p=np.nan, elpd_i=each, **known)


# ---- Values.


def in_chains(values: Array, num_chains: int) -> Array:
    """Independent draws (chains · draws, ...) as (chain, draw, ...)."""
    return values.reshape(num_chains, -1, *values.shape[1:])


def as_integers(values: Array) -> Array:
    """Whole numbers that are kept as floats, as integers of the same width; others as they are.

    ArviZ counts values where they are integers, and smooths them where they are not.

    Example:
        >>> as_integers(np.array([0.0, 1.0], dtype=np.float32)).dtype, as_integers(np.array([0.5])).dtype
        (dtype('int32'), dtype('float64'))
    """
    if values.dtype.kind != "f":
        return values
    if not np.isfinite(values).all() or (values != np.rint(values)).any():
        return values
    width: type[np.signedinteger[Any]] = np.int64 if values.dtype.itemsize == 8 else np.int32
    largest = np.abs(values).max(initial=0.0)
    # 2 ** 63 itself is a float, and no int64
    if largest >= 2.0**63:
        return values
    return values.astype(width if largest < 2.0**31 else np.int64)


def history_group(frame: pd.DataFrame) -> xr.Dataset:
    """The numbers of a history, a row an evaluation, along its training steps."""
    named = frame.index.name is not None and frame.index.name not in frame
    numbers = frame.reset_index(drop=not named).select_dtypes("number")
    if "step" not in numbers:
        numbers = numbers.assign(step=np.arange(1, len(numbers) + 1))
    return xr.Dataset.from_dataframe(numbers.set_index("step"))


# ---- Names of dimensions, and of what stands along them.


@final
class Labels:
    """Makes labelled datasets of arrays; event dimensions are called ``z_dim_0`` and so on by default.

    Args:
        sizes: of the leading dimensions, ``chain``, ``draw``, ``datum`` and ``holdout``; of the data, all of
            them.
        coords: names of dimensions to their labels.
        dims: names of sites to those of their event dimensions.
        stack: names of families of sites to the dimension that they are stacked along: ``{"z": "time"}``
            makes one array ``z`` of ``z_0``, ``z_1``, … (or ``z0``, ``z1``, …).
        rows: the data that are converted; None for all.

    Raises:
        ValueError: for numbers of labels that are not those of their dimension.

    Example:
        >>> labels = Labels({"chain": 1, "draw": 4, "datum": 2}, stack={"z": "time"}, dims={"z": ["axis"]})
        >>> arrays = {f"z_{t}": np.zeros((1, 4, 2, 3)) for t in range(5)}
        >>> dict(labels.dataset(arrays, ("chain", "draw", "datum"))["z"].sizes)
        {'chain': 1, 'draw': 4, 'datum': 2, 'time': 5, 'axis': 3}
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        *,
        coords: Mapping[str, Sequence[object]] | None = None,
        dims: Mapping[str, Sequence[str]] | None = None,
        stack: Mapping[str, str] | None = None,
        rows: Array | None = None,
    ) -> None:
        self._coords = {name: _plain(name, each) for name, each in (coords or {}).items()}
        self._dims = {name: _names(name, each) for name, each in (dims or {}).items()}
        self._stack = dict(stack or {})
        self._unused = set(self._coords) | set(self._dims)
        self._unstacked = set(self._stack)
        self._leading: dict[str, Array] = {}
        for dim, size in sizes.items():
            labels = self._coords.get(dim, np.arange(size))
            _check_number(dim, len(labels), size)
            self._leading[dim] = labels[rows] if dim == DATUM and rows is not None else labels

    def dataset(self, arrays: Mapping[str, Array], lead: Sequence[str], *, first_draw: int = 0) -> xr.Dataset:
        """Arrays (*lead, *event) as one labelled dataset.

        Args:
            arrays: by the names of their sites.
            lead: the dimensions that they begin with; data are the first of those that are converted.
            first_draw: the number of draws that stand before these.

        Raises:
            ValueError: for names that are used twice, dimensions of two sizes, sites that cannot be stacked,
                and numbers of names or labels that are not those of the array.
        """
        arrays, steps = self._stacked(arrays, lead)
        dims = {name: self._dims_of(name, each, lead) for name, each in arrays.items()}
        _check_names(dims, len(lead))
        _check_sizes({name: dict(zip(dims[name], arrays[name].shape, strict=True)) for name in arrays})
        found = {}
        for name, values in arrays.items():
            along = {
                dim: self._along(dim, size, name, first_draw, steps.get(name, {}).get(dim))
                for dim, size in zip(dims[name], values.shape, strict=True)
            }
            found[name] = xr.DataArray(values, dims=dims[name], coords=along)
            self._unused -= {name, *dims[name]}
        return xr.Dataset(found)

    def check_used(self) -> None:
        """Raises ValueError for names that no array and no dimension has had."""
        if self._unused:
            raise ValueError(
                f"Expected coords and dims of what is converted but nothing is called {sorted(self._unused)};"
                " coords take the names of dimensions, dims those of sites"
            )
        if self._unstacked:
            name = min(self._unstacked)
            raise ValueError(
                f"Expected families of sites for stack but there is none of {sorted(self._unstacked)}: "
                f"{name!r} stands for sites called {name}_0, {name}_1 and so on"
            )

    def _stacked(
        self, arrays: Mapping[str, Array], lead: Sequence[str]
    ) -> tuple[dict[str, Array], dict[str, dict[str, Array]]]:
        """The arrays with families as one each, and the numbers of their members along the new dimension."""
        found = dict(arrays)
        steps: dict[str, dict[str, Array]] = {}
        for family, dim in self._stack.items():
            members = _members(family, found)
            if not members:
                continue
            _check_family(family, members, found, len(lead))
            values = np.stack([found.pop(name) for name in members.values()], axis=len(lead))
            if family in found:
                raise ValueError(
                    f"Expected no other site of the name of stack={{{family!r}: {dim!r}}} but there is a "
                    f"site {family!r} beside {list(members.values())}"
                )
            found[family] = values
            steps[family] = {dim: np.array(list(members))}
            self._unstacked.discard(family)
        return found, steps

    def _dims_of(self, name: str, values: Array, lead: Sequence[str]) -> list[str]:
        step = [self._stack[name]] if name in self._stack else []
        number = values.ndim - len(lead) - len(step)
        own = self._dims.get(name, [f"{name}_dim_{i}" for i in range(number)])
        if len(own) != number:
            shape = values.shape[len(lead) + len(step) :]
            raise ValueError(
                f"Expected {number} names of dimensions for {name!r}, which has the shape {shape} for one "
                f"datum, but got {list(own)}"
            )
        return [*lead, *step, *own]

    def _along(self, dim: str, size: int, site: str, first_draw: int, numbers: Array | None) -> Array:
        if dim in self._leading:
            first = first_draw if dim == DRAW else 0
            return self._leading[dim][first : first + size]
        labels = self._coords.get(dim, np.arange(size) if numbers is None else numbers)
        _check_number(dim, len(labels), size, site)
        return labels


def _members(family: str, names: Mapping[str, object]) -> dict[int, str]:
    """The numbers of a family's sites to their names, in the order of the numbers."""
    pattern = re.compile(re.escape(family) + r"_?(\d+)")
    matches = [(int(match[1]), name) for name in names if (match := pattern.fullmatch(name))]
    if len({number for number, _ in matches}) < len(matches):
        raise ValueError(
            f"Expected one site of each number for the family {family!r} but got "
            f"{sorted(name for _, name in matches)}; rename some of them"
        )
    return dict(sorted(matches))


def _check_family(family: str, members: Mapping[int, str], arrays: Mapping[str, Array], lead: int) -> None:
    first = min(members)
    if list(members) != list(range(first, first + len(members))):
        raise ValueError(
            f"Expected sites of one number after the other for the family {family!r} but got "
            f"{list(members.values())}; leave it out of stack"
        )
    shapes = {name: arrays[name].shape[lead:] for name in members.values()}
    if len(set(shapes.values())) > 1:
        raise ValueError(
            f"Expected sites of one shape for the family {family!r} but for one datum they have {shapes}; "
            "leave it out of stack"
        )


def _check_names(dims: Mapping[str, Sequence[str]], lead: int) -> None:
    for name, own in dims.items():
        if name in _LEADING:
            raise ValueError(
                f"Expected no site of the name of a dimension, {', '.join(sorted(_LEADING))}, but there is "
                f"a site {name!r}; rename it"
            )
        event = own[lead:]
        taken = {dim for i, dim in enumerate(event) if dim in {*_LEADING, *dims, *event[:i]}}
        if taken:
            raise ValueError(
                f"Expected names of dimensions for {name!r} that no site and no other dimension has but "
                f"got {sorted(taken)}; call them otherwise, as {name}_dim"
            )


def _check_sizes(sizes: Mapping[str, Mapping[str, int]]) -> None:
    first: dict[str, tuple[str, int]] = {}
    for name, own in sizes.items():
        for dim, size in own.items():
            other, known = first.setdefault(dim, (name, size))
            if known != size:
                raise ValueError(
                    f"Expected one size of the dimension {dim!r} but it is {known} for the site {other!r} "
                    f"and {size} for {name!r}; give them dimensions of different names in dims"
                )


def _names(site: str, names: Sequence[str]) -> list[str]:
    if isinstance(names, str):
        raise ValueError(
            f"Expected a list of names of dimensions for {site!r} but got the string {names!r}; "
            f"write [{names!r}]"
        )
    return list(names)


def _plain(name: str, labels: Any) -> Array:
    """Labels as a plain array, which can be written to a file: pandas has types that cannot."""
    index = labels if isinstance(labels, pd.Index) else pd.Index(labels)
    if bool(pd.isna(np.asarray(index)).any()):
        raise ValueError(f"Expected a label for each place along {name!r} but some are missing")
    if isinstance(index, pd.MultiIndex):
        return np.array([", ".join(map(str, each)) for each in index])
    array = np.asarray(index)
    return array if array.dtype != object else np.array([str(each) for each in array])


def _check_number(dim: str, labels: int, size: int, site: str | None = None) -> None:
    if labels != size:
        of_site = "" if site is None else f" of {site!r}"
        raise ValueError(f"Expected {size} labels for the dimension {dim!r}{of_site} but got {labels}")


# ---- Groups that come a few draws at a time.


@final
class NativeParts:
    """Groups that are kept in memory until all of their draws are there."""

    def __init__(self) -> None:
        self._parts: dict[str, list[xr.Dataset]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._parts.clear()

    def add(self, groups: Mapping[str, xr.Dataset]) -> None:
        """Takes groups; their draws stand behind those that came before."""
        for name, group in groups.items():
            _check_types(name, self._parts.setdefault(name, []), group)
            self._parts[name].append(group)

    def finish(self) -> Any:
        """The native object."""
        # each list of parts is let go before the next group is put together
        return to_native({name: _together(self._parts.pop(name)) for name in list(self._parts)})


def _together(parts: list[xr.Dataset]) -> xr.Dataset:
    if len(parts) == 1:
        return parts[0]
    return xr.concat(
        parts,
        DRAW,
        data_vars="minimal",
        coords="minimal",
        compat="override",
        join="override",
        combine_attrs="override",
    )


def _check_types(name: str, before: Sequence[xr.Dataset], group: xr.Dataset) -> None:
    if not before:
        return
    for variable, values in group.data_vars.items():
        known = before[0][variable].dtype
        if values.dtype != known:
            raise ValueError(
                f"Expected one type of all draws of {variable!r} in {name} but got {known} and then "
                f"{values.dtype}"
            )


_ELEMENTS_PER_CHUNK: Final = 2**16


@final
class NativeFile:
    """A netCDF file or zarr store of groups that is written a few draws at a time.

    It is written beside the path and takes its place when it is whole.

    Args:
        path: ends in ``.nc`` for netCDF, in ``.zarr`` for zarr, which takes the package of that name. A file
            that is there is replaced; a zarr store, which is a folder, is not.

    Raises:
        ValueError: for other endings, a folder that does not exist, and a store that does.
        ModuleNotFoundError: for zarr where that is not installed.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> labels = Labels({"chain": 1, "draw": 4})
        >>> with TemporaryDirectory() as folder, NativeFile(f"{folder}/posterior.nc") as file:
        ...     for first in (0, 2):
        ...         z = labels.dataset({"z": np.zeros((1, 2))}, ("chain", "draw"), first_draw=first)
        ...         file.add({"posterior": z})
        ...     file.finish()["posterior"]["draw"].values.tolist()
        [0, 1, 2, 3]
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._is_zarr = _suffix(path) == ".zarr"
        if self._is_zarr:
            _require_zarr()
            if self.path.exists():
                raise ValueError(
                    f"Expected a path at which nothing stands for a zarr store but {self.path} exists"
                )
        if not self.path.parent.is_dir():
            raise ValueError(f"Expected a folder that exists for {self.path} but there is none")
        # of a process, so that two that write to one path do not write to one file
        self._part = self.path.with_name(f".{self.path.stem}.{os.getpid()}{self.path.suffix}")
        self._types: dict[str, list[xr.Dataset]] = {}

    def __enter__(self) -> Self:
        self._remove()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._remove()

    def add(self, groups: Mapping[str, xr.Dataset]) -> None:
        """Writes groups; their draws go behind those that are written already."""
        later = {name: group for name, group in groups.items() if name in self._types}
        for name, group in later.items():
            _check_types(name, self._types[name], group)
        for name, group in groups.items():
            if name not in later:
                self._create(name, group)
                # of no draws, for the types
                self._types[name] = [group.isel({dim: slice(0) for dim in group.dims})]
        if later:
            self._append(later)

    def finish(self) -> Any:
        """The native object that the file holds."""
        os.replace(self._part, self.path)
        return open_native(self.path)

    def _create(self, name: str, group: xr.Dataset) -> None:
        mode: Any = "a" if self._types else "w"
        key = "chunks" if self._is_zarr else "chunksizes"
        drawn = {each: values for each, values in group.data_vars.items() if DRAW in values.dims}
        encoding = {each: {key: _chunks(values)} for each, values in drawn.items()}
        if self._is_zarr:
            group.to_zarr(self._part, group=name, mode=mode, encoding=encoding, consolidated=False)
            return
        unlimited = [DRAW] if drawn else []
        group.to_netcdf(
            self._part, group=name, mode=mode, engine="h5netcdf", unlimited_dims=unlimited, encoding=encoding
        )

    def _append(self, groups: Mapping[str, xr.Dataset]) -> None:
        if self._is_zarr:
            for name, group in groups.items():
                drawn = group[[each for each in group.data_vars if DRAW in group[each].dims]]
                drawn.to_zarr(self._part, group=name, append_dim=DRAW, consolidated=False)
            return
        import h5netcdf

        with h5netcdf.File(self._part, "a") as file:
            for name, group in groups.items():
                _append_draws(file[name], group)

    def _remove(self) -> None:
        if self._part.is_dir():
            shutil.rmtree(self._part)
        else:
            self._part.unlink(missing_ok=True)


def _append_draws(there: Any, group: xr.Dataset) -> None:
    """Appends the draws of a dataset to a group of a netCDF file."""
    before = there.dimensions[DRAW].size
    there.resize_dimension(DRAW, before + group.sizes[DRAW])
    for name, variable in group.variables.items():
        if DRAW in variable.dims:
            place = tuple(slice(before, None) if dim == DRAW else slice(None) for dim in variable.dims)
            there.variables[name][place] = xr.conventions.encode_cf_variable(variable).values


def _chunks(values: xr.DataArray) -> tuple[int, ...]:
    """Shapes of which a file is read: some draws of one chain, of as many data as stay small."""
    sizes = {dim: 1 if dim == CHAIN else max(1, size) for dim, size in values.sizes.items()}
    for dim in (DATUM, HOLDOUT, *_narrowing(sizes)):
        if dim in sizes:
            rest = prod(sizes.values()) // sizes[dim]
            sizes[dim] = min(sizes[dim], max(1, _ELEMENTS_PER_CHUNK // rest))
    return tuple(sizes.values())


def _narrowing(sizes: Mapping[Any, int]) -> Iterator[Any]:
    """The other dimensions, the last first, and the draws at the end."""
    others = [dim for dim in sizes if dim not in _LEADING]
    yield from reversed(others)
    yield DRAW


def _suffix(path: str | os.PathLike[str]) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in (".nc", ".zarr"):
        raise ValueError(f"Expected a path that ends in .nc (netCDF) or .zarr (zarr) but got {str(path)!r}")
    return suffix


def _require_zarr() -> None:
    if find_spec("zarr") is None:
        raise ModuleNotFoundError(
            "Expected the package zarr for a path that ends in .zarr but it is not installed: pip install "
            "zarr, or take a path that ends in .nc"
        )
