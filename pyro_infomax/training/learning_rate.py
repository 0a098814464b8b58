"""Advancing learning-rate schedulers after each epoch of a training."""

from typing import Any, final

from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pyro_infomax.training.callbacks import TrainingState
from pyro_infomax.training.fused_optim import FusedOptim
from pyro_infomax.training.monitor import value_of


@final
class LearningRateSchedule:
    """A callback that advances the learning-rate schedulers of the optimiser after each epoch.

    It calls ``svi.optim.step()``, for a :class:`FusedOptim` with a scheduler and for Pyro's
    :class:`~pyro.optim.lr_scheduler.PyroLRScheduler` alike.

    Args:
        monitor: the column of the history that ReduceLROnPlateau watches, in nats per datum; None for all
            other schedulers. For an ``elbo`` column let the scheduler have ``mode="max"``.

    Raises:
        ValueError: in the first epoch, for an optimiser without schedulers, for a column that the history
            does not have, and where ReduceLROnPlateau has no column to watch or another scheduler has one.

    Example:
        >>> import pyro, torch
        >>> from pyro import distributions as dist
        >>> from pyro.infer import SVI, Trace_ELBO
        >>> from pyro_infomax.training import FusedOptim, fit
        >>> pyro.clear_param_store()
        >>> def model(x):
        ...     loc = pyro.param("loc", torch.zeros(()))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
        >>> halve = lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
        >>> optim = FusedOptim(torch.optim.SGD, {"lr": 0.08}, scheduler=halve)
        >>> svi = SVI(model, lambda x: None, optim, Trace_ELBO())
        >>> schedule = LearningRateSchedule()
        >>> history = fit(svi, torch.ones(4), epochs=3, callbacks=[schedule], progress=False, seed=0)
        >>> optim.get_state()["loc"]["optimizer"]["param_groups"][0]["lr"]
        0.01
    """

    def __init__(self, monitor: str | None = None) -> None:
        self.monitor = monitor

    def __call__(self, state: TrainingState) -> None:
        optim = _scheduled(state.svi.optim)
        _check_monitor(self.monitor, watches=_watches(optim))
        optim.step(*(() if self.monitor is None else (value_of(self.monitor, state),)))

    def __repr__(self) -> str:
        return f"LearningRateSchedule(monitor={self.monitor!r})"


def _scheduled(optim: PyroOptim) -> Any:
    if isinstance(optim, PyroLRScheduler) or getattr(optim, "scheduler", None) is not None:
        return optim
    advice = (
        "pass scheduler= to it" if isinstance(optim, FusedOptim) else "take FusedOptim or PyroLRScheduler"
    )
    raise ValueError(
        f"Expected an optimiser with learning-rate schedulers but got a {type(optim).__name__}: {advice}."
    )


def _watches(optim: PyroOptim) -> bool:
    return any(isinstance(each, ReduceLROnPlateau) for each in optim.optim_objs.values())


def _check_monitor(monitor: str | None, *, watches: bool) -> None:
    if watches and monitor is None:
        raise ValueError('Expected a column for ReduceLROnPlateau but got monitor=None: pass monitor="loss".')
    if monitor is not None and not watches:
        raise ValueError(
            f"Expected monitor=None, since only ReduceLROnPlateau watches a column, but got {monitor!r}."
        )
