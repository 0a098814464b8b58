"""The local latent sites of a program, by name or side by side in one vector."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import cast, final

import torch
from opt_einsum import shared_intermediates
from pyro.distributions.util import scale_and_mask
from pyro.ops import packed
from pyro.ops.contract import contract_to_tensor
from pyro.ops.rings import LogRing
from pyro.poutine import Trace
from torch import Tensor

from pyro_infomax._data import SiteValues, Tensors, rows_of
from pyro_infomax._types import Site
from pyro_infomax.distributions import Density, without_masks
from pyro_infomax.poutine import frames_of, unweighted_scale_and_mask
from pyro_infomax.programs import LocalProgram, SiteLayout

# ---- Latent sites side by side in one vector, and back.


def number_of_values(z: SiteValues | Tensor) -> int:
    """M, the length that the values of all sites share; sites of one value go with any length."""
    sites = {"z": z} if isinstance(z, Tensor) else z
    for name, each in sites.items():
        if not isinstance(each, Tensor) or not each.dim():
            shape = tuple(each.shape) if isinstance(each, Tensor) else type(each).__name__
            raise ValueError(f"Expected a tensor of shape (M, ...) as values of {name!r} but got {shape}")
    lengths = {name: len(each) for name, each in sites.items()}
    if not lengths or 0 in lengths.values() or len(set(lengths.values()) - {1}) > 1:
        raise ValueError(f"Expected sites of one number of values, at least 1, but got {lengths}")
    return max(lengths.values())


@final
class LatentSpace:
    """Local latent sites in the order of their program."""

    def __init__(self, layouts: Mapping[str, SiteLayout]) -> None:
        self.layouts = dict(layouts)

    @property
    def size(self) -> int:
        """The number of latent dimensions, all sites together."""
        return sum(layout.size for layout in self.layouts.values())

    def checked(self, z: SiteValues | Tensor, *, others: Collection[str] = ()) -> dict[str, Tensor]:
        """The sites of z, each (M, *shape), without the others that it holds; a tensor is the only site."""
        sites = self._named(z)
        if missing := [name for name in self.layouts if name not in sites]:
            raise ValueError(f"Expected values of the sites {list(self.layouts)} but {missing} are missing")
        if unknown := [name for name in sites if name not in self.layouts and name not in others]:
            raise ValueError(f"Expected values of the sites {list(self.layouts)} but got {unknown} too")
        found = {name: sites[name] for name in self.layouts}
        number_of_values(found)
        for name, layout in self.layouts.items():
            _check_shape(layout, found[name])
        return found

    def _named(self, z: object) -> SiteValues:
        if isinstance(z, Mapping):
            return z
        if not isinstance(z, Tensor):
            raise ValueError(f"Expected a dict of sites or a tensor but got {type(z).__name__}")
        if len(self.layouts) != 1:
            raise ValueError(
                f"Expected a dict with the sites {list(self.layouts)} but got a tensor; name the sites"
            )
        return {next(iter(self.layouts)): z}

    def flatten(self, sites: SiteValues) -> Tensor:
        """The sites side by side, (..., size), in float64."""
        parts = []
        for name, layout in self.layouts.items():
            value = sites[name].double()
            lead = value.shape[: value.dim() - len(layout.shape)]
            parts.append(value.reshape(*lead, layout.size))
        lead = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        return torch.cat([part.expand(*lead, -1) for part in parts], -1)

    def unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        """The sites of a vector, each (..., *shape)."""
        parts = flat.split([layout.size for layout in self.layouts.values()], -1)
        return {
            name: part.reshape(*flat.shape[:-1], *layout.shape)
            for (name, layout), part in zip(self.layouts.items(), parts, strict=True)
        }

    def as_held(self, flat: Tensor) -> dict[str, Tensor]:
        """The sites of a vector, each (..., *shape), in the types that the programs hold."""
        return {name: each.to(self.layouts[name].dtype) for name, each in self.unflatten(flat).items()}


def _check_shape(layout: SiteLayout, value: Tensor) -> None:
    if tuple(value.shape[1:]) != layout.shape:
        expected = ", ".join(map(str, ("M", *layout.shape)))
        raise ValueError(f"Expected {layout.name!r} of shape ({expected}) but got {tuple(value.shape)}")


def lone_marginal(distribution: Density) -> Callable[[Tensor], Tensor]:
    """The marginal density of the only latent dimension, which is the density itself.

    An AttributeError where there are several says that the object has no marginals.
    """
    if distribution.event_shape != (1,):
        raise AttributeError("the marginals of several latent dimensions are not known")
    return lambda z: distribution.log_prob(z).unsqueeze(-1)


# ---- The log-densities of a program's sites, each value with its own datum.


def aligned(data: Tensors, values: int) -> Tensors:
    """The data of each value: as many as there are values, or one datum again and again."""
    if len(data[0]) == 1:
        return cycled(data, values)
    if values not in (1, len(data[0])):
        raise ValueError(
            f"Expected as many values as data, or a single one of either, but got {values} values and "
            f"{len(data[0])} data"
        )
    return data


def cycled(data: Tensors, size: int) -> Tensors:
    """The data in turn, until there are ``size``."""
    return rows_of(data, torch.arange(size) % len(data[0]))


def site_scores(
    program: LocalProgram,
    data: Tensors,
    values: Mapping[str, Tensor],
    names: Sequence[str],
) -> dict[str, Tensor]:
    """The log-densities of some sites, (M,) each, where the program takes the values given.

    Values are (M or 1, *shape), those of sites that are not scored included.
    """
    latent_only = all(name in program.latents for name in names)
    if program.summed and (program.mixes_latents or not latent_only):
        return _scores_summed(program, data, values, names)

    def run(rows: Tensor) -> dict[str, Tensor]:
        own = {name: (each[rows] if len(each) > 1 else each)[None] for name, each in values.items()}
        trace = program.trace(data, rows, values=own, stop_after=names if latent_only else None)
        return {name: program.log_prob(trace.nodes[name], len(rows), z=own.get(name))[0] for name in names}

    return program.together(len(data[0]), run)


# ---- The same where the model enumerates sites, which are summed out.


def _scores_summed(
    program: LocalProgram, data: Tensors, values: Mapping[str, Tensor], names: Sequence[str]
) -> dict[str, Tensor]:
    """The log-densities of sites, (M,) each, given those before them among ``names``: latents come first."""
    order = [*program.latents, *program.observed]
    names = [name for name in order if name in names]
    stop_after = names if all(name in program.latents for name in names) else None

    def run(rows: Tensor) -> dict[str, Tensor]:
        own = {name: (each[rows] if len(each) > 1 else each)[None] for name, each in values.items()}
        trace = program.enumerated(data, rows, values=own, stop_after=stop_after)
        factors = _factors(program, trace, names)
        sums = [_summed_out(program, trace, factors, names[: k + 1], len(rows)) for k in range(len(names))]
        steps = zip(sums, [torch.zeros_like(sums[0]), *sums], strict=False)
        return {name: here - before for name, (here, before) in zip(names, steps, strict=True)}

    return program.together(len(data[0]), run)


def _factors(program: LocalProgram, trace: Trace, names: Sequence[str]) -> dict[str, Tensor]:
    """The log-densities of named and summed sites, packed as Pyro packs them, in float64."""
    trace.compute_log_prob()
    trace.pack_tensors()
    return {
        name: _factor(cast(Site, trace.nodes[name]), masked=name not in program.summed)
        for name in [*program.summed, *names]
        if name in trace.nodes
    }


def _factor(site: Site, *, masked: bool) -> Tensor:
    # what is summed out sums to one, also where a mask leaves it out
    fn = site["fn"] if masked else without_masks(site["fn"])
    dims = site["infer"]["_dim_to_symbol"]
    mask = unweighted_scale_and_mask(site)[1] if masked else None
    score = scale_and_mask(fn.log_prob(site["value"]), mask=mask)
    return packed.pack(score.double(), dims)


def _summed_out(
    program: LocalProgram, trace: Trace, factors: Mapping[str, Tensor], names: Sequence[str], rows: int
) -> Tensor:
    """The logarithm of the product of some sites, summed over those to be summed out: (rows,)."""
    symbols = trace.plate_to_symbol
    tree: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
    dims: set[str] = set()
    for name in [*(each for each in program.summed if each in factors), *names]:
        factor = factors[name]
        frames = frames_of(cast(Site, trace.nodes[name]))
        ordinal = frozenset(symbols[frame.name] for frame in frames if frame.size > 1)
        dims |= set(factor._pyro_dims) - ordinal  # type: ignore[attr-defined]
        tree.setdefault(ordinal, []).append(factor)
    target = frozenset({symbols[program.plate]}) if rows > 1 else frozenset()
    sizes = {symbols[program.plate]: rows}
    with shared_intermediates() as cache:
        found = contract_to_tensor(tree, dims, target, ring=LogRing(cache, dim_to_size=sizes))
    return found.reshape(-1).expand(rows)


def total(scores: Mapping[str, Tensor]) -> Tensor:
    """The log-density of all sites together."""
    return torch.stack(list(scores.values())).sum(0)
