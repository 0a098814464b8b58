"""Posteriors judged: ranks of true values, how often intervals hold them, evidence of several models."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from pyro_infomax._types import Array
from pyro_infomax.plots._axes import TEXT_COLOUR, axes_or_new, colours, tidy

_CURVE_COLUMNS = ("quantity", "probability", "difference", "lower", "upper", "p_value")
_BAND_ENDS = {"probability": 1.0, "lower": 0.0, "upper": 0.0}
_PASSING = "0.75"
_LEVEL = 0.01
_COVERAGE = {"coverage_50": 0.5, "coverage_90": 0.9}
_ROW = 0.28  # inches
_FEW_NAMES = 3


def rank_curves(frame: pd.DataFrame, *, level: float = _LEVEL, ax: Axes | None = None) -> Axes:
    """How far the distribution function of each quantity's ranks is from that of uniform ranks.

    The band holds a whole curve with 95 per cent where the posterior is exact. Where masks leave quantities
    different numbers of ranks, each has a band of its own: shown are the widest and, darker, the narrowest
    one, and those of quantities that fail as dotted lines. Curves of quantities that fail have a colour and a
    name, the others are grey. A curve that rises above the band on the left and falls
    below it on the right is of draws that are too narrow, the reverse of draws that are too wide; one that is
    above everywhere of draws that are too high, one that is below of draws that are too low.

    Reference: Säilynoja, Bürkner and Vehtari (2022), Graphical test for discrete uniformity and its
    applications in goodness-of-fit evaluation and multiple sample comparison.

    Args:
        frame: the columns ``quantity``, ``probability``, ``difference``, ``lower``, ``upper`` and
            ``p_value``, as ``CalibrationCheck.ecdf_frame()`` has them.
        level: the p-value below which a quantity fails.
        ax: the Axes to draw on; a new figure's by default.

    Raises:
        ValueError: if the frame has no row or lacks a column.

    Example:
        >>> band = {"probability": [0.3, 0.6], "lower": [-0.1, -0.1], "upper": [0.1, 0.1]}
        >>> frame = pd.DataFrame({"quantity": "z[0]", "difference": [0.2, 0.1], "p_value": 0.001} | band)
        >>> [line.get_label() for line in rank_curves(frame).get_lines()]
        ['z[0]']
    """
    _check_columns(frame, _CURVE_COLUMNS)
    ax = axes_or_new(ax)
    curves = {
        str(name): curve.sort_values("probability") for name, curve in frame.groupby("quantity", sort=False)
    }
    bands = {name: _band(curve) for name, curve in curves.items()}
    in_order = sorted(bands.values(), key=lambda band: float((band[2] - band[1]).max()))
    narrowest, widest = in_order[0], in_order[-1]
    one_band = all(band.shape == widest.shape and np.allclose(band, widest) for band in in_order)
    for band, shade in ((widest, "0.93"),) if one_band else ((widest, "0.93"), (narrowest, "0.86")):
        ax.fill_between(*band, color=shade, zorder=0)
    failing = [name for name, curve in curves.items() if float(curve["p_value"].iloc[0]) < level]
    colour_of = dict(zip(failing, colours(max(1, len(failing))), strict=False))
    passing = [name for name in curves if name not in colour_of]
    for name, curve in curves.items():
        label = name if name in colour_of else "_nolegend_"
        if passing and name == passing[0]:
            label = "the others" if failing else "all quantities"
        ax.plot(
            [0.0, *curve["probability"], 1.0],
            [0.0, *curve["difference"], 0.0],
            color=colour_of.get(name, _PASSING),
            linewidth=1.6 if name in colour_of else 1.0,
            label=label,
            zorder=2 if name in colour_of else 1,
        )
        if name in colour_of and not one_band:
            places, lower, upper = bands[name]
            for edge in (lower, upper):
                ax.plot(places, edge, color=colour_of[name], linewidth=0.8, linestyle=":", label="_nolegend_")
    ax.hlines(0.0, 0.0, 1.0, color=TEXT_COLOUR, linewidth=0.8, zorder=0)
    ax.set(xlim=(0, 1), xlabel="rank / number of draws", ylabel="share of ranks below, less uniform")
    # many names would cover the curves
    if len(failing) > _FEW_NAMES:
        ax.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    else:
        ax.legend(frameon=False, fontsize="small")
    return tidy(ax)


def _band(curve: pd.DataFrame) -> Array:
    """Where the band is, its lower and its upper edge, from end to end."""
    return np.array([[0.0, *curve[column], end] for column, end in _BAND_ENDS.items()])


def coverage(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """How often central intervals of 50 and 90 per cent of the draws hold the true value, a row a quantity.

    The shaded bands are where the shares are in 95 per cent of all calibrations of an exact posterior with as
    many simulations of the quantity, each by itself. A share to the left of its line is of draws that are too
    narrow or in the wrong place.

    Args:
        frame: a row a quantity, with the columns ``coverage_50``, ``coverage_90`` and ``num_simulations``,
            of which these are shares, as ``CalibrationCheck.to_frame()`` has them.
        ax: the Axes to draw on; a new figure's by default.

    Raises:
        ValueError: if the frame has no row or lacks a column, no row has a coverage, or one is of less than
            1 simulation.

    Example:
        >>> frame = pd.DataFrame({"coverage_50": [0.4], "coverage_90": [0.8], "num_simulations": [500]})
        >>> coverage(frame).get_xlabel()
        'share of simulations whose true value is inside'
    """
    _check_columns(frame, (*_COVERAGE, "num_simulations"))
    frame = frame[frame["coverage_50"].notna()]
    if frame.empty or not (frame["num_simulations"] >= 1).all():
        raise ValueError(
            "Expected shares of at least 1 simulation but got num_simulations "
            f"{frame['num_simulations'].tolist()} of the quantities that have a coverage."
        )
    ax = axes_or_new(ax, size=(6.4, 1.4 + _ROW * len(frame)))
    rows = np.arange(len(frame))[::-1]
    for (column, nominal), colour in zip(_COVERAGE.items(), colours(2), strict=True):
        half = 1.96 * np.sqrt(nominal * (1 - nominal) / frame["num_simulations"].to_numpy(dtype=float))
        ax.barh(rows, 2 * half, left=nominal - half, height=1.0, color=colour, alpha=0.15, linewidth=0)
        ax.axvline(nominal, color=colour, linewidth=0.8)
        ax.plot(
            frame[column], rows, linestyle="", marker="o", markersize=5, color=colour, label=f"{nominal:.0%}"
        )
    ax.set_yticks(rows, [str(name) for name in frame.index])
    ax.set(
        xlim=(0, 1), ylim=(-0.6, len(frame) - 0.4), xlabel="share of simulations whose true value is inside"
    )
    ax.legend(frameon=False, title="interval", loc="upper left")
    return tidy(ax, grid="y")


def evidence_differences(frame: pd.DataFrame, *, data_size: int = 1, ax: Axes | None = None) -> Axes:
    """How much evidence each model lacks of the best, with two standard errors of the paired difference.

    Filled points are models whose importance weights can be trusted for all data; the others lack at most
    as much as is drawn, since their evidence is bounded from below.

    Args:
        frame: a row a model, best first, with the columns ``elpd_diff``, ``dse`` and ``pareto_k_share``, as
            ``Comparison.to_frame()`` has them.
        data_size: the number of data, to draw nats per datum; 1 for the sums that the frame holds.
        ax: the Axes to draw on; a new figure's by default.

    Raises:
        ValueError: if the frame has no row or lacks a column, or ``data_size`` is below 1.

    Example:
        >>> columns = {"elpd_diff": [0.0, 12.0], "dse": [0.0, 3.0], "pareto_k_share": [0.0, 0.2]}
        >>> ax = evidence_differences(pd.DataFrame(columns, index=["a", "b"]))
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['a', 'b (k too large for 20%)']
    """
    _check_columns(frame, ("elpd_diff", "dse", "pareto_k_share"))
    if data_size < 1:
        raise ValueError(f"Expected data_size >= 1 but got {data_size}.")
    ax = axes_or_new(ax, size=(6.4, 1.4 + 1.4 * _ROW * len(frame)))
    rows = np.arange(len(frame))[::-1]
    (colour,) = colours(1)
    shares = frame["pareto_k_share"].to_numpy(dtype=float)
    for row, lacks, error, share in zip(
        rows, frame["elpd_diff"] / data_size, frame["dse"] / data_size, shares, strict=True
    ):
        ax.errorbar(
            lacks,
            row,
            xerr=2 * error,
            color=colour,
            marker="o",
            markersize=6,
            markerfacecolor="white" if share > 0 else colour,
            capsize=2,
        )
    ax.axvline(0.0, color=TEXT_COLOUR, linewidth=0.8)
    names = [
        f"{name} (k too large for {share:.0%})" if share > 0 else str(name)
        for name, share in zip(frame.index, shares, strict=True)
    ]
    ax.set_yticks(rows, names)
    unit = "nats" if data_size == 1 else "nats per datum"
    ax.set(ylim=(-0.6, len(frame) - 0.4), xlabel=f"evidence that it lacks of the best ({unit})")
    return tidy(ax, grid="x")


def _check_columns(frame: pd.DataFrame, wanted: tuple[str, ...]) -> None:
    missing = [column for column in wanted if column not in frame]
    if missing or frame.empty:
        raise ValueError(
            f"Expected a frame with the columns {', '.join(wanted)} and at least one row but got "
            f"{len(frame)} rows with the columns {', '.join(map(str, frame.columns)) or 'none'}."
        )
