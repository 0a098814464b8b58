"""Amortised guides q(z|x) for any Pyro model with a plate of data."""

from pyro_infomax.guides.amortized_delta import AmortizedDelta
from pyro_infomax.guides.amortized_discrete import AmortizedDiscrete
from pyro_infomax.guides.amortized_flow import AmortizedFlow
from pyro_infomax.guides.amortized_guide import AmortizedGuide
from pyro_infomax.guides.amortized_low_rank_normal import AmortizedLowRankNormal
from pyro_infomax.guides.amortized_multivariate_normal import AmortizedMultivariateNormal
from pyro_infomax.guides.amortized_normal import AmortizedNormal
from pyro_infomax.guides.prototype import InnerPlate, LatentSite

__all__ = [
    "AmortizedDelta",
    "AmortizedDiscrete",
    "AmortizedFlow",
    "AmortizedGuide",
    "AmortizedLowRankNormal",
    "AmortizedMultivariateNormal",
    "AmortizedNormal",
    "InnerPlate",
    "LatentSite",
]
