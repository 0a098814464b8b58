"""Which latent dimensions are worth an axis."""

from collections.abc import Sequence

import numpy as np

from pyro_infomax.plots.arrays import Drawable, as_vector


def most_informative(information: Drawable, *, count: int = 2) -> tuple[int, ...]:
    r"""The latent dimensions that carry the most information, best first.

    For a factorised posterior and prior the information of a dimension is
    :math:`I(X; Z_j) = R_j - \mathrm{KL}[q(z_j) \| p(z_j)]`.

    Args:
        information: (d,), nats.
        count: how many dimensions to return; all d when there are fewer.

    Returns:
        Indices into the d dimensions; ties keep their order.

    Raises:
        ValueError: if ``information`` is not a finite vector or ``count`` is below 1.

    Example:
        >>> most_informative([0.1, 2.0, 0.0, 1.4])
        (1, 3)
    """
    if count < 1:
        raise ValueError(f"Expected count >= 1 but got {count}.")
    order = np.argsort(-as_vector(information, name="information"), kind="stable")
    return tuple(int(j) for j in order[:count])


def checked_dimensions(dimensions: Sequence[int], *, count: int) -> list[int]:
    """One or two of ``count`` dimensions; a single dimension leaves no choice."""
    chosen = [0] if count == 1 else [int(j) for j in dimensions]
    if len(chosen) not in (1, 2) or not all(0 <= j < count for j in chosen):
        raise ValueError(f"Expected one or two dimensions from 0 to {count - 1} but got {tuple(dimensions)}.")
    return chosen
