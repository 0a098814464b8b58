"""Predictive checks: whether data that a model draws look like those that were observed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Final, Literal, final

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyro_infomax._checks import one_of, shown, whole_number
from pyro_infomax._data import Data, SiteValues, Tensors
from pyro_infomax._progress import patiently
from pyro_infomax._random import isolated_random_state, seeded_draws
from pyro_infomax._types import Floats, Program
from pyro_infomax.diagnostics._pair import Pair, held_out_pair
from pyro_infomax.diagnostics._predictive_statistics import (
    Statistic,
    image_statistics,
    is_image,
    vector_statistics,
)
from pyro_infomax.joint import cycled, no_mixture
from pyro_infomax.nn import evaluation_mode

# ---- A statistic of all data: one number of the statistics of single data.


def _skewness(values: Floats) -> Floats:
    centred = values - values.mean(-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        found: Floats = (centred**3).mean(-1) / (centred**2).mean(-1) ** 1.5
    return found


_SUMMARIES: Final[Mapping[str, Callable[[Floats], Floats]]] = {
    "mean": lambda values: values.mean(-1),
    "sd": lambda values: values.std(-1),
    "skewness": _skewness,
    "minimum": lambda values: values.min(-1),
    "maximum": lambda values: values.max(-1),
}
_DISTANCE: Final = "ks"
_WITHOUT_UNIT: Final = ("skewness", _DISTANCE)
_TIES: Final = 1e-9


def _summarised(values: Floats, over: str | float) -> Floats:
    """(draws, data) to (draws,)."""
    found: Floats = np.quantile(values, over, -1) if isinstance(over, float) else _SUMMARIES[over](values)
    return found


def _distances(observed: Floats, replicated: Floats) -> tuple[Floats, Floats]:
    """Kolmogorov and Smirnov's distance of each data set, (data,) or (draws, data), from all the others."""
    sets = np.sort(np.concatenate([observed, replicated]), -1)
    pool = np.sort(sets, None)
    found = np.array([_distance(each, pool) for each in sets])
    # the pool holds each of the sets too, which takes the same share of every distance
    found *= len(sets) / (len(sets) - 1)
    return found[:1], found[1:]


def _distance(values: Floats, pool: Floats) -> float:
    """The largest difference of two empirical distribution functions; it lies at a value, or just below."""
    sides: tuple[Literal["left", "right"], ...] = ("left", "right")
    own, all_ = (
        np.stack([np.searchsorted(sample, values, side) for side in sides]) / len(sample)
        for sample in (values, pool)
    )
    return float(np.abs(own - all_).max())


@dataclass(frozen=True)
class _Placed:
    """A summary of the observed data, (1 or draws,), beside those of the replicated ones, (draws,)."""

    observed: Floats
    replicated: Floats
    unit: float  # of the effect size
    upper_only: bool = False

    def row(self) -> dict[str, float]:
        observed, mean = float(self.observed.mean()), float(self.replicated.mean())
        deviation = float((self.replicated - self.observed).std(ddof=1))
        low, high = np.quantile(self.replicated, _INTERVAL)
        upper, p_value = self._tails()
        difference = 0.0 if abs(observed - mean) <= self._tie else observed - mean
        with np.errstate(divide="ignore", invalid="ignore"):
            z_score, effect = np.divide(difference, [0.0 if deviation <= self._tie else deviation, self.unit])
        return {
            "observed": observed,
            "replicated": mean,
            "replicated_sd": float(self.replicated.std(ddof=1)),
            "low": float(low),
            "high": float(high),
            "z_score": float(z_score),
            "p_value": p_value,
            "upper_tail": upper,
            "effect_size": float(effect),
        }

    def _tails(self) -> tuple[float, float]:
        upper = (self.replicated >= self.observed - self._tie).sum()
        lower = (self.replicated <= self.observed + self._tie).sum()
        tails = [(1 + int(count)) / (1 + len(self.replicated)) for count in (upper, lower)]
        if not (np.isfinite(self.replicated).all() and np.isfinite(self.observed).all()):
            return np.nan, np.nan
        return tails[0], tails[0] if self.upper_only else min(1.0, 2 * min(tails))

    @property
    def _tie(self) -> float:
        """Below it a difference is rounding: sums of the same numbers in another order."""
        return _TIES * float(np.abs(np.concatenate([self.observed, self.replicated])).max())


