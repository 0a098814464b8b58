"""What a guide learns from its model: the plate of the data, the latent sites inside, what is observed."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final, NamedTuple, TypeAlias, cast, final

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.distributions import constraints, transform_to
from torch.distributions.constraints import Constraint
from torch.nn.functional import linear, one_hot, relu, relu_

from pyro_infomax._random import isolated_random_state
from pyro_infomax._types import Args, Kwargs, Program, Site
from pyro_infomax.distributions import family_name, is_angular, is_discrete, is_point_mass, unwrapped
from pyro_infomax.poutine import frames_of, is_deterministic, sample_sites

# ---- The plate of the data, and the latent sites inside.


@final
@dataclass(frozen=True)
class InnerPlate:
    """A plate around a latent site, beside that of the data.

    Args:
        name: of the plate.
        dim: its axis, counted from the right.
        size: number of its cells when the model was run.
    """

    name: str
    dim: int
    size: int


@final
@dataclass(frozen=True)
class LatentSite:
    """A latent site inside the data plate.

    Args:
        name: of the site.
        support: of its prior, event axes included.
        event_shape: shape of one latent.
        plates: the plates around it beside that of the data, from left to right.
        masked: whether the model masks it.
        angular: whether its values are angles, though the support says that they are real.
    """

    name: str
    support: Constraint
    event_shape: torch.Size
    plates: tuple[InnerPlate, ...] = ()
    masked: bool = False
    angular: bool = False


@final
@dataclass(frozen=True)
class DataPlate:
    """The plate over the data, without the size, which each call brings."""

    name: str
    dim: int  # counted from the right
    subsample_size: int | None  # how many data the model draws; None if it takes all

    def create(self, size: int) -> pyro.plate:
        """The plate over ``size`` data."""
        subsample_size = None if self.subsample_size is None else min(self.subsample_size, size)
        return pyro.plate(self.name, size, subsample_size=subsample_size, dim=self.dim)


def find_data_plate(trace: Trace, size: int, *, own_plates: Collection[str] = ()) -> DataPlate:
    """The plate of full size ``size`` around the observed sites.

    Where several plates have that size, it is the one that holds the latent sites too. Where none is observed
    (a part of a model), the latent sites stand in. The data may be a part of one of the user's own plates.
    """
    latent = [_plates(site) for site in _latent_sites(trace)]
    observed = [_plates(site) for site in sample_sites(trace) if site["is_observed"]] or latent
    plates = {name: frame for frames in observed for name, frame in frames.items()}
    if not plates:
        raise ValueError(
            "Expected the observed site inside a pyro.plate but the model has none: wrap the observed site "
            "and its latents in `with pyro.plate('data', len(x)):`."
        )
    own = [f for f in plates.values() if f.name in own_plates]
    found = [f for f in own or plates.values() if (f.full_size or f.size) == size]
    found = found or [f for f in own if f.size == size]
    if len(found) > 1:
        found = [f for f in found if all(f.name in frames for frames in latent)]
    if len(found) != 1:
        sizes = ", ".join(f"{f.name!r} of size {f.full_size or f.size}" for f in plates.values())
        raise ValueError(
            f"Expected one plate of full size len(data) = {size} around the observed site but got {sizes}: "
            "pass the data as first positional argument or, if they are a part of a larger plate, "
            "create_plates=lambda x: pyro.plate(name, full_size, subsample_size=len(x), dim=-1)."
        )
    frame = found[0]
    full = (frame.full_size or frame.size) == frame.size
    return DataPlate(frame.name, frame.dim, None if full else frame.size)


@final
@dataclass(frozen=True)
class Layout:
    """What the model has in calls of one kind: those whose arguments are None, flags or of a shape alike."""

    plate: DataPlate
    sites: tuple[LatentSite, ...]
    served: tuple[LatentSite, ...]  # with observed ones that the user gives a head for other calls
    inner: tuple[InnerPlate, ...]  # the plates within that of the data, from left to right
    observed: frozenset[str]

    @classmethod
    def of(cls, trace: Trace, plate: DataPlate, expected: Collection[str] = ()) -> "Layout":
        """As one run of the model shows it; ``expected`` are sites with heads, whether observed or not."""
        latent = {site["name"] for site in _latent_sites(trace)}
        known = [site for site in sample_sites(trace) if not is_deterministic(site)]
        served = [_local(site, plate) for site in known if site["name"] in latent.union(expected)]
        sites = [site for site in served if site.name in latent]
        inner = {each.name: each for site in sites for each in site.plates}
        return cls(
            plate,
            tuple(sites),
            tuple(served),
            tuple(sorted(inner.values(), key=lambda each: (each.dim, each.name))),
            frozenset(site["name"] for site in known if site["is_observed"]),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Of the latent sites."""
        return tuple(site.name for site in self.sites)

    @property
    def masked(self) -> frozenset[str]:
        """The latent sites that the model masks."""
        return frozenset(site.name for site in self.sites if site.masked)


