"""The handwritten digits that come with scikit-learn."""

import sklearn.datasets
import torch

from pyro_infomax.datasets.images import LabelledImages

_INK_LEVELS = 16  # an original pixel counts the dark ones in a 4 x 4 block of a bitmap


def load_digits() -> LabelledImages:
    """The 1,797 handwritten digits of scikit-learn, 8 by 8 pixels, read from the installed package.

    Pixels are the share of ink in a 4 by 4 block, so they lie on the grid 0, 1/16, ..., 1.

    Reference:
        Alpaydin and Kaynak (1998), *Optical Recognition of Handwritten Digits*, UCI Machine Learning
        Repository.

    Returns:
        ``images`` (1797, 8, 8) float32 in [0, 1] and ``labels`` (1797,) int64, the digits 0 to 9.

    Example:
        >>> data = load_digits()
        >>> tuple(data.images.shape), data.images.dtype
        ((1797, 8, 8), torch.float32)
        >>> data.labels[:5].tolist()
        [0, 1, 2, 3, 4]
    """
    bunch = sklearn.datasets.load_digits()
    return LabelledImages(
        images=torch.as_tensor(bunch.images, dtype=torch.float32) / _INK_LEVELS,  # (datum, row, column)
        labels=torch.as_tensor(bunch.target, dtype=torch.int64),
    )
