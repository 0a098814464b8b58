"""The head that makes a distribution of a given family of features."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import Parameter, signature
from typing import Any, Final, final

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import Transform, transform_to
from torch.distributions.constraints import Constraint

from pyro_infomax.nn.bijections import LowerCholesky, Softplus
from pyro_infomax.nn.site_transform import unwrapped

Family = type[Any] | partial[Any]

# Of parameters that say the same, the first is computed
_ALTERNATIVES: Final = (("logits", "probs"), ("scale_tril", "covariance_matrix", "precision_matrix"))
_INIT_WEIGHT: Final = 0.1
_FIX: Final = "pass a module from features to the distribution instead"


@final
class DistributionHead(nn.Module):
    r"""Features to any family of distributions, parameter by parameter.

    .. math:: q(z \mid h) = p\bigl(z;\, T_1(A_1 h + a_1), T_2(A_2 h + a_2), \ldots\bigr)

    Each parameter is linear in the features but for the transform T that its constraint asks for: the
    softplus for positive numbers, the exponential for the diagonal of Cholesky factors, and what
    :func:`torch.distributions.transform_to` knows for others. At first positive parameters are about 1 and
    Cholesky factors about the identity. Where the family is that of the prior, the closed form of their
    divergence applies, and in conjugate models the exact posterior is within reach.

    Args:
        in_features: number of features.
        event_shape: shape of one latent. Families of scalars are made independent over its axes.
        family: a class of ``pyro.distributions``, or a :func:`functools.partial` of one that fixes some of
            its parameters.

    Raises:
        ValueError: for what is no class of ``pyro.distributions``, and for an event shape that does not fit.
        NotImplementedError: for a family of which some parameter's shape or range is not known.

    Example:
        >>> q = DistributionHead(16, (3,), dist.Gamma)(torch.zeros(5, 16))
        >>> q.base_dist.rate[0]
        tensor([1., 1., 1.], grad_fn=...)
        >>> DistributionHead(16, (), partial(dist.StudentT, 4.0))(torch.zeros(5, 16)).df[0]
        tensor(4.)
    """

    def __init__(self, in_features: int, event_shape: Sequence[int], family: Family) -> None:
        super().__init__()
        self.event_shape = torch.Size(event_shape)
        self.family = family
        kind = _checked_class(family)
        event_dim = _event_dim(kind)
        self._check_event(kind, event_dim)
        self._independent = len(self.event_shape) - event_dim
        self._parameters_of_family = [
            FamilyParameter.of(kind, name, constraint, self.event_shape)
            for name, constraint in _to_compute(family, kind).items()
        ]
        self._sizes = [each.size for each in self._parameters_of_family]
        self.linear = nn.Linear(in_features, sum(self._sizes))
        self._reset()
        self._check_trial(kind)

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        """The distribution.

        Args:
            features: (..., in_features).

        Returns:
            A distribution of the family with batch shape (...) and the event shape of the head.
        """
        slices = self.linear(features).split(self._sizes, dim=-1)
        values = {
            each.name: each.constrain(raw)
            for each, raw in zip(self._parameters_of_family, slices, strict=True)
        }
        return self.family(**values).to_event(self._independent)

    @torch.no_grad()
    def _reset(self) -> None:
        slices = zip(
            self._parameters_of_family,
            self.linear.weight.split(self._sizes),
            self.linear.bias.split(self._sizes),
            strict=True,
        )
        for each, weight, bias in slices:
            if not each.is_real:
                weight.mul_(_INIT_WEIGHT)
                bias.copy_(each.start(bias))

    def _check_event(self, kind: type[Any], event_dim: int) -> None:
        if len(self.event_shape) < event_dim:
            raise ValueError(
                f"Expected an event shape of at least {event_dim} axes for {kind.__name__} but got "
                f"{tuple(self.event_shape)}."
            )

    @torch.no_grad()
    def _check_trial(self, kind: type[Any]) -> None:
        weight = self.linear.weight
        try:
            trial = self(weight.new_zeros(1, weight.shape[1]))
        except (RuntimeError, TypeError, ValueError) as error:
            raise NotImplementedError(
                f"Expected a family that can be made of {[each.name for each in self._parameters_of_family]} "
                f"but {kind.__name__} cannot: {_FIX}."
            ) from error
        if trial.event_shape != self.event_shape or trial.batch_shape != (1,):
            raise ValueError(
                f"Expected {kind.__name__} to have event shape {tuple(self.event_shape)} but got "
                f"{tuple(trial.event_shape)} and batch shape {tuple(trial.batch_shape)} for (1,): {_FIX}."
            )


@final
@dataclass(frozen=True)
class FamilyParameter:
    """One parameter of a family, for one latent.

    Args:
        name: of the parameter.
        transform: from the reals to the parameter.
        shape: of the reals.
    """

    name: str
    transform: Transform
    shape: torch.Size

    @classmethod
    def of(
        cls, kind: type[Any], name: str, constraint: Constraint, event_shape: torch.Size
    ) -> "FamilyParameter":
        """The parameter of a class for a latent of a shape.

        Raises:
            NotImplementedError: if its shape or its range cannot be told.
        """
        transform = _transform(kind, name, constraint)
        shape = _shape(kind, name, constraint, event_shape)
        return cls(name, transform, torch.Size(transform.inverse_shape(shape)))

    @property
    def size(self) -> int:
        """Number of reals."""
        return self.shape.numel()

    @property
    def is_real(self) -> bool:
        """Whether every real will do."""
        return isinstance(unwrapped(self.transform.codomain), type(constraints.real))

    def constrain(self, raw: Tensor) -> Tensor:
        """From reals (..., size) to the parameter."""
        value: Tensor = self.transform(raw.reshape(raw.shape[:-1] + self.shape))
        return value

    def start(self, like: Tensor) -> Tensor:
        """The reals (size,) of the parameter's first value: 1, the identity, or the middle of the range."""
        is_softplus = isinstance(self.transform, Softplus)
        return self.transform.inv(torch.ones_like(like)) if is_softplus else torch.zeros_like(like)


