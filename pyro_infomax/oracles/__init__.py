"""Problems whose answer is known in closed form. An oracle imports nothing that it judges."""

from .explaining_away import ExplainingAway
from .linear_gaussian import LinearGaussian

__all__ = ["ExplainingAway", "LinearGaussian"]
