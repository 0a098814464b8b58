"""Training in several processes, each of which sees a part of every batch."""

import hashlib
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import groupby
from typing import Final, final

import torch
from pyro import poutine
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.infer.util import zero_grads
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from pyro_infomax._random import isolated_random_state
from pyro_infomax._ranks import Fabric, Ranks, ranks_of, result_or_error
from pyro_infomax._types import Program, Site
from pyro_infomax.capture import CapturedSVI
from pyro_infomax.nn import evaluation_mode, modules_behind
from pyro_infomax.poutine import is_deterministic
from pyro_infomax.programs import ProgramState, Snapshot, is_of_programs
from pyro_infomax.training._batches import Batch, Batches, LoaderBatches
from pyro_infomax.training._execution import Execution, objective, total_loss

# ---- What a site counts for where each process sees a part of a batch only.


@final
class DataShareMessenger(Messenger):
    """Weighs sites so that the sum over processes counts each as often as a single process does.

    A process r has :math:`B_r` of the data B of a batch. A site in a plate that is as large as its part
    is a term of the sum over the data, and counts once. A site in a plate that says it is a subsample of N is
    scaled up to N already, by every process; and one outside of any data plate is the same for all data:
    both count the share :math:`|B_r| / |B|`, which sums to one.
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
    def _pyro_sample(self, msg: Site) -> None:
        if site_is_subsample(msg) or is_deterministic(msg) or self.share == 1:
            return
        if not any(frame.name in self.plates for frame in msg["cond_indep_stack"]):
            msg["scale"] = msg["scale"] * self.share


@final
class DataPlates:
    """Which plates of a pair of programs hold data, found by runs on different numbers of data.

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
                if not _have_equal_scores(one.nodes[name], other.nodes[name]):
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


def _sites(traces: Sequence[Trace]) -> list[Site]:
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


def _within(site: Site, plates: frozenset[str]) -> bool:
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


def _have_equal_scores(site: Site, other: Site) -> bool:
    one, two = (each["fn"].log_prob(each["value"]).double().sum() for each in (site, other))
    return torch.allclose(one, two, rtol=1e-5, atol=1e-8, equal_nan=True)


@final
class _KeepMessenger(Messenger):
    """Gives latent sites the values that they had, where these still fit."""

    def __init__(self, sites: Sequence[Site]) -> None:
        super().__init__()
        self._values = {site["name"]: site["value"] for site in sites}

    def _pyro_sample(self, msg: Site) -> None:
        value = self._values.get(msg["name"])
        if value is None or msg["done"] or msg["is_observed"]:
            return
        fn = msg["fn"]
        if value.shape == torch.Size([*fn.batch_shape, *fn.event_shape]):
            msg["value"], msg["done"] = value, True


# ---- The part of each batch that one of several processes takes, in step with the others.


