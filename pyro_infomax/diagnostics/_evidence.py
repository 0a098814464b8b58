"""What importance weights from the guide tell: the log-evidence of data, and draws of their posteriors."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, final

import numpy as np
import pandas as pd
import torch
import xarray as xr
from pyro.ops.stats import fit_generalized_pareto

from pyro_infomax._checks import whole_number
from pyro_infomax._data import Data, Tensors
from pyro_infomax._native import DATUM, OF_DATA, Labels, as_integers, to_native
from pyro_infomax._progress import patiently
from pyro_infomax._random import isolated_random_state, seeded_draws
from pyro_infomax._types import Array, Program
from pyro_infomax._version import creation_attributes
from pyro_infomax.diagnostics._account_table import lines_of
from pyro_infomax.diagnostics._decompose import evidence_of
from pyro_infomax.diagnostics._pair import Pair
from pyro_infomax.information import Estimate, ImportanceWeights, tail_length
from pyro_infomax.nn import evaluation_mode

# ---- How heavy the tail of importance weights is.

_FEWEST_IN_TAIL: Final = 5
_CONSTANT: Final = 1e-9  # nats, above rounding of the log-densities
_LOWEST: Final = math.log(torch.finfo(torch.float64).tiny)


def pareto_k(weights: ImportanceWeights) -> torch.Tensor:
    r"""Pareto's :math:`\hat k` of the weights of each datum, (data,), float64.

    The largest :math:`\min(S / 5, 3 \sqrt S)` weights of a datum are fitted by a generalised Pareto
    distribution. Weights with :math:`k < 1/2` have a variance; above 0.7 their mean, and the bound with it,
    needs more samples than anyone draws. It is minus infinity where the largest weights are all the same, as
    those of a perfect proposal are; nan below 21 samples, which are too few for a fit; infinity where fewer
    than five weights of the tail are above zero and above the rest.

    Reference: Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling.
    """
    return tail_fits(weights)[0]


def tail_fits(weights: ImportanceWeights) -> tuple[torch.Tensor, torch.Tensor]:
    """Shape k and scale of the tail of each datum's weights, (data,) each; see :func:`pareto_k`.

    The scale is that of weights over the largest of their datum, and nan where k is not finite.
    """
    length = tail_length(weights.num_samples)
    if length < _FEWEST_IN_TAIL:
        unknown = torch.full([weights.data_size], math.nan, dtype=torch.float64)
        return unknown, unknown
    tails = weights.largest[: length + 1] - weights.largest[0]  # (tail and its cutoff, data)
    k, scale = torch.tensor([_fit(tail) for tail in tails.T], dtype=torch.float64).T
    return k, scale


def _fit(tail: torch.Tensor) -> tuple[float, float]:
    """Of one datum's largest log-weights, less the largest, in descending order; the last is the cutoff."""
    if -float(tail[-1]) < _CONSTANT:
        return -math.inf, math.nan
    cutoff = tail[-1].clamp(min=_LOWEST)
    excess = tail[tail > cutoff].exp() - cutoff.exp()
    if len(excess) < _FEWEST_IN_TAIL:
        return math.inf, math.nan
    if float(excess.max() - excess.min()) <= _CONSTANT * float(excess.max()):
        return -math.inf, math.nan  # weights of a few values only, as those of discrete latents, end there
    k, scale = fit_generalized_pareto(excess)
    return (k, scale) if math.isfinite(k) else (math.inf, math.nan)


def good_pareto_k(num_samples: int) -> float:
    r"""The largest Pareto k at which so many importance weights can be trusted.

    :math:`\min(1 - 1 / \log_{10} S, 0.7)`; minus infinity below 2 samples.

    Reference: Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling.

    Args:
        num_samples: S.
    """
    return min(1 - 1 / math.log10(num_samples), 0.7) if num_samples > 1 else -math.inf


# ---- The bound on the evidence.

_LATENTS_AT_ONCE: Final = 2**20
_CHUNKS: Final = 20  # at least, which a progress bar counts
_HEAVY: Final = 0.7


