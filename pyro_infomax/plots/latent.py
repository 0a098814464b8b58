"""The latent space, a point a datum."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import seaborn as sns
from matplotlib.axes import Axes

from pyro_infomax.plots.arrays import Drawable, Floats, as_array, as_points
from pyro_infomax.plots.canvas import axes_or_new, checked_names, colours, tidy
from pyro_infomax.plots.selection import checked_dimensions

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

    Returns:
        The Axes.

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


def _checked_labels(labels: npt.NDArray[Any], *, size: int) -> npt.NDArray[Any]:
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


def _scatter(points: Floats, classes: npt.NDArray[Any] | None, *, ax: Axes) -> None:
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
