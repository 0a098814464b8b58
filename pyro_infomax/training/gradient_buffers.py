"""Where a captured step leaves its gradients, and how they reach the optimiser."""

from collections.abc import Sequence
from itertools import groupby
from typing import final

from pyro.infer.util import zero_grads
from pyro.optim import PyroOptim
from torch import Tensor

from pyro_infomax.training.flat_group import ParameterGroup
from pyro_infomax.training.fused_optim import FusedOptim

__all__ = ["GradientBuffers"]


@final
class GradientBuffers:
    """The gradients of some parameters, in as few flat tensors as their optimiser takes.

    Args:
        optim: the optimiser of the parameters.
        parameters: leaf tensors.
        stated: these and other leaf tensors that the programs state, but that take no part in the loss.

    Attributes:
        flat: the flat gradients, one a group of a :class:`FusedOptim`, else one a dtype and device.
        members: for each of them the parameters whose gradients it holds, in order.
    """

    def __init__(self, optim: PyroOptim, parameters: Sequence[Tensor], stated: Sequence[Tensor]) -> None:
        self.parameters = tuple(parameters)
        self.optim = optim
        self._stated = frozenset(stated)
        self._groups: tuple[ParameterGroup, ...] | None = None
        if isinstance(optim, FusedOptim):
            self._groups = optim.groups(self.parameters)
            self.members = [group.parameters for group in self._groups]
        else:
            self.members = _alike(self.parameters)
        self.flat = [members[0].new_empty(sum(map(Tensor.numel, members))) for members in self.members]

    @property
    def views(self) -> dict[Tensor, Tensor]:
        """For each parameter its part of the flat gradients, in its own shape."""
        return {
            parameter: part.view(parameter.shape)
            for members, flat in zip(self.members, self.flat, strict=True)
            for parameter, part in zip(members, flat.split([each.numel() for each in members]), strict=True)
        }

    @property
    def buffers(self) -> list[Tensor | None]:
        """For each flat gradient the tensor that its parameters are views into, where there is one."""
        return [group.flat for group in self._groups] if self._groups else [None] * len(self.flat)

    @property
    def current(self) -> bool:
        """Whether the optimiser still groups the parameters so, and finds them where they were."""
        if self._groups is None:
            return True
        assert isinstance(self.optim, FusedOptim)
        return self.optim.groups(self.parameters) == self._groups

    @property
    def accumulated(self) -> dict[Tensor, Tensor]:
        """For each parameter what a backward pass would leave in ``.grad``, where there may be something."""
        found = self.views
        for parameter in self._stated:
            if parameter.grad is not None:
                found[parameter] = parameter.grad + found.get(parameter, 0)
        return found

    def add_present(self) -> None:
        """Moves what is in ``.grad`` already to the flat gradients, to which it is added."""
        present = [parameter for parameter in self.parameters if parameter.grad is not None]
        views = self.views if present else {}
        for parameter in present:
            views[parameter].add_(parameter.grad)  # type: ignore[arg-type]
            parameter.grad = None

    def apply(self) -> None:
        """Has the optimiser step by what the flat gradients hold, and by what other parameters have."""
        if self._groups is not None and not any(each.grad is not None for each in self._stated):
            assert isinstance(self.optim, FusedOptim)
            self.optim.apply(self._groups, self.flat)
            return
        for parameter, view in self.views.items():
            parameter.grad = view
        self.optim(set(self._stated))  # type: ignore[arg-type]
        zero_grads(self._stated)


def _alike(parameters: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    def kind(parameter: Tensor) -> tuple[str, str]:
        return str(parameter.dtype), str(parameter.device)

    return [tuple(members) for _, members in groupby(sorted(parameters, key=kind), key=kind)]
