"""Draws of a guide cut from the graph, so that densities at given draws and the path to them come apart."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FunctionType
from typing import Any, cast, final

import torch
from pyro import poutine
from pyro.distributions.transforms import BatchNorm, LeakyReLUTransform
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    ComposeTransform,
    Distribution,
    IndependentTransform,
    Transform,
    TransformedDistribution,
    constraints,
)
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import _InverseTransform
from torch.utils._python_dispatch import _disable_current_modes

from pyro_infomax._recording import holds
from pyro_infomax._types import Program, Site
from pyro_infomax.distributions import (
    ON_ITS_BATCH,
    FlowDistribution,
    family_name,
    is_point_mass,
    made_of,
    unwrapped,
    without_masks,
)
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
        if any(_remembers(each) for each in _all_of(msg["fn"])):
            with torch.no_grad():
                msg["density_as_drawn"] = msg["fn"].log_prob(msg["value"])
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


# Any other value, a copy too, is led back through the flow, whose dropout then is another
def _remembers(fn: object) -> bool:
    """Whether it knows the density of what it has drawn from the way there."""
    if isinstance(fn, TransformedDistribution):
        return any(transform._cache_size for transform, _ in _steps(fn.transforms))
    return isinstance(fn, FlowDistribution)


def along_draws(total: Tensor, traces: Iterable[tuple[Trace, Trace]]) -> Tensor:
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
    ours = type(objective).__name__
    for site in guide_trace.nodes.values():
        if not (torch.is_grad_enabled() and "drawn" in site):
            continue
        name, family = site["name"], family_name(site["fn"])
        try:
            moves = _support_moves(cast(Distribution, site["fn"]))
        except (AttributeError, NotImplementedError) as error:
            raise NotImplementedError(
                f"{ours} needs to know that no parameter of the guide moves the support of {name!r} but "
                f"{family} states none; give that class a support, such as constraints.positive, or use "
                "IWAE_InfoMaxELBO"
            ) from error
        if moves:
            raise NotImplementedError(
                f"{ours} needs a score of q(z|x) whose mean is 0 but parameters of the guide move the "
                f"support of {name!r} ({family}), or a jump of its density; use IWAE_InfoMaxELBO, or a guide "
                "of fixed support, such as AmortizedNormal"
            )


def check_paths(objective: object, guide_trace: Trace) -> None:
    """Refuses draws whose density is that of another value, so that its slope by them says nothing."""
    _check_as_drawn(objective, guide_trace)
    sites: list[Site] = [site for site in guide_trace.nodes.values() if "drawn" in site]
    for site in sites:
        if torch.is_grad_enabled() and vars(site["drawn"]):
            raise NotImplementedError(
                f"{type(objective).__name__} needs densities of the very draws but {site['name']!r} has that "
                "of another value, through which it draws straight; use IWAE_InfoMaxELBO, or a guide without "
                "the relaxation"
            )


_ROUNDING = 1e-3  # of what single precision may leave of a density that is led back, on average


def _check_as_drawn(objective: object, guide_trace: Trace) -> None:
    """Refuses flows that lead the draws back to other noise than they have made them of."""
    sites: list[Site] = [each for each in guide_trace.nodes.values() if "density_as_drawn" in each]
    for site in sites:
        drawn, found = site["density_as_drawn"], site["unscaled_log_prob"].detach()
        error = torch.where(drawn == found, 0.0, drawn - found).abs().mean()
        bound = _ROUNDING * (1 + drawn.abs().mean())
        sentence = (
            f"{type(objective).__name__} evaluates the guide's density at bare draws, which for "
            f"{site['name']!r} is not that of the draws as they were made: its flow is random (put dropout "
            f"in evaluation mode), or its draws are at the end of what {drawn.dtype} resolves; use "
            "IWAE_InfoMaxELBO"
        )
        if not holds((error <= bound) | drawn.isnan().any(), sentence):
            raise NotImplementedError(sentence)


# ---- Supports that parameters move.


def _support_moves(fn: Distribution) -> bool:
    """Whether, at their present values, parameters move the support or a jump of the density."""
    inner: list[Any] = made_of(fn)
    if any(map(_support_moves, inner)):
        return True
    if isinstance(fn, FlowDistribution):
        return any(map(_jumps, _chain(fn))) and _is_learned(fn)
    # It says of the last transform alone where that may lead to
    if not isinstance(fn, TransformedDistribution) or type(fn).support is not TransformedDistribution.support:
        return _is_learned(fn.support)
    steps = _steps(fn.transforms)
    if not any(_is_learned(transform) for transform, _ in steps):
        return False
    with _disable_current_modes():  # type: ignore[no-untyped-call]
        return _moves_edges(fn.base_dist.support, steps)


def _moves_edges(support: Constraint | None, steps: Sequence[tuple[Transform, bool]]) -> bool:
    """Whether a parameter moves the image of an end of the support, or of a point where a density jumps."""
    within, ends, points, are_known = support, _ends(support), list[Tensor](), True
    for transform, back in steps:
        domain, codomain = transform.domain, transform.codomain
        domain, codomain = (codomain, domain) if back else (domain, codomain)
        is_onto = (within is not None and unwrapped(within) is unwrapped(domain)) or _are_same(
            ends, _ends(domain)
        )
        moved = points if is_onto else [*points, *(ends or ())]
        are_known = are_known and (is_onto or ends is not None) and (not moved or _is_by_element(transform))
        if not are_known:
            if _is_learned(transform):
                return True
            continue
        images = [transform._inverse(each) if back else transform._call(each) for each in moved]
        if is_onto:
            within, ends = codomain, _ends(codomain)
        else:
            images[-2:] = _at_ends(moved[-2:], images[-2:], _ends(domain), _ends(codomain))
            low, high = (each.detach() for each in images[-2:])
            within, ends = None, (torch.minimum(low, high), torch.maximum(low, high))
        if any(_depends(image, transform) for image in images) or _is_learned(codomain):
            return True
        points = [each.detach() for each in images[: len(points)]] + [torch.zeros(())] * _jumps(transform)
    return False


_Ends = tuple[Tensor, Tensor] | None


def _ends(support: Constraint | None) -> _Ends:
    """Of an interval of the reals, however long; None for all other supports."""
    inner: Any = None if support is None else unwrapped(support)
    low, high = getattr(inner, "lower_bound", None), getattr(inner, "upper_bound", None)
    if low is None and high is None and inner is not constraints.real:
        return None
    low, high = -torch.inf if low is None else low, torch.inf if high is None else high
    return torch.as_tensor(low, dtype=_dtype(low)), torch.as_tensor(high, dtype=_dtype(high))


def _dtype(bound: object) -> torch.dtype:
    return bound.dtype if isinstance(bound, Tensor) else torch.get_default_dtype()


def _are_same(ends: _Ends, others: _Ends) -> bool:
    if ends is None or others is None:
        return False
    return all(bool((one == other).all()) for one, other in zip(ends, others, strict=True))


# Arithmetic stops short of where an end of the domain is led to
def _at_ends(ends: list[Tensor], images: list[Tensor], domain: _Ends, codomain: _Ends) -> list[Tensor]:
    if domain is None or codomain is None:
        return images
    goals = codomain[::-1] if bool((images[0] > images[1]).any()) else codomain
    each = zip(ends, images, domain, goals, strict=True)
    return [
        torch.where((end == bound).to(image.device), goal.to(image.device), image)
        for end, image, bound, goal in each
    ]


def _is_by_element(transform: Transform) -> bool:
    if isinstance(transform, torch.nn.Module):
        return False
    return transform.domain.event_dim == 0 or isinstance(transform, AffineTransform)


def _depends(image: Tensor, transform: Transform) -> bool:
    """Whether any of what a transform learns moves an image, if that is a place at all."""
    held = [each for each in _learned(transform) if isinstance(each, Tensor)]
    if len(held) < sum(1 for _ in _learned(transform)):
        return True
    # Of different shares, so that slopes of different data do not cancel
    shares = torch.arange(1.0, image.numel() + 1.0, device=image.device).sqrt().reshape(image.shape)
    total = (torch.where(image.isfinite(), image, 0.0) * shares).sum()
    if not (held and total.requires_grad):
        return False
    slopes = torch.autograd.grad(total, held, retain_graph=True, allow_unused=True, materialize_grads=True)
    # 0 · ∞, at an end of what the transform maps
    return any(bool((slope.nan_to_num(0.0, 0.0, 0.0) != 0).any()) for slope in slopes)


def _is_learned(held: object) -> bool:
    """Whether a constraint, a transform or a distribution holds what a gradient will reach."""
    return any(True for _ in _learned(held))


def _learned(held: object) -> Iterator[object]:
    """The tensors that a gradient will reach, and functions, of which that is unknown."""
    if isinstance(held, torch.nn.Module):
        held = list(held.parameters())
    elif isinstance(held, _InverseTransform):
        held = held.inv
    if isinstance(held, Constraint | Transform | Distribution):
        held = [value for name, value in vars(held).items() if name not in ("_inv", "_cached_x_y")]
    if isinstance(held, list):
        for each in held:
            yield from _learned(each)
    elif isinstance(held, partial | FunctionType) or (isinstance(held, Tensor) and held.requires_grad):
        yield held


# ---- What distributions are made of.


def _all_of(fn: object) -> Iterator[object]:
    yield fn
    for each in made_of(fn):
        yield from _all_of(each)


def _steps(transforms: Iterable[Transform], *, back: bool = False) -> list[tuple[Transform, bool]]:
    """What transforms are composed of, in the order from noise to draws, and whether it is run backwards."""
    steps = []
    for transform in list(transforms)[:: -1 if back else 1]:
        if isinstance(transform, _InverseTransform):
            steps += _steps([transform.inv], back=not back)
        elif isinstance(transform, ComposeTransform):
            steps += _steps(transform.parts, back=back)
        elif isinstance(transform, IndependentTransform):
            steps += _steps([transform.base_transform], back=back)
        else:
            steps.append((transform, back))
    return steps


def _chain(fn: object) -> list[Transform]:
    """The transforms that lead from its noise to its draws."""
    if isinstance(fn, TransformedDistribution):
        return [transform for transform, _ in _steps(fn.transforms)]
    if isinstance(fn, FlowDistribution):
        return [step.transform for step in getattr(fn.flow, "_steps", ())]
    return []


def _jumps(transform: Transform) -> bool:
    """Whether the density of what it leads to jumps, in the middle of it."""
    within = getattr(transform, "T", None)  # of Pyro's autoregressive networks
    return isinstance(transform, LeakyReLUTransform) or isinstance(within, LeakyReLUTransform)


# ---- What no objective can do with the transforms of a latent site.


def check_transforms(objective: object, model_trace: Trace, guide_trace: Trace) -> None:
    """Refuses densities that are not of one draw alone, and those that jump where parameters move draws."""
    for name, site in guide_trace.nodes.items():
        if site["type"] != "sample":
            continue
        twin = model_trace.nodes.get(name)
        ours = list(_all_of(site["fn"]))
        theirs = [] if twin is None else list(_all_of(twin["fn"]))
        chains = [chain for fn in (*ours, *theirs) if (chain := _chain(fn))]
        if any(isinstance(each, BatchNorm) and each.training for chain in chains for each in chain):
            raise NotImplementedError(
                f"{ON_ITS_BATCH}: leave it out of {name!r}, or put it in evaluation mode"
            )
        if not (chains and torch.is_grad_enabled() and is_path(site) and "divergence" not in site):
            continue
        if any(map(_jumps_on_path, ours)) or any(any(map(_jumps, _chain(fn))) for fn in theirs):
            raise NotImplementedError(
                f"{type(objective).__name__} takes gradients through the draws of {name!r}, which miss that "
                "LeakyReLU has its density jump where parameters move draws across the bend: use a smooth "
                "transform, such as ELU or tanh, or TVO_InfoMaxELBO, which takes gradients of densities alone"
            )


def is_path(site: Site) -> bool:
    """Whether a gradient reaches parameters through the draw."""
    drawn = site.get("drawn", site["value"])
    return all(isinstance(each, Tensor) and each.requires_grad for each in (drawn, site["value"]))


def _jumps_on_path(fn: object) -> bool:
    """Whether parameters move what comes to a point where the density jumps."""
    is_moved = isinstance(fn, TransformedDistribution) and _is_learned(fn.base_dist)
    for transform in _chain(fn):
        is_moved = is_moved or _is_learned(transform)
        if is_moved and _jumps(transform):
            return True
    return False


# ---- Densities of the model's latents.


def check_densities(objective: object, model_trace: Trace, guide_trace: Trace) -> None:
    """Refuses guides without a density q(z|x) of the model's latents alone."""
    ours = type(objective).__name__
    _check_as_drawn(objective, guide_trace)
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
