"""Flows of Pyro's transforms."""

from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from pyro.distributions.conditional import (
    ConditionalComposeTransformModule,
    ConditionalTransform,
    ConstantConditionalTransform,
)
from pyro.distributions.transforms import BatchNorm
from torch import Tensor, nn
from torch.distributions import ComposeTransform, Transform
from torch.distributions.transforms import _InverseTransform
from torch.distributions.utils import _sum_rightmost

from pyro_infomax.flows.flow import Flow, log_normal

__all__ = ["TransformFlow"]


@final
class TransformFlow(Flow):
    r"""Standard Normal noise through transforms of Pyro, conditional ones and others.

    .. math::
        z = (T_n \circ \cdots \circ T_1)(\varepsilon), \qquad
        \log q(z) = \log \mathcal{N}(\varepsilon; 0, 1) - \textstyle\sum_i \log |\det \partial T_i|

    The transforms themselves are left without a memory of what they were applied to, so that they can be
    copied and pickled at any time. What a transform is composed of becomes a part of the flow.

    Args:
        transforms: in the order in which they lead from noise to z, or to noise if ``to_noise``.
        event_size: number of elements of a vector.
        to_noise: the transforms lead from z to noise, as in a prior, which is scored more than it is drawn
            from.

    Raises:
        ValueError: for batch normalisation, which is no bijection of single vectors.

    Example:
        >>> import pyro.distributions as dist
        >>> flow = TransformFlow([dist.transforms.conditional_affine_autoregressive(2, 3)], 2)
        >>> flow(torch.zeros(5, 3)).sample().shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        transforms: Iterable[Transform | ConditionalTransform],
        event_size: int,
        *,
        to_noise: bool = False,
    ) -> None:
        super().__init__(event_size)
        steps = [step for transform in transforms for step in _steps(transform)]
        self._steps = _turned(steps) if to_noise else steps
        self.transforms = nn.ModuleList([s.transform for s in steps if isinstance(s.transform, nn.Module)])

    @property
    def is_conditional(self) -> bool:
        """Whether any of the transforms needs a context."""
        return any(isinstance(step.transform, ConditionalTransform) for step in self._steps)

    def draw(self, context: Tensor | None, batch: torch.Size) -> tuple[Tensor, Tensor]:
        """Vectors (*batch, event) and their log-densities, (*batch)."""
        value = self.noise(batch).reshape(-1, self.event_size)
        score = log_normal(value)
        for step in self._conditioned(context, batch):
            value, log_det = step.run(value)
            score = score - log_det
        return value.reshape(*batch, self.event_size), score.reshape(batch)

    def score(self, value: Tensor, context: Tensor | None) -> Tensor:
        """Log-densities, (...), of vectors (..., event)."""
        batch = value.shape[:-1]
        if context is not None:
            batch = torch.broadcast_shapes(batch, context.shape[:-1])
        rows = value.expand(*batch, self.event_size).reshape(-1, self.event_size)
        total: Tensor | float = 0.0
        for step in self._conditioned(context, batch)[::-1]:
            rows, log_det = replace(step, back=not step.back).run(rows)
            total = total + log_det
        return (log_normal(rows) + total).reshape(batch)

    def _conditioned(self, context: Tensor | None, batch: torch.Size) -> list["_Step"]:
        # Not every transform broadcasts, or takes more than one leading axis
        rows = None if context is None else context.expand(*batch, -1).reshape(-1, context.shape[-1])
        return [step.given(rows) for step in self._steps]


@final
@dataclass(frozen=True)
class _Step:
    """A transform, used forwards or back."""

    transform: Any
    back: bool

    def given(self, context: Tensor | None) -> "_Step":
        transform = self.transform
        if isinstance(transform, ConditionalTransform):
            return replace(self, transform=transform.condition(context))
        return replace(self, transform=_without_memory(transform))

    def run(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The image, and the log-determinant of this way."""
        if not self.back:
            image = self.transform(value)
            return image, self._log_det(value, image)
        image = self._inverse(value)
        return image, -self._log_det(image, value)

    def _inverse(self, value: Tensor) -> Tensor:
        try:
            return self.transform.inv(value)
        except (KeyError, NotImplementedError) as error:
            raise NotImplementedError(
                f"Expected a transform that can be inverted but got {type(self.transform).__name__}, which "
                "scores nothing but its own draws, and in a prior cannot be drawn from: take one such as "
                "dist.transforms.conditional_affine_autoregressive, or flow=None."
            ) from error

    def _log_det(self, x: Tensor, y: Tensor) -> Tensor:
        log_det = self.transform.log_abs_det_jacobian(x, y)
        return _sum_rightmost(log_det, 1 - self.transform.domain.event_dim)


def _steps(transform: Any) -> list[_Step]:
    """What a transform is composed of.

    torch's inverses and compositions do not survive copies, nor do they show their parameters.
    """
    match transform:
        case _InverseTransform():
            return _turned(_steps(transform.inv))
        case ComposeTransform():
            return [step for part in transform.parts for step in _steps(part)]
        case ConditionalComposeTransformModule():
            return [step for part in transform.transforms for step in _steps(part)]
        case ConstantConditionalTransform():
            return _steps(transform.transform)
        case BatchNorm():
            raise ValueError(
                "Expected transforms that act on each vector by itself but got BatchNorm, under which the "
                "density of a vector depends on the others of its batch: leave it out."
            )
    return [_Step(transform, back=False)]


def _turned(steps: list[_Step]) -> list[_Step]:
    return [replace(step, back=not step.back) for step in steps[::-1]]


def _without_memory(transform: Any) -> Any:
    """The same parameters in an object that keeps for itself what it remembers."""
    twin = copy(transform)
    # torch keeps the inverse once it is asked for: it is that of the original
    twin._inv = None
    if isinstance(transform, nn.Module):
        parts = transform._modules.items()  # named_children() leaves out what has two names
        twin._modules = {n: _without_memory(p) if isinstance(p, Transform) else p for n, p in parts}
    return twin
