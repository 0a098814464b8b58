"""Keeping the parameters of the best epoch."""

from collections.abc import Mapping
from typing import Any, final

from pyro_infomax.training.callbacks import Callback, TrainingState
from pyro_infomax.training.monitor import Monitor


@final
class BestWeights(Callback):
    """Keeps the parameters, and the buffers of modules, of the best epoch so far.

    The training goes on, and ends with its last parameters; :meth:`restore` puts the best ones in their
    place. (:class:`EarlyStopping` ends a training that no longer improves, and restores by itself.) A
    checkpoint holds them too, so that a training that is resumed knows its best epoch from before.

    Args:
        monitor: the column of the history to watch; less is better, more for the ``elbo`` columns.
        min_delta: the least improvement that counts, in nats per datum.

    Raises:
        ValueError: for a negative min_delta, and in the first epoch if there is no such column.

    Example:
        >>> import pyro, torch
        >>> from pyro import distributions as dist
        >>> from pyro_infomax.training import fit
        >>> pyro.clear_param_store()
        >>> def model(x):
        ...     loc = pyro.param("loc", torch.zeros(()))
        ...     pyro.sample("x", dist.Normal(loc, 1.0), obs=x.mean())
        >>> svi = pyro.infer.SVI(model, lambda x: None, pyro.optim.SGD({"lr": 0.1}), pyro.infer.Trace_ELBO())
        >>> best = BestWeights()
        >>> history = fit(
        ...     svi, torch.ones(4), epochs=9, validation=torch.full((4,), 0.35), callbacks=[best],
        ...     progress=False)
        >>> best.restore()
        >>> best.epoch, round(pyro.param("loc").item(), 4)  # 1 − 0.9⁴
        (4, 0.3439)
    """

    def __init__(self, monitor: str = "validation_loss", *, min_delta: float = 0.0) -> None:
        self._monitor = Monitor(monitor, min_delta=min_delta)
        self._best: Mapping[str, Any] | None = None
        self._training: TrainingState | None = None

    @property
    def epoch(self) -> int:
        """The best epoch so far, counted from 1; 0 before there is one."""
        return self._monitor.epoch

    @property
    def value(self) -> float:
        """The monitored value of that epoch, in nats per datum; nan before there is one."""
        return self._monitor.value

    def restore(self) -> None:
        """Puts the parameters of the best epoch in the place of the present ones.

        Raises:
            ValueError: if no epoch has been the best one yet.
        """
        if self._best is None or self._training is None:
            raise ValueError(
                f"Expected an epoch with a {self._monitor.column} that is a number, but there was none: "
                "pass this callback to fit first."
            )
        best = self._training.snapshot()
        best.load_state_dict(self._best)
        best.restore()

    def __call__(self, state: TrainingState) -> None:
        self._training = state
        if self._monitor.improves(state):
            self._best = state.snapshot().state_dict()
        elif not self.epoch:
            self._best = None

    def finish(self, state: TrainingState) -> None:
        self._training = state

    def state_dict(self) -> dict[str, Any]:
        """The best epoch, and its parameters."""
        return {"monitor": self._monitor.state_dict(), "best": self._best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what another one has kept."""
        self._monitor.load_state_dict(state["monitor"])
        self._best = state["best"]

    def __repr__(self) -> str:
        return f"BestWeights(monitor={self._monitor.column!r}, min_delta={self._monitor.min_delta})"
