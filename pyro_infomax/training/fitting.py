"""Training a pair of programs: epochs of SVI steps, their history, and a clean stop."""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import final

from pyro import validation_enabled
from pyro.infer import SVI
from torch import Tensor
from tqdm import tqdm

from pyro_infomax.nn.module_modes import evaluation_mode, modules_behind
from pyro_infomax.random_state import isolated_random_state
from pyro_infomax.training.batches import Batch, Batches, Data, to_batches
from pyro_infomax.training.callbacks import Callback, TrainingState
from pyro_infomax.training.history import History, Row
from pyro_infomax.training.non_finite_loss import NonFiniteLossError
from pyro_infomax.training.snapshot import Snapshot, SnapshotMessenger
from pyro_infomax.training.tally import Tally, objective, total_loss


def fit(
    svi: SVI,
    data: Data,
    *,
    epochs: int,
    batch_size: int | None = 128,
    validation: Data | None = None,
    callbacks: Iterable[Callable[[TrainingState], None]] = (),
    progress: bool = True,
    seed: int | None = None,
) -> History:
    r"""Trains the programs of an SVI on data.

    Each epoch takes one ``svi.step`` a minibatch. A loss is the sum over its minibatch, as Pyro has it; the
    history reports, for the batches :math:`b` of an epoch,
    :math:`\sum_b \mathrm{loss}_b \big/ \sum_b |b|`, in nats per datum, and the objective's unweighted
    distortion, rate and ELBO in the same way where it records them.

    Validation evaluates the same objective after each epoch without gradients. It steps neither the optimiser
    nor a schedule, runs the modules behind the programs in evaluation mode, and draws from a copy of the
    random state, so that a training is the same to the bit with and without it.

    A loss that is nan or infinite ends the training: the parameters and the buffers of modules go back to
    the end of the last good epoch, and the optimiser forgets its moments, which the step has spoiled. On
    a KeyboardInterrupt they stay as the last step left them.

    Args:
        svi: model, guide, optimiser and objective.
        data: a tensor, or a tuple of tensors, whose first axis is the data; they become the positional
            arguments of model and guide. Or a Dataset whose items are a tensor or a tuple of them, or a
            DataLoader, whose own batches and order are used.
        epochs: how often to go through the data.
        batch_size: number of data a step; the last batch of an epoch may be smaller. None passes the
            whole data each step, for models that subsample themselves.
        validation: data of the same kinds, held out.
        callbacks: called with the :class:`TrainingState` after each epoch.
        progress: whether to show a bar on stderr.
        seed: makes the training reproducible and leaves torch's random state as it was; None draws from
            that state. Neither networks, which were initialised before, nor a DataLoader's own generator
            follow it.

    Returns:
        The history, a row an epoch.

    Raises:
        ValueError: for an svi that is none, epochs or a batch size below 1, data of another kind, empty data,
            tensors of different lengths, and nan in a tensor.
        NonFiniteLossError: when the loss or the parameters are no longer finite.

    Warns:
        UserWarning: if the schedules of the objective have not reached their end value.

    Example:
        >>> import pyro, torch
        >>> from pyro import distributions as dist
        >>> pyro.clear_param_store()
        >>> def model(x):
        ...     loc = pyro.param("loc", torch.zeros((), dtype=torch.float64))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
        >>> svi = SVI(model, lambda x: None, pyro.optim.Adam({"lr": 0.1}), pyro.infer.Trace_ELBO())
        >>> data = torch.full((20,), 3.0, dtype=torch.float64)
        >>> history = fit(svi, data, epochs=40, batch_size=10, progress=False, seed=0)
        >>> len(history), history.steps
        (40, 80)
        >>> bool((pyro.param("loc") - 3.0).abs() < 0.1)
        True
    """
    _check_svi(svi)
    _check_epochs(epochs)
    after_epoch = _checked_callbacks(callbacks)
    batches = to_batches(data, batch_size=batch_size)
    held_out = (
        None if validation is None else to_batches(validation, batch_size=batch_size, name="validation")
    )
    training = _Training(svi, epochs=epochs, batches=batches, held_out=held_out)
    with nullcontext() if seed is None else isolated_random_state(seed):
        training.run(after_epoch, progress=progress)
    _warn_unfinished_schedules(svi, training.state.step)
    return training.state.history


