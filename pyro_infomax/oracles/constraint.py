"""The value of a convex curve at a given place, when only its points of given slope can be solved for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

from torch import Tensor

_CHORDS: Final = 200


@final
@dataclass(frozen=True, eq=False)
class Point:
    """A point of a falling convex curve.

    Attributes:
        resource: its abscissa.
        value: its ordinate, in nats.
        dual: a lower bound on min(value + slope * resource), for the slope that it was solved at.
        solution: what attains it; value and resource of a mixture of two are at most the mixtures of theirs.
    """

    resource: float
    value: float
    dual: float
    solution: Tensor


@final
@dataclass(frozen=True, eq=False)
class Constrained:
    """The curve at a resource: a mixture that attains its value, a lower bound on it, and the slope there."""

    solution: Tensor
    lower_bound: float
    slope: float


def at_resource(
    solve: Callable[[float], Point], target: float, scarce: Point, ample: Point, *, tolerance: float
) -> Constrained:
    """Closes in on a resource from both sides: each chord's slope gives a tangent, each tangent a chord.

    Chord above and tangent below certify the value, also where the curve is straight and one slope belongs to
    many resources.

    Args:
        solve: from a slope, positive, to its point.
        target: the resource, between those of the two ends.
        scarce: the end of the least resource.
        ample: the end of the most.
        tolerance: the distance of chord and tangent that is accepted, in nats.

    Raises:
        RuntimeError: If the two stay further apart.
    """
    best, best_slope = -float("inf"), 0.0
    for _ in range(_CHORDS):
        slope = max(0.0, scarce.value - ample.value) / (ample.resource - scarce.resource)
        chord = ample.value + slope * (ample.resource - target)
        point = solve(slope) if slope > 0 else ample
        tangent = point.dual - slope * target
        if tangent > best:
            best, best_slope = tangent, slope
        if chord - best <= tolerance:
            return Constrained(_mixture(scarce, ample, target), best, best_slope)
        if point.resource <= target:
            scarce = point
        else:
            ample = point
    raise RuntimeError(
        f"Expected a certificate within {tolerance:.3g} nats but the bounds stay {chord - best:.3g} apart; "
        "allow a larger tolerance."
    )


def _mixture(scarce: Point, ample: Point, target: float) -> Tensor:
    share = (target - scarce.resource) / (ample.resource - scarce.resource)
    return (1 - share) * scarce.solution + share * ample.solution
