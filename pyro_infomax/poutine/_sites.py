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


def minibatch_frame(trace: Trace, rows: int) -> Frame:
    """The frame of the data plate of a model in a training step, where no argument names it."""
    sites = sample_sites(trace)
    candidates = _around_observed(trace) or _frames_around(sites)
    how = "take minibatches of another size, or draw the latent sites in the plate of the data alone"
    return _only(fitting_frames(candidates, sites, rows), candidates, rows, "model", how)


def fitting_frames(candidates: Frames, sites: list[Site], rows: int | None) -> Frames:
    """The plates that may be the data's, a single one where the sites of the model tell.

    They have the rows of the minibatch, or subsample. Of several it is the outermost if that alone
    subsamples, and otherwise the one that holds latent sites; where these two disagree, it cannot be told.
    """
    fitting = {n: f for n, f in candidates.items() if rows in (f.size, f.full_size)}
    fitting = fitting or _subsampling(candidates)
    latent = {f.name for site in sites if not site["is_observed"] for f in frames_of(site)}
    holding = {n: f for n, f in fitting.items() if n in latent}
    subsampling = _subsampling(fitting)
    if list(subsampling) == list(fitting)[:1]:
        return fitting if holding and not holding.keys() & subsampling.keys() else subsampling
    return holding or fitting


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
    fitting = fitting or _subsampling(candidates)
    return _only(fitting, candidates, size, role, "say which by data_plate='name'")


def _subsampling(frames: Frames) -> Frames:
    return {n: f for n, f in frames.items() if f.size < (f.full_size or f.size)}


def _only(fitting: Frames, candidates: Frames, size: int, role: str, how: str) -> Frame:
    if len(fitting) == 1:
        return next(iter(fitting.values()))
    if fitting:
        raise ValueError(
            f"Expected one data plate in the {role} but {sorted(fitting)} all fit {size} data; {how}"
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
