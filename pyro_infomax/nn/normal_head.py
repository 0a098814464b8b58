"""The head that makes a diagonal Normal of features."""

from collections.abc import Sequence
from math import expm1, log
from typing import final

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus


@final
class NormalHead(nn.Module):
    r"""Features to a Normal distribution over an event.

    .. math:: q(z \mid h) = \mathcal{N}\bigl(z;\, A h + a,\ \mathrm{diag}(\mathrm{softplus}(B h + b))^2\bigr)

    At first every scale is ``init_scale`` (B is zero) and the locations are small.

    Args:
        in_features: number of features.
        event_shape: shape of one latent; ``()`` for a scalar.
        init_scale: standard deviation at first, in units of the latent.

    Raises:
        ValueError: unless init_scale > 0.

    Example:
        >>> q = NormalHead(16, (2, 3), init_scale=0.5)(torch.zeros(5, 16))
        >>> q.batch_shape, q.event_shape
        (torch.Size([5]), torch.Size([2, 3]))
    """

    def __init__(self, in_features: int, event_shape: Sequence[int], *, init_scale: float = 0.5) -> None:
        super().__init__()
        check_init_scale(init_scale)
        self.event_shape = torch.Size(event_shape)
        self.linear = nn.Linear(in_features, 2 * self.event_shape.numel())
        _, raw_weight = self.linear.weight.chunk(2)  # (event, features)
        _, raw_bias = self.linear.bias.chunk(2)
        nn.init.zeros_(raw_weight)
        nn.init.constant_(raw_bias, _inverse_softplus(init_scale))

    def forward(self, features: Tensor) -> dist.Distribution:
        """The distribution.

        Args:
            features: (..., in_features).

        Returns:
            A Normal with batch shape (...) and the event shape of the head.
        """
        loc, raw = self.linear(features).chunk(2, dim=-1)  # (..., event)
        shape = features.shape[:-1] + self.event_shape
        normal = dist.Normal(loc.reshape(shape), softplus(raw).reshape(shape))
        return normal.to_event(len(self.event_shape))


def check_init_scale(init_scale: float) -> None:
    """Raises ValueError unless the scale is a finite number above 0.

    Args:
        init_scale: standard deviation.
    """
    if not 0 < init_scale < float("inf"):
        raise ValueError(f"Expected a finite init_scale > 0 but got {init_scale}.")


def _inverse_softplus(value: float) -> float:
    # expm1 overflows where softplus is the identity to double precision
    return log(expm1(value)) if value < 40 else value
