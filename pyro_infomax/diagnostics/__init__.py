"""The terms of a trained pair with their errors and bounds, and its posterior for ArviZ."""

from pyro_infomax._checks import explain_wrong_arguments
from pyro_infomax._native import to_native
from pyro_infomax.diagnostics._annealed import AnnealedEvidence, Simulated, annealed_importance_sampling
from pyro_infomax.diagnostics._arviz import to_arviz
from pyro_infomax.diagnostics._convergence import Convergence, convergence
from pyro_infomax.diagnostics._decompose import Decomposition, decompose
from pyro_infomax.diagnostics._evidence import ImportanceWeightedEvidence, importance_weighted_evidence
from pyro_infomax.diagnostics._pair import Pair, ScoredDraws

__all__ = [
    "AnnealedEvidence",
    "Convergence",
    "Decomposition",
    "ImportanceWeightedEvidence",
    "Pair",
    "ScoredDraws",
    "Simulated",
    "annealed_importance_sampling",
    "convergence",
    "decompose",
    "importance_weighted_evidence",
    "to_arviz",
    "to_native",
]

explain_wrong_arguments(__name__)
