"""Sites that do not depend on each other, as one product over all latent dimensions; and which ones do."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final, cast

import torch
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from pyro_infomax._data import SiteValues, Tensors, rows_of
from pyro_infomax._random import isolated_random_state
from pyro_infomax._types import Site
from pyro_infomax.distributions import (
    Posterior,
    SideBySide,
    alternatives,
    batch_mapped,
    factors_of,
    in_double,
    is_factorised,
    is_normal,
    joined,
    tensors_of,
)
from pyro_infomax.joint._latent_space import LatentSpace, site_scores
from pyro_infomax.programs import LocalProgram, factors_by_datum, leaves_out

# ---- The factors of all sites for all data, where sites do not depend on each other.

Factors = dict[str, Distribution]  # of each site, batch shape (rows, size)


def product_of_sites(program: LocalProgram, data: Tensors, space: LatentSpace) -> Distribution | None:
    """The distribution of all latent sites for all data, if their dimensions are independent.

    Sites that depend on each other are none: they are run twice, with draws and with values far from them,
    and what a site's parameters do not follow, it does not depend on. It is in float64, a diagonal Normal, a
    product of another family or of several; None too if a site is masked or no product of univariate factors.
    """
    runs = []
    for rows in program.pieces(len(data[0])):
        found = _factors_of_rows(program, data, space, rows)
        if found is None:
            return None
        runs.append((rows, found))
    try:
        parts = [_of_all(runs, name, len(data[0])) for name in space.layouts]
    except NotImplementedError:
        return None
    return Independent(_together(parts, space), 1)


def lone_vector(site: Site, size: int) -> Distribution | None:
    """The distribution of a site whose batch is the data and whose event is a vector; float64 if Normal."""
    fn = in_double(site["fn"]) if is_normal(site["fn"]) else site["fn"]
    plain = not leaves_out(site) and fn.batch_shape == (size,) and len(fn.event_shape) == 1
    whole = not isinstance(fn, Independent) or not fn.base_dist.event_shape
    if not (plain and whole and isinstance(fn, Distribution)):
        return None
    with isolated_random_state(), torch.no_grad():
        z = torch.stack([fn.sample().double() for _ in range(2)])  # (2, data, latent)
    return fn if broadcasts(fn.log_prob, z) else None


@torch.no_grad()
def broadcasts(score: Callable[[Tensor], Tensor], z: Tensor) -> bool:
    """Whether vectors (outer, data, latent) get the same scores, (outer, data), together as one by one."""
    try:
        together = score(z)
    except Exception:  # whatever a program says to a further axis
        return False
    apart = torch.cat([score(each[None]) for each in z])
    return same_scores(together, apart)


def same_scores(one: Tensor, other: Tensor) -> bool:
    """Whether they differ by rounding at most."""
    return one.shape == other.shape and torch.allclose(one, other, rtol=_MISTAKE, atol=_MISTAKE)


_MISTAKE: Final = 1e-3  # wrong values are some nats off; single precision rounds a sharp density to 1e-5


def of_any_datum(found: Distribution) -> Distribution | None:
    """The distribution of a datum, where those of all data are the same.

    Of a :func:`product_of_sites` or a :func:`lone_vector`.
    """
    if not (isinstance(found, Independent) and len(found.base_dist.batch_shape) == 2):
        return _first_of(found)
    base = found.base_dist
    parts = base.parts if isinstance(base, SideBySide) else [base]
    if not all(torch.equal(each, each[:1].expand_as(each)) for part in parts for each in _of_batch(part)):
        return None
    firsts = [batch_mapped([part], part.batch_shape[1:], _first_row) for part in parts]
    return Independent(SideBySide(firsts) if isinstance(base, SideBySide) else firsts[0], 1)


def _first_row(tensors: list[Tensor]) -> Tensor:
    return tensors[0][0].clone()  # a view would keep all rows in memory


@torch.no_grad()
def _first_of(fn: Distribution) -> Distribution | None:
    with isolated_random_state():
        z = fn.sample()
    expected = fn.log_prob(z)
    moved = fn.log_prob(z.roll(1, 0)).roll(-1, 0)
    if not torch.allclose(expected, moved, rtol=1e-6, equal_nan=True):
        return None
    try:
        first = batch_mapped([fn], [], _first_row)
        # what belongs to no datum may be taken for something that does, where it has as many rows
        return first if torch.allclose(first.log_prob(z), expected, rtol=1e-6, equal_nan=True) else None
    except (NotImplementedError, RuntimeError, ValueError):
        return None


def in_type_of_sites(posterior: Posterior, space: LatentSpace) -> Posterior:
    """What to draw from, so that every draw is one that its site can have.

    A draw in float64 may be nearer to the border of a support than float32 can tell, and would lie on it. So
    a product gets its parameters in the types of its sites; Normals, which have no border, and all else stay.
    """
    if not is_factorised(posterior) or isinstance(posterior.base_dist, Normal):
        return posterior
    base = posterior.base_dist
    parts = base.parts if isinstance(base, SideBySide) else [base]
    if len(parts) != len(space.layouts):
        return posterior
    types = [layout.dtype for layout in space.layouts.values()]
    own = [_in_type(part, each) for part, each in zip(parts, types, strict=True)]
    return Independent(SideBySide(own), 1)  # which draws in float64 again


def _in_type(part: Distribution, dtype: torch.dtype) -> Distribution:
    if not dtype.is_floating_point:
        return part

    def rounded(tensors: list[Tensor]) -> Tensor:
        return tensors[0].to(dtype) if tensors[0].is_floating_point() else tensors[0]

    return batch_mapped([part], part.batch_shape, rounded)


def _of_batch(part: Distribution) -> Iterator[Tensor]:
    return (each for _, each in tensors_of(part) if each.shape[:2] == part.batch_shape)


def _together(parts: list[Distribution], space: LatentSpace) -> Distribution:
    """Integers have no plain distribution of their own here: they would be drawn in another type."""
    floating = all(layout.dtype.is_floating_point for layout in space.layouts.values())
    return joined(parts) if floating else SideBySide(parts)


def _of_all(runs: list[tuple[Tensor, Factors]], name: str, size: int) -> Distribution:
    """The factors of one site for all data; a row that was run twice counts as it was last."""
    fns = [found[name] for _, found in runs]
    rows = torch.cat([rows for rows, _ in runs])
    place = torch.empty(size, dtype=torch.long)
    place[rows] = torch.arange(len(rows))
    ordered = torch.equal(place, torch.arange(len(rows)))

    def end_to_end(tensors: list[Tensor]) -> Tensor:
        return torch.cat(tensors) if ordered else torch.cat(tensors)[place]

    return batch_mapped(fns, [size, *fns[0].batch_shape[1:]], end_to_end)


def _factors_of_rows(
    program: LocalProgram, data: Tensors, space: LatentSpace, rows: Tensor
) -> Factors | None:
    with isolated_random_state():
        # What one run shows may be a product by chance of its draws: it has to stay when the values of the
        # sites change, and to give these values the scores that the program gives them
        trace = program.trace(data, rows, stop_after=list(space.layouts))
        found = _read(space, trace, len(rows))
        if found is None or (len(found) > 1 and not _stays(program, data, space, rows, trace, found)):
            return None
        return found if _score_like_sites(program, space, trace, found, len(rows)) else None


@torch.no_grad()
def _stays(
    program: LocalProgram, data: Tensors, space: LatentSpace, rows: Tensor, trace: Trace, found: Factors
) -> bool:
    """Whether no site changes with the values of the others."""
    nodes: dict[str, Site] = trace.nodes  # type: ignore[assignment]
    first = {name: layout.rows(nodes[name]["value"], len(rows)) for name, layout in space.layouts.items()}
    try:
        for moved in _moved(space, trace, first, len(rows)):
            again = program.trace(data, rows, values=first | moved, stop_after=list(first))
            there = _read(space, again, len(rows))
            if there is None or not all(_hold_equal_parameters(found[name], there[name]) for name in found):
                return False
    except (RuntimeError, ValueError, IndexError):
        return False
    return True


_MOST_RUNS: Final = 16


def _moved(space: LatentSpace, trace: Trace, first: SiteValues, rows: int) -> Iterator[dict[str, Tensor]]:
    """Other values of the sites that others may depend on: in all combinations while these are few.

    Else all of them together, and one after the other.
    """
    ordered = [name for name in trace.nodes if name in first][:-1]  # nothing comes after the last
    nodes = {name: cast(Site, trace.nodes[name]) for name in ordered}
    others = {
        name: [space.layouts[name].rows(each, rows) for each in alternatives(site["fn"], site["value"])]
        for name, site in nodes.items()
    }
    if math.prod(len(each) + 1 for each in others.values()) <= _MOST_RUNS:
        choices = itertools.product(*([first[name], *others[name]] for name in ordered))
        yield from (dict(zip(ordered, each, strict=True)) for each in itertools.islice(choices, 1, None))
        return
    most = max(map(len, others.values()), default=0)
    yield from ({name: each[k % len(each)] for name, each in others.items()} for k in range(most))
    yield from ({name: value} for name, each in others.items() for value in each)


def _hold_equal_parameters(one: Distribution, other: Distribution) -> bool:
    # parameters that are computed when they are asked for may be known to one of the two only
    known = dict(tensors_of(other))
    pairs = [(each, known[name]) for name, each in tensors_of(one) if name in known]
    return type(one) is type(other) and bool(pairs) and all(torch.equal(*pair) for pair in pairs)


def _read(space: LatentSpace, trace: Trace, rows: int) -> Factors | None:
    """The factors of each site, of batch shape (rows, size)."""
    found = {}
    for name, layout in space.layouts.items():
        site = trace.nodes[name]
        factors = factors_of(site["fn"])
        if factors is None or leaves_out(site):
            return None
        try:
            found[name] = factors_by_datum(factors, layout, rows)
        except (NotImplementedError, RuntimeError):
            return None
    return found


@torch.no_grad()
def _score_like_sites(
    program: LocalProgram, space: LatentSpace, trace: Trace, found: Factors, rows: int
) -> bool:
    """Whether the factors give the values of the trace the scores that its sites do."""
    for name, layout in space.layouts.items():
        site = cast(Site, trace.nodes[name])
        z = layout.rows(site["value"], rows)[0]
        expected = program.log_prob(site, rows)[0]
        try:
            scores = found[name].log_prob(z.double().reshape(rows, -1)).sum(-1)
        except (NotImplementedError, RuntimeError, ValueError):
            return False
        if not torch.allclose(scores.double(), expected, rtol=1e-4, atol=1e-4, equal_nan=True):
            return False
    return True


# ---- Which latent sites of a program depend on which.


@torch.no_grad()
def dependences(program: LocalProgram, data: Tensors, sites: Sequence[str]) -> dict[str, list[str]]:
    """The sites that each of some sites depends on, those of a first run of rows taken for all.

    One site after the other changes between draws and values far from them; what depends on it is seen in the
    scores of the others, whose values stay: all of them draws, or all of them far.
    """
    rows = next(program.pieces(len(data[0])))
    with isolated_random_state():
        trace = program.trace(data, rows, stop_after=list(program.latents))
        near = program.values(trace, len(rows))
        nodes = ((layout, cast(Site, trace.nodes[name])) for name, layout in program.latents.items())
        far = {
            layout.name: layout.rows(alternatives(site["fn"], site["value"])[0], len(rows))[0]
            for layout, site in nodes
        }
        part = rows_of(data, rows)
        on = {
            name: _moved_by(program, part, near, far, name) | _moved_by(program, part, far, near, name)
            for name in sites
        }
    found = {name: [other for other in sites if name in on[other]] for name in sites}
    return {name: others for name, others in found.items() if others}


def _moved_by(
    program: LocalProgram, data: Tensors, values: SiteValues, others: SiteValues, name: str
) -> set[str]:
    """The sites whose scores change with the value of this one; none where the program does not take it."""
    names = list(program.latents)
    try:
        here, there = (
            site_scores(program, data, each, names) for each in (values, {**values, name: others[name]})
        )
    except Exception:  # whatever a program says to values that it does not take: this is for a message only
        return set()
    return {
        other
        for other in names
        if other != name and not torch.allclose(here[other], there[other], rtol=1e-6, equal_nan=True)
    }
