"""What weights of draws or of annealed chains tell: the evidence of data, and draws of their posteriors."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, Literal, TypeAlias, final

import numpy as np
import pandas as pd
import torch

from pyro_infomax._checks import shown, whole_number
from pyro_infomax._data import Data, SiteValues, Tensors, as_data
from pyro_infomax._from_weights import fingerprint_of, groups_of_draws, listed_rows
from pyro_infomax._native import as_integers, to_native
from pyro_infomax._progress import patiently
from pyro_infomax._random import isolated_random_state, seeded_draws
from pyro_infomax._types import Array, Program
from pyro_infomax._version import creation_attributes
from pyro_infomax._weights import (
    FEWEST_FOR_PARETO_K,
    good_pareto_k,
    smoothed_weights,
    systematic_indices,
    tail_fits,
)
from pyro_infomax.diagnostics._account_table import lines_of
from pyro_infomax.diagnostics._annealed import AnnealedJoint, Simulated, annealed
from pyro_infomax.diagnostics._decompose import evidence_target
from pyro_infomax.diagnostics._pair import Pair, check_global_names
from pyro_infomax.information import Estimate, ImportanceWeights, sigmoid_schedule, spread, temperatures_of
from pyro_infomax.joint import GenerativeJoint
from pyro_infomax.nn import evaluation_mode
from pyro_infomax.programs import FixedMessenger, LocalProgram

# ---- How heavy the tail of importance weights is.


def pareto_k(weights: ImportanceWeights) -> torch.Tensor:
    """Pareto's k of the weights of each datum, (data,), float64; see :func:`tail_fits`."""
    return _tails(weights)[0]


def _tails(weights: ImportanceWeights) -> tuple[torch.Tensor, torch.Tensor]:
    k, scale = tail_fits(weights.largest.numpy(), weights.num_samples)
    return torch.from_numpy(k), torch.from_numpy(scale)


@final
class _Alike:
    """For which data all draws are one value, (data,), so that their weights say nothing of other values."""

    def __init__(self, pair: Pair) -> None:
        # a datum of which a mask leaves no latent has no other values
        presence = pair.program.presence(pair.data)
        sites = [presence.get(name) for name in pair.site_names]
        everywhere = torch.ones(pair.data_size, dtype=torch.bool)
        parts = [everywhere if each is None else each.reshape(len(each), -1).any(1).cpu() for each in sites]
        self.found = torch.stack(parts).any(0)
        self._first: torch.Tensor | None = None

    def add(self, z: torch.Tensor) -> None:
        """Takes in draws, (samples, data, latent)."""
        self._first = z[:1] if self._first is None else self._first
        self.found = self.found & (z == self._first).all(-1).all(0).cpu()


class JudgedByParetoK:
    """What importance weights of each datum found, by whose Pareto k it can be trusted or not."""

    pareto_k: torch.Tensor
    num_samples: int

    @property
    def threshold(self) -> float:
        """The largest Pareto k that can be trusted, :func:`~pyro_infomax.diagnostics.good_pareto_k`."""
        return good_pareto_k(self.num_samples)

    @cached_property
    def unreliable(self) -> torch.Tensor:
        """The numbers of the data whose Pareto k is above the threshold or nan: do not rely on theirs."""
        return (~(self.pareto_k <= self.threshold)).nonzero().squeeze(-1)


# ---- Evidence.

Method: TypeAlias = Literal["importance", "annealed"]

_LATENTS_AT_ONCE: Final = 2**20
_CHUNKS: Final = 20  # at least, which a progress bar counts
_SAMPLES: Final[dict[Method, int]] = {"importance": 1000, "annealed": 16}
_TEMPERATURES: Final = 300
_LEAPFROG: Final = 3
_FEW_CHAINS: Final = 100


