"""What a site counts for where each process sees a part of a batch only."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, final

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from pyro_infomax.nn.module_modes import evaluation_mode
from pyro_infomax.poutine import is_deterministic
from pyro_infomax.training.batches import Batch

Program = Callable[..., Any]
Trace = Any


@final
class DataShareMessenger(Messenger):
    r"""Weighs sites so that the sum over processes counts each as often as a single process does.

    A process r has :math:`B_r` of the data B of a batch. A site in a plate that is as large as its part
    is a term of the sum over the data, and counts once. A site in a plate that says it is a subsample of N is
    scaled up to N already, by every process; and one outside of any data plate is the same for all data:
    both count :math:`|B_r| / |B|`, which sums to one.

    Args:
        plates: the names of the plates that are as large as the data that a program is given.
        share: :math:`|B_r| / |B|`.

    Example:
        >>> import pyro
        >>> def model(x):
        ...     w = pyro.sample("w", pyro.distributions.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", pyro.distributions.Normal(w, 1.0), obs=x)
        >>> with DataShareMessenger({"data"}, share=0.25):
        ...     trace = poutine.trace(model).get_trace(torch.zeros(5))
        >>> trace.nodes["w"]["scale"], trace.nodes["x"]["scale"]
        (0.25, 1.0)
    """

    def __init__(self, plates: frozenset[str] | set[str], *, share: float) -> None:
        super().__init__()
        self.plates = frozenset(plates)
        self.share = share

    @property
    def capture_key(self) -> Hashable:
        """What a recorded step is recorded for; see :class:`CapturedSVI`."""
        return type(self).__name__, self.plates, self.share

    # Before any trace copies the message
    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg) or is_deterministic(msg) or self.share == 1:
            return
        if not any(frame.name in self.plates for frame in msg["cond_indep_stack"]):
            msg["scale"] = msg["scale"] * self.share


@final
class DataPlates:
    """Which plates of a pair of programs hold data, found by runs on different numbers of data.

    Args:
        model: the model.
        guide: the guide.
        batch: data that both take.

    Attributes:
        whole: the plates that are as large as the data given.
        outside: the sites in no plate that follows the data.

    Raises:
        NotImplementedError: where a site in no such plate depends on the data all the same, and where a
            scale follows their number, other than that of a plate which says that it is a subsample.
    """

    def __init__(self, model: Program, guide: Program, batch: Batch) -> None:
        with evaluation_mode(model, guide), torch.no_grad():
            here = _traces(model, guide, batch)
            other = _other_rows(batch)
            there = _other_traces(model, guide, other, here)
        plates = [_plates(traces) for traces in (here, there)]
        names = plates[0].keys() & plates[1].keys()
        self.whole = frozenset(name for name in names if plates[0][name][1] != plates[1][name][1])
        subsamples = {name for name in names if plates[0][name][0] != plates[1][name][0]} - self.whole
        following = self.whole | subsamples
        self.outside = [site["name"] for site in _sites(here) if not _within(site, following)]
        self._check_independent(here, there)
        _check_scales(here, there, subsamples, len(batch[0]) / len(other[0]))

    def _check_independent(self, here: Sequence[Trace], there: Sequence[Trace]) -> None:
        for one, other in zip(here, there, strict=True):
            for name in (name for name in self.outside if name in one.nodes and name in other.nodes):
                if not _alike(one.nodes[name], other.nodes[name]):
                    raise NotImplementedError(
                        f"The site {name!r} is in no plate of the data's size but changes with the data, so "
                        "that several processes cannot add up their parts of it; put it into "
                        "pyro.plate('data', len(data))"
                    )


def _traces(model: Program, guide: Program, batch: Batch) -> tuple[Trace, Trace]:
    guide_trace = poutine.trace(guide).get_trace(*batch)
    return poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*batch), guide_trace


def _other_traces(
    model: Program, guide: Program, batch: Batch, known: tuple[Trace, Trace]
) -> tuple[Trace, Trace]:
    """With the values of the sites that are in no plate at all, or in one of the same size."""
    with _KeepMessenger([site for site in _sites(known) if not site["is_observed"]]):
        return _traces(model, guide, batch)


def _other_rows(batch: Batch) -> Batch:
    rows = len(batch[0])
    return tuple(part[: rows // 2] if rows > 1 else torch.cat([part, part]) for part in batch)


def _sites(traces: Sequence[Trace]) -> list[Any]:
    return [
        site
        for trace in traces
        for site in trace.nodes.values()
        if site["type"] == "sample" and not site_is_subsample(site) and not is_deterministic(site)
    ]


def _plates(traces: Sequence[Trace]) -> dict[str, tuple[int, int]]:
    """Size and full size by name."""
    frames = (frame for site in _sites(traces) for frame in site["cond_indep_stack"])
    return {frame.name: (frame.size, frame.full_size or frame.size) for frame in frames}


def _within(site: Any, plates: frozenset[str]) -> bool:
    return any(frame.name in plates for frame in site["cond_indep_stack"])


def _check_scales(here: Sequence[Trace], there: Sequence[Trace], subsamples: set[str], ratio: float) -> None:
    """Processes that each scale their own part up to all data would together count these several times."""
    for one, other in zip(here, there, strict=True):
        known = {site["name"]: site for site in _sites([other])}
        for site in _sites([one]):
            if site["name"] not in known or _within(site, frozenset(subsamples)):
                continue
            scales = [torch.as_tensor(each["scale"]).double() for each in (site, known[site["name"]])]
            # Of weights that each datum has by itself there is one a row
            if any(scale.dim() for scale in scales) or not scales[1]:
                continue
            if min(abs(float(scales[0] / scales[1]) - each) for each in (ratio, 1 / ratio)) < 1e-6 * ratio:
                raise NotImplementedError(
                    f"The site {site['name']!r} has a scale that follows the number of data given, of which "
                    "each process has a part only; state the data plate as pyro.plate('data', N, "
                    "subsample_size=len(data)) in its place"
                )


def _alike(site: Any, other: Any) -> bool:
    one, two = (each["fn"].log_prob(each["value"]).double().sum() for each in (site, other))
    return torch.allclose(one, two, rtol=1e-5, atol=1e-8, equal_nan=True)


@final
class _KeepMessenger(Messenger):
    """Gives latent sites the values that they had, where these still fit."""

    def __init__(self, sites: Sequence[Any]) -> None:
        super().__init__()
        self._values = {site["name"]: site["value"] for site in sites}

    def _pyro_sample(self, msg: Any) -> None:
        value = self._values.get(msg["name"])
        if value is None or msg["done"] or msg["is_observed"]:
            return
        fn = msg["fn"]
        if value.shape == torch.Size([*fn.batch_shape, *fn.event_shape]):
            msg["value"], msg["done"] = value, True
