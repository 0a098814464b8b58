"""A model and a guide on the same data, and draws from the guide that both have scored."""

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Final, TypeVar, final

import torch
from torch.distributions import Distribution

from pyro_infomax._checks import whole_number
from pyro_infomax._data import Data, SiteValues, Tensors, as_data, count_nan
from pyro_infomax._random import isolated_random_state
from pyro_infomax._ranks import ONE_RANK, Ranks
from pyro_infomax._types import Program
from pyro_infomax.distributions import (
    Density,
    Posterior,
    closed_divergence,
    in_double,
    in_dtype_of,
    is_factorised,
)
from pyro_infomax.information import AggregateScorer, Prefixes, ShardedAggregate, WholeAggregate
from pyro_infomax.joint import (
    GenerativeJoint,
    RepresentationJoint,
    cycled,
    dependences,
    in_type_of_sites,
    no_mixture,
    posterior_of_all,
)
from pyro_infomax.poutine import UnknownPlateError
from pyro_infomax.programs import FixedMessenger, GlobalLatentsError, SiteLayout, global_values

# ---- The pair, and draws that both of its programs have scored.


@final
@dataclass(frozen=True)
class ScoredDraws:
    """Draws z ~ q(z|x_n) for every datum, and their log-densities in nats.

    Attributes:
        z: (samples, data, latent).
        log_posterior_sites: log q(z_s|z_<s, x), (samples, data, latent sites).
        log_prior_sites: log p(z_s|...) in the same order, each given what it depends on in the model,
            (samples, data, latent sites).
        log_likelihood_sites: log p(x_s|...), (samples, data, observed sites).
    """

    z: torch.Tensor
    log_posterior_sites: torch.Tensor
    log_prior_sites: torch.Tensor
    log_likelihood_sites: torch.Tensor

    @property
    def log_posterior(self) -> torch.Tensor:
        """log q(z|x), (samples, data)."""
        return self.log_posterior_sites.sum(-1)

    @property
    def log_prior(self) -> torch.Tensor:
        """log p(z), (samples, data)."""
        return self.log_prior_sites.sum(-1)

    @property
    def log_likelihood(self) -> torch.Tensor:
        """log p(x|z), (samples, data)."""
        return self.log_likelihood_sites.sum(-1)

    @property
    def log_weight(self) -> torch.Tensor:
        """log p(x, z) − log q(z|x), (samples, data); its mean is the ELBO."""
        return self.log_likelihood + self.log_prior - self.log_posterior


