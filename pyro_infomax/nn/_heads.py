"""Heads on continuous supports: from the features of an encoder to the distribution of one latent."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import Parameter, signature
from math import ceil, expm1, log, sqrt
from typing import Final, TypeAlias, cast, final

import pyro.distributions as dist
import torch
from pyro.distributions import constraints, transforms
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import Transform, transform_to
from torch.distributions.constraints import Constraint

from pyro_infomax.distributions import (
    FlowDistribution,
    LowerCholesky,
    SiteTransform,
    Softplus,
    lower_triangular,
    to_flow,
    unwrapped,
)

# ---- What the heads on continuous supports share: a way to the support, and layers that begin well.


class ContinuousHead(nn.Module, ABC):
    """Features to a distribution of real numbers, and these through a bijection to a support. Abstract.

    Args:
        event_shape: shape of one latent.
        support: constraint that a latent fulfils.
    """

    def __init__(self, event_shape: Sequence[int], support: Constraint) -> None:
        super().__init__()
        self.site = SiteTransform.of(support, event_shape)
        self.event_shape = self.site.event_shape

    @abstractmethod
    def forward(self, features: Tensor) -> dist.TorchDistribution:
        """The distribution, of batch shape (...), of features (..., in_features)."""


def begins_linearly(head: nn.Module) -> bool:
    """Whether all that a head does with its features is to give them to plain linear layers."""
    if type(head) not in _LINEAR_HEADS:
        return False
    layers = [head.linear, head.context] if isinstance(head, FlowHead) else [head.linear]
    return does_forward_alone(head) and all(
        type(layer) is nn.Linear and does_forward_alone(layer) for layer in layers
    )


def does_forward_alone(module: nn.Module) -> bool:
    """Whether a call of a module is one of the forward method of its class: no hooks, and not compiled."""
    own = vars(module)
    hooks = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
    return not any(own.get(name) for name in (*hooks, "_compiled_call_impl", "forward"))


def location_scale_layer(in_features: int, size: int, init_scale: float, *, others: int = 0) -> nn.Linear:
    """A layer that ends in locations and in what becomes scales by a softplus, all ``init_scale`` at first.

    Only the locations depend on the features at first; other outputs are 0.
    """
    check_init_scale(init_scale)
    layer = nn.Linear(in_features, 2 * size + others)
    with torch.no_grad():
        layer.weight[size:] = 0
        layer.bias[size : 2 * size] = inverse_softplus(init_scale)
        layer.bias[2 * size :] = 0
    return layer


def check_init_scale(init_scale: float) -> None:
    """Raises ValueError unless the scale is a finite number above 0."""
    if not 0 < init_scale < float("inf"):
        raise ValueError(f"Expected a finite init_scale > 0 but got {init_scale}.")


def inverse_softplus(value: float) -> float:
    """The number whose softplus is ``value``, above 0."""
    # expm1 overflows where softplus is the identity to double precision
    return log(expm1(value)) if value < 40 else value


# ---- The head that makes a diagonal Normal of features.


@final
class NormalHead(ContinuousHead):
    r"""Features to a Normal distribution over an event, or over the reals that make one.

    .. math:: q(z \mid h) = \mathcal{N}\bigl(z;\, A h + a,\ \mathrm{diag}(\mathrm{softplus}(B h + b))^2\bigr)

    On another support it is the distribution of T(u) with u Normal: a ``LogNormal`` on the positive
    numbers, a product of univariate distributions wherever T acts on each element by itself, and a
    logistic-normal distribution on a simplex (Aitchison and Shen, 1980, "Logistic-normal distributions: some
    properties and uses"). At first every scale is ``init_scale`` (B is zero) and the locations are small.

    Args:
        in_features: number of features.
        event_shape: shape of one latent; ``()`` for a scalar.
        init_scale: standard deviation at first, in units of the latent, or of u where it is transformed.
        support: constraint that a latent fulfils.

    Raises:
        ValueError: unless init_scale > 0, and for an event shape that does not fit the support.
        NotImplementedError: for a discrete support, or one without a bijection from the reals.

    Example:
        >>> q = NormalHead(16, (2, 3), init_scale=0.5)(torch.zeros(5, 16))
        >>> q.batch_shape, q.event_shape
        (torch.Size([5]), torch.Size([2, 3]))
        >>> NormalHead(16, (3,), support=constraints.positive)(torch.zeros(5, 16)).base_dist
        LogNormal()
    """

    def __init__(
        self,
        in_features: int,
        event_shape: Sequence[int],
        *,
        init_scale: float = 0.5,
        support: Constraint = constraints.real,
    ) -> None:
        super().__init__(event_shape, support)
        self.linear = location_scale_layer(in_features, self.site.size, init_scale)

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        loc, raw = self.linear(features).chunk(2, dim=-1)  # (..., size)
        return self.site.normal(loc, Softplus()(raw))


# ---- The head that makes a Normal with full covariance of features.


@final
class MultivariateNormalHead(ContinuousHead):
    r"""Features to a Normal distribution with full covariance over an event, or over the reals that make one.

    .. math:: q(z \mid h) = \mathcal{N}\bigl(z;\, \mu(h),\, L(h) L(h)^\top\bigr)

    with μ and the lower triangle of L linear in the features, but for the softplus on its diagonal. The
    elements of an event of several axes, or of none, are dependent all the same. At first L is
    ``init_scale`` times the identity. A real vector has a plain ``MultivariateNormal``.

    Reference: Rezende, Mohamed and Wierstra, 2014, "Stochastic backpropagation and approximate inference
    in deep generative models".

    Args:
        in_features, event_shape, init_scale, support: as :class:`NormalHead`.

    Raises:
        ValueError, NotImplementedError: as :class:`NormalHead`.

    Example:
        >>> q = MultivariateNormalHead(16, (3,))(torch.zeros(5, 16))
        >>> q.scale_tril[0].diagonal()
        tensor([0.5000, 0.5000, 0.5000], grad_fn=...)
    """

    def __init__(
        self,
        in_features: int,
        event_shape: Sequence[int],
        *,
        init_scale: float = 0.5,
        support: Constraint = constraints.real,
    ) -> None:
        super().__init__(event_shape, support)
        n = self.site.size
        self._sizes = [n, n, n * (n - 1) // 2]
        self.linear = location_scale_layer(in_features, n, init_scale, others=self._sizes[-1])

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        loc, diagonal, below = self.linear(features).split(self._sizes, dim=-1)
        # (..., size, size)
        scale_tril = Softplus()(diagonal).diag_embed() + lower_triangular(below, self.site.size, offset=-1)
        return self.site.distribution(dist.MultivariateNormal(loc, scale_tril=scale_tril))


# ---- The head that makes a Normal with a covariance of low rank and diagonal of features.

_INIT_FACTOR = 0.1


@final
class LowRankNormalHead(ContinuousHead):
    r"""Features to a Normal with few directions of dependence over an event, or over the reals that make one.

    .. math:: q(z \mid h) = \mathcal{N}\bigl(z;\, \mu,\, D\,(I + F F^\top)\,D\bigr), \qquad
        D = \mathrm{diag}(\mathrm{softplus}(d))

    with μ, d and the r columns of F linear in the features. F is in units of D, so that the matrix
    :math:`I + F^\top F` to be inverted is well conditioned however the scales differ. At first every
    standard deviation is ``init_scale`` and the correlations are small, but not zero, where the expected
    gradient would be zero too. A real vector has a plain ``LowRankMultivariateNormal``.

    Reference: Ong, Nott and Smith, 2018, "Gaussian variational approximation with a factor covariance
    structure".

    Args:
        in_features, event_shape, init_scale, support: as :class:`NormalHead`.
        rank: number r of columns, from 1 to the number n of reals that make one latent; None takes the
            square root of n, rounded up.

    Raises:
        ValueError: unless 1 <= rank <= n; and as :class:`NormalHead`.
        NotImplementedError: as :class:`NormalHead`.

    Example:
        >>> q = LowRankNormalHead(16, (10,), rank=2)(torch.zeros(5, 16))
        >>> q.cov_factor.shape, q.stddev[0, 0]
        (torch.Size([5, 10, 2]), tensor(0.5000, grad_fn=...))
    """

    def __init__(
        self,
        in_features: int,
        event_shape: Sequence[int],
        *,
        rank: int | None = None,
        init_scale: float = 0.5,
        support: Constraint = constraints.real,
    ) -> None:
        super().__init__(event_shape, support)
        n = self.site.size
        self.rank = ceil(sqrt(n)) if rank is None else rank
        if not 1 <= self.rank <= n:
            raise ValueError(
                f"Expected 1 <= rank <= {n}, the number of reals that make one latent, but got {self.rank}."
            )
        self._sizes = [n, n, n * self.rank]
        self.linear = location_scale_layer(in_features, n, init_scale, others=n * self.rank)
        _, raw, factor = self.linear.bias.split(self._sizes)
        nn.init.uniform_(factor, -_INIT_FACTOR, _INIT_FACTOR)
        widening = 1 + factor.detach().reshape(n, self.rank).square().sum(-1)  # (size)
        with torch.no_grad():
            raw.copy_(transforms.SoftplusTransform().inv(init_scale / widening.sqrt()))

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        loc, raw, factor = self.linear(features).split(self._sizes, dim=-1)
        scale = Softplus()(raw)  # (..., size)
        factor = scale.unsqueeze(-1) * factor.reshape(*factor.shape[:-1], self.site.size, self.rank)
        return self.site.distribution(dist.LowRankMultivariateNormal(loc, factor, scale.square()))


# ---- The head that makes a point of features.


@final
class DeltaHead(ContinuousHead):
    r"""Features to a point mass, as for maximum a posteriori estimates.

    .. math:: q(z \mid h) = \delta\bigl(z - T(A h + a)\bigr)

    T maps the reals to the support. There is no Jacobian: the objective is the density of the model at the
    point, in the coordinates of the model.

    Args:
        in_features, event_shape, support: as :class:`NormalHead`.

    Raises:
        ValueError, NotImplementedError: as :class:`NormalHead`.

    Example:
        >>> q = DeltaHead(16, (3,), support=constraints.simplex)(torch.zeros(5, 16))
        >>> bool(torch.allclose(q.sample().sum(-1), torch.ones(5)))
        True
    """

    def __init__(
        self, in_features: int, event_shape: Sequence[int], *, support: Constraint = constraints.real
    ) -> None:
        super().__init__(event_shape, support)
        self.linear = nn.Linear(in_features, self.site.size)

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        return dist.Delta(self.site.constrain(self.linear(features)), event_dim=len(self.event_shape))


# ---- The head that makes a normalising flow of features.

_MAX_CONTEXT: Final = 64


@final
class FlowHead(ContinuousHead):
    r"""Features to a flow over an event.

    .. math:: z = \mathrm{constrain}\bigl(m(h) + s(h) \odot T(\varepsilon; C h)\bigr), \qquad
        \varepsilon \sim \mathcal{N}(0, 1)

    with m linear, s the softplus of a linear layer, and T a flow in the context C h. At first every scale
    is ``init_scale``, the locations are small, and T is the identity where the flow begins there, as the
    default does. More than 64 features are compressed to a context of 64 by a linear layer: a flow sees the
    context at every pair of a value and a datum when it scores many values under all data, as the exact
    aggregate posterior does.

    Drawing and scoring the draw is one pass. Flows whose inverse is slow (autoregressive ones of Pyro)
    therefore train at full speed and are slow in the account; the default is fast in both.

    Reference: Rezende and Mohamed, 2015, "Variational inference with normalizing flows".

    Args:
        in_features, event_shape, init_scale, support: as :class:`NormalHead`.
        flow: what :func:`pyro_infomax.distributions.to_flow` takes: a function of (event size, context size)
            that returns Pyro's conditional transforms or a flow of zuko
            (``pip install pyro_infomax[flows]``); None for
            :class:`~pyro_infomax.distributions.CouplingFlow`.

    Raises:
        ValueError: for what is no flow, or one whose draws carry no gradient; and as :class:`NormalHead`.
        NotImplementedError: as :class:`NormalHead`.

    Example:
        >>> q = FlowHead(16, (3,), support=constraints.simplex)(torch.zeros(5, 16))
        >>> q.batch_shape, q.event_shape
        (torch.Size([5]), torch.Size([3]))
        >>> z = q.rsample()
        >>> torch.allclose(z.sum(-1), torch.ones(5)), q.log_prob(z).shape
        (True, torch.Size([5]))
    """

    def __init__(
        self,
        in_features: int,
        event_shape: Sequence[int],
        *,
        flow: Callable[..., object] | None = None,
        init_scale: float = 0.5,
        support: Constraint = constraints.real,
    ) -> None:
        super().__init__(event_shape, support)
        self.linear = location_scale_layer(in_features, self.site.size, init_scale)
        size = min(in_features, _MAX_CONTEXT)
        self.context = nn.Identity() if size == in_features else nn.Linear(in_features, size, bias=False)
        self.flow = to_flow(flow, self.site.size, size)
        if not self.flow.has_rsample:
            raise ValueError(
                "Expected a flow whose draws carry gradients but its distribution has no rsample: "
                "use it as a prior."
            )

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        loc, raw = self.linear(features).chunk(2, dim=-1)  # (..., size)
        context, batch = self.context(features), features.shape[:-1]
        base = FlowDistribution(self.flow, context, batch_shape=batch, loc=loc, scale=Softplus()(raw))
        return self.site.distribution(base)


# ---- The head that makes a distribution of a given family of features.

DistributionFamily: TypeAlias = Callable[..., TorchDistributionMixin]
"""A class of ``pyro.distributions``, or a partial of one."""
_Class: TypeAlias = type[TorchDistributionMixin]

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
    :func:`torch.distributions.transform_to` knows for others. At first positive parameters are about 1, a
    Student's degrees of freedom 4, and Cholesky factors about the identity. Where the family is that of the
    prior, the closed form of their divergence applies, and in conjugate models the exact posterior is within
    reach.

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

    def __init__(self, in_features: int, event_shape: Sequence[int], family: DistributionFamily) -> None:
        super().__init__()
        self.event_shape = torch.Size(event_shape)
        self.family = family
        kind = _class_of(family)
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

    def _check_event(self, kind: _Class, event_dim: int) -> None:
        if len(self.event_shape) < event_dim:
            raise ValueError(
                f"Expected an event shape of at least {event_dim} axes for {kind.__name__} but got "
                f"{tuple(self.event_shape)}."
            )

    @torch.no_grad()
    def _check_trial(self, kind: _Class) -> None:
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
    """One parameter of a family, for one latent: from reals of a shape by a transform."""

    name: str
    transform: Transform
    shape: torch.Size
    first: float = 1.0  # of a positive parameter

    @classmethod
    def of(
        cls, kind: _Class, name: str, constraint: Constraint, event_shape: torch.Size
    ) -> "FamilyParameter":
        """The parameter of a class for a latent of a shape, if its own shape and range can be told."""
        transform = _transform(kind, name, constraint)
        shape = _shape(kind, name, constraint, event_shape)
        # Of two degrees of freedom or fewer there is no variance
        is_student = issubclass(kind, dist.StudentT | dist.MultivariateStudentT)
        first = 4.0 if is_student and name == "df" else 1.0
        return cls(name, transform, torch.Size(transform.inverse_shape(shape)), first)

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
        if not isinstance(self.transform, Softplus):
            return torch.zeros_like(like)
        reals: Tensor = self.transform.inv(torch.full_like(like, self.first))
        return reals


_LINEAR_HEADS: Final = frozenset(
    {NormalHead, MultivariateNormalHead, LowRankNormalHead, DeltaHead, FlowHead, DistributionHead}
)


def _class_of(family: object) -> _Class:
    kind = family.func if isinstance(family, partial) else family
    if not (isinstance(kind, type) and issubclass(kind, TorchDistributionMixin)):
        raise ValueError(
            "Expected a class of pyro.distributions, or a functools.partial of one, but got "
            f"{kind if isinstance(kind, type) else type(kind).__name__}."
        )
    return kind


def _event_dim(kind: _Class) -> int:
    try:
        return int(cast(Constraint, kind.support).event_dim)
    except (AttributeError, NotImplementedError):
        raise NotImplementedError(
            f"Expected a family of distributions with a known number of event axes but got {kind.__name__}: "
            f"{_FIX}."
        ) from None


def _to_compute(family: DistributionFamily, kind: _Class) -> Mapping[str, Constraint]:
    """The constraints of the parameters that are to be computed, by name."""
    known = signature(kind).parameters
    fixed = _fixed(family, known)
    given = kind.arg_constraints
    listed: Mapping[str, Constraint] = given if isinstance(given, Mapping) else {}
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


def _fixed(family: DistributionFamily, known: Iterable[str]) -> set[str]:
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


def _transform(kind: _Class, name: str, constraint: Constraint) -> Transform:
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


def _shape(kind: _Class, name: str, constraint: Constraint, event_shape: torch.Size) -> torch.Size:
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
