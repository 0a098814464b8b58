"""Training steps compiled to machine code: the optimiser's update as operations, and the whole as one call.

In this order: what an optimiser does to one flat parameter, a recorded graph made ready for the compiler, the
compiler, the gradients of a step, and a whole step with its update.
"""

import abc
import ctypes
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate
from types import ModuleType
from typing import Any, Final, cast, final

import torch
from torch import Tensor, optim
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_infomax.capture._graph import GradientBuffers, RecordedGraph, TensorFunction
from pyro_infomax.capture._optim import (
    FusedOptim,
    ParameterGroup,
    has_hooks,
    has_usual_options,
    overlapping_tensors,
)
from pyro_infomax.capture._refusals import NotCompilableError, compiling

_aten = torch.ops.aten

# ---- What an optimiser does to one flat parameter, as operations on tensors.


class Update(abc.ABC):
    """The step of a torch optimiser over one flat parameter.

    What numbers its options are comes with what differs from step to step; whether they are there is fixed.

    Args:
        group: the parameter's group.

    Attributes:
        moments: the names of what the optimiser keeps for each element.
        settings: which options there are.
    """

    moments: tuple[str, ...] = ()

    def __init__(self, group: ParameterGroup) -> None:
        assert group.flat is not None
        self.group, self.flat = group, group.flat
        self.settings = self._settings()

    @property
    def fits(self) -> bool:
        """Whether there are the same options."""
        return self._settings() == self.settings

    @property
    def current(self) -> bool:
        """Whether there are the same options, and moments to go on from."""
        optimizer = self.group.optimizer
        state = optimizer.state.get(self.flat, {})
        return not has_hooks(optimizer) and all(name in state for name in self.moments) and self.fits

    @property
    def kept(self) -> list[Tensor]:
        """What the optimiser keeps for each element, in the order of :attr:`moments`."""
        state = self.group.optimizer.state[self.flat]
        return [state[name] for name in self.moments]

    @property
    def options(self) -> dict[str, Any]:
        """The options of the optimiser as they are now."""
        return self.group.optimizer.param_groups[0]

    @abc.abstractmethod
    def rows(self, steps: int) -> list[list[float]]:
        """The numbers of the next steps, a row a step."""

    @abc.abstractmethod
    def __call__(
        self, flat: Tensor, gradient: Tensor, row: Sequence[Tensor], *moments: Tensor
    ) -> tuple[Tensor, ...]:
        """The parameter and the moments after a step of these numbers."""

    def count(self, steps: int) -> None:
        """Has the optimiser know that so many steps were taken."""
        state = self.group.optimizer.state[self.flat]
        if "step" in state:
            state["step"] += steps

    def _settings(self) -> tuple[bool, ...]:
        options = self.options
        numbers = (options["lr"], *options.get("betas", ()))
        return (
            *(bool(options.get(name)) for name in _STRUCTURE),
            any(isinstance(each, Tensor) for each in numbers),
        )


_STRUCTURE: Final = (
    "amsgrad",
    "maximize",
    "momentum",
    "nesterov",
    "weight_decay",
    "capturable",
    "differentiable",
)


@final
class AdamUpdate(Update):
    """The step of Adam, or of AdamW, whose weights decay apart from the gradient."""

    def __init__(self, group: ParameterGroup) -> None:
        options = group.optimizer.param_groups[0]
        more = ("max_exp_avg_sq",) if options["amsgrad"] else ()
        self.moments = ("exp_avg", "exp_avg_sq", *more)
        self._decoupled = type(group.optimizer) is optim.AdamW
        super().__init__(group)

    def rows(self, steps: int) -> list[list[float]]:
        options, state = self.options, self.group.optimizer.state[self.flat]
        lr, (first, second), decay = options["lr"], options["betas"], options["weight_decay"]
        fixed = [1 - lr * decay if self._decoupled else decay, 1 - first, second, 1 - second]
        taken = int(state["step"])
        found = []
        for step in range(taken + 1, taken + steps + 1):
            # Both sides of the fraction times the correction of its root, which saves a division an element
            root = math.sqrt(1 - second**step)
            found.append([lr * root / (1 - first**step), options["eps"] * root, *fixed])
        return found

    def __call__(
        self, flat: Tensor, gradient: Tensor, row: Sequence[Tensor], *moments: Tensor
    ) -> tuple[Tensor, ...]:
        rate, eps, decay, new, kept, new_square = row
        gradient = -gradient if self.options["maximize"] else gradient
        if self.options["weight_decay"] and self._decoupled:
            flat = flat * decay
        elif self.options["weight_decay"]:
            gradient = gradient + decay * flat
        mean, square, *largest = moments
        mean = mean + new * (gradient - mean)
        square = kept * square + new_square * gradient * gradient
        largest = [torch.maximum(each, square) for each in largest]
        scale = (largest[0] if largest else square).sqrt() + eps
        return flat - rate * (mean / scale), mean, square, *largest


