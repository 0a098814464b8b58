"""The loss and its terms over the epochs."""

from collections.abc import Sequence

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pyro_infomax.plots._axes import TEXT_COLOUR, Colour, axes_or_new, colours, tidy

_DEFAULT_COLUMNS = ("loss", "distortion", "rate")
_NO_TERMS = ("epoch", "step", "seconds", "elbo")
_DASHES = (4, 1.5)
_PREFIX = "validation_"


def history(frame: pd.DataFrame, *, columns: Sequence[str] | None = None, ax: Axes | None = None) -> Axes:
    r"""The loss and its unweighted terms over the epochs: training solid, validation dashed.

    With weights the loss is not the sum of the terms drawn beside it: the InfoMax loss is
    :math:`(1 + \lambda) D + R`.

    Args:
        frame: a row an epoch, in nats per datum, the epoch as index; a column ``c`` may have a companion
            ``validation_c``. ``History.to_frame()`` is such a frame.
        columns: what to draw; by default the loss and all terms but the ELBO, as far as the frame knows them.
        ax: the Axes to draw on; a new figure's by default.

    Raises:
        ValueError: if the frame has no row or lacks a column.

    Example:
        >>> frame = pd.DataFrame({"loss": [30.0, 25.0], "rate": [2.0, 5.0]}, index=[1, 2])
        >>> history(frame).get_ylabel()
        'nats per datum'
    """
    chosen = _chosen(frame, columns)
    ax = axes_or_new(ax)
    for column, colour in zip(chosen, colours(len(chosen)), strict=True):
        _curve(frame[column], colour=colour, label=column, ax=ax)
        if _PREFIX + column in frame:
            _curve(frame[_PREFIX + column], colour=colour, dashes=_DASHES, ax=ax)
    if any(_PREFIX + column in frame for column in chosen):
        ax.plot(
            [], [], color=TEXT_COLOUR, marker=_marker(frame, dashed=True), dashes=_DASHES, label="validation"
        )
    ax.set(xlabel="epoch", ylabel="nats per datum", title="Training history")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    ax.legend(frameon=False)
    return tidy(ax, grid="y")


def _chosen(frame: pd.DataFrame, columns: Sequence[str] | None) -> list[str]:
    chosen = _loss_and_terms(frame) if columns is None else list(columns)
    missing = [column for column in chosen if column not in frame]
    if missing or not chosen or frame.empty:
        raise ValueError(
            f"Expected a frame with a row an epoch and the columns {', '.join(chosen or _DEFAULT_COLUMNS)} "
            f"but got {len(frame)} rows with the columns {', '.join(map(str, frame.columns)) or 'none'}."
        )
    return chosen


def _loss_and_terms(frame: pd.DataFrame) -> list[str]:
    known = [c for c in _DEFAULT_COLUMNS if _has_values(frame, c)]
    others = [c for c in map(str, frame.columns) if c not in _NO_TERMS and not c.startswith(_PREFIX)]
    return [c for c in dict.fromkeys([*known, *others]) if _has_values(frame, c)] if known else []


def _has_values(frame: pd.DataFrame, column: str) -> bool:
    return column in frame and bool(frame[column].notna().any())


def _curve(
    values: "pd.Series[float]",
    *,
    colour: Colour,
    ax: Axes,
    label: str | None = None,
    dashes: tuple[float, float] | None = None,
) -> None:
    sns.lineplot(
        x=values.index,
        y=values.to_numpy(),
        color=colour,
        label=label,
        legend=False,
        marker=_marker(values, dashed=dashes is not None),
        estimator=None,
        ax=ax,
        **({} if dashes is None else {"linestyle": (0, dashes)}),
    )


def _marker(values: pd.DataFrame | pd.Series, *, dashed: bool) -> str:
    # a line through a single epoch would be invisible
    return "" if len(values) > 1 else "X" if dashed else "o"
