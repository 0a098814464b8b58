"""What a pair of programs keeps between runs: its parameters and the buffers of its modules."""

import weakref
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

import pyro
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, nn
from torch.distributions import transform_to
from torch.nn.modules.module import register_module_forward_pre_hook

from pyro_infomax.nn.module_modes import modules_behind
from pyro_infomax.training.random_streams import RandomStreams
from pyro_infomax.training.stable_names import StableNames

Program = Callable[..., Any]
Place = tuple[nn.Module, str]


@final
class ProgramState:
    """The live tensors that a pair of programs keeps from one run to the next.

    Programs create parameters when they state them for the first time, and what a plain function closes over
    is seen only when it runs. So the programs are watched while they run: each parameter is known from its
    first statement on, each module from its first call on.

    Args:
        *programs: model and guide. The modules behind them are known at once.

    Example:
        >>> def model():
        ...     pyro.param("scale", torch.ones(2), constraint=torch.distributions.constraints.positive)
        >>> pyro.clear_param_store()
        >>> state = ProgramState(model)
        >>> with state.watch():
        ...     model()
        >>> state.parameters
        {'scale': tensor([0., 0.], requires_grad=True)}
    """

    def __init__(self, *programs: Program) -> None:
        self._leaves: dict[str, Tensor] = {}
        self._stored: set[str] = set()
        self._names = StableNames()
        behind = dict.fromkeys(module for program in programs for module in modules_behind(program))
        self._behind = {f"module_{number}.": module for number, module in enumerate(behind)}
        # Weak, since a program may build modules anew at each run
        self._called: list[weakref.ref[nn.Module]] = []
        self._known = weakref.WeakSet(each for module in behind for each in module.modules())
        self._waiting: dict[str, Tensor] = {}
        self._waiting_buffers: dict[str, Tensor] = {}
        self._stood: dict[str, dict[str, Any]] = {}
        self._followers: list[Callable[[Mapping[str, Tensor], Mapping[Place, Tensor]], None]] = []

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The unconstrained leaf tensors by the name of their param site, in order of first statement."""
        # A program may give a name another tensor, as Pyro's decaying baselines do
        stored = dict(pyro.get_param_store().named_parameters())
        return {
            name: stored.get(name, leaf) if name in self._stored else leaf
            for name, leaf in self._leaves.items()
        }

    @property
    def stable_names(self) -> dict[str, str]:
        """The names of the param sites to their names in a file; see :class:`StableNames`."""
        return {name: self._names(name) for name in self._leaves}

    def buffers(self) -> dict[str, Tensor]:
        """The buffers of all modules known so far, by names that are the same in each process."""
        return {name: _read(place) for name, place in self.places().items()}

    def buffers_by_place(self) -> dict[Place, Tensor]:
        """The same buffers, by where they are: for use within this process, where no name may change."""
        return {place: _read(place) for place in self.places().values()}

    def places(self) -> dict[str, Place]:
        """Where the buffers are, by the same names: a module and an attribute, since these may be rebound."""
        found: dict[Place, str] = {}
        for prefix, root in self._roots():
            for path, place in _buffer_places(root):
                found.setdefault(place, prefix + path)
        return {name: place for place, name in found.items()}

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """All modules known so far, their submodules among them."""
        return tuple(self._known)

    def follow(self, follower: Callable[[Mapping[str, Tensor], Mapping[Place, Tensor]], None]) -> None:
        """Has a function called with each new parameter and with the buffers of each new module.

        A parameter is new at its first statement, before an optimiser moves it; a module at its first call,
        before it runs. The modules behind the programs are shown at once.
        """
        self._followers.append(follower)
        for module in self._behind.values():
            follower({}, _buffers_of(module))

    @contextmanager
    def watch(self, *, modules: bool = True) -> Iterator[None]:
        """Learns about parameters, and modules, from the runs of the programs in this block.

        Args:
            modules: whether to look at the calls of modules too.
        """
        with _ParamMessenger(self._expect, self._meet):
            if not modules:
                yield
                return
            depth = len(_PYRO_STACK)

            def look(module: nn.Module, _: object) -> None:
                # What runs outside of any handler is no program: a transform of the data, for instance
                if module not in self._known and len(_PYRO_STACK) > depth:
                    self._meet_module(module)

            handle = register_module_forward_pre_hook(look)
            try:
                yield
            finally:
                handle.remove()

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """The parameters, unconstrained, and the buffers, by names that are the same in each process."""
        names, parameters = self.stable_names, self.parameters
        own = {names[name]: parameter for name, parameter in parameters.items()}
        return {"parameters": self._waiting | own, "buffers": self._waiting_buffers | self.buffers()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Copies values into the live tensors, in place; none is changed if one does not fit.

        Values of parameters and buffers that are not known yet wait, and are copied when these appear.

        Args:
            state: of :meth:`state_dict`.

        Raises:
            ValueError: for values of another shape or dtype.
        """
        self._waiting, self._waiting_buffers = {}, {}
        live = self.state_dict()
        for kind, values in state.items():
            for name in live[kind].keys() & values.keys():
                check_alike(name, live[kind][name], values[name])
        for kind, values in state.items():
            for name in live[kind].keys() & values.keys():
                live[kind][name].copy_(values[name])
        self._waiting = _without(state["parameters"], live["parameters"])
        self._waiting_buffers = _without(state["buffers"], live["buffers"])

    def _expect(self, message: Any) -> None:
        # The initial value that a waiting one replaces must not be drawn from the stream of this run
        if self._waiting and self._names(message["name"]) in self._waiting:
            self._stood[message["name"]] = RandomStreams().state_dict()

    def _meet(self, message: Any) -> None:
        name, leaf = message["name"], _unconstrained(message["value"])
        if self._leaves.get(name) is leaf:
            return
        self._leaves[name] = leaf
        if name in pyro.get_param_store():
            self._stored.add(name)
        stable = self._names(name)
        if stable in self._waiting:
            _set(stable, leaf, self._waiting)
            RandomStreams().load_state_dict(self._stood.pop(name))
            message["value"] = _constrained(name, leaf, message)
        for follower in self._followers:
            follower({name: leaf}, {})

    def _meet_module(self, module: nn.Module) -> None:
        self._known.update(module.modules())
        buffers = _buffers_of(module)
        if not buffers:
            return
        self._called.append(weakref.ref(module))
        for name, buffer in self.buffers().items() if self._waiting_buffers else ():
            if name in self._waiting_buffers:
                _set(name, buffer, self._waiting_buffers)
        for follower in self._followers:
            follower({}, buffers)

    def _roots(self) -> Iterator[tuple[str, nn.Module]]:
        yield from self._behind.items()
        names = {id(leaf): self._names(name) for name, leaf in self.parameters.items()}
        numbers: dict[str, int] = {}
        for module in filter(None, (reference() for reference in self._called)):
            kind = type(module).__name__
            numbers[kind] = numbers.get(kind, -1) + 1
            yield _registered_prefix(module, names) or f"{kind}_{numbers[kind]}.", module


