"""The mutual information gap of Chen et al. (2018), from the exact aggregate posterior."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, Protocol, Self, TypeAlias, final

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import BSpline, make_interp_spline

from pyro_infomax._checks import random_state, whole_number
from pyro_infomax._progress import patiently
from pyro_infomax._types import Array, Floats, Integers
from pyro_infomax.disentanglement._mig import entropies, two_best
from pyro_infomax.disentanglement._sample import Sample, as_floats, as_matrix, to_sample
from pyro_infomax.disentanglement._score import Calibration, Score, ScoreOutcome, calibrated

# ---- The score.

_CALIBRATION: Final = Calibration(bootstraps=200, permutations=5)
_SHUFFLES: Final = 2  # that tell what chance alone would give
_NARROW: Final = 0.01  # of codes that are the factors, whole numbers
_LEAST_ROOM: Final = 0.01  # of the entropy, between chance and all
_MUCH: Final = 0.5


class HasMoments(Protocol):
    """A distribution, of which mean and standard deviation are read."""

    @property
    def mean(self) -> ArrayLike: ...

    @property
    def stddev(self) -> ArrayLike: ...


NormalPosterior: TypeAlias = tuple[ArrayLike, ArrayLike] | HasMoments


def chen_mig(
    posterior: NormalPosterior,
    factors: ArrayLike,
    *,
    num_samples: int = 10_000,
    reference: bool = False,
    calibration: Calibration | None = _CALIBRATION,
    seed: int = 0,
    progress: bool = True,
) -> Score:
    r"""Mutual information gap of the posteriors themselves: what each latent dimension knows of each factor.

    Other than for :func:`mig` a code is not a number but all of :math:`q(z_j \mid x)`, noise included, and
    nothing is put into bins: over N data with factors v

    .. math::

        q(z_j) = \frac{1}{N} \sum_n q(z_j \mid x_n), \qquad
        q(z_j \mid v_k) = \frac{1}{N_{v_k}} \sum_{n: v_k(n) = v_k} q(z_j \mid x_n), \qquad
        I_{jk} = \operatorname{E} \ln \frac{q(z_j \mid v_k)}{q(z_j)},

    the mean over one draw of :math:`q(z_j \mid x_n)` for each of ``num_samples`` data, both mixtures over
    all data and exact. The score is the mean over factors of the gap between the two codes that know most,

    .. math:: \frac{1}{K} \sum_k (A_{(1)k} - A_{(2)k}), \qquad
        A_{jk} = \frac{I_{jk} - C_{jk}}{H(v_k) - C_{jk}} .

    :math:`C_{jk}` is what the same posteriors would seem to know of a factor that has nothing to do with
    them (its values shuffled over the data): every draw lies near its own component, which counts for more in
    a small group than among all data, and for nearly everything where posteriors are narrow and do not
    overlap. So a code that knows nothing has :math:`A = 0`, and one that knows all has 1.

    The score has no scale: stretching a code together with its posterior changes nothing. A collapsed code,
    with the same posterior for all data, has I = 0; one as narrow as if it were without noise is as good as
    discrete, and where all its values differ no number of draws tells knowledge from chance: it counts as
    0, with a note.

    Floors shuffle the factors against the posteriors. The interval resamples the data's terms
    :math:`\ln q(z_j|v_k) - \ln q(z_j)` while the mixtures stay as they are. The ceiling has narrow posteriors
    about the values of the factors.

    Reference: Chen, Li, Grosse and Duvenaud (2018), *Isolating sources of disentanglement in variational
    autoencoders*; for the chance correction Vinh, Epps and Bailey (2010), *Information theoretic measures for
    clusterings comparison*.

    Args:
        posterior: (loc, scale), the means and standard deviations of :math:`q(z_j \mid x_n)`, (n, L) each,
            or a torch or Pyro distribution of batch shape (n,) and event shape (L,): an Independent Normal,
            or a multivariate Normal, of which the margins count.
        factors: (n, K), integers.
        num_samples: draws, one a datum while there are enough data, else more from each.
        reference: whether by the definition of its authors: :math:`A_{jk} = \max(I_{jk}, 0) / \ln n_k` with
            the number :math:`n_k` of values of a factor, and no correction. They leave the shape of dSprites
            out: for their number pass ``factors[:, 1:]``.
        calibration: how often it is computed anew; None for the score alone.
        seed, progress: as for :func:`score`.

    Returns:
        The score, with parts ``mutual_information`` :math:`H(v_k) A_{jk}`, ``uncorrected_information``
        :math:`I_{jk}` and ``chance_information`` :math:`C_{jk}`, (L, K) in nats, ``standard_error`` (L, K) of
        :math:`I_{jk}`, ``entropy`` (K,) in nats, ``per_factor`` (K,), the gaps, and ``top`` (2, K), the
        numbers of the two codes that know most of each factor. By its authors' definition
        ``mutual_information`` is :math:`I_{jk}`, and ``entropy`` the logarithm of the size.

    Raises:
        ValueError: if the posterior has margins that are not Normal, scales that are not above 0, or a single
            dimension, ``num_samples`` is below 2, and for what no score takes: values that are not finite,
            constant factors, fewer than ten data.

    Example:
        >>> factors = np.indices((4, 5)).reshape(2, -1).T.repeat(50, axis=0)
        >>> apart = chen_mig((factors, 0.1), factors, calibration=None)
        >>> mixed = chen_mig((factors @ [[1, 1], [1, -1]], 0.1), factors, calibration=None)
        >>> print(apart, mixed, sep=", ")
        chen_mig 1.000, chen_mig 0.001
    """
    num_samples = whole_number("num_samples", num_samples, at_least=2)
    loc, scale = normal_margins(posterior)
    if loc.shape[1] < 2:
        raise ValueError(
            "Expected at least two codes but got 1: the gap is between the two that know most of a factor."
        )
    rng = random_state(seed)
    # A draw from each of num_samples posteriors, scored once in all mixtures: what resampling then weighs
    posteriors = _with_draws(to_sample(loc, factors), scale, num_samples, rng)
    terms = _InformationTerms.of(posteriors, 0 if reference else _SHUFFLES, rng, progress=progress)
    statistic = _as_published if reference else _corrected
    return calibrated("chen_mig", statistic, terms, calibration=calibration, rng=rng, progress=progress)


@final
@dataclass(frozen=True, eq=False)
class _Posteriors:
    """The data's posteriors, and draws of some."""

    sample: Sample  # whose codes are the means, (n, L)
    scale: Floats  # (n, L)
    owner: Integers  # (m,) the datum that each draw is of
    draws: Floats  # (m, L)

    def terms(self, labels: Integers, *, progress: bool = False) -> Floats:
        """ln q(z_j | label) - ln q(z_j) for every draw and each of T labels, (m, L, T); labels (n, T)."""
        # One more labelling, with all data in one group: the aggregate posterior itself
        marked = np.concatenate([np.zeros_like(labels[:, :1]), labels], axis=1)
        codes = patiently(range(self.draws.shape[1]), "chen_mig", progress=progress)
        logs = np.stack([self._mixtures(j).log_densities(marked) for j in codes], axis=1)
        return logs[:, :, 1:] - logs[:, :, :1]

    def _mixtures(self, code: int) -> "NormalMixtures":
        return NormalMixtures(
            self.sample.codes[:, code], self.scale[:, code], self.draws[:, code], self.owner
        )

    def of_the_factors(self) -> "_Posteriors":
        """Narrow posteriors about the factors, each draw in the middle."""
        sample = self.sample.as_codes()
        return _Posteriors(sample, np.full(sample.codes.shape, _NARROW), self.owner, sample.codes[self.owner])


