"""What the parameters of a posterior or a prior must be, also where construction does not validate them."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    TransformedDistribution,
)
from torch.distributions.constraints import Constraint, is_dependent
from torch.distributions.utils import lazy_property

from pyro_infomax.information.families import diagonal_normal, name
from pyro_infomax.information.side_by_side import SideBySide


def check_parameters(distribution: Any, role: str) -> None:
    """Refuse what would turn into nan, or into a density of nothing.

    An object that is no distribution of torch's shows no parameters, and passes.

    Args:
        distribution: of any batch and event shape.
        role: what it is, for the message: "posterior" or "prior".

    Raises:
        ValueError: for means or other parameters that are not finite, scales that are not positive, and
            parameters outside their constraints.
    """
    for part in _parts(distribution):
        _check(part, role)


def _parts(distribution: Any) -> Iterator[Any]:
    """The distributions that hold the parameters, without what is wrapped around them."""
    if diagonal_normal(distribution) is not None:
        yield distribution
    elif isinstance(distribution, Independent | TransformedDistribution):
        yield from _parts(distribution.base_dist)
    elif isinstance(distribution, MixtureSameFamily):
        yield from _parts(distribution.mixture_distribution)
        yield from _parts(distribution.component_distribution)
    elif isinstance(distribution, SideBySide):
        for part in distribution.parts:
            yield from _parts(part)
    elif isinstance(distribution, Distribution):
        yield distribution


def _check(distribution: Any, role: str) -> None:
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
            f"{name(distribution)} from {float(value.min())} to {float(value.max())}; check {_source(role)}."
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
