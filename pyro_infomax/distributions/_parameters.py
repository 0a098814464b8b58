"""The numbers that a distribution of any family holds: whether they are sound, and others in their place."""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar, cast

import torch
from torch import Tensor
from torch.distributions import (
    ComposeTransform,
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Transform,
    TransformedDistribution,
)
from torch.distributions.constraints import Constraint, is_dependent
from torch.distributions.transforms import _InverseTransform
from torch.distributions.utils import lazy_property

from pyro_infomax.distributions._families import diagonal_normal, full_name
from pyro_infomax.distributions._products import SideBySide, after_reshapes
from pyro_infomax.distributions._transforms import (
    elementwise,
    is_plain,
    parameters_of,
    with_parameters,
)

# ---- Where a distribution holds its parameters, and whether they are sound.


def is_parametric(distribution: object) -> bool:
    """Whether the distribution is known by a few numbers, without networks that every score has to run."""
    match distribution:
        case Independent():
            return is_parametric(distribution.base_dist)
        case TransformedDistribution():
            return is_parametric(distribution.base_dist) and all(map(is_plain, distribution.transforms))
        case MixtureSameFamily():
            return is_parametric(distribution.component_distribution)
        case SideBySide():
            return all(map(is_parametric, distribution.parts))
    return isinstance(distribution, Distribution) and bool(distribution.arg_constraints)


# ---- What the parameters of a posterior or a prior must be, also where construction does not validate them.


def check_parameters(distribution: object, role: str) -> None:
    """Refuse what would turn into nan, or into a density of nothing; the role is "posterior" or "prior".

    An object that is no distribution of torch's shows no parameters, and passes.
    """
    for part in _parts(distribution):
        _check_parameters_of_part(part, role)


def _parts(distribution: object) -> Iterator[Distribution]:
    """The distributions that hold the parameters, without what is wrapped around them."""
    if isinstance(distribution, Independent | TransformedDistribution):
        is_whole = diagonal_normal(distribution) is not None
        yield from [distribution] if is_whole else _parts(distribution.base_dist)
    elif isinstance(distribution, MixtureSameFamily):
        yield from _parts(distribution.mixture_distribution)
        yield from _parts(distribution.component_distribution)
    elif isinstance(distribution, SideBySide):
        for part in distribution.parts:
            yield from _parts(part)
    elif isinstance(distribution, Distribution):
        yield distribution


def _check_parameters_of_part(distribution: Distribution, role: str) -> None:
    factors = diagonal_normal(distribution)
    if factors is not None:
        _check_normal(*factors, role)
    elif isinstance(distribution, MultivariateNormal):
        root = distribution._unbroadcasted_scale_tril
        _check_normal(distribution.loc, root.diagonal(dim1=-2, dim2=-1), role)
        _check_covariance(root.tril(), role)
    elif isinstance(distribution, LowRankMultivariateNormal):
        _check_normal(distribution.loc, distribution._unbroadcasted_cov_diag, role)
        _check_covariance(distribution._unbroadcasted_cov_factor, role)
    else:
        _check_constraints(distribution, role)


def _check_normal(loc: Tensor, scale: Tensor, role: str) -> None:
    if not bool(loc.isfinite().all()):
        raise ValueError(
            f"Expected finite means of the {role} but got nan or infinite ones; check {_source(role)}."
        )
    if not bool(((scale > 0) & scale.isfinite()).all()):
        raise ValueError(
            f"Expected positive, finite scales of the {role} but got "
            f"{float(scale.min())} to {float(scale.max())}; check {_source(role)}."
        )


def _check_covariance(factor: Tensor, role: str) -> None:
    if not bool(factor.isfinite().all()):
        raise ValueError(
            f"Expected finite covariances of the {role} but got nan or infinite ones; check {_source(role)}."
        )


