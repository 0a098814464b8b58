"""A log-sum-exp over columns that arrive tile by tile."""

from typing import Final, final

import torch
from torch import Tensor

# exp of anything lower is subnormal, and costs 50 to 100 times as much
_LOWEST_EXPONENT: Final = -700.0


@final
class RunningLogSumExp:
    r"""log Σ_n exp(t_mn) for rows m, in memory that does not grow with the columns n.

    >>> import torch
    >>> running = RunningLogSumExp(torch.zeros(2, dtype=torch.float64))
    >>> for _ in range(8):
    ...     running.add(torch.zeros(2, 3, dtype=torch.float64))
    >>> running.result().exp()
    tensor([24.0000, 24.0000], dtype=torch.float64)
    """

    def __init__(self, like: Tensor) -> None:
        # a finite start, so that a tile of -inf alone does not turn into inf - inf
        self.maximum = torch.full_like(like, torch.finfo(like.dtype).min)  # (rows,)
        self.total = torch.zeros_like(like)  # (rows,)

    def add(self, tile: Tensor) -> None:
        """Take in a tile (rows, columns), which is overwritten."""
        maximum = torch.maximum(self.maximum, tile.amax(1))
        self.total *= (self.maximum - maximum).exp_()
        self.total += tile.sub_(maximum[:, None]).clamp_(min=_LOWEST_EXPONENT).exp_().sum(1)
        self.maximum = maximum

    def result(self) -> Tensor:
        empty = self.maximum == torch.finfo(self.maximum.dtype).min
        return (self.maximum + self.total.log()).masked_fill(empty, -torch.inf)
