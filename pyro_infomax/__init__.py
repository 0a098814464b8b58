"""Train pairs of Pyro programs with objectives that weight the terms of the divergence between their joints.

A VAE is two joint distributions over the same sites: the generative joint p(z) p_θ(x|z) and the
representation joint q_ψ(z|x) p_D(x). pyro_infomax trains such a pair of Pyro programs with objectives that
weight the terms of the divergence between the two joints, and afterwards reports every term, with its error
and the direction of its bound.

What users call first can be imported from here, and every module is an attribute. Importing the package loads
neither Pyro nor torch: each name is loaded at its first use.

    >>> import pyro_infomax
    >>> pyro_infomax.schedules.Linear(0.0, 1.0, steps=10)(5)
    0.5
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from pyro_infomax._version import __version__

if TYPE_CHECKING:
    from pyro_infomax import (
        capture as capture,
        datasets as datasets,
        diagnostics as diagnostics,
        disentanglement as disentanglement,
        distributions as distributions,
        guides as guides,
        infer as infer,
        information as information,
        joint as joint,
        nn as nn,
        oracles as oracles,
        plots as plots,
        poutine as poutine,
        priors as priors,
        programs as programs,
        schedules as schedules,
        sweeps as sweeps,
        training as training,
        vae as vae,
    )
    from pyro_infomax._from_weights import WeightedDraws, from_weights
    from pyro_infomax.capture import CapturedSVI, FusedOptim
    from pyro_infomax.diagnostics import calibrate, compare, decompose, evidence, to_arviz
    from pyro_infomax.infer import BetaELBO, InfoMaxELBO
    from pyro_infomax.joint import generative, representation
    from pyro_infomax.sweeps import sweep
    from pyro_infomax.training import fit
    from pyro_infomax.vae import VAE

__all__ = [
    "VAE",
    "BetaELBO",
    "CapturedSVI",
    "FusedOptim",
    "InfoMaxELBO",
    "WeightedDraws",
    "__version__",
    "calibrate",
    "compare",
    "decompose",
    "evidence",
    "fit",
    "from_weights",
    "generative",
    "representation",
    "sweep",
    "to_arviz",
]

_MODULES = frozenset(name for _, name, _ in iter_modules(__path__) if not name.startswith("_"))
_MODULE_OF = {
    "VAE": "vae",
    "BetaELBO": "infer",
    "CapturedSVI": "capture",
    "FusedOptim": "capture",
    "InfoMaxELBO": "infer",
    "WeightedDraws": "_from_weights",
    "calibrate": "diagnostics",
    "compare": "diagnostics",
    "decompose": "diagnostics",
    "evidence": "diagnostics",
    "fit": "training",
    "from_weights": "_from_weights",
    "generative": "joint",
    "representation": "joint",
    "sweep": "sweeps",
    "to_arviz": "diagnostics",
}


def _loaded(name: str) -> object:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value  # the next access finds it here
    return value


if not TYPE_CHECKING:  # a type checker knows the names from the imports above, and reports any other
    __getattr__ = _loaded


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
