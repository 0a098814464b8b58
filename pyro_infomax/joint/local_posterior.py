"""A guide's posterior that is scored by running the guide."""

from typing import Any, final

import torch

from pyro_infomax.joint.latent_space import LatentSpace
from pyro_infomax.poutine import LocalProgram

__all__ = ["LocalPosterior"]


@final
class LocalPosterior:
    """q(z|x_n) of all data over all local latent dimensions, as :mod:`pyro_infomax.information` takes
    posteriors.

    Several sites may depend on each other: they are scored by running the guide on their values, under an
    outer dimension where the guide broadcasts (which is tried and checked once), else one by one.

    Args:
        program: the guide read datum by datum.
        data: its data.
        trace: a trace of the guide on all data, in which a lone site is scored without running the guide
            again.
    """

    def __init__(self, program: LocalProgram, data: tuple[torch.Tensor, ...], trace: Any) -> None:
        self.program = program
        self.data = data
        self.space = LatentSpace(program.latents)
        self.batch_shape = torch.Size([len(data[0])])
        self.event_shape = torch.Size([self.space.size])
        self._trace = trace if len(program.latents) == 1 else None
        self._broadcasts: bool | None = None

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> torch.Tensor:
        """z_n ~ q(z|x_n), (*sample_shape, data, latent)."""
        shape = torch.Size(sample_shape)
        draws = [self._draw() for _ in range(shape.numel())]
        return torch.stack(draws).reshape(*shape, *self.batch_shape, *self.event_shape)

    @torch.no_grad()
    def _draw(self) -> torch.Tensor:
        size = len(self.data[0])
        out = torch.empty(size, self.space.size, dtype=torch.float64)
        for rows in self.program.pieces(size):
            trace = self.program.trace(self.data, rows)
            sites = {
                name: layout.rows(trace.nodes[name]["value"], len(rows))[0]
                for name, layout in self.space.layouts.items()
            }
            out[rows] = self.space.flatten(sites)
        return out

    def log_prob(self, z: torch.Tensor) -> torch.Tensor:
        """log q(z|x_n).

        Args:
            z: (..., data or 1, latent): each vector is scored under the datum of its row, a single row under
                all.

        Returns:
            (..., data), float64, in nats.
        """
        lead = z.shape[:-2]
        flat = z.reshape(lead.numel() if lead else 1, *z.shape[-2:])  # (outer, data or 1, latent)
        return self._log_prob(flat).reshape(*lead, len(self.data[0]))

    def _log_prob(self, z: torch.Tensor) -> torch.Tensor:
        if len(z) == 1 or self._trace is not None:
            return self._score(z)
        if self._broadcasts is None:
            self._broadcasts = self._does_broadcast(z)
        return self._score(z) if self._broadcasts else torch.cat([self._score(each[None]) for each in z])

    def _score(self, z: torch.Tensor) -> torch.Tensor:
        size = len(self.data[0])
        sites = self.space.unflatten(z)
        if self._trace is not None:
            return self._sum(self._trace, sites, size)
        out = torch.empty(len(z), size, dtype=torch.float64)
        for rows in self.program.pieces(size):
            values = {name: each[:, rows] if each.shape[1] > 1 else each for name, each in sites.items()}
            out[:, rows] = self._sum(self.program.trace(self.data, rows, values=values), values, len(rows))
        return out

    def _sum(self, trace: Any, sites: dict[str, torch.Tensor], rows: int) -> torch.Tensor:
        scores = [self.program.log_prob(trace.nodes[name], rows, z=each) for name, each in sites.items()]
        return torch.stack(torch.broadcast_tensors(*scores)).sum(0)

    @torch.no_grad()
    def _does_broadcast(self, z: torch.Tensor) -> bool:
        ends = z[[0, -1]]
        try:
            together = self._score(ends)
        except (RuntimeError, ValueError, IndexError):
            return False
        apart = torch.cat([self._score(each[None]) for each in ends])
        return together.shape == apart.shape and torch.allclose(together, apart, rtol=1e-5, atol=1e-8)
