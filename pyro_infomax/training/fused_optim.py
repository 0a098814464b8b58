"""Pyro's optimiser with one kernel a step, instead of one torch optimiser a parameter."""

import copy
import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import pyro
import torch
from pyro.optim import PyroOptim
from pyro.params.param_store import (
    module_from_param_with_module_name,
    normalize_param_name,
    user_param_name,
)
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from pyro_infomax.training.flat_group import (
    FlatGroup,
    LooseGroup,
    ParameterGroup,
    Scheduler,
    can_flatten,
    overlapping_tensors,
)
from pyro_infomax.training.optimizer_options import (
    ELEMENTWISE,
    check_constructor,
    check_options,
    fastest_options,
)
from pyro_infomax.training.optimizer_state import ParameterState, frozen

_CACHED_SETS = 256
_ALIGNED = 16


@final
class FusedOptim(PyroOptim):
    r"""Pyro's optimiser with one torch optimiser over all parameters, so that a step is one kernel.

    :class:`pyro.optim.PyroOptim` makes a torch optimiser for each parameter, which takes a third of the time
    of a step of a small model. Here the parameters of one dtype, device and set of options become views into
    one flat buffer, which one optimiser steps, fused where torch has that. It gives what PyroOptim gives, up
    to rounding: options may differ by parameter, a parameter that appears later has a step count of its
    own, and one that stays out of a step is not moved, not even by its momentum.

    Only optimisers that treat each element by itself are flattened (Adam, AdamW, SGD, RMSprop, Adagrad,
    Adadelta, Adamax, NAdam, RAdam, ASGD, Rprop, Pyro's ClippedAdam and AdagradRMSProp). For others, for
    complex parameters, for sparse gradients and for parameters that share memory, the parameters stay where
    they are. LBFGS is refused, since it needs a closure.

    Gradients are taken from ``.grad``, which is None after a step, so that Pyro's ``zero_grads`` has nothing
    left to do. Hence a parameter that is stated in a step without taking part in its loss is not moved
    either. (PyroOptim takes the zeros that ``zero_grads`` has left there for a gradient.)

    Values move into the buffer at the first step, so a tensor that shared memory with a parameter before,
    such as ``parameter.detach()``, no longer follows it. Where ``.to()``, ``.double()`` or
    ``parameter.data = ...`` take a parameter out of its buffer, the next step lays out the buffers anew and
    keeps the moments of parameters of the same shape. Parameters have storages of their own over the memory
    of the buffer, so that ``torch.save`` of one of them does not write the others.

    Reference: D. P. Kingma and J. Ba (2015), Adam: A Method for Stochastic Optimization.

    Args:
        optim_constructor: a class of torch optimisers, such as ``torch.optim.Adam``.
        optim_args: its options as a dict, or a function from the name of a parameter to such a dict, as in
            Pyro. ``fused`` and ``foreach`` are chosen for you unless you give one of them.
        clip_norm: the largest Euclidean norm of the gradient over all parameters of a step; a longer one is
            scaled down to it, as :func:`torch.nn.utils.clip_grad_norm_` does. (Pyro's own ``clip_args`` clip
            each parameter by itself.) None does not clip.
        scheduler: a function from a torch optimiser to a learning-rate scheduler, which :meth:`step`
            advances.

    Raises:
        ValueError: for what is no class of torch optimisers, for LBFGS, for options that the class does not
            have or that it lacks, and for clip_norm <= 0.

    Example:
        >>> import pyro, torch
        >>> from pyro import distributions as dist
        >>> from pyro.infer import SVI, Trace_ELBO
        >>> pyro.clear_param_store()
        >>> def model(x):
        ...     loc = pyro.param("loc", torch.zeros((), dtype=torch.float64))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
        >>> optim = FusedOptim(
        ...     torch.optim.Adam,
        ...     {"lr": 0.1},
        ...     clip_norm=10.0,
        ...     scheduler=lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.99),
        ... )
        >>> svi = SVI(model, lambda x: None, optim, Trace_ELBO())
        >>> for _ in range(100):
        ...     loss = svi.step(torch.full((20,), 3.0, dtype=torch.float64))
        ...     optim.step()
        >>> bool((pyro.param("loc") - 3.0).abs() < 0.1)
        True
    """

    def __init__(
        self,
        optim_constructor: type[Optimizer],
        optim_args: dict[str, Any] | Callable[..., dict[str, Any]],
        *,
        clip_norm: float | None = None,
        scheduler: Callable[[Optimizer], Scheduler] | None = None,
    ) -> None:
        check_constructor(optim_constructor)
        if not callable(optim_args):
            check_options(optim_constructor, optim_args)
        _check_clip_norm(clip_norm)
        _check_scheduler(scheduler)
        self._constructor = optim_constructor
        super().__init__(optim_constructor=optim_constructor, optim_args=optim_args)
        self.clip_norm = clip_norm
        self.scheduler = scheduler
        self._names: dict[Tensor, str] = {}
        self._given: dict[Tensor, Mapping[str, Any]] = {}
        self._groups: list[ParameterGroup] = []
        self._cached: dict[frozenset[Tensor], tuple[ParameterGroup, ...]] = {}
        self._last: tuple[object, tuple[ParameterGroup, ...]] = ((), ())

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """Steps parameters by their ``.grad``, and leaves None there.

        Args:
            params: unconstrained leaf tensors. One without a gradient is not moved.
            *args: none, as there is no closure.
            **kwargs: none.
        """
        if args or kwargs:
            raise ValueError(f"Expected parameters alone but got {args or kwargs} too: there is no closure.")
        groups = self._with_gradients(params)
        whole = self.clip_norm is not None
        self._step(groups, [gradient for group in groups for gradient in group.gather(whole=whole)])

    def groups(self, params: Iterable[Tensor]) -> tuple[ParameterGroup, ...]:
        """The groups that make up just these parameters, laid out anew where needed.

        A group is split when only a part of it is asked for; moments, step count and schedule go with each
        part. The values of the parameters lie in the buffers afterwards.

        Args:
            params: unconstrained leaf tensors. Asking with the same tuple again costs next to nothing.
        """
        if params is self._last[0]:
            found: tuple[ParameterGroup, ...] | None = self._last[1]
        else:
            params = params if isinstance(params, Collection) else tuple(params)
            found = self._cached.get(frozenset(params))
        if found is None or not self.optim_objs or not all(group.intact for group in found):
            found = self._arrange(params)
        if isinstance(params, (tuple, frozenset)):
            self._last = params, found
        return found

    def apply(self, groups: Sequence[ParameterGroup], gradients: Sequence[Tensor]) -> None:
        """Steps groups by one flat gradient each.

        Args:
            groups: as :meth:`groups` has returned them for this step.
            gradients: for each group the gradients of its parameters, flattened and concatenated in their
                order. With ``clip_norm`` they are scaled in place.
        """
        for group, gradient in zip(groups, gradients, strict=True):
            group.accept(gradient)
        self._step(groups, gradients)

    def step(self, *args: Any, **kwargs: Any) -> None:
        """Advances the learning-rate schedulers, as :class:`pyro.optim.lr_scheduler.PyroLRScheduler` does.

        Args:
            *args: for the schedulers, such as the loss that ReduceLROnPlateau watches.
            **kwargs: for the schedulers.

        Raises:
            ValueError: without schedulers.
        """
        if self.scheduler is None:
            raise ValueError("Expected an optimiser with a scheduler but got none: pass scheduler= to it.")
        for scheduler in (group.scheduler for group in self._groups):
            scheduler.step(*args, **kwargs)

    def get_state(self) -> dict[str, Any]:
        """Copies of what is kept for each parameter, by its name.

        The form is that of :meth:`pyro.optim.PyroOptim.get_state`, of tensors and plain values only, so
        that ``torch.load(..., weights_only=True)`` reads it. It also tells how the buffers are laid out:
        a kernel rounds an element by where it lies, and a training that goes on from the state does so to
        the bit.

        Raises:
            ValueError: for a parameter without a name.
        """
        found: dict[str, Any] = {}
        for number, group in enumerate(self._groups):
            for position, parameter in enumerate(group.parameters):
                name = self._required_name(parameter)
                if name not in found or pyro.get_param_store().param_name(parameter) == name:
                    found[name] = group.state(position).to_pyro(place=(number, position))
        return found | copy.deepcopy(self._waiting)

    def set_state(self, state_dict: Mapping[str, Any]) -> None:
        """Takes up a state at the next step, also one of a PyroOptim with the same torch optimiser.

        Args:
            state_dict: what :meth:`get_state` gave. What belongs to parameters that do not exist yet waits
                for them; parameters that it does not name keep their own.
        """
        super().set_state(dict(state_dict))
        self._changed()

    def state_dict(self) -> dict[str, Any]:
        """The same as :meth:`get_state`."""
        return self.get_state()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """The same as :meth:`set_state`."""
        self.set_state(state_dict)

    def load(self, filename: str, map_location: Any = None) -> None:
        """Takes up the state from a file that ``save`` has written, read with ``weights_only=True``."""
        self.set_state(torch.load(filename, map_location=map_location, weights_only=True))

    def forget(self) -> None:
        """Drops all moments, step counts and schedules; the parameters stay as they are."""
        self._groups.clear()
        self._given.clear()
        self.optim_objs.clear()
        self._changed()

    def name_parameters(self, parameters: Mapping[str, Tensor]) -> None:
        """Names parameters that the parameter store does not know, such as those local to a module.

        Args:
            parameters: unconstrained leaf tensors by name.
        """
        self._names.update({parameter: name for name, parameter in parameters.items()})

    def _step(self, groups: Sequence[ParameterGroup], gradients: Sequence[Tensor]) -> None:
        if self.clip_norm is not None and gradients:
            _clip(list(gradients), self.clip_norm)
        for group in groups:
            group.step()

    def _with_gradients(self, params: Iterable[Tensor]) -> tuple[ParameterGroup, ...]:
        # Pyro has an optimiser, and a schedule, begin with the first statement of a parameter
        groups = self.groups(params)
        parameters = [parameter for group in groups for parameter in group.parameters]
        present = [parameter for parameter in parameters if parameter.grad is not None]
        return groups if len(present) == len(parameters) else self.groups(present)

    def _changed(self) -> None:
        self._cached.clear()
        self._last = (), ()

    def _arrange(self, params: Iterable[Tensor]) -> tuple[ParameterGroup, ...]:
        if not self.optim_objs:
            self.forget()
        wanted = dict.fromkeys(self._ordered(params))
        members = [*self._dissolved(wanted), *self._new(wanted)]
        if members:
            self._changed()
            self._regroup(members)
        found = tuple(group for group in self._groups if group.parameters[0] in wanted)
        if len(self._cached) >= _CACHED_SETS:
            self._cached.clear()
        self._cached[frozenset(wanted)] = found
        return found

    def _ordered(self, params: Iterable[Tensor]) -> list[Tensor]:
        # The order of a set of tensors is their place in memory, which no two processes share
        if not isinstance(params, (set, frozenset)):
            return list(params)
        known = (parameter for _, parameter in pyro.get_param_store().named_parameters())
        rank = {parameter: place for place, parameter in enumerate((*known, *self._names))}
        return sorted(params, key=lambda parameter: rank.get(parameter, len(rank)))

    def _dissolved(self, wanted: Collection[Tensor]) -> list["_Member"]:
        """Takes apart groups that are broken, wanted in part only, or whose state is to be replaced."""
        members = []
        for group in [group for group in self._groups if not self._stays(group, wanted)]:
            self._groups.remove(group)
            for position, parameter in enumerate(group.parameters):
                state = self._awaited(parameter) or group.carried_state(position)
                members.append(self._member(parameter, state, origin=(id(group), parameter in wanted)))
        return members

    def _stays(self, group: ParameterGroup, wanted: Collection[Tensor]) -> bool:
        inside = sum(parameter in wanted for parameter in group.parameters)
        awaited = any(self._name(parameter) in self._waiting for parameter in group.parameters)
        return group.intact and inside in (0, len(group.parameters)) and not awaited

    def _new(self, wanted: Iterable[Tensor]) -> list["_Member"]:
        fresh = [parameter for parameter in wanted if parameter not in self.optim_objs]
        members = [self._member(parameter, self._awaited(parameter), origin=None) for parameter in fresh]
        # As saved, to the bit: a kernel rounds an element by where in the buffer it lies
        return sorted(members, key=_Member.saved_place)

    def _member(self, parameter: Tensor, state: ParameterState | None, *, origin: Hashable) -> "_Member":
        return _Member(parameter, state, self._options_of(parameter), origin)

    def _regroup(self, members: Sequence["_Member"]) -> None:
        everything = [*(m.parameter for m in members), *(p for g in self._groups for p in g.parameters)]
        overlapping = overlapping_tensors(everything)
        together: dict[tuple[Hashable, bool, int | None], list[_Member]] = {}
        for member in members:
            alone = id(member.parameter) if member.parameter in overlapping else None
            loose = alone is not None or not self._can_flatten(member.parameter)
            together.setdefault((member.key, loose, alone), []).append(member)
        for (_, loose, _), group in together.items():
            self._add_group(group, LooseGroup if loose else FlatGroup)

    def _add_group(self, members: Sequence["_Member"], kind: type[ParameterGroup]) -> None:
        # What comes after a tensor of odd size lies askew, which slows matrix products: such tensors last
        members = sorted(members, key=lambda member: member.parameter.numel() % _ALIGNED != 0)
        first = members[0]
        options = fastest_options(self._constructor, first.options, first.parameter)
        group = kind(
            [member.parameter for member in members],
            make_optimizer=partial(self._constructor, **options),
            make_scheduler=self.scheduler,
            states=[member.state for member in members if member.state is not None],
        )
        self._groups.append(group)
        for parameter in group.parameters:
            self.optim_objs[parameter] = group.scheduler or group.optimizer

    def _can_flatten(self, parameter: Tensor) -> bool:
        return self._constructor in ELEMENTWISE and can_flatten(parameter)

    def _awaited(self, parameter: Tensor) -> ParameterState | None:
        name = self._name(parameter)
        if name not in self._waiting:
            return None
        state = ParameterState.from_pyro(self._waiting[name])
        if self._constructor in ELEMENTWISE and not state.fits(parameter):
            raise ValueError(
                f"Expected a state of the parameter {name!r} of shape {tuple(parameter.shape)} but got "
                f"{ {each: tuple(value.shape) for each, value in state.elementwise.items()} }."
            )
        del self._waiting[name]
        return state

    @property
    def _waiting(self) -> dict[str, Any]:
        return self._state_waiting_to_be_consumed

    def _name(self, parameter: Tensor) -> str | None:
        # Remembered, for the store may have been cleared in the meantime
        name = pyro.get_param_store().param_name(parameter)
        if name is None:
            return self._names.get(parameter)
        self._names[parameter] = name
        return name

    def _required_name(self, parameter: Tensor) -> str:
        name = self._name(parameter)
        if name is None:
            raise ValueError(
                "Expected every parameter to have a name in the parameter store but got one of shape "
                f"{tuple(parameter.shape)} without: call name_parameters first."
            )
        return name

    def _options_of(self, parameter: Tensor) -> Mapping[str, Any]:
        given = self.pt_optim_args
        if not callable(given):
            return given
        if parameter not in self._given:
            self._given[parameter] = self._ask(given, parameter)
        return self._given[parameter]

    def _ask(self, give: Callable[..., Mapping[str, Any]], parameter: Tensor) -> Mapping[str, Any]:
        name = self._name(parameter)
        if name is None:
            raise ValueError(
                "Expected a parameter with a name, of which optim_args is a function, but got one of shape "
                f"{tuple(parameter.shape)} without: call name_parameters first."
            )
        if self.pt_optim_args_argc == 1:
            options = give(normalize_param_name(name))
        else:
            options = give(module_from_param_with_module_name(name), user_param_name(name))
        check_options(self._constructor, options)
        return options


