"""One training from its first epoch to its last."""

import math
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

from pyro.infer import SVI

from pyro_infomax.nn.module_modes import evaluation_mode
from pyro_infomax.random_state import isolated_random_state
from pyro_infomax.training.batches import Batch, Batches
from pyro_infomax.training.callbacks import Callback, TrainingState
from pyro_infomax.training.checkpoint import Checkpoint
from pyro_infomax.training.divergence import Divergence, count_non_finite
from pyro_infomax.training.epoch_part import EpochPart
from pyro_infomax.training.execution import Execution
from pyro_infomax.training.history import Row
from pyro_infomax.training.keeper import Keeper
from pyro_infomax.training.program_state import ProgramState
from pyro_infomax.training.progress_bar import ProgressBar
from pyro_infomax.training.random_streams import RandomStreams
from pyro_infomax.training.snapshot import Snapshot
from pyro_infomax.training.tally import Tally, objective


@final
class TrainingRun:
    """The loop of ``fit``.

    Args:
        svi: model, guide, optimiser and objective.
        epochs: how often to go through the batches.
        batches: of training.
        held_out: of validation, if there is any.
        callbacks: called after each epoch.
        execution: how steps are carried out.
        streams: what the training draws from.

    Attributes:
        state: the training as callbacks see it.
    """

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
        self._keeper: Keeper | None = None
        self._part: EpochPart | None = None
        programs.follow(self._last_good.extend)

    def keep_in(self, checkpoint: Checkpoint, *, resume: bool, setting: Mapping[str, Any]) -> None:
        """Keeps the training in a file, and goes on from what the file holds.

        Args:
            checkpoint: where, and how often.
            resume: whether there may be a file.
            setting: what has to be the same when it is resumed.

        Raises:
            ValueError: if there is a file that the training cannot go on from.
        """
        self._keeper = Keeper(
            checkpoint,
            state=self.state,
            last_good=self._last_good,
            callbacks=self._callbacks,
            streams=self._streams,
            setting=setting,
            ranks=self._execution.ranks,
        )
        content = self._keeper.find(resume=resume)
        if content is None:
            return
        self._create(content["stated_at_first"])
        part = EpochPart(Tally(self.state.svi), self._streams)
        self._keeper.restore(content, part)
        self._keeper.warn_of_fewer_epochs(content)
        if content["part"] is not None:
            self._part = part

    def train(self, *, progress: bool | str) -> None:
        """Runs the epochs that are left, and the callbacks after each."""
        state = self.state
        shown = progress if self._execution.ranks.is_first else False
        with _without_pyro_warnings(), ProgressBar(state.epochs, progress=shown) as bar:
            bar.follow(state.history)
            while len(state.history) < state.epochs and state.history.stopped is None:
                state.epoch = len(state.history) + 1
                # Processes need not take the same time for an epoch
                state.history.append(self._execution.ranks.broadcast(self._epoch()))
                for callback in self._callbacks:
                    callback(state)
                state.history.stopped = self._first_reason(state.history.stopped)
                bar.follow(state.history)
                if self._keeper is not None:
                    self._keeper.after_epoch()
        if self._keeper is not None:
            self._keeper.finish()
        for callback in self._callbacks:
            if isinstance(callback, Callback):
                callback.finish(state)

    def _first_reason(self, reason: str | None) -> str | None:
        """A callback that stops one process stops all."""
        return next(filter(None, self._execution.ranks.all_of(reason)), None)

    def _create(self, wanted: Collection[str]) -> None:
        """Has the programs create what they keep, and leaves everything else as it was.

        A new process has neither lazy parameters nor what plain functions close over before the first run.

        Args:
            wanted: parameters that one batch may state and another not.
        """
        svi = self.state.svi
        elbo: Any = objective(svi)
        stood = elbo.state_dict() if hasattr(elbo, "state_dict") else None
        streams = self._streams.state_dict()
        with _without_pyro_warnings(), self.state.programs.watch():
            for batch in self._batches.ordered():
                svi.evaluate_loss(*batch)
                if set(wanted) <= set(self.state.programs.stable_names.values()):
                    break
        self._last_good.restore()
        self._streams.load_state_dict(streams)
        if stood is not None:
            elbo.load_state_dict(stood)

    def _epoch(self) -> Row:
        part = self._part or EpochPart(Tally(self.state.svi), self._streams)
        self._part = None
        terms = self._steps(part)
        seconds = part.seconds
        self._last_good.update()
        place = {"epoch": self.state.epoch, "step": self.state.step}
        return place | terms | {"seconds": seconds} | self._validate()

    def _steps(self, part: EpochPart) -> Row:
        keeper = self._keeper
        batch: Batch = ()
        with self.state.programs.watch():
            for batch in part.batches_left(self._batches):
                self._prepare(batch)
                self.state.step += 1
                part.tally.add(self._step(batch), len(batch[0]), self._execution.share)
                part.taken += 1
                if keeper is not None:
                    keeper.after_step(part)
        # A finite loss may have a gradient that is not, and the last step has no successor to notice
        if self._last_good.spoiled():
            raise self._divergence.error("The parameters are not finite after", batch)
        return part.tally.means(self._execution.reduce)

    def _prepare(self, batch: Batch) -> None:
        if not self._prepared and self._execution.prepare(self.state.svi, self.state.programs, batch):
            self._last_good.update()
        self._prepared = True

    def _step(self, batch: Batch) -> float:
        try:
            loss = self._execution.step(self.state.svi, batch)
        except (ValueError, RuntimeError) as error:
            if not self._sum(self._divergence.explains(batch)):
                raise
            raise self._divergence.error("The loss cannot be computed at", batch) from error
        if not math.isfinite(loss):
            raise self._divergence.error(f"The loss is {loss} at", batch)
        return loss

    def _sum(self, number: float) -> float:
        """Over all processes, so that they decide alike."""
        return self._execution.reduce({"": float(number)})[""]

    def _count_non_finite(self, batch: Batch) -> int:
        return int(self._sum(count_non_finite(batch)))

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
