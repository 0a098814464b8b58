"""Train a pair of Pyro programs by weighing the nats by which their joints differ, and account for every nat.

A VAE is two joint distributions over the same sites: the generative joint p(z) p_θ(x|z) and the
representation joint q_ψ(z|x) p_D(x). pyro_infomax trains such a pair of Pyro programs by weighing the nats by
which the two joints differ, and afterwards accounts for every one of those nats.
"""

from pyro_infomax._version import __version__
from pyro_infomax.diagnostics import decompose, to_arviz
from pyro_infomax.infer import BetaELBO, InfoMaxELBO
from pyro_infomax.joint import generative, representation
from pyro_infomax.training import fit
from pyro_infomax.vae import VAE

__all__ = [
    "VAE",
    "BetaELBO",
    "InfoMaxELBO",
    "__version__",
    "decompose",
    "fit",
    "generative",
    "representation",
    "to_arviz",
]
