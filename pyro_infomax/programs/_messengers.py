"""Messengers that give a program its rows and values, and placeholders that stand for its data."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Self, final

import pyro
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample

from pyro_infomax._types import Site

# ---- A messenger that says which rows of the data a subsampling plate takes.


@final
class RowsMessenger(Messenger):
    """Replaces the random subsample of one plate by given rows.

    Args:
        plate: the name of the plate.
        rows: (B,) indices, as many as the plate subsamples.

    Example:
        >>> import pyro
        >>> with RowsMessenger("data", torch.tensor([3, 1])):
        ...     with pyro.plate("data", 10, subsample_size=2) as rows:
        ...         print(rows)
        tensor([3, 1])
    """

    def __init__(self, plate: str, rows: torch.Tensor) -> None:
        super().__init__()
        self.plate = plate
        self.rows = rows

    def _pyro_sample(self, msg: "Message[..., torch.Tensor]") -> None:
        if msg["name"] == self.plate and site_is_subsample(msg):
            msg["value"] = self.rows
            msg["done"] = True


# ---- A messenger that gives sites their values.


class ProgramStopped(Exception):
    """Raised to leave a program of which everything needed has been seen."""


@final
class ValuesMessenger(Messenger):
    """Gives latent and observed sites the values to be scored, without changing which of them are observed.

    Unlike :func:`pyro.condition` it leaves latent sites latent, and it replaces the data of observed ones
    too.

    Args:
        values: site names to values.
        stop_after: site names; once all of them ran, :class:`ProgramStopped` leaves the program. None to run
            it to its end.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> with ValuesMessenger({"z": torch.tensor(2.0)}):
        ...     print(pyro.sample("z", dist.Normal(0.0, 1.0)))
        tensor(2.)
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


# ---- A messenger that draws observed sites.


@final
class GenerateMessenger(Messenger):
    """Draws some observed sites, as :func:`pyro.poutine.uncondition` draws all of them.

    Sites that :func:`pyro.poutine.condition` fixes within the program stay fixed, unless they are named.

    Args:
        sites: the names of the sites.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> with GenerateMessenger(["x"]):
        ...     pyro.sample("x", dist.Delta(torch.tensor(2.0)), obs=torch.tensor(3.0))
        tensor(2.)
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

    Example:
        >>> x = Placeholder.of((3, 2))
        >>> (x @ torch.ones(2, 4)).shape, isinstance(torch.ones(3)[x[:, 0].long()], Placeholder)
        (torch.Size([3, 4]), True)
        >>> x.new_zeros(len(x), 1).sum()
        tensor(0.)
    """

    @staticmethod
    def of(shape: Sequence[int], *, dtype: torch.dtype | None = None) -> "Placeholder":
        """A placeholder of this shape."""
        return torch.empty(tuple(shape), dtype=dtype, device="meta").as_subclass(Placeholder)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
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


def _mapped(tree: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same arguments with each tensor changed."""
    if isinstance(tree, torch.Tensor):
        return change(tree)
    if isinstance(tree, dict):
        return {key: _mapped(each, change) for key, each in tree.items()}
    if isinstance(tree, tuple | list) and not isinstance(tree, torch.Size):
        return type(tree)([_mapped(each, change) for each in tree])
    return tree


def _bare(each: torch.Tensor) -> torch.Tensor:
    # The device of a placeholder is a plain answer, so that "to" would copy it
    return each.as_subclass(torch.Tensor) if isinstance(each, Placeholder) else each.to("meta")


def _blank(each: torch.Tensor) -> torch.Tensor:
    return torch.zeros(each.shape, dtype=each.dtype) if isinstance(each, Placeholder) else each


def _writes(name: str) -> bool:
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


def _without_device(args: Sequence[object]) -> tuple[object, ...]:
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
