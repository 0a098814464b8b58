"""What an optimiser of Pyro's keeps for each parameter: dropped, read and put back."""

from collections.abc import Callable, Mapping
from typing import Any

from pyro.optim import PyroOptim
from pyro.optim.optim import _get_state_dict, _load_state_dict

from pyro_infomax.training.fused_optim import FusedOptim
from pyro_infomax.training.program_state import ProgramState


def forget_moments(optim: PyroOptim) -> None:
    """Drops the moments, step counts and schedules of all parameters, which begin anew.

    Example:
        >>> import torch
        >>> from pyro.optim import Adam
        >>> parameter = torch.ones(1, requires_grad=True)
        >>> parameter.grad = torch.ones(1)
        >>> optim = Adam({"lr": 0.1})
        >>> optim([parameter])
        >>> forget_moments(optim)
        >>> optim.get_state()
        {}
    """
    if isinstance(optim, FusedOptim):
        optim.forget()
        return
    optim.optim_objs.clear()
    optim.grad_clip.clear()


def read_moments(optim: PyroOptim, programs: ProgramState) -> dict[str, Any]:
    """What the optimiser keeps, by the stable names of the parameters; the tensors may be its own.

    Args:
        optim: the optimiser.
        programs: knows the parameters. Pyro itself has no names for those that a module keeps to itself.
    """
    parameters, names = programs.parameters, programs.stable_names
    if isinstance(optim, FusedOptim):
        optim.name_parameters(parameters)
        kept = optim.get_state()
    else:
        objects = {name: optim.optim_objs.get(leaf) for name, leaf in parameters.items()}
        kept = {name: _get_state_dict(each) for name, each in objects.items() if each is not None}
        kept = dict(optim._state_waiting_to_be_consumed) | kept
    return {names.get(name, name): state for name, state in kept.items()}


def prepare_moments(optim: PyroOptim, state: Mapping[str, Any], programs: ProgramState) -> Callable[[], None]:
    """Gets ready to put back what :func:`read_moments` has read.

    Args:
        optim: the optimiser.
        state: by the stable name of the parameter; what belongs to parameters that do not exist yet waits for
            them.
        programs: knows the parameters.

    Returns:
        What puts it back. Until then, nothing has changed.
    """
    parameters = programs.parameters
    sites = {stable: name for name, stable in programs.stable_names.items()}
    waiting = {sites.get(name, name): kept for name, kept in state.items()}
    ready = {}
    if not isinstance(optim, FusedOptim):
        for name in waiting.keys() & parameters.keys():
            ready[parameters[name]] = optim._get_optim(parameters[name])
            _load_state_dict(ready[parameters[name]], waiting.pop(name))

    def put_back() -> None:
        forget_moments(optim)
        if isinstance(optim, FusedOptim):
            optim.name_parameters(parameters)
        optim._state_waiting_to_be_consumed.clear()
        for leaf, torch_optim in ready.items():
            optim.optim_objs[leaf] = torch_optim
            optim.grad_clip[leaf] = optim._get_grad_clip(leaf)  # type: ignore[arg-type]
        optim.set_state(waiting)

    return put_back
