"""Training a pair of programs: epochs of SVI steps, their history, and a clean stop."""

import math
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Never, final

import pyro
import torch
from pyro import validation_enabled
from pyro.infer import SVI

from pyro_infomax._checks import seed_number, whole_number
from pyro_infomax._progress import Bar, bar
from pyro_infomax._random import isolated_random_state, one_thread
from pyro_infomax._types import State
from pyro_infomax.capture import CapturedSVI
from pyro_infomax.nn import evaluation_mode
from pyro_infomax.poutine import plain_errors
from pyro_infomax.programs import ProgramState, RandomStreams, Snapshot
from pyro_infomax.training._batches import Batch, Batches, TrainingData, to_batches
from pyro_infomax.training._callbacks import Callback, TrainingState
from pyro_infomax.training._checkpoint import Checkpoint, Keeper, forget_moments, training_setting
from pyro_infomax.training._distributed import DataParallel
from pyro_infomax.training._execution import (
    EpochPart,
    Execution,
    SingleProcess,
    Tally,
    ThreadChoice,
    Workload,
    objective,
    total_loss,
)
from pyro_infomax.training._history import History, Row

# ---- The error that ends a training whose loss is nan or infinite.


@final
class NonFiniteLossError(RuntimeError):
    """A training met a loss, or parameters, that are not finite.

    When it is raised, the parameters are those of the end of the last good epoch (their initial values
    if there was none).

    Args:
        message: what happened, and what to try.
        step: the step at which it happened, counted from 1 over the whole training.
        epoch: the epoch of that step, counted from 1.
        batch: the tensors that model and guide were given in that step.
        history: the rows of the good epochs.

    Example:
        >>> error = NonFiniteLossError("The loss is nan.", step=7, epoch=1, batch=(), history=History())
        >>> str(error), error.step
        ('The loss is nan.', 7)
    """

    def __init__(self, message: str, *, step: int, epoch: int, batch: Batch, history: History) -> None:
        super().__init__(message)
        self.step = step
        self.epoch = epoch
        self.batch = batch
        self.history = history

    def __reduce__(self) -> tuple[object, ...]:
        # Workers send their errors to the parent as pickles, which know nothing of keyword-only arguments
        place = {name: getattr(self, name) for name in ("step", "epoch", "batch", "history")}
        return partial(type(self), **place), self.args


# ---- Telling a training that has diverged from an error of the program, and going back.


@final
class Divergence:
    """What becomes of a training whose loss, or parameters, are no longer finite."""

    def __init__(self, state: TrainingState, last_good: Snapshot, *, count: Callable[[Batch], int]) -> None:
        self._state = state
        self._last_good = last_good
        self._count = count

    def explains(self, batch: Batch) -> bool:
        """Whether an error at this batch comes from values that are not finite.

        Pyro's validation meets nan as a distribution's invalid argument before there is a loss. An error of
        the very first step is the program's own, unless the data explain it.
        """
        # All processes count together, also where the state of one alone is spoiled
        if self._count(batch) or self._last_good.spoiled():
            return True
        return self._state.step > 1 and not self._is_finite_unchecked(batch)

    def error(self, what: str, batch: Batch) -> NonFiniteLossError:
        """Goes back to the last good state; the error to raise then."""
        self._go_back()
        state = self._state
        return NonFiniteLossError(
            f"{what} step {state.step} (epoch {state.epoch}): {_advice(self._count(batch))}. "
            f"The parameters are back at {_origin(state.history)}.",
            step=state.step,
            epoch=state.epoch,
            batch=batch,
            history=state.history,
        )

    def _is_finite_unchecked(self, batch: Batch) -> bool:
        with validation_enabled(False), isolated_random_state():
            try:
                return math.isfinite(total_loss(self._state.svi.evaluate_loss(*batch)))
            except (ValueError, RuntimeError):
                return True

    def _go_back(self) -> None:
        self._last_good.restore()
        for tensor in self._state.programs.parameters.values():
            tensor.grad = None
        forget_moments(self._state.svi.optim)


def _advice(count: int) -> str:
    if count:
        return f"its batch holds {count} nan or infinite values, so remove those rows or fill them in"
    return "lower the learning rate or clip gradients, and look for extreme values in the error's .batch"


