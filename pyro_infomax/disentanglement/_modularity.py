"""Modularity and explicitness, the two scores of Ridgeway and Mozer (2018)."""

from functools import partial
from typing import Final, Literal

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from pyro_infomax._checks import random_state
from pyro_infomax._types import Floats, Integers
from pyro_infomax.disentanglement._interventions import (
    NUM_POINTS,
    NUM_TRAIN,
    GivenCodes,
    GivenFactors,
    drawn_sample,
)
from pyro_infomax.disentanglement._mig import (
    INFORMATION_CALIBRATION,
    REFERENCE_CALIBRATION,
    PointwiseInformation,
    mutual_informations,
)
from pyro_infomax.disentanglement._sample import Binned, Split, binned, to_split
from pyro_infomax.disentanglement._score import (
    Calibration,
    Score,
    ScoreOutcome,
    calibrated,
    dead_notes,
    seed_of,
    taught,
)

# ---- Modularity: whether a code tells of one factor and of no other.


def modularity(
    codes: GivenCodes,
    factors: GivenFactors,
    *,
    reference: bool = False,
    calibration: Calibration | Literal["own"] | None = "own",
    num_points: int = NUM_TRAIN,
    seed: int = 0,
    progress: bool = True,
) -> Score:
    r"""Modularity: how far each code tells of one factor only, averaged over the codes.

    .. math:: 1 - \frac{\sum_{j \neq j^*} I_{lj}^2}{(K - 1)\, I_{lj^*}^2}, \qquad j^* = \arg\max_j I_{lj}

    with the mutual information of code l and factor j, estimated without bins as in :func:`mig`. A code that
    tells no more of any factor than chance would is left out of the mean and noted. Where no code is left the
    score is 0. So codes that know nothing score 0, the factors 1.

    With ``reference`` the bins are 20 of equal width, the information is the plug-in estimate, and all codes
    count; one without any information at all counts 0. Codes that know nothing then score high, since chance
    shows more of factors with more values: 0.67 on dSprites, 0.99 on Cars3D.

    Reference: Ridgeway and Mozer (2018), *Learning deep disentangled embeddings with the F-statistic loss*.

    Args:
        codes: (n, L), or a callable from observations to codes.
        factors: (n, K) integers, at least two, or a source of factors and observations.
        reference: whether by the definition of the field's reference implementation.
        calibration: how often it is computed anew; None for the score alone, ``"own"`` as for :func:`mig`.
        num_points: how many data to draw from a source.
        seed, progress: as for :func:`score`.

    Returns:
        The score, with parts ``mutual_information`` (L, K) in nats, by default with its ``standard_error``,
        and ``per_code`` (L,), which is nan for a code left out.

    Raises:
        ValueError: for a single factor, and whatever :func:`score` refuses.

    Example:
        >>> rng = np.random.RandomState(0)
        >>> factors, noise = rng.randint(4, size=(500, 2)), rng.randn(500, 1)
        >>> print(modularity(np.concatenate([factors, noise], 1), factors, calibration=None))
        modularity 1.000
        Code 2 tells no more of any factor than chance would and is left out of the mean.
    """
    rng = random_state(seed)
    sample = drawn_sample(codes, factors, num_points=num_points, rng=rng, progress=progress)
    if sample.num_factors < 2:
        raise ValueError(
            "Expected at least two factors but got 1: modularity asks whether a code tells of one only."
        )
    if reference:
        chosen = REFERENCE_CALIBRATION if calibration == "own" else calibration
        return calibrated(
            "modularity", _as_reference, binned(sample), calibration=chosen, rng=rng, progress=progress
        )
    chosen = INFORMATION_CALIBRATION if calibration == "own" else calibration
    data = PointwiseInformation.of(sample)
    return calibrated("modularity", _of_informed, data, calibration=chosen, rng=rng, progress=progress)


def _as_reference(data: Binned, _rng: np.random.RandomState) -> ScoreOutcome:
    information = mutual_informations(data.bins, data.factors)
    modularities = np.nan_to_num(_modularities(information), nan=0.0)
    parts = {"mutual_information": information, "per_code": modularities}
    return ScoreOutcome(float(modularities.mean()), parts)


def _of_informed(data: PointwiseInformation, _rng: np.random.RandomState) -> ScoreOutcome:
    information, _ = data.information()
    modularities = _modularities(information)
    told = ~np.isnan(modularities)
    score = float(modularities[told].mean()) if told.any() else 0.0
    parts = {
        "mutual_information": information,
        "standard_error": data.standard_error,
        "per_code": modularities,
    }
    return ScoreOutcome(score, parts, notes=(*data.notes(), *_left_out(np.flatnonzero(~told).tolist())))


def _modularities(information: Floats) -> Floats:
    """(L,), nan for a code without information."""
    best = information.max(axis=1)
    shares = np.full_like(information, np.nan)
    np.divide(information, best[:, None], out=shares, where=best[:, None] > 0)
    others: Floats = (shares**2).sum(axis=1) - 1
    return 1 - others / (information.shape[1] - 1)


