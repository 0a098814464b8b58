"""What a flow makes of a context: a distribution that knows the density of its own draws."""

from typing import Any, ClassVar, Protocol, Self, final

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions.constraints import Constraint

__all__ = ["Conditional", "FlowDistribution"]

Shape = torch.Size | list[int] | tuple[int, ...]


class Conditional(Protocol):
    """What a distribution needs of a flow."""

    event_size: int
    has_rsample: bool

    def draw(self, context: Tensor | None, batch: torch.Size) -> tuple[Tensor, Tensor]:
        """Vectors (*batch, event) and their log-densities, (*batch)."""

    def score(self, value: Tensor, context: Tensor | None) -> Tensor:
        """The log-density, (...), of vectors (..., event); vectors and contexts broadcast."""


@final
class FlowDistribution(TorchDistribution):
    r"""A flow, moved and scaled.

    .. math::
        z = m + s \odot T(\varepsilon; c), \qquad
        \log q(z \mid c) = \log q_T\bigl((z - m) / s \mid c\bigr) - \textstyle\sum_j \log s_j

    A draw is scored while it is made; ``log_prob`` of that very tensor returns this score, exact and
    differentiable by the parameters, and does not run the flow backwards. Any other value, a copy too, is
    scored by the flow, with its leading axes broadcast against the batch: values (M, 1, d) under a batch (N,)
    give (M, N).

    Args:
        flow: the flow.
        context: (*batch, context); None where the flow has no context.
        batch_shape: of the distribution, with which the context broadcasts.
        loc: m, (*batch, event); None for 0.
        scale: s > 0, (*batch, event); None for 1.

    Example:
        >>> from pyro_infomax.flows import CouplingFlow
        >>> q = CouplingFlow(2, 3)(torch.zeros(5, 3))
        >>> q.batch_shape, q.event_shape, q.log_prob(torch.zeros(4, 1, 2)).shape
        (torch.Size([5]), torch.Size([2]), torch.Size([4, 5]))
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}
    support = constraints.real_vector

    def __init__(
        self,
        flow: Conditional,
        context: Tensor | None = None,
        *,
        batch_shape: Shape = (),
        loc: Tensor | None = None,
        scale: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.flow = flow
        self.context = context
        self.loc, self.scale = loc, scale
        self.has_rsample = flow.has_rsample
        self._last = _LastDraw()
        event_shape = torch.Size([flow.event_size])
        super().__init__(torch.Size(batch_shape), event_shape, validate_args=validate_args)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> Self:
        """The same over a larger batch."""
        new = type(self)(
            self.flow,
            self.context,
            batch_shape=batch_shape,
            loc=self.loc,
            scale=self.scale,
            validate_args=False,
        )
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """Draws (*sample_shape, *batch, event), with gradients."""
        value, score = self.flow.draw(self.context, torch.Size(sample_shape) + self.batch_shape)
        if self.loc is not None:
            value = value + self.loc if self.scale is None else torch.addcmul(self.loc, self.scale, value)
        elif self.scale is not None:
            value = value * self.scale
        self._last.keep(value, score - self._log_scale())
        return value

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Draws (*sample_shape, *batch, event), without gradients."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z|c), (...), of z (..., event), in nats."""
        if self._validate_args:
            self._validate_sample(value)
        score = self._last.recall(value)
        if score is None:
            moved = value if self.loc is None else value - self.loc
            moved = moved if self.scale is None else moved / self.scale
            score = self.flow.score(moved, self.context) - self._log_scale()
        return score.expand(torch.broadcast_shapes(value.shape[:-1], self.batch_shape))

    def _log_scale(self) -> Tensor | float:
        return 0.0 if self.scale is None else self.scale.log().sum(-1)


@final
class _LastDraw:
    """One value and its score; copies and pickles forget it, since its graph cannot go with them."""

    def __init__(self) -> None:
        self._value: Tensor | None = None
        self._score: Tensor | None = None
        self._version: int | None = None
        self._with_grad = False

    def keep(self, value: Tensor, score: Tensor) -> None:
        self._value, self._score = value, score
        self._version, self._with_grad = _version(value), torch.is_grad_enabled()

    def recall(self, value: Tensor) -> Tensor | None:
        """The score, if this is the value and the score has the gradient that is wanted now."""
        known = value is self._value and _version(value) == self._version
        return self._score if known and (self._with_grad or not torch.is_grad_enabled()) else None

    def __reduce__(self) -> tuple[Any, ...]:
        return _LastDraw, ()


def _version(value: Tensor) -> int | None:
    """What changes with every change in place; torch does not count those of inference mode."""
    return None if value.is_inference() else value._version