def _origin(history: History) -> str:
    return f"the end of epoch {len(history)}" if len(history) else "their initial values"


# ---- The bar of a training: its epochs, and what the last of them gave.

_NOT_SHOWN: Final = ("epoch", "step", "seconds", "elbo")


def _show(history: History, shown: Bar) -> None:
    if len(history):
        threads = "" if history.threads is None else f", on {history.threads} of torch's threads"
        shown.set_postfix_str(_summary(history.rows[-1]) + threads, False)
        shown.update(len(history) - shown.n)


def _summary(row: Row) -> str:
    """The loss and the terms, and of the validation the loss alone."""
    shown = [name for name in row if name not in _NOT_SHOWN and not name.startswith("validation_")]
    shown += [name for name in ("validation_loss",) if name in row]
    return ", ".join(f"{name}={row[name]:.4g}" for name in shown)


# ---- One training from its first epoch to its last.

# In one call: so that an interruption, and a loss that is not finite, are noticed soon
_MOST_STEPS: Final = 256
_MOST_BYTES: Final = 2**24


@final
@dataclass
class StepsOfEpoch:
    """The steps of an epoch, to be taken elsewhere.

    Attributes:
        state: the training.
        batches: what they are taken on.
        tally: of their losses.
        unusual: what else the training has that the steps have to do with.
        others: whether callbacks are called that may have changed what the steps do.
        trouble: afterwards what is not finite, in words; nothing if all is.
        batch: the batch at which there was trouble, or an error.
    """

    state: TrainingState
    batches: Batches
    tally: Tally
    unusual: list[str]
    others: bool
    trouble: str = ""
    batch: Batch = ()


# Takes the steps of an epoch in place of a training: a sweep does, which runs those of all points as one
stand_in: ContextVar[Callable[[StepsOfEpoch], None] | None] = ContextVar("stand_in", default=None)


