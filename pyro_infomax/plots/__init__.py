"""Arrays in, Axes out: histories, information of each dimension, the latent space, replicated data."""

from pyro_infomax._checks import explain_wrong_arguments
from pyro_infomax.plots._account import (
    information_over_size,
    information_per_dimension,
    information_per_site,
    rate_distortion_plane,
    rate_stack,
)
from pyro_infomax.plots._calibration import coverage, evidence_differences, rank_curves
from pyro_infomax.plots._evidence import inference_gaps, pareto_k_curves
from pyro_infomax.plots._factors import importance_matrix, information_matrix, scores
from pyro_infomax.plots._history import history
from pyro_infomax.plots._images import reconstructions, traversal_animation, traversals
from pyro_infomax.plots._latent import aggregate_against_prior, latent_scatter, most_informative
from pyro_infomax.plots._predictive import predictive_density, predictive_intervals, replicates

__all__ = [
    "aggregate_against_prior",
    "coverage",
    "evidence_differences",
    "history",
    "importance_matrix",
    "inference_gaps",
    "information_matrix",
    "information_over_size",
    "information_per_dimension",
    "information_per_site",
    "latent_scatter",
    "most_informative",
    "pareto_k_curves",
    "predictive_density",
    "predictive_intervals",
    "rank_curves",
    "rate_distortion_plane",
    "rate_stack",
    "reconstructions",
    "replicates",
    "scores",
    "traversal_animation",
    "traversals",
]

explain_wrong_arguments(__name__)
