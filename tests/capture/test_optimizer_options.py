from typing import Any

import pytest
import torch
from torch import optim

from pyro_infomax.capture._optim import ELEMENTWISE, check_constructor, check_options, fastest_options


class Subclass(optim.Adam):
    pass


class Open(optim.SGD):
    def __init__(self, params: Any, lr: float, **more: Any) -> None:
        super().__init__(params, lr=lr, **more)


@pytest.mark.parametrize("kind", sorted(ELEMENTWISE, key=lambda kind: kind.__name__))
def test_elementwise_classes_do_not_mix_elements(kind: type[optim.Optimizer]) -> None:
    gradients = torch.randn(5, 4)
    whole = torch.linspace(-1, 1, 4)
    halves = [whole[:1].clone(), whole[1:].clone()]
    optimizers = [kind([each]) for each in (whole, *halves)]
    for gradient in gradients:
        for tensor, part in zip((whole, *halves), (gradient, gradient[:1], gradient[1:]), strict=True):
            tensor.grad = part.clone()
        for each in optimizers:
            each.step()
    torch.testing.assert_close(whole, torch.cat(halves), rtol=0.0, atol=1e-12)
    assert not torch.equal(whole, torch.linspace(-1, 1, 4))


def test_others_are_not_elementwise() -> None:
    assert not {optim.Adafactor, optim.SparseAdam, optim.LBFGS, Subclass} & ELEMENTWISE


@pytest.mark.parametrize("kind", [optim.Adam, optim.AdamW, optim.SGD, optim.Adagrad])
def test_fused_where_there_is_a_kernel(kind: type[optim.Optimizer]) -> None:
    assert fastest_options(kind, {"lr": 0.1}, torch.zeros(2)) == {"lr": 0.1, "fused": True}


@pytest.mark.parametrize("kind", [optim.RMSprop, optim.NAdam, optim.Adafactor])
def test_as_given_where_there_is_none(kind: type[optim.Optimizer]) -> None:
    assert fastest_options(kind, {"lr": 0.1}, torch.zeros(2)) == {"lr": 0.1}


@pytest.mark.parametrize("choice", [{"fused": False}, {"foreach": True}, {"foreach": False}])
def test_choice_of_the_user(choice: dict[str, bool]) -> None:
    assert fastest_options(optim.Adam, choice, torch.zeros(2)) == choice


def test_not_fused_where_it_does_not_work() -> None:
    assert fastest_options(optim.Adam, {}, torch.zeros(2, dtype=torch.complex128)) == {}
    assert fastest_options(optim.Adam, {"differentiable": True}, torch.zeros(2)) == {"differentiable": True}
    sparse = torch.zeros(2)
    sparse.grad = torch.ones(2).to_sparse()
    assert fastest_options(optim.SGD, {}, sparse) == {}


def test_known_options() -> None:
    check_constructor(Subclass)
    check_options(Subclass, {"lr": 0.1, "betas": (0.5, 0.9)})
    check_options(Open, {"lr": 0.1, "momentum": 0.9})


def test_unknown_options() -> None:
    with pytest.raises(ValueError, match=r"options of SGD \(lr, momentum, .*\) but got 'beta', 'gamma'"):
        check_options(optim.SGD, {"lr": 0.1, "beta": 1, "gamma": 2})


def test_missing_options() -> None:
    with pytest.raises(
        ValueError, match=r"'lr' among the options of Open but got {'momentum': 0.9}: give it"
    ):
        check_options(Open, {"momentum": 0.9})


@pytest.mark.parametrize(
    ("constructor", "described"),
    [(torch.optim, "module 'torch.optim'"), (torch.nn.Linear, "Linear"), (lambda options: options, "lambda")],
)
def test_no_optimiser(constructor: object, described: str) -> None:
    with pytest.raises(ValueError, match=f"Expected a class of torch optimisers .* but got .*{described}"):
        check_constructor(constructor)
