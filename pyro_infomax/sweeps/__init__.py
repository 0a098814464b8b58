"""A function at every point of a grid, in this process or many, with a store that resumes."""

from pyro_infomax._checks import explain_wrong_arguments
from pyro_infomax.sweeps._sweep import sweep

__all__ = ["sweep"]

explain_wrong_arguments(__name__)
