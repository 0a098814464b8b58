"""The representation joint q(z|x) p_D(x) of a guide and its data."""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import cached_property
from typing import Final, cast, final

import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Distribution

from pyro_infomax._checks import whole_number
from pyro_infomax._data import Data, SiteValues, Tensors, as_data, rows_of
from pyro_infomax._pairs import PAIRS_AT_ONCE, keep_freed_memory
from pyro_infomax._random import isolated_random_state, seeded_draws
from pyro_infomax._ranks import Ranks
from pyro_infomax._types import Program, Site
from pyro_infomax.distributions import Posterior, batch_mapped, is_parametric
from pyro_infomax.guides import AmortizedGuide, EncodedData
from pyro_infomax.information import AggregatePosterior, for_one_evaluation, points_at_once
from pyro_infomax.joint._latent_space import (
    LatentSpace,
    aligned,
    cycled,
    lone_marginal,
    number_of_values,
    site_scores,
    total,
)
from pyro_infomax.joint._product import broadcasts, lone_vector, product_of_sites, same_scores
from pyro_infomax.programs import LocalProgram, score_under

# ---- A guide's posterior that is scored by running the guide.


@final
class LocalPosterior:
    """q(z|x_n) of all data, as :mod:`pyro_infomax.information` takes posteriors.

    Every call scores and draws by the guide and the data as they are then. Several sites may depend on each
    other: they are scored by running the guide on their values, under an outer dimension where the guide
    broadcasts (which is tried and checked), else one by one. Values that are scored under all data are spared
    these runs where the guide can encode the data once, which is checked against a run too. A lone site is
    scored in a trace of the guide on all data where there is one. What is found out and encoded is kept for
    one evaluation at most, that of :meth:`for_one_evaluation`.
    """

    def __init__(self, program: LocalProgram, data: Tensors) -> None:
        self.program = program
        self.data = data
        self.space = LatentSpace(program.latents)
        self.batch_shape = torch.Size([len(data[0])])
        self.event_shape = torch.Size([self.space.size])
        self._evaluation: _ProgramScorer | None = None

    @property
    def rows_at_once(self) -> int:
        """The most data that one run of the guide scores."""
        return self.program.piece

    def for_one_evaluation(self) -> "LocalPosterior":
        """The same for calls between which neither guide nor data change: it encodes the data once."""
        twin = LocalPosterior(self.program, self.data)
        twin._evaluation = _ProgramScorer(self)
        return twin

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """z_n ~ q(z|x_n), (*sample_shape, data, latent)."""
        shape = torch.Size(sample_shape)
        # a run has much the same cost for few rows as for many: few data are drawn for several times at once
        most = max(1, self.program.piece // len(self.data[0])) if self.program.follows else 1
        starts = range(0, shape.numel(), most)
        draws = [self._draw(min(most, shape.numel() - start)) for start in starts]
        return torch.cat(draws).reshape(*shape, *self.batch_shape, *self.event_shape)

    def _draw(self, number: int) -> Tensor:
        """(number, data, latent)."""
        size = len(self.data[0])
        data = self.data if number == 1 else cycled(self.data, number * size)
        return self.space.flatten(self.program.draw(data)).unflatten(0, (number, size))

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z|x_n), (..., data), of z (..., data, latent) row by row, or (..., 1, latent) under all."""
        return self.log_prob_sites(z).sum(-1)

    def log_prob_sites(self, z: Tensor) -> Tensor:
        """log q(z_s|z_<s, x_n) of each site s given those before it, (..., data, sites)."""
        lead = z.shape[:-2]
        flat = z.reshape(lead.numel(), *z.shape[-2:])  # (outer, data or 1, latent)
        if self._evaluation is not None:
            scores = self._evaluation.log_prob_sites(flat)
        else:
            scores = _ProgramScorer(self).log_prob_sites(flat, trials=len(flat) > _RUNS_OF_A_TRIAL)
        return scores.unflatten(0, lead) if lead else scores[0]

    @property
    def log_prob_marginals(self) -> Callable[[Tensor], Tensor]:
        """log q(z_j|x_n), (..., data, latent), where there is one latent dimension: z itself."""
        return lone_marginal(self)


_RUNS_OF_A_TRIAL: Final = 4  # of the guide: draws, their scores together, and one by one


@final
class _ProgramScorer:
    """Scores by a guide and data that stay as they are meanwhile."""

    def __init__(self, posterior: LocalPosterior) -> None:
        self._posterior = posterior
        self._program, self._data, self._space = posterior.program, posterior.data, posterior.space
        self._size = len(self._data[0])
        self._traced = len(self._program.latents) == 1 and self._program.runs_whole(self._size)

    def log_prob_sites(self, z: Tensor, *, trials: bool = True) -> Tensor:
        """(outer, data, sites), of z (outer, data or 1, latent), by quicker ways if trials of them pay."""
        if self._traced or len(z) < 2:
            return self._score(z)
        if not trials:
            return self._one_by_one(z)
        if z.shape[1] < self._size and not torch.is_grad_enabled() and self._pairs is not None:
            return self._pairs.log_prob_sites(z)
        return self._score(z) if self._broadcasts else self._one_by_one(z)

    @cached_property
    def _trace(self) -> Trace:
        with isolated_random_state():
            return cast(Trace, self._program.trace(self._data, stop_after=list(self._space.layouts)))

    @cached_property
    def _broadcasts(self) -> bool:
        with isolated_random_state():
            return broadcasts(lambda z: self._score(z).sum(-1), self._posterior.sample((2,)))

    @cached_property
    def _pairs(self) -> "_EncodedPairs | None":
        """What scores values under all data; None where there is nothing, or it is at odds with a run."""
        with isolated_random_state():
            try:
                pairs = _EncodedPairs.of(self._program, self._data)
                if pairs is None:
                    return None
                z = self._posterior.sample((2,))[:, :1]
                found = pairs.log_prob_sites(z)
            except Exception:  # whatever modules say to being called in parts: a run is what counts
                return None
            return pairs if same_scores(found, self._one_by_one(z)) else None

    def _one_by_one(self, z: Tensor) -> Tensor:
        return torch.cat([self._score(each[None]) for each in z])

    def _score(self, z: Tensor) -> Tensor:
        """(outer, data, sites), of z (outer, data or 1, latent)."""
        if self._traced:
            return self._by_site(self._trace, self._space.unflatten(z), self._size)
        by_row = z.expand(-1, self._size, -1).movedim(1, 0)  # (data, outer, latent)
        scores = self._program.together(self._size, lambda rows: {"": self._score_rows(by_row[rows], rows)})
        return scores[""].movedim(0, 1)

    def _score_rows(self, z: Tensor, rows: Tensor) -> Tensor:
        """(rows, outer, sites), of z (rows, outer, latent)."""
        values = self._space.unflatten(z.movedim(0, 1))
        trace = self._program.trace(self._data, rows, values=values, stop_after=list(values))
        return self._by_site(trace, values, len(rows)).movedim(0, 1)

    def _by_site(self, trace: Trace, sites: dict[str, Tensor], rows: int) -> Tensor:
        scores = [self._program.log_prob(trace.nodes[name], rows, z=each) for name, each in sites.items()]
        return torch.stack(torch.broadcast_tensors(*scores), -1)


@final
class _EncodedPairs:
    """Values of the sites of an amortised guide, scored under all data, which are encoded once."""

    def __init__(self, program: LocalProgram, pieces: Sequence[tuple[int, EncodedData]]) -> None:
        self._program = program
        self._space = LatentSpace(program.latents)
        self._pieces = pieces

    @classmethod
    def of(cls, program: LocalProgram, data: Tensors) -> "_EncodedPairs | None":
        """None for other guides, and where a run is bound to the rows of its data."""
        guide = poutine.unwrap(program.program)
        if not isinstance(guide, AmortizedGuide) or not program.takes_any_rows:
            return None
        pieces = []
        for rows in program.pieces(len(data[0])):
            encoded = guide.encoded(*rows_of(data, rows))
            if encoded is None:
                return None
            pieces.append((len(rows), encoded))
        return cls(program, pieces)

    def log_prob_sites(self, z: Tensor) -> Tensor:
        """log q(z_s|z_<s, x_n), (outer, data, sites), of z (outer, 1, latent)."""
        keep_freed_memory()
        return torch.cat([self._scores(z, rows, encoded) for rows, encoded in self._pieces], 1)

    def _scores(self, z: Tensor, rows: int, encoded: EncodedData) -> Tensor:
        scores = self._under(encoded.alone, self._space.unflatten(z), rows)
        if len(scores) < len(self._space.layouts):
            parts = z.split(max(1, PAIRS_AT_ONCE // rows))
            others = [self._given(encoded, self._space.unflatten(part), rows) for part in parts]
            scores |= {name: torch.cat([each[name] for each in others]) for name in others[0]}
        return torch.stack([scores[name] for name in self._space.layouts], -1)

    def _given(self, encoded: EncodedData, sites: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
        held = {name: each.to(self._space.layouts[name].dtype) for name, each in sites.items()}
        return self._under(encoded.given(held), sites, rows)

    def _under(
        self, fns: Mapping[str, TorchDistribution], sites: dict[str, Tensor], rows: int
    ) -> dict[str, Tensor]:
        layouts = self._space.layouts
        scores = {name: score_under(fn, layouts[name], sites[name], rows) for name, fn in fns.items()}
        return {name: layouts[name].summed(each.double(), rows) for name, each in scores.items()}


# ---- The representation joint of a guide and its data.


def representation(guide: Program, data: Data, *, data_plate: str | None = None) -> "RepresentationJoint":
    """The representation joint of a guide and its data.

    Args:
        guide: a Pyro program whose latent sites are inside the data plate, the plate of full size len(data).
        data: a tensor or a tuple of tensors, whose first axis is the data: the guide's positional arguments.
        data_plate: the name of the plate, where several are of that size.

    Raises:
        ValueError: if the data are none, or there is no data plate, or several.
        NotImplementedError: if a latent site is global or auxiliary, or the guide has factors.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x, 1.0).to_event(1))
        >>> joint = representation(guide, torch.tensor([[-1.0], [1.0]]))
        >>> joint.log_inverted(torch.zeros(1, 1)).exp()
        tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    return RepresentationJoint(guide, data, data_plate=data_plate)


