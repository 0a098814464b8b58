"""Arguments of an oracle as it demands them, and entropies of tables of probabilities."""

from typing import Final

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pyro_infomax._checks import seed_number

# ---- Arguments as float64 tensors, or an error that says what was expected.

_ROUNDING: Final = 1e-5  # what single precision leaves of a sum of one


def generator_at(seed: object) -> torch.Generator | None:
    """A generator that starts at the seed; None, for the global one, where there is no seed."""
    return None if seed is None else torch.Generator().manual_seed(seed_number(seed))


def in_float64(value: ArrayLike | Tensor) -> Tensor:
    """The value in float64; what is no tensor yet is copied."""
    if isinstance(value, Tensor):
        return value.to(torch.float64)
    # as_tensor refuses arrays that run backwards and warns of read-only ones
    return torch.from_numpy(np.array(value, dtype=np.float64))


def real(name: str, value: ArrayLike | Tensor) -> Tensor:
    """The value in float64, without nan; it may be infinite."""
    tensor = in_float64(value)
    if tensor.isnan().any():
        raise ValueError(f"Expected {name} without nan but got {int(tensor.isnan().sum())} values that are.")
    return tensor


def finite(name: str, value: ArrayLike | Tensor) -> Tensor:
    """The value in float64, all of it finite."""
    tensor = in_float64(value)
    if not tensor.isfinite().all():
        wrong = int((~tensor.isfinite()).sum())
        raise ValueError(f"Expected {name} to be finite but got {wrong} values that are nan or infinite.")
    return tensor


def shaped(name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The tensor, of this shape."""
    if tensor.shape != shape:
        raise ValueError(f"Expected {name} of shape {shape} but got {tuple(tensor.shape)}.")
    return tensor


def of_rank(name: str, tensor: Tensor, axes: str) -> Tensor:
    """The tensor, not empty, with these axes, such as "input, output"."""
    if tensor.dim() != len(axes.split(",")) or not tensor.numel():
        raise ValueError(f"Expected {name} of shape ({axes}) but got {tuple(tensor.shape)}.")
    return tensor


def positive(name: str, value: ArrayLike | Tensor) -> Tensor:
    """The numbers, all positive and finite."""
    tensor = finite(name, value)
    if not (tensor > 0).all():
        raise ValueError(f"Expected {name} > 0 but got {tensor.min().item()}.")
    return tensor


def positive_number(name: str, value: ArrayLike | Tensor) -> Tensor:
    """A single positive number."""
    return shaped(name, positive(name, value), ())


def non_negative(name: str, value: ArrayLike | Tensor) -> Tensor:
    """The numbers, all at least zero and finite."""
    tensor = finite(name, value)
    if not (tensor >= 0).all():
        raise ValueError(f"Expected {name} >= 0 but got {tensor.min().item()}.")
    return tensor


def probabilities(name: str, value: ArrayLike | Tensor, *, axes: int = 1) -> Tensor:
    """Probabilities that sum to one over the last axes, with the rounding of the sum taken away."""
    tensor = non_negative(name, value)
    if tensor.dim() < axes or not tensor.numel():
        raise ValueError(f"Expected {name} with at least {axes} axes but got shape {tuple(tensor.shape)}.")
    total = tensor.sum(tuple(range(-axes, 0)), keepdim=True)
    worst = (total - 1).abs().argmax()
    if (total - 1).abs().max() > _ROUNDING:
        raise ValueError(
            f"Expected {name} to sum to 1 but got {total.flatten()[worst].item():.6g}; normalise it."
        )
    return tensor / total


def spectrum_of(name: str, value: ArrayLike | Tensor) -> Tensor:
    """The eigenvalues of a covariance in their order, (dim,), one of them positive, round-off made zero."""
    values = of_rank(name, finite(name, value), "dim")
    limit = round_off(values.detach())
    if not limit > 0 or values.min() < -limit:
        raise ValueError(
            f"Expected {name} >= 0 with one positive but got {values.min().item()} as the least."
        )
    return torch.where(values > limit, values, 0.0)


def round_off(eigenvalues: Tensor) -> Tensor:
    """What an eigenvalue routine leaves of a zero, on either side of it."""
    return eigenvalues.abs().max() * len(eigenvalues) * torch.finfo(torch.float64).eps


def covariance_of(name: str, value: ArrayLike | Tensor) -> Tensor:
    """A symmetric, positive definite matrix."""
    matrix = of_rank(name, finite(name, value), "size, size")
    shaped(name, matrix, (len(matrix), len(matrix)))
    if (matrix - matrix.T).abs().max() > 1e-6 * matrix.abs().max():
        raise ValueError(f"Expected {name} to be symmetric but it differs from its transpose.")
    matrix = (matrix + matrix.T) / 2
    least = torch.linalg.eigvalsh(matrix.detach())[0].item()
    if not least > 0:
        raise ValueError(f"Expected {name} to be positive definite but its least eigenvalue is {least:.4g}.")
    return matrix


# ---- Entropy and divergence of tables of probabilities, in nats, with 0 ln 0 = 0 in value and gradient.


def entropy(p: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    r""":math:`-\sum p \ln p`."""
    return -(p * log_where(p > 0, p)).sum(dim)


def divergence(p: Tensor, q: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    r""":math:`\sum p \ln p / q`; infinite where q lacks a state of p."""
    p, q = torch.broadcast_tensors(p, q)
    return (p * (log_where(p > 0, p) - log_where(p > 0, q))).sum(dim)


def cross_entropy(p: Tensor, q: Tensor) -> Tensor:
    r""":math:`-\sum p \ln q`; infinite where q lacks a state of p."""
    p, q = torch.broadcast_tensors(p, q)
    return -(p * log_where(p > 0, q)).sum()


def mutual_information_of(joint: Tensor) -> Tensor:
    """The mutual information of the last two axes of a table, (..., row, column), at least zero."""
    apart = joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)
    return divergence(joint, apart, (-2, -1)).clamp(min=0)


def log_where(holds: Tensor, p: Tensor) -> Tensor:
    """ln p there, and 0 elsewhere, where the gradient of ln p would be infinite."""
    return torch.where(holds, p, 1.0).log()
