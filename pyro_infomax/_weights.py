"""Importance weights as arrays: how heavy their tail is, smoothed weights, draws that they take. No torch."""

import math
from typing import Final

import numpy as np

from pyro_infomax._types import Floats, Integers

FEWEST_FOR_PARETO_K: Final = 21
"""Weights, of which five make the tail."""

_FEWEST_IN_TAIL: Final = 5
_CONSTANT: Final = 1e-3  # nats, above what single precision leaves of sums over the pixels of an image
_LOWEST: Final = math.log(np.finfo(np.float64).tiny)
_SMALLEST_SHAPE: Final = 1e-12
_LEAST_SHARE: Final = 1e-30
# Of the prior of k: that of ten weights whose k is one half
_PRIOR_SIZE: Final = 10
_PRIOR_K: Final = 0.5


def tail_length(num_samples: int) -> int:
    r"""How many of the largest weights a tail is fitted to, :math:`\lceil \min(S / 5, 3 \sqrt S) \rceil`.

    Reference: Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling.
    """
    return math.ceil(min(num_samples / 5, 3 * math.sqrt(num_samples)))


def good_pareto_k(num_samples: int) -> float:
    r"""The largest Pareto k at which so many importance weights can be trusted.

    :math:`\min(1 - 1 / \log_{10} S, 0.7)`; minus infinity below 2 samples.

    Reference: Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling.

    Args:
        num_samples: S.
    """
    return min(1 - 1 / math.log10(num_samples), 0.7) if num_samples > 1 else -math.inf


# ---- The tail of the weights of each datum.


def tail_fits(largest: Floats, num_samples: int) -> tuple[Floats, Floats]:
    r"""Pareto's :math:`\hat k` of the weights of each datum, and the scale of their tail.

    The largest :math:`\min(S / 5, 3 \sqrt S)` weights of a datum are fitted by a generalised Pareto
    distribution. Weights with :math:`k < 1/2` have a variance; above 0.7 their mean needs more samples than
    anyone draws. It is minus infinity where the largest weights are the same within a thousandth, as those of
    a perfect proposal are; nan below 21 samples, which are too few for a fit; infinity where fewer than five
    weights of the tail are above zero and above the rest.

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling.
        Zhang and Stephens (2009), A new and efficient estimation method for the generalized Pareto
        distribution.

    Args:
        largest: log-weights, (kept, data), in descending order, at least the tail and one more.
        num_samples: S.

    Returns:
        (data,) each. The scale is that of weights over the largest of their datum, and nan where k is not
        finite.
    """
    length = tail_length(num_samples)
    if length < _FEWEST_IN_TAIL:
        unknown = np.full(largest.shape[1], math.nan)
        return unknown, unknown
    # nan, that no density is above zero, is found by the cutoff
    with np.errstate(invalid="ignore"):
        tails = (largest[: length + 1] - largest[0]).T  # (data, tail and its cutoff)
    k, scale = np.array([_fit(tail) for tail in tails]).T
    return k, scale


def _fit(tail: Floats) -> tuple[float, float]:
    """Of one datum's largest log-weights, less the largest, in descending order; the last is the cutoff."""
    if -tail[-1] < _CONSTANT:
        return -math.inf, math.nan
    cutoff = np.maximum(tail[-1], _LOWEST)
    excess = np.exp(tail[tail > cutoff]) - np.exp(cutoff)
    if len(excess) < _FEWEST_IN_TAIL:
        return math.inf, math.nan
    if excess[0] - excess[-1] <= _CONSTANT * excess[0]:
        return -math.inf, math.nan  # weights of a few values only, as those of discrete latents, end there
    k, scale = _generalised_pareto(excess[::-1])
    return (k, scale) if math.isfinite(k) else (math.inf, math.nan)


