"""How far one code alone tells a factor, and by how much the best code is ahead of the second."""

from collections.abc import Callable
from typing import Final, Literal, TypeAlias

import numpy as np
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from pyro_infomax._checks import random_state
from pyro_infomax._types import Floats, Integers
from pyro_infomax.disentanglement._interventions import NUM_POINTS, GivenCodes, GivenFactors, drawn_sample
from pyro_infomax.disentanglement._sample import Sample, Split, ordered, to_split
from pyro_infomax.disentanglement._score import (
    Calibration,
    Score,
    ScoreOutcome,
    calibrated,
    dead_notes,
    seed_of,
    taught,
)

_FEW: Final = Calibration(bootstraps=5, permutations=5)
_MANY: Final = Calibration(bootstraps=100, permutations=50)
_LEAST_VARIANCE: Final = 1e-12  # of the reference: a code that varies less tells nothing

Learn: TypeAlias = Callable[[Split, int, int, np.random.RandomState], float]
"""How far a code, by its number, tells a factor, by its number."""


def sap(
    codes: GivenCodes,
    factors: GivenFactors,
    *,
    reference: bool = False,
    continuous: bool = False,
    calibration: Calibration | Literal["own"] | None = "own",
    num_points: int = NUM_POINTS,
    seed: int = 0,
    progress: bool = True,
) -> Score:
    r"""Separated attribute predictability (SAP): the best code's lead over the second, mean over the factors.

    .. math:: \mathrm{SAP} = \frac{1}{K} \sum_k \big(S_{(1)k} - S_{(2)k}\big)

    where :math:`S_{jk}` says how well code j alone tells factor k. By default it is learned as the authors
    of the score describe it, by thresholds on the code that keep the balanced error small: a decision tree
    with a leaf for every value of the factor. Its balanced accuracy a on the test part counts from chance,
    :math:`S_{jk} = \max\{0, (a - 1/V_k) / (1 - 1/V_k)\}` for a factor of :math:`V_k` values. Neither
    scale nor location of a code changes it.

    The reference learns a linear support vector machine (C = 0.01, balanced classes) on the code as it
    comes, and takes its plain accuracy, so that scaling a code changes the score. Its lines cannot tell more
    than a few values of a factor apart, and its optimiser need not converge. With ``continuous=True``, in
    either mode, :math:`S_{jk}` is the squared correlation; no data are split off then.

    Reference: Kumar, Sattigeri and Balakrishnan (2018), *Variational inference of disentangled latent
    concepts from unlabeled observations*, section 3.

    Args:
        codes: (n, L) with two codes or more, or a callable from observations to codes.
        factors: (n, K) integers, or a source of factors; any real numbers with ``continuous``.
        reference: whether by the definition of the field's reference implementation.
        continuous: whether factors are quantities, to be told by a straight line.
        calibration: how often for interval and floor; None for the score alone. ``"own"`` takes 5 of each,
            100 and 50 where factors are continuous, and None in reference mode, where learning takes long.
        num_points: how many data to draw from a source.
        seed, progress: as for :func:`score`.

    Returns:
        The score; its parts are ``separability`` (L, K) and ``per_factor`` (K,). A dead code tells nothing:
        0 by default and where factors are continuous, in the reference the accuracy of a constant guess.

    Raises:
        ValueError: for a single code, and for codes or factors that no score can use.

    Example:
        >>> rng = np.random.RandomState(0)
        >>> factors = rng.randint(4, size=(600, 2))
        >>> print(sap(factors * [1.0, 1e-6], factors, seed=0, calibration=Calibration(5, 20)))
        sap 1.000 [0.9..., 1.000] (floor 0.0..., ceiling 1.000)
    """
    rng = random_state(seed)
    sample = drawn_sample(
        codes, factors, num_points=num_points, rng=rng, progress=progress, continuous=continuous
    )
    _check_two_codes(sample)
    chosen = _own(reference=reference, continuous=continuous) if calibration == "own" else calibration
    if continuous:
        return calibrated("sap", _by_correlation, sample, calibration=chosen, rng=rng, progress=progress)
    split = to_split(sample, reference=reference, rng=rng)
    learned = _by_machines if reference else _by_thresholds
    return calibrated("sap", learned, split, calibration=chosen, rng=rng, progress=progress)


def _check_two_codes(sample: Sample) -> None:
    if sample.num_codes < 2:
        raise ValueError(
            "Expected two codes or more but got 1: SAP is the lead of the best code over the second, so put "
            "a column of zeros beside a single one."
        )


def _own(*, reference: bool, continuous: bool) -> Calibration | None:
    if continuous:
        return _MANY
    return None if reference else _FEW


def _by_thresholds(split: Split, rng: np.random.RandomState) -> ScoreOutcome:
    return _mean_lead(_each(ordered(split), _threshold_lead, rng), split.train)


def _by_machines(split: Split, rng: np.random.RandomState) -> ScoreOutcome:
    return _mean_lead(_each(split, _machine_accuracy, rng), split.train)


def _by_correlation(sample: Sample, rng: np.random.RandomState) -> ScoreOutcome:  # noqa: ARG001
    codes = sample.codes - sample.codes.mean(0)
    factors = sample.values - sample.values.mean(0)
    degrees = len(sample) - 1
    code_variance = (codes**2).sum(0) / degrees  # (code,)
    factor_variance = (factors**2).sum(0) / degrees  # (factor,)
    alive = (code_variance > _LEAST_VARIANCE)[:, None] & (factor_variance > 0)
    product = np.where(alive, code_variance[:, None] * factor_variance, 1.0)
    squared = (codes.T @ factors / degrees) ** 2 / product
    return _mean_lead(np.where(alive, squared, 0.0), sample)


def _each(split: Split, learn: Learn, rng: np.random.RandomState) -> Floats:
    """(L, K), what is learned of every factor from every code."""
    codes, factors = range(split.train.num_codes), range(split.train.num_factors)
    return np.array([[learn(split, j, k, rng) for k in factors] for j in codes])


def _threshold_lead(split: Split, j: int, k: int, rng: np.random.RandomState) -> float:
    size = split.train.sizes[k]
    tree = DecisionTreeClassifier(max_leaf_nodes=size, class_weight="balanced", random_state=seed_of(rng))
    tree.fit(split.train.codes[:, [j]], split.train.factors[:, k])
    accuracy = _balanced_accuracy(split.test.factors[:, k], tree.predict(split.test.codes[:, [j]]))
    return max(0.0, (accuracy - 1 / size) / (1 - 1 / size))


def _balanced_accuracy(truth: Integers, guess: Integers) -> float:
    """Mean over the values that occur, of the share of each that is told."""
    number = np.bincount(truth)
    told = np.bincount(truth[guess == truth], minlength=len(number))
    return float((told[number > 0] / number[number > 0]).mean())


def _machine_accuracy(split: Split, j: int, k: int, rng: np.random.RandomState) -> float:
    learned, truth = split.train.factors[:, k], split.test.factors[:, k]
    if len(np.unique(learned)) < 2:
        return float((truth == learned[0]).mean())
    machine = LinearSVC(C=0.01, class_weight="balanced", random_state=seed_of(rng))
    taught(machine, split.train.codes[:, [j]], learned)
    return float((machine.predict(split.test.codes[:, [j]]) == truth).mean())


def _mean_lead(separability: Floats, sample: Sample) -> ScoreOutcome:
    ranked = np.sort(separability, axis=0)
    lead = ranked[-1] - ranked[-2]
    parts = {"separability": separability, "per_factor": lead}
    return ScoreOutcome(float(lead.mean()), parts, notes=dead_notes(sample))
