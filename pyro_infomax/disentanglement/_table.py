"""All scores of a representation, in one table."""

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Literal, final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from pyro_infomax._progress import patiently
from pyro_infomax.disentanglement._beta_vae_score import beta_vae_score
from pyro_infomax.disentanglement._dci import dci
from pyro_infomax.disentanglement._factor_vae_score import factor_vae_score
from pyro_infomax.disentanglement._interventions import (
    NUM_POINTS,
    GivenCodes,
    GivenFactors,
    drawn,
    encoder_of,
)
from pyro_infomax.disentanglement._irs import irs
from pyro_infomax.disentanglement._mig import mig
from pyro_infomax.disentanglement._modularity import explicitness, modularity
from pyro_infomax.disentanglement._sample import codes_array, to_sample
from pyro_infomax.disentanglement._sap import sap
from pyro_infomax.disentanglement._score import Calibration, Score
from pyro_infomax.disentanglement._unsupervised import (
    gaussian_total_correlation_score,
    mutual_information_score,
    wasserstein_correlation,
)

_WIDTH: Final = 110
_INTERVENING: Final[Mapping[str, Callable[..., Score]]] = {
    "beta_vae_score": beta_vae_score,
    "factor_vae_score": factor_vae_score,
}
_SUPERVISED: Final[Mapping[str, Callable[..., Score]]] = {
    "mig": mig,
    "dci": dci,
    "sap": sap,
    "modularity": modularity,
    "explicitness": explicitness,
    "irs": irs,
}
_UNSUPERVISED: Final[Mapping[str, Callable[..., Score]]] = {
    "gaussian_total_correlation": gaussian_total_correlation_score,
    "wasserstein_correlation": wasserstein_correlation,
    "mutual_information_score": mutual_information_score,
}
_SCORES: Final = {**_INTERVENING, **_SUPERVISED, **_UNSUPERVISED}
_ELSEWHERE: Final = {
    "chen_mig": "it takes posteriors instead of codes: call chen_mig itself",
    "udr": "it compares several models: call udr itself",
}


@final
class ScoreTable(Mapping[str, Score]):
    """Scores by name, which print as a table.

    Args:
        scores: of the functions, by their names.
        unavailable: names to the reason why there is no score.

    Example:
        >>> table = ScoreTable({"mig": Score("mig", 0.5, floor=0.0, ceiling=1.0)})
        >>> table.to_frame()[["score", "floor", "ceiling", "calibrated"]]
             score  floor  ceiling  calibrated
        mig    0.5    0.0      1.0         0.5
    """

    def __init__(self, scores: Mapping[str, Score], unavailable: Mapping[str, str] | None = None) -> None:
        self._scores = dict(scores)
        self.unavailable = dict(unavailable or {})

    def __getitem__(self, name: str) -> Score:
        return self._scores[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._scores)

    def __len__(self) -> int:
        return len(self._scores)

    def to_frame(self) -> pd.DataFrame:
        """A row a score, companions included; nan where something is not known.

        Columns: score, low, high, floor, floor_low, floor_high, ceiling, calibrated, higher_is_better.
        """
        rows = {each.name: _row(each) for score in self._scores.values() for each in score.all}
        return pd.DataFrame.from_dict(rows, orient="index", columns=list(_COLUMNS))

    def __repr__(self) -> str:
        frame = self.to_frame().drop(columns="higher_is_better").dropna(axis="columns", how="all")
        table = frame.rename(index=_with_arrow(self)).to_string(float_format="{:z.3f}".format, na_rep="")
        return "\n".join([table, *self._notes()])

    def _notes(self) -> Iterator[str]:
        noted = {note: name for name, score in reversed(self._scores.items()) for note in score.notes}
        lines = [f"{name}: {note}" for note, name in reversed(noted.items())]
        lines += [f"{name}: not available, {reason}" for name, reason in self.unavailable.items()]
        yield from (textwrap.fill(line, _WIDTH, subsequent_indent="  ") for line in lines)


_COLUMNS: Final = (
    "score",
    "low",
    "high",
    "floor",
    "floor_low",
    "floor_high",
    "ceiling",
    "calibrated",
    "higher_is_better",
)


