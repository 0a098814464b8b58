"""Schedules against their formulae."""

import pytest

from pyro_infomax.schedules import Constant, Cyclical, Linear, Schedule


@pytest.mark.parametrize("step", [0, 1, 10**6])
def test_constant_is_constant(step):
    assert Constant(4.0)(step) == 4.0


@pytest.mark.parametrize(("step", "value"), [(0, 2.0), (1, 1.75), (2, 1.5), (7, 0.25), (8, 0.0), (9, 0.0)])
def test_linear_is_a_straight_line_that_stays_at_its_end(step, value):
    assert Linear(2.0, 0.0, 8)(step) == value


PERIOD = [0.0, 0.5, 1.0, 1.0]


def test_cyclical_rises_over_the_first_half_of_each_period():
    schedule = Cyclical(0.0, 1.0, 4)
    assert [schedule(step) for step in range(12)] == PERIOD * 3


def test_cyclical_stays_at_its_end_after_the_cycles():
    schedule = Cyclical(0.0, 1.0, 4, cycles=2)
    assert [schedule(step) for step in range(12)] == PERIOD * 2 + [1.0] * 4


def test_the_ramp_is_a_part_of_the_period():
    schedule = Cyclical(1.0, 3.0, 4, ramp=1.0)
    assert [schedule(step) for step in range(5)] == [1.0, 1.5, 2.0, 2.5, 1.0]


@pytest.mark.parametrize(
    "schedule",
    [
        Constant(4.0),
        Linear(0.0, 1.0, 7),
        Cyclical(0.0, 1.0, 4),
        Cyclical(0.0, 1.0, 10, cycles=3, ramp=0.25),
        Cyclical(0.0, 1.0, 5, cycles=2, ramp=1.0),
    ],
)
def test_the_end_value_stands_at_the_duration_and_not_before(schedule):
    end = schedule(schedule.duration)
    assert end == getattr(schedule, "end", 4.0)
    assert schedule.duration == 0 or schedule(schedule.duration - 1) != end


@pytest.mark.parametrize("schedule", [Linear(0.0, 1.0, 7), Cyclical(0.0, 1.0, 4, cycles=3)])
def test_the_end_value_stands_for_good_after_the_duration(schedule):
    after = range(schedule.duration, schedule.duration + 20)
    assert all(schedule(step) == 1.0 for step in after)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_refuses_what_is_not_finite(value):
    with pytest.raises(ValueError, match="Expected value to be a finite number but got"):
        Constant(value)
    with pytest.raises(ValueError, match="Expected start to be a finite number but got"):
        Linear(value, 1.0, 10)
    with pytest.raises(ValueError, match="Expected end to be a finite number but got"):
        Cyclical(0.0, value, 10)


@pytest.mark.parametrize("steps", [0, -1, 2.5])
def test_refuses_what_is_no_number_of_steps(steps):
    expected = "to be a whole number of training steps >= 1 but got"
    with pytest.raises(ValueError, match=f"Expected steps {expected}"):
        Linear(0.0, 1.0, steps)
    with pytest.raises(ValueError, match=f"Expected period {expected}"):
        Cyclical(0.0, 1.0, steps)
    with pytest.raises(ValueError, match="Expected cycles to be"):
        Cyclical(0.0, 1.0, 10, cycles=steps)


@pytest.mark.parametrize("ramp", [0.0, -0.5, 1.5, float("nan")])
def test_refuses_a_ramp_outside_the_period(ramp):
    with pytest.raises(ValueError, match=r"Expected ramp, the rising part of a period, in \(0, 1\] but got"):
        Cyclical(0.0, 1.0, 10, ramp=ramp)


def test_is_shown_as_it_was_made():
    shown = ["Constant(4.0)", "Linear(0.0, 1.0, 7)", "Cyclical(0.0, 1.0, 4, cycles=2, ramp=0.25)"]
    assert [repr(eval(text)) for text in shown] == shown


def test_a_schedule_says_its_value_and_its_duration():
    with pytest.raises(TypeError, match="abstract"):
        Schedule()


@pytest.mark.parametrize(
    "make", [lambda: Linear(0.0, 1.0, "a"), lambda: Linear("a", 1.0, 2), lambda: Linear(0.0, 1.0, True)]
)
def test_what_is_no_number_is_refused(make):
    with pytest.raises(ValueError, match="Expected"):
        make()


def test_a_period_of_one_step_has_no_room_for_a_ramp():
    with pytest.raises(ValueError, match="period >= 2"):
        Cyclical(0.0, 1.0, 1)
