"""The two ends of the annealed path of a model, scored with their gradients."""

from collections.abc import Callable, Iterator
from typing import Any, final

import pyro
import torch

from pyro_infomax.diagnostics.pair import Pair
from pyro_infomax.diagnostics.unconstrained_space import UnconstrainedSpace
from pyro_infomax.information.annealed_state import AnnealedState
from pyro_infomax.information.families import in_dtype_of
from pyro_infomax.joint import GenerativeJoint
from pyro_infomax.joint.latent_space import LatentSpace, Sites
from pyro_infomax.poutine import rows_of

__all__ = ["AnnealedJoint"]

Tensors = tuple[torch.Tensor, ...]


@final
class AnnealedJoint:
    """From the prior, or from a guide's posterior, to p(z, x) for fixed x, over unconstrained z.

    Both ends carry the Jacobian of the constraints. Calling it scores states, with one run of the model for
    values and gradients of all of them together.

    Args:
        joint: of the model.
        data: of the model.
        pair: the model with a guide to start from, None to start from the prior.
        batch_size: the most rows, chains times data, that the model is run on at once where it follows the
            length of its arguments.

    Raises:
        NotImplementedError: if a latent site is discrete or cannot be mapped onto real numbers.
    """

    def __init__(self, joint: GenerativeJoint, data: Tensors, *, pair: Pair | None, batch_size: int) -> None:
        self.joint = joint
        self.data = data
        self._program = joint.program(data, batch_size=batch_size)
        layouts = self._program.latents if pair is None else pair.space.layouts
        self._sites = LatentSpace(layouts)
        self.space = UnconstrainedSpace.of(self._program, data, layouts)
        self._pair = pair
        self._posterior = None if pair is None else pair.posterior

    @property
    def data_size(self) -> int:
        """N."""
        return len(self.data[0])

    def draw(self, num_chains: int) -> torch.Tensor:
        """Draws of the start, (chains, data, latent)."""
        if self._pair is None:
            return torch.stack([self.flat(self._program.draw(self.data)) for _ in range(num_chains)])
        z = self._pair.draw(num_chains)
        return torch.stack([self.flat(self._sites.unflatten(each)) for each in z])

    def flat(self, sites: Sites) -> torch.Tensor:
        """Unconstrained vectors, (M, latent), of sites (M, *event)."""
        return self.space.unconstrain(sites)

    def __call__(self, z: torch.Tensor) -> AnnealedState:
        # values that a trajectory runs away to are rejected, which is no error of the program
        with pyro.validation_enabled(False):
            prior, target, prior_gradient, target_gradient = self._scored(z)
            if self._posterior is None:
                return AnnealedState(z, prior, target, prior_gradient, target_gradient)
            start, start_gradient = self._scored_by(self._posterior, z)
        return AnnealedState(z, start, target, start_gradient, target_gradient)

    def _scored(self, z: torch.Tensor) -> list[torch.Tensor]:
        """Log-densities of prior and joint, (chains, data), and their gradients, (chains, data, latent)."""
        flat = z.flatten(0, 1)
        parts = [self._scored_rows(flat[rows], rows % self.data_size) for rows in self._pieces(len(flat))]
        together = (torch.cat(each) for each in zip(*parts, strict=True))
        return [each.unflatten(0, z.shape[:2]) for each in together]

    def _pieces(self, rows: int) -> Iterator[torch.Tensor]:
        """The rows of each run: graphs are freed piece by piece."""
        most = self._program.piece if self._program.follows else self.data_size
        yield from torch.arange(rows).split(most)

    def _scored_rows(self, z: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        data = rows_of(self.data, rows)

        def densities(u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            sites, stretched = self.space.constrain(u)
            log_prior, log_likelihood = self.joint.log_terms(data, sites)
            start = log_prior + stretched
            return start, start + log_likelihood

        return _with_gradients(densities, z)

    def _scored_by(self, posterior: Any, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The posterior's log-density, (chains, data), and its gradient, (chains, data, latent)."""

        def density(u: torch.Tensor) -> tuple[torch.Tensor]:
            sites, stretched = self.space.constrain(u.flatten(0, 1))
            flat = self._sites.flatten(sites).unflatten(0, u.shape[:2])
            score = posterior.log_prob(in_dtype_of(posterior, flat)).double()
            return (score + stretched.unflatten(0, u.shape[:2]),)

        value, gradient = _with_gradients(density, z)
        return value, gradient


def _with_gradients(
    densities: Callable[[torch.Tensor], tuple[torch.Tensor, ...]], z: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The values of densities, then their gradients in z."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        values = densities(z)
        # a flat density, such as a uniform prior's, may not be connected to z at all
        sums = [value.sum() + 0 * z.sum() for value in values]
    # gradients of parameters are neither computed nor left behind
    gradients = [torch.autograd.grad(each, z, retain_graph=True)[0] for each in sums]
    return *(value.detach() for value in values), *gradients
