"""The recorded graph by itself: what is simplified, how each operation is called, and where outputs go.

Through CapturedSVI one sees only that a step is the same, and not which operations are left in it.
"""

import gc
import operator
import weakref

import pytest
import torch

from pyro_infomax.capture._batching import batch_loops
from pyro_infomax.capture._graph import (
    RecordedGraph,
    fast_operation,
    is_random,
    to_function,
    written_arguments,
)
from pyro_infomax.capture._refusals import NotCapturableError

# ---- what is left of a recording


def recorded(function, *inputs) -> RecordedGraph:
    graph = RecordedGraph(function, inputs)
    graph.simplify()
    return graph


def calls(graph: RecordedGraph) -> list[str]:
    return [
        node.target.name() if isinstance(node.target, torch._ops.OpOverload) else node.target.__name__
        for node in graph.graph.nodes
        if node.op == "call_function"
    ]


def run(graph: RecordedGraph, *inputs) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return graph.module(*inputs)


def test_what_changes_nothing_is_dropped():
    def function(x):
        y = (x + 0) * 1.0 / 1
        z = y.detach().view(x.shape).expand(3, 2).t().t()
        return (z.pow(1.0).exp(),)

    graph = recorded(function, torch.randn(3, 2))
    assert calls(graph) == ["aten::exp"]
    x = torch.randn(3, 2)
    assert torch.equal(run(graph, x)[0], x.exp())


def test_a_neutral_number_that_changes_the_dtype_stays():
    graph = recorded(lambda x: (x / 1,), torch.arange(3))
    assert run(graph, torch.arange(3))[0].dtype == torch.get_default_dtype()


def test_a_neutral_number_of_another_shape_stays():
    graph = recorded(lambda x: (torch.zeros(2, 1) + x.exp(),), torch.randn(3))
    assert run(graph, torch.zeros(3))[0].tolist() == [[1.0] * 3] * 2


def test_what_is_computed_twice_is_computed_once():
    graph = recorded(lambda x: (x.exp() + x.exp(), x.exp() * x.sin()), torch.randn(3))
    assert calls(graph).count("aten::exp") == 1


def test_one_and_true_are_not_the_same_argument():
    """Nor are 1 and 1.0: what is added to truth values decides on their type."""

    def function(x):
        return (x + 1, x + True, x + 1.0, x.sum(0, keepdim=True), x.sum(0))

    graph = recorded(function, torch.tensor([True, True, False]))
    found = run(graph, torch.tensor([False, True, False]))
    assert [each.dtype for each in found[:3]] == [torch.int64, torch.bool, torch.get_default_dtype()]
    assert [each.tolist() for each in found[:3]] == [[1, 2, 1], [True, True, True], [1.0, 2.0, 1.0]]
    assert [each.shape for each in found[3:]] == [(1,), ()]


def test_what_is_the_same_at_each_run_is_a_constant():
    def function(x):
        scale = torch.tensor(4.0).sqrt() * torch.ones(3)
        return (x * scale.log(), torch.zeros_like(x))

    graph = recorded(function, torch.randn(3))
    assert calls(graph) == ["aten::mul.Tensor"]
    x = torch.randn(3)
    assert torch.equal(run(graph, x)[0], x * torch.full((3,), 2.0).log())
    assert torch.equal(run(graph, x)[1], torch.zeros(3))


@pytest.mark.parametrize("inputs", [1, 0])
def test_a_constant_stands_before_all_that_read_it(inputs):
    live = torch.randn(3)

    def function(*inputs):
        (x,) = inputs or (live,)
        folded = x * torch.tensor(4.0).sqrt()
        return (folded.exp() + torch.tensor(2.0),)  # the same content, written down later

    x = torch.randn(3)
    graph = recorded(function, *[x][:inputs])
    graph.graph.lint()
    expected = (2 * (x if inputs else live)).exp() + 2
    assert torch.equal(run(graph, *[x][:inputs])[0], expected)


def test_a_tensor_that_is_closed_over_stays_live():
    outside = torch.ones(3)
    graph = recorded(lambda x: (x + outside.exp(),), torch.zeros(3))
    outside.fill_(2.0)
    assert torch.equal(run(graph, torch.zeros(3))[0], outside.exp())


def test_draws_are_neither_dropped_nor_merged():
    def function(x):
        torch.randn(3)
        return (x + torch.randn(3) - torch.randn(3), torch.dropout(x, 0.5, True))

    graph = recorded(function, torch.ones(3))
    torch.manual_seed(1)
    found, after = run(graph, torch.ones(3)), torch.rand(())
    torch.manual_seed(1)
    with torch.no_grad():
        expected = function(torch.ones(3))
    assert torch.equal(torch.stack(found), torch.stack(expected))
    assert after == torch.rand(())


