"""What runs between epochs: a training as callbacks see it, and the callbacks that the library has."""

import abc
import math
from collections.abc import Mapping
from typing import Protocol, cast, final

from pyro.infer import SVI
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pyro_infomax._checks import whole_number
from pyro_infomax._types import State
from pyro_infomax.capture import FusedOptim
from pyro_infomax.programs import ProgramState, Snapshot
from pyro_infomax.training._history import History, Row

# ---- A running training, and who is called after each of its epochs.


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


# ---- The best epoch so far by a column of the history, and its parameters.


@final
class BestEpoch:
    """The best epoch so far by a column of the history, with its parameters and buffers where they are kept.

    An epoch is the best when its value lies by more than ``min_delta`` below the best one so far (above it
    for the ``elbo`` columns); nan never is. Its number is 0 before there is one.
    """

    def __init__(self, column: str, *, min_delta: float, keep_weights: bool = True) -> None:
        if not min_delta >= 0:
            raise ValueError(f"Expected min_delta >= 0 but got {min_delta}.")
        self.column = column
        self.min_delta = min_delta
        self.epoch = 0
        self._cost = math.inf
        self._keep_weights = keep_weights
        self._weights: State | None = None

    @property
    def value(self) -> float:
        """Its value, nan before there is one."""
        return self._sign * self._cost if self.epoch else math.nan

    def follow(self, state: TrainingState) -> None:
        """Takes the epoch that has just ended for the best one, if it is."""
        # The same object may serve one training after another
        if len(state.history) == 1:
            self._cost, self.epoch, self._weights = math.inf, 0, None
        cost = self._sign * value_of(self.column, state)
        if cost < self._cost - self.min_delta:
            self._cost, self.epoch = cost, state.epoch
            self._weights = state.snapshot().state_dict() if self._keep_weights else None

    def restore(self, state: TrainingState) -> None:
        """Puts its parameters in the place of the present ones, if there are any."""
        if self._weights is not None:
            best = state.snapshot()
            best.load_state_dict(self._weights)
            best.restore()

    def state_dict(self) -> State:
        """Which epoch it was, and its parameters."""
        monitor = {"column": self.column, "cost": self._cost, "epoch": self.epoch}
        return {"monitor": monitor, "best": self._weights}

    def load_state_dict(self, state: State) -> None:
        """Goes on from what another one has kept."""
        monitor, best = state.get("monitor"), state.get("best")
        if not isinstance(monitor, dict) or monitor.keys() != {"column", "cost", "epoch"}:
            raise ValueError(
                f"Expected the state of a callback that watches {self.column!r} but got another."
            )
        if not (best is None or is_kept(best)):
            raise ValueError("Expected the parameters and buffers of the best epoch but got others.")
        if monitor["column"] != self.column:
            raise ValueError(
                f"Expected the state of a callback that watches {self.column!r} but it has watched "
                f"{monitor['column']!r}: watch the same column, or begin another training."
            )
        if not isinstance(monitor["cost"], int | float):
            raise ValueError(f"Expected the value of the best epoch but got {monitor['cost']!r}.")
        self._cost = float(monitor["cost"])
        self.epoch = whole_number("the best epoch", monitor["epoch"], at_least=0)
        self._weights = best

    @property
    def _sign(self) -> float:
        return -1.0 if self.column.endswith("elbo") else 1.0


def is_kept(value: object) -> bool:
    """Whether a value is what programs keep: parameters and buffers, each by name."""
    return (
        isinstance(value, dict)
        and value.keys() == {"parameters", "buffers"}
        and all(isinstance(each, dict) for each in value.values())
        and all(isinstance(name, str) for each in value.values() for name in each)
        and all(isinstance(tensor, Tensor) for each in value.values() for tensor in each.values())
    )


def value_of(column: str, state: TrainingState) -> float:
    """The value of a column in the epoch that has just ended."""
    if column not in state.history:
        raise ValueError(
            f"Expected the history to have the column {column!r} but it has "
            f"{', '.join(state.history.columns)}: monitor one of these, or pass validation= to fit."
        )
    return state.row[column]


# ---- Stopping when a column of the history no longer improves.


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
        self.patience = whole_number("patience", patience, at_least=1)
        self.monitor = monitor
        self.min_delta = min_delta
        self.restore_best = restore_best
        self._best = BestEpoch(monitor, min_delta=min_delta, keep_weights=restore_best)

    def __call__(self, state: TrainingState) -> None:
        self._best.follow(state)
        if state.epoch - self._best.epoch >= self.patience:
            state.stop(self._reason())

    def finish(self, state: TrainingState) -> None:
        self._best.restore(state)

    def state_dict(self) -> State:
        """The best epoch, and its parameters."""
        return self._best.state_dict()

    def load_state_dict(self, state: State) -> None:
        """Goes on from what another one has seen."""
        self._best.load_state_dict(state)

    def __repr__(self) -> str:
        return (
            f"EarlyStopping(patience={self.patience}, monitor={self.monitor!r}, "
            f"min_delta={self.min_delta}, restore_best={self.restore_best})"
        )

    def _reason(self) -> str:
        best = f"{self._best.value:.6g} of epoch {self._best.epoch}"
        return f"early stopping: {self.monitor} did not improve on the {best} for {self.patience} epochs"


