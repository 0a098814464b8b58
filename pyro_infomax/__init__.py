"""pyro_infomax."""

from pyro_infomax._version import __version__

__all__ = ["__version__"]
