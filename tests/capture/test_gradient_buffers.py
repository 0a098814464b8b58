import pyro
import pytest
import torch

from pyro_infomax.capture import FusedOptim
from pyro_infomax.capture._graph import GradientBuffers

OPTIMISERS = {
    "flat": lambda: FusedOptim(torch.optim.SGD, {"lr": 1.0}),
    "two groups": lambda: FusedOptim(
        torch.optim.SGD, lambda name: {"lr": 1.0, "momentum": 0.1 * (name == "a")}
    ),
    "Pyro's": lambda: pyro.optim.SGD({"lr": 1.0}),
}


def parameters() -> list[torch.Tensor]:
    for name, value in {"a": torch.zeros(2), "b": torch.ones(3, 2), "c": torch.tensor(5.0)}.items():
        pyro.param(name, value)
    return [leaf for _, leaf in pyro.get_param_store().named_parameters()]


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_views_are_the_parts_of_the_flat_gradients(kind):
    a, b, c = leaves = parameters()
    buffers = GradientBuffers(OPTIMISERS[kind](), leaves, leaves)
    assert {each: view.shape for each, view in buffers.views.items()} == {each: each.shape for each in leaves}
    for number, leaf in enumerate(leaves):
        buffers.views[leaf].fill_(number + 1.0)
    buffers.apply()
    assert (a.tolist(), b.tolist(), c.item()) == ([-1.0, -1.0], [[-1.0, -1.0]] * 3, 2.0)
    assert all(leaf.grad is None or not leaf.grad.any() for leaf in leaves)


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_what_is_in_grad_already_is_added(kind):
    a, _b, c = leaves = parameters()
    buffers = GradientBuffers(OPTIMISERS[kind](), leaves, leaves)
    for flat in buffers.flat:
        flat.fill_(1.0)
    c.grad = torch.tensor(2.0)
    assert buffers.accumulated[c] == 3.0
    buffers.add_present()
    buffers.apply()
    assert (a.tolist(), c.item()) == ([-1.0, -1.0], 2.0)


def test_it_is_no_longer_current_when_the_optimiser_regroups():
    a, b, _c = leaves = parameters()
    optim = OPTIMISERS["flat"]()
    buffers = GradientBuffers(optim, leaves, leaves)
    assert buffers.current
    optim.groups((a, b))
    assert not buffers.current


def test_it_is_no_longer_current_when_parameters_have_moved():
    leaves = parameters()
    buffers = GradientBuffers(OPTIMISERS["flat"](), leaves, leaves)
    leaves[1].data = leaves[1].data.clone()
    assert not buffers.current


def test_one_flat_gradient_a_dtype():
    leaves = [torch.zeros(2, requires_grad=True), torch.zeros(3, dtype=torch.float32, requires_grad=True)]
    buffers = GradientBuffers(pyro.optim.SGD({"lr": 1.0}), leaves, leaves)
    assert {flat.dtype: flat.numel() for flat in buffers.flat} == {torch.float64: 2, torch.float32: 3}
