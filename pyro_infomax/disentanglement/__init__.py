"""Scores of codes against the factors that made the data, each with its interval, floor and ceiling."""

from pyro_infomax.disentanglement.aggregate_gap import chen_mig
from pyro_infomax.disentanglement.calibration import Calibration
from pyro_infomax.disentanglement.encoding import FactorSource
from pyro_infomax.disentanglement.explicit import explicitness
from pyro_infomax.disentanglement.importances import dci
from pyro_infomax.disentanglement.information_gap import mig
from pyro_infomax.disentanglement.modular import modularity
from pyro_infomax.disentanglement.paired_differences import beta_vae_score
from pyro_infomax.disentanglement.ranking import udr
from pyro_infomax.disentanglement.robustness import irs
from pyro_infomax.disentanglement.scored import Score
from pyro_infomax.disentanglement.separability import sap
from pyro_infomax.disentanglement.table import ScoreTable, score
from pyro_infomax.disentanglement.unsupervised import (
    gaussian_total_correlation,
    mutual_information_score,
    wasserstein_correlation,
)
from pyro_infomax.disentanglement.variance_votes import factor_vae_score

__all__ = [
    "Calibration",
    "FactorSource",
    "Score",
    "ScoreTable",
    "beta_vae_score",
    "chen_mig",
    "dci",
    "explicitness",
    "factor_vae_score",
    "gaussian_total_correlation",
    "irs",
    "mig",
    "modularity",
    "mutual_information_score",
    "sap",
    "score",
    "udr",
    "wasserstein_correlation",
]
