"""Evidence, Pareto k and draws from importance weights that come from elsewhere. Without torch."""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from pyro_infomax._checks import explain_wrong_arguments, shown, whole_number
from pyro_infomax._native import CHAIN, DATUM, DRAW, OF_DATA, Labels, elpd_data, to_native
from pyro_infomax._types import Array, Floats
from pyro_infomax._weights import (
    FEWEST_FOR_PARETO_K,
    good_pareto_k,
    smoothed_weights,
    systematic_indices,
    tail_fits,
    tail_length,
)

__all__ = ["WeightedDraws", "from_weights"]

_SHOWN: Final = 10
_IN_UNRELIABLE: Final = " (.unreliable)"


@final
@dataclass(frozen=True, eq=False)
class WeightedDraws:
    """What the importance weights of draws say about each datum, and the draws that they take.

    Attributes:
        log_weight: (samples, data), in nats.
        per_datum: the lower bound on the log-evidence of each datum, (data,), in nats.
        standard_error: of each bound, (data,), by the jackknife.
        pareto_k: of each datum's weights, (data,); minus infinity for constant weights; nan below 21, and
            where all weights and all draws are one value, which tell nothing of other values.
        effective_sample_size: of each datum's weights, (data,), from 1 to ``num_samples``.
        draws: names of sites to (samples, data, *event); empty where none were given.
        fingerprint: what tells the data from others; empty where none were given.
    """

    log_weight: Floats
    per_datum: Floats
    standard_error: Floats
    pareto_k: Floats
    effective_sample_size: Floats
    draws: Mapping[str, Array]
    fingerprint: str
    _scale: Floats = field(repr=False)

    @property
    def num_samples(self) -> int:
        """Weights of each datum."""
        return len(self.log_weight)

    @property
    def threshold(self) -> float:
        """The largest Pareto k that can be trusted, :func:`~pyro_infomax.diagnostics.good_pareto_k`."""
        return good_pareto_k(self.num_samples)

    @property
    def lower(self) -> float:
        """The mean over the data, a lower bound, in nats per datum."""
        return float(self.per_datum.mean())

    @property
    def lower_standard_error(self) -> float:
        """Its error for the data at hand, of which only the draws are random."""
        return float(np.sqrt(np.square(self.standard_error).sum()) / len(self.per_datum))

    @property
    def unreliable(self) -> Array:
        """The numbers of the data whose Pareto k is above the threshold or nan: do not use their draws."""
        return np.flatnonzero(~(self.pareto_k <= self.threshold))

    @property
    def elpd(self) -> Any:
        """The installed ArviZ's ``ELPDData``, for ``arviz.compare``, which prints the evidence as loo."""
        return elpd_data(self.per_datum, self.pareto_k, num_samples=self.num_samples, good_k=self.threshold)

    def to_frame(self) -> pd.DataFrame:
        """A row a datum: the bound, its standard error, Pareto k and effective sample size."""
        columns = {
            "lower": self.per_datum,
            "standard_error": self.standard_error,
            "pareto_k": self.pareto_k,
            "effective_sample_size": self.effective_sample_size,
        }
        return pd.DataFrame(columns).rename_axis("datum")

    def resample(self, num_draws: int = 100, *, seed: int | None = None) -> dict[str, Array]:
        """Draws of the posterior of each datum, (num_draws, data, *event), taken by smoothed weights.

        Those of the data in :attr:`unreliable` are not to be used.

        Args:
            num_draws: for each datum; well below ``num_samples``, so that copies are few.
            seed: of NumPy's generator; None for another result each time.

        Raises:
            ValueError: where no draws were given, or all weights of a datum are zero.
        """
        number = whole_number("num_draws", num_draws, at_least=1)
        start = None if seed is None else whole_number("seed", seed, at_least=0)
        if not self.draws:
            raise ValueError("Expected draws to resample but only weights were given; pass draws={'z': z}")
        lost = np.flatnonzero(self.log_weight.max(0) == -np.inf)
        if len(lost):
            raise ValueError(
                f"Expected weights above zero but for {len(lost)} of {len(self.per_datum)} data all are "
                f"zero, the first in row {lost[0]}; leave these data out"
            )
        weights = smoothed_weights(self.log_weight, self.pareto_k, self._scale)
        index = systematic_indices(weights, number, np.random.default_rng(start))  # (draws, data)
        rows = np.arange(index.shape[1])
        return {name: each[index, rows] for name, each in self.draws.items()}

    def to_arviz(
        self,
        num_draws: int = 100,
        *,
        seed: int | None = None,
        coords: Mapping[str, Sequence[object]] | None = None,
        dims: Mapping[str, Sequence[str]] | None = None,
    ) -> Any:
        """Resampled draws as the installed ArviZ's native type.

        Groups: ``posterior``, and ``importance`` with the columns of :meth:`to_frame` along ``datum``.

        Args:
            num_draws, seed: see :meth:`resample`.
            coords: names of dimensions to their labels; ``datum`` is the data's.
            dims: site names to the names of their event dimensions.

        Raises:
            ValueError: where no draws were given, and for labels and names that do not fit.
        """
        drawn = self.resample(num_draws, seed=seed)
        groups = groups_of_draws(drawn, self.to_frame(), self.num_samples, coords=coords, dims=dims)
        return to_native(groups)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        size = len(self.per_datum)
        yield f"log-evidence at least {self.lower:.4f} ± {self.lower_standard_error:.4f} nats per datum"
        yield f"{size} data, {self.num_samples} weights each"
        if self.num_samples < FEWEST_FOR_PARETO_K:
            yield f"Pareto k is not known: it takes at least {FEWEST_FOR_PARETO_K} weights"
            return
        unknown = np.flatnonzero(np.isnan(self.pareto_k))
        if len(unknown):
            rows = listed_rows(unknown, where=_IN_UNRELIABLE)
            yield f"Pareto k is not known where all draws are one value: data {rows}"
        if len(unknown) == size:
            return
        bad = np.flatnonzero(self.pareto_k > self.threshold)
        most = float(np.nanmax(self.pareto_k))
        yield f"Pareto k above {self.threshold:.2f} for {len(bad)} of {size}, at most {most:.2f}"
        if len(bad):
            yield (
                "there the bound is loose and its error too small; draw more, or from wider proposals: "
                f"{listed_rows(bad, where=_IN_UNRELIABLE)}"
            )


