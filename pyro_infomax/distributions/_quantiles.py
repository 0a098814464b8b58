"""Quantiles of the posterior of one site, element by element."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
)
from torch.nn.functional import one_hot

from pyro_infomax.distributions._families import innermost, is_point_mass, without_event_axes


def check_levels(q: float | Sequence[float] | Tensor) -> Tensor:
    """One level of quantiles from 0 to 1, or a list of them, as a tensor."""
    levels = torch.as_tensor(q, dtype=None if isinstance(q, Tensor) else torch.get_default_dtype())
    if levels.dim() > 1 or not bool(((levels >= 0) & (levels <= 1)).all()):
        raise ValueError(f"Expected one level or a list of levels from 0 to 1 but got {q}.")
    return levels


def closed_quantiles(distribution: Distribution, levels: Tensor) -> Tensor | None:
    """The quantiles of each element, (q, ..., \\*event), None where they have no closed form.

    Those of a categorical variable are of its index.
    """
    if is_point_mass(distribution):
        return distribution.mean.expand(len(levels), *distribution.batch_shape, *distribution.event_shape)
    shape = distribution.batch_shape + distribution.event_shape
    base = without_event_axes(distribution)
    categories = isinstance(base, OneHotCategorical)
    lead = shape[:-1] if categories else shape
    levels = levels.to(_parameter_of(base)).reshape(-1, *[1] * len(lead))
    found = _quantiles(base, levels)
    return None if found is None else found.expand(len(levels), *shape)


def sorted_quantiles(draws: Tensor, levels: Tensor) -> Tensor:
    """Quantiles (q, ...) of draws (samples, ...), interpolated linearly; of integers the lower neighbour."""
    ordered = draws.sort(0).values
    place = levels.to(draws.device) * (len(draws) - 1)
    below, above = ordered[place.floor().long()], ordered[place.ceil().long()]
    if not draws.is_floating_point():
        return below
    weight = (place - place.floor()).to(draws.dtype)
    return torch.lerp(below, above, weight.reshape(-1, *[1] * (draws.dim() - 1)))


def _parameter_of(base: Distribution) -> Tensor:
    """Any parameter, for its dtype and device."""
    tensors = (each for each in vars(innermost(base)).values() if isinstance(each, Tensor))
    return next((each for each in tensors if each.is_floating_point()), torch.zeros(()))


def _quantiles(base: Distribution, levels: Tensor) -> Tensor | None:
    if isinstance(base, MultivariateNormal | LowRankMultivariateNormal):
        return Normal(base.mean, base.stddev, validate_args=False).icdf(levels)
    if isinstance(base, Bernoulli):
        return (levels > 1 - base.probs).to(base.probs.dtype)
    if isinstance(base, Categorical):
        return _category(base.probs, levels)
    if isinstance(base, OneHotCategorical):
        return one_hot(_category(base.probs, levels), base.probs.shape[-1]).to(base.probs.dtype)
    if base.event_shape:
        return None
    try:
        return base.icdf(levels)
    except NotImplementedError:
        return None


def _category(probs: Tensor, levels: Tensor) -> Tensor:
    """The first index at which the sum of the probabilities reaches the level."""
    short = probs.cumsum(-1) < levels.unsqueeze(-1)
    return short.sum(-1).clamp(max=probs.shape[-1] - 1)
