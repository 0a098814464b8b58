"""Pyro's optimiser with one kernel a step, instead of one torch optimiser a parameter."""

import abc
import copy
import inspect
import math
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import accumulate
from typing import Any, cast, final

import numpy as np
import pyro
import torch
from pyro.optim import PyroOptim
from pyro.optim.adagrad_rmsprop import AdagradRMSProp
from pyro.optim.clipped_adam import ClippedAdam
from pyro.params.param_store import module_from_param_with_module_name, normalize_param_name, user_param_name
from torch import Tensor, nn, optim
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

# ---- The kernel of a fused Adam, called without what torch does around it.


@final
class FusedKernel:
    """Steps of an Adam or AdamW over one flat tensor by torch's kernel itself, whole or part by part.

    ``torch.optim.Adam.step`` spends more time on hooks, on collecting its arguments and on sorting tensors by
    device than a small model does in the kernel. Options, moments and step count stay the optimiser's own and
    are read at each step, so that schedulers and ``load_state_dict`` work as ever.

    Args:
        optimizer: an optimiser over just one tensor, for which :func:`has_fused_kernel` holds.
        flat: the tensor.
        split: views of the parts of a tensor like it, one for each parameter.

    Example:
        >>> import torch
        >>> flat = torch.zeros(3)
        >>> optimizer = torch.optim.Adam([flat], lr=0.5, fused=True)
        >>> flat.grad = torch.ones(3)
        >>> optimizer.step()
        >>> kernel = FusedKernel(optimizer, flat, split=lambda tensor: list(tensor.split([1, 2])))
        >>> kernel.step(torch.ones(3))
        >>> kernel.step_parts([torch.ones(1), torch.ones(2)])
        >>> flat.tolist()
        [-1.5, -1.5, -1.5]
    """

    def __init__(
        self, optimizer: Optimizer, flat: Tensor, *, split: Callable[[Tensor], list[Tensor]]
    ) -> None:
        self._optimizer = optimizer
        self._flat = flat
        self._split = split
        self._kernel = _kernel(type(optimizer))
        self._parts = split(flat)
        self._moments: list[Tensor] = []
        self._moment_parts: list[list[Tensor]] = []

    @property
    def ready(self) -> bool:
        """Whether there are moments to go on from, and no hooks that wait for the optimiser's own step."""
        optimizer: Any = self._optimizer
        hooked = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
        return bool(optimizer.state.get(self._flat)) and not hooked

    def step(self, gradient: Tensor) -> None:
        """One step by the gradient of the whole tensor."""
        moments = [[each] for each in self._present_moments()]
        self._run([self._flat], [gradient], moments)

    def step_parts(self, gradients: list[Tensor]) -> None:
        """One step by contiguous gradients of the parts, without copying these into one."""
        moments = self._present_moments()
        if not _same(moments, self._moments):
            self._moments = moments
            self._moment_parts = [self._split(each) for each in moments]
        self._run(self._parts, gradients, self._moment_parts)

    def _present_moments(self) -> list[Tensor]:
        state = self._optimizer.state[self._flat]
        first_two = [state["exp_avg"], state["exp_avg_sq"]]
        return [*first_two, state["max_exp_avg_sq"]] if "max_exp_avg_sq" in state else first_two

    def _run(self, tensors: list[Tensor], gradients: list[Tensor], moments: list[list[Tensor]]) -> None:
        group = self._optimizer.param_groups[0]
        beta1, beta2 = group["betas"]
        count = self._optimizer.state[self._flat]["step"]
        count.add_(1)
        self._kernel(
            tensors,
            gradients,
            moments[0],
            moments[1],
            moments[2] if group["amsgrad"] else [],
            [count] * len(tensors),
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=group["amsgrad"],
            maximize=group["maximize"],
        )


def has_fused_kernel(optimizer: Optimizer, flat: Tensor) -> bool:
    """Whether the steps of an optimiser over one tensor can be taken by its kernel alone.

    They cannot for other classes than Adam and AdamW, for unusual options, and where the kernel of the
    present version of torch gives another result in a trial than the optimiser's own step.
    """
    kind: Callable[..., Optimizer] = type(optimizer)
    return _is_plain_adam(optimizer) and _agrees(kind, flat.dtype, flat.device)


def _is_plain_adam(optimizer: Optimizer) -> bool:
    if type(optimizer) not in (optim.Adam, optim.AdamW):
        return False
    (group,) = optimizer.param_groups
    decoupled = type(optimizer) is optim.AdamW
    unusual = group.get("capturable") or group.get("differentiable")
    tensors = any(isinstance(each, Tensor) for each in (group["lr"], *group["betas"]))
    kernel_differs = group.get("decoupled_weight_decay", decoupled) != decoupled
    return bool(group.get("fused")) and not (unusual or tensors or kernel_differs)


def _kernel(kind: type[Optimizer]) -> Callable[..., None]:
    kernel: Callable[..., None] = torch._fused_adamw_ if kind is optim.AdamW else torch._fused_adam_
    return kernel


