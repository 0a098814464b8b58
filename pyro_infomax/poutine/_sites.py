"""Which plate of a program holds the data."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pyro.distributions as dist
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample

from pyro_infomax._types import Frame, Site

# ---- Sites, their frames, and the plate of the data.

Frames = dict[str, Frame]


class UnknownPlateError(ValueError):
    """A program has no plate of the name that was given."""


def data_frame(trace: Trace, size: int, *, role: str, name: str | None = None) -> Frame:
    """The frame of the data plate: around the observed sites of a model, of the data's size in a guide.

    The role, ``"model"``, ``"guide"`` or ``"prior"``, is for messages.
    """
    frames = _frames_around(sample_sites(trace))
    if name is not None:
        return _fitting({name: _named(frames, name, role)}, size, role)
    return _fitting(_around_observed(trace) or frames, size, role)


def sample_sites(trace: Trace) -> list[Site]:
    """The sites of a trace, those of subsampling left out."""
    return [site for site in trace.nodes.values() if site["type"] == "sample" and not site_is_subsample(site)]


def frames_of(site: Site) -> list[Frame]:
    """The vectorised plates around a site."""
    return [frame for frame in site["cond_indep_stack"] if frame.vectorized]


def is_deterministic(site: Site) -> bool:
    """Whether the site is computed from others and has no density.

    It is one of :func:`pyro.deterministic`, or what :func:`pyro.poutine.reparam` leaves of a site.
    """
    if site["infer"].get("_deterministic"):
        return True
    observed = site["is_observed"] or site["infer"].get("was_observed")
    return bool(observed) and _is_masked_point(site["fn"])


def _is_masked_point(fn: object) -> bool:
    masked = False
    while isinstance(fn, dist.MaskedDistribution | dist.Independent | dist.ExpandedDistribution):
        masked = masked or getattr(fn, "_mask", None) is False
        fn = fn.base_dist
    return masked and isinstance(fn, dist.Delta)


def _frames_around(sites: list[Site]) -> Frames:
    return {frame.name: frame for site in sites for frame in frames_of(site)}


def _around_observed(trace: Trace) -> Frames:
    """The plates around every observed site that is in a plate at all."""
    observed = [site for site in sample_sites(trace) if site["is_observed"] and not site.get("given")]
    sites = [site for site in observed if not is_deterministic(site)]
    each = [_frames_around([site]) for site in sites if frames_of(site)]
    shared = set.intersection(*map(set, each)) if each else set()
    return {name: frame for frames in each for name, frame in frames.items() if name in shared}


def _named(frames: Frames, name: str, role: str) -> Frame:
    if name not in frames:
        raise UnknownPlateError(
            f"Expected a plate {name!r} in the {role} but got {sorted(frames)}; "
            "name one of these as data_plate"
        )
    return frames[name]


def _fitting(candidates: Frames, size: int, role: str) -> Frame:
    fitting = {n: f for n, f in candidates.items() if size in (f.size, f.full_size)}
    # a plate that subsamples takes its rows from data of any length
    fitting = fitting or {n: f for n, f in candidates.items() if f.size < f.full_size}
    if len(fitting) == 1:
        return next(iter(fitting.values()))
    if fitting:
        raise ValueError(
            f"Expected one data plate in the {role} but {sorted(fitting)} all fit {size} data; "
            "say which by data_plate='name'"
        )
    if candidates:
        sizes = {n: f.full_size for n, f in candidates.items()}
        raise ValueError(
            f"Expected a plate of size {size}, the number of data, in the {role} but got plates of the sizes "
            f"{sizes}; pass as many data as the plate has, or give it the size len(data)"
        )
    raise ValueError(
        f"Expected a vectorised plate around the sites of the {role} but found none; "
        "put the local sites into pyro.plate('data', len(data))"
    )


# ---- The sentence of an error without what Pyro adds to it.


# As torch's matrix products, convolutions and losses say it
_OF_DTYPES: Final = re.compile(r"same d(ata)?type|scalar type|type .* should be the same")


@contextmanager
def plain_errors() -> Iterator[None]:
    """Lets the errors of a traced program leave it as they were raised, each once.

    Every trace of Pyro raises an error that passes through it anew and appends the shapes of all sites and
    parameters. That helps with errors of torch, where the shapes of the innermost trace become a note. It
    buries a sentence of this package, which already says what was expected, what came and what to do.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:
        said, shapes = _first_said(error)
        if _OF_DTYPES.search(str(said)) and not str(said).startswith("Expected "):
            raise ValueError(
                f"Expected data and parameters of one dtype but torch found: {said} Convert the data, as by "
                "x.float() or array.astype('float32')."
            ) from said
        if said is error:
            raise
        if not str(said).startswith("Expected "):
            said.add_note(shapes)
        raise said from said.__cause__


def _first_said(error: BaseException) -> tuple[BaseException, str]:
    """The error as it was raised, and what the innermost trace has appended to it."""
    shapes = ""
    while error.__cause__ is not None and str(error).startswith(str(error.__cause__)):
        shapes = str(error).removeprefix(str(error.__cause__)).strip("\n")
        error = error.__cause__
    return error, shapes
