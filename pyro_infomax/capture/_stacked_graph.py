"""The steps of many trainings as one: a step of each is recorded, and the graph of one runs for all by vmap.

In this order: the step of a training as a function, recorded steps compared, what a step draws, the graph of
one run for all, and the step of all.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from hashlib import sha256
from itertools import takewhile
from operator import getitem
from typing import Any, Final, final

import pyro
import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.func import vmap
from torch.fx import GraphModule, Node
from torch.fx.passes.split_module import split_module
from torch.utils._pytree import tree_map

from pyro_infomax._data import Tensors
from pyro_infomax._random import isolated_random_state
from pyro_infomax._recording import LIFTS
from pyro_infomax._types import State
from pyro_infomax.capture._captured_step import (
    Outcome,
    undone,
)
from pyro_infomax.capture._captured_svi import without_warnings
from pyro_infomax.capture._compiled import compiled_graph, lift_others, new_input
from pyro_infomax.capture._graph import RecordedGraph, TensorFunction, is_random, to_function
from pyro_infomax.capture._refusals import (
    NotCapturableError,
    NotCompilableError,
    place_of,
)
from pyro_infomax.capture._stacked_parameters import (
    NotStackableError,
    StackedMember,
    StackedParameters,
    stacked,
)
from pyro_infomax.capture._watch import PythonState
from pyro_infomax.programs import RandomStreams

# ---- The step of a training.


@final
class StepFunction:
    """Loss, terms and gradients of a training's step, as a function of its data and weights.

    Attributes:
        parameters: those that have a gradient, in order of statement, after a call.
        terms: the names of the terms, after a call.
    """

    def __init__(self, member: StackedMember) -> None:
        self._member = member
        self.names = tuple(member.weights)
        self.parameters: tuple[Tensor, ...] = ()
        self.stated: tuple[Tensor, ...] = ()
        self.terms: tuple[str, ...] = ()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        end = len(inputs) - len(self.names)
        batch, weights = inputs[:end], dict(zip(self.names, inputs[end:], strict=True))
        found, self.stated, gradients = self._member.programs.evaluate_with_gradients(weights, *batch)
        self.parameters, self.terms = tuple(gradients), tuple(found.terms)
        return (found.loss, *found.terms.values(), *gradients.values())


# ---- The recorded steps of two trainings, compared.

_MOST_SHOWN: Final = 8


@final
class Evaluated:
    """What the recording of a training's step has shown of it.

    Attributes:
        lines: an entry a node of its graph, equal for equal ones.
        constants: the tensors that it reads beside data and weights, in order.
        parameters: those that have a gradient, in order of statement.
        subsampled: what its objective knows of subsampled plates.
    """

    def __init__(self, member: StackedMember, function: "StepFunction", recorded: RecordedGraph) -> None:
        self.lines = list(_lines(recorded))
        self.constants = list(recorded.constants().values())
        self.parameters = function.parameters
        self.subsampled = {} if member.weighted is None else dict(member.weighted.subsampled)
        self._weights = function.names
        self._name = member.name

    def check(self, other: "Evaluated") -> None:
        """Checks that another training takes the same step on its own tensors."""
        found = self._difference(other)
        if found is not None:
            raise NotStackableError(f"{other._name} does not take the steps of {self._name}: {found}")

    def _difference(self, other: "Evaluated") -> str | None:
        for line, theirs in zip(self.lines, other.lines, strict=False):
            if line != theirs:
                return f"it has {_in_words(theirs)} in place of {_in_words(line)}"
        if len(self.lines) != len(other.lines):
            return f"it takes {len(other.lines)} operations in place of {len(self.lines)}"
        if self._weights != other._weights:
            return f"it has the weights {other._weights} in place of {self._weights}"
        return "it trains other parameters" if self._places != other._places else None

    @property
    def _places(self) -> list[int | None]:
        """For each parameter its number among the constants."""
        numbers = {id(each): number for number, each in enumerate(self.constants)}
        return [numbers.get(id(each)) for each in self.parameters]


def _lines(recorded: RecordedGraph) -> Iterator[tuple[object, ...]]:
    numbers = {node: number for number, node in enumerate(recorded.graph.nodes)}
    for node in numbers:
        told: tuple[object, ...] = _told((*node.args, *node.kwargs.items()), numbers)
        value = recorded.values.get(node)
        layout = None
        if isinstance(value, Tensor):
            layout = tuple(value.shape), value.stride(), value.dtype, value.device
            # What was made of numbers of Python has to be the same
            if node.op == "get_attr" and all(user.target in LIFTS for user in node.users):
                told = (_value(value),)
        yield node.op, str(node.target) if node.op == "call_function" else "", told, layout


def _told(values: Iterable[object], numbers: Mapping[Node, int]) -> tuple[object, ...]:
    """Arguments with the numbers of nodes, and other things as they are written."""
    found: list[object] = []
    for each in values:
        if isinstance(each, list | tuple):
            found.append(_told(each, numbers))
        else:
            found.append(numbers[each] if isinstance(each, Node) else repr(each))
    return tuple(found)


def _value(tensor: Tensor) -> str:
    if tensor.numel() <= _MOST_SHOWN:
        return str(tensor.tolist())
    values = tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return f"numbers with the hash {sha256(values).hexdigest()}"


def _in_words(line: Any) -> str:
    op, name, told, layout = line
    shape = "" if layout is None else f" of shape {layout[0]}"
    if op == "call_function":
        numbers = ", ".join(each for each in told if isinstance(each, str))
        return f"{name.removeprefix('aten.')}({numbers}){shape}"
    return f"the numbers {told[0]}" if told and isinstance(told[0], str) else f"a tensor{shape}"


# ---- What a step draws, which each training draws from its own random state.

# In place, these fill what they are given; the others take its shape alone
_FILL: Final = frozenset(
    f"aten::{name}"
    for name in (
        *("normal_", "uniform_", "exponential_", "cauchy_", "log_normal_", "geometric_", "random_"),
        *("random_.from", "random_.to", "bernoulli_.float"),
    )
)
_SHAPED_LIKE: Final = frozenset(
    f"aten::{name}" for name in ("randn_like", "rand_like", "randint_like", "randint_like.low_dtype")
)


@final
class ShapeDraw:
    """A draw that depends on shapes and numbers alone, and so can be made ahead."""

    def __init__(self, node: Node, recorded: RecordedGraph) -> None:
        assert isinstance(node.target, OpOverload)
        name = node.target.name()
        self._filled = name in _FILL or name in _SHAPED_LIKE
        self._operation = node.target
        self._args, self._kwargs = torch.fx.node.map_arg(
            (node.args, node.kwargs), lambda each: recorded.values[each].detach()
        )
        self.size = recorded.values[node].numel()

    def __call__(self) -> Tensor:
        filled: Any = self._args
        args = (torch.empty_like(filled[0]), *filled[1:]) if self._filled else filled
        found: Tensor = self._operation(*args, **self._kwargs)
        return found


def _has_fixed_arguments(node: Node, recorded: RecordedGraph) -> bool:
    name, inputs = str(getattr(node.target, "name", str)()), node.all_input_nodes
    unknown = [each for each in inputs if each not in recorded.literals]
    if not unknown:
        return True
    (first, *_) = inputs
    made_for_it = name in _SHAPED_LIKE or (
        name in _FILL and "empty" in str(first.target) and len(first.users) == 1
    )
    return made_for_it and unknown == [first]


def _lifted_draws(recorded: RecordedGraph) -> tuple[list[ShapeDraw], list[Node]]:
    """Makes inputs of what a graph draws first; how it is drawn, and the nodes that draw after that.

    From the first draw on that depends on what was computed, draws are made in their turn.
    """
    random = [each for each in recorded.graph.nodes if is_random(each)]
    fixed = list(takewhile(lambda each: _has_fixed_arguments(each, recorded), random))
    found = []
    for node in fixed:
        found.append(ShapeDraw(node, recorded))
        node.replace_all_uses_with(new_input(recorded, f"draw_{len(found)}"))
        recorded.graph.erase_node(node)
    return found, random[len(fixed) :]


# ---- The graph of one training run for all.


@final
class _Stages:
    """A graph run for all members: in one piece, or in stages between which each of them draws.

    Args:
        module: the graph of one member.
        stacked: for each of its inputs whether each member has one of its own, (member, *shape).
        draws: the nodes that draw in their turn.
        members: the trainings.
        backend: ``"replay"`` or ``"inductor"``.
    """

    def __init__(
        self,
        module: GraphModule,
        stacked: Sequence[bool],
        draws: Sequence[Node],
        members: Sequence[StackedMember],
        backend: str,
    ) -> None:
        self._members, self._backend = members, backend
        self._drawing = {f"submod_{2 * number + 1}" for number in range(len(draws))}
        split = split_module(module, module, _by_draws(draws), keep_original_order=True)
        self._module, self._stacked = split, stacked
        self._functions: dict[str, Callable[..., Any]] = {}

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """What the graph returns, (member, *shape)."""
        values: dict[Node, Any] = {}
        given = zip(inputs, self._stacked, strict=True)
        own: set[Node] = set()
        found: Any = ()
        for node in self._module.graph.nodes:
            called = node.op == "call_module"
            arguments: list[Any] = [values[each] for each in node.args] if called else []
            if node.op == "placeholder":
                values[node], is_stacked = next(given)
                own |= {node} if is_stacked else set()
            elif called:
                dims = tuple(0 if each in own else None for each in node.args)
                run = self._each if node.target in self._drawing else self._all
                values[node] = run(str(node.target), dims, arguments)
                own.add(node)
            elif node.op == "call_function":  # one of several results
                values[node] = values[node.args[0]][node.args[1]]
                own.add(node)
            elif node.op == "get_attr":
                values[node] = getattr(self._module, str(node.target))
            else:
                found = torch.fx.node.map_arg(node.args[0], values.__getitem__)
        return list(found)

    def _all(self, name: str, dims: tuple[int | None, ...], inputs: Sequence[Tensor]) -> Any:
        if name not in self._functions:
            module = self._module.get_submodule(name)
            single = not isinstance(module.graph.output_node().args[0], tuple | list)  # type: ignore[union-attr,operator]
            one = vmap(module, in_dims=dims)

            def run(*inputs: Tensor) -> tuple[Tensor, ...]:
                found = one(*inputs)
                return (found,) if single else tuple(found)

            function = _finished(run, inputs, self._backend)
            self._functions[name] = (lambda *inputs: function(*inputs)[0]) if single else function
        return self._functions[name](*inputs)

    def _each(self, name: str, dims: tuple[int | None, ...], inputs: Sequence[Tensor]) -> Any:
        module, found = self._module.get_submodule(name), []
        for row, member in enumerate(self._members):
            own = [each if dim is None else each[row] for each, dim in zip(inputs, dims, strict=True)]
            with member.drawing():
                # What it writes to may be shared with the next
                found.append(tree_map(torch.clone, module(*own)))
        if isinstance(found[0], Tensor):
            return torch.stack(found)
        return tuple(torch.stack(each) for each in zip(*found, strict=True))


def _by_draws(draws: Sequence[Node]) -> Callable[[Node], int]:
    """The number of the stage that a node belongs to: those that draw have odd ones."""
    order, parts = {node: number for number, node in enumerate(draws)}, dict[Node, int]()
    stage = 0

    def part(node: Node) -> int:
        nonlocal stage
        if node not in parts:
            if node in order:
                parts[node], stage = 2 * order[node] + 1, 2 * order[node] + 2
            else:
                # One of several results comes with the others
                parts[node] = parts[node.args[0]] if node.target is getitem else stage  # type: ignore[index]
        return parts[node]

    return part


# ---- A step of all trainings.


@final
class StackedRecording:
    """A step on batches of one size: recorded from the first member, and met by the others in the same form.

    Args:
        members: the trainings.
        batches: a batch of such a size for each of them.

    Attributes:
        parameters: for each member the parameters that have a gradient.

    Raises:
        NotStackableError: where the step cannot be recorded, and where a member takes another one.
    """

    def __init__(self, members: Sequence[StackedMember], batches: Sequence[Tensors]) -> None:
        self.batches = dict(zip(map(id, members), batches, strict=True))
        self.evaluated: dict[int, Evaluated] = {}
        self.function, self.graph = self._record(members[0], watched=True)
        for each in members[1:]:
            self._record(each, watched=False)
            self.evaluated[id(members[0])].check(self.evaluated[id(each)])
        self.parameters = [self.evaluated[id(each)].parameters for each in members]
        self.graph.simplify()
        if self.graph.written_constants() or self.graph.written_inputs():
            raise NotStackableError("it writes to tensors that it keeps, such as the averages of batch norm")

    def _record(self, member: StackedMember, *, watched: bool) -> tuple[StepFunction, RecordedGraph]:
        function = StepFunction(member)
        batch = self.batches[id(member)]
        inputs = tuple(each.detach().clone() for each in (*batch, *member.weights.values()))
        roots = member.svi.model, member.svi.guide, member.objective
        try:
            with member.inside(), undone(member.state), pyro.validation_enabled(False), without_warnings():
                python = (
                    PythonState(roots, member.state.parameters, member.state.modules) if watched else None
                )
                with nullcontext() if python is None else python.restored():
                    recorded = RecordedGraph(function, inputs)
        except NotCapturableError as error:
            raise NotStackableError(str(error)) from error
        except Exception as error:
            line = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            raise NotStackableError(f"its operations cannot be recorded ({line}{place_of(error)})") from error
        stated = set(map(id, function.stated))
        for each in recorded.constants().values():
            if each.requires_grad and each.is_leaf and id(each) not in stated:
                raise NotStackableError("a tensor that is no parameter of Pyro collects a gradient")
        self.evaluated[id(member)] = Evaluated(member, function, recorded)
        return function, recorded


@final
class StackedStep:
    """One step of all members on batches of one size, by the graph of the first of them.

    Args:
        stack: the members and their parameters.
        recording: the step.
        backend: ``"replay"`` or ``"inductor"``.

    Attributes:
        terms: the names of the terms that it gives.
        checks: the sentences of what has to hold in it.
        subsampled: for each member what its objective knows of subsampled plates.
        compared: whether a step was compared with ordinary ones.
        draws_ahead: whether draws do not depend on what a step computes.
        draws_size: how many elements a member draws ahead in a step.

    Raises:
        NotStackableError: where steps train other parameters than the stack's, or vmap cannot run them.
    """

    def __init__(self, stack: StackedParameters, recording: StackedRecording, *, backend: str) -> None:
        self._stack = stack
        self.compared = False
        evaluated = [recording.evaluated[id(each)] for each in stack.members]
        if not all(map(_are_identical, [each.parameters for each in evaluated], stack.parameters)):
            raise NotStackableError("its steps do not all train the same parameters")
        self.subsampled = [each.subsampled for each in evaluated]
        self.terms = recording.function.terms
        self._draws, later = _lifted_draws(recording.graph)
        self.draws_ahead = not later
        self.checks = _returned_checks(recording.graph)
        self.draws_size = sum(each.size for each in self._draws)
        self._stages, self._closed = self._staged(recording, evaluated, later, backend)
        self._try(recording)

    def draw(self) -> list[Tensor]:
        """What one member draws in its next step, while its own random state is in force."""
        return [draw() for draw in self._draws]

    @torch.no_grad()
    def __call__(
        self, batch: Sequence[Tensor], weights: Sequence[Tensor], draws: Sequence[Sequence[Tensor]]
    ) -> tuple[Tensor, list[Tensor]]:
        """Evaluates all members.

        Args:
            batch: the tensors of the batches, (member, *shape).
            weights: the weights, (member, *shape).
            draws: for each member what :meth:`draw` has given.

        Returns:
            Loss, terms and whether each check holds, (1 + terms + checks, member), and a gradient for each of
            the stack's flat tensors.
        """
        drawn = [torch.stack(each) for each in zip(*draws, strict=True)]
        found = self._stages(*batch, *weights, *drawn, *self._closed)
        first, end = 1 + len(self.terms), len(found) - len(self.checks)
        numbers = torch.stack([each.double() for each in (*found[:first], *found[end:])])
        gradients = [each.flatten(1) if each.dim() > 1 else each.unsqueeze(1) for each in found[first:end]]
        return numbers, [torch.cat([gradients[i] for i in group], 1) for group in self._stack.order]

    def _staged(
        self,
        recording: StackedRecording,
        evaluated: Sequence[Evaluated],
        later: Sequence[Node],
        backend: str,
    ) -> tuple[_Stages, list[Tensor]]:
        stack, recorded = self._stack, recording.graph
        # What the graph closes over becomes inputs: a parameter of each training, and others that may differ
        views = dict(zip(map(id, recording.function.parameters), stack.views(), strict=True))
        literals = {id(recorded.values[each]) for each in recorded.literals if each in recorded.values}
        closed = []
        for each in lift_others(recorded):
            if id(each) in literals:
                closed.append((each, False))
            else:
                closed.append((views[id(each)], True) if id(each) in views else _of_all(each, evaluated))
        recorded.graph.eliminate_dead_code(lambda node: node in later or node.is_impure())
        recorded.module.recompile()
        given = len(recorded.inputs) - len(closed)
        own = [*[True] * given, *(is_stacked for _, is_stacked in closed)]
        return _Stages(recorded.module, own, later, stack.members, backend), [each for each, _ in closed]

    def _try(self, recording: StackedRecording) -> None:
        """Runs a step, by which the functions of its stages are made, and leaves all as it was."""
        members = self._stack.members
        batch = stacked([recording.batches[id(each)] for each in members])
        states = [each.random_state for each in members]
        try:
            with isolated_random_state():
                self(batch, self._stack.weights(1)[0], [self.draw() for _ in members])
        except (RuntimeError, NotImplementedError, ValueError, AssertionError) as error:
            line = str(error).strip().partition("\n")[0]
            raise NotStackableError(
                f"its operations cannot run for several trainings at once ({line})"
            ) from error
        finally:
            for each, state in zip(members, states, strict=True):
                each.random_state = state

    def parted(self, numbers: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Losses, terms by name, and whether each check holds, from numbers of (step, 1 + terms + checks)."""
        first = 1 + len(self.terms)
        terms = dict(zip(self.terms, numbers[:, 1:first].unbind(1), strict=True))
        return numbers[:, 0], terms, numbers[:, first:] == 1

    def difference(
        self, row: int, batch: Tensors, before: State, numbers: Tensor, gradients: Sequence[Tensor]
    ) -> str | None:
        """What an ordinary evaluation of one member finds otherwise, in words; None if nothing.

        Args:
            row: that of the member, whose parameters are written.
            batch: its own batch.
            before: where its random streams stood before the draws of the step.
            numbers: loss and terms of all members.
            gradients: the gradients of all members.
        """
        self._stack.write(row)
        member, own = self._stack.members[row], self._stack.split(row, gradients)
        values = dict(zip(("loss", *self.terms), numbers[:, row].tolist(), strict=False))
        with member.inside(), undone(member.state):
            streams = RandomStreams()
            streams.load_state_dict(member.random_state)
            found = Outcome(values, own, {})
            streams.load_state_dict(before)
            ordinary = member.ordinary_evaluation(batch, list(own))
        names = {leaf: name for name, leaf in member.state.parameters.items()}
        return ordinary.difference(found, names)


