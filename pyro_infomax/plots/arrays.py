"""Whatever comes in, a NumPy array to draw."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Floats = npt.NDArray[np.float64]
Drawable = npt.ArrayLike | torch.Tensor


def as_array(values: Drawable) -> npt.NDArray[Any]:
    """The values as an array on the CPU, free of any gradient."""
    return np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values)


def as_floats(values: Drawable, *, name: str) -> Floats:
    """The values in float64, all of them finite."""
    # NumPy has no bfloat16, so a tensor changes its dtype before it leaves torch
    array = as_array(values.double() if isinstance(values, torch.Tensor) else values).astype(np.float64)
    wrong = np.count_nonzero(~np.isfinite(array))
    if wrong:
        raise ValueError(f"Expected finite {name} but got {wrong} nan or infinite values; leave them out.")
    return array


def as_points(values: Drawable, *, name: str) -> Floats:
    """At least two points, shape (point, dimension)."""
    points = as_floats(values, name=name)
    if points.ndim != 2 or len(points) < 2 or points.shape[1] < 1:
        raise ValueError(
            f"Expected {name} of shape (n, d) with n >= 2 and d >= 1 but got shape {points.shape}; "
            "flatten the latent dimensions into one axis."
        )
    return points


def as_vector(values: Drawable, *, name: str) -> Floats:
    """One number per latent dimension, or per pair of a sweep, shape (d,)."""
    vector = as_floats(values, name=name)
    if vector.ndim != 1 or vector.size == 0:
        raise ValueError(f"Expected {name} of shape (d,) with d >= 1 but got shape {vector.shape}.")
    return vector


def check_lengths(owner: str, **vectors: Floats) -> None:
    """Raises ValueError unless the vectors are of one length: a number for each ``owner``."""
    if len({len(vector) for vector in vectors.values()}) > 1:
        lengths = ", ".join(f"{name} {len(vector)}" for name, vector in vectors.items())
        raise ValueError(f"Expected one number per {owner} in each array but got the lengths {lengths}.")