@final
class RankBatches(Batches):
    """A process's part of the batches, as long as every process has one.

    Before an epoch of training is drawn, ``begin`` hears of the batches that are left out; and of each batch
    ``meet`` hears how many data this process has of it, and all of them together.
    """

    def __init__(
        self,
        batches: Batches,
        ranks: Ranks,
        *,
        begin: Callable[[int], None],
        place: Callable[[Batch], Batch],
        meet: Callable[[int, int], None],
    ) -> None:
        self._own = ranks.together(lambda: batches.sharded(ranks.rank, ranks.world_size))
        self._ranks = ranks
        self._begin = begin
        self._place = place
        self._meet = meet
        self._from_loader = isinstance(batches, LoaderBatches)

    def shuffled(self, skip: int = 0) -> Iterator[Batch]:
        self._begin(skip)
        before = torch.get_rng_state()
        own = self._ranks.together(lambda: self._own.shuffled(skip))
        if self._ranks.world_size > 1 and torch.equal(before, torch.get_rng_state()):
            # What an epoch begins with decides on its noise, so that no two may begin with the same
            torch.rand((), device="cpu")
        return self._walk(own)

    def ordered(self) -> Iterator[Batch]:
        return self._walk(self._ranks.together(self._own.ordered))

    def sharded(self, rank: int, world_size: int) -> Batches:  # noqa: ARG002
        raise ValueError(f"Expected batches of one process but got those of {self._ranks.world_size}.")

    def _walk(self, own: Iterator[Batch]) -> Iterator[Batch]:
        first = True
        while True:
            batch, size = self._next(own)
            if batch is None:
                return
            if first and self._from_loader and self._ranks.world_size > 1:
                self._check_differ(batch)
            first = False
            self._meet(len(batch[0]), size)
            yield batch

    def _next(self, own: Iterator[Batch]) -> tuple[Batch | None, int]:
        """The next batch, None if there is none left, and the number of data over all processes."""
        batch, error = result_or_error(lambda: self._fetched(own))
        here = torch.tensor([error is not None, batch is not None, len(batch[0]) if batch else 0])
        failed, having, size = self._ranks.reduce(here).tolist()
        if failed:
            self._ranks.end_together(error)
        if having not in (0, self._ranks.world_size):
            raise ValueError(
                f"Expected as many batches for each of {self._ranks.world_size} processes but {having} of "
                "them have more; give each loader the same number (a DistributedSampler does)."
            )
        return batch, size

    def _fetched(self, own: Iterator[Batch]) -> Batch | None:
        batch = next(own, None)
        return None if batch is None else self._place(batch)

    def _check_differ(self, batch: Batch) -> None:
        """Loaders that nobody has split hand out the same data to all processes."""
        several = bool((batch[0] != batch[0][:1]).any())
        others = self._ranks.all_of([part.cpu() for part in batch])
        if several and all(_are_equal(each, others[0]) for each in others):
            raise ValueError(
                "Expected loaders that hold another part of the data for each process but all got the same "
                "batch; pass the loader through fabric.setup_dataloaders, or a DistributedSampler to it."
            )


def _are_equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(one, other, strict=True))


# ---- data parallel

_PRECISIONS: Final = ("32-true", "64-true", "bf16-mixed")
# Their losses are sums over the data; a user's own function may be anything
_SUMS: Final = (Trace_ELBO, TraceMeanField_ELBO, TraceGraph_ELBO, TraceEnum_ELBO, RenyiELBO)
# One weighs particles over all data at once, the others freeze the share of the first batch
_NO_SUMS: Final = (
    "TraceTailAdaptive_ELBO",
    "JitTrace_ELBO",
    "JitTraceMeanField_ELBO",
    "JitTraceGraph_ELBO",
    "JitTraceEnum_ELBO",
)
_LARGEST_SEED: Final = 2**63 - 1
_WRAPPERS: Final = ("_FabricModule", "DistributedDataParallel")