@final
class Pair:
    """The two joints of a model and a guide on the same data.

    Args:
        model: the model.
        guide: the guide; its local latent sites are those of the model.
        data: a tensor or a tuple of tensors, whose first axis is the data.
        data_plate: the name of the data plate, None to find it.
        batch_size: the most rows that a program is run on at once.
        global_values: values of latent sites outside the data plate; the guide's others are at their
            medians, and all of them in this attribute afterwards.
        ranks: the processes, each of which holds a part of the data; what is known of them is known of the
            data of all, those of the first process first.
        progress: show a bar where the mixture takes more than a few seconds.

    Raises:
        ValueError: if the two do not share their latent sites, the data hold nan, or there is not one data
            plate.
        NotImplementedError: if the model has a global latent site that the guide has not, or a latent site is
            masked otherwise in the model than in the guide.

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> oracle = LinearGaussian.optimum([4.0, 2.0], beta=1.0, latent_dim=2, s2=0.5)
        >>> pair = Pair(oracle.model, oracle.guide, oracle.sample(10, seed=0))
        >>> pair.score(pair.draw(3)).log_weight.shape
        torch.Size([3, 10])
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        data: Data,
        *,
        data_plate: str | None = None,
        batch_size: int = 1024,
        global_values: Mapping[str, Any] | None = None,
        ranks: Ranks = ONE_RANK,
        progress: bool = True,
    ) -> None:
        whole_number("batch_size", batch_size, at_least=1)
        self.ranks = ranks
        self.progress = progress and ranks.is_first
        self._options: dict[str, Any] = {
            "data_plate": data_plate,
            "batch_size": batch_size,
            "ranks": ranks,
            "progress": progress,
        }
        self.masked: list[str] = []
        self.programs = model, guide
        given = global_values or {}
        self._given = {name: torch.as_tensor(each) for name, each in given.items()}
        self.global_values = dict(self._given)
        self._auxiliary: list[str] = []  # global sites that the guide has for itself
        ranks.together(lambda: self._read(data, data_plate, batch_size))
        self._sizes = [int(size) for size in ranks.all_of(self.own_size)]
        self._check_one_global_value()
        self.masked = sorted({name for each in ranks.all_of(self.masked) for name in each})

    def _read(self, data: Data, data_plate: str | None, batch_size: int) -> None:
        self.data = as_data(data)
        _check_no_nan(self.data)
        self.representation, self.generative = self._fixed_joints(
            partial(self._joints, data_plate=data_plate, batch_size=batch_size)
        )
        self.program = self.generative.program(self.data)
        check_global_names(self.global_values, {*self.program.given, *self.representation.program.given})
        self.space = self.representation.space
        _check_densities(self.representation.program.point_masses, together=bool(self._auxiliary))
        _check_sites(model=self.program.latents, guide=self.space.layouts)
        own = self.representation.program.presence(self.data)
        of_model = self.program.presence(self.data)
        kept = self.space.layouts.keys() & of_model.keys()
        _check_masks(model={name: of_model[name] for name in kept}, guide=own)
        self.masked = list(own)

    def _joints(
        self, model: Program, guide: Program, *, data_plate: str | None, batch_size: int
    ) -> "_Joints":
        def representation(plate: str | None) -> RepresentationJoint:
            return RepresentationJoint(guide, self.data, data_plate=plate, batch_size=batch_size)

        def generative(plate: str | None, kept: Collection[str]) -> GenerativeJoint:
            joint = GenerativeJoint(model, data_plate=plate, kept=kept)
            joint.program(self.data, batch_size=batch_size)
            return joint

        return _with_plate(data_plate, representation, generative)

    def _fixed_joints(self, build: Callable[..., "_Joints"]) -> "_Joints":
        """Both joints with the global latent sites fixed, at what was given or at the guide's medians."""
        programs = self.programs
        if self.global_values:
            programs = self._fixed()
        try:
            return build(*programs)
        except GlobalLatentsError as error:
            if error.role != "guide":
                raise
            medians = global_values(programs[1], self.data, error.names, medians=True)
            self.global_values = {**self.global_values, **medians}
            self._auxiliary = error.auxiliary
        return build(*self._fixed())

    def _fixed(self) -> tuple[Program, Program]:
        model, guide = (FixedMessenger(self.global_values)(each) for each in self.programs)
        return model, guide

    @property
    def global_sites(self) -> dict[str, torch.Tensor]:
        """The values of the global latent sites, without those that the guide has for itself."""
        return {name: each for name, each in self.global_values.items() if name not in self._auxiliary}

    def draw_global_values(self) -> dict[str, torch.Tensor]:
        """The guide's global latent sites drawn once, but for those that were given.

        Those that it has for itself are among them.
        """
        guide = FixedMessenger(self._given)(self.programs[1])
        names = [name for name in self.global_values if name not in self._given]
        drawn = self.ranks.together(lambda: global_values(guide, self.data, names))
        return self.ranks.broadcast({**self._given, **drawn})

    def _check_one_global_value(self) -> None:
        """Each process has taken the medians from its own data."""
        if not self.global_values or self.ranks.world_size == 1:
            return
        for others in self.ranks.all_of(self.global_values):
            if any(not torch.allclose(each, others[name]) for name, each in self.global_values.items()):
                raise NotImplementedError(
                    "The guide's global latents depend on the data of each process, so that there are no "
                    "values of them for all; pass global_values"
                )

    def at(self, values: SiteValues) -> "Pair":
        """The pair given other values of the global latent sites."""
        twin = Pair(*self.programs, self.data, global_values=values, **self._options)
        twin._auxiliary = self._auxiliary
        return twin

    @property
    def own_size(self) -> int:
        """The number of data of this process."""
        return len(self.data[0])

    @property
    def data_size(self) -> int:
        """N, over all processes."""
        return sum(self._sizes)

    @cached_property
    def posterior(self) -> Posterior:
        """q(z|x_n) of all data: batch shape (N,), event shape (latent,); in float64 if it is Normal."""
        return posterior_of_all(self._own_posterior, self.ranks)

    @cached_property
    def _own_posterior(self) -> Posterior:
        return self.ranks.together(lambda: in_double(self.representation.posterior))

    def mixtures(self, site_sizes: Sequence[int] | None = None) -> AggregateScorer:
        """What scores points under the aggregate posterior of all data.

        Args:
            site_sizes: the number of latent dimensions of each site, where there are several.

        Raises:
            NotImplementedError: if latent sites are masked for some data.
        """
        if self.masked:
            raise NotImplementedError(no_mixture(self.masked))
        own = WholeAggregate(self._own_posterior, site_sizes=site_sizes, progress=self.progress)
        return own if self.ranks.world_size == 1 else ShardedAggregate(own, self.ranks)

    def prior(self) -> Density:
        """p(z): batch shape (), event shape (latent,).

        Raises:
            NotImplementedError: if it depends on the data.
        """
        found = self.ranks.together(lambda: self.generative.prior(self.space, self.data))
        if self.ranks.world_size > 1:
            self._check_one_prior(found)
        return found

    @torch.no_grad()
    def _check_one_prior(self, prior: Density) -> None:
        """Each process has seen that its own data share a prior, but not that the others have the same."""
        with isolated_random_state():
            z = self.draw(1)[0, :_FEW]  # the same on all processes
            scores = self.ranks.together(lambda: prior.log_prob(in_dtype_of(prior, z)).double())
        others = self.ranks.all_of(scores)
        if not all(torch.allclose(scores, each, rtol=1e-6, equal_nan=True) for each in others):
            raise NotImplementedError("the prior depends on the data, so that there is no one p(z)")

    @torch.no_grad()
    def closed_rates(self) -> torch.Tensor | None:
        """KL[q(z|x_n) ‖ p(z)] of each datum in closed form, where its prior may have covariates.

        (data, latent) where posterior and prior are products over the latent dimensions, else (data, 1).
        """
        sent = self.ranks.all_of(self.ranks.together(self._own_closed_rates))
        known = [each for each in sent if each is not None]
        return torch.cat(known) if len(known) == len(sent) else None

    def _own_closed_rates(self) -> torch.Tensor | None:
        prior = self.generative.prior_of_each(self.space, self.data)
        posterior = self._own_posterior
        if prior is None or not isinstance(posterior, Distribution):
            return None
        if is_factorised(posterior) and is_factorised(prior):
            rates = closed_divergence(posterior.base_dist, prior.base_dist)
        else:
            whole = closed_divergence(posterior, in_double(prior))
            rates = None if whole is None else whole.unsqueeze(-1)
        return None if rates is None else rates.double()

    @torch.no_grad()
    def draw(self, num_samples: int) -> torch.Tensor:
        """z ~ q(z|x_n) for every datum, (samples, data, latent)."""
        return self._drawn_from.sample(torch.Size([num_samples]))

    @cached_property
    def _drawn_from(self) -> Posterior:
        return in_type_of_sites(self.posterior, self.space)

    @torch.no_grad()
    def score(self, z: torch.Tensor) -> ScoredDraws:
        """Scores draws of :meth:`draw` under posterior, prior and likelihood."""
        log_posterior = self._log_posterior(in_dtype_of(self.posterior, z))
        mine = z.split(self._sizes, 1)[self.ranks.rank]
        found = self.ranks.together(lambda: self._terms_of_own(mine))
        log_prior, log_likelihood = (self.of_all(each, axis=1) for each in found)
        return ScoredDraws(z, log_posterior, log_prior, log_likelihood)

    def of_all(self, own: torch.Tensor, *, axis: int = 0) -> torch.Tensor:
        """What each process found for its own data along an axis, for all data."""
        if self.ranks.world_size == 1:
            return own
        return self.ranks.rows(own.movedim(axis, 0).contiguous()).movedim(0, axis)

    def _terms_of_own(self, z: torch.Tensor) -> list[torch.Tensor]:
        """The scores of latent and of observed sites, of draws for the data of this process."""
        # a run has much the same cost for few rows as for many: few data are scored with many draws at once
        together = max(1, self.program.piece // self.own_size) if self.program.follows else 1
        terms = [self._terms(part) for part in z.split(together)]
        return [torch.cat(each) for each in zip(*terms, strict=True)]

    def _log_posterior(self, z: torch.Tensor) -> torch.Tensor:
        """(samples, data, latent sites)."""
        if len(self.site_names) == 1:
            # one draw of each at a time takes no more memory than the posteriors
            return torch.cat([self.posterior.log_prob(each).double() for each in z.split(1)]).unsqueeze(-1)
        return Prefixes(self.posterior, self.site_sizes).log_prob(z)

    def _terms(self, z: torch.Tensor) -> list[torch.Tensor]:
        """The scores of latent and of observed sites, (samples, data, sites) each."""
        data = self.data if len(z) == 1 else cycled(self.data, z.shape[:2].numel())
        scores = self.generative.site_terms(data, self.space.unflatten(z.flatten(0, 1)))
        return [_columns(scores, names, z) for names in (self.site_names, self.observed_names)]

    @property
    def site_names(self) -> list[str]:
        """The latent sites, in the guide's order."""
        return list(self.space.layouts)

    @property
    def site_sizes(self) -> list[int]:
        """The number of latent dimensions of each."""
        return [layout.size for layout in self.space.layouts.values()]

    @property
    def observed_names(self) -> list[str]:
        """The observed sites, factors included, in the model's order."""
        return list(self.program.observed)

    def dependences(self) -> str:
        """Which sites depend on which in guide and model, in words; nothing where none are seen to."""
        programs = {"guide": self.representation.program, "model": self.program}
        found = {role: dependences(each, self.data, self.site_names) for role, each in programs.items()}
        clauses = {
            role: [f"{name!r} depends on {', '.join(map(repr, others))}" for name, others in sites.items()]
            for role, sites in found.items()
        }
        return ", ".join(f"in the {role} {'; '.join(each)}" for role, each in clauses.items() if each)

    def latent_names(self) -> list[str]:
        """A name for every latent dimension: ``z[0]``, or the site alone where it is a scalar."""
        return [name for layout in self.space.layouts.values() for name in _element_names(layout)]


_Joint = TypeVar("_Joint")
_Joints = tuple[RepresentationJoint, GenerativeJoint]
_FEW: Final = 16  # draws that tell one prior from another


def _columns(scores: Mapping[str, torch.Tensor], names: Sequence[str], z: torch.Tensor) -> torch.Tensor:
    """The scores of some sites side by side, (samples, data, sites)."""
    columns = [scores[name].unflatten(0, z.shape[:2]) for name in names]
    return torch.stack(columns, -1) if columns else z.new_zeros(*z.shape[:2], 0, dtype=torch.float64)


def _element_names(layout: SiteLayout) -> Iterator[str]:
    for index in itertools.product(*map(range, layout.shape)):
        yield f"{layout.name}[{','.join(map(str, index))}]" if index else layout.name


def _check_sites(*, model: Mapping[str, SiteLayout], guide: Mapping[str, SiteLayout]) -> None:
    if lacking := sorted(model.keys() - guide.keys()):
        raise ValueError(
            f"Expected the guide to sample every latent site of the model but it lacks {lacking}; "
            "sample them inside its data plate"
        )
    if unknown := sorted(guide.keys() - model.keys()):
        raise ValueError(
            f"Expected only latent sites of the model in the guide but it samples {unknown} too; remove them "
            "or add them to the model"
        )
    for name, layout in model.items():
        if layout.shape != guide[name].shape:
            raise ValueError(
                f"Expected one shape of {name!r} for a datum but the model has {layout.shape} and the guide "
                f"{guide[name].shape}"
            )


def _with_plate(
    name: str | None,
    representation: Callable[[str | None], RepresentationJoint],
    generative: Callable[[str | None, Collection[str]], GenerativeJoint],
) -> "_Joints":
    """Both joints by the named plate; a program that calls its plate otherwise finds it by itself.

    What the guide does not draw may be summed out of the model.
    """
    unknown: list[UnknownPlateError] = []

    def built(build: Callable[[str | None], _Joint]) -> _Joint:
        try:
            return build(name)
        except UnknownPlateError as error:
            unknown.append(error)
            return build(None)

    q = built(representation)
    p = built(lambda plate: generative(plate, list(q.space.layouts)))
    if len(unknown) == 2:
        raise unknown[0]
    return q, p


def _check_densities(point_masses: list[str], *, together: bool) -> None:
    if not point_masses:
        return
    reason = "which have no density, so that their rate and information are infinite"
    if together:
        reason = (
            "made of one vector for all data (as by AutoMultivariateNormal), so that a single datum has no "
            "density of them"
        )
    raise NotImplementedError(
        f"The guide's sites {point_masses} are Deltas, {reason}; use a guide with a density of each datum, "
        "such as AmortizedNormal"
    )


def _check_masks(*, model: Mapping[str, torch.Tensor], guide: Mapping[str, torch.Tensor]) -> None:
    for name in sorted(model.keys() | guide.keys()):
        both = name in model and name in guide
        if both and torch.equal(model[name], guide[name]):
            continue
        found = "model and guide mask different values" if both else "only the model masks values"
        found = "only the guide masks values" if name not in model else found
        raise NotImplementedError(
            f"Expected the same mask around {name!r} in model and guide but {found} of it, so that the ELBO "
            "bounds no evidence; put the mask around it in both"
        )


def check_global_names(values: Iterable[str], known: Collection[str]) -> None:
    """Refuses values of what is no latent site outside the data plate."""
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(
            f"Expected values of latent sites outside the data plate, {sorted(known)}, but got {unknown} too"
        )


def _check_no_nan(data: Tensors) -> None:
    for position, tensor in enumerate(data):
        count, first = count_nan(tensor)
        if count:
            raise ValueError(
                f"Expected data without nan but argument {position} holds {count}, the first in row {first}; "
                "remove or impute them"
            )


# ---- The same model and guide on held-out data.


def held_out_pair(training: Pair, build: Callable[[Data], Pair], holdout: Data) -> Pair:
    """The pair of held-out data, built from the same model and guide."""
    data = training.ranks.together(lambda: _data_like(training.data, holdout))
    _check_amortised(training, data)
    with _naming_the_holdout():
        return build(data)


@contextmanager
def _naming_the_holdout() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{str(error).rstrip('.')} (of the holdout)") from error


def _data_like(training: Tensors, holdout: Data) -> Tensors:
    with _naming_the_holdout():
        data = as_data(holdout)
    expected, found = ([tuple(each.shape[1:]) for each in part] for part in (training, data))
    if expected != found:
        raise ValueError(
            f"Expected a holdout like the data, tensors with rows of the shapes {expected}, but got {found}"
        )
    return data


@torch.no_grad()
def _check_amortised(training: Pair, holdout: Tensors) -> None:
    """Parameters of the training data would be taken for those of the holdout where the sizes agree."""
    model, program = training.program, training.representation.program
    if training.ranks.together(lambda: model.is_bound_to_rows(training.data)):
        raise ValueError(
            f"Expected a model of any data but it has values of its own for each of the {training.data_size} "
            "training data, so that it has none for the holdout"
        )
    if program.takes_any_rows:
        return
    with isolated_random_state():
        z = training.space.unflatten(training.draw(1)[0, :1])
    try:
        training.ranks.together(lambda: training.representation.log_posterior(z, holdout))
    except ValueError as error:
        raise ValueError(
            f"Expected a guide that encodes any data but its parameters belong to the {training.data_size} "
            "training data, so that it has none for the holdout; use an amortised guide, such as "
            "AmortizedNormal"
        ) from error
