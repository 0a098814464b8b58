"""What a function may ask while its tensor operations are being recorded as a graph."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import get_proxy_mode, get_proxy_slot
from torch.utils._python_dispatch import _disable_current_modes

_LIFTS = (torch.ops.aten.lift_fresh_copy.default, torch.ops.aten.lift_fresh.default)


def is_recording() -> bool:
    """Whether tensor operations are being recorded, so that no value of a tensor is known."""
    return get_proxy_mode() is not None


# ---- Tensors that a recorded function has made of numbers alone.


def is_literal(tensor: Tensor) -> bool:
    """Whether a tensor will hold the same at each run of what is recorded, as ``torch.arange(3)`` will."""
    mode = get_proxy_mode()
    slot = None if mode is None else get_proxy_slot(tensor, mode.tracer, None)
    if slot is None:
        return False
    origins = _reached({slot.proxy.node}, lambda node: node.all_input_nodes)
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
        return all(user.target in _LIFTS for user in node.users)
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
