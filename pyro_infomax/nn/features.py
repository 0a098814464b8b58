"""What an encoder gives: features of shape (batch, h)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_infomax.nn.module_modes import evaluation_mode
from pyro_infomax.random_state import isolated_random_state


def check_features(features: object, batch: int, *, plates: Sequence[str] = ()) -> Tensor:
    """The features, if they are real and have a row a datum.

    Args:
        features: what the encoder returned.
        batch: number of data that it was given.
        plates: names of plates within that of the data, for whose cells there may be features too.

    Raises:
        ValueError: otherwise.

    Example:
        >>> check_features(torch.zeros(5, 16), 5).shape
        torch.Size([5, 16])
    """
    if not isinstance(features, Tensor):
        raise ValueError(
            f"Expected the encoder to return a tensor of features (batch, h) but got "
            f"{type(features).__name__}: return the features alone, the heads are added to them."
        )
    if not features.is_floating_point():
        raise ValueError(
            f"Expected real features but the encoder returned {features.dtype}: return floating-point "
            "numbers, such as x.float()."
        )
    if features.dim() not in (2, 2 + len(plates)) or len(features) != batch:
        per_cell = f", or (batch, {', '.join(plates)}, h)," if plates else ""
        raise ValueError(
            f"Expected features of shape (batch, h){per_cell} with batch = len(data) = {batch} but the "
            f"encoder returned {tuple(features.shape)}: give one row of features a datum."
        )
    return features


def prototype_features(encoder: Callable[..., Any], *data: Any, plates: Sequence[str] = ()) -> Tensor:
    """One call of an encoder that leaves no trace, to learn the number, dtype and device of its features.

    No gradient, batch statistics, training mode or random state is touched. Lazy layers are built.

    Args:
        encoder: module or function of the data.
        *data: its arguments, each with the data along the first axis.
        plates: names of plates within that of the data, for whose cells there may be features too.

    Returns:
        The features, (batch, h) or (batch, \\*plates, h).

    Raises:
        ValueError: if the encoder returns anything else.

    Example:
        >>> from torch import nn
        >>> prototype_features(nn.Sequential(nn.Flatten(), nn.Linear(64, 16)), torch.zeros(5, 8, 8)).shape
        torch.Size([5, 16])
    """
    with torch.no_grad(), isolated_random_state(), evaluation_mode(encoder):
        return check_features(encoder(*data), len(data[0]), plates=plates)