def _are_identical(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return list(map(id, tensors)) == list(map(id, others))


def _returned_checks(recorded: RecordedGraph) -> tuple[str, ...]:
    """Has a graph return what it would assert, which vmap cannot; the sentences."""
    found = [each for each in recorded.graph.nodes if each.target is torch.ops.aten._assert_async.msg]
    checked, sentences = [each.args[0] for each in found], [str(each.args[1]) for each in found]
    recorded.return_instead([*recorded.outputs, *checked])
    for node in found:
        recorded.graph.erase_node(node)
    return tuple(sentences)


def _of_all(tensor: Tensor, evaluated: Sequence[Evaluated]) -> tuple[Tensor, bool]:
    """What all members have in the place of a tensor of the first, and whether each has its own."""
    place = next(number for number, each in enumerate(evaluated[0].constants) if each is tensor)
    others = [each.constants[place].detach() for each in evaluated]
    if all(torch.equal(each, others[0]) for each in others):
        return tensor.detach(), False
    return torch.stack(others), True


def _finished(run: TensorFunction, inputs: Sequence[Tensor], backend: str) -> TensorFunction:
    with torch.no_grad():
        recorded = RecordedGraph(run, inputs)
    recorded.simplify()
    if backend == "inductor":
        closed = lift_others(recorded)
        recorded.module.recompile()
        try:
            compiled = compiled_graph(recorded.module, [*inputs, *closed])
            return lambda *inputs: tuple(compiled([*inputs, *closed]))
        except NotCompilableError as error:
            sentence = f"Stacked trainings are replayed without compiling them: the compiler says {error}."
            warnings.warn(sentence, UserWarning, stacklevel=2)
            return _finished(run, inputs, "replay")
    return to_function(recorded, [None] * len(recorded.outputs))