# ---- Keeping the parameters of the best epoch.


@final
class BestWeights(Callback):
    """Keeps the parameters, and the buffers of modules, of the best epoch so far.

    The training goes on, and ends with its last parameters; :meth:`restore` puts the best ones in their
    place. (:class:`EarlyStopping` ends a training that no longer improves, and restores by itself.) A
    checkpoint holds them too, so that a training that is resumed knows its best epoch from before.

    Args:
        monitor: the column of the history to watch; less is better, more for the ``elbo`` columns.
        min_delta: the least improvement that counts, in nats per datum.

    Raises:
        ValueError: for a negative min_delta, and in the first epoch if there is no such column.

    Example:
        >>> import pyro, torch
        >>> from pyro import distributions as dist
        >>> from pyro_infomax.training import fit
        >>> pyro.clear_param_store()
        >>> def model(x):
        ...     loc = pyro.param("loc", torch.zeros(()))
        ...     pyro.sample("x", dist.Normal(loc, 1.0), obs=x.mean())
        >>> svi = pyro.infer.SVI(model, lambda x: None, pyro.optim.SGD({"lr": 0.1}), pyro.infer.Trace_ELBO())
        >>> best = BestWeights()
        >>> history = fit(
        ...     svi, torch.ones(4), epochs=9, validation=torch.full((4,), 0.35), callbacks=[best],
        ...     progress=False)
        >>> best.restore()
        >>> best.epoch, round(pyro.param("loc").item(), 4)  # 1 − 0.9⁴
        (4, 0.3439)
    """

    def __init__(self, monitor: str = "validation_loss", *, min_delta: float = 0.0) -> None:
        self._best = BestEpoch(monitor, min_delta=min_delta)
        self._training: TrainingState | None = None

    @property
    def epoch(self) -> int:
        """The best epoch so far, counted from 1; 0 before there is one."""
        return self._best.epoch

    @property
    def value(self) -> float:
        """The monitored value of that epoch, in nats per datum; nan before there is one."""
        return self._best.value

    def restore(self) -> None:
        """Puts the parameters of the best epoch in the place of the present ones.

        Raises:
            ValueError: if no epoch has been the best one yet.
        """
        if not self.epoch or self._training is None:
            raise ValueError(
                f"Expected an epoch with a {self._best.column} that is a number, but there was none: "
                "pass this callback to fit first."
            )
        self._best.restore(self._training)

    def __call__(self, state: TrainingState) -> None:
        self._training = state
        self._best.follow(state)

    def finish(self, state: TrainingState) -> None:
        self._training = state

    def state_dict(self) -> State:
        """The best epoch, and its parameters."""
        return self._best.state_dict()

    def load_state_dict(self, state: State) -> None:
        """Goes on from what another one has kept."""
        self._best.load_state_dict(state)

    def __repr__(self) -> str:
        return f"BestWeights(monitor={self._best.column!r}, min_delta={self._best.min_delta})"


# ---- Advancing learning-rate schedulers after each epoch of a training.


@final
class LearningRateSchedule:
    """A callback that advances the learning-rate schedulers of the optimiser after each epoch.

    It calls ``svi.optim.step()``, for a :class:`FusedOptim` with a scheduler and for Pyro's
    :class:`~pyro.optim.lr_scheduler.PyroLRScheduler` alike.

    Args:
        monitor: the column of the history that ReduceLROnPlateau watches, in nats per datum; None for all
            other schedulers. For an ``elbo`` column let the scheduler have ``mode="max"``.

    Raises:
        ValueError: in the first epoch, for an optimiser without schedulers, for a column that the history
            does not have, and where ReduceLROnPlateau has no column to watch or another scheduler has one.

    Example:
        >>> import pyro, torch
        >>> from pyro import distributions as dist
        >>> from pyro.infer import SVI, Trace_ELBO
        >>> from pyro_infomax.capture import FusedOptim
        >>> from pyro_infomax.training import fit
        >>> pyro.clear_param_store()
        >>> def model(x):
        ...     loc = pyro.param("loc", torch.zeros(()))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
        >>> halve = lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
        >>> optim = FusedOptim(torch.optim.SGD, {"lr": 0.08}, scheduler=halve)
        >>> svi = SVI(model, lambda x: None, optim, Trace_ELBO())
        >>> schedule = LearningRateSchedule()
        >>> history = fit(svi, torch.ones(4), epochs=3, callbacks=[schedule], progress=False, seed=0)
        >>> optim.get_state()["loc"]["optimizer"]["param_groups"][0]["lr"]
        0.01
    """

    def __init__(self, monitor: str | None = None) -> None:
        self.monitor = monitor

    def __call__(self, state: TrainingState) -> None:
        optim = _scheduled(state.svi.optim)
        watches = any(isinstance(each, ReduceLROnPlateau) for each in optim.optim_objs.values())
        _check_monitor(self.monitor, watches=watches)
        optim.step(*(() if self.monitor is None else (value_of(self.monitor, state),)))

    def __repr__(self) -> str:
        return f"LearningRateSchedule(monitor={self.monitor!r})"


