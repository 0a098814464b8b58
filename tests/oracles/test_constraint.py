import pytest
import torch

from pyro_infomax.oracles._rate_distortion import CurvePoint, at_resource


def solve(slope: float) -> CurvePoint:
    """The point of y = (1 - x)^2 on [0, 1] with y' = -slope."""
    x = max(0.0, 1 - slope / 2)
    value = (1 - x) ** 2
    return CurvePoint(x, value, value + slope * x, torch.tensor([x]))


SCARCE, AMPLE = solve(4.0), solve(0.0)


@pytest.mark.parametrize("target", [0.0, 1e-3, 0.3, 0.77, 1.0])
def test_curve_is_met_from_both_sides(target: float) -> None:
    found = at_resource(solve, target, SCARCE, AMPLE, tolerance=1e-10)
    assert found.solution.item() == pytest.approx(target)
    assert (1 - target) ** 2 - 1e-10 <= found.lower_bound <= (1 - target) ** 2 + 1e-15
    assert found.slope == pytest.approx(2 * (1 - target), abs=1e-4)


def test_straight_curve_is_met_at_once() -> None:
    ends = CurvePoint(0.0, 1.0, 1.0, torch.tensor([0.0])), CurvePoint(1.0, 0.0, 0.0, torch.tensor([1.0]))
    calls = []

    def straight(slope: float) -> CurvePoint:
        calls.append(slope)
        return ends[slope < 1]

    def bounded(slope: float) -> CurvePoint:
        point = straight(slope)
        return CurvePoint(point.resource, point.value, min(1.0, slope), point.solution)

    found = at_resource(bounded, 0.25, *ends, tolerance=1e-12)
    assert (found.lower_bound, found.solution.item(), found.slope) == (0.75, 0.25, 1.0)
    assert calls == [1.0]


def test_bounds_that_stay_apart_are_an_error() -> None:
    def vague(slope: float) -> CurvePoint:
        exact = solve(slope)
        return CurvePoint(exact.resource, exact.value, exact.dual - 0.1, exact.solution)

    with pytest.raises(RuntimeError, match=r"the bounds stay 0\.1 apart; allow a larger tolerance"):
        at_resource(vague, 0.5, SCARCE, AMPLE, tolerance=1e-6)
