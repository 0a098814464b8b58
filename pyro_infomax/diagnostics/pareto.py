"""How heavy the tail of importance weights is."""

import math
from typing import Final

import torch
from pyro.ops.stats import fit_generalized_pareto

from pyro_infomax.information import ImportanceWeights
from pyro_infomax.information.importance import tail_length

__all__ = ["pareto_k"]

_FEWEST_IN_TAIL: Final = 5
_CONSTANT: Final = 1e-9  # nats, above rounding of the log-densities
_LOWEST: Final = math.log(torch.finfo(torch.float64).tiny)


def pareto_k(weights: ImportanceWeights) -> torch.Tensor:
    r"""Pareto's :math:`\hat k` of the weights of each datum.

    The largest :math:`\min(S / 5, 3 \sqrt S)` weights of a datum are fitted by a generalised Pareto
    distribution. Weights with :math:`k < 1/2` have a variance; above 0.7 their mean, and the bound with it,
    needs more samples than anyone draws.

    Reference: Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling.

    Args:
        weights: of S samples.

    Returns:
        (data,), float64. Minus infinity where the largest weights are all the same, as those of a perfect
        proposal are; nan below 21 samples, which are too few for a fit; infinity where fewer than five
        weights of the tail are above zero and above the rest.

    Example:
        >>> weights = ImportanceWeights(1000, 2)
        >>> exponential = -torch.linspace(0.001, 0.999, 1000, dtype=torch.float64).log()
        >>> weights.add(torch.stack([exponential, 0 * exponential], 1))  # w = 1 / u has k = 1
        >>> pareto_k(weights).round(decimals=1)
        tensor([0.9000,   -inf], dtype=torch.float64)
    """
    length = tail_length(weights.num_samples)
    if length < _FEWEST_IN_TAIL:
        return torch.full([weights.data_size], math.nan, dtype=torch.float64)
    tails = weights.largest[: length + 1] - weights.largest[0]  # (tail and its cutoff, data)
    return torch.tensor([_fit(tail) for tail in tails.T], dtype=torch.float64)


def _fit(tail: torch.Tensor) -> float:
    """k of one datum's largest log-weights, less the largest, in descending order; the last is the cutoff."""
    if -float(tail[-1]) < _CONSTANT:
        return -math.inf
    cutoff = tail[-1].clamp(min=_LOWEST)
    excess = tail[tail > cutoff].exp() - cutoff.exp()
    if len(excess) < _FEWEST_IN_TAIL:
        return math.inf
    k, _ = fit_generalized_pareto(excess)
    return k if math.isfinite(k) else math.inf
