"""What each datum's posterior lacks: gaps of its ELBO, and the tail of its importance weights."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from pyro_infomax.plots._axes import TEXT_COLOUR, Drawable, as_array, axes_or_new, colours, tidy

_GAPS = {"approximation_gap": "approximation gap (family)", "amortisation_gap": "amortisation gap (encoder)"}


def inference_gaps(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """What the ELBO of each datum lacks of its log-evidence, by what loses it: data in the order of the sum.

    The lower area is the approximation gap, which a richer family closes, the upper one the amortisation gap,
    which a better encoder closes. Gaps that came out below zero by their noise are drawn as zero. Data that
    have not converged, whose encoder loses more than is drawn, are marked on the axis.

    Reference: Cremer, Li and Duvenaud (2018), Inference suboptimality in variational autoencoders.

    Args:
        frame: a row a datum, with the columns ``approximation_gap``, ``amortisation_gap`` and ``converged``,
            as ``Refinement.to_frame()`` has them.
        ax: the Axes to draw on; a new figure's by default.

    Raises:
        ValueError: if the frame lacks a column, or has no row with finite gaps.

    Example:
        >>> from matplotlib.figure import Figure
        >>> columns = {"approximation_gap": [0.1, 0.2], "amortisation_gap": [0.5, 0.1], "converged": True}
        >>> ax = inference_gaps(pd.DataFrame(columns), ax=Figure().subplots())
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['approximation gap (family): mean 0.15', 'amortisation gap (encoder): mean 0.30']
    """
    wanted = [*_GAPS, "converged"]
    if missing := [name for name in wanted if name not in frame]:
        raise ValueError(f"Expected a frame with the columns {wanted} but {missing} are missing.")
    finite = frame[np.isfinite(frame[list(_GAPS)].to_numpy(dtype=float)).all(1)]
    if finite.empty:
        raise ValueError(f"Expected some data with finite gaps but got {len(frame)} rows, none of which has.")
    ax = axes_or_new(ax)
    shown = finite.assign(total=finite[list(_GAPS)].clip(lower=0).sum(axis=1)).sort_values("total")
    places = np.arange(len(shown) + 1)
    base = np.zeros(len(shown))
    for (name, label), colour in zip(_GAPS.items(), colours(2), strict=True):
        top = base + shown[name].clip(lower=0).to_numpy(dtype=float)
        ax.fill_between(
            places,
            np.append(base, base[-1:]),
            np.append(top, top[-1:]),
            step="post",
            color=colour,
            linewidth=0,
            label=f"{label}: mean {finite[name].mean():.2f}",
        )
        base = top
    late = np.flatnonzero(~shown["converged"].to_numpy(dtype=bool))
    if len(late):
        ax.plot(late + 0.5, np.zeros(len(late)), "|", color=TEXT_COLOUR, label="not converged", clip_on=False)
    left_out = len(frame) - len(finite)
    lacking = f" ({left_out} without finite gaps left out)" if left_out else ""
    ax.set(
        xlim=(0, len(shown)),
        xlabel=f"data, in order of the gap{lacking}",
        ylabel="what the ELBO lacks (nats)",
    )
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False, loc="upper left")
    return tidy(ax, grid="y")


def pareto_k_curves(values: Mapping[str, Drawable], *, threshold: float, ax: Axes | None = None) -> Axes:
    """The Pareto k of each datum's importance weights, in ascending order, a curve for each guide.

    What is above the threshold cannot be trusted. Minus infinity, of weights that are all the same, is drawn
    at the lower edge, infinity at the upper one. What is nan, of data whose draws are all one value, is not
    drawn, and counts as not trusted.

    Reference: Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling.

    Args:
        values: names to the k of each datum, (data,); any ``pareto_k`` of this package.
        threshold: the largest k that is trusted; any ``threshold`` of this package.
        ax: the Axes to draw on; a new figure's by default.

    Raises:
        ValueError: without any values, and where all k of a name are nan, as those of too few draws are.

    Example:
        >>> from matplotlib.figure import Figure
        >>> k = {"guide": [0.9, 0.2, 0.4], "refined": [0.1, 0.2, 0.3]}
        >>> ax = pareto_k_curves(k, threshold=0.67, ax=Figure().subplots())
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['guide: 66% can be trusted', 'refined: 100% can be trusted']
    """
    arrays = {name: as_array(each).astype(float).reshape(-1) for name, each in values.items()}
    if not arrays or any(not len(each) for each in arrays.values()):
        raise ValueError(f"Expected the k of some data but got none of {list(arrays)}.")
    if lost := [name for name, each in arrays.items() if np.isnan(each).all()]:
        raise ValueError(
            f"Expected some k that are known but those of {lost} are all nan: take 21 draws at least, and "
            "a guide that draws more than one value."
        )
    ax = axes_or_new(ax)
    finite = np.concatenate([each[np.isfinite(each)] for each in arrays.values()])
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    low, high = min(low, 0.0) - 0.1, max(high, 1.0) + 0.1
    for (name, each), colour in zip(arrays.items(), colours(len(arrays)), strict=True):
        share = float((each <= threshold).mean())
        drawn = np.sort(each[~np.isnan(each)].clip(low, high))
        unknown = f", {len(each) - len(drawn)} unknown" if len(drawn) < len(each) else ""
        ax.plot(
            (np.arange(len(drawn)) + 0.5) / len(each),
            drawn,
            ".",
            color=colour,
            markersize=max(2.0, min(7.0, 60 / math.sqrt(len(each)))),
            label=f"{name}: {math.floor(100 * share):.0f}% can be trusted{unknown}",
            clip_on=False,
        )
    ax.axhline(threshold, color=TEXT_COLOUR, linewidth=0.8)
    ax.text(1.0, threshold, f" {threshold:.2f}", color=TEXT_COLOUR, va="center")
    ax.set(xlim=(0, 1), ylim=(low, high), xlabel="share of the data", ylabel="Pareto k of the weights")
    ax.legend(frameon=False, loc="upper left")
    return tidy(ax, grid="y")
