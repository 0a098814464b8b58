"""What each code counts for when every factor is predicted from all of them."""

from typing import Any, Final, Literal, NamedTuple

import numpy as np
from scipy.stats import entropy
from sklearn.base import clone, is_classifier
from sklearn.ensemble import GradientBoostingClassifier

from pyro_infomax.disentanglement.boosting import BinnedBoosting
from pyro_infomax.disentanglement.calibration import Calibration, Outcome, calibrated
from pyro_infomax.disentanglement.encoding import NUM_POINTS, drawn
from pyro_infomax.disentanglement.learning import dead_notes, seed_of
from pyro_infomax.disentanglement.sample import Floats, Integers, Sample, Split, to_sample, to_split
from pyro_infomax.disentanglement.scored import Score

__all__ = ["dci"]

_FEW: Final = Calibration(bootstraps=3, permutations=3)
_TINY: Final = 1e-11  # of the reference: a code that counts for nothing has an entropy too
_SPLITS: Final = "share of what the splits of a code take off the {} in the trees of {}"
_COEFFICIENTS: Final = "share of the absolute coefficients of {}, each times the spread of its code"
_BOOSTED: Final = (BinnedBoosting, GradientBoostingClassifier)


class _Learned(NamedTuple):
    """Of one factor."""

    importance: Floats  # (code,)
    kind: str
    train: float  # accuracies
    test: float
    majority: float


def dci(
    codes: Any,
    factors: Any,
    *,
    reference: bool = False,
    learner: Any = None,
    calibration: Calibration | Literal["own"] | None = "own",
    num_points: int = NUM_POINTS,
    seed: int = 0,
    progress: bool = True,
) -> Score:
    r"""Disentanglement, completeness and informativeness (DCI) of codes that predict the factors.

    A classifier a factor says how much each code counts for it, :math:`R_{jk}` (L, K), and predicts it.

    .. math::
        D &= \sum_j \rho_j \big(1 - H_K(R_{j\cdot})\big), \qquad
        C = \sum_k \rho_k \big(1 - H_L(R_{\cdot k})\big)

    with the entropy :math:`H_K` of a row, as shares of its sum, to base K, that of a column to base L, and
    the share :math:`\rho` of the row or column in all that counts: D is 1 if every code tells one factor at
    most, C if every factor is told by one code. Informativeness is the accuracy on the test part.

    The reference learns by scikit-learn's default gradient boosting, in minutes. The default here is
    :class:`~pyro_infomax.disentanglement.boosting.BinnedBoosting`, the same trees in fewer and longer steps
    on binned codes, in a small part of the time: its importances, hence the scores, are nearly the same, and
    no increasing function of a code changes what it learns of the train part.

    Reference: Eastwood and Williams (2018), *A framework for the quantitative evaluation of disentangled
    representations*.

    Args:
        codes: (n, L), or a callable from observations to codes.
        factors: (n, K) integers with two factors or more, or a source of factors.
        reference: whether by the definition of the field's reference implementation.
        learner: another classifier of scikit-learn's with ``feature_importances_`` or ``coef_``, which is
            cloned for every factor; one with a ``random_state`` of None is seeded.
        calibration: how often for intervals and floors; None for the scores alone. ``"own"`` takes 3 of each,
            and None in reference mode or with another learner, which may take minutes each time.
        num_points: how many data to draw from a source.
        seed: of everything random.
        progress: whether a bar may show.

    Returns:
        D, with C and informativeness as the companions ``dci_completeness`` and ``dci_informativeness``. Its
        parts are ``importance`` (L, K), ``importance_kind``, words that say which, ``per_code`` (L,) and
        ``per_factor`` (K,), the unweighted terms of D and C, and the accuracies ``informativeness_train``,
        ``informativeness_test`` and ``majority``, that of a constant guess, (K,). A dead code counts for
        nothing.

    Raises:
        ValueError: for a single code or factor, a learner that says nothing of importances, and for codes or
            factors that no score can use.

    Example:
        >>> rng = np.random.RandomState(0)
        >>> factors = rng.randint(4, size=(600, 2))
        >>> print(dci(-3 * factors, factors, calibration=None))
        dci 1.000
        dci_completeness 1.000
        dci_informativeness 1.000
    """
    rng = np.random.RandomState(seed)
    points = drawn(codes, factors, num_points=num_points, rng=rng, progress=progress)
    sample = to_sample(*points)
    _check(sample)
    chosen = _chosen(learner, reference=reference)
    if calibration == "own":
        calibration = _FEW if isinstance(chosen, BinnedBoosting) else None
    split = to_split(sample, reference=reference, rng=rng)
    return calibrated(
        "dci",
        lambda split, rng: _dci(split, chosen, rng),
        split,
        calibration=calibration,
        rng=rng,
        progress=progress,
    )