def listed_rows(rows: npt.ArrayLike, *, where: str = "") -> str:
    """The numbers of the first data of some, how many more there are, and where."""
    numbers = np.asarray(rows).tolist()
    more = f" and {len(numbers) - _SHOWN} more{where}" if len(numbers) > _SHOWN else ""
    return ", ".join(map(str, numbers[:_SHOWN])) + more


def from_weights(
    log_weight: Any, *, draws: Mapping[str, Any] | None = None, data: Any = None
) -> WeightedDraws:
    r"""Evidence, Pareto k and posterior draws from importance weights of any origin.

    For draws :math:`z_s \sim q(z \mid x_n)` of NumPyro, Stan or one's own code, with
    :math:`\log w_s = \log p(x_n, z_s) - \log q(z_s \mid x_n)`:

    .. math:: \log \frac1S \sum_s w_s \le \log p(x_n)

    in expectation. Errors are those of independent draws: the axis of chains is one more axis of these, and
    draws that depend on each other, as those of a Markov chain do, have larger ones. Nothing here
    needs torch or Pyro. What comes back goes to :func:`~pyro_infomax.diagnostics.compare` beside pairs of
    programs.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders.
        Efron and Stein (1981), The jackknife estimate of variance.
        Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling.

    Args:
        log_weight: log-weights, (samples, data) or (chains, samples, data), in nats; normalised densities on
            both sides, so that the mean weight is the evidence.
        draws: names of sites to the draws, with the axes of ``log_weight`` before those of the event.
        data: what the weights are of, as it is passed to ``compare``, so that this can see that the data are
            the same; a tensor, array or frame, or a tuple of them.

    Raises:
        ValueError: for other shapes, fewer than two samples, weights that are nan, masked, complex or plus
            infinity, and data of another number.

    Example:
        >>> random = np.random.default_rng(0)
        >>> x = np.array([0.5, -1.0, 2.0])
        >>> z = x / 2 + random.normal(size=(2000, 3))  # of N(x / 2, 1); the posterior is N(x / 2, 1/2)
        >>> log_q = -((z - x / 2) ** 2) / 2
        >>> log_joint = -(z**2) / 2 - (x - z) ** 2 / 2 - np.log(2 * np.pi) / 2
        >>> found = from_weights(log_joint - log_q, draws={"z": z})
        >>> log_evidence = -(x**2) / 4 - np.log(4 * np.pi) / 2
        >>> bool((abs(found.per_datum - log_evidence) < 4 * found.standard_error).all())
        True
        >>> found.resample(200, seed=0)["z"].shape, found.unreliable.tolist()
        ((200, 3), [])
    """
    weights = _numbers("log_weight", log_weight).astype(np.float64)
    if weights.ndim not in {2, 3}:
        raise ValueError(
            "Expected log_weight of shape (samples, data) or (chains, samples, data) but got "
            f"{weights.shape}; a single datum is log_weight[:, None]"
        )
    lead = weights.shape
    weights = weights.reshape(math.prod(lead[:-1]), lead[-1])
    _check_weights(weights)
    number = len(weights)
    found = {name: _draws(name, each, lead) for name, each in (draws or {}).items()}
    columns = () if data is None else _columns(data, lead[-1])
    ordered = -np.sort(-weights, axis=0)
    k, scale = tail_fits(ordered[: tail_length(number) + 1], number)
    with np.errstate(invalid="ignore"):
        relative = np.exp(ordered - ordered[0])  # nan where all are zero
    total = relative.sum(0)
    with np.errstate(divide="ignore"):
        per_datum = np.where(ordered[0] == -np.inf, -np.inf, ordered[0] + np.log(total / number))
    size = total**2 / np.square(relative).sum(0)
    if found:
        # weights of a single value of all latents say nothing of others
        k = np.where(np.isneginf(k) & _are_alike(found.values()), math.nan, k)
    return WeightedDraws(
        log_weight=weights,
        per_datum=per_datum,
        standard_error=np.sqrt(_jackknife(relative)),
        pareto_k=k,
        effective_sample_size=np.nan_to_num(size, nan=0.0),
        draws=found,
        fingerprint=fingerprint_of(columns) if columns else "",
        _scale=scale,
    )