@final
class SGDUpdate(Update):
    """The step of SGD, with or without momentum."""

    def __init__(self, group: ParameterGroup) -> None:
        self.moments = ("momentum_buffer",) if group.optimizer.param_groups[0]["momentum"] else ()
        super().__init__(group)

    def rows(self, steps: int) -> list[list[float]]:
        options = self.options
        numbers = [options["lr"], options["weight_decay"], options["momentum"], 1 - options["dampening"]]
        return [[float(each) for each in numbers]] * steps

    def __call__(
        self, flat: Tensor, gradient: Tensor, row: Sequence[Tensor], *moments: Tensor
    ) -> tuple[Tensor, ...]:
        rate, decay, momentum, new = row
        gradient = -gradient if self.options["maximize"] else gradient
        if self.options["weight_decay"]:
            gradient = gradient + decay * flat
        moments = tuple(momentum * each + new * gradient for each in moments)
        if moments:
            gradient = gradient + momentum * moments[0] if self.options["nesterov"] else moments[0]
        return flat - rate * gradient, *moments


_UPDATES: Final[dict[type[optim.Optimizer], type[Update]]] = {
    optim.Adam: AdamUpdate,
    optim.AdamW: AdamUpdate,
    optim.SGD: SGDUpdate,
}


def updates_of(gradients: GradientBuffers) -> list[Update] | None:
    """The steps of the optimisers of all groups; None where one of them cannot be written down here."""
    if not isinstance(gradients.optim, FusedOptim) or gradients.groups is None:
        return None
    found = [_update_of(group) for group in gradients.groups]
    return found if all(found) else None  # type: ignore[return-value]


def _update_of(group: ParameterGroup) -> Update | None:
    kind = _UPDATES.get(type(group.optimizer))
    if kind is None or group.flat is None or not has_usual_options(group.optimizer):
        return None
    return kind(group)


# ---- A recorded graph made ready for the compiler.


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
        source = new_input(recorded, f"flat_{number}")
        lifted.append(flat)
        ends = list(accumulate(map(Tensor.numel, members)))
        for node, value in constants.items():
            position = next((i for i, each in enumerate(members) if each is value), None)
            if position is not None:
                size = value.numel()
                _read_part(recorded, node, source, ends[position] - size, ends[position], value.shape)
    return lifted


def _lift_each(recorded: RecordedGraph, tensors: Sequence[Tensor]) -> None:
    """Makes inputs of these tensors."""
    constants = recorded.constants()
    for number, tensor in enumerate(tensors):
        source = new_input(recorded, f"parameter_{number}")
        for node, value in constants.items():
            if value is tensor:
                node.replace_all_uses_with(source)
                recorded.graph.erase_node(node)


def _read_part(
    recorded: RecordedGraph, node: Node, source: Node, start: int, end: int, shape: Sequence[int]
) -> None:
    graph = recorded.graph
    with graph.inserting_before(node):
        part = graph.call_function(_aten.slice.Tensor, (source, 0, start, end))
        node.replace_all_uses_with(graph.call_function(_aten.view.default, (part, list(shape))))
    graph.erase_node(node)


def lift_others(recorded: RecordedGraph) -> list[Tensor]:
    """Makes inputs of the other tensors that the graph reads, since the compiler would copy small ones."""
    lifted = []
    for number, (node, value) in enumerate(recorded.constants().items()):
        if node in recorded.literals and _is_uniform(value):
            # A number takes no memory to read, and may well be gone once compiled
            with recorded.graph.inserting_before(node):
                full = recorded.graph.call_function(
                    _aten.full.default,
                    (list(value.shape), value.flatten()[0].item()),
                    {"dtype": value.dtype, "device": value.device, "pin_memory": False},
                )
            node.replace_all_uses_with(full)
        else:
            node.replace_all_uses_with(new_input(recorded, f"live_{number}"))
            lifted.append(value)
        recorded.graph.erase_node(node)
    return lifted


