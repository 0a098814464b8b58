"""A messenger that says which rows of the data a subsampling plate takes."""

from typing import Any, final

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

__all__ = ["RowsMessenger"]


@final
class RowsMessenger(Messenger):
    """Replaces the random subsample of one plate by given rows.

    Args:
        plate: the name of the plate.
        rows: (B,) indices, as many as the plate subsamples.

    Example:
        >>> import pyro
        >>> with RowsMessenger("data", torch.tensor([3, 1])):
        ...     with pyro.plate("data", 10, subsample_size=2) as rows:
        ...         print(rows)
        tensor([3, 1])
    """

    def __init__(self, plate: str, rows: torch.Tensor) -> None:
        super().__init__()
        self.plate = plate
        self.rows = rows

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == self.plate and site_is_subsample(msg):
            msg["value"] = self.rows
            msg["done"] = True