@final
class TrainingRun:
    """The loop of ``fit``; callbacks see its ``state``."""

    def __init__(
        self,
        svi: SVI,
        *,
        epochs: int,
        batches: Batches,
        held_out: Batches | None,
        callbacks: tuple[Callable[[TrainingState], None], ...],
        execution: Execution,
        streams: RandomStreams,
        reproducible: bool = False,
    ) -> None:
        programs = ProgramState(svi.model, svi.guide)
        self.state = TrainingState(svi, epochs=epochs, programs=programs, is_first=execution.ranks.is_first)
        self._batches = execution.batches(batches)
        self._held_out = None if held_out is None else execution.batches(held_out)
        self._callbacks = callbacks
        self._execution = execution
        self._streams = streams
        self._last_good = Snapshot(programs)
        self._divergence = Divergence(self.state, self._last_good, count=self._count_non_finite)
        self._prepared = False
        self._threads = ThreadChoice()
        self._reproducible = reproducible
        self._keeper: Keeper | None = None
        self._part: EpochPart | None = None
        programs.follow(self._last_good.extend)

    def keep_in(self, checkpoint: Checkpoint, *, resume: bool, setting: State) -> None:
        """Keeps the training in a file, and goes on from what the file holds, if it may."""
        self._keeper = Keeper(
            checkpoint=checkpoint,
            training=self.state,
            last_good=self._last_good,
            callbacks=self._callbacks,
            streams=self._streams,
            setting=setting,
            ranks=self._execution.ranks,
        )
        content = self._keeper.find(resume=resume)
        if content is None:
            return
        part = EpochPart(Tally(self.state.svi), self._streams)
        with _no_new_parameters_if_refused():
            self._create(content["stated_at_first"])
            self._keeper.restore(content, part)
        self._keeper.warn_of_fewer_epochs(content)
        if content["part"] is not None:
            self._part = part

    def train(self, *, progress: bool | str) -> None:
        """Runs the epochs that are left, and the callbacks after each."""
        state = self.state
        progress = progress if self._execution.ranks.is_first else False
        if isinstance(state.svi, CapturedSVI):
            state.svi.progress = progress
        with (
            _without_pyro_warnings(),
            self._chosen_threads(),
            bar(state.epochs, unit="epoch", progress=progress) as shown,
        ):
            _show(state.history, shown)
            while len(state.history) < state.epochs and state.history.stopped is None:
                state.epoch = len(state.history) + 1
                # Processes need not take the same time for an epoch
                state.history.append(self._execution.ranks.broadcast(self._epoch()))
                self._call_back()
                state.history.stopped = self._first_reason(state.history.stopped)
                _show(state.history, shown)
                if self._keeper is not None:
                    self._keeper.after_epoch()
        if self._keeper is not None:
            self._keeper.finish()
        for callback in self._callbacks:
            if isinstance(callback, Callback):
                callback.finish(state)

    @contextmanager
    def _chosen_threads(self) -> Iterator[None]:
        """Runs its block on as many threads as are quickest, which is measured in its first steps."""
        choice = self._threads
        # Of several processes each would choose by itself; and a resumed training goes on as it began
        if not isinstance(self._execution, SingleProcess):
            choice.settle(choice.present)
        elif self.state.history.threads is not None:
            choice.settle(self.state.history.threads)
        choice.begin()
        try:
            yield
        finally:
            choice.put_back()

    def _choose_threads(self, batch: Batch) -> None:
        """Measures, once parameters are there."""
        if self._threads.chosen is None:
            work = Workload(self.state.programs.parameters.values(), batch)
            if not work.on_cpu:
                self._threads.settle(self._threads.present)
            elif self._reproducible:
                self._threads.settle(1 if work.is_small else self._threads.present)
            else:
                self._threads.measure(work.run)
            self.state.history.threads = self._threads.chosen

    def _call_back(self) -> None:
        for callback in self._callbacks:
            callback(self.state)
        # Ours change nothing that a captured step has recorded. What others change may be out of its sight.
        # All processes compare in the same steps
        if isinstance(self.state.svi, CapturedSVI):
            others = not all(map(_is_ours, self._callbacks))
            if any(self._execution.ranks.all_of(others)):
                self.state.svi.compare_next_step()

    def _first_reason(self, reason: str | None) -> str | None:
        """A callback that stops one process stops all."""
        return next(filter(None, self._execution.ranks.all_of(reason)), None)

    def _create(self, wanted: Collection[str]) -> None:
        """Has the programs create what they keep, and leaves everything else as it was.

        A new process has neither lazy parameters nor what plain functions close over before the first run.
        One batch may state parameters that another does not.
        """
        svi = self.state.svi
        elbo: Any = objective(svi)
        stood = elbo.state_dict() if hasattr(elbo, "state_dict") else None
        streams = self._streams.state_dict()
        try:
            with _without_pyro_warnings(), self.state.programs.watch():
                for batch in self._batches.ordered():
                    svi.evaluate_loss(*batch)
                    if set(wanted) <= set(self.state.programs.stable_names.values()):
                        break
        finally:
            self._last_good.restore()
            self._streams.load_state_dict(streams)
            if stood is not None:
                elbo.load_state_dict(stood)

    def _epoch(self) -> Row:
        part = self._part or EpochPart(Tally(self.state.svi), self._streams)
        self._part = None
        elsewhere = stand_in.get()
        terms = self._steps(part) if elsewhere is None else self._steps_elsewhere(part, elsewhere)
        seconds = part.seconds
        self._last_good.update()
        place = {"epoch": self.state.epoch, "step": self.state.step}
        return place | terms | {"seconds": seconds} | self._validate()

    def _steps(self, part: EpochPart) -> Row:
        batch: Batch = ()
        with self.state.programs.watch():
            stacks = self._stacks(part)
            if stacks is not None:
                for stack in stacks:
                    self._take(part, stack)
                    batch = tuple(each[-1] for each in stack)
            else:
                for batch in part.batches_left(self._batches):
                    self._prepare(batch)
                    self.state.step += 1
                    part.tally.add(self._step(batch), len(batch[0]), self._execution.share)
                    part.taken += 1
                    self._choose_threads(batch)
                    if self._keeper is not None:
                        self._keeper.after_step(part)
        # A finite loss may have a gradient that is not, and the last step has no successor to notice
        if self._last_good.spoiled():
            raise self._divergence.error("The parameters are not finite after", batch)
        return part.tally.means(self._execution.reduce)

    def _steps_elsewhere(self, part: EpochPart, elsewhere: Callable[[StepsOfEpoch], None]) -> Row:
        single = isinstance(self._execution, SingleProcess)
        unusual = {"a checkpoint": self._keeper, "a fabric": not single}
        others = not all(map(_is_ours, self._callbacks))
        steps = StepsOfEpoch(self.state, self._batches, part.tally, [*filter(unusual.get, unusual)], others)
        try:
            elsewhere(steps)
        except (ValueError, RuntimeError) as error:
            if not steps.batch:
                raise
            self._fail_at(steps.batch, error)
        if steps.trouble:
            raise self._divergence.error(steps.trouble, steps.batch)
        return part.tally.means(self._execution.reduce)

    def _stacks(self, part: EpochPart) -> Iterator[Batch] | None:
        """The batches of an epoch, many at once, where a captured SVI can take many steps in one call."""
        svi = self.state.svi
        if not (isinstance(svi, CapturedSVI) and isinstance(self._execution, SingleProcess)):
            return None
        # Who puts another step in place of its own wants it called
        if "step" in vars(svi):
            return None
        return part.stacks_left(self._batches, self._most_at_once)

    def _most_at_once(self, size: int) -> int:
        """How many steps one call may take on batches of so many bytes."""
        most = min(_MOST_STEPS, _MOST_BYTES // max(size, 1))
        return most if self._keeper is None else min(most, self._keeper.steps_left)

    def _take(self, part: EpochPart, stack: Batch) -> None:
        """Takes the steps on a stack of batches."""
        svi, position = self.state.svi, 0
        assert isinstance(svi, CapturedSVI)
        calls = svi.steps_by_call(*stack)
        while position < len(stack[0]):
            try:
                taken = next(calls)
            except (ValueError, RuntimeError) as error:
                self.state.step += 1
                batch = tuple(each[position] for each in stack)
                self._fail_at(batch, error)
            position += len(taken.losses)
            self.state.step += len(taken.losses)
            last = total_loss(taken.losses[-1])
            if not math.isfinite(last):
                batch = tuple(each[position - 1] for each in stack)
                raise self._divergence.error(f"The loss is {last} at", batch)
            if len(taken.losses) == 1:
                part.tally.add(last, stack[0].shape[1])
            else:
                part.tally.add_steps(taken.losses, taken.terms, stack[0].shape[1])
            part.taken += len(taken.losses)
            self._choose_threads(tuple(each[0] for each in stack))
            if self._keeper is not None:
                self._keeper.after_step(part)

    def _prepare(self, batch: Batch) -> None:
        if not self._prepared and self._execution.prepare(self.state.svi, self.state.programs, batch):
            self._last_good.update()
        self._prepared = True

    def _step(self, batch: Batch) -> float:
        try:
            loss = self._execution.step(self.state.svi, batch)
        except (ValueError, RuntimeError) as error:
            self._fail_at(batch, error)
        if not math.isfinite(loss):
            raise self._divergence.error(f"The loss is {loss} at", batch)
        return loss

    def _fail_at(self, batch: Batch, error: Exception) -> Never:
        """Raises the error of a step, or where values that are not finite explain it, one that says so."""
        if not self._sum(self._divergence.explains(batch)):
            raise error
        raise self._divergence.error("The loss cannot be computed at", batch) from error

    def _sum(self, number: float) -> float:
        """Over all processes, so that they decide alike."""
        return self._execution.reduce({"": float(number)})[""]

    def _count_non_finite(self, batch: Batch) -> int:
        return int(self._sum(sum(int((~tensor.isfinite()).sum()) for tensor in batch)))

    def _validate(self) -> Row:
        if self._held_out is None:
            return {}
        svi = self.state.svi
        tally = Tally(svi)
        with isolated_random_state(), evaluation_mode(svi.model, svi.guide):
            for batch in self._held_out.ordered():
                _check_finite_validation(self._count_non_finite(batch))
                tally.add(self._execution.evaluate(svi, batch), len(batch[0]), self._execution.share)
        means = tally.means(self._execution.reduce)
        return {f"validation_{name}": mean for name, mean in means.items()}


@contextmanager
def _no_new_parameters_if_refused() -> Iterator[None]:
    """Takes what an error has left behind out of the parameter store again."""
    store = pyro.get_param_store()
    known = set(store.keys())
    try:
        yield
    except Exception:
        for name in set(store.keys()) - known:
            del store[name]
        raise


@contextmanager
def _without_pyro_warnings() -> Iterator[None]:
    # The error that fit raises says more. Once around the loop: entering it anew at each step would make
    # every warning that Python shows once appear at each step.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Encountered (NaN|[+-]inf)", category=UserWarning)
        yield


def _check_finite_validation(count: int) -> None:
    if count:
        raise ValueError(
            f"Expected finite validation data but a batch of them holds {count} nan or infinite values; "
            "remove those rows or fill them in."
        )


# ---- What users call.


def fit(
    svi: SVI,
    data: TrainingData,
    *,
    epochs: int,
    batch_size: int | None = 128,
    validation: TrainingData | None = None,
    callbacks: Iterable[Callable[[TrainingState], None]] = (),
    progress: bool | str = True,
    checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
    resume: bool = False,
    fabric: Any = None,
    seed: int | None = None,
) -> History:
    r"""Trains the programs of an SVI on data.

    Each epoch takes one step a minibatch; a :class:`~pyro_infomax.capture.CapturedSVI` takes many of them in
    one call. A loss is the sum over its minibatch, as Pyro has it; the history reports, for the batches
    :math:`b` of an epoch,
    :math:`\sum_b \mathrm{loss}_b \big/ \sum_b |b|`, in nats per datum, and the objective's unweighted
    distortion, rate and ELBO in the same way where it records them.

    Validation evaluates the same objective after each epoch without gradients. It steps neither the optimiser
    nor a schedule, runs the modules behind the programs in evaluation mode, and draws from a copy of the
    random state, so that a training is the same to the bit with and without it.

    The first step runs on one of torch's threads. The others run on as many as are quickest for matrices of
    the model's size, by a short measurement; with a seed or a checkpoint, on one or all, by their size alone.
    torch's number is put back at the end.

    A loss that is nan or infinite ends the training: the parameters and the buffers of modules go back to
    the end of the last good epoch, and the optimiser forgets its moments, which the step has spoiled. On
    a KeyboardInterrupt they stay as the last step, or the last call of many, left them.

    With a checkpoint, a training that was killed goes on exactly where the file has it: it ends with the same
    parameters, to the bit, the same history and the same random state as one that was never stopped.

    Args:
        svi: model, guide, optimiser and objective.
        data: a tensor, an array (a ``numpy.memmap`` too) or a frame, or a tuple of these, whose first axis
            is the data; they become the positional arguments of model and guide, as tensors. Or a Dataset
            whose items are a tensor or a tuple of them, or a DataLoader, whose own batches and order are
            used.
        epochs: how often to go through the data.
        batch_size: number of data a step; the last batch of an epoch may be smaller. None passes the
            whole data each step, for models that subsample themselves.
        validation: data of the same kinds, held out.
        callbacks: called with the :class:`TrainingState` after each epoch.
        progress: whether to show a bar on stderr, or a line now and then where that is no terminal; a string
            is its title.
        checkpoint: a file in which the training is kept, as a path or a :class:`Checkpoint`.
        resume: whether to go on from that file, if it is there. A training that has ended returns at once,
            or goes on for the further epochs that are asked for.
        fabric: a ``Fabric`` of Lightning's that was launched; its processes, which all call this function
            with the same arguments, share each batch. None trains in this process alone.
        seed: makes the training reproducible and leaves torch's random state as it was; None draws from
            that state. Neither networks, which were initialised before, nor a DataLoader's own generator
            follow it.

    Raises:
        ValueError: for an svi that is none, epochs or a batch size below 1, data of another kind, empty data,
            tensors of different lengths, and nan in a tensor; for an objective with another ``data_size``
            than there are data; for a checkpoint that exists without resume, and for a file that is no
            checkpoint of this training.
        RuntimeError: under ``torch.no_grad``, and while another thread trains.
        NotImplementedError: for a Fabric that splits models or scales losses, and, with several processes,
            for objectives and programs whose loss is no sum over the data.
        NonFiniteLossError: when the loss or the parameters are no longer finite.

    Warns:
        UserWarning: if the schedules of the objective have not reached their end value, and if the
            checkpoint holds more epochs than were asked for.

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
    _check_can_train(svi)
    epochs = whole_number("epochs", epochs, at_least=1)
    seed = None if seed is None else seed_number(seed)
    kept = _checkpoint(checkpoint, resume)
    after_epoch = _checked_callbacks(callbacks)
    execution: Execution = SingleProcess() if fabric is None else DataParallel(fabric)
    batches, held_out = execution.ranks.together(lambda: _both_batches(data, validation, batch_size))
    _check_data_size(svi, batches)
    # Pyro's handlers, its parameter store and torch's generator belong to the process
    with (
        one_thread("train", patience=0.0),
        plain_errors(),
        nullcontext() if seed is None else isolated_random_state(seed),
    ):
        run = TrainingRun(
            svi,
            epochs=epochs,
            batches=batches,
            held_out=held_out,
            callbacks=after_epoch,
            execution=execution,
            streams=RandomStreams(data, validation),
            reproducible=seed is not None or kept is not None,
        )
        if isinstance(svi, CapturedSVI):
            svi.plan({rows: epochs * number for rows, number in batches.counts().items()})
        if kept is not None:
            setting = training_setting(
                svi,
                data,
                validation=validation,
                batch_size=batch_size,
                seed=seed,
                processes=execution.ranks.world_size,
            )
            run.keep_in(kept, resume=resume, setting=setting)
        try:
            run.train(progress=progress if stand_in.get() is None else False)
        finally:
            _let_pickle(run.state)
            if isinstance(svi, CapturedSVI):
                svi.plan({})
    _warn_unfinished_schedules(svi, run.state.step)
    return run.state.history


def _let_pickle(state: TrainingState) -> None:
    """Removes what Pyro hangs on parameters and pickle refuses; the next run hangs it on again."""
    for parameter in state.programs.parameters.values():
        parameter.__dict__.pop("unconstrained", None)


def _check_can_train(svi: object) -> None:
    """Checks what would let a training run to its end and move nothing."""
    if not isinstance(svi, SVI):
        raise ValueError(f"Expected a pyro.infer.SVI but got {type(svi).__name__}.")
    if torch.is_inference_mode_enabled() or not torch.is_grad_enabled():
        raise RuntimeError(
            "Expected gradients to train with but got a call of fit under torch.no_grad or "
            "torch.inference_mode, where no parameter would move: call fit outside of it."
        )
    whole_number("num_particles", getattr(objective(svi), "num_particles", 1), at_least=1)


# An objective that was told another N would weigh the others of a minibatch wrongly
def _check_data_size(svi: SVI, batches: Batches) -> None:
    told, rows = getattr(objective(svi), "data_size", None), batches.counts()
    found = sum(size * number for size, number in rows.items())
    if isinstance(told, int) and rows and told != found:
        raise ValueError(
            f"Expected {type(objective(svi)).__name__}(data_size={found}), as many as there are to train on, "
            f"but got data_size={told}."
        )


def _checkpoint(checkpoint: Checkpoint | str | os.PathLike[str] | None, resume: bool) -> Checkpoint | None:
    if checkpoint is None and resume:
        raise ValueError("Expected a checkpoint to resume from but got resume=True without one.")
    if checkpoint is None or isinstance(checkpoint, Checkpoint):
        return checkpoint
    return Checkpoint(checkpoint)


def _both_batches(
    data: TrainingData, validation: TrainingData | None, batch_size: int | None
) -> tuple[Batches, Batches | None]:
    batches = to_batches(data, batch_size=batch_size)
    if validation is None:
        return batches, None
    return batches, to_batches(validation, batch_size=batch_size, name="validation")


def _warn_unfinished_schedules(svi: SVI, steps: int) -> None:
    missing = getattr(objective(svi), "pending_steps", 0)
    if missing:
        warnings.warn(
            f"The warm-up is not finished: the schedules of the objective need {missing} more steps to "
            f"reach their end value, after {steps} in this training. "
            "Train for more epochs or shorten the schedule.",
            UserWarning,
            stacklevel=4,
        )


def _is_ours(callback: object) -> bool:
    return type(callback).__module__.partition(".")[0] == __name__.partition(".")[0]


def _checked_callbacks(callbacks: object) -> tuple[Callable[[TrainingState], None], ...]:
    found = tuple(callbacks) if isinstance(callbacks, Iterable) else (None,)
    if not all(callable(each) for each in found):
        raise ValueError(f"Expected callbacks to be a list of callables but got {callbacks!r}.")
    return found
