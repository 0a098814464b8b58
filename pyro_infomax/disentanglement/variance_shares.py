"""How much of a code's variance each factor explains."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pyro_infomax.disentanglement.sample import Floats, Integers, Sample

__all__ = ["group_means", "moved_by_factors", "variance_shares"]

_SMALLEST_SHARE: Final = 0.01
_STANDARD_ERRORS: Final = 4.0


def variance_shares(sample: Sample) -> Floats:
    r"""The share of each code's variance that lies between the values of each factor.

    .. math:: \omega^2 = \frac{S_b - (s - 1) M_w}{S_t + M_w}

    with the sums of squares between values and in total, and the mean square within the s values: the
    correlation ratio without its bias, so that a code that knows nothing has 0 in the mean.

    Reference: Hays (1963), *Statistics for psychologists*.

    Args:
        sample: n data.

    Returns:
        (L, K), at most 1, a little below 0 at times; 0 for a dead code.

    Example:
        >>> from pyro_infomax.disentanglement.sample import to_sample
        >>> v = np.arange(12) % 3
        >>> variance_shares(to_sample(np.stack([v, v // 3], 1), v[:, None]))
        array([[1.],
               [0.]])
    """
    codes = sample.codes - sample.codes.mean(0)
    codes[:, sample.dead] = 0
    shares = [
        _shares(codes, column, size) for column, size in zip(sample.factors.T, sample.sizes, strict=True)
    ]
    return np.stack(shares, axis=1)


def moved_by_factors(sample: Sample) -> NDArray[np.bool_]:
    """The codes that some single factor moves, whatever their scale.

    A factor moves a code if it explains at least a hundredth of its variance, and by four standard errors
    more than it would by chance.

    Args:
        sample: n data.

    Returns:
        (L,)
    """
    sizes = np.array(sample.sizes)
    by_chance = np.sqrt(2 * (sizes - 1)) / np.maximum(len(sample) - sizes, 1)
    moved: NDArray[np.bool_] = (
        variance_shares(sample) > np.maximum(_SMALLEST_SHARE, _STANDARD_ERRORS * by_chance)
    ).any(1)
    return moved


def group_means(codes: Floats, values: Integers, size: int) -> Floats:
    """The mean code of each value of a factor.

    Args:
        codes: (n, L).
        values: (n,) of 0, …, size - 1.
        size: how many values there are.

    Returns:
        (size, L); 0 for a value that no datum has.
    """
    counts = np.maximum(np.bincount(values, minlength=size), 1)
    sums = [np.bincount(values, weights=code, minlength=size) for code in codes.T]
    return np.stack(sums, axis=1) / counts[:, None]


def _shares(codes: Floats, values: Integers, size: int) -> Floats:
    """Of one factor, (L,); the codes have mean 0."""
    counts = np.bincount(values, minlength=size)
    present = np.count_nonzero(counts)
    total = (codes**2).sum(0)
    between = (counts[:, None] * group_means(codes, values, size) ** 2).sum(0)
    within = np.maximum(total - between, 0) / max(len(codes) - present, 1)
    share: Floats = np.divide(
        between - (present - 1) * within, total + within, out=np.zeros_like(total), where=total > 0
    )
    return share
