"""Sites that are diagonal Normals, read as one Normal over all latent dimensions."""

from typing import Any

import torch
from torch.distributions import Distribution, Independent, Normal

from pyro_infomax.poutine import LocalProgram

__all__ = ["NormalParameters", "flat_parameters", "normal_over"]

NormalParameters = tuple[torch.Tensor, torch.Tensor]


def flat_parameters(program: LocalProgram, trace: Any, rows: int) -> NormalParameters | None:
    """Means and standard deviations of the latent sites side by side, (rows, latent) in float64.

    None if a site is no diagonal Normal or its parameters have an outer dimension.
    """
    parts = []
    for name, layout in program.latents.items():
        base = _unwrapped(trace.nodes[name]["fn"])
        if not isinstance(base, Normal):
            return None
        parts.append([layout.rows(each, rows) for each in (base.loc, base.scale)])
    if any(len(each) != 1 for pair in parts for each in pair):
        return None
    loc, scale = (torch.cat([pair[i][0].double().reshape(rows, -1) for pair in parts], 1) for i in range(2))
    return loc, scale


def _unwrapped(fn: Any) -> Any:
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return fn


def normal_over(parameters: NormalParameters) -> Distribution:
    """The diagonal Normal with these parameters, the last axis its event."""
    return Independent(Normal(*parameters, validate_args=False), 1)
