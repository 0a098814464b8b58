"""A score, and what one has to know to read it."""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, NamedTuple, Protocol, Self, TypeAlias, TypeVar, final

import numpy as np
from scipy.stats import t as student
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning

from pyro_infomax._checks import whole_number
from pyro_infomax._progress import patiently
from pyro_infomax._types import Floats, Integers
from pyro_infomax.disentanglement._sample import Sample

# ---- The score with what one has to know to read it.

_ROUNDING: Final = 1e-12

Interval = tuple[float, float]
Parts: TypeAlias = Mapping[str, Any]
"""What a score was made of, by name: arrays, numbers and words."""


@final
@dataclass(frozen=True, eq=False)
class Score:
    r"""A disentanglement score with its interval, its floor and its ceiling.

    A score by itself says little: codes that know nothing may score 0.67, and the factors themselves 0.9.
    :attr:`calibrated` puts it on the scale between the two,

    .. math:: \frac{\text{score} - \text{floor}}{\text{ceiling} - \text{floor}}.

    What has not been asked for, or does not exist for a score, is None.

    Args:
        name: of the function that made it; companions add what they are, as ``dci_completeness``.
        score: its value.
        parts: what it was made of, by name. Arrays have the codes first: (L, K) matrices, (L,) for each code,
            (K,) for each factor.
        interval: bootstrap interval for the data at hand as draws of a population.
        floor: mean score of codes that know nothing of the factors.
        floor_interval: where one more such score falls.
        ceiling: score of the factors themselves as codes.
        companions: further scores of the same computation.
        notes: what a reader should know, in sentences.
        higher_is_better: whether more of it means better disentangled.

    Example:
        >>> score = Score("mig", 0.5, floor=0.02, floor_interval=(0.01, 0.03), ceiling=0.9)
        >>> print(score)
        mig 0.500 (floor 0.020, ceiling 0.900)
        >>> round(score.calibrated, 3), float(score)
        (0.545, 0.5)
    """

    name: str
    score: float
    parts: Parts = field(default_factory=dict, repr=False)
    interval: Interval | None = None
    floor: float | None = None
    floor_interval: Interval | None = None
    ceiling: float | None = None
    companions: tuple["Score", ...] = ()
    notes: tuple[str, ...] = ()
    higher_is_better: bool = True

    @property
    def calibrated(self) -> float:
        """0 at the floor, 1 at the ceiling; nan where one of them is unknown or they are the same."""
        if self.floor is None or self.ceiling is None:
            return math.nan
        span = self.ceiling - self.floor
        return (self.score - self.floor) / span if abs(span) > _ROUNDING else math.nan

    @property
    def all(self) -> tuple["Score", ...]:
        """This score and its companions."""
        return (self, *self.companions)

    def __float__(self) -> float:
        return self.score

    def __str__(self) -> str:
        lines = [one._line() for one in self.all]
        return "\n".join([*lines, *self.notes])

    def _line(self) -> str:
        interval = "" if self.interval is None else " [{:.3f}, {:.3f}]".format(*self.interval)
        known = [
            f"{what} {value:z.3f}"
            for what, value in (("floor", self.floor), ("ceiling", self.ceiling))
            if value is not None
        ]
        return f"{self.name} {self.score:z.3f}{interval}" + (f" ({', '.join(known)})" if known else "")


# ---- Calibration: the spread of a score, the score of codes that know nothing, and that of the factors.

Kind = Literal["bootstrap", "permutation", "ceiling"]


@final
@dataclass(frozen=True)
class Calibration:
    """How often a score is computed anew to find its interval, its floor and its ceiling.

    Args:
        bootstraps: times on resampled data, for the interval; 0 goes without. The data are drawn with
            replacement; scores that count how often values come together, and those of one's own, take
            halves of them instead, since a row that comes twice would look like information.
        permutations: times on codes shuffled against the factors; 0 goes without a floor.
        confidence: of both intervals.

    Raises:
        ValueError: for numbers below 0, and a confidence that is not between 0 and 1.

    Example:
        >>> Calibration(bootstraps=20).permutations
        50
        >>> Calibration(bootstraps=-1)
        Traceback (most recent call last):
            ...
        ValueError: Expected bootstraps to be an integer >= 0 but got -1.
    """

    bootstraps: int = 100
    permutations: int = 50
    confidence: float = 0.95

    def __post_init__(self) -> None:
        for name in ("bootstraps", "permutations"):
            whole_number(name, getattr(self, name), at_least=0)
        if not 0 < self.confidence < 1:
            raise ValueError(f"Expected 0 < confidence < 1 but got {self.confidence!r}.")


class ScoreOutcome(NamedTuple):
    """What one computation of a score gives."""

    score: float
    parts: Parts = {}
    companions: Mapping[str, float] = {}  # by what they add to the name, as ``completeness``
    notes: tuple[str, ...] = ()  # sentences for the reader


