"""Points whose trainings run as one.

In this order: the training of one point, the steps of all as one, and the threads in which the functions of
the points go as far as the steps of an epoch of ``fit``, wait there, and go on.
"""

import math
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import copy_context
from queue import Empty, SimpleQueue
from typing import Final, final

import torch
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor

from pyro_infomax._random import other_threads_run
from pyro_infomax._types import Program, State
from pyro_infomax.capture import (
    NotStackableError,
    StackedMember,
    StackedParameters,
    StackedRecording,
    StackedStep,
)
from pyro_infomax.sweeps._grid import FAILURE, Point
from pyro_infomax.sweeps._isolation import PointState, Settings
from pyro_infomax.sweeps._results import Failure, PointOutcome, as_dataset
from pyro_infomax.training import IndexedBatches, StepsOfEpoch, TrainingState, WholeBatch, stand_in

# ---- The training of one point.


@final
class PointTraining:
    """A training that one point has begun, and whose epochs are taken together with those of others.

    Args:
        point: it.
        state: what belongs to the process and is its own.
        steps: the first epoch.

    Attributes:
        training: it, as ``fit`` has it.
        waits: whether it has begun an epoch that was not taken yet.
        steps: those of the present epoch, with the trouble that there was.
        error: the error that a step has raised; None if there was none.

    Raises:
        NotStackableError: where it cannot be taken together with others.
    """

    def __init__(self, point: Point, state: PointState, steps: StepsOfEpoch) -> None:
        self.point, self.state = point, state
        self.training: TrainingState = steps.state
        if steps.unusual:
            raise NotStackableError(f"its fit has {' and '.join(steps.unusual)}")
        if _PYRO_STACK:
            raise NotStackableError(f"its fit is called within {type(_PYRO_STACK[-1]).__name__}")
        if autocasts():
            raise NotStackableError(
                "its fit is called within torch.autocast, which holds in one thread alone"
            )
        self.batches = steps.batches
        if not isinstance(self.batches, WholeBatch | IndexedBatches) or getattr(self.batches, "draws", False):
            raise NotStackableError("its data are no tensors, arrays or frames, or a TensorDataset of these")
        self.member = StackedMember(
            self.training.svi, name=str(point), inside=state.in_force, state=self.training.programs
        )
        self.waits = False
        self.most: Callable[[int], int] = lambda _: 1
        self._seen: float | str | None = None
        self.member.check()

    def begin(self, steps: StepsOfEpoch) -> None:
        """Begins an epoch, in the thread of its function.

        There it takes its first step of all, which creates what is created at first, and its loss is
        evaluated where the function may have changed what the steps do, to be compared when all wait.
        """
        self.steps, self.waits = steps, True
        self.error: Exception | None = None
        self.member.random_state = self.state.random_state
        self._left_at: State | None = None
        self._seen = None
        self._stacks = self._drawn()
        is_first = self.training.step == 0
        if is_first:
            stack = self.fetch()
            assert stack is not None
            self._first_step(tuple(each[0] for each in stack))
        if self.goes_on and self.has_more and (is_first or steps.others):
            self._seen = self._evaluation()

    def check_unchanged(self, when: str) -> None:
        """Checks that its loss is what it was when it was evaluated last, before others went on."""
        if self._seen is None:
            return
        found, seen = self._evaluation(), self._seen
        if found != seen and not (
            isinstance(found, float) and isinstance(seen, float) and _is_close(found, seen)
        ):
            raise NotStackableError(
                f"its loss is {found} {when}, in place of {seen} before: "
                "functions are interleaved, so that none may change what others see around fit, such as "
                "global tensors, patches and what torch keeps for a thread"
            )

    def _evaluation(self) -> float | str:
        """The loss of the first data, or the kind of the error that there is in place of it."""
        batch = next(self.batches.ordered())
        with self.state.aside():
            try:
                return self.member.loss(batch)
            except Exception as error:
                return type(error).__name__

    @property
    def has_more(self) -> bool:
        """Whether it has more than one step in all."""
        return self.training.epochs * sum(self.batches.counts().values()) > 1

    @property
    def goes_on(self) -> bool:
        """Whether it is in an epoch, and nothing has ended it there."""
        return self.waits and not self.steps.batch

    def fetch(self) -> tuple[Tensor, ...] | None:
        """The next batches of the epoch, (batch, row, *shape), as many as ``most`` says; None at its end."""
        found = next(self._stacks, None)
        if found is not None:
            self._last_batch = tuple(each[-1] for each in found)
        return found

    def _drawn(self) -> Iterator[tuple[Tensor, ...]]:
        with self.member.drawing():
            found = self.batches.stacked(0, lambda size: self.most(size))
        if found is not None:
            return found
        return (tuple(each[None] for each in batch) for batch in self.batches.shuffled())

    def examples(self) -> dict[int, tuple[Tensor, ...]]:
        """A batch of each size."""
        first = next(self.batches.ordered())
        return {size: tuple(each[:size] for each in first) for size in self.batches.counts()}

    def _first_step(self, batch: tuple[Tensor, ...]) -> None:
        self.training.step += 1
        try:
            loss = self.member.ordinary_step(batch)
        except Exception as error:
            self.error = error
            self.end(batch)
            return
        if math.isfinite(loss):
            self.steps.tally.add(loss, len(batch[0]))
        else:
            self.end(batch, f"The loss is {loss} at")

    def take(
        self,
        step: StackedStep,
        row: int,
        numbers: Tensor,
        stack: tuple[Tensor, ...],
        before: State,
    ) -> None:
        """Counts steps on a stack of batches, whose losses, terms and checks are (step, number)."""
        losses, terms, checks = step.parted(numbers)
        # What comes after the first of its losses that is not finite is not its own
        good = (losses.isfinite() & checks.all(1)).tolist()
        taken = good.index(False) + 1 if False in good else len(good)
        self.training.step += taken
        named = self.member.adopt(
            losses[:taken], {name: each[:taken] for name, each in terms.items()}, step.subsampled[row]
        )
        if taken == len(good) and good[-1]:
            self.steps.tally.add_steps(losses.tolist(), named, stack[0].shape[1])
            return
        if step.draws_ahead:  # it has drawn ahead of where it stops
            self.member.random_state = before
            with self.member.drawing():
                for _ in range(taken):
                    step.draw()
        holds = checks[taken - 1].tolist()
        if not all(holds):
            self.error = RuntimeError(step.checks[holds.index(False)])
        trouble = "" if self.error else f"The loss is {float(losses[taken - 1])} at"
        self.end(tuple(each[taken - 1] for each in stack), trouble)

    def end(self, batch: tuple[Tensor, ...], trouble: str = "") -> None:
        """Ends it at a batch; what comes after that in its row is not its own."""
        self.steps.batch, self.steps.trouble = batch, trouble
        self._left_at = self.member.random_state

    def end_as_not_finite(self) -> None:
        """Ends it after the last step of an epoch, whose parameters are not finite."""
        self.end(self._last_batch, "The parameters are not finite after")

    def is_finite(self) -> bool:
        """Whether its parameters are."""
        return all(bool(each.isfinite().all()) for each in self.parameters())

    def parameters(self) -> list[Tensor]:
        """Those that may be trained."""
        return [each for each in self.training.programs.parameters.values() if each.requires_grad]

    def before_others_leave(self) -> None:
        """Evaluates its loss after its last epoch: what changes as others leave had held for it too."""
        if not self.steps.batch and self.has_more and self.training.epoch == self.training.epochs:
            self._seen = self._evaluation()

    def finish(self) -> None:
        """Ends the epoch, and leaves the random state that it would leave alone."""
        self.waits, self._seen = False, None
        self.state.random_state = self.member.random_state if self._left_at is None else self._left_at