@final
class DataParallel(Execution):
    r"""SVI over the processes of a Lightning Fabric, by sums over their parts of each batch.

    .. math:: \nabla L(B) = \sum_r \nabla L_r(B_r)

    All processes start from the parameters and buffers of the first one, add up their gradients, and step
    alike. The loss of a batch is that of a single process: sites in a plate of the data's size add up, what
    is scaled to N or is outside of the data counts once (:class:`DataShareMessenger`). So a training does not
    depend on the number of processes, but for its noise: each process draws its own for its own data, and
    for latent variables that all data share.

    Buffers that the programs move, such as the statistics of batch norm, are averaged after each step,
    weighed by the number of data. Batch norm itself normalises a process's own part of the batch.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.ranks: Ranks = ranks_of(fabric)
        self.fabric = fabric
        self.share = 1.0
        self._noise = 0
        self._position = 0
        self._evaluated = 0
        self._plates: DataPlates | None = None
        self._programs: ProgramState | None = None
        self._moving: list[str] = []
        self._known: dict[str, Tensor] = {}
        _check_precision(fabric)

    # -- data ------------------------------------------------------------------------------------------

    def batches(self, batches: Batches) -> Batches:
        return RankBatches(batches, self.ranks, begin=self._begin, place=self._placed, meet=self._meet)

    def _placed(self, batch: Batch) -> Batch:
        return tuple(self.fabric.to_device(part) for part in batch)

    def _meet(self, own: int, size: int) -> None:
        self.share = own / size

    # -- random numbers --------------------------------------------------------------------------------

    def _begin(self, skip: int) -> None:
        """At the start of an epoch: one order of the data for all, and another noise for each.

        Both follow from where the first process stands there, so that a resumed training draws the same.
        """
        self._position, self._evaluated = skip, 0
        if self.ranks.world_size == 1:
            return
        torch.set_rng_state(self.ranks.broadcast(torch.get_rng_state()))
        with isolated_random_state():
            self._noise = int(torch.randint(_LARGEST_SEED, (), device="cpu"))

    def _own_noise(self) -> AbstractContextManager[None]:
        if self.ranks.world_size == 1:
            return nullcontext()
        place = f"{self._noise} {self._position} {self._evaluated} {self.ranks.rank}"
        digest = hashlib.blake2b(place.encode(), digest_size=8).digest()
        return isolated_random_state(int.from_bytes(digest) % _LARGEST_SEED)

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Around a run of the programs on this process's part of a batch."""
        share = DataShareMessenger(self._plates.whole, share=self.share) if self._plates else nullcontext()
        with self._own_noise(), self.fabric.autocast(), share:
            yield

    # -- the start -------------------------------------------------------------------------------------

    def prepare(self, svi: SVI, programs: ProgramState, batch: Batch) -> bool:
        if self.ranks.world_size == 1:
            return False
        self.ranks.together(lambda: _check_step(svi))
        shown = tuple(map(self.fabric.to_device, self.ranks.broadcast(batch)))
        kept = Snapshot(programs)
        programs.follow(kept.extend)
        self.ranks.together(lambda: self._try(svi, programs, kept, shown))
        self._programs = programs
        return self._share_first_values(programs)

    def _try(self, svi: SVI, programs: ProgramState, kept: Snapshot, batch: Batch) -> None:
        """Runs the programs on data that all processes have, and leaves no trace but what they create."""
        _check_sums(svi)
        # The first run creates what is lazy, and shows which buffers a run moves
        with isolated_random_state(), self.fabric.autocast(), _refusing_wrappers(svi):
            guide_trace = poutine.trace(svi.guide).get_trace(*batch)
            poutine.replay(svi.model, trace=guide_trace)(*batch)
        before = kept.state_dict()["buffers"]
        self._moving = [
            name
            for name, buffer in programs.buffers().items()
            if buffer.is_floating_point() and not torch.equal(buffer, before[name])
        ]
        # Further runs on other numbers of data show which plates hold them
        try:
            with isolated_random_state(), self.fabric.autocast():
                self._plates = DataPlates(svi.model, svi.guide, batch)
        finally:
            kept.restore()
        if isinstance(objective(svi), RenyiELBO) and self._plates.outside:
            raise NotImplementedError(
                f"A Rényi bound with sites outside of the data, {self._plates.outside}, is no sum over the "
                "data, so that several processes cannot share it; use a Trace_ or TraceMeanField_ class"
            )

    def _share_first_values(self, programs: ProgramState) -> bool:
        """Whether this process did not have the first one's parameters and buffers, which it has now."""
        own = {kind: _copied(tensors) for kind, tensors in programs.state_dict().items()}
        self._check_same_shapes({name: tuple(leaf.shape) for name, leaf in own["parameters"].items()})
        first = self.ranks.broadcast(own)
        programs.load_state_dict(first)
        self._known = {name: leaf for name, leaf in programs.parameters.items() if is_of_programs(name)}
        return any(
            not torch.equal(own[kind][name], tensor)
            for kind, tensors in first.items()
            for name, tensor in tensors.items()
        )

    def _check_same_shapes(self, shapes: dict[str, tuple[int, ...]]) -> None:
        others = self.ranks.all_of(shapes)
        if any(each != others[0] for each in others):
            every = {name for each in others for name in each}
            names = sorted(name for name in every if len({each.get(name) for each in others}) > 1)
            raise ValueError(
                f"Expected programs with the same parameters in all processes but {names} differ: build them "
                "in the same way in each."
            )

    # -- steps -----------------------------------------------------------------------------------------

    def step(self, svi: SVI, batch: Batch) -> float:
        self._position, self._evaluated = self._position + 1, 0
        if self.ranks.world_size == 1:
            with self._running():
                return total_loss(svi.step(*batch))
        loss = self._captured_step(svi, batch) if isinstance(svi, CapturedSVI) else self._step(svi, batch)
        self._average_buffers()
        return loss

    def evaluate(self, svi: SVI, batch: Batch) -> float:
        self._evaluated += 1

        def run() -> float:
            with self._running():
                return total_loss(svi.evaluate_loss(*batch))

        return self.ranks.together(run)

    def reduce(self, sums: dict[str, float]) -> dict[str, float]:
        values = torch.tensor(list(sums.values()), dtype=torch.float64)
        return dict(zip(sums, self.ranks.reduce(values).tolist(), strict=True))

    def _step(self, svi: SVI, batch: Batch) -> float:
        """As :meth:`SVI.step`, with the gradients of all processes."""
        stated: dict[str, Tensor] = {}

        def run() -> float:
            with poutine.trace(param_only=True) as capture, self._running():
                loss = total_loss(svi.loss_and_grads(svi.model, svi.guide, *batch))
            stated.update(_parameters(capture.trace))
            return loss

        # One message tells all processes whether it went well, and which parameters have a gradient somewhere
        loss, error = result_or_error(run)
        new = {
            name: leaf for name, leaf in stated.items() if name not in self._known and is_of_programs(name)
        }
        self._known.update({name: stated[name] for name in self._known if name in stated})
        found = [float(leaf.grad is not None) for leaf in self._known.values()]
        head = [error is not None, loss is not None and not math.isfinite(loss), len(new), *found]
        failed, bad, unknown, *present = self.ranks.reduce(torch.tensor(head, dtype=torch.float64)).tolist()
        if failed:
            zero_grads(self._known.values())
            self.ranks.end_together(error)
        if unknown:
            self._learn(new)
            present += [1.0] * len(new)
        # A parameter that has a gradient in one process is stepped in all
        having = [leaf for leaf, count in zip(self._known.values(), present, strict=True) if count]
        self._add_up(having)
        svi.optim(list(dict.fromkeys([*having, *stated.values()])))
        zero_grads({*having, *stated.values()})
        assert loss is not None
        return _nan_if(bad, loss)

    def _learn(self, new: dict[str, Tensor]) -> None:
        """Parameters that were created in this step, from the same values in all processes."""
        self._check_same_shapes({name: tuple(leaf.shape) for name, leaf in new.items()})
        values = {name: leaf.detach() for name, leaf in new.items()}
        first = self.ranks.broadcast(values)
        differing = self.ranks.all_of([name for name in values if not torch.equal(values[name], first[name])])
        if names := sorted({name for each in differing for name in each}):
            raise ValueError(
                f"Expected parameters that appear in the midst of a training to start from one value in all "
                f"processes but {names} were drawn at random; state them from the first step on."
            )
        self._known.update(new)

    def _add_up(self, leaves: Sequence[Tensor]) -> None:
        gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
        self._sum_in_place(gradients)
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf.grad = gradient

    def _sum_in_place(self, tensors: Sequence[Tensor]) -> None:
        """One message for each dtype and device."""
        for _, alike in groupby(sorted(tensors, key=_dtype_and_device), key=_dtype_and_device):
            members = list(alike)
            flat = torch.cat([each.reshape(-1) for each in members])
            total = self.ranks.reduce(flat)
            for member, part in zip(members, total.split([each.numel() for each in members]), strict=True):
                member.copy_(part.view(member.shape))

    def _captured_step(self, svi: CapturedSVI, batch: Batch) -> float:
        called = False

        def reduce(gradients: list[Tensor]) -> None:
            nonlocal called
            called = True
            self._check_gradients(gradients)
            self._sum_in_place(gradients)

        def run() -> float:
            with self._running():
                return total_loss(svi.step(*batch))

        svi.reduce_gradients = reduce
        try:
            loss, error = result_or_error(run)
        finally:
            svi.reduce_gradients = None
        if error is not None and not called:
            self._compare_layouts(1, 0)
            self.ranks.end_together(error)
        if isinstance(error, _OtherFailedError):
            self.ranks.end_together(None)
        if error is not None:
            raise error
        assert loss is not None
        return self._after_captured(svi, loss)

    def _after_captured(self, svi: CapturedSVI, loss: float) -> float:
        ends = self.reduce({"bad": not math.isfinite(loss), "eager": svi._reason is not None})
        if ends["eager"] and svi._reason is None:
            svi._give_up("another process does so")
        return _nan_if(ends["bad"], loss)

    def _check_gradients(self, gradients: Sequence[Tensor]) -> None:
        layout = repr([(each.numel(), str(each.dtype)) for each in gradients])
        failed, alike = self._compare_layouts(
            0, int.from_bytes(hashlib.blake2b(layout.encode(), digest_size=6).digest())
        )
        if failed:
            raise _OtherFailedError
        if not alike:
            raise ValueError(
                "Expected gradients for the same parameters in all processes but they differ; use SVI in "
                "place of CapturedSVI where a step may leave parameters out."
            )

    def _compare_layouts(self, failed: int, layout: int) -> tuple[bool, bool]:
        """Whether a process failed, and whether all that did not have one layout of gradients."""
        here = torch.tensor([failed, layout, -layout], dtype=torch.float64)
        any_failed, largest, smallest = self.ranks.reduce(here, "max").tolist()
        return bool(any_failed), largest == -smallest

    def _average_buffers(self) -> None:
        if not self._moving:
            return
        assert self._programs is not None
        live = self._programs.buffers()
        buffers = [live[name] for name in self._moving if name in live]
        with torch.no_grad():
            averages = [buffer * self.share for buffer in buffers]
            self._sum_in_place(averages)
            for buffer, average in zip(buffers, averages, strict=True):
                buffer.copy_(average)


