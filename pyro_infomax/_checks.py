"""Arguments checked once, with a sentence that says what was expected and what came."""

import numpy as np


def whole_number(name: str, value: object, *, at_least: int | None = None) -> int:
    """An argument that has to be an integer, as an ``int``.

    Args:
        name: of the argument, for the sentence.
        value: what was given; NumPy's integers count, booleans do not.
        at_least: the smallest that is allowed.

    Raises:
        ValueError: for anything else.

    Example:
        >>> whole_number("epochs", 3, at_least=1)
        3
        >>> whole_number("epochs", True, at_least=1)
        Traceback (most recent call last):
        ValueError: Expected epochs to be an integer >= 1 but got True.
    """
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_integer or (at_least is not None and value < at_least):  # type: ignore[operator]
        bound = "" if at_least is None else f" >= {at_least}"
        raise ValueError(f"Expected {name} to be an integer{bound} but got {value!r}.")
    return int(value)  # type: ignore[call-overload,no-any-return]
