"""Progress bars for what takes longer than a few seconds."""

from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

from tqdm.auto import tqdm

_PATIENCE: Final = 3.0  # seconds without a bar
_Item = TypeVar("_Item")


def patiently(items: Iterable[_Item], name: str, *, progress: bool = True) -> Iterator[_Item]:
    """The items, under a bar of this name once they have taken a few seconds."""
    yield from tqdm(items, desc=name, disable=not progress, delay=_PATIENCE, leave=False)
