"""A training in its file: written as it goes on, read when it is resumed."""

import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, final

from pyro_infomax.ranks import Ranks
from pyro_infomax.training.callbacks import TrainingState
from pyro_infomax.training.checkpoint import Checkpoint
from pyro_infomax.training.checkpoint_file import read_checkpoint, remove_leftovers, write_checkpoint
from pyro_infomax.training.epoch_part import EpochPart
from pyro_infomax.training.optimizer_moments import prepare_moments, read_moments
from pyro_infomax.training.plain_state import plain_state
from pyro_infomax.training.program_state import is_of_programs
from pyro_infomax.training.random_streams import RandomStreams
from pyro_infomax.training.snapshot import Snapshot
from pyro_infomax.training.tally import objective

_LONGER_THAN_WRITING: Final = 20


@final
class Keeper:
    """Keeps a training in its checkpoint.

    Args:
        checkpoint: where, and how often.
        state: the training.
        last_good: the state at the end of the last epoch, where a loss that is not finite sends it.
        callbacks: those with a state are kept too.
        streams: what the training draws from.
        setting: what has to be the same when it is resumed.
        ranks: the processes that train. The first one writes.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        state: TrainingState,
        last_good: Snapshot,
        callbacks: Iterable[Callable[[TrainingState], None]],
        streams: RandomStreams,
        setting: Mapping[str, Any],
        ranks: Ranks,
    ) -> None:
        self._checkpoint = checkpoint
        self._path = checkpoint.path
        self._state = state
        self._last_good = last_good
        self._callbacks: list[Any] = [each for each in callbacks if _has_state(each)]
        self._streams = streams
        self._setting = dict(setting)
        self._ranks = ranks
        self._epochs_kept = 0
        self._stated_at_first: list[str] | None = None
        self._written = time.perf_counter()
        self._cost = 0.0

    # -- reading ---------------------------------------------------------------------------------------

    def find(self, *, resume: bool) -> dict[str, Any] | None:
        """What the file holds; None if there is none.

        Args:
            resume: whether the training may go on from a file.

        Raises:
            ValueError: if there is a file that it must not go on from, or that is no checkpoint of this
                training.
        """
        content = self._ranks.broadcast(self._ranks.together(lambda: self._find(resume)))
        if content is not None:
            self._check_setting(content["setting"])
        return content

    def _find(self, resume: bool) -> dict[str, Any] | None:
        if not self._ranks.is_first:
            return None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        exists = self._path.exists()
        if exists and not resume:
            raise ValueError(
                f"Expected no file {self._path}, which a new training would overwrite, but there is one: "
                "pass resume=True to go on from it, or another path."
            )
        remove_leftovers(self._path)
        return read_checkpoint(self._path) if exists else None

    def restore(self, content: Mapping[str, Any], part: EpochPart) -> None:
        """Puts a training back to where a file has it; nothing is changed if it does not fit.

        Args:
            content: of the file.
            part: the epoch in which the training was, if it was in one.

        Raises:
            ValueError: if parameters, buffers or callbacks are other ones.
        """
        programs, svi = self._state.programs, self._state.svi
        for kind, live in programs.state_dict().items():
            self._check_names(kind, live, content["programs"][kind])
        self._check_stated(content["stated_at_first"], programs.state_dict()["parameters"])
        self._check_callbacks(content["callbacks"])
        put_back = prepare_moments(svi.optim, content["optimizer"], programs)
        programs.load_state_dict(content["programs"])
        put_back()
        _load(objective(svi), content["objective"])
        _load(svi, content["svi"])
        for callback, (_, kept) in zip(self._callbacks, content["callbacks"], strict=True):
            callback.load_state_dict(kept)
        self._state.step = content["step"]
        self._state.history.load_state_dict(content["history"])
        self._state.epoch = len(self._state.history)
        self._epochs_kept = len(self._state.history)
        self._stated_at_first = content["stated_at_first"]
        self._restore_place(content, part)

    def _restore_place(self, content: Mapping[str, Any], part: EpochPart) -> None:
        streams = content["streams"][self._ranks.rank]
        if content["part"] is None:
            self._last_good.update()
            self._streams.load_state_dict(streams)
            return
        self._last_good.load_state_dict(content["last_good"])
        part.load_state_dict(content["part"][self._ranks.rank], streams=streams)
        self._state.epoch += 1

    def warn_of_fewer_epochs(self, content: Mapping[str, Any]) -> None:
        """Says so if the file has got further than was asked for now."""
        done, begun = len(self._state.history), content["part"] is not None
        if done + begun > self._state.epochs:
            warnings.warn(
                f"The checkpoint {self._path} has got to epoch {done + begun}, further than the "
                f"{self._state.epochs} epochs that were asked for; it is returned as it is.",
                UserWarning,
                stacklevel=3,
            )

    def _check_setting(self, kept: Mapping[str, Any]) -> None:
        for name, value in self._setting.items():
            if kept[name] != value:
                raise ValueError(
                    f"Expected {name} to be {kept[name]!r}, as in the checkpoint {self._path}, but got "
                    f"{value!r}: the training would not go on as the same. Resume it with the same, or begin "
                    "another one under another path."
                )

    def _check_names(self, what: str, live: Iterable[str], kept: Iterable[str]) -> None:
        lacking = [name for name in live if name not in set(kept)]
        if lacking:
            raise ValueError(
                f"Expected the checkpoint {self._path} to be of these programs, with the {what} "
                f"{_some(list(live))}, but it holds {_some(list(kept))}, without {_some(lacking)}."
            )

    def _check_stated(self, kept: Iterable[str], live: Iterable[str]) -> None:
        missing = [name for name in kept if name not in set(live)]
        if missing:
            raise ValueError(
                f"Expected programs that state {_some(missing)}, as those that wrote the checkpoint "
                f"{self._path} did in their first step, but they state {_some(list(live))}."
            )

    def _check_callbacks(self, kept: Iterable[tuple[str, Any]]) -> None:
        theirs, ours = [name for name, _ in kept], [type(each).__name__ for each in self._callbacks]
        if theirs != ours:
            raise ValueError(
                f"Expected the callbacks whose states the checkpoint {self._path} holds, {theirs}, but got "
                f"{ours}: pass callbacks of the same kinds in the same order."
            )

    # -- writing ---------------------------------------------------------------------------------------

    def after_step(self, part: EpochPart) -> None:
        """Writes in the middle of an epoch, if it is time."""
        if self._stated_at_first is None:
            names = self._state.programs.stable_names
            self._stated_at_first = [stable for name, stable in names.items() if is_of_programs(name)]
        if self._is_due_in_epoch() and not self._last_good.spoiled():
            self._write(part)

    def after_epoch(self) -> None:
        """Writes at the end of an epoch, if it is time."""
        if self._checkpoint.every_steps or self._checkpoint.every_seconds is not None:
            return
        if self._ranks.broadcast(self._age >= _LONGER_THAN_WRITING * self._cost):
            self._write(None)

    def finish(self) -> None:
        """Writes what is not written yet."""
        if len(self._state.history) > self._epochs_kept:
            self._write(None)

    @property
    def _age(self) -> float:
        return time.perf_counter() - self._written

    def _is_due_in_epoch(self) -> bool:
        steps, seconds = self._checkpoint.every_steps, self._checkpoint.every_seconds
        if steps is not None and self._state.step % steps == 0:
            return True
        return seconds is not None and bool(self._ranks.broadcast(self._age >= seconds))

    def _write(self, part: EpochPart | None) -> None:
        started = time.perf_counter()
        content = plain_state(self._content(part), of="the training")
        self._ranks.together(lambda: self._write_first(content))
        self._epochs_kept = len(self._state.history)
        self._written = time.perf_counter()
        self._cost = self._written - started

    def _write_first(self, content: Mapping[str, Any]) -> None:
        if self._ranks.is_first:
            write_checkpoint(self._path, content)

    def _content(self, part: EpochPart | None) -> dict[str, Any]:
        state, programs = self._state, self._state.programs
        return {
            "setting": self._setting,
            "programs": programs.state_dict(),
            "stated_at_first": self._stated_at_first,
            "optimizer": read_moments(state.svi.optim, programs),
            "objective": _state_of(objective(state.svi)),
            "svi": _state_of(state.svi),
            "callbacks": [(type(each).__name__, each.state_dict()) for each in self._callbacks],
            "step": state.step,
            "history": state.history.state_dict(),
            "streams": self._ranks.all_of(self._streams.state_dict()),
            "part": None if part is None else self._ranks.all_of(part.state_dict()),
            "last_good": None if part is None else self._last_good.state_dict(),
        }


def _has_state(callback: object) -> bool:
    return hasattr(callback, "state_dict") and hasattr(callback, "load_state_dict")


def _state_of(thing: Any) -> Any:
    read = getattr(thing, "state_dict", None)
    return None if read is None else read()


def _load(thing: Any, state: Any) -> None:
    if state is not None:
        thing.load_state_dict(state)


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown or "none"
