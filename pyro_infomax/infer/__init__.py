"""The objectives: Pyro's ELBOs with the two joints' terms weighed.

A class is named as Pyro names its own, estimator first: ``TraceMeanField_InfoMaxELBO`` is
``TraceMeanField_ELBO`` with the InfoMax weight. :data:`BetaELBO` and :data:`InfoMaxELBO` are the mean-field
ones. The ``_IM`` classes train the input of a given channel, by the IM algorithm.
"""

from typing import NoReturn

from pyro_infomax.infer._elbo import SurrogateLoss, Terms, WeightedELBO, surrogate_loss
from pyro_infomax.infer._im import (
    IMParts,
    PowerLimitedNormal,
    Trace_IM,
    TraceEnum_IM,
    TraceGraph_IM,
    transmitted_information,
)
from pyro_infomax.infer._named import (
    Renyi_InfoMaxELBO,
    Trace_BetaELBO,
    Trace_InfoMaxELBO,
    TraceEnum_BetaELBO,
    TraceEnum_InfoMaxELBO,
    TraceGraph_BetaELBO,
    TraceGraph_InfoMaxELBO,
    TraceMeanField_BetaELBO,
    TraceMeanField_InfoMaxELBO,
)
from pyro_infomax.infer._recording import is_literal as is_literal, literal_number as literal_number
from pyro_infomax.infer._weights import WeightsLike

__all__ = [
    "BetaELBO",
    "IMParts",
    "InfoMaxELBO",
    "PowerLimitedNormal",
    "Renyi_InfoMaxELBO",
    "SurrogateLoss",
    "Terms",
    "TraceEnum_BetaELBO",
    "TraceEnum_IM",
    "TraceEnum_InfoMaxELBO",
    "TraceGraph_BetaELBO",
    "TraceGraph_IM",
    "TraceGraph_InfoMaxELBO",
    "TraceMeanField_BetaELBO",
    "TraceMeanField_InfoMaxELBO",
    "Trace_BetaELBO",
    "Trace_IM",
    "Trace_InfoMaxELBO",
    "WeightedELBO",
    "WeightsLike",
    "surrogate_loss",
    "transmitted_information",
]

BetaELBO = TraceMeanField_BetaELBO

InfoMaxELBO = TraceMeanField_InfoMaxELBO


_INEXACT = {
    "Renyi_BetaELBO": "β tempers the Rényi bound and is wrong for score functions; use Renyi_InfoMaxELBO "
    "with λ = 1/β − 1, or Trace_BetaELBO",
    "RWS_BetaELBO": "β does not reach its wake and sleep losses; use Trace_BetaELBO",
    "TraceTMC_BetaELBO": "β does not reach tensor Monte Carlo weights exactly; use TraceEnum_BetaELBO",
    "Trace_MMD_BetaELBO": "there is no KL term that β could weigh; use TraceMeanField_BetaELBO",
}


def __getattr__(name: str) -> NoReturn:
    if name in _INEXACT:
        raise NotImplementedError(f"{name} does not exist: {_INEXACT[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
