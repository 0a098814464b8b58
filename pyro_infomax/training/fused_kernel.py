"""The kernel of a fused Adam, called without what torch does around it."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, final

import torch
from torch import Tensor, optim
from torch.optim import Optimizer


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
