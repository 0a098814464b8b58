"""The FactorVAE score: which code varies least where a factor is fixed."""

from collections.abc import Iterator
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

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
from pyro_infomax.disentanglement._sample import moved_by_factors
from pyro_infomax.disentanglement._score import Calibration, Score, calibrated

_NUM_BACKGROUND: Final = 10_000
_REFERENCE_DEVIATION: Final = 0.05
_CALIBRATION: Final = Calibration(bootstraps=100, permutations=12)
_Mask = NDArray[np.bool_]


def factor_vae_score(
    codes: GivenCodes,
    factors: GivenFactors,
    *,
    reference: bool = False,
    calibration: Calibration | None = _CALIBRATION,
    seed: int = 0,
    progress: bool = True,
) -> Score:
    r"""The FactorVAE score: how well the code that varies least tells which factor was held fixed.

    64 data share the value of a factor k; the code with the least
    :math:`\mathrm{Var}(z_j \mid \text{shared}) / \mathrm{Var}(z_j)` has their vote. 10,000 votes settle which
    factor each code stands for most often, and the score is the accuracy of that table on 5,000 other votes.

    Data at hand are not intervened in: 64 rows that share a value are drawn, which is the same in
    distribution where the factors are independent, and noted where they are not. By default the rows that
    judge are a third of their own, and only codes that some single factor moves may win votes: a factor
    explains a hundredth of their variance, significantly. That does not depend on a code's scale, and keeps
    out noise, however small or large, which would win the votes of factors that no code knows. Where no code
    is left, the commonest factor is guessed. Of a source 15,000 points are drawn; if their factors depend on
    each other, the one to be held fixed is set anew without regard to the others, which is to intervene.

    With ``reference=True`` the codes with a standard deviation of 0.05 or more may vote, all rows serve both
    parts, and a source is intervened in: draw by draw and in the reference's order, after 10,000 points for
    the variances. Codes of which none may vote score 0.

    The interval covers the draws that judge, not what was learned, nor the data at hand.

    Reference: Kim and Mnih (2018), *Disentangling by factorising*.

    Args:
        codes: (n, L), or a callable from a batch of observations to codes.
        factors: (n, K) integers, K of 2 or more, or a source such as a
            :class:`~pyro_infomax.datasets.FactorDataset`.
        reference: whether by the definition of the field's reference implementation.
        calibration: how often it is computed anew; None for the score alone.
        seed, progress: as for :func:`score`.

    Returns:
        The score; parts ``votes`` (L, K), of the draws that were learned from, ``active`` (L,) the codes that
        may vote, ``num_active``, ``train_accuracy``.

    Raises:
        ValueError: for data that no score takes, a single factor, and a factor no two data share a value of.

    Example:
        >>> rng = np.random.RandomState(0)
        >>> factors = rng.randint(4, size=(600, 3))
        >>> result = factor_vae_score(-2 * factors, factors, calibration=None)
        >>> result.score, result.parts["votes"].argmax(axis=1)
        (1.0, array([0, 1, 2]))
    """
    rng = random_state(seed)
    interventions = held_fixed(
        codes,
        factors,
        pairs=False,
        num_background=_NUM_BACKGROUND,
        reference=reference,
        rng=rng,
        progress=progress,
    )
    trial = LearnerTrial.of(interventions, partial(_judged, reference=reference))
    return calibrated(
        "factor_vae_score", accuracy, trial, calibration=calibration, rng=rng, progress=progress
    )


def _judged(interventions: Interventions, *, reference: bool) -> Verdicts:
    variances = interventions.sample.codes[interventions.background].var(0, ddof=1)
    active = _voters(interventions, variances, reference=reference)
    votes, table = _table(interventions.train, interventions, variances, active)
    train, test = interventions.train.fixed, interventions.test.fixed
    test_votes = _votes(interventions.test, interventions, variances, active)
    guesses, train_guesses = (
        _guesses(each, table, train, reference=reference) for each in (test_votes, votes)
    )
    parts = {
        "votes": table,
        "active": active,
        "num_active": int(active.sum()),
        "train_accuracy": float((train_guesses == train).mean()),
    }
    return Verdicts(test, guesses, parts, tuple(_notes(active, reference=reference)))


def _notes(active: _Mask, *, reference: bool) -> Iterator[str]:
    out = ", ".join(map(str, np.flatnonzero(~active)))
    if out:
        why = f"a deviation below {_REFERENCE_DEVIATION}" if reference else "no single factor that moves them"
        yield f"Codes with {why} may not vote: {out}."


def _voters(interventions: Interventions, variances: Floats, *, reference: bool) -> _Mask:
    if reference:
        return np.sqrt(variances) >= _REFERENCE_DEVIATION
    return moved_by_factors(interventions.sample.take(interventions.background))


def _votes(
    draws: FixedFactorDraws, interventions: Interventions, variances: Floats, active: _Mask
) -> Integers:
    """The code that varies least in each draw; -1 where none may vote."""
    if not active.any():
        return np.full(len(draws), -1, dtype=np.int64)
    voters = np.flatnonzero(active)
    codes = interventions.sample.codes[:, voters]
    winners = [np.argmin(_variances(codes, rows) / variances[voters], axis=1) for rows in in_chunks(draws)]
    return voters[np.concatenate(winners)]


def _variances(codes: Floats, rows: Integers) -> Floats:
    """(draw, code). Around a datum of the draw, a code that does not move there has exactly 0."""
    values = codes.take(rows, axis=0)  # (draw, datum, code)
    values -= values[:, :1]
    size = rows.shape[1]
    squares = np.einsum("vbl,vbl->vl", values, values)
    variances: Floats = np.maximum(squares - values.sum(1) ** 2 / size, 0) / (size - 1)
    return variances


def _table(
    draws: FixedFactorDraws, interventions: Interventions, variances: Floats, active: _Mask
) -> tuple[Integers, Integers]:
    """The votes, and how often each code won those of each factor, (L, K)."""
    votes = _votes(draws, interventions, variances, active)
    shape = len(active), interventions.sample.num_factors
    keys = (votes * shape[1] + draws.fixed)[votes >= 0]
    return votes, np.bincount(keys, minlength=shape[0] * shape[1]).reshape(shape)


def _guesses(votes: Integers, table: Integers, fixed: Integers, *, reference: bool) -> Integers:
    if (votes < 0).all():
        return np.full(len(votes), -1 if reference else np.bincount(fixed).argmax(), dtype=np.int64)
    return table.argmax(axis=1)[votes]
