"""The latent space, a point a datum."""

from collections.abc import Sequence

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from pyro_infomax._types import Array, Floats
from pyro_infomax.plots._axes import (
    Drawable,
    as_array,
    as_points,
    as_vector,
    axes_or_new,
    checked_names,
    colours,
    tidy,
)

# ---- Which latent dimensions are worth an axis.


def most_informative(information: Drawable, *, count: int = 2) -> tuple[int, ...]:
    r"""The latent dimensions that carry the most information, best first.

    For a factorised posterior and prior the information of a dimension is
    :math:`I(X; Z_j) = R_j - \mathrm{KL}[q(z_j) \| p(z_j)]`.

    Args:
        information: (d,), nats.
        count: how many dimensions to return; all d when there are fewer.

    Returns:
        Indices into the d dimensions; ties keep their order.

    Raises:
        ValueError: if ``information`` is not a finite vector or ``count`` is below 1.

    Example:
        >>> most_informative([0.1, 2.0, 0.0, 1.4])
        (1, 3)
    """
    if count < 1:
        raise ValueError(f"Expected count >= 1 but got {count}.")
    order = np.argsort(-as_vector(information, name="information"), kind="stable")
    return tuple(int(j) for j in order[:count])


def checked_dimensions(dimensions: Sequence[int], *, count: int) -> list[int]:
    """One or two of ``count`` dimensions; a single dimension leaves no choice."""
    chosen = [0] if count == 1 else [int(j) for j in dimensions]
    if len(chosen) not in (1, 2) or not all(0 <= j < count for j in chosen):
        raise ValueError(f"Expected one or two dimensions from 0 to {count - 1} but got {tuple(dimensions)}.")
    return chosen


# ---- Points of the latent space.

_MOST_LABELS = 20
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")


def latent_scatter(
    z: Drawable,
    labels: Drawable | None = None,
    *,
    dimensions: Sequence[int] = (0, 1),
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Two latent dimensions, a point a datum, coloured and marked by label.

    Args:
        z: (n, d) with d >= 2, such as posterior means, or one draw per datum.
        labels: (n,) classes, at most twenty; none by default.
        dimensions: two of the d dimensions, such as ``most_informative(information)``.
        names: names of the d dimensions; by default :math:`z_0, z_1, \dots`
        ax: the Axes to draw on; a new figure's by default.

    Raises:
        ValueError: if z is not finite or has one dimension only, if ``dimensions`` are not two of its own,
            or if the labels are not one per point or too many to tell apart.

    Example:
        >>> ax = latent_scatter([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]], [7, 3, 7])
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['3', '7']
    """
    points = as_points(z, name="z")
    chosen = checked_dimensions(dimensions, count=points.shape[1])
    if len(chosen) != 2:
        raise ValueError(
            f"Expected two dimensions to scatter but got {len(chosen)} of z with shape {points.shape}."
        )
    classes = None if labels is None else _checked_labels(as_array(labels), size=len(points))
    axis_names = checked_names(names, count=points.shape[1], template="$z_{{{}}}$")
    ax = axes_or_new(ax, size=(5.8, 4.8))
    _scatter(points[:, chosen], classes, ax=ax)
    ax.set(xlabel=axis_names[chosen[0]], ylabel=axis_names[chosen[1]], title="Latent space")
    return tidy(ax)


def _checked_labels(labels: Array, *, size: int) -> Array:
    if labels.shape != (size,):
        raise ValueError(
            f"Expected one label per point, shape ({size},), but got labels of shape {labels.shape}."
        )
    if len(np.unique(labels)) > _MOST_LABELS:
        raise ValueError(
            f"Expected at most {_MOST_LABELS} distinct labels but got {len(np.unique(labels))}; "
            "group them into classes."
        )
    return labels


def _scatter(points: Floats, classes: Array | None, *, ax: Axes) -> None:
    x, y = points.T
    style = {"s": 18, "alpha": 0.85, "linewidth": 0, "ax": ax}
    if classes is None:
        sns.scatterplot(x=x, y=y, color=colours(1)[0], **style)
        return
    order = [str(label) for label in np.unique(classes)]
    sns.scatterplot(
        x=x,
        y=y,
        hue=classes.astype(str),
        style=classes.astype(str),
        hue_order=order,
        style_order=order,
        palette=dict(zip(order, colours(len(order)), strict=True)),
        markers={label: _MARKERS[i % len(_MARKERS)] for i, label in enumerate(order)},
        **style,
    )
    ax.legend(title="label", loc="center left", bbox_to_anchor=(1, 0.5), markerscale=1.6, frameon=False)


# ---- The aggregate posterior where the prior should be.

_MASSES = (0.9, 0.5)
# a kernel estimate of a contour gains nothing visible from more, and its cost is the product of both
_MOST_DRAWS, _GRID = 20_000, 60


def aggregate_against_prior(
    z: Drawable,
    prior: Drawable,
    *,
    dimensions: Sequence[int] = (0, 1),
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""The aggregate posterior :math:`q(z)` against the prior :math:`p(z)`, in one or two dimensions.

    Two dimensions: the density of the draws as hexagons, and the contours inside which the prior has 50 %
    and 90 % of its mass. One dimension: both densities. Where the two differ, the representation pays
    :math:`\mathrm{KL}[q(z) \| p(z)]` without gaining information, and a draw of the prior lands where the
    decoder was never trained.

    Args:
        z: (n, d) draws of the aggregate posterior, one or several per datum.
        prior: (m, d) draws of the prior; twenty thousand make smooth contours.
        dimensions: one or two of the d dimensions, such as ``most_informative(information)``; with d = 1
            the only one.
        names: names of the d dimensions; by default :math:`z_0, z_1, \dots`
        ax: the Axes to draw on; a new figure's by default.

    Raises:
        ValueError: if the arrays are not finite, differ in d, or ``dimensions`` are not among theirs.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> z, prior = rng.normal(size=(200, 3)), rng.normal(size=(200, 3))
        >>> ax = aggregate_against_prior(z, prior, dimensions=(2, 0))
        >>> ax.get_xlabel()
        '$z_{2}$'
    """
    aggregate, reference = as_points(z, name="z"), as_points(prior, name="prior")
    if aggregate.shape[1] != reference.shape[1]:
        raise ValueError(
            "Expected z and prior with the same number of latent dimensions "
            f"but got {aggregate.shape[1]} and {reference.shape[1]}."
        )
    chosen = checked_dimensions(dimensions, count=aggregate.shape[1])
    labels = checked_names(names, count=aggregate.shape[1], template="$z_{{{}}}$")
    ax = axes_or_new(ax, size=(5.8, 4.8))
    draw = _curves if len(chosen) == 1 else _contours
    draw(aggregate[:, chosen], reference[:, chosen], names=[labels[j] for j in chosen], ax=ax)
    ax.set_title("Aggregate posterior against the prior")
    return tidy(ax)


