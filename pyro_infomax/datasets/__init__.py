"""Real and rendered images, ready to be the :math:`p_D(x)` of a representation joint."""

from pyro_infomax.datasets.binarization import binarize
from pyro_infomax.datasets.digits import load_digits
from pyro_infomax.datasets.factor_arrays import FactorArrays
from pyro_infomax.datasets.factor_dataset import FactorDataset
from pyro_infomax.datasets.factor_images import FactorImages
from pyro_infomax.datasets.images import LabelledImages
from pyro_infomax.datasets.npz import load_npz
from pyro_infomax.datasets.official_dsprites import load_dsprites
from pyro_infomax.datasets.official_shapes3d import load_shapes3d
from pyro_infomax.datasets.paints import Grey, GreyLevels, Hues, Noise, Paint, RandomColour
from pyro_infomax.datasets.patches import load_patches
from pyro_infomax.datasets.sprites import Sprites

__all__ = [
    "FactorArrays",
    "FactorDataset",
    "FactorImages",
    "Grey",
    "GreyLevels",
    "Hues",
    "LabelledImages",
    "Noise",
    "Paint",
    "RandomColour",
    "Sprites",
    "binarize",
    "load_digits",
    "load_dsprites",
    "load_npz",
    "load_patches",
    "load_shapes3d",
]