@final
class Draw(dict[str, Tensor]):
    """Latent sites of M draws, (M, *event) each, with the data that they were drawn for.

    Attributes:
        index: (M,), the rows of the data.
        data: the data in these rows, a tuple of tensors.
    """

    def __init__(self, sites: SiteValues, index: Tensor, data: Tensors) -> None:
        super().__init__(sites)
        self.index = index
        self.data = data


@final
class RepresentationJoint:
    r"""The density :math:`q_\psi(z \mid x) p_D(x)` of a guide, with :math:`p_D` uniform over N data.

    Its densities are those of the guide as it is at each call, in the mode (training or evaluation) that its
    modules are in. Calling the joint runs the guide, on its own data if no others are given.

    Args:
        guide, data, data_plate: as :func:`representation`.
        batch_size: the most data that the guide is run on at once, where it follows the length of its
            arguments.
    """

    def __init__(
        self,
        guide: Program,
        data: Data,
        *,
        data_plate: str | None = None,
        batch_size: int = 1024,
    ) -> None:
        self.guide = guide
        self.data = as_data(data)
        self.program = LocalProgram(
            guide, self.data, role="guide", data_plate=data_plate, batch_size=batch_size
        )
        self.space = LatentSpace(self.program.latents)
        if not self.space.size:
            raise ValueError("Expected a guide with latent sites inside its data plate but found none")

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self.guide(*(args or self.data), **kwargs)

    @property
    def data_size(self) -> int:
        """N."""
        return len(self.data[0])

    @property
    def posterior(self) -> Distribution | LocalPosterior:
        """q(z|x_n) of all N data over all latent dimensions: batch shape (N,), event shape (latent,).

        A torch distribution where the guide gives one (in float64 if it is Normal or its dimensions are
        independent), for which the data are encoded at each access; else an object that scores by running
        the guide, as it is at each call.
        """
        product = product_of_sites(self.program, self.data, self.space)
        if product is not None:
            return product
        if len(self.space.layouts) > 1 or not self.program.runs_whole(self.data_size):
            return LocalPosterior(self.program, self.data)
        with isolated_random_state():
            trace = self.program.trace(self.data, stop_after=list(self.space.layouts))
        (name,) = self.space.layouts
        found = lone_vector(cast(Site, trace.nodes[name]), self.data_size)
        return found or LocalPosterior(self.program, self.data)

    @property
    def aggregate(self) -> AggregatePosterior:
        """q(z), the mixture of the posteriors of all data, which are those of :attr:`posterior`.

        Raises:
            NotImplementedError: if latent sites are masked for some data, which then have no density to mix.
        """
        if masked := self.masked:
            raise NotImplementedError(no_mixture(masked))
        return AggregatePosterior(self.posterior)

    @property
    def masked(self) -> list[str]:
        """The latent sites that a mask leaves out, wholly or in part, for some of the data."""
        return list(self.program.presence(self.data))

    def sample(self, num_samples: int, *, seed: int | None = None) -> Draw:
        """Draws of a datum and of its latent sites.

        Args:
            num_samples: M.
            seed: isolates the draws from torch's global state.

        Returns:
            Site names to (M, *event), with the rows of the data in ``.index`` and the data in ``.data``.

        Raises:
            ValueError: if num_samples is below 1.
        """
        num_samples = whole_number("num_samples", num_samples, at_least=1)
        with torch.no_grad(), seeded_draws(seed):
            index = torch.randint(self.data_size, (num_samples,))
            sites = self._drawn_for(index)
        return Draw(sites, index, rows_of(self.data, index))

    def _drawn_for(self, index: Tensor) -> dict[str, Tensor]:
        if self.program.follows and not self.program.is_bound_to_rows(self.data):
            return self.program.draw(rows_of(self.data, index))
        # a guide that is made for all data draws for all of them: the k-th time that a row comes up takes the
        # k-th draw
        turn = _turns(index)
        draws = [self.program.draw(self.data) for _ in range(int(turn.max()) + 1)]
        return {name: torch.stack([draw[name] for draw in draws])[turn, index] for name in draws[0]}

    def log_posterior(self, z: SiteValues | Tensor, x: Data) -> Tensor:
        """log q(z|x), of each z with its own datum.

        Args:
            z: site names to (M, *event), or one for all x, or a tensor for a single site.
            x: M data, or one for all z.

        Returns:
            (M,), in nats.

        Raises:
            ValueError: if the sites are not the guide's or of another shape, if z and x differ in number, or
                if x are not the joint's data and the guide's parameters belong to these.
        """
        sites = self.space.checked(z)
        data = aligned(as_data(x), number_of_values(sites))
        self._check_own(data)
        return total(site_scores(self.program, data, sites, list(sites)))

    def _check_own(self, data: Tensors) -> None:
        """Parameters that belong to the rows of the data say nothing about other data."""
        if self.program.takes_any_rows or _are_same_data(data, self.data):
            return
        if self.program.whole_size is None or self.program.is_bound_to_rows(self.data):
            raise ValueError(
                f"Expected the joint's own {self.data_size} data but got others, for which the guide has no "
                "parameters; score with joint.data as x"
            )

    def log_aggregate(self, z: SiteValues | Tensor) -> Tensor:
        r"""log q(z) = log :math:`\frac1N \sum_n q(z \mid x_n)`.

        Args:
            z: site names to (M, *event), or a tensor for a single site.

        Returns:
            (M,), in nats.
        """
        return self.aggregate.log_prob(self._flat(z))

    def log_inverted(self, z: SiteValues | Tensor) -> Tensor:
        """log q(x_n|z) = log q(z|x_n) − log N − log q(z), the inverted posterior over the data.

        Args:
            z: site names to (M, *event), or a tensor for a single site.

        Returns:
            (M, N), in nats; each row sums to one in probability.
        """
        posterior = for_one_evaluation(self.aggregate.posterior)
        few = self._flat(z).split(points_at_once(posterior))
        scores = torch.cat([posterior.log_prob(each[:, None, :]).double() for each in few])
        return scores - scores.logsumexp(-1, keepdim=True)  # (M, N)

    def _flat(self, z: SiteValues | Tensor) -> Tensor:
        return self.space.flatten(self.space.checked(z))


