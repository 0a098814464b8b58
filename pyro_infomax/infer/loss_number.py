"""From a loss in tensors to what a training step wants of it."""

from collections.abc import Iterable
from typing import Any

import torch
from pyro.util import warn_if_nan

__all__ = ["accumulate_gradients", "as_number"]

Traces = Iterable[tuple[Any, Any]]


def accumulate_gradients(surrogate: torch.Tensor, traces: Traces, *, retain_graph: bool | None) -> None:
    """Adds the gradients of a surrogate to the parameters', where the programs of the traces have any."""
    sites = (site for pair in traces for trace in pair for site in trace.nodes.values())
    if surrogate.requires_grad and any(site["type"] == "param" for site in sites):
        surrogate.backward(retain_graph=retain_graph)


def as_number(loss: torch.Tensor) -> float:
    """The value of a loss, with Pyro's warning where it is none."""
    number: Any = loss.item()
    warn_if_nan(number, "loss")
    return float(number)
