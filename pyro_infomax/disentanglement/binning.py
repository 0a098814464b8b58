"""Codes as small integers, for scores that count."""

from dataclasses import dataclass, replace
from typing import Final, Self, final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from pyro_infomax.disentanglement.sample import Floats, Integers, Sample

__all__ = ["REFERENCE_BINS", "Binned", "binned", "equal_width_bins", "num_rank_bins", "rank_bins"]

REFERENCE_BINS: Final = 20


@final
@dataclass(frozen=True, eq=False)
class Binned:
    """Codes in bins beside the factors, which are drawn anew together.

    Args:
        bins: (n, L) integers from 0.
        factors: (n, K) integers from 0.
        best: (n, K'), the factors as codes, in bins.
    """

    bins: Integers
    factors: Integers
    best: Integers

    def resampled(self, rng: np.random.RandomState) -> Self:
        """Half of the data, without replacement.

        A score of half the data is spread around that of all as widely as that of all around the truth.
        Rows that come twice, as in a bootstrap, would tell of each other: what codes that know nothing show
        of the factors doubles with them.

        Args:
            rng: draws them.
        """
        rows = rng.permutation(len(self.bins))[: len(self.bins) // 2]
        return replace(self, bins=self.bins[rows], factors=self.factors[rows], best=self.best[rows])

    def permuted(self, rng: np.random.RandomState) -> Self:
        """The codes shuffled against the factors.

        Args:
            rng: shuffles.
        """
        return replace(self, bins=self.bins[rng.permutation(len(self.bins))])

    def as_codes(self) -> Self:
        """The factors as codes."""
        return replace(self, bins=self.best)


def binned(sample: Sample, *, reference: bool) -> Binned:
    """The codes of a sample in bins: 20 of equal width, or by rank.

    Args:
        sample: codes and factors.
        reference: whether as the field's reference implementation does.
    """
    best = sample.as_codes().codes
    if reference:
        return Binned(equal_width_bins(sample.codes), sample.factors, equal_width_bins(best))
    num_bins = num_rank_bins(len(sample), max(sample.sizes))
    return Binned(rank_bins(sample.codes, num_bins), sample.factors, rank_bins(best, num_bins))


def equal_width_bins(codes: Floats, num_bins: int = REFERENCE_BINS) -> Integers:
    """Bins of equal width from the smallest to the largest value of each code.

    A constant code falls into one bin.

    Args:
        codes: (n, L).
        num_bins: how many; some may stay empty.

    Returns:
        (n, L) integers from 0.

    Example:
        >>> equal_width_bins(np.array([[0.0], [0.4], [0.9], [4.0]]), 4).ravel().tolist()
        [0, 0, 0, 3]
    """
    columns = [np.digitize(code, np.histogram_bin_edges(code, num_bins)[:-1]) - 1 for code in codes.T]
    return np.stack(columns, axis=1).astype(np.int64)


def num_rank_bins(size: int, most: int) -> int:
    r"""Bins enough to carry the factors: :math:`\max(\sqrt n, S)`.

    S is the number of values of the largest factor. With fewer, a code could not tell all of them apart;
    with many more, chance outweighs what the code knows.

    Args:
        size: number of data.
        most: S.

    Example:
        >>> num_rank_bins(10_000, 40), num_rank_bins(500, 40)
        (100, 40)
    """
    return max(round(size**0.5), most)


def rank_bins(codes: Floats, num_bins: int) -> Integers:
    """Bins of as many data each, which no increasing map of a code changes.

    Equal values stay together. A code of no more than ``num_bins`` distinct values has them for its bins.

    Args:
        codes: (n, L).
        num_bins: how many.

    Returns:
        (n, L) integers from 0, without gaps.

    Example:
        >>> codes = np.array([[0.0, 7.0], [0.1, 7.0], [50.0, 8.0], [60.0, 7.0]])
        >>> rank_bins(codes, 2).T.tolist()
        [[0, 0, 1, 1], [0, 0, 1, 0]]
    """
    return np.stack([_rank_bins(code, num_bins) for code in codes.T], axis=1).astype(np.int64)


def _rank_bins(code: Floats, num_bins: int) -> NDArray[np.int64]:
    ranks = rankdata(code, method="dense") - 1
    if ranks.max() >= num_bins:
        middles = rankdata(code) - 0.5  # from 0 to n
        _, ranks = np.unique(np.floor(middles * num_bins / len(code)), return_inverse=True)
    return ranks.reshape(-1).astype(np.int64)
