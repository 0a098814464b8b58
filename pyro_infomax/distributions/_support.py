"""From the reals to the support of a latent site."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Self, cast, final

import pyro.distributions as dist
import torch
from pyro.distributions import constraints, transforms
from torch import Tensor
from torch.distributions import Distribution, Transform, biject_to
from torch.distributions.constraints import Constraint

from pyro_infomax._checks import shown
from pyro_infomax.distributions._families import without_event_axes
from pyro_infomax.distributions._transforms import (
    AffineWithin,
    CorrCholesky,
    Exp,
    LowerCholesky,
    StickBreaking,
)

_Real = type(constraints.real)
_Greater = type(constraints.positive)
_GreaterEqual = type(constraints.nonnegative)
_Simplex = type(constraints.simplex)
_CorrCholesky = type(constraints.corr_cholesky)
_CorrMatrix = type(constraints.corr_matrix)
_LowerCholesky = type(constraints.lower_cholesky)
_PositiveDefinite = type(constraints.positive_definite)
_PositiveSemidefinite = type(constraints.positive_semidefinite)


@final
@dataclass(frozen=True)
class SiteTransform:
    r"""How a real vector u becomes one latent z of a site, with the density that follows.

    .. math:: q(z) = q(u)\, \Bigl|\det \frac{\partial z}{\partial u}\Bigr|^{-1}, \qquad z = T(u)

    Build it by :meth:`of`. Densities are with respect to the measure that Pyro's priors on the same support
    use: all but the last part of a simplex, the lower triangle of a matrix.

    Args:
        support: of a latent, without wrappers that only count event axes.
        event_shape: shape of one latent.

    Example:
        >>> site = SiteTransform.of(constraints.simplex, (3,))
        >>> site.unconstrained_shape, site.size, site.is_elementwise
        (torch.Size([2]), 2, False)
        >>> site.constrain(torch.zeros(5, 2))[0]
        tensor([0.3333, 0.3333, 0.3333])
        >>> normal = dist.Normal(torch.zeros(5, 2), 1.0).to_event(1)
        >>> site.distribution(normal).event_shape
        torch.Size([3])
    """

    support: Constraint
    event_shape: torch.Size

    @classmethod
    def of(cls, support: Constraint, event_shape: Sequence[int]) -> Self:
        """The transform of a site.

        Args:
            support: constraint of the site's prior, with or without ``independent`` around it. Bounds may be
                tensors, but not differ from datum to datum.
            event_shape: shape of one latent; ``()`` for a scalar.

        Raises:
            NotImplementedError: for discrete supports, for supports without a bijection from the reals, and
                for bounds that differ from datum to datum.
            ValueError: if the event shape does not fit the support, or leaves nothing free.
            TypeError: if they are no support and no shape.
        """
        if not isinstance(support, Constraint):
            raise TypeError(
                f"Expected a constraint, such as the support of a distribution, but got {shown(support)}."
            )
        try:
            shape = torch.Size(event_shape)
        except TypeError:
            raise TypeError(f"Expected an event shape, integers, but got {shown(event_shape)}.") from None
        base = unwrapped(support)
        _check_continuous(base)
        site = cls(_with_common_bounds(base, shape), shape)
        site._check_event_shape()
        return site

    @property
    def is_real(self) -> bool:
        """Whether the latent is real, and no transform is needed."""
        return isinstance(self.support, _Real)

    @property
    def is_positive(self) -> bool:
        """Whether the support is bounded by 0 from below, and by nothing from above."""
        return isinstance(self.support, (_Greater, _GreaterEqual)) and _is_number(self.support.lower_bound, 0)

    @cached_property
    def is_elementwise(self) -> bool:
        """Whether every element of the latent is transformed by itself."""
        return all(t.domain.event_dim == t.codomain.event_dim == 0 for t in self.transforms())

    @cached_property
    def unconstrained_shape(self) -> torch.Size:
        """Shape of one latent before the transform; (K-1,) for a simplex (K,)."""
        return torch.Size(_compose(self.transforms()).inverse_shape(self.event_shape))

    @property
    def size(self) -> int:
        """Number of reals that make one latent."""
        return self.unconstrained_shape.numel()

    def transforms(self) -> list[Transform]:
        """Transforms that lead from (..., \\*unconstrained_shape) to (..., \\*event_shape).

        They are made anew at each call, and each remembers the value that it made last: scoring one's
        own draw needs no inverse, which is exact also where the inverse is not.

        Returns:
            Transforms in the order in which they are applied; none for a real site.
        """
        return _transforms(self.support)

    def constrain(self, u: Tensor) -> Tensor:
        """The latent that a vector of reals stands for.

        Args:
            u: reals, (..., size).

        Returns:
            Latents, (..., \\*event_shape).
        """
        z: Tensor = _compose(self.transforms())(u.reshape(u.shape[:-1] + self.unconstrained_shape))
        return z

    def distribution(self, base: dist.TorchDistribution) -> dist.TorchDistribution:
        """The distribution of z = T(u).

        Args:
            base: of u, with event shape (size,).

        Returns:
            A distribution with the batch shape of ``base`` and the event shape of the site; ``base`` itself
            where the site is a real vector.
        """
        flat, shape = torch.Size([self.size]), self.unconstrained_shape
        steps = self.transforms()
        if shape != flat:
            steps.insert(0, transforms.ReshapeTransform(flat, shape, cache_size=1))
        return dist.TransformedDistribution(base, steps) if steps else base

    def normal(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        """The distribution of z where the elements of u are independent Normals, (..., size).

        Where T acts on each element by itself, so are the elements of z, and the distribution says so:
        ``Normal`` for real sites, ``LogNormal`` for positive ones.

        Args:
            loc: means of u, (..., size).
            scale: standard deviations of u, (..., size).

        Returns:
            A distribution with batch shape (...) and the event shape of the site.
        """
        if not self.is_elementwise:
            return self.distribution(dist.Normal(loc, scale).to_event(1))
        shape = loc.shape[:-1] + self.event_shape
        return self._elementwise(loc.reshape(shape), scale.reshape(shape)).to_event(len(self.event_shape))

    def _elementwise(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        if self.is_real:
            return dist.Normal(loc, scale)
        if not self.is_positive:
            return dist.TransformedDistribution(dist.Normal(loc, scale), self.transforms())
        log_normal = dist.LogNormal(loc, scale)
        # The class is known to closed forms; its own transform would round to 0 and infinity
        log_normal.transforms = self.transforms()
        return log_normal

    def _check_event_shape(self) -> None:
        need = _compose(self.transforms()).codomain.event_dim
        if len(self.event_shape) < need:
            raise ValueError(
                f"Expected an event shape of at least {need} axes for support {self.support} but got "
                f"{tuple(self.event_shape)}."
            )
        shape = self.unconstrained_shape
        if _compose(self.transforms()).forward_shape(shape) != self.event_shape:
            raise ValueError(
                f"Expected an event shape that fits support {self.support} but got {tuple(self.event_shape)}."
            )
        if shape.numel() == 0:
            raise ValueError(
                f"Expected an event with something to infer but support {self.support} leaves nothing free "
                f"in shape {tuple(self.event_shape)}: make the site a constant."
            )


def unwrapped(support: Constraint) -> Constraint:
    """A support without ``independent``, and without what a mixture puts around that of its components."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def _transforms(support: Any) -> list[Transform]:
    """New bijections from the reals, in order."""
    match support:
        case _Real():
            return []
        case _Greater() | _GreaterEqual():
            return _above(support.lower_bound)
        case constraints.less_than():
            high = support.upper_bound
            return [Exp(cache_size=1), AffineWithin(high, -1, high=high, cache_size=1)]
        case constraints.interval() | constraints.half_open_interval():
            return _between(support.lower_bound, support.upper_bound)
        case _Simplex():
            return [StickBreaking(cache_size=1)]
        case _CorrCholesky():
            return [CorrCholesky(cache_size=1)]
        case _CorrMatrix():
            return [CorrCholesky(cache_size=1), transforms.CorrMatrixCholeskyTransform(cache_size=1).inv]
        case _LowerCholesky():
            return [LowerCholesky(cache_size=1)]
        case _PositiveDefinite() | _PositiveSemidefinite():
            return [LowerCholesky(cache_size=1), transforms.CholeskyTransform(cache_size=1).inv]
    return _registered(support)