def _check(sample: Sample) -> None:
    if sample.num_codes < 2:
        raise ValueError(
            "Expected two codes or more but got 1: completeness asks whether one code only matters for a "
            "factor, so put a column of zeros beside a single one."
        )
    if sample.num_factors < 2:
        raise ValueError(
            "Expected two factors or more but got 1: a code cannot tell several factors apart where there is "
            "one, so use sap or explicitness instead."
        )


def _chosen(learner: Any, *, reference: bool) -> Any:
    if learner is None:
        return GradientBoostingClassifier() if reference else BinnedBoosting()
    if reference:
        raise ValueError(
            f"Expected no learner beside reference=True but got {type(learner).__name__}: the reference's is "
            "gradient boosting; leave reference out to use another."
        )
    if not is_classifier(learner):
        raise ValueError(
            f"Expected learner to be a classifier of scikit-learn's but got {type(learner).__name__}: pass "
            "an instance with feature_importances_ or coef_, such as RandomForestClassifier()."
        )
    return learner


def _dci(split: Split, learner: Any, rng: np.random.RandomState) -> Outcome:
    learned = [_learned(split, k, learner, rng) for k in range(split.train.num_factors)]
    importance = np.stack([each.importance for each in learned], axis=1)  # (code, factor)
    per_code, disentanglement = _concentration(importance)
    per_factor, completeness = _concentration(importance.T)
    test = np.array([each.test for each in learned])
    parts = {
        "importance": importance,
        "importance_kind": max(each.kind for each in learned),
        "per_code": per_code,
        "per_factor": per_factor,
        "informativeness_train": np.array([each.train for each in learned]),
        "informativeness_test": test,
        "majority": np.array([each.majority for each in learned]),
    }
    companions = {"completeness": completeness, "informativeness": float(test.mean())}
    return Outcome(disentanglement, parts, companions, dead_notes(split.train))


def _concentration(importance: Floats) -> tuple[Floats, float]:
    """One less the entropy of each row, and the mean of that, weighted by what the rows count for."""
    each: Floats = 1 - entropy(importance.T + _TINY, base=importance.shape[1])
    weight = importance if importance.sum() > 0 else np.ones_like(importance)
    return each, float(each @ weight.sum(1) / weight.sum())


def _learned(split: Split, k: int, learner: Any, rng: np.random.RandomState) -> _Learned:
    learned, truth = split.train.factors[:, k], split.test.factors[:, k]
    values, counts = np.unique(learned, return_counts=True)
    majority = float((truth == values[counts.argmax()]).mean())
    if len(values) < 2:  # few data, drawn with replacement, may leave nothing to learn
        return _Learned(np.zeros(split.train.num_codes), "", 1.0, majority, majority)
    model = _seeded(clone(learner), rng).fit(split.train.codes, learned)
    importance, kind = _importance(model, split.train.codes)
    train, test = (float((model.predict(codes) == given).mean()) for codes, given in _pairs(split, k))
    return _Learned(importance, kind, train, test, majority)


def _pairs(split: Split, k: int) -> list[tuple[Floats, Integers]]:
    return [(part.codes, part.factors[:, k]) for part in (split.train, split.test)]


def _seeded(learner: Any, rng: np.random.RandomState) -> Any:
    known = learner.get_params()
    if "random_state" in known and known["random_state"] is None:
        learner.set_params(random_state=seed_of(rng))
    return learner


def _importance(model: Any, codes: Floats) -> tuple[Floats, str]:
    """(L,) shares, zeros where nothing counts, and which they are."""
    name = type(model).__name__
    if hasattr(model, "feature_importances_"):
        of = "squared error" if isinstance(model, _BOOSTED) else "impurity (feature_importances_)"
        return _shares(np.abs(model.feature_importances_)), _SPLITS.format(of, name)
    if hasattr(model, "coef_"):
        # a coefficient by itself is in units of one over its code
        importance = np.abs(np.atleast_2d(model.coef_)).sum(0) * codes.std(0)
        return _shares(importance), _COEFFICIENTS.format(name)
    raise ValueError(
        f"Expected a learner with feature_importances_ or coef_ but {name} has neither: choose one that says "
        "what each code counts for."
    )


def _shares(importance: Floats) -> Floats:
    total = importance.sum()
    return importance / total if total > 0 else importance
