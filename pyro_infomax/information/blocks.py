"""Long runs, with a bar that only shows when they take long."""

from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from tqdm.auto import tqdm

_PATIENCE: Final = 3.0  # seconds without a progress bar
_Item = TypeVar("_Item")


def patiently(items: Sequence[_Item], *, progress: bool) -> Iterator[_Item]:
    """The items, under a bar once they have taken a few seconds."""
    yield from tqdm(items, desc="aggregate posterior", disable=not progress, delay=_PATIENCE, leave=False)


def blocks(points: int, rows: int, *, progress: bool) -> Iterator[slice]:
    """Slices of at most ``rows`` points each, one at least."""
    starts = range(0, max(1, points), rows)
    return (slice(start, start + rows) for start in patiently(starts, progress=progress))
