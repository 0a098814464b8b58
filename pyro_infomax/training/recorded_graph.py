"""A graph of tensor operations, recorded from a function, and simplified without a change of values."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeAlias, final

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_infomax.training.capture_key import NotCapturableError

__all__ = ["RecordedGraph", "is_random", "memory", "written_arguments"]

Alias: TypeAlias = tuple[Any, ...]

_LARGEST_CONSTANT: Final = 2**20  # elements
_SHAPE_ALONE: Final = frozenset(
    f"aten::{name}" for name in ("ones_like", "zeros_like", "full_like", "new_zeros", "new_ones", "new_full")
)
_NEUTRAL: Final = {
    "aten::add.Tensor": 0,
    "aten::sub.Tensor": 0,
    "aten::mul.Tensor": 1,
    "aten::mul.Scalar": 1,
    "aten::div.Tensor": 1,
    "aten::pow.Tensor_Scalar": 1,
}


@final
class RecordedGraph:
    """What a function does to tensors, as a graph of ATen operations.

    Tensors that the function closes over stand in the graph as the live tensors that they are, so that it
    reads, and writes, what they hold at each run. Everything else that the function reads, numbers and shapes
    among it, is fixed by the recording.

    Args:
        function: returns a tuple of tensors. It is run once.
        inputs: its arguments.

    Attributes:
        module: the graph.
        values: what each node gave when the recorded graph was run once more. It is what shows which
            nodes share memory.
        literals: nodes of constants that nobody outside can change; known after :meth:`simplify`.

    Raises:
        NotCapturableError: by :meth:`simplify`, where values decide on shapes.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], inputs: Sequence[Tensor]) -> None:
        self.module: GraphModule = make_fx(function, tracing_mode="real")(*inputs)
        self.values: dict[Node, Any] = {}
        self._run(inputs)
        self._written = frozenset(self._written_memory())
        self.literals: set[Node] = set()

    @property
    def graph(self) -> Graph:
        """The nodes."""
        return self.module.graph

    @property
    def outputs(self) -> tuple[Node, ...]:
        """The nodes that are returned."""
        (found,) = self.output_node.args
        assert isinstance(found, tuple | list)
        return tuple(found)  # type: ignore[arg-type]

    @property
    def inputs(self) -> list[Node]:
        """The nodes of the arguments."""
        return [node for node in self.graph.nodes if node.op == "placeholder"]

    def constants(self) -> dict[Node, Tensor]:
        """The tensors that the graph does not get as inputs, parameters among them."""
        return {
            node: self.values[node]
            for node in self.graph.nodes
            if node.op == "get_attr" and node in self.values
        }

    def simplify(self) -> None:
        """Drops what changes no value: repetitions, what nobody reads, and what is the same at each run."""
        self.literals = literal = self._made_of_numbers()
        seen: dict[Any, Node] = {}
        aliases: dict[Alias, Node] = {}
        for node in list(self.graph.nodes):
            if node.op == "call_function":
                self._simplify(node, literal, seen, aliases)
            if isinstance(self.values.get(node), Tensor):
                _remember(aliases, node, self.values[node])
        self._drop_unread()
        self._refuse_shapes_of_values()
        self.graph.lint()
        self.module.recompile()

    def written_constants(self) -> dict[Node, Tensor]:
        """Those of :meth:`constants` that the graph itself writes to."""
        return {node: value for node, value in self.constants().items() if memory(value) & self._written}

    def written_inputs(self) -> tuple[int, ...]:
        """The numbers of the arguments that the graph itself writes to."""
        return tuple(i for i, node in enumerate(self.inputs) if memory(self.values[node]) & self._written)

    def is_written(self, node: Node) -> bool:
        """Whether some node writes into memory that this one gives or reads."""
        near = (node, *node.all_input_nodes)
        return any(memory(self.values[each]) & self._written for each in near if each in self.values)

    def return_instead(self, nodes: Sequence[Node]) -> None:
        """Returns these nodes in place of those that are returned."""
        self.output_node.args = (tuple(nodes),)

    @property
    def output_node(self) -> Node:
        """The node that returns."""
        return next(iter(reversed(self.graph.nodes)))

    @torch.no_grad()
    def _run(self, inputs: Sequence[Tensor]) -> None:
        rest = iter(inputs)
        for node in self.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = next(rest)
            elif node.op == "get_attr":
                self.values[node] = getattr(self.module, str(node.target))
            elif node.op == "call_function":
                self.values[node] = node.target(*self.filled(node.args), **self.filled(node.kwargs))

    def filled(self, arguments: Any) -> Any:
        """Arguments of a node with values in place of nodes."""
        return torch.fx.node.map_arg(arguments, lambda node: self.values[node])

    def _written_memory(self) -> Iterator[int]:
        for node in self.graph.nodes:
            if node.op == "call_function":
                for argument in written_arguments(node):
                    yield from memory(self.values[argument])

    def _made_of_numbers(self) -> set[Node]:
        """Tensors that the function itself has made of numbers, which no one else can change."""
        lifts = ("aten::lift_fresh_copy", "aten::lift_fresh")
        return {
            node
            for node in self.graph.nodes
            if node.op == "get_attr" and node.users and all(_name(user) in lifts for user in node.users)
        }

    def _simplify(
        self, node: Node, literal: set[Node], seen: dict[Any, Node], aliases: dict[Alias, Node]
    ) -> None:
        value = self.values[node]
        if is_random(node) or written_arguments(node):
            return
        if (same := self._same_view(node, aliases)) is not None:
            if isinstance(value, Tensor):
                # Views of this node are views of the other from now on
                aliases.setdefault(_alias(value), same)
            self._replace(node, same)
            return
        if self.is_written(node):
            return
        if isinstance(value, Tensor) and self._is_constant(node, literal):
            literal.add(self._fold(node))
            return
        key = (node.target, _hashable(node.args), _hashable(node.kwargs))
        if key in seen:
            self._replace(node, seen[key])
        else:
            seen[key] = node

    def _same_view(self, node: Node, aliases: dict[Alias, Node]) -> Node | None:
        """The earlier node that is the same window on the same memory, or holds the same values."""
        value = self.values[node]
        if not isinstance(value, Tensor):
            return None
        if _gives_view(node) or any(
            memory(value) & memory(self.values[each]) for each in node.all_input_nodes
        ):
            return aliases.get(_alias(value))
        if self.is_written(node):
            return None
        if _name(node) in ("aten::lift_fresh_copy", "aten::lift_fresh"):
            return node.all_input_nodes[0]
        return self._unchanged(node)

    def _unchanged(self, node: Node) -> Node | None:
        neutral = _NEUTRAL.get(_name(node))
        if neutral is None or len(node.args) != 2 or node.kwargs or not isinstance(node.args[0], Node):
            return None
        first, value = self.values[node.args[0]], self.values[node]
        alike = first.dtype == value.dtype and first.shape == value.shape and first.stride() == value.stride()
        return node.args[0] if alike and _is_number(node.args[1], neutral) else None

    def _is_constant(self, node: Node, literal: set[Node]) -> bool:
        if self.values[node].numel() > _LARGEST_CONSTANT or _name(node).startswith(
            ("aten::empty", "aten::new_empty")
        ):
            return False
        return _name(node) in _SHAPE_ALONE or all(each in literal for each in node.all_input_nodes)

    def _fold(self, node: Node) -> Node:
        name = f"_folded_{node.name}"
        self.module.register_buffer(name, self.values[node], persistent=False)
        with self.graph.inserting_before(node):
            constant = self.graph.get_attr(name)
        self.values[constant] = self.values[node]
        self._replace(node, constant)
        return constant

    def _replace(self, node: Node, other: Node) -> None:
        node.replace_all_uses_with(other)
        self.graph.erase_node(node)
        del self.values[node]

    def _refuse_shapes_of_values(self) -> None:
        for node in self.graph.nodes:
            if torch.Tag.dynamic_output_shape in getattr(node.target, "tags", ()):
                deciding = [each for each in self._deciding(node) if each not in self.literals]
                if deciding:
                    raise NotCapturableError(f"a shape depends on the values of a tensor ({_name(node)})")

    def _deciding(self, node: Node) -> Sequence[Node]:
        """The arguments whose values decide on the shape of what a node gives."""
        if _name(node) not in ("aten::index.Tensor", "aten::_unsafe_index.Tensor"):
            return node.all_input_nodes
        indices: Any = node.args[1]
        masks = (torch.bool, torch.uint8)
        return [each for each in indices if each is not None and self.values[each].dtype in masks]

    def _drop_unread(self) -> None:
        for node in reversed(list(self.graph.nodes)):
            if node.op not in ("call_function", "get_attr") or node.users:
                continue
            # A draw that nobody reads still moves the random state, and an assertion has no result
            if node.op == "get_attr" or not (node.is_impure() or written_arguments(node)):
                self.graph.erase_node(node)
                self.values.pop(node, None)


