"""Flows: modules whose forward pass turns a context into a distribution over vectors."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, Final, Self, cast, final

import torch
from pyro.distributions import TorchDistribution, constraints
from pyro.distributions.conditional import (
    ConditionalComposeTransformModule,
    ConditionalTransform,
    ConstantConditionalTransform,
)
from pyro.distributions.transforms import BatchNorm
from torch import Tensor, nn
from torch.distributions import ComposeTransform, Distribution, Transform
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import _InverseTransform
from torch.distributions.utils import _sum_rightmost
from torch.nn.functional import pad, silu, softplus

from pyro_infomax._checks import whole_number
from pyro_infomax._pairs import PAIRS_AT_ONCE, keep_freed_memory
from pyro_infomax.distributions._transforms import ON_ITS_BATCH

# ---- What a flow makes of a context: a distribution that knows the density of its own draws.

Shape = torch.Size | list[int] | tuple[int, ...]


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
        >>> from pyro_infomax.distributions import CouplingFlow
        >>> q = CouplingFlow(2, 3)(torch.zeros(5, 3))
        >>> q.batch_shape, q.event_shape, q.log_prob(torch.zeros(4, 1, 2)).shape
        (torch.Size([5]), torch.Size([2]), torch.Size([4, 5]))
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}
    support = constraints.real_vector

    def __init__(
        self,
        flow: "Flow",
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

    def expand(self, batch_shape: Shape, _instance: object = None) -> Self:
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

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _LastDraw, ()


def _version(value: Tensor) -> int | None:
    """What changes with every change in place; torch does not count those of inference mode."""
    return None if value.is_inference() else value._version


# ---- The base of all flows.


class Flow(nn.Module):
    """A module that turns a context into a distribution over vectors.

    Args:
        event_size: number of elements of a vector.
    """

    origin: Tensor
    has_rsample = True

    def __init__(self, event_size: int) -> None:
        super().__init__()
        self.event_size = whole_number("event_size", event_size, at_least=1)
        self.register_buffer("origin", torch.zeros(event_size), persistent=False)

    @abstractmethod
    def draw(self, context: Tensor | None, batch: torch.Size) -> tuple[Tensor, Tensor]:
        """Vectors and their log-densities.

        Args:
            context: broadcasts with (*batch, context); None where the flow has none.
            batch: how many.

        Returns:
            (*batch, event) and (*batch).
        """
        raise NotImplementedError

    @abstractmethod
    def score(self, value: Tensor, context: Tensor | None) -> Tensor:
        """Log-densities of vectors.

        Args:
            value: (..., event), whose leading axes broadcast with those of the context.
            context: (..., context); None where the flow has none.

        Returns:
            (...), in nats.
        """
        raise NotImplementedError

    def forward(self, context: Tensor | None = None) -> FlowDistribution:
        """The distribution.

        Args:
            context: (..., context); None where the flow has none.

        Returns:
            A distribution with batch shape (...) and event shape (event,).
        """
        batch = torch.Size() if context is None else context.shape[:-1]
        return FlowDistribution(self, context, batch_shape=batch)

    def noise(self, batch: torch.Size) -> Tensor:
        """Standard Normal vectors, (*batch, event)."""
        return torch.randn_like(self.origin.expand(*batch, self.event_size))


def log_normal(noise: Tensor) -> Tensor:
    """The log-density, (...), of standard Normal vectors (..., event)."""
    return -0.5 * (noise.square().sum(-1) + noise.shape[-1] * math.log(2 * math.pi))


# ---- Flows of other libraries: modules that return torch distributions.


@final
class LazyFlow(Flow):
    """A module that turns a context into a torch distribution, as the flows of zuko do.

    Distributions with a method ``rsample_and_log_prob`` draw and score in one pass.

    Args:
        module: called with a context (..., context), or without arguments where there is none.
        event_size: number of elements of a vector.
        context_size: number of elements of a context; 0 for none.

    Raises:
        ValueError: if the module returns anything but a distribution with batch shape (...) and event shape
            (event_size,).
    """

    def __init__(self, module: nn.Module, event_size: int, context_size: int = 0) -> None:
        super().__init__(event_size)
        self.module = module
        like = next(module.parameters(), self.origin)
        with torch.no_grad():
            made = self._made(like.new_zeros(2, context_size) if context_size else None)
        _check_is_over_vectors(made, (2,) if context_size else (), event_size)
        self.has_rsample = made.has_rsample

    def draw(self, context: Tensor | None, batch: torch.Size) -> tuple[Tensor, Tensor]:
        made = self._made(None if context is None else context.expand(*batch, -1))
        shape = batch if context is None else torch.Size()
        if hasattr(made, "rsample_and_log_prob"):
            value, score = made.rsample_and_log_prob(shape)
            return value, score
        value = made.rsample(shape) if made.has_rsample else made.sample(shape)
        return value, made.log_prob(value)

    def score(self, value: Tensor, context: Tensor | None) -> Tensor:
        if context is None:
            return self._made(None).log_prob(value)
        # Some flows of zuko take values without the axes of the context for others, and do not say so
        batch = torch.broadcast_shapes(value.shape[:-1], context.shape[:-1])
        return self._made(context).log_prob(value.expand(*batch, self.event_size))

    def _made(self, context: Tensor | None) -> Distribution:
        return self.module() if context is None else self.module(context)


def _check_is_over_vectors(made: object, batch: tuple[int, ...], event_size: int) -> None:
    expected = f"a distribution with batch shape {batch} and event shape ({event_size},)"
    if not isinstance(made, Distribution):
        raise ValueError(f"Expected the flow to return {expected} but got {type(made).__name__}.")
    if made.batch_shape != batch or made.event_shape != (event_size,):
        raise ValueError(
            f"Expected the flow to return {expected} but got {tuple(made.batch_shape)} and "
            f"{tuple(made.event_shape)}."
        )


# ---- Flows of Pyro's transforms.

AnyTransform = Transform | ConditionalTransform


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
        transforms: Iterable[AnyTransform],
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
        value = self.noise(batch).reshape(-1, self.event_size)
        score = log_normal(value)
        for step in self._conditioned(context, batch):
            value, log_det = step.run(value)
            score = score - log_det
        return value.reshape(*batch, self.event_size), score.reshape(batch)

    def score(self, value: Tensor, context: Tensor | None) -> Tensor:
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

    transform: AnyTransform
    back: bool

    def given(self, context: Tensor | None) -> "_Step":
        transform = self.transform
        if isinstance(transform, ConditionalTransform):
            return replace(self, transform=transform.condition(context))
        return replace(self, transform=_without_memory(transform))

    def run(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The image, and the log-determinant of this way."""
        if not self.back:
            image = self._unconditional(value)
            return image, self._log_det(value, image)
        image = self._inverse(value)
        return image, -self._log_det(image, value)

    def _inverse(self, value: Tensor) -> Tensor:
        try:
            return self._unconditional.inv(value)
        except (KeyError, NotImplementedError) as error:
            raise NotImplementedError(
                f"Expected a transform that can be inverted but got {type(self.transform).__name__}, which "
                "scores nothing but its own draws, and in a prior cannot be drawn from: take one such as "
                "dist.transforms.conditional_affine_autoregressive, or flow=None."
            ) from error

    def _log_det(self, x: Tensor, y: Tensor) -> Tensor:
        transform = self._unconditional
        return _sum_rightmost(transform.log_abs_det_jacobian(x, y), 1 - transform.domain.event_dim)

    @property
    def _unconditional(self) -> Transform:
        return cast(Transform, self.transform)