def check_latent(layout: Layout) -> None:
    """Refuses a model that has nothing for a guide to draw, in this call or in others."""
    if not layout.served:
        raise ValueError(
            f"Expected a latent site inside plate {layout.plate.name!r} but the model has none: a model "
            "without latents needs no guide, pass `lambda *args: None`; where labels leave none, let the "
            "first call be one without them."
        )


def check_same_plate(first: DataPlate, plate: DataPlate) -> None:
    """Refuses another data plate than that of the first call."""
    if (first.name, first.dim) != (plate.name, plate.dim):
        raise ValueError(
            f"Expected the data plate {first.name!r} on axis {first.dim}, as in the first call, but got "
            f"{plate.name!r} on axis {plate.dim}: use one guide for each."
        )


def check_same_site(known: LatentSite, site: LatentSite, *, per_cell: bool) -> None:
    """Refuses a site that the head of its name was not made for."""
    old, new = (
        [(plate.name, plate.dim, None if per_cell else plate.size) for plate in each.plates]
        for each in (known, site)
    )
    alike = known.event_shape == site.event_shape and type(known.support) is type(site.support)
    if not alike or old != new:
        raise ValueError(
            f"Expected {known.name!r} as in earlier calls, of event shape {tuple(known.event_shape)} on "
            f"{known.support} in the plates {old}, but got {tuple(site.event_shape)} on {site.support} in "
            f"{new}: use one guide for each kind of call. An encoder that gives features of each cell, "
            "(batch, *cells, h), serves any number of cells."
        )


def check_same_ancestors(name: str, layout: Layout, made_for: Collection[str]) -> None:
    """Refuses a call in which other sites come before a site than its head was made to depend on."""
    before = set(layout.names[: layout.names.index(name)])
    if missing := sorted(before.difference(made_for)):
        raise ValueError(
            f"Expected the first call to draw {missing}, which the model draws before {name!r} in this one: "
            "let the guide run once with arguments of this kind before all others, guide.posterior(...)."
        )
    if missing := sorted(set(made_for) - before - layout.observed):
        raise ValueError(
            f"Expected the model to have {missing}, which the head of {name!r} depends on, in this call too: "
            "use structured=False, or one guide for each kind of call."
        )


def merged(known: Sequence[str], names: Sequence[str]) -> list[str]:
    """Known names and others, each after the one that it follows in ``names``."""
    order = list(known)
    for k, name in enumerate(names):
        if name not in order:
            order.insert(order.index(names[k - 1]) + 1 if k else 0, name)
    return order


def may_be_called(program: Program, args: Args, kwargs: Kwargs) -> bool:
    """Whether a program takes such arguments, as far as can be told."""
    function = program.forward if isinstance(program, nn.Module) else program
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


CallKind: TypeAlias = tuple[object, ...]


def kind_of_call(args: Args, kwargs: Kwargs, size: int) -> CallKind:
    """By what the model can tell one call from another before it looks at values: a hashable key.

    Of tensors the shape of a row, of None, flags, counts and names what they are, of other things the type.
    """
    return (
        *(_kind(arg, size) for arg in args),
        *((name, _kind(kwargs[name], size)) for name in sorted(kwargs)),
    )


def _kind(arg: object, size: int) -> object:
    if isinstance(arg, Tensor):
        shape = arg.shape
        return shape[1:] if shape[:1] == (size,) else (shape,)
    if arg is None or isinstance(arg, bool | int | str):
        return type(arg), arg
    if isinstance(arg, tuple | list):
        return type(arg), tuple(_kind(each, size) for each in arg)
    if isinstance(arg, Mapping):
        return type(arg), tuple((str(name), _kind(each, size)) for name, each in arg.items())
    return type(arg)


