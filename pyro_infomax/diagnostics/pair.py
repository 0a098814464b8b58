"""A model and a guide on the same data, and draws from the guide that both have scored."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch

from pyro_infomax.joint import GenerativeJoint, RepresentationJoint
from pyro_infomax.poutine import Data

__all__ = ["Pair", "ScoredDraws"]


@final
@dataclass(frozen=True)
class ScoredDraws:
    """Draws z ~ q(z|x_n) for every datum, and their log-densities in nats.

    Attributes:
        z: (samples, data, latent).
        log_posterior: log q(z|x), (samples, data).
        log_prior: log p(z), (samples, data).
        log_likelihood: log p(x|z), (samples, data).
    """

    z: torch.Tensor
    log_posterior: torch.Tensor
    log_prior: torch.Tensor
    log_likelihood: torch.Tensor

    @property
    def log_weight(self) -> torch.Tensor:
        """log p(x, z) − log q(z|x), (samples, data); its mean is the ELBO."""
        return self.log_likelihood + self.log_prior - self.log_posterior


@final
class Pair:
    """The two joints of a model and a guide on the same data.

    Args:
        model: the model.
        guide: the guide; its local latent sites are those of the model.
        data: a tensor or a tuple of tensors, whose first axis is the data.
        data_plate: the name of the data plate, None to find it.
        batch_size: the most data that a program is run on at once.

    Raises:
        ValueError: if the two do not share their latent sites, the data hold nan, or there is not one data
            plate.
        NotImplementedError: if a latent site is global.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        data: Data,
        *,
        data_plate: str | None = None,
        batch_size: int = 1024,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"Expected batch_size >= 1 but got {batch_size}")
        self.representation = RepresentationJoint(guide, data, data_plate=data_plate, batch_size=batch_size)
        self.data = self.representation.data
        _check_no_nan(self.data)
        self.generative = GenerativeJoint(model, data_plate=data_plate)
        self.program = self.generative.program(self.data, batch_size=batch_size)
        self.space = self.representation.space
        self._check_sites()

    def _check_sites(self) -> None:
        theirs, ours = set(self.space.layouts), set(self.program.latents)
        if lacking := sorted(ours - theirs):
            raise ValueError(
                f"Expected the guide to sample every latent site of the model but it lacks {lacking}"
            )
        if unknown := sorted(theirs - ours):
            raise ValueError(f"Expected only sites of the model in the guide but it samples {unknown} too")
        for name, layout in self.program.latents.items():
            if layout.shape != self.space.layouts[name].shape:
                raise ValueError(
                    f"Expected one shape of {name!r} but the model has {layout.shape} and the guide "
                    f"{self.space.layouts[name].shape}"
                )

    @torch.no_grad()
    def draw(self, num_samples: int) -> torch.Tensor:
        """z ~ q(z|x_n) for every datum, (samples, data, latent) in float64."""
        return self.representation.posterior.sample(torch.Size([num_samples])).double()

    @torch.no_grad()
    def score(self, z: torch.Tensor) -> ScoredDraws:
        """Scores draws of :meth:`draw` under posterior, prior and likelihood."""
        log_posterior = self.representation.posterior.log_prob(z).double()
        terms = [self.generative.log_terms(self.data, self.space.unflatten(each)) for each in z]
        log_prior, log_likelihood = (torch.stack(each) for each in zip(*terms, strict=True))
        return ScoredDraws(z, log_posterior, log_prior, log_likelihood)

    def latent_names(self) -> list[str]:
        """A name for every latent dimension: ``z[0]``, or the site alone where it is a scalar."""
        names = []
        for name, layout in self.space.layouts.items():
            indices = torch.cartesian_prod(*(torch.arange(n) for n in layout.shape)) if layout.shape else None
            if indices is None:
                names.append(name)
            else:
                rows = indices.reshape(-1, len(layout.shape)).tolist()
                names.extend(f"{name}[{','.join(map(str, row))}]" for row in rows)
        return names


def _check_no_nan(data: tuple[torch.Tensor, ...]) -> None:
    for position, tensor in enumerate(data):
        nan = tensor.isnan().reshape(len(tensor), -1)
        if nan.any():
            raise ValueError(
                f"Expected data without nan but argument {position} holds {int(nan.sum())}, the first in row "
                f"{int(nan.any(1).nonzero()[0])}; remove or impute them"
            )