@final
@dataclass(frozen=True, eq=False)
class ImportanceWeightedEvidence:
    """A lower bound on the log-evidence of data, and how far each datum's weights can be trusted.

    Attributes:
        estimate: the mean over the data, a lower bound, in nats per datum.
        per_datum: the bound of each datum, (data,), in nats.
        standard_error: of each datum's bound, (data,), by the jackknife over its weights.
        pareto_k: of each datum's weights, (data,): above 0.7 its bound may be far below its log-evidence, and
            further than its error says. Minus infinity for constant weights, those of an exact posterior; nan
            below 21 samples.
        effective_sample_size: of each datum's weights, (data,), from 1 to ``num_samples``.
        num_samples: draws of z for each datum.
        fingerprint: what tells the data from others, by which :func:`~pyro_infomax.diagnostics.compare` knows
            them.
    """

    estimate: Estimate
    per_datum: torch.Tensor
    standard_error: torch.Tensor
    pareto_k: torch.Tensor
    effective_sample_size: torch.Tensor
    num_samples: int
    fingerprint: str = ""

    @property
    def num_heavy(self) -> int:
        """How many data have a Pareto k above 0.7."""
        return int((self.pareto_k > _HEAVY).sum())

    def to_frame(self) -> pd.DataFrame:
        """A row a datum: the bound, its standard error, Pareto k and effective sample size."""
        columns = {
            "log_evidence": self.per_datum,
            "standard_error": self.standard_error,
            "pareto_k": self.pareto_k,
            "effective_sample_size": self.effective_sample_size,
        }
        return pd.DataFrame({name: each.numpy() for name, each in columns.items()}).rename_axis("datum")

    def __str__(self) -> str:
        return "\n".join([*lines_of({"": {"log_evidence": self.estimate}}), *self._notes()])

    def _notes(self) -> Iterator[str]:
        size = len(self.pareto_k)
        yield f"{size} data, {self.num_samples} draws of z each"
        if bool(self.pareto_k.isnan().all()):
            yield "Pareto k is not known: it takes at least 21 draws"
            return
        most = float(self.pareto_k.max())
        yield f"Pareto k above {_HEAVY} for {self.num_heavy} of {size}, at most {most:.2f}"
        if self.num_heavy:
            yield "there the bound is loose and its error too small: draw more, or anneal"


