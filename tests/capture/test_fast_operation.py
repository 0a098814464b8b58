import pytest
import torch

from pyro_infomax.capture._graph import RecordedGraph, fast_operation


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
