"""Estimates by name, as a frame and as lines to print; two accounts side by side."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pandas as pd

from pyro_infomax.information import Estimate

__all__ = ["frame_of", "lines_of", "side_by_side"]

Estimates = Mapping[str, Estimate]

_COLUMNS: Final = ["value", "standard_error", "population_standard_error", "bound", "target"]
_WIDTHS: Final = {"value": 12, "standard_error": 10, "population_standard_error": 11}
_HEADINGS: Final = {"value": "value", "standard_error": "s.e.", "population_standard_error": "pop. s.e."}
_UNIT: Final = "nats per datum"


def frame_of(estimates: Estimates, facts: Mapping[str, tuple[float, str]]) -> pd.DataFrame:
    """A row a quantity, in nats per datum: value, its two standard errors, bound and target.

    Args:
        estimates: names to scalar estimates.
        facts: names to values that have no error, and what they are.
    """
    rows = {name: _row(estimate) for name, estimate in estimates.items()}
    rows |= {name: {"value": value, "target": meaning} for name, (value, meaning) in facts.items()}
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=_COLUMNS)
    return frame.rename_axis("quantity")


def side_by_side(training: pd.DataFrame, holdout: pd.DataFrame) -> pd.DataFrame:
    """Two frames as one, the columns of the second with the prefix ``holdout_``."""
    return pd.concat([training, holdout.add_prefix("holdout_")], axis=1).rename_axis("quantity")


def lines_of(accounts: Mapping[str, Estimates]) -> Iterator[str]:
    """A line a quantity, the accounts beside each other under their headings.

    Args:
        accounts: a heading to the estimates below it. That of a lone account is left out.
    """
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
    numbers = [None] * len(_WIDTHS) if estimate is None else [getattr(estimate, each) for each in _WIDTHS]
    return "".join(f"{_cell(n):>{wide}}" for n, wide in zip(numbers, _WIDTHS.values(), strict=True))


def _cell(number: Any) -> str:
    """Blank for what does not exist or is not claimed."""
    return "" if number is None else f"{float(number):z.4f}"


def _row(estimate: Estimate) -> dict[str, Any]:
    population = estimate.population_standard_error
    return {
        "value": float(estimate.value),
        "standard_error": float(estimate.standard_error),
        "population_standard_error": math.nan if population is None else float(population),
        "bound": estimate.bound,
        "target": estimate.target,
    }
