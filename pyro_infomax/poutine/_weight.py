"""A messenger that says what a site counts for, and remembers what it counted before."""

import functools
import math
from abc import ABC, abstractmethod
from typing import NamedTuple, TypeAlias, final

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from pyro_infomax._types import Program, Site
from pyro_infomax.poutine._sites import is_deterministic

Weight: TypeAlias = float | torch.Tensor


class SiteWeight(NamedTuple):
    """The product of the weights of one site, and its scale, mask and number of plates without them."""

    weight: Weight
    scale: Weight
    mask: torch.Tensor | bool | None
    plates: int


class SiteWeightMessenger(Messenger, ABC):
    """Multiplies the scale of each sample site by a weight and records it under ``msg["weight"]``.

    The scale is what stock ELBOs read; the record is what gives the unweighted terms back. A site of weight 0
    is masked too, since 0 · (−inf) is nan; of what is around such a weight the record sees plates, neither
    :func:`pyro.poutine.scale` nor :func:`pyro.poutine.mask`. A subclass says in :meth:`site_weight` what
    a site counts for.
    """

    @abstractmethod
    def site_weight(self, msg: Site) -> Weight:
        """The weight of the site of this message."""

    # The scale must stand before any trace copies the message, hence not in _pyro_post_sample.
    def _pyro_sample(self, msg: Site) -> None:
        if site_is_subsample(msg) or is_deterministic(msg):
            return
        site_weight = self.site_weight(msg)
        if not isinstance(site_weight, torch.Tensor) and site_weight == 1:
            return
        msg["weight"] = _recorded(msg, site_weight)
        msg["scale"] = msg["scale"] * site_weight
        msg["mask"] = _mask_where_zero(site_weight, msg["mask"])


def _recorded(msg: Site, site_weight: Weight) -> SiteWeight:
    before: SiteWeight | None = msg.get("weight")
    product = site_weight if before is None else before.weight * site_weight
    return SiteWeight(product, *unweighted_scale_and_mask(msg), len(msg["cond_indep_stack"]))


def _mask_where_zero(site_weight: Weight, mask: torch.Tensor | bool | None) -> torch.Tensor | bool | None:
    if isinstance(site_weight, torch.Tensor):
        counts = site_weight != 0
        return counts if mask is None else counts & mask
    return mask if site_weight != 0 else False


@final
class WeightMessenger(SiteWeightMessenger):
    r"""Weighs observed and latent sites: :math:`w_o \log p(x \mid z) + w_l \log p(z)`.

    Weights multiply with each other and with any other scale (plates, :func:`pyro.poutine.scale`), in any
    order.

    Args:
        observed: the weight of observed sites, :func:`pyro.factor` included. A finite number or a tensor >=
            0.
        latent: the weight of the other sample sites.

    Raises:
        ValueError: if a weight is negative or not finite.

    Example:
        >>> import pyro, pyro.distributions as dist, torch
        >>> def model(x):
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> with WeightMessenger(observed=4.0):
        ...     trace = pyro.poutine.trace(model).get_trace(torch.tensor(0.5))
        >>> trace.nodes["x"]["scale"], trace.nodes["z"]["scale"]
        (4.0, 1.0)
    """

    def __init__(self, *, observed: Weight = 1.0, latent: Weight = 1.0) -> None:
        super().__init__()
        self.observed = checked_weight("observed", observed)
        self.latent = checked_weight("latent", latent)

    def site_weight(self, msg: Site) -> Weight:
        return self.observed if msg["is_observed"] else self.latent


def weight(
    fn: Program | None = None, *, observed: Weight = 1.0, latent: Weight = 1.0
) -> Program | WeightMessenger:
    """Weighs the sites of a program: handler, decorator and context manager in one.

    See :class:`WeightMessenger` for the arguments. Without ``fn`` it gives the messenger, to be used in a
    ``with`` statement or as a decorator; with ``fn`` the program wrapped by it.

    Example:
        >>> import pyro, pyro.distributions as dist, torch
        >>> @weight(observed=0.0)
        ... def model():
        ...     return pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.tensor(3.0))
        >>> float(pyro.poutine.trace(model).get_trace().log_prob_sum())
        0.0
    """
    messenger = WeightMessenger(observed=observed, latent=latent)
    if fn is None:
        return messenger
    return functools.update_wrapper(messenger(fn), fn, updated=())


def checked_weight(name: str, value: Weight, *, above: float | None = None) -> Weight:
    """The weight as it came, if it is finite and >= 0 (> ``above`` where given; of any sign above −inf)."""
    expected = ">= 0" if above is None else "to be finite" if above == -math.inf else f"> {above:g}"
    if isinstance(value, torch.Tensor):
        detached = value.detach()
        right = detached >= 0 if above is None else detached > above
        good = bool((right & detached.isfinite()).all())
    else:
        try:
            good = math.isfinite(value) and (value >= 0 if above is None else value > above)
        except TypeError:
            number = "finite number" if above == -math.inf else f"number {expected}"
            raise ValueError(f"Expected {name} to be a {number} but got {value!r}") from None
    if not good:
        raise ValueError(f"Expected {name} {expected} but got {value}")
    return value


def unweighted_scale_and_mask(site: Site) -> tuple[Weight, torch.Tensor | bool | None]:
    """The scale and the mask that a site would have without weights."""
    record: SiteWeight | None = site.get("weight")
    if record is None:
        return site["scale"], site["mask"]
    if isinstance(record.weight, torch.Tensor):
        zero = record.weight == 0
        rescaled = site["scale"] / torch.where(zero, 1.0, record.weight)
        mask = site["mask"] | (zero if record.mask is None else zero & record.mask)
        return torch.where(zero, _scale_in_plates(record, site), rescaled), mask
    if record.weight == 0:
        return _scale_in_plates(record, site), record.mask
    # Dividing keeps what other handlers did to the site after the weight.
    return site["scale"] / record.weight, site["mask"]


def _scale_in_plates(record: SiteWeight, site: Site) -> Weight:
    """The scale before the weights, times those of the plates around them."""
    frames = site["cond_indep_stack"]
    around = frames[: len(frames) - record.plates]
    return math.prod(((frame.full_size or frame.size) / frame.size for frame in around), start=record.scale)


def unweighted_log_prob(site: Site) -> torch.Tensor:
    """The log-probability of a traced site, scaled and masked as it would be without weights.

    Args:
        site: a node of a trace whose log-probabilities were computed.

    Returns:
        A tensor of the batch shape of the site.
    """
    scale, mask = unweighted_scale_and_mask(site)
    return scale_and_mask(site["unscaled_log_prob"], scale, mask)
