"""The points of a sweep: every combination of the grid's values and the seeds, each with a stable name."""

import hashlib
import itertools
import json
import keyword
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set as AbstractSet
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeGuard, final

import numpy as np
import torch

from pyro_infomax._types import Array

Token: TypeAlias = "bool | int | float | str | tuple[Token, ...] | None"

SEED: Final = "seed"
FAILURE: Final = "failure"
_LARGEST_SEED: Final = 2**32 - 1  # NumPy's


@final
@dataclass(frozen=True)
class Axis:
    """One dimension of the grid."""

    name: str
    tokens: tuple[Token, ...]  # that tell its values apart: numbers, strings, booleans, None, or tuples
    values: tuple[object, ...]  # what the run gets, one for each token

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def coordinate(self) -> Array:
        """The tokens as netCDF can hold them: all numbers or all booleans as they are, others in words."""
        array = np.asarray(self.tokens) if _are_alike(self.tokens) else np.asarray(None)
        return array if array.dtype.kind in "bif" else np.array([str(token) for token in self.tokens])


@final
@dataclass(frozen=True)
class Point:
    """A point of the grid, seed included; both mappings are from the names of the dimensions."""

    tokens: Mapping[str, Token]  # what tells the values apart
    arguments: Mapping[str, object]  # what the run gets

    @property
    def seed(self) -> int:
        """Where the generators of the point start."""
        seed = self.arguments[SEED]
        assert isinstance(seed, int)
        return seed

    @property
    def text(self) -> str:
        """The point as JSON, the same for equal points: 1 and 1.0 are equal, as is any order of the names."""
        tokens = {name: _canonical(token) for name, token in self.tokens.items()}
        return json.dumps(tokens, sort_keys=True, separators=(",", ":"))

    @property
    def key(self) -> str:
        """A name for files, the same in every process and on every machine."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:32]

    def __str__(self) -> str:
        return ", ".join(f"{name}={token}" for name, token in self.tokens.items())


def axes_of(grid: Mapping[str, object], seeds: int | Sequence[int]) -> tuple[Axis, ...]:
    """The dimensions of a grid in its order, the seeds last."""
    if not isinstance(grid, Mapping) or not grid:
        raise ValueError(f"Expected a grid with a name and its values at least but got {grid!r}.")
    for name in grid:
        _check_name(name)
    return (*(_axis(name, values) for name, values in grid.items()), _seed_axis(seeds))


def points_of(axes: Iterable[Axis]) -> list[Point]:
    """Every combination of the axes' values; the last axis runs fastest."""
    pairs = ([(axis.name, *pair) for pair in zip(axis.tokens, axis.values, strict=True)] for axis in axes)
    return [
        Point({name: token for name, token, _ in each}, {name: value for name, _, value in each})
        for each in itertools.product(*pairs)
    ]


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(
            f"Expected names in the grid that can be keyword arguments of the run but got {name!r}."
        )
    if name in (SEED, FAILURE):
        raise ValueError(f"Expected a grid without the name {name!r}, which the sweep itself adds.")


def _axis(name: str, values: object) -> Axis:
    if isinstance(values, Mapping):
        axis = Axis(name, tuple(_label(name, label) for label in values), tuple(values.values()))
    elif isinstance(values, str | AbstractSet) or not isinstance(values, Iterable):
        raise ValueError(
            f"Expected a list of values of {name!r}, or a mapping from label to value, but got {values!r}."
        )
    else:
        tokens = tuple(_token(name, value) for value in values)
        axis = Axis(name, tokens, tokens)
    _check_distinct(axis)
    return axis


def _seed_axis(seeds: object) -> Axis:
    chosen = tuple(range(seeds) if _is_integer(seeds) else seeds if isinstance(seeds, Iterable) else [None])
    if not all(_is_integer(seed) and 0 <= seed <= _LARGEST_SEED for seed in chosen) or not chosen:
        raise ValueError(
            f"Expected seeds to be a number of them >= 1, or integers from 0 to 2**32 - 1, but got {seeds!r}."
        )
    numbers = tuple(map(int, chosen))
    axis = Axis(SEED, numbers, numbers)
    _check_distinct(axis)
    return axis


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _token(name: str, value: object) -> Token:
    """The value as plain Python has it, where it is one that every process writes in the same way."""
    if isinstance(value, tuple):
        return tuple(_token(name, each) for each in value)
    if isinstance(value, np.generic) or (isinstance(value, torch.Tensor) and value.dim() == 0):
        value = value.item()
    if value is None or (isinstance(value, bool | int | float | str) and value == value):
        return value
    raise ValueError(
        f"Expected values of {name!r} that are numbers other than nan, strings, booleans, None or tuples of "
        f"them, but got {value!r}; give others a label: {{{name!r}: {{'label': value}}}}."
    )


def _label(name: str, label: object) -> str:
    if not isinstance(label, str):
        raise ValueError(f"Expected labels of {name!r} that are strings but got {label!r}.")
    return label


def _check_distinct(axis: Axis) -> None:
    if not len(axis):
        raise ValueError(f"Expected at least one value of {axis.name!r} but got none.")
    # of the coordinate: None and "None" would be one label
    counts = Counter(axis.coordinate.tolist())
    if twice := [value for value, count in counts.items() if count > 1]:
        raise ValueError(f"Expected values of {axis.name!r} that differ but got {twice[0]!r} more than once.")


def _are_alike(tokens: tuple[Token, ...]) -> bool:
    booleans = [isinstance(token, bool) for token in tokens]
    numbers = [isinstance(token, int | float) for token in tokens]
    return all(numbers) and (all(booleans) or not any(booleans))


def _canonical(token: Token) -> object:
    if isinstance(token, tuple):
        return [_canonical(each) for each in token]
    if isinstance(token, float) and math.isfinite(token) and token.is_integer():
        return int(token)
    return token
