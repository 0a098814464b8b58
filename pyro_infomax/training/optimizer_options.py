"""Options of torch's optimisers: which a class has, which is fastest here, and which can be flattened."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from pyro.optim.adagrad_rmsprop import AdagradRMSProp
from pyro.optim.clipped_adam import ClippedAdam
from torch import Tensor, optim
from torch.optim import Optimizer

# Classes whose step treats each element of a parameter by itself. Exact types: a subclass may do otherwise.
ELEMENTWISE: frozenset[type[Optimizer]] = frozenset(
    {
        optim.ASGD,
        optim.Adadelta,
        optim.Adagrad,
        optim.Adam,
        optim.AdamW,
        optim.Adamax,
        optim.NAdam,
        optim.RAdam,
        optim.RMSprop,
        optim.Rprop,
        optim.SGD,
        AdagradRMSProp,
        ClippedAdam,
    }
)


def check_constructor(constructor: object) -> None:
    """Checks for a class of torch optimisers that steps by gradients alone."""
    if not (isinstance(constructor, type) and issubclass(constructor, Optimizer)):
        raise ValueError(
            "Expected a class of torch optimisers such as torch.optim.Adam but got "
            f"{_described(constructor)}."
        )
    if issubclass(constructor, optim.LBFGS):
        raise ValueError(
            "Expected an optimiser that steps by gradients alone but got LBFGS, which evaluates the loss "
            "anew within its step: take torch.optim.Adam, for instance."
        )


def check_options(constructor: type[Optimizer], options: object) -> None:
    """Checks that a class of optimisers knows the options and has all it needs."""
    if not isinstance(options, dict):
        raise ValueError(f"Expected the options of {constructor.__name__} as a dict but got {options!r}.")
    known = _parameters(constructor)
    if not _takes_any(constructor) and (unknown := [name for name in options if name not in known]):
        raise ValueError(
            f"Expected options of {constructor.__name__} ({', '.join(known)}) "
            f"but got {', '.join(map(repr, unknown))}."
        )
    required = [name for name, each in known.items() if each.default is each.empty]
    if missing := [name for name in required if name not in options]:
        raise ValueError(
            f"Expected {', '.join(map(repr, missing))} among the options of {constructor.__name__} "
            f"but got {dict(options)!r}: give it, for instance {{{missing[0]!r}: 1e-3}}."
        )


def fastest_options(constructor: type[Optimizer], options: Mapping[str, Any], like: Tensor) -> dict[str, Any]:
    """Adds ``fused=True`` where the class has it and it works on the device and dtype of a tensor.

    The user's own choice of ``fused`` or ``foreach`` is kept. Without a fused kernel the choice is left to
    torch, which takes foreach on an accelerator and a loop on a CPU, where foreach is slower.
    """
    chosen = any(options.get(name) is not None for name in ("fused", "foreach"))
    sparse = like.grad is not None and like.grad.layout != torch.strided
    if chosen or sparse or "fused" not in _parameters(constructor):
        return dict(options)
    fused = {**options, "fused": True}
    return fused if _works(constructor, fused, like) else dict(options)


def _works(constructor: type[Optimizer], options: Mapping[str, Any], like: Tensor) -> bool:
    # Which kernels there are differs by version, device and dtype, and shows at the first step at the latest
    probe = torch.zeros(1, dtype=like.dtype, device=like.device)
    probe.grad = torch.zeros_like(probe)
    try:
        constructor([probe], **options).step()
    except (RuntimeError, ValueError, NotImplementedError):
        return False
    return True


def _parameters(constructor: type[Optimizer]) -> dict[str, inspect.Parameter]:
    _, *options = inspect.signature(constructor).parameters.values()
    return {each.name: each for each in options if each.kind != each.VAR_KEYWORD}


def _takes_any(constructor: type[Optimizer]) -> bool:
    return any(each.kind == each.VAR_KEYWORD for each in inspect.signature(constructor).parameters.values())


def _described(constructor: object) -> str:
    if getattr(constructor, "__module__", "").startswith("pyro.optim"):
        name = getattr(constructor, "__name__", "Adam")
        return f"pyro.optim.{name}, which wraps one: pass torch.optim.{name}"
    return repr(constructor)
