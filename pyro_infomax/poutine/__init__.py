"""Messengers: what one site counts for in an objective, and programs read datum by datum."""

from pyro_infomax.poutine.data import Data, as_data, count_nan, rows_of
from pyro_infomax.poutine.data_plate import UnknownPlateError, frames_of, is_deterministic, sample_sites
from pyro_infomax.poutine.local_program import LocalProgram
from pyro_infomax.poutine.placeholder import Placeholder, needs_data, no_placeholder_parameters
from pyro_infomax.poutine.plain_error import plain_errors
from pyro_infomax.poutine.point_mass import is_point_mass
from pyro_infomax.poutine.rows_messenger import RowsMessenger
from pyro_infomax.poutine.site_layout import SiteLayout
from pyro_infomax.poutine.values_messenger import ProgramStopped, ValuesMessenger
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
    "Data",
    "LocalProgram",
    "Placeholder",
    "ProgramStopped",
    "RowsMessenger",
    "SiteLayout",
    "SiteWeight",
    "SiteWeightMessenger",
    "UnknownPlateError",
    "ValuesMessenger",
    "Weight",
    "WeightMessenger",
    "as_data",
    "checked_weight",
    "count_nan",
    "frames_of",
    "is_deterministic",
    "is_point_mass",
    "needs_data",
    "no_placeholder_parameters",
    "plain_errors",
    "rows_of",
    "sample_sites",
    "unweighted_log_prob",
    "unweighted_scale_and_mask",
    "weight",
]
