"""Where the outcomes of a sweep are kept: one file a point, written at once or not at all."""

import json
import os
import uuid
import warnings
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final, final

import numpy as np
import xarray as xr

from pyro_infomax.training.sweep_grid import Point

_FORMAT: Final = "pyro_infomax sweep point"
_VERSION: Final = 1
# zipfile knows a compression or a password that it lacks as a RuntimeError
_UNREADABLE: Final = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile)


@final
@dataclass(frozen=True)
class Failure:
    """Why a point has no result.

    Args:
        kind: the class of the exception.
        message: what it said.
        traceback: where it was raised.
    """

    kind: str
    message: str
    traceback: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}" if self.message else self.kind


Outcome = xr.Dataset | Failure


class Store(ABC):
    """Outcomes by their points."""

    @abstractmethod
    def read(self, point: Point) -> Outcome | None:
        """The point's result, or else its failure; None if it has neither."""

    @abstractmethod
    def write(self, point: Point, outcome: Outcome) -> None:
        """Keeps the outcome of the point in the place of an older one."""

    @abstractmethod
    def where(self, point: Point, failure: Failure) -> str:
        """Words that say where to read the traceback of the point's failure."""


@final
class NoStore(Store):
    """Keeps nothing."""

    def read(self, point: Point) -> Outcome | None:  # noqa: ARG002
        return None

    def write(self, point: Point, outcome: Outcome) -> None:
        pass

    def where(self, point: Point, failure: Failure) -> str:  # noqa: ARG002
        return f"Its traceback:\n{failure.traceback}"


@final
class FolderStore(Store):
    """A folder with a file a point: ``KEY.npz`` with its result, or ``KEY.failure.json``.

    A file is written under a name of its own and then renamed, so that whoever reads finds it whole or not
    at all, and of two sweeps that write the same point the last wins. Nothing in a file is ever executed.

    Args:
        folder: made if there is none.

    Raises:
        ValueError: if there is a file in its place.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        # workers may have another working directory
        self._folder = Path(folder).expanduser().absolute()
        if self._folder.exists() and not self._folder.is_dir():
            raise ValueError(f"Expected store to be a folder but got the file {self._folder}.")
        self._folder.mkdir(parents=True, exist_ok=True)

    def read(self, point: Point) -> Outcome | None:
        for path, load in ((self._result(point), _load_result), (self._failure(point), _load_failure)):
            try:
                return load(path, point)
            except FileNotFoundError:
                continue
            except _UNREADABLE as error:
                warnings.warn(f"{path} is not the outcome of {point} and is made anew: {error}", stacklevel=2)
        return None

    def write(self, point: Point, outcome: Outcome) -> None:
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
    header = {"format": _FORMAT, "version": _VERSION, "point": point.text, "variables": variables}
    arrays = {f"array_{i}": result[name].values for i, name in enumerate(names)}
    return {"header": np.array(json.dumps(header)), **arrays}


def _load_result(path: Path, point: Point) -> xr.Dataset:
    # NumPy would leave a file open that it cannot read
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        header = json.loads(str(arrays["header"]))
        if (header["format"], header["version"], header["point"]) != (_FORMAT, _VERSION, point.text):
            raise ValueError("it is of another point or another format")
        return xr.Dataset(
            {
                name: (dims, arrays[f"array_{i}"], attrs)
                for i, (name, dims, attrs) in enumerate(header["variables"])
            }
        )


def _load_failure(path: Path, point: Point) -> Failure:
    record = json.loads(path.read_bytes())
    if record.pop("point") != point.text:
        raise ValueError("it is of another point")
    return Failure(**record)
