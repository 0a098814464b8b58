"""What every loader returns."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images and, where they are known, their labels: N points of the data distribution :math:`p_D(x)`.

    Args:
        images: (N, \\*shape), grey values or intensities; the loaders of this room return float32 in [0, 1].
        labels: (N,) int64, or None when there are none.

    Raises:
        ValueError: if the labels are not one per image.

    Example:
        >>> import torch
        >>> data = LabelledImages(images=torch.zeros(3, 8, 8), labels=torch.tensor([4, 0, 4]))
        >>> len(data), data.shape
        (3, (8, 8))
    """

    images: Tensor
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        if self.labels is not None and self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"Expected one label per image, shape ({len(self.images)},), "
                f"but got labels of shape {tuple(self.labels.shape)}."
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image, such as (H, W) or (C, H, W)."""
        return tuple(self.images.shape[1:])