def autocasts() -> bool:
    """Whether torch computes in lower precision, which it does for each thread by itself."""
    return any(map(torch.is_autocast_enabled, ("cpu", "cuda")))


def _is_close(value: float, other: float) -> bool:
    # Equal to the bit but for kernels that sum in any order
    return math.isclose(value, other, rel_tol=1e-5) or (math.isnan(value) and math.isnan(other))


# ---- The steps of all trainings as one.

_MOST_DRAWN: Final = 2**22  # elements, ahead
_MOST_FETCHED: Final = 2**26  # bytes of batches at once
_LONGEST_DISTANCE: Final = 1024  # steps between two comparisons


@final
class StackedTraining:
    """Trainings whose epochs run as one.

    Each has taken its first step by itself. Then a step of one of them is recorded for each size of batches,
    and runs for all.

    Args:
        trainings: them.

    Raises:
        NotImplementedError: where they differ in more than weights, seeds and options of their optimisers.
    """

    def __init__(self, trainings: Sequence[PointTraining]) -> None:
        self.trainings = list(trainings)  # in the order of the rows, once there are any
        self._stack: StackedParameters | None = None
        self._steps: dict[int, StackedStep] = {}
        self._since, self._due, self._turn, self._wanted = 0, 1, 0, 1
        first = self.trainings[0]
        for each in self.trainings:
            with refusing(each.point):
                _check_alike(first, each)
            each.most = self._most_at_once
        trained = [of for each in self.trainings for of in each.parameters()]
        if len(set(map(id, trained))) < len(trained):
            raise _refusal(None, "points train the same parameters; make networks within the function")

    def epoch(self) -> None:
        """Takes the steps of an epoch of those that wait for it."""
        going = [each for each in self.trainings if each.waits]
        for each in going:
            with refusing(each.point):
                each.check_unchanged("when all have come to fit")
        with refusing(None):
            self._begin(going)
        while any(each.goes_on for each in going):
            self._wanted = self._how_many()
            fetched = {id(each): each.fetch() for each in going}
            if None in fetched.values():
                break
            self._some_steps({key: stack for key, stack in fetched.items() if stack is not None})
        for row, each in enumerate(self.trainings):
            if each.goes_on:
                self._end_epoch(row, each)
        for each in going:
            each.finish()
        for each in going[1:]:
            each.before_others_leave()

    def _begin(self, going: Sequence[PointTraining]) -> None:
        left = [each for each in going if each.goes_on]
        if self._stack is None:
            if left and left[0].has_more:
                self._stack_them(left)
            return
        if 2 * len(going) < len(self.trainings):
            self._stack_them(going)
        self._take_over(going)

    def _take_over(self, going: Sequence[PointTraining]) -> None:
        """Takes over what callbacks have changed."""
        assert self._stack is not None
        others = any(each.steps.others for each in going)
        self._stack.read((row for row, each in enumerate(self.trainings) if each.waits), moments=others)
        if others:
            for step in self._steps.values():
                step.compared = False

    def _end_epoch(self, row: int, each: PointTraining) -> None:
        if not (each.is_finite() if self._stack is None else self._stack.is_finite(row)):
            each.end_as_not_finite()
        elif self._stack is not None:
            self._stack.write(row)
            self._stack.write_moments(row)

    def _stack_them(self, trainings: Sequence[PointTraining]) -> None:
        members = [each.member for each in trainings]
        examples = [each.examples() for each in trainings]
        recordings = {
            size: StackedRecording(members, [each[size] for each in examples]) for size in examples[0]
        }
        first, *_ = recordings.values()
        self._stack = StackedParameters(members, first.parameters)
        rows = {id(member): row for row, member in enumerate(self._stack.members)}
        self.trainings = sorted(trainings, key=lambda each: rows[id(each.member)])
        backend = getattr(self.trainings[0].training.svi, "backend", "replay")
        for size, recording in recordings.items():
            self._steps[size] = StackedStep(self._stack, recording, backend=backend)

    # Steps of all.

    def _most_at_once(self, size: int) -> int:
        """How many batches of so many bytes each fetches at once."""
        return min(self._wanted, _MOST_FETCHED // max(1, size * len(self.trainings)))

    def _how_many(self) -> int:
        """How many steps may be taken before one is compared."""
        ahead = all(step.compared and step.draws_ahead for step in self._steps.values())
        if self._stack is None or not ahead:
            return 1
        largest = max(1, *(step.draws_size for step in self._steps.values())) * len(self.trainings)
        return max(1, min(_MOST_DRAWN // largest, self._due - self._since))

    def _some_steps(self, stacks: Mapping[int, tuple[Tensor, ...]]) -> None:
        assert self._stack is not None
        # A row whose training has ended goes on with the batches of another, to no purpose
        some = next(iter(stacks.values()))
        own = [stacks.get(id(each), some) for each in self.trainings]
        count, size = some[0].shape[:2]
        step = self._steps[size]
        compared = self._to_compare(step)
        # Each draws for all steps at once, which change its random state alone
        before = [each.member.random_state for each in self.trainings]
        draws = []
        for each in self.trainings:
            with each.member.drawing():
                draws.append([step.draw() for _ in range(count)])
        together = [torch.stack(each, 1) for each in zip(*own, strict=True)]  # (step, member, row, *shape)
        weights, table = self._stack.weights(count), []
        for number in range(count):
            batches, drawn = [each[number] for each in together], [each[number] for each in draws]
            found = step(batches, weights[number], drawn)
            for row in compared:
                batch = tuple(each[number] for each in own[row])
                self._compare(step, row, batch, before[row], *found)
            table.append(found[0])
            self._stack.step(found[1])
        numbers = torch.stack(table)  # (step, number, member)
        for row, each in enumerate(self.trainings):
            if each.goes_on and id(each) in stacks:
                each.take(step, row, numbers[:, :, row], own[row], before[row])
        self._since += count

    def _to_compare(self, step: StackedStep) -> list[int]:
        """The rows whose next step is compared with an ordinary one: at first all, then now and then one."""
        if not step.compared:
            step.compared = True
            return list(range(len(self.trainings)))
        if self._since < self._due:
            return []
        self._due = self._since + min(max(1, self._since), _LONGEST_DISTANCE)
        self._turn = (self._turn + 1) % len(self.trainings)
        return [self._turn]

    def _compare(
        self,
        step: StackedStep,
        row: int,
        batch: tuple[Tensor, ...],
        before: State,
        numbers: Tensor,
        gradients: list[Tensor],
    ) -> None:
        each = self.trainings[row]
        if not each.goes_on or not bool(numbers[:, row].isfinite().all()):
            return
        found = step.difference(row, batch, before, numbers, gradients)
        if found is not None:
            number = each.training.step + 1
            raise _refusal(each.point, f"its step {number} is not the one that SVI takes: {found}")


def _check_alike(first: PointTraining, other: PointTraining) -> None:
    expected, found = map(_steps_in_words, (first, other))
    if expected != found:
        raise NotStackableError(f"its fit has {found} in place of {expected}")
    if other is not first and (
        other.training.svi is first.training.svi
        or other.member.optim is first.member.optim
        or other.member.objective is first.member.objective
    ):
        raise NotStackableError("points share an SVI, optimiser or objective; make them within the function")


def _steps_in_words(training: PointTraining) -> str:
    counts = training.batches.counts()
    batches = " and ".join(f"{number} of {size} data" for size, number in counts.items())
    return f"{training.training.epochs} epochs of batches, {batches}"


def _refusal(point: Point | None, reason: object) -> NotImplementedError:
    which = "" if point is None else f"at {point} "
    return NotImplementedError(
        "Expected trainings that can run as one, which differ in weights, seeds and learning rates alone, "
        f"but {which}{reason}: leave stacked=True out."
    )


@contextmanager
def refusing(point: Point | None) -> Iterator[None]:
    """Has its block refuse where trainings cannot be stacked."""
    try:
        yield
    except NotStackableError as error:
        raise _refusal(point, error) from error


# ---- The functions of the points, each in a thread of its own, of which one at a time goes on.


_PATIENCE: Final = 1.0  # seconds for functions to end
_NOTICED_WITHIN: Final = 0.2  # seconds, an interrupt


@final
class _Abandoned(BaseException):
    """Ends the function of a point that is not wanted any longer."""


@final
class Strand:
    """The function of one point, which goes as far as its next epoch, or to its end.

    Attributes:
        training: the training of which it waits for an epoch; None if it has ended, or has not begun.
        outcome: its result; None if it has not ended.
        error: what is no failure of the point, but ends the sweep; None if there is none.
        trained: whether it has asked for a training.
    """

    def __init__(self, run: Program, point: Point, *, settings: Settings) -> None:
        self.point = point
        self.training: PointTraining | None = None
        self.outcome: PointOutcome | None = None
        self.error: BaseException | None = None
        self.trained = False
        self._abandoned = self._broken_off = self._handed_over = False
        self._run = run
        self._last: PointTraining | None = None
        self._state = PointState(point.seed, settings=settings)
        self._inside = ExitStack()
        self._to: SimpleQueue[bool] = SimpleQueue()  # whether it is to go on
        self._back: SimpleQueue[None] = SimpleQueue()
        self._thread = threading.Thread(target=copy_context().run, args=(self._whole,), daemon=True)

    def go_on(self) -> None:
        """Lets the function go on."""
        self.training = None
        if self._thread.ident is None:
            self._thread.start()
        self._to.put(True)
        self._wait()

    def _wait(self) -> None:
        """Waits until the function has come to its next epoch or to its end.

        For short times again and again: Python handles a signal that comes just before a thread begins to
        wait once the wait is over, so that a function that runs for long would hold an interrupt back.
        """
        while True:
            with suppress(Empty):
                return self._back.get(timeout=_NOTICED_WITHIN)

    @property
    def present(self) -> PointTraining:
        """The training of which it waits for an epoch."""
        assert self.training is not None
        return self.training

    def abandon(self) -> None:
        """Ends the function where it waits, or comes to its next epoch."""
        self._abandoned = True
        self._to.put(False)

    def ends_within(self, seconds: float) -> bool:
        """Whether the thread ends in so many seconds."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def hand_over(self, done: Callable[[Point, PointOutcome], object]) -> None:
        """Tells the outcome, once there is one."""
        if self.outcome is None or self.error is not None or self._broken_off or self._handed_over:
            return
        self._handed_over = True
        done(self.point, self.outcome)

    def _whole(self) -> None:
        if not self._to.get():
            return
        stand_in.set(self._epoch)
        try:
            with self._inside:
                self._inside.enter_context(self._state.in_force())
                self.outcome = self._outcome()
        except _Abandoned:
            pass
        except BaseException as error:  # a keyboard interrupt too, which the caller's thread raises
            self.error = error
        finally:
            self._back.put(None)

    def _outcome(self) -> PointOutcome:
        try:
            result = self._run(**self.point.arguments)
        except Exception as error:
            if self.error is not None:
                raise self.error from None
            return Failure(type(error).__name__, str(error), traceback.format_exc())
        # A result of another kind is the same mistake at every point, and is raised
        return as_dataset(result, taken={*self.point.arguments, FAILURE})

    def _epoch(self, steps: StepsOfEpoch) -> None:
        """Waits until the steps of an epoch were taken together with those of the others."""
        self._go_no_further()
        self.trained = True
        try:
            with refusing(self.point):
                if self._last is None or self._last.training is not steps.state:
                    self._last = PointTraining(self.point, self._state, steps)
        except NotImplementedError as error:
            self.error = error
            raise
        training = self._last
        self._inside.close()
        try:
            training.begin(steps)
            with other_threads_run():
                self.training = training
                self._back.put(None)
                self._to.get()
        finally:
            self._inside.enter_context(self._state.in_force())
        self._go_no_further()
        if training.error is not None:
            raise training.error

    def _go_no_further(self) -> None:
        """Ends the function if it was abandoned; one that catches all exceptions comes here again."""
        if self._abandoned:
            self._broken_off = True
            raise _Abandoned


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
        NotImplementedError: where trainings cannot be stacked.
        ValueError: for a result of another kind.

    Warns:
        UserWarning: where no point trains by ``fit``, and where functions go on after an error.
    """
    if autocasts():
        raise _refusal(None, "sweep is called within torch.autocast, which holds in one thread alone")
    strands = [Strand(run, point, settings=settings) for point in points]
    going = strands
    together: StackedTraining | None = None
    try:
        while True:
            _let_go_on(going, done, patient=together is not None)
            waiting = [strand for strand in strands if strand.training is not None]
            if not waiting:
                break
            # Those that have come to another training wait until the present one has ended for all
            present = [] if together is None else together.trainings
            is_new = not any(strand.training in present for strand in waiting)
            going = [strand for strand in waiting if is_new or strand.training in present]
            with PointState(0, settings=_common_settings(going)).in_force():
                if is_new:
                    together = StackedTraining([each.present for each in going])
                assert together is not None
                training = going[0].present.training
                show(f"epoch {training.epoch} of {training.epochs}")
                together.epoch()
    finally:
        _end(strands, done)
    if strands and not any(strand.trained or isinstance(strand.outcome, Failure) for strand in strands):
        sentence = "No point has called fit, so that nothing was stacked: stacked=True has changed nothing."
        warnings.warn(sentence, UserWarning, stacklevel=4)


def _common_settings(strands: Sequence[Strand]) -> Settings:
    """What functions have set, by which torch makes for all of them what it would make for each."""
    first = strands[0].present.state.settings
    for strand in strands:
        own = strand.present.state.settings
        if (own.dtype, own.device) != (first.dtype, first.device):
            defaults = (
                f"the defaults are {own.dtype} on {own.device} in place of {first.dtype} on {first.device}"
            )
            raise _refusal(strand.point, defaults)
    return first


def _let_go_on(
    strands: Sequence[Strand], done: Callable[[Point, PointOutcome], object], *, patient: bool
) -> None:
    """Lets one after the other go on.

    Args:
        strands: those that may.
        done: told the outcomes of those that end.
        patient: whether an error waits until all have gone on, since some may end after long trainings.
    """
    for strand in strands:
        if strand.training is not None:
            with refusing(strand.point):
                strand.training.check_unchanged("when others have left fit")
        strand.go_on()
        strand.hand_over(done)
        if strand.error is not None and not (patient and isinstance(strand.error, Exception)):
            raise strand.error
    for strand in strands:
        if strand.error is not None:
            raise strand.error


def _end(strands: Sequence[Strand], done: Callable[[Point, PointOutcome], object]) -> None:
    """Ends all functions where they wait, and gives one that runs, as on an interrupt, a moment to end."""
    for strand in strands:
        strand.abandon()
    end = time.monotonic() + _PATIENCE
    left = [strand for strand in strands if not strand.ends_within(max(0.0, end - time.monotonic()))]
    for strand in strands:
        if strand not in left:
            strand.hand_over(done)
    if left:
        warnings.warn(
            f"The functions of {len(left)} points have not ended, the first at {left[0].point}. They go on "
            "in threads. Until they end, torch's generators and Pyro's parameters are theirs, and training "
            "here is refused. Their results are lost.",
            UserWarning,
            stacklevel=5,
        )
