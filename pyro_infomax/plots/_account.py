"""The account in pictures: dimensions, sites, pairs of a sweep, numbers of data, rate against distortion."""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter
from pandas.api.types import is_numeric_dtype

from pyro_infomax._types import Floats
from pyro_infomax.plots._axes import (
    TEXT_COLOUR,
    Colour,
    Drawable,
    as_floats,
    as_vector,
    axes_or_new,
    check_lengths,
    checked_names,
    colours,
    tidy,
)
from pyro_infomax.plots._latent import most_informative

# ---- Information and rate of each latent dimension or site, as bars.

_MOST_NAMES = 40
_MOST_LETTERS = 60


def information_per_dimension(
    rate: Drawable,
    dimensionwise_kl: Drawable,
    *,
    standard_error: Drawable | None = None,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""What each latent dimension costs, and how much of that is information: a stacked bar a dimension.

    For a factorised posterior and prior a dimension's rate has two parts,

    .. math:: R_j = I(X; Z_j) + \mathrm{KL}[q(z_j) \| p(z_j)],

    the information that the dimension carries and the price of an aggregate posterior that misses the
    prior. The bars are sorted by information; a bar's full height is the rate :math:`R_j`.

    Reference:
        Hoffman and Johnson (2016), *ELBO surgery: yet another way to carve up the variational evidence
        lower bound*.

    Args:
        rate: (d,) :math:`R_j = E_x \mathrm{KL}[q(z_j|x) \| p(z_j)]`, nats.
        dimensionwise_kl: (d,) :math:`\mathrm{KL}[q(z_j) \| p(z_j)]`, nats.
        standard_error: (d,) of the information, nats, drawn as error bars; none by default.
        names: one name per dimension; by default their indices.
        ax: the Axes to draw on; a new figure's by default.

    Raises:
        ValueError: if the arrays are not finite vectors of one length, or the names do not match.

    Example:
        >>> ax = information_per_dimension([0.1, 2.0], [0.1, 0.3])
        >>> [label.get_text() for label in ax.get_xticklabels()]
        ['1', '0']
    """
    total, gap = as_vector(rate, name="rate"), as_vector(dimensionwise_kl, name="dimensionwise_kl")
    error = _checked_error(standard_error, "latent dimension", rate=total, dimensionwise_kl=gap)
    labels = checked_names(names, count=len(total), template="{}")
    order = list(most_informative(total - gap, count=len(total)))
    ax = axes_or_new(ax)
    _stack_gap(
        (total - gap)[order],
        gap[order],
        error=None if error is None else error[order],
        labels=(r"information $I(X; Z_j)$", r"dimension-wise $\mathrm{KL}[q(z_j)\,\|\,p(z_j)]$"),
        ax=ax,
    )
    _label_ticks([labels[j] for j in order], ax=ax)
    ax.set(xlabel="latent dimension, sorted by information", title="Information per latent dimension")
    return tidy(ax, grid="y")


def information_per_site(
    rate: Drawable,
    information: Drawable,
    *,
    standard_error: Drawable | None = None,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""What each latent site costs, and how much of that is information: a stacked bar a site.

    By the chain rule, in the order in which the guide samples the sites,

    .. math:: R_s = I(X; Z_s \mid Z_{<s}) + \mathrm{KL}_s ,

    the information beyond that of the sites before, and the site's share of the marginal KL. The fields
    ``site_rate`` and ``site_information`` of :func:`~pyro_infomax.decompose` have them.

    Args:
        rate: (s,) of each site, nats.
        information: (s,) of each site given those before, nats.
        standard_error: (s,) of the information, nats, drawn as error bars; none by default.
        names: one name per site; by default their indices.
        ax: the Axes to draw on; a new figure's by default.

    Raises:
        ValueError: if the arrays are not finite vectors of one length, or the names do not match.

    Example:
        >>> ax = information_per_site([2.3, 2.4], [2.2, 2.0], names=["z2", "z1"])
        >>> [label.get_text() for label in ax.get_xticklabels()]
        ['z2', 'z1']
    """
    total, known = as_vector(rate, name="rate"), as_vector(information, name="information")
    error = _checked_error(standard_error, "latent site", rate=total, information=known)
    ax = axes_or_new(ax)
    parts = (r"information $I(X; Z_s \,|\, Z_{<s})$", "share of the marginal KL")
    _stack_gap(known, total - known, error=error, labels=parts, ax=ax)
    _label_ticks(checked_names(names, count=len(total), template="{}"), ax=ax)
    ax.set(xlabel="latent site, in the guide's order", title="Information per latent site")
    return tidy(ax, grid="y")


def _checked_error(standard_error: Drawable | None, owner: str, **vectors: Floats) -> Floats | None:
    if standard_error is not None:
        vectors["standard_error"] = as_vector(standard_error, name="standard_error")
    check_lengths(owner, **vectors)
    return vectors.get("standard_error")


def _stack_gap(
    information: Floats, gap: Floats, *, error: Floats | None, labels: tuple[str, str], ax: Axes
) -> None:
    places, (blue, orange) = np.arange(len(information)), colours(2)
    ax.bar(places, information, color=blue, label=labels[0])
    ax.bar(places, gap, bottom=information, color=orange, label=labels[1])
    if error is not None:
        ax.errorbar(places, information, yerr=error, fmt="none", ecolor=TEXT_COLOUR, capsize=2)
    # room above the bars, since they may all be of one height
    ax.set_ylim(top=1.3 * max(float((information + gap).max()), ax.get_ylim()[1] / 1.3))
    ax.set(ylabel="nats per datum")
    ax.legend(frameon=False, loc="upper right")


def _label_ticks(labels: list[str], *, ax: Axes) -> None:
    step = -(-len(labels) // _MOST_NAMES)
    ax.set_xticks(range(0, len(labels), step), labels[::step])
    ax.tick_params(axis="x", length=0, labelrotation=90 if sum(map(len, labels)) > _MOST_LETTERS else 0)
    ax.margins(x=0.01)


# ---- What the rate of each pair of a sweep is made of.

_SATURATION = 1.0  # nats below ln N
_ROOM = 1.35  # above the bars, for the legend
_WIDTH = 0.7
_PART_LABELS = {
    "mutual_information": "information $I(X; Z)$",
    "total_correlation": r"total correlation $\mathrm{TC}$",
    "dimensionwise_kl": r"dimension-wise KL, $\sum_j \mathrm{KL}[q(z_j)\,\|\,p(z_j)]$",
}


def rate_stack(
    mutual_information: Drawable,
    total_correlation: Drawable,
    dimensionwise_kl: Drawable,
    *,
    rate: Drawable | None = None,
    data_size: int | None = None,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""The rate of each pair as a stack: information, total correlation, dimension-wise KL.

    .. math:: R = I + \mathrm{TC} + \sum_j \mathrm{KL}[q(z_j) \| p(z_j)]

    for a prior that is a product. The lowest part is what the representation knows about the data, the two
    above it are the price of an aggregate posterior that misses the prior, as a dependence between the
    dimensions or in one dimension alone.

    Reference:
        Hoffman and Johnson (2016), *ELBO surgery: yet another way to carve up the variational evidence lower
        bound*; Chen, Li, Grosse and Duvenaud (2018), *Isolating sources of disentanglement in variational
        autoencoders*.

    Args:
        mutual_information: (k,) :math:`I`, nats per datum, of k pairs.
        total_correlation: (k,) :math:`\mathrm{TC}`, nats per datum.
        dimensionwise_kl: (k,) :math:`\sum_j \mathrm{KL}[q(z_j) \| p(z_j)]`, the sum over the dimensions, nats
            per datum.
        rate: (k,) :math:`R`, nats per datum, marked across each stack, whose height it should be; not drawn
            by default.
        data_size: N; draws the ceiling :math:`\ln N` that the information cannot pass, and hatches the
            information of the pairs that are within a nat of it. Neither by default.
        names: one name per pair, such as its weight; by default their indices.
        ax: the Axes to draw on; a new figure's by default.

    Raises:
        ValueError: if the arrays are not finite vectors of one length, the names do not match, or
            ``data_size`` is below 1.

    Example:
        >>> ax = rate_stack([1.0, 2.0], [0.1, 0.2], [0.0, 0.3], names=["beta 2", "beta 1"])
        >>> [bars.get_label() for bars in ax.containers][0]
        'information $I(X; Z)$'
    """
    parts = {
        "mutual_information": as_vector(mutual_information, name="mutual_information"),
        "total_correlation": as_vector(total_correlation, name="total_correlation"),
        "dimensionwise_kl": as_vector(dimensionwise_kl, name="dimensionwise_kl"),
    }
    whole = {} if rate is None else {"rate": as_vector(rate, name="rate")}
    check_lengths("pair", **parts, **whole)
    labels = checked_names(names, count=len(parts["mutual_information"]), template="{}")
    ceiling = None if data_size is None else _log_size(data_size)
    ax = axes_or_new(ax)
    _stack_parts(parts, ax=ax)
    if rate is not None:
        _mark_rate(whole["rate"], ax=ax)
    if ceiling is not None:
        _mark_ceiling(ceiling, parts["mutual_information"], ax=ax)
    ax.set_xticks(range(len(labels)), labels)
    ax.tick_params(axis="x", length=0)
    ax.set(ylabel="nats per datum", title="What the rate is made of")
    ax.set_ylim(top=_ROOM * ax.get_ylim()[1])
    _stack_legend(ax)
    return tidy(ax, grid="y")


def _log_size(data_size: int) -> float:
    if not data_size >= 1:
        raise ValueError(f"Expected data_size >= 1 but got {data_size}.")
    return math.log(data_size)


def _stack_parts(parts: dict[str, Floats], *, ax: Axes) -> None:
    blue, orange, green = colours(3)
    base = np.zeros(len(parts["mutual_information"]))
    for (name, part), colour in zip(parts.items(), (blue, green, orange), strict=True):
        ax.bar(np.arange(len(part)), part, bottom=base, width=_WIDTH, color=colour, label=_PART_LABELS[name])
        base = base + part


def _mark_rate(rate: Floats, *, ax: Axes) -> None:
    left = np.arange(len(rate)) - _WIDTH / 2
    ax.hlines(rate, left, left + _WIDTH, color=TEXT_COLOUR, linewidth=2, label="rate $R$")


def _mark_ceiling(ceiling: float, information: Floats, *, ax: Axes) -> None:
    ax.axhline(ceiling, color=TEXT_COLOUR, linestyle="--", linewidth=1, label=r"$\ln N$, the most $I$ can be")
    saturated = np.flatnonzero(information > ceiling - _SATURATION)
    if len(saturated):
        hatched = ax.bar(saturated, information[saturated], width=_WIDTH, color=colours(3)[0], hatch="///")
        hatched.set_label(r"saturated: $I > \ln N - 1$")
        for bar in hatched:
            bar.set(edgecolor="white", linewidth=0)


def _stack_legend(ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    # the parts first, from the lowest up, as they are read
    order = sorted(range(len(labels)), key=lambda i: labels[i] not in _PART_LABELS.values())
    keys = [handles[i] for i in order], [labels[i] for i in order]
    ax.legend(*keys, frameon=False, loc="upper right", fontsize="small", ncols=2)


# ---- The information against the number of data that it was estimated from.

_LOWER, _UPPER, _MARGINAL = "mutual_information_lower", "mutual_information_upper", "marginal_kl"
_BOUND_LABELS = {
    _UPPER: r"upper bound on $I$",
    _LOWER: r"lower bound on $I$: the exact mixture of $N$ data",
    _MARGINAL: r"$\mathrm{KL}[q(z)\,\|\,p(z)]$",
}
_STANDARD_ERRORS = 2
_MOST_SIZES = 8  # more would cover each other


def information_over_size(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    r"""Whether the information still grows with the number of data: the bounds over N, on a logarithmic axis.

    The lower bound cannot exceed :math:`\ln N`. Where it keeps within a nat of this ceiling, in the shaded
    band, it says more about N than about the representation; where it lies flat and the upper bound has come
    down to it, more data would not change it. Error bars are two standard errors.

    Reference:
        Hoffman and Johnson (2016), *ELBO surgery: yet another way to carve up the variational evidence
        lower bound*, for the ceiling.

    Args:
        frame: a row a size, in nats per datum, the size as index, with the columns
            ``mutual_information_lower``, ``mutual_information_upper`` and, if it shall be drawn,
            ``marginal_kl``; each may have a companion ``…_standard_error``. ``Convergence.to_frame()`` is
            such a frame.
        ax: the Axes to draw on; a new figure's by default.

    Raises:
        ValueError: if the frame has no row, lacks a bound, has sizes that are not positive, or values
            that are not finite.

    Example:
        >>> bounds = {"mutual_information_lower": [3.1, 3.4], "mutual_information_upper": [3.9, 3.6]}
        >>> information_over_size(pd.DataFrame(bounds, index=[100, 200])).get_xscale()
        'log'
    """
    frame = _checked_bounds(frame).sort_index()
    ax = axes_or_new(ax)
    _draw_ceiling(frame.index.to_numpy(float), ax=ax)
    drawn = [column for column in _BOUND_LABELS if column in frame]
    for column, colour in zip(drawn, colours(len(drawn)), strict=True):
        _curve(frame, column, colour=colour, ax=ax)
    _log_axis(frame.index.to_numpy(float), ax=ax)
    ax.set(xlabel=r"number of data $N$", ylabel="nats per datum", title="Information and the number of data")
    ax.set_ylim(bottom=min(0.0, ax.dataLim.ymin))
    ax.legend(frameon=False, fontsize="small")
    return tidy(ax, grid="y")


def _checked_bounds(frame: pd.DataFrame) -> pd.DataFrame:
    missing = [column for column in (_LOWER, _UPPER) if column not in frame]
    if missing or frame.empty:
        raise ValueError(
            f"Expected a frame with a row a size and the columns {_LOWER}, {_UPPER} but got "
            f"{len(frame)} rows with the columns {', '.join(map(str, frame.columns)) or 'none'}."
        )
    if not (is_numeric_dtype(frame.index) and (frame.index > 0).all()):
        raise ValueError(f"Expected numbers of data as index but got {list(frame.index)}.")
    return frame


def _draw_ceiling(sizes: np.ndarray, *, ax: Axes) -> None:
    # a line through a single size would be invisible
    ends = np.array([sizes[0], sizes[-1]]) if len(sizes) > 1 else sizes * np.array([0.8, 1.25])
    ceiling = np.log(ends)
    ax.plot(ends, ceiling, color=TEXT_COLOUR, linestyle=":", label=r"ceiling $\ln N$")
    ax.fill_between(
        ends, ceiling - _SATURATION, ceiling, color="0.9", linewidth=0, label="saturated", zorder=0
    )


def _curve(frame: pd.DataFrame, column: str, *, colour: Colour, ax: Axes) -> None:
    error = frame.get(f"{column}_standard_error")
    ax.errorbar(
        frame.index.to_numpy(float),
        as_floats(frame[column], name=column),
        yerr=None if error is None else _STANDARD_ERRORS * error.to_numpy(),
        color=colour,
        marker="o",
        markersize=4,
        capsize=2,
        linestyle="--" if column == _MARGINAL else "-",
        label=_BOUND_LABELS[column],
    )


def _log_axis(sizes: np.ndarray, *, ax: Axes) -> None:
    """Ticks at the sizes themselves, which are few as a rule and no powers of ten."""
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(list(sizes), nbins=_MOST_SIZES))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))


# ---- The rate-distortion plane, and where the pairs of a sweep lie in it.

Flags = npt.NDArray[np.bool_]

_TANGENT = 0.06  # half its length, as a share of the Axes
_TOGETHER = 0.03  # points nearer than this share of the Axes have one label
_CURVES = ("-", ":", "--", "-.")
_CURVE_COLOUR = "0.45"
_SLOPE = r"slope $-\beta$"


def rate_distortion_plane(
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
        >>> ax = rate_distortion_plane([0.35], [1.3], beta=[0.5], curves={"Shannon's curve": curve})
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
    _plane_legend(ax)
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


def _plane_legend(ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    # a second set of points on the Axes brings a second key for the slopes, which come last
    keys = dict(zip(labels, handles, strict=True))
    if _SLOPE in keys:
        keys[_SLOPE] = keys.pop(_SLOPE)
    ax.legend(keys.values(), keys.keys(), frameon=False, loc="upper right")
