"""Points whose trainings run as one.

In this order: a training that a point asks for, all of them run as one, and the threads in which the
functions of the points go as far as their call of ``fit``, wait there, and go on.
"""

import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from contextvars import copy_context
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any, Final, final

import numpy as np
import torch
from pyro.infer import SVI
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor
from torch.utils.data import TensorDataset

from pyro_infomax._data import as_tensor, is_column
from pyro_infomax._random import isolated_random_state, one_thread
from pyro_infomax._types import Program, State
from pyro_infomax.capture import (
    NotStackableError,
    StackedMember,
    StackedParameters,
    StackedRecording,
    StackedStep,
    stacked,
)
from pyro_infomax.poutine import plain_errors
from pyro_infomax.programs import RandomStreams, Snapshot
from pyro_infomax.sweeps._grid import FAILURE, Point
from pyro_infomax.sweeps._isolation import PointState, Settings
from pyro_infomax.sweeps._results import Failure, PointOutcome, as_dataset
from pyro_infomax.training import (
    Divergence,
    History,
    IndexedBatches,
    Tally,
    TrainingState,
    WholeBatch,
    stand_in,
    to_batches,
)

# ---- A training that a point has asked for, and how far it has come.

_LATER: Final = ("validation", "callbacks", "checkpoint", "resume", "fabric")


@final
class PointTraining:
    """What one point has asked ``fit`` for.

    Args:
        point: it.
        state: what belongs to the process and is its own.
        svi: what it trains.
        data: on what.
        options: the other arguments of ``fit``.

    Attributes:
        history: the rows so far.
        error: why it ends before its last epoch; None if it does not.
    """

    def __init__(
        self, point: Point, state: PointState, svi: SVI, data: object, options: Mapping[str, Any]
    ) -> None:
        self.point, self.state, self.svi = point, state, svi
        self.epochs: int = options["epochs"]
        self.batch_size: int | None = options["batch_size"]
        self.error: Exception | None = None
        self._left_at: State | None = None
        self._seed: int | None = options["seed"]
        self._given = [name for name in _LATER if _is_given(options[name])]
        self._handlers = [type(each).__name__ for each in _PYRO_STACK]
        self._random_state = RandomStreams().state_dict()
        # As fit does, and with the errors of fit: it runs where fit was called
        self.columns = _columns(data)
        self.batches = None if self.columns is None else to_batches(self.columns, batch_size=self.batch_size)

    def prepare(self) -> None:
        """Checks whether it is a training that can be stacked, and readies it.

        Raises:
            NotStackableError: if it is none.
        """
        if self._given:
            raise NotStackableError(f"its fit has {' and '.join(self._given)}")
        if self._handlers:
            raise NotStackableError(f"its fit is called within {' and '.join(self._handlers)}")
        if not isinstance(self.batches, IndexedBatches | WholeBatch):
            raise NotStackableError("its data are no tensors, arrays or frames in memory")
        if self._seed is not None:
            with isolated_random_state(self._seed):
                self._random_state = RandomStreams().state_dict()
        self.member = StackedMember(
            self.svi, name=str(self.point), inside=self.state.in_force, random_state=self._random_state
        )
        self.member.check()
        self.progress = TrainingState(self.svi, epochs=self.epochs, programs=self.member.state)
        self.tally = Tally(self.svi)
        with self.state.in_force():
            self.last_good = Snapshot(self.member.state)
            self.member.state.follow(self.last_good.extend)
        self._order: list[Tensor] = []

    @property
    def history(self) -> History:
        """The rows so far."""
        return self.progress.history

    def begin_epoch(self) -> list[int]:
        """Draws the order of an epoch; the sizes of its batches."""
        self.tally = Tally(self.svi)
        self.progress.epoch = len(self.history) + 1
        if isinstance(self.batches, IndexedBatches):
            with self.member.drawing():
                indices = replace(self.batches, take=lambda index: (index,))
                self._order = [index for (index,) in indices.shuffled()]
            return list(map(len, self._order))
        assert self.columns is not None
        return [len(self.columns[0])]

    def index(self, number: int) -> Tensor | None:
        """The rows of a batch; None for all."""
        return self._order[number] if self._order else None

    def batch(self, number: int) -> tuple[Tensor, ...]:
        """A batch of the epoch."""
        assert self.columns is not None
        index = self.index(number)
        if index is None:
            return self.columns
        return tuple(column.index_select(0, index.to(column.device)) for column in self.columns)

    def take(self, loss: float, terms: Mapping[str, float], size: int, subsampled: Mapping[int, int]) -> None:
        """Counts a step."""
        self.member.adopt(loss, terms, subsampled)
        self.count(loss, size)

    def count(self, loss: float, size: int) -> None:
        """Counts a step that the objective knows of."""
        self.progress.step += 1
        self.tally.add(loss, size)

    def end_epoch(self, seconds: float) -> None:
        """Writes the row of an epoch."""
        place = {"epoch": self.progress.epoch, "step": self.progress.step}
        self.history.append(place | self.tally.means() | {"seconds": seconds})
        self.last_good.update()

    def diverge(self, what: str, batch: tuple[Tensor, ...]) -> None:
        """Ends it by the error of a training that is not finite, and goes back to its last good epoch."""
        divergence = Divergence(self.progress, self.last_good, count=_count_non_finite)
        with self.state.in_force():
            self.end(divergence.error(what, batch))

    def end(self, error: Exception) -> None:
        """Ends it by an error; its row goes on with the others, to no purpose."""
        self.error, self._left_at = error, self.member.random_state

    def finish(self) -> None:
        """Leaves what ``fit`` would leave."""
        with self.state.in_force():
            if self._seed is None:
                left_at = self._left_at if self._left_at is not None else self.member.random_state
                RandomStreams().load_state_dict(left_at)
            for parameter in self.member.state.parameters.values():
                parameter.__dict__.pop("unconstrained", None)


