"""Loops in time: what each turn does to tensors of its own, done for all turns at once.

A program that is unrolled repeats small operations, such as a layer on the state at each time. Those that do
not wait for one another become one operation on stacked tensors, and sums over the turns, such as the
gradients of shared weights, become one reduction. Values are as before but for rounding.

In this order: which calls are alike, how calls that are alike become one, and the schedule that finds when.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from heapq import heappop, heappush
from operator import getitem
from typing import Any, Final, NamedTuple, cast, final

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Node
from torch.fx.node import map_arg

from pyro_infomax.capture._graph import RecordedGraph, garbage_left, hashable, is_random, written_arguments

_aten: Final = torch.ops.aten

_FEWEST: Final = 4  # calls that are worth being stacked
_LARGEST: Final = 2**15  # elements of one result: to copy more takes longer than to call once more
_ROUNDS: Final = 4  # how far back two calls must have come about alike


@garbage_left()
def batch_loops(recorded: RecordedGraph) -> None:
    """Does at once what a simplified graph repeats, where nothing speaks against it."""
    calls = _Calls(recorded)
    if calls.alike:
        _Agenda(recorded, calls).run()


# ---- Which calls are alike: one operation on tensors of one layout, which came about alike.

# What is pointwise and not tagged so
_POINTWISE: Final = frozenset(
    {
        _aten._to_copy.default,
        _aten.binary_cross_entropy_with_logits.default,
        _aten.elu_backward.default,
        _aten.hardtanh_backward.default,
        _aten.leaky_relu_backward.default,
        _aten.log_sigmoid_backward.default,
        _aten.softplus_backward.default,
    }
)
_VIEWS: Final = frozenset(
    {_aten.expand.default, _aten.t.default, _aten.unsqueeze.default, _aten.view.default}
)
_PRODUCTS: Final = frozenset({_aten.mm.default, _aten.addmm.default})
_SLICE: Final = _aten.select_backward.default
_SUMS: Final = frozenset({_aten.sum.default, _aten.sum.dim_IntList})


@final
class _Calls:
    """The calls of a graph, and which of them are alike.

    Attributes:
        order: all of them, as they were recorded.
        kind: a number for each; the same for those that are alike.
        alike: by kind, those that can be one call.
        terms: for each sum of many terms its terms.
        inner: the partial sums of these.
    """

    def __init__(self, recorded: RecordedGraph) -> None:
        self._recorded = recorded
        self.order = [node for node in recorded.graph.nodes if node.op == "call_function"]
        self.last_write = {
            place: node
            for node in self.order
            for each in written_arguments(node)
            for place in recorded.memory_of(each)
        }
        self._number = {node: number for number, node in enumerate(self.order)}
        self.kind = self._kinds()
        alike: dict[int, list[Node]] = defaultdict(list)
        for node in filter(self._is_stackable, self.order):
            alike[self.kind[node]].append(node)
        self.alike = {kind: nodes for kind, nodes in alike.items() if len(nodes) >= _FEWEST}
        self.inner: set[Node] = set()
        self.terms = dict(self._sums_of_many())
        self._leave_out_chains()

    def _kinds(self) -> dict[Node, int]:
        numbers: dict[Hashable, int] = {}

        def number(key: Hashable) -> int:
            return numbers.setdefault(key, len(numbers))

        nodes = [node for node in self._recorded.graph.nodes if node.op != "output"]
        own = {node: number(self._own(node)) for node in nodes}
        sources = {node: self._telling(node) for node in self.order}
        kinds = own
        # Calls on what calls of one kind have given, and so on
        for _ in range(_ROUNDS):
            kinds = own | {
                node: number((own[node], *[kinds[each] for each in given])) for node, given in sources.items()
            }
        return kinds

    def _telling(self, node: Node) -> list[Node]:
        """The arguments that tell one call from another."""
        given = node.all_input_nodes
        if node.target not in _PRODUCTS:
            return given
        # Of a layer its weights, whatever it is called on, and of their gradient what has come back
        return list(filter(_is_fixed, given)) or given[:1]

    def _own(self, node: Node) -> Hashable:
        value = self._recorded.values.get(node)
        if node.op != "call_function":
            return node
        if not isinstance(value, Tensor):
            return node.target
        layout = node.target, value.shape, value.dtype, value.device
        if not _is_known(node.target):
            return layout
        literals = map_arg((node.args, node.kwargs), lambda _: None)
        return *layout, hashable(literals)

    def _is_stackable(self, node: Node) -> bool:
        value = self._recorded.values.get(node)
        return (
            isinstance(value, Tensor)
            and 0 < value.numel() <= _LARGEST
            and _is_known(node.target)
            and (node.target in _VIEWS or value.is_contiguous())
            and not is_random(node)
            and not self._recorded.memory_of(node) & self.last_write.keys()
            and all(self.is_settled(place, node) for place in self.written_near(node))
        )

    def written_near(self, node: Node) -> frozenset[int]:
        """The memory that a call gives or reads, and that some call writes to."""
        return self._recorded.written_near(node) & self.last_write.keys()

    def is_settled(self, place: int, node: Node) -> bool:
        """Whether memory is written to no more, once a call is reached."""
        return self._number[self.last_write[place]] < self._number[node]

    def _sums_of_many(self) -> Iterator[tuple[Node, list[Node]]]:
        """Sums, among whose terms are many that are alike."""
        for node in reversed(self.order):
            if node not in self.inner and self._is_plain_sum(node):
                inner, terms = self._taken_apart(node)
                kinds = [self.kind[each] for each in terms if self.kind[each] in self.alike]
                slices = [0 for each in terms if each.target is _SLICE]
                if max([0, *Counter(kinds).values(), len(slices)]) >= _FEWEST:
                    self.inner |= inner
                    yield node, terms

    def _taken_apart(self, total: Node) -> tuple[set[Node], list[Node]]:
        inner, terms, waiting = set(), [], list(total.args)
        while waiting:
            each = waiting.pop()
            assert isinstance(each, Node)
            if len(each.users) == 1 and self._is_plain_sum(each):
                inner.add(each)
                waiting += each.args
            else:
                terms.append(each)
        return inner, terms

    def _is_plain_sum(self, node: Node) -> bool:
        """Whether a call adds two tensors of one shape."""
        if node.target is not _aten.add.Tensor or node.kwargs or self._recorded.is_written(node):
            return False
        values = [self._recorded.values.get(each) for each in (node, *node.args) if isinstance(each, Node)]
        layouts = {(each.shape, each.dtype) if isinstance(each, Tensor) else None for each in values}
        return len(values) == 3 and len(layouts) == 1

    def _leave_out_chains(self) -> None:
        """Leaves out kinds of which one call waits for another, such as the steps of a recursion."""
        bits = {kind: 1 << number for number, kind in enumerate(self.alike)}
        own = {node: bits[kind] for kind, nodes in self.alike.items() for node in nodes}
        behind: dict[Node, int] = {}
        chains = 0
        for node in self.order:
            behind[node] = 0
            for each in node.all_input_nodes:
                behind[node] |= behind.get(each, 0) | own.get(each, 0)
            chains |= behind[node] & own.get(node, 0)
        done = {*self.inner, *self.terms}
        self.alike = {
            kind: left
            for kind, nodes in self.alike.items()
            if not chains & bits[kind]
            and len(left := [each for each in nodes if each not in done]) >= _FEWEST
        }


def _is_fixed(node: Node) -> bool:
    """Whether a tensor is a constant of the graph, or a view of one."""
    return node.op == "get_attr" or (node.target in _VIEWS and all(map(_is_fixed, node.all_input_nodes)))


@cache
def _is_known(target: object) -> bool:
    if target in _VIEWS | _PRODUCTS | _SUMS | _POINTWISE:
        return True
    return (
        isinstance(target, OpOverload)
        and torch.Tag.pointwise in target.tags
        and not target._schema.is_mutable
        and len(target._schema.returns) == 1
        and not any("List[Tensor]" in str(each.type) for each in target._schema.arguments)
    )


# ---- Calls that are alike as one call on stacked tensors.


class _InStack(NamedTuple):
    """Where in a stack a tensor lies."""

    stack: Node
    number: int


@final
class _Stacks:
    """Writes calls to the end of a graph, and knows which tensors lie in which stack."""

    def __init__(self, recorded: RecordedGraph) -> None:
        self._recorded, self._values = recorded, recorded.values
        self._end = recorded.output_node
        self.moved: set[Node] = set()
        self._places: dict[Node, _InStack] = {}
        self._parts: dict[Node, Node] = {}
        self._taken_apart: dict[Node, Node] = {}
        self._written_once: dict[Hashable, Node] = {}

    def call(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> Node:
        """Writes a call."""
        with self._recorded.graph.inserting_before(self._end):
            node = self._recorded.graph.call_function(target, args, kwargs)
        given, named = map_arg((args, kwargs), self._values.__getitem__)
        self._values[node] = target(*given, **named)
        return node

    def move(self, node: Node) -> None:
        """Moves a call to the end."""
        for each in node.all_input_nodes:
            if (part := self.part(each)) is not each:
                node.replace_input_with(each, part)
        if node is not self._end:
            self._end.prepend(node)
            self.moved.add(node)

    def part(self, node: Node) -> Node:
        """The node that gives now what a node gave."""
        if node not in self._parts and node in self._places:
            stack, number = self._places[node]
            if stack not in self._taken_apart:
                self._taken_apart[stack] = self.call(_aten.unbind.int, stack)
            self._parts[node] = self.call(getitem, self._taken_apart[stack], number)
        return self._parts.get(node, node)

    def replace(self, node: Node, other: Node) -> None:
        """Has another node give what a node gave."""
        self._parts[node] = other

    def keep(self, nodes: Sequence[Node], stack: Node) -> None:
        """Has the parts of a stack be what these nodes gave."""
        self._places |= {node: _InStack(stack, number) for number, node in enumerate(nodes)}

    def sorted_as_stacked(self, nodes: Sequence[Node]) -> list[Node]:
        """Calls in the order in which their arguments are stacked."""
        for args in zip(*(node.all_input_nodes for node in nodes), strict=False):
            places = [self._places[each] for each in args if each in self._places]
            if len(places) == len(nodes) and len({place.stack for place in places}) == 1:
                order = sorted(range(len(nodes)), key=[place.number for place in places].__getitem__)
                return [nodes[each] for each in order]
        return list(nodes)

    def stacked(self, nodes: Sequence[Node]) -> Node:
        """These tensors as one."""
        places = [self._places[each] for each in nodes if each in self._places]
        if len(places) == len(nodes) and len({place.stack for place in places}) == 1:
            (stack, first), indices = places[0], [place.number for place in places]
            end = first + len(nodes)
            if indices == list(range(first, end)):
                whole = len(self._values[stack]) == len(nodes)
                return stack if whole else self._only(_aten.slice.Tensor, (stack, 0, first, end))
        return self._only(_aten.stack.default, (tuple(self.part(each) for each in nodes),))

    def _only(self, target: OpOverload, args: tuple[Any, ...]) -> Node:
        """A call that is written once."""
        key = target, args
        if key not in self._written_once:
            self._written_once[key] = self.call(target, *args)
        return self._written_once[key]

    def at_once(self, nodes: Sequence[Node]) -> Node:
        """One call for calls that are alike, whose result is the stack of theirs.

        Raises:
            Exception: where there is none.
        """
        first, count = nodes[0], len(nodes)
        target, value = first.target, self._values[first]
        args = [self._together(each) for each in zip(*(node.args for node in nodes), strict=True)]
        kwargs = {name: self._together([node.kwargs[name] for node in nodes]) for name in first.kwargs}
        assert isinstance(target, OpOverload)
        if target in _PRODUCTS:
            # The rows of all turns below one another
            *bias, (rows, _), (weights, shared) = args
            assert shared
            assert all(same for _, same in bias)
            flat = self.call(_aten.view.default, rows, [-1, self._values[rows].shape[-1]])
            product = self.call(target, *(each for each, _ in bias), flat, weights, **_plain(kwargs))
            return self.call(_aten.view.default, product, [count, *value.shape])
        (given, _), *others = args
        if target is _aten.t.default:
            return self.call(_aten.transpose.int, given, 1, 2)
        if target is _aten.view.default:
            return self.call(target, given, [count, *value.shape])
        if target is _aten.unsqueeze.default:
            return self.call(target, given, others[0][0] % value.dim() + 1)
        if target in _SUMS:
            rank = self._values[given].dim() - 1
            axes, *keep = [each for each, _ in others] or [range(rank)]
            axes = [axis % rank + 1 for axis in axes or range(rank)]
            return self.call(_aten.sum.dim_IntList, given, axes, *keep, **_plain(kwargs))
        if target is _aten.expand.default:
            return self.call(target, self._aligned(given, value.dim()), [count, *value.shape])
        rank = value.dim()
        aligned = [each if same else self._aligned(each, rank) for each, same in args]
        named = {name: each if same else self._aligned(each, rank) for name, (each, same) in kwargs.items()}
        return self.call(target, *aligned, **named)

    def _together(self, values: Sequence[Any]) -> tuple[Any, bool]:
        """An argument of all calls, and whether it is the same for all."""
        first = values[0]
        if not isinstance(first, Node):
            return first, True
        return (self.part(first), True) if len(set(values)) == 1 else (self.stacked(values), False)

    def _aligned(self, stack: Node, rank: int) -> Node:
        """A stack of tensors, to which axes of length one are added in front up to a rank."""
        count, *shape = self._values[stack].shape
        missing = rank - len(shape)
        return self.call(_aten.view.default, stack, [count, *[1] * missing, *shape]) if missing else stack

    def total(self, terms: Sequence[Node], products: Sequence[tuple[Node, Node]]) -> Node:
        """The sum of some tensors, and of the products of stacked matrices."""
        found = [self._sum_of_products(*each) for each in products]
        slices = self._slices_of_all(terms)
        found += [self.call(_aten.stack.default, *each) for each in [slices] if each]
        terms = [each for each in terms if not slices or each.target is not _SLICE]
        by_stack: dict[Node, list[Node]] = defaultdict(list)
        for each in terms:
            by_stack[self._places[each].stack if each in self._places else each].append(each)
        for members in by_stack.values():
            if len(members) < _FEWEST or len(set(members)) < len(members) or members[0] not in self._places:
                found += map(self.part, members)
            else:
                stack = self.stacked(sorted(members, key=lambda each: self._places[each].number))
                found.append(self.call(_aten.sum.dim_IntList, stack, [0]))
        total = found[0]
        for each in found[1:]:
            total = self.call(_aten.add.Tensor, total, each)
        return total

    def _slices_of_all(self, terms: Sequence[Node]) -> tuple[list[Node], int] | None:
        """The slices, in order, of which one tensor consists, where all of them are among the terms."""
        slices = [each.args for each in terms if each.target is _SLICE]
        if not slices or any(args[1:3] != slices[0][1:3] for args in slices):
            return None
        _, sizes, axis, _ = cast(tuple[Node, list[int], int, int], slices[0])
        by_number = {cast(int, args[3]): cast(Node, args[0]) for args in slices}
        if len(by_number) < len(slices) or by_number.keys() != set(range(sizes[axis])):
            return None
        return [self.part(by_number[number]) for number in sorted(by_number)], axis

    def _sum_of_products(self, left: Node, right: Node) -> Node:
        count, rows, inner = self._values[left].shape
        turned = self.call(_aten.transpose.int, left, 0, 1)
        beside = self.call(_aten.reshape.default, turned, [rows, count * inner])
        below = self.call(_aten.view.default, right, [count * inner, self._values[right].shape[-1]])
        return self.call(_aten.mm.default, beside, below)

    def is_close(self, found: Node, expected: Sequence[Tensor]) -> bool:
        """Whether the parts of a stack are what they should be, but for rounding."""
        value, first = self._values[found], expected[0]
        if value.shape != (len(expected), *first.shape) or value.dtype != first.dtype:
            return False
        strides = zip(first.shape, first.stride(), value.stride()[1:], strict=True)
        if any(one != other for size, one, other in strides if size > 1):
            return False
        wanted = torch.stack(list(expected))
        if not value.dtype.is_floating_point:
            return torch.equal(value, wanted)
        precision = torch.finfo(value.dtype).eps ** 0.5
        scale = float(wanted.nan_to_num(0.0, 0.0, 0.0).abs().max())
        return torch.allclose(value, wanted, rtol=precision, atol=precision * scale, equal_nan=True)


def _plain(kwargs: dict[str, tuple[Any, bool]]) -> dict[str, Any]:
    assert all(same for _, same in kwargs.values())
    return {name: value for name, (value, _) in kwargs.items()}


# ---- When: calls that are alike wait until all of them can be made.


@final
class _Agenda:
    """Makes the calls of a graph in another order, those that are alike at once."""

    def __init__(self, recorded: RecordedGraph, calls: _Calls) -> None:
        self._recorded, self._calls = recorded, calls
        self._stacks = _Stacks(recorded)
        self._number = {node: number for number, node in enumerate(calls.order)}
        self._kind = {node: kind for kind, nodes in calls.alike.items() for node in nodes}
        self._missing = {kind: len(nodes) for kind, nodes in calls.alike.items()}
        self._products: dict[Node, list[tuple[Node, Node]]] = defaultdict(list)
        self._multiplied: set[Node] = set()
        self._waiting: dict[Node, int] = {}
        self._followers: dict[Node, list[Node]] = defaultdict(list)
        self._single: list[tuple[int, Node]] = []
        self._ready: dict[int, list[Node]] = defaultdict(list)
        for node, before in self._dependencies():
            self._waiting[node] = len(before)
            for each in before:
                self._followers[each].append(node)
        for node in [each for each, count in self._waiting.items() if not count]:
            self._note_ready(node)

    @torch.no_grad()
    def run(self) -> None:
        """Makes them."""
        while self._single or self._ready:
            if self._single:
                self._make_one(heappop(self._single)[1])
                continue
            # All calls of a kind if they are all ready, and as many as there are where kinds wait for others
            complete = [kind for kind, nodes in self._ready.items() if len(nodes) == self._missing[kind]]
            kind = complete[0] if complete else max(self._ready, key=lambda each: len(self._ready[each]))
            nodes = self._ready.pop(kind)
            self._missing[kind] -= len(nodes)
            self._make_many(nodes)
        self._stacks.move(self._recorded.output_node)
        # Those that were stacked or summed stand where they stood, before all others
        for node in reversed(self._calls.order):
            if node not in self._stacks.moved:
                self._recorded.erase(node)
        self._recorded.drop_unread()

    def _dependencies(self) -> Iterator[tuple[Node, set[Node]]]:
        """Each call with those that must come before it."""
        last_at: dict[int, Node] = {}
        last_draw: Node | None = None
        for node in self._calls.order:
            if node in self._calls.inner:
                continue
            before = {
                each for each in self._calls.terms.get(node, node.all_input_nodes) if each in self._number
            }
            # Draws keep their order, and so do reads and writes of memory until it is written to no more
            if is_random(node):
                before |= {last_draw} if last_draw is not None else set()
                last_draw = node
            for place in self._calls.written_near(node):
                if self._calls.is_settled(place, node):
                    before.add(self._calls.last_write[place])
                    continue
                before |= {last_at[place]} if place in last_at else set()
                last_at[place] = node
            yield node, before

    def _note_ready(self, node: Node) -> None:
        if node in self._kind:
            self._ready[self._kind[node]].append(node)
        else:
            heappush(self._single, (self._number[node], node))

    def _done(self, node: Node) -> None:
        for each in self._followers[node]:
            self._waiting[each] -= 1
            if not self._waiting[each]:
                self._note_ready(each)

    def _make_one(self, node: Node) -> None:
        if node not in self._calls.terms or not self._make_total(node):
            self._stacks.move(node)
        self._done(node)

    def _make_many(self, nodes: list[Node]) -> None:
        nodes = self._stacks.sorted_as_stacked(sorted(nodes, key=self._number.__getitem__))
        made = len(nodes) >= _FEWEST and (self._leave_to_sum(nodes) or self._make_at_once(nodes))
        for node in nodes:
            if not made:
                self._stacks.move(node)
            self._done(node)

    def _make_at_once(self, nodes: list[Node]) -> bool:
        # An operation that turns out not to suit, in whatever way, is called once for each
        with suppress(Exception):
            stack = self._stacks.at_once(nodes)
            if self._stacks.is_close(stack, [self._recorded.values[each] for each in nodes]):
                self._stacks.keep(nodes, stack)
                return True
        return False

    def _leave_to_sum(self, nodes: list[Node]) -> bool:
        """Whether these are products of matrices that one sum alone reads, of which they become a part."""
        totals = {self._total_of(node) for node in nodes}
        (total,) = totals if len(totals) == 1 else (None,)
        if nodes[0].target is not _aten.mm.default or total is None:
            return False
        factors = list(zip(*(node.args for node in nodes), strict=True))
        if any(len(set(each)) == 1 for each in factors):
            return False
        left, right = map(self._stacks.stacked, factors)
        self._products[total].append((left, right))
        self._multiplied.update(nodes)
        return True

    def _total_of(self, node: Node) -> Node | None:
        (reader, *others) = node.users
        while reader in self._calls.inner:
            (reader,) = reader.users
        return reader if not others and reader in self._calls.terms else None

    def _make_total(self, node: Node) -> bool:
        terms = self._calls.terms[node]
        with suppress(Exception):
            others = [each for each in terms if each not in self._multiplied]
            total = self._stacks.total(others, self._products[node])
            stack = self._stacks.call(_aten.unsqueeze.default, total, 0)
            if self._stacks.is_close(stack, [self._recorded.values[node]]):
                self._stacks.replace(node, total)
                return True
        # Then all the parts are needed
        inner = self._inner_of(node)
        parts = [each for each in terms if each in self._multiplied]
        for each in parts + sorted(inner, key=self._number.__getitem__):
            self._stacks.move(each)
        return False

    def _inner_of(self, node: Node) -> set[Node]:
        found, waiting = set(), [each for each in node.all_input_nodes if each in self._calls.inner]
        while waiting:
            found.add(each := waiting.pop())
            waiting += [other for other in each.all_input_nodes if other in self._calls.inner]
        return found
