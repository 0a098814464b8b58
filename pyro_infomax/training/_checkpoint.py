"""A training in a file: where and how often it is kept, what the file holds, and how it is read again."""

import copy
import math
import os
import pickle
import re
import sys
import time
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, cast, final, runtime_checkable

import numpy as np
import torch
from pyro.infer import SVI
from pyro.optim import PyroOptim
from pyro.optim.optim import _get_state_dict, _load_state_dict
from torch import Tensor
from torch.utils.data import DataLoader

from pyro_infomax._checks import is_integer, whole_number
from pyro_infomax._ranks import Ranks
from pyro_infomax._types import State
from pyro_infomax.capture import FusedOptim
from pyro_infomax.programs import ProgramState, RandomStreams, Snapshot, check_fits, is_of_programs
from pyro_infomax.training._batches import TrainingData
from pyro_infomax.training._callbacks import TrainingState, is_kept
from pyro_infomax.training._execution import EpochPart, objective

# ---- checkpoint


@final
class Checkpoint:
    """A file in which ``fit`` keeps its training, so that a killed one can go on.

    Without a rhythm of its own, it is written at the end of an epoch, but not before the training has run
    twenty times as long as the last writing took: it costs a twentieth of the time at most. It is always
    written when the training ends.

    Args:
        path: of the file; missing folders are made.
        every_steps: writes after each so many steps, in the middle of an epoch too.
        every_seconds: writes at the first step after so many seconds.

    Raises:
        ValueError: for a path that is a folder, steps below 1, or seconds that are no number >= 0.

    Example:
        >>> Checkpoint("runs/vae.pt", every_seconds=60)
        Checkpoint('runs/vae.pt', every_steps=None, every_seconds=60)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        every_steps: int | None = None,
        every_seconds: float | None = None,
    ) -> None:
        if not isinstance(path, str | os.PathLike):
            raise ValueError(f"Expected the path of a checkpoint but got {path!r}.")
        self.path = Path(path).expanduser()
        if self.path.is_dir():
            raise ValueError(f"Expected the path of a file but {self.path} is a folder.")
        if target_of(self.path).is_symlink():
            raise ValueError(f"Expected the path of a file but {self.path} is a link that leads to itself.")
        if every_steps is not None:
            whole_number("every_steps", every_steps, at_least=1)
        if every_seconds is not None:
            is_number = isinstance(every_seconds, int | float) and not isinstance(every_seconds, bool)
            if not is_number or not 0 <= every_seconds < math.inf:
                raise ValueError(
                    f"Expected every_seconds to be a number >= 0, or None, but got {every_seconds!r}."
                )
        self.every_steps = every_steps
        self.every_seconds = every_seconds

    def __repr__(self) -> str:
        return (
            f"Checkpoint({str(self.path)!r}, every_steps={self.every_steps}, "
            f"every_seconds={self.every_seconds})"
        )


# ---- A file that holds a training, and that is whole at any moment.

_FORMAT: Final = "pyro_infomax training"
_VERSION: Final = 1
_MOST_NAMED: Final = 3


def target_of(path: Path) -> Path:
    """The file that a path leads to: where it is a symbolic link, the link is to stay."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def write_checkpoint(path: Path, content: State) -> None:
    """Writes a checkpoint in one instant: whoever reads meets the old file or the new one.

    The content goes to a temporary file in the same folder, is brought to the disk, and then takes the place
    of the old file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save({"format": _FORMAT, "version": _VERSION, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _bring_to_disk(path.parent)


def read_checkpoint(path: Path) -> State:
    """Reads a checkpoint, of which nothing is run."""
    if flaw := _flaw(path):
        raise ValueError(f"Expected {path} to be a checkpoint of fit but {flaw}.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"Expected {path} to be a checkpoint of fit, of tensors and plain values, but it holds other "
            "objects, which are not loaded since they could run code."
        ) from error
    except RuntimeError as error:
        raise ValueError(f"Expected {path} to be a checkpoint of fit but torch cannot read it.") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"Expected {path} to be a checkpoint of fit but it holds {_described(content)}.")
    if content.get("version") != _VERSION:
        raise ValueError(
            f"Expected {path} to be a checkpoint of version {_VERSION} but it is of version "
            f"{content.get('version')}: resume with the release that wrote it."
        )
    if flaw := next(_misfits(content), None):
        raise ValueError(f"Expected {path} to be a checkpoint of fit but {flaw}.")
    return content


def remove_leftovers(path: Path) -> None:
    """Removes what trainings that were killed while they wrote this checkpoint have left beside it."""
    leftover = re.compile(re.escape(f".{path.name}.") + r"\d+\.tmp")
    for file in path.parent.glob(".*.tmp"):
        if leftover.fullmatch(file.name):
            file.unlink(missing_ok=True)


def _bring_to_disk(folder: Path) -> None:
    # Other systems cannot open a folder, and order its changes by themselves
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _flaw(path: Path) -> str | None:
    if not path.is_file():
        return "it is no file"
    if path.stat().st_size == 0:
        return "it is empty"
    if zipfile.is_zipfile(path):
        return _damage(path)
    with path.open("rb") as file:
        begins_well = file.read(2) == b"PK"
    return "its end is missing" if begins_well else "it is no file that torch.save writes"


def _damage(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            record = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        return f"it is damaged ({error})"
    return None if record is None else f"it is damaged in its record {record}"


def _described(content: object) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    names = [repr(name) for name in content]
    more = ", …" if len(names) > _MOST_NAMED else ""
    return f"a {type(content).__name__} with the keys {', '.join(names[:_MOST_NAMED])}{more}"


# ---- What a checkpoint holds: each part by itself, before anything is known of the programs.


def _misfits(content: State) -> Iterator[str]:
    """What is wrong with a content that ``fit`` has not written."""
    for name, is_right in _PARTS.items():
        if name not in content:
            yield f"it lacks {name!r}"
        elif not is_right(content[name]):
            yield f"its {name!r} is not what fit writes there"
    # All parts are what they should be here, and have to agree
    rows, step, part = content["history"]["rows"], content["step"], content["part"]
    taken = {each["taken"] for each in part or ()}
    if [row["epoch"] for row in rows] != list(range(1, len(rows) + 1)) or len(
        {tuple(row) for row in rows}
    ) > 1:
        yield "the rows of its history are not one an epoch, with the same columns"
    if step != (rows[-1]["step"] if rows else 0) + sum(taken) or len(taken) > 1:
        yield f"its step {step} is not where its history and its part of an epoch have got"
    if (part is None) != (content["last_good"] is None) or len(part or content["streams"]) != len(
        content["streams"]
    ):
        yield "it holds a part of an epoch, its beginning and its random streams of different processes"


def _is_numbers(value: object, *names: str) -> bool:
    """Numbers by name, those of these names among them."""
    return (
        isinstance(value, dict)
        and {*names} <= value.keys()
        and all(isinstance(each, int | float) and not isinstance(each, bool) for each in value.values())
    )


def _is_history(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() - {"threads"} == {"rows", "stopped"}
        and isinstance(value["stopped"], str | None)
        and (value.get("threads") is None or (type(value["threads"]) is int and value["threads"] > 0))
        and isinstance(value["rows"], list)
        and all(_is_numbers(row, "epoch", "step", "loss", "seconds") for row in value["rows"])
    )


def _is_stream(value: object) -> bool:
    """Where generators stood, which a new generator can be brought to."""
    if not isinstance(value, dict) or value.keys() != {"cpu", "cuda", "generators"}:
        return False
    if not isinstance(value["cuda"], list) or not isinstance(value["generators"], list):
        return False
    try:
        for stood in (value["cpu"], *value["generators"]):
            torch.Generator().set_state(stood)
    except (TypeError, RuntimeError):
        return False
    return all(isinstance(each, Tensor) and each.dtype == torch.uint8 for each in value["cuda"])


def _is_part(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"taken", "tally", "seconds", "began"}
        and is_integer(value["taken"])
        and value["taken"] >= 1
        and _is_numbers({"seconds": value["seconds"]})
        and _is_numbers(value["tally"], "loss", "size")
        and _is_stream(value["began"])
    )


def _is_callbacks(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, tuple) and len(each) == 2 and isinstance(each[0], str) for each in value
    )


def _is_states(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(key, str) and isinstance(each, dict) for key, each in value.items()
    )


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _list_of(is_right: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and bool(value) and all(map(is_right, value))


_PARTS: Final[dict[str, Callable[[Any], bool]]] = {
    "setting": lambda value: isinstance(value, dict),
    "programs": is_kept,
    "stated_at_first": _is_names,
    "optimizer": _is_states,
    "objective": lambda value: isinstance(value, dict | None),
    "svi": lambda value: isinstance(value, dict | None),
    "callbacks": _is_callbacks,
    "step": lambda value: is_integer(value) and value >= 0,
    "history": _is_history,
    "streams": _list_of(_is_stream),
    "part": lambda value: value is None or _list_of(_is_part)(value),
    "last_good": lambda value: value is None or is_kept(value),
}


# ---- State that consists of tensors and plain values, which a file can hold without any code.

_VALUES: Final = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
_BASES: Final[tuple[type, ...]] = (str, int, float, tuple)
_MAPPINGS: Final = (dict, OrderedDict, Counter)
_SEQUENCES: Final = (list, tuple, set)


def plain_values(value: object, path: str = "") -> Any:
    """Tensors and plain values, nested as they may be, as ``torch.load(weights_only=True)`` reads them."""
    if isinstance(value, Tensor):
        return _without_the_rest(value.detach())
    if isinstance(value, np.generic):
        return value.item()
    kind: type = type(value)
    if kind in _VALUES:
        return value
    if isinstance(value, Mapping) and kind in _MAPPINGS:
        pairs = ((key, each, f"{path}.{key}") for key, each in value.items())
        return kind({plain_values(key, at): plain_values(each, at) for key, each, at in pairs})
    if isinstance(value, _SEQUENCES) and kind in _SEQUENCES:
        return kind(plain_values(each, f"{path}.{number}") for number, each in enumerate(value))
    for base in _BASES:
        if isinstance(value, base):
            return plain_values(base(value), path)
    if isinstance(value, Mapping):
        return plain_values(dict(value), path)
    raise ValueError(
        "Expected the state of the training to consist of tensors and plain values, so that a checkpoint can "
        f"hold it, but got a {type(value).__name__} at {path.removeprefix('.') or 'its root'!r}."
    )


def _without_the_rest(tensor: Tensor) -> Tensor:
    # A file would hold all of the storage that a view looks at
    shared = tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size()
    return tensor.clone() if shared else tensor


# ---- What has to stay the same for a training that is resumed to be the same training.


def training_setting(
    svi: SVI,
    data: TrainingData,
    *,
    validation: TrainingData | None,
    batch_size: int | None,
    seed: int | None,
    processes: int,
) -> State:
    """The kinds of optimiser and objective, the amount of data, and the arguments of ``fit``, by name."""
    return {
        "batch_size": batch_size if not isinstance(data, DataLoader) else data.batch_size,
        "len(data)": _length(data),
        "len(validation)": None if validation is None else _length(validation),
        "seed": seed,
        "number of processes": processes,
        "optimizer": _kind_of_optimizer(svi.optim),
        "objective": type(objective(svi)).__name__,
    }


def _length(data: object) -> int | None:
    if isinstance(data, DataLoader):
        return _length(data.dataset)
    if isinstance(data, tuple):
        return _length(data[0])
    return len(data) if isinstance(data, Sized) or hasattr(data, "__len__") else None


def _kind_of_optimizer(optim: PyroOptim) -> str:
    constructor = optim.pt_optim_constructor
    return f"{type(optim).__name__} of {getattr(constructor, '__name__', type(constructor).__name__)}"


# ---- What an optimiser of Pyro's keeps for each parameter: dropped, read and put back.


def forget_moments(optim: PyroOptim) -> None:
    """Drops the moments, step counts and schedules of all parameters, which begin anew."""
    if isinstance(optim, FusedOptim):
        optim.forget()
        return
    optim.optim_objs.clear()
    optim.grad_clip.clear()


def read_moments(optim: PyroOptim, programs: ProgramState) -> State:
    """What the optimiser keeps, by the stable names of the parameters; the tensors may be its own."""
    parameters, names = programs.parameters, programs.stable_names
    if isinstance(optim, FusedOptim):
        optim.name_parameters(parameters)
        kept = optim.get_state()
    else:
        objects = {name: optim.optim_objs.get(leaf) for name, leaf in parameters.items()}
        kept = {name: _get_state_dict(each) for name, each in objects.items() if each is not None}
        kept = dict(optim._state_waiting_to_be_consumed) | kept
    return {names.get(name, name): moments for name, moments in kept.items()}


def prepare_moments(optim: PyroOptim, moments: State, programs: ProgramState) -> Callable[[], None]:
    """What puts back all that :func:`read_moments` has read; until it is called, nothing has changed.

    What belongs to parameters that do not exist yet waits for them.
    """
    parameters = programs.parameters
    sites = {stable: name for name, stable in programs.stable_names.items()}
    waiting = {sites.get(name, name): kept for name, kept in moments.items()}
    ready = {}
    if not isinstance(optim, FusedOptim):
        for name in waiting.keys() & parameters.keys():
            ready[parameters[name]] = optim._get_optim(parameters[name])
            _load_state_dict(ready[parameters[name]], waiting.pop(name))

    for name in moments.keys() & set(programs.stable_names.values()):
        _rehearse(optim, parameters[sites[name]], moments[name], name)

    def put_back() -> None:
        forget_moments(optim)
        if isinstance(optim, FusedOptim):
            optim.name_parameters(parameters)
        optim._state_waiting_to_be_consumed.clear()
        for leaf, torch_optim in ready.items():
            optim.optim_objs[leaf] = torch_optim
            optim.grad_clip[leaf] = optim._get_grad_clip(leaf)  # type: ignore[arg-type]
        optim.set_state(waiting)

    return put_back


def _rehearse(optim: PyroOptim, parameter: Tensor, kept: State, name: str) -> None:
    """Steps a copy of a parameter, whose gradient is 0, with what was kept for it."""
    fresh = _step_of_copy(optim, parameter, None)
    if fresh is None:  # a new optimiser cannot step without more
        return
    loaded = _step_of_copy(optim, parameter, kept)
    if loaded is None or not _goes_on(loaded, fresh[1], _moments(kept), parameter):
        raise ValueError(
            f"Expected what the optimiser keeps for {name!r} to be of this optimiser and this parameter, of "
            f"shape {tuple(parameter.shape)}, but a step with it fails or is not finite."
        )


def _moments(kept: State) -> State:
    found: State = kept.get("optimizer", kept)["state"].get(0, {})
    return found


def _goes_on(loaded: tuple[Tensor, State], fresh: State, kept: State, parameter: Tensor) -> bool:
    """Whether what was kept has the form of what a new optimiser keeps, and a step with it is finite."""
    value, state = loaded
    tensors = [each for each in state.values() if isinstance(each, Tensor)]
    if any(bool(each.isnan().any()) for each in tensors) or bool((value.isnan() & ~parameter.isnan()).any()):
        return False
    return not kept or (
        fresh.keys() <= kept.keys()
        and all(_is_like(kept[key], fresh[key]) for key in fresh)
        and float(kept.get("step", 0)) >= 0
    )


def _is_like(kept: object, fresh: object) -> bool:
    if isinstance(fresh, Tensor) and fresh.dim():
        return isinstance(kept, Tensor) and (kept.shape, kept.dtype) == (fresh.shape, fresh.dtype)
    # A count of steps is a number or a tensor of any dtype
    is_number = isinstance(kept, int | float) or (isinstance(kept, Tensor) and kept.numel() == 1)
    return fresh is None or is_number


def _step_of_copy(optim: PyroOptim, parameter: Tensor, kept: State | None) -> tuple[Tensor, State] | None:
    """The value of a copy after one step, and what is then kept for it; None where the step fails."""
    try:
        torch_optim: Any = optim._get_optim(parameter)
        if isinstance(optim, FusedOptim) and optim.scheduler is not None:
            torch_optim = optim.scheduler(torch_optim)
        if kept is not None:
            known = _get_state_dict(torch_optim).get("scheduler", {})
            if any(_kind(each) != _kind(kept["scheduler"][key]) for key, each in known.items()):
                return None
            _load_state_dict(torch_optim, copy.deepcopy(kept))
        twin: Any = copy.deepcopy(getattr(torch_optim, "optimizer", torch_optim))
        (group,) = twin.param_groups
        if not group["lr"] >= 0:
            return None
        (value,) = group["params"]
        value.grad = torch.zeros_like(value)
        twin.step()
        return value.detach(), dict(twin.state[value])
    except Exception:
        # Whatever an optimiser of any make raises
        return None


def _kind(value: object) -> type:
    return float if isinstance(value, int | float) else type(value)


# ---- A training in its file: written as it goes on, read when it is resumed.

_LONGER_THAN_WRITING: Final = 20
_STEPS_BETWEEN_LOOKS: Final = 32  # at the clock


@runtime_checkable
class KeepsState(Protocol):
    """A callback, an objective or an SVI that a checkpoint keeps too."""

    def state_dict(self) -> State:
        """What it has gathered so far."""

    def load_state_dict(self, state: State, /) -> None:
        """Goes on from what another one has gathered."""


@final
@dataclass(eq=False, kw_only=True)
class Keeper:
    """Keeps a training in its checkpoint, and goes on from what that holds."""

    checkpoint: Checkpoint
    training: TrainingState
    last_good: Snapshot  # at the end of the last epoch, where a loss that is not finite sends it
    callbacks: Iterable[object]  # those with a state are kept too
    streams: RandomStreams  # what the training draws from
    setting: State  # what has to be the same when it is resumed
    ranks: Ranks  # those that train; the first one writes

    def __post_init__(self) -> None:
        self._path = target_of(self.checkpoint.path)
        self._kept: list[KeepsState] = [each for each in self.callbacks if isinstance(each, KeepsState)]
        self._epochs_kept = 0
        self._stated_at_first: list[str] | None = None
        self._written = time.perf_counter()
        self._cost = 0.0

    # -- reading ---------------------------------------------------------------------------------------

    def find(self, *, resume: bool) -> State | None:
        """What the file holds, which must be a checkpoint of this training; None if there is none."""
        content = self.ranks.broadcast(self.ranks.together(lambda: self._find(resume)))
        if content is not None:
            self._check_setting(content["setting"])
        return content

    def _find(self, resume: bool) -> State | None:
        if not self.ranks.is_first:
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

    def restore(self, content: State, part: EpochPart) -> None:
        """Puts a training back to where a file has it; nothing is changed if it does not fit."""
        try:
            put_back_moments = self._fitting_moments(content)
            stood = copy.deepcopy(self._content(None))
            try:
                self._load(content, part)
            except Exception:
                self._load(stood, None)
                raise
        except Exception as error:
            if isinstance(error, ValueError) and str(error).startswith("Expected "):
                raise
            raise ValueError(
                f"Expected the checkpoint {self._path} to be of this training but what it holds is refused: "
                f"{type(error).__name__}: {error}"
            ) from error
        # They have been tried out, and belong to the parameters that stand now
        put_back_moments()

    def _fitting_moments(self, content: State) -> Callable[[], None]:
        """Checks what can be checked without a change; what puts back the moments."""
        programs = self.training.programs
        for kind, live in programs.state_dict().items():
            for kept in filter(None, (content["programs"], content["last_good"])):
                self._check_names(kind, live, kept[kind])
                self._check_values(live, kept[kind])
        self._check_stated(content["stated_at_first"], programs.state_dict()["parameters"])
        self._check_callbacks(content["callbacks"])
        if len(content["streams"]) != self.ranks.world_size:
            raise ValueError(
                f"Expected random streams of {self.ranks.world_size} processes in {self._path} but got "
                f"{len(content['streams'])}."
            )
        own = len(self.streams.state_dict()["generators"])
        began = [each["began"] for each in content["part"] or ()]
        if any(len(each["generators"]) != own for each in (*content["streams"], *began)):
            raise ValueError(
                f"Expected loaders and datasets with as many generators of their own as {self._path} has but "
                f"got {own}."
            )
        if lacking := [name for name in content["stated_at_first"] if name not in content["optimizer"]]:
            raise ValueError(f"Expected the moments of {_some(lacking)} in {self._path} but it has none.")
        return prepare_moments(self.training.svi.optim, content["optimizer"], programs)

    def _load(self, content: State, part: EpochPart | None) -> None:
        self._load_callbacks([kept for _, kept in content["callbacks"]])
        self.training.programs.load_state_dict(content["programs"])
        self._load_states(content)
        self.training.step = content["step"]
        self.training.history.load_state_dict(content["history"])
        self.training.epoch = len(self.training.history)
        self._epochs_kept = len(self.training.history)
        self._stated_at_first = content["stated_at_first"]
        self._restore_place(content, part)

    def _load_states(self, content: State) -> None:
        svi = self.training.svi
        for thing, kept in ((objective(svi), content["objective"]), (svi, content["svi"])):
            if (kept is None) == hasattr(thing, "state_dict"):
                raise ValueError(
                    f"Expected a state of {type(thing).__name__} in {self._path} or none at all."
                )
            if kept is not None:
                cast(KeepsState, thing).load_state_dict(kept)

    def _load_callbacks(self, states: Sequence[State]) -> None:
        """All of them or, where one refuses its state, none."""
        before = [callback.state_dict() for callback in self._kept]
        try:
            for callback, state in zip(self._kept, states, strict=True):
                callback.load_state_dict(state)
        except Exception:
            for callback, state in zip(self._kept, before, strict=True):
                callback.load_state_dict(state)
            raise

    def _restore_place(self, content: State, part: EpochPart | None) -> None:
        streams = content["streams"][self.ranks.rank]
        if part is None or content["part"] is None:
            self.last_good.update()
            self.streams.load_state_dict(streams)
            return
        self.last_good.load_state_dict(content["last_good"])
        part.load_state_dict(content["part"][self.ranks.rank], streams=streams)
        self.training.epoch += 1

    def warn_of_fewer_epochs(self, content: State) -> None:
        """Says so if the file has got further than was asked for now."""
        done, begun = len(self.training.history), content["part"] is not None
        if done + begun > self.training.epochs:
            warnings.warn(
                f"The checkpoint {self._path} has got to epoch {done + begun}, further than the "
                f"{self.training.epochs} epochs that were asked for; it is returned as it is.",
                UserWarning,
                stacklevel=5,
            )

    def _check_setting(self, kept: State) -> None:
        for name, value in self.setting.items():
            if name not in kept or kept[name] != value:
                raise ValueError(
                    f"Expected {name} to be {kept.get(name)!r}, as in the checkpoint {self._path}, but got "
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

    def _check_values(self, live: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> None:
        for name in live.keys() & kept.keys():
            check_fits(name, live[name], kept[name])
            # Where a value is not finite at first, as in a causal mask, it is meant
            if not bool((kept[name].isfinite() | ~live[name].isfinite().cpu()).all()):
                raise ValueError(
                    f"Expected finite values of {name!r} in the checkpoint {self._path} but some are not."
                )

    def _check_stated(self, kept: Iterable[str], live: Iterable[str]) -> None:
        missing = [name for name in kept if name not in set(live)]
        if missing:
            raise ValueError(
                f"Expected programs that state {_some(missing)}, as those that wrote the checkpoint "
                f"{self._path} did in their first step, but they state {_some(list(live))}."
            )

    def _check_callbacks(self, kept: Iterable[tuple[str, State]]) -> None:
        theirs, ours = [name for name, _ in kept], [type(each).__name__ for each in self._kept]
        if theirs != ours:
            raise ValueError(
                f"Expected the callbacks whose states the checkpoint {self._path} holds, {theirs}, but got "
                f"{ours}: pass callbacks of the same kinds in the same order."
            )

    # -- writing ---------------------------------------------------------------------------------------

    def after_step(self, part: EpochPart) -> None:
        """Writes in the middle of an epoch, if it is time."""
        if self._stated_at_first is None:
            names = self.training.programs.stable_names
            self._stated_at_first = [stable for name, stable in names.items() if is_of_programs(name)]
        if self._is_due_in_epoch() and not self.last_good.spoiled():
            self._write(part)

    def after_epoch(self) -> None:
        """Writes at the end of an epoch, if it is time."""
        if self.checkpoint.every_steps or self.checkpoint.every_seconds is not None:
            return
        if self.ranks.broadcast(self._age >= _LONGER_THAN_WRITING * self._cost):
            self._write(None)

    def finish(self) -> None:
        """Writes what is not written yet."""
        if len(self.training.history) > self._epochs_kept:
            self._write(None)

    @property
    def steps_left(self) -> int:
        """How many steps may be taken before it is to be asked again."""
        every = self.checkpoint.every_steps
        if every is not None:
            return every - self.training.step % every
        return _STEPS_BETWEEN_LOOKS if self.checkpoint.every_seconds is not None else sys.maxsize

    @property
    def _age(self) -> float:
        return time.perf_counter() - self._written

    def _is_due_in_epoch(self) -> bool:
        steps, seconds = self.checkpoint.every_steps, self.checkpoint.every_seconds
        if steps is not None and self.training.step % steps == 0:
            return True
        return seconds is not None and bool(self.ranks.broadcast(self._age >= seconds))

    def _write(self, part: EpochPart | None) -> None:
        started = time.perf_counter()
        content = plain_values(self._content(part))
        self.ranks.together(lambda: self._write_first(content))
        self._epochs_kept = len(self.training.history)
        self._written = time.perf_counter()
        self._cost = self._written - started

    def _write_first(self, content: State) -> None:
        if self.ranks.is_first:
            write_checkpoint(self._path, content)

    def _content(self, part: EpochPart | None) -> State:
        training, programs = self.training, self.training.programs
        return {
            "setting": self.setting,
            "programs": programs.state_dict(),
            "stated_at_first": self._stated_at_first,
            "optimizer": read_moments(training.svi.optim, programs),
            "objective": _state_of(objective(training.svi)),
            "svi": _state_of(training.svi),
            "callbacks": [(type(each).__name__, each.state_dict()) for each in self._kept],
            "step": training.step,
            "history": training.history.state_dict(),
            "streams": self.ranks.all_of(self.streams.state_dict()),
            "part": None if part is None else self.ranks.all_of(part.state_dict()),
            "last_good": None if part is None else self.last_good.state_dict(),
        }


def _state_of(thing: object) -> State | None:
    return cast(KeepsState, thing).state_dict() if hasattr(thing, "state_dict") else None


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown or "none"
