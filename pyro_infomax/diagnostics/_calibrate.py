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
from pyro_infomax._data import Data, Tensors
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
    empirical_distribution,
    holm,
    pooled_dispersion_test,
    rank_test,
    simultaneous_band,
)
from pyro_infomax.distributions import in_dtype_of
from pyro_infomax.information import Account, Draws, Estimate
from pyro_infomax.nn import evaluation_mode
from pyro_infomax.programs import FixedMessenger

# ---- The calibration of one quantity, and of all of them.

TestQuantity = Callable[..., torch.Tensor]

LOG_LIKELIHOOD: Final = "log_likelihood"
TARP: Final = "tarp"
ALL_LATENTS: Final = "all_latents"
_FEWEST_SIMULATIONS: Final = 50
_FEWEST_DRAWS: Final = 19
_LEVEL: Final = 0.01
_BAND: Final = 0.95
_SAME: Final = 1e-4  # nats, absolute and relative: float32 programs round differently from row to row


@final
@dataclass(frozen=True, eq=False)
class CalibratedQuantity:
    """The ranks of one quantity, and what they say.

    Attributes:
        ranks: of the true value among the draws, from 0 to ``num_draws``, (simulations,); those of masked
            values are left out.
        test: whether they are uniform.
        coverage_50, coverage_90: how often the central 50 and 90 per cent of the draws hold the true value;
            of ``tarp`` the credible ball around the reference.
        contraction: 1 − E Var[z|x] / Var[z]: 0 for draws from the prior, 1 for a point, below 0 for draws
            that are wider than the prior; nan for what is no latent dimension.
        z_score: the mean of (true value − mean of the draws) / their standard deviation, of latent
            dimensions.
        correlation: of true value and mean of the draws, over the simulations; of latent dimensions.
        predicted: the correlation of true values with a ridge regression on the data of other simulations:
            what the data say of this dimension at least.
    """

    ranks: Array
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
            None where it is not known.
        counts: site names to how many draws are below the true value, (simulations, *event).
        unavailable: what was not calibrated, and why.
        level: the p-value below which the verdict names a fault.
    """

    quantities: dict[str, CalibratedQuantity]
    num_simulations: int
    num_draws: int
    mutual_information: Estimate | None
    counts: dict[str, Array]
    unavailable: dict[str, str] = field(default_factory=dict)
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
        scores (0 and 1 if they are uniform; a dispersion above 1 says that the draws are too narrow), and
        ``correlation`` of true value and mean of the draws.
        """
        corrected = self.p_values
        rows = {
            name: {
                "p_value": corrected[name],
                "p_uncorrected": each.test.p_value,
                "coverage_50": each.coverage_50,
                "coverage_90": each.coverage_90,
                "contraction": each.contraction,
                "z_score": each.z_score,
                "location": each.test.location,
                "dispersion": each.test.dispersion,
                "correlation": each.correlation,
            }
            for name, each in self.quantities.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("quantity")

    def ecdf_frame(self, *, level: float = _BAND) -> pd.DataFrame:
        """The distribution functions of all ranks less that of uniform ones, for a picture.

        Columns: ``quantity``, ``probability``, ``difference``, ``lower`` and ``upper`` of the simultaneous
        band, and the corrected ``p_value``.

        Args:
            level: with which the band holds the whole curve of one quantity.
        """
        parts, corrected = [], self.p_values
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
        return pd.concat(parts, ignore_index=True)

    @property
    def verdict(self) -> str:
        """What is wrong, in one sentence; ``calibrated`` where nothing is seen to be."""
        return _verdict(self.quantities, self.p_values, self.level, self.num_simulations)

    def to_arviz(self) -> Any:
        """The installed ArviZ's native object with the group ``prior_sbc``.

        It holds for each site how many draws are below the true value, (chain = 1, draw = simulation, event),
        and the number of draws as an attribute. Plots of ArviZ's that divide by the largest observed rank in
        place of the number of draws show it askew; ``plots.rank_curves`` does not.
        """
        arrays = {
            name: (["chain", "draw", *(f"{name}_dim_{i}" for i in range(each.ndim - 1))], each[None])
            for name, each in self.counts.items()
        }
        attributes = creation_attributes() | {"num_draws": self.num_draws}
        return to_native({"prior_sbc": xr.Dataset(arrays, attrs=attributes)})

    def __str__(self) -> str:
        shown = self.to_frame()[["p_value", "coverage_50", "coverage_90", "contraction", "z_score"]]
        table = shown.to_string(float_format=lambda value: f"{value:z.3f}", na_rep="")
        return "\n".join([self.verdict, "", table, "", *self._notes()])

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

    Simulated data have the covariates, masks and sizes of the data at hand, whose rows are taken in turn:
    what the model observes is drawn, except where a mask hides it, and all other arguments stay. Latent
    values that are tied, as those of discrete sites, are ranked at random among their ties. Global latents
    are fixed, as in :func:`~pyro_infomax.diagnostics.decompose`, and what is calibrated are the local ones
    given these.

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
            given whole data sets, so that there may be more.
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
            (M,) or nan.
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
        reference = rounds.reference()
        steps = patiently(range(rounds.number), "simulated data", progress=progress)
        parts = [_ranked(rounds.simulate(), num_draws, reference, quantities or {}) for _ in steps]
        return _joined(parts, own, num_draws)


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
    """Simulates data like those of a pair: all at once, or data set by data set."""

    def __init__(self, own: Pair, num_simulations: int, *, batch_size: int, data_plate: str | None) -> None:
        self.own = own
        self.options: dict[str, Any] = {"batch_size": batch_size, "data_plate": data_plate}
        any_rows = own.program.takes_any_rows and own.representation.program.takes_any_rows
        self.size = num_simulations if any_rows else own.data_size
        self.number = -(-num_simulations // self.size)
        self._check_amortised()

    def simulate(self) -> _SimulatedPair:
        model, own = self.own.programs[0], self.own
        fixed = FixedMessenger(own.global_values)(model) if own.global_values else model
        drawn = Simulated(fixed, self.size, *own.data, data_plate=self.options["data_plate"])
        pair = self._pair(drawn.data)
        layouts = pair.space.layouts
        sites = {name: drawn.latents[name] for name in layouts}
        present = {name: torch.ones_like(each, dtype=torch.bool) for name, each in sites.items()}
        masked = pair.program.presence(pair.data)
        present |= {name: each for name, each in masked.items() if name in layouts}
        return _SimulatedPair(pair, pair.space.flatten(sites), pair.space.flatten(present) > 0)

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

    def reference(self) -> "_Reference":
        return _Reference([self.simulate() for _ in range(self.number)])


@final
class _Reference:
    """Predicts the latents from the data by ridge regression: reference points of their own simulations."""

    def __init__(self, simulated: list[_SimulatedPair]) -> None:
        z = torch.cat([each.truth for each in simulated])
        self.centre, self.scale = z.mean(0), z.std(0).clamp(min=torch.finfo(z.dtype).tiny)
        x = np.concatenate([_features(each.pair.data) for each in simulated])
        self._mean, spread = x.mean(0), x.std(0)
        self._spread = np.where(spread > 0, spread, 1.0)
        self._ridge = RidgeCV(np.logspace(-2, 4, 13)).fit(self._standard(x), self.standard(z).numpy())

    def standard(self, z: torch.Tensor) -> torch.Tensor:
        """z in units of the prior's standard deviations."""
        return (z - self.centre) / self.scale

    def __call__(self, data: Tensors) -> torch.Tensor:
        """The reference point of each datum in these units, (data, latent)."""
        found = self._ridge.predict(self._standard(_features(data)))
        return torch.as_tensor(found).reshape(len(data[0]), -1)

    def _standard(self, x: Array) -> Array:
        return np.asarray((x - self._mean) / self._spread)


def _features(data: Tensors) -> Array:
    return np.concatenate([each.reshape(len(each), -1).double().cpu().numpy() for each in data], 1)


# ---- Ranks of one round of simulated data.


@final
@dataclass(frozen=True, eq=False)
class _Ranked:
    """Of one round of simulations; quantities in columns, latent dimensions first."""

    names: list[str]
    below: torch.Tensor  # how many draws are below the true value, (data, quantities)
    ranks: torch.Tensor  # with ties broken at random, (data, quantities)
    present: torch.Tensor  # (data, quantities)
    truth: torch.Tensor  # (data, latent)
    mean: torch.Tensor  # of the draws, (data, latent)
    variance: torch.Tensor
    predicted: torch.Tensor  # (data, latent)
    simulated: _SimulatedPair


def _ranked(
    simulated: _SimulatedPair, num_draws: int, reference: _Reference, quantities: Mapping[str, TestQuantity]
) -> _Ranked:
    pair, point = simulated.pair, reference(simulated.pair.data)
    z = pair.draw(num_draws)  # (draws, data, latent)
    both = torch.cat([z, simulated.truth[None].to(z.dtype)])
    columns = {LOG_LIKELIHOOD: pair.score(both).log_likelihood}
    both = both.double()
    away = (reference.standard(both) - point) * simulated.present
    columns[TARP] = away.square().sum(-1)
    columns |= {name: _values(name, each, both, pair) for name, each in quantities.items()}
    together = torch.stack(list(columns.values()), -1)
    values = torch.cat([both, together], -1)  # (draws + 1, data, quantities), the true ones last
    below = (values[:-1] < values[-1]).sum(0)
    ties = (values[:-1] == values[-1]).sum(0)
    ranks = below + (torch.rand(ties.shape, dtype=torch.float64) * (ties + 1)).floor().long()
    present = torch.cat([simulated.present, simulated.present.new_ones(len(below), len(columns))], 1)
    names = [*pair.latent_names(), *columns]
    draws, truth = both[:-1], both[-1]
    return _Ranked(names, below, ranks, present, truth, draws.mean(0), draws.var(0), point, simulated)


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
    return torch.stack(rows).double()


# ---- What the ranks of all rounds say.


def _joined(parts: list[_Ranked], own: Pair, num_draws: int) -> CalibrationCheck:
    first = parts[0]
    ranks, present, truth, mean, variance, predicted = (
        torch.cat([getattr(part, name) for part in parts]).numpy()
        for name in ("ranks", "present", "truth", "mean", "variance", "predicted")
    )
    unavailable: dict[str, str] = {}
    found = {}
    for column, name in enumerate(first.names):
        kept = present[:, column]
        if kept.sum() < _FEWEST_SIMULATIONS:
            unavailable[name] = f"only {int(kept.sum())} of its values are not masked; simulate more"
            continue
        own_ranks = ranks[kept, column]
        details: dict[str, float] = {}
        if column < truth.shape[1]:
            of_latent = (each[kept, column] for each in (truth, mean, variance, predicted))
            details = _of_dimension(*of_latent)
        found[name] = CalibratedQuantity(
            own_ranks,
            rank_test(own_ranks, num_draws),
            _coverage(own_ranks, num_draws, 0.5, central=name != TARP),
            _coverage(own_ranks, num_draws, 0.9, central=name != TARP),
            **details,
        )
    attempt = Attempt()
    information = attempt(lambda: _information(first.simulated.pair), "mutual_information")
    if truth.shape[1] > 1:
        pooled = pooled_dispersion_test(ranks[:, : truth.shape[1]], present[:, : truth.shape[1]], num_draws)
        found[ALL_LATENTS] = CalibratedQuantity(np.zeros(0, dtype=int), pooled, math.nan, math.nan)
    if own.global_sites:
        given = "the guide has them for these data alone, and all of this holds given their values"
        unavailable |= dict.fromkeys(own.global_sites, given)
    below = torch.cat([part.below for part in parts])[:, : truth.shape[1]]
    counts = first.simulated.pair.space.unflatten(below)
    return CalibrationCheck(
        quantities=found,
        num_simulations=len(ranks),
        num_draws=num_draws,
        mutual_information=information,
        counts={name: each.numpy() for name, each in counts.items()},
        unavailable=unavailable | attempt.reasons,
    )


def _information(pair: Pair) -> Estimate:
    return Account(Draws(pair.posterior, None, z=pair.draw(1), mixtures=pair.mixtures())).mutual_information


def _of_dimension(truth: Array, mean: Array, variance: Array, predicted: Array) -> dict[str, float]:
    prior = float(truth.var())
    contraction = 1 - float(variance.mean()) / prior if prior else math.nan
    spread = variance > 0
    z_scores = (truth - mean)[spread] / np.sqrt(variance[spread])
    return {
        "contraction": contraction,
        "z_score": float(z_scores.mean()) if len(z_scores) else math.nan,
        "correlation": _correlation(truth, mean),
        "predicted": _correlation(truth, predicted),
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
_SEEN: Final = 0.05  # the p-value of a test by which a failed rank is described


def _verdict(
    quantities: Mapping[str, CalibratedQuantity], p_values: Mapping[str, float], level: float, size: int
) -> str:
    failed = [name for name, p_value in p_values.items() if p_value < level]
    if not failed:
        return f"calibrated: no rank is far from uniform (p > {level}) in {size} simulations"
    latent = {name: each for name, each in quantities.items() if not math.isnan(each.correlation)}
    collapsed = [name for name, each in latent.items() if _is_collapsed(each)]
    faults = [(name, _fault(latent[name])) for name in failed if name in latent and name not in collapsed]
    if len(collapsed) == len(latent):
        return "collapsed: the posterior is the prior in all dimensions, although the data tell of them"
    clauses = [f"{_listed(collapsed)} collapsed"] if collapsed else []
    kinds = dict.fromkeys(kind for _, kind in faults)
    clauses += [f"{_listed([name for name, each in faults if each == kind])} {kind}" for kind in kinds]
    extra = [name for name in failed if name not in {*latent, LOG_LIKELIHOOD, TARP, ALL_LATENTS}]
    clauses += [f"{_listed(extra)} off"] if extra else []
    if not clauses:
        clauses = [_of_all(quantities, failed)]
    return "; ".join(clauses)


def _noise(each: CalibratedQuantity) -> float:
    """How large a correlation that is none may be seen to be."""
    return _STANDARD_ERRORS / math.sqrt(len(each.ranks))


def _is_collapsed(each: CalibratedQuantity) -> bool:
    """Drawn as from the prior, although a linear regression sees what the data tell of it."""
    # the variance of so many true values has a relative error of sqrt(2 / N)
    uninformed = abs(each.contraction) < math.sqrt(2) * _noise(each) and abs(each.correlation) < _noise(each)
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
