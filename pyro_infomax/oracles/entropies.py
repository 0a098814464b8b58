"""Entropy and divergence of tables of probabilities, in nats, with 0 ln 0 = 0 in value and gradient."""

import torch
from torch import Tensor


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
