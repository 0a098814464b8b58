import operator

import pytest
import torch

from pyro_infomax.capture._graph import RecordedGraph, is_random, written_arguments
from pyro_infomax.capture._watch import NotCapturableError


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


def test_several_outputs_of_one_operation():
    graph = recorded(lambda x: (x.split(2)[1].exp(), *x.max(0)), torch.randn(4))
    assert operator.getitem.__name__ in calls(graph)
    x = torch.randn(4)
    assert torch.equal(run(graph, x)[0], x[2:].exp())
    assert run(graph, x)[2] == x.argmax()


def test_shapes_that_values_decide_are_refused():
    with pytest.raises(NotCapturableError):
        recorded(lambda x: (x[x > 0].sum(),), torch.randn(8))


def test_which_operations_draw_and_write():
    graph = RecordedGraph(lambda x: (torch.empty(3).normal_() + x,), [torch.zeros(3)])
    named = {node.name: node for node in graph.graph.nodes}
    assert [name for name, node in named.items() if is_random(node)] == ["normal_"]
    assert written_arguments(named["normal_"]) == [named["empty"]]
    assert written_arguments(named["add"]) == []
