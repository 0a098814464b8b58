"""Tensor operations recorded as a graph, and what a function may ask while it is being recorded."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cache
from operator import getitem
from typing import Any, Final, final

import torch
from torch import Tensor, nn
from torch._C import DispatchKey
from torch._ops import OpOverload
from torch.fx import Graph, Node
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
    _get_current_dispatch_mode_stack,
)

_LIFT_COPY: Final = torch.ops.aten.lift_fresh_copy.default
LIFTS: Final = frozenset({_LIFT_COPY, torch.ops.aten.lift_fresh.default})
_DETACH: Final = torch.ops.aten.detach.default
# Batch norm moves its running averages, the fourth and fifth argument, which its schema does not say
WRITE_AVERAGES: Final = ("aten::native_batch_norm", "aten::cudnn_batch_norm", "aten::miopen_batch_norm")
_LONG: Final = 8000  # operations, which take about a second
_PLAIN: Final = frozenset({Tensor, nn.Parameter})


@final
class NotCapturableError(Exception):
    """Why a step cannot be recorded, or not be replayed."""


# ---- The mode that writes down what is done to tensors.


class DispatchMode(TorchDispatchMode):
    """The base of modes, without what torch wraps around one for the sake of torch.compile."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # It takes as long as the mode itself
        return False


