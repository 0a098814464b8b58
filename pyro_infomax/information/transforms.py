"""What can be told about a transform: whether it acts element by element, and whether all data share it."""

import copy
from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor
from torch.distributions import AffineTransform, ComposeTransform, IndependentTransform, Transform
from torch.distributions.transforms import _InverseTransform

_OWN: Final = frozenset({"_inv", "_cache_size", "_cached_x_y"})


def elementwise(transform: Transform) -> Transform | None:
    """The same map as one that acts on every element by itself; None where it does not.

    >>> from torch.distributions import ExpTransform, StickBreakingTransform
    >>> elementwise(IndependentTransform(ExpTransform(), 1))
    ExpTransform()
    >>> elementwise(StickBreakingTransform()) is None
    True
    """
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

    Args:
        transform: of vectors (batch, latent). What its attributes are but numbers is not looked into; two
            axes of a tensor are taken for (batch, latent).

    >>> one = AffineTransform(torch.zeros(5, 2), torch.ones(2))
    >>> shared(one).loc
    tensor([0., 0.])
    >>> shared(AffineTransform(torch.arange(5.0)[:, None], 1.0)) is None
    True
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
    found = {name: _of_one(value) for name, value in parameters_of(transform)}
    return None if None in found.values() else with_parameters(transform, found)


def is_plain(transform: Any) -> bool:
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


def with_parameters(transform: Transform, parameters: dict[str, Any]) -> Transform:
    """A transform with other tensors, which has not seen any values yet."""
    twin = copy.copy(transform)
    vars(twin).update(parameters, _inv=None)
    if "_cached_x_y" in vars(twin):
        vars(twin)["_cached_x_y"] = (None, None)
    return twin


def _composed(parts: list[Transform | None]) -> Transform | None:
    known = [part for part in parts if part is not None]
    return None if len(known) < len(parts) else known[0] if len(known) == 1 else ComposeTransform(known)


def _of_one(value: Tensor) -> Tensor | None:
    if value.dim() < 2:
        return value
    if value.requires_grad:  # rows that are equal may still have gradients of their own
        return None
    alike = value.dim() == 2 and torch.equal(value, value[:1].expand_as(value))
    return value[0] if alike else None
