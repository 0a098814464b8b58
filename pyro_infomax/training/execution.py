"""How the steps of a training are carried out: in one process, or in several that share the work."""

import abc
from typing import final

from pyro.infer import SVI

from pyro_infomax.ranks import ONE_RANK, Ranks
from pyro_infomax.training.batches import Batch, Batches
from pyro_infomax.training.program_state import ProgramState
from pyro_infomax.training.tally import total_loss


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
        """What has to be done before the first step of this process, on its batch.

        Returns:
            Whether parameters or buffers have other values now.
        """

    @abc.abstractmethod
    def evaluate(self, svi: SVI, batch: Batch) -> float:
        """The loss of this process's part of a batch, without gradients, in nats."""

    @abc.abstractmethod
    def step(self, svi: SVI, batch: Batch) -> float:
        """One step of the optimiser on all parts of a batch.

        Returns:
            The loss of this process's part, in nats; not finite in every process if it is not in one.
        """

    @abc.abstractmethod
    def reduce(self, sums: dict[str, float]) -> dict[str, float]:
        """Sums over the processes, key by key."""


@final
class SingleProcess(Execution):
    """Everything in this process.

    Example:
        >>> SingleProcess().reduce({"loss": 2.0})
        {'loss': 2.0}
    """

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
