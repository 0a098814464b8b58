from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import ExponentialLR, PyroOptim, ReduceLROnPlateau
from torch import Tensor, optim
from torch.optim import lr_scheduler

from pyro_infomax.capture import FusedOptim
from pyro_infomax.training import LearningRateSchedule, fit


def model(x: Tensor) -> None:
    loc = pyro.param("loc", torch.zeros(()))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def trained(optimizer: PyroOptim, schedule: LearningRateSchedule, **kwargs: Any) -> float:
    """The learning rate after some epochs."""
    pyro.clear_param_store()
    svi = SVI(model, lambda _: None, optimizer, Trace_ELBO())
    fit(svi, torch.ones(6), epochs=6, batch_size=3, callbacks=[schedule], progress=False, seed=0, **kwargs)
    return optimizer.get_state()["loc"]["optimizer"]["param_groups"][0]["lr"]


def pyros(kind: Callable[..., PyroOptim], **options: Any) -> PyroOptim:
    return kind({"optimizer": optim.SGD, "optim_args": {"lr": 0.1}, **options})


def ours(kind: Callable[..., Any], **options: Any) -> FusedOptim:
    return FusedOptim(optim.SGD, {"lr": 0.1}, scheduler=lambda optimizer: kind(optimizer, **options))


@pytest.mark.parametrize(
    "optimizer",
    [pyros(ExponentialLR, gamma=0.5), ours(lr_scheduler.ExponentialLR, gamma=0.5)],
    ids=["Pyro", "ours"],
)
def test_once_an_epoch(optimizer: PyroOptim) -> None:
    assert trained(optimizer, LearningRateSchedule()) == pytest.approx(0.1 * 0.5**6)


@pytest.mark.parametrize("monitor", ["loss", "validation_loss"])
@pytest.mark.parametrize("owner", ["Pyro", "ours"])
def test_plateau(owner: str, monitor: str) -> None:
    # An improvement of 1e9 nats is asked for, so that each epoch but the first is a bad one
    options: dict[str, Any] = {"patience": 0, "factor": 0.5, "threshold": 1e9, "threshold_mode": "abs"}
    made = (
        pyros(ReduceLROnPlateau, **options)
        if owner == "Pyro"
        else ours(lr_scheduler.ReduceLROnPlateau, **options)
    )
    rate = trained(made, LearningRateSchedule(monitor), validation=torch.ones(3))
    assert rate == pytest.approx(0.1 * 0.5**5)


def test_plateau_watches_its_column() -> None:
    seen: list[float] = []

    class Watching(lr_scheduler.ReduceLROnPlateau):
        def step(self, metrics: Any, epoch: Any = None) -> None:
            seen.append(metrics)

    pyro.clear_param_store()
    svi = SVI(model, lambda _: None, ours(Watching), Trace_ELBO())
    schedule = LearningRateSchedule("validation_loss")
    history = fit(
        svi, torch.ones(6), validation=torch.ones(2), epochs=3, callbacks=[schedule], progress=False
    )
    assert seen == [row["validation_loss"] for row in history.rows]


@pytest.mark.parametrize(
    ("optimizer", "monitor", "message"),
    [
        (lambda: pyro.optim.Adam({"lr": 0.1}), None, "got a PyroOptim: take FusedOptim"),
        (lambda: FusedOptim(optim.Adam, {"lr": 0.1}), None, "got a FusedOptim: pass scheduler="),
        (
            lambda: ours(lr_scheduler.ReduceLROnPlateau),
            None,
            "a column for ReduceLROnPlateau but got monitor=None",
        ),
        (
            lambda: ours(lr_scheduler.ExponentialLR, gamma=0.5),
            "loss",
            "Expected monitor=None, .* but got 'loss'",
        ),
        (
            lambda: ours(lr_scheduler.ReduceLROnPlateau),
            "validation_loss",
            "the column 'validation_loss' but it has",
        ),
    ],
)
def test_errors(optimizer: Callable[[], PyroOptim], monitor: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trained(optimizer(), LearningRateSchedule(monitor))


def test_repr() -> None:
    assert repr(LearningRateSchedule("loss")) == "LearningRateSchedule(monitor='loss')"