def test_writes_keep_their_place_among_reads():
    count = torch.zeros(())

    def function(x):
        before = count + x
        count.add_(1)
        return before, count + x, count * 1

    graph = recorded(function, torch.zeros(()))
    count.zero_()
    assert [[float(each) for each in run(graph, torch.zeros(()))] for _ in range(2)] == [[0, 1, 1], [1, 2, 2]]
    assert next(iter(graph.written_constants().values())) is count


def test_a_tensor_made_and_written_in_the_function():
    def function(x):
        total = torch.zeros(3)
        total += x
        early = total * 1
        total += x
        return early, total, torch.zeros(3)

    graph = recorded(function, torch.randn(3))
    for x in (torch.ones(3), torch.randn(3)):
        assert all(map(torch.equal, run(graph, x), function(x)))


def test_views_of_what_is_written_show_the_write():
    def function(x):
        y = x.exp()
        view = y.view(-1)
        y.mul_(2)
        return (view + 0, y.view(-1))

    graph = recorded(function, torch.randn(2, 2))
    x = torch.randn(2, 2)
    assert all(map(torch.equal, run(graph, x), function(x)))


def test_gradients_are_those_of_autograd():
    weight = torch.randn(4, 3, requires_grad=True)

    def function(x):
        loss = torch.nn.functional.softplus(x @ weight).square().sum()
        return loss.detach(), *torch.autograd.grad(loss, [weight])

    graph = recorded(function, torch.randn(5, 4))
    x = torch.randn(5, 4)
    with torch.no_grad():
        weight.add_(1.0)
    for found, expected in zip(run(graph, x), function(x), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "function",
    [
        # bytes read as another type, a conjugate and a negative are windows on the same memory
        lambda x: (x.view(torch.int64) + 1, x.exp()),
        lambda x: (torch.complex(x, x).conj().sum(), torch.complex(x, x).sum()),
        lambda x: (torch.complex(x, x).conj().imag.sum(), torch.complex(x, x).imag.sum()),
        # times 1, what was expanded lies in memory of its own
        lambda x: ((x.expand(3, 4) * 1.0).view(12), x.expand(3, 4).sum()),
        lambda x: ((x.expand(3, 4) + 0.0).view(-1).exp(),),
        # 1 and 1.0 lead to other types
        lambda x: (x.long() + 1, x.long() + 1.0),
    ],
)
def test_what_looks_the_same_and_is_not(function):
    graph = recorded(function, torch.randn(4))
    x = torch.randn(4)
    for found, expected in zip(run(graph, x), function(x), strict=True):
        assert torch.equal(found, expected)
        assert found.dtype == expected.dtype


def test_several_outputs_of_one_operation():
    graph = recorded(lambda x: (x.split(2)[1].exp(), *x.max(0)), torch.randn(4))
    assert operator.getitem.__name__ in calls(graph)
    x = torch.randn(4)
    assert torch.equal(run(graph, x)[0], x[2:].exp())
    assert run(graph, x)[2] == x.argmax()


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[x > 0].sum(),
        lambda x: x[(x > 0).byte()].sum(),
        lambda x: x * len(x[x > 0]),
        lambda x: x * len(x[x > 0]) if len((x > 0).nonzero()) else x,
    ],
)
@pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8")
def test_shapes_that_values_decide_are_refused(function):
    with pytest.raises(NotCapturableError, match="a shape depends on the values"):
        recorded(lambda x: (function(x),), torch.randn(8))


def test_shapes_that_constants_decide_are_recorded():
    graph = recorded(
        lambda x: (x * len(torch.tensor([True, False]).nonzero()), x[torch.tensor([2, 0])]), torch.ones(3)
    )
    found = run(graph, torch.tensor([1.0, 2.0, 3.0]))
    assert [each.tolist() for each in found] == [[1.0, 2.0, 3.0], [3.0, 1.0]]


def test_sparse_tensors_are_refused():
    with pytest.raises(NotCapturableError, match="sparse"):
        recorded(lambda x: (x * x.to_sparse()._nnz(),), torch.ones(3))


def test_which_operations_draw_and_write():
    graph = RecordedGraph(lambda x: (torch.empty(3).normal_() + x,), [torch.zeros(3)])
    named = {node.name: node for node in graph.graph.nodes}
    assert [name for name, node in named.items() if is_random(node)] == ["normal_"]
    assert written_arguments(named["normal_"]) == [named["empty"]]
    assert written_arguments(named["add"]) == []


