"""Which latent sites of a program depend on which."""

from collections.abc import Sequence
from typing import Any

import torch

from pyro_infomax.joint.elsewhere import elsewhere
from pyro_infomax.joint.scoring import site_scores
from pyro_infomax.poutine import LocalProgram, SiteLayout, rows_of
from pyro_infomax.random_state import isolated_random_state

__all__ = ["dependences"]

Tensors = tuple[torch.Tensor, ...]
Values = dict[str, torch.Tensor]


@torch.no_grad()
def dependences(program: LocalProgram, data: Tensors, sites: Sequence[str]) -> dict[str, list[str]]:
    """The sites that each of some sites depends on, those of a first run of rows taken for all.

    One site after the other changes between draws and values far from them; what depends on it is seen in
    the scores of the others, whose values stay: all of them draws, or all of them far.

    Args:
        program: a model or a guide.
        data: its data.
        sites: names of latent sites.

    Returns:
        The names of sites that depend on others to the names of these.
    """
    rows = next(program.pieces(len(data[0])))
    with isolated_random_state():
        trace = program.trace(data, rows, stop_after=list(program.latents))
        near = program.values(trace, len(rows))
        far = {
            name: _elsewhere(trace.nodes[name], layout, len(rows)) for name, layout in program.latents.items()
        }
        part = rows_of(data, rows)
        on = {
            name: _moved_by(program, part, near, far, name) | _moved_by(program, part, far, near, name)
            for name in sites
        }
    found = {name: [other for other in sites if name in on[other]] for name in sites}
    return {name: others for name, others in found.items() if others}


def _elsewhere(site: Any, layout: SiteLayout, rows: int) -> torch.Tensor:
    return layout.rows(elsewhere(site["fn"], site["value"]), rows)[0]


def _moved_by(program: LocalProgram, data: Tensors, values: Values, others: Values, name: str) -> set[str]:
    """The sites whose scores change with the value of this one; none where the program does not take it."""
    names = list(program.latents)
    try:
        here, there = (
            site_scores(program, data, each, names) for each in (values, values | {name: others[name]})
        )
    except Exception:  # whatever a program says to values that it does not take: this is for a message only
        return set()
    return {
        other
        for other in names
        if other != name and not torch.allclose(here[other], there[other], rtol=1e-6, equal_nan=True)
    }
