"""Nats from tensors: the aggregate posterior, and every quantity that compares with it."""

from pyro_infomax.information.account import Account
from pyro_infomax.information.aggregate_posterior import AggregatePosterior
from pyro_infomax.information.correlation import total_correlation
from pyro_infomax.information.divergences import dimensionwise_kl, marginal_kl, prior_dependence, rate
from pyro_infomax.information.draws import Draws
from pyro_infomax.information.estimate import Estimate
from pyro_infomax.information.shannon import leave_one_out, mutual_information
from pyro_infomax.information.units import active_units

__all__ = [
    "Account",
    "AggregatePosterior",
    "Draws",
    "Estimate",
    "active_units",
    "dimensionwise_kl",
    "leave_one_out",
    "marginal_kl",
    "mutual_information",
    "prior_dependence",
    "rate",
    "total_correlation",
]
