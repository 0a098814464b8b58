"""Arrays in, Axes out: what a training did, where the nats sit, and what the latent dimensions mean."""

from pyro_infomax.plots.aggregate import aggregate_against_prior
from pyro_infomax.plots.animation import traversal_animation
from pyro_infomax.plots.bars import information_per_dimension, information_per_site
from pyro_infomax.plots.grids import reconstructions, traversals
from pyro_infomax.plots.latent import latent_scatter
from pyro_infomax.plots.matrices import importance_matrix, information_matrix
from pyro_infomax.plots.rate_plane import rate_distortion
from pyro_infomax.plots.sample_size import information_over_size
from pyro_infomax.plots.score_rows import scores
from pyro_infomax.plots.selection import most_informative
from pyro_infomax.plots.stacks import rate_stack
from pyro_infomax.plots.training_curves import history

__all__ = [
    "aggregate_against_prior",
    "history",
    "importance_matrix",
    "information_matrix",
    "information_over_size",
    "information_per_dimension",
    "information_per_site",
    "latent_scatter",
    "most_informative",
    "rate_distortion",
    "rate_stack",
    "reconstructions",
    "scores",
    "traversal_animation",
    "traversals",
]
