"""Arguments checked once, with a sentence that says what was expected and what came."""

import math
from collections.abc import Iterable
from numbers import Real

import numpy as np

LARGEST_NUMPY_SEED = 2**32 - 1
_TORCH_SEEDS = (-(2**63), 2**64 - 1)


def whole_number(name: str, value: object, *, at_least: int | None = None, at_most: int | None = None) -> int:
    """An argument that has to be an integer, as an ``int``; NumPy's integers count, booleans do not."""
    number = int(value) if is_integer(value) else None  # type: ignore[call-overload]
    too_small = number is not None and at_least is not None and number < at_least
    too_large = number is not None and at_most is not None and number > at_most
    if number is None or too_small or too_large:
        bound = "" if at_least is None else f" >= {at_least}"
        bound += "" if at_most is None else f"{' and' if bound else ''} <= {at_most}"
        raise ValueError(f"Expected {name} to be an integer{bound} but got {shown(value)}.")
    return number


def real_number(
    name: str, value: object, *, at_least: float | None = None, above: float | None = None
) -> float:
    """An argument that has to be a finite number, as a ``float``; booleans and strings do not count."""
    is_real = isinstance(value, Real | np.floating | np.integer) and not isinstance(value, bool)
    number = float(value) if is_real else math.nan  # type: ignore[arg-type]
    wrong = not math.isfinite(number)
    wrong |= at_least is not None and number < at_least
    wrong |= above is not None and number <= above
    if wrong:
        bound = f" >= {at_least}" if at_least is not None else f" > {above}" if above is not None else ""
        raise ValueError(f"Expected {name} to be a finite number{bound} but got {shown(value)}.")
    return number


def seed_number(seed: object) -> int:
    """The seed of a generator of torch's, as an ``int``; NumPy's integers count."""
    lowest, highest = _TORCH_SEEDS
    if not is_integer(seed) or not lowest <= int(seed) <= highest:  # type: ignore[call-overload]
        raise ValueError(
            f"Expected seed to be an integer that torch.manual_seed takes but got {shown(seed)}."
        )
    return int(seed)  # type: ignore[call-overload,no-any-return]


def random_state(seed: object) -> np.random.RandomState:
    """NumPy's legacy generator at a seed; at one of the system's choice for None."""
    if seed is None:
        return np.random.RandomState()
    return np.random.RandomState(whole_number("seed", seed, at_least=0, at_most=LARGEST_NUMPY_SEED))


def one_of(name: str, value: object, allowed: Iterable[object]) -> None:
    """Checks an argument that names one of a few things."""
    options = list(allowed)
    if not any(type(value) is type(each) and value == each for each in options):
        choices = " or ".join(repr(each) for each in options)
        raise ValueError(f"Expected {name} to be {choices} but got {shown(value)}.")


def is_integer(value: object) -> bool:
    """Whether a value is a Python or NumPy integer and no boolean."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def shown(value: object) -> str:
    """A value in a sentence: short ones as they are, others by their type and shape."""
    text = repr(value)
    if len(text) <= 60 and "\n" not in text:
        return text
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}" + ("" if shape is None else f" of shape {tuple(shape)}")
