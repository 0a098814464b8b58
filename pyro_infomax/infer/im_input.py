"""Inputs that keep to a constraint by the way they are made."""

import math
from typing import final

import pyro.distributions as dist
import torch
from torch import Tensor, nn

__all__ = ["PowerLimitedNormal"]


@final
class PowerLimitedNormal(nn.Module):
    r"""A Normal input of independent dimensions, whose power never exceeds a limit.

    .. math:: x_j \sim \mathcal{N}(0, \sigma_j^2) , \qquad
        \sigma^2 = P \, \mathrm{softmax}(a)_{1 \dots d} , \quad a \in \mathbb{R}^{d+1} ,
        \qquad \text{hence} \quad \mathbb{E} \lVert x \rVert^2 = \sum_j \sigma_j^2 \le P .

    The last share of the softmax is power that stays unused. Trained through Gaussian noise of variances
    :math:`N_j`, the shares become those of water-filling, :math:`\sigma_j^2 = \max(0, \nu - N_j)` (Cover and
    Thomas, 2006, Elements of Information Theory, section 9.4).

    Args:
        dim: number of dimensions, d.
        power: the limit P on the expected squared length, in the squared unit of x.

    Raises:
        ValueError: if ``dim`` is below 1 or ``power`` is not positive and finite.

    Example:
        >>> source = PowerLimitedNormal(3, power=2.0)
        >>> source.variances.detach()
        tensor([0.5000, 0.5000, 0.5000])
        >>> x = source().sample((5,))
        >>> x.shape
        torch.Size([5, 3])
    """

    def __init__(self, dim: int, *, power: float) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"Expected dim >= 1 but got {dim}.")
        if not 0 < power < math.inf:
            raise ValueError(f"Expected a positive, finite power but got {power}.")
        self.power = float(power)
        self.share_logits = nn.Parameter(torch.zeros(dim + 1))  # the last one stays unused

    @property
    def variances(self) -> Tensor:
        """The power of each dimension, (dim,), positive; their sum keeps to the limit in rounding too."""
        shares = self.share_logits.softmax(-1)[:-1]
        rounding = torch.finfo(shares.dtype)
        return (self.power * (1 - 4 * rounding.eps) * shares).clamp(min=rounding.tiny)

    def forward(self) -> dist.TorchDistribution:
        """The distribution of x, event shape (dim,)."""
        return dist.Normal(0.0, self.variances.sqrt()).to_event(1)
