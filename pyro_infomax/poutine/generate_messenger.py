"""A messenger that draws observed sites."""

from collections.abc import Collection
from typing import Any, final

from pyro.poutine.messenger import Messenger

__all__ = ["GenerateMessenger"]


@final
class GenerateMessenger(Messenger):
    """Draws some observed sites, as :func:`pyro.poutine.uncondition` draws all of them.

    Sites that :func:`pyro.poutine.condition` fixes within the program stay fixed, unless they are named.

    Args:
        sites: the names of the sites.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> with GenerateMessenger(["x"]):
        ...     pyro.sample("x", dist.Delta(torch.tensor(2.0)), obs=torch.tensor(3.0))
        tensor(2.)
    """

    def __init__(self, sites: Collection[str]) -> None:
        super().__init__()
        self.sites = sites

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.sites:
            msg["is_observed"] = False
            msg["value"] = None
            msg["done"] = False
