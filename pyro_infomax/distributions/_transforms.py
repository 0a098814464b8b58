"""What can be told about a transform, and bijections that stay inside their support."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from math import inf, log
from typing import Final, final

import torch
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    ComposeTransform,
    IndependentTransform,
    Transform,
    constraints,
    transforms,
)
from torch.distributions.transforms import _InverseTransform
from torch.nn.functional import logsigmoid, pad, softplus

# ---- What a transform does to vectors: element by element or not, the same for all data or not.

_OWN: Final = frozenset({"_inv", "_cache_size", "_cached_x_y"})
_AXES: Final = {"scale_tril": 2}  # of one datum

ON_ITS_BATCH: Final = (
    "Expected transforms that act on each vector by itself but got BatchNorm, under which the density of a "
    "vector depends on the others of its batch"
)


def elementwise(transform: Transform) -> Transform | None:
    """The same map as one that acts on every element by itself; None where it does not."""
    if isinstance(transform, IndependentTransform):
        return elementwise(transform.base_transform)
    if isinstance(transform, ComposeTransform):
        return _composed([elementwise(part) for part in transform.parts])
    if transform.domain.event_dim == transform.codomain.event_dim == 0:
        return transform
    if type(transform) is AffineTransform:
        return AffineTransform(transform.loc, transform.scale)
    return None


def shared(transform: Transform) -> Transform | None:
    """The transform of one datum where it is that of all data, None where data may differ in theirs.

    Two axes of a tensor that it holds are taken for (batch, latent), but for those of a ``scale_tril``; what
    is no number is not looked into.
    """
    if isinstance(transform, IndependentTransform):
        inner = shared(transform.base_transform)
        return None if inner is None else IndependentTransform(inner, transform.reinterpreted_batch_ndims)
    if isinstance(transform, ComposeTransform):
        return _composed([shared(part) for part in transform.parts])
    if isinstance(transform, _InverseTransform):
        inner = shared(transform.inv)
        return None if inner is None else inner.inv
    if not (transform.bijective and is_plain(transform)):
        return None
    found = {name: _of_one(value, _AXES.get(name, 1)) for name, value in parameters_of(transform)}
    return None if None in found.values() else with_parameters(transform, found)


def is_plain(transform: object) -> bool:
    """Whether all that a transform holds is numbers, in tensors or not."""
    if isinstance(transform, IndependentTransform):
        return is_plain(transform.base_transform)
    if isinstance(transform, ComposeTransform):
        return all(map(is_plain, transform.parts))
    if isinstance(transform, _InverseTransform):
        return is_plain(transform.inv)
    held = (value for name, value in vars(transform).items() if name not in _OWN)
    return all(value is None or isinstance(value, Tensor | int | float | tuple) for value in held)


def parameters_of(transform: Transform) -> Iterator[tuple[str, Tensor]]:
    """The tensors that a transform holds, by name."""
    held = ((name, value) for name, value in vars(transform).items() if name not in _OWN)
    return ((name, value) for name, value in held if isinstance(value, Tensor))


def with_parameters(transform: Transform, parameters: Mapping[str, Tensor | None]) -> Transform:
    """A transform with other tensors, which has not seen any values yet."""
    twin = copy.copy(transform)
    vars(twin).update(parameters, _inv=None)
    if "_cached_x_y" in vars(twin):
        vars(twin)["_cached_x_y"] = (None, None)
    return twin


def _composed(parts: list[Transform | None]) -> Transform | None:
    known = [part for part in parts if part is not None]
    return None if len(known) < len(parts) else known[0] if len(known) == 1 else ComposeTransform(known)


def _of_one(value: Tensor, axes: int) -> Tensor | None:
    if value.dim() <= axes:
        return value
    if value.requires_grad:  # rows that are equal may still have gradients of their own
        return None
    alike = value.dim() == axes + 1 and torch.equal(value, value[:1].expand_as(value))
    return value[0] if alike else None


# ---- Bijections from the reals to supports, which keep what they draw inside the support
# in single precision.


@final
class Exp(transforms.ExpTransform):
    """torch's ``ExpTransform`` without the values 0 and infinity to which rounding leads."""

    def _call(self, x: Tensor) -> Tensor:
        return _finite_exp(x)


