"""Scores of codes against the factors that made the data, each with its interval, floor and ceiling."""

from pyro_infomax._checks import explain_wrong_arguments
from pyro_infomax.disentanglement._beta_vae_score import beta_vae_score
from pyro_infomax.disentanglement._chen_mig import chen_mig
from pyro_infomax.disentanglement._dci import dci
from pyro_infomax.disentanglement._factor_vae_score import factor_vae_score
from pyro_infomax.disentanglement._interventions import FactorSource
from pyro_infomax.disentanglement._irs import irs
from pyro_infomax.disentanglement._mig import mig
from pyro_infomax.disentanglement._modularity import explicitness, modularity
from pyro_infomax.disentanglement._sap import sap
from pyro_infomax.disentanglement._score import Calibration, Score
from pyro_infomax.disentanglement._table import ScoreTable, calibrated_score, score
from pyro_infomax.disentanglement._udr import udr
from pyro_infomax.disentanglement._unsupervised import (
    gaussian_total_correlation_score,
    mutual_information_score,
    wasserstein_correlation,
)

__all__ = [
    "Calibration",
    "FactorSource",
    "Score",
    "ScoreTable",
    "beta_vae_score",
    "calibrated_score",
    "chen_mig",
    "dci",
    "explicitness",
    "factor_vae_score",
    "gaussian_total_correlation_score",
    "irs",
    "mig",
    "modularity",
    "mutual_information_score",
    "sap",
    "score",
    "udr",
    "wasserstein_correlation",
]

explain_wrong_arguments(__name__)
