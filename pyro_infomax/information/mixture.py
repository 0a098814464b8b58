"""What one pass over the components of the aggregate posterior finds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor


@final
@dataclass(frozen=True)
class Mixture:
    """The log-density of an equally weighted mixture, with and without the own component of each point.

    ``leave_one_out`` is None when no own component was named, and nan for a mixture of one component.
    """

    log_prob: Tensor  # (points,) or (points, latent)
    leave_one_out: Tensor | None

    @classmethod
    def of(cls, others: Tensor, own: Tensor | None, size: int) -> "Mixture":
        """From the log-sums over the other components: subtracting from the full sum would cancel."""
        if own is None:
            return cls(others - math.log(size), None)
        left = others - math.log(size - 1) if size > 1 else torch.full_like(others, math.nan)
        return cls(torch.logaddexp(others, own) - math.log(size), left)

    @property
    def last(self) -> "Mixture":
        """The last column of several."""
        left = self.leave_one_out
        return Mixture(self.log_prob[..., -1], None if left is None else left[..., -1])

    def less(self, stretch: Tensor) -> "Mixture":
        """The densities of what a map stretches by this log-volume."""
        left = self.leave_one_out
        return Mixture(self.log_prob - stretch, None if left is None else left - stretch)

    @classmethod
    def cat(cls, parts: Sequence["Mixture"]) -> "Mixture":
        left = [part.leave_one_out for part in parts if part.leave_one_out is not None]
        return cls(torch.cat([part.log_prob for part in parts]), torch.cat(left) if left else None)

    @classmethod
    def stack(cls, parts: Sequence["Mixture"]) -> "Mixture":
        """Latent dimensions side by side."""
        left = [part.leave_one_out for part in parts if part.leave_one_out is not None]
        joint = torch.stack([part.log_prob for part in parts], dim=-1)
        return cls(joint, torch.stack(left, dim=-1) if left else None)
