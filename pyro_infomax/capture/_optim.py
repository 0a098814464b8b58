"""Pyro's optimiser with one kernel a step, instead of one torch optimiser a parameter.

In this order: the options of torch's optimisers, what is kept for one parameter, the kernel of a fused Adam,
groups of parameters that one torch optimiser steps, and :class:`FusedOptim`, which lays them out.
"""

import copy
import inspect
import math
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import accumulate
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar, cast, final

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

from pyro_infomax._types import State

T = TypeVar("T")
Scheduler: TypeAlias = Any  # ReduceLROnPlateau is no LRScheduler before torch 2.2

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
        got = repr(constructor)
        if getattr(constructor, "__module__", "").startswith("pyro.optim"):
            name = getattr(constructor, "__name__", "Adam")
            got = f"pyro.optim.{name}, which wraps one: pass torch.optim.{name}"
        raise ValueError(f"Expected a class of torch optimisers such as torch.optim.Adam but got {got}.")
    if issubclass(constructor, optim.LBFGS):
        raise ValueError(
            "Expected an optimiser that steps by gradients alone but got LBFGS, which evaluates the loss "
            "anew within its step: take torch.optim.Adam, for instance."
        )


def check_options(constructor: type[Optimizer], options: object) -> None:
    """Checks that a class of optimisers knows the options and has all it needs."""
    if not isinstance(options, dict):
        raise ValueError(f"Expected the options of {constructor.__name__} as a dict but got {options!r}.")
    _, *parameters = inspect.signature(constructor).parameters.values()
    known = {each.name: each for each in parameters if each.kind != each.VAR_KEYWORD}
    takes_any = len(known) < len(parameters)
    if not takes_any and (unknown := [name for name in options if name not in known]):
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


def fastest_options(constructor: type[Optimizer], options: Mapping[str, object], like: Tensor) -> State:
    """Adds ``fused=True`` where the class has it and it works on the device and dtype of a tensor.

    The user's own choice of ``fused`` or ``foreach`` is kept. Without a fused kernel the choice is left to
    torch, which takes foreach on an accelerator and a loop on a CPU, where foreach is slower.
    """
    chosen = any(options.get(name) is not None for name in ("fused", "foreach"))
    sparse = like.grad is not None and like.grad.layout != torch.strided
    if chosen or sparse or "fused" not in inspect.signature(constructor).parameters:
        return dict(options)
    # Which kernels there are differs by version, device and dtype, and shows at the first step at the latest
    probe = torch.zeros(1, dtype=like.dtype, device=like.device)
    probe.grad = torch.zeros_like(probe)
    try:
        cast(Callable[..., Optimizer], constructor)([probe], **{**options, "fused": True}).step()
    except (RuntimeError, ValueError, NotImplementedError):
        return dict(options)
    return {**options, "fused": True}


# ---- What is kept for one parameter, apart from the parameters that it is stepped with.

# Kept once a step and not once an element by torch's elementwise optimisers
_SHARED: Final = frozenset({"step", "mu_product", "eta", "mu"})
# How a step is computed, which belongs to the machine and not to the training
_IMPLEMENTATION: Final = frozenset(
    {"params", "fused", "foreach", "capturable", "differentiable", "fused_group"}
)


@final
@dataclass(frozen=True)
class ParameterState:
    """The state of one parameter, to and from the form of :meth:`pyro.optim.PyroOptim.get_state`."""

    state: State  # moments and step count by torch's names
    options: State  # hyperparameters by torch's names, the present learning rate among them
    scheduler: State | None = None
    place: tuple[int, int] | None = None  # number of the group and position therein

    @property
    def elementwise(self) -> dict[str, Tensor]:
        """What is kept for each element, in the shape of the parameter."""
        return {
            name: value
            for name, value in self.state.items()
            if name not in _SHARED and isinstance(value, Tensor)
        }

    @property
    def shared(self) -> State:
        """What is kept once for all elements."""
        elementwise = self.elementwise
        return {name: value for name, value in self.state.items() if name not in elementwise}

    @property
    def key(self) -> Hashable:
        """Equal for two parameters that one torch optimiser can step together from now on."""
        moments = frozenset(self.elementwise)
        return moments, frozen(self.shared), frozen(self.options), frozen(self.scheduler)

    def to_pyro(self, *, place: tuple[int, int] | None = None) -> State:
        """A copy in the form of Pyro's optimisers, of tensors and plain values only."""
        group = _copied(self.options) | {"fused_group": place, "params": [0]}
        optimizer = {"state": {0: _copied(self.state)} if self.state else {}, "param_groups": [group]}
        if self.scheduler is None:
            return optimizer
        return {"scheduler": _copied(self.scheduler), "optimizer": optimizer}

    @classmethod
    def from_pyro(cls, saved: State) -> "ParameterState":
        """Reads the state of one parameter as Pyro's optimisers write it."""
        optimizer = saved.get("optimizer", saved)
        (group,) = optimizer["param_groups"]
        state = dict(optimizer["state"].get(0, {}))
        return cls(state, own_options(group), saved.get("scheduler"), group.get("fused_group"))