@final
class Softplus(transforms.SoftplusTransform):
    """torch's ``SoftplusTransform`` without the 0 to which rounding leads, nor values whose square is 0."""

    def _call(self, x: Tensor) -> Tensor:
        return softplus(x).clamp(min=torch.finfo(x.dtype).tiny ** 0.5)


@final
class AffineWithin(transforms.AffineTransform):
    """torch's ``AffineTransform`` whose values stay off the bounds of an open interval when rounded."""

    def __init__(
        self,
        loc: Tensor | float,
        scale: Tensor | float,
        *,
        low: Tensor | float = -inf,
        high: Tensor | float = inf,
        cache_size: int = 0,
    ) -> None:
        super().__init__(loc, scale, cache_size=cache_size)
        self._low = low
        self._high = high

    def with_cache(self, cache_size: int = 1) -> "AffineWithin":
        return AffineWithin(self.loc, self.scale, low=self._low, high=self._high, cache_size=cache_size)

    def _call(self, x: Tensor) -> Tensor:
        low, high = _like(self._low, x), _like(self._high, x)
        y = _like(self.loc, x) + _like(self.scale, x) * x
        return y.clamp(_next(low, high), _next(high, low))

    def _inverse(self, y: Tensor) -> Tensor:
        return (y - _like(self.loc, y)) / _like(self.scale, y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        return _like(self.scale, x).abs().log().expand(x.shape)


@final
class StickBreaking(transforms.StickBreakingTransform):
    r"""torch's ``StickBreakingTransform``, computed in logarithms.

    .. math:: \log y_i = \log \sigma(x_i - \log(K - i)) + \sum_{j<i} \log \sigma(\log(K - j) - x_j),
        \qquad i = 1, \ldots, K - 1,

    and :math:`y_K` is the rest. It is the same function, but neither it nor its Jacobian loses digits or ends
    in 0 or nan where a part of the stick is very short.
    """

    def _call(self, x: Tensor) -> Tensor:
        return _log_parts(x).exp().clamp(min=torch.finfo(x.dtype).tiny)

    def _inverse(self, y: Tensor) -> Tensor:
        # What is left of the stick after each part but the last
        rest = y.flip(-1).cumsum(-1).flip(-1)[..., 1:]
        smallest = torch.finfo(y.dtype).tiny
        return y[..., :-1].clamp(min=smallest).log() - rest.clamp(min=smallest).log() + _offset(y[..., :-1])

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        # dy_i / dx_i = y_i (1 - z_i), with z_i what is broken off the rest
        return (_log_parts(x)[..., :-1] + logsigmoid(_offset(x) - x)).sum(-1)


@final
class CorrCholesky(transforms.CorrCholeskyTransform):
    r"""torch's ``CorrCholeskyTransform`` with an inverse and a Jacobian that lose no digits.

    With rows i and columns k < i, both counted from 0,

    .. math:: \log |\det| = \sum_{i} \sum_{k<i} \Bigl(1 + \frac{i - 1 - k}{2}\Bigr)
        \log\bigl(1 - \tanh^2 x_{ik}\bigr),

    which is finite also where no digit is left in 1 minus a sum of squares of the row.
    """

    def _inverse(self, y: Tensor) -> Tensor:
        row, column = torch.tril_indices(y.shape[-1], y.shape[-1], -1, device=y.device)
        # sinh x = y_k over the length of what is left of the row after k
        rest = y.square().flip(-1).cumsum(-1).flip(-1)[..., row, column + 1]
        return (y[..., row, column] / rest.clamp(min=torch.finfo(y.dtype).tiny).sqrt()).asinh()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor, intermediates: object = None) -> Tensor:  # noqa: ARG002
        row, column = torch.tril_indices(y.shape[-1], y.shape[-1], -1, device=x.device)
        times = 1 + (row - 1 - column).to(x.dtype) / 2
        # log(1 - tanh(x)^2) = -2 log cosh x
        log_shrinkage = -2 * (x.abs() + softplus(-2 * x.abs()) - softplus(torch.zeros_like(x)))
        return (times * log_shrinkage).sum(-1)


