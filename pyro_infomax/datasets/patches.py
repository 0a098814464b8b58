"""Square patches of the two photographs that come with scikit-learn."""

from numbers import Integral
from typing import Final

import numpy as np
import sklearn.datasets
import torch
from torch import Tensor

from pyro_infomax.datasets.images import LabelledImages
from pyro_infomax.random_state import seeded_draws

_LUMA: Final = (0.299, 0.587, 0.114)  # red, green, blue: Recommendation ITU-R BT.601
_WHITE: Final = 255


def load_patches(*, side: int = 8, num_patches: int | None = None, seed: int | None = None) -> LabelledImages:
    r"""Grey square patches of scikit-learn's two photographs, a temple roof in China and a flower.

    Grey is the luma :math:`0.299\,r + 0.587\,g + 0.114\,b`. Natural images have a covariance that falls with
    frequency and tails that are far heavier than a Gaussian's, so they are a usual test of linear codes. The
    mean is not subtracted and nothing is whitened. The files are part of the installed package; to decode
    them takes Pillow, which Matplotlib brings.

    Reference:
        Olshausen and Field (1996), *Emergence of simple-cell receptive field properties by learning a sparse
        code for natural images*. The photographs, of 427 by 640 pixels, are by danielbuechele and vultilion,
        CC BY 2.0.

    Args:
        side: pixels along an edge of a patch, 1 to 427.
        num_patches: how many patches to draw: photograph and place are uniform, and patches may overlap.
            None takes each patch of a grid without overlap, from the upper left corner of each photograph.
        seed: isolates the drawn places from torch's global state; None draws from it. The grid ignores it.

    Returns:
        ``images`` (N, side, side) float32 in [0, 1] and ``labels`` (N,) int64, the photograph: 0 the roof,
        1 the flower.

    Raises:
        ValueError: if the side does not fit into the photographs, or ``num_patches`` is no integer of at
            least 1.

    Example:
        >>> data = load_patches(side=16, num_patches=500, seed=0)
        >>> tuple(data.images.shape), data.labels.unique().tolist()
        ((500, 16, 16), [0, 1])
        >>> len(load_patches(side=16).images)  # 26 rows of 40 patches, twice
        2080
    """
    photographs = _grey_photographs()  # (photograph, row, column)
    _check_side(side, largest=min(photographs.shape[1:]))
    windows = photographs.unfold(1, side, 1).unfold(2, side, 1)  # (photograph, top, left, row, column)
    if num_patches is None:
        grid = windows[:, ::side, ::side]
        labels = torch.arange(len(grid)).repeat_interleave(grid.shape[1] * grid.shape[2])
        return LabelledImages(images=grid.flatten(0, 2), labels=labels)
    if not (_is_integer(num_patches) and num_patches >= 1):
        raise ValueError(
            f"Expected num_patches to be an integer >= 1 but got {num_patches!r}; None takes the whole grid."
        )
    with seeded_draws(seed):
        labels, top, left = (torch.randint(size, (num_patches,)) for size in windows.shape[:3])
    return LabelledImages(images=windows[labels, top, left], labels=labels)


def _grey_photographs() -> Tensor:
    colours = np.stack(sklearn.datasets.load_sample_images().images)  # (photograph, row, column, channel)
    grey = torch.from_numpy(colours).double() @ torch.tensor(_LUMA, dtype=torch.float64)
    return (grey / _WHITE).float()


def _is_integer(number: object) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool)


def _check_side(side: int, *, largest: int) -> None:
    if not (_is_integer(side) and 1 <= side <= largest):
        raise ValueError(f"Expected side to be an integer from 1 to {largest} pixels but got {side!r}.")