_INTERVAL: Final = (0.025, 0.975)

# ---- The check.

_LEVEL: Final = 0.05
_FEWEST_FOR_LEVEL: Final = 39  # draws, for a two-sided p-value as small
_MEANINGS: Final = {
    "posterior": (
        "the latents have seen the data that are checked, so that p-values are larger than uniform ones: a "
        "small one is evidence, a large one is none"
    ),
    "prior": "p-values are uniform where model and parameters are right",
    "aggregate": "p-values are about uniform where decoder and guide are right",
}
_HELD_OUT: Final = "the error of parameters that were trained on few data makes them smaller"
_TRAINED: Final = (
    "data that have trained the model fit it better than new ones, and p-values come out larger: check "
    "held-out data, by holdout="
)

CheckKind = Literal["posterior", "prior", "aggregate"]


@final
@dataclass(frozen=True, eq=False)
class PredictiveCheck:
    """Statistics of the observed data beside those of replicated data.

    Attributes:
        kind: where the latents of the replicated data come from.
        held_out: whether the data were given as a holdout.
        over_data: the summaries of each statistic over the data.
        observed: the statistics of the observed data, (1, data), by name; of a discrepancy, (draws, data);
            nan for data that a mask leaves out.
        replicated: the same of the replicated data, (draws, data).
        examples: the observed sites of the first data, (data, *shape), at most ten.
        replicates: replicated data of the same, (draws, data, *shape), at most five.
    """

    kind: CheckKind
    held_out: bool
    over_data: tuple[str | float, ...]
    observed: dict[str, Tensor]
    replicated: dict[str, Tensor]
    examples: dict[str, Tensor]
    replicates: dict[str, Tensor]

    @property
    def num_draws(self) -> int:
        """How many times the data were replicated."""
        return len(next(iter(self.replicated.values())))

    @property
    def data_size(self) -> int:
        """The number of data."""
        return next(iter(self.replicated.values())).shape[1]

    def to_frame(self) -> pd.DataFrame:
        """A row a statistic and summary over the data.

        ``observed``; ``replicated``, the mean over the replicated data sets, ``replicated_sd`` and the
        interval of 95 % from ``low`` to ``high``; ``z_score``, the difference in standard deviations of
        replicated data sets; ``p_value``, two-sided, and ``upper_tail``, the share of replicated data sets at
        or above the observed one, both with the observed one counted in; ``effect_size``, the difference in
        standard deviations of single replicated data, which does not grow with their number. For ``"ks"``
        the p-value is that of the upper tail, and the effect size the difference of the two distances.
        """
        return self._table.copy()

    @cached_property
    def _table(self) -> pd.DataFrame:
        rows = {(name, str(over)): each.row() for name, over, each in self._comparisons()}
        index = pd.MultiIndex.from_tuples(rows, names=["statistic", "over_data"])
        return pd.DataFrame(list(rows.values()), index=index)

    def _comparisons(self) -> Iterator[tuple[str, str | float, _Placed]]:
        for name in self.replicated:
            observed, replicated = (each[name].numpy() for each in (self.observed, self.replicated))
            present = ~np.isnan(replicated[0])
            observed, replicated = observed[:, present], replicated[:, present]
            spread = float(replicated.std(-1).mean())
            for over in self.over_data:
                unit = 1.0 if over in _WITHOUT_UNIT else spread
                if over != _DISTANCE:
                    of_observed, of_replicated = (_summarised(each, over) for each in (observed, replicated))
                    yield name, over, _Placed(of_observed, of_replicated, unit)
                elif len(observed) == 1:
                    yield name, over, _Placed(*_distances(observed, replicated), unit, upper_only=True)

    def datum_p_values(self) -> pd.DataFrame:
        """A row a datum, a column a statistic: its two-sided p-value among its own replicates.

        It is nan where a mask leaves a datum out.
        """
        found = {}
        for name, replicated in self.replicated.items():
            observed = self.observed[name]
            tie = _TIES * torch.maximum(observed.abs().amax(0), replicated.abs().amax(0))
            upper = (replicated >= observed - tie).sum(0)
            lower = (replicated <= observed + tie).sum(0)
            p_value = (2 * (1 + torch.minimum(upper, lower)) / (1 + len(replicated))).clamp(max=1)
            found[name] = p_value.double().masked_fill(replicated[0].isnan(), torch.nan).numpy()
        return pd.DataFrame(found).rename_axis("datum")

    def __str__(self) -> str:
        return "\n".join([*self._lines(), *self._notes()])

    def _lines(self) -> Iterator[str]:
        which = "held-out data" if self.held_out else "data"
        yield f"{self.kind} predictive check of {self.data_size} {which}, replicated {self.num_draws} times"
        table = self._table.reset_index()
        width, summary = (
            max(len(title), *map(len, table[name])) + gap
            for name, title, gap in (("statistic", "statistic", 2), ("over_data", "over data", 0))
        )
        headings = "".join(f"{each:>12}" for each in ("observed", "replicated", "± sd"))
        yield f"{'statistic':<{width}}{'over data':<{summary}}{headings}{'z':>9}{'p':>9}{'effect':>9}"
        for row in table.to_dict("records"):
            numbers = "".join(f"{row[each]:>12.4g}" for each in ("observed", "replicated", "replicated_sd"))
            rest = "".join(f"{row[each]:>9.{digits}f}" for each, digits in _DIGITS.items())
            yield f"{row['statistic']:<{width}}{row['over_data']:<{summary}}{numbers}{rest}"

    def _notes(self) -> Iterator[str]:
        p_values = self._table["p_value"].dropna()
        small = p_values[p_values <= _LEVEL]
        if len(small):
            far = self._table.loc[small.index, "z_score"].abs().idxmax()
            yield (
                f"p <= {_LEVEL} in {len(small)} of {len(p_values)} rows, the furthest off is {far[0]}, "
                f"{far[1]}; {100 * _LEVEL:.0f} % of exact p-values are as small by chance"
            )
        else:
            yield f"p <= {_LEVEL} in none of {len(p_values)} rows"
        if self.num_draws < _FEWEST_FOR_LEVEL:
            yield f"{self.num_draws} replicated data sets are too few for a two-sided p <= {_LEVEL}"
        if missing := len(self._table) - len(p_values):
            yield f"{missing} rows have no p-value: the summary is not defined for data without spread"
        yield _MEANINGS[self.kind]
        if not self.held_out:
            yield _TRAINED
        elif self.kind != "posterior":
            yield _HELD_OUT


