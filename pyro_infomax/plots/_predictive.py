"""Observed data beside those that a model draws."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from pyro_infomax._types import Floats
from pyro_infomax.plots._axes import (
    TEXT_COLOUR,
    Drawable,
    as_array,
    as_floats,
    as_images,
    axes_or_new,
    centres,
    colours,
    show,
    tidy,
)

# ---- All statistics in one picture.

_FURTHEST: Final = 8.0  # standard deviations
_LINE: Final = 0.24  # inches
_SMALL: Final[dict[str, Any]] = {"fontsize": "small", "columnspacing": 1.0, "handletextpad": 0.4}
_NEEDED: Final = ("replicated", "replicated_sd", "low", "high", "z_score", "p_value")
_LEVEL: Final = 0.05


def predictive_intervals(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Where the observed data lie among the replicated ones: a line a statistic and summary.

    The bar is the interval of 95 % of the replicated data sets and the dot the observed one, both in standard
    deviations of the replicated data sets from their mean. A dot further out than 8 stands at the edge, with
    its distance beside it. Rows without p-value are left out.

    Args:
        table: of a :class:`~pyro_infomax.diagnostics.PredictiveCheck`, its ``to_frame()``, or rows of it.
        ax: the Axes to draw on; a new figure's by default.

    Raises:
        ValueError: for a table of other columns, or without a row that has a p-value.

    Example:
        >>> row = {"replicated": 3.0, "replicated_sd": 0.5, "low": 2.0, "high": 4.0, "z_score": 2.4}
        >>> index = pd.MultiIndex.from_tuples([("ink", "mean")], names=["statistic", "over_data"])
        >>> ax = predictive_intervals(pd.DataFrame([row | {"p_value": 0.02}], index=index))
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['ink, mean']
    """
    if missing := [name for name in _NEEDED if name not in table]:
        raise ValueError(f"Expected the table of a predictive check but it has no columns {missing}.")
    rows = table[table["p_value"].notna() & (table["replicated_sd"] > 0)]
    if rows.empty:
        raise ValueError("Expected rows whose replicated data sets differ but got none.")
    ax = axes_or_new(ax, size=(6.4, 1.5 + _LINE * len(rows)))
    blue, orange = colours(2)
    places = np.arange(len(rows))
    ends = [(rows[end] - rows["replicated"]) / rows["replicated_sd"] for end in ("low", "high")]
    left, right = (end.to_numpy(dtype=np.float64) for end in ends)
    ax.barh(places, right - left, left=left, height=0.55, color=blue, alpha=0.35, label="95 % of replicates")
    scores = rows["z_score"].to_numpy(dtype=np.float64)
    small = rows["p_value"].to_numpy() <= _LEVEL
    for far, colour, label in ((~small, TEXT_COLOUR, "observed"), (small, orange, "p ≤ 0.05")):
        if far.any():
            x = scores[far].clip(-_FURTHEST, _FURTHEST)
            ax.scatter(x, places[far], color=colour, s=26, zorder=3, label=label)
    for place, score in zip(places, scores, strict=True):
        if abs(score) > _FURTHEST:
            _note(ax, float(place), float(score))
    ax.axvline(0, color="0.6", linewidth=0.8, zorder=0)
    ax.set_yticks(places, [_label(each) for each in rows.index])
    reach = max(3.5, *np.abs(scores).clip(max=_FURTHEST), *np.abs(left), *np.abs(right)) + 0.6
    ax.set(xlim=(-reach, reach), ylim=(len(rows) - 0.4, -0.6))
    ax.set(xlabel="standard deviations of replicated data sets", title="Observed and replicated data")
    below = (0.5, -_below(len(rows)))
    ax.legend(loc="upper center", bbox_to_anchor=below, ncols=3, frameon=False, **_SMALL)
    return tidy(ax, grid="x")


def _note(ax: Axes, place: float, score: float) -> None:
    """How far out a dot at the edge is, on the side of the middle."""
    side = np.sign(score)
    text = f"{score:+.0f}".replace("-", "\N{MINUS SIGN}") if np.isfinite(score) else "∞"
    ax.annotate(
        text,
        (side * _FURTHEST, place),
        xytext=(-6 * side, 0),
        textcoords="offset points",
        ha="right" if side > 0 else "left",
        va="center",
        fontsize="small",
        color=TEXT_COLOUR,
    )


def _label(key: object) -> str:
    return ", ".join(map(str, key)) if isinstance(key, tuple) else str(key)


