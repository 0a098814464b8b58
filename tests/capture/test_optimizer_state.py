import io
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, optim
from torch.optim import lr_scheduler

from pyro_infomax.capture._optim import ParameterState, frozen, own_options


def stepped(kind: type[optim.Optimizer] = optim.Adam, **options: Any) -> optim.Optimizer:
    parameter = torch.ones(2, 3)
    parameter.grad = torch.ones(2, 3)
    optimizer = kind([parameter], lr=0.1, **options)
    optimizer.step()
    return optimizer


def test_from_pyro() -> None:
    state = ParameterState.from_pyro(stepped().state_dict())
    assert set(state.elementwise) == {"exp_avg", "exp_avg_sq"}
    assert set(state.shared) == {"step"}
    assert state.options["betas"] == (0.9, 0.999)
    assert state.scheduler is None
    assert state.place is None


@pytest.mark.parametrize(
    ("kind", "shared"),
    [(optim.NAdam, {"step", "mu_product"}), (optim.ASGD, {"step", "eta", "mu"}), (optim.Rprop, {"step"})],
)
def test_what_is_shared(kind: type[optim.Optimizer], shared: set[str]) -> None:
    state = ParameterState.from_pyro(stepped(kind).state_dict())
    assert set(state.shared) == shared
    assert all(each.shape == (2, 3) for each in state.elementwise.values())


def test_there_and_back() -> None:
    optimizer = stepped()
    scheduler = lr_scheduler.MultiStepLR(optimizer, milestones=[1, 2])
    saved = {"scheduler": scheduler.state_dict(), "optimizer": optimizer.state_dict()}
    written = ParameterState.from_pyro(saved).to_pyro(place=(3, 1))
    file = io.BytesIO()
    torch.save(written, file)
    file.seek(0)
    read = ParameterState.from_pyro(torch.load(file, weights_only=True))
    assert read.place == (3, 1)
    assert read.key == ParameterState.from_pyro(saved).key
    assert read.scheduler is not None
    milestones = read.scheduler["milestones"]
    assert isinstance(milestones, Counter)
    assert milestones == Counter([1, 2])
    torch.testing.assert_close(read.state["exp_avg"], torch.full((2, 3), 0.1))


def test_numpy_numbers_become_plain() -> None:
    saved = ParameterState({}, {"lr": np.float64(0.5)}).to_pyro()
    assert type(saved["param_groups"][0]["lr"]) is float


def test_slices_are_cloned() -> None:
    flat = torch.zeros(1000)
    saved = ParameterState({"exp_avg": flat[2:4]}, {}).to_pyro()
    copy = saved["state"][0]["exp_avg"]
    assert copy.untyped_storage().nbytes() == 2 * 8
    flat.fill_(1.0)
    assert not copy.any()


def test_torch_takes_it() -> None:
    optimizer, other = stepped(), optim.Adam([torch.ones(2, 3)], lr=0.7)
    other.load_state_dict(ParameterState.from_pyro(optimizer.state_dict()).to_pyro())
    assert other.param_groups[0]["lr"] == 0.1
    torch.testing.assert_close(other.state_dict()["state"][0]["exp_avg"], torch.full((2, 3), 0.1))


def test_options_without_the_implementation() -> None:
    group = stepped(fused=True).param_groups[0]
    assert not {"params", "fused", "foreach", "capturable"} & own_options(group).keys()
    assert own_options(group)["lr"] == 0.1


@pytest.mark.parametrize(
    ("changed", "alone"),
    [
        ({"state": {"step": torch.tensor(2.0), "exp_avg": torch.zeros(3)}}, True),
        ({"state": {"step": torch.tensor(1.0)}}, True),
        ({"options": {"lr": 0.2}}, True),
        ({"scheduler": {"last_epoch": 4}}, True),
        ({"state": {"step": torch.tensor(1.0), "exp_avg": torch.ones(5)}}, False),
    ],
)
def test_who_may_be_stepped_together(changed: dict[str, Any], alone: bool) -> None:
    usual = {"state": {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3)}, "options": {"lr": 0.1}}
    first, second = ParameterState(**usual), ParameterState(**usual | changed)
    assert (first.key != second.key) is alone


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (torch.tensor(1.0), torch.tensor([1.0])),
        ({"a": 1}, {"a": 2}),
        ([1, 2], [1, 3]),
        (None, 0),
        (torch.tensor(1.0), torch.tensor(2.0)),
    ],
)
def test_frozen(first: Any, second: Any) -> None:
    assert frozen(first) != frozen(second)
    assert frozen(first) == frozen(_copied(first))
    assert hash(frozen(first)) == hash(frozen(_copied(first)))


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
