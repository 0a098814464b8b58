"""Groups of arrays as the installed ArviZ's native type; free of torch, to serve any ArviZ."""

import warnings
from collections.abc import Mapping
from typing import Any

import xarray as xr

__all__ = ["to_native"]


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
    # 1.1 and later have an attribute InferenceData too, so that only the version tells.
    if int(az.__version__.split(".")[0]) >= 1:
        return xr.DataTree.from_dict({f"/{name}": group for name, group in groups.items()})
    return az.InferenceData(**dict[str, Any](groups))


def _arviz() -> Any:
    """ArviZ, imported at first use: it takes as long as all the rest, and few runs convert."""
    with warnings.catch_warnings():
        # 0.23 announces its successor on import, which must not end a program that makes errors of warnings
        warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing a major refactor", FutureWarning)
        import arviz
    return arviz
