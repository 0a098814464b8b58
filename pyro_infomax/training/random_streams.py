"""The generators that a training draws from: torch's own, and those of its loaders and datasets."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, final

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

_HOLDERS: Final = (DataLoader, Sampler, Dataset)


@final
class RandomStreams:
    """Where all random streams of a training stand.

    Args:
        *sources: the data. Generators in the attributes of loaders, samplers and datasets are found.

    Example:
        >>> streams = RandomStreams()
        >>> here = streams.state_dict()
        >>> first = torch.rand(3)
        >>> streams.load_state_dict(here)
        >>> torch.equal(torch.rand(3), first)
        True
    """

    def __init__(self, *sources: Any) -> None:
        self._generators = list(dict.fromkeys(_generators(sources, seen=set())))

    def state_dict(self) -> dict[str, Any]:
        """Where the streams stand now."""
        in_use = torch.cuda.is_initialized()
        return {
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if in_use else [],
            "generators": [generator.get_state() for generator in self._generators],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes back to where the streams stood.

        Raises:
            ValueError: if there was another number of generators.
        """
        saved = state["generators"]
        if len(saved) != len(self._generators):
            raise ValueError(
                f"Expected loaders and datasets with {len(saved)} generators of their own but got "
                f"{len(self._generators)}."
            )
        for generator, stood in zip(self._generators, saved, strict=True):
            generator.set_state(stood)
        torch.set_rng_state(state["cpu"])
        for device, stood in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(stood, device)


def _generators(thing: Any, *, seen: set[int]) -> Iterator[torch.Generator]:
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, torch.Generator):
        yield thing
    elif isinstance(thing, tuple | list):
        for part in thing:
            yield from _generators(part, seen=seen)
    elif isinstance(thing, _HOLDERS):
        for part in vars(thing).values():
            if isinstance(part, (torch.Generator, tuple, *_HOLDERS)):
                yield from _generators(part, seen=seen)
