"""The error that ends a training whose loss is nan or infinite."""

from functools import partial
from typing import Any, final

from pyro_infomax.training.batches import Batch
from pyro_infomax.training.history import History


@final
class NonFiniteLossError(RuntimeError):
    """A training met a loss, or parameters, that are not finite.

    When it is raised, the parameters are those of the end of the last good epoch (their initial values
    if there was none).

    Args:
        message: what happened, and what to try.
        step: the step at which it happened, counted from 1 over the whole training.
        epoch: the epoch of that step, counted from 1.
        batch: the tensors that model and guide were given in that step.
        history: the rows of the good epochs.

    Example:
        >>> error = NonFiniteLossError("The loss is nan.", step=7, epoch=1, batch=(), history=History())
        >>> str(error), error.step
        ('The loss is nan.', 7)
    """

    def __init__(self, message: str, *, step: int, epoch: int, batch: Batch, history: History) -> None:
        super().__init__(message)
        self.step = step
        self.epoch = epoch
        self.batch = batch
        self.history = history

    def __reduce__(self) -> tuple[Any, ...]:
        # Workers send their errors to the parent as pickles, which know nothing of keyword-only arguments
        place = {name: getattr(self, name) for name in ("step", "epoch", "batch", "history")}
        return partial(type(self), **place), self.args
