"""Estimates by name, as a frame and as lines to print; two accounts side by side."""

import math
from collections.abc import Iterator, Mapping
from typing import Final

import pandas as pd

from pyro_infomax.information import Estimate

Estimates = Mapping[str, Estimate]

_COLUMNS: Final = ["value", "standard_error", "population_standard_error", "bound", "target"]
_WIDTHS: Final = {"value": 12, "standard_error": 10, "population_standard_error": 11}
_HEADINGS: Final = {"value": "value", "standard_error": "s.e.", "population_standard_error": "pop. s.e."}
_UNIT: Final = "nats per datum"


def frame_of(estimates: Estimates, facts: Mapping[str, tuple[float, str]]) -> pd.DataFrame:
    """A row a quantity, in nats per datum: value, its two standard errors, bound and target.

    Facts are values that have no error, and what they are.
    """
    rows: dict[str, dict[str, object]] = {name: _row(estimate) for name, estimate in estimates.items()}
    rows |= {name: {"value": value, "target": meaning} for name, (value, meaning) in facts.items()}
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=_COLUMNS)
    return frame.rename_axis("quantity")


def side_by_side(training: pd.DataFrame, holdout: pd.DataFrame) -> pd.DataFrame:
    """Two frames as one, the columns of the second with the prefix ``holdout_``."""
    return pd.concat([training, holdout.add_prefix("holdout_")], axis=1).rename_axis("quantity")


def lines_of(accounts: Mapping[str, Estimates]) -> Iterator[str]:
    """A line a quantity, the accounts beside each other; a lone one goes without its heading."""
    names = list(dict.fromkeys(name for estimates in accounts.values() for name in estimates))
    width = max(map(len, [_UNIT, *names]))
    if len(accounts) > 1:
        yield (" " * width + "".join(f"{each:>{sum(_WIDTHS.values())}}" for each in accounts)).rstrip()
    headings = "".join(f"{_HEADINGS[column]:>{wide}}" for column, wide in _WIDTHS.items())
    yield f"{_UNIT:<{width}}{headings * len(accounts)}  bound"
    for name in names:
        found = [estimates.get(name) for estimates in accounts.values()]
        bound = next(estimate.bound for estimate in found if estimate is not None)
        yield f"{name:<{width}}{''.join(map(_cells, found))}  {bound}"


def _cells(estimate: Estimate | None) -> str:
    """Blank for what does not exist or is not claimed."""
    numbers = {name: None if estimate is None else getattr(estimate, name) for name in _WIDTHS}
    cells = {name: "" if number is None else f"{float(number):z.4f}" for name, number in numbers.items()}
    return "".join(f"{cells[name]:>{wide}}" for name, wide in _WIDTHS.items())


def _row(estimate: Estimate) -> dict[str, object]:
    population = estimate.population_standard_error
    return {
        "value": float(estimate.value),
        "standard_error": float(estimate.standard_error),
        "population_standard_error": math.nan if population is None else float(population),
        "bound": estimate.bound,
        "target": estimate.target,
    }