_DIGITS: Final = {"z_score": 2, "p_value": 3, "effect_size": 3}


def predictive_check(
    model: Program,
    guide: Program,
    data: Data,
    statistics: Mapping[str, Statistic] | None = None,
    *,
    kind: CheckKind = "posterior",
    holdout: Data | None = None,
    discrepancies: Mapping[str, Callable[..., Tensor]] | None = None,
    over_data: Sequence[str | float] = ("mean", "sd", "ks"),
    num_draws: int = 200,
    batch_size: int = 1024,
    seed: int | None = None,
    data_plate: str | None = None,
    global_values: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> PredictiveCheck:
    r"""Compares statistics of the observed data with those of data that the model draws.

    Each of ``num_draws`` replicated data sets has a replicate :math:`x^\mathrm{rep}_n \sim p(x \mid z_n)`
    of every datum, with the datum's own covariates. Where the latents come from is the ``kind`` of the check:

    - ``"posterior"``: :math:`z_n \sim q(z \mid x_n)`. Does the decoder give back what it was shown? The data
      are used twice, for the latents and for the comparison, so that p-values are conservative: those of a
      right model gather around 1/2 in the upper tail, and around 1 two-sided.
    - ``"prior"``: :math:`z_n \sim p(z)`. Do samples of the model look like the data? If the model is right
      and was not trained on the data, p-values are uniform.
    - ``"aggregate"``: :math:`z_n \sim q(z)`, the latents of ``data``, of a bootstrap sample for each
      replicated data set. Beside ``"prior"`` it tells a decoder that fails from a prior that is not the
      aggregate posterior. Of held-out data its p-values are about uniform, of ``data`` themselves larger.

    A p-value is the chance that data of the model are as far out as the observed ones. It is not the
    probability that the model is right, and a large one says that this statistic shows no misfit, not that
    there is none. With many data every model has small ones; the effect size says how much is wrong.
    Parameters that were trained on the data fit them better than new ones, which hides misfit in all three
    kinds: check held-out data. That the parameters come from a finite number of data is not counted.

    A p-value counts the observed data among the replicated ones, :math:`(1 + \#)/(1 + S)`, by which it is
    valid for any S. Global latents are drawn anew for each replicated data set from the guide, so that a
    prior check is of new local latents given these. What a mask leaves out of an observed site is in the
    replicated data what it is in the observed ones, and no difference; a datum that is left out is in no
    summary.

    References:
        Gelman, Meng and Stern (1996), Posterior predictive assessment of model fitness via realized
        discrepancies, for posterior checks and discrepancies.
        Bayarri and Berger (2000), P values for composite null models, for what double use does to p-values.
        Box (1980), Sampling and Bayes' inference in scientific modelling and robustness, for prior checks.
        Moran, Blei and Ranganath (2024), Holdout predictive checks for Bayesian model criticism.
        Phipson and Smyth (2010), Permutation p-values should never be zero.

    Args:
        model, guide, seed, data_plate: as for :func:`~pyro_infomax.diagnostics.decompose`.
        data: those to be checked; with a holdout, those that the model was trained on.
        statistics: names to functions of data, (batch, \*shape) to (batch,), or to (batch, k), of which each
            element is a statistic. Of several observed sites they get a mapping from site names. None for
            :func:`image_statistics` of sites of shape (H, W) or (C, H, W), from 4 by 4 pixels on, and
            :func:`vector_statistics` of others.
        kind: ``"posterior"``, ``"prior"`` or ``"aggregate"``.
        holdout: further data, which are checked in place of ``data``.
        discrepancies: names to functions of data and latents (a tensor, or a mapping of several sites), for a
            posterior check: the observed data are compared at the very latents of each replicate.
        over_data: how a statistic is summarised over the data: ``"mean"``, ``"sd"``, ``"skewness"``,
            ``"minimum"``, ``"maximum"``, a number between 0 and 1 for a quantile, or ``"ks"`` for the whole
            distribution: Kolmogorov and Smirnov's distance of a data set from all others. Discrepancies have
            no ``"ks"``.
        num_draws: S, replicated data sets, at least 2. A two-sided p-value is at least 2 / (1 + S).
        batch_size: the most rows that a program is run on at once.
        global_values: values of latent sites outside the data plate, in place of draws.
        progress: show a bar where this takes more than a few seconds.

    Raises:
        ValueError: for data as in ``decompose``, for statistics of another shape or that are not finite, and
            discrepancies in another than a posterior check.
        NotImplementedError: for a model with factors or with observed sites that cannot be drawn, and one
            that takes observed data also from its arguments, as an autoregressive one does; for an aggregate
            check where the prior depends on the data or latents are masked.

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> truth = LinearGaussian.optimum([4.0, 2.0], beta=1.0, latent_dim=2, s2=0.5)
        >>> wrong = LinearGaussian(truth.S, truth.W, 2.0, truth.V, truth.Delta)  # too much noise
        >>> x = truth.sample(300, seed=0)
        >>> check = predictive_check(wrong.model, wrong.guide, x, kind="prior", num_draws=99, seed=0)
        >>> print(check.to_frame().loc[("x[1]", "sd"), "p_value"])  # no replicated data set is as narrow
        0.02
    """
    one_of("kind", kind, _MEANINGS)
    whole_number("num_draws", num_draws, at_least=2)
    if discrepancies and kind != "posterior":
        raise ValueError(
            f"Expected discrepancies with kind='posterior', whose latents are those of the data, but got "
            f"kind={kind!r}"
        )
    summaries = _checked_summaries(over_data)
    build = partial(Pair, model, guide, data_plate=data_plate, batch_size=batch_size, progress=progress)
    with evaluation_mode(model, guide), torch.no_grad(), seeded_draws(seed):
        source = build(data, global_values=global_values)
        given = partial(build, global_values=source.global_values)
        pair = source if holdout is None else held_out_pair(source, given, holdout)
        _check_can_be_drawn(pair)
        if kind == "aggregate":
            if source.masked:
                raise NotImplementedError(no_mixture(source.masked))
            pair.prior()  # which refuses one that depends on the data
        fixed = set(source.global_values) <= set(global_values or ())
        data_at_hand = _Observed(pair)
        measures = _measures(data_at_hand, statistics, discrepancies or {})
        rounds = _Rounds(source, pair, kind, num_draws, fixed_globals=fixed)
        return _compared(data_at_hand, measures, rounds, summaries, holdout is not None, progress=progress)


def _checked_summaries(over_data: Sequence[str | float]) -> tuple[str | float, ...]:
    known = [*_SUMMARIES, _DISTANCE]
    chosen = tuple(each if isinstance(each, str) else float(each) for each in over_data)
    wrong = [each for each in chosen if not (each in known or (isinstance(each, float) and 0 < each < 1))]
    if isinstance(over_data, str) or wrong or not chosen:
        raise ValueError(
            f"Expected over_data to be several of {known} and numbers between 0 and 1 but got "
            f"{shown(over_data)}."
        )
    return chosen


# ---- What may be replicated.


def _check_can_be_drawn(pair: Pair) -> None:
    factors = [name for name, layout in pair.program.observed.items() if not layout.size]
    if factors:
        raise NotImplementedError(
            f"The model has factors, {factors}, so that its observed sites have another density than the one "
            "they are drawn from; a predictive check takes models without factors"
        )
    for position, name in _used_beside(pair):
        raise NotImplementedError(
            f"The model takes argument {position}, which is the value of {name!r}, for more than that, so "
            "that replicated data would depend on the observed ones; use the value that pyro.sample returns, "
            "and pass a mask or a covariate as an argument of its own"
        )


def _used_beside(pair: Pair) -> Iterator[tuple[int, str]]:
    """Arguments that are values of observed sites and that densities of given values depend on too."""
    program, data = pair.program, pair.data
    if len(data[0]) == 1:
        return
    rows = next(program.pieces(len(data[0])))
    scored = program.latents | program.observed
    layouts = scored | program.summed

    def run(arguments: Tensors, values: SiteValues | None = None) -> tuple[dict[str, Tensor], Any]:
        held = None if values is None else {name: each[None] for name, each in values.items()}
        trace = program.trace(arguments, rows, values=held)
        return program.values(trace, len(rows), layouts), trace

    with isolated_random_state():
        values, _ = run(data)
        for position, argument in enumerate(data):
            moved = (*data[:position], argument.roll(1, 0), *data[position + 1 :])
            latents = {name: each for name, each in values.items() if name not in program.observed}
            found, _ = run(moved, latents)
            own = [name for name in program.observed if not torch.equal(found[name], values[name])]
            if not own:
                continue  # a covariate
            traces = [run(arguments, values)[1] for arguments in (data, moved)]
            here, there = (
                torch.stack([program.log_prob(each.nodes[name], len(rows)) for name in scored])
                for each in traces
            )
            if not torch.allclose(here, there, equal_nan=True):
                yield position, own[0]


# ---- Observed and replicated data.


@final
class _Observed:
    """The observed sites, and what of them is there."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.sites = pair.program.observations(pair.data)
        self.presence = pair.program.observed_presence(pair.data)

    @property
    def size(self) -> int:
        return self.pair.data_size

    def repeated(self, number: int) -> dict[str, Tensor]:
        """(number times data, *shape)."""
        return {name: torch.cat([each] * number) for name, each in self.sites.items()}

    def completed(self, replicated: dict[str, Tensor], number: int) -> dict[str, Tensor]:
        """Replicated data in which all that is masked is as observed."""
        kept = {
            name: torch.where(torch.cat([present] * number), replicated[name], self.repeated(number)[name])
            for name, present in self.presence.items()
        }
        return replicated | kept

    def absent(self, names: Sequence[str]) -> Tensor:
        """Which data have nothing of some sites, (data,)."""
        there = [
            self.presence[name].reshape(self.size, -1).any(1).cpu() for name in names if name in self.presence
        ]
        if len(there) < len(names):
            return torch.zeros(self.size, dtype=torch.bool)
        return ~torch.stack(there).any(0)


@final
class _Rounds:
    """Replicated data with their latents, some data sets at a time."""

    def __init__(
        self, source: Pair, pair: Pair, kind: CheckKind, num_draws: int, *, fixed_globals: bool
    ) -> None:
        self.source, self.pair, self.kind = source, pair, kind
        self._draws_globals = not fixed_globals
        program = pair.program
        # a run has much the same cost for few rows as for many
        at_once = max(1, program.piece // pair.data_size) if program.takes_any_rows else 1
        most = 1 if self._draws_globals else at_once
        self.sizes = [min(most, num_draws - start) for start in range(0, num_draws, most)]

    def draw(self, number: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Latent and observed sites of so many data sets, (number times data, *shape)."""
        source, pair = self.source, self.pair
        if self._draws_globals:
            values = source.draw_global_values()
            pair = pair.at(values)
            source = pair if self.source is self.pair else source.at(values)
        data = cycled(pair.data, number * pair.data_size)
        if self.kind == "prior":
            drawn = pair.generative.sample(len(data[0]), *data)
            return {}, {name: drawn[name] for name in pair.program.observed}
        z = self._latents(source, pair, number, data)
        return z, pair.program.generating().observations(data, z)

    def _latents(self, source: Pair, pair: Pair, number: int, data: Tensors) -> dict[str, Tensor]:
        if self.kind == "posterior":
            flat = pair.draw(number).flatten(0, 1)
        else:
            flat = self._aggregate(source, number)
        z = pair.space.as_held(flat)
        if pair.program.summed and self.kind == "posterior":
            return z | pair.program.recovered(data, z)
        if pair.program.mixes_latents:
            raise NotImplementedError(
                f"The sites {list(pair.program.summed)} that the model sums out come before latents that "
                "depend on them, so that they cannot be drawn given the latents of other data; take "
                "kind='prior' or 'posterior'"
            )
        return z

    def _aggregate(self, source: Pair, number: int) -> Tensor:
        """Latents of randomly chosen data, (number times data, latent).

        Those of one data set come from a bootstrap sample, since these data are but a sample too.
        """
        samples = torch.randint(source.data_size, (number, source.data_size))
        chosen = torch.randint(source.data_size, (number, self.pair.data_size))
        rows = samples.gather(1, chosen).flatten()
        # a datum that is chosen again has another draw of its latents
        ordered, order = rows.sort(stable=True)
        times = torch.empty_like(rows)
        times[order] = torch.arange(len(rows)) - torch.searchsorted(ordered, ordered)
        return source.draw(int(times.max()) + 1)[times, rows]


# ---- Statistics of both.


@final
@dataclass(frozen=True)
class _Measure:
    """A statistic, or a discrepancy, of some observed sites."""

    name: str
    function: Callable[..., Any]
    sites: tuple[str, ...]
    of_latents: bool = False

    def __call__(self, x: Mapping[str, Tensor], z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Numbers (batch,) by name."""
        arguments = [_alone({name: x[name] for name in self.sites})]
        arguments += [_alone(z)] if self.of_latents else []
        size = len(x[self.sites[0]])
        found = torch.as_tensor(self.function(*arguments))
        if found.dim() not in (1, 2) or len(found) != size or not found.numel():
            raise ValueError(
                f"Expected the statistic {self.name!r} of {size} data to be of shape ({size},) or "
                f"({size}, k) but got shape {tuple(found.shape)}"
            )
        found = found.detach().cpu().double()
        if wrong := int((~found.isfinite()).sum()):
            raise ValueError(
                f"Expected the statistic {self.name!r} to be finite but got {wrong} nan or infinite values; "
                "define it for all data that the model may draw"
            )
        if found.dim() == 1:
            return {self.name: found}
        return {f"{self.name}[{j}]": column for j, column in enumerate(found.T)}


def _alone(sites: Mapping[str, Tensor]) -> Tensor | Mapping[str, Tensor]:
    """The tensor of a single site, a mapping of several."""
    return next(iter(sites.values())) if len(sites) == 1 else sites


def _measures(
    observed: _Observed,
    statistics: Mapping[str, Statistic] | None,
    discrepancies: Mapping[str, Callable[..., Tensor]],
) -> list[_Measure]:
    sites = tuple(observed.sites)
    if statistics is None:
        chosen = [each for site in sites for each in _defaults(site, observed, alone=len(sites) == 1)]
    else:
        chosen = [_Measure(name, each, sites) for name, each in statistics.items()]
    chosen += [_Measure(name, each, sites, of_latents=True) for name, each in discrepancies.items()]
    if wrong := [each.name for each in chosen if not callable(each.function)]:
        raise ValueError(f"Expected functions of the data as statistics but {wrong} are none")
    if not chosen:
        raise ValueError("Expected statistics or discrepancies, one at least, but got none")
    return chosen


_MOST_ELEMENTS: Final = 16


def _defaults(site: str, observed: _Observed, *, alone: bool) -> Iterator[_Measure]:
    values, shape = observed.sites[site], tuple(observed.sites[site].shape[1:])
    size = observed.pair.program.observed[site].size
    binary = bool(((values == 0) | (values == 1)).all())
    if is_image(shape):
        functions = image_statistics()
        left_out = {"bright"} if binary else set()  # which is the ink
    else:
        functions = vector_statistics()
        left_out = {"sd", "minimum", "maximum", "zeros"} if binary else set()
        left_out |= set() if bool((values == 0).any()) else {"zeros"}
        left_out |= {"elements"} if size > _MOST_ELEMENTS else set()
        left_out |= functions.keys() - {"elements"} if size == 1 else set()
    for name, function in functions.items():
        if name in left_out:
            continue
        own = site if name == "elements" else name if alone else f"{site}.{name}"
        yield _Measure(own, partial(_squeezed, function) if size == 1 else function, (site,))


def _squeezed(function: Statistic, x: Tensor) -> Tensor:
    """Of a site of one element the statistic has its name without an index."""
    return function(x).reshape(len(x))


_FEW_DATA: Final = 10
_FEW_DRAWS: Final = 5


def _compared(
    observed: _Observed,
    measures: Sequence[_Measure],
    rounds: _Rounds,
    over_data: tuple[str | float, ...],
    held_out: bool,
    *,
    progress: bool,
) -> PredictiveCheck:
    seen: dict[str, list[Tensor]] = {}
    made: dict[str, list[Tensor]] = {}
    shown_draws: list[dict[str, Tensor]] = []
    for measure in measures:
        if not measure.of_latents:
            seen |= {name: [each] for name, each in _by_set(measure, observed, observed.sites, {}, 1).items()}
    for number in patiently(rounds.sizes, "replicated data", progress=progress):
        z, drawn = _drawable(rounds, number)
        replicated = observed.completed(drawn, number)
        for measure in measures:
            for name, each in _by_set(measure, observed, replicated, z, number).items():
                made.setdefault(name, []).append(each)
            if measure.of_latents:
                for name, each in _by_set(measure, observed, observed.repeated(number), z, number).items():
                    seen.setdefault(name, []).append(each)
        if len(shown_draws) < _FEW_DRAWS:
            sets = {name: each.unflatten(0, (number, -1))[:, :_FEW_DATA] for name, each in replicated.items()}
            shown_draws += [{name: each[s] for name, each in sets.items()} for s in range(number)]
    if twice := [name for name, each in made.items() if sum(map(len, each)) > sum(rounds.sizes)]:
        raise ValueError(f"Expected one statistic of each name but got two of the names {twice}")
    few = shown_draws[:_FEW_DRAWS]
    return PredictiveCheck(
        kind=rounds.kind,
        held_out=held_out,
        over_data=over_data,
        observed={name: torch.cat(seen[name]) for name in made},
        replicated={name: torch.cat(each) for name, each in made.items()},
        examples={name: each[:_FEW_DATA].cpu() for name, each in observed.sites.items()},
        replicates={name: torch.stack([each[name] for each in few]).cpu() for name in observed.sites},
    )


def _drawable(rounds: _Rounds, number: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    try:
        return rounds.draw(number)
    except NotImplementedError as error:
        if str(error):
            raise
        raise NotImplementedError(
            f"Expected observed sites, {rounds.pair.observed_names}, that can be drawn but the distribution "
            "of one has no method sample"
        ) from error


def _by_set(
    measure: _Measure,
    observed: _Observed,
    x: Mapping[str, Tensor],
    z: Mapping[str, Tensor],
    number: int,
) -> dict[str, Tensor]:
    """Numbers (number, data) by name, nan for data of which nothing is there."""
    absent = observed.absent(measure.sites)
    if bool(absent.all()):
        raise ValueError(
            f"Expected data for the statistic {measure.name!r} but a mask leaves all of them out"
        )
    found = measure(x, z)
    return {
        name: each.unflatten(0, (number, -1)).masked_fill(absent, torch.nan) for name, each in found.items()
    }
