"""Which latent dimension tells of which factor."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes

from pyro_infomax.plots.arrays import Drawable, Floats, as_floats, as_vector
from pyro_infomax.plots.canvas import axes_or_new, checked_names

_CELL = (0.75, 0.34)  # inches
_MARGIN = (2.2, 1.2)
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

    Returns:
        The Axes.

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

    Returns:
        The Axes.

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
    width = columns * _CELL[0] + _MARGIN[0] + _LETTER * max(longest[0] - _LONGEST, 0)
    height = rows * _CELL[1] + _MARGIN[1] + _LETTER / 2 * max(longest[1] - _LONGEST, 0)
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
