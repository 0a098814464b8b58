"""The unsupervised disentanglement ranking: models that found the same codes are believed to be right."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import permutations
from typing import Final, Literal, Self, final, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata
from sklearn.linear_model import Lasso

from pyro_infomax._checks import random_state
from pyro_infomax._types import Floats
from pyro_infomax.disentanglement._sample import as_floats, codes_array
from pyro_infomax.disentanglement._score import Calibration, Score, ScoreOutcome, calibrated

# ---- The score.

_PENALTY: Final = 0.1
_SMALLEST_KL: Final = 0.01  # nats
_CALIBRATION: Final = Calibration(bootstraps=10, permutations=10)
Correlation = Literal["lasso", "spearman"]


def udr(
    codes: Sequence[ArrayLike],
    *,
    kl: Sequence[ArrayLike] | None = None,
    correlation: Correlation = "lasso",
    reference: bool = False,
    calibration: Calibration | None = _CALIBRATION,
    seed: int = 0,
    progress: bool = True,
) -> Score:
    r"""The unsupervised disentanglement ranking: how far models that were trained apart agree in their codes.

    For a pair of models on the same data :math:`R_{ab}` says how code a of the one goes with code b of the
    other: the size of the coefficient of a where all codes of the one predict b (lasso, penalty 0.1,
    standardised codes), or of Spearman's correlation. Each code should go with one of the other's,

    .. math:: \mathrm{UDR} = \frac12 \left[ \operatorname*{mean}_b \frac{\max_a R_{ab}^2}{\sum_a R_{ab}}
        + \operatorname*{mean}_a \frac{\max_b R_{ab}^2}{\sum_b R_{ab}} \right],

    where a code that goes with none counts 0. A model has the median over its partners, as what they
    predict: rank models by ``parts["per_model"]``. The score is their mean.

    The reference takes 1,000 data; here all rows that are given are used. A model without an active code
    crashes the reference; here it scores 0 and is no partner to the others. By default a model's score is
    the median over pairs in which it predicts and is predicted, averaged, since which of the two it does says
    nothing about it; with ``reference=True`` it is only predicted. For Spearman's correlation, which is
    symmetric, the two are one.

    The floor shuffles each model's rows against the others'. The ceiling pairs each model with its own copy:
    below 1, as the penalty takes 0.1 off the coefficients and codes of one model may go together.

    Reference: Duan, Matthey, Saraiva, Watters, Burgess, Lerchner and Higgins (2020), *Unsupervised model
    selection for variational disentangled representation learning*.

    Args:
        codes: for each of two models or more (n, L), the codes of the same data in the same order; models may
            have different numbers of codes.
        kl: for each model (L,), each code's KL from its prior, averaged over the data, in nats; codes with
            0.01 or less are left out. Without it all codes count that are not constant, also those that hold
            noise, which goes with nothing.
        correlation: ``"lasso"`` or ``"spearman"``.
        reference: whether by the definition of the field's reference implementation.
        calibration: how often it is computed anew; None for the score alone.
        seed, progress: as for :func:`score`.

    Returns:
        The score; parts ``per_model`` (M,), ``pairwise`` (M, M), where the model of the row predicts that of
        the column, with 0 on the diagonal, ``correlation`` a dict from (i, j) to R, (L_i, L_j), with 0 for
        codes that are left out, ``active`` for each model (L,), ``best`` the model that scores highest.

    Raises:
        ValueError: for fewer than two models, models with different numbers of data, values that are not
            finite, ``kl`` of other shapes, and an unknown correlation.

    Example:
        >>> rng = np.random.RandomState(0)
        >>> truth = rng.randn(500, 3)
        >>> models = [truth, -truth[:, ::-1], truth @ np.linalg.qr(rng.randn(3, 3))[0]]
        >>> udr(models, calibration=None).parts["per_model"].round(2)
        array([0.81, 0.81, 0.72])
    """
    _check_correlation(correlation)
    arrays = _checked_codes(codes)
    kept = zip(arrays, _kept(arrays, kl), strict=True)
    models = _Models(arrays, tuple(told & (np.ptp(each, axis=0) > 0) for each, told in kept))
    statistic = partial(_udr, correlation=correlation, reference=reference)
    rng = random_state(seed)
    return calibrated("udr", statistic, models, calibration=calibration, rng=rng, progress=progress)


@final
@dataclass(frozen=True, eq=False)
class _Models:
    """The codes of several models on the same data."""

    codes: tuple[Floats, ...]  # for each model (n, L)
    active: tuple[NDArray[np.bool_], ...]  # for each model (L,) the codes that count
    copied: bool = False  # whether each is compared with its own copy only

    def resampled(self, rng: np.random.RandomState) -> Self:
        """The same data drawn with replacement for all."""
        size = len(self.codes[0])
        index = rng.randint(size, size=size)
        return replace(self, codes=tuple(each[index] for each in self.codes))

    def permuted(self, rng: np.random.RandomState) -> Self:
        """The data of each in an order of its own."""
        return replace(self, codes=tuple(each[rng.permutation(len(each))] for each in self.codes))

    def as_codes(self) -> Self:
        """The best that each can do is to agree with itself."""
        return replace(self, copied=True)


def _udr(
    models: _Models, rng: np.random.RandomState, *, correlation: Correlation, reference: bool
) -> ScoreOutcome:
    del rng
    relate = _lasso if correlation == "lasso" else _spearman
    chosen = [each[:, active] for each, active in zip(models.codes, models.active, strict=True)]
    prepared = [_standardised(each if relate is _lasso else rankdata(each, axis=0)) for each in chosen]
    if models.copied:
        own = [_agreement(relate(each, each)) if each.size else 0.0 for each in prepared]
        return ScoreOutcome(float(np.mean(own)))
    lives = [index for index, active in enumerate(models.active) if active.any()]
    size = len(prepared)
    pairwise = np.zeros((size, size))
    relations = {
        pair: np.zeros((len(models.active[pair[0]]), len(models.active[pair[1]])))
        for pair in permutations(range(size), 2)
    }
    for i, j in permutations(lives, 2):
        related = relate(prepared[i], prepared[j])
        pairwise[i, j] = _agreement(related)
        relations[i, j][np.ix_(models.active[i], models.active[j])] = related
    per_model = _per_model(pairwise, lives, reference=reference)
    parts = {
        "per_model": per_model,
        "pairwise": pairwise,
        "correlation": relations,
        "active": models.active,
        "best": int(per_model.argmax()),
    }
    return ScoreOutcome(float(per_model.mean()), parts, {}, tuple(_notes(size, lives)))


def _per_model(pairwise: Floats, lives: Sequence[int], *, reference: bool) -> Floats:
    """(M,)"""
    scores = np.zeros(len(pairwise))
    for model in lives:
        partners = [each for each in lives if each != model]
        if partners:
            as_predicted = np.median(pairwise[partners, model])
            as_predictor = as_predicted if reference else np.median(pairwise[model, partners])
            scores[model] = (as_predicted + as_predictor) / 2
    return scores


def _agreement(related: Floats) -> float:
    """How far each code of a pair goes with one code only."""
    return float((_one_each(related) + _one_each(related.T)) / 2)


def _one_each(related: Floats) -> float:
    total = related.sum(0)
    clear = np.divide(related.max(0) ** 2, total, out=np.zeros_like(total), where=total > 0)
    return float(clear.mean())


def _lasso(predictors: Floats, targets: Floats) -> Floats:
    """(L_i, L_j) the sizes of the coefficients."""
    learner = Lasso(alpha=_PENALTY, precompute=True).fit(predictors, targets)
    sizes: Floats = np.abs(learner.coef_).reshape(targets.shape[1], predictors.shape[1]).T
    return sizes


def _spearman(first: Floats, second: Floats) -> Floats:
    """(L_i, L_j) the sizes of the correlations of standardised ranks."""
    correlations: Floats = np.minimum(np.abs(first.T @ second) / len(first), 1)
    return correlations


def _standardised(codes: Floats) -> Floats:
    """Of mean 0 and deviation 1; 0 for a code that a resample has made constant."""
    constant = np.ptp(codes, axis=0) == 0
    centred = np.where(constant, 0, codes - codes.mean(0))
    standardised: Floats = centred / np.where(constant, 1, centred.std(0))
    return standardised


def _notes(size: int, lives: Sequence[int]) -> Iterator[str]:
    for model in range(size):
        if model not in lives:
            yield f"Model {model} has no active code: it scores 0, and no other model is compared with it."
    if len(lives) < 2:
        yield "There are no two models with active codes to compare."


# ---- What is given, checked.


def _checked_codes(codes: Sequence[ArrayLike]) -> tuple[Floats, ...]:
    if isinstance(codes, np.ndarray) and codes.ndim == 2:
        raise ValueError(
            f"Expected the codes of several models but got one array {codes.shape}: give a list of arrays."
        )
    arrays = tuple(codes_array(each) for each in codes)
    if len(arrays) < 2:
        raise ValueError(
            f"Expected the codes of two models or more but got {len(arrays)}: one has none to agree with; "
            "train it from several seeds."
        )
    sizes = [len(each) for each in arrays]
    if len(set(sizes)) > 1:
        raise ValueError(f"Expected codes of the same data for all models but they have {sizes} rows.")
    return arrays


def _kept(codes: Sequence[Floats], kl: Sequence[ArrayLike] | None) -> list[NDArray[np.bool_]]:
    if kl is None:
        return [np.ones(each.shape[1], dtype=np.bool_) for each in codes]
    arrays = [as_floats(each, name="kl") for each in kl]
    shapes, expected = [each.shape for each in arrays], [each.shape[1:] for each in codes]
    if shapes != expected:
        raise ValueError(
            f"Expected kl with a number for each code of each model, {expected}, but got {shapes}."
        )
    if not all(np.isfinite(each).all() for each in arrays):
        raise ValueError("Expected finite kl but some are not: look at the encoder that they come from.")
    return [each > _SMALLEST_KL for each in arrays]


def _check_correlation(correlation: str) -> None:
    if correlation not in get_args(Correlation):
        raise ValueError(
            f"Expected correlation to be one of {', '.join(get_args(Correlation))} but got {correlation!r}."
        )
