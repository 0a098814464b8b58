"""All scores of a representation, and scores of one's own, in one table."""

import reprlib
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Literal, Self, TypeAlias, final

import numpy as np
import pandas as pd

from pyro_infomax._checks import random_state
from pyro_infomax._progress import patiently
from pyro_infomax._types import Floats, Integers
from pyro_infomax.disentanglement._beta_vae_score import beta_vae_score
from pyro_infomax.disentanglement._dci import dci
from pyro_infomax.disentanglement._factor_vae_score import factor_vae_score
from pyro_infomax.disentanglement._interventions import (
    NUM_POINTS,
    NUM_TRAIN,
    GivenCodes,
    GivenFactors,
    drawn,
    drawn_sample,
    encoder_of,
)
from pyro_infomax.disentanglement._irs import irs
from pyro_infomax.disentanglement._mig import mig
from pyro_infomax.disentanglement._modularity import explicitness, modularity
from pyro_infomax.disentanglement._sample import Sample, as_floats, codes_array, half, to_sample
from pyro_infomax.disentanglement._sap import sap
from pyro_infomax.disentanglement._score import Calibration, Interval, Score, ScoreOutcome, calibrated
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


# ---- A score of one's own: a function, calibrated as the others are.

OwnScore: TypeAlias = Callable[[Floats, Integers], float]
"""From codes (n, L) and factors (n, K), each recoded to 0, 1, … in the order of its values, to a number."""

_CALIBRATION: Final = Calibration()
_ANYWHERE: Final = (-float("inf"), float("inf"))


def calibrated_score(
    function: OwnScore,
    codes: GivenCodes,
    factors: GivenFactors,
    *,
    name: str | None = None,
    bounds: Interval = _ANYWHERE,
    higher_is_better: bool = True,
    calibration: Calibration | None = _CALIBRATION,
    num_points: int = NUM_TRAIN,
    seed: int = 0,
    progress: bool = True,
) -> Score:
    """A score of one's own, with the interval, floor and ceiling that the scores here have.

    The function is called on the data, on halves of them for the interval, on codes shuffled against the
    factors for the floor, and on the factors as codes for the ceiling. It gets copies, and may change them.

    Args:
        function: from codes (n, L), floats, and factors (n, K), integers, to a finite number. Each factor is
            recoded to 0, 1, … in the order of its values. The ceiling of a single factor is found with a
            constant code beside it.
        codes: (n, L), or a callable from observations to codes.
        factors: (n, K) integers, or a source of factors and observations.
        name: of the score; that of the function by default.
        bounds: between which the score lies; intervals end there.
        higher_is_better: whether more of it means better disentangled.
        calibration: how often to call the function anew; None computes the score alone.
        num_points: how many data to draw from a source.
        seed: of the draws; a function that is random itself should fix its own seed.
        progress: whether a bar may show.

    Returns:
        The score, without parts.

    Raises:
        ValueError: for what is no function, a function without a name, one that returns anything but a finite
            number, and whatever :func:`score` refuses. What the function raises is passed on.

    Example:
        >>> def correlation(codes, factors):
        ...     both = np.corrcoef(codes, factors, rowvar=False)
        ...     return abs(both[: codes.shape[1], codes.shape[1] :]).max(0).mean()
        >>> rng = np.random.RandomState(0)
        >>> factors = rng.randint(4, size=(500, 2))
        >>> own = calibrated_score(correlation, factors + rng.randn(500, 2), factors, progress=False)
        >>> own.name, round(own.ceiling, 3), own.floor < 0.1 < own.interval[0] < own.score
        ('correlation', 1.0, True)
    """
    if not callable(function):
        raise ValueError(
            "Expected a function of codes and factors that returns a number but got "
            f"{type(function).__name__}: calibrated_score(function, codes, factors)."
        )
    name = _name_of(function) if name is None else name
    rng = random_state(seed)
    sample = drawn_sample(codes, factors, num_points=num_points, rng=rng, progress=progress)
    return calibrated(
        name,
        partial(_called, function, name),
        _SampleInWords(sample, "these codes"),
        calibration=calibration,
        rng=rng,
        bounds=bounds,
        progress=progress,
        higher_is_better=higher_is_better,
    )


@final
@dataclass(frozen=True, eq=False)
class _SampleInWords:
    """A sample, and what it is, in words. Its halves serve functions that count as well as any other."""

    sample: Sample
    what: str

    def resampled(self, rng: np.random.RandomState) -> Self:
        rows = half(len(self.sample), rng)
        return replace(self, sample=self.sample.take(rows), what="half of the data")

    def permuted(self, rng: np.random.RandomState) -> Self:
        return replace(self, sample=self.sample.permuted(rng), what="codes shuffled against the factors")

    def as_codes(self) -> Self:
        return replace(self, sample=self.sample.as_codes(), what="the factors as codes")


def _called(function: OwnScore, name: str, data: _SampleInWords, _rng: np.random.RandomState) -> ScoreOutcome:
    # Copies, since a function that centres its codes in place would change those of the next call
    value = function(data.sample.codes.copy(), data.sample.factors.copy())
    try:
        number = as_floats(value, name=name)
    except ValueError:
        number = np.array(np.nan)
    if isinstance(value, str) or number.shape != () or not np.isfinite(number):
        raise ValueError(
            f"Expected {name} to return one finite number but got {reprlib.repr(value)} for {data.what}: "
            "return the number that stands for such data, such as 0 where codes tell nothing."
        )
    return ScoreOutcome(float(number))


def _name_of(function: OwnScore) -> str:
    name = getattr(function, "__name__", None)
    if not isinstance(name, str):
        raise ValueError(
            f"Expected a function with a name but got {reprlib.repr(function)}: define it with def, or call "
            'calibrated_score(..., name="…").'
        )
    return name