def own_options(group: State) -> State:
    """The hyperparameters of a torch parameter group, without how they are computed."""
    return {name: value for name, value in group.items() if name not in _IMPLEMENTATION}


def frozen(value: object) -> Hashable:
    """Something that is equal for equal trees of tensors and plain values, and can be looked up."""
    if isinstance(value, Tensor):
        return tuple(value.shape), tuple(value.detach().flatten().tolist())
    if isinstance(value, Mapping):
        return tuple(sorted((str(name), frozen(each)) for name, each in value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(map(frozen, value))
    return repr(value)


def _copied(value: T) -> T:
    copied: object
    # A slice of a buffer would save the whole buffer: clone it
    if isinstance(value, Tensor):
        copied = value.detach().clone()
    elif isinstance(value, Mapping) and not isinstance(value, Counter):
        copied = {name: _copied(each) for name, each in value.items()}
    elif isinstance(value, (list, tuple)):
        copied = type(value)(map(_copied, value))
    else:
        copied = value.item() if isinstance(value, np.generic) else copy.copy(value)
    return cast(T, copied)


def _load_state(optimizer: Optimizer, state: Mapping[int, State]) -> None:
    copies = {index: _copied(each) for index, each in state.items()}
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": copies, "param_groups": groups})
    # torch casts whatever is kept once for all elements to the dtype of the parameter
    parameters = optimizer.param_groups[0]["params"]
    for index, saved in copies.items():
        loaded = optimizer.state[parameters[index]]
        for name, value in ParameterState(saved, {}).shared.items():
            loaded[name] = value.to(loaded[name].device) if isinstance(value, Tensor) else loaded[name]


# ---- The kernel of a fused Adam, called without what torch does around it.


def kernel_is_ready(optimizer: Optimizer, flat: Tensor) -> bool:
    """Whether there are moments to go on from, and no hooks that wait for the optimiser's own step."""
    return bool(optimizer.state.get(flat)) and not has_hooks(optimizer)


def has_hooks(optimizer: Optimizer) -> bool:
    """Whether something waits for the optimiser's own step."""
    return bool(optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks)


def kernel_step(
    optimizer: Optimizer,
    flat: Tensor,
    gradients: list[Tensor],
    split: Callable[[Tensor], list[Tensor]] = lambda tensor: [tensor],
) -> None:
    """One step of an Adam or AdamW over one tensor, by the gradients of its parts, without ``Adam.step``.

    ``torch.optim.Adam.step`` spends more time on hooks, on collecting its arguments and on sorting tensors by
    device than a small model does in the kernel. Options, moments and step count stay the optimiser's own and
    are read at each step, so that schedulers and ``load_state_dict`` work as ever.
    """
    group, state = optimizer.param_groups[0], optimizer.state[flat]
    state["step"].add_(1)
    kernel = torch._fused_adamw_ if type(optimizer) is optim.AdamW else torch._fused_adam_
    kernel(
        split(flat),
        gradients,
        split(state["exp_avg"]),
        split(state["exp_avg_sq"]),
        split(state["max_exp_avg_sq"]) if group["amsgrad"] else [],
        [state["step"]] * len(gradients),
        lr=group["lr"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=group["amsgrad"],
        maximize=group["maximize"],
    )


def plain_step(optimizer: Optimizer, flat: Tensor, gradient: Tensor) -> None:
    """One step by the optimiser itself, whichever it is."""
    flat.grad = gradient
    optimizer.step()
    flat.grad = None


def has_fused_kernel(optimizer: Optimizer, flat: Tensor) -> bool:
    """Whether the steps of an optimiser over one tensor can be taken by its kernel alone.

    They cannot for other classes than Adam and AdamW, for unusual options, and where the kernel of the
    present version of torch gives another result in a trial than the optimiser's own step.
    """
    kind = type(optimizer)
    if kind not in (optim.Adam, optim.AdamW):
        return False
    (group,) = optimizer.param_groups
    usual = group.get("fused") and has_usual_options(optimizer)
    return bool(usual) and _kernel_agrees(kind, flat.dtype, flat.device)


def has_usual_options(optimizer: Optimizer) -> bool:
    """Whether a step is that of the class by numbers, without a graph of autograd or a device's clock."""
    (group,) = optimizer.param_groups
    decoupled = type(optimizer) is optim.AdamW
    return not (
        group.get("capturable")
        or group.get("differentiable")
        or group.get("decoupled_weight_decay", decoupled) != decoupled
        or any(isinstance(each, Tensor) for each in (group["lr"], *group.get("betas", ())))
    )


@lru_cache
def _kernel_agrees(kind: Callable[..., Optimizer], dtype: torch.dtype, device: torch.device) -> bool:
    """Whether two steps, of which the kernel takes the second, give what the optimiser gives."""

    def stepped(*, by_kernel: bool, parts: int = 6) -> Tensor:
        flat = torch.linspace(-1, 1, 6, dtype=dtype, device=device)
        optimizer = kind([flat], lr=0.1, weight_decay=0.2, fused=True)
        plain_step(optimizer, flat, flat.square() - 0.3)
        gradient = flat.square() - 0.3
        if by_kernel:
            kernel_step(optimizer, flat, list(gradient.split(parts)), lambda each: list(each.split(parts)))
        else:
            plain_step(optimizer, flat, gradient)
        return flat

    try:
        expected = stepped(by_kernel=False)
        return all(torch.equal(stepped(by_kernel=True, parts=parts), expected) for parts in (6, 4))
    except (AttributeError, KeyError, RuntimeError, TypeError):
        return False


# ---- Parameters that one torch optimiser steps together.

_LARGE: Final = 2**16  # elements: copying them takes longer than a step by their parts
_MOST_KEPT: Final = 4  # the buffer and up to three moments


@final
class ParameterGroup:
    """Parameters that one torch optimiser steps, with one learning-rate scheduler.

    Those of an elementwise optimiser become views into one buffer, so that a step is one kernel. Others stay
    as they are: for optimisers that see more than single elements, sparse gradients, complex parameters, and
    parameters that share memory with one another or with other processes.

    Attributes:
        parameters: the leaf tensors, in buffer order.
        slices: where each parameter's elements lie in a flat gradient.
        flat: the buffer that the parameters are views into; None where they are kept as they are.
        optimizer: the torch optimiser.
        scheduler: its scheduler or None.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        *,
        flatten: bool,
        make_optimizer: Callable[[list[Tensor]], Optimizer],
        make_scheduler: Callable[[Optimizer], Scheduler] | None = None,
        states: Sequence[ParameterState] = (),
    ) -> None:
        self.parameters = tuple(parameters)
        self._shapes = tuple(parameter.shape for parameter in parameters)
        ends = tuple(accumulate(parameter.numel() for parameter in parameters))
        self.slices = tuple(map(slice, (0, *ends), ends))
        self.flat = self._moved_into_a_buffer() if flatten else None
        self.optimizer = make_optimizer(list(parameters) if self.flat is None else [self.flat])
        self.scheduler: Scheduler = make_scheduler(self.optimizer) if make_scheduler else None
        if states:
            self._continue(states)
        # The scheduler would otherwise warn that nothing was stepped, when it is advanced after a split
        self.optimizer._opt_called = True  # type: ignore[attr-defined]
        self._pointers = list(map(Tensor.data_ptr, self.parameters))
        self._taken: Tensor | list[Tensor] = []
        self._gathered: tuple[Tensor, list[Tensor]] | None = None
        self._kept_parts: dict[int, tuple[Tensor, list[Tensor]]] = {}
        self._has_kernel = self.flat is not None and has_fused_kernel(self.optimizer, self.flat)

    @property
    def intact(self) -> bool:
        """Whether the parameters' values still lie where this group has put or found them."""
        return self._pointers == list(map(Tensor.data_ptr, self.parameters))

    @property
    def is_ready(self) -> bool:
        """Whether the next steps change no more than :attr:`moved` and what :meth:`remember` keeps."""
        group, kind = self.optimizer.param_groups[0], type(self.optimizer)
        without_state = kind is optim.SGD and not group["momentum"] and not has_hooks(self.optimizer)
        return self.flat is not None and (kernel_is_ready(self.optimizer, self.flat) or without_state)

    @property
    def moved(self) -> list[Tensor]:
        """What a step writes to: the buffer, and what the optimiser keeps."""
        stepped = self.parameters if self.flat is None else (self.flat,)
        kept = [value for each in stepped for value in self.optimizer.state.get(each, {}).values()]
        return [*stepped, *(value for value in kept if isinstance(value, Tensor))]

    def remember(self) -> Callable[[], None]:
        """A function that puts back options, and what is kept in plain values, as they are now."""
        options = {key: value for key, value in self.optimizer.param_groups[0].items() if key != "params"}
        plain = [
            (state, {key: value for key, value in state.items() if not isinstance(value, Tensor)})
            for state in self.optimizer.state.values()
        ]

        def put_back() -> None:
            self.optimizer.param_groups[0].update(options)
            for state, values in plain:
                state.update(values)

        return put_back

    def gather(self) -> list[Tensor]:
        """Takes the gradients from the parameters; what it returns may be scaled before the step."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        if self.flat is None:
            return gradients
        for parameter in self.parameters:
            parameter.grad = None
        # Copying the gradients of a large model costs half as much as the step itself, or more
        large = self.flat.numel() > _LARGE and all(map(Tensor.is_contiguous, gradients))
        if large and self._has_kernel and kernel_is_ready(self.optimizer, self.flat):
            self._taken = gradients
            return gradients
        if self._gathered is None:
            flat = torch.empty_like(self.flat)
            self._gathered = flat, self._split(flat)
        self._taken, parts = self._gathered
        torch._foreach_copy_(parts, gradients)
        return [self._taken]

    def accept(self, gradient: Tensor) -> None:
        """Takes one flat gradient, concatenated in the order of the parameters."""
        if self.flat is not None:
            self._taken = gradient
            return
        for parameter, part in zip(self.parameters, self._split(gradient), strict=True):
            parameter.grad = part

    def step(self) -> None:
        """Moves the parameters by the gradients taken, and lets go of these."""
        taken, self._taken = self._taken, []
        if self.flat is None:
            self.optimizer.step()
            for parameter in self.parameters:
                parameter.grad = None
        elif isinstance(taken, list):
            kernel_step(self.optimizer, self.flat, taken, self._parts_of)
        elif self._has_kernel and kernel_is_ready(self.optimizer, self.flat):
            kernel_step(self.optimizer, self.flat, [taken])
        else:
            plain_step(self.optimizer, self.flat, taken)

    def state(self, index: int) -> ParameterState:
        """What is kept for the parameter of this index: views, not copies."""
        stepped = self.parameters[index] if self.flat is None else self.flat
        kept = dict(self.optimizer.state.get(stepped, {}))
        if self.flat is not None:
            moments = ParameterState(kept, {}).elementwise
            shape, part = self._shapes[index], self.slices[index]
            kept |= {name: value[part].view(shape) for name, value in moments.items()}
        scheduler = None if self.scheduler is None else self.scheduler.state_dict()
        return ParameterState(kept, own_options(self.optimizer.param_groups[0]), scheduler)

    def carried_state(self, index: int) -> ParameterState | None:
        """The state for the parameter of this index, if the parameter still has its shape."""
        return self.state(index) if self.parameters[index].shape == self._shapes[index] else None

    def _moved_into_a_buffer(self) -> Tensor:
        flat = torch.cat([parameter.detach().reshape(-1) for parameter in self.parameters])
        for parameter, part in zip(self.parameters, self.slices, strict=True):
            parameter.data = _own_view(flat, part, parameter.shape)
        return flat

    def _continue(self, states: Sequence[ParameterState]) -> None:
        kept = {index: each.state for index, each in enumerate(states) if each.state}
        if kept and self.flat is not None:
            moments = {
                name: torch.cat([each.elementwise[name].to(self.flat).reshape(-1) for each in states])
                for name in states[0].elementwise
            }
            kept = {0: moments | states[0].shared}
        if kept:
            _load_state(self.optimizer, kept)
        self.optimizer.param_groups[0].update(states[0].options)
        if self.scheduler is not None and states[0].scheduler is not None:
            self.scheduler.load_state_dict(copy.deepcopy(states[0].scheduler))

    def _parts_of(self, flat: Tensor) -> list[Tensor]:
        """The parts of a tensor that every step splits, the buffer or a moment, made once."""
        kept = self._kept_parts.get(id(flat))
        if kept is None or kept[0] is not flat:
            if len(self._kept_parts) >= _MOST_KEPT:
                self._kept_parts.clear()
            kept = self._kept_parts[id(flat)] = flat, self._split(flat)
        return kept[1]

    def _split(self, flat: Tensor) -> list[Tensor]:
        return [flat[part].view(shape) for part, shape in zip(self.slices, self._shapes, strict=True)]


def can_flatten(parameter: Tensor) -> bool:
    """Whether a parameter may become a view into a buffer with others."""
    plain = type(parameter) in (Tensor, nn.Parameter) and parameter.layout == torch.strided
    dense = parameter.grad is None or parameter.grad.layout == torch.strided
    if not (plain and dense and parameter.is_floating_point()):
        return False
    # On an accelerator every tensor counts as shared
    return parameter.device.type != "cpu" or not parameter.is_shared()


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


# ---- Pyro's optimiser over such groups.

_CACHED_SETS: Final = 256
_ALIGNED: Final = 16  # elements


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
        optim_args: State | Callable[..., State],
        *,
        clip_norm: float | None = None,
        scheduler: Callable[[Optimizer], Scheduler] | None = None,
    ) -> None:
        check_constructor(optim_constructor)
        if not callable(optim_args):
            check_options(optim_constructor, optim_args)
        if clip_norm is not None and not (isinstance(clip_norm, (int, float)) and clip_norm > 0):
            raise ValueError(f"Expected clip_norm > 0 or None but got {clip_norm!r}.")
        if scheduler is not None and not callable(scheduler):
            raise ValueError(
                "Expected scheduler to be a function from a torch optimiser to a scheduler but got "
                f"{scheduler!r}: pass, for instance, lambda optimizer: ExponentialLR(optimizer, gamma=0.99)."
            )
        super().__init__(optim_constructor=optim_constructor, optim_args=optim_args)
        self._constructor = optim_constructor
        self.clip_norm = clip_norm
        self.scheduler = scheduler
        self._names: dict[Tensor, str] = {}
        self._given: dict[Tensor, State] = {}
        self._groups: list[ParameterGroup] = []
        self._cached: dict[frozenset[Tensor], tuple[ParameterGroup, ...]] = {}
        self._last: tuple[object, tuple[ParameterGroup, ...]] = ((), ())

    # The steps.

    def __call__(self, params: Iterable[Tensor], *args: object, **kwargs: object) -> None:
        """Steps parameters by their ``.grad``, and leaves None there.

        Args:
            params: unconstrained leaf tensors. One without a gradient is not moved.
            *args: none, as there is no closure.
            **kwargs: none.
        """
        if args or kwargs:
            raise ValueError(f"Expected parameters alone but got {args or kwargs} too: there is no closure.")
        # Pyro has an optimiser, and a schedule, begin with the first statement of a parameter
        groups = self.groups(params)
        parameters = [parameter for group in groups for parameter in group.parameters]
        present = [parameter for parameter in parameters if parameter.grad is not None]
        if len(present) < len(parameters):
            groups = self.groups(present)
        self._step(groups, [gradient for group in groups for gradient in group.gather()])

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

    def _step(self, groups: Sequence[ParameterGroup], gradients: Sequence[Tensor]) -> None:
        if self.clip_norm is not None and gradients:
            factor = (self.clip_norm / (get_total_norm(list(gradients)) + 1e-6)).clamp_(max=1.0)
            for gradient in gradients:
                gradient.mul_(factor.to(gradient.device))
        for group in groups:
            group.step()

    def step(self, *args: object, **kwargs: object) -> None:
        """Advances the learning-rate schedulers, as :class:`pyro.optim.lr_scheduler.PyroLRScheduler` does.

        Args:
            *args: for the schedulers, such as the loss that ReduceLROnPlateau watches.
            **kwargs: for the schedulers.

        Raises:
            ValueError: without schedulers.
        """
        if self.scheduler is None:
            raise ValueError("Expected an optimiser with a scheduler but got none: pass scheduler= to it.")
        for group in self._groups:
            group.scheduler.step(*args, **kwargs)

    # What is kept, to save it and to go on from it.

    def get_state(self) -> State:
        """Copies of what is kept for each parameter, by its name.

        The form is that of :meth:`pyro.optim.PyroOptim.get_state`, of tensors and plain values only, so
        that ``torch.load(..., weights_only=True)`` reads it. It also tells how the buffers are laid out:
        a kernel rounds an element by where it lies, and a training that goes on from the state does so to
        the bit.

        Raises:
            ValueError: for a parameter without a name.
        """
        found: State = {}
        for number, group in enumerate(self._groups):
            for position, parameter in enumerate(group.parameters):
                name = self._required_name(parameter, "every parameter to have a name in the parameter store")
                if name not in found or pyro.get_param_store().param_name(parameter) == name:
                    found[name] = group.state(position).to_pyro(place=(number, position))
        return found | copy.deepcopy(self._waiting)

    def set_state(self, state_dict: Mapping[str, object]) -> None:
        """Takes up a state at the next step, also one of a PyroOptim with the same torch optimiser.

        Args:
            state_dict: what :meth:`get_state` gave. What belongs to parameters that do not exist yet waits
                for them; parameters that it does not name keep their own.
        """
        super().set_state(dict(state_dict))
        self._forget_sets()

    state_dict = get_state
    load_state_dict = set_state

    def load(self, filename: str, map_location: Any = None) -> None:
        """Takes up the state from a file that ``save`` has written, read with ``weights_only=True``."""
        self.set_state(torch.load(filename, map_location=map_location, weights_only=True))

    def forget(self) -> None:
        """Drops all moments, step counts and schedules; the parameters stay as they are."""
        self._groups.clear()
        self._given.clear()
        self.optim_objs.clear()
        self._forget_sets()

    @property
    def has_begun(self) -> bool:
        """Whether it has taken a step, or has the state of one that did."""
        return bool(self.optim_objs or self._waiting)

    def name_parameters(self, parameters: Mapping[str, Tensor]) -> None:
        """Names parameters that the parameter store does not know, such as those local to a module.

        Args:
            parameters: unconstrained leaf tensors by name.
        """
        self._names.update({parameter: name for name, parameter in parameters.items()})

    def maker_for(self, parameter: Tensor) -> Callable[[list[Tensor]], Optimizer]:
        """What makes torch optimisers with the options of a parameter."""
        options = fastest_options(self._constructor, self._options_of(parameter), parameter)
        return partial(self._constructor, **options)

    # How parameters are laid out in groups.

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
            found = self._lay_out(params)
        if isinstance(params, (tuple, frozenset)):
            self._last = params, found
        return found

    def _lay_out(self, params: Iterable[Tensor]) -> tuple[ParameterGroup, ...]:
        if not self.optim_objs:  # they were cleared, which is how users of Pyro begin anew
            self.forget()
        wanted = dict.fromkeys(self._ordered(params))
        # Take apart what is broken, wanted in part only, or to get another state
        members = []
        for group in [group for group in self._groups if not self._stays(group, wanted)]:
            self._groups.remove(group)
            for position, parameter in enumerate(group.parameters):
                state = self._awaited(parameter) or group.carried_state(position)
                members.append(_Member(parameter, state, (id(group), parameter in wanted)))
        # Add new ones, in the order of a saved state: a kernel rounds an element by where in the buffer it
        # lies, and a training goes on to the bit
        fresh = [_Member(each, self._awaited(each)) for each in wanted if each not in self.optim_objs]
        members += sorted(fresh, key=_Member.place)
        # What one torch optimiser can step from now on becomes a group
        if members:
            self._forget_sets()
            others = [parameter for group in self._groups for parameter in group.parameters]
            overlapping = overlapping_tensors([*(member.parameter for member in members), *others])
            together: dict[tuple[int | None, bool, Hashable], list[_Member]] = {}
            for member in members:
                apart = member.parameter in overlapping
                flatten = not apart and self._constructor in ELEMENTWISE and can_flatten(member.parameter)
                key = id(member.parameter) if apart else None, flatten, self._key(member)
                together.setdefault(key, []).append(member)
            for (_, flatten, _), group_members in together.items():
                self._add_group(group_members, flatten=flatten)
        found = tuple(group for group in self._groups if group.parameters[0] in wanted)
        if len(self._cached) >= _CACHED_SETS:
            self._cached.clear()
        self._cached[frozenset(wanted)] = found
        return found

    def _forget_sets(self) -> None:
        self._cached.clear()
        self._last = (), ()

    def _ordered(self, params: Iterable[Tensor]) -> list[Tensor]:
        # The order of a set of tensors is their place in memory, which no two processes share
        if not isinstance(params, (set, frozenset)):
            return list(params)
        known = (parameter for _, parameter in pyro.get_param_store().named_parameters())
        rank = {parameter: place for place, parameter in enumerate((*known, *self._names))}
        return sorted(params, key=lambda parameter: rank.get(parameter, len(rank)))

    def _stays(self, group: ParameterGroup, wanted: Collection[Tensor]) -> bool:
        inside = sum(parameter in wanted for parameter in group.parameters)
        awaited = any(self._name(parameter) in self._waiting for parameter in group.parameters)
        return group.intact and inside in (0, len(group.parameters)) and not awaited

    def _key(self, member: "_Member") -> Hashable:
        """Equal for parameters that may come into one group."""
        tensor, state = member.parameter, member.state
        saved = None if state is None else (state.key, member.place()[0])
        return member.origin, tensor.dtype, tensor.device, frozen(self._options_of(tensor)), saved

    def _add_group(self, members: Sequence["_Member"], *, flatten: bool) -> None:
        # What comes after a tensor of odd size lies askew, which slows matrix products: such tensors last
        members = sorted(members, key=lambda member: member.parameter.numel() % _ALIGNED != 0)
        group = ParameterGroup(
            [member.parameter for member in members],
            flatten=flatten,
            make_optimizer=self.maker_for(members[0].parameter),
            make_scheduler=self.scheduler,
            states=[member.state for member in members if member.state is not None],
        )
        self._groups.append(group)
        for parameter in group.parameters:
            self.optim_objs[parameter] = group.scheduler or group.optimizer

    # What the parameters are called, and what is known by their names.

    @property
    def _waiting(self) -> State:
        return self._state_waiting_to_be_consumed

    def _awaited(self, parameter: Tensor) -> ParameterState | None:
        name = self._name(parameter)
        if name not in self._waiting:
            return None
        state = ParameterState.from_pyro(self._waiting[name])
        shapes = {each: tuple(value.shape) for each, value in state.elementwise.items()}
        if self._constructor in ELEMENTWISE and set(shapes.values()) - {tuple(parameter.shape)}:
            raise ValueError(
                f"Expected a state of the parameter {name!r} of shape {tuple(parameter.shape)} but got "
                f"{shapes}."
            )
        del self._waiting[name]
        return state

    def _name(self, parameter: Tensor) -> str | None:
        # Remembered, for the store may have been cleared in the meantime
        name = pyro.get_param_store().param_name(parameter)
        if name is None:
            return self._names.get(parameter)
        self._names[parameter] = name
        return name

    def _required_name(self, parameter: Tensor, expected: str) -> str:
        name = self._name(parameter)
        if name is None:
            raise ValueError(
                f"Expected {expected} but got one of shape {tuple(parameter.shape)} without: "
                "call name_parameters first."
            )
        return name

    def _options_of(self, parameter: Tensor) -> State:
        given = self.pt_optim_args
        if not callable(given):
            return given
        if parameter not in self._given:
            name = self._required_name(
                parameter, "a parameter with a name, of which optim_args is a function,"
            )
            names = [normalize_param_name(name)]
            if self.pt_optim_args_argc != 1:
                names = [module_from_param_with_module_name(name), user_param_name(name)]
            options = given(*names)
            check_options(self._constructor, options)
            self._given[parameter] = options
        return self._given[parameter]


@final
class _Member(NamedTuple):
    """A parameter on its way into a group; what comes from different groups stays apart."""

    parameter: Tensor
    state: ParameterState | None
    origin: Hashable = None

    def place(self) -> tuple[float, float]:
        """Where it was saved; what was not comes last."""
        return (self.state and self.state.place) or (math.inf, math.inf)
