"""A file that holds a training, and that is whole at any moment."""

import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

_FORMAT: Final = "pyro_infomax training"
_VERSION: Final = 1
_MOST_NAMED: Final = 3


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a checkpoint in one instant: whoever reads meets the old file or the new one.

    The content goes to a temporary file in the same folder, is brought to the disk, and then takes the place
    of the old file.

    Args:
        path: of the file.
        content: tensors and plain values.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save({"format": _FORMAT, "version": _VERSION, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _bring_to_disk(path.parent)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint, of which nothing is run.

    Args:
        path: of the file.

    Returns:
        Its content.

    Raises:
        ValueError: if the file is none of :func:`write_checkpoint`, of another version, or damaged.
    """
    if flaw := _flaw(path):
        raise ValueError(f"Expected {path} to be a checkpoint of fit but {flaw}.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"Expected {path} to be a checkpoint of fit, of tensors and plain values, but it holds other "
            "objects, which are not loaded since they could run code."
        ) from error
    except RuntimeError as error:
        raise ValueError(f"Expected {path} to be a checkpoint of fit but torch cannot read it.") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"Expected {path} to be a checkpoint of fit but it holds {_described(content)}.")
    if content["version"] != _VERSION:
        raise ValueError(
            f"Expected {path} to be a checkpoint of version {_VERSION} but it is of version "
            f"{content['version']}: resume with the release that wrote it."
        )
    return content


def remove_leftovers(path: Path) -> None:
    """Removes what trainings that were killed while they wrote this checkpoint have left beside it."""
    leftover = re.compile(re.escape(f".{path.name}.") + r"\d+\.tmp")
    for file in path.parent.glob(".*.tmp"):
        if leftover.fullmatch(file.name):
            file.unlink(missing_ok=True)


def _bring_to_disk(folder: Path) -> None:
    # Other systems cannot open a folder, and order its changes by themselves
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _flaw(path: Path) -> str | None:
    if not path.is_file():
        return "it is no file"
    if path.stat().st_size == 0:
        return "it is empty"
    if zipfile.is_zipfile(path):
        return _damage(path)
    with path.open("rb") as file:
        begins_well = file.read(2) == b"PK"
    return "its end is missing" if begins_well else "it is no file that torch.save writes"


def _damage(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            record = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        return f"it is damaged ({error})"
    return None if record is None else f"it is damaged in its record {record}"


def _described(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    names = [repr(name) for name in content]
    more = ", …" if len(names) > _MOST_NAMED else ""
    return f"a {type(content).__name__} with the keys {', '.join(names[:_MOST_NAMED])}{more}"
