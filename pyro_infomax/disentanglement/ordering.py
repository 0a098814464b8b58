"""Codes by their order alone, so that neither scale nor shape of a code matters to what is learned of it."""

from dataclasses import replace

import numpy as np

from pyro_infomax.disentanglement.sample import Floats, Split

__all__ = ["ordered"]


def ordered(split: Split) -> Split:
    """The codes as ranks among the distinct values of the train part, those of the test part interpolated.

    A threshold halfway between two ranks is one halfway between the two values, so that trees which split
    the ranks are those that split the codes; but single precision, which scikit-learn's trees keep of what
    they are given, is exact for ranks, and lost on codes far from 0.

    Args:
        split: the data.

    Example:
        >>> from pyro_infomax.disentanglement.sample import to_sample
        >>> part = to_sample(10.0 ** np.arange(10)[:, None], np.arange(10)[:, None])
        >>> ordered(Split(part, part)).test.codes[:3, 0].tolist()
        [0.0, 1.0, 2.0]
    """
    pairs = [_ranks(*pair) for pair in zip(split.train.codes.T, split.test.codes.T, strict=True)]
    train, test = (np.stack(columns, axis=1) for columns in zip(*pairs, strict=True))
    return Split(replace(split.train, codes=train), replace(split.test, codes=test))


def _ranks(train: Floats, test: Floats) -> tuple[Floats, Floats]:
    distinct, rank = np.unique(train, return_inverse=True)
    return rank.reshape(-1).astype(np.float64), np.interp(test, distinct, np.arange(len(distinct)))
