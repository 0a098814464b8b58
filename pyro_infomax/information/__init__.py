"""Nats from tensors: the aggregate posterior, and every quantity that compares with it."""

from pyro_infomax.information.account import Account
from pyro_infomax.information.aggregate_posterior import AggregatePosterior
from pyro_infomax.information.annealed_state import AnnealedState
from pyro_infomax.information.annealing import AnnealedRun, Annealing, sigmoid_schedule
from pyro_infomax.information.batch_mixture import BatchMixture
from pyro_infomax.information.better_prior import prior_gap
from pyro_infomax.information.closed_divergences import closed_divergence
from pyro_infomax.information.correlation import (
    conditional_total_correlation,
    gaussian_total_correlation,
    total_correlation,
)
from pyro_infomax.information.decoder import barber_agakov, decoder_gap
from pyro_infomax.information.discrepancy import mmd
from pyro_infomax.information.divergences import dimensionwise_kl, marginal_kl, prior_dependence, rate
from pyro_infomax.information.draws import Draws
from pyro_infomax.information.estimate import Estimate
from pyro_infomax.information.importance import ImportanceWeights, importance_weighted_bound
from pyro_infomax.information.kernels import RBF, InverseMultiquadric
from pyro_infomax.information.minibatch import info_nce, minibatch_stratified, minibatch_weighted
from pyro_infomax.information.shannon import leave_one_out, mutual_information
from pyro_infomax.information.site_account import SiteAccount
from pyro_infomax.information.units import active_units

__all__ = [
    "RBF",
    "Account",
    "AggregatePosterior",
    "AnnealedRun",
    "AnnealedState",
    "Annealing",
    "BatchMixture",
    "Draws",
    "Estimate",
    "ImportanceWeights",
    "InverseMultiquadric",
    "SiteAccount",
    "active_units",
    "barber_agakov",
    "closed_divergence",
    "conditional_total_correlation",
    "decoder_gap",
    "dimensionwise_kl",
    "gaussian_total_correlation",
    "importance_weighted_bound",
    "info_nce",
    "leave_one_out",
    "marginal_kl",
    "minibatch_stratified",
    "minibatch_weighted",
    "mmd",
    "mutual_information",
    "prior_dependence",
    "prior_gap",
    "rate",
    "sigmoid_schedule",
    "total_correlation",
]
