"""A distribution with its batch in another shape, whatever its family."""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.distributions import ComposeTransform, Distribution, Transform
from torch.distributions.transforms import _InverseTransform

from pyro_infomax.information.transforms import is_plain, parameters_of, with_parameters

__all__ = ["batch_mapped", "tensors_of"]

Tensors = list[torch.Tensor]
Combine = Callable[[Tensors], torch.Tensor]


def batch_mapped(fns: Sequence[Any], batch_shape: Sequence[int], combine: Combine) -> Any:
    """Distributions of one class as one, with other batches.

    Every tensor that a distribution holds for its batch is mapped, those of the distributions and transforms
    within it too; what does not belong to the batch must be the same in all of them.

    Args:
        fns: the distributions.
        batch_shape: of the result.
        combine: from the tensors of all, (*batch, *rest) each, to one of (*batch_shape, *rest).

    Raises:
        NotImplementedError: for distributions that differ in more than their batch, and for transforms that
            hold more than numbers.

    Example:
        >>> from torch.distributions import Gamma
        >>> both = [Gamma(torch.ones(3), 2.0), Gamma(torch.ones(4), 2.0)]
        >>> batch_mapped(both, [7], torch.cat).rate.shape
        torch.Size([7])
    """
    return _mapped(fns, [fn.batch_shape for fn in fns], torch.Size(batch_shape), combine)


def _mapped(
    fns: Sequence[Any], outer: Sequence[torch.Size], batch_shape: torch.Size, combine: Combine
) -> Any:
    """``outer`` are the leading batch axes that are mapped, of distributions that may have more of them."""
    first = fns[0]
    twin = copy.copy(first)
    # lazily computed parameters are known to some only, and computed anew
    names = [name for name in vars(first) if all(name in vars(fn) for fn in fns)]
    held = {name: _value([vars(fn)[name] for fn in fns], outer, batch_shape, combine) for name in names}
    vars(twin).clear()
    vars(twin).update(held, _validate_args=False)
    twin._batch_shape = batch_shape + first.batch_shape[len(outer[0]) :]
    return twin


def _value(
    values: Sequence[Any], outer: Sequence[torch.Size], batch_shape: torch.Size, combine: Combine
) -> Any:
    first = values[0]
    if isinstance(first, torch.Tensor):
        return _tensor(values, outer, combine)
    if isinstance(first, Distribution):
        return _mapped(values, outer, batch_shape, combine)
    if isinstance(first, list) and first and all(isinstance(each, Distribution) for each in first):
        return [_part(each, outer, batch_shape, combine) for each in zip(*values, strict=True)]
    if isinstance(first, list) and all(isinstance(each, Transform) for each in first):
        return [_transform(each, outer, combine) for each in zip(*values, strict=True)]
    if isinstance(first, int | float) and any(each != first for each in values):
        raise NotImplementedError(f"Expected one number for all data but got {values}")
    return first


def _part(
    parts: Sequence[Any], outer: Sequence[torch.Size], batch_shape: torch.Size, combine: Combine
) -> Any:
    """Of distributions side by side, each with the batch in its leading axes."""
    if any(part.batch_shape[: len(shape)] != shape for part, shape in zip(parts, outer, strict=True)):
        raise NotImplementedError("Expected distributions side by side to share the axes of the batch")
    return _mapped(parts, outer, batch_shape, combine)


def _tensor(values: Sequence[torch.Tensor], outer: Sequence[torch.Size], combine: Combine) -> torch.Tensor:
    if all(each.shape[: len(shape)] == shape for each, shape in zip(values, outer, strict=True)):
        return combine(list(values))
    if any(not torch.equal(values[0], each) for each in values):
        raise NotImplementedError("Expected parameters of the batch, or the same for all data")
    return values[0]


def _transform(transforms: Sequence[Any], outer: Sequence[torch.Size], combine: Combine) -> Transform:
    """Of univariate values: tensors in it broadcast with the batch."""
    first = transforms[0]
    if isinstance(first, ComposeTransform):
        parts = zip(*(each.parts for each in transforms), strict=True)
        return ComposeTransform([_transform(part, outer, combine) for part in parts])
    if isinstance(first, _InverseTransform):
        return _transform([each.inv for each in transforms], outer, combine).inv
    if not is_plain(first):
        raise NotImplementedError(f"Expected a transform that holds numbers but got {type(first).__name__}")
    known = [dict(parameters_of(each)) for each in transforms]
    spread = {
        name: [own[name].expand(shape) for own, shape in zip(known, outer, strict=True)]
        for name, value in known[0].items()
        if value.dim()
    }
    return with_parameters(first, {name: combine(each) for name, each in spread.items()})


def tensors_of(fn: Any, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors that a distribution, the distributions and the transforms within it hold, and where."""
    for name, value in vars(fn).items():
        where = f"{path}.{name}"
        if isinstance(value, torch.Tensor):
            yield where, value
        elif isinstance(value, Distribution):
            yield from tensors_of(value, where)
        elif isinstance(value, list):
            yield from _tensors_of_transforms(value, where)


def _tensors_of_transforms(transforms: Sequence[Any], path: str) -> Iterator[tuple[str, torch.Tensor]]:
    for number, each in enumerate(transforms):
        if isinstance(each, ComposeTransform):
            yield from _tensors_of_transforms(each.parts, f"{path}.{number}")
        elif isinstance(each, _InverseTransform):
            yield from _tensors_of_transforms([each.inv], f"{path}.{number}")
        elif isinstance(each, Transform):
            yield from ((f"{path}.{number}.{name}", tensor) for name, tensor in parameters_of(each))
