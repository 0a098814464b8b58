"""A recorded graph as one straight function of Python."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

from torch import Tensor
from torch.fx import Node

from pyro_infomax.training.fast_operation import Operation, fast_operation
from pyro_infomax.training.recorded_graph import RecordedGraph, memory

__all__ = ["to_function"]

TensorFunction = Callable[..., tuple[Tensor, ...]]


def to_function(recorded: RecordedGraph, destinations: Sequence[Tensor | None]) -> TensorFunction:
    """Turns a graph into a function that runs its operations one after another.

    Args:
        recorded: the graph.
        destinations: for each output the tensor that it is to be written to, of its shape and contiguous, or
            None where it is to be returned.

    Returns:
        The function, of the graph's inputs. To be called without gradients.
    """
    return _Writer(recorded, destinations).function()


@final
class _Writer:
    """Writes the function, a line an operation."""

    def __init__(self, recorded: RecordedGraph, destinations: Sequence[Tensor | None]) -> None:
        self._recorded = recorded
        self._values = recorded.values
        self._names = {node: f"v{i}" for i, node in enumerate(recorded.graph.nodes)}
        self._objects: dict[str, Any] = {}
        self._operations: dict[Node, Operation] = {}
        self._direct: dict[Node, Tensor] = {}
        self._copied: list[tuple[Node, Tensor]] = []
        pairs = list(zip(recorded.outputs, destinations, strict=True))
        self._returned = [node for node, to in pairs if to is None]
        for node, to in pairs:
            if to is not None:
                self._send(node, to)

    def function(self) -> TensorFunction:
        arguments = ", ".join(self._names[node] for node in self._recorded.inputs)
        source = f"def replay({arguments}):\n" + "".join(f"    {line}\n" for line in self._lines())
        exec(compile(source, "<replay>", "exec"), self._objects)
        function: TensorFunction = self._objects["replay"]
        return function

    # An output is often a mere view of what an operation gave, such as a matrix product, and that operation
    # can then write to the destination itself.
    def _send(self, node: Node, to: Tensor) -> None:
        source = self._source(node)
        if source is not None and source not in self._direct and source not in self._returned:
            place = to.view(self._values[source].shape)
            operation = fast_operation(source, self._recorded, out=place)
            if operation is not None:
                self._operations[source], self._direct[source] = operation, place
                return
        self._copied.append((node, to))

    def _source(self, node: Node) -> Node | None:
        value = source = node
        value = self._values[node]
        while (earlier := self._viewed(source)) is not None:
            source = earlier
        found = self._values[source]
        if source.op != "call_function" or not isinstance(found, Tensor):
            return None
        same = found.data_ptr() == value.data_ptr() and found.numel() == value.numel()
        same = same and not (value.is_conj() or value.is_neg())
        return source if same and found.is_contiguous() and value.is_contiguous() else None

    def _viewed(self, node: Node) -> Node | None:
        inputs = [
            each for each in node.all_input_nodes if memory(self._values[each]) & memory(self._values[node])
        ]
        return inputs[0] if inputs and node.op == "call_function" else None

    def _lines(self) -> Iterator[str]:
        last = self._last_uses()
        for node in self._recorded.graph.nodes:
            if node.op == "get_attr":
                self._objects[self._names[node]] = self._values[node]
            elif node.op == "call_function":
                yield self._call(node)
                if gone := ", ".join(self._names[each] for each in last.get(node, ())):
                    yield f"del {gone}"
        for node, to in self._copied:
            yield f"{self._constant(to.copy_)}({self._names[node]})"
        yield f"return ({''.join(self._names[node] + ', ' for node in self._returned)})"

    def _call(self, node: Node) -> str:
        arguments = [self._written(each) for each in node.args]
        arguments += [f"{name}={self._written(each)}" for name, each in node.kwargs.items()]
        if node in self._direct:
            arguments.append(f"out={self._constant(self._direct[node])}")
        operation = self._operations.get(node) or fast_operation(node, self._recorded)
        return f"{self._names[node]} = {self._constant(operation)}({', '.join(arguments)})"

    def _written(self, value: Any) -> str:
        if isinstance(value, Node):
            return self._names[value]
        if isinstance(value, list | tuple):
            return f"[{', '.join(map(self._written, value))}]"
        if value is None or isinstance(value, bool | int | str):
            return repr(value)
        return self._constant(value)

    def _constant(self, value: object) -> str:
        name = f"c{len(self._objects)}"
        self._objects[name] = value
        return name

    def _last_uses(self) -> dict[Node, list[Node]]:
        """What each node is the last one to read, so that memory is given back as early as it can be."""
        kept = {*self._returned, *(node for node, _ in self._copied)}
        done: set[Node] = set()
        found: dict[Node, list[Node]] = {}
        for node in reversed(self._recorded.graph.nodes):
            for each in (node, *node.all_input_nodes):
                if node.op == each.op == "call_function" and each not in done | kept:
                    done.add(each)
                    found.setdefault(node, []).append(each)
        return found