def _above(low: Tensor | float) -> list[Transform]:
    exp = Exp(cache_size=1)
    return [exp] if _is_number(low, 0) else [exp, AffineWithin(low, 1, low=low, cache_size=1)]


def _between(low: Tensor | float, high: Tensor | float) -> list[Transform]:
    sigmoid = transforms.SigmoidTransform(cache_size=1)
    if _is_number(low, 0) and _is_number(high, 1):
        return [sigmoid]
    return [sigmoid, AffineWithin(low, high - low, low=low, high=high, cache_size=1)]


def _registered(support: Constraint) -> list[Transform]:
    try:
        transform = biject_to(support)
    except NotImplementedError:
        raise NotImplementedError(
            f"Expected a support to which the reals can be mapped one to one but got {support}: give the "
            "site a distribution on that support, heads={name: ...}, a distribution class or a module."
        ) from None
    return [transform.with_cache(1)]


def _check_continuous(support: Constraint) -> None:
    if constraints.is_dependent(support):
        raise NotImplementedError(
            "Expected the support of a distribution but got one that depends on unknown parameters: give the "
            "site a distribution of its own, heads={name: ...}, a distribution class or a module."
        )
    if support.is_discrete:
        raise NotImplementedError(
            f"Expected a continuous support but got {support}: discrete sites are served by "
            "AmortizedDiscrete, in a guide of another family by heads={name: AmortizedDiscrete}."
        )