def _check_weights(weights: Floats) -> None:
    if len(weights) < 2 or not weights.shape[1]:
        raise ValueError(
            f"Expected at least two weights of at least one datum but got {weights.shape[0]} of "
            f"{weights.shape[1]}"
        )
    wrong = (np.isnan(weights) | (weights == np.inf)).any(0)
    if wrong.any():
        raise ValueError(
            f"Expected log-weights below infinity but got nan or inf for {int(wrong.sum())} of {len(wrong)} "
            f"data, the first in row {int(wrong.argmax())}; look for nan in the data or the log-densities"
        )


def _columns(data: Any, size: int) -> tuple[Any, ...]:
    several = isinstance(data, tuple) or (
        isinstance(data, list) and all(hasattr(each, "shape") for each in data)
    )
    columns = tuple(data) if several else (data,)
    lengths = [np.shape(_on_host(each))[:1] for each in columns]
    if any(each != (size,) for each in lengths):
        raise ValueError(
            f"Expected data with a row for each of the {size} data of log_weight but got the lengths "
            f"{[*map(list, lengths)]}; the last axis of log_weight is the data"
        )
    return columns


def _numbers(name: str, values: Any) -> Array:
    """An array, without the errors that NumPy passes over in silence."""
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise ValueError(f"Expected {name} without masked values: fill them in, as by array.filled(-np.inf)")
    dims = [str(each) for each in getattr(values, "dims", ())]
    order = [each for each in (CHAIN, DRAW) if each in dims]
    if dims[: len(order)] != order:
        raise ValueError(
            f"Expected {name} whose first dimensions are {order} but got {dims}; "
            f"write .transpose({', '.join(map(repr, order))}, ...)"
        )
    found = np.asarray(_on_host(values))
    if found.dtype.kind == "c":
        raise ValueError(f"Expected {name} of real numbers but got {found.dtype}")
    return found


