"""Models compared by the evidence of held-out data, datum by datum."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeAlias, final

import numpy as np
import pandas as pd
from scipy.special import logsumexp

from pyro_infomax._checks import shown, whole_number
from pyro_infomax._data import Data, Tensors, as_data
from pyro_infomax._from_weights import WeightedDraws, fingerprint_of
from pyro_infomax._native import elpd_data
from pyro_infomax._types import Array, Program
from pyro_infomax._weights import FEWEST_FOR_PARETO_K
from pyro_infomax.diagnostics._decompose import Decomposition, decompose
from pyro_infomax.diagnostics._evidence import Evidence, evidence

# ---- What a comparison says.

Found: TypeAlias = Evidence | WeightedDraws
Compared: TypeAlias = tuple[Program, Program] | Found

_RESOLVED: Final = 2.0  # standard errors of a difference
_TERMS: Final = ("rate", "distortion", "mutual_information")


@final
@dataclass(frozen=True, eq=False)
class Comparison:
    """Models in the order of their held-out evidence.

    Attributes:
        evidence: names to the bounds on log p(x), datum by datum.
        accounts: names to the accounts on the same data; None for what came as evidence.
    """

    evidence: dict[str, Found]
    accounts: dict[str, Decomposition | None]

    @property
    def elpd(self) -> dict[str, Any]:
        """Names to the installed ArviZ's ``ELPDData``, for ``arviz.compare`` and its plots.

        What ArviZ prints as ``elpd_loo`` is the held-out evidence.
        """
        return {
            name: elpd_data(
                self._per_datum(name),
                np.asarray(each.pareto_k),
                num_samples=each.num_samples,
                good_k=each.threshold,
            )
            for name, each in self.evidence.items()
        }

    @cached_property
    def ranking(self) -> list[str]:
        """The names, best first."""
        return sorted(self.evidence, key=lambda name: -float(self._per_datum(name).sum()))

    def differences(self) -> pd.DataFrame:
        """How much more evidence the best has than each, datum by datum, in nats: a column a model."""
        each = {name: self._lacks(name) for name in self.ranking}
        return pd.DataFrame(each).rename_axis("datum")

    def _lacks(self, name: str) -> Array:
        best, other = self._per_datum(self.ranking[0]), self._per_datum(name)
        # what neither can have made is no difference
        with np.errstate(invalid="ignore"):
            return np.where(best == other, 0.0, best - other)

    def _per_datum(self, name: str) -> Array:
        return np.asarray(self.evidence[name].per_datum)

    @cached_property
    def _rows(self) -> dict[str, dict[str, Any]]:
        weights = _stacking_weights(np.stack([self._per_datum(name) for name in self.ranking], 1))
        return {name: self._row(rank, name, float(weights[rank])) for rank, name in enumerate(self.ranking)}

    def _row(self, rank: int, name: str, weight: float) -> dict[str, Any]:
        found, account = self.evidence[name], self.accounts[name]
        values, lacks, share = self._per_datum(name), self._lacks(name), _heavy_share(found)
        return {
            "rank": rank,
            "elpd": float(values.sum()),
            "p": math.nan,
            "elpd_diff": float(lacks.sum()),
            "weight": weight,
            "se": _error_of_sum(values),
            "dse": _error_of_sum(lacks),
            "warning": share != 0,
            "evidence": float(values.mean()),
            "pareto_k_share": share,
            **{term: _value(account, term) for term in _TERMS},
        }

    def to_frame(self) -> pd.DataFrame:
        """A row a model, best first, with the columns of ``arviz.compare`` and some of our own.

        In nats, summed over the data: ``elpd``, the held-out evidence, with its error ``se``; ``elpd_diff``,
        what it lacks of the best, with the error ``dse`` of the paired difference. ``p`` is nan, since no
        number of parameters is estimated. ``weight`` is that of stacking. ``warning`` says whether some
        Pareto k is too large or unknown, ``pareto_k_share`` for which share of the data; the evidence of
        these is a loose bound. In nats per datum: ``evidence``, ``rate``, ``distortion`` and
        ``mutual_information`` on the same data.
        """
        return pd.DataFrame.from_dict(self._rows, orient="index").rename_axis("model")

    def __str__(self) -> str:
        columns = ["evidence", "elpd_diff", "dse", "weight", "pareto_k_share", *_TERMS]
        shown = self.to_frame()[columns].rename(columns={"elpd_diff": "lacks", "dse": "s.e."})
        table = shown.to_string(float_format=lambda value: f"{value:z.3f}", na_rep="")
        return "\n".join([table, "", *self._notes()])

    def _notes(self) -> Iterator[str]:
        best, *others = self.ranking
        rows = self._rows
        size = len(self._per_datum(best))
        yield f"held-out evidence of {size} data in nats per datum; lacks and its s.e. are sums over the data"
        alike = [name for name in others if rows[name]["elpd_diff"] <= _RESOLVED * rows[name]["dse"]]
        if alike:
            yield f"not told apart from {best} by two standard errors: {', '.join(alike)}"
        loose = [name for name in self.ranking if rows[name]["pareto_k_share"] > 0]
        if loose:
            yield (
                f"Pareto k too large or unknown for some data of {', '.join(loose)}: their evidence is "
                "bounded from below, loosely; draw more, take a better guide, or anneal"
            )
        if unknown := [name for name in self.ranking if math.isnan(rows[name]["pareto_k_share"])]:
            fewest = FEWEST_FOR_PARETO_K
            yield f"Pareto k of {', '.join(unknown)} is not known: it takes at least {fewest} draws"
        yield from self._cautions(size)

    def _cautions(self, size: int) -> Iterator[str]:
        numbers = {name: self.evidence[name].num_samples for name in self.ranking}
        if len(set(numbers.values())) > 1:
            each = ", ".join(f"{name} {number}" for name, number in numbers.items())
            yield f"the bounds are of different numbers of draws, and rise with them: {each}"
        for name in self.ranking:
            if impossible := int(np.isneginf(self._per_datum(name)).sum()):
                yield f"{name} gives no density to {impossible} of {size} data"
            if factors := getattr(self.evidence[name], "observed", {}).get("factors"):
                sites = f"{factors} factor{'s' * (factors > 1)}"
                yield (
                    f"{name} has {sites}: it is comparable only if its density of the data, with these, "
                    "integrates to one"
                )
            if given := sorted(getattr(self.evidence[name], "global_values", ())):
                yield f"{name} is compared given its global latents {', '.join(given)}, at one value of each"
        known = {name: each for name, each in self.accounts.items() if each is not None}
        if saturated := [name for name in self.ranking if name in known and known[name].saturated]:
            yield (
                f"mutual_information of {', '.join(saturated)} is near ln N = {math.log(size):.2f}, the most "
                "that so many data can have"
            )
        for name in self.ranking:
            for term in _TERMS:
                if name in known and (reason := known[name].unavailable.get(term)):
                    yield f"no {term} of {name}: {reason}"


def _heavy_share(found: Found) -> float:
    """The share of the data whose Pareto k is too large or unknown; nan where there are too few draws."""
    k = np.asarray(found.pareto_k)
    return math.nan if found.num_samples < FEWEST_FOR_PARETO_K else float((~(k <= found.threshold)).mean())


def _error_of_sum(values: Array) -> float:
    # a datum of no density leaves no error that is finite
    return math.sqrt(len(values) * float(values.var())) if np.isfinite(values).all() else math.nan


def _value(account: Decomposition | None, term: str) -> float:
    found = None if account is None else getattr(account, term)
    return math.nan if found is None else float(found)


_ITERATIONS: Final = 5000
_GAP: Final = 1e-6  # nats per datum below the best mixture


def _stacking_weights(log_densities: Array) -> Array:
    """The weights of the mixture of models that gives the data most density, (models,), of (data, models).

    Expectation maximisation, which stays within the simplex and in the logarithm: densities of images are far
    below the smallest number. It ends where no mixture can do better by more than 1e-6 nats per datum; nan
    where it does not come there. Data that no model can have made say nothing.

    Reference: Yao, Vehtari, Simpson and Gelman (2018), Using stacking to average Bayesian predictive
    distributions.
    """
    possible = log_densities[np.isfinite(log_densities).any(1)]
    number = log_densities.shape[1]
    weights = np.full(number, 1 / number)
    for _ in range(_ITERATIONS if len(possible) else 0):
        mixture = logsumexp(possible, axis=1, b=weights, keepdims=True)
        gains = np.exp(possible - mixture).mean(0)  # the derivatives by the weights, 1 on average
        if gains.max() - 1 < _GAP:
            return weights
        weights = weights * gains
    return np.full(number, math.nan)


# ---- Comparing.


def compare(
    models: Mapping[str, Compared],
    data: Data,
    *,
    num_samples: int = 1000,
    batch_size: int = 1024,
    seed: int | None = None,
    data_plate: str | None = None,
    global_values: Mapping[str, Mapping[str, Any]] | None = None,
    progress: bool = True,
) -> Comparison:
    r"""Compares pairs by the evidence of held-out data, :math:`\log p(x_n)`, with paired differences.

    Leaving a datum out leaves its local latent the prior, so that the log predictive density of a held-out
    datum is its evidence, which importance weights bound: :math:`\log \frac1S \sum_s p(x_n, z_s) /
    q(z_s \mid x_n)`. Leave-one-out estimates from the draws of a posterior of local latents are something
    else, and rank guides that are too narrow first.

    Two guides of one model have the same evidence; what is compared then is how tight their bounds are.
    Global latents are held at one value, the guide's medians where none are passed, and the evidence is given
    these.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders.
        Vehtari, Gelman and Gabry (2017), Practical Bayesian model evaluation using leave-one-out
        cross-validation and WAIC.

    Args:
        models: at least two names to pairs (model, guide), or to evidence of these data from
            :func:`~pyro_infomax.diagnostics.evidence` (annealed, say) or
            :func:`~pyro_infomax.from_weights`.
        data: data that none of them was trained on, the same for all.
        num_samples: S, draws of z for each datum, at least 2; 21 for a Pareto k.
        batch_size, seed, data_plate: as for :func:`~pyro_infomax.diagnostics.decompose`; each model has the
            same seed.
        global_values: names of models to values of their latents outside the data plate.
        progress: show a bar where this takes more than a few seconds.

    Returns:
        The ranking, with errors, shares of large Pareto k, rate, distortion and information.

    Raises:
        ValueError: for fewer than two models, evidence of other data, models that score other values of the
            data (a density beside a probability, or fewer sites), and the errors of
            :func:`~pyro_infomax.diagnostics.decompose`, with the model's name.
        NotImplementedError: for programs of which there is no evidence, with the model's name.

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> pairs = {f"{k} latents": LinearGaussian.optimum([4.0, 2.0, 1.0], 1.0, k, 0.2) for k in (1, 2)}
        >>> x = pairs["2 latents"].sample(200, seed=0)
        >>> models = {name: (each.model, each.guide) for name, each in pairs.items()}
        >>> found = compare(models, x, num_samples=50, seed=0)
        >>> found.ranking
        ['2 latents', '1 latents']
    """
    whole_number("num_samples", num_samples, at_least=2)
    if len(models) < 2:
        raise ValueError(f"Expected at least two models to compare but got {shown(list(models))}")
    if wrong := [name for name in models if not isinstance(name, str)]:
        raise ValueError(f"Expected names of models that are strings but got {shown(wrong)}")
    x = as_data(data)
    if len(x[0]) < 2:
        raise ValueError("Expected at least two data, for an error of the difference, but got one")
    given = global_values or {}
    pairs = [name for name, each in models.items() if not isinstance(each, Found)]
    if unknown := sorted(given.keys() - set(pairs)):
        raise ValueError(f"Expected global_values of the pairs {pairs} but got some of {unknown}")
    bounds, accounts = {}, {}
    for name, each in models.items():
        options = {"batch_size": batch_size, "seed": seed, "data_plate": data_plate, "progress": progress}
        try:
            bounds[name], accounts[name] = _of_model(
                each, x, num_samples, options | {"global_values": given.get(name)}
            )
        except (ValueError, NotImplementedError) as error:
            # an error of the same kind, whose own class may take other arguments
            kind = NotImplementedError if isinstance(error, NotImplementedError) else ValueError
            raise kind(f"{str(error).rstrip('.')} (of the model {name!r})") from error
    _check_scores(bounds)
    return Comparison(bounds, accounts)


def _check_scores(bounds: Mapping[str, Found]) -> None:
    """Refuses a density beside a probability, and likelihoods of different parts of the data."""
    known = {name: each.observed for name, each in bounds.items() if isinstance(each, Evidence)}
    if len({(each["continuous"], each["discrete"]) for each in known.values()}) > 1:
        each = "; ".join(
            f"{name!r} {found['continuous']} continuous and {found['discrete']} discrete"
            for name, found in known.items()
        )
        raise ValueError(
            "Expected models whose likelihoods score the same values of the data, since other densities have "
            f"other units, but they score {each}; compare models of one kind of likelihood, observed sites "
            "and masks"
        )


def _of_model(
    compared: Compared, x: Tensors, num_samples: int, options: Mapping[str, Any]
) -> tuple[Found, Decomposition | None]:
    if isinstance(compared, Found):
        if len(compared.per_datum) != len(x[0]):
            raise ValueError(
                f"Expected evidence of the same {len(x[0])} data but got that of {len(compared.per_datum)}"
            )
        if compared.fingerprint and compared.fingerprint != fingerprint_of(x):
            raise ValueError(
                f"Expected evidence of these {len(x[0])} data but got that of others, or of these in another "
                "order; make it of the data that are passed"
            )
        return compared, None
    if not isinstance(compared, tuple) or len(compared) != 2:
        raise ValueError(f"Expected a pair (model, guide) or evidence but got {type(compared).__name__}")
    model, guide = compared
    found = evidence(model, guide, x, num_samples=num_samples, **options)
    return found, decompose(model, guide, x, **options)
