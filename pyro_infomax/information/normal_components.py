"""Normal distributions as columns of a matrix product: features of a point times weights of a component."""

import math
from abc import ABC, abstractmethod
from copy import copy
from typing import Any, Final, Self, final

import torch
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal

from pyro_infomax.information.families import diagonal_normal

# with more, the products of pairs of dimensions take more memory than the components themselves
_MOST_FULL_DIMENSIONS: Final = 32
_ALL: Final = slice(None)
_HALF_LOG_TWO_PI: Final = 0.5 * math.log(2 * math.pi)


class NormalComponents(ABC):
    """N Normal distributions over (d,), of which every attribute is a tensor with a row for each.

    Attributes:
        loc: the means, (batch, latent).
        peak: the log-densities at the means, (batch,).
    """

    loc: Tensor
    peak: Tensor

    def __getitem__(self, index: Tensor) -> Self:
        """Some of the components, in another order."""
        chosen = copy(self)
        for name, values in vars(self).items():
            setattr(chosen, name, values[index])
        return chosen

    @abstractmethod
    def decay(self, part: slice = _ALL) -> Tensor:
        """(part, latent): away from its mean a component falls off at least as fast as
        ``-(decay * distance)²`` summed over the dimensions.
        """

    @property
    @abstractmethod
    def features_per_point(self) -> int:
        """The length of a row of :meth:`features`."""

    @abstractmethod
    def features(self, z: Tensor) -> Tensor:
        """(points, feature), of z (points, latent)."""

    @abstractmethod
    def weights(self, part: slice, centre: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (feature, part) and constants (part,) of the log-density, for z relative to ``centre``."""

    @abstractmethod
    def log_prob(self, z: Tensor, index: Tensor) -> Tensor:
        """The log-density of each point (points, latent) under its own component, by differences."""


@final
class DiagonalNormals(NormalComponents):
    """Independent dimensions.

    Args:
        loc: (N, d), float64.
        scale: (N, d), float64.
    """

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc = loc
        self.scale = scale
        self.peak = -(scale.log() + _HALF_LOG_TWO_PI).sum(-1)

    def decay(self, part: slice = _ALL) -> Tensor:
        return math.sqrt(0.5) / self.scale[part]

    @property
    def features_per_point(self) -> int:
        return 2 * self.loc.shape[1]

    def features(self, z: Tensor) -> Tensor:
        return torch.cat([z * z, z], 1)

    def weights(self, part: slice, centre: Tensor) -> tuple[Tensor, Tensor]:
        square, mean = 0.5 / self.scale[part] ** 2, self.loc[part] - centre
        linear = 2 * square * mean
        return torch.cat([-square, linear], 1).T, self.peak[part] - (square * mean * mean).sum(1)

    def log_prob(self, z: Tensor, index: Tensor) -> Tensor:
        return self.peak[index] - 0.5 * ((z - self.loc[index]) / self.scale[index]).square().sum(-1)


@final
class FullNormals(NormalComponents):
    """Any covariance.

    Args:
        loc: (N, d), float64.
        scale_tril: (N, d, d), float64, the Cholesky factors of the covariances.
    """

    def __init__(self, loc: Tensor, scale_tril: Tensor) -> None:
        self.loc = loc
        identity = torch.eye(loc.shape[1], dtype=loc.dtype, device=loc.device)
        self.root = math.sqrt(0.5) * torch.linalg.solve_triangular(scale_tril, identity, upper=False)
        self.slowest = torch.linalg.svdvals(self.root)[:, -1]
        self.peak = -(scale_tril.diagonal(dim1=-2, dim2=-1).log() + _HALF_LOG_TWO_PI).sum(-1)

    def decay(self, part: slice = _ALL) -> Tensor:
        return self.slowest[part, None].expand_as(self.loc[part])

    @property
    def features_per_point(self) -> int:
        d = self.loc.shape[1]
        return d * (d + 1) // 2 + d

    def features(self, z: Tensor) -> Tensor:
        i, j = self._pairs()
        return torch.cat([z[:, i] * z[:, j], z], 1)

    def weights(self, part: slice, centre: Tensor) -> tuple[Tensor, Tensor]:
        i, j = self._pairs()
        root, mean = self.root[part], self.loc[part] - centre
        precision = root.mT @ root  # (part, latent, latent), halved
        linear = (precision @ mean[..., None]).squeeze(-1)
        twice = torch.where(i == j, 1.0, 2.0)  # off the diagonal a product stands for two
        quadratic = precision[:, i, j] * twice
        return torch.cat([-quadratic, 2 * linear], 1).T, self.peak[part] - (linear * mean).sum(1)

    def log_prob(self, z: Tensor, index: Tensor) -> Tensor:
        difference = (z - self.loc[index])[..., None]
        return self.peak[index] - (self.root[index] @ difference).square().sum((-2, -1))

    def _pairs(self) -> tuple[Tensor, Tensor]:
        d = self.loc.shape[1]
        i, j = torch.triu_indices(d, d, device=self.loc.device)
        return i, j


def normal_components(posterior: Any) -> NormalComponents | None:
    """The components of a batch (N,) of Normals over (d,), in float64; None for any other posterior."""
    factors = diagonal_normal(posterior)
    if factors is not None:
        return DiagonalNormals(*(each.double() for each in factors))
    full = isinstance(posterior, MultivariateNormal | LowRankMultivariateNormal)
    if not full or posterior.event_shape[0] > _MOST_FULL_DIMENSIONS:
        return None
    return FullNormals(posterior.loc.double(), _scale_tril(posterior))


def _scale_tril(normal: MultivariateNormal | LowRankMultivariateNormal) -> Tensor:
    """A low-rank covariance is never formed: nearly singular ones would lose half of their digits."""
    if isinstance(normal, MultivariateNormal):
        return normal.scale_tril.double()
    root = torch.cat([normal.cov_factor.double(), normal.cov_diag.double().sqrt().diag_embed()], -1)
    upper = torch.linalg.qr(root.mT, mode="r").R
    return (upper * upper.diagonal(dim1=-2, dim2=-1).sign()[..., None]).mT
