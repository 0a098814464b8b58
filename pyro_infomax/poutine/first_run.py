"""A first run of a program, which shows how it takes its data."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, final

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import nn

from pyro_infomax.nn.module_modes import evaluation_mode, modules_behind
from pyro_infomax.poutine.data import rows_of
from pyro_infomax.poutine.data_plate import data_frame, sample_sites
from pyro_infomax.poutine.placeholder import Placeholder, needs_data
from pyro_infomax.poutine.plain_error import plain_errors
from pyro_infomax.random_state import isolated_random_state

__all__ = ["Probe", "probe"]

Program = Callable[..., Any]
Tensors = tuple[torch.Tensor, ...]

_FEW: Final = 64  # rows


@final
@dataclass(frozen=True)
class Probe:
    """What a first run has shown.

    Attributes:
        trace: of the program.
        frame: of its data plate.
        follows: whether the program takes data of any length, its plate with them.
        error: what ended the run of a prior after some latent sites, None for a run to the end.
    """

    trace: Any
    frame: Any
    follows: bool = False
    error: Exception | None = None


def probe(program: Program, data: Tensors, *, role: str, data_plate: str | None = None) -> Probe:
    """Runs a program on its data, or on few of them where that shows as much.

    Random state, gradients and the modules' buffers stay as they were; parameters that the program
    initialises are those for all of its data.

    Args:
        program: a model or a guide.
        data: its positional arguments.
        role: ``"model"``, ``"guide"``, or ``"prior"`` for a model of which the latent sites suffice.
        data_plate: the name of the data plate, None to find it.

    Raises:
        ValueError: if there is no data plate, or several; if a prior needs the values of its data.

    Example:
        >>> import pyro.distributions as dist
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x, 1.0))
        >>> probe(guide, (torch.zeros(5),), role="guide").follows
        True
    """
    subject = _Subject(program, role, data_plate)
    few, fewer = _few_of(data)
    if len(data[0]) > _FEW and not _awaits_data(program):
        before = set(pyro.get_param_store().keys())
        seen = subject.run_on_all_of(few)
        made = _made_by_the_program(before)
        for name in made:
            del pyro.get_param_store()[name]
        if seen is not None and not made and subject.run_on_all_of(fewer):
            return replace(seen, follows=True)
    whole = subject.run(data)
    follows = subject.run_on_all_of(few) and subject.run_on_all_of(fewer)
    return replace(whole, follows=bool(follows))


@final
@dataclass(frozen=True)
class _Subject:
    program: Program
    role: str
    data_plate: str | None

    def run(self, data: Tensors) -> Probe:
        size = len(data[0])
        handler = poutine.trace(_RowsInReach(size)(self.program))
        error = None
        try:
            with plain_errors(), torch.no_grad(), isolated_random_state(), evaluation_mode(self.program):
                handler.get_trace(*data)
        except Exception as raised:
            if self.role != "prior":
                raise
            if not _latents(handler.trace):
                raise needs_data(raised) from raised
            error = raised
        if any(isinstance(site["value"], Placeholder) for site in _latents(handler.trace)):
            raise needs_data()
        frame = data_frame(handler.trace, size, role=self.role, name=self.data_plate)
        return Probe(handler.trace, frame, error=error)

    def run_on_all_of(self, few: Tensors) -> Probe | None:
        """A run whose data plate takes just these rows, None where there is no such run."""
        try:
            seen = self.run(few)
        except Exception:  # whatever a program that was made for all of its data says to fewer
            return None
        return seen if seen.frame.size == len(few[0]) else None


@final
class _RowsInReach(Messenger):
    """Subsamples only rows that the data have, which may be fewer than those of a plate of fixed size."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def _pyro_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg) or msg["value"] is not None:
            return
        taken = msg["fn"].subsample_size
        if taken is not None and taken < msg["fn"].size:
            msg["value"] = torch.arange(taken) % self.size
            msg["done"] = True


def _latents(trace: Any) -> list[Any]:
    return [site for site in sample_sites(trace) if not site["is_observed"]]


def _made_by_the_program(before: set[str]) -> list[str]:
    """New parameters that are no module's own: their first values may be for the data of the run."""
    found = pyro.get_param_store().named_parameters()
    return [name for name, each in found if name not in before and not isinstance(each, nn.Parameter)]


def _few_of(data: Tensors) -> tuple[Tensors, Tensors]:
    """Two other numbers of rows, since a plate may happen to subsample just one of them."""
    size = len(data[0])
    few, fewer = (_FEW, _FEW - 2) if size > _FEW else (size + 1, max(1, size - 1))
    return rows_of(data, torch.arange(few) % size), rows_of(data, torch.arange(fewer))


def _awaits_data(program: Program) -> bool:
    """Whether the program may be shaped by the data of its first run."""
    guides = [module for module in modules_behind(program) if isinstance(module, AutoGuide)]
    return isinstance(poutine.unwrap(program), Messenger) or any(g.prototype_trace is None for g in guides)
