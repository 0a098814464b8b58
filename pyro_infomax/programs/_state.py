"""What a pair of programs keeps between runs: its parameters and the buffers of its modules."""

import weakref
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any, Final, final

import pyro
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, nn
from torch.distributions import transform_to
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.data import DataLoader, Dataset, Sampler

from pyro_infomax._types import Program, Site, State
from pyro_infomax.nn import instance_prefix, modules_behind

# ---- Names of parameters that do not depend on what else a process has built.


@final
class StableNames:
    """From the names of param sites to names that are the same in each process.

    Instances of our VAE and guides are numbered through a process, so that the one of a script may be ``VAE``
    in its first run and ``VAE_3`` in a notebook. Here they are numbered in the order in which they are asked
    for; other names stay as they are.
    """

    def __init__(self) -> None:
        self._instances: dict[str, dict[str, int]] = {}

    def __call__(self, name: str) -> str:
        """The stable name of a param site."""
        instance, dot, rest = name.partition(".")
        prefix = instance_prefix(instance)
        if prefix is None:
            return name
        numbers = self._instances.setdefault(prefix, {})
        number = numbers.setdefault(instance, len(numbers) + 1)
        return f"{prefix if number == 1 else f'{prefix}_{number}'}{dot}{rest}"


# ---- The generators that a training draws from: torch's own, and those of its loaders and datasets.

_HOLDERS: Final = (DataLoader, Sampler, Dataset)


