"""The divergence of one distribution from another, wherever it has a closed form."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, dropwhile
from typing import Final, NamedTuple, TypeGuard, TypeVar, cast, final

import torch
from torch import Tensor
from torch.distributions import (
    ComposeTransform,
    Distribution,
    Exponential,
    Gamma,
    HalfCauchy,
    HalfNormal,
    Independent,
    LogNormal,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    ReshapeTransform,
    Transform,
    TransformedDistribution,
    VonMises,
    Weibull,
    kl_divergence,
)

from pyro_infomax.distributions._families import diagonal_normal, innermost, is_called
from pyro_infomax.distributions._transforms import elementwise

# ---- Closed forms between families on the positive half-line, from the few moments
# that their densities take.
#
# Each log-density here is linear in log z, (log z)² and one or two powers of z. An entropy on one side, these
# moments on it, and the coefficients on the other side give every pair.


@final
@dataclass(frozen=True)
class LogMoments:
    """Moments of log z, each (*batch), and log E z^k as a function of k."""

    mean: Tensor
    variance: Tensor
    log_power: Callable[[Tensor | float], Tensor]


def positive_divergence(posterior: Distribution, prior: Distribution) -> Tensor | None:
    """KL between two univariate positive families, (*batch); None where one of the two is not known."""
    moments = _of_family(_MOMENTS, posterior)
    expected = _of_family(_EXPECTED_LOG_DENSITIES, prior)
    if moments is None or expected is None:
        return None
    return -posterior.entropy() - expected(prior, moments(posterior))


_Formula = TypeVar("_Formula", bound=Callable[..., object])


def _of_family(table: dict[type[Distribution], _Formula], distribution: Distribution) -> _Formula | None:
    return next((value for family, value in table.items() if isinstance(distribution, family)), None)


# ---- The moments of a posterior on the positive half-line.


def _log_normal_moments(q: LogNormal) -> LogMoments:
    variance = q.scale**2
    return LogMoments(q.loc, variance, lambda k: k * q.loc + k**2 * variance / 2)


def _gamma_moments(q: Gamma) -> LogMoments:
    return _moments_of_gamma(q.concentration, q.rate)


def _exponential_moments(q: Exponential) -> LogMoments:
    return _moments_of_gamma(torch.ones_like(q.rate), q.rate)


def _moments_of_gamma(a: Tensor, rate: Tensor) -> LogMoments:
    def log_power(k: Tensor | float) -> Tensor:
        return (a + k).lgamma() - a.lgamma() - k * rate.log()

    return LogMoments(a.digamma() - rate.log(), torch.polygamma(1, a), log_power)


def _weibull_moments(q: Weibull) -> LogMoments:
    # (z / scale)^concentration is a standard exponential variable
    standard = _moments_of_gamma(torch.ones_like(q.scale), torch.ones_like(q.scale))
    return _scaled_root(standard, q.scale, q.concentration)


def _half_normal_moments(q: HalfNormal) -> LogMoments:
    # (z / scale)² is a chi-squared variable of one degree of freedom
    half = torch.full_like(q.scale, 0.5)
    return _scaled_root(_moments_of_gamma(half, half), q.scale, torch.full_like(q.scale, 2.0))


def _scaled_root(inner: LogMoments, scale: Tensor, order: Tensor) -> LogMoments:
    """Of scale · u^(1/order), where the moments of u are given."""

    def log_power(k: Tensor | float) -> Tensor:
        return k * scale.log() + inner.log_power(k / order)

    return LogMoments(scale.log() + inner.mean / order, inner.variance / order**2, log_power)


_MOMENTS: Final[dict[type[Distribution], Callable[..., LogMoments]]] = {
    LogNormal: _log_normal_moments,
    Gamma: _gamma_moments,
    Exponential: _exponential_moments,
    Weibull: _weibull_moments,
    HalfNormal: _half_normal_moments,
}


# ---- The expected log-density of a prior there.


def _expected_log_normal(p: LogNormal, z: LogMoments) -> Tensor:
    squares = ((z.mean - p.loc) ** 2 + z.variance) / p.scale**2
    return -z.mean - p.scale.log() - 0.5 * math.log(2 * math.pi) - 0.5 * squares


def _expected_gamma(p: Gamma, z: LogMoments) -> Tensor:
    a, rate = p.concentration, p.rate
    return a * rate.log() - a.lgamma() + (a - 1) * z.mean - rate * z.log_power(1.0).exp()


def _expected_exponential(p: Exponential, z: LogMoments) -> Tensor:
    return p.rate.log() - p.rate * z.log_power(1.0).exp()


def _expected_weibull(p: Weibull, z: LogMoments) -> Tensor:
    k, log_scale = p.concentration, p.scale.log()
    return k.log() - log_scale + (k - 1) * (z.mean - log_scale) - (z.log_power(k) - k * log_scale).exp()


def _expected_half_normal(p: HalfNormal, z: LogMoments) -> Tensor:
    return 0.5 * math.log(2 / math.pi) - p.scale.log() - 0.5 * z.log_power(2.0).exp() / p.scale**2


_EXPECTED_LOG_DENSITIES: Final[dict[type[Distribution], Callable[..., Tensor]]] = {
    LogNormal: _expected_log_normal,
    Gamma: _expected_gamma,
    Exponential: _expected_exponential,
    Weibull: _expected_weibull,
    HalfNormal: _expected_half_normal,
}


# ---- The divergence between any two distributions, where it has a closed form.


def closed_divergence(posterior: Distribution, prior: Distribution) -> Tensor | None:
    r"""The divergence of a posterior from a prior in closed form, differentiable in the parameters of both.

    .. math:: \mathrm{KL}[q \| p] = \mathrm{E}_q [\log q(z) - \log p(z)]

    Beside what torch has registered: a multivariate Normal, of full or low-rank covariance, from a diagonal
    one and the reverse, where the covariance S and mean m meet scales s and locations u,

    .. math:: \tfrac12 \sum_j \Big[ \frac{S_{jj} + (m_j - u_j)^2}{s_j^2} - 1 + \log s_j^2 \Big]
        - \tfrac12 \log |S| ;

    every pair of LogNormal, Gamma, Exponential, Weibull and HalfNormal; a VonMises from another; pairs behind
    the same transforms; and Normals that were reshaped. All of them factor by factor through ``Independent``.

    Reference: Kullback and Leibler (1951), On information and sufficiency; Zhang, Chen, Guo and Zhou (2018),
    WHAI: Weibull hybrid autoencoding inference for deep topic modeling, for Weibull and Gamma.

    Args:
        posterior: a torch or Pyro distribution.
        prior: of the same event shape; batch shapes broadcast.

    Returns:
        Nats, of the broadcast batch shape, or None where no closed form is known, the event shapes differ, or
        the posterior is a point mass, whose log-density torch's own divergence would drop.

    >>> import torch
    >>> from torch.distributions import Independent, MultivariateNormal, Normal
    >>> covariance = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    >>> posterior = MultivariateNormal(torch.zeros(3, 2, dtype=torch.float64), covariance)
    >>> closed_divergence(posterior, Independent(Normal(torch.zeros(2), 1.0), 1))
    tensor([0.2202, 0.2202, 0.2202], dtype=torch.float64)
    >>> closed_divergence(Normal(0.0, 1.0), torch.distributions.StudentT(3.0)) is None
    True
    """
    if posterior.event_shape != prior.event_shape:
        return None
    divergence = _by_factors(*_flattened(posterior, prior))
    if divergence is None:
        return None
    return divergence.expand(_batch_shape(posterior, prior))


def expected_log_normal_density(mean: Tensor, variance: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """E log N(z; loc, scale²) where z has this mean and variance."""
    squares = ((mean - loc) ** 2 + variance) / scale**2
    return -0.5 * squares - scale.log() - 0.5 * math.log(2 * math.pi)


# ---- What is wrapped around a distribution is taken off on both sides alike.


def _by_factors(posterior: Distribution, prior: Distribution) -> Tensor | None:
    """The sum over the axes that both events treat as independent."""
    (q, q_axes), (p, p_axes) = _unwrapped(posterior), _unwrapped(prior)
    shared = min(q_axes, p_axes)
    divergence = _of_one_factor(_wrapped(q, q_axes - shared), _wrapped(p, p_axes - shared))
    if divergence is None:
        return None
    if not shared:
        return divergence
    factors = divergence.expand(_batch_shape(posterior, prior) + posterior.event_shape[:shared])
    return factors.sum(tuple(range(-shared, 0)))


def _batch_shape(posterior: Distribution, prior: Distribution) -> torch.Size:
    # torch's function costs as much as a small divergence
    same = posterior.batch_shape == prior.batch_shape
    return posterior.batch_shape if same else torch.broadcast_shapes(posterior.batch_shape, prior.batch_shape)


def _unwrapped(distribution: Distribution) -> tuple[Distribution, int]:
    """What is inside of wrappers that only move or repeat axes, and how many axes they made events."""
    axes = 0
    while isinstance(distribution, Independent) or is_called(distribution, "ExpandedDistribution"):
        axes += getattr(distribution, "reinterpreted_batch_ndims", 0)
        distribution = cast("Independent[Distribution]", distribution).base_dist
    return distribution, axes


def _wrapped(distribution: Distribution, axes: int) -> Distribution:
    return Independent(distribution, axes) if axes else distribution


def _flattened(posterior: Distribution, prior: Distribution) -> tuple[Distribution, Distribution]:
    """Both over vectors if one of them is a reshaped vector; as they are where that cannot be."""
    if not (_is_reshaped(posterior) or _is_reshaped(prior)):
        return posterior, prior
    q, p = _flat(posterior), _flat(prior)
    return (posterior, prior) if q is None or p is None else (q, p)


def _is_reshaped(distribution: Distribution) -> TypeGuard[TransformedDistribution]:
    if not isinstance(distribution, TransformedDistribution) or not distribution.transforms:
        return False
    return all(map(_reshapes, _steps(distribution.transforms)))


def _reshapes(transform: Transform) -> bool:
    return isinstance(transform, ReshapeTransform)


def _steps(transforms: Sequence[Transform]) -> list[Transform]:
    """The transforms one by one, without wrappers that only count axes."""
    return list(chain.from_iterable(map(_parts, transforms)))


def _parts(transform: Transform) -> list[Transform]:
    if isinstance(transform, ComposeTransform):
        return _steps(transform.parts)
    return [elementwise(transform) or transform]


def _flat(distribution: Distribution) -> Distribution | None:
    """The same distribution over a vector, in the order of the memory; None if it is not known how."""
    if _is_reshaped(distribution):
        return _flat(distribution.base_dist)
    base, axes = _unwrapped(distribution)
    if isinstance(base, Normal) and axes == len(distribution.event_shape):
        whole = distribution.batch_shape + distribution.event_shape
        loc, scale = (
            each.expand(whole).reshape(*distribution.batch_shape, -1) for each in (base.loc, base.scale)
        )
        return Independent(Normal(loc, scale, validate_args=False), 1)
    return distribution if len(distribution.event_shape) == 1 else None


# ---- The closed forms, one after the other until one applies.


def _of_one_factor(posterior: Distribution, prior: Distribution) -> Tensor | None:
    found = (rule(posterior, prior) for rule in _RULES)
    return next((divergence for divergence in found if divergence is not None), None)


def _registered(posterior: Distribution, prior: Distribution) -> Tensor | None:
    if is_called(innermost(posterior), "Delta") or _is_folded(posterior) or _is_folded(prior):
        return None
    try:
        # Some of torch's divergences, Bernoulli's for one, do not broadcast.
        batch = _batch_shape(posterior, prior)
        divergence = kl_divergence(_expanded(posterior, batch), _expanded(prior, batch))
    except NotImplementedError:
        return None
    # masked distributions diverge by the plain number 0
    return divergence if isinstance(divergence, Tensor) else torch.tensor(float(divergence))


def _expanded(distribution: Distribution, batch: torch.Size) -> Distribution:
    return distribution if distribution.batch_shape == batch else distribution.expand(batch)


# torch compares what was folded as if nothing had been: right only for bases that are symmetric about 0
def _is_folded(distribution: Distribution) -> bool:
    if not isinstance(distribution, TransformedDistribution) or isinstance(
        distribution, HalfNormal | HalfCauchy
    ):
        return False
    return not all(each.bijective for each in distribution.transforms)


def _dense_from_diagonal(posterior: Distribution, prior: Distribution) -> Tensor | None:
    factors = diagonal_normal(prior)
    if factors is None or not _is_dense(posterior):
        return None
    cross = -expected_log_normal_density(posterior.mean, posterior.variance, *factors).sum(-1)
    return cross - posterior.entropy()


def _diagonal_from_dense(posterior: Distribution, prior: Distribution) -> Tensor | None:
    factors = diagonal_normal(posterior)
    if factors is None or not _is_dense(prior):
        return None
    loc, scale = factors
    no_factor = torch.zeros_like(loc)[..., None]  # (*batch, latent, rank 1)
    normal = LowRankMultivariateNormal(loc, no_factor, scale**2, validate_args=False)
    return kl_divergence(normal, prior)


def _of_angles(posterior: Distribution, prior: Distribution) -> Tensor | None:
    """Von Mises: ln I0(k') - ln I0(k) + A(k) [k - k' cos(m - m')], where A = I1 / I0 is the mean cosine."""
    if not (isinstance(posterior, VonMises) and isinstance(prior, VonMises)):
        return None
    k, other = posterior.concentration.double(), prior.concentration.double()
    cosine = torch.special.i1e(k) / torch.special.i0e(k)
    # the Bessel functions of a large concentration overflow unless they are scaled by exp(-k)
    normalisers = torch.special.i0e(other).log() - torch.special.i0e(k).log() + other - k
    turn = (posterior.loc - prior.loc).double().cos()
    return (normalisers + cosine * (k - other * turn)).to(posterior.loc.dtype)


def _is_dense(distribution: Distribution) -> bool:
    return isinstance(distribution, MultivariateNormal | LowRankMultivariateNormal)


def _behind_one_transform(posterior: Distribution, prior: Distribution) -> Tensor | None:
    """Invertible transforms leave the divergence as it was."""
    q, p = _pushed(posterior), _pushed(prior)
    if q is None or p is None or q.transforms != p.transforms:
        return None
    return closed_divergence(q.base, p.base)


class _Pushed(NamedTuple):
    """A base with all axes of the event, in its shape, and what maps it."""

    base: Distribution
    transforms: list[Transform]


def _pushed(distribution: Distribution) -> _Pushed | None:
    inner, axes = _unwrapped(distribution)
    if not isinstance(inner, TransformedDistribution) or _is_folded(inner) or _is_reshaped(inner):
        return None
    steps = _steps(inner.transforms)
    rest = list(dropwhile(_reshapes, steps))
    reshapes = steps[: len(steps) - len(rest)]
    base = inner.base_dist
    base = TransformedDistribution(base, reshapes, validate_args=False) if reshapes else base
    return _Pushed(_wrapped(base, axes), rest)


_RULES: Final[tuple[Callable[[Distribution, Distribution], Tensor | None], ...]] = (
    _registered,
    _dense_from_diagonal,
    _diagonal_from_dense,
    positive_divergence,
    _of_angles,
    _behind_one_transform,
)
