r"""The two joints of a pair of Pyro programs.

The generative joint :math:`p(z) p_\theta(x \mid z)` is what a model says, the representation joint
:math:`q_\psi(z \mid x) p_D(x)` what a guide and the data say. Both are over the same sites, datum by datum.
"""

from pyro_infomax._checks import explain_wrong_arguments
from pyro_infomax.joint._generative import GenerativeJoint, generative
from pyro_infomax.joint._latent_space import LatentSpace as LatentSpace, cycled as cycled
from pyro_infomax.joint._product import dependences as dependences, in_type_of_sites as in_type_of_sites
from pyro_infomax.joint._representation import (
    Draw,
    RepresentationJoint,
    joined_posteriors as joined_posteriors,
    no_mixture as no_mixture,
    posterior_of_all as posterior_of_all,
    representation,
)

__all__ = ["Draw", "GenerativeJoint", "RepresentationJoint", "generative", "representation"]

explain_wrong_arguments(__name__)
