"""A recorded graph compiled to machine code."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from pyro_infomax.training.capture_key import NotCompilableError
from pyro_infomax.training.gradient_buffers import GradientBuffers
from pyro_infomax.training.recorded_graph import RecordedGraph

__all__ = ["compile_graph"]

_aten = torch.ops.aten


def compile_graph(
    recorded: RecordedGraph, inputs: Sequence[Tensor], gradients: GradientBuffers
) -> Callable[..., tuple[Tensor, ...]]:
    """Compiles a graph by torch's inductor, without the guards of Dynamo.

    Parameters that are views into one flat tensor enter as that tensor, and their gradients leave as one.
    Draws come from torch's own random state, as without compilation.

    Args:
        recorded: the graph, which is changed. Its last outputs are the gradients of the parameters.
        inputs: an example of its inputs.
        gradients: what takes the gradients.

    Returns:
        The function, of the graph's inputs, that returns the other outputs. To be called without gradients.

    Raises:
        NotCompilableError: where inductor fails, for want of a C++ compiler for instance.
    """
    _flatten_gradients(recorded, gradients)
    live = _lift_parameters(recorded, gradients) + _lift_others(recorded)
    recorded.module.recompile()
    compiled = _compiled(recorded.module, [*inputs, *live])
    returned = len(recorded.outputs) - len(gradients.flat)

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        found = compiled(*inputs, *live)
        gradients.flat = list(found[returned:])
        return tuple(found[:returned])

    return run


def _compiled(module: GraphModule, inputs: Sequence[Tensor]) -> Any:
    try:
        with torch.no_grad():
            compiled = torch._inductor.compile(module, [*inputs], options=_options())
    # Whatever it is that fails, the graph can still be replayed
    except Exception as error:
        first_line = str(error).strip().partition("\n")[0]
        raise NotCompilableError(f"{type(error).__name__}: {first_line}") from error
    # What Dynamo wraps around it costs microseconds at each call, and is for code that Dynamo compiles
    return getattr(compiled, "_torchdynamo_orig_callable", compiled)


def _options() -> dict[str, bool]:
    from torch._inductor import config  # it takes a second, which others need not spend

    # Who replays has looked at sizes and strides already, which small graphs notice
    checks = [name for name in ("size_asserts", "alignment_asserts") if hasattr(config, name)]
    return {"fallback_random": True} | dict.fromkeys(checks, False)


def _flatten_gradients(recorded: RecordedGraph, gradients: GradientBuffers) -> None:
    count = len(gradients.parameters)
    others = list(recorded.outputs[: len(recorded.outputs) - count])
    of = dict(zip(gradients.parameters, recorded.outputs[-count:], strict=True))
    flat = [_concatenated(recorded, [of[each] for each in members]) for members in gradients.members]
    recorded.return_instead([*others, *flat])


def _concatenated(recorded: RecordedGraph, nodes: Sequence[Node]) -> Node:
    graph = recorded.graph
    with graph.inserting_before(recorded.output_node):
        parts = [graph.call_function(_aten.reshape.default, (node, [-1])) for node in nodes]
        return graph.call_function(_aten.cat.default, (parts,))


def _lift_parameters(recorded: RecordedGraph, gradients: GradientBuffers) -> list[Tensor]:
    """Has the graph read parameters from the flat tensors, which become inputs."""
    lifted = []
    constants = recorded.constants()
    for number, (members, flat) in enumerate(zip(gradients.members, gradients.buffers, strict=True)):
        if flat is None:
            continue
        source = _new_input(recorded, f"flat_{number}")
        lifted.append(flat)
        ends = _ends(members)
        for node, value in constants.items():
            position = next((i for i, each in enumerate(members) if each is value), None)
            if position is not None:
                size = value.numel()
                _read_part(recorded, node, source, ends[position] - size, ends[position], value.shape)
    return lifted


def _ends(members: Sequence[Tensor]) -> list[int]:
    total = 0
    return [total := total + each.numel() for each in members]


def _read_part(
    recorded: RecordedGraph, node: Node, source: Node, start: int, end: int, shape: Sequence[int]
) -> None:
    graph = recorded.graph
    with graph.inserting_before(node):
        part = graph.call_function(_aten.slice.Tensor, (source, 0, start, end))
        node.replace_all_uses_with(graph.call_function(_aten.view.default, (part, list(shape))))
    graph.erase_node(node)


def _lift_others(recorded: RecordedGraph) -> list[Tensor]:
    """Makes inputs of the other tensors that the graph reads, since the compiler would copy small ones."""
    lifted = []
    for number, (node, value) in enumerate(recorded.constants().items()):
        if node not in recorded.literals:
            node.replace_all_uses_with(_new_input(recorded, f"live_{number}"))
            recorded.graph.erase_node(node)
            lifted.append(value)
    return lifted


def _new_input(recorded: RecordedGraph, name: str) -> Node:
    graph = recorded.graph
    last = [node for node in graph.nodes if node.op == "placeholder"][-1:]
    with graph.inserting_after(*last) if last else graph.inserting_before(next(iter(graph.nodes))):
        return graph.placeholder(name)
