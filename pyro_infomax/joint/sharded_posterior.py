"""The posteriors of all data, of which each process holds those of its own."""

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_infomax.information.factors import is_parametric
from pyro_infomax.joint.batch_map import batch_mapped
from pyro_infomax.random_state import isolated_random_state
from pyro_infomax.ranks import Ranks

__all__ = ["ShardedPosterior", "posterior_of_all"]

_LARGEST_SEED = 2**62


def posterior_of_all(own: Any, ranks: Ranks) -> Any:
    """The posteriors of the data of all processes, those of the first process first.

    Args:
        own: of this process, batch shape (N_r,), event shape (latent,).
        ranks: the processes.

    Returns:
        A distribution of the same kind over all N data, on every process, where a few numbers say all about
        it; else an object that leaves scoring and drawing to the process that holds the datum.
    """
    if ranks.world_size == 1:
        return own
    parts = ranks.all_of(_sent(own))
    sharded = ShardedPosterior(own, ranks)
    merged = _merged(parts) if all(isinstance(part, Distribution) for part in parts) else None
    return merged if merged is not None and _scores_like(merged, sharded) else sharded


def _sent(own: Any) -> Any:
    """What the other processes can make use of: no networks, and no programs."""
    return own if isinstance(own, Distribution) and is_parametric(own) else None


def _merged(parts: Sequence[Any]) -> Distribution | None:
    if len({type(part) for part in parts}) > 1:
        return None
    size = sum(part.batch_shape[0] for part in parts)
    try:
        return batch_mapped(parts, [size], torch.cat)  # type: ignore[no-any-return]
    except NotImplementedError:
        return None


@torch.no_grad()
def _scores_like(merged: Distribution, sharded: "ShardedPosterior") -> bool:
    """Whether what was put together gives a draw for each datum the density that its process gives it."""
    with isolated_random_state():
        z = sharded.sample()
    expected = sharded.log_prob(z).double()
    try:
        alike = torch.allclose(merged.log_prob(z).double(), expected, rtol=1e-6, equal_nan=True)
    except (RuntimeError, ValueError, IndexError):
        alike = False  # numbers that belong to no datum, and were taken for some that do
    return all(sharded.ranks.all_of(alike))


@final
class ShardedPosterior:
    """q(z|x_n) of the data of all processes, as :mod:`pyro_infomax.information` takes posteriors.

    Every method is called by all processes together. Draws are made by each for its own data, by noise that
    differs from process to process, so that they depend on the number of processes.

    Args:
        own: the posteriors of this process, batch shape (N_r,), event shape (latent,).
        ranks: the processes.
    """

    def __init__(self, own: Any, ranks: Ranks) -> None:
        self.own = own
        self.ranks = ranks
        self.sizes = [int(size) for size in ranks.all_of(own.batch_shape[0])]
        self.batch_shape = torch.Size([sum(self.sizes)])
        self.event_shape = torch.Size(own.event_shape)
        known = ranks.all_of([name for name in _SITE_BY_SITE if hasattr(own, name)])
        self._known = set.intersection(*map(set, known))

    def __getattr__(self, name: str) -> Callable[[Tensor], Tensor]:
        if name not in _SITE_BY_SITE or name not in self._known:
            raise AttributeError(f"{type(self).__name__} has no {name}")
        return lambda z: self._scored(getattr(self.own, name), z)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """z_n ~ q(z|x_n), (*sample_shape, data, latent)."""
        shape = torch.Size(sample_shape)
        seed = self.ranks.broadcast(int(torch.randint(_LARGEST_SEED, (), device="cpu")))
        with isolated_random_state(seed + self.ranks.rank):
            drawn = self.ranks.together(lambda: self.own.sample(shape))
        return self._gathered(drawn, len(shape))

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z|x_n) of vectors (..., data, latent), each under the datum of its row, (..., data)."""
        return self._scored(self.own.log_prob, z)

    def _scored(self, score: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
        axis = z.dim() - 2
        mine = z.split(self.sizes, axis)[self.ranks.rank] if z.shape[axis] > 1 else z
        return self._gathered(self.ranks.together(lambda: score(mine)), axis)

    def _gathered(self, own: Tensor, axis: int) -> Tensor:
        """(..., own data, ...) of each to (..., data, ...)."""
        return self.ranks.rows(own.movedim(axis, 0).contiguous()).movedim(0, axis)


_SITE_BY_SITE = ("log_prob_sites", "log_prob_marginals")
