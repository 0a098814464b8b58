"""What every loader returns."""

from typing import NamedTuple

from torch import Tensor


class LabelledImages(NamedTuple):
    """Images and, where they are known, their labels: N points of the data distribution :math:`p_D(x)`.

    It is a tuple, so it unpacks, and with labels it is itself data: they travel along with the images.

    Args:
        images: (N, \\*shape); the loaders of this room return float32 in [0, 1].
        labels: (N,) int64, or None when there are none.

    Example:
        >>> import torch
        >>> data = LabelledImages(images=torch.zeros(2, 8, 8), labels=torch.tensor([4, 0]))
        >>> images, labels = data
        >>> tuple(images.shape), labels
        ((2, 8, 8), tensor([4, 0]))
    """

    images: Tensor
    labels: Tensor | None = None
