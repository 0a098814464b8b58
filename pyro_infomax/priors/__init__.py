"""Priors with parameters: modules that return p(z), for ``VAE`` and for any model."""

from pyro_infomax.priors.flow_prior import FlowPrior
from pyro_infomax.priors.mixture_prior import MixturePrior
from pyro_infomax.priors.vamp_prior import VampPrior

__all__ = ["FlowPrior", "MixturePrior", "VampPrior"]
