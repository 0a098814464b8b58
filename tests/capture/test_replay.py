import gc
import weakref

import torch

from pyro_infomax.capture._graph import RecordedGraph, to_function


def replay(function, inputs, destinations):
    recorded = RecordedGraph(function, inputs)
    recorded.simplify()
    return to_function(recorded, destinations)


def linear(size: int) -> tuple[torch.nn.Linear, torch.Tensor]:
    return torch.nn.Linear(size, 3), torch.randn(5, size)


def loss_and_gradients(layer):
    def function(x):
        loss = layer(x).tanh().square().sum()
        return loss, *torch.autograd.grad(loss, list(layer.parameters()))

    return function


def test_gradients_go_to_their_destinations():
    layer, x = linear(4)
    flat = torch.zeros(15)
    parts = [flat[:12].view(3, 4), flat[12:]]
    run = replay(loss_and_gradients(layer), [x], [None, *parts])
    x = torch.randn(5, 4)
    with torch.no_grad():
        layer.weight.mul_(0.5)
        (loss,) = run(x)
    expected = loss_and_gradients(layer)(x)
    assert torch.equal(loss, expected[0])
    assert torch.equal(flat, torch.cat([each.reshape(-1) for each in expected[1:]]))


def test_each_run_overwrites_the_destinations():
    place = torch.full((3,), 7.0)
    run = replay(lambda x: (x.exp(), x.sum()), [torch.zeros(3)], [place, None])
    for x in (torch.ones(3), torch.zeros(3)):
        assert run(x) == (x.sum(),)
        assert torch.equal(place, x.exp())


def test_one_value_for_two_destinations_and_a_return():
    first, second = torch.zeros(3), torch.zeros(3)

    def function(x):
        y = x.exp()
        return y, y, y

    (returned,) = replay(function, [torch.zeros(3)], [first, None, second])(torch.ones(3))
    assert first.tolist() == second.tolist() == returned.tolist() == torch.ones(3).exp().tolist()
    assert returned.data_ptr() not in (first.data_ptr(), second.data_ptr())


def test_an_input_or_a_constant_as_an_output():
    outside = torch.ones(2)
    place, other, third = torch.zeros(2), torch.zeros(2), torch.zeros(2)
    run = replay(lambda x: (x, outside, torch.zeros(2)), [torch.zeros(2)], [place, other, third])
    assert run(torch.full((2,), 3.0)) == ()
    assert (place.tolist(), other.tolist(), third.tolist()) == ([3, 3], [1, 1], [0, 0])


def test_a_transposed_output():
    place, other = torch.zeros(3, 2), torch.randn(4, 3)
    run = replay(lambda x: ((x @ other).t(),), [torch.randn(2, 4)], [place])
    x = torch.randn(2, 4)
    run(x)
    assert torch.equal(place, (x @ other).t())


def test_part_of_a_tensor_as_an_output():
    place = torch.zeros(2)
    run = replay(lambda x: (x.exp()[1:3],), [torch.zeros(4)], [place])
    x = torch.randn(4)
    run(x)
    assert torch.equal(place, x.exp()[1:3])


def test_arguments_of_all_kinds():
    def function(x):
        y = torch.nn.functional.pad(x, (1, 2), value=0.5).to(torch.float32)
        return torch.cat([y, y], dim=-1), x.clamp(min=-float("inf"), max=1e300), x.sum(dtype=torch.float32)

    x = torch.randn(3)
    for found, expected in zip(replay(function, [x], [None] * 3)(x), function(x), strict=True):
        assert torch.equal(found, expected)
        assert found.dtype == expected.dtype


def test_no_value_of_the_recording_is_kept():
    alive: list[weakref.ref[torch.Tensor]] = []

    def function(x):
        y = x.exp()
        alive.append(weakref.ref(y))
        return (y.sum(),)

    run = replay(function, [torch.randn(1000)], [None])
    gc.collect()
    assert [each for each in alive if each() is not None] == []
    assert run(torch.zeros(10 * 100))[0] == 1000
