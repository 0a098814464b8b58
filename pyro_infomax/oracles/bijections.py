"""Maps that change the margins of a vector and none of its information."""

from abc import ABC, abstractmethod
from typing import Any, final

import torch
from torch import Tensor
from torch.distributions import Transform, constraints


class _Increasing(Transform, ABC):
    """An increasing map of every coordinate by itself."""

    domain: Any = constraints.real
    codomain: Any = constraints.real
    bijective = True
    sign = 1

    @abstractmethod
    def _call(self, x: Tensor) -> Tensor:
        """y."""

    @abstractmethod
    def _inverse(self, y: Tensor) -> Tensor:
        """x."""

    @abstractmethod
    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """ln dy/dx."""


@final
class HalfCube(_Increasing):
    r"""Longer tails: :math:`x \mapsto x |x|^{1/2}`.

    Reference: Czyż et al. (2023), *Beyond Normal: On the Evaluation of Mutual Information Estimators*.

    Example:
        >>> HalfCube()(torch.tensor([-4.0, 4.0])).tolist()
        [-8.0, 8.0]
    """

    def _call(self, x: Tensor) -> Tensor:
        return x * x.abs().sqrt()

    def _inverse(self, y: Tensor) -> Tensor:
        return y.sign() * y.abs().pow(2 / 3)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        """ln 3/2 + 1/2 ln abs(x)."""
        return (1.5 * x.abs().sqrt()).log()


@final
class Asinh(_Increasing):
    r"""Shorter tails: :math:`x \mapsto \operatorname{asinh} x`.

    Reference: Czyż et al. (2023), *Beyond Normal: On the Evaluation of Mutual Information Estimators*.

    Example:
        >>> round(Asinh()(torch.tensor(1.0)).sinh().item(), 4)
        1.0
    """

    def _call(self, x: Tensor) -> Tensor:
        return x.asinh()

    def _inverse(self, y: Tensor) -> Tensor:
        return y.sinh()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        """-1/2 ln(1 + x^2)."""
        return -0.5 * x.square().log1p()


@final
class NormalCdf(_Increasing):
    """Uniform margins for a vector of standard normal ones: its copula.

    Reference: Czyż et al. (2023), *Beyond Normal: On the Evaluation of Mutual Information Estimators*.

    Example:
        >>> NormalCdf()(torch.tensor(0.0)).item()
        0.5
    """

    codomain = constraints.unit_interval

    def _call(self, x: Tensor) -> Tensor:
        return torch.special.ndtr(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return torch.special.ndtri(y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        """The standard normal log-density."""
        return torch.distributions.Normal(torch.zeros_like(x), 1.0).log_prob(x)


@final
class Spiral(Transform):
    r"""Winds the plane of the first two coordinates: a rotation by the angle :math:`v |x|^2`.

    The map keeps lengths and volumes, and mixes coordinates that were independent.

    Reference: Czyż et al. (2023), *Beyond Normal: On the Evaluation of Mutual Information Estimators*.

    Args:
        speed: v, in radians.

    Example:
        >>> turned = Spiral(torch.pi / 2)(torch.tensor([1.0, 0.0]))
        >>> [round(value, 6) + 0.0 for value in turned.tolist()]
        [0.0, 1.0]
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, speed: float) -> None:
        super().__init__()
        self.speed = speed

    def _call(self, x: Tensor) -> Tensor:
        return _turned(x, self.speed)

    def _inverse(self, y: Tensor) -> Tensor:
        return _turned(y, -self.speed)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        """Zero."""
        return torch.zeros_like(x[..., 0])


def _turned(x: Tensor, speed: float) -> Tensor:
    if x.shape[-1] < 2:
        raise ValueError(f"Expected at least 2 coordinates to wind but got {x.shape[-1]}.")
    angle = speed * x.square().sum(-1)
    first, second = x[..., 0], x[..., 1]
    plane = [angle.cos() * first - angle.sin() * second, angle.sin() * first + angle.cos() * second]
    return torch.cat([torch.stack(plane, dim=-1), x[..., 2:]], dim=-1)
