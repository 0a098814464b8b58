import copy
from typing import Any

import pytest
import torch
from torch import Tensor, optim

from pyro_infomax.capture._optim import FusedKernel, has_fused_kernel

OPTIONS: list[dict[str, Any]] = [
    {"lr": 0.1},
    {"lr": 0.1, "betas": (0.5, 0.7), "eps": 0.1, "weight_decay": 0.3},
    {"lr": 0.1, "amsgrad": True},
    {"lr": 0.1, "maximize": True},
]


def split(tensor: Tensor) -> list[Tensor]:
    first, second = tensor.split([2, 6])
    return [first, second.view(2, 3)]


def made(kind: type[optim.Optimizer], options: dict[str, Any]) -> tuple[Tensor, optim.Optimizer, FusedKernel]:
    flat = torch.linspace(-1, 1, 8)
    optimizer = kind([flat], fused=True, **options)
    flat.grad = torch.ones(8)
    optimizer.step()
    return flat, optimizer, FusedKernel(optimizer, flat, split=split)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", [optim.Adam, optim.AdamW])
class TestSameAsTheOptimiser:
    def test_whole(self, kind: type[optim.Optimizer], options: dict[str, Any]) -> None:
        flat, _, kernel = made(kind, options)
        expected, optimizer, _ = made(kind, options)
        for gradient in torch.randn(5, 8):
            kernel.step(gradient)
            expected.grad = gradient
            optimizer.step()
        assert torch.equal(flat, expected)

    def test_parts(self, kind: type[optim.Optimizer], options: dict[str, Any]) -> None:
        flat, _, kernel = made(kind, options)
        expected, optimizer, _ = made(kind, options)
        for gradient in torch.randn(5, 8):
            kernel.step_parts(split(gradient))
            expected.grad = gradient
            optimizer.step()
        torch.testing.assert_close(flat, expected, rtol=0.0, atol=1e-14)

    def test_supported(self, kind: type[optim.Optimizer], options: dict[str, Any]) -> None:
        flat, optimizer, _ = made(kind, options)
        assert has_fused_kernel(optimizer, flat)


def test_step_count() -> None:
    _, optimizer, kernel = made(optim.Adam, {"lr": 0.1})
    kernel.step(torch.ones(8))
    kernel.step_parts(split(torch.ones(8)))
    (state,) = optimizer.state.values()
    assert state["step"] == 3


def test_learning_rate_is_read_anew() -> None:
    flat, optimizer, kernel = made(optim.Adam, {"lr": 0.1})
    before = flat.clone()
    optimizer.param_groups[0]["lr"] = 0.0
    kernel.step(torch.ones(8))
    assert torch.equal(flat, before)


def test_moments_are_read_anew() -> None:
    flat, optimizer, kernel = made(optim.Adam, {"lr": 0.1})
    kernel.step_parts(split(torch.ones(8)))
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    kernel.step_parts(split(torch.ones(8)))
    torch.testing.assert_close(optimizer.state[flat]["exp_avg"], torch.full((8,), 1 - 0.9**3))


def test_ready() -> None:
    flat = torch.ones(8)
    optimizer = optim.Adam([flat], fused=True)
    kernel = FusedKernel(optimizer, flat, split=split)
    assert not kernel.ready
    flat.grad = torch.ones(8)
    optimizer.step()
    assert kernel.ready
    optimizer.register_step_post_hook(lambda *_: None)
    assert not kernel.ready


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
