"""What an optimiser keeps for one parameter, apart from the parameters that it is stepped with."""

import copy
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from torch import Tensor

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