def _scheduled(optim: PyroOptim) -> PyroLRScheduler:
    if isinstance(optim, PyroLRScheduler) or getattr(optim, "scheduler", None) is not None:
        return cast(PyroLRScheduler, optim)
    advice = (
        "pass scheduler= to it" if isinstance(optim, FusedOptim) else "take FusedOptim or PyroLRScheduler"
    )
    raise ValueError(
        f"Expected an optimiser with learning-rate schedulers but got a {type(optim).__name__}: {advice}."
    )


def _check_monitor(monitor: str | None, *, watches: bool) -> None:
    if watches and monitor is None:
        raise ValueError('Expected a column for ReduceLROnPlateau but got monitor=None: pass monitor="loss".')
    if monitor is not None and not watches:
        raise ValueError(
            f"Expected monitor=None, since only ReduceLROnPlateau watches a column, but got {monitor!r}."
        )


# ---- Writing the history to a logger, such as TensorBoard, while a training runs.


class ScalarWriter(Protocol):
    """What a logger has to offer; most do."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int, /) -> object:
        """Records one number."""


@final
class ScalarLogger(Callback):
    """Writes each epoch's row of the history to a logger, a scalar a column.

    Numbers stand at the optimiser's ``step``, so that trainings with other batch sizes lie over each other
    rightly. The last epoch is always written, and a writer that can ``flush`` is flushed at the end. Closing
    it is left to who opened it. Of several processes that train together the first one writes.

    Args:
        writer: anything with ``add_scalar(tag, value, step)``, for instance the ``SummaryWriter`` of
            ``torch.utils.tensorboard`` or of ``tensorboardX``.
        every: write the rows of each so many epochs.
        prefix: what precedes the name of a column in its tag; TensorBoard groups tags by what stands before a
            slash, as in ``"beta=4/"``.

    Raises:
        ValueError: for a writer without ``add_scalar``, and for every below 1.

    Example:
        >>> import pyro, torch
        >>> from pyro import distributions as dist
        >>> from pyro_infomax.training import fit
        >>> class Printer:
        ...     def add_scalar(self, tag, value, step):
        ...         print(f"{tag} {value:.3f} at {step}") if tag == "toy/loss" else None
        >>> def model(x):
        ...     pyro.sample("x", dist.Normal(0.0, 1.0).expand([len(x)]).to_event(1), obs=x)
        >>> svi = pyro.infer.SVI(model, lambda x: None, pyro.optim.SGD({"lr": 0.1}), pyro.infer.Trace_ELBO())
        >>> logger = ScalarLogger(Printer(), prefix="toy/")
        >>> _ = fit(svi, torch.zeros(8), epochs=2, batch_size=4, callbacks=[logger], progress=False)
        toy/loss 0.919 at 2
        toy/loss 0.919 at 4
    """

    def __init__(self, writer: ScalarWriter, *, every: int = 1, prefix: str = "") -> None:
        if not callable(getattr(writer, "add_scalar", None)):
            raise ValueError(
                f"Expected a writer with add_scalar(tag, value, step) but got {type(writer).__name__}, which "
                "has none: pass a SummaryWriter, or an object with that method."
            )
        self._writer = writer
        self._every = whole_number("every", every, at_least=1)
        self._prefix = prefix
        self._written = 0

    def __call__(self, state: TrainingState) -> None:
        # The same object may serve one training after another
        if len(state.history) == 1:
            self._written = 0
        if state.epoch % self._every == 0:
            self._write(state)

    def finish(self, state: TrainingState) -> None:
        if self._written != state.epoch:
            self._write(state)
        flush = getattr(self._writer, "flush", None)
        if callable(flush) and state.is_first:
            flush()

    def state_dict(self) -> dict[str, int]:
        """The epoch that was written last."""
        return {"written": self._written}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Goes on where another one has stopped."""
        self._written = whole_number("written", state["written"], at_least=0)

    def _write(self, state: TrainingState) -> None:
        self._written = state.epoch
        if not state.is_first:
            return
        step = int(state.row["step"])
        for column, value in state.row.items():
            if column != "step":
                self._writer.add_scalar(self._prefix + column, float(value), step)