def _below(rows: int) -> float:
    """Room for ticks and a label, as a share of the height of the Axes."""
    return 0.6 / (_LINE * rows + 0.1)


# ---- One statistic, over the data.

_BINS: Final = 30
_BAND: Final = (0.025, 0.975)


def predictive_density(
    observed: Drawable, replicated: Drawable, *, name: str = "statistic", ax: Axes | None = None
) -> Axes:
    """The distribution of a statistic over the observed data, and over the replicated ones.

    Histograms of the same bins: the line is the observed data, the band holds 95 % of the replicated data
    sets in each bin by itself. Values that are whole numbers, of thirty or fewer, have a bin each.

    Args:
        observed: (data,) or (1, data); nan, which masked data have, is left out.
        replicated: (draws, data), nan where the observed ones are.
        name: of the statistic, below the axis.
        ax: the Axes to draw on; a new figure's by default.

    Raises:
        ValueError: for other shapes, infinite values, or no data.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> ax = predictive_density(rng.normal(size=200), rng.normal(size=(50, 200)), name="ink")
        >>> ax.get_xlabel()
        'ink'
    """
    sets = np.atleast_2d(as_array(replicated))
    one = np.atleast_2d(as_array(observed))
    if sets.ndim != 2 or one.shape != (1, sets.shape[1]):
        raise ValueError(
            "Expected observed of shape (data,) and replicated of shape (draws, data) but got "
            f"{as_array(observed).shape} and {as_array(replicated).shape}."
        )
    present = ~np.isnan(sets.astype(np.float64)).all(0)
    values = as_floats(one[:, present], name="observed"), as_floats(sets[:, present], name="replicated")
    if not values[0].size:
        raise ValueError("Expected data but got none that are present.")
    edges = _edges(np.concatenate(values))
    (line,), densities = ([np.histogram(each, edges)[0] / each.size for each in part] for part in values)
    low, high = np.quantile(densities, _BAND, axis=0)
    ax = axes_or_new(ax, size=(4.8, 3.2))
    blue, orange = colours(2)
    ax.stairs(high, edges, baseline=low, fill=True, color=blue, alpha=0.35, label="95 % of replicates")
    ax.stairs(line, edges, color=orange, linewidth=1.8, label="observed")
    room = 1.25 * max(high.max(), line.max())  # for the legend
    ax.set(xlabel=name, ylabel="share of the data", ylim=(0, room))
    ax.legend(frameon=False)
    return tidy(ax)


def _edges(values: Floats) -> Floats:
    low, high = float(values.min()), float(values.max())
    if high - low < _BINS and bool((values == values.round()).all()):
        return np.arange(low - 0.5, high + 1.0)
    return np.linspace(low, high if high > low else low + 1.0, _BINS + 1)


# ---- Images.

_TILE: Final = 0.6  # inches
_MARGIN: Final = 1.0


def replicates(images: Drawable, replicated: Drawable, *, ax: Axes | None = None) -> Axes:
    """Images above their replicates: a column an image, the data in the first row.

    Args:
        images: (N, H, W) or (N, C, H, W), such as ``examples`` of a
            :class:`~pyro_infomax.diagnostics.PredictiveCheck`.
        replicated: (draws, N, H, W) or (draws, N, C, H, W), such as its ``replicates``.
        ax: the Axes to draw on; a new figure's by default.

    Returns:
        The Axes, which hold one picture: a mosaic of the data and a row a draw.

    Raises:
        ValueError: for other shapes, and for nan or infinite values.

    Example:
        >>> ax = replicates(np.random.rand(6, 8, 8), np.random.rand(3, 6, 8, 8))
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['data', 'replicate 1', 'replicate 2', 'replicate 3']
    """
    data = as_images(images, name="images", axes=1)
    made = as_images(replicated, name="replicated", axes=2)
    if data.shape != made.shape[1:]:
        raise ValueError(
            f"Expected images and their replicates of one shape but got {data.shape} and {made.shape[1:]}."
        )
    tiles = np.concatenate([data[None], made])
    rows, columns, height, width = tiles.shape[:4]
    size = columns * _TILE * width / height + _MARGIN, rows * _TILE + 0.5
    ax = show(tiles, ax=axes_or_new(ax, size=size))
    names: Sequence[str] = ["data", *(f"replicate {number}" for number in range(1, rows))]
    ax.set_yticks(centres(tiles, axis=0), names)
    ax.set_title("Data and replicates")
    return ax
