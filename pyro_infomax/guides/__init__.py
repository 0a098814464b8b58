"""Amortised guides q(z|x) for any Pyro model with a plate of data."""

from pyro_infomax.guides.amortized_guide import AmortizedGuide
from pyro_infomax.guides.amortized_normal import AmortizedNormal
from pyro_infomax.guides.prototype import LatentSite

__all__ = ["AmortizedGuide", "AmortizedNormal", "LatentSite"]
