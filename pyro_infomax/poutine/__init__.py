"""Per-site weights in an objective, and the plates and frames of a site."""

from pyro_infomax._checks import explain_wrong_arguments
from pyro_infomax.poutine._sites import (
    UnknownPlateError,
    data_frame as data_frame,
    fitting_frames as fitting_frames,
    frames_of as frames_of,
    is_deterministic as is_deterministic,
    minibatch_frame as minibatch_frame,
    plain_errors as plain_errors,
    sample_sites as sample_sites,
)
from pyro_infomax.poutine._weight import (
    SiteWeight,
    SiteWeightMessenger,
    Weight,
    WeightMessenger,
    checked_weight as checked_weight,
    unweighted_log_prob,
    unweighted_scale_and_mask,
    weight,
)

__all__ = [
    "SiteWeight",
    "SiteWeightMessenger",
    "UnknownPlateError",
    "Weight",
    "WeightMessenger",
    "unweighted_log_prob",
    "unweighted_scale_and_mask",
    "weight",
]

explain_wrong_arguments(__name__)
