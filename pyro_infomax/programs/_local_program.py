"""A Pyro program read datum by datum."""

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final, final

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.distributions.util import scale_and_mask
from pyro.infer import infer_discrete
from pyro.infer.autoguide import AutoGuide, AutoNormal
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import nn
from torch.distributions import Transform, biject_to, transforms

from pyro_infomax._data import SiteValues, Tensors, rows_of
from pyro_infomax._random import isolated_random_state
from pyro_infomax._types import Program, Site
from pyro_infomax.distributions import closed_quantiles, full_name, is_discrete, is_one_hot, is_point_mass
from pyro_infomax.nn import evaluation_mode, modules_behind
from pyro_infomax.poutine import (
    data_frame,
    frames_of,
    is_deterministic,
    plain_errors,
    sample_sites,
    unweighted_scale_and_mask,
)
from pyro_infomax.programs._layout import SiteLayout
from pyro_infomax.programs._messengers import (
    GenerateMessenger,
    Placeholder,
    ProgramStopped,
    RowsMessenger,
    ValuesMessenger,
    needs_data,
)

# ---- A first run of a program, which shows how it takes its data.


_FEW: Final = 64  # rows


@final
@dataclass(frozen=True)
class Probe:
    """What a first run has shown."""

    trace: poutine.Trace
    frame: CondIndepStackFrame  # of the data plate
    follows: bool = False  # whether the program takes data of any length, its plate with them
    fixed_size: int | None = None  # of the whole plate, where it takes pieces of any length up to it
    error: Exception | None = None  # what ended the run of a prior after some latent sites


def probe(program: Program, data: Tensors, *, role: str, data_plate: str | None = None) -> Probe:
    """Runs a program on its data, or on few of them where that shows as much.

    Random state, gradients and the modules' buffers stay as they were; parameters that the program
    initialises are those for all of its data. The role is ``"model"``, ``"guide"``, or ``"prior"`` for a
    model of which the latent sites suffice.
    """
    subject = _Subject(program, role, data_plate)
    few, fewer = _few_of(data)
    # Few of many rows show as much as all, unless the program makes parameters for the data that it gets
    if len(data[0]) > _FEW and not _awaits_data(program):
        before = set(pyro.get_param_store().keys())
        seen = subject.run_on_all_of(few)
        made = _made_by_the_program(before)
        for name in made:
            del pyro.get_param_store()[name]
        if seen is not None and not made and subject.run_on_all_of(fewer):
            return replace(seen, follows=True, fixed_size=_fixed_size(seen))
    # Else it runs on all of them, and on few only to see whether its plate follows
    whole = subject.run(data)
    # by its name, for few rows may be as many as another plate has
    subject = replace(subject, data_plate=whole.frame.name)
    more, less = subject.run_on_all_of(few), subject.run_on_all_of(fewer)
    if less is None:
        return whole
    size = _fixed_size(less)
    if more is not None:
        return replace(whole, follows=True, fixed_size=size)
    # A plate of the size of the data has no room for more of them
    least = subject.run_on_all_of(rows_of(fewer, slice(1, None)))
    if size is None or least is None or _fixed_size(least) != size:
        return whole
    return replace(whole, follows=True, fixed_size=size)


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
        if not len(few[0]):
            return None
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

    def _pyro_sample(self, msg: Site) -> None:
        if not site_is_subsample(msg) or msg["value"] is not None:
            return
        taken = msg["fn"].subsample_size
        if taken is not None and taken < msg["fn"].size:
            msg["value"] = torch.arange(taken) % self.size
            msg["done"] = True


def _fixed_size(seen: Probe) -> int | None:
    """The size of a plate of which a run took a part, as ``pyro.plate("data", N, subsample_size=len(x))``."""
    whole: int | None = seen.frame.full_size
    return whole if whole != seen.frame.size else None


def _latents(trace: poutine.Trace) -> list[Site]:
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


# ---- Global latents: sites outside the data plate, fixed or drawn before a program is read datum by datum.

_UNCONSTRAINED: Final = "_unconstrained"  # what AutoNormal appends to the name of a site


