"""What runs between epochs: the state of a training, and callbacks that read it."""

import abc
from typing import final

from pyro.infer import SVI

from pyro_infomax.programs import ProgramState, Snapshot
from pyro_infomax.training._history import History, Row


@final
class TrainingState:
    """A running training, as callbacks see it after each epoch.

    Attributes:
        svi: the SVI that is trained.
        epochs: how many epochs were asked for.
        epoch: the epoch that has just ended, counted from 1.
        step: the steps so far.
        history: the rows so far, the present epoch included.
        programs: the parameters and buffers that model and guide keep.
        is_first: whether this process is the one that writes, of several that run the callbacks alike.
    """

    def __init__(self, svi: SVI, *, epochs: int, programs: ProgramState, is_first: bool = True) -> None:
        self.svi = svi
        self.epochs = epochs
        self.programs = programs
        self.is_first = is_first
        self.epoch = 0
        self.step = 0
        self.history = History()

    @property
    def row(self) -> Row:
        """The row of the epoch that has just ended."""
        return self.history.rows[-1]

    def snapshot(self) -> Snapshot:
        """A copy of all parameters, and of the buffers of modules, as they are now."""
        return Snapshot(self.programs)

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
