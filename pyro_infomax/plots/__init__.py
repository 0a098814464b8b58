"""Arrays in, Axes out: histories, rate and information of each dimension, and the latent space."""

from pyro_infomax._checks import explain_wrong_arguments
from pyro_infomax.plots._account import (
    information_over_size,
    information_per_dimension,
    information_per_site,
    rate_distortion_plane,
    rate_stack,
)
from pyro_infomax.plots._factors import importance_matrix, information_matrix, scores
from pyro_infomax.plots._history import history
from pyro_infomax.plots._images import reconstructions, traversal_animation, traversals
from pyro_infomax.plots._latent import aggregate_against_prior, latent_scatter, most_informative

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
    "rate_distortion_plane",
    "rate_stack",
    "reconstructions",
    "scores",
    "traversal_animation",
    "traversals",
]

explain_wrong_arguments(__name__)
