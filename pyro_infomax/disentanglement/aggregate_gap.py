"""How far each factor's best code is ahead of its second, from the exact aggregate posterior."""

from dataclasses import dataclass, replace
from typing import Any, Final, Self, final

import numpy as np
from numpy.typing import ArrayLike

from pyro_infomax.disentanglement.calibration import Calibration, Outcome, calibrated
from pyro_infomax.disentanglement.information_gap import two_best
from pyro_infomax.disentanglement.mutual_information import entropies
from pyro_infomax.disentanglement.normal_margins import normal_margins
from pyro_infomax.disentanglement.normal_mixtures import NormalMixtures
from pyro_infomax.disentanglement.sample import Floats, Integers, Sample, to_sample
from pyro_infomax.disentanglement.scored import Score
from pyro_infomax.progress import patiently

__all__ = ["chen_mig"]

_CALIBRATION: Final = Calibration(bootstraps=200, permutations=5)
_SHUFFLES: Final = 2  # that tell what chance alone would give
_NARROW: Final = 0.01  # of codes that are the factors, whole numbers
_LEAST_ROOM: Final = 0.01  # of the entropy, between chance and all
_MUCH: Final = 0.5


def chen_mig(
    posterior: Any,
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
        calibration: how often the score is computed anew; None for the score alone.
        seed: of the draws.
        progress: whether a bar may show.

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
    if not isinstance(num_samples, int | np.integer) or num_samples < 2:
        raise ValueError(f"Expected num_samples to be an integer >= 2 but got {num_samples!r}.")
    loc, scale = normal_margins(posterior)
    if loc.shape[1] < 2:
        raise ValueError(
            "Expected at least two codes but got 1: the gap is between the two that know most of a factor."
        )
    rng = np.random.RandomState(seed)
    posteriors = _drawn(to_sample(loc, factors), scale, num_samples, rng)
    terms = _Terms.of(posteriors, 0 if reference else _SHUFFLES, rng, progress=progress)
    statistic = _as_published if reference else _corrected
    return calibrated("chen_mig", statistic, terms, calibration=calibration, rng=rng, progress=progress)


@final
@dataclass(frozen=True, eq=False)
class _Posteriors:
    """The data's posteriors, and draws of some.

    Args:
        sample: whose codes are the means, (n, L).
        scale: (n, L)
        owner: (m,) the datum that each draw is of.
        draws: (m, L)
    """

    sample: Sample
    scale: Floats
    owner: Integers
    draws: Floats

    def terms(self, labels: Integers, *, progress: bool = False) -> Floats:
        """ln q(z_j | label) - ln q(z_j) for every draw and each of T labels, (m, L, T); labels (n, T)."""
        marked = np.concatenate([np.zeros_like(labels[:, :1]), labels], axis=1)
        codes = patiently(range(self.draws.shape[1]), "chen_mig", progress=progress)
        logs = np.stack([self._mixtures(j).log_densities(marked) for j in codes], axis=1)
        return logs[:, :, 1:] - logs[:, :, :1]

    def _mixtures(self, code: int) -> NormalMixtures:
        return NormalMixtures(
            self.sample.codes[:, code], self.scale[:, code], self.draws[:, code], self.owner
        )

    def of_the_factors(self) -> "_Posteriors":
        """Narrow posteriors about the factors, each draw in the middle."""
        sample = self.sample.as_codes()
        return _Posteriors(sample, np.full(sample.codes.shape, _NARROW), self.owner, sample.codes[self.owner])


def _drawn(sample: Sample, scale: Floats, num_samples: int, rng: np.random.RandomState) -> _Posteriors:
    turns = -(-num_samples // len(sample))
    owner = np.concatenate([rng.permutation(len(sample)) for _ in range(turns)])[:num_samples]
    draws = sample.codes[owner] + scale[owner] * rng.standard_normal((num_samples, sample.num_codes))
    return _Posteriors(sample, scale, owner, draws)


@final
@dataclass(frozen=True, eq=False)
class _Terms:
    """What each draw adds to the information, and to what chance would give.

    Args:
        posteriors: of which draws.
        information: (m, L, K)
        chance: (m, L, K), 0 where nothing is corrected.
        shuffles: over how many shuffled factors chance was averaged.
        counts: (m,) how often each draw is in the sample.
    """

    posteriors: _Posteriors
    information: Floats
    chance: Floats
    shuffles: int
    counts: Floats

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


def _corrected(terms: _Terms, _rng: np.random.RandomState) -> Outcome:
    entropy = entropies(terms.posteriors.sample.factors)
    plain, chance = terms.mean(terms.information), terms.mean(terms.chance)  # (code, factor)
    room = entropy - chance
    enough = room > _LEAST_ROOM * entropy
    information = entropy * np.divide(plain - chance, room, out=np.zeros_like(room), where=enough)
    parts = {"uncorrected_information": plain, "chance_information": chance}
    return _outcome(terms, information, entropy, parts, notes=_notes(chance / entropy))


def _as_published(terms: _Terms, _rng: np.random.RandomState) -> Outcome:
    entropy = np.log(terms.posteriors.sample.sizes)
    return _outcome(terms, terms.mean(terms.information), entropy, {}, notes=())


def _outcome(
    terms: _Terms,
    information: Floats,
    entropy: Floats,
    parts: dict[str, Floats],
    *,
    notes: tuple[str, ...],
) -> Outcome:
    known = (information / entropy).clip(0.0)
    top, lead = two_best(known)
    every: dict[str, Any] = {
        "mutual_information": information,
        **parts,
        "standard_error": terms.standard_error,
        "entropy": entropy,
        "per_factor": lead,
        "top": top,
    }
    return Outcome(float(lead.mean()), every, notes=notes)


def _notes(share: Floats) -> tuple[str, ...]:
    narrow = np.flatnonzero((share > _MUCH).any(axis=1))
    if not len(narrow):
        return ()
    names = ("code " if len(narrow) == 1 else "codes ") + ", ".join(map(str, narrow))
    return (
        f"The posteriors of {names} overlap so little that chance alone seems to know more than half of a "
        "factor: more data would tell more.",
    )
