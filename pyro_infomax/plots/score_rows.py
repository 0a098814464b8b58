"""Scores between what nothing scores and what the truth scores."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from pyro_infomax.plots.arrays import Floats
from pyro_infomax.plots.canvas import axes_or_new, checked_names, colours, tidy

_ROW = 0.36  # inches
_MARGIN = 1.5
_HALF, _CAP = 0.28, 0.14  # of marks, in rows
_COLUMNS = ("score", "low", "high", "floor", "floor_low", "floor_high", "ceiling")


def scores(frame: pd.DataFrame, *, names: Sequence[str] | None = None, ax: Axes | None = None) -> Axes:
    """Each score with its interval, between its floor and its ceiling: a row a score.

    The line leads from the floor, what codes score that know nothing, to the ceiling, what the factors
    themselves score. In the grey bar about the floor a score is not to be told from that of noise. What is
    not known is not drawn.

    Args:
        frame: a row a score, with the columns score, low, high, floor, floor_low, floor_high and ceiling, nan
            where something is not known: ``score(codes, factors).to_frame()`` of
            :func:`~pyro_infomax.disentanglement.score`, or some of its rows. Scores in nats are better
            drawn by themselves.
        names: one name per row; by default those of the frame's index.
        ax: the Axes to draw on; a new figure's by default.

    Returns:
        The Axes.

    Raises:
        ValueError: if there is no row, a column is missing, a score is not finite, or the names do not match.

    Example:
        >>> frame = pd.DataFrame({"score": [0.4], "floor": [0.1], "ceiling": [0.9]}, index=["mig"])
        >>> ax = scores(frame.reindex(columns=["low", "high", "floor_low", "floor_high", *frame]))
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['mig']
    """
    table = _checked(frame)
    labels = checked_names(names if names is not None else list(frame.index), count=len(frame), template="{}")
    ax = axes_or_new(ax, size=(6.4, len(frame) * _ROW + _MARGIN))
    _draw(table, np.arange(float(len(frame))), ax=ax)
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)  # the first on top
    ax.tick_params(axis="y", length=0)
    ax.set(xlabel="score", title="Scores between floor and ceiling")
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return tidy(ax, grid="x")


def _checked(frame: pd.DataFrame) -> dict[str, Floats]:
    missing = [column for column in _COLUMNS if column not in frame]
    if missing:
        raise ValueError(
            f"Expected the columns {', '.join(_COLUMNS)} but {', '.join(missing)} is missing: take "
            "score(codes, factors).to_frame()."
        )
    if not len(frame):
        raise ValueError("Expected a row a score but got none.")
    table = {column: frame[column].to_numpy(dtype=np.float64) for column in _COLUMNS}
    if not np.isfinite(table["score"]).all():
        raise ValueError("Expected finite scores but got nan or infinite ones; leave their rows out.")
    return table


def _draw(table: dict[str, Floats], rows: Floats, *, ax: Axes) -> None:
    blue, orange, green = colours(3)
    ax.hlines(rows, table["floor"], table["ceiling"], color="0.85", linewidth=2, zorder=1)
    ax.plot(table["score"], rows, "o", color=blue, markersize=4, label="score, with its interval", zorder=5)
    ax.hlines(rows, table["low"], table["high"], color=blue, linewidth=1.5, zorder=4)
    for end in ("low", "high"):
        ax.vlines(table[end], rows - _CAP, rows + _CAP, color=blue, linewidth=1.5, zorder=4)
    # What is known of no score has no place in the legend either
    known = np.isfinite(table["floor_low"] + table["floor_high"])
    if known.any():
        left, right = table["floor_low"][known], table["floor_high"][known]
        label = "where noise scores"
        ax.barh(rows[known], right - left, left=left, height=2 * _HALF, color="0.75", label=label, zorder=2)
    for name, colour in (("floor", orange), ("ceiling", green)):
        if np.isfinite(table[name]).any():
            ax.vlines(
                table[name], rows - _HALF, rows + _HALF, color=colour, linewidth=2, label=name, zorder=3
            )
