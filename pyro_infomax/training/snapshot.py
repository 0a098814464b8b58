"""Copies of what programs keep, to go back to."""

from collections.abc import Mapping
from typing import TypeVar, final

import torch
from torch import Tensor

from pyro_infomax.training.program_state import Place, ProgramState, check_alike

_Key = TypeVar("_Key")


@final
class Snapshot:
    """Copies of the parameters, and of the buffers of modules, which can be put back in place.

    Args:
        programs: the live tensors.

    Example:
        >>> layer = torch.nn.BatchNorm1d(2)
        >>> snapshot = Snapshot(ProgramState(layer.forward))
        >>> _ = layer.running_mean.fill_(3.0)
        >>> snapshot.restore()
        >>> layer.running_mean
        tensor([0., 0.])
    """

    def __init__(self, programs: ProgramState) -> None:
        self._programs = programs
        self._parameters: dict[str, Tensor] = {}
        self._buffers: dict[Place, Tensor] = {}
        self.update()

    def extend(self, parameters: Mapping[str, Tensor], buffers: Mapping[Place, Tensor]) -> None:
        """Copies tensors that have no copy yet; see :meth:`ProgramState.follow`."""
        for name, tensor in parameters.items():
            if name not in self._parameters:
                self._parameters[name] = tensor.detach().clone()
        for place, tensor in buffers.items():
            if place not in self._buffers:
                self._buffers[place] = tensor.detach().clone()

    def update(self) -> None:
        """Copies everything anew."""
        _refresh(self._parameters, self._programs.parameters)
        _refresh(self._buffers, self._programs.buffers_by_place())

    @torch.no_grad()
    def spoiled(self) -> bool:
        """Whether a live tensor has become nan or infinite anywhere since it was copied."""
        return _any_spoiled(self._parameters, self._programs.parameters) or _any_spoiled(
            self._buffers, self._programs.buffers_by_place()
        )

    @torch.no_grad()
    def restore(self) -> None:
        """Writes the copies back into the live tensors."""
        _write_back(self._parameters, self._programs.parameters)
        _write_back(self._buffers, self._programs.buffers_by_place())

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """The copies, by the names of :meth:`ProgramState.state_dict`."""
        names, places = self._programs.stable_names, self._programs.places()
        return {
            "parameters": {names[name]: copy for name, copy in self._parameters.items()},
            "buffers": {
                name: self._buffers[place] for name, place in places.items() if place in self._buffers
            },
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Takes over the copies of another process, of what the programs have so far.

        Raises:
            ValueError: if one does not fit the programs.
        """
        names, live = self._programs.stable_names, self._programs.parameters
        copies = {name: state["parameters"].get(stable) for name, stable in names.items()}
        self._parameters = {name: copy for name, copy in copies.items() if copy is not None}
        for name, copy in self._parameters.items():
            check_alike(name, live[name], copy)
        places = self._programs.places()
        self._buffers = {places[name]: copy for name, copy in state["buffers"].items() if name in places}


def _refresh(copies: dict[_Key, Tensor], live: Mapping[_Key, Tensor]) -> None:
    for key, tensor in live.items():
        copy = copies.get(key)
        if copy is None or copy.shape != tensor.shape or copy.dtype != tensor.dtype:
            copies[key] = tensor.detach().clone()
        else:
            copy.copy_(tensor.detach())


def _write_back(copies: Mapping[_Key, Tensor], live: Mapping[_Key, Tensor]) -> None:
    for key, copy in copies.items():
        if key in live:
            live[key].copy_(copy)


def _any_spoiled(copies: Mapping[_Key, Tensor], live: Mapping[_Key, Tensor]) -> bool:
    return any(_is_spoiled(live[key], copy) for key, copy in copies.items() if key in live)


def _is_spoiled(tensor: Tensor, copy: Tensor) -> bool:
    # Where the copy is not finite either, the value is meant: a causal mask is a buffer of −inf
    finite = torch.isfinite(tensor)
    return not bool(finite.all()) and bool((torch.isfinite(copy) & ~finite).any())
