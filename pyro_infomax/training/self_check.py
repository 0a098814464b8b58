"""Whether a captured step and an eager one are the same step."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, final

import torch
from torch import Tensor

from pyro_infomax.random_state import isolated_random_state
from pyro_infomax.training.program_state import ProgramState

__all__ = ["Outcome", "undone"]

_ROUNDING: Final = 100  # units in the last place


@final
class Outcome:
    """What a step has computed and left behind, to be compared with another.

    Args:
        numbers: the loss and the terms.
        gradients: by parameter.
        buffers: what the modules hold afterwards.
    """

    def __init__(
        self, numbers: Mapping[str, float], gradients: Mapping[Tensor, Tensor], buffers: Mapping[str, Tensor]
    ) -> None:
        self.numbers = dict(numbers)
        self.gradients = {parameter: each.detach().clone() for parameter, each in gradients.items()}
        self.buffers = {name: each.clone() for name, each in buffers.items()}
        self.random_state = torch.get_rng_state()

    def difference(self, other: "Outcome", names: Mapping[Tensor, str]) -> str | None:
        """What differs by more than rounding, in words; None if nothing does."""
        if self.gradients.keys() != other.gradients.keys():
            return "other parameters have a gradient"
        scale = _precision(self.gradients.values())
        largest = max(map(abs, self.numbers.values()))
        for name in self.numbers.keys() & other.numbers.keys():
            value = self.numbers[name]
            if not _near(value, other.numbers[name], scale, largest):
                return f"the {name} is {other.numbers[name]:.8g} in place of {value:.8g}"
        largest_gradient = max(map(_largest, self.gradients.values()), default=0.0)
        for parameter, gradient in self.gradients.items():
            if not _close(gradient, other.gradients[parameter], beside=largest_gradient):
                return f"the gradient of {names.get(parameter, 'a parameter')} differs"
        for name, buffer in self.buffers.items():
            if name not in other.buffers or not _close(buffer, other.buffers[name]):
                return f"the buffer {name} differs"
        if not torch.equal(self.random_state, other.random_state):
            return "it draws other random numbers"
        return None


@contextmanager
def undone(state: ProgramState, others: Iterable[Tensor] = ()) -> Iterator[None]:
    """Runs its block on copies of the random states, and puts buffers and other tensors back afterwards."""
    kept = {place: (buffer, buffer.clone()) for place, buffer in state.buffers_by_place().items()}
    values = [(each, each.clone()) for each in others]
    try:
        with isolated_random_state():
            yield
    finally:
        with torch.no_grad():
            for each, copy in values:
                each.copy_(copy)
            for (module, name), (buffer, copy) in kept.items():
                module._buffers[name] = buffer.copy_(copy)


def _precision(tensors: object) -> float:
    dtypes = {each.dtype for each in tensors if each.is_floating_point()}  # type: ignore[attr-defined]
    return math.sqrt(max((torch.finfo(dtype).eps for dtype in dtypes), default=1e-7))


def _near(value: float, other: float, precision: float, scale: float) -> bool:
    if math.isfinite(value) and math.isfinite(other):
        return abs(value - other) <= precision * scale
    return value == other or (math.isnan(value) and math.isnan(other))


def _close(value: Tensor, other: Tensor, *, beside: float = 0.0) -> bool:
    """Whether two tensors are equal but for rounding, that of values as large as ``beside`` included."""
    if value.shape != other.shape or value.dtype != other.dtype:
        return False
    if not (value.is_floating_point() or value.is_complex()):
        return torch.equal(value, other)
    eps = torch.finfo(value.dtype).eps
    # A gradient that is 0 by its formula, such as that of a bias before batch norm, is rounding alone
    tolerance = max(math.sqrt(eps) * _largest(value), _ROUNDING * eps * beside)
    return torch.allclose(value, other, rtol=0.0, atol=tolerance, equal_nan=True)


def _largest(value: Tensor) -> float:
    finite = value[value.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0