# ---- The table.


@final
class ScoreTable(Mapping[str, Score]):
    """Scores by name, which print as a table.

    Args:
        scores: of the functions, by their names.
        unavailable: names to the reason why there is no score.

    Raises:
        ValueError: if a score stands under another name than its own.

    Example:
        >>> table = ScoreTable({"mig": Score("mig", 0.5, floor=0.0, ceiling=1.0)})
        >>> table.to_frame()[["score", "floor", "ceiling", "calibrated"]]
             score  floor  ceiling  calibrated
        mig    0.5    0.0      1.0         0.5
    """

    def __init__(self, scores: Mapping[str, Score], unavailable: Mapping[str, str] | None = None) -> None:
        for name, each in scores.items():
            if name != each.name:
                raise ValueError(
                    f"Expected scores under their own names but got {each.name!r} under {name!r}: rename it "
                    f"(dataclasses.replace(score, name={name!r}))."
                )
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
    which: Sequence[str | OwnScore] | OwnScore | None = None,
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
        which: names of the scores, and functions of one's own from codes (n, L) and factors (n, K) to a
            number, as :func:`calibrated_score` takes them, whose rows have the names of the functions; None
            for all that codes and factors are enough for, which leaves out :func:`chen_mig` and :func:`udr`.
        reference: whether by the definitions of the field's reference implementation, with their faults;
            functions of one's own stay what they are.
        calibration: of every score; ``"own"`` for the default of each, None for the scores alone.
        num_points: how many data to draw from a source, a third of them to judge learners by.
        seed: of everything random.
        progress: whether bars may show.

    Returns:
        The scores by name; a score that these data cannot have stands in ``unavailable`` with its reason.

    Raises:
        ValueError: for codes or factors that no score can use, an unknown name, two scores of one name, and,
            where a score was asked for, if it cannot be had.

    Example:
        >>> rng = np.random.RandomState(0)
        >>> factors = rng.randint(4, size=(600, 3))
        >>> table = score(factors + 0.1 * rng.randn(600, 3), factors, which=["mig", "sap"], calibration=None)
        >>> table["mig"].score > 0.9, list(table)
        (True, ['mig', 'sap'])
    """
    functions = _known_scores(which)
    codes = encoder_of(codes, factors, progress=progress) or codes
    points = drawn(codes, factors, num_points=num_points, rng=random_state(seed), progress=progress)
    # What is wrong for every score is an error, not a reason for each
    if functions.keys() <= _UNSUPERVISED.keys():
        codes_array(points[0])
    else:
        to_sample(*points)
    options = {} if calibration == "own" else {"calibration": calibration}
    scores, unavailable = {}, {}
    for name in patiently(list(functions), "scores", progress=progress):
        data = (codes, factors) if name in _INTERVENING else points
        try:
            scores[name] = functions[name](
                *data, reference=reference, seed=seed, progress=progress, **options
            )
        except ValueError as error:
            if which is not None:
                raise
            unavailable[name] = str(error)
    return ScoreTable(scores, unavailable)


def _known_scores(which: Sequence[str | OwnScore] | OwnScore | None) -> dict[str, Callable[..., Score]]:
    """The functions of the scores that were asked for, by name."""
    if which is None:
        return dict(_SCORES)
    known: dict[str, Callable[..., Score]] = {}
    for each in [which] if isinstance(which, str) or callable(which) else which:
        name, function = _known_score(each)
        if known.setdefault(name, function) != function:
            raise ValueError(
                f"Expected scores of different names but got two called {name!r}: rename one of them."
            )
    if not known:
        raise ValueError(f"Expected which to name a score but got none: they are {', '.join(_SCORES)}.")
    return known


def _known_score(asked: str | OwnScore) -> tuple[str, Callable[..., Score]]:
    if callable(asked):
        given: object = asked
        # The functions of this room may stand for their names, as it hands them out
        room = vars(sys.modules[__package__])
        of_the_room = [
            (name, function)
            for name, function in _SCORES.items()
            if given is function or given is room[function.__name__]
        ]
        return of_the_room[0] if of_the_room else (_own_name(asked), _Own(asked))
    if asked not in _SCORES:
        reason = _ELSEWHERE.get(asked, f"they are {', '.join(_SCORES)}, or functions of your own")
        raise ValueError(f"Expected which to name scores of codes and factors but got {asked!r}: {reason}.")
    return asked, _SCORES[asked]


def _own_name(function: OwnScore) -> str:
    name = _name_of(function)
    if name in _SCORES or name in _ELSEWHERE:
        raise ValueError(
            f"Expected a function with a name of its own but got one called {name!r}, which is a score here: "
            "rename it."
        )
    return name


@final
@dataclass(frozen=True)
class _Own:
    """A function of one's own in the place of a score; it has no other definition for ``reference``."""

    function: OwnScore

    def __call__(self, *data: Any, **options: Any) -> Score:
        options.pop("reference")
        return calibrated_score(self.function, *data, **options)


def _row(score: Score) -> tuple[float, ...]:
    low, high = score.interval or (None, None)
    floor_low, floor_high = score.floor_interval or (None, None)
    numbers = (score.score, low, high, score.floor, floor_low, floor_high, score.ceiling, score.calibrated)
    return (*(np.nan if each is None else each for each in numbers), score.higher_is_better)


def _with_arrow(table: ScoreTable) -> dict[str, str]:
    """Lower is better for few, which the reader is told."""
    scores = [each for score in table.values() for each in score.all]
    return {each.name: f"{each.name} (lower is better)" for each in scores if not each.higher_is_better}
