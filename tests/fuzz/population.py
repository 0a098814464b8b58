"""Draws that represent a guide exactly, so that an average over them is an expectation.

Tables of a guide are quarters: four draws hold each value as often as its probability says. Two draws of
noise, −1 and 1, have the mean and the variance of a Normal, which is all that a polynomial of second degree
sees. Particle s of an objective takes draw s of the product over all sites.
"""

import itertools
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from tests.fuzz.spec import Pair, Site

PARTICLES = "num_particles_vectorized"


class Population(Messenger):
    """Hands out the draws of a population; to be entered around an evaluation of an objective.

    Args:
        pair: whose guide draws.
        enumerated: whether sites that ask for enumeration get it, and are not drawn.
        rows: those that a subsampled data plate takes.
    """

    def __init__(self, pair: Pair, *, enumerated: bool, rows: Iterable[int] = ()) -> None:
        super().__init__()
        sites = [site for site in pair.guide if not (enumerated and site.enumerated)]
        # a vector of two has two of the axes of the product
        sites = [site for site in sites for _ in range(1 if site.event is None else 2)]
        if pair.sequential:
            sites = [replace(site, name=f"{site.name}_{row}") for site in sites for row in range(pair.rows)]
        draws = list(itertools.product(*map(_quantiles, sites)))
        self.size = len(draws)
        self.draws: dict[str, torch.Tensor] = {}
        for site, column in zip(sites, zip(*draws, strict=True), strict=True):
            column = torch.tensor(column)
            first = self.draws.get(site.name)
            self.draws[site.name] = column if first is None else torch.stack([first, column], -1)
        self.rows = torch.tensor(list(rows), dtype=torch.long)
        self.particle = 0  # where particles are run one by one

    @property
    def by_scalar(self) -> dict[str, np.ndarray]:
        """The draws of each scalar site, (particles,), of which a vector has two."""
        found: dict[str, np.ndarray] = {}
        for name, each in self.draws.items():
            names = (name,) if each.dim() == 1 else (f"{name}~0", f"{name}~1")
            found |= dict(zip(names, each.reshape(len(each), -1).T.numpy(), strict=True))
        return found

    def __call__(self, fn: Any) -> Any:
        """A guide that takes the next particle's draws at each run."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.particle += 1
            return fn(*args, **kwargs)

        return counted

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if site_is_subsample(msg):
            if len(self.rows) and msg["name"] == "data":
                msg["value"], msg["done"] = self.rows, True
            return
        if msg["is_observed"] or msg["done"] or msg["value"] is not None or msg["name"] not in self.draws:
            return
        particles = next((frame for frame in msg["cond_indep_stack"] if frame.name == PARTICLES), None)
        draws = self.draws[msg["name"]]
        if particles is not None:
            draws = draws.reshape(self.size, *[1] * (-particles.dim - 1), *draws.shape[1:])
        elif self.particle:
            draws = draws[(self.particle - 1) % self.size]
        else:
            return
        value = _value(msg["fn"], draws)
        msg["value"], msg["done"] = value, True


def _quantiles(site: Site) -> list[float]:
    return [0.125, 0.375, 0.625, 0.875] if site.discrete else [-1.0, 1.0]


def _value(fn: Any, draws: torch.Tensor) -> torch.Tensor:
    fn = _plain(fn)
    if isinstance(fn, dist.Normal):
        return fn.loc + fn.scale * draws
    if isinstance(fn, dist.MultivariateNormal):
        return fn.loc + (fn.scale_tril @ draws[..., None]).squeeze(-1)
    if isinstance(fn, dist.Bernoulli):
        return (draws > 1 - fn.probs).to(fn.probs.dtype)
    if isinstance(fn, dist.Categorical):
        return (draws[..., None] > fn.probs.cumsum(-1)[..., :-1]).sum(-1)
    raise TypeError(f"Expected a Normal, Bernoulli or Categorical but got {fn}")


def _plain(fn: Any) -> Any:
    while isinstance(fn, dist.MaskedDistribution | dist.Independent):
        fn = fn.base_dist
    return fn
