"""Real and rendered images, ready to be the :math:`p_D(x)` of a representation joint."""

from pyro_infomax.datasets.binarization import binarize
from pyro_infomax.datasets.digits import load_digits
from pyro_infomax.datasets.images import LabelledImages
from pyro_infomax.datasets.npz import load_npz
from pyro_infomax.datasets.patches import load_patches

__all__ = ["LabelledImages", "binarize", "load_digits", "load_npz", "load_patches"]
