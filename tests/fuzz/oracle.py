"""The exact answer of a pair, by enumeration in NumPy: it imports neither the library nor Pyro nor torch.

Discrete sites are enumerated. Given them, what is averaged is a polynomial of the second degree in Normal
noise, for which three nodes of Gauss and Hermite are exact. Gradients are central differences.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from tests.fuzz.spec import Factor, Pair, Site, flat

_NODES: Final = ((-(3.0**0.5), 1 / 6), (0.0, 2 / 3), (3.0**0.5, 1 / 6))
_STEP: Final = 1e-4

Values = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Costs:
    """Expected costs in nats, scaled and masked as the programs say, summed over the data.

    Attributes:
        observed: −E log p of each observed site, factors included; with it what is enumerated in the model.
        latent: E[log q − log p] of each latent site.
        guide: E log q of what only the guide has, auxiliary sites and factors.
        drawn: E log q of each site of the guide.
    """

    observed: dict[str, float]
    latent: dict[str, float]
    guide: dict[str, float]
    drawn: dict[str, float]

    @property
    def distortion(self) -> float:
        return sum(self.observed.values())

    @property
    def rate(self) -> float:
        return sum(self.latent.values()) + sum(self.guide.values())

    def weighted(self, weight: Callable[[str, str], float]) -> float:
        """The loss, where a site counts for ``weight(role, name)``."""
        parts = {"observed": self.observed, "latent": self.latent, "guide": self.guide}
        return sum(
            weight(role, name) * cost for role, costs in parts.items() for name, cost in costs.items() if cost
        )


class Oracle:
    """Evaluates a pair at values of its parameters.

    Arrays have the axes (assignment, row, inner), an axis of one where a site is outside of a plate.

    Args:
        pair: the pair.
        scaled: whether scales count.
        given: values of global sites, whose own densities then do not count.
    """

    def __init__(self, pair: Pair, *, scaled: bool = True, given: Mapping[str, float] | None = None) -> None:
        pair = flat(pair)
        self.pair = pair
        self.scaled = scaled
        self.given = dict(given or {})
        self.gain = np.array(pair.gain, dtype=float)[:, None]
        self.feature = self.features = np.zeros((pair.rows, 1))  # (rows, 1) and (rows, inner or 1)
        if pair.observed:
            first = pair.observed[0]
            values = np.array(pair.data[first.column], dtype=float)
            self.feature = values[:, :1] if first.level == "inner" else values[:, None]
            self.features = values if first.level == "inner" else self.feature
        self.data = {
            site.name: self._column(pair.data[site.column], site.level)[None] for site in pair.observed
        }
        self.masks = {
            "row": np.array(pair.keep, dtype=float)[:, None],
            "inner": np.array(pair.keep_inner, dtype=float).reshape(pair.rows, -1),
        }

    @staticmethod
    def _column(values: tuple, level: str) -> np.ndarray:
        array = np.array(values, dtype=float)
        return array if level == "inner" else array[:, None]

    # ---- densities

    def log_density(self, site: Site, values: Values, parameter: float) -> np.ndarray:
        """log p(value | parents) before scales and masks, (assignments, rows or 1, inner or 1)."""
        value = values[site.name]
        if site.family == "normal":
            location = self.location(site, values, parameter)
            return -0.5 * ((value - location) / site.sd) ** 2 - np.log(site.sd) - 0.5 * np.log(2 * np.pi)
        logs = self.log_probabilities(site, values, parameter)
        shape = np.broadcast_shapes(value.shape, logs.shape[:-1])
        index = np.broadcast_to(value, shape)[..., None].astype(int)
        return np.take_along_axis(np.broadcast_to(logs, (*shape, site.values)), index, -1)[..., 0]

    def location(self, site: Site, values: Values, parameter: float) -> np.ndarray:
        location = self._looked_up(site, values) + site.tilt * parameter + site.slope * self._feature_of(site)
        normal = site.parents[len(site.parents) - len(site.weights) :]
        for name, weight in zip(normal, site.weights, strict=True):
            location = location + weight * values[name]
        return location

    def log_probabilities(self, site: Site, values: Values, parameter: float) -> np.ndarray:
        """(assignments, rows or 1, inner or 1, values)."""
        logits = np.log(self._looked_up(site, values)) + site.tilt * parameter * np.arange(site.values)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    def _looked_up(self, site: Site, values: Values) -> np.ndarray:
        table = np.array(site.table, dtype=float)
        axes = [(self._feature_of(site) > 0).astype(int)[None]] if site.by_data else []
        axes += [values[name].astype(int) for name in site.parents[: len(site.parents) - len(site.weights)]]
        if axes:
            return table[tuple(np.broadcast_arrays(*axes))]
        return table.reshape(1, 1, 1, *table.shape)

    def _feature_of(self, site: Site | Factor) -> np.ndarray:
        if site.level == "global":
            return np.zeros((1, 1))
        return self.features if site.level == "inner" else self.feature

    def factor(self, factor: Factor, values: Values, parameter: float) -> np.ndarray:
        return (
            factor.offset
            + 0.3 * self._feature_of(factor)
            + factor.weight * sum(values[name] for name in self.pair.factor_sites(factor))
            + factor.tilt * parameter
        )

    def counted(self, site: Site | Factor, logs: np.ndarray) -> np.ndarray:
        """Logs with mask and, where wanted, scale."""
        masked = getattr(site, "masked", False)
        # a mask of zeros lets nothing through, not even what is infinite
        if masked and site.mask_style == "never":
            logs = logs * 0.0
        elif masked:
            mask = self.masks[site.level]
            logs = logs * (1 - mask if site.complement else mask)
        if not self.scaled:
            return logs
        return logs * self.pair.scale_of(site) * (self.gain if getattr(site, "gained", False) else 1.0)

    # ---- what the guide draws

    def assignments(self, phi: float) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """All values of the guide's sites, and their probabilities, (assignments, rows, inner)."""
        sites = self.pair.guide
        choices = [
            range(1 if site.name in self.given else site.values if site.discrete else len(_NODES))
            for site in sites
        ]
        combinations = list(itertools.product(*choices))
        table = np.array(combinations, dtype=int).reshape(len(combinations), len(sites))
        values: dict[str, np.ndarray] = dict(self.data)
        rows, inner = self.pair.rows, max(1, self.pair.inner)
        weights = np.ones((len(table), rows, inner))
        for n, site in enumerate(sites):
            chosen = table[:, n].reshape(-1, 1, 1)
            if site.name in self.given:
                values[site.name] = np.full(chosen.shape, self.given[site.name])
            elif site.discrete:
                values[site.name] = chosen.astype(float)
                weights = weights * np.exp(self.log_density(site, values, phi))
            else:
                nodes = np.array(_NODES)[chosen]  # (assignments, 1, 1, 2)
                values[site.name] = self.location(site, values, phi) + site.sd * nodes[..., 0]
                weights = weights * nodes[..., 1]
        return values, weights

    def _mean(self, cost: np.ndarray, weights: np.ndarray) -> float:
        """The expected cost, summed over the plates that it is in."""
        for axis in (1, 2):
            if cost.shape[axis] == 1:
                # outside of the plate, whose members all give its marginal
                weights = weights.take([0], axis)
        return float((cost * weights).sum())

    def in_plates(self, site: Site | Factor, cost: np.ndarray) -> np.ndarray:
        """A site's cost in every cell of its plates."""
        rows = 1 if site.level == "global" else self.pair.rows
        inner = max(1, self.pair.inner) if site.level == "inner" else 1
        return np.broadcast_to(cost, (cost.shape[0], rows, inner))

    # ---- answers

    def costs(self, theta: float | None = None, phi: float = 0.0) -> Costs:
        """The expected costs of all sites, averaged over subsamples."""
        pair = self.pair
        theta = pair.theta if theta is None else theta
        values, weights = self.assignments(phi)
        values = {**values, **self.data}
        observed, latent, guide, drawn = {}, {}, {}, {}
        summed_out = self._component()
        # a subsample that is drawn shows each datum equally often, and is scaled up
        share = {"global": 1.0}
        rest = pair.shown / pair.rows

        def mean(site: Site | Factor, logs: np.ndarray) -> float:
            logs = np.broadcast_to(logs, np.broadcast_shapes(logs.shape, (len(weights), 1, 1)))
            cost = self.counted(site, self.in_plates(site, logs))
            return self._mean(cost, weights) * share.get(site.level, rest)

        for site in pair.model:
            if site.name in summed_out or site.name in self.given:
                continue
            logs = self.log_density(site, values, theta)
            costs = observed if site.observed else latent
            name = _whole_name(site.name)
            costs[name] = costs.get(name, 0.0) - mean(site, logs)
        if pair.model_factor and not (self.given and pair.model_factor.level == "global"):
            observed[pair.model_factor.name] = -mean(
                pair.model_factor, self.factor(pair.model_factor, values, theta)
            )
        if summed_out:
            name = "+".join(summed_out)
            data = any(site.observed for site in pair.model if site.name in summed_out)
            (observed if data else latent)[name] = (
                -self._summed_out(summed_out, values, weights, theta) * rest
            )
        seen = {site.name for site in pair.observed}
        for site in pair.guide:
            if site.name in self.given:
                continue
            if site.name in seen:  # which has its value from the data, whatever the guide draws
                continue
            cost = mean(site, self.log_density(site, values, phi))
            name = _whole_name(site.name)
            drawn[name] = drawn.get(name, 0.0) + cost
            if site.auxiliary:
                guide[name] = cost
            else:
                latent[name] = latent.get(name, 0.0) + cost
        if pair.guide_factor:
            guide[pair.guide_factor.name] = mean(
                pair.guide_factor, self.factor(pair.guide_factor, values, phi)
            )
        return Costs(observed, latent, guide, drawn)

    def _component(self) -> tuple[str, ...]:
        """The names of what the model enumerates and of the sites that depend on it."""
        enumerated = {site.name for site in self.pair.enumerated_in_model}
        return tuple(site.name for site in self.pair.model if enumerated & {site.name, *site.parents})

    def _summed_out(self, names: tuple[str, ...], values: Values, weights: np.ndarray, theta: float) -> float:
        """E of the scale times the log of the sum over what the model enumerates."""
        pair = self.pair
        sites = [site for site in pair.model if site.name in names]
        enumerated = list(pair.enumerated_in_model)
        level = enumerated[0].level
        unscaled = Oracle(pair, scaled=False)
        terms = []
        for chosen in itertools.product(*[range(site.values) for site in enumerated]):
            here = {s.name: np.full((1, 1, 1), float(v)) for s, v in zip(enumerated, chosen, strict=True)}
            total = 0.0
            for site in sites:
                logs = unscaled.log_density(site, {**values, **here}, theta)
                logs = np.broadcast_to(logs, np.broadcast_shapes(logs.shape, (len(weights), 1, 1)))
                logs = self.in_plates(site, logs)
                # what is summed out sums to 1 under its own prior, whether it counts or not
                logs = logs if site in enumerated else unscaled.counted(site, logs)
                if level == "row" and site.level == "inner":
                    logs = logs.sum(2, keepdims=True) * pair.inner_scale
                total = total + logs
            terms.append(total)
        sums = np.logaddexp.reduce(terms)
        scale = pair.scale_of(enumerated[0]) if self.scaled else 1.0
        return self._mean(sums, weights) * scale


def _whole_name(name: str) -> str:
    """The name of the vector that a scalar is of."""
    return name.split("~")[0]


@dataclass(frozen=True)
class Answers:
    """The expected costs of a pair, and those at steps of its parameters, from which gradients follow."""

    costs: Costs
    steps: dict[str, tuple[Costs, ...]]  # at h, −h, 2h, −2h

    def gradient(self, name: str, loss: Callable[[Costs], float]) -> float:
        """The derivative by a parameter of what a loss makes of the costs."""
        up, down, up2, down2 = map(loss, self.steps[name])
        return (8 * (up - down) - (up2 - down2)) / (12 * _STEP)


def answers_of(pair: Pair, *, scaled: bool = True) -> Answers:
    """Enumerates a pair at its parameters and around them."""
    oracle = Oracle(pair, scaled=scaled)
    around = [factor * _STEP for factor in (1, -1, 2, -2)]
    theta = pair.theta
    steps = {
        "theta": tuple(oracle.costs(theta + step, 0.0) for step in around),
        "phi": tuple(oracle.costs(theta, step) for step in around),
    }
    return Answers(oracle.costs(), steps)
