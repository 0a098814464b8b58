"""Weight messengers: what one site counts for in an objective."""

from pyro_infomax.poutine.weight_messenger import (
    SiteWeight,
    SiteWeightMessenger,
    Weight,
    WeightMessenger,
    checked_weight,
    unweighted_log_prob,
    unweighted_scale_and_mask,
    weight,
)

__all__ = [
    "SiteWeight",
    "SiteWeightMessenger",
    "Weight",
    "WeightMessenger",
    "checked_weight",
    "unweighted_log_prob",
    "unweighted_scale_and_mask",
    "weight",
]
