"""Calibration of a guide by simulation from its model: ranks, coverage, contraction, and a verdict."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, final

import numpy as np
import pandas as pd
import torch
import xarray as xr
from sklearn.linear_model import RidgeCV

from pyro_infomax._checks import whole_number
from pyro_infomax._data import Data, Tensors, rows_of
from pyro_infomax._native import to_native
from pyro_infomax._progress import patiently
from pyro_infomax._random import isolated_random_state, seeded_draws
from pyro_infomax._types import Array, Program
from pyro_infomax._version import creation_attributes
from pyro_infomax.diagnostics._annealed import Simulated
from pyro_infomax.diagnostics._decompose import Attempt
from pyro_infomax.diagnostics._pair import Pair
from pyro_infomax.diagnostics._rank_tests import (
    RankTest,
    check_level,
    empirical_distribution,
    holm,
    pooled_dispersion_test,
    rank_test,
    simultaneous_band,
)
from pyro_infomax.distributions import in_dtype_of
from pyro_infomax.information import Account, Draws, Estimate, WholeAggregate
from pyro_infomax.joint import cycled, joined_posteriors, no_mixture
from pyro_infomax.nn import evaluation_mode
from pyro_infomax.programs import FixedMessenger

# ---- The calibration of one quantity, and of all of them.

_COLUMNS: Final = [
    "p_value",
    "p_uncorrected",
    "coverage_50",
    "coverage_90",
    "contraction",
    "z_score",
    "location",
    "dispersion",
    "correlation",
    "num_simulations",
]
_CURVE_COLUMNS: Final = ["quantity", "probability", "difference", "lower", "upper", "p_value"]

TestQuantity = Callable[..., torch.Tensor]

LOG_LIKELIHOOD: Final = "log_likelihood"
TARP: Final = "tarp"
ALL_LATENTS: Final = "all_latents"
_FEWEST_SIMULATIONS: Final = 50
_FEWEST_DRAWS: Final = 19
_LEVEL: Final = 0.01
_BAND: Final = 0.95
_SAME: Final = 1e-4  # nats, absolute and relative: float32 programs round differently from row to row
_CONSTANT: Final = 1e-20  # of a mean square: a variance below it is the rounding of equal numbers


@final
@dataclass(frozen=True, eq=False)
class CalibratedQuantity:
    """The ranks of one quantity, and what they say.

    Attributes:
        ranks: of the true value among the draws, from 0 to ``num_draws``, (simulations,); those of masked
            values are left out.
        num_simulations: how many simulations have a value that counts.
        test: whether the ranks are uniform.
        coverage_50, coverage_90: how often the central 50 and 90 per cent of the draws hold the true value;
            of ``tarp`` the credible ball around the reference.
        contraction: 1 − E Var[z|x] / E Var[z], where the second is the prior's variance given the covariates:
            0 for draws from the prior, 1 for a point, below 0 for draws that are wider than the prior; nan
            for what is no latent dimension.
        z_score: the mean of (true value − mean of the draws) / their standard deviation, of latent
            dimensions.
        correlation: of true value and mean of the draws, over the simulations, each less the prior's mean
            given the covariates; of latent dimensions.
        predicted: the correlation of true values, less that mean, with a ridge regression on the data of
            other simulations: what the data say of this dimension at least.
    """

    ranks: Array
    num_simulations: int
    test: RankTest
    coverage_50: float
    coverage_90: float
    contraction: float = math.nan
    z_score: float = math.nan
    correlation: float = math.nan
    predicted: float = math.nan


@final
@dataclass(frozen=True, eq=False)
class CalibrationCheck:
    """Whether the posteriors of a guide are those of its model, on data simulated from the model.

    Attributes:
        quantities: names to what was found: each latent dimension, ``log_likelihood``, ``tarp``, the test
            quantities of the user, and of several latent dimensions ``all_latents``, the dispersion of all
            their ranks together.
        num_simulations: how many data were simulated.
        num_draws: draws of the guide for each; a rank is from 0 to this number.
        mutual_information: I[X; Z] of the guide on the simulated data, at most the logarithm of their number;
            None where it is not known, as where the prior depends on covariates, of which alone it may be.
        ranks: site names to the ranks of the true values among the draws, ties broken at random,
            (simulations, *event); nan where a value is masked.
        unavailable: what was not calibrated, and why.
        ignores_data: whether the guide's posteriors are the same whatever is observed.
        level: the p-value below which the verdict names a fault.
    """

    quantities: dict[str, CalibratedQuantity]
    num_simulations: int
    num_draws: int
    mutual_information: Estimate | None
    ranks: dict[str, Array]
    unavailable: dict[str, str] = field(default_factory=dict)
    ignores_data: bool = False
    level: float = _LEVEL

    @property
    def p_values(self) -> dict[str, float]:
        """Names to p-values of uniform ranks, corrected for the number of quantities by Holm's method."""
        corrected = holm([each.test.p_value for each in self.quantities.values()])
        return dict(zip(self.quantities, corrected, strict=True))

    def to_frame(self) -> pd.DataFrame:
        """A row a quantity.

        Columns: ``p_value`` (corrected for the number of quantities), ``p_uncorrected``, ``coverage_50``,
        ``coverage_90``, ``contraction``, ``z_score``, ``location`` and ``dispersion`` of the ranks' normal
        scores (0 and 1 if they are uniform; a dispersion above 1 says that the draws are too narrow),
        ``correlation`` of true value and mean of the draws, and ``num_simulations``, of how many all of this
        is: those without a mask around the quantity.
        """
        corrected = self.p_values
        rows = [
            {
                "p_value": corrected[name],
                "p_uncorrected": each.test.p_value,
                "coverage_50": each.coverage_50,
                "coverage_90": each.coverage_90,
                "contraction": each.contraction,
                "z_score": each.z_score,
                "location": each.test.location,
                "dispersion": each.test.dispersion,
                "correlation": each.correlation,
                "num_simulations": each.num_simulations,
            }
            for name, each in self.quantities.items()
        ]
        index = pd.Index(list(self.quantities), name="quantity")
        return pd.DataFrame(rows, index=index, columns=_COLUMNS)

    def ecdf_frame(self, *, level: float = _BAND) -> pd.DataFrame:
        """The distribution functions of all ranks less that of uniform ones, for a picture.

        Columns: ``quantity``, ``probability``, ``difference``, ``lower`` and ``upper`` of the simultaneous
        band of as many ranks as the quantity has, and the corrected ``p_value``.

        Args:
            level: with which the band holds the whole curve of one quantity, between 0 and 1.

        Raises:
            ValueError: if the level is not between 0 and 1.
        """
        check_level(level)
        corrected = self.p_values
        parts = [pd.DataFrame(columns=_CURVE_COLUMNS)]
        for name, each in self.quantities.items():
            if not len(each.ranks):
                continue
            band = simultaneous_band(len(each.ranks), self.num_draws, level)
            curve = empirical_distribution(each.ranks, self.num_draws)
            parts.append(
                pd.DataFrame(
                    {
                        "quantity": name,
                        "probability": band.probability,
                        "difference": curve - band.probability,
                        "lower": band.lower - band.probability,
                        "upper": band.upper - band.probability,
                        "p_value": corrected[name],
                    }
                )
            )
        return pd.concat(parts[1:] or parts, ignore_index=True)

    @property
    def verdict(self) -> str:
        """What is wrong, in one sentence; ``calibrated`` where nothing is seen to be."""
        return _verdict(self)

    def to_arviz(self) -> Any:
        """The installed ArviZ's native object with the group ``prior_sbc``.

        It holds for each site the ranks that were tested, (chain = 1, draw = simulation, event): how many
        draws are below the true value, and of those that are equal to it, as of discrete sites, a random
        number. Where a site is masked they are nan. The number of draws is an attribute. Plots of ArviZ's
        that divide by the largest observed rank in place of the number of draws show it askew;
        ``plots.rank_curves`` does not.
        """
        arrays = {
            name: (["chain", "draw", *(f"{name}_dim_{i}" for i in range(each.ndim - 1))], each[None])
            for name, each in self.ranks.items()
        }
        attributes = creation_attributes() | {"num_draws": self.num_draws}
        return to_native({"prior_sbc": xr.Dataset(arrays, attrs=attributes)})

    def __str__(self) -> str:
        columns = ["p_value", "coverage_50", "coverage_90", "contraction", "z_score"]
        if any(each.num_simulations < self.num_simulations for each in self.quantities.values()):
            columns.append("num_simulations")
        shown = self.to_frame()[columns]
        table = shown.to_string(float_format=lambda value: f"{value:z.3f}", na_rep="")
        return "\n".join([self.verdict, "", *([table, ""] if self.quantities else []), *self._notes()])

    def _notes(self) -> Iterator[str]:
        yield f"{self.num_simulations} simulations, {self.num_draws} draws each; p-values are corrected"
        if self.mutual_information is not None:
            cap = math.log(self.num_simulations)
            yield f"mutual information {float(self.mutual_information):.3f} nats, at most ln N = {cap:.3f}"
        yield from (f"not available: {name} ({reason})" for name, reason in self.unavailable.items())