@final
class GlobalLatentsError(NotImplementedError):
    """A program has latent sites outside its data plate, the names of which it holds."""

    def __init__(self, sites: Sequence[Site], *, role: str, plate: str) -> None:
        self.names = [site["name"] for site in sites]
        self.auxiliary = [site["name"] for site in sites if _only_makes_others(site, self.names)]
        self.role = role
        first, *rest = [name for name in self.names if name not in self.auxiliary] or self.names
        others = f", as {' and '.join(map(repr, rest))} {'are' if rest[1:] else 'is'}," if rest else ""
        remedy = "give it to the guide too, or fix it" if role == "model" else "fix it"
        super().__init__(
            f"The latent site {first!r} of the {role} is outside the data plate {plate!r}{others} and so "
            f"global; {remedy} with pyro.poutine.condition and ask for the local ones (decompose does so, at "
            "global_values or the guide's medians)"
        )


def _only_makes_others(site: Site, names: Sequence[str]) -> bool:
    """Whether an auxiliary site is one from which a guide of Pyro's computes the values of other sites."""
    name = site["name"]
    is_preimage = name.endswith(_UNCONSTRAINED) and name.removesuffix(_UNCONSTRAINED) in names
    is_joint = name.startswith("_") and name.endswith("_latent")
    return bool(site["infer"].get("is_auxiliary")) and (is_preimage or is_joint)


@torch.no_grad()
def global_values(
    program: Program, data: Tensors, names: Sequence[str], *, medians: bool = False
) -> dict[str, torch.Tensor]:
    """Values of some global latent sites of one run of a program.

    Args:
        program: a model or a guide.
        data: its positional arguments.
        names: the sites.
        medians: the median of each, given those before it, instead of a draw. A transformed variable takes
            the image of its base's median, and what has no median in closed form that of draws, in
            unconstrained coordinates.
    """
    handler = _MedianMessenger(names) if medians else Messenger()
    stopping = ValuesMessenger({}, stop_after=names)(handler(program))
    with evaluation_mode(program):
        trace: Any = _trace(_RowsInReach(len(data[0]))(stopping), data)
    if missing := [name for name in names if name not in trace.nodes]:
        raise ValueError(f"Expected the global latent sites {list(names)} but a run lacks {missing}")
    # parameters may be among them, which training moves on
    return {name: trace.nodes[name]["value"].detach().clone() for name in names}


@final
class _MedianMessenger(Messenger):
    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = names

    def _pyro_sample(self, msg: Site) -> None:
        if msg["name"] in self.names and not msg["done"]:
            msg["value"] = _median(msg["fn"])
            msg["done"] = True


_MEDIAN_DRAWS: Final = 1001