@final
@dataclass(frozen=True, eq=False)
class _Member:
    """A parameter on its way into a group."""

    parameter: Tensor
    state: ParameterState | None
    options: Mapping[str, Any]
    origin: Hashable

    @property
    def key(self) -> Hashable:
        """Equal for parameters that may come into one group."""
        tensor, state = self.parameter, self.state
        saved = None if state is None else (state.key, state.place and state.place[0])
        return self.origin, tensor.dtype, tensor.device, frozen(self.options), saved

    def saved_place(self) -> tuple[float, float]:
        place = self.state.place if self.state else None
        return (math.inf, math.inf) if place is None else (place[0], place[1])


def _clip(gradients: list[Tensor], clip_norm: float) -> None:
    factor = (clip_norm / (get_total_norm(gradients) + 1e-6)).clamp_(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor.to(gradient.device))


def _check_clip_norm(clip_norm: object) -> None:
    if clip_norm is not None and not (isinstance(clip_norm, (int, float)) and clip_norm > 0):
        raise ValueError(f"Expected clip_norm > 0 or None but got {clip_norm!r}.")


def _check_scheduler(scheduler: object) -> None:
    if scheduler is not None and not callable(scheduler):
        raise ValueError(
            "Expected scheduler to be a function from a torch optimiser to a scheduler but got "
            f"{scheduler!r}: pass, for instance, lambda optimizer: ExponentialLR(optimizer, gamma=0.99)."
        )