# ---- Calibrating a pair.


def calibrate(
    model: Program,
    guide: Program,
    data: Data,
    *,
    num_simulations: int = 500,
    num_draws: int = 99,
    quantities: Mapping[str, TestQuantity] | None = None,
    seed: int | None = None,
    data_plate: str | None = None,
    batch_size: int = 1024,
    global_values: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> CalibrationCheck:
    r"""Whether the guide's posteriors are those of the model: simulation-based calibration.

    .. math:: (z^*, x) \sim p(z) p(x \mid z), \qquad z_1, \dots, z_S \sim q(z \mid x)

    If q is the posterior, the rank of :math:`f(z^*, x)` among :math:`f(z_s, x)` is uniform on 0, …, S for
    every f. Ranks of z alone do not see a guide that has collapsed to the prior, so that two quantities that
    know x stand beside them: ``log_likelihood``, f = log p(x|z), and ``tarp``, the distance from a reference
    point that follows from x, which is a ridge regression of z on x over further simulations. The ranks of
    all latent dimensions together are tested for their dispersion, as ``all_latents``: a guide that is a
    little too narrow in each is seen there first.

    Simulated data have the covariates, masks and sizes of the data at hand, whose rows are taken at random,
    none of them again before all have been: what the model observes is drawn, except where a mask hides it,
    and all other arguments stay. Where the prior depends on covariates, contraction and collapse are
    relative to the prior given these. Latent values that are tied, as those of discrete sites, are ranked at
    random among their ties; masked ones are not ranked, nor is a quantity where all latents are masked.
    Global latents are fixed, as in :func:`~pyro_infomax.diagnostics.decompose`, and what is calibrated are
    the local ones given these.

    References:
        Talts, Betancourt, Simpson, Vehtari and Gelman (2018), Validating Bayesian inference algorithms with
        simulation-based calibration.
        Modrák, Moon, Kim, Bürkner, Huurre, Faltejsková, Gelman and Vehtari (2025), Simulation-based
        calibration checking for Bayesian computation: the choice of test quantities shapes sensitivity.
        Lemos, Coogan, Hezaveh and Perreault-Levasseur (2023), Sampling-based accuracy testing of posterior
        estimators for general inference.

    Args:
        model, guide, data, data_plate, global_values: as for
            :func:`~pyro_infomax.diagnostics.decompose`. Each observed site of the model is an argument.
        num_simulations: simulated data, at least 50. Programs that take only all of their data at once are
            given whole data sets, so that there may be more. What has a value that is not masked in fewer
            than 50 is not tested.
        num_draws: S, at least 19; with 99 the central intervals of 50 and 90 per cent are whole draws.
        quantities: names to test quantities of your own, ``f(z, *data)`` from site names to (M, *event) and
            the arguments of the programs, M rows, to (M,).
        seed: isolates the draws from torch's global state.
        batch_size: the most rows that a program is run on at once, where it follows its arguments.
        progress: show a bar where this takes more than a few seconds.

    Returns:
        The ranks, p-values, coverage and contraction, and a verdict.

    Raises:
        ValueError: for the errors of :func:`~pyro_infomax.diagnostics.decompose`, an observed site that is no
            argument, a guide whose parameters belong to the data at hand, and a quantity whose values are not
            (M,); where draws, their log p(x|z) or a quantity are nan, which has no rank.
        NotImplementedError: for models with factors, which cannot be simulated.

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> oracle = LinearGaussian.optimum([4.0, 2.0], beta=1.0, latent_dim=2, s2=0.5)
        >>> x = oracle.sample(10, seed=0)
        >>> found = calibrate(oracle.model, oracle.guide, x, num_simulations=100, seed=0)
        >>> found.verdict
        'calibrated: no rank is far from uniform (p > 0.01) in 100 simulations'
        >>> list(found.to_frame().index)
        ['z[0]', 'z[1]', 'log_likelihood', 'tarp', 'all_latents']
    """
    num_simulations = whole_number("num_simulations", num_simulations, at_least=_FEWEST_SIMULATIONS)
    num_draws = whole_number("num_draws", num_draws, at_least=_FEWEST_DRAWS)
    with evaluation_mode(model, guide), torch.no_grad(), seeded_draws(seed):
        own = Pair(
            model, guide, data, data_plate=data_plate, batch_size=batch_size, global_values=global_values
        )
        _check_names(quantities or {}, own)
        rounds = _Simulator(own, num_simulations, batch_size=batch_size, data_plate=data_plate)
        others = [rounds.simulate() for _ in range(rounds.number)]
        reference = _Reference(others, num_draws)
        steps = patiently(range(rounds.number), "simulated data", progress=progress)
        parts = [_ranked(rounds.simulate(), num_draws, reference, quantities or {}) for _ in steps]
        ignores_data = _ignore_data([part.simulated for part in parts], others)
        return _joined(parts, own, num_draws, ignores_data=ignores_data)


def _check_names(quantities: Mapping[str, TestQuantity], pair: Pair) -> None:
    taken = {*pair.latent_names(), LOG_LIKELIHOOD, TARP, ALL_LATENTS}
    if clash := sorted(taken & quantities.keys()):
        raise ValueError(f"Expected names of test quantities that are not taken but got {clash}; rename them")


@final
@dataclass(frozen=True, eq=False)
class _SimulatedPair:
    """The pair on simulated data, and the latents that these were drawn with, (data, latent)."""

    pair: Pair
    truth: torch.Tensor
    present: torch.Tensor  # (data, latent), False where a mask leaves a value out


@final
class _Simulator:
    """Simulates data like those of a pair: all at once, or data set by data set; always of the same rows."""

    def __init__(self, own: Pair, num_simulations: int, *, batch_size: int, data_plate: str | None) -> None:
        self.own = own
        self.options: dict[str, Any] = {"batch_size": batch_size, "data_plate": data_plate}
        self.number, self.given = 1, own.data
        if own.program.takes_any_rows and own.representation.program.takes_any_rows:
            turns = -(-num_simulations // own.data_size)
            rows = torch.cat([torch.randperm(own.data_size) for _ in range(turns)])
            self.given = rows_of(own.data, rows[:num_simulations])
        else:
            self.number = -(-num_simulations // own.data_size)
        self._check_amortised()

    def simulate(self) -> _SimulatedPair:
        model, own = self.own.programs[0], self.own
        fixed = FixedMessenger(own.global_values)(model) if own.global_values else model
        size, plate = len(self.given[0]), self.options["data_plate"]
        drawn = Simulated(fixed, size, *self.given, data_plate=plate)
        pair = self._pair(drawn.data)
        layouts = pair.space.layouts
        sites = {name: drawn.latents[name] for name in layouts}
        present = {name: torch.ones_like(each, dtype=torch.bool) for name, each in sites.items()}
        masked = pair.program.presence(pair.data)
        present |= {name: each for name, each in masked.items() if name in layouts}
        return _SimulatedPair(pair, pair.space.flatten(sites).cpu(), pair.space.flatten(present).cpu() > 0)

    def _pair(self, data: Data) -> Pair:
        values = self.own.global_values
        return Pair(*self.own.programs, data, global_values=values, progress=False, **self.options)

    def _check_amortised(self) -> None:
        """Refuses posteriors that stay in their rows where the data move to the next one."""
        pair = self.own
        if pair.representation.program.takes_any_rows:
            return
        with isolated_random_state():
            z = pair.draw(1)[0]
            moved = self._pair(tuple(each.roll(1, 0) for each in pair.data)).posterior
            here, there = (
                q.log_prob(in_dtype_of(q, each)) for q, each in ((pair.posterior, z), (moved, z.roll(1, 0)))
            )
        if not torch.allclose(here, there.roll(-1, 0), rtol=_SAME, atol=_SAME, equal_nan=True):
            raise ValueError(
                "Expected a guide that encodes any data but its posteriors belong to the rows of the "
                f"{pair.data_size} data at hand, so that it has none for simulated data; use an amortised "
                "guide, such as AmortizedNormal"
            )


def _ignore_data(simulated: list[_SimulatedPair], others: list[_SimulatedPair]) -> bool:
    """Whether the posteriors are the same for other simulations with the same covariates and masks."""
    seen = False
    for both in zip(simulated, others, strict=True):
        follows = _follows_data(*both)
        if follows:
            return False
        seen |= follows is False
    return seen


def _follows_data(simulated: _SimulatedPair, other: _SimulatedPair) -> bool | None:
    """Whether some posterior is another one for other values; None where the two simulations are alike."""
    pairs = simulated.pair, other.pair
    changed = torch.stack(
        [(a != b).reshape(len(a), -1).any(1) for a, b in zip(*(each.data for each in pairs), strict=True)]
    )
    compared = changed.any(0).cpu() & simulated.present.any(1)
    if not compared.any():
        return None
    with isolated_random_state():
        z = pairs[0].draw(1)[0]
    here, there = (each.posterior.log_prob(in_dtype_of(each.posterior, z)) for each in pairs)
    same = torch.isclose(here, there, rtol=_SAME, atol=_SAME, equal_nan=True).cpu()
    return not bool(same[compared].all())


# ---- What the prior says by the covariates alone, and what the data say of the latents.


@final
@dataclass(frozen=True, eq=False)
class _PriorMoments:
    """Of the prior of each datum, given its covariates, (data, latent) each."""

    mean: torch.Tensor
    another_mean: torch.Tensor  # of other draws, so that what is less the one and the other share no noise
    variance: torch.Tensor


@final
class _RowPrior:
    """The prior of each datum: one for all, or that of its own draws where it may depend on covariates."""

    def __init__(self, simulated: list[_SimulatedPair], num_draws: int) -> None:
        self._num_draws = num_draws
        z = torch.cat([each.truth for each in simulated])
        self._mean, self._variance = z.mean(0), z.var(0)
        try:
            simulated[0].pair.prior()
        except NotImplementedError:
            self._is_common = False
        else:
            self._is_common = True

    def of(self, pair: Pair) -> _PriorMoments:
        if self._is_common:
            mean, variance = (each.expand(pair.data_size, -1) for each in (self._mean, self._variance))
            return _PriorMoments(mean, mean, variance)
        z = self._draws(pair)
        return _PriorMoments(z[::2].mean(0), z[1::2].mean(0), z.var(0))

    def _draws(self, pair: Pair) -> torch.Tensor:
        """(draws, data, latent)."""
        program, size = pair.program, pair.data_size
        together = max(1, program.piece // size) if program.takes_any_rows else 1
        parts = []
        for start in range(0, self._num_draws, together):
            number = min(together, self._num_draws - start)
            sites = program.draw(cycled(pair.data, number * size))
            parts.append(pair.space.flatten(sites).unflatten(0, (number, size)).cpu())
        return torch.cat(parts)


@final
class _Reference:
    """Predicts the latents from the data by ridge regression: reference points of other simulations.

    Both are less the prior's mean, and in units of its standard deviation, given the covariates.
    """

    def __init__(self, simulated: list[_SimulatedPair], num_draws: int) -> None:
        self.prior = _RowPrior(simulated, num_draws)
        moments = [self.prior.of(each.pair) for each in simulated]
        z = torch.cat([each.truth for each in simulated])
        variance = torch.cat([each.variance for each in moments]).mean(0)
        is_constant = variance <= _CONSTANT * z.square().mean(0)
        self._scale = torch.where(is_constant, 1.0, variance.sqrt())
        x = np.concatenate([_features(each.pair.data) for each in simulated])
        self._mean, spread = x.mean(0), x.std(0)
        self._spread = np.where(spread > 0, spread, 1.0)
        away = self.standard(z, torch.cat([each.mean for each in moments]))
        self._ridge = RidgeCV(np.logspace(-2, 4, 13)).fit(self._standard(x), away.numpy())

    def standard(self, z: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        return (z - mean) / self._scale

    def __call__(self, data: Tensors) -> torch.Tensor:
        """The reference point of each datum, (data, latent)."""
        found = self._ridge.predict(self._standard(_features(data)))
        return torch.as_tensor(found).reshape(len(data[0]), -1)

    def _standard(self, x: Array) -> Array:
        return np.asarray((x - self._mean) / self._spread)


def _features(data: Tensors) -> Array:
    return np.concatenate([each.reshape(len(each), -1).cpu().double().numpy() for each in data], 1)


# ---- Ranks of one round of simulated data.


@final
@dataclass(frozen=True, eq=False)
class _Ranked:
    """Of one round of simulations; quantities in columns, latent dimensions first."""

    names: list[str]
    ranks: torch.Tensor  # with ties broken at random, (data, quantities)
    present: torch.Tensor  # (data, quantities)
    truth: torch.Tensor  # (data, latent)
    mean: torch.Tensor  # of the draws, (data, latent)
    variance: torch.Tensor
    predicted: torch.Tensor  # (data, latent)
    prior: _PriorMoments
    simulated: _SimulatedPair


def _ranked(
    simulated: _SimulatedPair, num_draws: int, reference: _Reference, quantities: Mapping[str, TestQuantity]
) -> _Ranked:
    pair, point = simulated.pair, reference(simulated.pair.data)
    prior = reference.prior.of(pair)
    drawn = pair.draw(num_draws)  # (draws, data, latent)
    drawn = torch.cat([drawn, simulated.truth[None].to(drawn)])  # the true values last
    both, some = drawn.cpu().double(), simulated.present.any(1)
    for column, name in enumerate(pair.latent_names()):
        _check_numbers(f"the draws of {name!r}", both[..., column], simulated.present[:, column])
    columns = {LOG_LIKELIHOOD: pair.score(drawn).log_likelihood.cpu()}
    _check_numbers("log p(x|z) of the draws", columns[LOG_LIKELIHOOD], some)
    away = reference.standard(both, prior.mean) - point
    columns[TARP] = torch.where(simulated.present, away, 0.0).square().sum(-1)
    columns |= {name: _values(name, each, drawn, pair) for name, each in quantities.items()}
    together = torch.stack(list(columns.values()), -1)
    values = torch.cat([both, together], -1)  # (draws + 1, data, quantities)
    below = (values[:-1] < values[-1]).sum(0)
    ties = (values[:-1] == values[-1]).sum(0)
    ranks = below + (torch.rand(ties.shape, dtype=torch.float64) * (ties + 1)).floor().long()
    # where no latent counts, nothing has been inferred that a quantity could judge
    present = torch.cat([simulated.present, some[:, None].expand(-1, len(columns))], 1)
    names = [*pair.latent_names(), *columns]
    draws, truth = both[:-1], both[-1]
    return _Ranked(names, ranks, present, truth, draws.mean(0), draws.var(0), point, prior, simulated)


def _check_numbers(what: str, values: torch.Tensor, present: torch.Tensor) -> None:
    """Values are (draws, data), those that count (data,)."""
    wrong = values.isnan().any(0) & present
    if wrong.any():
        raise ValueError(
            f"Expected numbers but {what} are nan, which has no rank, for {int(wrong.sum())} of {len(wrong)} "
            "simulated data; look for parameters of model and guide that are nan"
        )


def _values(name: str, quantity: TestQuantity, z: torch.Tensor, pair: Pair) -> torch.Tensor:
    """A test quantity of draws and true values, (draws, data)."""
    rows = [torch.as_tensor(quantity(pair.space.as_held(each), *pair.data)) for each in z]
    for row in rows:
        if row.shape != (pair.data_size,):
            raise ValueError(
                f"Expected the quantity {name!r} to give a number for each datum, ({pair.data_size},), but "
                f"got {tuple(row.shape)}; sum over the other axes"
            )
        if bool(row.isnan().any()):
            raise ValueError(f"Expected numbers of the quantity {name!r} but got nan, which has no rank")
    return torch.stack(rows).cpu().double()


# ---- What the ranks of all rounds say.


def _joined(parts: list[_Ranked], own: Pair, num_draws: int, *, ignores_data: bool) -> CalibrationCheck:
    first = parts[0]
    ranks, present = (torch.cat([getattr(part, name) for part in parts]) for name in ("ranks", "present"))
    unavailable: dict[str, str] = {}
    found = {}
    size = first.truth.shape[1]
    for column, name in enumerate(first.names):
        kept = present[:, column].numpy()
        if kept.sum() < _FEWEST_SIMULATIONS:
            unavailable[name] = _too_few(int(kept.sum()))
            continue
        own_ranks = ranks[:, column].numpy()[kept]
        found[name] = CalibratedQuantity(
            own_ranks,
            len(own_ranks),
            rank_test(own_ranks, num_draws),
            _coverage(own_ranks, num_draws, 0.5, central=name != TARP),
            _coverage(own_ranks, num_draws, 0.9, central=name != TARP),
            **(_of_dimension(parts, column) if column < size else {}),
        )
    tested = [column for column, name in enumerate(first.names[:size]) if name in found]
    if len(tested) > 1:
        counted = present[:, tested].numpy()
        pooled = pooled_dispersion_test(ranks[:, tested].numpy(), counted, num_draws)
        nothing, number = np.zeros(0, dtype=int), int(counted.any(1).sum())
        found[ALL_LATENTS] = CalibratedQuantity(nothing, number, pooled, math.nan, math.nan)
    elif size > 1:
        unavailable[ALL_LATENTS] = f"of {len(tested)} of the {size} latent dimensions there are ranks enough"
    attempt = Attempt()
    information = attempt(lambda: _information([part.simulated.pair for part in parts]), "mutual_information")
    if own.global_sites:
        given = "the guide has them for these data alone, and all of this holds given their values"
        unavailable |= dict.fromkeys(own.global_sites, given)
    return CalibrationCheck(
        quantities=found,
        num_simulations=len(ranks),
        num_draws=num_draws,
        mutual_information=information,
        ranks=_by_site(first.simulated.pair, ranks[:, :size], present[:, :size]),
        unavailable=unavailable | attempt.reasons,
        ignores_data=ignores_data,
    )


def _too_few(number: int) -> str:
    if not number:
        return "masked in all simulations"
    return f"not masked in {number} simulations alone, where {_FEWEST_SIMULATIONS} are needed; simulate more"


def _by_site(pair: Pair, ranks: torch.Tensor, present: torch.Tensor) -> dict[str, Array]:
    """The ranks of each site; whole numbers, or with nan where it is masked."""
    of_sites, counted = pair.space.unflatten(ranks), pair.space.unflatten(present)
    return {
        name: (each if bool(counted[name].all()) else each.double().where(counted[name], math.nan)).numpy()
        for name, each in of_sites.items()
    }


def _information(pairs: list[Pair]) -> Estimate:
    """Of the posteriors of all rounds together."""
    if masked := pairs[0].masked:
        raise NotImplementedError(no_mixture(masked))
    try:
        pairs[0].prior()
    except NotImplementedError as error:
        raise NotImplementedError(
            "the prior differs from datum to datum, so that posteriors may only know the covariates"
        ) from error
    posterior = joined_posteriors([pair.posterior for pair in pairs])
    z = torch.cat([pair.draw(1) for pair in pairs], 1)
    mixtures = WholeAggregate(posterior, progress=False)
    return Account(Draws(posterior, None, z=z, mixtures=mixtures)).mutual_information


def _of_dimension(parts: list[_Ranked], column: int) -> dict[str, float]:
    kept = torch.cat([part.present[:, column] for part in parts])

    def of_all(of_part: Callable[[_Ranked], torch.Tensor]) -> Array:
        return torch.cat([of_part(part)[:, column] for part in parts])[kept].numpy()

    mean, variance = of_all(lambda part: part.mean), of_all(lambda part: part.variance)
    truth, prior = of_all(lambda part: part.truth), of_all(lambda part: part.prior.variance)
    spread = variance > 0
    z_scores = (truth - mean)[spread] / np.sqrt(variance[spread])
    from_prior = truth - of_all(lambda part: part.prior.mean)
    return {
        "contraction": 1 - float(variance.mean()) / float(prior.mean()) if prior.any() else math.nan,
        "z_score": float(z_scores.mean()) if len(z_scores) else math.nan,
        "correlation": _correlation(from_prior, mean - of_all(lambda part: part.prior.another_mean)),
        "predicted": _correlation(from_prior, of_all(lambda part: part.predicted)),
    }


def _correlation(a: Array, b: Array) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0


def _coverage(ranks: Array, num_draws: int, probability: float, *, central: bool) -> float:
    """The share of ranks in an interval of that many ranks, of which those at its ends count in part."""
    ends = (1 - probability) / 2 if central else 0.0
    low, high = ends * (num_draws + 1), (ends + probability) * (num_draws + 1)
    # each rank r takes up the interval from r to r + 1
    inside = np.clip(np.minimum(ranks + 1, high) - np.maximum(ranks, low), 0.0, 1.0)
    return float(inside.mean())


# ---- A verdict in one sentence.

_STANDARD_ERRORS: Final = 4.0
_MOST_CONTRACTED: Final = 0.3  # how far from the prior's a variance may be that is still called its own
_SEEN: Final = 0.05  # the p-value of a test by which a failed rank is described


def _verdict(check: CalibrationCheck) -> str:
    quantities, level = check.quantities, check.level
    failed = [name for name, p_value in check.p_values.items() if p_value < level]
    latent = {name: each for name, each in quantities.items() if not math.isnan(each.correlation)}
    if not failed and not latent:
        return "not judged: no latent dimension has values enough that are not masked"
    if not failed:
        return f"calibrated: no rank is far from uniform (p > {level}) in {check.num_simulations} simulations"
    collapsed = [name for name, each in latent.items() if _is_collapsed(each)]
    ignored = ""
    if check.ignores_data and latent.keys() & set(failed):
        # one posterior for all data, and not the prior, of which the ranks would be uniform
        collapsed = [name for name in collapsed if name not in failed]
        ignored = "the posteriors are the same whatever is observed, as of a guide that is not amortised; "
    faults = [(name, _fault(latent[name])) for name in failed if name in latent and name not in collapsed]
    if latent and len(collapsed) == len(latent):
        return "collapsed: the posterior is the prior in all dimensions, although the data tell of them"
    clauses = [f"{_listed(collapsed)} collapsed"] if collapsed else []
    kinds = dict.fromkeys(kind for _, kind in faults)
    clauses += [f"{_listed([name for name, each in faults if each == kind])} {kind}" for kind in kinds]
    extra = [name for name in failed if name not in {*latent, LOG_LIKELIHOOD, TARP, ALL_LATENTS}]
    clauses += [f"{_listed(extra)} off"] if extra else []
    if not clauses:
        clauses = [_of_all(quantities, failed)]
    return ignored + "; ".join(clauses)


def _noise(each: CalibratedQuantity) -> float:
    """How large a correlation that is none may be seen to be."""
    return _STANDARD_ERRORS / math.sqrt(each.num_simulations)


def _is_collapsed(each: CalibratedQuantity) -> bool:
    """Drawn as from the prior, although a linear regression sees what the data tell of it."""
    # the variance of so many true values has a relative error of sqrt(2 / N)
    alike = min(math.sqrt(2) * _noise(each), _MOST_CONTRACTED)
    uninformed = abs(each.contraction) < alike and abs(each.correlation) < _noise(each)
    return uninformed and each.predicted > _noise(each)


def _fault(each: CalibratedQuantity) -> str:
    if each.correlation < -_noise(each):
        return "of the wrong sign"
    test = each.test
    least = min(test.p_location, test.p_dispersion, test.p_shape)
    if test.p_location == least:
        return "shifted, too low" if test.location > 0 else "shifted, too high"
    if test.p_dispersion == least or test.p_dispersion < _SEEN:
        return "too narrow" if test.dispersion > 1 else "too wide"
    return "of another shape"


def _of_all(quantities: Mapping[str, CalibratedQuantity], failed: list[str]) -> str:
    """Where no dimension fails by itself."""
    if ALL_LATENTS in failed:
        return (
            f"the latents together too {'narrow' if quantities[ALL_LATENTS].test.dispersion > 1 else 'wide'}"
        )
    name = TARP if TARP in failed else LOG_LIKELIHOOD
    test = quantities[name].test
    if test.p_location >= _SEEN:
        return "the latents together of another shape"
    if name == TARP:
        return f"the latents together too {'narrow' if test.location > 0 else 'wide'}"
    better = "better" if test.location < 0 else "worse"
    return f"the latents together off: their draws explain x {better} than the latents that made it"


def _listed(names: list[str]) -> str:
    shown = names if len(names) <= 4 else [*names[:3], f"{len(names) - 3} others"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
