"""The beta-VAE score: which factor two data share, told from how their codes differ."""

from functools import partial
from typing import Final

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.preprocessing import StandardScaler

from pyro_infomax._checks import random_state
from pyro_infomax._types import Floats, Integers
from pyro_infomax.disentanglement._interventions import (
    FixedFactorDraws,
    GivenCodes,
    GivenFactors,
    Interventions,
    LearnerTrial,
    Verdicts,
    accuracy,
    held_fixed,
    in_chunks,
)
from pyro_infomax.disentanglement._score import Calibration, Score, calibrated, taught

_CALIBRATION: Final = Calibration(bootstraps=100, permutations=8)
_MOST_ITERATIONS: Final = 1000
_STOPPED: Final = "The learner stopped before it had converged, as the reference's does."


def beta_vae_score(
    codes: GivenCodes,
    factors: GivenFactors,
    *,
    reference: bool = False,
    calibration: Calibration | None = _CALIBRATION,
    seed: int = 0,
    progress: bool = True,
) -> Score:
    r"""The beta-VAE score: how well a linear learner tells which factor pairs of data share.

    64 pairs of data share a factor k, each pair its own value of it. A logistic regression predicts k from

    .. math:: \frac{1}{64} \sum_{i=1}^{64} |z_i - z'_i|,

    one number a code; it learns from 10,000 such draws, and the score is its accuracy on 5,000 others.

    Data at hand are not intervened in: rows that share a value are paired, which is the same in distribution
    where the factors are independent, and noted where they are not. By default the rows that judge are a
    third of their own, no row is paired with itself, and each code's differences are put on one scale, so
    that neither the learner's penalty nor its convergence depends on the scale of the codes. Of a source
    15,000 points are drawn; if their factors depend on each other, the one to be held fixed is set anew
    without regard to the others, which is to intervene.

    With ``reference=True`` the learner takes the differences as they are, in its 100 iterations; all rows
    serve both parts; and a source is intervened in: draw by draw and in the reference's order.

    The interval covers the draws that judge, not what was learned, nor the data at hand.

    Reference: Higgins, Matthey, Pal, Burgess, Glorot, Botvinick, Mohamed and Lerchner (2017), *beta-VAE:
    learning basic visual concepts with a constrained variational framework*.

    Args:
        codes: (n, L), or a callable from a batch of observations to codes.
        factors: (n, K) integers, K of 2 or more, or a source such as a
            :class:`~pyro_infomax.datasets.FactorDataset`.
        reference: whether by the definition of the field's reference implementation.
        calibration: how often it is computed anew; None for the score alone.
        seed, progress: as for :func:`score`.

    Returns:
        The score; parts ``coefficients`` (L, K) of the learner, ``confusion`` (K, K), how often draws with
        the factor of the row fixed were taken for that of the column, ``train_accuracy``.

    Raises:
        ValueError: for data that no score takes, a single factor, and a factor no two data share a value of.

    Example:
        >>> rng = np.random.RandomState(0)
        >>> factors = rng.randint(4, size=(600, 3))
        >>> beta_vae_score(-2 * factors, factors, calibration=None).score
        1.0
    """
    rng = random_state(seed)
    interventions = held_fixed(
        codes, factors, pairs=True, num_background=0, reference=reference, rng=rng, progress=progress
    )
    trial = LearnerTrial.of(interventions, partial(_judged, reference=reference, rng=rng))
    return calibrated("beta_vae_score", accuracy, trial, calibration=calibration, rng=rng, progress=progress)


def _judged(interventions: Interventions, *, reference: bool, rng: np.random.RandomState) -> Verdicts:
    codes, train, test = interventions.sample.codes, interventions.train, interventions.test
    features, test_features = _features(codes, train), _features(codes, test)
    if not reference:
        scaler = StandardScaler().fit(features)
        features, test_features = scaler.transform(features), scaler.transform(test_features)
    learner = LogisticRegression(random_state=rng, **({} if reference else {"max_iter": _MOST_ITERATIONS}))
    taught(learner, features, train.fixed)
    guesses = learner.predict(test_features)
    parts = {
        "coefficients": _coefficients(learner),
        "confusion": confusion_matrix(test.fixed, guesses, labels=learner.classes_),
        "train_accuracy": float(learner.score(features, train.fixed)),
    }
    stopped = (learner.n_iter_ >= learner.max_iter).any()
    return Verdicts(test.fixed, guesses, parts, (_STOPPED,) if stopped else ())


def _features(codes: Floats, draws: FixedFactorDraws) -> Floats:
    """(draw, code)"""
    return np.concatenate([_differences(codes, rows) for rows in in_chunks(draws)])


def _differences(codes: Floats, rows: Integers) -> Floats:
    differences = codes.take(rows[:, 0], axis=0)  # (draw, pair, code)
    differences -= codes.take(rows[:, 1], axis=0)
    means: Floats = np.abs(differences, out=differences).mean(1)
    return means


def _coefficients(learner: LogisticRegression) -> Floats:
    """(L, K); of two factors the learner keeps what speaks for the second."""
    kept = learner.coef_
    return np.concatenate([-kept, kept]).T if len(kept) == 1 else kept.T