def no_mixture(masked: Sequence[str]) -> str:
    """Why posteriors of which a part is masked have no mixture."""
    return (
        f"the latent sites {list(masked)} are masked for some of the data, for which q(z|x) is no density of "
        "them, so that the posteriors have no mixture q(z)"
    )


def _turns(index: Tensor) -> Tensor:
    """How often each entry has come up before."""
    ordered, order = index.sort(stable=True)
    turn = torch.empty_like(index)
    turn[order] = torch.arange(len(index)) - torch.searchsorted(ordered, ordered)
    return turn


def _are_same_data(data: Tensors, others: Tensors) -> bool:
    return len(data) == len(others) and all(
        each.shape == other.shape and torch.equal(each, other)
        for each, other in zip(data, others, strict=True)
    )


# ---- The posteriors of all data, of which each process holds those of its own.

_LARGEST_SEED = 2**62


def posterior_of_all(own: Posterior, ranks: Ranks) -> Posterior:
    """The posteriors of the data of all processes, those of the first process first.

    A distribution of the same kind on every process, where a few numbers say all about it; else an object
    that leaves scoring and drawing to the process that holds the datum.
    """
    if ranks.world_size == 1:
        return own
    # no networks and no programs are sent: the other processes could make no use of them
    sent = ranks.all_of(own if isinstance(own, Distribution) and is_parametric(own) else None)
    parts = [part for part in sent if part is not None]
    sharded = ShardedPosterior(own, ranks)
    merged = _merged(parts) if len(parts) == ranks.world_size else None
    alike = merged is not None and _scores_like(merged, [sharded])
    return merged if merged is not None and all(ranks.all_of(alike)) else sharded


