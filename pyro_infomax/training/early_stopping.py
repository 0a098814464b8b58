"""Stopping when a column of the history no longer improves."""

import math
from typing import final

from pyro_infomax.training.callbacks import Callback, TrainingState
from pyro_infomax.training.snapshot import Snapshot


@final
class EarlyStopping(Callback):
    """Stops a training whose loss has not improved for some epochs.

    An epoch improves when its monitored value lies by more than ``min_delta`` below the best one so far
    (above it for the ``elbo`` columns); nan never improves. Reference: L. Prechelt (1998), Early
    Stopping – But When?

    Args:
        patience: how many epochs without an improvement end the training.
        monitor: the column of the history to watch, in nats per datum.
        min_delta: the least improvement that counts, in nats per datum.
        restore_best: whether the parameters (and the buffers of modules) go back to the best epoch when
            the training ends, by patience or otherwise.

    Raises:
        ValueError: for patience below 1 or a negative min_delta, and in the first epoch if there is no
            such column.

    Example:
        >>> EarlyStopping(patience=5, monitor="loss")
        EarlyStopping(patience=5, monitor='loss', min_delta=0.0, restore_best=True)
    """

    def __init__(
        self,
        patience: int,
        *,
        monitor: str = "validation_loss",
        min_delta: float = 0.0,
        restore_best: bool = True,
    ) -> None:
        if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
            raise ValueError(f"Expected patience to be an integer >= 1 but got {patience!r}.")
        if not min_delta >= 0:
            raise ValueError(f"Expected min_delta >= 0 but got {min_delta}.")
        self.patience = patience
        self.monitor = monitor
        self.min_delta = min_delta
        self.restore_best = restore_best
        self._reset()

    def __call__(self, state: TrainingState) -> None:
        # The same object may serve one training after another
        if len(state.history) == 1:
            self._reset()
        self._require_column(state)
        cost = self._sign * state.row[self.monitor]
        if cost < self._best_cost - self.min_delta:
            self._keep(state, cost)
        elif state.epoch - self._best_epoch >= self.patience:
            state.stop(self._reason())

    def finish(self, state: TrainingState) -> None:  # noqa: ARG002
        if self._best is not None:
            self._best.restore()

    def __repr__(self) -> str:
        return (
            f"EarlyStopping(patience={self.patience}, monitor={self.monitor!r}, "
            f"min_delta={self.min_delta}, restore_best={self.restore_best})"
        )

    def _reset(self) -> None:
        self._best: Snapshot | None = None
        self._best_cost = math.inf
        self._best_epoch = 0

    def _keep(self, state: TrainingState, cost: float) -> None:
        self._best_cost = cost
        self._best_epoch = state.epoch
        self._best = state.snapshot() if self.restore_best else None

    @property
    def _sign(self) -> float:
        return -1.0 if self.monitor.endswith("elbo") else 1.0

    def _reason(self) -> str:
        best = f"{self._sign * self._best_cost:.6g} of epoch {self._best_epoch}"
        return f"early stopping: {self.monitor} did not improve on the {best} for {self.patience} epochs"

    def _require_column(self, state: TrainingState) -> None:
        if self.monitor not in state.history:
            raise ValueError(
                f"Expected the history to have the column {self.monitor!r} but it has "
                f"{', '.join(state.history.columns)}: monitor one of these, or pass validation= to fit."
            )