def _curves(aggregate: Floats, prior: Floats, *, names: list[str], ax: Axes) -> None:
    blue, orange = colours(2)
    sns.kdeplot(
        x=aggregate[:, 0], color=blue, fill=True, alpha=0.4, label=r"aggregate posterior $q(z)$", ax=ax
    )
    sns.kdeplot(x=prior[:, 0], color=orange, linewidth=1.8, label="prior $p(z)$", ax=ax)
    ax.set(xlabel=names[0], ylabel="density")
    ax.legend(frameon=False)


def _contours(aggregate: Floats, prior: Floats, *, names: list[str], ax: Axes) -> None:
    orange = colours(2)[1]
    cells = ax.hexbin(aggregate[:, 0], aggregate[:, 1], gridsize=40, cmap="Blues", mincnt=1, linewidths=0.2)
    x, y = prior[:_MOST_DRAWS].T
    sns.kdeplot(x=x, y=y, levels=[1 - mass for mass in _MASSES], color=orange, cut=0, gridsize=_GRID, ax=ax)
    ax.figure.colorbar(cells, ax=ax, label=r"draws of $q(z)$ in a cell")
    ax.set(xlabel=names[0], ylabel=names[1])
    _frame(aggregate, prior, ax=ax)
    key = Line2D([], [], color=orange, label="prior $p(z)$, 50 % and 90 % of its mass")
    ax.legend(handles=[key], loc="upper right", edgecolor="none")


def _frame(aggregate: Floats, prior: Floats, *, ax: Axes) -> None:
    """All draws of the aggregate posterior, and the prior without its thin tails."""
    shown = np.concatenate([aggregate, np.quantile(prior, [0.005, 0.995], axis=0)])
    # limits that stay automatic may give way to the equal aspect without a message
    ax.set_xlim(*_padded(shown[:, 0]), auto=True)
    ax.set_ylim(*_padded(shown[:, 1]), auto=True)
    ax.set_aspect("equal", adjustable="datalim")


def _padded(values: Floats) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return low - 0.05 * (high - low), high + 0.05 * (high - low)