def _median(fn: Any) -> torch.Tensor:
    closed = closed_quantiles(fn, torch.tensor([0.5]))
    if closed is not None:
        return closed[0]
    match fn:
        case torch.distributions.Independent():
            return _median(fn.base_dist)
        case torch.distributions.TransformedDistribution():
            value = _median(fn.base_dist)
            for transform in fn.transforms:
                value = transform(value)
            return value
    with isolated_random_state(0):
        draws = fn.sample(torch.Size([_MEDIAN_DRAWS]))
    if is_discrete(fn):
        return draws.sort(0).values[_MEDIAN_DRAWS // 2]
    unconstrained = torch.distributions.biject_to(fn.support)
    return unconstrained(unconstrained.inv(draws).median(0).values)


# ---- Pyro's AutoNormal draws an auxiliary Normal for each site, and the site as a point mass of its image.


def _transforms_of_auxiliaries(program: Program, seen: Probe) -> dict[str, Transform]:
    """The bijections from auxiliary sites to the local latent sites that are their images."""
    trace: Any = seen.trace
    modules = chain.from_iterable(root.modules() for root in modules_behind(program))
    guides = [each for each in modules if isinstance(each, AutoNormal)]
    prototypes = [each.prototype_trace for each in guides if each.prototype_trace is not None]
    known = {name: site for each in prototypes for name, site in each.iter_stochastic_nodes()}
    found = {}
    for site in _latents(trace):
        name = site["name"].removesuffix(_UNCONSTRAINED)
        image = name in trace.nodes and is_point_mass(trace.nodes[name]["fn"])
        is_local = any(frame.name == seen.frame.name for frame in frames_of(site))
        if site["infer"].get("is_auxiliary") and is_local and name in known and image:
            found[name] = biject_to(known[name]["fn"].support)
    return found


@final
class _PushForwardMessenger(Messenger):
    """Draws such sites from the image of the Normal, whose density is known, and hides the Normal."""

    def __init__(self, transforms: Mapping[str, Transform]) -> None:
        super().__init__()
        self.transforms = transforms
        self._bases: dict[str, Any] = {}

    def _pyro_sample(self, msg: Site) -> None:
        name = msg["name"]
        if name.removesuffix(_UNCONSTRAINED) in self.transforms and name.endswith(_UNCONSTRAINED):
            self._bases[name.removesuffix(_UNCONSTRAINED)] = msg["fn"]
            msg["stop"] = True
        elif name in self._bases:
            msg["fn"] = _image(self._bases.pop(name), self.transforms[name])


def _image(base: Any, transform: Transform) -> Any:
    """The distribution of the image; plain for the real line and for exp, by which closed forms know it."""
    points = base.mean + 0.3
    image = transform(points)
    if image.shape == points.shape and torch.equal(image, points):
        return base
    if image.shape == points.shape and torch.equal(image, points.exp()):
        return dist.TransformedDistribution(base, [transforms.ExpTransform()])
    return dist.TransformedDistribution(base, [transform])


# ---- The program as its layout shows it: run in pieces, with values given, scored datum by datum.


@final
class LocalProgram:
    """A program whose latent and observed sites are local to the rows of its data.

    It finds the data plate, runs the program in pieces where the program allows it, and gives values and
    log-probabilities datum by datum. Scales and weights do not count here (a density has none); masks do.
    Observed sites outside the data plate, as :func:`pyro.poutine.condition` makes of global latents, are
    taken as given.

    Args:
        program: a model or a guide.
        data: its positional arguments, with the data as first axis.
        role: ``"model"``, ``"guide"``, or ``"prior"`` for a model of which only the latent part is to be run,
            so that its data may be placeholders of the right length.
        data_plate: the name of the data plate, None to find it.
        batch_size: the largest number of rows of a run, where the program follows its arguments.
        kept: the latent sites that a guide draws; what the model enumerates beside these is summed out. None
            to take all latent sites for drawn.

    Raises:
        ValueError: if there is no data plate, or several, or a site has batch dimensions without plates.
        NotImplementedError: if a latent site is global or auxiliary, if an observed site joins the data, if
            an inner plate subsamples, or if a guide has factors.

    Example:
        >>> import pyro
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> program = LocalProgram(model, (torch.zeros(5),), role="model")
        >>> program.plate, program.follows, list(program.latents), list(program.observed)
        ('data', True, ['z'], ['x'])
    """

    def __init__(
        self,
        program: Program,
        data: Tensors,
        *,
        role: str,
        data_plate: str | None = None,
        batch_size: int = 1024,
        kept: Collection[str] | None = None,
    ) -> None:
        self.role = role
        self.data_size = len(data[0])
        seen = probe(program, data, role=role, data_plate=data_plate)
        if bijections := _transforms_of_auxiliaries(program, seen):
            program = _PushForwardMessenger(bijections)(program)
            seen = probe(program, data, role=role, data_plate=data_plate)
        self.program = program
        self.plate: str = seen.frame.name
        self.follows = seen.follows
        # whether its plate takes a fixed number of rows of the data
        self.subsamples = not seen.follows and _subsamples(seen.frame)
        self.piece: int = batch_size if seen.follows else seen.frame.size  # rows of a run, or the most
        # of a plate that takes part of its rows, whether as many as it is told or as many as the data
        self.whole_size = seen.frame.full_size if self.subsamples else seen.fixed_size
        if self.follows and self.whole_size is not None:
            self.piece = min(batch_size, self.whole_size)
        self.error = seen.error
        self._refuse_unknown_densities(seen, data)
        latents = self._layouts(seen, observed=False)  # in the program's order
        self.summed = {} if kept is None else self._enumerated(seen, latents, kept)
        self.latents = {name: each for name, each in latents.items() if name not in self.summed}
        self.observed = self._layouts(seen, observed=True)  # factors included
        self.point_masses = [name for name in self.latents if is_point_mass(seen.trace.nodes[name]["fn"])]
        # of the observed sites, those without a density, and those whose events are one value each
        observed: dict[str, Any] = {name: seen.trace.nodes[name]["fn"] for name in self.observed}
        self.observed_masses = [name for name, fn in observed.items() if is_point_mass(fn)]
        self.one_hot = [name for name, fn in observed.items() if is_one_hot(fn)]
        self.given = [site["name"] for site in sample_sites(seen.trace) if site.get("given")]
        # whether latent sites may depend on what is summed out, some of which comes before them
        self.mixes_latents = list(latents)[: len(self.latents)] != list(self.latents)
        # latent sites of which parts may be left out, as mask and obs_mask do
        self.masked = [name for name in latents if is_masked(seen.trace.nodes[name])]
        self.masked_observed = [
            name for name, each in self.observed.items() if each.size and is_masked(seen.trace.nodes[name])
        ]
        if role != "prior" and self.whole_size != self.data_size and self.is_bound_to_rows(data):
            raise ValueError(
                f"Expected {self.whole_size} data, the size of the plate {self.plate!r}, but got "
                f"{self.data_size}, and the {role} has values of its own for each row of the plate; pass the "
                "data that these belong to"
            )

    @torch.no_grad()
    def is_bound_to_rows(self, data: Tensors) -> bool:
        """Whether the same data in other rows of a plate of fixed size have other densities."""
        if self.whole_size is None:
            return False
        whole = self.whole_size
        data = rows_of(data, torch.arange(whole) % len(data[0]))
        rows = torch.arange(self.piece if self.subsamples else min(whole, max(self.piece, _FEW)))
        layouts = self.latents | self.summed
        with isolated_random_state(), evaluation_mode(self.program):
            z = self.values(self.trace(data, rows), len(rows), layouts)
            here = self._scores(z, data, rows)
            # the next row, and then all others: what is the same in these is the same everywhere
            for shift in (1, *range(len(rows), whole, len(rows))):
                moved = tuple(each.roll(shift, 0) for each in data)
                there = self._scores(z, moved, (rows + shift) % whole)
                if any(not torch.allclose(here[name], there[name], equal_nan=True) for name in here):
                    return True
        return False

    def _scores(self, z: SiteValues, data: Tensors, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        trace = self.trace(data, rows, values={name: each[None] for name, each in z.items()})
        return {name: self.log_prob(trace.nodes[name], len(rows)) for name in self.latents | self.observed}

    def _refuse_unknown_densities(self, seen: Probe, data: Tensors) -> None:
        outside = [site for site in _latents(seen.trace) if not self._is_local(site)]
        if outside:
            raise GlobalLatentsError(outside, role=self.role, plate=self.plate)
        inside = [
            site["name"] for site in sample_sites(seen.trace) if site.get("given") and self._is_local(site)
        ]
        if inside:
            raise ValueError(
                f"Expected values of global latent sites but {inside} are inside the data plate "
                f"{self.plate!r} of the {self.role}; put them into the plate of the other program too"
            )
        if self.subsamples and self.plate not in seen.trace.nodes:
            raise NotImplementedError(
                f"The plate {self.plate!r} of the {self.role} took its subsample before the program ran; "
                "make the plate within the program"
            )
        for site in sample_sites(seen.trace):
            self._refuse_site(site)
        given = [site["name"] for site in sample_sites(seen.trace) if self._is_given(site)]
        if given and self.role != "prior":
            self._refuse_dependence(given, data)

    def _refuse_site(self, site: Site) -> None:
        name, observed = site["name"], site["is_observed"]
        if self.role == "guide" and self._counts_in_guide(site):
            raise NotImplementedError(
                f"The guide's site {name!r} is a factor or observed, so that its density is not normalised; "
                "use a guide whose sites are all latent"
            )
        if not observed and site["infer"].get("is_auxiliary"):
            raise NotImplementedError(
                f"The site {name!r} is auxiliary to the {self.role}, whose density is therefore not known; "
                "use a guide without auxiliary sites"
            )

    def _counts_in_guide(self, site: Site) -> bool:
        # a guide that is a messenger runs the model, whose observed sites these are
        if not site["is_observed"] or isinstance(poutine.unwrap(self.program), Messenger):
            return False
        return isinstance(site["fn"], dist.Unit) or (self._is_local(site) and not is_deterministic(site))

    def _is_local(self, site: Site) -> bool:
        return any(frame.name == self.plate for frame in frames_of(site))

    def _is_given(self, site: Site) -> bool:
        return site["is_observed"] and not is_deterministic(site) and not self._is_local(site)

    @torch.no_grad()
    def _refuse_dependence(self, names: list[str], data: Tensors) -> None:
        """Observed sites outside the data plate must not change with the latent sites of the data."""
        with isolated_random_state(), evaluation_mode(self.program):
            first, again = (self.trace(data, next(self.pieces(len(data[0])))) for _ in range(2))
        for name in names:
            sites = [trace.nodes[name] for trace in (first, again) if name in trace.nodes]
            scores = [site["fn"].log_prob(site["value"]) for site in sites]
            if not all(torch.equal(scores[0], each) for each in scores[1:]):
                raise NotImplementedError(
                    f"The observed site {name!r} of the {self.role} is outside the data plate {self.plate!r} "
                    "but depends on local latents, which makes the data dependent; put it into the plate"
                )

    def _enumerated(
        self, seen: Probe, latents: Mapping[str, SiteLayout], kept: Collection[str]
    ) -> dict[str, SiteLayout]:
        nodes: Any = seen.trace.nodes
        marked = {name: nodes[name]["infer"].get("enumerate") for name in latents}
        return {
            name: layout
            for name, layout in latents.items()
            if name not in kept and marked[name] == "parallel"
        }

    def _layouts(self, seen: Probe, *, observed: bool) -> dict[str, SiteLayout]:
        sites = [site for site in sample_sites(seen.trace) if self._is_local(site)]
        depth = max(-frame.dim for site in sites for frame in frames_of(site))
        wanted = [site for site in sites if site["is_observed"] == observed and not is_deterministic(site)]
        return {site["name"]: self._layout(site, depth) for site in wanted}

    def _layout(self, site: Site, depth: int) -> SiteLayout:
        frames = {frame.name: frame for frame in frames_of(site)}
        data = frames.pop(self.plate)
        self._refuse_batch_without_plates(site, {frame.dim for frame in (data, *frames.values())})
        inner = sorted((frame.dim, self._whole_size(frame, site)) for frame in frames.values())
        event_shape = tuple(site["fn"].event_shape)
        rank = site["value"].dim() - len(event_shape)
        dtype = site["value"].dtype
        discrete = bool(is_discrete(site["fn"]))
        return SiteLayout(site["name"], data.dim, tuple(inner), event_shape, depth, rank, dtype, discrete)

    def _refuse_batch_without_plates(self, site: Site, plates: set[int]) -> None:
        batch = tuple(site["fn"].batch_shape)
        if any(size > 1 and i - len(batch) not in plates for i, size in enumerate(batch)):
            raise ValueError(
                f"Expected plates for all batch dimensions of {site['name']!r} but its batch shape {batch} "
                f"has plates at {sorted(plates)} only; declare events by .to_event()"
            )

    def _whole_size(self, frame: CondIndepStackFrame, site: Site) -> int:
        if _subsamples(frame):
            raise NotImplementedError(
                f"The plate {frame.name!r} around {site['name']!r} subsamples within the data plate, so that "
                "the site's density is not known; let it take all of its rows"
            )
        return frame.size

    def running(self, program: Program) -> "LocalProgram":
        """The same layout for a variant of the program that has the same sites."""
        twin = copy.copy(self)
        twin.program = program
        return twin

    def generating(self) -> "LocalProgram":
        """The program with its local observed sites drawn; what is conditioned on stays fixed."""
        return self.running(GenerateMessenger(self.observed)(self.program))

    @property
    def takes_any_rows(self) -> bool:
        """Whether it takes data of any number, none of which has a row in a plate of fixed size."""
        return self.follows and self.whole_size is None

    def runs_whole(self, size: int) -> bool:
        """Whether one run takes so many data, all of them."""
        return not self.subsamples and (self.whole_size is None or size <= self.whole_size)

    def pieces(self, size: int) -> Iterator[torch.Tensor]:
        """The rows of ``size`` data, as many at a time as one run takes.

        A plate that subsamples takes its own number of rows each time: the last piece goes back for some, and
        too few data are taken more than once.
        """
        return (rows for rows, _ in self._runs(size))

    def _runs(self, size: int) -> Iterator[tuple[torch.Tensor, slice]]:
        """The rows of each run, and which of them no run before had."""
        if not (self.follows or self.subsamples or size == self.piece):
            raise ValueError(
                f"Expected {self.piece} data, the fixed size of the plate {self.plate!r} of the {self.role}, "
                f"but got {size}; pass as many, or give the plate the size len(data)"
            )
        for start in range(0, size, self.piece):
            new = min(self.piece, size - start)
            first = start if self.follows else max(0, min(start, size - self.piece))
            rows = torch.arange(first, first + (new if self.follows else self.piece)) % size
            yield rows, slice(start - first, start - first + new)

    def together(self, size: int, run: Callable[[torch.Tensor], SiteValues]) -> dict[str, torch.Tensor]:
        """What runs over all rows of ``size`` data give, end to end.

        Args:
            size: the number of data.
            run: from the rows (B,) of one run to tensors (B, ...).

        Returns:
            Tensors (size, ...).
        """
        parts = [{name: each[new] for name, each in run(rows).items()} for rows, new in self._runs(size)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def trace(
        self,
        data: Tensors,
        rows: torch.Tensor | None = None,
        *,
        values: SiteValues | None = None,
        stop_after: Sequence[str] | None = None,
    ) -> Any:
        """A trace of the program on some rows of its data, None for all, its log-probabilities not computed.

        Sites are given values (outer, B or 1, *shape), see :class:`SiteLayout`. After the latent sites to
        stop after, the rest of the program is left out.
        """
        everything = torch.arange(len(data[0]))
        rows = everything if rows is None else rows
        layouts = self.latents | self.summed | self.observed if values else {}
        held = {name: layouts[name].held(z, len(rows)) for name, z in (values or {}).items()}
        program = ValuesMessenger(held, stop_after=stop_after)(self.program)
        if self.follows and self.whole_size is not None:
            # what a program keeps for each row of its plate belongs to the rows of these data
            program = RowsMessenger(self.plate, rows % self.whole_size)(program)
        if self.subsamples:
            # a plate of the data's size cannot take more rows than there are
            enough = data if len(everything) >= self.piece else rows_of(data, rows)
            return _trace(RowsMessenger(self.plate, rows)(program), enough)
        return _trace(program, data if torch.equal(rows, everything) else rows_of(data, rows))

    def enumerated(
        self,
        data: Tensors,
        rows: torch.Tensor,
        *,
        values: SiteValues,
        stop_after: Sequence[str] | None = None,
    ) -> Any:
        """The same with each value of the sites to be summed out, along axes to the left of all plates."""
        depth = next(iter(self.summed.values())).depth
        # what stops the program stands inside, so that each site has passed all handlers by then
        stopping = ValuesMessenger({}, stop_after=stop_after)(self.program)
        kept = _KeptMessenger([*self.latents, *self.observed])(stopping)
        twin = self.running(poutine.enum(kept, first_available_dim=-1 - depth))
        return twin.trace(data, rows, values=values)

    def recovered(self, data: Tensors, values: SiteValues) -> dict[str, torch.Tensor]:
        """A draw of the sites that are summed out, given data and latent sites, (size, *shape).

        Args:
            data: as many as there are values.
            values: those of the latent sites, (size, *shape).
        """
        depth = next(iter(self.summed.values())).depth

        def run(rows: torch.Tensor) -> dict[str, torch.Tensor]:
            held = {n: self.latents[n].held(z[None, rows], len(rows)) for n, z in values.items()}
            fixed = poutine.condition(_KeptMessenger([*held])(self.program), data=held)
            drawing = infer_discrete(fixed, first_available_dim=-1 - depth, temperature=1)
            return self.values(self.running(drawing).trace(data, rows), len(rows), self.summed)

        return self.together(len(data[0]), run)

    def draw(self, data: Tensors, *, summed: bool = False) -> dict[str, torch.Tensor]:
        """The latent sites drawn once for each datum, (size, *shape), without the rest of the program.

        Those that are to be summed out are drawn too, and given back if wanted.
        """
        layouts = self.latents | self.summed if summed else self.latents

        def run(rows: torch.Tensor) -> dict[str, torch.Tensor]:
            return self.values(self.trace(data, rows, stop_after=list(layouts)), len(rows), layouts)

        return self.together(len(data[0]), run)

    def observations(self, data: Tensors, z: SiteValues | None = None) -> dict[str, torch.Tensor]:
        """The observed sites of a run, (size, *shape) each: the data, or a draw where they are to be drawn.

        Args:
            data: as many as are wanted.
            z: values of latent sites, (size, *shape); those that are not there are drawn.
        """
        # a factor is an observed site too, of no value
        layouts = {name: layout for name, layout in self.observed.items() if layout.size}

        def run(rows: torch.Tensor) -> dict[str, torch.Tensor]:
            given = {name: each[None, rows] for name, each in (z or {}).items()}
            return self.values(self.trace(data, rows, values=given), len(rows), layouts)

        return self.together(len(data[0]), run)

    def values(
        self, trace: Any, rows: int, layouts: Mapping[str, SiteLayout] | None = None
    ) -> dict[str, torch.Tensor]:
        """The values of sites, of the latent ones by default, in a trace of :meth:`trace`: (rows, *shape)."""
        wanted = self.latents if layouts is None else layouts
        return {name: each.rows(trace.nodes[name]["value"], rows)[0] for name, each in wanted.items()}

    @torch.no_grad()
    def presence(self, data: Tensors) -> dict[str, torch.Tensor]:
        """Which values of the masked latent sites count, (size, *shape), of sites that leave some out."""
        if not self.masked:
            return {}

        def run(rows: torch.Tensor) -> dict[str, torch.Tensor]:
            trace = self.trace(data, rows, stop_after=[*self.latents, *self.summed])
            return {name: self._present(trace.nodes[name], len(rows)) for name in self.masked}

        return self._with_gaps(data, run)

    @torch.no_grad()
    def observed_presence(self, data: Tensors) -> dict[str, torch.Tensor]:
        """Which values of the masked observed sites count, (size, *shape), of sites that leave some out."""
        if not self.masked_observed:
            return {}

        def run(rows: torch.Tensor) -> dict[str, torch.Tensor]:
            trace = self.trace(data, rows)
            return {name: self._present(trace.nodes[name], len(rows)) for name in self.masked_observed}

        return self._with_gaps(data, run)

    def _with_gaps(self, data: Tensors, run: Callable[[torch.Tensor], SiteValues]) -> dict[str, torch.Tensor]:
        with isolated_random_state(), evaluation_mode(self.program):
            found = self.together(len(data[0]), run)
        return {name: each for name, each in found.items() if not bool(each.all())}

    def _present(self, site: Site, rows: int) -> torch.Tensor:
        """(rows, *shape)."""
        fn, layout = site["fn"], (self.latents | self.summed | self.observed)[site["name"]]
        shape = fn.batch_shape + fn.event_shape
        masks = [(unweighted_scale_and_mask(site)[1], len(fn.event_shape))]
        masks += [(each._mask, len(each.event_shape)) for each in within(fn) if hasattr(each, "_mask")]
        present = torch.ones(shape, dtype=torch.bool, device=site["value"].device)
        for mask, event_dim in masks:
            if mask is not None:
                mask = torch.as_tensor(mask, dtype=torch.bool)
                present = present & mask.reshape(mask.shape + (1,) * event_dim)
        return layout.rows(present, rows)[0]

    def log_prob(self, site: Site, rows: int, *, z: torch.Tensor | None = None) -> torch.Tensor:
        """log p of a site of a :meth:`trace` datum by datum, inner plates summed: (outer, rows), float64.

        ``z`` are the values to score, (outer, rows or 1, *shape), where they are not those that the program
        ran with, or finer than those.
        """
        layout = (self.latents | self.observed)[site["name"]]
        self._refuse_other_rows(site, rows)
        try:
            score = (
                site["fn"].log_prob(site["value"]) if z is None else score_under(site["fn"], layout, z, rows)
            )
        except (KeyError, NotImplementedError) as error:
            # transforms that have no inverse raise either
            raise NotImplementedError(
                f"The site {site['name']!r} of the {self.role} is {_with_transforms(site['fn'])}, which "
                "scores only what it has just drawn; use a flow whose inverse is known, as AmortizedFlow's"
            ) from error
        _, mask = unweighted_scale_and_mask(site)
        return layout.summed(scale_and_mask(score, mask=mask).double(), rows)

    def _refuse_other_rows(self, site: Site, rows: int) -> None:
        (size,) = (frame.size for frame in frames_of(site) if frame.name == self.plate)
        if size != rows:
            raise ValueError(
                f"Expected {rows} rows in the plate {self.plate!r} around {site['name']!r} but got {size}; "
                "a program made for other data cannot score these"
            )


def _with_transforms(fn: Any) -> str:
    """The family, and the names of its transforms."""
    names = [type(each).__name__ for each in getattr(fn, "transforms", ())]
    return full_name(fn) + (f" by {', '.join(names)}" if names else "")


@final
class _KeptMessenger(Messenger):
    """Lets some sites be drawn or given that the program would enumerate."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self.names = names

    def _pyro_sample(self, msg: Site) -> None:
        if msg["name"] in self.names and msg["infer"]:
            msg["infer"] = {key: each for key, each in msg["infer"].items() if key != "enumerate"}


def is_masked(site: Site) -> bool:
    """Whether a mask is around a site or within its distribution."""
    mask = unweighted_scale_and_mask(site)[1]
    if mask is not None and mask is not True:
        return True
    return any(isinstance(each, dist.MaskedDistribution) for each in within(site["fn"]))


def leaves_out(site: Site) -> bool:
    """Whether a mask may leave out some of a site: one that is around it and True everywhere does not."""
    mask = unweighted_scale_and_mask(site)[1]
    if mask is not None and not bool(torch.as_tensor(mask).all()):
        return True
    return any(isinstance(each, dist.MaskedDistribution) for each in within(site["fn"]))


def within(fn: object) -> Iterator[Any]:
    """A distribution, and those that it wraps one in the other."""
    while fn is not None:
        yield fn
        fn = getattr(fn, "base_dist", None)


def score_under(fn: TorchDistribution, layout: SiteLayout, z: torch.Tensor, rows: int) -> torch.Tensor:
    """The log-density of values (outer, rows or 1, *shape) of a site, in the batch shape of a run."""
    if not layout.dtype.is_floating_point:
        return fn.log_prob(layout.place(z.to(layout.dtype), rows))
    try:
        return fn.log_prob(layout.place(z.to(torch.promote_types(z.dtype, layout.dtype)), rows))
    except RuntimeError:
        # a distribution with networks of its own takes values of their dtype only
        return fn.log_prob(layout.place(z.to(layout.dtype), rows))


def _trace(program: Program, data: Tensors) -> poutine.Trace:
    handler = poutine.trace(program)
    try:
        with plain_errors():
            return handler.get_trace(*data)
    except ProgramStopped:
        return handler.trace


def _subsamples(frame: CondIndepStackFrame) -> bool:
    return frame.full_size is not None and frame.size < frame.full_size
