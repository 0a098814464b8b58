"""A step as a graph of tensor operations: recorded, simplified, and replayed.

In this order: the recorded graph and its simplification, the quickest call of each operation, the straight
function of Python that replays the graph, and the buffers in which it leaves its gradients for the optimiser.
"""

import gc
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import cache, cached_property
from itertools import groupby
from typing import Final, TypeAlias, cast, final

import torch
from pyro.infer.util import zero_grads
from pyro.optim import PyroOptim
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from pyro_infomax._random import isolated_random_state
from pyro_infomax._recording import LIFTS, WRITE_AVERAGES, Recorder
from pyro_infomax.capture._optim import FusedOptim, ParameterGroup
from pyro_infomax.capture._refusals import NotCapturableError

# ---- A graph recorded from a function, and simplified without a change of values.

Alias: TypeAlias = tuple[Hashable, ...]

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


@contextmanager
def garbage_left() -> Iterator[None]:
    """Looks for no garbage in its block, where thousands of nodes and tensors come and all of them stay."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@final
class RecordedGraph:
    """What a function does to tensors, as a graph of ATen operations.

    Tensors that the function closes over stand in the graph as the live tensors that they are, so that it
    reads, and writes, what they hold at each run. Everything else that the function reads, numbers and shapes
    among it, is fixed by the recording.

    Args:
        function: what is recorded.
        inputs: its arguments.
        when_long: what is called once, if so much is recorded that users wonder what they wait for.

    Attributes:
        module: the graph.
        values: what each node gave when it was recorded. It is what shows which nodes share memory.
        literals: nodes of constants that nobody outside can change; known after :meth:`simplify`.

    Raises:
        NotCapturableError: by :meth:`simplify`, where values decide on shapes.
    """

    def __init__(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        inputs: Sequence[Tensor],
        *,
        when_long: Callable[[], object] | None = None,
    ) -> None:
        recorder = Recorder(inputs, when_long=when_long)
        with recorder, garbage_left():
            outputs = function(*inputs)
        recorder.finish(outputs)
        self.graph: Graph = recorder.graph
        self.values = recorder.values
        self._constants = recorder.constants
        self._memory: dict[Node, frozenset[int]] = {}
        self._written_near: dict[Node, frozenset[int]] = {}
        self._written = frozenset(self._written_memory())
        self._refuse_hidden_views()
        self.literals: set[Node] = set()

    @cached_property
    def module(self) -> GraphModule:
        """The graph with its constants, as a module that runs it."""
        return GraphModule(self._constants, self.graph)

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

    @garbage_left()
    def simplify(self) -> None:
        """Drops what changes no value: repetitions, what nobody reads, and what is the same at each run."""
        # In the order in which they run, so that each operation meets what earlier ones have become. aliases
        # holds who gave a window on memory first, or wrote to it last; seen holds the calls so far
        self._constants_by_content: dict[Hashable, Node] = {}
        self.literals = {self._only_one(node) for node in self._made_of_numbers()}
        seen: dict[Hashable, Node] = {}
        aliases: dict[Alias, Node] = {}
        for node in list(self.graph.nodes):
            if node.op == "call_function":
                self._simplify_call(node, seen, aliases)
            if isinstance(self.values.get(node), Tensor):
                _remember(aliases, node, self.values[node])
        # Shapes that depend on constants have been folded. Of another one the program may have read the size,
        # which leaves no trace in the graph: it is refused even where nobody reads the values
        self._refuse_shapes_of_values()
        self.drop_unread()

    def written_constants(self) -> dict[Node, Tensor]:
        """Those of :meth:`constants` that the graph itself writes to."""
        return {
            node: value for node, value in self.constants().items() if self.memory_of(node) & self._written
        }

    def written_inputs(self) -> tuple[int, ...]:
        """The numbers of the arguments that the graph itself writes to."""
        return tuple(i for i, node in enumerate(self.inputs) if self.memory_of(node) & self._written)

    def moves_averages(self) -> bool:
        """Whether batch norm is in training mode."""
        calls = [node for node in self.graph.nodes if _operator(node) in WRITE_AVERAGES]
        return any(map(written_arguments, calls))

    def is_written(self, node: Node) -> bool:
        """Whether some node writes into memory that this one gives or reads."""
        return bool(self.written_near(node))

    def written_near(self, node: Node) -> frozenset[int]:
        """The memory that a node gives or reads, and that some node writes into."""
        if not self._written:
            return self._written
        if node not in self._written_near:
            near = self.memory_of(node).union(*map(self.memory_of, node.all_input_nodes))
            self._written_near[node] = near & self._written
        return self._written_near[node]

    def memory_of(self, node: Node) -> frozenset[int]:
        """Where in memory is what a node gave."""
        if node not in self._memory:
            self._memory[node] = memory(self.values.get(node))
        return self._memory[node]

    def return_instead(self, nodes: Sequence[Node]) -> None:
        """Returns these nodes in place of those that are returned."""
        self.output_node.args = (tuple(nodes),)

    @property
    def output_node(self) -> Node:
        """The node that returns."""
        return next(iter(reversed(self.graph.nodes)))

    def _written_memory(self) -> Iterator[int]:
        for node in self.graph.nodes:
            if node.op == "call_function":
                for argument in written_arguments(node):
                    yield from self.memory_of(argument)

    def _refuse_hidden_views(self) -> None:
        """Refuses constants that are windows on what operations have made, which no operation has shown."""
        fresh: set[int] = set()
        for node in self.graph.nodes:
            if node.op in ("call_function", "placeholder"):
                fresh |= self.memory_of(node).difference(*map(self.memory_of, node.all_input_nodes))
        if any(self.memory_of(node) & fresh for node in self.constants()):
            raise NotCapturableError(
                "a tensor is made of another one by no operation, as nn.Parameter(x) and x.as_subclass do"
            )

    def _made_of_numbers(self) -> list[Node]:
        """Tensors that the function itself has made of numbers, which no one else can change."""
        return [
            node
            for node in self.graph.nodes
            if node.op == "get_attr" and node.users and all(user.target in LIFTS for user in node.users)
        ]

    def _only_one(self, literal: Node) -> Node:
        """The first constant of the same content, which takes the place of others."""
        value = self.values[literal]
        lazy = value.is_conj() or value.is_neg()
        if lazy or not value.is_cpu or not 0 < value.numel() <= _LARGEST_CONSTANT:
            return literal
        content = (
            torch.empty(value.shape, dtype=value.dtype, device="cpu").copy_(value).view(-1).view(torch.uint8)
        )
        key = value.shape, value.stride(), value.dtype, content.numpy().tobytes()
        first = self._constants_by_content.setdefault(key, literal)
        if first is not literal:
            # It may come later in the graph, where it was written down
            self._to_head(first)
            self._replace(literal, first)
        return first

    def _to_head(self, constant: Node) -> None:
        first = next(iter(self.graph.nodes))
        if self.inputs:
            self.inputs[-1].append(constant)
        elif first is not constant:
            first.prepend(constant)

    def _simplify_call(self, node: Node, seen: dict[Hashable, Node], aliases: dict[Alias, Node]) -> None:
        value = self.values[node]
        # A draw moves the random state, and a write changes what others read: both happen at each run
        if is_random(node) or written_arguments(node):
            return
        # A view of what an earlier node views already, or a copy without a change, is that node
        if (same := self._same_view(node, aliases)) is not None:
            if isinstance(value, Tensor):
                # Views of this node are views of the other from now on
                aliases.setdefault(_alias(value), same)
            self._replace(node, same)
            return
        # What is written to at some time gives something else each time that it is read
        if self.is_written(node):
            return
        # What depends on constants alone, or on shapes, which the recording fixes, is computed here for good
        if isinstance(value, Tensor) and self._is_constant(node):
            self.literals.add(self._fold(node))
            return
        # The same call on the same arguments, which autograd's derivatives are full of, happens once
        key = (node.target, hashable(node.args), hashable(node.kwargs))
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
            self.memory_of(node) & self.memory_of(each) for each in node.all_input_nodes
        ):
            return aliases.get(_alias(value))
        if self.is_written(node):
            return None
        if node.target in LIFTS:
            return node.all_input_nodes[0]
        return self._unchanged(node)

    def _unchanged(self, node: Node) -> Node | None:
        neutral = _NEUTRAL.get(_operator(node))
        if neutral is None or len(node.args) != 2 or node.kwargs or not isinstance(node.args[0], Node):
            return None
        first, value = self.values[node.args[0]], self.values[node]
        alike = first.dtype == value.dtype and first.shape == value.shape and first.stride() == value.stride()
        return node.args[0] if alike and _is_number(node.args[1], neutral) else None

    def _is_constant(self, node: Node) -> bool:
        if self.values[node].numel() > _LARGEST_CONSTANT or _operator(node).startswith(
            ("aten::empty", "aten::new_empty")
        ):
            return False
        return _operator(node) in _SHAPE_ALONE or all(each in self.literals for each in node.all_input_nodes)

    def _fold(self, node: Node) -> Node:
        name = f"_folded_{node.name}"
        self._constants[name] = self.values[node]
        with self.graph.inserting_before(node):
            constant = self.graph.get_attr(name)
        self.values[constant] = self.values[node]
        self._replace(node, constant)
        return self._only_one(constant)

    def _replace(self, node: Node, other: Node) -> None:
        node.replace_all_uses_with(other)
        self.erase(node)

    def _refuse_shapes_of_values(self) -> None:
        for node in self.graph.nodes:
            if torch.Tag.dynamic_output_shape in getattr(node.target, "tags", ()):
                deciding = [each for each in self._deciding(node) if each not in self.literals]
                if deciding:
                    raise NotCapturableError(
                        f"a shape depends on the values of a tensor ({_operator(node)}); torch.where and "
                        "poutine.mask leave shapes as they are"
                    )

    def _deciding(self, node: Node) -> Sequence[Node]:
        """The arguments whose values decide on the shape of what a node gives."""
        if _operator(node) not in ("aten::index.Tensor", "aten::_unsafe_index.Tensor"):
            return node.all_input_nodes
        indices = cast(Sequence[Node | None], node.args[1])
        masks = (torch.bool, torch.uint8)
        return [each for each in indices if each is not None and self.values[each].dtype in masks]

    def drop_unread(self) -> None:
        """Drops what nobody reads."""
        for node in reversed(list(self.graph.nodes)):
            if node.op not in ("call_function", "get_attr") or node.users:
                continue
            # A draw that nobody reads still moves the random state, and an assertion has no result
            if node.op == "get_attr" or not (node.is_impure() or written_arguments(node)):
                self.erase(node)

    def erase(self, node: Node) -> None:
        """Drops a node that nobody reads."""
        self.graph.erase_node(node)
        self.values.pop(node, None)


def is_random(node: Node) -> bool:
    """Whether the operation of a node draws from a random state."""
    return _draws(node.target)


@cache
def _draws(target: object) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(target, "tags", ())


@cache
def _may_write(target: object) -> bool:
    schema = getattr(target, "_schema", None)
    return schema is not None and (schema.is_mutable or schema.name in WRITE_AVERAGES)


def written_arguments(node: Node) -> list[Node]:
    """The arguments that the operation of a node changes in place."""
    if not _may_write(node.target):
        return []
    schema = node.target._schema  # type: ignore[union-attr]
    if _operator(node) in WRITE_AVERAGES:
        *_, mean, variance, training = node.args[:6]
        return [each for each in (mean, variance) if training and isinstance(each, Node)]
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
    return _may_give_view(node.target)


@cache
def _may_give_view(target: object) -> bool:
    schema = getattr(target, "_schema", None)
    return schema is not None and any(argument.alias_info is not None for argument in schema.arguments)


def _operator(node: Node) -> str:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return ""
    return target.name()


def memory(value: object) -> frozenset[int]:
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


def hashable(value: object) -> Hashable:
    """An argument without tensors, as something that can be looked up."""
    if isinstance(value, list | tuple):
        return type(value).__name__, tuple(map(hashable, value))
    if isinstance(value, dict):
        return tuple((name, hashable(each)) for name, each in value.items())
    # 1, 1.0 and True are equal, and yet differ in the dtype that they lead to
    return type(value), value


# ---- The quickest way to call a recorded operation.

Operation = Callable[..., object]


def fast_operation(node: Node, recorded: RecordedGraph, *, out: Tensor | None = None) -> Operation | None:
    """A function that does what the operation of a node does, with the same arguments.

    The operators that a graph names check their arguments in Python. torch's own functions do so in C, at
    half the cost for small tensors. One is taken if it gives the same, to the bit, on the recorded values.
    There is none where the result is to be received by ``out`` and the operation cannot write there.
    """
    target = node.target
    assert callable(target)
    if not isinstance(target, torch._ops.OpOverload):
        return None if out is not None else target
    # torch has an operation under several names, with other defaults and overloads here and there: a trial on
    # the recorded values shows which one does the same
    keywords = {} if out is None else {"out": out}
    name = target.name().removeprefix("aten::").split(".")[0]
    candidates = [getattr(owner, name, None) for owner in (torch, Tensor, torch.special)]
    # What was written to later is not what the operation met, and may not suit it: then there is no trial
    with suppress(Exception):
        expected = _effect(target, node, recorded)
        for candidate in filter(callable, candidates):
            with suppress(Exception):
                found = _effect(candidate, node, recorded, **keywords)
                if len(expected) == len(found) and all(map(_identical, expected, found)):
                    return candidate
    return None if out is not None else getattr(target, "_op", target)


def _effect(operation: Operation, node: Node, recorded: RecordedGraph, **keywords: object) -> list[object]:
    """What an operation gives, and what it leaves in the arguments that it writes to."""
    written = {each: recorded.values[each].clone() for each in written_arguments(node)}
    arguments, named = torch.fx.node.map_arg(
        (node.args, node.kwargs), lambda each: written.get(each, recorded.values[each])
    )
    with isolated_random_state() if is_random(node) else nullcontext(), torch.no_grad():
        result = operation(*arguments, **named, **keywords)
    return [*(result if isinstance(result, list | tuple) else [result]), *written.values()]


def _identical(expected: object, found: object) -> bool:
    if not isinstance(expected, Tensor) or not isinstance(found, Tensor):
        return type(expected) is type(found) and expected == found
    layout = expected.dtype == found.dtype and expected.shape == found.shape
    if not layout or expected.stride() != found.stride():
        return False
    first, second = (
        torch.view_as_real(each.resolve_conj()) if each.is_complex() else each for each in (expected, found)
    )
    same = first == second
    if expected.is_floating_point():
        same |= first.isnan() & second.isnan()
    return bool(same.all())


# ---- A recorded graph as one straight function of Python.

TensorFunction = Callable[..., tuple[Tensor, ...]]


def to_function(recorded: RecordedGraph, destinations: Sequence[Tensor | None]) -> TensorFunction:
    """Turns a graph into a function that runs its operations one after another, without gradients.

    Each output is written to its destination, of its shape and contiguous, or returned where there is none.
    """
    return _Writer(recorded, destinations).function()


@final
class _Writer:
    """Writes the function, a line an operation."""

    def __init__(self, recorded: RecordedGraph, destinations: Sequence[Tensor | None]) -> None:
        self._recorded = recorded
        self._values = recorded.values
        # What the source calls things, and the things: operations and tensors are globals of the function
        self._names = {node: f"v{i}" for i, node in enumerate(recorded.graph.nodes)}
        self._objects: dict[str, object] = {}
        # Where outputs go: returned, written by the operation itself, or copied at the end
        self._operations: dict[Node, Operation] = {}
        self._direct: dict[Node, Tensor] = {}
        self._copied: list[tuple[Node, Tensor]] = []
        self._quickest: dict[Hashable, Operation | None] = {}
        pairs = list(zip(recorded.outputs, destinations, strict=True))
        self._returned = [node for node, to in pairs if to is None]
        for node, to in pairs:
            if to is not None:
                self._send(node, to)

    @garbage_left()
    def function(self) -> TensorFunction:
        arguments = ", ".join(self._names[node] for node in self._recorded.inputs)
        source = f"def replay({arguments}):\n" + "".join(f"    {line}\n" for line in self._lines())
        exec(compile(source, "<replay>", "exec"), self._objects)
        return cast(TensorFunction, self._objects["replay"])

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
        source, value = node, self._values[node]
        while (earlier := self._viewed(source)) is not None:
            source = earlier
        # It must give just these elements, in this order
        found = self._values[source]
        if source.op != "call_function" or not isinstance(found, Tensor):
            return None
        same = found.data_ptr() == value.data_ptr() and found.numel() == value.numel()
        same = same and not (value.is_conj() or value.is_neg())
        return source if same and found.is_contiguous() and value.is_contiguous() else None

    def _viewed(self, node: Node) -> Node | None:
        of = self._recorded.memory_of
        inputs = [each for each in node.all_input_nodes if of(each) & of(node)]
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
        arguments = [self._literal(each) for each in node.args]
        arguments += [f"{name}={self._literal(each)}" for name, each in node.kwargs.items()]
        if node in self._direct:
            arguments.append(f"out={self._constant(self._direct[node])}")
        operation = self._operations.get(node) or self._operation(node)
        return f"{self._names[node]} = {self._constant(operation)}({', '.join(arguments)})"

    def _operation(self, node: Node) -> Operation | None:
        # Loops repeat the same calls on tensors of the same kinds
        key = (
            node.target,
            self._kind(node.args),
            tuple((name, self._kind(each)) for name, each in node.kwargs.items()),
        )
        if key not in self._quickest:
            self._quickest[key] = fast_operation(node, self._recorded)
        return self._quickest[key]

    def _kind(self, value: object) -> Hashable:
        """What decides on how an operation is called: the layouts of tensors, and other arguments."""
        if isinstance(value, Node):
            found = self._values[value]
            if not isinstance(found, Tensor):
                return value
            return found.shape, found.stride(), found.dtype, found.device, found.is_conj(), found.is_neg()
        if isinstance(value, list | tuple):
            return tuple(map(self._kind, value))
        return hashable(value)

    def _literal(self, value: object) -> str:
        if isinstance(value, Node):
            return self._names[value]
        if isinstance(value, list | tuple):
            return f"[{', '.join(map(self._literal, value))}]"
        if value is None or isinstance(value, bool | int | str):
            return repr(value)
        return self._constant(value)

    def _constant(self, value: object) -> str:
        name = f"c{len(self._objects)}"
        self._objects[name] = value
        return name

    def _last_uses(self) -> dict[Node, list[Node]]:
        """What each node is the last one to read, so that memory is given back as early as it can be."""
        done = {*self._returned, *(node for node, _ in self._copied)}
        found: dict[Node, list[Node]] = {}
        for node in reversed(self._recorded.graph.nodes):
            for each in (node, *node.all_input_nodes):
                if node.op == each.op == "call_function" and each not in done:
                    done.add(each)
                    found.setdefault(node, []).append(each)
        return found


# ---- Where a captured step leaves its gradients, and how they reach the optimiser.


@final
class GradientBuffers:
    """The gradients of some parameters, in as few flat tensors as their optimiser takes.

    Attributes:
        flat: the flat gradients, one a group of a :class:`FusedOptim`, else one a dtype and device.
        members: for each of them the parameters whose gradients it holds, in order.
        groups: the groups of a :class:`FusedOptim`, None for another optimiser.
    """

    def __init__(self, optim: PyroOptim, parameters: Sequence[Tensor], stated: Sequence[Tensor]) -> None:
        self.parameters = tuple(parameters)
        self.optim = optim
        self._stated = frozenset(stated)
        self.groups: tuple[ParameterGroup, ...] | None = None
        # A step of a FusedOptim takes one flat gradient a group as it is. Others get views of it as .grad
        if isinstance(optim, FusedOptim):
            self.groups = optim.groups(self.parameters)
            self.members = [group.parameters for group in self.groups]
        else:
            self.members = _by_kind(self.parameters)
        self.flat = [members[0].new_empty(sum(map(Tensor.numel, members))) for members in self.members]

    @property
    def views(self) -> dict[Tensor, Tensor]:
        """For each parameter its part of the flat gradients, in its own shape."""
        return {
            parameter: part.view(parameter.shape)
            for members, flat in zip(self.members, self.flat, strict=True)
            for parameter, part in zip(members, flat.split([each.numel() for each in members]), strict=True)
        }

    @property
    def buffers(self) -> list[Tensor | None]:
        """For each flat gradient the tensor that its parameters are views into, where there is one."""
        return [group.flat for group in self.groups] if self.groups else [None] * len(self.flat)

    @property
    def current(self) -> bool:
        """Whether the optimiser still groups the parameters so, and finds them where they were."""
        if self.groups is None:
            return True
        assert isinstance(self.optim, FusedOptim)
        return self.optim.groups(self.parameters) == self.groups

    @property
    def accumulated(self) -> dict[Tensor, Tensor]:
        """For each parameter what a backward pass would leave in ``.grad``, where there may be something."""
        found = self.views
        for parameter in self._stated:
            if parameter.grad is not None:
                found[parameter] = parameter.grad + found.get(parameter, 0)
        return found

    @property
    def present(self) -> bool:
        """Whether a backward pass has left something in ``.grad``."""
        return any(parameter.grad is not None for parameter in self._stated)

    def add_present(self) -> None:
        """Moves what is in ``.grad`` already to the flat gradients, to which it is added."""
        present = [parameter for parameter in self.parameters if parameter.grad is not None]
        views = self.views if present else {}
        for parameter in present:
            views[parameter].add_(parameter.grad)  # type: ignore[arg-type]
            parameter.grad = None

    def take_present(self) -> None:
        """Has the flat gradients hold what is in ``.grad``, and nothing else."""
        for flat in self.flat:
            flat.zero_()
        self.add_present()

    def apply(self) -> None:
        """Has the optimiser step by what the flat gradients hold, and by what other parameters have."""
        if self.groups is not None and not self.present:
            assert isinstance(self.optim, FusedOptim)
            self.optim.apply(self.groups, self.flat)
            return
        for parameter, view in self.views.items():
            parameter.grad = view
        self.optim(set(self._stated))  # type: ignore[arg-type]
        zero_grads(self._stated)


def _by_kind(parameters: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    def kind(parameter: Tensor) -> tuple[str, str]:
        return str(parameter.dtype), str(parameter.device)

    return [tuple(members) for _, members in groupby(sorted(parameters, key=kind), key=kind)]