@final
@dataclass(frozen=True, eq=False)
class Evidence(JudgedByParetoK):
    """Bounds on the log-evidence of data, and how far each datum's weights can be trusted.

    Attributes:
        method: ``"importance"`` or ``"annealed"``.
        lower: the mean over the data, a lower bound, in nats per datum.
        upper: of data that were simulated from the model, an upper bound, in nats per datum; None for given
            data.
        per_datum: the lower bound of each datum, (data,), in nats.
        upper_per_datum: the upper bound of each simulated datum, (data,), in nats; None for given data.
        standard_error: of each datum's lower bound, (data,), by the jackknife over its weights.
        pareto_k: of each datum's weights, (data,): above :attr:`threshold` its bound may be far below its
            log-evidence, and further than its error says. Minus infinity for constant weights, those of an
            exact posterior; nan below 21 weights, and where all draws of a datum are one value, as those of a
            discrete posterior that is sure of itself, since the weights of others are not known.
        effective_sample_size: of each datum's weights, (data,), from 1 to ``num_samples``.
        num_samples: weights for each datum: of draws of z, or of annealed chains.
        temperatures: of the chains, from 0 to 1, (temperatures,); None for importance weights.
        acceptance: the mean probability of acceptance at each inner temperature, (temperatures - 2,); None
            for importance weights.
        global_values: the values of global latent sites given which all of this holds; empty without any.
        fingerprint: what tells the data from others, by which :func:`~pyro_infomax.diagnostics.compare` knows
            them.
        observed: how many of the values that the likelihood scores are ``continuous`` and ``discrete``, by
            which it knows that two models score the same, and how many sites are ``factors``.
    """

    method: Method
    lower: Estimate
    upper: Estimate | None
    per_datum: torch.Tensor
    upper_per_datum: torch.Tensor | None
    standard_error: torch.Tensor
    pareto_k: torch.Tensor
    effective_sample_size: torch.Tensor
    num_samples: int
    temperatures: torch.Tensor | None = None
    acceptance: torch.Tensor | None = None
    global_values: Mapping[str, torch.Tensor] = field(default_factory=dict)
    fingerprint: str = ""
    observed: Mapping[str, int] = field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """A row a datum: the bounds, the lower one's standard error, Pareto k, effective sample size."""
        columns = {
            "lower": self.per_datum,
            "upper": self.upper_per_datum,
            "standard_error": self.standard_error,
            "pareto_k": self.pareto_k,
            "effective_sample_size": self.effective_sample_size,
        }
        known = {name: each.numpy() for name, each in columns.items() if each is not None}
        return pd.DataFrame(known).rename_axis("datum")

    def __str__(self) -> str:
        upper = {} if self.upper is None else {"log_evidence, upper": self.upper}
        return "\n".join([*lines_of({"": {"log_evidence": self.lower, **upper}}), *self._notes()])

    def _notes(self) -> Iterator[str]:
        size = len(self.pareto_k)
        yield f"{size} data, {self.num_samples} {self._weights()}"
        if self.temperatures is not None:
            yield f"effective sample size {float(self.effective_sample_size.median()):.1f} (median)"
        if self.acceptance is not None and len(self.acceptance):
            low, mean = float(self.acceptance.min()), float(self.acceptance.mean())
            yield f"acceptance {mean:.2f} on average, at least {low:.2f} at each temperature"
        if self.temperatures is not None and self.num_samples < _FEW_CHAINS:
            return  # their Pareto k says little
        if self.num_samples < FEWEST_FOR_PARETO_K:
            yield f"Pareto k is not known: it takes at least {FEWEST_FOR_PARETO_K} {self._of()}"
            return
        unknown = self.pareto_k.isnan().nonzero().squeeze(-1)
        if len(unknown):
            yield f"Pareto k is not known where all draws are one value: data {listed_rows(unknown)}"
        if len(unknown) == size:
            return
        most = float(self.pareto_k[~self.pareto_k.isnan()].max())
        heavy = (self.pareto_k > self.threshold).nonzero().squeeze(-1)
        yield f"Pareto k above {self.threshold:.2f} for {len(heavy)} of {size}, at most {most:.2f}"
        if len(heavy):
            cure = "draw more, or anneal" if self.temperatures is None else "take more temperatures"
            yield f"there the bound is loose and its error too small: {cure}"

    def _weights(self) -> str:
        if self.temperatures is None:
            return "draws of z each"
        return f"chains over {len(self.temperatures)} temperatures each"

    def _of(self) -> str:
        return "draws" if self.temperatures is None else "chains"


