"""Arguments checked once, with a sentence that says what was expected and what came."""

import numpy as np


def whole_number(name: str, value: object, *, at_least: int | None = None) -> int:
    """An argument that has to be an integer, as an ``int``; NumPy's integers count, booleans do not."""
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_integer or (at_least is not None and value < at_least):  # type: ignore[operator]
        bound = "" if at_least is None else f" >= {at_least}"
        raise ValueError(f"Expected {name} to be an integer{bound} but got {value!r}.")
    return int(value)  # type: ignore[call-overload,no-any-return]
