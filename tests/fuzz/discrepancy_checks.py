"""Discrepancies between q(z) and p(z) at given draws: by a kernel, along lines, of covariances.

The guide takes the draws of a population, and what else is drawn is taped. The same numbers are then worked
out from the noise, in NumPy and by definition: pair by pair of draws, quantile by quantile.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyro
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.fuzz.checks import exact, gradients
from tests.fuzz.emit import built
from tests.fuzz.family_checks import Found, _Check, blocks_of, has_no_aggregate, of_rows
from tests.fuzz.more_checks import _slope
from tests.fuzz.oracle import Costs, Oracle
from tests.fuzz.population import Population
from tests.fuzz.spec import Pair, Site

# ---- What is drawn, from its noise.

Noise = Mapping[str, np.ndarray]  # of each site, (draws, rows or 1, inner or 1)
Dim = tuple[Site, int]  # a scalar site, and which of the inner plate


class Tape(TorchDispatchMode):
    """Keeps the standard normal numbers that are drawn in its block, in their order."""

    DRAWS: Final = (torch.ops.aten.normal_, torch.ops.aten.randn)

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[np.ndarray] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket in self.DRAWS:
            self.drawn.append(found.detach().double().numpy().copy())
        return found


def drawn(
    oracle: Oracle, sites: Sequence[Site], parameter: float, noise: Noise, given: Noise
) -> dict[str, np.ndarray]:
    """The values of Normal sites in turn, (draws, rows or 1, inner or 1) each."""
    values: dict[str, np.ndarray] = {**oracle.data, **given}
    for site in sites:
        values[site.name] = oracle.location(site, values, parameter) + site.sd * noise[site.name]
    return values


def side_by_side(oracle: Oracle, values: Noise, dims: Sequence[Dim]) -> np.ndarray:
    """(draws, rows, latent)."""
    draws = max((len(values[site.name]) for site, _ in dims), default=1)
    shape = (draws, oracle.pair.rows, max(1, oracle.pair.inner))
    return np.stack([np.broadcast_to(values[site.name], shape)[:, :, m] for site, m in dims], -1)


def apart(oracle: Oracle, rows: np.ndarray, dims: Sequence[Dim]) -> dict[str, np.ndarray]:
    """The inverse: columns of (draws, rows, latent) by site."""
    shape = (*rows.shape[:2], max(1, oracle.pair.inner))
    found: dict[str, np.ndarray] = {}
    for column, (site, m) in enumerate(dims):
        cells = found.setdefault(site.name, np.zeros(shape if site.level == "inner" else (*shape[:2], 1)))
        cells[:, :, m] = rows[:, :, column]
    return found


def dims_of(pair: Pair) -> list[Dim]:
    """The local latents of a flat pair, in the guide's order, the elements of a vector side by side."""
    local = [s for s in pair.guide if not (s.auxiliary or s.redrawn or s.level == "global")]
    of_sites = itertools.groupby(local, key=lambda site: site.name.split("~")[0])
    vectors = [list(each) for _, each in of_sites]
    return [
        (site, m)
        for sites in vectors
        for m in range(pair.inner if sites[0].level == "inner" else 1)
        for site in sites
    ]


def moments(
    oracle: Oracle, sites: Sequence[Site], parameter: float, dims: Sequence[Dim], given: Noise
) -> tuple[np.ndarray, np.ndarray]:
    """Mean (draws, rows, latent) and covariance (draws, rows, latent, latent) of the sites.

    A value is linear in the noise, so that its slopes are differences.
    """
    still: dict[str, Any] = {site.name: np.zeros((1, 1, 1)) for site in sites}
    mean = side_by_side(oracle, drawn(oracle, sites, parameter, still, given), dims)
    slopes = []
    for site in sites:
        for m in range(oracle.pair.inner if site.level == "inner" else 1):
            unit = np.zeros((1, 1, oracle.pair.inner if site.level == "inner" else 1))
            unit[:, :, m] = 1.0
            moved = drawn(oracle, sites, parameter, {**still, site.name: unit}, given)
            slopes.append(side_by_side(oracle, moved, dims) - mean)
    along = np.stack(slopes, -1)  # (draws, rows, latent, noise)
    return mean, along @ along.swapaxes(-1, -2)


