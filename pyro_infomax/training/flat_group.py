"""Parameters that one torch optimiser steps together: as views into one buffer, or as they are."""

import abc
import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any, cast, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pyro_infomax.training.fused_kernel import FusedKernel, has_fused_kernel
from pyro_infomax.training.optimizer_state import ParameterState, own_options

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
