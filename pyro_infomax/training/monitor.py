"""The best value of a column of the history so far."""

import math
from collections.abc import Mapping
from typing import final

from pyro_infomax.training.callbacks import TrainingState


@final
class Monitor:
    """Watches a column of the history for improvements.

    An epoch improves when its value lies by more than ``min_delta`` below the best one so far (above it for
    the ``elbo`` columns); nan never improves.

    Args:
        column: the column to watch, in nats per datum.
        min_delta: the least improvement that counts, in nats per datum.

    Attributes:
        epoch: the best epoch so far, 0 before there is one.

    Raises:
        ValueError: for a negative min_delta.

    Example:
        >>> monitor = Monitor("validation_elbo")
        >>> monitor.epoch, monitor.value
        (0, nan)
    """

    def __init__(self, column: str, *, min_delta: float = 0.0) -> None:
        if not min_delta >= 0:
            raise ValueError(f"Expected min_delta >= 0 but got {min_delta}.")
        self.column = column
        self.min_delta = min_delta
        self._cost = math.inf
        self.epoch = 0

    @property
    def value(self) -> float:
        """The best value so far, nan before there is one."""
        return self._sign * self._cost if self.epoch else math.nan

    def improves(self, state: TrainingState) -> bool:
        """Whether the epoch that has just ended is the best one so far, by more than ``min_delta``.

        Raises:
            ValueError: if the history has no such column.
        """
        # The same object may serve one training after another
        if len(state.history) == 1:
            self._cost, self.epoch = math.inf, 0
        cost = self._sign * value_of(self.column, state)
        if not cost < self._cost - self.min_delta:
            return False
        self._cost, self.epoch = cost, state.epoch
        return True

    def state_dict(self) -> dict[str, float | str]:
        """What it has seen."""
        return {"column": self.column, "cost": self._cost, "epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, float | str]) -> None:
        """Goes on from what another one has seen.

        Raises:
            ValueError: for the state of one that watches another column.
        """
        if state["column"] != self.column:
            raise ValueError(
                f"Expected the state of a callback that watches {self.column!r} but it has watched "
                f"{state['column']!r}: watch the same column, or begin another training."
            )
        self._cost, self.epoch = float(state["cost"]), int(state["epoch"])

    @property
    def _sign(self) -> float:
        return -1.0 if self.column.endswith("elbo") else 1.0


def value_of(column: str, state: TrainingState) -> float:
    """The value of a column in the epoch that has just ended.

    Raises:
        ValueError: if the history has no such column.
    """
    if column not in state.history:
        raise ValueError(
            f"Expected the history to have the column {column!r} but it has "
            f"{', '.join(state.history.columns)}: monitor one of these, or pass validation= to fit."
        )
    return state.row[column]