def _is_given(value: object) -> bool:
    return len(value) > 0 if isinstance(value, tuple) else value is not None and value is not False


def _columns(data: object) -> tuple[Tensor, ...] | None:
    """The tensors of data that are in memory; None for others."""
    parts = data.tensors if isinstance(data, TensorDataset) else data if isinstance(data, tuple) else (data,)
    if not parts or not all(is_column(part) and not isinstance(part, np.memmap) for part in parts):
        return None
    return tuple(as_tensor("data", part) for part in parts)


def _count_non_finite(batch: tuple[Tensor, ...]) -> int:
    return sum(int((~tensor.isfinite()).sum()) for tensor in batch)


# ---- All trainings as one.

_LARGEST_DRAWS: Final = 2**22  # elements that are drawn ahead
_LONGEST_DISTANCE: Final = 1024  # steps between two comparisons


@final
class StackedTraining:
    """Trainings that run as one.

    Each takes its first step by itself, which creates what is created at first. Then a step of one of them is
    recorded for each size of batches, and runs for all.

    Args:
        trainings: them.

    Raises:
        NotImplementedError: where they differ in more than weights, seeds and options of their optimisers.
    """

    def __init__(self, trainings: Sequence[PointTraining]) -> None:
        self._all = tuple(trainings)
        self._trainings = list(trainings)  # in the order of the rows, once there are any
        self._stack: StackedParameters | None = None
        self._steps: dict[int, StackedStep] = {}
        self._since, self._due, self._turn = 0, 1, 0

    def run(self, *, show: Callable[[str], object]) -> None:
        """Runs them to their end; ``show`` is told how far they are."""
        with one_thread("train", patience=0.0), plain_errors():
            self._prepare()
            epochs = self._trainings[0].epochs
            for epoch in range(1, epochs + 1):
                show(f"epoch {epoch} of {epochs}")
                if self._alive:
                    self._epoch()
            self._finish()
        show("")

    def _prepare(self) -> None:
        first = self._trainings[0]
        for each in self._trainings:
            with _refusing(each.point):
                each.prepare()
                _check_alike(first, each)
        columns = [each.columns for each in self._trainings]
        own = [each for each in columns if not _are_equal(columns[0], each)]
        self._shared = None if own else columns[0]

    @property
    def _alive(self) -> list[PointTraining]:
        return [each for each in self._trainings if each.error is None]

    def _epoch(self) -> None:
        started, taken = time.perf_counter(), 0
        sizes, *_ = [each.begin_epoch() for each in self._trainings]
        if self._stack is None:
            taken = 1
            self._first_step(sizes)
        while taken < len(sizes) and self._alive:
            taken += self._some_steps(taken, sizes)
        seconds = (time.perf_counter() - started) / max(1, len(self._alive))
        for row, each in self._rows():
            if self._stack is not None:
                self._stack.write(row)
            if each.last_good.spoiled():
                each.diverge("The parameters are not finite after", each.batch(len(sizes) - 1))
            else:
                each.end_epoch(seconds)

    def _rows(self) -> Iterator[tuple[int, PointTraining]]:
        return ((row, each) for row, each in enumerate(self._trainings) if each.error is None)

    # The first step, by each for itself, and the preparation of the others.

    def _first_step(self, sizes: Sequence[int]) -> None:
        for each in self._trainings:
            try:
                loss = each.member.ordinary_step(each.batch(0))
            except Exception as error:
                each.end(error)
                continue
            each.count(loss, sizes[0])
            if not np.isfinite(loss):
                each.diverge(f"The loss is {loss} at", each.batch(0))
        self._trainings = self._alive
        wanted = sizes if self._trainings and self._trainings[0].epochs > 1 else sizes[1:]
        if not self._trainings or not wanted:
            return
        with _refusing(None):
            self._stack_them({size: sizes.index(size) for size in wanted})

    def _stack_them(self, numbers: Mapping[int, int]) -> None:
        """Prepares steps on batches of some sizes, of which these are the first."""
        members = [each.member for each in self._trainings]
        recordings = {
            size: StackedRecording(members, [each.batch(number) for each in self._trainings])
            for size, number in numbers.items()
        }
        first, *_ = recordings.values()
        self._stack = StackedParameters(members, first.parameters)
        rows = {id(member): row for row, member in enumerate(self._stack.members)}
        self._trainings.sort(key=lambda each: rows[id(each.member)])
        backend = getattr(self._trainings[0].svi, "backend", "replay")
        for size, recording in recordings.items():
            self._steps[size] = StackedStep(self._stack, recording, backend=backend)

    # Steps of all.

    def _some_steps(self, taken: int, sizes: Sequence[int]) -> int:
        """Takes steps on batches of one size; how many."""
        assert self._stack is not None
        step = self._steps[sizes[taken]]
        alike = next((i for i, size in enumerate(sizes[taken:]) if size != sizes[taken]), len(sizes) - taken)
        compared = self._to_compare(step)
        most = max(1, _LARGEST_DRAWS // max(1, step.draws_size * len(self._trainings)))
        count = 1 if compared or not step.draws_ahead else min(alike, most, max(1, self._due - self._since))
        # Each draws for some steps at once, which change its random state alone
        before = [each.member.random_state for each in self._trainings]
        draws = []
        for each in self._trainings:
            with each.member.drawing():
                draws.append([step.draw() for _ in range(count)])
        for number in range(count):
            batch = self._batch(taken + number)
            found = step(batch, self._stack.weights(), [each[number] for each in draws])
            for row in compared:
                self._compare(step, row, taken + number, before[row], *found)
            self._stack.step(found[1])
            self._take(step, found[0], taken + number, sizes[taken], before, number)
        self._since += count
        return count

    def _to_compare(self, step: StackedStep) -> list[int]:
        """The rows whose next step is compared with an ordinary one: at first all, then now and then one."""
        if not step.compared:
            step.compared = True
            return list(range(len(self._trainings)))
        if self._since < self._due:
            return []
        self._due = self._since + min(max(1, self._since), _LONGEST_DISTANCE)
        self._turn = (self._turn + 1) % len(self._trainings)
        return [self._turn]

    def _compare(
        self,
        step: StackedStep,
        row: int,
        number: int,
        before: State,
        numbers: Tensor,
        gradients: list[Tensor],
    ) -> None:
        each = self._trainings[row]
        if each.error is not None or not bool(numbers[:, row].isfinite().all()):
            return
        found = step.difference(row, each.batch(number), before, numbers, gradients)
        if found is not None:
            raise _refusal(
                each.point, f"its step {each.progress.step + 1} is not the one that SVI takes: {found}"
            )

    def _take(
        self,
        step: StackedStep,
        numbers: Tensor,
        number: int,
        size: int,
        before: Sequence[State],
        drawn: int,
    ) -> None:
        table = numbers.t().tolist()
        for row, each in self._rows():
            loss, *terms = table[row]
            holds = terms[len(step.terms) :]
            each.take(loss, dict(zip(step.terms, terms, strict=False)), size, step.subsampled[row])
            if not all(holds):
                each.end(RuntimeError(step.checks[holds.index(0.0)]))
            elif not np.isfinite(loss):
                if step.draws_ahead:  # it has drawn ahead of where it stops
                    each.member.random_state = before[row]
                    with each.member.drawing():
                        for _ in range(drawn + 1):
                            step.draw()
                each.diverge(f"The loss is {loss} at", each.batch(number))

    def _batch(self, number: int) -> list[Tensor]:
        """The batches of all, (member, *shape)."""
        if self._shared is None or self._trainings[0].index(number) is None:
            return stacked([each.batch(number) for each in self._trainings])
        index = torch.stack([each._order[number] for each in self._trainings])  # (member, batch)
        flat = index.flatten()
        return [each.index_select(0, flat).unflatten(0, index.shape) for each in self._shared]

    def _finish(self) -> None:
        for row, each in enumerate(self._trainings):
            if self._stack is not None and each.error is None:
                self._stack.write(row)
                self._stack.write_moments(row)
        for each in self._all:
            each.finish()


def _check_alike(first: PointTraining, other: PointTraining) -> None:
    for name in ("epochs", "batch_size"):
        found = getattr(other, name)
        if found != getattr(first, name):
            raise NotStackableError(f"its fit has {name}={found} in place of {getattr(first, name)}")
    layouts = [[(each.shape, each.dtype, each.device) for each in of.columns or ()] for of in (first, other)]
    if layouts[0] != layouts[1]:
        shapes = [[tuple(each.shape) for each in of.columns or ()] for of in (first, other)]
        raise NotStackableError(
            f"its data have the shapes {shapes[1]} in place of {shapes[0]}, or other dtypes"
        )
    if other is not first and (
        other.svi is first.svi
        or other.svi.optim is first.svi.optim
        or other.member.objective is first.member.objective
    ):
        raise NotStackableError("points share an SVI, optimiser or objective; make them within the function")


def _are_equal(columns: tuple[Tensor, ...] | None, others: tuple[Tensor, ...] | None) -> bool:
    pairs = zip(columns or (), others or (), strict=True)
    return all(each is other or torch.equal(each, other) for each, other in pairs)


def _refusal(point: Point | None, reason: object) -> NotImplementedError:
    which = "" if point is None else f"at {point} "
    return NotImplementedError(
        "Expected trainings that can run as one, which differ in weights, seeds and learning rates alone, "
        f"but {which}{reason}: leave stacked=True out."
    )


@final
class _refusing:
    """Has its block refuse where trainings cannot be stacked."""

    def __init__(self, point: Point | None) -> None:
        self._point = point

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, NotStackableError):
            raise _refusal(self._point, error) from error


