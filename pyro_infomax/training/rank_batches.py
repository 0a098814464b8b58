"""The part of each batch that one of several processes takes, in step with the others."""

from collections.abc import Callable, Iterator
from typing import final

import torch
from torch import Tensor

from pyro_infomax.ranks import Ranks, attempt
from pyro_infomax.training.batches import Batch, Batches, LoaderBatches


@final
class RankBatches(Batches):
    """A process's part of the batches, as long as every process has one.

    Args:
        batches: of a single process.
        ranks: the processes.
        begin: called with the number of batches that are left out, before an epoch of training is drawn.
        place: moves a batch to the device of this process.
        meet: called with the number of data in the batches of this process, and of all of them together.
    """

    def __init__(
        self,
        batches: Batches,
        ranks: Ranks,
        *,
        begin: Callable[[int], None],
        place: Callable[[Batch], Batch],
        meet: Callable[[int, int], None],
    ) -> None:
        self._own = ranks.together(lambda: batches.sharded(ranks.rank, ranks.world_size))
        self._ranks = ranks
        self._begin = begin
        self._place = place
        self._meet = meet
        self._from_loader = isinstance(batches, LoaderBatches)

    def shuffled(self, skip: int = 0) -> Iterator[Batch]:
        self._begin(skip)
        before = torch.get_rng_state()
        own = self._ranks.together(lambda: self._own.shuffled(skip))
        if self._ranks.world_size > 1 and torch.equal(before, torch.get_rng_state()):
            # What an epoch begins with decides on its noise, so that no two may begin with the same
            torch.rand((), device="cpu")
        return self._walk(own)

    def ordered(self) -> Iterator[Batch]:
        return self._walk(self._ranks.together(self._own.ordered))

    def sharded(self, rank: int, world_size: int) -> Batches:  # noqa: ARG002
        raise ValueError(f"Expected batches of one process but got those of {self._ranks.world_size}.")

    def _walk(self, own: Iterator[Batch]) -> Iterator[Batch]:
        first = True
        while True:
            batch, size = self._next(own)
            if batch is None:
                return
            if first and self._from_loader and self._ranks.world_size > 1:
                self._check_differ(batch)
            first = False
            self._meet(len(batch[0]), size)
            yield batch

    def _next(self, own: Iterator[Batch]) -> tuple[Batch | None, int]:
        """The next batch, None if there is none left, and the number of data over all processes."""
        batch, error = attempt(lambda: self._fetched(own))
        here = torch.tensor([error is not None, batch is not None, len(batch[0]) if batch else 0])
        failed, having, size = self._ranks.reduce(here).tolist()
        if failed:
            self._ranks.end_together(error)
        if having not in (0, self._ranks.world_size):
            raise ValueError(
                f"Expected as many batches for each of {self._ranks.world_size} processes but {having} of "
                "them have more; give each loader the same number (a DistributedSampler does)."
            )
        return batch, size

    def _fetched(self, own: Iterator[Batch]) -> Batch | None:
        batch = next(own, None)
        return None if batch is None else self._place(batch)

    def _check_differ(self, batch: Batch) -> None:
        """Loaders that nobody has split hand out the same data to all processes."""
        several = bool((batch[0] != batch[0][:1]).any())
        others = self._ranks.all_of([part.cpu() for part in batch])
        if several and all(_are_equal(each, others[0]) for each in others):
            raise ValueError(
                "Expected loaders that hold another part of the data for each process but all got the same "
                "batch; pass the loader through fabric.setup_dataloaders, or a DistributedSampler to it."
            )


def _are_equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(one, other, strict=True))
