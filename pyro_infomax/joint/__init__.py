r"""The two joints of a pair of Pyro programs.

The generative joint :math:`p(z) p_\theta(x \mid z)` is what a model says, the representation joint
:math:`q_\psi(z \mid x) p_D(x)` what a guide and the data say. Both are over the same sites, datum by datum.
"""

from pyro_infomax.joint.generative_joint import GenerativeJoint, generative
from pyro_infomax.joint.representation_joint import Draw, RepresentationJoint, representation

__all__ = ["Draw", "GenerativeJoint", "RepresentationJoint", "generative", "representation"]
