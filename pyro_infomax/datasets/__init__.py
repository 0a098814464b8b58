"""Real and rendered images, ready to be the :math:`p_D(x)` of a representation joint."""

from pyro_infomax._checks import explain_wrong_arguments
from pyro_infomax.datasets._factor_arrays import FactorArrays, load_dsprites, load_shapes3d
from pyro_infomax.datasets._factors import FactorDataset, FactorImages
from pyro_infomax.datasets._images import (
    LabelledImages,
    binarize,
    load_digits,
    load_idx,
    load_npz,
    load_patches,
)
from pyro_infomax.datasets._paints import Grey, GreyLevels, Hues, Noise, Paint, RandomColour
from pyro_infomax.datasets._sprites import Sprites

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
    "load_idx",
    "load_npz",
    "load_patches",
    "load_shapes3d",
]

explain_wrong_arguments(__name__)