def _with_common_bounds(support: Any, event_shape: torch.Size) -> Any:
    """The support of every datum, with numbers for bounds where all elements agree."""
    match support:
        case _Greater():
            return constraints.greater_than(_common(support.lower_bound, support, event_shape))
        case _GreaterEqual():
            return constraints.greater_than_eq(_common(support.lower_bound, support, event_shape))
        case constraints.less_than():
            return type(support)(_common(support.upper_bound, support, event_shape))
        case constraints.interval() | constraints.half_open_interval():
            bounds = (support.lower_bound, support.upper_bound)
            return type(support)(*(_common(bound, support, event_shape) for bound in bounds))
    return support


def _common(bound: Tensor | float, support: Constraint, event_shape: torch.Size) -> Tensor | float:
    if not isinstance(bound, Tensor):
        return float(bound)
    rows = bound.detach().expand(torch.broadcast_shapes(bound.shape, event_shape))
    rows = rows.reshape(-1, *event_shape)  # (data, event)
    if bool((rows != rows[0]).any()):
        raise NotImplementedError(
            f"Expected the same bounds for all data but got {type(support).__name__.strip('_')} with bounds "
            "that differ: let the model sample on a fixed interval and rescale, or give the site a module of "
            "its own, heads={name: ...}."
        )
    same = rows[0] == rows[0].flatten()[0]
    return rows[0].flatten()[0].item() if bool(same.all()) else rows[0].clone()


def _is_number(bound: object, number: float) -> bool:
    return not isinstance(bound, Tensor) and bound == number


def _compose(steps: list[Transform]) -> Transform:
    return transforms.ComposeTransform(steps)


# ---- Values of a site that are far from its draws, which shows what depends on it.

_FAR: Final = 10.0  # times the distance of two draws


_MOST_STATES: Final = 16  # of a discrete distribution, beyond which some are drawn


@torch.no_grad()
def alternatives(fn: Distribution, value: Tensor) -> list[Tensor]:
    """Values like a draw of a distribution, but far from its draws: on both sides, or each other state."""
    other = fn.sample()
    try:
        if not cast(Constraint, fn.support).is_discrete:
            return _beyond(fn, value, other)
        base = without_event_axes(fn)
        if base.has_enumerate_support:
            return _other_states(base, value)
        return [_counts_beyond(fn, value, other)]
    except (RuntimeError, ValueError):  # no bijection, no support, or no list of states
        return [other]


def _other_states(base: Distribution, value: Tensor) -> list[Tensor]:
    events = len(base.event_shape)
    states = base.enumerate_support(expand=False)
    states = states.reshape(len(states), *base.event_shape)
    if len(states) > _MOST_STATES:
        lead = value.shape[: value.dim() - events]
        return [states[torch.randint(len(states), lead)] for _ in range(_MOST_STATES)]
    same = value.unsqueeze(0) == states.reshape(len(states), *[1] * (value.dim() - events), *base.event_shape)
    place = (same.flatten(-events) if events else same.unsqueeze(-1)).all(-1).long().argmax(0)
    return [states[(place + step) % len(states)] for step in range(1, len(states))]


def _counts_beyond(fn: Distribution, value: Tensor, other: Tensor) -> Tensor:
    """Counts without an end: rare ones may have no two draws that differ."""
    far = value + _FAR * (other - value).abs() + torch.randint(2, value.shape)
    return torch.where(cast(Constraint, fn.support).check(far).all(), far, other)


def _beyond(fn: Distribution, value: Tensor, other: Tensor) -> list[Tensor]:
    to_support = biject_to(fn.support)
    start, end = to_support.inv(value), to_support.inv(other)
    sides = [to_support(start + side * _FAR * (end - start)) for side in (1, -1)]
    return [torch.where(far.isfinite(), far, other) for far in sides]
