"""The guide's posterior of each datum refined by itself, and the gaps that this shows."""

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Final, Literal, final

import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    TransformedDistribution,
    biject_to,
)
from torch.distributions.constraints import is_dependent

from pyro_infomax._checks import real_number, whole_number
from pyro_infomax._data import Data, Tensors, as_data
from pyro_infomax._from_weights import listed_rows
from pyro_infomax._progress import patiently
from pyro_infomax._random import isolated_random_state, seeded_draws
from pyro_infomax._types import Program
from pyro_infomax.diagnostics._evidence import JudgedByParetoK, pareto_k, rounds_of_draws
from pyro_infomax.diagnostics._pair import Pair
from pyro_infomax.distributions import (
    LowerCholesky,
    Posterior,
    SideBySide,
    batch_mapped,
    full_name,
    is_factorised,
    is_parametric,
)
from pyro_infomax.information import ImportanceWeights
from pyro_infomax.joint import cycled
from pyro_infomax.nn import evaluation_mode
from pyro_infomax.programs import SiteLayout

# ---- What a refinement finds.


@final
@dataclass(frozen=True, eq=False)
class Refinement(JudgedByParetoK):
    r"""The best posteriors of the guide's family, datum by datum, and what the guide lacks of them.

    .. math:: \log p(x_n) - \mathrm{ELBO}_n =
        \underbrace{\log p(x_n) - \mathrm{ELBO}^*_n}_{\text{approximation gap}} +
        \underbrace{\mathrm{ELBO}^*_n - \mathrm{ELBO}_n}_{\text{amortisation gap}}

    All tensors are (data,), float64, in nats where they have a unit.

    Attributes:
        elbo_before: of the guide as it is.
        elbo_before_error: its standard error over draws; 0 where sums are exact.
        elbo: of the refined posterior.
        elbo_error: its standard error.
        amortisation_gap: the one less the other, on common noise; a lower bound, since the family may have
            better posteriors than were found.
        amortisation_gap_error: its standard error, of paired differences.
        log_evidence: log p(x), as given or found.
        log_evidence_error: its standard error, 0 for what is exact.
        log_evidence_bound: ``"exact"``, or ``"lower"`` for importance weights of the refined posterior.
        pareto_k_before, pareto_k: of the weights of the guide's draws and of the refined posterior's.
        late_gain: what the second half of the steps added to the ELBO.
        num_steps: steps of the refinement.
        num_samples: draws of z for each datum that all values but exact sums come from.
        tolerance: the late gain up to which a datum counts as converged.
        posterior: the refined q(z|x_n) of all data, batch shape (N,), event shape (latent,).
        guide: a guide program of the refined posteriors, for the model and these very data; its ``widened``
            gives proposals with heavier tails.
        given_globals: whether latents outside the data plate were fixed.
    """

    elbo_before: Tensor
    elbo_before_error: Tensor
    elbo: Tensor
    elbo_error: Tensor
    amortisation_gap: Tensor
    amortisation_gap_error: Tensor
    log_evidence: Tensor
    log_evidence_error: Tensor
    log_evidence_bound: Literal["exact", "lower"]
    pareto_k_before: Tensor
    pareto_k: Tensor
    late_gain: Tensor
    num_steps: int
    num_samples: int
    tolerance: float
    posterior: Posterior
    guide: "RefinedGuide"
    given_globals: bool

    @property
    def approximation_gap(self) -> Tensor:
        """log p(x) less the refined ELBO, what the family lacks: an upper bound where log p(x) is exact."""
        return self.log_evidence - self.elbo

    @property
    def approximation_gap_error(self) -> Tensor:
        """At most this much: the errors of both, as if they were independent."""
        return (self.log_evidence_error.square() + self.elbo_error.square()).sqrt()

    @property
    def converged(self) -> Tensor:
        """Whether the second half of the steps added no more than the tolerance, (data,)."""
        return self.late_gain <= self.tolerance

    @cached_property
    def unconverged(self) -> Tensor:
        """The numbers of the data whose refinement has not converged."""
        return (~self.converged).nonzero().squeeze(-1)

    def to_frame(self) -> pd.DataFrame:
        """A row a datum: ELBOs, evidence and gaps with errors, in nats, Pareto k and convergence."""
        names = ["elbo_before", "elbo", "log_evidence", "amortisation_gap", "approximation_gap"]
        columns = {each: getattr(self, each) for name in names for each in (name, f"{name}_error")}
        columns |= {name: getattr(self, name) for name in ("pareto_k_before", "pareto_k", "late_gain")}
        columns["converged"] = self.converged
        return pd.DataFrame({name: each.numpy() for name, each in columns.items()}).rename_axis("datum")

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        given = ", given the global latents" if self.given_globals else ""
        size = len(self.elbo)
        yield f"{'means over ' + str(size) + ' data, nats':<28}{'value':>12}{'s.e.':>10}  bound{given}"
        bounds = {
            "log_evidence": self.log_evidence_bound,
            "amortisation_gap": "lower",
            "approximation_gap": "upper" if self.log_evidence_bound == "exact" else "no bound",
        }
        for name in ("elbo_before", "elbo", "log_evidence", "amortisation_gap", "approximation_gap"):
            value, error = getattr(self, name).mean(), getattr(self, f"{name}_error").norm() / size
            yield f"{name:<28}{float(value):>12.4f}{float(error):>10.4f}  {bounds.get(name, 'exact')}"
        total = self.amortisation_gap.mean() + self.approximation_gap.mean()
        if 0 < total < math.inf:
            share = float(self.amortisation_gap.mean() / total)
            least = "at least " if len(self.unconverged) else ""
            yield f"amortisation makes {least}{share:.0%} of the whole gap"
        before, after = (int((k > self.threshold).sum()) for k in (self.pareto_k_before, self.pareto_k))
        yield f"Pareto k above {self.threshold:.2f}: {before} of {size} data before, {after} after"
        if after:
            which = listed_rows(self.unreliable)
            yield f"  still {which}: resample from guide.widened(1.2), or a richer family"
        unknown = self.amortisation_gap.isnan().nonzero().squeeze(-1)
        if len(unknown):
            yield (
                f"ELBO minus infinity before and after for {len(unknown)} of {size} data, "
                f"{listed_rows(unknown)}: there draws fall where the model has no density, and the "
                "amortisation gap is unknown; take a family whose draws the model allows"
            )
        short = self.unconverged[~torch.isin(self.unconverged, unknown)]
        if len(short):
            yield (
                f"not converged in {self.num_steps} steps: {len(short)} of {size} data, "
                f"{listed_rows(short)}; their amortisation gap is larger: take more steps, or a smaller "
                "learning_rate where the gap is 0"
            )