def _checked_class(family: Any) -> type[Any]:
    kind = family.func if isinstance(family, partial) else family
    if not (isinstance(kind, type) and issubclass(kind, TorchDistributionMixin)):
        raise ValueError(
            "Expected a class of pyro.distributions, or a functools.partial of one, but got "
            f"{kind if isinstance(kind, type) else type(kind).__name__}."
        )
    return kind


def _event_dim(kind: Any) -> int:
    try:
        return int(kind.support.event_dim)
    except (AttributeError, NotImplementedError):
        raise NotImplementedError(
            f"Expected a family of distributions with a known number of event axes but got {kind.__name__}: "
            f"{_FIX}."
        ) from None


def _to_compute(family: Family, kind: Any) -> Mapping[str, Constraint]:
    """The constraints of the parameters that are to be computed, by name."""
    known = signature(kind).parameters
    fixed = _fixed(family, known)
    listed = kind.arg_constraints if isinstance(kind.arg_constraints, Mapping) else {}
    left = {name: listed[name] for name in known if name in listed and name not in fixed}
    for group in _ALTERNATIVES:
        left = _without_alternatives(left, group, fixed)
    needed = {name for name, each in known.items() if _is_needed(each)} - fixed - left.keys()
    if needed or not left:
        names = sorted(needed) or "parameters"
        raise NotImplementedError(
            f"Expected a family of distributions that tells the range of its {names} but got "
            f"{kind.__name__}: fix what is no function of the data by functools.partial, or {_FIX}."
        )
    return left


def _fixed(family: Family, known: Iterable[str]) -> set[str]:
    if not isinstance(family, partial):
        return set()
    return {name for name, _ in zip(known, family.args, strict=False)} | family.keywords.keys()


def _without_alternatives(
    left: dict[str, Constraint], group: Sequence[str], fixed: set[str]
) -> dict[str, Constraint]:
    kept = None if fixed & set(group) else next((name for name in group if name in left), None)
    return {name: each for name, each in left.items() if name not in group or name == kept}


def _is_needed(parameter: Parameter) -> bool:
    ordinary = parameter.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    return ordinary and parameter.default is Parameter.empty


def _transform(kind: type[Any], name: str, constraint: Constraint) -> Transform:
    base = unwrapped(constraint)
    if isinstance(base, type(constraints.positive) | type(constraints.nonnegative)) and base.lower_bound == 0:
        return Softplus()
    if isinstance(base, type(constraints.lower_cholesky)):
        return LowerCholesky()
    try:
        return transform_to(base)
    except NotImplementedError:
        raise NotImplementedError(
            f"Expected a family of distributions whose parameters have ranges of their own but {name!r} of "
            f"{kind.__name__} has none: fix it by functools.partial, or {_FIX}."
        ) from None


def _shape(kind: Any, name: str, constraint: Constraint, event_shape: torch.Size) -> torch.Size:
    """The shape of a parameter of one latent, by the number of axes that are not batch axes."""
    event_dim = _event_dim(kind)
    first = len(event_shape) - event_dim
    lead, tail = event_shape[:first], event_shape[first:]
    axes = constraint.event_dim
    if axes <= event_dim:
        return lead + tail[event_dim - axes :]
    if (axes, event_dim) == (2, 1) and isinstance(constraint, type(constraints.lower_cholesky)):
        return lead + tail * 2
    raise NotImplementedError(
        f"Expected a family of distributions whose parameters' shapes follow from the event but {name!r} of "
        f"{kind.__name__} does not: {_FIX}, such as CategoricalHead or LowRankNormalHead."
    )
