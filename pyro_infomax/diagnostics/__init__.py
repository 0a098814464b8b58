"""What a trained pair holds: the account of its nats, and its posterior for ArviZ."""

from pyro_infomax.diagnostics.annealed_evidence import AnnealedEvidence, annealed_importance_sampling
from pyro_infomax.diagnostics.arviz_groups import to_native
from pyro_infomax.diagnostics.convergence_curve import Convergence, convergence
from pyro_infomax.diagnostics.decomposition import Decomposition, decompose
from pyro_infomax.diagnostics.evidence import ImportanceWeightedEvidence, importance_weighted_evidence
from pyro_infomax.diagnostics.inference_data import to_arviz
from pyro_infomax.diagnostics.pair import Pair, ScoredDraws
from pyro_infomax.diagnostics.simulation import Simulated

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