# ---- What a call shows before the guide has drawn a value: masks, and values that the model observes.


class Seen(NamedTuple):
    """A site of the model in the present call."""

    value: Tensor
    masks: list[tuple[Tensor | bool, int]]  # each with the number of event axes to its right


def read_sites(
    model: Program,
    wanted: Collection[str],
    rows: Mapping[str, Tensor],
    args: Args,
    kwargs: Kwargs,
    *,
    draw: bool = False,
) -> dict[str, Seen]:
    """Runs the model up to the last of the wanted sites, without a draw; plates take the given rows."""
    reader = _Reader(wanted, rows, device=None if draw else cast(Tensor, args[0]).device)
    try:
        with reader:
            model(*args, **kwargs)
    except _AllSeenError:
        return reader.found
    missing = sorted(set(wanted) - reader.found.keys())
    raise ValueError(
        f"Expected the model to have the sites {missing} as in an earlier call with such arguments but it "
        "has not: what it samples or observes must not depend on the values of its arguments."
    )


def check_masks(seen: Mapping[str, Seen], again: Mapping[str, Seen]) -> None:
    """Refuses masks that depend on what is drawn, which a guide cannot see beforehand."""
    for name, site in seen.items():
        pairs = zip(site.masks, again[name].masks, strict=True)
        if not all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for (a, _), (b, _) in pairs):
            raise NotImplementedError(
                f"Latent site {name!r} is masked in the model by what it draws before: let masks depend on "
                "the data alone, or write the guide by hand."
            )


class _AllSeenError(BaseException):
    """Ends a run of the model, whose own handlers of errors are passed by."""


@final
class _Reader(Messenger):
    def __init__(
        self, wanted: Collection[str], rows: Mapping[str, Tensor], *, device: torch.device | None
    ) -> None:
        super().__init__()
        self.found: dict[str, Seen] = {}
        self._wanted, self._rows, self._device = wanted, rows, device

    def _pyro_sample(self, msg: Site) -> None:
        if site_is_subsample(msg):
            if msg["name"] in self._rows:
                msg["value"], msg["done"] = self._rows[msg["name"]], True
        elif not msg["is_observed"] and self._device is not None:
            msg["value"], msg["done"] = _placeholder(msg["fn"], self._device), True

    def _pyro_post_sample(self, msg: Site) -> None:
        if msg["name"] in self._wanted:
            self.found[msg["name"]] = Seen(msg["value"], masks_of(msg["fn"], msg["mask"]))
            if len(self.found) == len(self._wanted):
                raise _AllSeenError


def _placeholder(fn: Any, device: torch.device) -> Tensor:
    """A value in the support, without a draw where one can be told, which would move the random state."""
    try:
        if fn.has_enumerate_support:
            first: Tensor = fn.enumerate_support(expand=False)[0]
            return first.expand(fn.shape())
        to_support = transform_to(fn.support)
        value: Tensor = to_support(torch.zeros(to_support.inverse_shape(fn.shape()), device=device))
        return value
    except NotImplementedError:
        drawn: Tensor = fn.sample()
        return drawn


def masks_of(fn: object, mask: Tensor | bool | None) -> list[tuple[Tensor | bool, int]]:
    """The masks of a site, by handlers and by its distribution, each with its number of event axes."""
    masks = [(mask, 0)]
    axes = 0
    while fn is not None:
        masks.append((getattr(fn, "_mask", None), axes))
        axes += getattr(fn, "reinterpreted_batch_ndims", 0)
        fn = getattr(fn, "base_dist", None)
    return [(each, axes) for each, axes in masks if each is not None and each is not True]


def has_masks(fn: object, mask: Tensor | bool | None) -> bool:
    """Whether some of a site's density may be left out; ``mask`` is that of the handlers around it."""
    return bool(masks_of(fn, mask))


