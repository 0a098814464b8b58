"""Grey images to black and white ones."""

import torch
from torch import Tensor


def binarize(images: Tensor, *, threshold: float = 0.5) -> Tensor:
    """Images with each pixel 1 where it exceeds a threshold and 0 elsewhere.

    A Bernoulli likelihood is a probability mass on {0, 1} only: on grey values its "nats" are those of no
    distribution. On binary images distortion, rate and :math:`H[X]` are measured on one base measure.

    Args:
        images: any shape, floating point, on the scale [0, 1].
        threshold: where black turns to white, in [0, 1).

    Returns:
        A tensor of 0 and 1 with the shape and dtype of ``images``.

    Raises:
        ValueError: if the threshold is outside [0, 1).

    Example:
        >>> binarize(torch.tensor([0.2, 0.5, 0.7]))
        tensor([0., 0., 1.])
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"Expected 0 <= threshold < 1 but got {threshold}.")
    return torch.gt(images, threshold).to(images.dtype)