class _ParamMessenger(Messenger):
    capture_key = "it only watches"

    def __init__(self, expect: Callable[[Any], None], meet: Callable[[Any], None]) -> None:
        super().__init__()
        self._expect = expect
        self._meet = meet

    def _pyro_param(self, message: Any) -> None:
        self._expect(message)

    # Outermost, this runs before what slices the value for a plate and what records it
    def _pyro_post_param(self, message: Any) -> None:
        self._meet(message)


def is_of_programs(name: str) -> bool:
    """Whether a parameter is stated by the programs, and not by Pyro's TraceGraph_ELBO for its baselines.

    Example:
        >>> is_of_programs("scale"), is_of_programs("__baseline_avg_downstream_cost_z")
        (True, False)
    """
    return not name.startswith("__baseline_avg_downstream_cost_")


def check_alike(name: str, live: Tensor, value: Tensor) -> None:
    """Checks that a value can stand for a live tensor.

    Raises:
        ValueError: for another shape or dtype.
    """
    if live.shape != value.shape or live.dtype != value.dtype:
        raise ValueError(
            f"Expected {name!r} to have shape {tuple(live.shape)} and {live.dtype}, as the programs have it, "
            f"but got {tuple(value.shape)} and {value.dtype}."
        )


def _without(values: Mapping[str, Tensor], names: Container[str]) -> dict[str, Tensor]:
    return {name: value for name, value in values.items() if name not in names}


@torch.no_grad()
def _set(name: str, tensor: Tensor, waiting: dict[str, Tensor]) -> None:
    check_alike(name, tensor, waiting[name])
    tensor.copy_(waiting.pop(name))


def _read(place: Place) -> Tensor:
    module, attribute = place
    buffer = module._buffers[attribute]
    assert buffer is not None
    return buffer


def _buffer_places(root: nn.Module) -> Iterator[tuple[str, Place]]:
    for path, module in root.named_modules():
        for attribute, buffer in module._buffers.items():
            if buffer is not None:
                yield f"{path}.{attribute}".removeprefix("."), (module, attribute)


def _buffers_of(root: nn.Module) -> dict[Place, Tensor]:
    return {place: _read(place) for _, place in _buffer_places(root)}


def _registered_prefix(root: nn.Module, names: Mapping[int, str]) -> str | None:
    """Under which name the parameters of a module are stated, if under its own paths: ``decoder$$$``."""
    for path, module in root.named_modules():
        for attribute, parameter in module._parameters.items():
            own = f"{path}.{attribute}".removeprefix(".")
            prefix = names.get(id(parameter), "").removesuffix(own)
            if prefix.endswith(("$$$", ".")):
                return prefix
    return None


def _unconstrained(value: Any) -> Tensor:
    # Parameters of a PyroModule that keeps them to itself carry no link to another tensor
    return value.unconstrained() if hasattr(value, "unconstrained") else value


def _constrained(name: str, leaf: Tensor, message: Any) -> Tensor:
    """The value of a parameter after its unconstrained tensor has been set."""
    store = pyro.get_param_store()
    if name in store and _unconstrained(store[name]) is leaf:
        return store[name]
    value: Tensor = transform_to(message["kwargs"]["constraint"])(leaf)
    value.unconstrained = weakref.ref(leaf)  # type: ignore[attr-defined]
    return value