# ---- What they differ by, by definition.


def squared_mmd(z: np.ndarray, again: np.ndarray, u: np.ndarray, kernel: Any, size: int) -> float:
    """Of one draw of each, (rows, latent): pairs of a datum with itself count 1/N, all others the rest."""
    rows = len(z)
    others = list(itertools.permutations(range(rows), 2))
    own = np.mean([kernel(z[n], again[n]) for n in range(rows)])
    apart_ = np.mean([kernel(z[n], again[m]) for n, m in others])
    prior = np.mean([kernel(u[n], u[m]) for n, m in others])
    cross = np.mean([kernel(z[n], u[m]) for n in range(rows) for m in range(rows)])
    return float(own / size + apart_ * (1 - 1 / size) + prior - 2 * cross)


def multiquadric(a: np.ndarray, b: np.ndarray) -> float:
    """The kernel that is taken by default."""
    scales = np.array([0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]) * 2 * len(a)
    return float((scales / (scales + ((a - b) ** 2).sum())).sum())


def gaussian(a: np.ndarray, b: np.ndarray) -> float:
    """That of ``RBF(0.8)``."""
    return float(np.exp(-((a - b) ** 2).sum() / (2 * 0.8**2)))


def squared_transport(z: np.ndarray, u: np.ndarray, directions: np.ndarray) -> float:
    """The mean over directions of the squared distance of quantiles."""
    lines = directions / np.sqrt((directions**2).sum(0))
    return float(np.mean([(np.sort(z @ line) - np.sort(u @ line)) ** 2 for line in lines.T]))


def squares_of_covariance(mean: np.ndarray, rest: np.ndarray, size: int) -> np.ndarray:
    """The squares of Cov[μ] + E r of N data, (latent, latent), from pairs of pairs of those that are shown.

    Pairs of pairs that share both, one or none of their data count as often as they do among N.
    """
    pairs = list(itertools.combinations(range(len(mean)), 2))
    g = []
    for i, j in pairs:
        off = mean[i] - mean[j]
        g.append((size - 1) / (2 * size) * np.outer(off, off) + (rest[i] + rest[j]) / 2)
    kinds: dict[int, list[np.ndarray]] = {0: [], 1: [], 2: []}
    for one, other in itertools.product(range(len(pairs)), repeat=2):
        kinds[len({*pairs[one]} & {*pairs[other]})].append(g[one] * g[other])
    number = size * (size - 1) // 2
    often = {2: number, 1: number * 2 * (size - 2)}
    often[0] = number**2 - often[1] - often[2]
    return sum(often[k] * np.mean(kinds[k], 0) for k in kinds if often[k]) / number**2


# ---- The check.


