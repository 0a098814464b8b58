"""Runs over many points, some at a time."""

from collections.abc import Iterator

from pyro_infomax.progress import patiently


def blocks(points: int, rows: int, name: str, *, progress: bool = True) -> Iterator[slice]:
    """Slices of at most ``rows`` points each, one at least, under a bar when they take long."""
    starts = range(0, max(1, points), rows)
    return (slice(start, start + rows) for start in patiently(starts, name, progress=progress))
