"""States of chains between a start and a target, with all that any temperature needs to know of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, final

import torch
from torch import Tensor

__all__ = ["AnnealedState", "Score"]


@final
@dataclass(frozen=True)
class AnnealedState:
    r"""Where the chains stand, with both ends of the geometric path scored once.

    .. math:: \log f_b(z) = (1 - b) \log f_0(z) + b \log f_1(z)

    Attributes:
        z: (chains, data, latent), unconstrained.
        log_start: :math:`\log f_0(z)`, (chains, data), of a normalised density.
        log_target: :math:`\log f_1(z)`, (chains, data), of a density that need not be.
        start_gradient: of log_start in z, (chains, data, latent).
        target_gradient: of log_target in z, (chains, data, latent).
    """

    z: Tensor
    log_start: Tensor
    log_target: Tensor
    start_gradient: Tensor
    target_gradient: Tensor

    @property
    def log_ratio(self) -> Tensor:
        """log f_1 − log f_0, (chains, data)."""
        return self.log_target - self.log_start

    def log_prob(self, temperature: float) -> Tensor:
        """log f_b, (chains, data)."""
        return (1 - temperature) * self.log_start + temperature * self.log_target

    def gradient(self, temperature: float) -> Tensor:
        """The gradient of log f_b, (chains, data, latent), 0 where there is none."""
        mixed = (1 - temperature) * self.start_gradient + temperature * self.target_gradient
        return mixed.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)

    def where(self, mask: Tensor, other: "AnnealedState") -> "AnnealedState":
        """These states where the mask (chains, data) holds, and others elsewhere."""
        wide = mask[..., None]
        return AnnealedState(
            torch.where(wide, self.z, other.z),
            torch.where(mask, self.log_start, other.log_start),
            torch.where(mask, self.log_target, other.log_target),
            torch.where(wide, self.start_gradient, other.start_gradient),
            torch.where(wide, self.target_gradient, other.target_gradient),
        )


Score: TypeAlias = Callable[[Tensor], AnnealedState]