class Replicable(Protocol):
    """What a score can be computed anew on: a :class:`Sample`, a :class:`Split`, or draws of another kind."""

    def resampled(self, rng: np.random.RandomState) -> Self: ...

    def permuted(self, rng: np.random.RandomState) -> Self: ...

    def as_codes(self) -> Self: ...


_Subject = TypeVar("_Subject", bound=Replicable)


def calibrated(
    name: str,
    statistic: Callable[[_Subject, np.random.RandomState], ScoreOutcome],
    subject: _Subject,
    *,
    calibration: Calibration | None,
    rng: np.random.RandomState,
    bounds: Interval = (0.0, 1.0),
    progress: bool = True,
    has_ceiling: bool = True,
    higher_is_better: bool = True,
) -> Score:
    """A score with its interval, floor and ceiling; ``calibration=None`` computes the score alone.

    The score itself comes first, so that it does not depend on the calibration. Of the replications it is
    the spread around their own mean that makes the interval, since resampled data have a bias of their own
    (rows that come twice tell of each other). Intervals end at the bounds of the score.
    """
    _check_calibration(calibration)
    outcome = statistic(subject, rng)
    replicates: dict[Kind, list[ScoreOutcome]] = {"bootstrap": [], "permutation": [], "ceiling": []}
    if calibration is not None:
        kinds: dict[Kind, tuple[int, Callable[[], _Subject]]] = {
            "bootstrap": (calibration.bootstraps, lambda: subject.resampled(rng)),
            "permutation": (calibration.permutations, lambda: subject.permuted(rng)),
            "ceiling": (int(has_ceiling), subject.as_codes),
        }
        plan = [(kind, make) for kind, (count, make) in kinds.items() for _ in range(count)]
        for kind, make in patiently(plan, name, progress=progress):
            replicates[kind].append(statistic(make(), rng))
    confidence = 0.95 if calibration is None else calibration.confidence
    settled = _Settled(replicates, confidence, bounds, higher_is_better)
    companions = (settled.score(f"{name}_{what}", value, what) for what, value in outcome.companions.items())
    whole = settled.score(name, outcome.score, None)
    return replace(whole, parts=outcome.parts, companions=tuple(companions), notes=outcome.notes)


def _check_calibration(calibration: object) -> None:
    if calibration is not None and not isinstance(calibration, Calibration):
        raise ValueError(
            f"Expected calibration to be a Calibration or None but got {calibration!r}: "
            "Calibration(bootstraps=100, permutations=50) is one."
        )


@final
@dataclass(frozen=True)
class _Settled:
    """The replications, and what they say of each of the scores."""

    replicates: Mapping[Kind, list[ScoreOutcome]]
    confidence: float
    bounds: Interval
    higher_is_better: bool

    def score(self, name: str, value: float, what: str | None) -> Score:
        null = self._values("permutation", what)
        best = self._values("ceiling", what)
        return Score(
            name,
            float(value),
            interval=self._within(float(value), self._values("bootstrap", what), 1.0),
            floor=float(null.mean()) if len(null) else None,
            floor_interval=self._within(float(null.mean()), null, 1 + 1 / len(null)) if len(null) else None,
            ceiling=float(best[0]) if len(best) else None,
            higher_is_better=self.higher_is_better,
        )

    def _values(self, kind: Kind, what: str | None) -> Floats:
        outcomes = self.replicates[kind]
        return np.array([each.score if what is None else each.companions[what] for each in outcomes])

    def _within(self, centre: float, values: Floats, inflation: float) -> Interval | None:
        if len(values) < 2 or not np.isfinite([centre, *values]).all():
            return None
        quantile = student.ppf((1 + self.confidence) / 2, len(values) - 1)
        half = float(quantile * values.std(ddof=1) * np.sqrt(inflation))
        low, high = self.bounds
        # a score beyond its bounds by rounding still lies in its interval
        return min(centre, max(low, centre - half)), max(centre, min(high, centre + half))


# ---- What the scores that learn a factor from the codes have in common.

_LARGEST_SEED: Final = 2**31 - 1


def seed_of(rng: np.random.RandomState) -> int:
    """A seed for one learner, so that it draws nothing from NumPy's global state."""
    return int(rng.randint(_LARGEST_SEED))


def taught(learner: BaseEstimator, codes: Floats, factor: Integers) -> BaseEstimator:
    """The learner, fitted as far as its optimiser gets: the reference, too, stops there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return learner.fit(codes, factor)


def dead_notes(sample: Sample) -> tuple[str, ...]:
    """A sentence on the codes that never move, if there are any."""
    dead = [str(j) for j in np.flatnonzero(sample.dead)]
    if not dead:
        return ()
    return (f"Code {dead[0]} is constant." if len(dead) == 1 else f"Codes {', '.join(dead)} are constant.",)