def _are_alike(draws: Iterable[Array]) -> Array:
    """For which data all draws are one value, (data,)."""
    parts = [(each == each[:1]).all((0, *range(2, each.ndim))) for each in draws]
    return np.logical_and.reduce(parts)


def _draws(name: str, values: Any, lead: tuple[int, ...]) -> Array:
    found = _numbers(f"draws of {shown(name)}", values)
    if found.shape[: len(lead)] != lead:
        raise ValueError(
            f"Expected draws of {shown(name)} that begin with the axes of log_weight, {lead}, but got "
            f"{found.shape}"
        )
    return found.reshape(math.prod(lead[:-1]), *found.shape[len(lead) - 1 :])


def _jackknife(relative: Floats) -> Floats:
    """The variance of each datum's bound, (data,), from weights in descending order over the largest.

    Infinite where one weight alone counts.
    """
    number = len(relative)
    others = relative.sum(0) - relative
    others[0] = relative[1:].sum(0)  # of the largest, a difference would lose all digits
    with np.errstate(divide="ignore", invalid="ignore"):
        left_out = np.log(others)
        variance = (number - 1) / number * np.square(left_out - left_out.mean(0)).sum(0)
    return np.nan_to_num(variance, nan=math.inf)


def groups_of_draws(
    draws: Mapping[str, Array],
    frame: pd.DataFrame,
    num_samples: int,
    *,
    coords: Mapping[str, Sequence[object]] | None,
    dims: Mapping[str, Sequence[str]] | None,
) -> dict[str, xr.Dataset]:
    """Draws (draws, data, *event) as ``posterior``, and what is known of each datum's weights beside them."""
    sizes = {CHAIN: 1, DRAW: len(next(iter(draws.values()))), DATUM: len(frame)}
    labels = Labels(sizes, coords=coords, dims=dims)
    posterior = labels.dataset({name: each[None] for name, each in draws.items()}, OF_DATA)
    columns = {str(name): np.asarray(column) for name, column in frame.items()}
    importance = labels.dataset(columns, [DATUM]).assign_attrs(
        num_samples=num_samples, pareto_k_threshold=good_pareto_k(num_samples)
    )
    labels.check_used()
    return {"posterior": posterior, "importance": importance}


def fingerprint_of(data: Sequence[Any]) -> str:
    """A digest of the shapes and values of arrays or tensors, the same in single and double precision."""
    digest = hashlib.blake2b(digest_size=16)
    for each in data:
        values = np.asarray(_on_host(each))
        if values.dtype == object:  # columns of several dtypes, or of pandas's own
            values = np.array(values.tolist())
        with np.errstate(over="ignore"):
            values = values.astype(
                {"f": np.float32, "i": np.int64, "u": np.int64}.get(values.dtype.kind, values.dtype)
            )
        digest.update(f"{values.shape} {values.dtype}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _on_host(values: Any) -> Any:
    """A tensor as one that NumPy takes; anything else as it is."""
    if not hasattr(values, "detach"):
        return values
    found = values.detach().cpu()
    return found.float() if "bfloat16" in str(found.dtype) else found


explain_wrong_arguments(__name__)
