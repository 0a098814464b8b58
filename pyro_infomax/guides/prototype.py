"""What a guide learns from one run of its model: the plate of the data, and the latent sites inside."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, final

import pyro
import torch
from pyro.poutine import Trace
from torch.distributions.constraints import Constraint

from pyro_infomax.poutine import frames_of, sample_sites

Site = Any


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
    """The plate over the data, without the size, which each call brings.

    Args:
        name: of the plate.
        dim: its axis, counted from the right.
        subsample_size: how many data the model draws; None if it takes all.
    """

    name: str
    dim: int
    subsample_size: int | None

    def create(self, size: int) -> pyro.plate:
        """The plate over ``size`` data.

        Args:
            size: number of data.
        """
        subsample_size = None if self.subsample_size is None else min(self.subsample_size, size)
        return pyro.plate(self.name, size, subsample_size=subsample_size, dim=self.dim)


def find_data_plate(trace: Trace, size: int, *, own_plates: Collection[str] = ()) -> DataPlate:
    """The plate of full size ``size`` around the observed sites.

    Where several plates have that size, it is the one that holds the latent sites too. Where none
    is observed (a part of a model), the latent sites stand in.

    Args:
        trace: of the model.
        size: number of data.
        own_plates: names of the plates that the user makes; the data may be a part of a larger one of these.

    Raises:
        ValueError: if no plate fits, or several do.
    """
    latent = [_plates(site) for site in _latent_sites(trace)]
    observed = [_plates(site) for site in _observed_sites(trace)] or latent
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
    """The latent sites of a model, all of them inside the data plate.

    Args:
        trace: of the model.
        plate: over the data.

    Raises:
        ValueError: if there are none.
        NotImplementedError: for a site outside the data plate, or inside a further plate that subsamples or
            is sequential.
    """
    sites = [_local(site, plate) for site in _latent_sites(trace)]
    if not sites:
        raise ValueError(
            f"Expected a latent site inside plate {plate.name!r} but the model has none: a model without "
            "latents needs no guide, pass `lambda *args: None`."
        )
    return sites


def is_masked(fn: Any, mask: Any) -> bool:
    """Whether some of a site's density may be left out.

    Args:
        fn: distribution of the site.
        mask: what the handlers around the site mask, None for nothing.

    Example:
        >>> import pyro.distributions as dist
        >>> is_masked(dist.Normal(0.0, 1.0).mask(torch.tensor(False)), None)
        True
    """
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


def _observed_sites(trace: Trace) -> list[Site]:
    return [site for site in sample_sites(trace) if site["is_observed"]]