def score(
    codes: GivenCodes,
    factors: GivenFactors,
    *,
    which: Sequence[str] | None = None,
    reference: bool = False,
    calibration: Calibration | Literal["own"] | None = "own",
    num_points: int = NUM_POINTS,
    seed: int = 0,
    progress: bool = True,
) -> ScoreTable:
    """Scores a representation in all ways that its codes and factors permit.

    A code is what the encoder says of a datum: the mean of its posterior. With a callable and a source of
    factors the data are drawn: all scores see the same, and those that intervene draw their own.

    Reference: Locatello, Bauer, Lucic, Rätsch, Gelly, Schölkopf and Bachem (2019), *Challenging common
    assumptions in the unsupervised learning of disentangled representations*.

    Args:
        codes: (n, L), or a callable from a batch of observations to codes.
        factors: (n, K) integers, or a source of factors and observations, such as a
            :class:`~pyro_infomax.datasets.FactorDataset`.
        which: names of the scores; None for all that codes and factors are enough for, which leaves out
            :func:`chen_mig` and :func:`udr`.
        reference: whether by the definitions of the field's reference implementation, with their faults.
        calibration: of every score; ``"own"`` for the default of each, None for the scores alone.
        num_points: how many data to draw from a source, a third of them to judge learners by.
        seed: of everything random.
        progress: whether bars may show.

    Returns:
        The scores by name; a score that these data cannot have stands in ``unavailable`` with its reason.

    Raises:
        ValueError: for codes or factors that no score can use, an unknown name, and, where a score was asked
            for by name, if it cannot be had.

    Example:
        >>> rng = np.random.RandomState(0)
        >>> factors = rng.randint(4, size=(600, 3))
        >>> table = score(factors + 0.1 * rng.randn(600, 3), factors, which=["mig", "sap"], calibration=None)
        >>> table["mig"].score > 0.9, list(table)
        (True, ['mig', 'sap'])
    """
    names = _known_scores(which)
    codes = encoder_of(codes, factors, progress=progress) or codes
    points = drawn(codes, factors, num_points=num_points, rng=np.random.RandomState(seed), progress=progress)
    _check_table(*points, supervised=any(name not in _UNSUPERVISED for name in names))
    options = {} if calibration == "own" else {"calibration": calibration}
    scores, unavailable = {}, {}
    for name in patiently(names, "scores", progress=progress):
        data = (codes, factors) if name in _INTERVENING else points
        try:
            scores[name] = _SCORES[name](*data, reference=reference, seed=seed, progress=progress, **options)
        except ValueError as error:
            if which is not None:
                raise
            unavailable[name] = str(error)
    return ScoreTable(scores, unavailable)


def _check_table(codes: ArrayLike, factors: ArrayLike, *, supervised: bool) -> None:
    """What is wrong for every score is an error, not a reason for each."""
    codes_array(codes)
    if supervised:
        to_sample(codes, factors)


def _known_scores(which: Sequence[str] | None) -> list[str]:
    if which is None:
        return list(_SCORES)
    names = [which] if isinstance(which, str) else list(dict.fromkeys(which))
    for name in names:
        if name not in _SCORES:
            reason = _ELSEWHERE.get(name, f"they are {', '.join(_SCORES)}")
            raise ValueError(
                f"Expected which to name scores of codes and factors but got {name!r}: {reason}."
            )
    if not names:
        raise ValueError(f"Expected which to name a score but got none: they are {', '.join(_SCORES)}.")
    return names


def _row(score: Score) -> tuple[float, ...]:
    low, high = score.interval or (None, None)
    floor_low, floor_high = score.floor_interval or (None, None)
    numbers = (score.score, low, high, score.floor, floor_low, floor_high, score.ceiling, score.calibrated)
    return (*(np.nan if each is None else each for each in numbers), score.higher_is_better)


def _with_arrow(table: ScoreTable) -> dict[str, str]:
    """Lower is better for few, which the reader is told."""
    scores = [each for score in table.values() for each in score.all]
    return {each.name: f"{each.name} (lower is better)" for each in scores if not each.higher_is_better}
