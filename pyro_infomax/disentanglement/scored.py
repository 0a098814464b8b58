"""A score, and what one has to know to read it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, final

__all__ = ["Score"]

_ROUNDING: Final = 1e-12

Interval = tuple[float, float]


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
    parts: Mapping[str, Any] = field(default_factory=dict, repr=False)
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
