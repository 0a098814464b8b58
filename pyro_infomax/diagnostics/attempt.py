"""Quantities that may not exist."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, final

__all__ = ["NO_MARGINALS", "Attempt", "missing_lines"]

NO_MARGINALS: Final = "single latent dimensions of the guide or the prior have no density in closed form"


@final
class Attempt:
    """Evaluates quantities, and keeps the reasons why some of them are None.

    Attributes:
        reasons: the names of what was not to be had, and why.

    Example:
        >>> attempt = Attempt()
        >>> def missing():
        ...     raise NotImplementedError("no closed form")
        >>> attempt(lambda: 1.0, "rate"), attempt(missing, "marginals", "total correlation")
        (1.0, None)
        >>> attempt.reasons
        {'marginals': 'no closed form', 'total correlation': 'no closed form'}
    """

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def __call__(
        self, quantity: Callable[[], Any], *names: str, reason: Callable[[], str] | str | None = None
    ) -> Any:
        """The quantity, None where it raises NotImplementedError or its first name is known to be missing.

        Args:
            quantity: evaluates it.
            names: what is missing where it is not to be had.
            reason: in place of the error's own; a function is called only where one is needed.
        """
        if names[0] in self.reasons:
            return None
        try:
            return quantity()
        except NotImplementedError as error:
            found = reason() if callable(reason) else reason
            self.reasons.update(dict.fromkeys(names, found or str(error)))
            return None


def missing_lines(reasons: Mapping[str, str]) -> Iterator[str]:
    """A line a reason, with all that is missing for it."""
    for reason in dict.fromkeys(reasons.values()):
        names = [name for name, each in reasons.items() if each == reason]
        yield f"not available: {', '.join(names)} ({reason.rstrip('.')})"
