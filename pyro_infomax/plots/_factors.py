"""Latent dimensions and true factors: which tells of which, and the scores of that."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from pyro_infomax._types import Floats
from pyro_infomax.plots._axes import Drawable, as_floats, as_vector, axes_or_new, checked_names, colours, tidy

# ---- Matrices of latent dimensions and factors.

_CELL = (0.75, 0.34)  # inches
_MATRIX_MARGIN = (2.2, 1.2)
_SMALLEST = (4.0, 2.2)  # the title and the colour bar's label fit
_LETTER = 0.08
_LONGEST = 11  # letters of names that stand beside each other
_MOST_NUMBERS = 12  # along either side
_COLOURS = "Blues"


def importance_matrix(
    importance: Drawable,
    *,
    factor_names: Sequence[str] | None = None,
    latent_names: Sequence[str] | None = None,
    ordered: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """How much each latent dimension counts for telling each factor: a row a dimension, a column a factor.

    A disentangled representation has a single dark cell in each column, in rows of their own. Cells hold
    their numbers while there are few of them.

    Args:
        importance: (L, K), at least 0, such as the part ``importance`` of
            :func:`~pyro_infomax.disentanglement.dci`.
        factor_names: one name per column; by default :math:`v_0, v_1, \\dots`
        latent_names: one name per row; by default :math:`z_0, z_1, \\dots`
        ordered: whether rows are sorted by the factor that they matter most for, so that what is disentangled
            lies on a diagonal, and rows of little weight come last.
        ax: the Axes to draw on; a new figure's by default.

    Raises:
        ValueError: if ``importance`` is not a finite matrix of numbers >= 0, or the names do not match.

    Example:
        >>> ax = importance_matrix([[0.1, 0.9], [0.9, 0.1]], factor_names=["scale", "shape"], ordered=True)
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['$z_{1}$', '$z_{0}$']
    """
    matrix = _as_matrix(importance, name="importance")
    names = _names(matrix, factor_names, latent_names)
    ax = _heat_map(matrix, names, ordered=ordered, label="importance", top=float(matrix.max()), ax=ax)
    ax.set_title("Importance of the latent dimensions")
    return ax


def information_matrix(
    mutual_information: Drawable,
    *,
    entropies: Drawable | None = None,
    factor_names: Sequence[str] | None = None,
    latent_names: Sequence[str] | None = None,
    ordered: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """What each latent dimension knows of each factor: a row a dimension, a column a factor.

    Args:
        mutual_information: (L, K), nats, such as the part ``mutual_information`` of
            :func:`~pyro_infomax.disentanglement.mig` or :func:`~pyro_infomax.disentanglement.chen_mig`.
        entropies: (K,) of the factors, nats; then the cells show shares of all there is to know of a factor,
            which compare across factors.
        factor_names: one name per column; by default :math:`v_0, v_1, \\dots`
        latent_names: one name per row; by default :math:`z_0, z_1, \\dots`
        ordered: whether rows are sorted by the factor that they know most of, so that what is disentangled
            lies on a diagonal, and rows that know little come last.
        ax: the Axes to draw on; a new figure's by default.

    Raises:
        ValueError: if ``mutual_information`` is not a finite matrix, the entropies are not one number above 0
            for each factor, or the names do not match.

    Example:
        >>> ax = information_matrix([[0.0, 1.2], [0.7, 0.1]], entropies=[0.7, 1.4], latent_names=["a", "b"])
        >>> [text.get_text() for text in ax.texts]
        ['0.00', '0.86', '1.00', '0.07']
    """
    # an estimate of nothing may lie below 0
    matrix = _as_matrix(mutual_information, name="mutual_information", least=-np.inf).clip(0.0)
    names = _names(matrix, factor_names, latent_names)
    if entropies is None:
        label, top = "mutual information, nats", float(matrix.max())
    else:
        matrix, label, top = matrix / _checked_entropies(entropies, count=matrix.shape[1]), "share known", 1.0
    ax = _heat_map(matrix, names, ordered=ordered, label=label, top=top, ax=ax)
    ax.set_title("Information about the factors")
    return ax


def _as_matrix(values: Drawable, *, name: str, least: float = 0.0) -> Floats:
    matrix = as_floats(values, name=name)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(
            f"Expected {name} of shape (L, K), a row a latent dimension and a column a factor, but got shape "
            f"{matrix.shape}."
        )
    if matrix.min() < least:
        raise ValueError(f"Expected {name} >= {least:g} but got {matrix.min():g}.")
    return matrix


def _checked_entropies(entropies: Drawable, *, count: int) -> Floats:
    vector = as_vector(entropies, name="entropies")
    if len(vector) != count or not (vector > 0).all():
        raise ValueError(
            f"Expected an entropy above 0 for each factor, {count} in all, but got {vector.tolist()}."
        )
    return vector


def _names(
    matrix: Floats, factor_names: Sequence[str] | None, latent_names: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    rows, columns = matrix.shape
    return (
        checked_names(latent_names, count=rows, template="$z_{{{}}}$"),
        checked_names(factor_names, count=columns, template="$v_{{{}}}$"),
    )


def _heat_map(
    matrix: Floats,
    names: tuple[list[str], list[str]],
    *,
    ordered: bool,
    label: str,
    top: float,
    ax: Axes | None,
) -> Axes:
    rows, columns = matrix.shape
    order = _diagonal_order(matrix) if ordered else list(range(rows))
    few = max(rows, columns) <= _MOST_NUMBERS
    ax = axes_or_new(ax, size=_size(matrix, names) if few else (6.4, 4.8))
    sns.heatmap(
        matrix[order],
        vmin=0.0,
        vmax=top or 1.0,
        cmap=_COLOURS,
        annot=few,
        fmt=".2f",
        linewidths=1.0 if few else 0.0,
        xticklabels=names[1] if few else "auto",
        yticklabels=[names[0][i] for i in order] if few else "auto",
        cbar_kws={"label": label},
        ax=ax,
    )
    if not few:
        _thinned(ax, [names[0][i] for i in order], names[1])
    ax.tick_params(length=0, labelrotation=0)
    if max(map(len, names[1])) > _LONGEST:
        plt.setp(ax.get_xticklabels(), rotation=30, ha="right", rotation_mode="anchor")
    ax.set(xlabel="factor", ylabel="latent dimension")
    return ax


def _size(matrix: Floats, names: tuple[list[str], list[str]]) -> tuple[float, float]:
    rows, columns = matrix.shape
    longest = [max(map(len, each)) for each in names]
    width = columns * _CELL[0] + _MATRIX_MARGIN[0] + _LETTER * max(longest[0] - _LONGEST, 0)
    height = rows * _CELL[1] + _MATRIX_MARGIN[1] + _LETTER / 2 * max(longest[1] - _LONGEST, 0)
    return max(width, _SMALLEST[0]), max(height, _SMALLEST[1])


def _diagonal_order(matrix: Floats) -> list[int]:
    """Rows by their best factor, the best first; rows that are the best of no factor at the end."""
    best, strength = matrix.argmax(axis=1), matrix.max(axis=1)
    leads = np.isin(np.arange(len(matrix)), matrix.argmax(axis=0))
    return [int(i) for i in np.lexsort((-strength, np.where(leads, best, matrix.shape[1])))]


def _thinned(ax: Axes, rows: list[str], columns: list[str]) -> None:
    """As many names as can be read."""
    for axis, names in ((ax.yaxis, rows), (ax.xaxis, columns)):
        step = -(-len(names) // _MOST_NUMBERS)
        axis.set_ticks(np.arange(0, len(names), step) + 0.5, names[::step])


# ---- Scores between what nothing scores and what the truth scores.

_ROW = 0.36  # inches
_ROWS_MARGIN = 1.5
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

    Raises:
        ValueError: if there is no row, a column is missing, a score is not finite, or the names do not match.

    Example:
        >>> frame = pd.DataFrame({"score": [0.4], "floor": [0.1], "ceiling": [0.9]}, index=["mig"])
        >>> ax = scores(frame.reindex(columns=["low", "high", "floor_low", "floor_high", *frame]))
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['mig']
    """
    table = _checked_scores(frame)
    labels = checked_names(names if names is not None else list(frame.index), count=len(frame), template="{}")
    ax = axes_or_new(ax, size=(6.4, len(frame) * _ROW + _ROWS_MARGIN))
    _draw(table, np.arange(float(len(frame))), ax=ax)
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)  # the first on top
    ax.tick_params(axis="y", length=0)
    ax.set(xlabel="score", title="Scores between floor and ceiling")
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return tidy(ax, grid="x")


def _checked_scores(frame: pd.DataFrame) -> dict[str, Floats]:
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
