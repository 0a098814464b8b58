"""Disentanglement, completeness and informativeness (DCI), and the boosting that learns them."""

from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Final, Literal, NamedTuple, Self, final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.special import expit, softmax
from scipy.stats import entropy
from sklearn.base import BaseEstimator, ClassifierMixin, clone, is_classifier
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.utils import check_random_state

from pyro_infomax._checks import random_state
from pyro_infomax._types import Array, Floats
from pyro_infomax.disentanglement._interventions import NUM_POINTS, GivenCodes, GivenFactors, drawn_sample
from pyro_infomax.disentanglement._sample import Sample, Split, to_split
from pyro_infomax.disentanglement._score import (
    Calibration,
    Score,
    ScoreOutcome,
    calibrated,
    dead_notes,
    seed_of,
)

# ---- The scores: what each code counts for when every factor is predicted from all of them.

_FEW: Final = Calibration(bootstraps=3, permutations=3)
_TINY: Final = 1e-11  # of the reference: a code that counts for nothing has an entropy too
_SPLITS: Final = "share of what the splits of a code take off the {} in the trees of {}"
_COEFFICIENTS: Final = "share of the absolute coefficients of {}, each times the spread of its code"


class _Learned(NamedTuple):
    """Of one factor."""

    importance: Floats  # (code,)
    kind: str
    train: float  # accuracies
    test: float
    majority: float


