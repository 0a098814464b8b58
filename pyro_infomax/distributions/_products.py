"""Products of univariate distributions: factors, marginals, Normal coordinates, closed-form expectations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from types import SimpleNamespace
from typing import ClassVar, Protocol, Self, cast, final

import torch
from torch import Tensor
from torch.distributions import (
    CatTransform,
    ComposeTransform,
    Distribution,
    ExpTransform,
    Independent,
    LogNormal,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    ReshapeTransform,
    Transform,
    TransformedDistribution,
    constraints,
    register_kl,
)
from torch.distributions.constraints import Constraint

from pyro_infomax.distributions._divergences import closed_divergence, expected_log_normal_density
from pyro_infomax.distributions._families import (
    diagonal_normal,
    full_name,
    is_angular,
    is_called,
    is_discrete,
    is_factorised,
    is_linear,
    is_normal,
    made_of,
)
from pyro_infomax.distributions._posterior import Density, Posterior
from pyro_infomax.distributions._transforms import elementwise, shared

# ---- A product by construction, read as its univariate factors.


def factors_of(distribution: object) -> Distribution | None:
    """Univariate distributions, of batch shape (*batch, *event), of a product by construction; else None."""
    if isinstance(distribution, Independent):
        return factors_of(distribution.base_dist)
    if isinstance(distribution, TransformedDistribution) and (found := _of_one_number(distribution)):
        return found
    if not isinstance(distribution, Distribution) or not distribution.event_shape:
        return distribution if isinstance(distribution, Distribution) else None
    return _transformed_factors(distribution) if isinstance(distribution, TransformedDistribution) else None


def _transformed_factors(distribution: TransformedDistribution) -> Distribution | None:
    factors, transform = factors_of(distribution.base_dist), elementwise_of(distribution)
    if factors is None or transform is None:
        return None
    return TransformedDistribution(factors, transform, validate_args=False)


def _of_one_number(distribution: TransformedDistribution) -> Distribution | None:
    """A Normal vector of one element in another shape, as the univariate Normal that it is."""
    base, rest = distribution.base_dist, after_reshapes(distribution.transforms)
    if rest is None or not isinstance(base, MultivariateNormal | LowRankMultivariateNormal):
        return None
    if base.event_shape != (1,):
        return None
    shape = (*distribution.batch_shape, *distribution.event_shape)
    loc, scale = (
        each.expand(*distribution.batch_shape, 1).reshape(shape) for each in (base.mean, base.stddev)
    )
    normal = Normal(loc, scale, validate_args=False)
    if not rest:
        return normal
    if len(rest) == 1 and isinstance(rest[0], ExpTransform):
        return LogNormal(loc, scale, validate_args=False)  # of which more is known
    onward = elementwise(ComposeTransform(rest))
    return None if onward is None else TransformedDistribution(normal, onward, validate_args=False)


def after_reshapes(transforms: Sequence[Transform]) -> list[Transform] | None:
    """The transforms that follow on those that reshape; None where none does."""
    rest = list(dropwhile(lambda each: isinstance(each, ReshapeTransform), transforms))
    return None if len(rest) == len(transforms) else rest


def elementwise_of(distribution: TransformedDistribution) -> Transform | None:
    """The transforms as one that acts on every element by itself; None where they do not."""
    return elementwise(ComposeTransform(distribution.transforms))


# ---- Univariate distributions of several families, side by side.


@final
class SideBySide(Distribution):
    """Univariate distributions along the last axis of their batch shape, in runs of one family each.

    Each part has a batch shape (*batch, size) of its own size. Values, moments and log-densities are float64.
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}

    def __init__(self, parts: Sequence[Distribution]) -> None:
        self.parts = list(parts)
        self.has_rsample = all(part.has_rsample for part in self.parts)
        self.sizes = [part.batch_shape[-1] for part in self.parts]
        batch = torch.broadcast_shapes(*(part.batch_shape[:-1] for part in self.parts))
        super().__init__(torch.Size([*batch, sum(self.sizes)]), validate_args=False)

    @property
    def support(self) -> Constraint:
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

    def expand(self, batch_shape: torch.Size | Sequence[int], _instance: object = None) -> Self:
        """The same for more rows."""
        lead = batch_shape[:-1]
        return type(self)([each.expand((*lead, n)) for each, n in zip(self.parts, self.sizes, strict=True)])

    def _each(self, of_part: Callable[[Distribution], Tensor]) -> Tensor:
        return torch.cat([of_part(part).double() for part in self.parts], -1)