@final
class _OtherFailedError(RuntimeError):
    """Ends a captured step because another process has failed in its own."""


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _nan_if(bad: float, loss: float) -> float:
    """A loss that is not finite in one process is none in all."""
    return math.nan if bad and math.isfinite(loss) else loss


def _dtype_and_device(tensor: Tensor) -> tuple[str, str]:
    return str(tensor.dtype), str(tensor.device)


def _parameters(trace: Trace) -> dict[str, Tensor]:
    values = {name: site["value"] for name, site in trace.nodes.items() if site["type"] == "param"}
    return {name: value.unconstrained() for name, value in values.items() if value is not None}


def _check_precision(fabric: Fabric) -> None:
    precision = getattr(getattr(fabric.strategy, "precision", None), "precision", "32-true")
    if precision not in _PRECISIONS:
        raise NotImplementedError(
            f"A Fabric of precision {precision!r} scales losses or converts modules, which SVI does not do; "
            f"use one of {', '.join(_PRECISIONS)}."
        )


def _check_step(svi: SVI) -> None:
    if not isinstance(svi, CapturedSVI) and type(svi).step is not SVI.step:
        raise NotImplementedError(
            f"Expected an SVI or a CapturedSVI but got {type(svi).__name__}, into whose own step no sum "
            "over processes can be put; use one of these with a Fabric."
        )


def _check_sums(svi: SVI) -> None:
    elbo = objective(svi)
    kinds = {kind.__name__ for kind in type(elbo).__mro__}
    if not isinstance(elbo, _SUMS) or kinds & set(_NO_SUMS):
        raise NotImplementedError(
            f"{'A function' if elbo is None else type(elbo).__name__} as loss is not known to be a sum over "
            "data, so that several processes cannot share it; use a Trace_, TraceMeanField_, TraceGraph_ or "
            "TraceEnum_ class"
        )


@contextmanager
def _refusing_wrappers(svi: SVI) -> Iterator[None]:
    """Modules that average gradients by themselves would have them counted twice."""

    def look(module: nn.Module, _: object = None) -> None:
        if any(kind.__name__ in _WRAPPERS for kind in type(module).__mro__):
            raise ValueError(
                f"Expected plain modules but got a {type(module).__name__}, which averages gradients itself: "
                "leave out fabric.setup and move modules with .to(fabric.device)."
            )

    for program in (svi.model, svi.guide):
        for module in modules_behind(program):
            look(module)
    handle = register_module_forward_pre_hook(look)
    try:
        yield
    finally:
        handle.remove()
