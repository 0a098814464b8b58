"""A Pyro program read datum by datum."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import site_is_subsample

from pyro_infomax.poutine.data import rows_of
from pyro_infomax.poutine.rows_messenger import RowsMessenger
from pyro_infomax.poutine.values_messenger import ProgramStopped, ValuesMessenger

__all__ = ["LocalProgram", "SiteLayout"]

Program = Callable[..., Any]
Tensors = tuple[torch.Tensor, ...]

_PROBE = 64  # rows that show whether a program follows the length of its arguments


@final
@dataclass(frozen=True)
class SiteLayout:
    """Where the data, the inner plates and the event stand in the values of a site.

    Attributes:
        name: the site.
        data_dim: the data plate's dimension, counted from the right of the batch shape.
        inner: the dimensions and sizes of the other plates around the site.
        event_shape: the shape of one value within all plates.
        depth: the number of batch dimensions of the program, an outer one to their left not counted.
        dtype: what the site's values are made of.
    """

    name: str
    data_dim: int
    inner: tuple[tuple[int, int], ...]
    event_shape: tuple[int, ...]
    depth: int
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the site for one datum: inner plates, then event."""
        return (*(size for _, size in self.inner), *self.event_shape)

    @property
    def size(self) -> int:
        """The number of scalars of the site for one datum."""
        return math.prod(self.shape)

    def place(self, z: torch.Tensor, rows: int, *, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Values as the program holds them.

        Args:
            z: (outer, rows or 1, *shape).
            rows: the number of data in the plate.
            dtype: what the values are cast to; None for what the site is made of.

        Returns:
            (outer, *batch, *event).
        """
        z = z.to(dtype or self.dtype).expand(-1, rows, *self.shape)
        batch = [1] * self.depth
        for dim, size in self.inner:
            batch[dim] = size
        # inner plates stand in the order of their dimensions, so that only the data axis has to move
        del batch[self.data_dim]
        spread = z.reshape(z.shape[0], rows, *batch, *self.event_shape)
        return spread.movedim(1, 1 + self.depth + self.data_dim)

    def rows(self, value: torch.Tensor, rows: int) -> torch.Tensor:
        """Datum by datum what the program holds: the inverse of :meth:`place`, (outer, rows, *shape)."""
        events = len(self.event_shape)
        missing = self.depth + 1 + events - value.dim()
        value = value.reshape((1,) * missing + tuple(value.shape)).movedim(1 + self.depth + self.data_dim, 1)
        batch = [1] * self.depth
        for dim, size in self.inner:
            batch[dim] = size
        del batch[self.data_dim]
        value = value.expand(value.shape[0], rows, *batch, *self.event_shape)
        return value.reshape(value.shape[0], rows, *self.shape)


@final
class LocalProgram:
    """A program whose latent and observed sites are local to the rows of its data.

    It finds the data plate, runs the program on all rows in pieces where the program allows it, and gives
    values and log-probabilities datum by datum. Scales do not count here (a density has none); masks do.

    Args:
        program: a model or a guide.
        data: its positional arguments, with the data as first axis.
        role: ``"model"``, ``"guide"``, or ``"prior"`` for a model of which only the latent part is to be run,
            so that its data may be placeholders of the right length.
        data_plate: the name of the data plate, None to find it.
        batch_size: the largest number of rows of a run, where the program follows its arguments.

    Raises:
        ValueError: if there is no data plate, or several.
        NotImplementedError: if a latent site is global, or auxiliary.
    """

    def __init__(
        self,
        program: Program,
        data: Tensors,
        *,
        role: str,
        data_plate: str | None = None,
        batch_size: int = 1024,
    ) -> None:
        self.program = program
        self.role = role
        self.data_size = len(data[0])
        trace, seen = self._probe(data, data_plate, role)
        frame = _data_frame(trace, seen, data_plate, role)
        self.plate: str = frame.name
        self.data_dim: int = frame.dim
        self.follows = seen < self.data_size or (frame.size == frame.full_size == self.data_size)
        self.piece = self._piece(frame, seen, batch_size)
        self.depth = max(-f.dim for site in _samples(trace) for f in _frames(site))
        self.latents = self._layouts(trace, role, observed=False)
        self.observed = self._layouts(trace, role, observed=True)

    def _probe(self, data: Tensors, data_plate: str | None, role: str) -> tuple[Any, int]:
        """One trace, of few rows if the program follows its arguments, and the number of rows that it got."""
        if self.data_size <= _PROBE:
            return self._silent_trace(data), self.data_size
        before = set(pyro.get_param_store().keys())
        few = rows_of(data, slice(0, _PROBE))
        try:
            trace = self._silent_trace(few)
            frame = _data_frame(trace, _PROBE, data_plate, role)
            follows = frame.size == frame.full_size == _PROBE and all(
                _has_rows(site, frame.dim, _PROBE) for site in _samples(trace)
            )
        except (RuntimeError, ValueError, IndexError):
            follows = False
        if follows:
            return trace, _PROBE
        # A program made for all rows may have initialised parameters for the few.
        for name in set(pyro.get_param_store().keys()) - before:
            del pyro.get_param_store()[name]
        return self._silent_trace(data), self.data_size

    def _silent_trace(self, data: Tensors) -> Any:
        """A trace that leaves no trace: neither gradients nor a changed random state."""
        handler = poutine.trace(self.program)
        try:
            with torch.no_grad(), torch.random.fork_rng():
                return handler.get_trace(*data)
        except (RuntimeError, ValueError, IndexError, TypeError):
            latent = any(not site["is_observed"] for site in _samples(handler.trace))
            if self.role == "prior" and latent:
                return handler.trace
            raise

    def _piece(self, frame: Any, seen: int, batch_size: int) -> int:
        if frame.size < frame.full_size:
            return int(frame.size)
        return batch_size if seen < self.data_size else self.data_size

    def _layouts(self, trace: Any, role: str, *, observed: bool) -> dict[str, SiteLayout]:
        layouts = {}
        for site in _samples(trace):
            if site["is_observed"] != observed or site["infer"].get("_deterministic"):
                continue
            self._check_local(site, role)
            layouts[site["name"]] = self._layout(site)
        return layouts

    def running(self, program: Program) -> "LocalProgram":
        """The same layout for a variant of the program that has the same sites."""
        twin = copy.copy(self)
        twin.program = program
        return twin

    def _check_local(self, site: Any, role: str) -> None:
        name = site["name"]
        if not site["is_observed"] and site["infer"].get("is_auxiliary"):
            raise NotImplementedError(
                f"The site {name!r} is auxiliary to the {role}, whose density is therefore not known; "
                "use a guide without auxiliary sites"
            )
        if self.plate not in {f.name for f in _frames(site)}:
            kind = "observed" if site["is_observed"] else "latent"
            raise NotImplementedError(
                f"The {kind} site {name!r} of the {role} is outside the data plate {self.plate!r} and so global; "
                "fix global latents with pyro.poutine.condition and ask for the local ones"
            )

    def _layout(self, site: Any) -> SiteLayout:
        inner = sorted((f.dim, f.size) for f in _frames(site) if f.name != self.plate)
        event_shape = tuple(site["fn"].event_shape)
        dtype = site["value"].dtype
        return SiteLayout(site["name"], self.data_dim, tuple(inner), event_shape, self.depth, dtype)

    def pieces(self, size: int) -> Iterator[torch.Tensor]:
        """The rows of ``size`` data, as many at a time as one run takes.

        A plate that subsamples takes its own number of rows each time, so that the last piece goes back for
        some.
        """
        for start in range(0, size, self.piece):
            first = start if self.follows else max(0, min(start, size - self.piece))
            yield torch.arange(first, min(first + self.piece, size))

    def trace(
        self,
        data: Tensors,
        rows: torch.Tensor | None = None,
        *,
        values: Mapping[str, torch.Tensor] | None = None,
        stop_after: Sequence[str] | None = None,
    ) -> Any:
        """Runs the program on some rows.

        Args:
            data: all of its data.
            rows: (B,) the rows of this run, None for all.
            values: site names to values (outer, B or 1, *shape), see :class:`SiteLayout`.
            stop_after: latent sites after which the rest of the program is left out.

        Returns:
            The trace, its log-probabilities not computed.
        """
        rows = torch.arange(len(data[0])) if rows is None else rows
        layouts = self.latents | self.observed
        placed = {name: _placer(layouts[name], z, len(rows)) for name, z in (values or {}).items()}
        messenger = ValuesMessenger(placed, stop_after=stop_after)
        if self.follows:
            whole = len(rows) == len(data[0])
            return _trace(messenger(self.program), data if whole else rows_of(data, rows))
        return _trace(RowsMessenger(self.plate, rows)(messenger(self.program)), data)

    def log_prob(self, site: Any, rows: int, *, z: torch.Tensor | None = None) -> torch.Tensor:
        """log p of a traced site datum by datum, inner plates summed, in float64.

        Args:
            site: a node of a trace of :meth:`trace`.
            rows: the number of rows of that run.
            z: the values to score, (outer, rows or 1, *shape), where they are finer than those that the
                program ran with.

        Returns:
            (outer, rows), in nats.
        """
        value = site["value"]
        if z is not None and z.is_floating_point():
            value = (self.latents | self.observed)[site["name"]].place(z, rows, dtype=z.dtype)
        log_prob = scale_and_mask(site["fn"].log_prob(value), mask=site["mask"]).double()
        return self.per_datum(log_prob, site, rows)

    def per_datum(self, batch: torch.Tensor, site: Any, rows: int) -> torch.Tensor:
        """A tensor of a site's batch shape, its inner plates summed: (outer, rows)."""
        batch = batch.reshape((1,) * (self.depth + 1 - batch.dim()) + tuple(batch.shape))
        sizes = [1] * self.depth
        for frame in _frames(site):
            sizes[frame.dim] = frame.size
        batch = batch.expand(batch.shape[0], *sizes).movedim(1 + self.depth + self.data_dim, 1)
        if batch.shape[1] != rows:
            raise ValueError(
                f"Expected {rows} rows in the plate {self.plate!r} around {site['name']!r} but got "
                f"{batch.shape[1]}; a program made for other data cannot score these"
            )
        return batch.flatten(2).sum(-1) if batch.dim() > 2 else batch


def _placer(layout: SiteLayout, z: torch.Tensor, rows: int) -> Callable[[Any], torch.Tensor]:
    # A lone outer axis is left out, since programs rarely expect one.
    placed = layout.place(z, rows)
    value = placed[0] if len(placed) == 1 else placed
    return lambda _: value


def _trace(program: Program, data: Tensors) -> Any:
    handler = poutine.trace(program)
    try:
        return handler.get_trace(*data)
    except ProgramStopped:
        return handler.trace


def _samples(trace: Any) -> list[Any]:
    return [site for site in trace.nodes.values() if site["type"] == "sample" and not site_is_subsample(site)]


def _frames(site: Any) -> list[Any]:
    return [frame for frame in site["cond_indep_stack"] if frame.vectorized]


def _has_rows(site: Any, dim: int, rows: int) -> bool:
    if site["infer"].get("_deterministic"):
        return True
    shape = tuple(site["fn"].batch_shape)
    return len(shape) >= -dim and shape[dim] == rows


def _data_frame(trace: Any, size: int, data_plate: str | None, role: str) -> Any:
    """The frame of the data plate: around the observed site of a model, of full size in a guide."""
    sites = _samples(trace)
    frames = {frame.name: frame for site in sites for frame in _frames(site)}
    if data_plate is not None:
        if data_plate not in frames:
            raise ValueError(
                f"Expected a plate {data_plate!r} in the {role} but got {sorted(frames)}; "
                "name one of these as data_plate"
            )
        return frames[data_plate]
    observed = [site for site in sites if site["is_observed"] and not site["infer"].get("_deterministic")]
    candidates = frames
    if role == "model" and observed:
        shared = set.intersection(*({f.name for f in _frames(site)} for site in observed))
        candidates = {name: frame for name, frame in frames.items() if name in shared}
    if role != "model" or len(candidates) > 1:
        candidates = {name: frame for name, frame in candidates.items() if frame.full_size == size}
    if len(candidates) == 1:
        return next(iter(candidates.values()))
    where = "around its observed sites" if role == "model" else f"of the data's size {size}"
    if not candidates:
        raise ValueError(
            f"Expected a vectorised plate {where} in the {role} but found none; put the local sites into "
            "pyro.plate('data', len(data))"
        )
    raise ValueError(
        f"Expected one data plate {where} in the {role} but found {sorted(candidates)}; "
        "say which by data_plate='name'"
    )