def joined_posteriors(parts: Sequence[Posterior]) -> Posterior:
    """The posteriors of several data sets as those of one, the first ones first.

    Raises:
        NotImplementedError: if more than a few numbers make up a posterior, as where a network scores it.
    """
    if len(parts) == 1:
        return parts[0]
    known = [part for part in parts if isinstance(part, Distribution) and is_parametric(part)]
    merged = _merged(known) if len(known) == len(parts) else None
    if merged is None or not _scores_like(merged, parts):
        raise NotImplementedError(
            "the posteriors of several data sets are put together only where they are distributions of one "
            f"class without networks, but they are {type(parts[0]).__name__}"
        )
    return merged


def _merged(parts: Sequence[Distribution]) -> Distribution | None:
    if len({type(part) for part in parts}) > 1:
        return None
    size = sum(part.batch_shape[0] for part in parts)
    try:
        return batch_mapped(parts, [size], torch.cat)
    except NotImplementedError:
        return None


@torch.no_grad()
def _scores_like(merged: Distribution, parts: Sequence[Posterior]) -> bool:
    """Whether what was put together gives a draw for each datum the density that its own part gives it."""
    with isolated_random_state():
        draws = [part.sample() for part in parts]
    expected = torch.cat([part.log_prob(z).double() for part, z in zip(parts, draws, strict=True)])
    try:
        return torch.allclose(merged.log_prob(torch.cat(draws)).double(), expected, rtol=1e-6, equal_nan=True)
    except (RuntimeError, ValueError, IndexError):
        return False  # numbers that belong to no datum, and were taken for some that do


