"""Bounds of several draws at given particles, and captured steps beside ordinary ones."""

import itertools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyro
import torch

from pyro_infomax import CapturedSVI, infer
from tests.fuzz.checks import Outcome, gradients, outcome
from tests.fuzz.emit import built
from tests.fuzz.oracle import Oracle
from tests.fuzz.population import Population
from tests.fuzz.spec import Factor, Pair, Site

# ---- Bounds of several draws

_BETAS: Final = (0.0, 0.01, 0.03, 0.1, 0.2, 0.4, 0.7, 1.0)  # of the thermodynamic bound


class RenyiOracle:
    """The bound with the scale s of the latents outside: −s Σ_cells log(mean_k w_k^(1 − α)) / (1 − α).

    The cells are those of the plates that all sites of the model are in. The thermodynamic bound has a sum
    over the points of its path in place of the logarithm.
    """

    def __init__(self, pair: Pair, *, lam: float, alpha: float, path: bool = False) -> None:
        self.lam, self.alpha, self.path = lam, alpha, path
        self.oracle = Oracle(pair)
        self.pair = pair = self.oracle.pair
        sites: list[Site | Factor] = [*pair.model, *([pair.model_factor] if pair.model_factor else [])]
        levels = {site.level for site in sites}
        # the axes that are summed within a particle
        self.within = (1, 2) if "global" in levels else (2,) if "row" in levels else ()

    @property
    def scale(self) -> float | None:
        """What all latents count for in common; None where they do not."""
        latent = [
            *self.pair.latents,
            *self.pair.guide,
            *([self.pair.guide_factor] if self.pair.guide_factor else []),
        ]
        if any(getattr(site, "gained", False) for site in latent):
            return None
        scales = {self.pair.scale_of(site) for site in latent}
        if not latent:
            scales = {self.pair.scale_of(site) for site in self.pair.observed}
        return scales.pop() if len(scales) == 1 else None

    def log_weights(self, values: dict[str, np.ndarray], theta: float, phi: float, lam: float) -> np.ndarray:
        """(draws, rows or 1, inner or 1)."""
        pair, oracle = self.pair, self.oracle
        values = {**values, **oracle.data}
        model = [
            ((1 + lam) if site.observed else 1.0, site, oracle.log_density(site, values, theta))
            for site in pair.model
        ]
        if pair.model_factor:
            model.append((1 + lam, pair.model_factor, oracle.factor(pair.model_factor, values, theta)))
        guide = [(-1.0, site, oracle.log_density(site, values, phi)) for site in pair.guide]
        if pair.guide_factor:
            guide.append((-1.0, pair.guide_factor, oracle.factor(pair.guide_factor, values, phi)))
        draws = max([each.shape[0] for each in values.values()], default=1)
        total: Any = 0.0
        for weight, site, logs in (*model, *guide):
            logs = np.broadcast_to(logs, np.broadcast_shapes(logs.shape, (draws, 1, 1)))
            logs = oracle.counted(site, oracle.in_plates(site, logs))
            axes = tuple(axis for axis in self.within if logs.shape[axis] > 1)
            total = total + weight * logs.sum(axes, keepdims=True)
        return total

    def bound(self, log_weights: np.ndarray) -> np.ndarray:
        """Of particles along the first axis, in each cell."""
        assert self.scale is not None
        if self.path:
            logs = log_weights / self.scale
            means = [(_shares(beta * logs) * logs).sum(0) for beta in _BETAS[:-1]]
            return self.scale * sum(w * mean for w, mean in zip(np.diff(_BETAS), means, strict=True))
        order = 1 - self.alpha
        logs = order * log_weights / self.scale
        return self.scale * (np.logaddexp.reduce(logs) - np.log(len(logs))) / order

    def shares(self, log_weights: np.ndarray) -> np.ndarray:
        """w̃ of each particle."""
        assert self.scale is not None
        return _shares(log_weights / self.scale)

    def log_posteriors(self, values: dict[str, np.ndarray], phi: float) -> np.ndarray:
        """log q(z|x) of each particle, (draws, rows or 1, inner or 1)."""
        oracle, total = self.oracle, np.zeros((1, 1, 1))
        for site in self.pair.guide:
            logs = oracle.in_plates(site, oracle.log_density(site, values, phi))
            logs = oracle.counted(site, logs)
            axes = tuple(axis for axis in self.within if logs.shape[axis] > 1)
            total = total + logs.sum(axes, keepdims=True)
        return total

    def at_draws(self, draws: dict[str, np.ndarray], theta: float, phi: float, lam: float) -> float:
        """Of particles that are given by their quantiles or noise."""
        return float(self.bound(self.log_weights(self.values(draws, phi), theta, phi, lam)).sum())

    def values(self, draws: dict[str, np.ndarray], phi: float) -> dict[str, np.ndarray]:
        """The particles that are given by their quantiles or noise."""
        values: dict[str, np.ndarray] = dict(self.oracle.data)
        for site in self.pair.guide:
            chosen = draws[site.name].reshape(-1, 1, 1)
            if site.discrete:
                logs = self.oracle.log_probabilities(site, values, 0.0)
                sums = np.exp(logs).cumsum(-1)[..., :-1]
                values[site.name] = (chosen[..., None] > sums).sum(-1).astype(float)
            else:
                location = self.oracle.location(site, values, phi)
                values[site.name] = location + site.sd * chosen
        return values

    def of_two(self, theta: float, phi: float) -> float:
        """The expected bound of two particles, all of whose sites are discrete."""
        values, weights = self.oracle.assignments(phi)
        logs = self.log_weights(values, theta, phi, self.lam)
        weights = self._of_cells(weights, logs)
        pairs = itertools.product(range(len(logs)), repeat=2)
        return float(sum((weights[a] * weights[b] * self.bound(logs[[a, b]])).sum() for a, b in pairs))

    def wake_of_two(self, theta: float, phi: float, lam: float) -> float:
        """The expected −Σ w̃ log q of two particles that are drawn, and weighed, as at φ = 0."""
        values, weights = self.oracle.assignments(0.0)
        logs = self.log_weights(values, theta, 0.0, lam)
        posteriors = np.broadcast_to(self.log_posteriors({**values, **self.oracle.data}, phi), logs.shape)
        weights = self._of_cells(weights, logs)
        pairs = itertools.product(range(len(logs)), repeat=2)
        each = (
            weights[a] * weights[b] * (self.shares(logs[[a, b]]) * posteriors[[a, b]]).sum(0)
            for a, b in pairs
        )
        return -float(sum(one.sum() for one in each))

    @staticmethod
    def _of_cells(weights: np.ndarray, logs: np.ndarray) -> np.ndarray:
        for axis in (1, 2):
            if logs.shape[axis] == 1:
                weights = weights.take([0], axis)
        return weights

    def slope_along_draws(self, draws: dict[str, np.ndarray], theta: float, lam: float) -> float:
        """The slope by φ of Σ (α w̃ + (1 − α) w̃²) log w, through draws of normal sites alone."""
        logs = self.log_weights(self.values(draws, 0.0), theta, 0.0, lam)
        shares = self.shares((1 - self.alpha) * logs)
        on_path = self.alpha * shares + (1 - self.alpha) * shares**2

        def along(phi: float) -> float:
            moved = self.log_weights(self.values(draws, phi), theta, 0.0, lam)
            return float((on_path * moved).sum())

        return _slope(along)


