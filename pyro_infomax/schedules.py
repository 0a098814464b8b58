"""A weight as a function of the training step.

A schedule is called with the number of training steps already taken and returns the weight of the next one.
Wherever an objective of :mod:`pyro_infomax.infer` takes a weight, it takes a schedule too.
"""

import math
from abc import ABC, abstractmethod
from typing import final

from pyro_infomax._checks import explain_wrong_arguments

__all__ = ["Constant", "Cyclical", "Linear", "Schedule"]


class Schedule(ABC):
    """A weight as a function of the training step.

    A subclass defines :meth:`__call__` and, if it ever stops changing, :attr:`duration`.
    """

    @abstractmethod
    def __call__(self, step: int) -> float:
        """The weight after ``step`` training steps."""

    @property
    @abstractmethod
    def duration(self) -> int:
        """The number of training steps after which the weight first stands at its end value."""


def _finite(name: str, value: float) -> float:
    if isinstance(value, str) or not math.isfinite(value):
        raise ValueError(f"Expected {name} to be a finite number but got {value!r}")
    return float(value)


def _positive_int(name: str, value: int) -> int:
    if isinstance(value, str | bool) or value < 1 or value != int(value):
        raise ValueError(f"Expected {name} to be a whole number of training steps >= 1 but got {value!r}")
    return int(value)


@final
class Constant(Schedule):
    """The same weight at every step.

    Args:
        value: the weight.

    Example:
        >>> Constant(4.0)(10)
        4.0
    """

    def __init__(self, value: float) -> None:
        self.value = _finite("value", value)

    def __call__(self, step: int) -> float:  # noqa: ARG002 - the point of a constant
        return self.value

    @property
    def duration(self) -> int:
        return 0

    def __repr__(self) -> str:
        return f"Constant({self.value})"


@final
class Linear(Schedule):
    r"""A straight line from ``start`` to ``end``, which it keeps afterwards.

    .. math:: w(k) = \text{start} + (\text{end} - \text{start}) \min(k / \text{steps}, 1)

    Args:
        start: the weight of the first step.
        end: the weight from ``steps`` on.
        steps: the length of the ramp, in training steps.

    Raises:
        ValueError: if a weight is not finite or ``steps`` is not a whole number >= 1.

    Example:
        >>> warm_up = Linear(0.0, 4.0, 100)
        >>> warm_up(0), warm_up(50), warm_up(100), warm_up(1000)
        (0.0, 2.0, 4.0, 4.0)
    """

    def __init__(self, start: float, end: float, steps: int) -> None:
        self.start = _finite("start", start)
        self.end = _finite("end", end)
        self.steps = _positive_int("steps", steps)

    def __call__(self, step: int) -> float:
        return self.start + (self.end - self.start) * min(step / self.steps, 1.0)

    @property
    def duration(self) -> int:
        return self.steps

    def __repr__(self) -> str:
        return f"Linear({self.start}, {self.end}, {self.steps})"


@final
class Cyclical(Schedule):
    r"""A ramp that starts anew every ``period`` steps (Fu et al., 2019, Cyclical annealing schedule).

    Within a period the weight rises linearly from ``start`` to ``end`` over the first ``ramp`` of it and
    stays there. After ``cycles`` periods it stays at ``end``; without ``cycles`` it goes on for ever.

    Args:
        start: the weight at the beginning of each period.
        end: the weight at the end of each ramp.
        period: the length of a period, in training steps.
        cycles: the number of periods, None for no end.
        ramp: the part of a period that rises, in (0, 1].

    Raises:
        ValueError: if a weight is not finite, ``period`` or ``cycles`` is not a whole number >= 1 or ``ramp``
            is not in (0, 1].

    Example:
        >>> beta = Cyclical(0.0, 1.0, 100, cycles=2)
        >>> beta(0), beta(25), beta(75), beta(100), beta(200)
        (0.0, 0.5, 1.0, 0.0, 1.0)
    """

    def __init__(
        self, start: float, end: float, period: int, *, cycles: int | None = None, ramp: float = 0.5
    ) -> None:
        if not 0 < ramp <= 1:
            raise ValueError(f"Expected ramp, the rising part of a period, in (0, 1] but got {ramp}")
        self.start = _finite("start", start)
        self.end = _finite("end", end)
        self.period = _positive_int("period", period)
        if self.period < 2:
            raise ValueError("Expected period >= 2, since a ramp of one step never leaves start, but got 1")
        self.cycles = None if cycles is None else _positive_int("cycles", cycles)
        self.ramp = float(ramp)

    def __call__(self, step: int) -> float:
        if self.cycles is not None and step >= self.cycles * self.period:
            return self.end
        phase = (step % self.period) / (self.ramp * self.period)
        return self.start + (self.end - self.start) * min(phase, 1.0)

    @property
    def duration(self) -> int:
        whole_periods = 0 if self.cycles is None else self.cycles - 1
        return math.ceil((whole_periods + self.ramp) * self.period)

    def __repr__(self) -> str:
        return f"Cyclical({self.start}, {self.end}, {self.period}, cycles={self.cycles}, ramp={self.ramp})"


explain_wrong_arguments(__name__)
