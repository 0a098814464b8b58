"""What the package asks of distributions: supports, transforms, products, closed forms, quantiles and flows.

The modules that need Pyro are imported when one of their names is first asked for, so that estimators on bare
torch posteriors do without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

from pyro_infomax._checks import explain_wrong_arguments
from pyro_infomax.distributions._divergences import closed_divergence
from pyro_infomax.distributions._families import (
    diagonal_normal as diagonal_normal,
    family_name as family_name,
    full_name as full_name,
    has_all_moments as has_all_moments,
    in_double as in_double,
    in_dtype_of as in_dtype_of,
    is_angular as is_angular,
    is_called as is_called,
    is_discrete as is_discrete,
    is_factorised as is_factorised,
    is_normal as is_normal,
    is_one_hot as is_one_hot,
    is_point_mass,
    is_relaxed as is_relaxed,
    made_of as made_of,
    shapes_in_words as shapes_in_words,
    without_masks as without_masks,
)
from pyro_infomax.distributions._parameters import (
    batch_mapped as batch_mapped,
    check_parameters as check_parameters,
    in_parts as in_parts,
    is_parametric as is_parametric,
    tensors_of as tensors_of,
    vector_of as vector_of,
)
from pyro_infomax.distributions._posterior import Density as Density, Posterior
from pyro_infomax.distributions._products import (
    ClosedForms as ClosedForms,
    Coordinates as Coordinates,
    Marginals as Marginals,
    SideBySide as SideBySide,
    coordinates_of as coordinates_of,
    factors_of as factors_of,
    joined as joined,
    joint_forms as joint_forms,
    known_covariance as known_covariance,
    known_mean as known_mean,
    marginal_forms as marginal_forms,
    marginals_of as marginals_of,
    moments as moments,
    parts_of as parts_of,
)
from pyro_infomax.distributions._quantiles import (
    check_levels as check_levels,
    closed_quantiles as closed_quantiles,
    sorted_quantiles as sorted_quantiles,
)
from pyro_infomax.distributions._transforms import (
    ON_ITS_BATCH as ON_ITS_BATCH,
    LowerCholesky as LowerCholesky,
    Softplus as Softplus,
    is_plain as is_plain,
    lower_triangular as lower_triangular,
    shared as shared,
)

if TYPE_CHECKING:
    from pyro_infomax.distributions._flows import (
        CouplingFlow,
        Flow,
        FlowDistribution,
        LazyFlow,
        TransformFlow,
        to_flow,
    )
    from pyro_infomax.distributions._straight_through import (
        StraightThroughBernoulli,
        StraightThroughOneHotCategorical,
        check_temperature as check_temperature,
    )
    from pyro_infomax.distributions._support import (
        SiteTransform,
        alternatives as alternatives,
        unwrapped as unwrapped,
    )

__all__ = [
    "CouplingFlow",
    "Flow",
    "FlowDistribution",
    "LazyFlow",
    "Posterior",
    "SiteTransform",
    "StraightThroughBernoulli",
    "StraightThroughOneHotCategorical",
    "TransformFlow",
    "closed_divergence",
    "is_point_mass",
    "to_flow",
]

_WITH_PYRO: Final = {
    **dict.fromkeys(
        ("CouplingFlow", "Flow", "FlowDistribution", "LazyFlow", "TransformFlow", "to_flow"), "_flows"
    ),
    **dict.fromkeys(
        ("StraightThroughBernoulli", "StraightThroughOneHotCategorical", "check_temperature"),
        "_straight_through",
    ),
    **dict.fromkeys(("SiteTransform", "alternatives", "unwrapped"), "_support"),
}


def __getattr__(name: str) -> object:
    if name not in _WITH_PYRO:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_WITH_PYRO[name]}"), name)
    globals()[name] = found
    explain_wrong_arguments(__name__, [name])
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_WITH_PYRO})


explain_wrong_arguments(__name__)
