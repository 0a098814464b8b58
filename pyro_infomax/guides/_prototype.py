"""What a guide learns from one run of its model: the plate of the data, and the latent sites inside."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final, final

import pyro
import torch
from pyro.poutine import Trace
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint
from torch.nn.functional import one_hot, relu

from pyro_infomax._types import Site
from pyro_infomax.distributions import unwrapped
from pyro_infomax.poutine import frames_of, sample_sites

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
    """

    name: str
    support: Constraint
    event_shape: torch.Size
    plates: tuple[InnerPlate, ...] = ()
    masked: bool = False


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


def find_latent_sites(trace: Trace, plate: DataPlate) -> list[LatentSite]:
    """The latent sites of a model, all of them inside the data plate."""
    sites = [_local(site, plate) for site in _latent_sites(trace)]
    if not sites:
        raise ValueError(
            f"Expected a latent site inside plate {plate.name!r} but the model has none: a model without "
            "latents needs no guide, pass `lambda *args: None`."
        )
    return sites


def is_masked(fn: object, mask: object) -> bool:
    """Whether some of a site's density may be left out; ``mask`` is that of the handlers around it."""
    masks = [mask]
    while fn is not None:
        masks.append(getattr(fn, "_mask", None))
        fn = getattr(fn, "base_dist", None)
    return any(each is not None and each is not True for each in masks)


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
    masked = is_masked(site["fn"], site["mask"])
    return LatentSite(name, site["fn"].support, site["fn"].event_shape, cells, masked)


def _plates(site: Site) -> dict[str, Any]:
    return {frame.name: frame for frame in frames_of(site)}


def _latent_sites(trace: Trace) -> list[Site]:
    return [site for site in sample_sites(trace) if not site["is_observed"]]


# ---- The support of a site, for a family that covers some.


def check_continuous(site: LatentSite, family: str) -> None:
    """Refuses a discrete site in the name of a family that was asked to serve it."""
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
        if self.cells is not None:
            features = self.cells(features)
        elif self.foreign:
            features = features.mean(self.foreign)
        features = laid_out(features, self.data_dim, self.dims)
        if not self.earlier:
            return features
        parts = [each.seen(values[each.site.name], features.dtype) for each in self.earlier]
        lead = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        seen = torch.cat([part.expand(*lead, -1) for part in parts], -1)
        straight, bent = (self.of_features(features) + self.of_earlier(seen)).chunk(2, dim=-1)
        return torch.cat([straight, relu(bent)], -1)
