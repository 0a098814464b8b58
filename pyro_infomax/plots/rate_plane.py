"""The rate-distortion plane, and where the pairs of a sweep lie in it."""

from collections.abc import Mapping
from itertools import cycle
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from pyro_infomax.plots.arrays import Drawable, Floats, as_vector, check_lengths
from pyro_infomax.plots.canvas import TEXT_COLOUR, Colour, axes_or_new, colours, tidy

Flags = npt.NDArray[np.bool_]

_TANGENT = 0.06  # half its length, as a share of the Axes
_TOGETHER = 0.03  # points nearer than this share of the Axes have one label
_CURVES = ("-", ":", "--", "-.")
_CURVE_COLOUR = "0.45"
_SLOPE = r"slope $-\beta$"


def rate_distortion(
    rate: Drawable,
    distortion: Drawable,
    *,
    beta: Drawable | None = None,
    curves: Mapping[str, tuple[Drawable, Drawable]] | None = None,
    saturated: Drawable | None = None,
    name: str = "achieved",
    colour: Colour | str | None = None,
    place: Literal["above", "below"] = "above",
    ax: Axes | None = None,
) -> Axes:
    r"""Trained pairs in the plane of rate and distortion, against the curves that bound or compare them.

    A pair that minimises :math:`D + \beta R` over all encoders, decoders and priors lies on the lower
    boundary of what can be achieved, where the boundary's slope is

    .. math:: \frac{dD}{dR} = -\beta .

    With ``beta`` each point is labelled and carries a short line of that slope: a line that touches the curve
    belongs to a pair that no other beats at its weight, a line that cuts the curve to one that could be
    improved.

    Reference:
        Shannon (1959), *Coding theorems for a discrete source with a fidelity criterion*; Alemi, Poole,
        Fischer, Dillon, Saurous and Murphy (2018), *Fixing a broken ELBO*.

    Args:
        rate: (k,) the rates of k pairs, nats per datum.
        distortion: (k,) their distortions, nats per datum.
        beta: (k,) the weights of the rate in training, at least 0; no labels and slopes by default.
        curves: for the legend's name of a curve its rates and its distortions, both (m,), nats per datum.
        saturated: (k,) booleans: drawn hollow are the pairs whose information is within a nat of the ceiling
            :math:`\ln N`; none by default.
        name: the points' name in the legend.
        colour: the points' colour, to tell sets of points on one Axes apart; blue by default.
        place: where the weights are written, above or below the points.
        ax: the Axes to draw on; a new figure's by default.

    Returns:
        The Axes, rate from left to right and distortion upwards.

    Raises:
        ValueError: if the arrays are not finite vectors of one length, a weight is negative, a curve has not
            as many rates as distortions, or ``place`` is neither.

    Example:
        >>> import numpy as np
        >>> level = np.array([0.25, 0.5, 1.0])  # of one Gaussian variable of variance 1
        >>> curve = -0.5 * np.log(level), 0.5 * np.log(2 * np.pi) + level / 2
        >>> ax = rate_distortion([0.35], [1.3], beta=[0.5], curves={"Shannon's curve": curve})
        >>> ax.get_xlabel()
        'rate $R$, nats per datum'
    """
    x, y = as_vector(rate, name="rate"), as_vector(distortion, name="distortion")
    weight = np.zeros_like(x) if beta is None else _checked_weights(beta)
    full = np.zeros_like(x) if saturated is None else as_vector(saturated, name="saturated")
    check_lengths("pair", rate=x, distortion=y, beta=weight, saturated=full)
    lines = {label: _checked_curve(curve, label) for label, curve in (curves or {}).items()}
    if place not in ("above", "below"):
        raise ValueError(f"Expected place to be 'above' or 'below' but got {place!r}.")
    ax = axes_or_new(ax, size=(6.4, 4.8))
    for (label, (rates, distortions)), style in zip(lines.items(), cycle(_CURVES), strict=False):
        ax.plot(rates, distortions, color=_CURVE_COLOUR, linestyle=style, linewidth=1.5, label=label)
    _points(x, y, full > 0, colour=colours(1)[0] if colour is None else colour, name=name, ax=ax)
    if beta is not None:
        _tangents(x, y, weight, ax=ax)
        _label(x, y, weight, place=place, ax=ax)
    ax.set(
        xlabel="rate $R$, nats per datum",
        ylabel="distortion $D$, nats per datum",
        title="Rate and distortion",
    )
    _legend(ax)
    return tidy(ax, grid="both")