def joined(parts: Sequence[Distribution]) -> Distribution:
    """Univariate distributions (*batch, size) side by side, as one plain one where they are of one family."""
    if all(isinstance(part, Normal) for part in parts):
        loc, scale = (_side_by_side([getattr(part, name) for part in parts]) for name in ("loc", "scale"))
        return Normal(loc, scale, validate_args=False)
    return parts[0] if len(parts) == 1 else SideBySide(parts)


def _side_by_side(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, -1)


def parts_of(factors: Distribution, sizes: Sequence[int]) -> list[Distribution]:
    """The inverse of :func:`joined`, for parts of these sizes."""
    if isinstance(factors, SideBySide) and factors.sizes == list(sizes):
        return factors.parts
    if isinstance(factors, Normal):
        both = zip(factors.loc.split(list(sizes), -1), factors.scale.split(list(sizes), -1), strict=True)
        return [Normal(loc, scale, validate_args=False) for loc, scale in both]
    raise NotImplementedError(f"{type(factors).__name__} is not known in parts of the sizes {list(sizes)}")


@register_kl(SideBySide, SideBySide)
@register_kl(SideBySide, Normal)
@register_kl(Normal, SideBySide)
def _divergence(q: Distribution, p: Distribution) -> Tensor:
    sizes = next(each.sizes for each in (q, p) if isinstance(each, SideBySide))
    pairs = zip(parts_of(q, sizes), parts_of(p, sizes), strict=True)
    return torch.cat([_known(closed_divergence(one, other)) for one, other in pairs], -1)


def _known(divergence: Tensor | None) -> Tensor:
    if divergence is None:
        raise NotImplementedError("not all parts have a divergence in closed form")
    return divergence.double()


# ---- The univariate marginals of a distribution over (d,), where they are to be had.


class Marginals(Protocol):
    """Scores each latent dimension by itself."""

    def log_prob(self, z: Tensor, /) -> Tensor:
        """log q(z_j), (..., latent), of z (..., latent)."""


class MixtureMarginals:
    """The marginals of a mixture: the mixture of its components' marginals."""

    def __init__(self, mixture: MixtureSameFamily) -> None:
        self.weights = mixture.mixture_distribution.logits  # (*batch, component)
        self.components = marginals_of(mixture.component_distribution)

    def log_prob(self, z: Tensor) -> Tensor:
        scores = self.components.log_prob(z.unsqueeze(-2))  # (..., component, latent)
        return (scores + self.weights.unsqueeze(-1)).logsumexp(-2)


def marginals_of(distribution: object) -> Marginals:
    """Univariate distributions of batch shape (*batch, latent), or an object that scores like them."""
    if hasattr(distribution, "log_prob_marginals"):
        return cast(Marginals, SimpleNamespace(log_prob=distribution.log_prob_marginals))
    if is_factorised(distribution):
        return distribution.base_dist
    if isinstance(distribution, MultivariateNormal | LowRankMultivariateNormal):
        return Normal(distribution.mean, distribution.stddev, validate_args=False)
    if isinstance(distribution, MixtureSameFamily):
        return MixtureMarginals(distribution)
    if isinstance(distribution, TransformedDistribution) and (found := _transformed_marginals(distribution)):
        return found
    if isinstance(distribution, Distribution) and distribution.event_shape == (1,):
        return cast(Marginals, SimpleNamespace(log_prob=lambda z: distribution.log_prob(z).unsqueeze(-1)))
    raise NotImplementedError(
        "Expected a distribution whose univariate marginals are known (Independent over univariate factors, "
        "a multivariate Normal, a mixture of these, either of the former transformed element by element) but "
        f"got {full_name(distribution)}; give it a method log_prob_marginals(z) of shape (..., d)."
    )


def _transformed_marginals(distribution: TransformedDistribution) -> Marginals | None:
    transform = elementwise_of(distribution)
    if transform is None:
        return None
    base = marginals_of(distribution.base_dist)
    if not isinstance(base, Distribution):
        return None
    return TransformedDistribution(base, transform, validate_args=False)


# ---- Coordinates in which the posteriors of all data are Normal.