def is_random(node: Node) -> bool:
    """Whether the operation of a node draws from a random state."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def written_arguments(node: Node) -> list[Node]:
    """The arguments that the operation of a node changes in place."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return []
    given = dict(zip((argument.name for argument in schema.arguments), node.args, strict=False)) | node.kwargs
    written = (
        given[argument.name]
        for argument in schema.arguments
        if argument.alias_info is not None and argument.alias_info.is_write and argument.name in given
    )
    return [
        node
        for each in written
        for node in (each if isinstance(each, list | tuple) else [each])
        if node is not None
    ]


def _gives_view(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(argument.alias_info is not None for argument in schema.arguments)


def _name(node: Node) -> str:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return ""
    return target.name()


def memory(value: Any) -> frozenset[int]:
    """Where in memory a tensor, or each of a list of tensors, is kept."""
    tensors = value if isinstance(value, list | tuple) else [value]
    return frozenset(
        each.untyped_storage().data_ptr() for each in tensors if isinstance(each, Tensor) and each.numel()
    )


def _alias(value: Tensor) -> Alias:
    place = value.data_ptr(), value.shape, value.stride(), value.numel() > 0 or id(value)
    return *place, value.dtype, value.is_conj(), value.is_neg()


def _remember(aliases: dict[Alias, Node], node: Node, value: Tensor) -> None:
    # After a write, the written tensor is the one to read
    if written_arguments(node):
        aliases[_alias(value)] = node
    else:
        aliases.setdefault(_alias(value), node)


def _is_number(value: object, number: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == number


def _hashable(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value).__name__, tuple(map(_hashable, value))
    if isinstance(value, dict):
        return tuple((name, _hashable(each)) for name, each in value.items())
    # 1, 1.0 and True are equal, and yet differ in the dtype that they lead to
    return type(value), value