@final
class RandomStreams:
    """Where all random streams of a training stand, those in its loaders, samplers and datasets too."""

    def __init__(self, *sources: object) -> None:
        self._generators = list(dict.fromkeys(_generators(sources, seen=set())))

    def state_dict(self) -> State:
        """Where the streams stand now."""
        in_use = torch.cuda.is_initialized()
        return {
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if in_use else [],
            "generators": [generator.get_state() for generator in self._generators],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes back to where the streams stood; refuses another number of generators."""
        saved = state["generators"]
        if len(saved) != len(self._generators):
            raise ValueError(
                f"Expected loaders and datasets with {len(saved)} generators of their own but got "
                f"{len(self._generators)}."
            )
        for generator, stood in zip(self._generators, saved, strict=True):
            generator.set_state(stood)
        torch.set_rng_state(state["cpu"])
        for device, stood in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(stood, device)


def _generators(thing: object, *, seen: set[int]) -> Iterator[torch.Generator]:
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, torch.Generator):
        yield thing
    elif isinstance(thing, tuple | list):
        for part in thing:
            yield from _generators(part, seen=seen)
    elif isinstance(thing, _HOLDERS):
        for part in vars(thing).values():
            if isinstance(part, (torch.Generator, tuple, *_HOLDERS)):
                yield from _generators(part, seen=seen)


# ---- The live parameters and buffers of a pair of programs.

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
        self._stood: dict[str, State] = {}
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
        return {name: _buffer_at(place) for name, place in self.places().items()}

    def buffers_by_place(self) -> dict[Place, Tensor]:
        """The same buffers, by where they are: for use within this process, where no name may change."""
        return {place: _buffer_at(place) for place in self.places().values()}

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
    def unchanged(self) -> Iterator[None]:
        """Puts parameters and buffers back after its block, in which programs may run; see :meth:`follow`."""
        snapshot = Snapshot(self)
        self._followers.append(snapshot.extend)
        try:
            with self.watch():
                yield
        finally:
            self._followers.remove(snapshot.extend)
            snapshot.restore()

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
        """
        self._waiting, self._waiting_buffers = {}, {}
        live = self.state_dict()
        for kind, values in state.items():
            for name in live[kind].keys() & values.keys():
                check_fits(name, live[kind][name], values[name])
        for kind, values in state.items():
            for name in live[kind].keys() & values.keys():
                live[kind][name].copy_(values[name])
        self._waiting = _without(state["parameters"], live["parameters"])
        self._waiting_buffers = _without(state["buffers"], live["buffers"])

    def _expect(self, message: Site) -> None:
        # The initial value that a waiting one replaces must not be drawn from the stream of this run
        if self._waiting and self._names(message["name"]) in self._waiting:
            self._stood[message["name"]] = RandomStreams().state_dict()

    def _meet(self, message: Site) -> None:
        name, leaf = message["name"], _unconstrained(message["value"])
        if self._leaves.get(name) is leaf:
            return
        self._leaves[name] = leaf
        if name in pyro.get_param_store():
            self._stored.add(name)
        stable = self._names(name)
        if stable in self._waiting:
            _fill(stable, leaf, self._waiting)
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
                _fill(name, buffer, self._waiting_buffers)
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

    def __init__(self, expect: Callable[[Site], None], meet: Callable[[Site], None]) -> None:
        super().__init__()
        self._expect = expect
        self._meet = meet

    def _pyro_param(self, message: Site) -> None:
        self._expect(message)

    # Outermost, this runs before what slices the value for a plate and what records it
    def _pyro_post_param(self, message: Site) -> None:
        self._meet(message)


def is_of_programs(name: str) -> bool:
    """Whether a parameter is stated by the programs, and not by Pyro's TraceGraph_ELBO for its baselines."""
    return not name.startswith("__baseline_avg_downstream_cost_")


def check_fits(name: str, live: Tensor, value: Tensor) -> None:
    """Checks that a value can stand for a live tensor."""
    if live.shape != value.shape or live.dtype != value.dtype:
        raise ValueError(
            f"Expected {name!r} to have shape {tuple(live.shape)} and {live.dtype}, as the programs have it, "
            f"but got {tuple(value.shape)} and {value.dtype}."
        )


def _without(values: Mapping[str, Tensor], names: Container[str]) -> dict[str, Tensor]:
    return {name: value for name, value in values.items() if name not in names}


@torch.no_grad()
def _fill(name: str, tensor: Tensor, waiting: dict[str, Tensor]) -> None:
    check_fits(name, tensor, waiting[name])
    tensor.copy_(waiting.pop(name))


def _buffer_at(place: Place) -> Tensor:
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
    return {place: _buffer_at(place) for _, place in _buffer_places(root)}


def _registered_prefix(root: nn.Module, names: Mapping[int, str]) -> str | None:
    """Under which name the parameters of a module are stated, if under its own paths: ``decoder$$$``."""
    for path, module in root.named_modules():
        for attribute, parameter in module._parameters.items():
            own = f"{path}.{attribute}".removeprefix(".")
            prefix = names.get(id(parameter), "").removesuffix(own)
            if prefix.endswith(("$$$", ".")):
                return prefix
    return None


def _unconstrained(value: Tensor) -> Tensor:
    # Parameters of a PyroModule that keeps them to itself carry no link to another tensor
    return value.unconstrained() if hasattr(value, "unconstrained") else value


def _constrained(name: str, leaf: Tensor, message: Site) -> Tensor:
    """The value of a parameter after its unconstrained tensor has been set."""
    store = pyro.get_param_store()
    if name in store and _unconstrained(store[name]) is leaf:
        return store[name]
    value: Tensor = transform_to(message["kwargs"]["constraint"])(leaf)
    value.unconstrained = weakref.ref(leaf)  # type: ignore[attr-defined]
    return value


# ---- Copies of what programs keep, to go back to.


@final
class Snapshot:
    """Copies of the parameters, and of the buffers of modules, which can be put back in place.

    Args:
        programs: the live tensors.

    Example:
        >>> layer = torch.nn.BatchNorm1d(2)
        >>> snapshot = Snapshot(ProgramState(layer.forward))
        >>> _ = layer.running_mean.fill_(3.0)
        >>> snapshot.restore()
        >>> layer.running_mean
        tensor([0., 0.])
    """

    def __init__(self, programs: ProgramState) -> None:
        self._programs = programs
        self._copies: dict[str | Place, Tensor] = {}  # of parameters by name, of buffers by place
        self.update()

    def extend(self, parameters: Mapping[str, Tensor], buffers: Mapping[Place, Tensor]) -> None:
        """Copies tensors that have no copy yet; see :meth:`ProgramState.follow`."""
        shown: Iterator[tuple[str | Place, Tensor]] = chain(parameters.items(), buffers.items())
        for key, tensor in shown:
            if key not in self._copies:
                self._copies[key] = tensor.detach().clone()

    def update(self) -> None:
        """Copies everything anew."""
        for key, tensor in self._live():
            copy = self._copies.get(key)
            if copy is None or copy.shape != tensor.shape or copy.dtype != tensor.dtype:
                self._copies[key] = tensor.detach().clone()
            else:
                copy.copy_(tensor.detach())

    @torch.no_grad()
    def spoiled(self) -> bool:
        """Whether a live tensor has become nan or infinite anywhere since it was copied."""
        return any(_is_spoiled(each, self._copies[key]) for key, each in self._live() if key in self._copies)

    @torch.no_grad()
    def restore(self) -> None:
        """Writes the copies back into the live tensors."""
        for key, tensor in self._live():
            # To write into a tensor, be it the same numbers, would spoil graphs that hold it
            if key in self._copies and not torch.equal(tensor, self._copies[key]):
                tensor.copy_(self._copies[key])

    def _live(self) -> Iterator[tuple[str | Place, Tensor]]:
        return chain(self._programs.parameters.items(), self._programs.buffers_by_place().items())

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """The copies, by the names of :meth:`ProgramState.state_dict`."""
        parameters, buffers = self._programs.stable_names, self._programs.places()
        return {
            "parameters": {new: self._copies[old] for old, new in parameters.items() if old in self._copies},
            "buffers": {name: self._copies[key] for name, key in buffers.items() if key in self._copies},
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Takes over the copies of another process, of what the programs have so far.

        Raises:
            ValueError: if a parameter does not fit the programs.
        """
        live, saved = self._programs.parameters, state["parameters"]
        names = {old: new for old, new in self._programs.stable_names.items() if new in saved}
        for old, new in names.items():
            check_fits(old, live[old], saved[new])
        places = self._programs.places()
        self._copies = {old: saved[new] for old, new in names.items()}
        self._copies.update((places[name], copy) for name, copy in state["buffers"].items() if name in places)


def _is_spoiled(tensor: Tensor, copy: Tensor) -> bool:
    # Where the copy is not finite either, the value is meant: a causal mask is a buffer of −inf
    finite = torch.isfinite(tensor)
    return not bool(finite.all()) and bool((torch.isfinite(copy) & ~finite).any())
