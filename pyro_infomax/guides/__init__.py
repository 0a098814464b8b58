"""Amortised guides q(z|x) for any Pyro model with a plate of data."""

from pyro_infomax.guides._amortized import AmortizedGuide
from pyro_infomax.guides._families import (
    AmortizedDelta,
    AmortizedDiscrete,
    AmortizedFlow,
    AmortizedLowRankNormal,
    AmortizedMultivariateNormal,
    AmortizedNormal,
)
from pyro_infomax.guides._prototype import InnerPlate, LatentSite

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
