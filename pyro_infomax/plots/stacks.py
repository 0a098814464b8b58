"""What the rate of each pair of a sweep is made of."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from pyro_infomax.plots.arrays import Drawable, Floats, as_vector, check_lengths
from pyro_infomax.plots.canvas import TEXT_COLOUR, axes_or_new, checked_names, colours, tidy

_SATURATION = 1.0  # nats below ln N
_ROOM = 1.35  # above the bars, for the legend
_WIDTH = 0.7
_LABELS = {
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

    Returns:
        The Axes.

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
    ceiling = None if data_size is None else _ceiling(data_size)
    ax = axes_or_new(ax)
    _stack(parts, ax=ax)
    if rate is not None:
        _mark_rate(whole["rate"], ax=ax)
    if ceiling is not None:
        _mark_ceiling(ceiling, parts["mutual_information"], ax=ax)
    ax.set_xticks(range(len(labels)), labels)
    ax.tick_params(axis="x", length=0)
    ax.set(ylabel="nats per datum", title="What the rate is made of")
    ax.set_ylim(top=_ROOM * ax.get_ylim()[1])
    _legend(ax)
    return tidy(ax, grid="y")


def _ceiling(data_size: int) -> float:
    if not data_size >= 1:
        raise ValueError(f"Expected data_size >= 1 but got {data_size}.")
    return math.log(data_size)


def _stack(parts: dict[str, Floats], *, ax: Axes) -> None:
    blue, orange, green = colours(3)
    base = np.zeros(len(parts["mutual_information"]))
    for (name, part), colour in zip(parts.items(), (blue, green, orange), strict=True):
        ax.bar(np.arange(len(part)), part, bottom=base, width=_WIDTH, color=colour, label=_LABELS[name])
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


def _legend(ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    # the parts first, from the lowest up, as they are read
    order = sorted(range(len(labels)), key=lambda i: labels[i] not in _LABELS.values())
    keys = [handles[i] for i in order], [labels[i] for i in order]
    ax.legend(*keys, frameon=False, loc="upper right", fontsize="small", ncols=2)