@final
class Recorder(DispatchMode):
    """Writes down each operation of its block as a node of a graph, below autograd, and what it gave.

    It runs the operations on the tensors themselves. A tensor that is neither an input nor made by an
    operation of the block is a constant of the graph, which holds the very tensor. What the block has written
    to inputs and constants is put back at its end. Nodes have no metadata: what fx notes of each takes longer
    than all else.

    Args:
        inputs: the arguments of the graph.
        when_long: what is called once, if so much is recorded that users wonder what they wait for.

    Attributes:
        graph: the nodes so far.
        values: what each node gave. A tensor that is written to later holds the later values.
        constants: the constants by the names of their nodes.
    """

    def __init__(self, inputs: Sequence[Tensor], *, when_long: Callable[[], object] | None = None) -> None:
        super().__init__()
        self._when_long = when_long
        self.graph = Graph()
        self.values: dict[Node, Any] = {}
        self.constants: dict[str, Tensor] = {}
        self._refused: list[NotCapturableError] = []
        # By identity, which holds as long as the tensors do: all of them are kept until the end
        self._nodes: dict[int, Node] = {}
        self._kept: list[Tensor] = []
        # The memory that was there before, and copies of what was in it before it was written to
        self._outside: set[int] = set()
        self._before: dict[Hashable, tuple[Tensor, Tensor]] = {}
        for number, each in enumerate(inputs):
            self._know_result(each, self.graph.placeholder(f"input_{number}"))
            self._outside.add(each.untyped_storage().data_ptr())

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: Any = (), kwargs: Any = None
    ) -> object:
        kwargs = kwargs or {}
        # In inference mode, operations come here that autograd takes apart otherwise
        if _is_composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        if any(map(_unwraps_itself, (*args, *kwargs.values()))):
            return NotImplemented
        # What torch.tensor makes of numbers is a constant, and what may be written to is a copy of it
        if func in LIFTS:
            func = _LIFT_COPY
        if torch.Tag.data_dependent_output in func.tags:
            self._refuse(f"the value of a tensor is read ({func.name()}), which a recording would fix")
        noted = tuple(self._noted(args)), {name: self._noted(each) for name, each in kwargs.items()}
        if self._when_long is not None and len(self.values) >= _LONG:
            self._when_long()
            self._when_long = None
        if func._schema.is_mutable:
            self._keep_written(func, args, kwargs)
        elif func.name() in WRITE_AVERAGES:
            for each in args[3:5]:
                if each is not None:
                    self._keep(each)
        found = func(*args, **kwargs)
        if func is _DETACH:
            # Other history is all that it has, and the graph has none
            self._know(found, noted[0][0])
        else:
            self._know_result(found, self._call(_without_turning(func), *noted))
        return found

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        # Windows on the same memory were kept at different times: the first time comes last
        with torch.no_grad():
            for tensor, copy in reversed(self._before.values()):
                tensor.copy_(copy)

    def node_of(self, tensor: Tensor) -> Node | None:
        """The node that has given a tensor, or has written to it last."""
        return self._nodes.get(id(tensor))

    def finish(self, outputs: Iterable[Tensor]) -> None:
        """Has the graph return these, and lets go of what is needed for recording alone.

        Raises:
            NotCapturableError: for what was refused in the block, be it that the error was caught.
        """
        self.graph.output(tuple(self._noted(each) for each in outputs))
        self._nodes.clear()
        self._kept.clear()
        if self._refused:
            raise self._refused[0]

    def _noted(self, value: object) -> Any:
        """An argument with nodes in place of tensors."""
        if isinstance(value, Tensor):
            return self._nodes.get(id(value)) or self._constant(value)
        if isinstance(value, list | tuple):
            return [self._noted(each) for each in value]
        if isinstance(value, torch.Generator):
            self._refuse("random numbers are drawn from a generator other than torch's own")
        return value

    def _constant(self, tensor: Tensor) -> Node:
        if type(tensor) not in _PLAIN:
            self._refuse(f"the programs use tensors of the type {type(tensor).__name__}")
        name = f"constant_{len(self.constants)}"
        self.constants[name] = tensor
        node = self.graph.get_attr(name)
        if tensor.layout is torch.strided:
            self._outside.add(tensor.untyped_storage().data_ptr())
        self._know(tensor, node)
        # The live tensor, which is a leaf of autograd maybe
        self.values[node] = tensor
        return node

    def _call(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Node:
        # Arguments come later, since create_node walks through them in search of symbols, half of its time
        node = self.graph.create_node("call_function", func, name=func.overloadpacket.__name__)
        node.args, node.kwargs = args, kwargs
        return node

    def _know(self, tensor: Tensor, node: Node) -> None:
        self._nodes[id(tensor)] = node
        self._kept.append(tensor)
        if tensor.layout is not torch.strided:
            self._refused.append(NotCapturableError("the programs make sparse tensors"))

    def _know_result(self, found: object, node: Node) -> None:
        self.values[node] = _plain(found)
        if isinstance(found, Tensor):
            self._know(found, node)
        elif isinstance(found, list | tuple):
            for number, each in enumerate(found):
                if isinstance(each, Tensor):
                    self._know_result(each, self.graph.call_function(getitem, (node, number)))

    def _keep_written(self, func: OpOverload, args: Any, kwargs: Any) -> None:
        given = dict(zip((each.name for each in func._schema.arguments), args, strict=False)) | kwargs
        for argument in func._schema.arguments:
            if argument.alias_info is not None and argument.alias_info.is_write:
                written = given.get(argument.name)
                for tensor in written if isinstance(written, list | tuple) else [written]:
                    if isinstance(tensor, Tensor) and tensor.numel():
                        self._keep(tensor)

    def _keep(self, tensor: Tensor) -> None:
        if tensor.untyped_storage().data_ptr() in self._outside:
            window = tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
            if window not in self._before:
                self._before[window] = _plain(tensor), _plain(tensor).clone()

    def _refuse(self, sentence: str) -> None:
        self._refused.append(NotCapturableError(sentence))
        raise self._refused[-1]


def _plain(value: Any) -> Any:
    """Tensors without the history that autograd will give them, and of the shapes that they have now."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    with torch._C._DisableTorchDispatch():
        return value.detach() if isinstance(value, Tensor) else value


@cache
def _without_turning(operation: OpOverload) -> OpOverload:
    """In place of an operation that turns a tensor into a view of itself, as ``unsqueeze_``, that view."""
    if torch.Tag.inplace_view in operation.tags:
        packet = getattr(torch.ops.aten, operation.overloadpacket.__name__.removesuffix("_"), None)
        view = getattr(packet, operation._overloadname, None) or getattr(packet, "int", None)
        if view is not None and view._schema.returns[0].alias_info is not None:
            return view
    return operation


@cache
def _is_composite(operation: OpOverload) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(
        operation.name(), DispatchKey.CompositeImplicitAutograd
    )


def _unwraps_itself(value: object) -> bool:
    """Whether a tensor, or one of a list, is of a type that has operations of its own."""
    if isinstance(value, list | tuple):
        return any(map(_unwraps_itself, value))
    if type(value) in _PLAIN or not isinstance(value, Tensor):
        return False
    return type(value).__torch_dispatch__ is not Tensor.__torch_dispatch__


def _recorder() -> Recorder | None:
    stack = _get_current_dispatch_mode_stack()
    return next((mode for mode in reversed(stack) if isinstance(mode, Recorder)), None)


def is_recording() -> bool:
    """Whether tensor operations are being recorded, so that no value of a tensor is known."""
    return _recorder() is not None


# ---- Tensors that a recorded function has made of numbers alone.


def is_literal(tensor: Tensor) -> bool:
    """Whether a tensor will hold the same at each run of what is recorded, as ``torch.arange(3)`` will."""
    recorder = _recorder()
    node = None if recorder is None else recorder.node_of(tensor)
    if node is None:
        return False
    origins = _reached({node}, lambda node: node.all_input_nodes)
    near = _reached(origins, lambda node: node.users)
    return all(map(_is_made_of_numbers, origins)) and not any(map(_writes, near))


def literal_number(tensor: Tensor) -> float:
    """The value of a literal of one element, which does not come into the recording."""
    with _disable_current_modes():  # type: ignore[no-untyped-call]
        return tensor.item()


def _reached(nodes: set[Node], follow: Callable[[Node], Iterable[Node]]) -> set[Node]:
    """These nodes and all that can be reached from them."""
    found, waiting = set(nodes), list(nodes)
    while waiting:
        new = [each for each in follow(waiting.pop()) if each not in found]
        found.update(new)
        waiting.extend(new)
    return found


def _is_made_of_numbers(node: Node) -> bool:
    if node.op == "get_attr":
        return all(user.target in LIFTS for user in node.users)
    return node.op == "call_function" and torch.Tag.nondeterministic_seeded not in getattr(
        node.target, "tags", ()
    )


def _writes(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)  # None for taking one of several results
    return schema is not None and schema.is_mutable


# ---- Checks of values that hold in a recorded graph too.


def holds(condition: bool | torch.Tensor, sentence: str) -> bool:
    """Whether a condition holds.

    While a graph of tensor operations is recorded, what a tensor's value will be is unknown. The check then
    becomes an operation of the graph, which raises a RuntimeError with the sentence where it fails.
    """
    if isinstance(condition, torch.Tensor) and is_recording():
        torch._assert_async(condition, sentence)
        return True
    return bool(condition)
