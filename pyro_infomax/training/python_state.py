"""Whether what programs find in Python is as it was."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import CellType, MappingProxyType
from typing import Any, final

from pyro_infomax.training.capture_key import NotCapturableError
from pyro_infomax.training.foreign_draws import GLOBAL_GENERATORS, ForeignDraws
from pyro_infomax.training.reach import PLAIN, Entry, Reach

__all__ = ["PythonState"]


@final
class PythonState:
    """The values of Python that programs can reach, as they are when it is made.

    Numbers and strings count by their value, everything else, tensors among it, by its identity.

    Args:
        *roots: functions, modules and objects, see :class:`Reach`.

    Example:
        >>> def program(state):
        ...     return lambda: state["beta"]
        >>> state = {"beta": 0.5}
        >>> python = PythonState(program(state))
        >>> state["beta"] = 1.0
        >>> python.changed()
        "state['beta']"
    """

    def __init__(self, *roots: object) -> None:
        reach = Reach(roots)
        self._entries, self._cells = reach.entries, reach.cells
        self._containers, self._generators = reach.containers, reach.generators
        sized = [*reach.containers, *reach.namespaces]
        self._sized, self._names = [each for each, _ in sized], [name for _, name in sized]
        self._sizes = list(map(len, self._sized))

    def changed(self) -> str | None:
        """What is no longer as it was, by name; None if everything is."""
        name = None
        try:
            for container, key, value, name in self._entries:
                if container[key] is not value and not _equal(container[key], value):
                    return name
            for cell, _, value, name in self._cells:
                if cell.cell_contents is not value and not _equal(cell.cell_contents, value):
                    return name
        except (KeyError, IndexError, ValueError):
            return name
        if list(map(len, self._sized)) != self._sizes:
            return next(
                name
                for each, size, name in zip(self._sized, self._sizes, self._names, strict=True)
                if len(each) != size
            )
        return None

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Puts everything back that its block changes, Python's and NumPy's random states too.

        From then on it passes over what the block has put other objects in place of.

        Raises:
            NotCapturableError: where the block has changed numbers, strings or the size of a container, or
                drawn from one of the two random states.
        """
        copies = [(container, container.copy(), name) for container, name in self._containers]
        draws = [ForeignDraws(*each) for each in [*GLOBAL_GENERATORS, *self._generators]]
        try:
            yield
        finally:
            drawn = [each.name for each in draws if each.put_back()]
            changed = [*_resized(copies), *self._rebound()]
            self._sizes = list(map(len, self._sized))
        if drawn:
            raise NotCapturableError(
                f"the programs draw random numbers from {drawn[0]}, not from torch's own state"
            )
        if changed:
            raise NotCapturableError(f"the programs change {changed[0]} whenever they run")

    def _rebound(self) -> list[str]:
        """Puts rebound values back; the names of those that are numbers and the like."""
        names = []
        for entry in [each for each in (*self._entries, *self._cells) if not _equal(_read(each), each.value)]:
            if isinstance(entry.value, PLAIN) and isinstance(_read(entry), PLAIN):
                names.append(entry.name)
            _write(entry)
            (self._cells if isinstance(entry.container, CellType) else self._entries).remove(entry)
        return names


def _read(entry: Entry) -> Any:
    if isinstance(entry.container, CellType):
        return entry.container.cell_contents
    return entry.container[entry.key]


def _write(entry: Entry) -> None:
    if isinstance(entry.container, CellType):
        entry.container.cell_contents = entry.value
    elif not isinstance(entry.container, MappingProxyType):  # that of a class is read alone
        entry.container[entry.key] = entry.value


def _resized(containers: Sequence[tuple[Any, Any, str]]) -> Iterator[str]:
    """Puts back containers that are of another size, and names them."""
    for container, copy, name in containers:
        if len(container) != len(copy):
            container.clear()
            (container.update if isinstance(container, dict) else container.extend)(copy)
            yield name


def _equal(value: object, other: object) -> bool:
    if value is other:
        return True
    alike = type(value) is type(other) and isinstance(value, PLAIN)
    return alike and (value == other or (value != value and other != other))