def evidence(
    model: Program,
    guide: Program | None,
    data: Data | Simulated,
    *,
    method: Method = "importance",
    num_samples: int | None = None,
    num_temperatures: int | None = None,
    num_leapfrog: int | None = None,
    schedule: Callable[[torch.Tensor], torch.Tensor] | None = None,
    batch_size: int = 1024,
    seed: int | None = None,
    data_plate: str | None = None,
    global_values: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Evidence:
    r"""Bounds on the log-evidence of each datum, by importance sampling from the guide or by annealing.

    **Importance sampling** draws from the guide:

    .. math:: \log \frac1S \sum_s w_s \le \log p(x), \qquad w_s = \frac{p(x, z_s)}{q(z_s \mid x)},
        \quad z_s \sim q(z \mid x)

    in expectation. The bound lies above the ELBO, rises with S, and is exact for the exact posterior. The
    draws are made and scored some at a time, so that memory does not grow with S but for the largest weights
    of each datum, some :math:`3 \sqrt S`.

    **Annealing** takes chains from the guide's posterior (without a guide, from the prior) to
    :math:`p(z \mid x)` along :math:`f_b(z) = f_0(z)^{1 - b} p(z, x)^b`, by a transition of Hamiltonian Monte
    Carlo at each temperature; the S chains of a datum have weights of the same use. It needs continuous
    latents, runs the model for each leapfrog step, and is close where importance sampling from the guide is
    not. Step sizes are tuned datum by datum in a pilot run with chains and noise of its own, and are fixed
    afterwards: steps that follow the very chains that are weighed would break the bounds. Constrained latents
    move in unconstrained coordinates, with the Jacobian. Memory grows with chains times data.

    **From above** both bound the evidence where an exact draw :math:`z_0` of the posterior is known, which is
    where x was simulated together with its z: importance sampling by
    :math:`\log \frac1{S + 1} \sum_{s=0}^S w_s`, annealing by the inverse weights of chains that run backwards
    from :math:`z_0`.

    Modules run in evaluation mode; parameters and their gradients stay as they are.

    References:
        Neal (2001), Annealed importance sampling.
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders.
        Grosse, Ghahramani and Adams (2015), Sandwiching the marginal likelihood using bidirectional Monte
        Carlo.
        Wu, Burda, Salakhutdinov and Grosse (2017), On the quantitative analysis of decoder-based generative
        models.
        Brekelmans, Huang, Ghassemi, Ver Steeg, Grosse and Makhzani (2022), Improving mutual information
        estimation with annealed and energy-based bounds.
        Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling.

    Args:
        model, guide, data, seed, data_plate, global_values: as for
            :func:`~pyro_infomax.diagnostics.decompose`; the evidence is given the global latents. The guide
            may be None to anneal from the prior. Data may be :class:`Simulated` from this model, for an upper
            bound too.
        method: ``"importance"`` or ``"annealed"``.
        num_samples: S, at least 2: draws of z for each datum, 1,000 by default, or chains, 16 by default.
        num_temperatures: steps from one end to the other, 300 by default; 1 is importance sampling. Of
            annealing alone, as the next two.
        num_leapfrog: leapfrog steps of a transition, 3 by default. More temperatures of short trajectories
            are worth more than few of long ones, at one cost.
        schedule: from fractions of the way, (steps + 1,) from 0 to 1, to temperatures that rise from 0 to 1;
            :func:`~pyro_infomax.information.sigmoid_schedule` by default.
        batch_size: the most rows, draws times data, that a program is run on at once, where it follows the
            length of its arguments.
        progress: show a bar where this takes more than a few seconds.

    Raises:
        ValueError: for fewer than two samples, data with nan, a guide that lacks a site of the model, no data
            plate or several, simulated data of another model or of other parameters, a schedule that does
            not rise from 0 to 1, and what only annealing takes with importance sampling.
        NotImplementedError: for global latents of the model that the guide has not, latents that only one of
            the two masks, and, for annealing, discrete latents (sum them out), angles, and supports that
            cannot be mapped onto real numbers.

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> oracle = LinearGaussian.optimum([4.0, 2.0], beta=1.0, latent_dim=2, s2=0.5)
        >>> x = oracle.sample(200, exact=True, seed=0)
        >>> found = evidence(oracle.model, oracle.guide, x, num_samples=50, seed=0)
        >>> bool((found.lower.value - oracle.log_evidence).abs() < 1e-10), len(found.unreliable)
        (True, 0)
        >>> simulated = Simulated(oracle.model, 50, torch.zeros(1, 2, dtype=torch.float64), seed=0)
        >>> quick = {"num_temperatures": 10, "num_leapfrog": 4, "seed": 0}
        >>> found = evidence(oracle.model, None, simulated, method="annealed", **quick)
        >>> bool(-0.1 < found.upper.value - found.lower.value < 0.5)
        True
    """
    if method not in _SAMPLES:
        raise ValueError(f"Expected method to be one of {list(_SAMPLES)} but got {shown(method)}")
    # Two weights are the fewest by which the error of the bound is known
    number = _SAMPLES[method] if num_samples is None else whole_number("num_samples", num_samples, at_least=2)
    whole_number("batch_size", batch_size, at_least=1)
    of_chains = {"num_temperatures": num_temperatures, "num_leapfrog": num_leapfrog, "schedule": schedule}
    if method == "importance":
        _check_importance(guide, [name for name, each in of_chains.items() if each is not None])
    temperatures = temperatures_of(
        sigmoid_schedule if schedule is None else schedule,
        _TEMPERATURES if num_temperatures is None else num_temperatures,
    )
    arguments = data.data if isinstance(data, Simulated) else as_data(data)
    options: dict[str, Any] = {"data_plate": data_plate, "batch_size": batch_size}
    with evaluation_mode(model, *([] if guide is None else [guide])), torch.no_grad(), seeded_draws(seed):
        pair = None
        if guide is None:
            joint = _given_globals(model, global_values, arguments, **options)
        else:
            pair = Pair(model, guide, arguments, global_values=global_values, progress=progress, **options)
            joint = pair.generative
        exact = None
        if isinstance(data, Simulated):
            data.check_origin(model)
            exact = data.latents
        if method == "annealed":
            path = AnnealedJoint(joint, arguments, pair=pair, batch_size=batch_size)
            leapfrog = _LEAPFROG if num_leapfrog is None else num_leapfrog
            run = annealed(path, exact, number, temperatures, num_leapfrog=leapfrog, progress=progress)
            weights, upper, shared = run.weights, run.upper_per_datum, 0.0
            k = pareto_k(weights)
        else:
            assert pair is not None
            run = None
            weights, alike = _importance_weights(pair, number, progress=progress)
            k = pareto_k(weights).masked_fill(alike, math.nan)
            upper = None if exact is None else _upper_of_draws(pair, weights, exact)
            # the draws are those of the lower bound, whose error the difference of the two does not show
            shared = float(weights.estimate.standard_error)
        observed = _observed_values(joint.program(arguments, batch_size=batch_size), arguments)
    given = {name: torch.as_tensor(each) for name, each in (global_values or {}).items()}
    given = given if pair is None else pair.global_sites
    lower = replace(weights.estimate, target=evidence_target(given_globals=bool(given)))
    return Evidence(
        method=method,
        lower=lower,
        upper=None if upper is None else _upper_estimate(lower, weights.log_mean, upper, shared),
        per_datum=weights.log_mean,
        upper_per_datum=upper,
        standard_error=weights.variance.sqrt(),
        pareto_k=k,
        effective_sample_size=weights.effective_sample_size,
        num_samples=number,
        temperatures=None if run is None else run.temperatures,
        acceptance=None if run is None else run.acceptance,
        global_values=given,
        fingerprint=fingerprint_of(arguments),
        observed=observed,
    )


def _observed_values(program: LocalProgram, data: Tensors) -> dict[str, int]:
    """How many continuous and discrete values of the data the likelihood scores, without what masks hide."""
    present = program.observed_presence(data)
    found = {"continuous": 0, "discrete": 0, "factors": 0}
    for name, layout in program.observed.items():
        number = int(present[name].sum()) if name in present else len(data[0]) * layout.size
        if name in program.one_hot:  # a category, in whatever form
            number //= layout.event_shape[-1]
        # a Delta has a probability, in no unit
        discrete = layout.discrete or name in program.observed_masses
        found["discrete" if discrete else "continuous"] += number
        found["factors"] += not layout.size
    return found


def _check_importance(guide: Program | None, of_annealing: Sequence[str]) -> None:
    if guide is None:
        raise ValueError(
            "Expected a guide to draw from but got None; pass one, or take method='annealed', which starts "
            "from the prior without one"
        )
    if of_annealing:
        raise ValueError(
            f"Expected {', '.join(of_annealing)} with method='annealed' alone but the method is 'importance'"
        )


def _given_globals(
    model: Program,
    global_values: Mapping[str, Any] | None,
    data: Tensors,
    *,
    data_plate: str | None,
    batch_size: int,
) -> GenerativeJoint:
    """The generative joint given values of its global latents, where there is no guide to take them from."""
    values = {name: torch.as_tensor(each) for name, each in (global_values or {}).items()}
    fixed = FixedMessenger(values)(model) if values else model
    joint = GenerativeJoint(fixed, data_plate=data_plate)
    if values:
        check_global_names(values, joint.program(data, batch_size=batch_size).given)
    return joint


def _importance_weights(
    pair: Pair, num_samples: int, *, progress: bool
) -> tuple[ImportanceWeights, torch.Tensor]:
    """The weights, and for which data all draws are one value."""
    weights, alike = ImportanceWeights(num_samples, pair.data_size), _Alike(pair)
    for chunk in patiently(rounds_of_draws(pair, num_samples), "importance weights", progress=progress):
        z = pair.draw(chunk)
        alike.add(z)
        weights.add(pair.score(z).log_weight)
    return weights, alike.found


def _upper_of_draws(pair: Pair, weights: ImportanceWeights, exact: SiteValues) -> torch.Tensor:
    """The bound of each datum, (data,), with an exact draw of its posterior beside the guide's."""
    z = pair.space.flatten({name: exact[name] for name in pair.space.layouts})
    own = pair.score(z[None]).log_weight[0].double().cpu()
    number = weights.num_samples
    return torch.logaddexp(weights.log_mean + math.log(number), own) - math.log(number + 1)


def _upper_estimate(
    lower: Estimate, lower_per_datum: torch.Tensor, upper_per_datum: torch.Tensor, shared_error: float
) -> Estimate:
    """The mean over simulated data.

    A datum has one exact draw. The error is therefore taken from the spread of upper less lower bound over
    the data, which is too large rather than too small, and nan for one datum.
    """
    # of shared draws, the difference falls as the lower bound rises, so that the squares add up to too much
    error = torch.hypot(spread(upper_per_datum - lower_per_datum), torch.tensor(shared_error).double())
    population = torch.maximum(spread(upper_per_datum), error)
    return Estimate(upper_per_datum.mean(), error, population, "upper", lower.target)


def rounds_of_draws(pair: Pair, num_samples: int) -> list[int]:
    """How many draws of every datum to make at a time."""
    most = max(1, min(_LATENTS_AT_ONCE // (pair.data_size * pair.space.size), num_samples // _CHUNKS))
    return [min(most, num_samples - start) for start in range(0, num_samples, most)]


# ---- What resampling finds.


@final
@dataclass(frozen=True, eq=False)
class ResampledPosterior(JudgedByParetoK):
    """Draws and moments of p(z|x_n) for each datum, with what tells for which data they are right.

    Attributes:
        draws: latent sites to (draws, data, *shape), in the types that the programs hold, those that the
            model enumerates included; nan where a mask leaves a value out.
        mean: the guide's sites to posterior means, (data, *shape), float64.
        standard_deviation: of the posterior, likewise.
        standard_error: of each mean, likewise, by the delta method over the weights. Where Pareto k is too
            large or nan it is too small.
        pareto_k: of each datum's weights, (data,); minus infinity for constant weights; nan where all
            proposals are one value, as those of a discrete guide that is sure, since they tell nothing of
            other values.
        effective_sample_size: of each datum's smoothed weights, (data,), from 1 to ``num_samples``.
        num_distinct: how many of the draws of each datum are not copies of another one, (data,).
        num_samples: S, proposals from the guide for each datum.
        given_globals: whether latents outside the data plate were fixed, so that the posteriors are given
            these.
    """

    draws: dict[str, torch.Tensor]
    mean: dict[str, torch.Tensor]
    standard_deviation: dict[str, torch.Tensor]
    standard_error: dict[str, torch.Tensor]
    pareto_k: torch.Tensor
    effective_sample_size: torch.Tensor
    num_distinct: torch.Tensor
    num_samples: int
    given_globals: bool
    _latent_names: list[str]
    _discrete: frozenset[str]

    def to_frame(self) -> pd.DataFrame:
        """A row a datum: Pareto k, whether it is good, effective sample size and number of distinct draws."""
        return pd.DataFrame(
            {
                "pareto_k": self.pareto_k.numpy(),
                "reliable": (self.pareto_k <= self.threshold).numpy(),
                "effective_sample_size": self.effective_sample_size.numpy(),
                "num_distinct": self.num_distinct.numpy(),
            }
        ).rename_axis("datum")

    def moments(self) -> pd.DataFrame:
        """A row a datum and latent dimension: mean, standard deviation and the mean's standard error."""
        columns = {
            name: torch.cat([each.reshape(len(each), -1) for each in sites.values()], 1).flatten().numpy()
            for name, sites in (
                ("mean", self.mean),
                ("standard_deviation", self.standard_deviation),
                ("standard_error", self.standard_error),
            )
        }
        index = pd.MultiIndex.from_product(
            [range(len(self.pareto_k)), self._latent_names], names=["datum", "latent"]
        )
        return pd.DataFrame(columns, index=index)

    def to_arviz(
        self,
        *,
        coords: Mapping[str, Sequence[object]] | None = None,
        dims: Mapping[str, Sequence[str]] | None = None,
    ) -> Any:
        """The draws for ArviZ, laid out as by :func:`~pyro_infomax.diagnostics.to_arviz`.

        Groups: ``posterior``, and ``importance`` with the columns of :meth:`to_frame` along ``datum``.

        Args:
            coords: names of dimensions to their labels; ``datum`` is the data's.
            dims: site names to the names of their event dimensions.

        Raises:
            ValueError: for labels whose number is not that of their dimension, and names of nothing.
        """
        drawn = {name: self._array(name) for name in self.draws}
        groups = groups_of_draws(drawn, self.to_frame(), self.num_samples, coords=coords, dims=dims)
        source = creation_attributes()
        return to_native({name: group.assign_attrs(source) for name, group in groups.items()})

    def _array(self, name: str) -> Array:
        values = self.draws[name].detach().cpu().numpy()
        return as_integers(values) if name in self._discrete else values

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        size, number = len(self.pareto_k), len(next(iter(self.draws.values())))
        given = ", given the global latents" if self.given_globals else ""
        proposals = f"{self.num_samples} proposals{given}"
        yield f"{number} draws of the posterior of each of {size} data, from {proposals}"
        yield f"{'':<24}{'median':>10}{'worst':>10}"
        columns = {
            "Pareto k": (self.pareto_k, self.pareto_k.max()),
            "effective sample size": (self.effective_sample_size, self.effective_sample_size.min()),
            "distinct draws": (self.num_distinct.double(), self.num_distinct.min().double()),
        }
        for name, (values, worst) in columns.items():
            yield f"{name:<24}{float(values.nanmedian()):>10.2f}{float(worst):>10.2f}"
        unknown = self.pareto_k.isnan().nonzero().squeeze(-1)
        if len(unknown):
            yield (
                f"Pareto k is not known for {len(unknown)} of {size} data, {listed_rows(unknown)}, all of "
                "whose proposals are one value: the posterior may have others"
            )
        bad = (self.pareto_k > self.threshold).nonzero().squeeze(-1)
        if not len(self.unreliable):
            yield f"Pareto k is at most {self.threshold:.2f} for all data: the draws can be used"
        if not len(bad):
            return
        yield f"Pareto k is above {self.threshold:.2f} for {len(bad)} of {size} data: {listed_rows(bad)}"
        yield "their draws and moments cannot be relied on: take wider proposals, as refine makes them"


# ---- Proposals: drawn once to be weighed, and once more, from the same seeds, to be kept or left.


def resample(
    model: Program,
    guide: Program,
    data: Data,
    *,
    num_draws: int = 100,
    num_samples: int = 1000,
    batch_size: int = 1024,
    seed: int | None = None,
    data_plate: str | None = None,
    global_values: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> ResampledPosterior:
    r"""Draws of the true posterior :math:`p(z \mid x_n)` of each datum, resampled from draws of the guide.

    Proposals :math:`z_s \sim q(z \mid x_n)` have the weights
    :math:`w_s \propto p(x_n, z_s) / q(z_s \mid x_n)`, the largest of which are smoothed by a generalised
    Pareto distribution. They are taken again in proportion to these. That is right as far as the guide
    reaches the posterior, which the shape :math:`\hat k` of the weights tells for each datum: above
    :math:`\min(1 - 1/\log_{10} S, 0.7)` its draws cannot be relied on, and the datum is named in
    ``unreliable``.

    Resampling is systematic: no proposal comes more often than its weight says, rounded up, and copies are
    few where weights are even. It is with replacement, since draws without replacement are those of the guide
    once many of the proposals are taken. Means and standard deviations come from all weighted proposals, and
    are more precise than those of the draws.

    Proposals are drawn twice from the same seeds, to be weighed and to be chosen, so that the memory is that
    of the log-weights, num_samples times data, and of the draws.

    References:
        Rubin (1988), Using the SIR algorithm to simulate posterior distributions.
        Kitagawa (1996), Monte Carlo filter and smoother for non-Gaussian nonlinear state space models.
        Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling.

    Args:
        model, guide, data, seed, data_plate, global_values: as for
            :func:`~pyro_infomax.diagnostics.decompose`; the posteriors are given the global latents.
        num_draws: draws of each posterior, at least 1; well below ``num_samples``, so that copies are few.
        num_samples: S, proposals for each datum, at least 21.
        batch_size: the most rows, draws times data, that a program is run on at once, where it follows the
            length of its arguments.
        progress: show a bar where this takes more than a few seconds.

    Raises:
        ValueError: for fewer than 21 proposals, data of which all weights are zero, and the errors of
            :func:`~pyro_infomax.diagnostics.decompose`.
        NotImplementedError: for those of :func:`~pyro_infomax.diagnostics.decompose`.

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> oracle = LinearGaussian.optimum([4.0, 2.0], beta=1.0, latent_dim=2, s2=0.5)
        >>> x = oracle.sample(5, seed=0)
        >>> found = resample(oracle.model, oracle.guide, x, num_draws=10, num_samples=50, seed=0)
        >>> found.draws["z"].shape, found.unreliable.tolist(), found.num_distinct.tolist()
        (torch.Size([10, 5, 2]), [], [10, 10, 10, 10, 10])
    """
    number = whole_number("num_draws", num_draws, at_least=1)
    whole_number("num_samples", num_samples, at_least=FEWEST_FOR_PARETO_K)
    with evaluation_mode(model, guide), torch.no_grad(), seeded_draws(seed):
        pair = Pair(
            model,
            guide,
            data,
            data_plate=data_plate,
            batch_size=batch_size,
            global_values=global_values,
            progress=progress,
        )
        proposals = _Proposals(pair, num_samples)
        log_weights, k, scale = _weighed(pair, proposals, num_samples, progress=progress)
        smoothed = smoothed_weights(log_weights.numpy(), k.numpy(), scale.numpy())
        random = np.random.default_rng(int(torch.randint(2**62, ())))
        weights = torch.from_numpy(smoothed)
        index = torch.from_numpy(systematic_indices(smoothed, number, random))
        chosen, moments = _chosen(pair, proposals, weights, index, progress=progress)
        draws = _sites_of_draws(pair, chosen)
        absent = {name: ~present for name, present in pair.program.presence(pair.data).items()}
    return ResampledPosterior(
        draws={name: _without(each, absent.get(name)) for name, each in draws.items()},
        mean=_by_site(pair, moments.mean, absent),
        standard_deviation=_by_site(pair, moments.variance.sqrt(), absent),
        standard_error=_by_site(pair, moments.squared_error.sqrt(), absent),
        pareto_k=k,
        effective_sample_size=1 / weights.square().sum(0),
        num_distinct=torch.tensor([len(column.unique()) for column in index.T]),
        num_samples=num_samples,
        given_globals=bool(pair.global_values),
        _latent_names=pair.latent_names(),
        _discrete=frozenset(
            name for name, each in (pair.program.latents | pair.program.summed).items() if each.discrete
        ),
    )


@final
class _Proposals:
    """The same draws from the guide each time they are gone through, some for every datum at a time."""

    def __init__(self, pair: Pair, num_samples: int) -> None:
        self._pair = pair
        self._sizes = rounds_of_draws(pair, num_samples)
        self._seeds = torch.randint(2**62, (len(self._sizes),)).tolist()

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[torch.Tensor]:
        for size, seed in zip(self._sizes, self._seeds, strict=True):
            with isolated_random_state(seed):
                z = self._pair.draw(size)
            # as the sites keep them, so that the weights are theirs
            yield self._pair.space.flatten(_in_types(self._pair, z))


def _in_types(pair: Pair, z: torch.Tensor) -> dict[str, torch.Tensor]:
    layouts = pair.space.layouts
    return {name: each.to(layouts[name].dtype) for name, each in pair.space.unflatten(z).items()}


def _weighed(
    pair: Pair, proposals: _Proposals, num_samples: int, *, progress: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-weights (samples, data), and shape and scale of the tails."""
    weights = ImportanceWeights(num_samples, pair.data_size)
    parts = []
    alike = _Alike(pair)
    for z in patiently(proposals, "importance weights", progress=progress, total=len(proposals)):
        alike.add(z)
        part = pair.score(z).log_weight.double().cpu()
        weights.add(part)
        parts.append(part)
    log_weights = torch.cat(parts)
    lost = (log_weights.max(0).values == -torch.inf).nonzero().squeeze(-1)
    if len(lost):
        raise ValueError(
            f"Expected proposals to which the model gives some density but for {len(lost)} of "
            f"{pair.data_size} data all weights are zero, the first in row {int(lost[0])}; take a guide "
            "whose draws the model allows, or leave these data out"
        )
    k, scale = _tails(weights)
    return log_weights, k.masked_fill(alike.found, math.nan), scale


@final
@dataclass(frozen=True)
class _WeightedMoments:
    """Of the weighted proposals, (data, latent) each."""

    mean: torch.Tensor
    variance: torch.Tensor
    squared_error: torch.Tensor


def _chosen(
    pair: Pair, proposals: _Proposals, weights: torch.Tensor, index: torch.Tensor, *, progress: bool
) -> tuple[torch.Tensor, _WeightedMoments]:
    """The proposals of an index (draws, data), and the moments of all of them."""
    kept = torch.empty(*index.shape, pair.space.size, dtype=torch.float64)
    sums: list[torch.Tensor] = []
    origin: torch.Tensor | None = None
    start = 0
    for each in patiently(proposals, "resampling", progress=progress, total=len(proposals)):
        z = each.cpu()
        origin = z.mean(0) if origin is None else origin  # near the mean, so that squares lose no digits
        here = (index >= start) & (index < start + len(z))
        draw, datum = here.nonzero(as_tuple=True)
        kept[draw, datum] = z[index[draw, datum] - start, datum]
        w, away = weights[start : start + len(z), :, None], z - origin
        terms = [w * away, w * away**2, w**2 + 0 * away, w**2 * away, w**2 * away**2]
        part = torch.stack([term.sum(0) for term in terms])
        sums.append(part)
        start += len(z)
    assert origin is not None
    first, second, *squared = torch.stack(sums).sum(0)
    # the error of a ratio: the sum of w² (z - mean)²
    error = squared[2] - 2 * first * squared[1] + first**2 * squared[0]
    variance = (second - first**2).clamp(min=0)
    return kept, _WeightedMoments(origin + first, variance, error.clamp(min=0))


def _sites_of_draws(pair: Pair, z: torch.Tensor) -> dict[str, torch.Tensor]:
    """The sites of flat draws, (draws, data, *shape), with those that the model sums out drawn given them."""
    sites = _in_types(pair, z)
    if not pair.program.summed:
        return sites
    each = [{name: value[d] for name, value in sites.items()} for d in range(len(z))]
    recovered = [pair.program.recovered(pair.data, values) for values in each]
    return sites | {name: torch.stack([part[name] for part in recovered]) for name in recovered[0]}


def _by_site(pair: Pair, flat: torch.Tensor, absent: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: _without(each, absent.get(name)) for name, each in pair.space.unflatten(flat).items()}


def _without(values: torch.Tensor, absent: torch.Tensor | None) -> torch.Tensor:
    """Nan in place of what a mask leaves out."""
    if absent is None:
        return values
    floating = values if values.is_floating_point() else values.double()
    return floating.masked_fill(absent, torch.nan)
