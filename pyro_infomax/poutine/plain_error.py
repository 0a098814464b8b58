"""The sentence of an error without what Pyro adds to it."""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["plain_errors"]


@contextmanager
def plain_errors() -> Iterator[None]:
    """Lets the errors of this package leave a traced program as they were raised.

    Every trace of Pyro appends the shapes of all sites and parameters to an error that passes through it.
    That helps with errors of torch, and buries a sentence that already says what was expected, what came and
    what to do.

    Example:
        >>> import pyro
        >>> def model():
        ...     raise ValueError("Expected data but got none.")
        >>> with plain_errors():
        ...     pyro.poutine.trace(model).get_trace()
        Traceback (most recent call last):
        ValueError: Expected data but got none.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:
        said = _first_said(error)
        if said is error or not str(said).startswith("Expected "):
            raise
        raise said from None


def _first_said(error: BaseException) -> BaseException:
    while error.__cause__ is not None and str(error).startswith(str(error.__cause__)):
        error = error.__cause__
    return error
