"""The terms of a trained pair with errors and bounds, checks of what it predicts, its posterior for ArviZ."""

from pyro_infomax._checks import explain_wrong_arguments
from pyro_infomax._native import to_native
from pyro_infomax._weights import good_pareto_k
from pyro_infomax.diagnostics._annealed import Simulated
from pyro_infomax.diagnostics._arviz import to_arviz
from pyro_infomax.diagnostics._calibrate import CalibratedQuantity, CalibrationCheck, calibrate
from pyro_infomax.diagnostics._compare import Comparison, compare
from pyro_infomax.diagnostics._convergence import Convergence, convergence
from pyro_infomax.diagnostics._decompose import Decomposition, decompose
from pyro_infomax.diagnostics._evidence import Evidence, ResampledPosterior, evidence, resample
from pyro_infomax.diagnostics._pair import Pair, ScoredDraws
from pyro_infomax.diagnostics._predictive_check import PredictiveCheck, predictive_check
from pyro_infomax.diagnostics._predictive_statistics import image_statistics, vector_statistics
from pyro_infomax.diagnostics._refine import RefinedGuide, Refinement, refine

__all__ = [
    "CalibratedQuantity",
    "CalibrationCheck",
    "Comparison",
    "Convergence",
    "Decomposition",
    "Evidence",
    "Pair",
    "PredictiveCheck",
    "RefinedGuide",
    "Refinement",
    "ResampledPosterior",
    "ScoredDraws",
    "Simulated",
    "calibrate",
    "compare",
    "convergence",
    "decompose",
    "evidence",
    "good_pareto_k",
    "image_statistics",
    "predictive_check",
    "refine",
    "resample",
    "to_arviz",
    "to_native",
    "vector_statistics",
]

explain_wrong_arguments(__name__)