@lru_cache
def _agrees(kind: Callable[..., Optimizer], dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a step by the kernel gives what a step of the optimiser gives, whole and in parts."""
    whole, parts, expected = (_Trial(kind, dtype, device) for _ in range(3))
    try:
        whole.kernel.step(whole.gradient)
        parts.kernel.step_parts(_halves(parts.gradient))
    except (AttributeError, KeyError, RuntimeError, TypeError):
        return False
    expected.optimizer.step()
    return torch.equal(whole.flat, expected.flat) and torch.allclose(parts.flat, expected.flat)


class _Trial:
    """A small tensor after one step of an optimiser."""

    def __init__(self, kind: Callable[..., Optimizer], dtype: torch.dtype, device: torch.device) -> None:
        self.flat = torch.linspace(-1, 1, 6, dtype=dtype, device=device)
        self.gradient = self.flat.square() - 0.3
        self.flat.grad = self.gradient
        self.optimizer = kind([self.flat], lr=0.1, weight_decay=0.2, fused=True)
        self.optimizer.step()
        self.kernel = FusedKernel(self.optimizer, self.flat, split=_halves)


def _halves(tensor: Tensor) -> list[Tensor]:
    return list(tensor.split(3))


def _same(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return len(first) == len(second) and all(a is b for a, b in zip(first, second, strict=True))


# ---- What an optimiser keeps for one parameter, apart from the parameters that it is stepped with.

# Kept once a step and not once an element by torch's elementwise optimisers
_SHARED = frozenset({"step", "mu_product", "eta", "mu"})
# How a step is computed, which belongs to the machine and not to the training
_IMPLEMENTATION = frozenset({"params", "fused", "foreach", "capturable", "differentiable", "fused_group"})


@final
@dataclass(frozen=True)
class ParameterState:
    """The state of one parameter: what torch keeps for it, its options as they are now, its scheduler's.

    It converts to and from the form of :meth:`pyro.optim.PyroOptim.get_state`, so that the one optimiser
    reads what the other has written.

    Args:
        state: moments and step count by torch's names.
        options: hyperparameters by torch's names, the present learning rate among them.
        scheduler: the state of the learning-rate scheduler; None without one.
        place: number of the group and position therein; None where it does not matter.
    """

    state: Mapping[str, Any]
    options: Mapping[str, Any]
    scheduler: Mapping[str, Any] | None = None
    place: tuple[int, int] | None = None

    @property
    def elementwise(self) -> dict[str, Tensor]:
        """What is kept for each element, in the shape of the parameter."""
        return {name: value for name, value in self.state.items() if _is_elementwise(name, value)}

    @property
    def shared(self) -> dict[str, Any]:
        """What is kept once for all elements."""
        return {name: value for name, value in self.state.items() if not _is_elementwise(name, value)}

    def fits(self, parameter: Tensor) -> bool:
        """Whether each moment has the shape of the parameter."""
        return all(value.shape == parameter.shape for value in self.elementwise.values())

    @property
    def key(self) -> Hashable:
        """Equal for two parameters that one torch optimiser can step together from now on."""
        moments = frozenset(self.elementwise)
        return moments, frozen(self.shared), frozen(self.options), frozen(self.scheduler)

    def to_pyro(self, *, place: tuple[int, int] | None = None) -> dict[str, Any]:
        """A copy in the form of Pyro's optimisers, of tensors and plain values only."""
        group = _plain(self.options) | {"fused_group": place, "params": [0]}
        optimizer = {"state": {0: _plain(self.state)} if self.state else {}, "param_groups": [group]}
        if self.scheduler is None:
            return optimizer
        return {"scheduler": _plain(self.scheduler), "optimizer": optimizer}

    @classmethod
    def from_pyro(cls, saved: Mapping[str, Any]) -> "ParameterState":
        """Reads the state of one parameter as Pyro's optimisers write it."""
        scheduler = saved.get("scheduler")
        optimizer = saved.get("optimizer", saved)
        (group,) = optimizer["param_groups"]
        return cls(
            dict(optimizer["state"].get(0, {})),
            own_options(group),
            scheduler,
            group.get("fused_group"),
        )


def own_options(group: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters of a torch parameter group, without how they are computed."""
    return {name: value for name, value in group.items() if name not in _IMPLEMENTATION}


def frozen(value: Any) -> Hashable:
    """Something that is equal for equal trees of tensors and plain values, and can be looked up."""
    if isinstance(value, Tensor):
        return tuple(value.shape), tuple(value.detach().flatten().tolist())
    if isinstance(value, Mapping):
        return tuple(sorted((str(name), frozen(each)) for name, each in value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(frozen(each) for each in value)
    return repr(value)


def _is_elementwise(name: str, value: object) -> bool:
    return name not in _SHARED and isinstance(value, Tensor)


def _plain(value: Any) -> Any:
    # A slice of a buffer would save the whole buffer: clone it
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Counter):
        return Counter(value)
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(each) for each in value)
    return value.item() if isinstance(value, np.generic) else copy.copy(value)


# ---- Parameters that one torch optimiser steps together: as views into one buffer, or as they are.

Scheduler = Any  # ReduceLROnPlateau is no LRScheduler before torch 2.2, and mypy cannot see the module's


class ParameterGroup(abc.ABC):
    """Parameters that one torch optimiser steps, with one learning-rate scheduler.

    Args:
        parameters: leaf tensors of one dtype and device.
        make_optimizer: the torch optimiser of a list of tensors.
        make_scheduler: the scheduler of a torch optimiser; None for none.
        states: the state that each parameter brings along; none to begin anew.

    Attributes:
        parameters: the leaf tensors, in buffer order.
        slices: where each parameter's elements lie in a flat gradient.
        flat: the buffer that the parameters are views into; None where they are kept as they are.
        optimizer: the torch optimiser.
        scheduler: its scheduler or None.
    """

    flat: Tensor | None

    def __init__(
        self,
        parameters: Sequence[Tensor],
        *,
        make_optimizer: Callable[[list[Tensor]], Optimizer],
        make_scheduler: Callable[[Optimizer], Scheduler] | None = None,
        states: Sequence[ParameterState] = (),
    ) -> None:
        self.parameters = tuple(parameters)
        self._shapes = tuple(parameter.shape for parameter in parameters)
        ends = tuple(accumulate(parameter.numel() for parameter in parameters))
        self.slices = tuple(slice(a, b) for a, b in zip((0, *ends), ends, strict=False))
        self.optimizer = make_optimizer(self._prepare())
        self.scheduler: Scheduler = make_scheduler(self.optimizer) if make_scheduler else None
        if states:
            self._continue(states)
        # The scheduler would otherwise warn that nothing was stepped, when it is advanced after a split
        self.optimizer._opt_called = True  # type: ignore[attr-defined]
        self._pointers = self._present_pointers()

    @property
    def intact(self) -> bool:
        """Whether the parameters' values still lie where this group has put or found them."""
        return self._pointers == self._present_pointers()

    @abc.abstractmethod
    def gather(self, *, whole: bool) -> list[Tensor]:
        """Takes the gradients from the parameters; what it returns may be scaled before the step.

        Args:
            whole: whether to copy them into one tensor where that can be, so that a norm is one kernel.
        """

    @abc.abstractmethod
    def accept(self, gradient: Tensor) -> None:
        """Takes one flat gradient, concatenated in the order of the parameters."""

    @abc.abstractmethod
    def step(self) -> None:
        """Moves the parameters by the gradients taken, and lets go of these."""

    def carried_state(self, index: int) -> ParameterState | None:
        """The state for the parameter of this index, if the parameter still has its shape."""
        return self.state(index) if self.parameters[index].shape == self._shapes[index] else None

    @abc.abstractmethod
    def state(self, index: int) -> ParameterState:
        """What is kept for the parameter of this index: views, not copies."""

    @abc.abstractmethod
    def _prepare(self) -> list[Tensor]:
        """The tensors that the torch optimiser steps."""

    @abc.abstractmethod
    def _load(self, states: Sequence[ParameterState]) -> None:
        """Writes moments and step counts into the torch optimiser."""

    def _present_pointers(self) -> list[int]:
        return list(map(Tensor.data_ptr, self.parameters))

    def _continue(self, states: Sequence[ParameterState]) -> None:
        if any(state.state for state in states):
            self._load(states)
        self.optimizer.param_groups[0].update(states[0].options)
        if self.scheduler is not None and states[0].scheduler is not None:
            self.scheduler.load_state_dict(copy.deepcopy(dict(states[0].scheduler)))

    def _options(self) -> dict[str, Any]:
        return own_options(self.optimizer.param_groups[0])

    def _scheduler_state(self) -> dict[str, Any] | None:
        return None if self.scheduler is None else self.scheduler.state_dict()


@final
class FlatGroup(ParameterGroup):
    r"""Parameters as views into one buffer, so that a step of an elementwise optimiser is one kernel.

    Example:
        >>> import torch
        >>> a, b = torch.zeros(2, requires_grad=True), torch.ones((), requires_grad=True)
        >>> group = FlatGroup([a, b], make_optimizer=lambda flat: torch.optim.SGD(flat, lr=1.0))
        >>> group.accept(torch.tensor([1.0, 2.0, 3.0]))
        >>> group.step()
        >>> a.tolist(), b.item(), group.flat.tolist()
        ([-1.0, -2.0], -2.0, [-1.0, -2.0, -2.0])
    """

    flat: Tensor
    _taken: Tensor | list[Tensor]

    def gather(self, *, whole: bool) -> list[Tensor]:
        gradients = cast(list[Tensor], [parameter.grad for parameter in self.parameters])
        for parameter in self.parameters:
            parameter.grad = None
        in_parts = not whole and self._steps_in_parts(gradients)
        self._taken = gradients if in_parts else self._copied(gradients)
        return [self._taken] if isinstance(self._taken, Tensor) else self._taken

    def accept(self, gradient: Tensor) -> None:
        self._taken = gradient

    def step(self) -> None:
        taken, self._taken = self._taken, []
        if isinstance(taken, list):
            cast(FusedKernel, self._kernel).step_parts(taken)
        elif self._kernel is not None and self._kernel.ready:
            self._kernel.step(taken)
        else:
            self.flat.grad = taken
            self.optimizer.step()
            self.flat.grad = None

    def state(self, index: int) -> ParameterState:
        shape, part = self._shapes[index], self.slices[index]
        kept = ParameterState(self.optimizer.state.get(self.flat, {}), {})
        moments = {name: value[part].view(shape) for name, value in kept.elementwise.items()}
        return ParameterState(moments | kept.shared, self._options(), self._scheduler_state())

    @cached_property
    def _kernel(self) -> FusedKernel | None:
        if not has_fused_kernel(self.optimizer, self.flat):
            return None
        return FusedKernel(self.optimizer, self.flat, split=self._split)

    @cached_property
    def _buffer(self) -> tuple[Tensor, list[Tensor]]:
        flat = torch.empty_like(self.flat)
        return flat, self._split(flat)

    def _steps_in_parts(self, gradients: Sequence[Tensor]) -> bool:
        # Copying the gradients of a large model costs half as much as the step itself
        ready = self._kernel is not None and self._kernel.ready
        return ready and all(map(Tensor.is_contiguous, gradients))

    def _copied(self, gradients: list[Tensor]) -> Tensor:
        flat, parts = self._buffer
        torch._foreach_copy_(parts, gradients)
        return flat

    def _prepare(self) -> list[Tensor]:
        self._taken = []
        self.flat = torch.cat([parameter.detach().reshape(-1) for parameter in self.parameters])
        for parameter, part in zip(self.parameters, self.slices, strict=True):
            parameter.data = _own_view(self.flat, part, parameter.shape)
        return [self.flat]

    def _load(self, states: Sequence[ParameterState]) -> None:
        moments = {
            name: torch.cat([state.elementwise[name].to(self.flat).reshape(-1) for state in states])
            for name in states[0].elementwise
        }
        _load_state(self.optimizer, {0: moments | states[0].shared})

    def _split(self, flat: Tensor) -> list[Tensor]:
        return [flat[part].view(shape) for part, shape in zip(self.slices, self._shapes, strict=True)]


@final
class LooseGroup(ParameterGroup):
    """Parameters that are stepped as they are, for what cannot be flattened.

    These are optimisers that see more than single elements, sparse gradients, complex parameters, and
    parameters that share memory with one another or with other processes.
    """

    flat: None = None

    def gather(self, *, whole: bool) -> list[Tensor]:  # noqa: ARG002
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]

    def accept(self, gradient: Tensor) -> None:
        for parameter, part in zip(self.parameters, self.slices, strict=True):
            parameter.grad = gradient[part].view(parameter.shape)

    def step(self) -> None:
        self.optimizer.step()
        for parameter in self.parameters:
            parameter.grad = None

    def state(self, index: int) -> ParameterState:
        kept = self.optimizer.state.get(self.parameters[index], {})
        return ParameterState(dict(kept), self._options(), self._scheduler_state())

    def _prepare(self) -> list[Tensor]:
        return list(self.parameters)

    def _load(self, states: Sequence[ParameterState]) -> None:
        _load_state(self.optimizer, {k: state.state for k, state in enumerate(states) if state.state})


def can_flatten(parameter: Tensor) -> bool:
    """Whether a parameter may become a view into a buffer with others."""
    plain = type(parameter) in (Tensor, nn.Parameter) and parameter.layout == torch.strided
    dense = parameter.grad is None or parameter.grad.layout == torch.strided
    return plain and dense and parameter.is_floating_point() and not _is_shared(parameter)


def _is_shared(parameter: Tensor) -> bool:
    # On an accelerator every tensor counts as shared
    return parameter.device.type == "cpu" and parameter.is_shared()


def overlapping_tensors(tensors: Iterable[Tensor]) -> set[Tensor]:
    """Those whose memory overlaps with that of another."""
    found: set[Tensor] = set()
    end, last = -1, None
    for start, stop, tensor in sorted(map(_extent, tensors), key=lambda extent: extent[:2]):
        if last is not None and start < end:
            found |= {last, tensor}
        if stop > end:
            end, last = stop, tensor
    return found


def _extent(tensor: Tensor) -> tuple[int, int, Tensor]:
    start = tensor.data_ptr()
    if tensor.numel() == 0:
        return start, start, tensor
    steps = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return start, start + (steps + 1) * tensor.element_size(), tensor


def _own_view(flat: Tensor, part: slice, shape: torch.Size) -> Tensor:
    # A storage of its own over the same memory: saving the parameter then writes only its own bytes
    view, size = flat[part].view(shape), flat.element_size()
    storage: torch.UntypedStorage = flat.untyped_storage()[part.start * size : part.stop * size]
    own = torch.empty(0, dtype=flat.dtype, device=flat.device).set_(storage, 0, shape, view.stride())
    return own if own.data_ptr() == view.data_ptr() else view


def _load_state(optimizer: Optimizer, state: Mapping[int, Mapping[str, Any]]) -> None:
    copies = {index: _cloned(each) for index, each in state.items()}
    optimizer.load_state_dict({"state": copies, "param_groups": optimizer.state_dict()["param_groups"]})
    for index, parameter in enumerate(optimizer.param_groups[0]["params"]):
        _restore_dtypes(optimizer.state.get(parameter, {}), copies.get(index, {}))


def _restore_dtypes(loaded: dict[str, Any], saved: Mapping[str, Any]) -> None:
    # torch casts whatever is kept once for all elements to the dtype of the parameter
    for name, value in ParameterState(saved, {}).shared.items():
        if isinstance(value, Tensor):
            loaded[name] = value.to(loaded[name].device)


def _cloned(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}


# ---- Options of torch's optimisers: which a class has, which is fastest here, and which can be flattened.

# Classes whose step treats each element of a parameter by itself. Exact types: a subclass may do otherwise.
ELEMENTWISE: frozenset[type[Optimizer]] = frozenset(
    {
        optim.ASGD,
        optim.Adadelta,
        optim.Adagrad,
        optim.Adam,
        optim.AdamW,
        optim.Adamax,
        optim.NAdam,
        optim.RAdam,
        optim.RMSprop,
        optim.Rprop,
        optim.SGD,
        AdagradRMSProp,
        ClippedAdam,
    }
)


def check_constructor(constructor: object) -> None:
    """Checks for a class of torch optimisers that steps by gradients alone."""
    if not (isinstance(constructor, type) and issubclass(constructor, Optimizer)):
        raise ValueError(
            "Expected a class of torch optimisers such as torch.optim.Adam but got "
            f"{_described(constructor)}."
        )
    if issubclass(constructor, optim.LBFGS):
        raise ValueError(
            "Expected an optimiser that steps by gradients alone but got LBFGS, which evaluates the loss "
            "anew within its step: take torch.optim.Adam, for instance."
        )


def check_options(constructor: type[Optimizer], options: object) -> None:
    """Checks that a class of optimisers knows the options and has all it needs."""
    if not isinstance(options, dict):
        raise ValueError(f"Expected the options of {constructor.__name__} as a dict but got {options!r}.")
    known = _parameters(constructor)
    if not _takes_any(constructor) and (unknown := [name for name in options if name not in known]):
        raise ValueError(
            f"Expected options of {constructor.__name__} ({', '.join(known)}) "
            f"but got {', '.join(map(repr, unknown))}."
        )
    required = [name for name, each in known.items() if each.default is each.empty]
    if missing := [name for name in required if name not in options]:
        raise ValueError(
            f"Expected {', '.join(map(repr, missing))} among the options of {constructor.__name__} "
            f"but got {dict(options)!r}: give it, for instance {{{missing[0]!r}: 1e-3}}."
        )


def fastest_options(constructor: type[Optimizer], options: Mapping[str, Any], like: Tensor) -> dict[str, Any]:
    """Adds ``fused=True`` where the class has it and it works on the device and dtype of a tensor.

    The user's own choice of ``fused`` or ``foreach`` is kept. Without a fused kernel the choice is left to
    torch, which takes foreach on an accelerator and a loop on a CPU, where foreach is slower.
    """
    chosen = any(options.get(name) is not None for name in ("fused", "foreach"))
    sparse = like.grad is not None and like.grad.layout != torch.strided
    if chosen or sparse or "fused" not in _parameters(constructor):
        return dict(options)
    fused = {**options, "fused": True}
    return fused if _works(constructor, fused, like) else dict(options)


def _works(constructor: type[Optimizer], options: Mapping[str, Any], like: Tensor) -> bool:
    # Which kernels there are differs by version, device and dtype, and shows at the first step at the latest
    probe = torch.zeros(1, dtype=like.dtype, device=like.device)
    probe.grad = torch.zeros_like(probe)
    try:
        constructor([probe], **options).step()
    except (RuntimeError, ValueError, NotImplementedError):
        return False
    return True


def _parameters(constructor: type[Optimizer]) -> dict[str, inspect.Parameter]:
    _, *options = inspect.signature(constructor).parameters.values()
    return {each.name: each for each in options if each.kind != each.VAR_KEYWORD}


def _takes_any(constructor: type[Optimizer]) -> bool:
    return any(each.kind == each.VAR_KEYWORD for each in inspect.signature(constructor).parameters.values())


def _described(constructor: object) -> str:
    if getattr(constructor, "__module__", "").startswith("pyro.optim"):
        name = getattr(constructor, "__name__", "Adam")
        return f"pyro.optim.{name}, which wraps one: pass torch.optim.{name}"
    return repr(constructor)


# ---- fused optim

_CACHED_SETS = 256
_ALIGNED = 16


@final
class FusedOptim(PyroOptim):
    r"""Pyro's optimiser with one torch optimiser over all parameters, so that a step is one kernel.

    :class:`pyro.optim.PyroOptim` makes a torch optimiser for each parameter, which takes a third of the time
    of a step of a small model. Here the parameters of one dtype, device and set of options become views into
    one flat buffer, which one optimiser steps, fused where torch has that. It gives what PyroOptim gives, up
    to rounding: options may differ by parameter, a parameter that appears later has a step count of its
    own, and one that stays out of a step is not moved, not even by its momentum.

    Only optimisers that treat each element by itself are flattened (Adam, AdamW, SGD, RMSprop, Adagrad,
    Adadelta, Adamax, NAdam, RAdam, ASGD, Rprop, Pyro's ClippedAdam and AdagradRMSProp). For others, for
    complex parameters, for sparse gradients and for parameters that share memory, the parameters stay where
    they are. LBFGS is refused, since it needs a closure.

    Gradients are taken from ``.grad``, which is None after a step, so that Pyro's ``zero_grads`` has nothing
    left to do. Hence a parameter that is stated in a step without taking part in its loss is not moved
    either. (PyroOptim takes the zeros that ``zero_grads`` has left there for a gradient.)

    Values move into the buffer at the first step, so a tensor that shared memory with a parameter before,
    such as ``parameter.detach()``, no longer follows it. Where ``.to()``, ``.double()`` or
    ``parameter.data = ...`` take a parameter out of its buffer, the next step lays out the buffers anew and
    keeps the moments of parameters of the same shape. Parameters have storages of their own over the memory
    of the buffer, so that ``torch.save`` of one of them does not write the others.

    Reference: D. P. Kingma and J. Ba (2015), Adam: A Method for Stochastic Optimization.

    Args:
        optim_constructor: a class of torch optimisers, such as ``torch.optim.Adam``.
        optim_args: its options as a dict, or a function from the name of a parameter to such a dict, as in
            Pyro. ``fused`` and ``foreach`` are chosen for you unless you give one of them.
        clip_norm: the largest Euclidean norm of the gradient over all parameters of a step; a longer one is
            scaled down to it, as :func:`torch.nn.utils.clip_grad_norm_` does. (Pyro's own ``clip_args`` clip
            each parameter by itself.) None does not clip.
        scheduler: a function from a torch optimiser to a learning-rate scheduler, which :meth:`step`
            advances.

    Raises:
        ValueError: for what is no class of torch optimisers, for LBFGS, for options that the class does not
            have or that it lacks, and for clip_norm <= 0.

    Example:
        >>> import pyro, torch
        >>> from pyro import distributions as dist
        >>> from pyro.infer import SVI, Trace_ELBO
        >>> pyro.clear_param_store()
        >>> def model(x):
        ...     loc = pyro.param("loc", torch.zeros((), dtype=torch.float64))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
        >>> optim = FusedOptim(
        ...     torch.optim.Adam,
        ...     {"lr": 0.1},
        ...     clip_norm=10.0,
        ...     scheduler=lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.99),
        ... )
        >>> svi = SVI(model, lambda x: None, optim, Trace_ELBO())
        >>> for _ in range(100):
        ...     loss = svi.step(torch.full((20,), 3.0, dtype=torch.float64))
        ...     optim.step()
        >>> bool((pyro.param("loc") - 3.0).abs() < 0.1)
        True
    """

    def __init__(
        self,
        optim_constructor: type[Optimizer],
        optim_args: dict[str, Any] | Callable[..., dict[str, Any]],
        *,
        clip_norm: float | None = None,
        scheduler: Callable[[Optimizer], Scheduler] | None = None,
    ) -> None:
        check_constructor(optim_constructor)
        if not callable(optim_args):
            check_options(optim_constructor, optim_args)
        _check_clip_norm(clip_norm)
        _check_scheduler(scheduler)
        self._constructor = optim_constructor
        super().__init__(optim_constructor=optim_constructor, optim_args=optim_args)
        self.clip_norm = clip_norm
        self.scheduler = scheduler
        self._names: dict[Tensor, str] = {}
        self._given: dict[Tensor, Mapping[str, Any]] = {}
        self._groups: list[ParameterGroup] = []
        self._cached: dict[frozenset[Tensor], tuple[ParameterGroup, ...]] = {}
        self._last: tuple[object, tuple[ParameterGroup, ...]] = ((), ())

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """Steps parameters by their ``.grad``, and leaves None there.

        Args:
            params: unconstrained leaf tensors. One without a gradient is not moved.
            *args: none, as there is no closure.
            **kwargs: none.
        """
        if args or kwargs:
            raise ValueError(f"Expected parameters alone but got {args or kwargs} too: there is no closure.")
        groups = self._with_gradients(params)
        whole = self.clip_norm is not None
        self._step(groups, [gradient for group in groups for gradient in group.gather(whole=whole)])

    def groups(self, params: Iterable[Tensor]) -> tuple[ParameterGroup, ...]:
        """The groups that make up just these parameters, laid out anew where needed.

        A group is split when only a part of it is asked for; moments, step count and schedule go with each
        part. The values of the parameters lie in the buffers afterwards.

        Args:
            params: unconstrained leaf tensors. Asking with the same tuple again costs next to nothing.
        """
        if params is self._last[0]:
            found: tuple[ParameterGroup, ...] | None = self._last[1]
        else:
            params = params if isinstance(params, Collection) else tuple(params)
            found = self._cached.get(frozenset(params))
        if found is None or not self.optim_objs or not all(group.intact for group in found):
            found = self._arrange(params)
        if isinstance(params, (tuple, frozenset)):
            self._last = params, found
        return found

    def apply(self, groups: Sequence[ParameterGroup], gradients: Sequence[Tensor]) -> None:
        """Steps groups by one flat gradient each.

        Args:
            groups: as :meth:`groups` has returned them for this step.
            gradients: for each group the gradients of its parameters, flattened and concatenated in their
                order. With ``clip_norm`` they are scaled in place.
        """
        for group, gradient in zip(groups, gradients, strict=True):
            group.accept(gradient)
        self._step(groups, gradients)

    def step(self, *args: Any, **kwargs: Any) -> None:
        """Advances the learning-rate schedulers, as :class:`pyro.optim.lr_scheduler.PyroLRScheduler` does.

        Args:
            *args: for the schedulers, such as the loss that ReduceLROnPlateau watches.
            **kwargs: for the schedulers.

        Raises:
            ValueError: without schedulers.
        """
        if self.scheduler is None:
            raise ValueError("Expected an optimiser with a scheduler but got none: pass scheduler= to it.")
        for scheduler in (group.scheduler for group in self._groups):
            scheduler.step(*args, **kwargs)

    def get_state(self) -> dict[str, Any]:
        """Copies of what is kept for each parameter, by its name.

        The form is that of :meth:`pyro.optim.PyroOptim.get_state`, of tensors and plain values only, so
        that ``torch.load(..., weights_only=True)`` reads it. It also tells how the buffers are laid out:
        a kernel rounds an element by where it lies, and a training that goes on from the state does so to
        the bit.

        Raises:
            ValueError: for a parameter without a name.
        """
        found: dict[str, Any] = {}
        for number, group in enumerate(self._groups):
            for position, parameter in enumerate(group.parameters):
                name = self._required_name(parameter)
                if name not in found or pyro.get_param_store().param_name(parameter) == name:
                    found[name] = group.state(position).to_pyro(place=(number, position))
        return found | copy.deepcopy(self._waiting)

    def set_state(self, state_dict: Mapping[str, Any]) -> None:
        """Takes up a state at the next step, also one of a PyroOptim with the same torch optimiser.

        Args:
            state_dict: what :meth:`get_state` gave. What belongs to parameters that do not exist yet waits
                for them; parameters that it does not name keep their own.
        """
        super().set_state(dict(state_dict))
        self._changed()

    def state_dict(self) -> dict[str, Any]:
        """The same as :meth:`get_state`."""
        return self.get_state()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """The same as :meth:`set_state`."""
        self.set_state(state_dict)

    def load(self, filename: str, map_location: Any = None) -> None:
        """Takes up the state from a file that ``save`` has written, read with ``weights_only=True``."""
        self.set_state(torch.load(filename, map_location=map_location, weights_only=True))

    def forget(self) -> None:
        """Drops all moments, step counts and schedules; the parameters stay as they are."""
        self._groups.clear()
        self._given.clear()
        self.optim_objs.clear()
        self._changed()

    def name_parameters(self, parameters: Mapping[str, Tensor]) -> None:
        """Names parameters that the parameter store does not know, such as those local to a module.

        Args:
            parameters: unconstrained leaf tensors by name.
        """
        self._names.update({parameter: name for name, parameter in parameters.items()})

    def _step(self, groups: Sequence[ParameterGroup], gradients: Sequence[Tensor]) -> None:
        if self.clip_norm is not None and gradients:
            _clip(list(gradients), self.clip_norm)
        for group in groups:
            group.step()

    def _with_gradients(self, params: Iterable[Tensor]) -> tuple[ParameterGroup, ...]:
        # Pyro has an optimiser, and a schedule, begin with the first statement of a parameter
        groups = self.groups(params)
        parameters = [parameter for group in groups for parameter in group.parameters]
        present = [parameter for parameter in parameters if parameter.grad is not None]
        return groups if len(present) == len(parameters) else self.groups(present)

    def _changed(self) -> None:
        self._cached.clear()
        self._last = (), ()

    def _arrange(self, params: Iterable[Tensor]) -> tuple[ParameterGroup, ...]:
        if not self.optim_objs:
            self.forget()
        wanted = dict.fromkeys(self._ordered(params))
        members = [*self._dissolved(wanted), *self._new(wanted)]
        if members:
            self._changed()
            self._regroup(members)
        found = tuple(group for group in self._groups if group.parameters[0] in wanted)
        if len(self._cached) >= _CACHED_SETS:
            self._cached.clear()
        self._cached[frozenset(wanted)] = found
        return found

    def _ordered(self, params: Iterable[Tensor]) -> list[Tensor]:
        # The order of a set of tensors is their place in memory, which no two processes share
        if not isinstance(params, (set, frozenset)):
            return list(params)
        known = (parameter for _, parameter in pyro.get_param_store().named_parameters())
        rank = {parameter: place for place, parameter in enumerate((*known, *self._names))}
        return sorted(params, key=lambda parameter: rank.get(parameter, len(rank)))

    def _dissolved(self, wanted: Collection[Tensor]) -> list["_Member"]:
        """Takes apart groups that are broken, wanted in part only, or whose state is to be replaced."""
        members = []
        for group in [group for group in self._groups if not self._stays(group, wanted)]:
            self._groups.remove(group)
            for position, parameter in enumerate(group.parameters):
                state = self._awaited(parameter) or group.carried_state(position)
                members.append(self._member(parameter, state, origin=(id(group), parameter in wanted)))
        return members

    def _stays(self, group: ParameterGroup, wanted: Collection[Tensor]) -> bool:
        inside = sum(parameter in wanted for parameter in group.parameters)
        awaited = any(self._name(parameter) in self._waiting for parameter in group.parameters)
        return group.intact and inside in (0, len(group.parameters)) and not awaited

    def _new(self, wanted: Iterable[Tensor]) -> list["_Member"]:
        fresh = [parameter for parameter in wanted if parameter not in self.optim_objs]
        members = [self._member(parameter, self._awaited(parameter), origin=None) for parameter in fresh]
        # As saved, to the bit: a kernel rounds an element by where in the buffer it lies
        return sorted(members, key=_Member.saved_place)

    def _member(self, parameter: Tensor, state: ParameterState | None, *, origin: Hashable) -> "_Member":
        return _Member(parameter, state, self._options_of(parameter), origin)

    def _regroup(self, members: Sequence["_Member"]) -> None:
        everything = [*(m.parameter for m in members), *(p for g in self._groups for p in g.parameters)]
        overlapping = overlapping_tensors(everything)
        together: dict[tuple[Hashable, bool, int | None], list[_Member]] = {}
        for member in members:
            alone = id(member.parameter) if member.parameter in overlapping else None
            loose = alone is not None or not self._can_flatten(member.parameter)
            together.setdefault((member.key, loose, alone), []).append(member)
        for (_, loose, _), group in together.items():
            self._add_group(group, LooseGroup if loose else FlatGroup)

    def _add_group(self, members: Sequence["_Member"], kind: type[ParameterGroup]) -> None:
        # What comes after a tensor of odd size lies askew, which slows matrix products: such tensors last
        members = sorted(members, key=lambda member: member.parameter.numel() % _ALIGNED != 0)
        first = members[0]
        options = fastest_options(self._constructor, first.options, first.parameter)
        group = kind(
            [member.parameter for member in members],
            make_optimizer=partial(self._constructor, **options),
            make_scheduler=self.scheduler,
            states=[member.state for member in members if member.state is not None],
        )
        self._groups.append(group)
        for parameter in group.parameters:
            self.optim_objs[parameter] = group.scheduler or group.optimizer

    def _can_flatten(self, parameter: Tensor) -> bool:
        return self._constructor in ELEMENTWISE and can_flatten(parameter)

    def _awaited(self, parameter: Tensor) -> ParameterState | None:
        name = self._name(parameter)
        if name not in self._waiting:
            return None
        state = ParameterState.from_pyro(self._waiting[name])
        if self._constructor in ELEMENTWISE and not state.fits(parameter):
            raise ValueError(
                f"Expected a state of the parameter {name!r} of shape {tuple(parameter.shape)} but got "
                f"{ {each: tuple(value.shape) for each, value in state.elementwise.items()} }."
            )
        del self._waiting[name]
        return state

    @property
    def _waiting(self) -> dict[str, Any]:
        return self._state_waiting_to_be_consumed

    def _name(self, parameter: Tensor) -> str | None:
        # Remembered, for the store may have been cleared in the meantime
        name = pyro.get_param_store().param_name(parameter)
        if name is None:
            return self._names.get(parameter)
        self._names[parameter] = name
        return name

    def _required_name(self, parameter: Tensor) -> str:
        name = self._name(parameter)
        if name is None:
            raise ValueError(
                "Expected every parameter to have a name in the parameter store but got one of shape "
                f"{tuple(parameter.shape)} without: call name_parameters first."
            )
        return name

    def _options_of(self, parameter: Tensor) -> Mapping[str, Any]:
        given = self.pt_optim_args
        if not callable(given):
            return given
        if parameter not in self._given:
            self._given[parameter] = self._ask(given, parameter)
        return self._given[parameter]

    def _ask(self, give: Callable[..., Mapping[str, Any]], parameter: Tensor) -> Mapping[str, Any]:
        name = self._name(parameter)
        if name is None:
            raise ValueError(
                "Expected a parameter with a name, of which optim_args is a function, but got one of shape "
                f"{tuple(parameter.shape)} without: call name_parameters first."
            )
        if self.pt_optim_args_argc == 1:
            options = give(normalize_param_name(name))
        else:
            options = give(module_from_param_with_module_name(name), user_param_name(name))
        check_options(self._constructor, options)
        return options


@final
@dataclass(frozen=True, eq=False)
class _Member:
    """A parameter on its way into a group."""

    parameter: Tensor
    state: ParameterState | None
    options: Mapping[str, Any]
    origin: Hashable

    @property
    def key(self) -> Hashable:
        """Equal for parameters that may come into one group."""
        tensor, state = self.parameter, self.state
        saved = None if state is None else (state.key, state.place and state.place[0])
        return self.origin, tensor.dtype, tensor.device, frozen(self.options), saved

    def saved_place(self) -> tuple[float, float]:
        place = self.state.place if self.state else None
        return (math.inf, math.inf) if place is None else (place[0], place[1])


def _clip(gradients: list[Tensor], clip_norm: float) -> None:
    factor = (clip_norm / (get_total_norm(gradients) + 1e-6)).clamp_(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor.to(gradient.device))


def _check_clip_norm(clip_norm: object) -> None:
    if clip_norm is not None and not (isinstance(clip_norm, (int, float)) and clip_norm > 0):
        raise ValueError(f"Expected clip_norm > 0 or None but got {clip_norm!r}.")


def _check_scheduler(scheduler: object) -> None:
    if scheduler is not None and not callable(scheduler):
        raise ValueError(
            "Expected scheduler to be a function from a torch optimiser to a scheduler but got "
            f"{scheduler!r}: pass, for instance, lambda optimizer: ExponentialLR(optimizer, gamma=0.99)."
        )
