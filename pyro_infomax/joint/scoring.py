"""The log-densities of a program's sites, each value with its own datum."""

from collections.abc import Mapping, Sequence

import torch

from pyro_infomax.poutine import LocalProgram, rows_of

__all__ = ["aligned", "cycled", "site_scores", "total"]

Tensors = tuple[torch.Tensor, ...]


def aligned(data: Tensors, values: int) -> Tensors:
    """The data of each value: as many as there are values, or one datum again and again.

    Raises:
        ValueError: if there are several data and another number of several values.
    """
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
    values: Mapping[str, torch.Tensor],
    names: Sequence[str],
) -> dict[str, torch.Tensor]:
    """The log-densities of some sites, (M,) each, where the program takes the values given.

    Args:
        program: a model or a guide.
        data: M data.
        values: site names to (M or 1, *shape), sites that are not among the names included.
        names: the sites to score.
    """
    latent_only = all(name in program.latents for name in names)

    def run(rows: torch.Tensor) -> dict[str, torch.Tensor]:
        own = {name: (each[rows] if len(each) > 1 else each)[None] for name, each in values.items()}
        trace = program.trace(data, rows, values=own, stop_after=names if latent_only else None)
        return {name: program.log_prob(trace.nodes[name], len(rows), z=own.get(name))[0] for name in names}

    return program.together(len(data[0]), run)


def total(scores: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The log-density of all sites together."""
    return torch.stack(list(scores.values())).sum(0)
