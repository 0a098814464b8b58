"""How the steps of a training are carried out: in one process, or in several that share the work."""

import abc
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, final

import torch
from pyro.infer import SVI
from torch import Tensor

from pyro_infomax._ranks import ONE_RANK, Ranks
from pyro_infomax._types import State
from pyro_infomax.programs import ProgramState, RandomStreams
from pyro_infomax.training._batches import Batch, Batches

# ---- Sums of losses and of their terms over batches.


@final
class Tally:
    """Adds up the losses of batches, and the terms that the objective, if it has any, recorded for each."""

    def __init__(self, svi: SVI) -> None:
        self._elbo = objective(svi)
        self._stands_for: Callable[[int], int] = getattr(self._elbo, "stands_for", int)
        self._sums: dict[str, float] = {"loss": 0.0}
        self.size = 0.0

    def add(self, loss: float, size: int, share: float = 1.0) -> None:
        """Adds the loss in nats of the batch that was evaluated last, of so many data.

        An objective that knows them to be a subsample counts the whole. Of the data of all processes this one
        has its share.
        """
        whole = self._stands_for(size)
        # What stands for the whole does so in every process
        self.size += whole if whole == size else whole * share
        self._sums["loss"] += loss
        terms = getattr(self._elbo, "terms", None)
        for name, nats in (terms or {}).items():
            if name != "loss":
                self._sums[name] = self._sums.get(name, 0.0) + nats

    def add_steps(self, losses: Sequence[float], terms: Mapping[str, Sequence[float]], size: int) -> None:
        """The same for steps on so many data each, the last of which was evaluated last."""
        whole = self._stands_for(size)
        self.size += whole * len(losses)
        for name, numbers in {"loss": losses, **{k: v for k, v in terms.items() if k != "loss"}}.items():
            total = self._sums.get(name, 0.0)
            for nats in numbers:
                total += nats
            self._sums[name] = total

    def means(
        self, reduce: Callable[[dict[str, float]], dict[str, float]] = lambda sums: sums
    ) -> dict[str, float]:
        """The loss and the terms in nats per datum, over all processes whose sums ``reduce`` adds up."""
        sums = reduce(self._sums | {"size": self.size})
        size = sums.pop("size")
        if size == 0:
            raise ValueError("Expected at least one datum in an epoch but the loader gave none.")
        return {name: total / size for name, total in sums.items()}

    def state_dict(self) -> dict[str, float]:
        """The sums so far, and the number of data."""
        return self._sums | {"size": self.size}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Goes on from the sums of another tally."""
        self._sums = {name: total for name, total in state.items() if name != "size"}
        self.size = float(state["size"])


def objective(svi: SVI) -> object:
    """The ELBO object behind an SVI; None where the loss is a plain function."""
    return getattr(svi.loss_and_grads, "__self__", None)


def total_loss(loss: float | tuple[float, ...]) -> float:
    """One number for a loss of several parts, on the sum of whose gradients the optimiser steps."""
    return float(sum(loss)) if isinstance(loss, tuple) else float(loss)


# ---- execution


class Execution(abc.ABC):
    """What ``fit`` asks of the processes that it runs in.

    Each process runs the same loop over its part of every batch, and calls these methods at the same points
    of it.

    Attributes:
        ranks: the processes. The first writes files and shows the bar.
        share: of the data of the present batch, those that this process has.
    """

    ranks: Ranks
    share: float

    @abc.abstractmethod
    def batches(self, batches: Batches) -> Batches:
        """This process's part of the batches, of training or of validation."""

    @abc.abstractmethod
    def prepare(self, svi: SVI, programs: ProgramState, batch: Batch) -> bool:
        """What to do before the first step, on its batch; whether parameters or buffers have changed."""

    @abc.abstractmethod
    def evaluate(self, svi: SVI, batch: Batch) -> float:
        """The loss of this process's part of a batch, without gradients, in nats."""

    @abc.abstractmethod
    def step(self, svi: SVI, batch: Batch) -> float:
        """One step on all parts of a batch; the loss of this part, not finite in all if not in one."""

    @abc.abstractmethod
    def reduce(self, sums: dict[str, float]) -> dict[str, float]:
        """Sums over the processes, key by key."""


@final
class SingleProcess(Execution):
    """Everything in this process."""

    ranks = ONE_RANK
    share = 1.0

    def batches(self, batches: Batches) -> Batches:
        return batches

    def prepare(self, svi: SVI, programs: ProgramState, batch: Batch) -> bool:  # noqa: ARG002
        return False

    def evaluate(self, svi: SVI, batch: Batch) -> float:
        return total_loss(svi.evaluate_loss(*batch))

    def step(self, svi: SVI, batch: Batch) -> float:
        return total_loss(svi.step(*batch))

    def reduce(self, sums: dict[str, float]) -> dict[str, float]:
        return sums


# ---- How many threads the steps run on.

_ROUNDS: Final = 4
_WORTH_A_THREAD: Final = 1.1  # a gain of less is noise
_HOPELESS: Final = 3.0
_MOST_SECONDS: Final = 0.2