# ---- The functions of the points, each in a thread of its own, of which one at a time goes on.


@final
class _Abandoned(BaseException):
    """Ends the function of a point that is not wanted any longer."""


@final
@dataclass(frozen=True)
class _Unfit:
    """An error that is no failure of a point, but a mistake in the function."""

    error: Exception


@final
class Strand:
    """The function of one point, which goes as far as its next training, or to its end.

    Attributes:
        training: what it waits for; None if it has ended, or has not begun.
        outcome: its result; None if it has not ended.
        trained: whether it has asked for a training.
    """

    def __init__(self, run: Program, point: Point, *, settings: Settings) -> None:
        self.point = point
        self.training: PointTraining | None = None
        self.outcome: PointOutcome | _Unfit | None = None
        self.trained = False
        self._run = run
        self._state = PointState(point.seed, settings=settings)
        self._inside = ExitStack()
        self._to: SimpleQueue[History | BaseException | None] = SimpleQueue()
        self._back: SimpleQueue[None] = SimpleQueue()
        self._thread = threading.Thread(target=copy_context().run, args=(self._whole,), daemon=True)

    def go_on(self, answer: "History | BaseException | None" = None) -> None:
        """Lets the function go on with what its training has come to."""
        self.training = None
        if self._thread.ident is None:
            self._thread.start()
        self._to.put(answer)
        self._back.get()

    def abandon(self) -> None:
        """Ends the function where it waits."""
        if self._thread.is_alive():
            if self.training is not None:
                self._to.put(_Abandoned())
            self._thread.join()

    def _whole(self) -> None:
        self._to.get()
        stand_in.set(self._fit)
        try:
            with self._inside:
                self._inside.enter_context(self._state.in_force())
                self.outcome = self._outcome()
        except _Abandoned:
            pass
        except Exception as error:
            self.outcome = _Unfit(error)
        finally:
            self._back.put(None)

    def _outcome(self) -> PointOutcome:
        try:
            result = self._run(**self.point.arguments)
        except Exception as error:
            return Failure(type(error).__name__, str(error), traceback.format_exc())
        # A result of another kind is the same mistake at every point, and is raised
        return as_dataset(result, taken={*self.point.arguments, FAILURE})

    def _fit(self, svi: SVI, data: object, **options: Any) -> History:
        training = PointTraining(self.point, self._state, svi, data, options)
        self.trained = True
        self._inside.close()
        self.training = training
        self._back.put(None)
        answer = self._to.get()
        self._inside.enter_context(self._state.in_force())
        if isinstance(answer, BaseException):
            raise answer
        assert answer is not None
        return answer


