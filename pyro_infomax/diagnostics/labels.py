"""Names of dimensions, and of what stands along them."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
import xarray as xr

__all__ = ["Labels"]

_DATUM = "datum"


@final
class Labels:
    """Makes labelled datasets of tensors.

    Args:
        data_size: the number of data, which every array of data may hold the first few of.
        coords: names of dimensions to their labels; a dimension without any is numbered.
        dims: names of arrays to the names of their event dimensions, by default ``z_dim_0`` and so on.

    Raises:
        ValueError: for labels of the data whose number is not that of the data.

    Example:
        >>> labels = Labels(2, coords={"axis": ["u", "v"]}, dims={"z": ["axis"]})
        >>> labels.dataset({"z": torch.zeros(2, 2)}, ["datum"])["z"].sel(axis="v").dims
        ('datum',)
    """

    def __init__(
        self,
        data_size: int,
        *,
        coords: Mapping[str, Sequence[Any]],
        dims: Mapping[str, Sequence[str]],
    ) -> None:
        self.coords = dict(coords)
        self.dims = dict(dims)
        self._unused = set(self.coords) | set(self.dims)
        if _DATUM in coords:
            _check_number(_DATUM, len(coords[_DATUM]), data_size)

    def dataset(self, arrays: Mapping[str, torch.Tensor], lead: Sequence[str]) -> xr.Dataset:
        """Arrays (*lead, *event) as one labelled dataset.

        Raises:
            ValueError: if the number of names or of labels does not fit an array.
        """
        return xr.Dataset({name: self._array(name, each, lead) for name, each in arrays.items()})

    def check_used(self) -> None:
        """Raises ValueError for names that no array and no dimension has had."""
        if self._unused:
            raise ValueError(
                f"Expected coords and dims of what is converted but nothing is called {sorted(self._unused)};"
                " coords take the names of dimensions, dims those of sites"
            )

    def _array(self, name: str, values: torch.Tensor, lead: Sequence[str]) -> xr.DataArray:
        dims = [*lead, *self._event_dims(name, values.dim() - len(lead))]
        self._unused -= {name, *dims}
        array = values.detach().cpu().numpy()
        along = {dim: self._along(dim, size) for dim, size in zip(dims, array.shape, strict=True)}
        return xr.DataArray(array, dims=dims, coords=along)

    def _event_dims(self, name: str, number: int) -> Sequence[str]:
        names = self.dims.get(name, [f"{name}_dim_{i}" for i in range(number)])
        if len(names) != number:
            raise ValueError(f"Expected {number} names of dimensions for {name!r} but got {list(names)}")
        return names

    def _along(self, dim: str, size: int) -> Any:
        labels = self.coords.get(dim, np.arange(size))
        if dim == _DATUM:
            return labels[:size]
        _check_number(dim, len(labels), size)
        return labels


def _check_number(dim: str, labels: int, size: int) -> None:
    if labels != size:
        raise ValueError(f"Expected {size} labels for the dimension {dim!r} but got {labels}")
