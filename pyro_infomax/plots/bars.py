"""The rate, split over the latent dimensions or the latent sites."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from pyro_infomax.plots.arrays import Drawable, Floats, as_vector, check_lengths
from pyro_infomax.plots.canvas import TEXT_COLOUR, axes_or_new, checked_names, colours, tidy
from pyro_infomax.plots.selection import most_informative

_MOST_TICKS = 40
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

    Returns:
        The Axes.

    Raises:
        ValueError: if the arrays are not finite vectors of one length, or the names do not match.

    Example:
        >>> ax = information_per_dimension([0.1, 2.0], [0.1, 0.3])
        >>> [label.get_text() for label in ax.get_xticklabels()]
        ['1', '0']
    """
    total, gap = as_vector(rate, name="rate"), as_vector(dimensionwise_kl, name="dimensionwise_kl")
    error = (
        np.zeros_like(total) if standard_error is None else as_vector(standard_error, name="standard_error")
    )
    check_lengths("latent dimension", rate=total, dimensionwise_kl=gap, standard_error=error)
    labels = checked_names(names, count=len(total), template="{}")
    order = list(most_informative(total - gap, count=len(total)))
    ax = axes_or_new(ax)
    _stack(
        (total - gap)[order],
        gap[order],
        error=None if standard_error is None else error[order],
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

    Returns:
        The Axes.

    Raises:
        ValueError: if the arrays are not finite vectors of one length, or the names do not match.

    Example:
        >>> ax = information_per_site([2.3, 2.4], [2.2, 2.0], names=["z2", "z1"])
        >>> [label.get_text() for label in ax.get_xticklabels()]
        ['z2', 'z1']
    """
    total, known = as_vector(rate, name="rate"), as_vector(information, name="information")
    error = None if standard_error is None else as_vector(standard_error, name="standard_error")
    check_lengths(
        "latent site", rate=total, information=known, standard_error=total if error is None else error
    )
    ax = axes_or_new(ax)
    parts = (r"information $I(X; Z_s \,|\, Z_{<s})$", "share of the marginal KL")
    _stack(known, total - known, error=error, labels=parts, ax=ax)
    _label_ticks(checked_names(names, count=len(total), template="{}"), ax=ax)
    ax.set(xlabel="latent site, in the guide's order", title="Information per latent site")
    return tidy(ax, grid="y")


def _stack(
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
    step = -(-len(labels) // _MOST_TICKS)
    ax.set_xticks(range(0, len(labels), step), labels[::step])
    ax.tick_params(axis="x", length=0, labelrotation=90 if _crowded(labels) else 0)
    ax.margins(x=0.01)


def _crowded(labels: list[str]) -> bool:
    return sum(map(len, labels)) > _MOST_LETTERS
