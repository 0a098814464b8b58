"""The tensors that training moves, and copies of them to go back to."""

from collections.abc import Iterable, Iterator
from typing import Any, final

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor


@final
class Snapshot:
    """Copies of tensors as they were, which can be put back in place.

    Args:
        tensors: the live tensors, for instance unconstrained parameters.

    Example:
        >>> parameter = torch.ones(2)
        >>> snapshot = Snapshot([parameter])
        >>> parameter.zero_().tolist()
        [0.0, 0.0]
        >>> snapshot.restore()
        >>> parameter.tolist()
        [1.0, 1.0]
    """

    def __init__(self, tensors: Iterable[Tensor] = ()) -> None:
        self._copies = {tensor: tensor.detach().clone() for tensor in tensors}

    def __contains__(self, tensor: object) -> bool:
        return tensor in self._copies

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._copies)

    def add(self, tensor: Tensor) -> None:
        """Copies one more live tensor."""
        self._copies[tensor] = tensor.detach().clone()

    @torch.no_grad()
    def update(self) -> None:
        """Copies all the live tensors anew."""
        for tensor, copy in self._copies.items():
            copy.copy_(tensor)

    @torch.no_grad()
    def spoiled(self) -> bool:
        """Whether a live tensor has become nan or infinite anywhere since it was copied."""
        return any(_is_spoiled(tensor, copy) for tensor, copy in self._copies.items())

    @torch.no_grad()
    def restore(self) -> None:
        """Writes the copies back into the live tensors."""
        for tensor, copy in self._copies.items():
            tensor.copy_(copy)


@final
class SnapshotMessenger(Messenger):
    """Copies each parameter when a program states it for the first time.

    Parameters that a program creates while it runs do not exist before the first step, and after it the
    optimiser has moved them. Between the two, this messenger sees them.

    Args:
        snapshot: where the copies go.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__()
        self._snapshot = snapshot

    def _pyro_post_param(self, msg: dict[str, Any]) -> None:
        parameter = _unconstrained(msg["value"])
        if parameter not in self._snapshot:
            self._snapshot.add(parameter)


def _is_spoiled(tensor: Tensor, copy: Tensor) -> bool:
    # Where the copy is not finite either, the value is meant: a causal mask is a buffer of −inf
    finite = torch.isfinite(tensor)
    return not bool(finite.all()) and bool((torch.isfinite(copy) & ~finite).any())


def _unconstrained(value: Any) -> Tensor:
    # Parameters of a PyroModule that keeps them to itself carry no link to another tensor
    return value.unconstrained() if hasattr(value, "unconstrained") else value
