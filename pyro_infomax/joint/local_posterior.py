"""A guide's posterior that is scored by running the guide."""

from collections.abc import Callable
from typing import Any, Final, final

import torch

from pyro_infomax.joint.latent_space import LatentSpace, lone_marginal
from pyro_infomax.joint.scoring import cycled
from pyro_infomax.poutine import LocalProgram
from pyro_infomax.random_state import isolated_random_state

__all__ = ["LocalPosterior", "broadcasts"]

_MISTAKE: Final = 1e-3  # wrong values are some nats off; single precision rounds a sharp density to 1e-5


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
            again; None to run it.
    """

    def __init__(self, program: LocalProgram, data: tuple[torch.Tensor, ...], trace: Any = None) -> None:
        self.program = program
        self.data = data
        self.space = LatentSpace(program.latents)
        self.batch_shape = torch.Size([len(data[0])])
        self.event_shape = torch.Size([self.space.size])
        self._trace = trace if len(program.latents) == 1 else None
        self._broadcasts: bool | None = None

    @property
    def rows_at_once(self) -> int:
        """The most data that one run of the guide scores."""
        return self.program.piece

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> torch.Tensor:
        """z_n ~ q(z|x_n), (*sample_shape, data, latent)."""
        shape = torch.Size(sample_shape)
        # a run has much the same cost for few rows as for many: few data are drawn for several times at once
        most = max(1, self.program.piece // len(self.data[0])) if self.program.follows else 1
        starts = range(0, shape.numel(), most)
        draws = [self._draw(min(most, shape.numel() - start)) for start in starts]
        return torch.cat(draws).reshape(*shape, *self.batch_shape, *self.event_shape)

    def _draw(self, number: int) -> torch.Tensor:
        """(number, data, latent)."""
        size = len(self.data[0])
        data = self.data if number == 1 else cycled(self.data, number * size)
        return self.space.flatten(self.program.draw(data)).unflatten(0, (number, size))

    def log_prob(self, z: torch.Tensor) -> torch.Tensor:
        """log q(z|x_n).

        Args:
            z: (..., data or 1, latent): each vector is scored under the datum of its row, a single row under
                all.

        Returns:
            (..., data), float64, in nats.
        """
        return self.log_prob_sites(z).sum(-1)

    def log_prob_sites(self, z: torch.Tensor) -> torch.Tensor:
        """log q(z_s|z_<s, x_n) of each site s given those before it.

        Args:
            z: as in :meth:`log_prob`.

        Returns:
            (..., data, sites), float64, in nats.
        """
        lead = z.shape[:-2]
        flat = z.reshape(lead.numel(), *z.shape[-2:])  # (outer, data or 1, latent)
        return self._log_prob(flat).unflatten(0, lead) if lead else self._log_prob(flat)[0]

    @property
    def log_prob_marginals(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """log q(z_j|x_n), (..., data, latent), where there is one latent dimension: z itself.

        Raises:
            AttributeError: where there are several.
        """
        return lone_marginal(self)

    def _log_prob(self, z: torch.Tensor) -> torch.Tensor:
        if len(z) < 2:
            return self._score(z)
        if self._broadcasts is None:
            with isolated_random_state():
                self._broadcasts = broadcasts(lambda z: self._score(z).sum(-1), self.sample((2,)))
        return self._score(z) if self._broadcasts else torch.cat([self._score(each[None]) for each in z])

    def _score(self, z: torch.Tensor) -> torch.Tensor:
        """(outer, data, sites), of z (outer, data or 1, latent)."""
        size = len(self.data[0])
        if self._trace is not None:
            return self._by_site(self._trace, self.space.unflatten(z), size)
        by_row = z.expand(-1, size, -1).movedim(1, 0)  # (data, outer, latent)
        scores = self.program.together(size, lambda rows: {"": self._score_rows(by_row[rows], rows)})
        return scores[""].movedim(0, 1)

    def _score_rows(self, z: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """(rows, outer, sites), of z (rows, outer, latent)."""
        values = self.space.unflatten(z.movedim(0, 1))
        trace = self.program.trace(self.data, rows, values=values, stop_after=list(values))
        return self._by_site(trace, values, len(rows)).movedim(0, 1)

    def _by_site(self, trace: Any, sites: dict[str, torch.Tensor], rows: int) -> torch.Tensor:
        scores = [self.program.log_prob(trace.nodes[name], rows, z=each) for name, each in sites.items()]
        return torch.stack(torch.broadcast_tensors(*scores), -1)


@torch.no_grad()
def broadcasts(score: Callable[[torch.Tensor], torch.Tensor], z: torch.Tensor) -> bool:
    """Whether vectors get the same scores together as one by one.

    Args:
        score: from vectors (outer, data, latent) to scores (outer, data).
        z: (outer, data, latent).
    """
    try:
        together = score(z)
    except (RuntimeError, ValueError, IndexError):
        return False
    apart = torch.cat([score(each[None]) for each in z])
    return together.shape == apart.shape and torch.allclose(together, apart, rtol=_MISTAKE, atol=_MISTAKE)