def _local(site: Site, plate: DataPlate) -> LatentSite:
    name, plates = site["name"], _plates(site)
    if plate.name not in plates:
        raise NotImplementedError(
            f"Latent site {name!r} is global (outside plate {plate.name!r}), which an amortised guide does "
            f"not cover: fix it by pyro.poutine.condition, or hide it by pyro.poutine.block(model, "
            f"hide=[{name!r}]) and join the guides in a pyro.infer.autoguide.AutoGuideList."
        )
    for each in site["cond_indep_stack"]:
        if not each.vectorized:
            raise NotImplementedError(
                f"Latent site {name!r} is inside the sequential plate {each.name!r}: let the model write "
                f"`for i in range(...)`, or sample all at once inside `with pyro.plate({each.name!r}, ...)`."
            )
    inner = sorted((each for each in plates.values() if each.name != plate.name), key=lambda each: each.dim)
    for each in inner:
        if each.size != (each.full_size or each.size):
            raise NotImplementedError(
                f"Latent site {name!r} is inside plate {each.name!r}, which subsamples within plate "
                f"{plate.name!r}: let {each.name!r} take all of its rows, only the data plate may subsample."
            )
    cells = tuple(InnerPlate(each.name, each.dim, each.size) for each in inner)
    fn = site["fn"]
    masked = has_masks(fn, site["mask"])
    return LatentSite(name, fn.support, fn.event_shape, cells, masked, is_angular(fn))


def _plates(site: Site) -> dict[str, Any]:
    return {frame.name: frame for frame in frames_of(site)}


def _latent_sites(trace: Trace) -> list[Site]:
    return [site for site in sample_sites(trace) if not site["is_observed"]]


# ---- The support of a site, for a family that covers some.


def check_continuous(site: LatentSite, family: str) -> None:
    """Refuses a discrete site, or one of angles, in the name of a family that was asked to serve it."""
    if site.angular:
        raise NotImplementedError(
            f"Latent site {site.name!r} is an angle, which {family} does not cover: a density on the whole "
            "line counts every turn, and the ELBO bounds nothing. Give the site a head of its own, "
            f"{family}(model, encoder, heads={{{site.name!r}: dist.VonMises}})."
        )
    if not site.support.is_discrete:
        return
    name = (
        f"Latent site {site.name!r} is discrete, with support {site.support}, which {family} does not cover"
    )
    own = f"give the site a head of its own, {family}(model, encoder, heads={{{site.name!r}: %s}})"
    if not _is_finite(site.support):
        raise NotImplementedError(f"{name}: {own % 'dist.Poisson'}, or another distribution on its support.")
    raise NotImplementedError(
        f"{name}: {own % 'AmortizedDiscrete'}, or hide it by pyro.poutine.block(model, hide=[{site.name!r}]) "
        "and enumerate it in the model, with a TraceEnum objective."
    )


def check_serves(site: LatentSite, trial: object) -> None:
    """Refuses the head of a user that draws what the prior of its site cannot be.

    It is tried on features of zero; what it gives may be narrower than the prior, not wider.
    """
    if not isinstance(trial, dist.torch_distribution.TorchDistributionMixin):
        return
    if site.angular and not is_angular(trial):
        raise NotImplementedError(
            f"Latent site {site.name!r} is an angle but its head gives {family_name(trial)}, whose density "
            f"on the whole line counts every turn: use heads={{{site.name!r}: dist.VonMises}}."
        )
    if trial.event_shape != site.event_shape or _alike(trial, site.support):
        return
    if is_discrete(trial) is (not site.support.is_discrete) and not is_point_mass(trial):
        raise NotImplementedError(
            f"Expected a head of {site.name!r} on the support {site.support} of its prior but "
            f"{family_name(trial)} is {'discrete' if is_discrete(trial) else 'continuous'}."
        )
    with isolated_random_state(0):
        draws = trial.sample(torch.Size([200]))
    inside = site.support.check(draws)
    if not inside.all():
        raise NotImplementedError(
            f"Expected a head of {site.name!r} that draws within the support {site.support} of its prior but "
            f"{family_name(trial)} drew {draws[~inside][0].tolist()}: use a distribution on that support."
        )


def _alike(trial: Any, support: Constraint) -> bool:
    try:
        own = trial.support
    except NotImplementedError:  # as of some mixtures
        return False
    return isinstance(unwrapped(support), type(unwrapped(own))) and str(own) == str(support)