def _checked_weights(beta: Drawable) -> Floats:
    weights = as_vector(beta, name="beta")
    if weights.min() < 0:
        raise ValueError(f"Expected beta >= 0 but got {weights.min():g}.")
    return weights


def _checked_curve(curve: tuple[Drawable, Drawable], label: str) -> tuple[Floats, Floats]:
    rates, distortions = (as_vector(values, name=f"the curve {label!r}") for values in curve)
    if len(rates) != len(distortions):
        raise ValueError(
            f"Expected as many rates as distortions in the curve {label!r} but got {len(rates)} and "
            f"{len(distortions)}."
        )
    return rates, distortions


def _points(x: Floats, y: Floats, hollow: Flags, *, colour: Colour | str, name: str, ax: Axes) -> None:
    saturated = rf"{name}, saturated: $I > \ln N - 1$"
    for chosen, label, face in ((~hollow, name, colour), (hollow, saturated, "white")):
        if chosen.any():
            ax.scatter(
                x[chosen],
                y[chosen],
                s=50,
                facecolor=face,
                edgecolor=colour,
                linewidth=1.8,
                zorder=3,
                label=label,
            )


def _tangents(x: Floats, y: Floats, beta: Floats, *, ax: Axes) -> None:
    width, height = np.ptp(ax.get_xlim()), np.ptp(ax.get_ylim())
    # equally long to the eye, however steep
    run = _TANGENT / np.hypot(1 / width, beta / height)
    ends = [np.stack([x + side * run, y - side * beta * run], axis=-1) for side in (-1, 1)]  # 2 x (pair, 2)
    segments = np.stack(ends, axis=1)  # (pair, end, 2)
    lines = LineCollection(list(segments), colors=TEXT_COLOUR, linewidths=1.2, zorder=2)
    lines.set_label(_SLOPE)
    ax.add_collection(lines, autolim=False)


def _label(x: Floats, y: Floats, beta: Floats, *, place: str, ax: Axes) -> None:
    # to the side of a falling curve: above it right, below it left
    side, ha, va = (1, "left", "bottom") if place == "above" else (-1, "right", "top")
    for members in _groups(x / np.ptp(ax.get_xlim()), y / np.ptp(ax.get_ylim())):
        text = ", ".join(f"{weight:.3g}" for weight in np.sort(beta[members]))
        first = members[0]
        label = ax.annotate(
            rf"$\beta = {text}$",
            (x[first], y[first]),
            xytext=(6 * side, 4 * side),
            textcoords="offset points",
        )
        label.set(fontsize="small", color=TEXT_COLOUR, ha=ha, va=va)


def _groups(x: Floats, y: Floats) -> list[list[int]]:
    """Indices of points that lie together, so that their labels would cover each other."""
    groups: list[list[int]] = []
    for i in range(len(x)):
        near = (g for g in groups if np.hypot(x[i] - x[g[0]], y[i] - y[g[0]]) < _TOGETHER)
        group = next(near, None)
        if group is None:
            groups.append([i])
        else:
            group.append(i)
    return groups


def _legend(ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    # a second set of points on the Axes brings a second key for the slopes, which come last
    keys = dict(zip(labels, handles, strict=True))
    if _SLOPE in keys:
        keys[_SLOPE] = keys.pop(_SLOPE)
    ax.legend(keys.values(), keys.keys(), frameon=False, loc="upper right")