def _check_constraints(distribution: Distribution, role: str) -> None:
    for parameter, constraint in distribution.arg_constraints.items():
        value = _given(distribution, parameter)
        if value is None or bool(_admissible(parameter, value, constraint).all()):
            continue
        raise ValueError(
            f"Expected finite parameters of the {role} within their constraints but got {parameter} of "
            f"{full_name(distribution)} from {float(value.min())} to {float(value.max())}; "
            f"check {_source(role)}."
        )


def _given(distribution: Distribution, parameter: str) -> Tensor | None:
    """None for one of two parametrisations that would have to be computed from the other."""
    lazy = isinstance(getattr(type(distribution), parameter, None), lazy_property)
    value = None if lazy and parameter not in vars(distribution) else getattr(distribution, parameter, None)
    return value if isinstance(value, Tensor) else None


def _admissible(parameter: str, value: Tensor, constraint: Constraint) -> Tensor:
    """Only a logit may be infinite: that of a class that never occurs."""
    finite = value.isfinite() | (value == -torch.inf) if parameter == "logits" else value.isfinite()
    return finite if is_dependent(constraint) else finite.all() & constraint.check(value).all()


def _source(role: str) -> str:
    return "the encoder" if role == "posterior" else f"the parameters of the {role}"


# ---- A distribution with its batch in another shape, whatever its family.

Combine = Callable[[list[Tensor]], Tensor]
_D = TypeVar("_D", bound=Distribution)


def batch_mapped(fns: Sequence[_D], batch_shape: Sequence[int], combine: Combine) -> _D:
    """Distributions of one class as one, with other batches.

    Every tensor (*batch, *rest) that they hold, those of distributions and transforms within them too, is
    combined to one of (*batch_shape, *rest). What does not belong to the batch must be the same in all of
    them.
    """
    return _mapped(fns, [fn.batch_shape for fn in fns], torch.Size(batch_shape), combine)


_DATA_AT_ONCE: Final = 8192


def in_parts(factors: Distribution) -> Iterator[Distribution]:
    """Univariate distributions (batch, size) for some data at a time, one after the other.

    What is computed from all of them at once may take several times their own memory.
    """
    size = factors.batch_shape[0]
    if size <= _DATA_AT_ONCE:
        yield factors
        return
    try:
        for rows in torch.arange(size).split(_DATA_AT_ONCE):
            yield _of_rows(factors, rows)
    except NotImplementedError:  # at the first rows: they hold what belongs to no datum
        yield factors


def _of_rows(factors: Distribution, rows: Tensor) -> Distribution:
    if isinstance(factors, SideBySide):
        return SideBySide([_of_rows(part, rows) for part in factors.parts])

    def chosen(tensors: list[Tensor]) -> Tensor:
        return tensors[0][rows]

    return batch_mapped([factors], [len(rows), *factors.batch_shape[1:]], chosen)


def _mapped(fns: Sequence[_D], outer: Sequence[torch.Size], batch_shape: torch.Size, combine: Combine) -> _D:
    """``outer`` are the leading batch axes that are mapped, of distributions that may have more of them."""
    first = fns[0]
    twin = copy.copy(first)
    # lazily computed parameters are known to some only, and computed anew
    names = [name for name in vars(first) if all(name in vars(fn) for fn in fns)]
    held = {name: _held(fns, name, outer, batch_shape, combine) for name in names}
    vars(twin).clear()
    vars(twin).update(held, _validate_args=False)
    twin._batch_shape = batch_shape + first.batch_shape[len(outer[0]) :]
    return twin


# What torch's and Pyro's classes hold without the batch axes that it lacks, and its axes beside the batch
_BROADCAST: Final = {
    "_unbroadcasted_scale_tril": 2,
    "_unbroadcasted_cov_factor": 2,
    "_unbroadcasted_cov_diag": 1,
    "_capacitance_tril": 2,
}