def _is_uniform(value: Tensor) -> bool:
    plain = value.numel() > 0 and value.layout is torch.strided and not value.is_complex()
    return plain and bool((value == value.flatten()[0]).all())


def new_input(recorded: RecordedGraph, name: str) -> Node:
    graph = recorded.graph
    last = [node for node in graph.nodes if node.op == "placeholder"][-1:]
    with graph.inserting_after(*last) if last else graph.inserting_before(next(iter(graph.nodes))):
        return graph.placeholder(name)


def _split_biases(graph: Graph) -> None:
    """Has a bias be added where its sum is read, and not be copied to where a matrix product goes."""
    for node in list(graph.nodes):
        if node.target is _aten.addmm.default and not node.kwargs:
            bias, first, second = node.args
            with graph.inserting_before(node):
                product = graph.call_function(_aten.mm.default, (first, second))
                total = graph.call_function(_aten.add.Tensor, (product, bias))
            node.replace_all_uses_with(total)
            graph.erase_node(node)


# ---- The compiler.


def compiled_graph(
    module: GraphModule, inputs: Sequence[Tensor]
) -> Callable[[list[Tensor]], Sequence[Tensor]]:
    """A function of a list of tensors, which it empties."""
    from torch._inductor import compile_fx  # it takes a second, which others need not spend

    inner: list[tuple[Any, int]] = []

    def compile_inner(graph: GraphModule, examples: Sequence[Tensor], **options: Any) -> Any:
        found = compile_fx.compile_fx_inner(graph, examples, **options)
        inner.append((found, len(examples)))
        return found

    for node in module.graph.nodes:
        node.meta.clear()  # the compiler's own mode of fake tensors would not know those of another
    with compiling(), torch.no_grad(), _without_log():
        whole: Any = compile_fx.compile_fx(
            module,
            [*inputs],
            inner_compile=compile_inner,
            config_patches=_options(),
            decompositions=_decompositions(),
        )
    # What torch wraps around the compiled graph costs microseconds at each call. Nothing here needs it: there
    # are no gradients, no outputs that are views of inputs, and no inputs that share memory
    if len(inner) == 1 and inner[0][1] == len(inputs):
        graph = inner[0][0]
        return cast(
            Callable[[list[Tensor]], Sequence[Tensor]], getattr(graph, "current_callable", None) or graph
        )
    return lambda given: whole(*given)


@contextmanager
def _without_log() -> Iterator[None]:
    """Keeps back what the compiler logs about the ways that it takes."""
    logger = logging.getLogger("torch._inductor")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _decompositions() -> dict[Any, Callable[..., Any]]:
    """Those of inductor, without those that would draw otherwise than the operation does."""
    from torch._inductor.decomposition import select_decomp_table

    kept = select_decomp_table()
    drawing = [each for each in kept if str(each).startswith("aten.bernoulli")]
    return {each: function for each, function in kept.items() if each not in drawing}


def has_compiler() -> bool:
    """Whether there is a C++ compiler for the inductor to call."""
    from torch._inductor import cpp_builder, exc

    try:
        return bool(cpp_builder.get_cpp_compiler())
    except (exc.InvalidCxxCompiler, OSError, RuntimeError):
        return False


def _options() -> dict[str, Any]:
    from torch._inductor import config

    # Who replays has looked at sizes and strides already, which small graphs notice
    wanted = {
        "fallback_random": True,
        "size_asserts": False,
        "alignment_asserts": False,
        "cpp_wrapper": not torch.cuda.is_available(),
        # It would put each bias back into its matrix product
        "pattern_matcher": False,
    }
    return {name: value for name, value in wanted.items() if hasattr(config, name)}


# ---- Many calls of compiled code in one.

# What inductor's C++ wrapper exports: void inductor_entry_impl(AtenTensorHandle*, AtenTensorHandle*)
_ENTRY: Final = "_Z19inductor_entry_implPP16AtenTensorOpaqueS1_"

