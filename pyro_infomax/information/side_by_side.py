"""Univariate distributions of several families, side by side."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal, constraints, register_kl

from pyro_infomax.information.closed_divergences import closed_divergence


@final
class SideBySide(Distribution):
    """Univariate distributions along the last axis of their batch shape, in runs of one family each.

    Values, moments and log-densities are float64.

    Args:
        parts: batch shapes (*batch, size), each with its own size, and event shapes ().

    >>> from torch.distributions import Bernoulli
    >>> both = SideBySide([Normal(torch.zeros(5, 2), 1.0), Bernoulli(torch.full((5, 1), 0.5))])
    >>> both.log_prob(torch.tensor([0.0, 0.0, 1.0]))[0]
    tensor([-0.9189, -0.9189, -0.6931], dtype=torch.float64)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = list(parts)
        self.has_rsample = all(part.has_rsample for part in self.parts)
        self.sizes = [part.batch_shape[-1] for part in self.parts]
        batch = torch.broadcast_shapes(*(part.batch_shape[:-1] for part in self.parts))
        super().__init__(torch.Size([*batch, sum(self.sizes)]), validate_args=False)

    @property
    def support(self) -> Any:
        """That of each part."""
        return constraints.cat([part.support for part in self.parts], -1, self.sizes)

    @property
    def mean(self) -> Tensor:
        """(*batch, latent)."""
        return self._each(lambda part: part.mean)

    @property
    def variance(self) -> Tensor:
        """(*batch, latent)."""
        return self._each(lambda part: part.variance)

    def entropy(self) -> Tensor:
        """(*batch, latent), in nats."""
        return self._each(lambda part: part.entropy())

    def sample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        """(*sample_shape, *batch, latent)."""
        return self._each(lambda part: part.sample(torch.Size(sample_shape)))

    def rsample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        """The same with gradients."""
        return self._each(lambda part: part.rsample(torch.Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """(..., latent), in nats."""
        pieces = value.split(self.sizes, -1)
        scores = [part.log_prob(z).double() for part, z in zip(self.parts, pieces, strict=True)]
        return torch.cat(scores, -1)

    def expand(self, batch_shape: torch.Size | Sequence[int], _instance: Any = None) -> Self:
        """The same for more rows."""
        lead = batch_shape[:-1]
        return type(self)([each.expand((*lead, n)) for each, n in zip(self.parts, self.sizes, strict=True)])

    def _each(self, of_part: Callable[[Any], Tensor]) -> Tensor:
        return torch.cat([of_part(part).double() for part in self.parts], -1)


def joined(parts: Sequence[Any]) -> Any:
    """Univariate distributions side by side, as one plain distribution where they are of one family.

    Args:
        parts: batch shapes (*batch, size), event shapes ().
    """
    if all(isinstance(part, Normal) for part in parts):
        loc, scale = (torch.cat([getattr(part, name) for part in parts], -1) for name in ("loc", "scale"))
        return Normal(loc, scale, validate_args=False)
    return parts[0] if len(parts) == 1 else SideBySide(parts)


def parts_of(factors: Any, sizes: Sequence[int]) -> list[Any]:
    """The inverse of :func:`joined`, for parts of these sizes.

    Raises:
        NotImplementedError: for a family that cannot be taken apart so.
    """
    if isinstance(factors, SideBySide) and factors.sizes == list(sizes):
        return factors.parts
    if isinstance(factors, Normal):
        both = zip(factors.loc.split(list(sizes), -1), factors.scale.split(list(sizes), -1), strict=True)
        return [Normal(loc, scale, validate_args=False) for loc, scale in both]
    raise NotImplementedError(f"{type(factors).__name__} is not known in parts of the sizes {list(sizes)}")


@register_kl(SideBySide, SideBySide)
@register_kl(SideBySide, Normal)
@register_kl(Normal, SideBySide)
def _divergence(q: Any, p: Any) -> Tensor:
    sizes = q.sizes if isinstance(q, SideBySide) else p.sizes
    pairs = zip(parts_of(q, sizes), parts_of(p, sizes), strict=True)
    return torch.cat([_known(closed_divergence(one, other)) for one, other in pairs], -1)


def _known(divergence: Tensor | None) -> Tensor:
    if divergence is None:
        raise NotImplementedError("not all parts have a divergence in closed form")
    return divergence.double()
