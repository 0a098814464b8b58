"""The modules behind Pyro programs: their parameters in Pyro's store, their names there, and their mode."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Self, final

import pyro
import torch
from pyro.nn import PyroModule
from pyro.params import param_with_module_name
from torch import Tensor, nn

from pyro_infomax._types import Program

# ---- Parameters in Pyro's store, under the name of an instance and with one value in both places.

_last_number: dict[str, int] = {}


@final
class InstanceName(str):
    """The name of one instance in Pyro's store: ``VAE`` for the first, then ``VAE_2``, ``VAE_3`` …

    The store hands out a parameter by its name alone, so two instances of one name would share their
    parameters. A copy is another instance and takes a name of its own. An unpickled instance keeps its
    name, under which a saved store knows it, unless the name is in use in this process.
    """

    prefix: str
    number: int

    def __new__(cls, prefix: str, number: int | None = None) -> Self:
        """Claims the next name, or the given one."""
        number = _last_number.get(prefix, 0) + 1 if number is None else number
        _last_number[prefix] = max(number, _last_number.get(prefix, 0))
        name = super().__new__(cls, prefix if number == 1 else f"{prefix}_{number}")
        name.prefix, name.number = prefix, number
        return name

    def __reduce__(self) -> tuple[object, ...]:
        """Serves pickle and copy alike."""
        return _reclaim, (self.prefix, self.number)


def instance_prefix(name: str) -> str | None:
    """What a name has in common with those of other instances of its class; None for other names."""
    prefix, _, number = name.rpartition("_")
    candidate = prefix if number.isdecimal() else name
    return candidate if candidate in _last_number else None


def _reclaim(prefix: str, number: int) -> InstanceName:
    return InstanceName(prefix, number if number > _last_number.get(prefix, 0) else None)


def register(name: str, module: object) -> None:
    """Makes the parameters of a module known to SVI, as :func:`pyro.module` does.

    A value that the store already holds under the name, as after loading a saved store, is taken over by the
    module; :func:`pyro.module` would leave the module with its initial weights. To be called in a Pyro
    program at each run. A :class:`~pyro.nn.PyroModule` registers itself and is given the name.
    """
    adopt(name, module)
    owner = module_of(module)
    if not isinstance(owner, PyroModule):
        for key, parameter in _trainable(name, owner):
            pyro.param(key, parameter)


def adopt(name: str, module: object) -> None:
    """Takes over the values that Pyro's store holds under the name, and registers nothing."""
    owner = module_of(module)
    if isinstance(owner, PyroModule):
        _name_root(name, owner)
        return
    store = pyro.get_param_store()
    stored = dict(store.named_parameters())
    for key, parameter in _trainable(name, owner):
        if stored.get(key, parameter) is not parameter:
            _take(key, parameter, stored[key])
            store[key] = parameter


def drop_weak_references(module: nn.Module) -> None:
    """Removes what Pyro's store hangs on parameters and pickle refuses; the next run hangs it on again."""
    for parameter in module.parameters():
        parameter.__dict__.pop("unconstrained", None)


def module_of(program: object) -> nn.Module | None:
    """The module that a callable is, or is a method of."""
    owner = program if isinstance(program, nn.Module) else getattr(program, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


def _trainable(name: str, module: nn.Module | None) -> Iterator[tuple[str, Tensor]]:
    for key, parameter in module.named_parameters() if module is not None else ():
        if parameter.requires_grad:
            if not parameter.is_contiguous():
                # The store would keep a contiguous copy, and SVI would train the copy
                parameter.data = parameter.data.contiguous()
            yield param_with_module_name(name, key), parameter


def _take(key: str, parameter: Tensor, value: Tensor) -> None:
    if parameter.shape != value.shape:
        raise ValueError(
            f"Expected parameter {key} of shape {tuple(parameter.shape)} but Pyro's store holds one of "
            f"{tuple(value.shape)}: call pyro.clear_param_store() or build the module as it was saved."
        )
    with torch.no_grad():
        parameter.copy_(value)


def _name_root(name: str, module: PyroModule) -> None:
    # Nameless roots would all register as the same parameters
    if not module._pyro_name:
        module._pyro_set_supermodule(name, module._pyro_context)


# ---- Evaluation mode for the modules behind a pair of programs.


def modules_behind(program: Program) -> list[nn.Module]:
    """The modules that a program visibly runs on, each once and without its submodules.

    These are the program itself, the object of a bound method, and what a partial (a Pyro handler around
    a program is one) holds. What a plain function closes over stays unseen.
    """
    return list(dict.fromkeys(_walk(program)))


@contextmanager
def evaluation_mode(*programs: Program) -> Iterator[None]:
    """Puts the modules behind programs in evaluation mode, and back into the mode of each afterwards."""
    roots = [module for program in programs for module in modules_behind(program)]
    modes = {module: module.training for root in roots for module in root.modules()}
    for root in roots:
        root.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def held_fixed(module: nn.Module) -> Iterator[None]:
    """Has its block pass gradients through a module and none to it, in evaluation mode."""
    trained = [each for each in module.parameters() if each.requires_grad]
    for each in trained:
        each.requires_grad_(False)
    try:
        with evaluation_mode(module):
            yield
    finally:
        for each in trained:
            each.requires_grad_(True)


def _walk(program: object) -> Iterator[nn.Module]:
    if isinstance(program, nn.Module):
        yield program
    elif isinstance(program, partial):
        for part in (program.func, *program.args, *program.keywords.values()):
            yield from _walk(part)
    elif isinstance(owner := getattr(program, "__self__", None), nn.Module):
        yield owner