@final
class ShardedPosterior:
    """q(z|x_n) of the data of all processes, as :mod:`pyro_infomax.information` takes posteriors.

    Every method is called by all processes together. Draws are made by each for its own data, by noise that
    differs from process to process, so that they depend on the number of processes.
    """

    def __init__(self, own: Posterior, ranks: Ranks) -> None:
        self.own = own
        self.ranks = ranks
        self.sizes = [int(size) for size in ranks.all_of(own.batch_shape[0])]
        self.batch_shape = torch.Size([sum(self.sizes)])
        self.event_shape = torch.Size(own.event_shape)
        known = ranks.all_of([name for name in _SITE_BY_SITE if hasattr(own, name)])
        self._known = set.intersection(*map(set, known))

    def for_one_evaluation(self) -> "ShardedPosterior":
        """The same for calls between which no posterior changes."""
        twin = copy(self)
        twin.own = for_one_evaluation(self.own)
        return twin

    def __getattr__(self, name: str) -> Callable[[Tensor], Tensor]:
        if name not in _SITE_BY_SITE or name not in self._known:
            raise AttributeError(f"{type(self).__name__} has no {name}")
        return lambda z: self._scored(getattr(self.own, name), z)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """z_n ~ q(z|x_n), (*sample_shape, data, latent)."""
        shape = torch.Size(sample_shape)
        seed = self.ranks.broadcast(int(torch.randint(_LARGEST_SEED, (), device="cpu")))
        with isolated_random_state(seed + self.ranks.rank):
            drawn = self.ranks.together(lambda: self.own.sample(shape))
        return self._gathered(drawn, len(shape))

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z|x_n) of vectors (..., data, latent), each under the datum of its row, (..., data)."""
        return self._scored(self.own.log_prob, z)

    def _scored(self, score: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
        axis = z.dim() - 2
        mine = z.split(self.sizes, axis)[self.ranks.rank] if z.shape[axis] > 1 else z
        return self._gathered(self.ranks.together(lambda: score(mine)), axis)

    def _gathered(self, own: Tensor, axis: int) -> Tensor:
        """(..., own data, ...) of each to (..., data, ...)."""
        return self.ranks.rows(own.movedim(axis, 0).contiguous()).movedim(0, axis)


_SITE_BY_SITE = ("log_prob_sites", "log_prob_marginals")
