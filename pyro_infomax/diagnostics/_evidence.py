"""The log-evidence of data by importance sampling from their guide."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, final

import pandas as pd
import torch
from pyro.ops.stats import fit_generalized_pareto

from pyro_infomax._data import Data, Tensors
from pyro_infomax._progress import patiently
from pyro_infomax._random import seeded_draws
from pyro_infomax._types import Program
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
    length = tail_length(weights.num_samples)
    if length < _FEWEST_IN_TAIL:
        return torch.full([weights.data_size], math.nan, dtype=torch.float64)
    tails = weights.largest[: length + 1] - weights.largest[0]  # (tail and its cutoff, data)
    return torch.tensor([_fit(tail) for tail in tails.T], dtype=torch.float64)


def _fit(tail: torch.Tensor) -> float:
    """k of one datum's largest log-weights, less the largest, in descending order; the last is the cutoff."""
    if -float(tail[-1]) < _CONSTANT:
        return -math.inf
    cutoff = tail[-1].clamp(min=_LOWEST)
    excess = tail[tail > cutoff].exp() - cutoff.exp()
    if len(excess) < _FEWEST_IN_TAIL:
        return math.inf
    if float(excess.max() - excess.min()) <= _CONSTANT * float(excess.max()):
        return -math.inf  # weights of a few values only, as those of discrete latents, end there
    k, _ = fit_generalized_pareto(excess)
    return k if math.isfinite(k) else math.inf


# ---- evidence

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
        for chunk in patiently(_chunks(pair, num_samples), "importance weights", progress=progress):
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


def _chunks(pair: Pair, num_samples: int) -> list[int]:
    """How many draws of every datum to make at a time."""
    most = max(1, min(_LATENTS_AT_ONCE // (pair.data_size * pair.space.size), num_samples // _CHUNKS))
    return [min(most, num_samples - start) for start in range(0, num_samples, most)]