@final
class LowerCholesky(Transform):
    """A vector of n(n+1)/2 reals to a lower-triangular matrix with positive diagonal, row by row.

    The diagonal is the exponential, so that the Jacobian with respect to the lower triangle is the sum of the
    reals that go there.
    """

    domain = constraints.real_vector
    codomain = constraints.lower_cholesky
    bijective = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LowerCholesky)

    __hash__ = Transform.__hash__

    def forward_shape(self, shape: Sequence[int]) -> torch.Size:
        n = round((2 * shape[-1] + 0.25) ** 0.5 - 0.5)
        return torch.Size([*shape[:-1], n, n])

    def inverse_shape(self, shape: Sequence[int]) -> torch.Size:
        return torch.Size([*shape[:-2], shape[-1] * (shape[-1] + 1) // 2])

    def _call(self, x: Tensor) -> Tensor:
        n = self.forward_shape(x.shape)[-1]
        row, column = torch.tril_indices(n, n, device=x.device)
        entries = torch.where(row == column, _finite_exp(x), x)
        return lower_triangular(entries, n)

    def _inverse(self, y: Tensor) -> Tensor:
        row, column = torch.tril_indices(y.shape[-1], y.shape[-1], device=y.device)
        below = y[..., row, column]
        on_diagonal = row == column
        return torch.where(on_diagonal, torch.where(on_diagonal, below, 1).log(), below)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        row, column = torch.tril_indices(y.shape[-1], y.shape[-1], device=x.device)
        return (x * (row == column)).sum(-1)


def lower_triangular(entries: Tensor, size: int, *, offset: int = 0) -> Tensor:
    """Entries row by row as a lower-triangular matrix; an offset of -1 leaves its main diagonal 0."""
    row, column = torch.tril_indices(size, size, offset, device=entries.device)
    matrix = entries.new_zeros(*entries.shape[:-1], size, size)
    matrix[..., row, column] = entries
    return matrix


def _like(bound: Tensor | float, x: Tensor) -> Tensor:
    if isinstance(bound, Tensor):
        return bound.to(x)
    return torch.full((), bound, dtype=x.dtype, device=x.device)


def _next(bound: Tensor, towards: Tensor) -> Tensor:
    """The neighbour of a bound inside the interval; not a denormal, which arithmetic may flush to 0."""
    tiny = torch.finfo(bound.dtype).tiny
    next_to_zero = torch.where(towards > bound, tiny, -tiny).to(bound)
    inner = torch.where(bound == 0, next_to_zero, torch.nextafter(bound, towards))
    return torch.where(bound.isinf(), bound, inner)


def _finite_exp(x: Tensor) -> Tensor:
    # Limits on the result would give gradients of 0 times infinity
    limits = torch.finfo(x.dtype)
    return x.clamp(log(limits.tiny) * (1 - limits.eps), log(limits.max) * (1 - limits.eps)).exp()


def _offset(x: Tensor) -> Tensor:
    """log(K - i), by which x = 0 gives equal parts."""
    return torch.arange(x.shape[-1], 0, -1, dtype=x.dtype, device=x.device).log()


def _log_parts(x: Tensor) -> Tensor:
    """Logarithms of all K parts of the stick, (..., K)."""
    logits = x - _offset(x)
    log_rest = logsigmoid(-logits).cumsum(-1)
    return pad(logsigmoid(logits), [0, 1]) + pad(log_rest, [1, 0])
