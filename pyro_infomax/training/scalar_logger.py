"""Writing the history to a logger, such as TensorBoard, while a training runs."""

from collections.abc import Mapping
from typing import Any, Protocol, final

from pyro_infomax.training.callbacks import Callback, TrainingState


class ScalarWriter(Protocol):
    """What a logger has to offer; most do."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int, /) -> Any:
        """Records one number."""


@final
class ScalarLogger(Callback):
    """Writes each epoch's row of the history to a logger, a scalar a column.

    Numbers stand at the optimiser's ``step``, so that trainings with other batch sizes lie over each other
    rightly. The last epoch is always written, and a writer that can ``flush`` is flushed at the end. Closing
    it is left to who opened it. Of several processes that train together the first one writes.

    Args:
        writer: anything with ``add_scalar(tag, value, step)``, for instance the ``SummaryWriter`` of
            ``torch.utils.tensorboard`` or of ``tensorboardX``.
        every: write the rows of each so many epochs.
        prefix: what precedes the name of a column in its tag; TensorBoard groups tags by what stands before a
            slash, as in ``"beta=4/"``.

    Raises:
        ValueError: for a writer without ``add_scalar``, and for every below 1.

    Example:
        >>> import pyro, torch
        >>> from pyro import distributions as dist
        >>> from pyro_infomax.training import fit
        >>> class Printer:
        ...     def add_scalar(self, tag, value, step):
        ...         print(f"{tag} {value:.3f} at {step}") if tag == "toy/loss" else None
        >>> def model(x):
        ...     pyro.sample("x", dist.Normal(0.0, 1.0).expand([len(x)]).to_event(1), obs=x)
        >>> svi = pyro.infer.SVI(model, lambda x: None, pyro.optim.SGD({"lr": 0.1}), pyro.infer.Trace_ELBO())
        >>> logger = ScalarLogger(Printer(), prefix="toy/")
        >>> _ = fit(svi, torch.zeros(8), epochs=2, batch_size=4, callbacks=[logger], progress=False)
        toy/loss 0.919 at 2
        toy/loss 0.919 at 4
    """

    def __init__(self, writer: ScalarWriter, *, every: int = 1, prefix: str = "") -> None:
        if not callable(getattr(writer, "add_scalar", None)):
            raise ValueError(
                f"Expected a writer with add_scalar(tag, value, step) but got {type(writer).__name__}, which "
                "has none: pass a SummaryWriter, or an object with that method."
            )
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"Expected every to be an integer >= 1 but got {every!r}.")
        self._writer = writer
        self._every = every
        self._prefix = prefix
        self._written = 0

    def __call__(self, state: TrainingState) -> None:
        # The same object may serve one training after another
        if len(state.history) == 1:
            self._written = 0
        if state.epoch % self._every == 0:
            self._write(state)

    def finish(self, state: TrainingState) -> None:
        if self._written != state.epoch:
            self._write(state)
        flush = getattr(self._writer, "flush", None)
        if callable(flush) and state.is_first:
            flush()

    def state_dict(self) -> dict[str, int]:
        """The epoch that was written last."""
        return {"written": self._written}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Goes on where another one has stopped."""
        self._written = int(state["written"])

    def _write(self, state: TrainingState) -> None:
        self._written = state.epoch
        if not state.is_first:
            return
        step = int(state.row["step"])
        for column, value in state.row.items():
            if column != "step":
                self._writer.add_scalar(self._prefix + column, float(value), step)
