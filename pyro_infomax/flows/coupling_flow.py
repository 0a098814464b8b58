"""The flow that is used where none is given: couplings of splines, which cost the same in both directions."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, cast, final

import torch
from torch import Tensor, nn

from pyro_infomax.flows.flow import Flow, log_normal
from pyro_infomax.flows.rational_spline import RationalSpline

__all__ = ["CouplingFlow"]

_MAX_LOG_SCALE: Final = 2.0
# Over the width: Adam moves all weights at once, and would throw the flow far off by its first few steps
_GAIN: Final = 4.0


@final
class CouplingFlow(Flow):
    r"""Rational-quadratic splines whose shape depends on the context and on the elements that stay.

    .. math::
        y_{\text{stay}} = x_{\text{stay}}, \qquad
        y_{\text{move}} = t + e^{s} \odot \mathrm{spline}(x_{\text{move}}), \qquad
        (t, s, \mathrm{spline}) = \mathrm{net}(x_{\text{stay}}, c)

    in each layer, with another part of the elements moving. It begins as the identity. Draws and
    scores of any values cost one pass each, and the context passes its first layer once for each datum, not
    for each pair of value and datum.

    Reference: Durkan, Bekasov, Murray and Papamakarios, 2019, "Neural spline flows"; Dinh, Sohl-Dickstein and
    Bengio, 2017, "Density estimation using Real NVP".

    Args:
        event_size: number of elements of a vector.
        context_size: number of elements of a context; 0 for none.
        layers: number of couplings.
        bins: of each spline.
        hidden: widths of the network of each coupling.

    Raises:
        ValueError: for a size below 1, or fewer than two bins.

    Example:
        >>> flow = CouplingFlow(2)
        >>> flow().sample((3,)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        event_size: int,
        context_size: int = 0,
        *,
        layers: int = 4,
        bins: int = 8,
        hidden: Sequence[int] = (64, 64),
    ) -> None:
        super().__init__(event_size)
        if layers < 1 or bins < 2 or not hidden or min(hidden) < 1:
            raise ValueError(
                f"Expected layers >= 1, bins >= 2 and hidden widths >= 1 but got {layers}, {bins} and "
                f"{tuple(hidden)}."
            )
        moving = _moving(event_size)
        self.layers = nn.ModuleList(
            [_Coupling(next(moving), context_size, bins=bins, hidden=hidden) for _ in range(layers)]
        )

    def draw(self, context: Tensor | None, batch: torch.Size) -> tuple[Tensor, Tensor]:
        """Vectors (*batch, event) and their log-densities, (*batch)."""
        value = self.noise(batch)
        score = log_normal(value)
        for layer in self._couplings:
            value, log_det = layer(value, context)
            score = score - log_det
        return value, score

    def score(self, value: Tensor, context: Tensor | None) -> Tensor:
        """Log-densities, (...), of vectors (..., event)."""
        total: Tensor | float = 0.0
        for layer in reversed(self._couplings):
            value, log_det = layer.backward(value, context)
            total = total + log_det
        return log_normal(value) - total

    @property
    def _couplings(self) -> "list[_Coupling]":
        return cast(list[_Coupling], list(self.layers))


@final
class _Coupling(nn.Module):
    order: Tensor
    back: Tensor

    def __init__(self, moves: Tensor, context_size: int, *, bins: int, hidden: Sequence[int]) -> None:
        super().__init__()
        # The elements that stay, then those that move
        self.register_buffer("order", moves.long().argsort(stable=True), persistent=False)
        self.register_buffer("back", self.order.argsort(), persistent=False)
        self.moving = int(moves.sum())
        self.staying = len(moves) - self.moving
        self.of_staying = nn.Linear(self.staying, hidden[0], bias=False) if self.staying else None
        self.of_context = nn.Linear(context_size, hidden[0], bias=False) if context_size else None
        self.bias = nn.Parameter(torch.zeros(hidden[0]))
        self.net = _net(hidden, self.moving * (3 * bins + 1))
        self.gain = _GAIN / hidden[-1]

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        stay, move = self._split(x)
        shift, log_scale, spline = self._shape(stay, context)
        bent, log_slope = spline.forward(_over(move, shift))
        log_det = (log_slope + log_scale).sum(-1)
        return self._join(stay, torch.addcmul(shift, log_scale.exp(), bent)), log_det

    def backward(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """x and the log-determinant of the way from x to y."""
        stay, move = self._split(y)
        shift, log_scale, spline = self._shape(stay, context)
        straight, log_slope = spline.backward((move - shift) * (-log_scale).exp())
        return self._join(stay, straight), (log_slope + log_scale).sum(-1)

    def _shape(self, stay: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, RationalSpline]:
        hidden = self.bias
        if self.of_context is not None:
            hidden = hidden + self.of_context(context)
        if self.of_staying is not None:
            hidden = hidden + self.of_staying(stay)
        raw = self.gain * self.net(hidden).unflatten(-1, (self.moving, -1))  # (..., moving, parameters)
        shift, log_scale = raw[..., 0], _MAX_LOG_SCALE * (raw[..., 1] / _MAX_LOG_SCALE).tanh()
        return shift, log_scale, RationalSpline.of(raw[..., 2:])

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        stay, move = x[..., self.order].split([self.staying, self.moving], -1)
        return stay, move

    def _join(self, stay: Tensor, move: Tensor) -> Tensor:
        # The batch of the context may have joined that of the elements that stay
        whole = torch.cat([stay.expand(*move.shape[:-1], self.staying), move], -1)
        return whole[..., self.back]


def _net(hidden: Sequence[int], out: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.SiLU()]
    for before, after in pairwise(hidden):
        layers += [nn.Linear(before, after), nn.SiLU()]
    last = nn.Linear(hidden[-1], out)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


def _moving(size: int) -> Iterator[Tensor]:
    """Halves that take turns: every second element and the others, the last and the first ones."""
    index = torch.arange(size)
    odd, late = index % 2 == 1, index >= size // 2
    while True:
        yield from [odd, ~odd, late, ~late] if size > 1 else [late]


def _over(move: Tensor, shift: Tensor) -> Tensor:
    return move.expand(torch.broadcast_shapes(move.shape, shift.shape))
