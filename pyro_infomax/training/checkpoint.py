"""Where a training is kept, and how often."""

import math
import os
from pathlib import Path
from typing import final


@final
class Checkpoint:
    """A file in which ``fit`` keeps its training, so that a killed one can go on.

    Without a rhythm of its own, it is written at the end of an epoch, but not before the training has run
    twenty times as long as the last writing took: it costs a twentieth of the time at most. It is always
    written when the training ends.

    Args:
        path: of the file; missing folders are made.
        every_steps: writes after each so many steps, in the middle of an epoch too.
        every_seconds: writes at the first step after so many seconds.

    Raises:
        ValueError: for a path that is a folder, steps below 1, or seconds that are no number >= 0.

    Example:
        >>> Checkpoint("runs/vae.pt", every_seconds=60)
        Checkpoint('runs/vae.pt', every_steps=None, every_seconds=60)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        every_steps: int | None = None,
        every_seconds: float | None = None,
    ) -> None:
        if not isinstance(path, str | os.PathLike):
            raise ValueError(f"Expected the path of a checkpoint but got {path!r}.")
        self.path = Path(path).expanduser()
        if self.path.is_dir():
            raise ValueError(f"Expected the path of a file but {self.path} is a folder.")
        _check_steps(every_steps)
        _check_seconds(every_seconds)
        self.every_steps = every_steps
        self.every_seconds = every_seconds

    def __repr__(self) -> str:
        return (
            f"Checkpoint({str(self.path)!r}, every_steps={self.every_steps}, "
            f"every_seconds={self.every_seconds})"
        )


def _check_steps(steps: object) -> None:
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise ValueError(f"Expected every_steps to be an integer >= 1, or None, but got {steps!r}.")


def _check_seconds(seconds: object) -> None:
    if seconds is None:
        return
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not 0 <= seconds < math.inf:  # type: ignore[operator]
        raise ValueError(f"Expected every_seconds to be a number >= 0, or None, but got {seconds!r}.")
