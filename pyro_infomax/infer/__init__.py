"""The objectives: Pyro's ELBOs with a weight for each term of the divergence between the joints.

A class is named as Pyro names its own, estimator first: ``TraceMeanField_InfoMaxELBO`` is
``TraceMeanField_ELBO`` with the InfoMax weight. :data:`BetaELBO` and :data:`InfoMaxELBO` are the mean-field
ones. The ``_IM`` classes train the input of a given channel, by the IM algorithm.
"""

from typing import NoReturn

from pyro_infomax._checks import explain_wrong_arguments
from pyro_infomax.infer._adversarial import AVB, AdversarialELBO, FactorVAE, SymmetricELBO
from pyro_infomax.infer._decomposed import (
    AggregateELBO,
    DecomposedELBO,
    DirectInfoMax,
    GroupedELBO,
    MarginalELBO,
    SizedELBO,
    beta_tcvae,
    hfvae,
    infovae,
)
from pyro_infomax.infer._elbo import SurrogateLoss, Terms, WeightedELBO, surrogate_loss
from pyro_infomax.infer._enum import TraceEnum_WeightedELBO
from pyro_infomax.infer._estimators import (
    Trace_WeightedELBO,
    TraceGraph_WeightedELBO,
    TraceMeanField_WeightedELBO,
)
from pyro_infomax.infer._im import (
    IMParts,
    PowerLimitedNormal,
    Trace_IM,
    TraceEnum_IM,
    TraceGraph_IM,
    transmitted_information,
)
from pyro_infomax.infer._latents import LocalLatents
from pyro_infomax.infer._moments import (
    DIPELBO,
    MMDELBO,
    DiscrepancyELBO,
    SlicedWassersteinELBO,
    mmd_vae,
    wae,
)
from pyro_infomax.infer._multi_sample import (
    DReG_InfoMaxELBO,
    IWAE_InfoMaxELBO,
    Renyi_InfoMaxELBO,
    Renyi_WeightedELBO,
    STL_BetaELBO,
    STL_InfoMaxELBO,
    TVO_InfoMaxELBO,
    VIMCO_InfoMaxELBO,
)
from pyro_infomax.infer._named import (
    Trace_BetaELBO,
    Trace_InfoMaxELBO,
    TraceEnum_BetaELBO,
    TraceEnum_InfoMaxELBO,
    TraceGraph_BetaELBO,
    TraceGraph_InfoMaxELBO,
    TraceMeanField_BetaELBO,
    TraceMeanField_InfoMaxELBO,
)
from pyro_infomax.infer._targets import CapacityELBO, ConstrainedELBO, FreeBitsELBO
from pyro_infomax.infer._two_directions import HarmonyELBO, ReverseKL, RWS_InfoMaxELBO, WakeSleepELBO
from pyro_infomax.infer._weights import TermWeights, WeightsLike

__all__ = [
    "AVB",
    "DIPELBO",
    "MMDELBO",
    "AdversarialELBO",
    "AggregateELBO",
    "BetaELBO",
    "CapacityELBO",
    "ConstrainedELBO",
    "DReG_InfoMaxELBO",
    "DecomposedELBO",
    "DirectInfoMax",
    "DiscrepancyELBO",
    "FactorVAE",
    "FreeBitsELBO",
    "GroupedELBO",
    "HarmonyELBO",
    "IMParts",
    "IWAE_InfoMaxELBO",
    "InfoMaxELBO",
    "LocalLatents",
    "MarginalELBO",
    "PowerLimitedNormal",
    "RWS_InfoMaxELBO",
    "Renyi_InfoMaxELBO",
    "Renyi_WeightedELBO",
    "ReverseKL",
    "STL_BetaELBO",
    "STL_InfoMaxELBO",
    "SizedELBO",
    "SlicedWassersteinELBO",
    "SurrogateLoss",
    "SymmetricELBO",
    "TVO_InfoMaxELBO",
    "TermWeights",
    "Terms",
    "TraceEnum_BetaELBO",
    "TraceEnum_IM",
    "TraceEnum_InfoMaxELBO",
    "TraceEnum_WeightedELBO",
    "TraceGraph_BetaELBO",
    "TraceGraph_IM",
    "TraceGraph_InfoMaxELBO",
    "TraceGraph_WeightedELBO",
    "TraceMeanField_BetaELBO",
    "TraceMeanField_InfoMaxELBO",
    "TraceMeanField_WeightedELBO",
    "Trace_BetaELBO",
    "Trace_IM",
    "Trace_InfoMaxELBO",
    "Trace_WeightedELBO",
    "VIMCO_InfoMaxELBO",
    "WakeSleepELBO",
    "WeightedELBO",
    "WeightsLike",
    "beta_tcvae",
    "hfvae",
    "infovae",
    "mmd_vae",
    "surrogate_loss",
    "transmitted_information",
    "wae",
]

BetaELBO = TraceMeanField_BetaELBO

InfoMaxELBO = TraceMeanField_InfoMaxELBO


_INEXACT = {
    "Renyi_BetaELBO": "β tempers the Rényi bound and is wrong for score functions; use Renyi_InfoMaxELBO "
    "with λ = 1/β − 1, or Trace_BetaELBO",
    **{
        f"{name}_BetaELBO": "draws that weigh p(x|z) (p(z)/q(z|x))^β have no mean that is an integral over z "
        f"alone, so that nothing would be bounded; use {name}_InfoMaxELBO with λ = 1/β − 1, or STL_BetaELBO"
        for name in ("IWAE", "DReG", "VIMCO", "TVO")
    },
    "RWS_BetaELBO": "β does not reach its wake and sleep losses; use RWS_InfoMaxELBO with λ = 1/β − 1, or "
    "Trace_BetaELBO",
    "TraceTMC_BetaELBO": "β does not reach tensor Monte Carlo weights exactly; use TraceEnum_BetaELBO",
    "Trace_MMD_BetaELBO": "there is no KL term that β could weight; use TraceMeanField_BetaELBO",
}


def __getattr__(name: str) -> NoReturn:
    if name in _INEXACT:
        raise NotImplementedError(f"{name} does not exist: {_INEXACT[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


explain_wrong_arguments(__name__)