def _shares(logs: np.ndarray) -> np.ndarray:
    return np.exp(logs - np.logaddexp.reduce(logs))


_STEP: Final = 1e-4


def _slope(f: Any) -> float:
    return (8 * (f(_STEP) - f(-_STEP)) - (f(2 * _STEP) - f(-2 * _STEP))) / (12 * _STEP)


@dataclass(frozen=True)
class RenyiCheck:
    """A bound of several draws at given particles, or the expectation over pairs of these.

    Attributes:
        cls: its class in ``pyro_infomax.infer``; those but Rényi's and DReG have no α but 0.
        two: whether two particles are drawn at a time, of which the score function has to be right too.
    """

    alpha: float
    lam: float
    validate: bool
    two: bool = False
    cls: str = "Renyi_InfoMaxELBO"

    def __call__(self, pair: Pair) -> Outcome:
        return outcome(self.cls + " of two" * self.two, lambda: self._compared(pair))

    @property
    def options(self) -> dict[str, Any]:
        weights: dict[str, Any] = {"lam": self.lam}
        if self.cls == "Renyi_WeightedELBO":
            weights = {"weights": {"distortion": 1 + self.lam}}
        return weights | ({"alpha": self.alpha} if self.has_alpha else {})

    @property
    def has_alpha(self) -> bool:
        return self.cls in ("Renyi_InfoMaxELBO", "Renyi_WeightedELBO", "DReG_InfoMaxELBO")

    def simpler(self) -> "Iterator[RenyiCheck]":
        if self.lam:
            yield replace(self, lam=0.0)
        if not self.validate:
            yield replace(self, validate=True)

    def script(self) -> str:
        return f"""
from pyro_infomax.infer import {self.cls}

elbo = {self.cls}(**{self.options}, num_particles=2)
print(sum(elbo.loss_and_grads(model, guide, *data) for _ in range(2000)) / 2000)
print({{name: value.grad / 2000 for name, value in pyro.get_param_store().named_parameters()}})
"""

    def _compared(self, pair: Pair) -> dict[str, tuple[Any, float]]:
        blocks = [()] if pair.plate != "subsample" else np.arange(pair.rows).reshape(-1, pair.batch).tolist()
        alpha = self.alpha if self.has_alpha else 0.0
        exact = RenyiOracle(pair, lam=self.lam, alpha=alpha, path=self.cls == "TVO_InfoMaxELBO")
        population = Population(pair, enumerated=False)
        pairs = list(itertools.product(range(population.size), repeat=2)) if self.two else [None]
        if len(pairs) > 256:
            return {}
        sums: dict[str, float] = {}
        for block, chosen in itertools.product(blocks, pairs):
            for name, value in self._evaluated(pair, block, chosen).items():
                sums[name] = sums.get(name, 0.0) + value / len(blocks) / len(pairs)
        if exact.scale is None or sums == {}:
            return {}
        return {
            name: (sums[name], right) for name, right in self._right(pair, exact, population) if name in sums
        }

    def _evaluated(self, pair: Pair, block: Any, chosen: Any) -> dict[str, float]:
        pyro.clear_param_store()
        made = built(pair)
        population = Population(pair, enumerated=False, rows=block)
        if chosen is not None:
            population.draws = {name: each[list(chosen)] for name, each in population.draws.items()}
            population.size = 2
        size = population.size
        options = {**self.options, "num_particles": size, "vectorize_particles": size > 1}
        elbo = getattr(infer, self.cls)(**options)
        guide = made.guide if size > 1 else population(made.guide)
        with pyro.validation_enabled(self.validate), population:
            loss = elbo.loss_and_grads(made.model, guide, *made.data)
        found = {f"gradient of {name}": value for name, value in gradients(made).items()}
        terms = {name: float(elbo.terms[name]) for name in ("elbo", "wake") if name in elbo.terms}
        return {"loss": loss, **terms, **found}

    def _right(self, pair: Pair, exact: RenyiOracle, population: Population) -> Iterator[tuple[str, float]]:
        share = pair.shown / pair.rows
        if exact.within == (1, 2) and pair.plate == "subsample":
            return  # the mean over subsamples is no sum over rows
        if self.two:
            fits = all(site.discrete for site in pair.guide)
            # one draw stands for all members of a plate, which is right where each has a bound of its own
            finest = {"global": (1, 2), "row": (2,), "inner": ()}
            fits = fits and all(finest[site.level] == exact.within or not pair.inner for site in pair.guide)
            fits = fits and exact.within != (1, 2) and (exact.within or bool(pair.inner))
            if fits:
                yield from self._right_of_two(pair, exact, share)
            return
        draws = population.by_scalar

        def bound(theta: float, phi: float, lam: float = self.lam) -> float:
            return -exact.at_draws(draws, pair.theta + theta, phi, lam) * share

        if self.cls != "RWS_InfoMaxELBO":
            yield "loss", bound(0.0, 0.0)
        yield "elbo", -bound(0.0, 0.0, 0.0)
        yield "gradient of theta", _slope(lambda d: bound(d, 0.0))
        if any(site.discrete for site in pair.guide):
            return
        if self.cls == "DReG_InfoMaxELBO" and not (pair.masks or pair.guide_factor):
            yield "gradient of phi", -exact.slope_along_draws(draws, pair.theta, self.lam) * share
        elif self.cls not in ("DReG_InfoMaxELBO", "TVO_InfoMaxELBO", "RWS_InfoMaxELBO"):
            yield "gradient of phi", _slope(lambda d: bound(0.0, d))

    def _right_of_two(self, pair: Pair, exact: RenyiOracle, share: float) -> Iterator[tuple[str, float]]:
        loss = -exact.of_two(pair.theta, 0.0) * share
        yield "gradient of theta", -_slope(lambda d: exact.of_two(pair.theta + d, 0.0)) * share
        if self.cls == "RWS_InfoMaxELBO":
            yield "loss", loss + exact.wake_of_two(pair.theta, 0.0, self.lam) * share
            yield "wake", exact.wake_of_two(pair.theta, 0.0, 0.0) * share
            yield "gradient of phi", _slope(lambda d: exact.wake_of_two(pair.theta, d, self.lam)) * share
            return
        yield "loss", loss
        yield "gradient of phi", -_slope(lambda d: exact.of_two(pair.theta, d)) * share


