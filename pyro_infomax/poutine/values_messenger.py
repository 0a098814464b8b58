"""A messenger that gives sites their values."""

from collections.abc import Collection, Mapping
from typing import Any, Self, final

import torch
from pyro.poutine.messenger import Messenger

__all__ = ["ProgramStopped", "ValuesMessenger"]


class ProgramStopped(Exception):
    """Raised to leave a program of which everything needed has been seen."""


@final
class ValuesMessenger(Messenger):
    """Gives latent and observed sites the values to be scored, without changing which of them are observed.

    Unlike :func:`pyro.condition` it leaves latent sites latent, and it replaces the data of observed ones
    too.

    Args:
        values: site names to values.
        stop_after: site names; once all of them ran, :class:`ProgramStopped` leaves the program. None to run
            it to its end.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> with ValuesMessenger({"z": torch.tensor(2.0)}):
        ...     print(pyro.sample("z", dist.Normal(0.0, 1.0)))
        tensor(2.)
    """

    def __init__(
        self,
        values: Mapping[str, torch.Tensor],
        *,
        stop_after: Collection[str] | None = None,
    ) -> None:
        super().__init__()
        self.values = values
        self.stop_after = stop_after
        self._awaited: set[str] = set()

    def __enter__(self) -> Self:
        self._awaited = set(self.stop_after or ())
        return super().__enter__()

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]
            msg["done"] = True

    def _pyro_post_sample(self, msg: Any) -> None:
        self._awaited.discard(msg["name"])
        if self.stop_after is not None and not self._awaited:
            raise ProgramStopped
