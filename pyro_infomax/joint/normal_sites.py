"""Sites that are diagonal Normals, read as one Normal over all latent dimensions."""

from typing import Any, Final, NamedTuple

import torch
from torch.distributions import Distribution, Independent, Normal

from pyro_infomax.joint.latent_space import LatentSpace
from pyro_infomax.poutine import LocalProgram, unweighted_scale_and_mask
from pyro_infomax.random_state import isolated_random_state

__all__ = ["NormalParameters", "normal_over", "normal_parameters"]

_WIDE: Final = 10.0  # standard deviations


class NormalParameters(NamedTuple):
    """Means and standard deviations, (rows, latent) each, in float64."""

    loc: torch.Tensor
    scale: torch.Tensor


def normal_parameters(
    program: LocalProgram, data: tuple[torch.Tensor, ...], space: LatentSpace
) -> NormalParameters | None:
    """The parameters of all latent sites for all data, if they are diagonal Normals.

    Sites that depend on each other are none: they are run twice, with draws and with values far from them,
    and what a site's parameters do not follow, it does not depend on.

    Args:
        program: read datum by datum.
        data: its data.
        space: its latent sites, in the order wanted.

    Returns:
        None if a site is masked, or no diagonal Normal, or depends on another one.
    """
    parts = []
    for rows in program.pieces(len(data[0])):
        found = _parameters_of_rows(program, data, space, rows)
        if found is None:
            return None
        parts.append((rows, found))
    loc, scale = (parts[0][1][i].new_empty(len(data[0]), space.size) for i in range(2))
    for rows, found in parts:
        loc[rows], scale[rows] = found
    return NormalParameters(loc, scale)


def normal_over(parameters: NormalParameters) -> Distribution:
    """The diagonal Normal with these parameters, the last axis its event."""
    return Independent(Normal(*parameters, validate_args=False), 1)


def _parameters_of_rows(
    program: LocalProgram, data: tuple[torch.Tensor, ...], space: LatentSpace, rows: torch.Tensor
) -> NormalParameters | None:
    names = list(space.layouts)
    with isolated_random_state():
        found = _read(space, program.trace(data, rows, stop_after=names), len(rows))
        if found is None or len(names) == 1:
            return found
        with torch.no_grad():
            wide = found.loc + _WIDE * found.scale * torch.randn_like(found.loc)
            values = {name: each[None] for name, each in space.unflatten(wide).items()}
            try:
                trace = program.trace(data, rows, values=values, stop_after=names)
            except (RuntimeError, ValueError):
                return None
            again = _read(space, trace, len(rows))
    return found if again is not None and all(map(torch.equal, found, again)) else None


def _read(space: LatentSpace, trace: Any, rows: int) -> NormalParameters | None:
    parts = []
    for name, layout in space.layouts.items():
        site = trace.nodes[name]
        base = _unwrapped(site["fn"])
        if not isinstance(base, Normal) or unweighted_scale_and_mask(site)[1] is not None:
            return None
        parts.append(
            [layout.rows(each, rows)[0].double().reshape(rows, -1) for each in (base.loc, base.scale)]
        )
    loc, scale = (torch.cat(each, 1) for each in zip(*parts, strict=True))
    return NormalParameters(loc, scale)


def _unwrapped(fn: Any) -> Any:
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return fn