@final
@dataclass(frozen=True)
class Coordinates:
    r"""u with z = f(u), where f is the same for all data; no f where u is z.

    .. math:: q(z \mid x_n) = q(u \mid x_n)\, \Bigl|\det \frac{\partial z}{\partial u}\Bigr|^{-1}, \qquad
        q(z) = q(u)\, \Bigl|\det \frac{\partial z}{\partial u}\Bigr|^{-1}
    """

    base: Density  # the posteriors of u, batch shape (N,), event shape (k,)
    transform: Transform | None = None

    def at(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """u, and the log-volume by which f stretches it: infinite where f reaches no such z.

        (points, k), and (points, latent) if f acts element by element, (points,) otherwise.
        """
        if self.transform is None:
            return z, z.new_zeros((), dtype=torch.float64).expand(z.shape)  # of one number
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


def coordinates_of(posterior: Density) -> Coordinates:
    """Those in which the posteriors are Normal, if there are any, else those that they are given in."""
    if is_normal(posterior):
        return Coordinates(posterior)
    found = _of_factors(factors_of(posterior)) or _of_vectors(posterior)
    return Coordinates(posterior) if found is None else found


def _of_factors(factors: Distribution | None) -> Coordinates | None:
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


def _of_part(part: Distribution | None) -> tuple[Normal, Transform] | None:
    if isinstance(part, Normal):
        return part, ComposeTransform([])
    if not isinstance(part, TransformedDistribution):
        return None
    inner, outer = _of_part(part.base_dist), shared(ComposeTransform(part.transforms))
    if inner is None or outer is None:
        return None
    return inner[0], _after(inner[1], outer)


def _of_vectors(posterior: Density) -> Coordinates | None:
    """Of Normals whose dimensions depend on each other, or are mapped together."""
    if not isinstance(posterior, TransformedDistribution) or not is_normal(posterior.base_dist):
        return None
    transform = shared(ComposeTransform(posterior.transforms))
    return (
        None if transform is None else Coordinates(posterior.base_dist, elementwise(transform) or transform)
    )


def _after(inner: Transform, outer: Transform) -> Transform:
    return outer if inner == ComposeTransform([]) else ComposeTransform([inner, outer])


# ---- Expectations under each posterior that need no draws; None where no closed form is known.


@final
@dataclass(frozen=True)
class ClosedForms:
    """Means over each datum's posterior, (batch,), or (batch, latent) for the dimensions one by one."""

    log_posterior: Tensor | None = None  # E log q(z|x_n), minus the entropy
    log_prior: Tensor | None = None  # E log p(z), minus the cross-entropy
    rate: Tensor | None = None  # KL[q(z|x_n) ‖ p(z)]
    endless: Tensor | None = None  # bool: where E log p(z) is minus infinity, and the rate infinite


@torch.no_grad()
def joint_forms(posterior: Posterior, prior: Density | None) -> ClosedForms:
    """Of z as a whole."""
    log_normal = expected_log_normal(posterior, prior)
    return _forms(posterior, prior, None if log_normal is None else log_normal.sum(-1))


@torch.no_grad()
def marginal_forms(posterior: Posterior, prior: Density | None) -> ClosedForms:
    """Of each z_j by itself; nothing where the marginals are not to be had."""
    one, other = _marginals_or_none(posterior), _marginals_or_none(prior)
    return _forms(one, other, expected_log_normal(one, other))


def _forms(posterior: object, prior: object, log_prior: Tensor | None) -> ClosedForms:
    # whether it is a distribution that knows its entropy is seen by asking
    q, p = cast(Distribution, posterior), cast(Distribution, prior)
    entropies = _closed(lambda: q.entropy())
    own = None if entropies is None else -entropies
    if log_prior is not None:
        return ClosedForms(own, log_prior, None if own is None else own - log_prior)
    rate = _of_known(lambda: closed_divergence(q, p))
    endless = _endless(q, p) if rate is None else rate == torch.inf
    if rate is not None and bool(rate.isfinite().all()):
        return ClosedForms(own, None if own is None else own - rate, rate)
    return ClosedForms(own, endless=endless)


def moments(posterior: object) -> tuple[Tensor, Tensor] | None:
    """Mean and variance, both (batch, latent)."""
    if is_angular(posterior):  # what is called so there is that of points on the circle
        return None
    mean = _closed(lambda: cast(Distribution, posterior).mean)
    variance = _closed(lambda: cast(Distribution, posterior).variance)
    return None if mean is None or variance is None else (mean, variance)


def known_mean(distribution: object) -> Tensor | None:
    """The mean of a vector, (*batch, latent), float64, with its gradient; finite or not, None if unknown."""
    if is_angular(distribution):
        return None
    return _of_known(lambda: cast(Distribution, distribution).mean)


def known_covariance(distribution: object) -> Tensor | None:
    """The covariance of a vector, (*batch, latent, latent), or its diagonal (*batch, latent) for a product.

    Like :func:`known_mean`. What is no family of torch's or Pyro's is believed its ``covariance_matrix``.
    """
    if is_angular(distribution):
        return None
    return _of_known(lambda: _covariance(distribution))


def _covariance(distribution: object) -> Tensor | None:
    if len(cast(Density, distribution).event_shape) != 1:
        return None
    if is_factorised(distribution):
        return distribution.variance
    if isinstance(distribution, MixtureSameFamily):
        return _covariance_of_mixture(distribution)
    dense = cast(MultivariateNormal, distribution)
    if is_called(distribution, "MultivariateStudentT"):
        # whose covariance_matrix is that of the Normal it scales
        return _covariance_of_student(dense.df, dense.scale_tril)  # type: ignore[attr-defined]
    return dense.covariance_matrix


def _covariance_of_student(df: Tensor, root: Tensor) -> Tensor:
    df = df[..., None, None]
    return (root @ root.mT) * torch.where(df > 2, df / (df - 2), torch.inf)


def _covariance_of_mixture(mixture: MixtureSameFamily) -> Tensor | None:
    within = known_covariance(mixture.component_distribution)
    if within is None:
        return None
    weights = mixture.mixture_distribution.probs.double()[..., None, None]  # (*batch, component, 1, 1)
    within = within if within.dim() == weights.dim() else within.diag_embed()
    off = (mixture.component_distribution.mean - mixture.mean.unsqueeze(-2)).double()
    return (weights * (within + off[..., :, None] * off[..., None, :])).sum(-3)


def expected_log_normal(posterior: object, prior: object) -> Tensor | None:
    """E log p(z_j), (batch, latent), for the Normal factors of a prior: all that it takes is two moments."""
    factors = (prior.loc, prior.scale) if isinstance(prior, Normal) else diagonal_normal(prior)
    known = moments(posterior)
    if factors is None or known is None:
        return None
    (loc, scale), (mean, variance) = factors, known
    return expected_log_normal_density(mean, variance, loc, scale)


def _marginals_or_none(distribution: object) -> Marginals | None:
    try:
        return marginals_of(distribution)
    except NotImplementedError:
        return None


def _closed(evaluate: Callable[[], Tensor | None]) -> Tensor | None:
    """A missing formula or moment is no error here: the draws take its place."""
    value = _of_known(evaluate)
    return None if value is None or not bool(value.isfinite().all()) else value


def _of_known(evaluate: Callable[[], Tensor | None]) -> Tensor | None:
    try:
        value = evaluate()
    except (NotImplementedError, AttributeError):
        return None
    return None if value is None else value.double()


# ---- Expectations that have no number: of a prior's log-density under tails that are too heavy for it.


def _endless(posterior: Distribution, prior: Distribution) -> Tensor | None:
    """Where E log p(z) is minus infinity, (batch,) or (batch, latent); None where nothing is known of it."""
    order = _growth(prior)
    if not bool(order.any()) or is_angular(posterior) or is_discrete(posterior) is not False:
        return None
    found = [
        (order >= power) & ~moment.isfinite()
        for power, moment in enumerate(
            map(_of_known, (lambda: posterior.mean, lambda: posterior.variance)), 1
        )
        if moment is not None
    ]
    if not found:
        return None
    endless = torch.stack(torch.broadcast_tensors(*found)).any(0)
    return endless.any(-1) if posterior.event_shape else endless


def _growth(prior: object) -> Tensor:
    """The power of z with which -log p(z) grows, () or (latent,); 0 where it is slower, or not known."""
    if is_called(prior, "Normal", "HalfNormal", "MultivariateNormal", "LowRankMultivariateNormal"):
        return torch.tensor(2)
    if is_called(prior, "Laplace", "Exponential", "Gamma"):
        return torch.tensor(1)
    if isinstance(prior, SideBySide):
        return torch.cat(
            [_growth(part).expand(size) for part, size in zip(prior.parts, prior.sizes, strict=True)]
        )
    inner = made_of(prior)
    if not inner or not is_linear(prior):
        return torch.tensor(0)
    # a mixture falls off as its heaviest component
    return torch.stack(torch.broadcast_tensors(*map(_growth, inner))).amin(0)
