"""A log-sum-exp over columns that arrive tile by tile."""

from typing import Final, final

import torch
from torch import Tensor

# exp of anything lower is subnormal, and costs 50 to 100 times as much
_LOWEST_EXPONENT: Final = -700.0
_HIGHEST_EXPONENT: Final = 300.0


@final
class RunningLogSumExp:
    r"""log Σ_n exp(t_mn) for rows m, in memory that does not grow with the columns n.

    >>> import torch
    >>> running = RunningLogSumExp(torch.zeros(2, dtype=torch.float64))
    >>> for _ in range(8):
    ...     running.add(torch.arange(2), torch.zeros(2, 3, dtype=torch.float64))
    >>> running.result().exp()
    tensor([24.0000, 24.0000], dtype=torch.float64)
    """

    def __init__(self, like: Tensor) -> None:
        # a finite start, so that a tile of -inf alone does not turn into inf - inf
        self.reference = torch.full_like(like, torch.finfo(like.dtype).min)  # (rows,)
        self.total = torch.zeros_like(like)  # (rows,)

    def bears(self, rows: Tensor, bound: Tensor) -> bool:
        """Whether scores up to ``bound``, (chosen,), can be taken in relative to the present reference."""
        return bool((bound - self.reference[rows] <= _HIGHEST_EXPONENT).all())

    def add(self, rows: Tensor, tile: Tensor) -> None:
        """Take in a tile (chosen, columns) of some rows (chosen,); the tile is overwritten."""
        before = self.reference[rows]
        reference = torch.maximum(before, tile.amax(1))
        self.total[rows] *= (before - reference).exp_()
        self.reference[rows] = reference
        self.add_relative(rows, tile.sub_(reference[:, None]))

    def add_relative(self, rows: Tensor, tile: Tensor) -> None:
        """Take in a tile from which the rows' reference is subtracted already."""
        self.total[rows] += tile.clamp_(min=_LOWEST_EXPONENT).exp_().sum(1)

    def result(self) -> Tensor:
        empty = self.reference == torch.finfo(self.reference.dtype).min
        return (self.reference + self.total.log()).masked_fill(empty, -torch.inf)