def _with_draws(sample: Sample, scale: Floats, num_samples: int, rng: np.random.RandomState) -> _Posteriors:
    turns = -(-num_samples // len(sample))
    owner = np.concatenate([rng.permutation(len(sample)) for _ in range(turns)])[:num_samples]
    draws = sample.codes[owner] + scale[owner] * rng.standard_normal((num_samples, sample.num_codes))
    return _Posteriors(sample, scale, owner, draws)


@final
@dataclass(frozen=True, eq=False)
class _InformationTerms:
    """What each draw adds to the information, and to what chance would give."""

    posteriors: _Posteriors
    information: Floats  # (m, L, K)
    chance: Floats  # (m, L, K), 0 where nothing is corrected
    shuffles: int  # of the factors, over which chance was averaged
    counts: Floats  # (m,) how often each draw is in the sample

    @classmethod
    def of(
        cls, posteriors: _Posteriors, shuffles: int, rng: np.random.RandomState, *, progress: bool = False
    ) -> Self:
        factors = posteriors.sample.factors
        labels = [factors, *(rng.permutation(factors) for _ in range(shuffles))]
        terms = posteriors.terms(np.concatenate(labels, axis=1), progress=progress)
        # (draw, code, labelling, factor)
        apart = terms.reshape(*terms.shape[:2], len(labels), factors.shape[1])
        information, shuffled = apart[:, :, 0], apart[:, :, 1:]
        chance = shuffled.mean(axis=2) if shuffles else np.zeros_like(information)
        return cls(posteriors, information, chance, shuffles, np.ones(len(terms)))

    def resampled(self, rng: np.random.RandomState) -> Self:
        size = len(self.counts)
        counts = np.bincount(rng.randint(size, size=size), minlength=size)
        return replace(self, counts=counts.astype(np.float64))

    def mean(self, terms: Floats) -> Floats:
        """(L, K) of terms (m, L, K)."""
        mean: Floats = np.tensordot(self.counts, terms, axes=1) / self.counts.sum()
        return mean

    @property
    def standard_error(self) -> Floats:
        """(L, K) of the information, which is a mean over draws."""
        error: Floats = self.information.std(axis=0, ddof=1) / np.sqrt(len(self.information))
        return error

    def permuted(self, rng: np.random.RandomState) -> Self:
        """Chance stays as it is: it asks for nothing but the sizes of the groups."""
        shuffled = rng.permutation(self.posteriors.sample.factors)
        return replace(self, information=self.posteriors.terms(shuffled))

    def as_codes(self) -> Self:
        return self.of(self.posteriors.of_the_factors(), self.shuffles, np.random.RandomState(0))


def _corrected(terms: _InformationTerms, _rng: np.random.RandomState) -> ScoreOutcome:
    entropy = entropies(terms.posteriors.sample.factors)
    plain, chance = terms.mean(terms.information), terms.mean(terms.chance)  # (code, factor)
    room = entropy - chance
    enough = room > _LEAST_ROOM * entropy
    information = entropy * np.divide(plain - chance, room, out=np.zeros_like(room), where=enough)
    parts = {"uncorrected_information": plain, "chance_information": chance}
    return _mean_gap(terms, information, entropy, parts, notes=_notes(chance / entropy))


def _as_published(terms: _InformationTerms, _rng: np.random.RandomState) -> ScoreOutcome:
    entropy = np.log(terms.posteriors.sample.sizes)
    return _mean_gap(terms, terms.mean(terms.information), entropy, {}, notes=())


def _mean_gap(
    terms: _InformationTerms,
    information: Floats,
    entropy: Floats,
    parts: dict[str, Floats],
    *,
    notes: tuple[str, ...],
) -> ScoreOutcome:
    known = (information / entropy).clip(0.0)
    top, lead = two_best(known)
    every: dict[str, object] = {
        "mutual_information": information,
        **parts,
        "standard_error": terms.standard_error,
        "entropy": entropy,
        "per_factor": lead,
        "top": top,
    }
    return ScoreOutcome(float(lead.mean()), every, notes=notes)


def _notes(share: Floats) -> tuple[str, ...]:
    narrow = np.flatnonzero((share > _MUCH).any(axis=1))
    if not len(narrow):
        return ()
    names = ("code " if len(narrow) == 1 else "codes ") + ", ".join(map(str, narrow))
    return (
        f"The posteriors of {names} overlap so little that chance alone seems to know more than half of a "
        "factor: more data would tell more.",
    )


# ---- The Normal margins of a posterior, in whatever form it comes.

_NORMALS: Final = frozenset({"Normal", "MultivariateNormal", "LowRankMultivariateNormal"})
_WRAPPERS: Final = frozenset({"Independent"})


def normal_margins(posterior: NormalPosterior) -> tuple[Floats, Floats]:
    r"""Means and standard deviations (n, L) of :math:`q(z_j \mid x_n)`, in whatever form it comes."""
    if isinstance(posterior, tuple) and len(posterior) != 2:
        raise ValueError(f"Expected a pair (loc, scale) but got {len(posterior)} arrays.")
    loc, scale = posterior if isinstance(posterior, tuple) else _moments(posterior)
    means = as_matrix(loc, name="loc", columns="L")
    given = as_floats(scale, name="scale")
    try:
        spread = np.broadcast_to(given, means.shape)
    except ValueError as error:
        raise ValueError(
            f"Expected loc and scale of one shape (n, L) but got {means.shape} and {given.shape}."
        ) from error
    scales = as_matrix(spread, name="scale", columns="L")
    if not (scales > 0).all():
        raise ValueError(
            f"Expected scale > 0 but got {scales.min():g}: codes without noise are for mig, which takes the "
            "codes themselves."
        )
    return means, scales


def _moments(posterior: HasMoments) -> tuple[ArrayLike, ArrayLike]:
    inner: Any = posterior
    while _is_one_of(inner, _WRAPPERS):
        inner = inner.base_dist
    if not _is_one_of(inner, _NORMALS):
        raise ValueError(
            "Expected posterior to be a pair (loc, scale) or a distribution with Normal margins but got "
            f"{type(inner).__name__}: an Independent Normal or a MultivariateNormal will do."
        )
    return posterior.mean, posterior.stddev


def _is_one_of(distribution: object, names: frozenset[str]) -> bool:
    """By name, so that this room does without torch."""
    return any(each.__name__ in names for each in type(distribution).__mro__)


# ---- The engine: mixtures of many one-dimensional Normals, grouped in many ways at once.

_REACH: Final = 7.0  # scales beyond which a component counts as nothing
_STEPS_PER_SCALE: Final = 4
_MARGIN: Final = 8  # nodes at either end of a stretch of the grid
_DEGREE: Final = 5
_BAND: Final = 2.0  # between the scales that stand together
_BLOCK: Final = 2**21  # pairs at once


class _PairsInReach(NamedTuple):
    """Some components and places that are in reach of each other."""

    component: Integers
    place: Integers
    density: Floats


@final
class NormalMixtures:
    r"""The log-densities of groups of Normals, each at draws of its own components.

    A labelling puts every component :math:`\mathcal{N}(\mu_i, \sigma_i^2)` into a group. For a draw
    :math:`z` of component i, which is in group g,

    .. math:: \log q(z \mid g) = \log \frac{1}{n_g} \sum_{i' \in g} \mathcal{N}(z; \mu_{i'}, \sigma_{i'}^2) .

    Only pairs within seven scales of each other are computed, once for all labellings. Components of like
    scale are taken together, at the draws themselves or, where that takes fewer numbers, on a grid of a
    quarter of their least scale from which a quintic spline of the log-density reaches the draws: the mean
    over the draws errs by less than 1e-6.
    """

    def __init__(self, loc: Floats, scale: Floats, draws: Floats, owner: Integers) -> None:
        unit = float(scale.min())
        middle = float(np.median(loc))
        self._loc, self._scale, self._draws = (loc - middle) / unit, scale / unit, (draws - middle) / unit
        self._owner = owner
        self._unit = unit

    def log_densities(self, labels: Integers) -> Floats:
        """(m, T), of each draw in the group of its component; ``labels`` (n, T) number groups from 0."""
        sums = np.zeros((len(self._draws), labels.shape[1]))
        # Band by band of like scales, since a grid is as fine as the narrowest component on it
        for members in _bands(self._scale):
            sums += self._sums(members, labels)
        # From sums of densities to means over each draw's group
        sizes = np.stack([np.bincount(column)[column[self._owner]] for column in labels.T], axis=1)
        logs: Floats = np.log(sums / sizes) - math.log(self._unit * math.sqrt(2 * math.pi))
        return logs

    def _sums(self, members: Integers, labels: Integers) -> Floats:
        loc, scale = self._loc[members], self._scale[members]
        own = labels[self._owner]
        grid = _DensityGrid(loc, scale)
        order = np.argsort(self._draws)
        draws = self._draws[order]
        # Narrow components reach few draws: pairs are cheaper than a grid with a column a group
        if _windows(loc, scale, draws)[1].sum() <= grid.cost(float(labels.max(axis=0).mean() + 1)):
            sums = np.empty((len(draws), labels.shape[1]))
            sums[order] = _direct(loc, scale, draws, labels[members], own[order])
            return sums
        return grid.sums(self._draws, labels[members], own)


def _direct(loc: Floats, scale: Floats, draws: Floats, labels: Integers, own: Integers) -> Floats:
    """The sums over the components that share a draw's group, without a grid; ``draws`` ascend."""
    sums = np.zeros(own.shape)
    for component, place, density in _pairs(loc, scale, draws):
        for t in range(own.shape[1]):
            alike = labels[component, t] == own[place, t]
            sums[:, t] += np.bincount(place, weights=density * alike, minlength=len(draws))
    return sums


@final
class _DensityGrid:
    """Equally spaced nodes wherever components of like scale reach; where none does, stretches end."""

    def __init__(self, loc: Floats, scale: Floats) -> None:
        self._loc, self._scale = loc, scale
        self._step = float(scale.min()) / _STEPS_PER_SCALE
        reach = _REACH * float(scale.max()) + _MARGIN * self._step
        order = np.sort(loc)
        (gaps,) = np.nonzero(np.diff(order) > 2 * reach)
        self._starts = order[np.r_[0, gaps + 1]] - reach
        ends = order[np.r_[gaps, len(order) - 1]] + reach
        self._lengths = np.ceil((ends - self._starts) / self._step).astype(np.int64) + 1
        self._offsets = np.r_[0, np.cumsum(self._lengths)[:-1]]

    @property
    def size(self) -> int:
        return int(self._lengths.sum())

    def cost(self, groups: float) -> float:
        """Roughly the numbers that a labelling takes."""
        return float((2 * _REACH * self._scale / self._step).sum()) + 2 * _DEGREE * self.size * groups

    def sums(self, draws: Floats, labels: Integers, own: Integers) -> Floats:
        """(m, T) the sums over the components of each draw's group, 0 beyond the reach of all."""
        # Where each draw lies among the nodes; beyond all stretches nothing reaches it
        stretch = np.searchsorted(self._starts, draws, side="right") - 1
        within = (draws - self._starts[stretch]) / self._step
        (near,) = np.nonzero((stretch >= 0) & (within <= self._lengths[stretch] - 1))
        position = self._offsets[stretch[near]] + within[near]
        # The same spline for all labellings and groups: only the values at the nodes differ
        between = _TableSpline(position, self.size)
        sums = np.zeros(own.shape)
        # empty nodes get what a single component has at the end of its reach, for the spline's sake
        floor = math.exp(-(_REACH**2) / 2) / float(self._scale.max())
        for t, table in enumerate(self._tables(labels, own)):
            values = between(np.log(np.maximum(table, floor)), own[near, t])
            sums[near, t] = np.where(values > math.log(2 * floor), np.exp(values), 0.0)
        return sums

    def _tables(self, labels: Integers, own: Integers) -> list[Floats]:
        """For each labelling the sums (node, group)."""
        groups = np.maximum(labels.max(axis=0), own.max(axis=0)) + 1
        tables = [np.zeros(self.size * size) for size in groups]
        for component, place, density in _pairs(self._loc, self._scale, self._nodes()):
            for t, size in enumerate(groups):
                cell = place * size + labels[component, t]
                tables[t] += np.bincount(cell, weights=density, minlength=len(tables[t]))
        return [table.reshape(self.size, size) for table, size in zip(tables, groups, strict=True)]

    def _nodes(self) -> Floats:
        stretch = np.repeat(np.arange(len(self._starts)), self._lengths)
        nodes: Floats = self._starts[stretch] + (np.arange(self.size) - self._offsets[stretch]) * self._step
        return nodes


@final
class _TableSpline:
    """Splines through tables of one length, at positions (m,) in steps from their first node."""

    def __init__(self, position: Floats, size: int) -> None:
        self._nodes = np.arange(float(size))
        inner = (_DEGREE + 1) // 2
        ends = np.full(_DEGREE + 1, size - 1.0)
        self._knots = np.concatenate([0 * ends, self._nodes[inner:-inner], ends])
        basis = BSpline.design_matrix(position, self._knots, _DEGREE)
        self._index, self._weights = (
            part.reshape(len(position), _DEGREE + 1) for part in (basis.indices, basis.data)
        )

    def __call__(self, table: Floats, column: Integers) -> Floats:
        """The table (node, group), for each position in one of its columns."""
        coefficients = make_interp_spline(self._nodes, table, k=_DEGREE, t=self._knots).c
        values: Floats = (self._weights * coefficients[self._index, column[:, None]]).sum(axis=1)
        return values


def _bands(scale: Floats) -> Iterator[Integers]:
    """Components whose scales are within a factor of two."""
    band = np.floor(np.log(scale) / math.log(_BAND))
    return (np.flatnonzero(band == value) for value in np.unique(band))


def _windows(loc: Floats, scale: Floats, places: Floats) -> tuple[Integers, Integers]:
    """The first place in reach of each component, and how many there are."""
    first = np.searchsorted(places, loc - _REACH * scale)
    # a scale may be lost beside its mean, and a place in the middle still is in reach
    return first, np.searchsorted(places, loc + _REACH * scale, side="right") - first


def _pairs(loc: Floats, scale: Floats, places: Floats) -> Iterator[_PairsInReach]:
    """All pairs in reach, in blocks; ``places`` ascend, and densities are in units of 1/√(2π)."""
    first, counts = _windows(loc, scale, places)
    total = np.cumsum(counts)
    cuts = np.searchsorted(total, np.arange(_BLOCK, total[-1], _BLOCK), side="left")
    for block in np.split(np.arange(len(loc)), cuts):
        if len(block):
            yield _paired(block, loc, scale, places, first, counts)


def _paired(
    block: Array, loc: Floats, scale: Floats, places: Floats, first: Integers, counts: Integers
) -> _PairsInReach:
    component = np.repeat(block, counts[block])
    start = np.cumsum(counts[block]) - counts[block]
    place = np.arange(len(component)) + np.repeat(first[block] - start, counts[block])
    distance = (places[place] - loc[component]) / scale[component]
    return _PairsInReach(component, place, np.exp(-0.5 * distance * distance) / scale[component])