def importance_weighted_evidence(
    model: Program,
    guide: Program,
    data: Data,
    *,
    num_samples: int = 1000,
    batch_size: int = 1024,
    seed: int | None = None,
    data_plate: str | None = None,
    global_values: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> ImportanceWeightedEvidence:
    r"""The importance-weighted bound on the log-evidence of data, with a Pareto k for each datum.

    .. math:: \log \frac1S \sum_s \frac{p(x, z_s)}{q(z_s \mid x)}, \qquad z_s \sim q(z \mid x)

    It lies between ELBO and log-evidence in expectation, rises with S, and is exact for the exact posterior.
    The draws are made and scored some at a time, so that memory does not grow with S but for the largest
    weights of each datum, some :math:`3 \sqrt S`. Modules run in evaluation mode and without gradients, and
    are put back.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders.
        Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling.

    Args:
        model, guide, data, seed, data_plate, global_values: as for
            :func:`~pyro_infomax.diagnostics.decompose`; the evidence is given the global latents.
        num_samples: S, draws of z for each datum, at least 2.
        batch_size: the most rows, draws times data, that a program is run on at once, where it follows the
            length of its arguments.
        progress: show a bar where this takes more than a few seconds.

    Raises:
        ValueError: for fewer than two samples, data with nan, a guide that lacks a site of the model, no data
            plate or several.
        NotImplementedError: for global latents of the model that the guide has not, and for latents that only
            one of the two masks.

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> oracle = LinearGaussian.optimum([4.0, 2.0], beta=1.0, latent_dim=2, s2=0.5)
        >>> x = oracle.sample(200, exact=True, seed=0)
        >>> evidence = importance_weighted_evidence(oracle.model, oracle.guide, x, num_samples=50, seed=0)
        >>> bool((evidence.estimate.value - oracle.log_evidence).abs() < 1e-10)
        True
        >>> evidence.num_heavy
        0
    """
    with evaluation_mode(model, guide), torch.no_grad(), seeded_draws(seed):
        pair = Pair(
            model, guide, data, data_plate=data_plate, batch_size=batch_size, global_values=global_values
        )
        weights = ImportanceWeights(num_samples, pair.data_size)
        for chunk in patiently(rounds_of_draws(pair, num_samples), "importance weights", progress=progress):
            weights.add(pair.score(pair.draw(chunk)).log_weight)
    return ImportanceWeightedEvidence(
        estimate=replace(weights.estimate, target=evidence_of(pair)),
        per_datum=weights.log_mean,
        standard_error=weights.variance.sqrt(),
        pareto_k=pareto_k(weights),
        effective_sample_size=weights.effective_sample_size,
        num_samples=num_samples,
        fingerprint=fingerprint_of(pair.data),
    )


def fingerprint_of(data: Tensors) -> str:
    """A digest of shapes, types and values."""
    digest = hashlib.blake2b(digest_size=16)
    for each in data:
        digest.update(f"{tuple(each.shape)} {each.dtype}".encode())
        digest.update(each.detach().contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def rounds_of_draws(pair: Pair, num_samples: int) -> list[int]:
    """How many draws of every datum to make at a time."""
    most = max(1, min(_LATENTS_AT_ONCE // (pair.data_size * pair.space.size), num_samples // _CHUNKS))
    return [min(most, num_samples - start) for start in range(0, num_samples, most)]


# ---- What resampling finds.

_FEWEST_PROPOSALS: Final = 21  # for a Pareto k
_SHOWN: Final = 10


@final
@dataclass(frozen=True, eq=False)
class ResampledPosterior:
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

    @property
    def threshold(self) -> float:
        """The largest Pareto k that can be trusted, :func:`~pyro_infomax.diagnostics.good_pareto_k`."""
        return good_pareto_k(self.num_samples)

    @cached_property
    def unreliable(self) -> torch.Tensor:
        """The numbers of the data whose Pareto k is above the threshold or nan: do not use their draws."""
        return (~(self.pareto_k <= self.threshold)).nonzero().squeeze(-1)

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
        number, size = len(next(iter(self.draws.values()))), len(self.pareto_k)
        labels = Labels({"chain": 1, "draw": number, DATUM: size}, coords=coords, dims=dims)
        groups = {
            "posterior": labels.dataset({name: self._array(name)[None] for name in self.draws}, OF_DATA),
            "importance": labels.dataset(
                {str(name): np.asarray(column) for name, column in self.to_frame().items()}, [DATUM]
            ),
        }
        labels.check_used()
        threshold = {"num_samples": self.num_samples, "pareto_k_threshold": self.threshold}
        groups["importance"] = groups["importance"].assign_attrs(threshold)
        return to_native({name: _with_source(group) for name, group in groups.items()})

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


def listed_rows(rows: torch.Tensor) -> str:
    """The numbers of the first data of some."""
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return ", ".join(map(str, rows[:_SHOWN].tolist())) + more


def _with_source(group: xr.Dataset) -> xr.Dataset:
    return group.assign_attrs(creation_attributes())


# ---- Importance weights, smoothed and resampled.


def smoothed_weights(log_weights: torch.Tensor, k: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    r"""Weights that sum to one for each datum, the largest of them smoothed.

    The M largest weights of a datum, :math:`M = \min(S / 5, 3 \sqrt S)`, become the quantiles at
    :math:`(j - 1/2) / M` of the generalised Pareto distribution that was fitted to them, at most the largest
    of the raw weights. Where k is not finite they stay as they are.

    Reference: Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling.

    Args:
        log_weights: (samples, data), in nats.
        k, scale: of the tail of each datum, (data,), the scale over the largest weight.

    Returns:
        (samples, data).
    """
    relative = log_weights - log_weights.max(0).values
    top, index = relative.topk(min(len(relative), tail_length(len(relative)) + 1), dim=0)
    cutoff = top[-1].clamp(min=_LOWEST)
    # ties at the cutoff are no part of the tail
    in_tail = (top > cutoff) & k.isfinite()
    count = (top > cutoff).sum(0)  # (data,)
    rank = torch.arange(len(top), dtype=torch.float64)[:, None]
    below = ((count - rank - 0.5) / count.clamp(min=1)).clamp(0, 1)
    shape = torch.where(k.isfinite(), k, torch.ones_like(k))
    # (1 - p)^-k - 1 over k, which is -log(1 - p) at k = 0
    steps = -torch.log1p(-below.clamp(max=1 - torch.finfo(torch.float64).eps))
    small = shape.abs() < _ZERO
    quantile = torch.where(small, steps, torch.expm1(shape * steps) / torch.where(small, 1.0, shape))
    smooth = (cutoff.exp() + scale * quantile).log().clamp(max=0)
    relative = relative.scatter(0, index, torch.where(in_tail, smooth, top))
    return relative.softmax(0)


_ZERO: Final = 1e-12


def systematic_indices(weights: torch.Tensor, number: int) -> torch.Tensor:
    r"""Proposals chosen with the probabilities of their weights, in random order for each datum.

    One uniform number a datum places a comb of so many teeth over the cumulated weights: a proposal of weight
    w is taken :math:`\lfloor D w \rfloor` or :math:`\lceil D w \rceil` times, :math:`D w` times on average.

    Reference: Kitagawa (1996), Monte Carlo filter and smoother for non-Gaussian nonlinear state space models.

    Args:
        weights: (samples, data), each column sums to one.
        number: D.

    Returns:
        (D, data), rows of the weights.
    """
    size = weights.shape[1]
    teeth = (torch.arange(number, dtype=torch.float64) + torch.rand(size, 1, dtype=torch.float64)) / number
    edges = weights.T.cumsum(1).contiguous()
    edges = edges / edges[:, -1:]
    found = torch.searchsorted(edges, teeth.contiguous(), right=True)  # (data, D)
    found = found.clamp(max=len(weights) - 1)
    order = torch.rand(size, number).argsort(1)
    return found.gather(1, order).T


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
    whole_number("num_samples", num_samples, at_least=_FEWEST_PROPOSALS)
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
        weights = smoothed_weights(log_weights, k, scale)
        index = systematic_indices(weights, number)
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
    first: torch.Tensor | None = None
    alike = _any_present(pair)
    for z in patiently(proposals, "importance weights", progress=progress, total=len(proposals)):
        first = z[:1] if first is None else first
        alike &= (z == first).all(-1).all(0).cpu()
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
    k, scale = tail_fits(weights)
    return log_weights, k.masked_fill(alike, math.nan), scale


def _any_present(pair: Pair) -> torch.Tensor:
    """Whether a mask leaves a datum any latent, (data,)."""
    presence = pair.program.presence(pair.data)
    sites = [presence.get(name) for name in pair.site_names]
    everywhere = torch.ones(pair.data_size, dtype=torch.bool)
    parts = [everywhere if each is None else each.reshape(len(each), -1).any(1).cpu() for each in sites]
    return torch.stack(parts).any(0)


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
