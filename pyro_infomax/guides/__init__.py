"""Amortised guides q(z|x) for any Pyro model with a plate of data."""

from pyro_infomax._checks import explain_wrong_arguments
from pyro_infomax.guides._amortized import (
    AmortizedGuide,
    EncodedData as EncodedData,
    Head as Head,
    build_head as build_head,
    check_posterior as check_posterior,
    infer_of as infer_of,
    is_head as is_head,
    median_of as median_of,
)
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

explain_wrong_arguments(__name__)