def dci(
    codes: GivenCodes,
    factors: GivenFactors,
    *,
    reference: bool = False,
    learner: BaseEstimator | None = None,
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

    The reference learns by scikit-learn's default gradient boosting, in minutes. The default here grows the
    same trees in fewer and longer steps on binned codes, in a small part of the time: the importances, hence
    the scores, are nearly the same, and no increasing function of a code changes what is learned of the train
    part.

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
        seed, progress: as for :func:`score`.

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
    rng = random_state(seed)
    sample = drawn_sample(codes, factors, num_points=num_points, rng=rng, progress=progress)
    _check_codes_and_factors(sample)
    chosen = _chosen(learner, reference=reference)
    if calibration == "own":
        calibration = _FEW if isinstance(chosen, BinnedBoosting) else None
    split = to_split(sample, reference=reference, rng=rng)
    statistic = partial(_dci, learner=chosen)
    return calibrated("dci", statistic, split, calibration=calibration, rng=rng, progress=progress)


def _check_codes_and_factors(sample: Sample) -> None:
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


def _chosen(learner: BaseEstimator | None, *, reference: bool) -> BaseEstimator:
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


def _dci(split: Split, rng: np.random.RandomState, *, learner: BaseEstimator) -> ScoreOutcome:
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
    return ScoreOutcome(disentanglement, parts, companions, dead_notes(split.train))


def _concentration(importance: Floats) -> tuple[Floats, float]:
    """One less the entropy of each row, and the mean of that, weighted by what the rows count for."""
    each: Floats = 1 - entropy(importance.T + _TINY, base=importance.shape[1])
    weight = importance if importance.sum() > 0 else np.ones_like(importance)
    return each, float(each @ weight.sum(1) / weight.sum())


def _learned(split: Split, k: int, learner: BaseEstimator, rng: np.random.RandomState) -> _Learned:
    learned, truth = split.train.factors[:, k], split.test.factors[:, k]
    values, counts = np.unique(learned, return_counts=True)
    majority = float((truth == values[counts.argmax()]).mean())
    if len(values) < 2:  # few data, drawn with replacement, may leave nothing to learn
        return _Learned(np.zeros(split.train.num_codes), "", 1.0, majority, majority)
    model = _seeded(clone(learner), rng).fit(split.train.codes, learned)
    importance, kind = _importance(model, split.train.codes)
    train, test = (
        float((model.predict(part.codes) == part.factors[:, k]).mean()) for part in (split.train, split.test)
    )
    return _Learned(importance, kind, train, test, majority)


def _seeded(learner: BaseEstimator, rng: np.random.RandomState) -> BaseEstimator:
    known = learner.get_params()
    if "random_state" in known and known["random_state"] is None:
        learner.set_params(random_state=seed_of(rng))
    return learner


def _importance(model: BaseEstimator, codes: Floats) -> tuple[Floats, str]:
    """(L,) shares, zeros where nothing counts, and which they are."""
    name = type(model).__name__
    if hasattr(model, "feature_importances_"):
        of = (
            "squared error"
            if isinstance(model, BinnedBoosting | GradientBoostingClassifier)
            else "impurity (feature_importances_)"
        )
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


# ---- Boosting: gradient-boosted trees on binned codes, grown for all values of a factor at once.

Bins = NDArray[np.uint8]

_DEPTH: Final = 3
_MOST_BINS: Final = 256  # of one byte
_LEAST_CURVATURE: Final = 1e-150  # below which scikit-learn's leaves say nothing
_TIE: Final = 1e-10


class _Splits(NamedTuple):
    """Of the nodes of one level, (node, value) each."""

    code: NDArray[np.intp]
    last: NDArray[np.intp]  # of the bins that go left
    gain: Floats
    right_is_smaller: NDArray[np.bool_]


class _Stage(NamedTuple):
    """One tree for each value of the factor."""

    levels: tuple[_Splits, ...]
    leaves: Floats  # (leaf, value)


@final
@dataclass(eq=False, repr=False)
class BinnedBoosting(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Scikit-learn's ``GradientBoostingClassifier`` in fewer, longer steps, for few codes and many values.

    The trees are the same: of depth 3, one a value and stage, on the residuals of the softmax, with Newton
    steps in the leaves. But thresholds lie between bins, so that the histograms of all trees of a stage are
    a few sparse products. A sixth of the stages at six times the learning rate come to nearly the same place,
    so that the importances are nearly those of scikit-learn's defaults, in a small part of the time.

    No leaf adds more than ``largest_step`` to a log odds: long Newton steps in pure leaves would overshoot
    where small ones come to rest. Ties between codes that split equally well are broken at random.
    """

    n_estimators: int = 16  # stages
    _: KW_ONLY
    learning_rate: float = 0.6  # of each
    largest_step: float = 3.0
    max_bins: int = 64  # of each code; one with no more distinct values has a bin for each
    random_state: int | np.random.RandomState | None = None

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        if not 2 <= self.max_bins <= _MOST_BINS:
            raise ValueError(f"Expected 2 <= max_bins <= {_MOST_BINS} but got {self.max_bins}.")
        codes = np.asarray(X, dtype=np.float64)
        # Each value of the factor against the others; of two values one says it all
        self.classes_, truth = np.unique(y, return_inverse=True)
        self._edges = [_edges(column, self.max_bins) for column in codes.T]
        columns = _targets(truth.reshape(-1), len(self.classes_))  # (value, datum)
        self._first = _first(columns.mean(1)) if len(self.classes_) > 1 else np.zeros(1)
        self._stages: list[_Stage] = []
        if len(self.classes_) > 1:
            self._grow(self._binned(codes), columns)
        self.feature_importances_ = self._importances(codes.shape[1])
        return self

    def _grow(self, bins: Bins, columns: Floats) -> None:
        grower = _Grower(bins, self.max_bins, check_random_state(self.random_state))
        raw = np.repeat(self._first[:, None], bins.shape[1], axis=1)
        for _ in range(self.n_estimators):
            # The gradient of the likelihood, and its curvature, where the stages so far have come
            probability = _probability(raw)
            levels, leaf, leaves = grower.stage(columns - probability, probability * (1 - probability))
            # What the leaves add, shortened: a pure leaf has hardly any curvature left to bound its step
            leaves = np.clip(self.learning_rate * leaves, -self.largest_step, self.largest_step)
            self._stages.append(_Stage(levels, leaves))
            raw += _of_leaf(leaves, leaf)

    def _importances(self, number: int) -> Floats:
        gains = np.zeros(number)
        for stage in self._stages:
            for level in stage.levels:
                np.add.at(gains, level.code, level.gain)
        return gains / gains.sum() if gains.sum() > 0 else gains

    def decision_function(self, X: ArrayLike) -> Floats:
        """(n, V) for more than two values, else (n,)."""
        bins = self._binned(np.asarray(X, dtype=np.float64))
        raw = np.repeat(self._first[:, None], bins.shape[1], axis=1)
        for stage in self._stages:
            leaf = np.zeros(raw.shape, dtype=np.uint8)
            for level in stage.levels:
                leaf = _descended(leaf, level, bins)
            raw += _of_leaf(stage.leaves, leaf)
        return raw[0] if len(raw) == 1 else raw.T

    def predict(self, X: ArrayLike) -> Array:
        raw = self.decision_function(X)
        index = (raw > 0).astype(int) if raw.ndim == 1 else raw.argmax(1)
        chosen: Array = self.classes_[np.minimum(index, len(self.classes_) - 1)]
        return chosen

    def _binned(self, codes: Floats) -> Bins:
        columns = [np.searchsorted(edges, column) for edges, column in zip(self._edges, codes.T, strict=True)]
        return np.stack(columns).astype(np.uint8)  # (code, datum)


def _edges(column: Floats, max_bins: int) -> Floats:
    """Between the distinct values where there are few, else between equally many data."""
    distinct, counts = np.unique(column, return_counts=True)
    if len(distinct) > max_bins:
        share = ((np.cumsum(counts) - counts / 2) / len(column) * max_bins).astype(int)
        last = np.flatnonzero(np.diff(share) > 0)
    else:
        last = np.arange(len(distinct) - 1)
    return distinct[last] / 2 + distinct[last + 1] / 2


def _targets(truth: NDArray[np.intp], size: int) -> Floats:
    """(value, datum), only the second value where there are two."""
    values = np.arange(1, 2) if size <= 2 else np.arange(size)
    return (truth == values[:, None]).astype(np.float64)


def _first(share: Floats) -> Floats:
    """(value,) log odds, or logarithms, of the shares in the data."""
    odds: Floats = np.log(share) - np.log1p(-share) if len(share) == 1 else np.log(share)
    return odds


def _probability(raw: Floats) -> Floats:
    probability: Floats = expit(raw) if len(raw) == 1 else softmax(raw, axis=0)
    return probability


def _descended(node: Bins, level: _Splits, bins: Bins) -> Bins:
    """The nodes one level down, (value, datum)."""
    right = np.zeros(node.shape, dtype=bool)
    for number, (code, last) in enumerate(zip(level.code, level.last.astype(np.uint8), strict=True)):
        right |= (node == number) & (bins[code] > last[:, None])
    return 2 * node + right


@final
class _Grower:
    """Grows the trees of a stage together, level by level, from histograms of the residuals over the bins."""

    def __init__(self, bins: Bins, max_bins: int, rng: np.random.RandomState) -> None:
        self._bins = bins
        self._rng = rng
        self._shape = (len(bins), max_bins)
        # Every bin of every code is a slot; which data are in it never changes, so it is a sparse matrix
        self._slots = np.arange(len(bins))[:, None] * max_bins + bins  # (code, datum)
        columns = np.tile(np.arange(bins.shape[1]), len(bins))
        ones = np.ones(bins.size, dtype=np.float32)
        size = (len(bins) * max_bins, bins.shape[1])
        self._members = csr_array((ones, (self._slots.ravel(), columns)), shape=size)
        self._counts = np.bincount(self._slots.ravel(), minlength=size[0]).reshape(self._shape)

    def stage(self, residual: Floats, curvature: Floats) -> tuple[tuple[_Splits, ...], Bins, Floats]:
        """The trees on residuals (value, datum), the leaf of every datum in each, and the leaves."""
        node = np.zeros(residual.shape, dtype=np.uint8)
        # At the roots all data count: one sparse product for all values
        histograms = self._of_all(residual)
        levels: list[_Splits] = []
        for _ in range(_DEPTH):
            # Below, only the smaller child of each node is counted
            if levels:
                histograms = self._of_children(histograms, levels[-1], node, residual)
            # Split every node where it helps most, and send the data down
            levels.append(self._best(histograms))
            node = _descended(node, levels[-1], self._bins)
        # Squared error has chosen the splits; a Newton step of the likelihood fills the leaves
        return tuple(levels), node, _newton(node, residual, curvature)

    def _of_all(self, residual: Floats) -> Floats:
        """Histograms (2, 1, code, bin, value) at the roots: sums of residuals and numbers of data."""
        sums = self._members @ residual.T.astype(np.float32, order="C")
        counts = np.broadcast_to(self._counts[..., None], (*self._shape, len(residual)))
        return np.stack([sums.reshape(counts.shape), counts])[:, None]

    def _of_children(self, parents: Floats, splits: _Splits, node: Bins, residual: Floats) -> Floats:
        """Those of the smaller child of each node, and of the larger as what is left."""
        number = len(splits.code)
        # Which data are in the smaller children: at most half of them, for each value
        smaller = 2 * np.arange(number)[:, None] + splits.right_is_smaller  # (parent, value)
        inside = np.zeros(node.shape, dtype=bool)
        for nodes in smaller.astype(np.uint8):
            inside |= node == nodes[:, None]
        value, datum = np.nonzero(inside)
        # Their sums and counts, in one pass over (code, bin, parent, value)
        shape = (*self._shape, number, len(residual))
        within = (node[value, datum] // 2).astype(np.intp) * shape[3] + value
        slots = (self._slots[:, datum] * (number * shape[3]) + within).ravel()
        size = int(np.prod(shape))
        sums = np.bincount(slots, np.tile(residual[value, datum], len(self._bins)), size)
        both = np.stack([sums, np.bincount(slots, minlength=size)]).reshape(2, *shape)
        small = np.moveaxis(both, 3, 1)  # (2, parent, code, bin, value)
        # The larger child is what is left of the parent; then left and right in their places
        swap = splits.right_is_smaller[:, None, None]
        large = parents - small
        pairs = np.stack([np.where(swap, large, small), np.where(swap, small, large)], axis=2)
        return pairs.reshape(2, 2 * number, *parents.shape[2:])

    def _best(self, histograms: Floats) -> _Splits:
        """The split that takes most off the squared error, of each node (2, node, code, bin, value)."""
        # What each threshold would take off: sums below it against those of the whole node
        below, number = histograms.cumsum(axis=3)
        whole, size = below[:, :, -1:], number[:, :, -1:]
        with np.errstate(divide="ignore", invalid="ignore"):
            gain = below**2 / number + (whole - below) ** 2 / (size - number) - whole**2 / size
        gain = np.where((number > 0) & (number < size), gain, 0.0)
        # The best threshold of each code, then the best code: of equals any, or the first would always win
        best = gain.max(axis=2)  # (node, code, value)
        code = (best * (1 + _TIE * self._rng.random_sample(best.shape))).argmax(axis=1)
        of_code = _at(gain, code, axis=1)  # (node, bin, value)
        last = of_code.argmax(axis=1)
        left = _at(_at(number, code, axis=1), last, axis=1)
        gained = np.maximum(_at(of_code, last, axis=1), 0.0)
        return _Splits(code, last, gained, 2 * left > size[:, 0, 0])


def _at(array: Array, index: NDArray[np.intp], *, axis: int) -> Array:
    """Of each (node, ..., value) the entry of this index along an axis."""
    spread = index.reshape(len(index), *(1,) * (array.ndim - 2), index.shape[-1])
    return np.take_along_axis(array, spread, axis=axis).squeeze(axis)


def _of_leaf(leaves: Floats, leaf: Bins) -> Floats:
    """(value, datum) from (leaf, value)."""
    return np.take_along_axis(leaves.T, leaf.astype(np.intp), axis=1)


def _newton(leaf: Bins, residual: Floats, curvature: Floats) -> Floats:
    """The step of each leaf (leaf, value): its slope over its curvature; 0 where nothing is left to learn."""
    values = len(residual)
    slot = (leaf + 2**_DEPTH * np.arange(values)[:, None]).ravel()
    size = values * 2**_DEPTH
    slope = np.bincount(slot, residual.ravel(), size)
    bend = np.bincount(slot, curvature.ravel(), size)
    step = np.divide(slope, bend, out=np.zeros(size), where=bend > _LEAST_CURVATURE)
    scale = (values - 1) / values if values > 1 else 1.0
    return scale * step.reshape(values, -1).T