def _generalised_pareto(excess: Floats) -> tuple[float, float]:
    """Shape and scale for numbers above zero in ascending order: the mean of a posterior over a grid."""
    size = len(excess)
    number = 30 + int(math.sqrt(size))
    quartile = excess[int(size / 4 + 0.5) - 1]
    steps = 1 - np.sqrt(number / (np.arange(number) + 0.5))
    rates = steps / (3 * quartile) + 1 / excess[-1]  # k over the scale, less a sign
    shapes = np.log1p(-rates[:, None] * excess).mean(1)
    with np.errstate(divide="ignore", invalid="ignore"):  # where a rate is zero
        log_likelihood = size * (np.log(-rates / shapes) - shapes - 1)
    weights = np.nan_to_num(np.exp(log_likelihood - np.nanmax(log_likelihood)))
    weights[weights < _LEAST_SHARE * weights.sum()] = 0
    rate = float(weights @ rates / weights.sum())
    k = float(np.log1p(-rate * excess).mean())
    return (size * k + _PRIOR_SIZE * _PRIOR_K) / (size + _PRIOR_SIZE), -k / rate


# ---- Weights smoothed, and draws taken by them.


def smoothed_weights(log_weights: Floats, k: Floats, scale: Floats) -> Floats:
    r"""Weights that sum to one for each datum, the largest of them smoothed.

    The M largest weights of a datum, :math:`M = \min(S / 5, 3 \sqrt S)`, become the quantiles at
    :math:`(j - 1/2) / M` of the generalised Pareto distribution that was fitted to them, at most the largest
    of the raw weights. Where k is not finite they stay as they are.

    Reference: Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling.

    Args:
        log_weights: (samples, data), in nats, one at least of each datum above minus infinity.
        k, scale: of the tail of each datum, (data,), the scale over the largest weight.

    Returns:
        (samples, data).
    """
    relative = log_weights - log_weights.max(0)
    size = min(len(relative), tail_length(len(relative)) + 1)
    index = np.argsort(-relative, axis=0, kind="stable")[:size]
    top = np.take_along_axis(relative, index, 0)
    cutoff = np.maximum(top[-1], _LOWEST)
    # ties at the cutoff are no part of the tail
    in_tail = (top > cutoff) & np.isfinite(k)
    count = (top > cutoff).sum(0)  # (data,)
    below = ((count - np.arange(size)[:, None] - 0.5) / np.maximum(count, 1)).clip(0, 1)
    shape = np.where(np.isfinite(k), k, 1.0)
    # (1 - p)^-k - 1 over k, which is -log(1 - p) at k = 0
    steps = -np.log1p(-below.clip(max=1 - np.finfo(np.float64).eps))
    small = np.abs(shape) < _SMALLEST_SHAPE
    quantile = np.where(small, steps, np.expm1(shape * steps) / np.where(small, 1.0, shape))
    known = np.where(np.isfinite(k), scale, 0.0)
    smooth = np.log(np.exp(cutoff) + known * quantile).clip(max=0)
    np.put_along_axis(relative, index, np.where(in_tail, smooth, top), 0)
    weights: Floats = np.exp(relative)
    return weights / weights.sum(0)


def systematic_indices(weights: Floats, number: int, random: np.random.Generator) -> Integers:
    r"""Proposals chosen with the probabilities of their weights, in random order for each datum.

    One uniform number a datum places a comb of so many teeth over the cumulated weights: a proposal of weight
    w is taken :math:`\lfloor D w \rfloor` or :math:`\lceil D w \rceil` times, :math:`D w` times on average.

    Reference: Kitagawa (1996), Monte Carlo filter and smoother for non-Gaussian nonlinear state space models.

    Args:
        weights: (samples, data), each column sums to one.
        number: D.
        random: where the uniform numbers come from.

    Returns:
        (D, data), rows of the weights.
    """
    samples, size = weights.shape
    teeth = (np.arange(number)[:, None] + random.random(size)) / number  # (D, data)
    edges = weights.cumsum(0)
    edges = edges / edges[-1]
    columns = [
        np.searchsorted(edge, tooth, side="right") for edge, tooth in zip(edges.T, teeth.T, strict=True)
    ]
    found = np.stack(columns, 1).clip(max=samples - 1)
    return random.permuted(found, axis=0)