BOUNDS: Final = (
    *(f"{name}_InfoMaxELBO" for name in ("IWAE", "DReG", "VIMCO", "TVO", "RWS")),
    "Renyi_WeightedELBO",
)


def bound_checks(pair: Pair, rng: np.random.Generator) -> Iterator[RenyiCheck]:
    """A check of every bound of several draws but Rényi's own."""
    for cls in BOUNDS:
        alpha = float(rng.choice([0.0, 0.0, 0.5]))
        lam, validate = float(rng.choice([0.0, 1.0])), bool(rng.random() < 0.5)
        discrete = any(site.discrete for site in pair.guide)
        needs_paths = cls in ("IWAE_InfoMaxELBO", "DReG_InfoMaxELBO")
        few = len(pair.guide) <= 2 and all(site.discrete for site in pair.guide)
        two = discrete and few and not needs_paths and rng.random() < 0.8
        refused = needs_paths and discrete and rng.random() < 0.9  # for sure
        if not (pair.sequential or refused):
            check = RenyiCheck(alpha, lam, validate, two=bool(two), cls=cls)
            yield check if check.has_alpha else replace(check, alpha=0.0)


# ---- captured steps


@dataclass(frozen=True)
class CaptureCheck:
    """Steps of ``CapturedSVI`` beside those of SVI, from one seed.

    Attributes:
        objective: an objective of two weights, or the check of another one.
    """

    objective: Any
    validate: bool
    steps: int = 4

    def __call__(self, pair: Pair) -> Outcome:
        return outcome("CapturedSVI", lambda: self._compared(pair))

    def simpler(self) -> "Iterator[CaptureCheck]":
        if not self.validate:
            yield replace(self, validate=True)

    def script(self) -> str:
        return f"""
from pyro_infomax import CapturedSVI
from pyro_infomax.infer import *
from pyro_infomax.information import RBF

for SVI in (pyro.infer.SVI, CapturedSVI):
    pyro.clear_param_store()
    torch.manual_seed(0)
    svi = SVI(model, guide, pyro.optim.SGD({{"lr": 0.01}}), {self.objective.source})
    print([svi.step(*data) for _ in range({self.steps})])
"""

    def _compared(self, pair: Pair) -> dict[str, tuple[Any, float]]:
        ordinary = self._steps(pair, pyro.infer.SVI)
        captured = self._steps(pair, CapturedSVI)
        return {name: (captured[name], value) for name, value in ordinary.items()}

    def _steps(self, pair: Pair, svi: Any) -> dict[str, float]:
        pyro.clear_param_store()
        made = built(pair)
        torch.manual_seed(pair.seed)
        sized = getattr(self.objective, "depends_on_size", False) and pair.plate == "length"
        elbo = self.objective.built(**({"data_size": pair.rows} if sized else {}))
        found = {}
        with pyro.validation_enabled(self.validate), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            steps = svi(made.model, made.guide, pyro.optim.SGD({"lr": 0.01}), elbo)
            for step in range(self.steps):
                found[f"loss of step {step}"] = float(steps.step(*made.data))
                terms = self.objective_terms(steps)
                found |= {f"{name} of step {step}": value for name, value in terms.items()}
        named = pyro.get_param_store().named_parameters()
        found |= {name.split("$$$")[-1]: float(value) for name, value in named}
        found["random state"] = float(torch.rand(()))
        return found

    def objective_terms(self, svi: Any) -> dict[str, float]:
        elbo = getattr(svi, "_objective", None) or getattr(svi.loss, "__self__", None)
        terms = getattr(elbo, "terms", None)
        return dict(terms) if terms else {}