def compute_stacked(
    run: Program,
    points: Sequence[Point],
    *,
    settings: Settings,
    done: Callable[[Point, PointOutcome], object],
    show: Callable[[str], object],
) -> None:
    """Computes points together, whose trainings run as one.

    Args:
        run: the function of a point.
        points: them.
        settings: those of the caller.
        done: called with each outcome, as it is found.
        show: told how far the trainings are.

    Raises:
        NotImplementedError: where trainings cannot be stacked, before they have begun.
        ValueError: for a result of another kind, and for a function that does not train by ``fit``.
    """
    strands = [Strand(run, point, settings=settings) for point in points]
    answers: dict[int, History | BaseException | None] = {}
    waiting = strands
    try:
        while waiting:
            for strand in waiting:
                strand.go_on(answers.get(id(strand)))
                _hand_over(strand, done)
            waiting = [strand for strand in waiting if strand.training is not None]
            trainings = [strand.training for strand in waiting if strand.training is not None]
            if trainings:
                with PointState(0, settings=settings).in_force():
                    StackedTraining(trainings).run(show=show)
            answers = {
                id(strand): training.error or training.history
                for strand, training in zip(waiting, trainings, strict=True)
            }
    finally:
        for strand in strands:
            strand.abandon()


def _hand_over(strand: Strand, done: Callable[[Point, PointOutcome], object]) -> None:
    if isinstance(strand.outcome, _Unfit):
        raise strand.outcome.error
    if strand.outcome is None:
        return
    done(strand.point, strand.outcome)
    if not strand.trained and not isinstance(strand.outcome, Failure):
        raise ValueError(
            f"Expected a function that calls fit, whose trainings run as one, but at {strand.point} it has "
            "returned without: leave stacked=True out."
        )
