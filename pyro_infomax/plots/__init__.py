"""Arrays in, Axes out: what a training did, where the nats sit, and what the latent dimensions mean."""

from pyro_infomax.plots.aggregate import aggregate_against_prior
from pyro_infomax.plots.bars import information_per_dimension
from pyro_infomax.plots.grids import reconstructions, traversals
from pyro_infomax.plots.latent import latent_scatter
from pyro_infomax.plots.selection import most_informative
from pyro_infomax.plots.training_curves import history

__all__ = [
    "aggregate_against_prior",
    "history",
    "information_per_dimension",
    "latent_scatter",
    "most_informative",
    "reconstructions",
    "traversals",
]
