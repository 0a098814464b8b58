"""Draws of a guide cut from the graph, so that densities at given draws and the path to them come apart."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast, final

import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Distribution, Transform, TransformedDistribution, constraints
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import _InverseTransform

from pyro_infomax._types import Program, Site
from pyro_infomax.distributions import family_name, is_point_mass, made_of, unwrapped, without_masks
from pyro_infomax.infer._elbo import Traces
from pyro_infomax.poutine import is_deterministic, sample_sites

# ---- Draws that are cut from the graph.


@final
class _CutDraws(Messenger):
    """Replaces each draw of a guide by its value alone, which the rest of guide and model then see.

    It has to stand around whatever traces the guide. The draw itself stays at its site, under ``"drawn"``.

    Args:
        to_differentiate: whether a gradient by the draws will be asked for. Then point masses are left as
            they are, and so are masked draws: their density is not, or not all, in the weight that it would
            move.
    """

    def __init__(self, *, to_differentiate: bool = False) -> None:
        super().__init__()
        self._to_differentiate = to_differentiate
        self._seen: set[str] = set()

    def _pyro_post_sample(self, msg: Site) -> None:
        # The model sees what the guide has drawn
        if msg["name"] in self._seen or msg["is_observed"] or site_is_subsample(msg):
            return
        self._seen.add(msg["name"])
        if msg["infer"].get("_do_not_trace") or (self._to_differentiate and _has_other_density(msg)):
            return
        msg["drawn"] = msg["value"]
        msg["value"] = _cut(msg["value"])
        if self._to_differentiate and msg["fn"].has_rsample:
            msg["value"].requires_grad_()


# Pyro's straight-through draws carry the value that their density is asked for
def _cut(drawn: Tensor) -> Tensor:
    value = drawn.detach()
    carried = vars(drawn).items()
    vars(value).update({name: each.detach() if isinstance(each, Tensor) else each for name, each in carried})
    return value


def _has_other_density(site: Site) -> bool:
    # A weight brings a mask of its own, but guides have weights beside a single draw alone
    mask = site["weight"].mask if "weight" in site else site["mask"]
    is_masked = mask is not None or without_masks(site["fn"]) is not site["fn"]
    return is_masked or is_point_mass(site["fn"])


def along_draws(total: Tensor, traces: Traces) -> Tensor:
    """What has the gradient of a total through the draws, and through nothing else."""
    sites: list[Site] = [site for _, trace in traces for site in trace.nodes.values() if "drawn" in site]
    values: list[Tensor] = [site["value"] for site in sites]
    surrogate = total.new_zeros(())
    if not (total.requires_grad and values):
        return surrogate
    slopes = list(_gradients(total, values))
    for place in reversed(range(len(sites))):
        moved = (slopes[place] * sites[place]["drawn"]).sum()
        surrogate = surrogate + moved
        # A draw moves those that were drawn after it, too
        if place and moved.requires_grad:
            more = _gradients(moved, values[:place])
            slopes[:place] = [one + other for one, other in zip(slopes, more, strict=False)]
    return surrogate


def _gradients(total: Tensor, values: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(total, values, retain_graph=True, allow_unused=True, materialize_grads=True)


@contextmanager
def cut_draws(objective: object, guide: Program, *, to_differentiate: bool = False) -> Iterator[None]:
    """Has programs that are traced in its block see bare draws, see :class:`_CutDraws`.

    Raises:
        NotImplementedError: for guides whose draws or densities cannot be told apart from the rest.
    """
    ours, unwrapped = type(objective).__name__, poutine.unwrap(guide)
    if isinstance(unwrapped, Messenger):
        raise NotImplementedError(
            f"{ours} needs a guide that is run before the model but got {type(unwrapped).__name__}, a "
            "messenger: use IWAE_InfoMaxELBO, or AutoNormal in place of AutoNormalMessenger"
        )
    try:
        with _CutDraws(to_differentiate=to_differentiate):
            yield
    # Pyro's flows without an inverse know the density of the very tensor that they have drawn alone
    except KeyError as error:
        if "intermediates cache" not in str(error):
            raise
        raise NotImplementedError(
            f"{ours} evaluates the guide's density at bare draws, for which its flow needs an inverse: use "
            "one that has it, such as AmortizedFlow's couplings, or IWAE_InfoMaxELBO"
        ) from error


# ---- What guides have to have for it.


def check_scores(objective: object, guide_trace: Trace) -> None:
    """Refuses guides whose score has a mean other than 0, since parameters move edges of their densities."""
    for site in guide_trace.nodes.values():
        if torch.is_grad_enabled() and "drawn" in site and _support_moves(cast(Distribution, site["fn"])):
            raise NotImplementedError(
                f"{type(objective).__name__} needs a score of q(z|x) whose mean is 0 but parameters of the "
                f"guide move the support of {site['name']!r} ({family_name(site['fn'])}); use "
                "IWAE_InfoMaxELBO, or a guide of fixed support, such as AmortizedNormal"
            )


def check_paths(objective: object, guide_trace: Trace) -> None:
    """Refuses draws whose density is that of another value, so that its slope by them says nothing."""
    sites: list[Site] = [site for site in guide_trace.nodes.values() if "drawn" in site]
    for site in sites:
        if torch.is_grad_enabled() and vars(site["drawn"]):
            raise NotImplementedError(
                f"{type(objective).__name__} needs densities of the very draws but {site['name']!r} has that "
                "of another value, through which it draws straight; use IWAE_InfoMaxELBO, or a guide without "
                "the relaxation"
            )


def _support_moves(fn: Distribution) -> bool:
    inner: list[Any] = made_of(fn)
    if any(map(_support_moves, inner)):
        return True
    # It says of the last transform alone where that may lead to
    if not isinstance(fn, TransformedDistribution) or type(fn).support is not TransformedDistribution.support:
        return hasattr(fn, "support") and _is_learned(fn.support)
    has_edges = not _is_real(fn.base_dist.support)
    for transform in fn.transforms:
        if has_edges and _is_learned(transform):
            return True
        has_edges = (has_edges and _is_real(transform.domain)) or not _is_real(transform.codomain)
    return False


def _is_real(support: object) -> bool:
    return unwrapped(support) is constraints.real  # type: ignore[arg-type]


def _is_learned(held: object) -> bool:
    """Whether a constraint or a transform holds what a gradient will reach."""
    if isinstance(held, torch.nn.Module):
        return any(map(_is_learned, held.parameters()))
    if isinstance(held, _InverseTransform):
        held = held.inv
    if isinstance(held, Constraint | Transform):
        held = [value for name, value in vars(held).items() if name not in ("_inv", "_cached_x_y")]
    if isinstance(held, list):
        return any(map(_is_learned, held))
    return isinstance(held, Tensor) and held.requires_grad


def check_densities(objective: object, model_trace: Trace, guide_trace: Trace) -> None:
    """Refuses guides without a density q(z|x) of the model's latents alone."""
    ours = type(objective).__name__
    for site in scored_sites(guide_trace):
        name = site["name"]
        if name not in model_trace.nodes:
            raise NotImplementedError(
                f"{ours} needs the density q(z|x) of the model's latents but the guide has {name!r} beside "
                "them; use IWAE_InfoMaxELBO or VIMCO_InfoMaxELBO, or a guide without it"
            )
        if is_point_mass(site["fn"]):
            raise NotImplementedError(
                f"{ours} needs a density of {name!r} but the guide has a point mass there; use "
                "IWAE_InfoMaxELBO, or a guide with a density, such as AmortizedNormal"
            )


def scored_sites(trace: Trace) -> list[Site]:
    """The sites of a trace that have a density."""
    return [site for site in sample_sites(trace) if not is_deterministic(site)]