def _steps(transform: AnyTransform) -> list[_Step]:
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
            raise ValueError(f"{ON_ITS_BATCH}: leave it out.")
    return [_Step(transform, back=False)]


def _turned(steps: list[_Step]) -> list[_Step]:
    return [replace(step, back=not step.back) for step in steps[::-1]]


def _without_memory(transform: Transform) -> Transform:
    """The same parameters in an object that keeps for itself what it remembers."""
    twin = copy(transform)
    # torch keeps the inverse once it is asked for: it is that of the original
    twin._inv = None
    if isinstance(transform, nn.Module):
        parts = transform._modules.items()  # named_children() leaves out what has two names
        vars(twin)["_modules"] = {n: _without_memory(p) if isinstance(p, Transform) else p for n, p in parts}
    return twin


# ---- Monotone rational-quadratic splines: bends of the real line with both directions in closed form.

_BOUND: Final = 5.0
_MIN_BIN: Final = 1e-3  # of the interval
_MIN_SLOPE: Final = 1e-2
# softplus of this is the slope 1
_UNIT_SLOPE: Final = math.log(math.expm1(1.0 - _MIN_SLOPE))


@final
@dataclass(frozen=True)
class RationalSpline:
    """A bijection of the reals that bends [-5, 5] and leaves the rest as it is.

    Between two knots it is a ratio of two quadratics, fixed by the knots and the slopes there; the slopes at
    the ends are 1, so that there is no kink.

    Reference: Gregory and Delbourgo, 1982, "Piecewise rational quadratic interpolation to monotonic data";
    Durkan, Bekasov, Murray and Papamakarios, 2019, "Neural spline flows".
    """

    knots: Tensor  # positions and images, (2, bins + 1, ...)
    slopes: Tensor  # there, before they are made positive, (bins + 1, ...)

    @classmethod
    def of(cls, raw: Tensor) -> "RationalSpline":
        """The splines of unconstrained parameters (3 · bins - 1, ...); zeros give the identity."""
        bins = (len(raw) + 1) // 3
        inner = [0] * (2 * raw.dim() - 2)  # axes that stay as long as they are
        return cls(_knots(raw[: 2 * bins].unflatten(0, (2, bins))), pad(raw[2 * bins :], [*inner, 1, 1]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y and log dy/dx, of x whose shape goes with that of the splines, (...)."""
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
        x, log_slope = torch.addcmul(piece.x, t, piece.width), piece.log_slope(t)
        return torch.where(inside, x, y), torch.where(inside, log_slope, 0.0)

    def _piece(self, value: Tensor, row: int) -> "_Piece":
        knots, slopes = _with_axes(self.knots, value.dim(), 2), _with_axes(self.slopes, value.dim(), 1)
        index = (value >= knots[row, 1:-1]).sum(0)
        sides = torch.stack([index, index + 1])  # the knots below and above, (2, ...)
        places = knots.expand(2, -1, *value.shape).gather(1, sides.expand(2, *sides.shape))
        inner = slopes.expand(-1, *value.shape).gather(0, sides)
        return _Piece(*places.flatten(0, 1), *(_MIN_SLOPE + softplus(inner + _UNIT_SLOPE)))


def _with_axes(tensor: Tensor, axes: int, after: int) -> Tensor:
    """As many axes after the first ones, by axes of size 1."""
    missing = axes + after - tensor.dim()
    return tensor.reshape(*tensor.shape[:after], *(1,) * missing, *tensor.shape[after:])


@final
class _Piece:
    """The ratio of quadratics between two knots, in t = 0 … 1."""

    def __init__(self, x: Tensor, x1: Tensor, y: Tensor, y1: Tensor, slope: Tensor, slope1: Tensor) -> None:
        self.x, self.y, self.slope, self.slope1 = x, y, slope, slope1
        self.width, self.height = x1 - x, y1 - y
        self.chord = self.height / self.width
        self.excess = torch.sub(slope + slope1, self.chord, alpha=2)

    def at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """y and log dy/dx."""
        q = t * (1 - t)
        y = self.y + self.height * (self.chord * (t * t) + self.slope * q) / (self.chord + self.excess * q)
        return y, self.log_slope(t)

    def log_slope(self, t: Tensor) -> Tensor:
        """log dy/dx."""
        s = 1 - t
        q = t * s
        denominator = torch.addcmul(self.chord, self.excess, q)
        rise = torch.addcmul(self.slope1 * (t * t), self.chord, q, value=2).addcmul(self.slope, s * s)
        return torch.add(rise.log(), (self.chord / denominator).log(), alpha=2)

    def solve(self, above: Tensor) -> Tensor:
        """t of a height above the left knot: the root of a quadratic, in the form that does not cancel."""
        b = torch.addcmul(self.height * self.slope, above, self.excess, value=-1)
        a = torch.addcmul(-b, self.height, self.chord)  # > 0 where b < 0
        minus_c = self.chord * above
        tiny = torch.finfo(above.dtype).tiny
        root = torch.addcmul(b * b, a, minus_c, value=4).clamp_min(tiny).sqrt()
        # of the two forms of one root, that which adds terms of one sign
        falls = b < 0
        return (torch.where(falls, root - b, 2 * minus_c) / torch.where(falls, 2 * a, b + root)).clamp(0, 1)


def _knots(raw: Tensor) -> Tensor:
    """From one end of the interval to the other, (rows, bins + 1, ...), of raw (rows, bins, ...)."""
    bins, rest = raw.shape[1], raw.shape[2:]
    shares = raw.softmax(1).cumsum(1)
    # each bin has the least width, and its share of what is left
    least = (
        torch.arange(1, bins + 1, dtype=raw.dtype, device=raw.device).mul_(2 * _BOUND * _MIN_BIN).sub_(_BOUND)
    )
    free = 2 * _BOUND * (1 - _MIN_BIN * bins)
    inner = torch.add(_with_axes(least, len(rest), 1), shares, alpha=free)
    return pad(inner, [*[0] * (2 * len(rest)), 1, 0], value=-_BOUND)


# ---- The flow that is used where none is given: couplings of splines, which cost the same
# in both directions.

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
        ValueError: for a size below 1, or fewer than two bins; in use, where the context is missing.

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
        self.context_size = whole_number("context_size", context_size, at_least=0)
        if layers < 1 or bins < 2 or not hidden or min(hidden) < 1:
            raise ValueError(
                f"Expected layers >= 1, bins >= 2 and hidden widths >= 1 but got {layers}, {bins} and "
                f"{tuple(hidden)}."
            )
        moving = _moving(event_size)
        self.layers = nn.ModuleList(
            [_Coupling(next(moving), self.context_size, bins=bins, hidden=hidden) for _ in range(layers)]
        )

    def draw(self, context: Tensor | None, batch: torch.Size) -> tuple[Tensor, Tensor]:
        self._check(context)
        noise = self.noise(batch)
        value, score = noise.movedim(-1, 0), log_normal(noise)
        known = None if context is None else _elements(context, len(batch))
        for layer, told in zip(self._couplings, self._told(known, len(batch)), strict=True):
            value, log_det = layer(value, told)
            score = score - log_det
        return value.movedim(0, -1).contiguous(), score

    def score(self, value: Tensor, context: Tensor | None) -> Tensor:
        self._check(context)
        batch = torch.broadcast_shapes(value.shape[:-1], () if context is None else context.shape[:-1])
        elements = _elements(value, len(batch))
        known = None if context is None else _elements(context, len(batch))
        if torch.is_grad_enabled() or _in_function_transform():
            return self._score(elements, self._told(known, len(batch)))
        keep_freed_memory()
        found = value.new_empty(batch)
        own = known is not None and known[0].numel() == found.numel()  # each pair has a context of its own
        told = [] if own else self._told(known, len(batch))
        for part in _blocks(batch):
            here = [_at(each, part) for each in told]
            if own:
                here = self._told(_at(cast(Tensor, known), part), len(batch))
            found[part] = self._score(_at(elements, part), here)
        return found

    def _check(self, context: Tensor | None) -> None:
        if context is None and self.context_size:
            raise ValueError(
                f"Expected a context (..., {self.context_size}), which the flow was made for, but got None: "
                "call flow(context), or make the flow with context_size=0."
            )

    def _told(self, context: Tensor | None, axes: int) -> list[Tensor]:
        return [layer.told(context, axes) for layer in self._couplings]

    def _score(self, value: Tensor, told: list[Tensor]) -> Tensor:
        """(...), of the elements of values and of what the context tells each layer, (element, ...) both."""
        total: Tensor | float = 0.0
        for layer, known in zip(reversed(self._couplings), reversed(told), strict=True):
            value, log_det = layer.backward(value, known)
            total = total + log_det
        return log_normal(value.movedim(0, -1)) - total

    @property
    def _couplings(self) -> "list[_Coupling]":
        return cast(list[_Coupling], list(self.layers))


def _blocks(batch: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Parts of a batch of so many pairs at most."""
    if not batch or math.prod(batch) <= PAIRS_AT_ONCE:
        yield ()
        return
    size = math.prod(batch[1:])
    rows = max(1, PAIRS_AT_ONCE // size)
    for start in range(0, batch[0], rows):
        for rest in _blocks(batch[1:]) if size > PAIRS_AT_ONCE else [()]:
            yield slice(start, start + rows), *rest


def _elements(vectors: Tensor, axes: int) -> Tensor:
    """(element, ...), with so many axes after the first."""
    return _with_axes(vectors.movedim(-1, 0), axes, 1)


def _at(tensor: Tensor, part: tuple[slice, ...]) -> Tensor:
    """A part of (element, ...), whose axes of size 1 go with all others."""
    own = (each if size > 1 else slice(None) for each, size in zip(part, tensor.shape[1:], strict=False))
    return tensor[(slice(None), *own)]


@final
class _Coupling(nn.Module):
    """A layer. Values and parameters have their elements in the first axis, which is as quick to go through
    for many pairs as it is slow to go through a short last axis.
    """

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

    def told(self, context: Tensor | None, axes: int) -> Tensor:
        """What the first layer gets beside the values, (hidden, ...), with so many axes after the first."""
        if self.of_context is None or context is None:
            return self.bias.reshape(-1, *(1,) * axes)
        told = _affine(self.of_context.weight, self.bias, _columns(context))
        return told.reshape(len(told), *context.shape[1:])

    def forward(self, x: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        """y and the log-determinant, of x (element, ...)."""
        stay, move = self._split(x)
        shift, log_scale, spline = self._shape(stay, told)
        over = move.expand(torch.broadcast_shapes(move.shape, shift.shape))
        bent, log_slope = spline.forward(over)
        log_det = (log_slope + log_scale).sum(0)
        return self._join(stay, torch.addcmul(shift, log_scale.exp(), bent)), log_det

    def backward(self, y: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        """x and the log-determinant of the way from x to y."""
        stay, move = self._split(y)
        shift, log_scale, spline = self._shape(stay, told)
        straight, log_slope = spline.backward((move - shift) * (-log_scale).exp())
        return self._join(stay, straight), (log_slope + log_scale).sum(0)

    def _shape(self, stay: Tensor, told: Tensor) -> tuple[Tensor, Tensor, RationalSpline]:
        hidden = self._first(stay, told)
        raw = self._raw(_columns(hidden)).unflatten(0, (-1, self.moving))
        raw = raw.reshape(*raw.shape[:2], *hidden.shape[1:])
        shift, log_scale = raw[0], _MAX_LOG_SCALE * (raw[1] / _MAX_LOG_SCALE).tanh()
        return shift, log_scale, RationalSpline.of(raw[2:])

    def _first(self, stay: Tensor, told: Tensor) -> Tensor:
        """What comes to the first layer, (hidden, ...)."""
        if self.of_staying is None:
            return told
        seen = self.of_staying.weight @ _columns(stay)
        seen = seen.reshape(len(seen), *stay.shape[1:])
        joins = torch.broadcast_shapes(seen.shape, told.shape) == seen.shape
        return seen.add_(told) if joins and not _in_function_transform() else seen + told

    def _raw(self, hidden: Tensor) -> Tensor:
        """(parameters · moving, pairs), of what comes to the first layer, (hidden, pairs)."""
        *inner, last = self.net
        own = self.of_staying is not None  # else what is told comes again
        for layer in inner:
            if isinstance(layer, nn.Linear):
                hidden, own = _affine(layer.weight, layer.bias, hidden), True
            else:
                inplace = own and not torch.is_grad_enabled() and not _in_function_transform()
                hidden = silu(hidden, inplace=inplace)
        # the rows come element by element, and are wanted parameter by parameter
        weight, bias = (
            self.gain * each.unflatten(0, (self.moving, -1)).transpose(0, 1).flatten(0, 1)
            for each in (cast(nn.Linear, last).weight, cast(nn.Linear, last).bias)
        )
        return _affine(weight, bias, hidden)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        stay, move = x[self.order].split([self.staying, self.moving])
        return stay, move

    def _join(self, stay: Tensor, move: Tensor) -> Tensor:
        # The batch of the context may have joined that of the elements that stay
        whole = torch.cat([stay.expand(-1, *move.shape[1:]), move])
        return whole[self.back]


def _affine(weight: Tensor, bias: Tensor, columns: Tensor) -> Tensor:
    """The image of columns, (out, pairs)."""
    if _in_function_transform():
        return weight @ columns + bias[:, None]
    # addmm would first fill its result with the bias, which takes as long as half of the product
    return (weight @ columns).add_(bias[:, None])


def _columns(elements: Tensor) -> Tensor:
    """(element, ...) as (element, pairs), of which there may be none."""
    return elements.reshape(len(elements), math.prod(elements.shape[1:]))


def _in_function_transform() -> bool:
    """Whether a transform of ``torch.func`` runs: what lacks axes that vmap hides cannot be written to."""
    return torch._C._functorch.peek_interpreter_stack() is not None


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


# ---- From what a user gives as flow to a flow.


def to_flow(
    flow: Callable[..., object] | None, event_size: int, context_size: int = 0, *, to_noise: bool = False
) -> Flow:
    """A flow over vectors, from a function that builds one.

    It is called as ``flow(event_size, context_size)``, or as ``flow(event_size)`` where there is no context,
    and returns

    - transforms of Pyro, one or a list, such as ``dist.transforms.conditional_affine_autoregressive``;
    - a flow of zuko, such as ``zuko.flows.NSF`` or ``functools.partial(zuko.flows.NSF, transforms=2)``
      (``pip install pyro_infomax[flows]``), or any module from a context to a torch distribution;
    - a :class:`Flow` of this package, such as ``functools.partial(CouplingFlow, layers=8)``.

    Args:
        flow: the function; None for :class:`CouplingFlow`.
        event_size: number of elements of a vector.
        context_size: number of elements of a context; 0 for none.
        to_noise: Pyro's transforms lead from vectors to noise, so that scores of any vector are their fast
            direction. The other two are what they are.

    Raises:
        ValueError: if ``flow`` is no function, or returns anything else.

    Example:
        >>> import pyro.distributions as dist
        >>> import torch
        >>> build = lambda size: [dist.transforms.spline(size), dist.transforms.affine_autoregressive(size)]
        >>> to_flow(build, 3)().sample().shape
        torch.Size([3])
        >>> to_flow(None, 3, 5)(torch.zeros(4, 5)).sample().shape
        torch.Size([4, 3])
    """
    if flow is None:
        return CouplingFlow(event_size, context_size)
    if not callable(flow) or isinstance(flow, nn.Module | Transform):
        raise ValueError(
            f"Expected flow to be a function of the sizes that builds a flow but got {flow!r}: pass "
            "zuko.flows.NSF rather than a flow that it built, or lambda *sizes: the flow."
        )
    made = flow(event_size, context_size) if context_size else flow(event_size)
    if isinstance(made, Flow):
        return made
    transforms = _transforms(made)
    if transforms is not None:
        return _of_transforms(transforms, event_size, context_size, to_noise=to_noise)
    if isinstance(made, nn.Module):
        return LazyFlow(made, event_size, context_size)
    raise ValueError(
        "Expected the flow to be transforms of Pyro, one or a list, or a module that returns a distribution, "
        f"but got {made!r}."
    )


def _transforms(made: object) -> list[AnyTransform] | None:
    if isinstance(made, AnyTransform):
        return [made]
    if not isinstance(made, list | tuple | nn.ModuleList):
        return None
    known = [each for each in made if isinstance(each, AnyTransform)]
    return known if len(known) == len(made) else None


def _of_transforms(
    transforms: list[AnyTransform], event_size: int, context_size: int, *, to_noise: bool
) -> TransformFlow:
    flow = TransformFlow(transforms, event_size, to_noise=to_noise)
    if flow.is_conditional and not context_size:
        raise ValueError(
            "Expected transforms without a context, since a prior has none, but got conditional ones: take "
            "dist.transforms.affine_autoregressive rather than conditional_affine_autoregressive."
        )
    return flow