def test_nodes_bear_no_metadata():
    """What fx notes of each takes longer than all else, and nobody reads it."""
    graph = RecordedGraph(loss_and_gradients(linear(4)[0]), [torch.randn(5, 4)])
    assert [node for node in graph.graph.nodes if node.meta] == []


@pytest.mark.parametrize(("operations", "told"), [(100, []), (9000, ["wait"])])
def test_who_waits_for_a_long_recording_is_told_once(operations, told):
    def function(x):
        for _ in range(operations):
            x = x.neg()
        return (x,)

    calls = []
    RecordedGraph(function, [torch.zeros(())], when_long=lambda: calls.append("wait"))
    assert calls == told


def test_a_tensor_turned_in_place_leaves_others_as_they_are():
    def function(x):
        y = x.exp()
        z = y.detach()
        z.unsqueeze_(0).transpose_(0, 1)
        return y.sum(0), z.sum(0), z

    graph = recorded(function, torch.randn(3))
    x = torch.randn(3)
    assert all(map(torch.equal, run(graph, x), function(x)))


@pytest.mark.parametrize(
    "made", [torch.nn.Parameter, lambda x: x.as_subclass(type("Own", (torch.Tensor,), {}))]
)
def test_tensors_that_no_operation_makes_are_refused(made):
    """A graph would hold what they held when it was recorded."""
    with pytest.raises(NotCapturableError, match=r"by no operation|of the type Own"):
        recorded(lambda x: (made(x.exp()).sum(),), torch.randn(3))


def test_inference_mode_hides_no_write():
    norm = torch.nn.BatchNorm1d(3)

    def function(x):
        with torch.inference_mode():
            return (norm(x),)

    graph = recorded(function, torch.randn(4, 3))
    assert len(graph.written_constants()) == 3
    assert "aten::batch_norm" not in calls(graph)


# ---- what loops repeat

TURNS = 6


def batched(function, *inputs) -> RecordedGraph:
    graph = recorded(function, *inputs)
    batch_loops(graph)
    graph.graph.lint()
    return graph


def assert_same(graph, function, *inputs):
    """Draws included."""
    torch.manual_seed(1)
    run = to_function(graph, [None] * len(graph.outputs))
    with torch.no_grad():
        found, after = run(*inputs), torch.rand(())
    torch.manual_seed(1)
    expected = function(*inputs)
    assert torch.rand(()) == after
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0.0, atol=1e-12)


def emitted(layer):
    """A layer on the states of a chain, and the gradients of its parameters."""

    def function(x):
        state, loss = x[0], torch.zeros(())
        for t in range(TURNS):
            state = state.tanh() + torch.randn(5, 4) + x[t]
            loss = loss - (torch.relu(layer(state)) - x[t, :, :3]).square().sum()
        return loss.detach(), *torch.autograd.grad(loss, list(layer.parameters()))

    return function


def test_a_layer_on_each_state_is_called_once():
    layer, _ = linear(4)
    graph = batched(emitted(layer), torch.randn(TURNS, 5, 4))
    found = calls(graph)
    assert [found.count(f"aten::{name}") for name in ("addmm", "mm", "relu", "tanh")] == [1, 1, 1, TURNS]
    assert_same(graph, emitted(layer), torch.randn(TURNS, 5, 4))


def test_a_recursion_stays_one():
    layer = torch.nn.Linear(4, 4)

    def function(x):
        for t in range(TURNS):
            x = layer(x + t).tanh()
        return (x.detach(),)

    graph = batched(function, torch.randn(5, 4))
    assert calls(graph).count("aten::addmm") == TURNS
    assert_same(graph, function, torch.randn(5, 4))


def test_writes_and_draws_between_the_turns_keep_their_place():
    """Those that wait for what is done at once hold up the others."""
    count = torch.zeros(3)

    def function(x):
        window = count.fill_(0.5).view(3)
        for t in range(TURNS):
            drawn = torch.bernoulli(x[t].sigmoid())
            count.mul_(0.5).add_(drawn + x[t].exp())
            x = x + window.sin() * torch.randn(3)
        return (x,)

    assert_same(batched(function, torch.randn(TURNS, 3)), function, torch.randn(TURNS, 3))


def test_the_gradient_of_all_slices_is_a_stack():
    weight = torch.randn(3, TURNS, requires_grad=True)

    def function(x):
        loss = sum((weight[:, t].exp() * x[t]).sum() for t in range(TURNS))
        return torch.autograd.grad(loss, [weight])

    graph = batched(function, torch.randn(TURNS, 3))
    assert "aten::select_backward" not in calls(graph)
    assert_same(graph, function, torch.randn(TURNS, 3))