@final
class _Training:
    """One training from its first epoch to its last."""

    def __init__(self, svi: SVI, *, epochs: int, batches: Batches, held_out: Batches | None) -> None:
        self._batches = batches
        self._held_out = held_out
        self._last_good = Snapshot(_buffers(svi))
        self._watch = SnapshotMessenger(self._last_good)
        self.state = TrainingState(svi, epochs=epochs, last_good=self._last_good)

    def run(self, callbacks: tuple[Callable[[TrainingState], None], ...], *, progress: bool) -> None:
        state = self.state
        with _without_pyro_warnings(), tqdm(total=state.epochs, unit="epoch", disable=not progress) as bar:
            while state.epoch < state.epochs and state.history.stopped is None:
                state.epoch += 1
                state.history.append(self._epoch())
                for callback in callbacks:
                    callback(state)
                bar.set_postfix_str(_postfix(state.row), refresh=False)
                bar.update()
        for callback in callbacks:
            if isinstance(callback, Callback):
                callback.finish(state)

    def _epoch(self) -> Row:
        started = time.perf_counter()
        terms = self._train()
        seconds = time.perf_counter() - started
        self._last_good.update()
        place = {"epoch": self.state.epoch, "step": self.state.step}
        return place | terms | {"seconds": seconds} | self._validate()

    def _train(self) -> Row:
        tally = Tally(self.state.svi)
        batch: Batch = ()
        for batch in self._batches.shuffled():
            self.state.step += 1
            tally.add(self._step(batch), len(batch[0]))
        # A finite loss may have a gradient that is not, and the last step has no successor to notice
        if self._last_good.spoiled():
            raise self._failure("The parameters are not finite after", batch)
        return tally.means()

    def _step(self, batch: Batch) -> float:
        try:
            with self._watch:
                loss = total_loss(self.state.svi.step(*batch))
        except (ValueError, RuntimeError) as error:
            if not self._has_diverged(batch):
                raise
            raise self._failure("The loss cannot be computed at", batch) from error
        if not math.isfinite(loss):
            raise self._failure(f"The loss is {loss} at", batch)
        return loss

    def _has_diverged(self, batch: Batch) -> bool:
        # Pyro's validation meets nan as a distribution's invalid argument before there is a loss. An error
        # of the very first step is the program's own, unless the data explain it.
        if self._last_good.spoiled() or _count_non_finite(batch):
            return True
        return self.state.step > 1 and not self._is_finite_unchecked(batch)

    def _is_finite_unchecked(self, batch: Batch) -> bool:
        with validation_enabled(False), isolated_random_state():
            try:
                return math.isfinite(total_loss(self.state.svi.evaluate_loss(*batch)))
            except (ValueError, RuntimeError):
                return True

    def _validate(self) -> Row:
        if self._held_out is None:
            return {}
        svi = self.state.svi
        tally = Tally(svi)
        with isolated_random_state(), evaluation_mode(svi.model, svi.guide):
            for batch in self._held_out.ordered():
                _check_finite_validation(batch)
                tally.add(total_loss(svi.evaluate_loss(*batch)), len(batch[0]))
        return tally.means("validation_")

    def _failure(self, what: str, batch: Batch) -> NonFiniteLossError:
        self._go_back()
        state = self.state
        return NonFiniteLossError(
            f"{what} step {state.step} (epoch {state.epoch}): {_advice(batch)}. "
            f"The parameters are back at {_origin(state.history)}.",
            step=state.step,
            epoch=state.epoch,
            batch=batch,
            history=state.history,
        )

    def _go_back(self) -> None:
        self._last_good.restore()
        for tensor in self._last_good:
            tensor.grad = None
        self.state.svi.optim.optim_objs.clear()
        self.state.svi.optim.grad_clip.clear()


def _buffers(svi: SVI) -> Iterator[Tensor]:
    return (
        buffer
        for module in chain(modules_behind(svi.model), modules_behind(svi.guide))
        for buffer in module.buffers()
    )


@contextmanager
def _without_pyro_warnings() -> Iterator[None]:
    # The error that fit raises says more. Once around the loop: entering it anew at each step would make
    # every warning that Python shows once appear at each step.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Encountered (NaN|[+-]inf)", category=UserWarning)
        yield


def _check_finite_validation(batch: Batch) -> None:
    if count := _count_non_finite(batch):
        raise ValueError(
            f"Expected finite validation data but a batch of them holds {count} nan or infinite values; "
            "remove those rows or fill them in."
        )


def _count_non_finite(batch: Batch) -> int:
    return sum(int((~tensor.isfinite()).sum()) for tensor in batch)


def _advice(batch: Batch) -> str:
    if count := _count_non_finite(batch):
        return f"its batch holds {count} nan or infinite values, so remove those rows or fill them in"
    return "lower the learning rate or clip gradients, and look for extreme values in the error's .batch"


def _origin(history: History) -> str:
    return f"the end of epoch {len(history)}" if len(history) else "their initial values"


def _postfix(row: Row) -> str:
    shown = ("loss", "distortion", "rate", "validation_loss")
    return ", ".join(f"{name}={row[name]:.4g}" for name in shown if name in row)


def _warn_unfinished_schedules(svi: SVI, steps: int) -> None:
    missing = getattr(objective(svi), "pending_steps", 0)
    if missing:
        warnings.warn(
            f"The warm-up is not finished: the schedules of the objective need {missing} more steps to "
            f"reach their end value, after {steps} in this training. "
            "Train for more epochs or shorten the schedule.",
            UserWarning,
            stacklevel=3,
        )


def _check_svi(svi: object) -> None:
    if not isinstance(svi, SVI):
        raise ValueError(f"Expected a pyro.infer.SVI but got {type(svi).__name__}.")


def _checked_callbacks(callbacks: object) -> tuple[Callable[[TrainingState], None], ...]:
    found = tuple(callbacks) if isinstance(callbacks, Iterable) else (None,)
    if not all(callable(each) for each in found):
        raise ValueError(f"Expected callbacks to be a list of callables but got {callbacks!r}.")
    return found


def _check_epochs(epochs: object) -> None:
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"Expected epochs to be an integer >= 1 but got {epochs!r}.")
