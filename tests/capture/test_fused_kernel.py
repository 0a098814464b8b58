import copy
from typing import Any

import pytest
import torch
from torch import Tensor, optim

from pyro_infomax.capture._optim import has_fused_kernel, kernel_step

OPTIONS: list[dict[str, Any]] = [
    {"lr": 0.1},
    {"lr": 0.1, "betas": (0.5, 0.7), "eps": 0.1, "weight_decay": 0.3},
    {"lr": 0.1, "amsgrad": True},
    {"lr": 0.1, "maximize": True},
]


def stepped(kind: type[optim.Optimizer], options: dict[str, Any]) -> tuple[Tensor, optim.Optimizer]:
    flat = torch.linspace(-1, 1, 8)
    optimizer = kind([flat], fused=True, **options)
    kernel_step(optimizer, flat, torch.ones(8))
    return flat, optimizer


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", [optim.Adam, optim.AdamW])
class TestSameAsTheOptimiser:
    def test_steps(self, kind: type[optim.Optimizer], options: dict[str, Any]) -> None:
        flat, by_kernel = stepped(kind, options)
        expected, optimizer = stepped(kind, options)
        for gradient in torch.randn(5, 8):
            kernel_step(by_kernel, flat, gradient)
            expected.grad = gradient
            optimizer.step()
        assert torch.equal(flat, expected)

    def test_supported(self, kind: type[optim.Optimizer], options: dict[str, Any]) -> None:
        flat, optimizer = stepped(kind, options)
        assert has_fused_kernel(optimizer, flat)


def test_step_count() -> None:
    flat, optimizer = stepped(optim.Adam, {"lr": 0.1})
    kernel_step(optimizer, flat, torch.ones(8))
    (state,) = optimizer.state.values()
    assert state["step"] == 2


def test_learning_rate_is_read_anew() -> None:
    flat, optimizer = stepped(optim.Adam, {"lr": 0.1})
    before = flat.clone()
    optimizer.param_groups[0]["lr"] = 0.0
    kernel_step(optimizer, flat, torch.ones(8))
    assert torch.equal(flat, before)


def test_moments_are_read_anew() -> None:
    flat, optimizer = stepped(optim.Adam, {"lr": 0.1})
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    kernel_step(optimizer, flat, torch.ones(8))
    torch.testing.assert_close(optimizer.state[flat]["exp_avg"], torch.full((8,), 1 - 0.9**2))


def test_hooks_are_called() -> None:
    flat, optimizer = stepped(optim.Adam, {"lr": 0.1})
    called = []
    optimizer.register_step_post_hook(lambda *_: called.append(1))
    kernel_step(optimizer, flat, torch.ones(8))
    assert called == [1]
    assert flat.grad is None


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (optim.SGD, {"fused": True}),
        (optim.Adam, {"fused": False}),
        (optim.Adam, {"foreach": True}),
        (optim.Adam, {"fused": True, "lr": torch.tensor(0.1)}),
        (optim.RMSprop, {}),
    ],
)
def test_not_supported(kind: type[optim.Optimizer], options: dict[str, Any]) -> None:
    flat = torch.ones(8)
    assert not has_fused_kernel(kind([flat], **options), flat)
