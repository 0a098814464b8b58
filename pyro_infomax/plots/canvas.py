"""Axes to draw on, and how they look."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes

Colour = tuple[float, float, float]

TEXT_COLOUR = "0.25"

_FEW = 5
# ten hues of differing lightness, after Paul Tol (2021), Colour Schemes
_MUTED = (
    "#332288", "#CC6677", "#DDCC77", "#117733", "#88CCEE",
    "#882255", "#44AA99", "#999933", "#AA4499", "#BBBBBB",
)  # fmt: skip


def axes_or_new(ax: Axes | None, *, size: tuple[float, float] = (6.4, 4.2)) -> Axes:
    """The given Axes, or those of a new figure of ``size`` inches."""
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax


def colours(count: int) -> list[Colour]:
    """Colours that stay apart for readers who are colour-blind; beyond ten no palette does."""
    if count <= _FEW:
        return list(sns.color_palette("colorblind", count))
    return list(sns.color_palette(_MUTED, count) if count <= len(_MUTED) else sns.husl_palette(count))


def tidy(ax: Axes, *, grid: str | None = None) -> Axes:
    """Frames and grid lines reduced to what helps to read a value."""
    ax.spines[["top", "right"]].set_visible(False)
    if grid is not None:
        ax.grid(visible=True, axis=grid, color="0.9", linewidth=0.8)  # type: ignore[arg-type]
        ax.set_axisbelow(True)
    return ax


def checked_names(names: Sequence[str] | None, *, count: int, template: str) -> list[str]:
    """One name for each of ``count`` latent dimensions."""
    chosen = [template.format(i) for i in range(count)] if names is None else [str(name) for name in names]
    if len(chosen) != count:
        raise ValueError(f"Expected {count} names but got {len(chosen)}.")
    return chosen