@dataclass(frozen=True)
class DiscrepancyCheck(_Check):
    """An objective with a discrepancy, at the draws of a population.

    Attributes:
        weights: of distortion, rate and the terms that it adds.
        unseen: how many more data there are than the plate of the model shows.
    """

    source: str
    weights: tuple[tuple[str, float], ...]
    validate: bool
    unseen: int = 0

    def simpler(self) -> Iterator[Any]:
        yield from super().simpler()
        if self.unseen:
            yield replace(self, unseen=0)

    @property
    def depends_on_size(self) -> bool:
        return not self.source.startswith("Sliced")

    def compared(self, pair: Pair) -> Found:
        size = {"whole": pair.total, "subsample": pair.rows}.get(pair.plate, pair.rows + self.unseen)
        options = {"data_size": size} if self.depends_on_size and pair.plate == "length" else {}
        found: dict[str, float] = {}
        added: dict[str, float] = {}
        blocks = blocks_of(pair)
        made = None
        pyro.clear_param_store()
        for block in blocks:
            made = made or built(pair)
            population = Population(pair, enumerated=False, rows=block)
            elbo, tape = self.made(num_particles=population.size, **options), Tape()
            for _, each in pyro.get_param_store().named_parameters():
                each.grad = None
            with pyro.validation_enabled(self.validate), population, tape:
                loss = elbo.loss_and_grads(made.model, population(made.guide), *made.data)
            one = {**elbo.terms, "loss": loss, "stands for": elbo.stands_for(pair.shown)}
            one |= {f"gradient of {name}": value for name, value in gradients(made).items()}
            if self.untreatable(pair):
                return {"what has to be refused": (loss, float("nan"))}
            if pair.enumerated_in_model:
                return {}
            right = self._added(pair, block, population, tape.drawn, size)
            for sums, values in ((found, one), (added, right)):
                for name, value in values.items():
                    sums[name] = sums.get(name, 0.0) + float(value) / len(blocks)
        return {
            name: (found[name], value) for name, value in self._right(pair, added).items() if name in found
        }

    def untreatable(self, pair: Pair) -> bool:
        return has_no_aggregate(pair, by_density=self.depends_on_size)

    def _right(self, pair: Pair, added: dict[str, float]) -> dict[str, float]:
        answers, weights = exact(pair), dict(self.weights)
        replaced = self.source.startswith("DirectInfoMax")

        def plain(costs: Costs) -> float:
            if replaced:
                return sum(costs.guide.values()) + sum(
                    cost for name, cost in costs.latent.items() if name in outside
                )
            return weights["distortion"] * costs.distortion + weights["rate"] * costs.rate

        outside = {site.name for site in pair.latents if site.level == "global"}
        terms = {name: value for name, value in added.items() if not name.startswith("slope")}
        right = {
            **terms,
            "stands for": pair.shown * pair.row_scale,
            "loss": plain(answers.costs) + sum(weights[name] * value for name, value in terms.items()),
        }
        if not replaced:
            right |= {"distortion": answers.costs.distortion, "rate": answers.costs.rate}
            right["elbo"] = -answers.costs.distortion - answers.costs.rate
        for name in ("theta", "phi"):
            slope = sum(weights[term] * added[f"slope of {term} by {name}"] for term in terms)
            right[f"gradient of {name}"] = answers.gradient(name, plain) + slope
        return right

    def _added(
        self, pair: Pair, block: Any, population: Population, tape: list[np.ndarray], size: int
    ) -> dict[str, float]:
        """The terms that it adds, and their slopes, at the draws of a block of rows."""
        oracle = Oracle(of_rows(pair, block))
        dims = dims_of(oracle.pair)
        scale = oracle.pair.scale_of(dims[0][0]) * oracle.pair.rows
        noise = {name: each.reshape(-1, 1, 1) for name, each in population.by_scalar.items()}
        runs, each = population.size, len(tape) // population.size
        taped = [tape[n * each : (n + 1) * each] for n in range(runs)]

        def terms(theta: float, phi: float) -> dict[str, float]:
            found = self._discrepancies(oracle, dims, (theta, phi), noise, taped, size)
            return {name: scale * float(np.mean(values)) for name, values in found.items()}

        right = terms(pair.theta, 0.0)
        for name in tuple(right):
            right[f"slope of {name} by theta"] = _slope(lambda d, name=name: terms(pair.theta + d, 0.0)[name])
            right[f"slope of {name} by phi"] = _slope(lambda d, name=name: terms(pair.theta, d)[name])
        return right

    def _discrepancies(
        self,
        oracle: Oracle,
        dims: list[Dim],
        parameters: tuple[float, float],
        noise: Noise,
        taped: list[list[np.ndarray]],
        size: int,
    ) -> dict[str, list[float]]:
        """Of each particle."""
        pair, (theta, phi) = oracle.pair, parameters
        rows, d, kind = pair.rows, len(dims), self.source.split("(")[0]
        names = {site.name for site, _ in dims}
        posteriors = [site for site in pair.guide if site.name in names]
        priors = [site for site in pair.latents if site.name in names]
        values = drawn(oracle, pair.guide, phi, noise, {})
        given = {s.name: values[s.name] for s in pair.guide if s.level == "global" and not s.auxiliary}
        if kind == "DIPELBO":
            mean, within = moments(oracle, posteriors, phi, dims, given)
            _, target = moments(oracle, priors, theta, dims, given)
            rest = (0.0 if "means" in self.source else within) - target
            mean, rest = (np.broadcast_to(each, (len(taped), *each.shape[1:])) for each in (mean, rest))
            rest = np.broadcast_to(rest, (len(taped), rows, d, d))
            squares = [squares_of_covariance(*each, size) for each in zip(mean, rest, strict=True)]
            diagonal = [float(np.trace(each)) for each in squares]
            off = [float(each.sum()) - on for each, on in zip(squares, diagonal, strict=True)]
            return {"off_diagonal": off, "diagonal": diagonal}
        z = side_by_side(oracle, values, dims)
        z = np.broadcast_to(z, (len(taped), *z.shape[1:]))
        directions = None
        if kind.startswith("Sliced"):
            directions = [each[-1] for each in taped]
            taped = [each[:-1] for each in taped]
        both = np.stack([np.concatenate([part.reshape(rows, -1) for part in each], 1) for each in taped])
        u = side_by_side(
            oracle, drawn(oracle, priors, theta, apart(oracle, both[:, :, -d:], dims), given), dims
        )
        if directions is not None:
            each = zip(z, u, directions, strict=True)
            return {"sliced_wasserstein": [squared_transport(*one) for one in each]}
        again = drawn(oracle, posteriors, phi, apart(oracle, both[:, :, :d], dims), given)
        kernel = gaussian if "RBF" in self.source else multiquadric
        each = zip(z, side_by_side(oracle, again, dims), u, strict=True)
        return {"mmd": [squared_mmd(*one, kernel, size) for one in each]}