_LOOP: Final = r"""
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <cstdio>
#include <exception>
#include <vector>

extern "C" void* PyErr_Occurred();
extern "C" int PyErr_CheckSignals();

// Calls a compiled graph without outputs once for each step, and returns how often it went well. Of the first
// `stacked` tensors a call has one row, of the others the whole. `message` takes what went wrong.
extern "C" int64_t take_steps(
        void (*entry)(AtenTensorHandle*, AtenTensorHandle*), AtenTensorHandle* tensors,
        int64_t count, int64_t stacked, int64_t steps, char* message, int64_t room) {
    int64_t step = 0;
    try {
        std::vector<AtenTensorHandle> handles(count);
        for (; step < steps; step++) {
            for (int64_t i = 0; i < count; i++) {
                int64_t dim = 0, *sizes = nullptr, *strides = nullptr;
                if (i >= stacked) {
                    if (aoti_torch_new_tensor_handle(tensors[i], &handles[i])) return step;
                } else if (aoti_torch_get_dim(tensors[i], &dim)
                        || aoti_torch_get_sizes(tensors[i], &sizes)
                        || aoti_torch_get_strides(tensors[i], &strides)
                        // counted from where the tensor itself begins
                        || aoti_torch__reinterpret_tensor(tensors[i], dim - 1, sizes + 1, strides + 1,
                                                          step * strides[0], &handles[i])) {
                    return step;
                }
            }
            entry(handles.data(), nullptr);  // which takes the handles
            if (PyErr_Occurred() || PyErr_CheckSignals()) return step;
        }
    } catch (const std::exception& error) {
        std::snprintf(message, room, "%s", error.what());
    }
    return step;
}
"""

_address_of: Final = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def _native_loop(compiled: Callable[[list[Tensor]], Sequence[Tensor]]) -> "_NativeLoop | None":
    """What calls compiled code many times without Python in between; None where it cannot be had."""
    # All of it is inductor's own, and nothing but some microseconds a step is lost without it
    with suppress(Exception):
        from torch._inductor.codecache import CppCodeCache

        closure = [each.cell_contents for each in getattr(compiled, "__closure__", None) or ()]
        modules = [getattr(each, "__self__", None) for each in closure]
        (path,) = [each.__file__ for each in modules if isinstance(each, ModuleType)]
        entry = ctypes.PyDLL(path)[_ENTRY]
        helper = CppCodeCache.load(_LOOP, device_type="cpu")
        return _NativeLoop(entry, ctypes.PyDLL(helper._name)["take_steps"])
    return None


@final
class _NativeLoop:
    """Calls compiled code once for each step.

    Args:
        entry: the compiled code.
        loop: what calls it, ``take_steps`` of the source above.
    """

    def __init__(self, entry: Any, loop: Any) -> None:
        self._entry, self._loop = ctypes.cast(entry, ctypes.c_void_p), loop
        whole = ctypes.c_int64
        loop.restype = whole
        loop.argtypes = [
            ctypes.c_void_p,
            ctypes.c_void_p,
            whole,
            whole,
            whole,
            ctypes.c_char_p,
            whole,
        ]

    def __call__(self, stacks: Sequence[Tensor], fixed: Sequence[Tensor], steps: int) -> None:
        """Calls it.

        Args:
            stacks: tensors of which each step has a row, (steps, ...).
            fixed: tensors of which each step has the whole.
            steps: how many there are.

        Raises:
            RuntimeError: where a step fails, after those before it.
        """
        tensors = [*stacks, *fixed]
        capsules = torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors(tensors)
        handles = (ctypes.c_void_p * len(tensors))(*(_address_of(each, None) for each in capsules))
        message = ctypes.create_string_buffer(400)
        try:
            taken = self._loop(self._entry, handles, len(tensors), len(stacks), steps, message, len(message))
        finally:
            torch._C._aoti.alloc_tensors_by_stealing_from_void_ptrs(capsules)
        if taken < steps:
            raise RuntimeError(message.value.decode(errors="replace") or "compiled code has failed")