def _left_out(codes: list[int]) -> tuple[str, ...]:
    match codes:
        case []:
            return ()
        case [code]:
            who = f"Code {code} tells no more of any factor than chance would and is"
        case _:
            who = f"Codes {', '.join(map(str, codes))} tell no more of any factor than chance would and are"
    return (f"{who} left out of the mean.",)


# ---- Explicitness: how well a linear rule tells each value of a factor from all codes together.

_FEW: Final = Calibration(bootstraps=3, permutations=5)
_CHANCE: Final = 0.5


def explicitness(
    codes: GivenCodes,
    factors: GivenFactors,
    *,
    reference: bool = False,
    calibration: Calibration | None = _FEW,
    num_points: int = NUM_POINTS,
    seed: int = 0,
    progress: bool = True,
) -> Score:
    r"""Explicitness: how well a linear classifier tells each value of a factor from the codes.

    .. math:: \mathrm{explicitness} = \frac{1}{K} \sum_k (2 A_k - 1), \qquad
        A_k = \frac{1}{V_k} \sum_v \mathrm{AUC}\big(p(v_k = v \mid z),\ [v_k = v]\big)

    with the area under the ROC curve of each of the :math:`V_k` values against the others, on the test part,
    by scikit-learn's default logistic regression on codes of mean 0 and variance 1. An area begins at 1/2,
    so that by default it is put on the scale from chance, 0, to perfection, 1. The reference leaves it where
    it is: the mean of :math:`A_k`, with a floor of 1/2.

    Reference: Ridgeway and Mozer (2018), *Learning deep disentangled embeddings with the F-statistic loss*.

    Args:
        codes: (n, L), or a callable from observations to codes.
        factors: (n, K) integers, or a source of factors.
        reference: whether by the definition of the field's reference implementation.
        calibration: how often for interval and floor; None for the score alone.
        num_points: how many data to draw from a source.
        seed, progress: as for :func:`score`.

    Returns:
        The score; its parts are ``per_factor`` (K,), on the score's scale, and the areas ``auc_train`` and
        ``auc_test`` (K,). A dead code is 0 throughout, where the reference has nan. A value that the test
        part has not is left out of the mean; one that only the test part has is at chance.

    Raises:
        ValueError: for codes or factors that no score can use.

    Example:
        >>> rng = np.random.RandomState(0)
        >>> factors = rng.randint(3, size=(300, 2))
        >>> score = explicitness(factors @ [[1.0, 1.0], [1.0, -1.0]], factors, calibration=None)
        >>> score.score > 0.95, score.parts["auc_test"].shape
        (True, (2,))
    """
    rng = random_state(seed)
    sample = drawn_sample(codes, factors, num_points=num_points, rng=rng, progress=progress)
    split = to_split(sample, reference=reference, rng=rng)
    statistic = partial(_explicitness, reference=reference)
    bounds = (0.0, 1.0) if reference else (-1.0, 1.0)
    return calibrated(
        "explicitness", statistic, split, bounds=bounds, calibration=calibration, rng=rng, progress=progress
    )


def _explicitness(split: Split, rng: np.random.RandomState, *, reference: bool) -> ScoreOutcome:
    train, test = _standardised(split)
    areas = [
        _areas((train, split.train.factors[:, k]), (test, split.test.factors[:, k]), rng)
        for k in range(split.train.num_factors)
    ]
    in_train, in_test = np.array(areas).T
    per_factor = in_test if reference else 2 * in_test - 1
    parts = {"per_factor": per_factor, "auc_train": in_train, "auc_test": in_test}
    return ScoreOutcome(float(per_factor.mean()), parts, notes=dead_notes(split.train))


def _standardised(split: Split) -> tuple[Floats, Floats]:
    """The codes in units of their spread in the train part; 0 for one that never moves there."""
    train, test = split.train.codes, split.test.codes
    mean, spread = train.mean(0), train.std(0)
    # the spread of a constant may differ from 0 by rounding
    alive = ~split.train.dead & (spread > 0)
    unit = np.where(alive, spread, 1.0)
    return np.where(alive, (train - mean) / unit, 0.0), np.where(alive, (test - mean) / unit, 0.0)


def _areas(
    train: tuple[Floats, Integers], test: tuple[Floats, Integers], rng: np.random.RandomState
) -> tuple[float, float]:
    values = np.unique(train[1])
    if len(values) < 2:
        return _CHANCE, _CHANCE
    learner = taught(LogisticRegression(random_state=seed_of(rng)), *train)
    in_train, in_test = (_area(learner.predict_proba(z), values, v) for z, v in (train, test))
    return in_train, in_test


def _area(probability: Floats, values: Integers, truth: Integers) -> float:
    """Mean area over the values that occur, each against the others."""
    occurring = np.unique(truth)
    if len(occurring) < 2:
        return _CHANCE
    known = np.isin(values, occurring)
    indicator = truth[:, None] == values[known]  # (datum, value)
    areas = roc_auc_score(indicator, probability[:, known], average=None) if known.any() else []
    unseen = len(occurring) - int(known.sum())
    return float((np.sum(areas) + _CHANCE * unseen) / len(occurring))
