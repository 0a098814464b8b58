"""The history of a training: a row an epoch, in nats per datum."""

from collections.abc import Iterator
from typing import final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pyro_infomax._types import State

Row = dict[str, float]

_COLUMNS_ALWAYS_THERE = ("epoch", "step", "loss", "seconds")


@final
class History:
    """What a training went through, a row an epoch.

    The columns are ``epoch`` (from 1), ``step`` (optimiser steps so far), ``loss`` (weighted, as SVI
    descends on it), one for each unweighted term of the objective (``distortion``, ``rate``, ``elbo`` and
    whatever it adds), ``seconds`` (the epoch's training, without validation) and, with validation data, loss
    and terms under ``validation_``. Losses and terms are in nats per datum: the sum over the epoch's batches
    by the number of data that they held. The parameters move within the epoch over which that sum runs.

    Attributes:
        rows: one dict an epoch, from column to number.
        stopped: why the training ended before its last epoch; None if it did not.
        threads: the number of torch's threads that its steps ran on, where there was a choice.

    Example:
        >>> history = History()
        >>> history.append({"epoch": 1, "step": 4, "loss": 9.5, "seconds": 0.1})
        >>> history.append({"epoch": 2, "step": 8, "loss": 7.25, "seconds": 0.1})
        >>> history
        History(2 epochs, 8 steps, loss 9.5 -> 7.25)
        >>> history["loss"].tolist()
        [9.5, 7.25]
        >>> history.to_frame().loc[2, "loss"]
        np.float64(7.25)
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.stopped: str | None = None
        self.threads: int | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        return tuple(self.rows[0]) if self.rows else _COLUMNS_ALWAYS_THERE

    @property
    def steps(self) -> int:
        """Steps of the optimiser over all epochs."""
        return int(self.rows[-1]["step"]) if self.rows else 0

    def append(self, row: Row) -> None:
        """Adds the row of one more epoch."""
        self.rows.append(row)

    def state_dict(self) -> State:
        """All of it, as plain values."""
        return {
            "rows": [dict(row) for row in self.rows],
            "stopped": self.stopped,
            "threads": self.threads,
        }

    def load_state_dict(self, state: State) -> None:
        """Takes over the rows of another history in place of its own."""
        self.rows = [dict(row) for row in state["rows"]]
        self.stopped = state["stopped"]
        self.threads = state.get("threads")

    def to_frame(self) -> pd.DataFrame:
        """The history as a table.

        Returns:
            One row an epoch, indexed by ``epoch``; losses and terms in nats per datum.
        """
        return pd.DataFrame(self.rows, columns=list(self.columns)).set_index("epoch")

    def __getitem__(self, column: str) -> NDArray[np.float64]:
        if column not in self.columns:
            raise KeyError(f"Expected one of the columns {', '.join(self.columns)} but got {column!r}.")
        return np.array([row[column] for row in self.rows], dtype=np.float64)  # (epoch,)

    def __contains__(self, column: object) -> bool:
        return column in self.columns

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        if not self.rows:
            return "History(0 epochs)"
        change = f"loss {self.rows[0]['loss']:.4g} -> {self.rows[-1]['loss']:.4g}"
        ending = f", stopped: {self.stopped}" if self.stopped else ""
        return f"History({len(self)} epochs, {self.steps} steps, {change}{ending})"
