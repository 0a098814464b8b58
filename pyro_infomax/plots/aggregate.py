"""The aggregate posterior where the prior should be."""

from collections.abc import Sequence

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from pyro_infomax.plots.arrays import Drawable, Floats, as_points
from pyro_infomax.plots.canvas import Colour, axes_or_new, checked_names, colours, tidy
from pyro_infomax.plots.selection import checked_dimensions

_MASSES = (0.9, 0.5)
# a kernel estimate of a contour gains nothing visible from more points, and its cost is linear in them
_MOST_DRAWS = 20_000


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

    Returns:
        The Axes.

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
    sns.kdeplot(x=x, y=y, levels=[1 - mass for mass in _MASSES], color=orange, cut=0, gridsize=100, ax=ax)
    ax.figure.colorbar(cells, ax=ax, label=r"draws of $q(z)$ in a cell")
    ax.set(xlabel=names[0], ylabel=names[1])
    _frame(aggregate, prior, ax=ax)
    ax.legend(handles=[_contour_key(orange)], loc="upper right", edgecolor="none")


def _contour_key(colour: Colour) -> Line2D:
    return Line2D([], [], color=colour, label="prior $p(z)$, 50 % and 90 % of its mass")


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
