"""The bounds between which the population's information lies, and the ceiling of what N data can show."""

import math
from dataclasses import replace
from typing import Final

from pyro_infomax.information import Account, Estimate

__all__ = ["ceiling", "is_saturated", "lower", "upper"]

_POPULATION: Final = "the mutual information of the representation in the population"
_SATURATION: Final = 1.0  # nats below the ceiling


def lower(account: Account) -> Estimate:
    """The exact mixture."""
    return replace(account.mutual_information, bound="lower", target=_POPULATION)


def upper(account: Account) -> Estimate:
    """The smaller of the two upper bounds, where there are two.

    The rate against a prior that depends on the data bounds nothing; a single datum, which has no other to
    leave in, cannot show such a prior.
    """
    bounds = [] if account.draws.prior is None else [account.rate]
    if account.draws.data_size > 1:
        bounds.append(account.leave_one_out)
    return replace(min(bounds, key=float), bound="upper", target=_POPULATION)


def ceiling(data_size: int) -> float:
    """ln N, which no information under N data exceeds."""
    return math.log(data_size)


def is_saturated(information: Estimate, data_size: int) -> bool:
    """Whether the information says more about N than about the representation."""
    return float(information) > ceiling(data_size) - _SATURATION