# ---- The family of a posterior with parameters of its own for each datum.

Build = Callable[[Sequence[Tensor]], Any]


@dataclass(frozen=True)
class _Free:
    """A distribution around a start: build gives it of steps away from there, zeros being the start.

    Steps are in units of the start's own width, so that one length of step suits them all.
    """

    shapes: list[torch.Size]
    build: Build

    @classmethod
    def of(cls, fn: Distribution) -> "_Free":
        """Around any distribution that is known by a few numbers; it is built of Pyro's classes.

        Raises:
            NotImplementedError: for others.
        """
        if isinstance(fn, Independent):
            inner, axes = cls.of(fn.base_dist), fn.reinterpreted_batch_ndims
            return cls(inner.shapes, lambda steps: dist.Independent(inner.build(steps), axes))
        if isinstance(fn, MultivariateNormal):
            return cls._of_dense(fn)
        if isinstance(fn, LowRankMultivariateNormal):
            return cls._of_low_rank(fn)
        if isinstance(fn, TransformedDistribution) and type(fn) in _PLAINLY_TRANSFORMED:
            inner, transforms = cls.of(fn.base_dist), fn.transforms
            return cls(
                inner.shapes, lambda steps: dist.TransformedDistribution(inner.build(steps), transforms)
            )
        return cls._of_parameters(fn)

    @classmethod
    def _of_dense(cls, fn: MultivariateNormal) -> "_Free":
        loc, root = fn.loc.detach(), fn.scale_tril.detach()
        size = loc.shape[-1]

        def build(steps: Sequence[Tensor]) -> Any:
            move, turn = steps
            return dist.MultivariateNormal(
                loc + (root @ move[..., None])[..., 0],
                scale_tril=root @ LowerCholesky()(turn),
                validate_args=False,
            )

        return cls([loc.shape, torch.Size([*loc.shape[:-1], size * (size + 1) // 2])], build)

    @classmethod
    def _of_low_rank(cls, fn: LowRankMultivariateNormal) -> "_Free":
        loc, factor, diagonal = (each.detach() for each in (fn.loc, fn.cov_factor, fn.cov_diag))
        width = fn.stddev.detach()

        def build(steps: Sequence[Tensor]) -> Any:
            return dist.LowRankMultivariateNormal(
                loc + width * steps[0],
                factor + diagonal.sqrt()[..., None] * steps[1],
                diagonal * steps[2].exp(),
                validate_args=False,
            )

        return cls([loc.shape, factor.shape, diagonal.shape], build)

    @classmethod
    def _of_parameters(cls, fn: Distribution) -> "_Free":
        family = getattr(dist, type(fn).__name__, None)
        names = [
            name for name in fn.arg_constraints if not (name == "probs" and "logits" in fn.arg_constraints)
        ]
        if not (isinstance(family, type) and issubclass(type(fn), family | _torch_base(family)) and names):
            raise NotImplementedError(f"{full_name(fn)} is not made of its parameters alone")
        if fn.has_rsample and is_dependent(type(fn).support):
            # gradients of draws know nothing of an edge that moves
            raise NotImplementedError(f"the support of {full_name(fn)} moves with its parameters")
        starts, transforms, units = {}, {}, {}
        for name in names:
            constraint: Any = fn.arg_constraints[name]
            value = getattr(fn, name).detach()
            event = value.shape[value.dim() - constraint.event_dim :]
            starts[name] = value.expand(*fn.batch_shape, *event)
            if not constraint.is_discrete:
                transforms[name] = biject_to(constraint)
        for name in transforms:
            starts[name] = transforms[name].inv(starts[name]).clamp(min=_LOWEST)
            units[name] = fn.scale.detach() if name == "loc" and "scale" in names else 1.0  # type: ignore[attr-defined]

        def build(steps: Sequence[Tensor]) -> Any:
            moved = dict(starts)
            for name, step in zip(transforms, steps, strict=True):
                moved[name] = transforms[name](starts[name] + units[name] * step)
            return family(**moved, validate_args=False)

        return cls([starts[name].shape for name in transforms], build)


_LOWEST: Final = -1e6
_PLAINLY_TRANSFORMED: Final = (TransformedDistribution, dist.TransformedDistribution)


def _torch_base(family: type) -> type:
    """The class of torch that a class of Pyro's is made of."""
    return next((each for each in family.__mro__ if each.__module__.startswith("torch.")), family)


def _factors_by_site(pair: Pair) -> dict[str, Distribution]:
    """The posterior of each site: batch shape (N, size), or (N,) for the vector of a lone site.

    Raises:
        NotImplementedError: for sites that depend on each other, and what networks score.
    """
    posterior: Any = pair.posterior
    layouts = pair.space.layouts
    if not isinstance(posterior, Distribution) or not is_parametric(posterior):
        raise NotImplementedError(
            "Expected a posterior that has a few parameters for each datum but the guide's of "
            f"{list(layouts)} has none to free ({_in_words(pair, posterior)}); resample it, or anneal"
        )
    if not is_factorised(posterior):
        return dict.fromkeys(layouts, posterior)
    base = posterior.base_dist
    sizes = pair.site_sizes
    if isinstance(base, SideBySide) and len(base.parts) == len(sizes):
        return dict(zip(layouts, base.parts, strict=True))
    ends = list(itertools.accumulate(sizes))
    return {
        name: _columns_of(base, end - size, end) for name, size, end in zip(layouts, sizes, ends, strict=True)
    }


def _columns_of(base: Distribution, start: int, end: int) -> Distribution:
    def columns(tensors: list[Tensor]) -> Tensor:
        return tensors[0][:, start:end]

    return batch_mapped([base], [base.batch_shape[0], end - start], columns)


def _in_words(pair: Pair, posterior: object) -> str:
    if isinstance(posterior, Distribution):
        return full_name(posterior)
    if pair.masked:
        return f"masked for some data ({', '.join(pair.masked)})"
    return pair.dependences() or "known by running the guide only"


def _shaped(factors: Distribution, layout: SiteLayout) -> Any:
    """The distribution of a site, batch shape (N,), event shape that of the site."""
    if len(factors.batch_shape) == 1:
        return factors
    size = factors.batch_shape[0]

    def reshaped(tensors: list[Tensor]) -> Tensor:
        return tensors[0].reshape(size, *layout.shape, *tensors[0].shape[2:])

    found = batch_mapped([factors], [size, *layout.shape], reshaped)
    return Independent(found, len(layout.shape)) if layout.shape else found


@final
class _Family:
    """The posteriors of all sites, free around the guide's."""

    def __init__(self, pair: Pair) -> None:
        factors = _factors_by_site(pair)
        self._layouts = pair.space.layouts
        starts = {name: _shaped(each, self._layouts[name]) for name, each in factors.items()}
        self._sites = {name: _freed(name, each) for name, each in starts.items()}
        self.factors = factors
        discrete = [name for name, each in self._layouts.items() if each.discrete]
        self.is_discrete = len(discrete) == len(self._layouts)
        rough = [name for name, each in starts.items() if not each.has_rsample and name not in discrete]
        if rough or (discrete and not self.is_discrete):
            found = f"discrete {discrete} beside others" if discrete else f"{rough} without gradients"
            raise NotImplementedError(
                "Expected latent sites that are all reparameterised, or all discrete and few enough to sum "
                f"over, but got {found}; sum discrete ones out in the model, or resample"
            )

    def zeros(self) -> list[Tensor]:
        return [
            torch.zeros(shape, dtype=torch.float64) for each in self._sites.values() for shape in each.shapes
        ]

    def at(self, steps: Sequence[Tensor]) -> dict[str, Any]:
        """Pyro distributions of the sites, batch shape (N,)."""
        rest = list(steps)
        found = {}
        for name, each in self._sites.items():
            own, rest = rest[: len(each.shapes)], rest[len(each.shapes) :]
            found[name] = each.build(own)
        return found


@torch.no_grad()
def _freed(name: str, start: Any) -> _Free:
    """Free around a start, which has to come out again."""
    try:
        free = _Free.of(start)
        again = free.build([torch.zeros(shape, dtype=torch.float64) for shape in free.shapes])
        with isolated_random_state():
            z = start.sample()
        same = torch.allclose(again.log_prob(z).double(), start.log_prob(z).double(), rtol=1e-4, atol=1e-4)
    except (NotImplementedError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        raise NotImplementedError(_not_free(name, start)) from error
    if not same:
        raise NotImplementedError(_not_free(name, start))
    return free


def _not_free(name: str, start: object) -> str:
    return (
        f"Expected a posterior whose parameters can be freed, such as a Normal, but that of {name!r} is "
        f"{full_name(start)}; resample it, or anneal"
    )


# ---- Refining, by gradients of draws.

_AVERAGED: Final = (0.25, 0.5)  # of each half of the steps: their mean is taken for where they lead
_SLOWEST: Final = 0.01  # the last learning rate over the first


def _log_joint(pair: Pair, z: Mapping[str, Tensor]) -> Tensor:
    """log p(x, z), (particles, data), of sites (particles, data, *shape)."""
    number, size = next(iter(z.values())).shape[:2]
    together = number if pair.program.follows else 1
    parts = []
    for start in range(0, number, together):
        values = {name: each[start : start + together].flatten(0, 1) for name, each in z.items()}
        data = pair.data if together == 1 else cycled(pair.data, together * size)
        scores = pair.generative.site_terms(data, values)
        parts.append(torch.stack(list(scores.values())).sum(0).reshape(-1, size))
    return torch.cat(parts)


def _negative_elbo(pair: Pair, family: _Family, steps: list[Tensor], num_particles: int) -> Tensor:
    """Minus the ELBO of each datum, whose gradient leaves out the score, which is 0 in expectation.

    Reference: Roeder, Wu and Duvenaud (2017), Sticking the landing.
    """
    fns = family.at(steps)
    still = family.at([each.detach() for each in steps])
    z = {name: fn.rsample(torch.Size([num_particles])) for name, fn in fns.items()}
    log_q = sum(still[name].log_prob(each) for name, each in z.items())
    return (log_q - _log_joint(pair, z)).mean(0)


def _summed_negative_elbo(states: "_States", family: _Family, steps: list[Tensor]) -> Tensor:
    log_q = states.log_prob(family.at(steps))
    return (log_q.exp() * (log_q.clamp(min=_LOWEST) - states.log_joint.clamp(min=_LOWEST))).sum(0)


def _optimised(
    loss: Callable[[list[Tensor]], Tensor],
    steps: list[Tensor],
    *,
    num_steps: int,
    learning_rate: float,
    progress: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    """Where the first half of the steps leads, and where all of them do.

    Adam moves each number by itself, so that no datum feels another one.
    """
    leaves = [each.requires_grad_() for each in steps]
    adam = torch.optim.Adam(leaves, lr=learning_rate, betas=(0.9, 0.99))
    half = num_steps // 2
    lengths = {half: half * _AVERAGED[0], num_steps: (num_steps - half) * _AVERAGED[1]}
    ends = {end: max(1, int(length)) for end, length in lengths.items()}
    sums: dict[int, list[Tensor]] = {end: [torch.zeros_like(each) for each in leaves] for end in ends}
    for step in patiently(range(1, num_steps + 1), "refining", progress=progress):
        late = max(0.0, (step - half) / (num_steps - half))
        rate = _SLOWEST + (1 - _SLOWEST) * (1 + math.cos(math.pi * late)) / 2
        adam.param_groups[0]["lr"] = learning_rate * rate
        with torch.enable_grad():
            gradients = torch.autograd.grad(loss(leaves).sum(), leaves)
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf.grad = gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        adam.step()
        for end, number in ends.items():
            if end - number < step <= end:
                for total, leaf in zip(sums[end], leaves, strict=True):
                    total += leaf.detach() / number
    return sums[half], sums[num_steps]


# ---- Discrete latents: all of their values.

_MOST_STATES: Final = 4096


@final
class _States:
    """All values of discrete latents, with log p(x, z) of each."""

    def __init__(self, pair: Pair, family: _Family) -> None:
        groups = [group for name, each in family.factors.items() for group in _supports(name, each)]
        number = math.prod(map(len, groups))
        if number > _MOST_STATES:
            raise NotImplementedError(
                f"Expected discrete latents of at most {_MOST_STATES} values together, to sum over, but got "
                f"{number}; resample them, or take fewer"
            )
        flat = torch.stack([torch.cat(each) for each in itertools.product(*groups)]).double()
        sites = pair.space.unflatten(flat)  # (states, *shape)
        size = pair.data_size
        self.values = {
            name: each.to(pair.space.layouts[name].dtype)[:, None].expand(-1, size, *each.shape[1:])
            for name, each in sites.items()
        }
        rows = [{name: each[k : k + 1] for name, each in self.values.items()} for k in range(number)]
        self.log_joint = torch.cat([_log_joint(pair, each) for each in rows])  # (states, data)

    def log_prob(self, fns: Mapping[str, Any]) -> Tensor:
        """log q(z|x), (states, data)."""
        parts = [fn.log_prob(self.values[name]) for name, fn in fns.items()]
        return torch.stack(parts).sum(0).double()

    def elbo(self, fns: Mapping[str, Any]) -> Tensor:
        """(data,), minus infinity where a value that cannot be has some probability."""
        log_q = self.log_prob(fns)
        terms = torch.where(log_q == -math.inf, 0.0, log_q.exp() * (self.log_joint - log_q))
        return terms.sum(0)

    @property
    def log_evidence(self) -> Tensor:
        return self.log_joint.logsumexp(0)


def _supports(name: str, factors: Distribution) -> list[Tensor]:
    """The values of each independent part of a site, (values, width)."""
    try:
        values = factors.enumerate_support(expand=False)
    except NotImplementedError as error:
        raise NotImplementedError(
            f"Expected discrete latents whose values can be listed but those of {name!r} cannot: {error}"
        ) from error
    if len(factors.batch_shape) == 1:
        return [values.reshape(len(values), -1)]
    return [values.reshape(len(values), 1)] * factors.batch_shape[-1]


# ---- The refined posteriors as a guide.


@final
class RefinedGuide:
    """A guide program for the data that it was refined for, as :func:`refine` leaves it."""

    def __init__(self, pair: Pair, fns: Mapping[str, Any]) -> None:
        self._plate = pair.program.plate
        self._data = tuple(each.detach().clone() for each in pair.data)
        self._globals = {name: each.detach().clone() for name, each in pair.global_sites.items()}
        self._fns = {name: _in_dtype(fn, pair.space.layouts[name].dtype) for name, fn in fns.items()}

    def __call__(self, *data: Any) -> None:
        self._check(data)
        for name, value in self._globals.items():
            pyro.sample(name, dist.Delta(value).to_event(value.dim()))
        with pyro.plate(self._plate, len(self._data[0])):
            for name, fn in self._fns.items():
                pyro.sample(name, fn)

    def widened(self, factor: float) -> "RefinedGuide":
        """The same with all standard deviations multiplied, as proposals to resample from.

        The best ELBO has tails that are lighter than those of p(z|x), so that its weights have a heavy one.
        A factor of 1.1 to 1.3 is paid for by a few of the draws, and brings Pareto k down.

        Args:
            factor: above 0, of the scales before any transform.

        Raises:
            ValueError: for a factor that is not positive.
            NotImplementedError: for families without location and scale.
        """
        real_number("factor", factor, above=0)
        twin = copy.copy(self)
        twin._fns = {name: _widened(name, fn, float(factor)) for name, fn in self._fns.items()}
        return twin

    def _check(self, data: Tensors) -> None:
        same = len(data) == len(self._data) and all(
            mine.shape == each.shape and torch.equal(mine, each.to(mine))
            for mine, each in zip(self._data, as_data(data), strict=True)
        )
        if not same:
            raise ValueError(
                f"Expected the {len(self._data[0])} data that this guide was refined for but got others; "
                "refine the posteriors of these"
            )


def _widened(name: str, fn: Any, factor: float) -> Any:
    match fn:
        case Independent():
            return dist.Independent(_widened(name, fn.base_dist, factor), fn.reinterpreted_batch_ndims)
        case MultivariateNormal():
            root = factor * fn.scale_tril
            return dist.MultivariateNormal(fn.loc, scale_tril=root, validate_args=False)
        case LowRankMultivariateNormal():
            cov_factor, cov_diag = factor * fn.cov_factor, factor**2 * fn.cov_diag
            return dist.LowRankMultivariateNormal(fn.loc, cov_factor, cov_diag, validate_args=False)
        case TransformedDistribution() if type(fn) in _PLAINLY_TRANSFORMED:
            return dist.TransformedDistribution(_widened(name, fn.base_dist, factor), fn.transforms)
    if not {"loc", "scale"} <= fn.arg_constraints.keys():
        raise NotImplementedError(
            f"Expected posteriors with location and scale to widen but that of {name!r} is {full_name(fn)}"
        )
    known = {parameter: getattr(fn, parameter) for parameter in fn.arg_constraints}
    return type(fn)(**known | {"scale": factor * fn.scale}, validate_args=False)


def _in_dtype(fn: Any, dtype: torch.dtype) -> Any:
    """With numbers of the type of the site, so that it draws what the site can have."""
    if not dtype.is_floating_point:
        return fn

    def rounded(tensors: list[Tensor]) -> Tensor:
        each = tensors[0].detach()
        return each.to(dtype) if each.is_floating_point() else each

    return batch_mapped([fn], fn.batch_shape, rounded)


# ---- The whole.


def refine(
    model: Program,
    guide: Program,
    data: Data,
    *,
    num_steps: int = 400,
    learning_rate: float = 0.1,
    num_particles: int = 4,
    num_samples: int = 500,
    tolerance: float = 0.05,
    log_evidence: Tensor | None = None,
    batch_size: int = 1024,
    seed: int | None = None,
    data_plate: str | None = None,
    global_values: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Refinement:
    r"""Refines the guide's posterior of each datum by itself, within the guide's family.

    The parameters of :math:`q(z \mid x_n)` are freed from the encoder and climb the ELBO of their datum, from
    where the encoder has put them, all data at once. What the ELBO gains is the **amortisation gap**; what is
    left to :math:`\log p(x_n)` is the **approximation gap**, which takes a richer family to close. Model,
    guide and parameter store stay as they are.

    Gradients are those of reparameterised draws without the score, by Adam, the rate of which falls in the
    second half. Discrete latents are summed over exactly; log p(x) is exact then. A datum for which the
    refined posterior is no better keeps the guide's.

    References:
        Hoffman, Blei, Wang and Paisley (2013), Stochastic variational inference.
        Cremer, Li and Duvenaud (2018), Inference suboptimality in variational autoencoders.
        Kim, Wiseman, Miller, Sontag and Rush (2018), Semi-amortized variational autoencoders.
        Roeder, Wu and Duvenaud (2017), Sticking the landing.

    Args:
        model, guide, data, seed, data_plate, global_values: as for
            :func:`~pyro_infomax.diagnostics.decompose`; everything is given the global latents.
        num_steps: steps of Adam, at least 2.
        learning_rate: the length of a step, in standard deviations of the guide's posterior.
        num_particles: draws of z for each datum and step.
        num_samples: draws of z for each datum that ELBOs, evidence and Pareto k come from, at least 21.
        tolerance: nats; a datum to which the second half of the steps added more has not converged.
        log_evidence: log p(x) of each datum where it is known, (data,), in nats; None for the
            importance-weighted bound of the refined posterior.
        batch_size: the most rows of a run of a program; the memory of a step is that of all data and
            particles.
        progress: show a bar where this takes more than a few seconds.

    Raises:
        ValueError: for numbers out of range, a log-evidence of another shape, not finite, far below the ELBO
            or other than the sum over discrete latents, steps so long that the model cannot score where they
            lead, and the errors of :func:`~pyro_infomax.diagnostics.decompose`.
        NotImplementedError: for posteriors without parameters of their own: flows and other networks, sites
            that depend on each other or are masked, mixtures, supports that move with their parameters; for
            discrete latents beside continuous ones, and of too many values; and for those of
            :func:`~pyro_infomax.diagnostics.decompose`.

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> oracle = LinearGaussian([2.0, 1.0], [[1.0], [0.0]], 1.0, [[0.2, 0.0]], [1.0])
        >>> x = oracle.sample(4, seed=0)
        >>> found = refine(oracle.model, oracle.guide, x, num_steps=100, num_samples=50, seed=0)
        >>> bool((found.approximation_gap < 0.01).all()), bool((found.amortisation_gap > 0.1).all())
        (True, True)
    """
    whole_number("num_steps", num_steps, at_least=2)
    whole_number("num_particles", num_particles, at_least=1)
    whole_number("num_samples", num_samples, at_least=21)
    real_number("learning_rate", learning_rate, above=0)
    real_number("tolerance", tolerance, at_least=0)
    build = partial(
        Pair,
        data=data,
        data_plate=data_plate,
        batch_size=batch_size,
        global_values=global_values,
        progress=progress,
    )
    with evaluation_mode(model, guide), torch.no_grad(), seeded_draws(seed):
        pair = build(model, guide)
        known = _checked_evidence(log_evidence, pair.data_size)
        family = _Family(pair)
        states = _States(pair, family) if family.is_discrete else None
        loss = (
            partial(_negative_elbo, pair, family, num_particles=num_particles)
            if states is None
            else partial(_summed_negative_elbo, states, family)
        )
        try:
            half, end = _optimised(
                loss, family.zeros(), num_steps=num_steps, learning_rate=learning_rate, progress=progress
            )
            judge = _Judge(build, model, pair, family, states, num_samples)
            before, after = judge.of(family.zeros()), judge.of(end)
        except ValueError as beyond:
            # what is wrong with the guide's own posterior is no fault of the steps
            _Judge(build, model, pair, family, states, num_samples).of(family.zeros())
            raise ValueError(
                "Expected steps to posteriors that the model can score but those of "
                f"learning_rate={learning_rate} lead beyond; take a smaller one"
            ) from beyond
        # where weights are constant the posterior is exact, and any other is better by noise alone
        spread = before.log_weights.std(0).nan_to_num(nan=math.inf)  # where a draw has no density
        better = (after.elbo >= before.elbo) & (spread > _CONSTANT)
        end = [torch.where(better.reshape(-1, *[1] * (each.dim() - 1)), each, 0.0) for each in end]
        # what was chosen by some draws is judged by others
        judge = _Judge(build, model, pair, family, states, num_samples)
        before, middle, after = (judge.of(steps) for steps in (family.zeros(), half, end))
        gap, error = after.gain_over(before)
        if known is not None:
            _check_not_below(known, after)
        exact = known if states is None else states.log_evidence
        if known is not None and states is not None:
            _check_same(known, states.log_evidence)
        return Refinement(
            elbo_before=before.elbo,
            elbo_before_error=before.error,
            elbo=after.elbo,
            elbo_error=after.error,
            amortisation_gap=gap,
            amortisation_gap_error=error,
            log_evidence=after.weights.log_mean if exact is None else exact,
            log_evidence_error=after.weights.variance.sqrt() if exact is None else torch.zeros_like(gap),
            log_evidence_bound="lower" if exact is None else "exact",
            pareto_k_before=pareto_k(before.weights),
            pareto_k=pareto_k(after.weights),
            late_gain=after.gain_over(middle)[0],
            num_steps=num_steps,
            num_samples=num_samples,
            tolerance=float(tolerance),
            posterior=after.posterior,
            guide=after.guide,
            given_globals=bool(pair.global_values),
        )


def _checked_evidence(log_evidence: Tensor | None, size: int) -> Tensor | None:
    if log_evidence is None:
        return None
    wrong = int((~log_evidence.isfinite()).sum())
    if log_evidence.shape != (size,) or wrong:
        raise ValueError(
            f"Expected a finite log_evidence of each of {size} data, ({size},), but got shape "
            f"{tuple(log_evidence.shape)} with {wrong} values that are not finite"
        )
    return log_evidence.detach().double()


_CONSTANT: Final = 1e-3  # nats, of which half the square is what the ELBO lacks
_CERTAIN: Final = 6.0  # standard errors


def _check_not_below(log_evidence: Tensor, found: "_Judged") -> None:
    """No ELBO is above log p(x): what was given is of other data, or another model."""
    slack = _CERTAIN * found.error.nan_to_num(nan=math.inf) + 1e-3 * (1 + found.elbo.abs())
    wrong = (log_evidence < found.elbo - slack).nonzero().squeeze(-1)
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"Expected a log_evidence above the ELBO but for {len(wrong)} data it is below, the first in row "
            f"{row}: {float(log_evidence[row]):.3f} below {float(found.elbo[row]):.3f}; is it that of these "
            "data under this model?"
        )


def _check_same(log_evidence: Tensor, summed: Tensor) -> None:
    """What is summed over all values is exact, and what was given has to be that."""
    wrong = ((log_evidence - summed).abs() > 1e-3 * (1 + summed.abs())).nonzero().squeeze(-1)
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"Expected the log_evidence of discrete latents but for {len(wrong)} data it is not their sum, "
            f"the first in row {row}: {float(log_evidence[row]):.3f} for {float(summed[row]):.3f}; omit it"
        )


@final
@dataclass(frozen=True)
class _Judged:
    """A posterior by its draws, and by its sums where there are few values."""

    guide: RefinedGuide
    posterior: Posterior
    log_weights: Tensor  # (samples, data)
    weights: ImportanceWeights
    summed: Tensor | None  # the exact ELBO, (data,)

    @property
    def elbo(self) -> Tensor:
        return self.log_weights.mean(0) if self.summed is None else self.summed

    @property
    def error(self) -> Tensor:
        return self._error_of(self.log_weights)

    def _error_of(self, values: Tensor) -> Tensor:
        if self.summed is not None:
            return torch.zeros_like(self.summed)
        return values.std(0) / len(values) ** 0.5

    def gain_over(self, other: "_Judged") -> tuple[Tensor, Tensor]:
        """By how much the ELBO is higher, and the error of that, (data,)."""
        return self.elbo - other.elbo, self._error_of(self.log_weights - other.log_weights)


@final
class _Judge:
    """Judges posteriors of one family by draws of common noise."""

    def __init__(
        self,
        build: Callable[[Program, Program], Pair],
        model: Program,
        pair: Pair,
        family: _Family,
        states: _States | None,
        num_samples: int,
    ) -> None:
        self._build, self._model = build, model
        self._pair, self._family, self._states = pair, family, states
        self._num_samples = num_samples
        self._seed = int(torch.randint(2**62, ()))

    def of(self, steps: Sequence[Tensor]) -> _Judged:
        fns = self._family.at(steps)
        guide = RefinedGuide(self._pair, fns)
        pair = self._build(self._model, guide)
        with isolated_random_state(self._seed):
            rounds = rounds_of_draws(pair, self._num_samples)
            parts = [pair.score(pair.draw(number)).log_weight.double().cpu() for number in rounds]
        log_weights = torch.cat(parts)
        weights = ImportanceWeights(*log_weights.shape)
        weights.add(log_weights)
        summed = None if self._states is None else self._states.elbo(fns)
        return _Judged(guide, pair.posterior, log_weights, weights, summed)