@final
class ThreadChoice:
    """Finds by measurement the number of torch's threads on which steps are quickest.

    Steps of small networks lose by threads, on a busy machine by a factor of a hundred. What has threads to
    choose from is tried with 1, 4, 16, ... of them up to those that torch has. Of numbers about as quick the
    least is taken. The first step runs on one.

    Attributes:
        present: how many torch had.
        chosen: how many the steps run on; None where that is not known yet.
    """

    def __init__(self) -> None:
        self.present = torch.get_num_threads()
        self.chosen: int | None = self.present if self.present == 1 else None

    def begin(self) -> None:
        """Has torch use one until the number is known."""
        if self.chosen is None:
            torch.set_num_threads(1)

    def settle(self, number: int) -> None:
        """Takes this number, or all there are if there are fewer."""
        self.chosen = min(number, self.present)
        torch.set_num_threads(self.chosen)

    def measure(self, run: Callable[[], object]) -> None:
        """Runs a function that leaves no trace as often as it takes, and settles."""
        numbers = [*(4**power for power in range(8) if 4**power < self.present), self.present]
        seconds = dict.fromkeys(numbers, math.inf)
        end = time.perf_counter() + _MOST_SECONDS
        for number in numbers * _ROUNDS:
            if all(map(math.isfinite, seconds.values())) and time.perf_counter() > end:
                break
            if math.inf > seconds[number] > _HOPELESS * min(seconds.values()):
                continue
            torch.set_num_threads(number)
            run()  # threads begin
            started = time.perf_counter()
            run()
            seconds[number] = min(seconds[number], time.perf_counter() - started)
        enough = _WORTH_A_THREAD * min(seconds.values())
        self.settle(next(number for number in numbers if seconds[number] <= enough))

    def put_back(self) -> None:
        """Has torch use as many as at first."""
        torch.set_num_threads(self.present)


_MOST_ELEMENTS: Final = 2**20  # of a layer's input, output or weights: larger ones would take too long to try
_SMALL: Final = 5e7  # operations: less than a millisecond


@final
class Workload:
    """What a step on some data and parameters computes, by its size, without a run of the programs.

    These may remember their runs. For each matrix there are the three products of a layer and its
    derivatives, each with a function of its elements; a convolution's is as if it went over a quarter of a
    datum's elements. Layers are cut at a million elements, and larger weights are left out.

    Attributes:
        on_cpu: whether all of it is on a CPU.
        is_small: whether it is too little for threads to share.
    """

    def __init__(self, parameters: Iterable[Tensor], batch: Batch) -> None:
        weights = [each.detach() for each in parameters if each.dim() > 1 and each.is_floating_point()]
        self.on_cpu = all(each.device.type == "cpu" for each in (*weights, *batch))
        positions = max(1, batch[0][:1].numel() // 4) if batch else 1
        self._layers: list[tuple[Tensor, Tensor]] = []
        operations = 0
        for weight in weights if self.on_cpu and batch else ():
            matrix = weight.reshape(len(weight), -1)
            rows = len(batch[0]) * (positions if weight.dim() > 2 else 1)
            operations += 6 * rows * matrix.numel()
            rows = min(rows, _MOST_ELEMENTS // max(matrix.shape))
            if rows and matrix.numel() <= _MOST_ELEMENTS:
                self._layers.append((matrix.new_ones(rows, matrix.shape[1]), matrix))
        self.is_small = operations < _SMALL

    @torch.no_grad()
    def run(self) -> None:
        """Computes it once."""
        for x, weight in self._layers:
            y = torch.sigmoid(x @ weight.T)
            torch.sigmoid(y @ weight)
            torch.sigmoid(y.T @ x)


# ---- How far an epoch has come.


@final
class EpochPart:
    """The part of an epoch that is done, of so many batches ``taken``, and the way to the rest of it."""

    def __init__(self, tally: Tally, streams: RandomStreams) -> None:
        self.tally = tally
        self.taken = 0
        self._streams = streams
        self._began = streams.state_dict()
        self._goes_on_at: State | None = None
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """How long it has run, in all processes that it took one after the other."""
        return time.perf_counter() - self._started

    def batches_left(self, batches: Batches) -> Iterator[Batch]:
        """The batches after those that were taken, to be drawn from where it stands."""
        left = batches.shuffled(self.taken)
        if self._goes_on_at is not None:
            self._streams.load_state_dict(self._goes_on_at)
        return left

    def stacks_left(self, batches: Batches, most: Callable[[int], int]) -> Iterator[Batch] | None:
        """The same, many batches at once; see :meth:`Batches.stacked`."""
        left = batches.stacked(self.taken, most)
        if left is not None and self._goes_on_at is not None:
            self._streams.load_state_dict(self._goes_on_at)
        return left

    def state_dict(self) -> State:
        """The sums and the time so far, and where random streams stood at its beginning."""
        return {
            "taken": self.taken,
            "tally": self.tally.state_dict(),
            "seconds": self.seconds,
            "began": self._began,
        }

    def load_state_dict(self, state: State, *, streams: State) -> None:
        """Goes on where another process was stopped, with random streams as they stood then.

        They first go back to the beginning of the epoch, whose order of batches is drawn once more.
        """
        self.taken = state["taken"]
        self.tally.load_state_dict(state["tally"])
        self._started = time.perf_counter() - state["seconds"]
        self._began = state["began"]
        self._streams.load_state_dict(self._began)
        self._goes_on_at = streams
