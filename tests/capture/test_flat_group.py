from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from pyro_infomax.capture._optim import ParameterGroup, can_flatten, overlapping_tensors

Make = Callable[..., ParameterGroup]


def leaves() -> list[Tensor]:
    return [
        torch.ones(2, 3, requires_grad=True),
        torch.zeros((), requires_grad=True),
        torch.ones(4, requires_grad=True),
    ]


def gradient() -> Tensor:
    return torch.arange(1.0, 12.0)


@pytest.fixture(params=[True, False], ids=["flat", "loose"])
def make(request: pytest.FixtureRequest) -> Make:
    return partial(
        ParameterGroup, flatten=request.param, make_optimizer=partial(optim.Adam, lr=0.5, fused=True)
    )


def test_slices(make: Make) -> None:
    assert make(leaves()).slices == (slice(0, 6), slice(6, 7), slice(7, 11))


def test_accepted_gradient(make: Make) -> None:
    parameters = leaves()
    group = make(parameters)
    for _ in range(3):
        group.accept(gradient())
        group.step()
    torch.testing.assert_close(parameters[1], torch.tensor(-1.5), check_dtype=False)
    torch.testing.assert_close(parameters[2], torch.full((4,), -0.5))
    assert all(parameter.grad is None for parameter in parameters)


def test_gathered_gradients(make: Make) -> None:
    groups = [make(leaves()), make(leaves())]
    for _ in range(4):
        for part, parameter in zip(groups[0].slices, groups[0].parameters, strict=True):
            parameter.grad = gradient()[part].view(parameter.shape)
        groups[0].gather()
        groups[0].step()
        groups[1].accept(gradient())
        groups[1].step()
    for found, expected in zip(groups[0].parameters, groups[1].parameters, strict=True):
        torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-14)
        assert found.grad is None


def test_what_is_gathered_may_be_scaled(make: Make) -> None:
    group = make(leaves(), make_optimizer=partial(optim.SGD, lr=1.0))
    for parameter in group.parameters:
        parameter.grad = torch.ones_like(parameter)
    for each in group.gather():
        each.mul_(0.5)
    group.step()
    assert group.parameters[1].item() == -0.5


def test_transposed_gradients() -> None:
    parameter = torch.zeros(2, 3, requires_grad=True)
    adam = partial(optim.Adam, lr=0.5, fused=True)
    group = ParameterGroup([parameter], flatten=True, make_optimizer=adam)
    rows = torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]])
    for _ in range(2):
        parameter.grad = rows.t().contiguous().t()
        group.gather()
        group.step()
    torch.testing.assert_close(parameter, -rows)


def test_state_goes_on(make: Make) -> None:
    first, second = make(leaves()), make(leaves())
    for group in (first, second):
        group.accept(gradient())
        group.step()
    states = [first.state(index) for index in range(3)]
    resumed = make([each.detach().clone() for each in first.parameters], states=states)
    for group in (resumed, second):
        group.accept(gradient().flip(0))
        group.step()
    for found, expected in zip(resumed.parameters, second.parameters, strict=True):
        assert torch.equal(found, expected)


def test_state_of_a_part(make: Make) -> None:
    group = make(leaves())
    group.accept(gradient())
    group.step()
    state = group.state(2)
    torch.testing.assert_close(state.state["exp_avg"], 0.1 * gradient()[7:])
    assert state.state["step"] == 1
    assert state.options["lr"] == 0.5


def test_state_before_a_step(make: Make) -> None:
    group = make(leaves())
    assert group.state(0).state == {}
    group.accept(gradient())
    group.step()
    assert group.state(0).state["step"] == 1


def test_scheduler_goes_on(make: Make) -> None:
    scheduler = partial(optim.lr_scheduler.ExponentialLR, gamma=0.5)
    group = make(leaves(), make_scheduler=scheduler)
    group.accept(gradient())
    group.step()
    group.scheduler.step()
    resumed = make(leaves(), make_scheduler=scheduler, states=[group.state(index) for index in range(3)])
    assert resumed.optimizer.param_groups[0]["lr"] == 0.25
    resumed.scheduler.step()
    assert resumed.optimizer.param_groups[0]["lr"] == 0.125
    assert group.optimizer.param_groups[0]["lr"] == 0.25


def test_intact(make: Make) -> None:
    group = make(leaves())
    assert group.intact
    group.parameters[0].data = torch.zeros(2, 3)
    assert not group.intact


def test_state_of_a_changed_shape(make: Make) -> None:
    group = make(leaves())
    group.parameters[0].data = torch.zeros(5)
    assert group.carried_state(0) is None
    assert group.carried_state(2) is not None


def test_storage_of_its_own() -> None:
    group = ParameterGroup(leaves(), flatten=True, make_optimizer=optim.Adam)
    assert group.flat is not None
    for parameter in group.parameters:
        assert parameter.untyped_storage().nbytes() == parameter.numel() * 8
    del group.optimizer
    flat_values = group.flat.clone()
    values = torch.cat([parameter.detach().reshape(-1) for parameter in group.parameters])
    del group
    torch.empty(11).fill_(5.0)
    assert torch.equal(values, flat_values)


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (torch.ones(2), True),
        (nn.Parameter(torch.ones(2, dtype=torch.bfloat16)), True),
        (torch.ones(2, dtype=torch.complex64), False),
        (torch.ones(2).to_sparse(), False),
        (torch.ones(2).share_memory_(), False),
        (torch.ones(2).as_subclass(type("Own", (Tensor,), {})), False),
    ],
    ids=["plain", "bfloat16", "complex", "sparse", "shared", "subclass"],
)
def test_can_flatten(tensor: Tensor, expected: bool) -> None:
    assert can_flatten(tensor) is expected


def test_sparse_gradients_cannot_be_flattened() -> None:
    table = nn.Embedding(3, 2, sparse=True)
    table(torch.tensor([0])).sum().backward()
    assert not can_flatten(table.weight)


def test_overlapping() -> None:
    base = torch.zeros(10)
    alone, left, right, apart = torch.zeros(3), base[:4], base[3:6], base[6:]
    assert overlapping_tensors([alone, left, right, apart]) == {left, right}
    assert overlapping_tensors([base, left, right]) == {base, left, right}
    assert overlapping_tensors([alone, left, apart, torch.zeros(0)]) == set()


def test_overlapping_with_an_early_one() -> None:
    base = torch.zeros(10)
    long, first, second = base[:8], base[1:3], base[5:7]
    assert overlapping_tensors([second, first, long]) == {long, first, second}


def test_bad_options_of_the_optimiser(make: Make) -> None:
    def broken(_: Any) -> optim.Optimizer:
        raise ValueError("no such option")

    with pytest.raises(ValueError, match="no such option"):
        make(leaves(), make_optimizer=broken)