def _held(
    fns: Sequence[Distribution],
    name: str,
    outer: Sequence[torch.Size],
    batch_shape: torch.Size,
    combine: Combine,
) -> object:
    values = [vars(fn)[name] for fn in fns]
    if name not in _BROADCAST or not all(isinstance(each, Tensor) for each in values):
        return _value(values, outer, batch_shape, combine)
    # Its sizes may be those of the batch by chance: the number of its axes tells which of these it has
    rest = [fn.batch_shape[len(shape) :] for fn, shape in zip(fns, outer, strict=True)]
    events = [each.shape[each.dim() - _BROADCAST[name] :] for each in values]
    alike = [_without_batch(*each) for each in zip(values, rest, events, strict=True)]
    first = alike[0]
    if first is not None and all(each is not None and torch.equal(first, each) for each in alike):
        return first
    whole = zip(values, fns, events, strict=True)
    return combine([each.expand(fn.batch_shape + event) for each, fn, event in whole])


def _without_batch(value: Tensor, rest: torch.Size, event: torch.Size) -> Tensor | None:
    """The tensor with no axes beyond these, if those that it has are of one row."""
    beyond = max(value.dim() - len(rest) - len(event), 0)
    return value[(0,) * beyond] if set(value.shape[:beyond]) <= {1} else None


def _value(
    values: Sequence[Any], outer: Sequence[torch.Size], batch_shape: torch.Size, combine: Combine
) -> object:
    first = values[0]
    if isinstance(first, Tensor):
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
    parts: Sequence[Distribution], outer: Sequence[torch.Size], batch_shape: torch.Size, combine: Combine
) -> Distribution:
    """Of distributions side by side, each with the batch in its leading axes."""
    if any(part.batch_shape[: len(shape)] != shape for part, shape in zip(parts, outer, strict=True)):
        raise NotImplementedError("Expected distributions side by side to share the axes of the batch")
    return _mapped(parts, outer, batch_shape, combine)


def _tensor(values: Sequence[Tensor], outer: Sequence[torch.Size], combine: Combine) -> Tensor:
    if all(each.shape[: len(shape)] == shape for each, shape in zip(values, outer, strict=True)):
        return combine(list(values))
    if any(not torch.equal(values[0], each) for each in values):
        raise NotImplementedError("Expected parameters of the batch, or the same for all data")
    return values[0]


def _transform(transforms: Sequence[Transform], outer: Sequence[torch.Size], combine: Combine) -> Transform:
    """Of univariate values: tensors in it broadcast with the batch."""
    first = transforms[0]
    if isinstance(first, ComposeTransform):
        parts = zip(*(cast(ComposeTransform, each).parts for each in transforms), strict=True)
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


def vector_of(distribution: Distribution) -> Distribution:
    """A vector in another shape as the vector, in the order of the memory; any other as it is."""
    if not isinstance(distribution, TransformedDistribution) or len(distribution.base_dist.event_shape) != 1:
        return distribution
    rest = after_reshapes(distribution.transforms)
    if not rest:
        return distribution if rest is None else distribution.base_dist
    onward = elementwise(ComposeTransform(rest))
    held = [] if onward is None else _tensors_of_transforms([onward], "")
    # What has the shape of the event would not fit the vector
    if onward is None or not is_plain(onward) or any(each.numel() > 1 for _, each in held):
        return distribution
    return TransformedDistribution(distribution.base_dist, onward, validate_args=False)


def tensors_of(fn: Distribution, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors that a distribution, the distributions and the transforms within it hold, and where."""
    for name, value in vars(fn).items():
        where = f"{path}.{name}"
        if isinstance(value, Tensor):
            yield where, value
        elif isinstance(value, Distribution):
            yield from tensors_of(value, where)
        elif isinstance(value, list):
            yield from _tensors_of_transforms(value, where)


def _tensors_of_transforms(transforms: Sequence[Transform], path: str) -> Iterator[tuple[str, Tensor]]:
    for number, each in enumerate(transforms):
        if isinstance(each, ComposeTransform):
            yield from _tensors_of_transforms(each.parts, f"{path}.{number}")
        elif isinstance(each, _InverseTransform):
            yield from _tensors_of_transforms([each.inv], f"{path}.{number}")
        elif isinstance(each, Transform):
            yield from ((f"{path}.{number}.{name}", tensor) for name, tensor in parameters_of(each))
