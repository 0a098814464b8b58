"""Messengers that give a program its rows and values, and placeholders that stand for its data."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, Self, TypeVar, cast, final

import pyro
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from pyro_infomax._random import isolated_random_state
from pyro_infomax._types import Args, Kwargs, Site

# ---- A messenger that says which rows of the data a subsampling plate takes.


@final
class RowsMessenger(Messenger):
    """Replaces the random subsample of one plate by given rows, as many as the plate subsamples."""

    def __init__(self, plate: str, rows: torch.Tensor) -> None:
        super().__init__()
        self.plate = plate
        self.rows = rows

    def _pyro_sample(self, msg: Site) -> None:
        # a program that says itself which rows it takes has them from its arguments
        if msg["name"] == self.plate and site_is_subsample(msg) and msg["value"] is None:
            msg["value"] = self.rows
            msg["done"] = True


# ---- A messenger that gives sites their values.


class ProgramStopped(Exception):
    """Raised to leave a program of which everything needed has been seen."""


@final
class ValuesMessenger(Messenger):
    """Gives latent and observed sites the values to be scored, without changing which of them are observed.

    Unlike :func:`pyro.condition` it leaves latent sites latent, and it replaces the data of observed ones
    too. Once all sites to stop after ran, :class:`ProgramStopped` leaves the program.
    """

    def __init__(
        self,
        values: Mapping[str, torch.Tensor],
        *,
        stop_after: Collection[str] | None = None,
    ) -> None:
        super().__init__()
        self.values = values
        self.stop_after = stop_after
        self._awaited: set[str] = set()

    def __enter__(self) -> Self:
        self._awaited = set(self.stop_after or ())
        return super().__enter__()

    def _pyro_sample(self, msg: Site) -> None:
        if msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]
            msg["done"] = True

    def _pyro_post_sample(self, msg: Site) -> None:
        self._awaited.discard(msg["name"])
        if self.stop_after is not None and not self._awaited:
            raise ProgramStopped


# ---- A messenger that fixes latent sites.


@final
class FixedMessenger(Messenger):
    """Fixes latent sites at values that are given, and marks them as such.

    As :func:`pyro.poutine.condition` does, but that the plates around a fixed site are told from those around
    the data.
    """

    def __init__(self, values: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.values = dict(values)
        self._cast: set[str] = set()

    def _pyro_sample(self, msg: Site) -> None:
        if msg["name"] not in self.values or msg["is_observed"]:
            return
        value, expected = self._in_type_of(msg), tuple(msg["fn"].shape())
        if tuple(value.shape) != expected:
            raise ValueError(
                f"Expected the global latent site {msg['name']!r} of shape {expected} but got "
                f"{tuple(value.shape)}"
            )
        msg["value"] = value
        msg["is_observed"] = msg["given"] = True

    def _in_type_of(self, msg: Site) -> torch.Tensor:
        name = msg["name"]
        if name not in self._cast:
            with isolated_random_state(), torch.no_grad():
                self.values[name] = self.values[name].to(msg["fn"].sample().dtype)
            self._cast.add(name)
        return self.values[name]


# ---- A messenger that draws observed sites.


@final
class GenerateMessenger(Messenger):
    """Draws some observed sites, as :func:`pyro.poutine.uncondition` draws all of them.

    Sites that :func:`pyro.poutine.condition` fixes within the program stay fixed, unless they are named.
    """

    def __init__(self, sites: Collection[str]) -> None:
        super().__init__()
        self.sites = sites

    def _pyro_sample(self, msg: Site) -> None:
        if msg["name"] in self.sites:
            msg["is_observed"] = False
            msg["value"] = None
            msg["done"] = False


# ---- Tensors of a shape but without values, which show what a program needs its data for.

Tree = TypeVar("Tree")

_FRESH: Final = {
    f"{prefix}{kind}{suffix}"
    for prefix, suffix in (("new_", ""), ("", "_like"))
    for kind in ("empty", "full", "ones", "tensor", "zeros")
}


@final
class Placeholder(torch.Tensor):
    """A tensor of a shape but without values.

    What is computed from its values is a placeholder too, whatever else goes into it; what only asks for its
    shape, dtype or device gets a plain answer, and ``x.new_zeros(len(x), 2)`` a plain tensor. A program that
    branches on values fails.
    """

    @staticmethod
    def of(shape: Sequence[int], *, dtype: torch.dtype | None = None) -> "Placeholder":
        """A placeholder of this shape."""
        return torch.empty(tuple(shape), dtype=dtype, device="meta").as_subclass(Placeholder)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., object], types: object, args: Args = (), kwargs: Kwargs | None = None
    ) -> object:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if func == torch.Tensor.device.__get__:  # type: ignore[attr-defined]
            return torch.empty(0).device
        if name in _FRESH:
            return func(*_mapped(args, _blank), **kwargs)
        if _writes(name) and not isinstance(args[0], Placeholder):
            raise RuntimeError("a tensor without values cannot be written into another one")
        if name in {"cpu", "cuda"}:
            return args[0]
        if name == "to":
            args, kwargs = _without_device(args), {k: v for k, v in kwargs.items() if k == "dtype"}
            if not kwargs and len(args) == 1:
                return args[0]
        with torch._C.DisableTorchFunctionSubclass():
            out = func(*_mapped(args, _bare), **_mapped(kwargs, _bare))
        return _mapped(out, lambda each: each.as_subclass(Placeholder))


def _mapped(tree: Tree, change: Callable[[torch.Tensor], torch.Tensor]) -> Tree:
    """The same arguments with each tensor changed."""
    changed: object = tree
    if isinstance(tree, torch.Tensor):
        changed = change(tree)
    elif isinstance(tree, dict):
        changed = {key: _mapped(each, change) for key, each in tree.items()}
    elif isinstance(tree, tuple | list) and not isinstance(tree, torch.Size):
        changed = type(tree)([_mapped(each, change) for each in tree])
    return cast(Tree, changed)


def _bare(each: torch.Tensor) -> torch.Tensor:
    # The device of a placeholder is a plain answer, so that "to" would copy it
    return each.as_subclass(torch.Tensor) if isinstance(each, Placeholder) else each.to("meta")


def _blank(each: torch.Tensor) -> torch.Tensor:
    return torch.zeros(each.shape, dtype=each.dtype) if isinstance(each, Placeholder) else each


def _writes(name: str) -> bool:
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


def _without_device(args: Args) -> Args:
    return tuple(_dtype_of(each) for each in args if not isinstance(each, str | torch.device))


def _dtype_of(each: object) -> object:
    if isinstance(each, torch.Tensor) and not isinstance(each, Placeholder):
        return each.dtype
    return each


def needs_data(error: Exception | None = None) -> ValueError:
    """The error of a prior that was to be run on placeholders."""
    reason = f" ({str(error).splitlines()[0]})" if error is not None and str(error) else ""
    return ValueError(
        f"Expected data of the model, since its prior cannot be had without them{reason}; pass them, as in "
        "log_prior(z, x)"
    )


@contextmanager
def no_placeholder_parameters() -> Iterator[None]:
    """Forgets the parameters that a program initialised from placeholders."""
    store = pyro.get_param_store()
    before = set(store.keys())
    try:
        yield
    finally:
        for name in set(store.keys()) - before:
            if isinstance(store[name], Placeholder) or store[name].is_meta:
                del store[name]