DISCREPANCIES: Final = {
    "MMDELBO(mmd=3.0, rate=0.5)": {"distortion": 1.0, "rate": 0.5, "mmd": 3.0},
    "MMDELBO(mmd=2.0, distortion=2.0, kernel=RBF(0.8))": {"distortion": 2.0, "rate": 1.0, "mmd": 2.0},
    "mmd_vae(0.5, 3.0)": {"distortion": 1.0, "rate": 0.5, "mmd": 2.5},
    "wae(4.0)": {"distortion": 1.0, "rate": 0.0, "mmd": 4.0},
    "DirectInfoMax(0.0, mmd=2.0)": {"mmd": 2.0},
    "SlicedWassersteinELBO(sliced_wasserstein=2.0, rate=0.5, num_projections=3)": {
        "distortion": 1.0,
        "rate": 0.5,
        "sliced_wasserstein": 2.0,
    },
    **{
        f"DIPELBO(off_diagonal=2.0, diagonal=0.5, covariance={of!r})": {
            "distortion": 1.0,
            "rate": 1.0,
            "off_diagonal": 2.0,
            "diagonal": 0.5,
        }
        for of in ("means", "aggregate")
    },
}


def discrepancy_checks(pair: Pair, rng: np.random.Generator) -> Iterator[DiscrepancyCheck]:
    """A check of every objective of this file."""
    for source, weights in DISCREPANCIES.items():
        validate, unseen = bool(rng.random() < 0.5), int(rng.choice([0, 0, 3]))
        if source.startswith("DIP") and pair.rows < 4:
            unseen = 0  # a part of the data says nothing of a squared covariance
        check = DiscrepancyCheck(source, tuple(weights.items()), validate, unseen)
        if not check.untreatable(pair) or rng.random() < 0.1:
            yield check
