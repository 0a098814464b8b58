"""Telling a training that has diverged from an error of the program, and going back."""

import math
from collections.abc import Callable
from typing import final

from pyro import validation_enabled

from pyro_infomax.random_state import isolated_random_state
from pyro_infomax.training.batches import Batch
from pyro_infomax.training.callbacks import TrainingState
from pyro_infomax.training.history import History
from pyro_infomax.training.non_finite_loss import NonFiniteLossError
from pyro_infomax.training.optimizer_moments import forget_moments
from pyro_infomax.training.snapshot import Snapshot
from pyro_infomax.training.tally import total_loss


@final
class Divergence:
    """What becomes of a training whose loss, or parameters, are no longer finite.

    Args:
        state: the training.
        last_good: where it goes back to.
        count: of the values of a batch that are nan or infinite, in whatever process.
    """

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


def count_non_finite(batch: Batch) -> int:
    """The number of values of a batch that are nan or infinite.

    Example:
        >>> import torch
        >>> count_non_finite((torch.tensor([0.0, torch.nan]), torch.tensor([torch.inf])))
        2
    """
    return sum(int((~tensor.isfinite()).sum()) for tensor in batch)


def _advice(count: int) -> str:
    if count:
        return f"its batch holds {count} nan or infinite values, so remove those rows or fill them in"
    return "lower the learning rate or clip gradients, and look for extreme values in the error's .batch"


def _origin(history: History) -> str:
    return f"the end of epoch {len(history)}" if len(history) else "their initial values"
