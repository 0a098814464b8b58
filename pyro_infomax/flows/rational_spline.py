"""Monotone rational-quadratic splines: bends of the real line with both directions in closed form."""

import math
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor
from torch.nn.functional import softplus

__all__ = ["RationalSpline"]

_BOUND: Final = 5.0
_MIN_BIN: Final = 1e-3  # of the interval
_MIN_SLOPE: Final = 1e-2
# softplus of this is the slope 1
_UNIT_SLOPE: Final = math.log(math.expm1(1.0 - _MIN_SLOPE))


@final
@dataclass(frozen=True)
class RationalSpline:
    r"""A bijection of the reals that bends [-5, 5] and leaves the rest as it is.

    Between two knots it is a ratio of two quadratics, fixed by the knots and the slopes there; the slopes at
    the ends are 1, so that there is no kink.

    Reference: Gregory and Delbourgo, 1982, "Piecewise rational quadratic interpolation to monotonic data";
    Durkan, Bekasov, Murray and Papamakarios, 2019, "Neural spline flows".

    Args:
        table: positions, images and slopes of the knots, (..., 3, bins + 1).

    Example:
        >>> spline = RationalSpline.of(torch.linspace(-1.0, 1.0, 11))
        >>> y, log_slope = spline.forward(torch.tensor(0.3))
        >>> x, _ = spline.backward(y)
        >>> round(float(x), 4)
        0.3
    """

    table: Tensor

    @classmethod
    def of(cls, raw: Tensor) -> "RationalSpline":
        """The spline of unconstrained parameters; zeros give the identity.

        Args:
            raw: (..., 3 · bins - 1): widths and heights of the bins, slopes at the knots between them.
        """
        bins = (raw.shape[-1] + 1) // 3
        widths, heights, slopes = raw.split([bins, bins, bins - 1], dim=-1)
        ends = torch.ones_like(slopes[..., :1])
        inner = _MIN_SLOPE + softplus(slopes + _UNIT_SLOPE)
        return cls(torch.stack([_knots(widths), _knots(heights), torch.cat([ends, inner, ends], -1)], -2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y and log dy/dx, of x whose shape goes with that of the spline."""
        bent = x.clamp(-_BOUND, _BOUND)
        piece = self._piece(bent, 0)
        y, log_slope = piece.at((bent - piece.x) / piece.width)
        # gradients of the part not chosen are finite, so that where() needs no second mask
        inside = bent == x
        return torch.where(inside, y, x), torch.where(inside, log_slope, 0.0)

    def backward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """x and log dy/dx there."""
        bent = y.clamp(-_BOUND, _BOUND)
        piece = self._piece(bent, 1)
        t = piece.solve(bent - piece.y)
        inside = bent == y
        x, log_slope = piece.x + t * piece.width, piece.at(t)[1]
        return torch.where(inside, x, y), torch.where(inside, log_slope, 0.0)

    def _piece(self, value: Tensor, row: int) -> "_Piece":
        inner = self.table[..., row, 1:-1]  # (..., bins - 1)
        index = (value.unsqueeze(-1) >= inner).sum(-1)
        ends = torch.stack([index, index + 1], -1).unsqueeze(-2)  # (..., 1, 2)
        table = self.table.expand(*value.shape, *self.table.shape[-2:])
        return _Piece(*table.gather(-1, ends.expand(*value.shape, 3, 2)).flatten(-2).unbind(-1))


@final
class _Piece:
    """The ratio of quadratics between two knots, in t = 0 … 1."""

    def __init__(self, x: Tensor, x1: Tensor, y: Tensor, y1: Tensor, slope: Tensor, slope1: Tensor) -> None:
        self.x, self.y, self.slope, self.slope1 = x, y, slope, slope1
        self.width, self.height = x1 - x, y1 - y
        self.chord = self.height / self.width
        self.excess = slope + slope1 - 2 * self.chord

    def at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """y and log dy/dx."""
        q = t * (1 - t)
        denominator = self.chord + self.excess * q
        y = self.y + self.height * (self.chord * t.square() + self.slope * q) / denominator
        rise = self.slope1 * t.square() + 2 * self.chord * q + self.slope * (1 - t).square()
        return y, 2 * self.chord.log() + rise.log() - 2 * denominator.log()

    def solve(self, above: Tensor) -> Tensor:
        """t of a height above the left knot: the root of a quadratic, in the form that does not cancel."""
        a = self.height * (self.chord - self.slope) + above * self.excess
        b = self.height * self.slope - above * self.excess
        c = -self.chord * above
        discriminant = (b.square() - 4 * a * c).clamp_min(torch.finfo(above.dtype).tiny)
        return (2 * c / (-b - discriminant.sqrt())).clamp(0, 1)


def _knots(raw: Tensor) -> Tensor:
    """From one end of the interval to the other, (..., bins + 1)."""
    bins = raw.shape[-1]
    shares = _MIN_BIN + (1 - _MIN_BIN * bins) * raw.softmax(-1)
    inner = _BOUND * (2 * shares[..., :-1].cumsum(-1) - 1)
    end = torch.full_like(raw[..., :1], _BOUND)
    return torch.cat([-end, inner, end], -1)