@pytest.mark.parametrize(
    "turn",
    [
        lambda x: torch.where(x > 0, x, x.sum(0)) * x[0, 0],
        lambda x: x.sum(-1, keepdim=True) + x.sum(0) - x.long().sum(),
        lambda x: (x.unsqueeze(1) * x).sum([0, 2]) + x.t().exp().sum(),
        lambda x: x.clamp(min=0.1).log().expand(2, 3, 3).sum(0) @ x,
        lambda x: (x - x.mean(0)).square().mean() + torch.tensor(2.0).log() + x.isfinite().double(),
        lambda x: x.long() * 2,
    ],
)
def test_turns_of_all_kinds(turn):
    def function(x):
        turns = [turn(each) for each in x.exp().unbind(0)]
        return *turns, sum(turns[1:], turns[0])

    graph = batched(function, torch.randn(TURNS, 3, 3))
    assert len(calls(graph)) < len(calls(recorded(function, torch.randn(TURNS, 3, 3))))
    assert_same(graph, function, torch.randn(TURNS, 3, 3))


def test_what_is_large_or_happens_twice_is_left():
    def function(x):
        return *(each.exp() for each in x), x[0].sin() + x[1].sin() + x[0].sin() + x[1].sin()

    for inputs in (torch.zeros(3, 2), torch.zeros(TURNS, 2**16)):
        assert calls(batched(function, inputs)) == calls(recorded(function, inputs))


# ---- the quickest call of an operation


def only_call(function, *inputs):
    recorded = RecordedGraph(function, inputs)
    (node,) = [each for each in recorded.graph.nodes if each.op == "call_function"]
    return node, recorded


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: (x.exp(),), torch.exp),
        (lambda x: (torch.mm(x, x),), torch.mm),
        (lambda x: (x.sum(),), torch.sum),
    ],
)
def test_torch_has_a_quicker_function(function, expected):
    assert fast_operation(*only_call(function, torch.randn(3, 3))) is expected


def test_it_can_write_to_a_tensor_where_the_operation_can():
    node, recorded = only_call(lambda x: (torch.mm(x, x),), torch.randn(3, 3))
    assert fast_operation(node, recorded, out=torch.empty(3, 3)) is torch.mm
    node, recorded = only_call(lambda x: (torch.threshold(x, 0.0, 1.0),), torch.randn(3))
    node_of_draw, of_draw = only_call(lambda x: (torch.bernoulli(x, 0.5),), torch.rand(3))
    found = fast_operation(node_of_draw, of_draw, out=torch.empty(3))
    assert found is None or found is torch.bernoulli


def test_a_function_of_another_meaning_is_not_taken(monkeypatch):
    node, recorded = only_call(lambda x: (x.exp(),), torch.randn(3))
    monkeypatch.setattr(torch, "exp", lambda x: x.cos())
    found = fast_operation(node, recorded)
    assert torch.equal(found(torch.ones(3)), torch.ones(3).exp())
    assert found is not torch.exp


def test_draws_are_compared_under_one_random_state_that_stays():
    recorded = RecordedGraph(lambda x: (torch.empty_like(x).normal_(),), [torch.zeros(3)])
    state = torch.get_rng_state()
    (node,) = [each for each in recorded.graph.nodes if each.name == "normal_"]
    assert fast_operation(node, recorded) is torch.Tensor.normal_
    assert torch.equal(torch.get_rng_state(), state)


def test_trying_leaves_what_an_operation_writes_to():
    count = torch.zeros(())
    recorded = RecordedGraph(lambda x: (count.add_(1) + x,), [torch.zeros(())])
    before = float(count)
    for node in recorded.graph.nodes:
        if node.op == "call_function":
            fast_operation(node, recorded)
    assert float(count) == before


# ---- a graph as a function, and where its outputs go


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


def test_a_conjugate_as_an_output():
    place = torch.zeros(3, dtype=torch.complex128)
    run = replay(lambda x: ((x * 1j).conj(),), [torch.randn(3)], [place])
    x = torch.randn(3)
    run(x)
    assert torch.equal(place, (x * 1j).conj().resolve_conj())


def test_an_operation_whose_argument_is_written_to_later():
    """A trial on what the argument holds in the end would fail."""

    def function(x):
        place = torch.zeros(1, dtype=torch.long)
        found = x.index_select(0, place)
        place.sub_(5)
        return found, place

    (found, place) = replay(function, [torch.randn(3)], [None, None])(torch.tensor([1.0, 2.0, 3.0]))
    assert (found.tolist(), place.tolist()) == ([1.0], [-5])


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