def check_discrete(site: LatentSite, family: str) -> None:
    """Refuses a continuous site in the name of a family that was asked to serve it."""
    if not site.support.is_discrete:
        raise NotImplementedError(
            f"Latent site {site.name!r} is continuous, with support {site.support}, which {family} does not "
            f"cover: use AmortizedNormal, with heads={{name: {family}}} for the discrete sites."
        )


def _is_finite(support: Constraint) -> bool:
    base = unwrapped(support)
    named = isinstance(base, type(constraints.boolean) | type(constraints.one_hot))
    return named or isinstance(base, constraints.integer_interval)


def number_of_categories(support: Constraint) -> int | None:
    """K of a site whose values are the integers from 0 to K − 1; None for values that are numbers."""
    base = unwrapped(support)
    lower, upper = (getattr(base, name, None) for name in ("lower_bound", "upper_bound"))
    if not base.is_discrete or lower is None or upper is None or int(torch.as_tensor(lower).min()) != 0:
        return None
    return int(torch.as_tensor(upper).max()) + 1


# ---- What the head of a site sees: features in the axes of the site's plates, and the sites before it.

_MAX_WIDTH: Final = 64


def laid_out(features: Tensor, data_dim: int, dims: Sequence[int]) -> Tensor:
    """Features with the data and the cells of inner plates in the axes of these plates.

    From (batch, \\*cells, features) to (\\*axes of the plates, features), with axes of size 1 where no plate
    is. The axes of the data and, in the order of the cells, of the inner plates count from the right.
    """
    axes = [data_dim, *dims]
    order = sorted(range(len(axes)), key=axes.__getitem__)
    shape = [1] * -min(axes)
    for axis, size in zip(axes, features.shape, strict=False):
        shape[axis] = size
    return features.permute(*order, -1).reshape(*shape, features.shape[-1])


