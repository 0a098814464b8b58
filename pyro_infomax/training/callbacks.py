"""What runs between epochs: the state of a training, and callbacks that read it."""

import abc
from typing import final

from pyro.infer import SVI

from pyro_infomax.training.history import History, Row
from pyro_infomax.training.snapshot import Snapshot


@final
class TrainingState:
    """A running training, as callbacks see it after each epoch.

    Attributes:
        svi: the SVI that is trained.
        epochs: how many epochs were asked for.
        epoch: the epoch that has just ended, counted from 1.
        step: the steps so far.
        history: the rows so far, the present epoch included.
    """

    def __init__(self, svi: SVI, *, epochs: int, last_good: Snapshot) -> None:
        self.svi = svi
        self.epochs = epochs
        self.epoch = 0
        self.step = 0
        self.history = History()
        self._last_good = last_good

    @property
    def row(self) -> Row:
        """The row of the epoch that has just ended."""
        return self.history.rows[-1]

    def snapshot(self) -> Snapshot:
        """A copy of all parameters, and of the buffers of modules, as they are now."""
        return Snapshot(self._last_good)

    def stop(self, reason: str) -> None:
        """Ends the training after this epoch; the first reason given is kept as ``history.stopped``."""
        self.history.stopped = self.history.stopped or reason


class Callback(abc.ABC):
    """A callback that also wants to know when the training has ended.

    ``fit`` calls any callable with the state after each epoch; a Callback it calls once more at the end.
    """

    @abc.abstractmethod
    def __call__(self, state: TrainingState) -> None:
        """Runs after each epoch, when its row stands in the history."""

    @abc.abstractmethod
    def finish(self, state: TrainingState) -> None:
        """Runs once after the last epoch, whether it was stopped or not, but not after an error."""
