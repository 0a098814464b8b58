"""The univariate factors of a product, whatever is wrapped around them."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol, Self, final

import torch
from torch import Tensor
from torch.distributions import (
    CatTransform,
    ComposeTransform,
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    Transform,
    TransformedDistribution,
    biject_to,
    constraints,
    register_kl,
)
from torch.distributions.constraints import Constraint, is_dependent
from torch.distributions.transforms import _InverseTransform
from torch.distributions.utils import lazy_property

from pyro_infomax.distributions._divergences import closed_divergence
from pyro_infomax.distributions._families import diagonal_normal, full_name, is_factorised, is_normal
from pyro_infomax.distributions._transforms import (
    elementwise,
    is_plain,
    parameters_of,
    shared,
    with_parameters,
)

# ---- Univariate distributions of several families, side by side.


@final
class SideBySide(Distribution):
    """Univariate distributions along the last axis of their batch shape, in runs of one family each.

    Values, moments and log-densities are float64.

    Args:
        parts: batch shapes (*batch, size), each with its own size, and event shapes ().

    >>> from torch.distributions import Bernoulli
    >>> both = SideBySide([Normal(torch.zeros(5, 2), 1.0), Bernoulli(torch.full((5, 1), 0.5))])
    >>> both.log_prob(torch.tensor([0.0, 0.0, 1.0]))[0]
    tensor([-0.9189, -0.9189, -0.6931], dtype=torch.float64)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = list(parts)
        self.has_rsample = all(part.has_rsample for part in self.parts)
        self.sizes = [part.batch_shape[-1] for part in self.parts]
        batch = torch.broadcast_shapes(*(part.batch_shape[:-1] for part in self.parts))
        super().__init__(torch.Size([*batch, sum(self.sizes)]), validate_args=False)

    @property
    def support(self) -> Any:
        """That of each part."""
        return constraints.cat([part.support for part in self.parts], -1, self.sizes)

    @property
    def mean(self) -> Tensor:
        """(*batch, latent)."""
        return self._each(lambda part: part.mean)

    @property
    def variance(self) -> Tensor:
        """(*batch, latent)."""
        return self._each(lambda part: part.variance)

    def entropy(self) -> Tensor:
        """(*batch, latent), in nats."""
        return self._each(lambda part: part.entropy())

    def sample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        """(*sample_shape, *batch, latent)."""
        return self._each(lambda part: part.sample(torch.Size(sample_shape)))

    def rsample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        """The same with gradients."""
        return self._each(lambda part: part.rsample(torch.Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """(..., latent), in nats."""
        pieces = value.split(self.sizes, -1)
        scores = [part.log_prob(z).double() for part, z in zip(self.parts, pieces, strict=True)]
        return torch.cat(scores, -1)

    def expand(self, batch_shape: torch.Size | Sequence[int], _instance: Any = None) -> Self:
        """The same for more rows."""
        lead = batch_shape[:-1]
        return type(self)([each.expand((*lead, n)) for each, n in zip(self.parts, self.sizes, strict=True)])

    def _each(self, of_part: Callable[[Any], Tensor]) -> Tensor:
        return torch.cat([of_part(part).double() for part in self.parts], -1)


def joined(parts: Sequence[Any]) -> Any:
    """Univariate distributions side by side, as one plain distribution where they are of one family.

    Args:
        parts: batch shapes (*batch, size), event shapes ().
    """
    if all(isinstance(part, Normal) for part in parts):
        loc, scale = (torch.cat([getattr(part, name) for part in parts], -1) for name in ("loc", "scale"))
        return Normal(loc, scale, validate_args=False)
    return parts[0] if len(parts) == 1 else SideBySide(parts)


def parts_of(factors: Any, sizes: Sequence[int]) -> list[Any]:
    """The inverse of :func:`joined`, for parts of these sizes.

    Raises:
        NotImplementedError: for a family that cannot be taken apart so.
    """
    if isinstance(factors, SideBySide) and factors.sizes == list(sizes):
        return factors.parts
    if isinstance(factors, Normal):
        both = zip(factors.loc.split(list(sizes), -1), factors.scale.split(list(sizes), -1), strict=True)
        return [Normal(loc, scale, validate_args=False) for loc, scale in both]
    raise NotImplementedError(f"{type(factors).__name__} is not known in parts of the sizes {list(sizes)}")


@register_kl(SideBySide, SideBySide)
@register_kl(SideBySide, Normal)
@register_kl(Normal, SideBySide)
def _divergence(q: Any, p: Any) -> Tensor:
    sizes = q.sizes if isinstance(q, SideBySide) else p.sizes
    pairs = zip(parts_of(q, sizes), parts_of(p, sizes), strict=True)
    return torch.cat([_known(closed_divergence(one, other)) for one, other in pairs], -1)


def _known(divergence: Tensor | None) -> Tensor:
    if divergence is None:
        raise NotImplementedError("not all parts have a divergence in closed form")
    return divergence.double()


# ---- factors


def factors_of(distribution: Any) -> Any:
    """Univariate distributions, of batch shape (*batch, *event), of a product by construction; else None.

    >>> import torch
    >>> from torch.distributions import ExpTransform, IndependentTransform, Normal
    >>> base = Independent(Normal(torch.zeros(5, 2), 1.0), 1)
    >>> factors = factors_of(TransformedDistribution(base, [IndependentTransform(ExpTransform(), 1)]))
    >>> factors.batch_shape, factors.event_shape
    (torch.Size([5, 2]), torch.Size([]))
    """
    if isinstance(distribution, Independent):
        return factors_of(distribution.base_dist)
    if not isinstance(distribution, Distribution) or not distribution.event_shape:
        return distribution if isinstance(distribution, Distribution) else None
    return _transformed_factors(distribution) if isinstance(distribution, TransformedDistribution) else None


def _transformed_factors(distribution: TransformedDistribution) -> Any:
    factors, transform = factors_of(distribution.base_dist), elementwise_of(distribution)
    if factors is None or transform is None:
        return None
    return TransformedDistribution(factors, transform, validate_args=False)


def elementwise_of(distribution: TransformedDistribution) -> Transform | None:
    """The transforms as one that acts on every element by itself; None where they do not."""
    return elementwise(ComposeTransform(distribution.transforms))


def is_parametric(distribution: Any) -> bool:
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


# ---- The univariate marginals of a distribution over (d,), where they are to be had.


class Marginals(Protocol):
    """Scores each latent dimension by itself."""

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z_j), (..., latent), of z (..., latent)."""


class OwnMarginals:
    """The marginals of a distribution that brings its own ``log_prob_marginals``."""

    def __init__(self, distribution: Any) -> None:
        self.log_prob = distribution.log_prob_marginals


class MixtureMarginals:
    """The marginals of a mixture: the mixture of its components' marginals."""

    def __init__(self, mixture: MixtureSameFamily) -> None:
        self.weights = mixture.mixture_distribution.logits  # (*batch, component)
        self.components = marginals_of(mixture.component_distribution)

    def log_prob(self, z: Tensor) -> Tensor:
        scores = self.components.log_prob(z.unsqueeze(-2))  # (..., component, latent)
        return (scores + self.weights.unsqueeze(-1)).logsumexp(-2)


def marginals_of(distribution: Any) -> Marginals:
    """Univariate distributions of batch shape (*batch, latent), or an object that scores like them.

    Raises:
        NotImplementedError: where the marginals of the family are not known.
    """
    if hasattr(distribution, "log_prob_marginals"):
        return OwnMarginals(distribution)
    if is_factorised(distribution):
        return distribution.base_dist
    if isinstance(distribution, MultivariateNormal | LowRankMultivariateNormal):
        return Normal(distribution.mean, distribution.stddev, validate_args=False)
    if isinstance(distribution, MixtureSameFamily):
        return MixtureMarginals(distribution)
    if isinstance(distribution, TransformedDistribution) and (found := _transformed_marginals(distribution)):
        return found
    raise NotImplementedError(
        "Expected a distribution whose univariate marginals are known (Independent over univariate factors, "
        "a multivariate Normal, a mixture of these, either of the former transformed element by element) but "
        f"got {full_name(distribution)}; give it a method log_prob_marginals(z) of shape (..., d)."
    )


def _transformed_marginals(distribution: TransformedDistribution) -> Marginals | None:
    transform = elementwise_of(distribution)
    if transform is None:
        return None
    base: Any = marginals_of(distribution.base_dist)
    known = isinstance(base, Distribution)
    return TransformedDistribution(base, transform, validate_args=False) if known else None


# ---- Coordinates in which the posteriors of all data are Normal.


@final
@dataclass(frozen=True)
class Coordinates:
    r"""u with z = f(u), where f is the same for all data.

    .. math:: q(z \mid x_n) = q(u \mid x_n)\, \Bigl|\det \frac{\partial z}{\partial u}\Bigr|^{-1}, \qquad
        q(z) = q(u)\, \Bigl|\det \frac{\partial z}{\partial u}\Bigr|^{-1}

    Attributes:
        base: the posteriors of u, batch shape (N,), event shape (k,).
        transform: f; None where u is z.
    """

    base: Any
    transform: Transform | None = None

    def at(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """u, and the log-volume by which f stretches it: infinite where f reaches no such z.

        Args:
            z: (points, latent).

        Returns:
            (points, k), and (points, latent) if f acts element by element, (points,) otherwise.
        """
        if self.transform is None:
            return z, z.new_zeros(z.shape, dtype=torch.float64)
        u = self.transform.inv(z)
        stretch = self.transform.log_abs_det_jacobian(u, z).double()
        return self._finite(z, u, stretch)

    def _finite(self, z: Tensor, u: Tensor, stretch: Tensor) -> tuple[Tensor, Tensor]:
        by_point = stretch.dim() < u.dim()
        lost, unknown = ~u.isfinite(), z.isnan()
        if by_point:
            lost, unknown = lost.any(-1), unknown.any(-1)
        lost = lost | ~stretch.isfinite()
        nowhere = torch.where(unknown, torch.nan, torch.inf).to(stretch)
        return u.masked_fill(lost.unsqueeze(-1) if by_point else lost, 0.0), torch.where(
            lost, nowhere, stretch
        )


def coordinates_of(posterior: Any) -> Coordinates:
    """Those in which the posteriors are Normal, if there are any, else those that they are given in.

    Args:
        posterior: batch shape (N,), event shape (d,).

    >>> from torch.distributions import LogNormal
    >>> found = coordinates_of(Independent(LogNormal(torch.zeros(5, 2), 1.0), 1))
    >>> found.base, found.transform
    (Independent(Normal(loc: torch.Size([5, 2]), scale: torch.Size([5, 2])), 1), ExpTransform())
    """
    if is_normal(posterior):
        return Coordinates(posterior)
    found = _of_factors(factors_of(posterior)) or _of_vectors(posterior)
    return Coordinates(posterior) if found is None else found


def _of_factors(factors: Any) -> Coordinates | None:
    """Of univariate posteriors, (batch, latent)."""
    parts = factors.parts if isinstance(factors, SideBySide) else [factors]
    known = [each for each in map(_of_part, parts) if each is not None]
    if len(known) < len(parts):
        return None
    base = Independent(joined([normal for normal, _ in known]), 1)
    if len(known) == 1:
        return Coordinates(base, known[0][1])
    sizes = [normal.batch_shape[-1] for normal, _ in known]
    return Coordinates(base, CatTransform([transform for _, transform in known], -1, sizes))


def _of_part(part: Any) -> tuple[Normal, Transform] | None:
    if isinstance(part, Normal):
        return part, ComposeTransform([])
    if not isinstance(part, TransformedDistribution):
        return None
    inner, outer = _of_part(part.base_dist), shared(ComposeTransform(part.transforms))
    if inner is None or outer is None:
        return None
    return inner[0], _after(inner[1], outer)


def _of_vectors(posterior: Any) -> Coordinates | None:
    """Of Normals whose dimensions depend on each other, or are mapped together."""
    if not isinstance(posterior, TransformedDistribution) or not is_normal(posterior.base_dist):
        return None
    transform = shared(ComposeTransform(posterior.transforms))
    return (
        None if transform is None else Coordinates(posterior.base_dist, elementwise(transform) or transform)
    )


def _after(inner: Transform, outer: Transform) -> Transform:
    return outer if inner == ComposeTransform([]) else ComposeTransform([inner, outer])


# ---- What the parameters of a posterior or a prior must be, also where construction does not validate them.


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


# ---- Values of a site that are far from its draws, which shows what depends on it.

_FAR: Final = 10.0  # times the distance of two draws


@torch.no_grad()
def elsewhere(fn: Any, value: torch.Tensor) -> torch.Tensor:
    """A value like those of a distribution, but far from its draws, or any that a discrete one can have.

    Args:
        fn: the distribution of a site.
        value: a draw from it.

    Returns:
        Of the shape of ``value``.

    Example:
        >>> from torch.distributions import Gamma
        >>> gamma = Gamma(torch.ones(1000), 1.0)
        >>> float(elsewhere(gamma, gamma.sample()).max()) > 1000
        True
    """
    other = fn.sample()
    try:
        if not fn.support.is_discrete:
            return _beyond(fn, value, other)
        base = _unwrapped(fn)
        return _any_of(base, value) if base.has_enumerate_support else _counts_beyond(fn, value, other)
    except (RuntimeError, ValueError):  # no bijection, no support, or no list of states
        return other


def _any_of(base: Any, value: torch.Tensor) -> torch.Tensor:
    events = len(base.event_shape)
    states = base.enumerate_support(expand=False)
    states = states.reshape(len(states), *base.event_shape)
    return states[torch.randint(len(states), value.shape[: value.dim() - events])]


def _counts_beyond(fn: Any, value: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Counts without an end: rare ones may have no two draws that differ."""
    far = value + _FAR * (other - value).abs() + torch.randint(2, value.shape)
    return torch.where(fn.support.check(far).all(), far, other)


def _beyond(fn: Any, value: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    to_support = biject_to(fn.support)
    start, end = to_support.inv(value), to_support.inv(other)
    far = to_support(start + _FAR * (end - start))
    return torch.where(far.isfinite(), far, other)


def _unwrapped(fn: Any) -> Any:
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return fn
