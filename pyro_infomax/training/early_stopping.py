"""Stopping when a column of the history no longer improves."""

from collections.abc import Mapping
from typing import Any, final

from pyro_infomax.training.callbacks import Callback, TrainingState
from pyro_infomax.training.monitor import Monitor


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
        self.patience = patience
        self.monitor = monitor
        self.min_delta = min_delta
        self.restore_best = restore_best
        self._monitor = Monitor(monitor, min_delta=min_delta)
        self._best: Mapping[str, Any] | None = None

    def __call__(self, state: TrainingState) -> None:
        if self._monitor.improves(state):
            self._best = state.snapshot().state_dict() if self.restore_best else None
        elif not self._monitor.epoch:
            self._best = None
        if state.epoch - self._monitor.epoch >= self.patience:
            state.stop(self._reason())

    def finish(self, state: TrainingState) -> None:
        if self._best is not None:
            best = state.snapshot()
            best.load_state_dict(self._best)
            best.restore()

    def state_dict(self) -> dict[str, Any]:
        """The best epoch, and its parameters."""
        return {"monitor": self._monitor.state_dict(), "best": self._best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what another one has seen."""
        self._monitor.load_state_dict(state["monitor"])
        self._best = state["best"]

    def __repr__(self) -> str:
        return (
            f"EarlyStopping(patience={self.patience}, monitor={self.monitor!r}, "
            f"min_delta={self.min_delta}, restore_best={self.restore_best})"
        )

    def _reason(self) -> str:
        best = f"{self._monitor.value:.6g} of epoch {self._monitor.epoch}"
        return f"early stopping: {self.monitor} did not improve on the {best} for {self.patience} epochs"