@final
class CellFeatures(nn.Module):
    """Features of each cell of inner plates, from the features of a datum by a linear map of its own."""

    def __init__(self, in_features: int, cells: Sequence[int]) -> None:
        super().__init__()
        self.cells = torch.Size(cells)
        self.linear = nn.Linear(in_features, prod(cells) * in_features)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, features) to (batch, \\*cells, features)."""
        return self.linear(features).reshape(len(features), *self.cells, features.shape[-1])


@final
@dataclass(frozen=True)
class EarlierSite:
    """A site that a later one depends on, and what is seen of it there."""

    site: LatentSite
    beyond: tuple[InnerPlate, ...]  # those that the later one is not inside of: all of their cells are seen
    categories: int | None

    @classmethod
    def of(cls, site: LatentSite, later: LatentSite) -> "EarlierSite":
        """As the later site sees it."""
        shared = {plate.name for plate in later.plates}
        beyond = tuple(plate for plate in site.plates if plate.name not in shared)
        return cls(site, beyond, number_of_categories(site.support))

    @property
    def size(self) -> int:
        """Number of numbers that are seen of it."""
        cells = prod(plate.size for plate in self.beyond)
        return self.site.event_shape.numel() * (self.categories or 1) * cells

    def seen(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        """(..., \\*event) to (..., size), categories one-hot."""
        numbers = one_hot(value.long(), self.categories) if self.categories else value.unsqueeze(-1)
        lead = value.dim() - len(self.site.event_shape)
        flat = numbers.to(dtype).reshape(*value.shape[:lead], -1)  # (..., numbers)
        for plate in self.beyond:
            flat = self._gathered(flat, plate)
        return flat

    def _gathered(self, flat: Tensor, plate: InnerPlate) -> Tensor:
        """Moves the cells of a plate to the last axis, and leaves an axis of size 1 behind."""
        size = flat.shape[plate.dim - 1] if flat.dim() > -plate.dim else 1
        if size == 1 < plate.size:
            raise NotImplementedError(
                f"Latent site {self.site.name!r} is enumerated within plate {plate.name!r}, so that a later "
                "site outside of the plate cannot depend on all of its cells: use structured=False."
            )
        if size != plate.size:
            raise ValueError(
                f"Expected {plate.size} cells in plate {plate.name!r}, as in the guide's first run, since "
                f"later sites depend on each of them, but got {size}: use structured=False."
            )
        axis = flat.dim() + plate.dim - 1
        return flat.unsqueeze(axis).movedim(axis + 1, -1).flatten(-2)


@final
class SiteInput(nn.Module):
    """The input of one site's head.

    .. math:: u = [A h + B z_< + a,\\ \\mathrm{relu}(C h + D z_< + c)]

    of the features h and the values of earlier sites, so that a linear head can follow both linearly and
    beyond; the features alone where there are no earlier sites. What is done with the features is done once
    a datum, not for each pair of a value and a datum, of which an account scores very many; for its sake u is
    not wide either. ``per_cell`` are the inner plates of which the encoder gives features cell by cell.
    """

    def __init__(
        self,
        site: LatentSite,
        data: DataPlate,
        in_features: int,
        *,
        earlier: Sequence[LatentSite] = (),
        per_cell: Sequence[InnerPlate] = (),
    ) -> None:
        super().__init__()
        self.dims = [plate.dim for plate in site.plates]
        self.data_dim = data.dim
        own = {plate.name for plate in site.plates}
        self.foreign = [axis + 1 for axis, plate in enumerate(per_cell) if plate.name not in own]
        spread = site.plates and not per_cell
        self.cells = CellFeatures(in_features, [plate.size for plate in site.plates]) if spread else None
        self.earlier = [EarlierSite.of(each, site) for each in earlier]
        self.out_features = in_features
        if self.earlier:
            # the linear half must let through a location and a scale of each element
            width = max(min(in_features, _MAX_WIDTH), 2 * site.event_shape.numel())
            self.out_features = 2 * width
            self.of_features = nn.Linear(in_features, 2 * width)
            self.of_earlier = nn.Linear(sum(each.size for each in self.earlier), 2 * width, bias=False)

    def forward(self, features: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """(..., \\*plates, out_features) of features (batch, \\*cells, features) and earlier values."""
        return self.joined(self.told(features), values)

    def told(self, features: Tensor) -> Tensor:
        """What the features alone contribute, (\\*plates, contribution)."""
        if self.cells is not None:
            features = self.cells(features)
        elif self.foreign:
            features = features.mean(self.foreign)
        features = laid_out(features, self.data_dim, self.dims)
        return self.of_features(features) if self.earlier else features

    def joined(self, told: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """The input of the head, (..., \\*plates, out_features)."""
        if not self.earlier:
            return told
        straight, bent = (told + self.of_earlier(self._seen(values, told.dtype))).chunk(2, dim=-1)
        return torch.cat([straight, relu(bent)], -1)

    def paired(self, told: Tensor, values: Mapping[str, Tensor]) -> "PairedInput":
        """The same for a head that begins with linear layers, for which it is not put together."""
        return PairedInput(told, self.of_earlier(self._seen(values, told.dtype)))

    def _seen(self, values: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        parts = [each.seen(values[each.site.name], dtype) for each in self.earlier]
        lead = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        return torch.cat([part.expand(*lead, -1) for part in parts], -1)


@final
class PairedInput:
    """The input [a + b, relu(c + d)] of a head, for pairs of a datum, with (a, c), and a value, with (b, d).

    What is linear in it meets a linear layer before pairs are made: :math:`A [u, v] = A_1 a + A_1 b + A_2 v`.
    It has a shape and goes through linear layers; other functions of torch get the tensor it stands for.
    """

    def __init__(self, told: Tensor, seen: Tensor) -> None:
        (self._a, c), (self._b, d) = told.chunk(2, dim=-1), seen.chunk(2, dim=-1)
        self._bent = relu_(c + d)
        self.shape = torch.Size([*self._bent.shape[:-1], told.shape[-1]])

    def whole(self) -> Tensor:
        return torch.cat([self._a + self._b, self._bent], -1)

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if function is linear and isinstance(args[0], cls):
            return args[0]._through(*cast("Sequence[Tensor]", args[1:]), **cast("dict[str, Tensor]", kwargs))
        return function(*(each.whole() if isinstance(each, cls) else each for each in args), **kwargs)

    def _through(self, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        straight, bent = weight.chunk(2, dim=1)
        columns = (
            bent @ self._bent.flatten(0, -2).T
        )  # (out, pairs), so that each output is one stretch of memory
        found = columns.unflatten(1, self.shape[:-1]).movedim(0, -1)
        return found.add_(linear(self._a, straight, bias)).add_(linear(self._b, straight))