def _parts(flat: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """A flat tensor part by part, each in the shape of its parameter."""
    parts = flat.detach().split([each.numel() for each in parameters])
    return [part.view(each.shape) for part, each in zip(parts, parameters, strict=True)]


# ---- The gradients of a step.


def compile_gradients(
    recorded: RecordedGraph, inputs: Sequence[Tensor], gradients: GradientBuffers
) -> TensorFunction:
    """Compiles a graph, which is changed, by torch's inductor, without the guards of Dynamo.

    Its last outputs are the gradients of the parameters; the function returns the others. Parameters that are
    views into one flat tensor enter as that tensor, and their gradients leave as one. Draws come from torch's
    own random state, as without compilation.

    Raises:
        NotCompilableError: where inductor fails, for want of a C++ compiler for instance.
    """
    # Gradients leave in flat tensors, as the optimiser takes them, so that nothing has to copy them
    _flatten_gradients(recorded, gradients)
    # It would keep copies of small tensors that are no inputs, and never see them change: all become inputs
    live = _lift_parameters(recorded, gradients) + lift_others(recorded)
    _split_biases(recorded.graph)
    recorded.module.recompile()
    compiled = compiled_graph(recorded.module, [*inputs, *live])
    returned = len(recorded.outputs) - len(gradients.flat)

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        found = compiled([*inputs, *live])
        gradients.flat = list(found[returned:])
        return tuple(found[:returned])

    return run


# ---- A whole step with its update.


@final
class CompiledTraining:
    """Steps of a training, the optimiser's part among them, each by one call of compiled code.

    A step reads its data and weights, and writes parameters, moments, gradients, and a row of loss and terms,
    all in place. It writes neither parameters nor moments where its loss is not finite.

    Args:
        recorded: loss, terms and gradients as a graph, which is changed.
        inputs: data and weights like those of the steps.
        gradients: where gradients are left, and whose parameters these are.
        updates: what the optimiser does, a group each.

    Raises:
        NotCompilableError: where inductor fails, and where tensors share memory with parameters or others
            that a step writes to.
    """

    def __init__(
        self,
        recorded: RecordedGraph,
        inputs: Sequence[Tensor],
        gradients: GradientBuffers,
        updates: Sequence[Update],
    ) -> None:
        assert isinstance(gradients.optim, FusedOptim)
        self._gradients, self._updates = gradients, tuple(updates)
        self._clips = gradients.optim.clip_norm is not None
        written = list(recorded.written_constants().values())
        parameters = [each for members in gradients.members for each in members]
        _lift_each(recorded, parameters)
        self._live = lift_others(recorded)
        flats = [update.flat for update in updates]
        if overlapping_tensors([*flats, *self._live]) & {*flats, *written}:
            raise NotCompilableError("the programs read tensors that share memory with what a step writes to")
        self._number_of_results = len(recorded.outputs) - len(gradients.parameters)
        self._split: list[tuple[Tensor, ...]] = []  # which keeps the tensors, and their ids, alive
        self._places: list[tuple[int, int]] = []
        self._whole: list[Tensor] = []
        _split_biases(recorded.graph)
        rows = self._rows(1)
        results = torch.empty(self._number_of_results, dtype=torch.float64)
        given = [*inputs, *(row[0] for row in rows), results]
        module = self._with_update(recorded, given, len(inputs))
        # Of the parts copies, in whose common memory the compiler would see more than there is. The others
        # come as they are: a copy of a slice has other strides
        live = set(map(id, self._live))
        examples = [each if id(each) in live else each.clone() for each in self._fixed()]
        self._compiled = compiled_graph(module, [*given, *examples])
        self._loop = _native_loop(self._compiled)

    @property
    def fits(self) -> bool:
        """Whether the optimiser has the same options, whatever their numbers."""
        return (self._clip_norm is not None) == self._clips and all(each.fits for each in self._updates)

    @property
    def current(self) -> bool:
        """Whether the optimiser has the same options, and what a step goes on from."""
        return self.fits and all(each.current for each in self._updates)

    @property
    def _clip_norm(self) -> float | None:
        optimiser = self._gradients.optim
        assert isinstance(optimiser, FusedOptim)
        return optimiser.clip_norm

    def take(self, stacks: Sequence[Tensor], steps: int) -> Tensor:
        """Takes steps; loss and terms of each, (step, term).

        Args:
            stacks: their data and weights, (steps, ...) each.
            steps: how many they are.
        """
        results = torch.empty(steps, self._number_of_results, dtype=torch.float64)
        stacks, fixed = [*stacks, *self._rows(steps), results], self._fixed()
        if self._loop is not None and steps > 1:
            self._loop(stacks, fixed, steps)
        else:
            for given in zip(*(each.unbind() for each in stacks), strict=True):
                self._compiled([*given, *fixed])
        for update in self._updates:
            update.count(steps)
        return results

    def _rows(self, steps: int) -> list[Tensor]:
        """For each group the numbers of the steps, (step, number), the last of them the norm to clip at."""
        norm = [math.inf if self._clip_norm is None else float(self._clip_norm)]
        # As the parameters are, so that no number is converted for each element
        single = all(each.flat.dtype is torch.float32 for each in self._updates)
        dtype = torch.float32 if single else torch.float64
        return [
            torch.tensor([[*row, *norm] for row in each.rows(steps)], dtype=dtype) for each in self._updates
        ]

    def _fixed(self) -> list[Tensor]:
        """What each step reads and writes in place: parameters, other tensors, gradients and moments.

        All but the others part by part, as the parameters are, so that no gradient is copied on its way.
        """
        flats = [
            (update.flat, gradient, *update.kept)
            for update, gradient in zip(self._updates, self._gradients.flat, strict=True)
        ]
        # To split them would take a step by itself longer than the rest of it
        places = [(id(each), each.data_ptr()) for group in flats for each in group]
        if places != self._places:
            self._split, self._places = flats, places
            groups = zip(flats, self._gradients.members, strict=True)
            found = [[_parts(each, members) for each in group] for group, members in groups]
            parameters = [part for group in found for part in group[0]]
            rest = [part for group in found for each in group[1:] for part in each]
            self._whole = [*parameters, *self._live, *rest]
        return self._whole

    def _with_update(self, recorded: RecordedGraph, given: Sequence[Tensor], inputs: int) -> GraphModule:
        """The graph that goes from data and parameters to results and changed parameters."""
        fixed = self._fixed()
        graph = Graph()
        nodes = [graph.placeholder(f"given_{i}") for i in range(len(given))]
        kept = [graph.placeholder(f"fixed_{i}") for i in range(len(fixed))]
        parameters = len(self._gradients.parameters)
        read = parameters + len(self._live)
        values = dict(zip(recorded.inputs, [*nodes[:inputs], *kept[:read]], strict=True))
        found = cast(tuple[Node, ...], graph.graph_copy(recorded.graph, values))
        with torch.no_grad():
            shapes = [torch.zeros(()) for _ in range(self._number_of_results)]
            gradients = map(torch.zeros_like, self._gradients.parameters)
            example = [*shapes, *gradients, *given[inputs:], *fixed[:parameters], *fixed[read:]]
            update = make_fx(self._update, tracing_mode="real")(*(each.clone() for each in example))
        sources = [*found, *nodes[inputs:], *kept[:parameters], *kept[read:]]
        placeholders = [node for node in update.graph.nodes if node.op == "placeholder"]
        graph.graph_copy(update.graph, dict(zip(placeholders, sources, strict=True)))
        graph.output(())
        return GraphModule(update, graph)

    def _update(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """What follows loss, terms and gradients; the order of the tensors is that of the graph."""
        rest = iter(tensors)

        def take(number: int) -> list[Tensor]:
            return [next(rest) for _ in range(number)]

        groups, count = len(self._updates), len(self._gradients.parameters)
        results, gradients = take(self._number_of_results), take(count)
        rows, (row,), parameters = take(groups), take(1), take(count)
        row.copy_(torch.stack([each.reshape(()).to(row.dtype) for each in results]))
        finite = results[0].reshape(()).isfinite()
        of = dict(zip(self._gradients.parameters, gradients, strict=True))
        numbers = [each.unbind() for each in rows]
        factor: Tensor | None = None
        if self._clips:
            norms = torch.stack([torch.linalg.vector_norm(each) for each in gradients])
            factor = (numbers[0][-1] / (torch.linalg.vector_norm(norms) + 1e-6)).clamp(max=1.0)
        of_all = iter(parameters)
        for update, members, (*number, _) in zip(
            self._updates, self._gradients.members, numbers, strict=True
        ):
            before = [next(of_all) for _ in members]
            written, *moments = [take(len(members)) for _ in range(1 + len(update.moments))]
            for member, old, copy, *kept in zip(members, before, written, *moments, strict=True):
                gradient = of[member]
                copy.copy_(gradient)
                gradient = gradient if factor is None else gradient * factor
                for each, new in zip([old, *kept], update(old, gradient, number, *kept), strict=True):
                    each.copy_(torch.where(finite, new, each))
        return ()
