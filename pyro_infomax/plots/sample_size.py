"""The information against the number of data that it was estimated from."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter
from pandas.api.types import is_numeric_dtype

from pyro_infomax.plots.arrays import as_floats
from pyro_infomax.plots.canvas import TEXT_COLOUR, Colour, axes_or_new, colours, tidy

_LOWER, _UPPER, _MARGINAL = "mutual_information_lower", "mutual_information_upper", "marginal_kl"
_LABELS = {
    _UPPER: r"upper bound on $I$",
    _LOWER: r"lower bound on $I$: the exact mixture of $N$ data",
    _MARGINAL: r"$\mathrm{KL}[q(z)\,\|\,p(z)]$",
}
_STANDARD_ERRORS = 2
_SATURATION = 1.0  # nats below ln N
_MOST_TICKS = 8  # more would cover each other


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

    Returns:
        The Axes.

    Raises:
        ValueError: if the frame has no row, lacks a bound, has sizes that are not positive, or values
            that are not finite.

    Example:
        >>> bounds = {"mutual_information_lower": [3.1, 3.4], "mutual_information_upper": [3.9, 3.6]}
        >>> information_over_size(pd.DataFrame(bounds, index=[100, 200])).get_xscale()
        'log'
    """
    frame = _checked(frame).sort_index()
    ax = axes_or_new(ax)
    _ceiling(frame.index.to_numpy(float), ax=ax)
    drawn = [column for column in _LABELS if column in frame]
    for column, colour in zip(drawn, colours(len(drawn)), strict=True):
        _curve(frame, column, colour=colour, ax=ax)
    _log_axis(frame.index.to_numpy(float), ax=ax)
    ax.set(xlabel=r"number of data $N$", ylabel="nats per datum", title="Information and the number of data")
    ax.set_ylim(bottom=min(0.0, ax.dataLim.ymin))
    ax.legend(frameon=False, fontsize="small")
    return tidy(ax, grid="y")


def _checked(frame: pd.DataFrame) -> pd.DataFrame:
    missing = [column for column in (_LOWER, _UPPER) if column not in frame]
    if missing or frame.empty:
        raise ValueError(
            f"Expected a frame with a row a size and the columns {_LOWER}, {_UPPER} but got "
            f"{len(frame)} rows with the columns {', '.join(map(str, frame.columns)) or 'none'}."
        )
    if not (is_numeric_dtype(frame.index) and (frame.index > 0).all()):
        raise ValueError(f"Expected numbers of data as index but got {list(frame.index)}.")
    return frame


def _ceiling(sizes: np.ndarray, *, ax: Axes) -> None:
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
        label=_LABELS[column],
    )


def _log_axis(sizes: np.ndarray, *, ax: Axes) -> None:
    """Ticks at the sizes themselves, which are few as a rule and no powers of ten."""
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(list(sizes), nbins=_MOST_TICKS))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
