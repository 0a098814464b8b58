"""How far an epoch has come."""

import time
from collections.abc import Iterator, Mapping
from typing import Any, final

from pyro_infomax.training.batches import Batch, Batches
from pyro_infomax.training.random_streams import RandomStreams
from pyro_infomax.training.tally import Tally


@final
class EpochPart:
    """The part of an epoch that is done, and the way to the rest of it.

    Args:
        tally: adds up its losses.
        streams: what the training draws from.

    Attributes:
        taken: how many batches it has taken.
    """

    def __init__(self, tally: Tally, streams: RandomStreams) -> None:
        self.tally = tally
        self.taken = 0
        self._streams = streams
        self._began = streams.state_dict()
        self._goes_on_at: Mapping[str, Any] | None = None
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

    def state_dict(self) -> dict[str, Any]:
        """The sums and the time so far, and where random streams stood at its beginning."""
        return {
            "taken": self.taken,
            "tally": self.tally.state_dict(),
            "seconds": self.seconds,
            "began": self._began,
        }

    def load_state_dict(self, state: Mapping[str, Any], *, streams: Mapping[str, Any]) -> None:
        """Goes on where another process was stopped.

        Random streams go back to the beginning of the epoch, whose order of batches is drawn once more.

        Args:
            state: of :meth:`state_dict`.
            streams: where random streams stood when it was read.
        """
        self.taken = state["taken"]
        self.tally.load_state_dict(state["tally"])
        self._started = time.perf_counter() - state["seconds"]
        self._began = state["began"]
        self._streams.load_state_dict(self._began)
        self._goes_on_at = streams
