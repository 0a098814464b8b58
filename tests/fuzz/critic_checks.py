"""Objectives with a critic, by one that knows its log-ratio: the estimate at given draws, and its mean.

The critic has no parameters. It computes log q(z|x) − log p(z), the log-ratio of the two joints for a p_D(x)
that is written down, or that of q(z) to the product of its marginals, from the tables of a pair; its slopes
are differences. So its term and gradients are known at each draw. All other terms are the ELBO's.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
import pyro
import torch
from torch import nn

from pyro_infomax import infer
from tests.fuzz.checks import exact, gradients
from tests.fuzz.discrepancy_checks import Dim, Noise, dims_of, drawn, moments, side_by_side
from tests.fuzz.emit import arguments, built
from tests.fuzz.family_checks import Found, _Check, blocks_of, of_rows
from tests.fuzz.more_checks import _slope
from tests.fuzz.oracle import Costs, Oracle
from tests.fuzz.population import Population
from tests.fuzz.spec import Pair

_STEP: Final = 1e-4
_SD_OF_DATA: Final = 1.5  # of the p_D(x) that the log-ratio of the joints takes
Parts = tuple[np.ndarray, ...]  # (rows,) or (rows, 2) each

# ---- Log-ratios in closed form, (rows,).


def _normal(z: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """log N(z; mean, covariance), of vectors along the last axis."""
    off = z - mean
    squares = (off * np.linalg.solve(covariance, off[..., None])[..., 0]).sum(-1)
    return -0.5 * (squares + np.linalg.slogdet(2 * np.pi * covariance)[1])


def _columns(parts: Parts) -> np.ndarray:
    return np.concatenate([part.reshape(len(part), -1) for part in parts], 1)


def _by_scalar(dims: list[Dim], z: np.ndarray) -> dict[str, np.ndarray]:
    return {site.name: z[None, :, [column]] for column, (site, _) in enumerate(dims)}


def _log_posterior(pair: Pair, z: np.ndarray) -> np.ndarray:
    """log q(z|x), what only the guide draws integrated out."""
    oracle = Oracle(pair)
    mean, covariance = moments(oracle, oracle.pair.guide, 0.0, dims_of(oracle.pair), {})
    return _normal(z, mean[0], covariance[0])


def _log_prior(pair: Pair, z: np.ndarray, theta: float) -> np.ndarray:
    oracle = Oracle(pair)
    values = {**oracle.data, **_by_scalar(dims_of(oracle.pair), z)}
    logs = [oracle.log_density(site, values, theta) for site in oracle.pair.latents]
    return sum(np.broadcast_to(each, (1, pair.rows, 1)) for each in logs)[0, :, 0]


def tiled(pair: Pair, times: int) -> Pair:
    """The pair with its data so many times."""
    return of_rows(pair, [*range(pair.rows)] * times)


def ratio_of_rate(pair: Pair, parts: Parts) -> np.ndarray:
    """log q(z|x) − log p(z) at data, which are the pair's own, and latents."""
    z = _columns(parts[len(arguments(pair)) :])
    return _log_posterior(pair, z) - _log_prior(pair, z, pair.theta)


def ratio_of_joints(pair: Pair, parts: Parts) -> np.ndarray:
    """log q(z|x) p_D(x) − log p(z) p(x|z) at observed sites and latents."""
    observed = pair.observed
    data = {site.column: tuple(part.tolist()) for site, part in zip(observed, parts, strict=False)}
    here = replace(pair, data=data)
    x, z = np.stack(parts[: len(observed)], 1), _columns(parts[len(observed) :])
    oracle = Oracle(here)
    values = {**oracle.data, **_by_scalar(dims_of(oracle.pair), z)}
    likelihood = sum(oracle.log_density(site, values, pair.theta)[0, :, 0] for site in oracle.pair.observed)
    of_data = _normal(x, np.zeros(x.shape[1]), _SD_OF_DATA**2 * np.eye(x.shape[1]))
    return _log_posterior(here, z) + of_data - _log_prior(here, z, pair.theta) - likelihood


def ratio_of_marginals(mixture: Pair, _: Pair, parts: Parts) -> np.ndarray:
    """log q(z) − Σ log q(z_j), of the mixture of all posteriors of a pair."""
    oracle = Oracle(mixture)
    mean, covariance = moments(oracle, oracle.pair.guide, 0.0, dims_of(oracle.pair), {})
    (z,) = parts
    together = np.logaddexp.reduce(_normal(z[:, None], mean[0], covariance[0]), axis=1)
    variances = np.diagonal(covariance[0], axis1=-2, axis2=-1)[..., None, None]
    alone = np.logaddexp.reduce(_normal(z[:, None, :, None], mean[0][..., None], variances), axis=1)
    size = np.log(mixture.rows)
    return together - size - (alone - size).sum(1)


class _AtRows(torch.autograd.Function):
    """A log-ratio at rows, with slopes by differences along each column."""

    @staticmethod
    def forward(ctx: Any, ratio: Any, pair: Pair, *parts: torch.Tensor) -> torch.Tensor:
        ctx.ratio, ctx.pair = ratio, pair
        ctx.parts = tuple(part.detach().double().numpy() for part in parts)
        return torch.from_numpy(np.array(ratio(pair, ctx.parts)))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        moved: list[Parts] = []
        columns: list[tuple[int, Any]] = []
        for n, part in enumerate(ctx.parts):
            for at in np.ndindex(part.shape[1:]) if ctx.needs_input_grad[n + 2] else ():
                columns.append((n, at))
                for step in (_STEP, -_STEP):
                    other = part.copy()
                    other[(slice(None), *at)] += step
                    moved.append((*ctx.parts[:n], other, *ctx.parts[n + 1 :]))
        together = tuple(map(np.concatenate, zip(*moved, strict=True)))
        scores = ctx.ratio(tiled(ctx.pair, len(moved)), together).reshape(len(columns), 2, -1)
        slopes = [np.zeros_like(part) for part in ctx.parts]
        for (n, at), (up, down) in zip(columns, scores, strict=True):
            slopes[n][(slice(None), *at)] = (up - down) / (2 * _STEP) * grads[0].numpy()
        return (None, None, *map(torch.from_numpy, slopes))


class KnownCritic(nn.Module):
    """A critic without parameters that scores by a log-ratio of a pair, a row for each datum."""

    def __init__(self, ratio: Callable[[Pair, Parts], np.ndarray], pair: Pair) -> None:
        super().__init__()
        self.ratio, self.pair = ratio, pair

    def forward(self, *parts: torch.Tensor) -> torch.Tensor:
        """(rows,)."""
        return _AtRows.apply(self.ratio, self.pair, *parts)  # type: ignore[no-untyped-call]


# ---- The check.

_DUALS: Final = {
    "js": (
        lambda t: (np.log(2) - np.log1p(np.exp(-t))) / 2,
        lambda t: (np.log(2) - np.log1p(np.exp(t))) / 2,
    ),
    "kl": (lambda t: t, lambda t: 1 - np.exp(t)),
    "reverse_kl": (lambda t: 1 - np.exp(-t), lambda t: -t),
    "jeffreys": (lambda t: t + 1 - np.exp(-t), lambda t: -t + 1 - np.exp(t)),
}


@dataclass(frozen=True)
class CriticCheck(_Check):
    """An objective with a critic that knows its log-ratio.

    Attributes:
        beta: the weight of the rate.
        gamma: that of the critic's term beside it.
        divergence: of the joints.
    """

    kind: str
    beta: float
    gamma: float
    divergence: str
    validate: bool

    @property
    def source(self) -> str:
        return {
            "FactorVAE": f"FactorVAE(critic, {self.gamma}, beta={self.beta})",
            "AVB": f"AVB(critic, {self.beta})",
            "AdversarialELBO": f"AdversarialELBO(critic, {self.divergence!r})",
            "SymmetricELBO": f"SymmetricELBO(critic, {self.gamma}, beta={self.beta})",
        }[self.kind]

    def simpler(self) -> Iterator[Any]:
        yield from super().simpler()
        if (self.beta, self.gamma) != (1.0, 1.0):
            yield replace(self, beta=1.0, gamma=1.0)

    def script(self) -> str:
        return f"""
class Critic(nn.Module):  # any without parameters; the check has one that knows the log-ratio
    def forward(self, *parts):
        return sum(part.reshape(len(part), -1).sum(1) for part in parts)


critic = Critic()
{super().script()}"""

    @property
    def of_joints(self) -> bool:
        return self.kind in ("AdversarialELBO", "SymmetricELBO")

    @property
    def term(self) -> str:
        return {
            "FactorVAE": "critic_total_correlation",
            "AVB": "critic_rate",
            "AdversarialELBO": f"critic_{self.divergence}",
            "SymmetricELBO": "critic_reverse_kl",
        }[self.kind]

    def compared(self, pair: Pair) -> Found:
        ratio: Any = {
            "FactorVAE": partial(ratio_of_marginals, pair),  # also where the pair is asked for other rows
            "AVB": ratio_of_rate,
        }.get(self.kind, ratio_of_joints)
        blocks = blocks_of(pair)
        found: dict[str, float] = {}
        at_draws: dict[str, float] = {}
        pyro.clear_param_store()
        made = built(pair)
        for block in blocks:
            here = of_rows(pair, block)
            population = self._population(pair, block)
            given = {
                "critic": KnownCritic(ratio, here),
                **{name: getattr(infer, name) for name in infer.__all__},
            }
            elbo = eval(f"{self.source[:-1]}, num_particles={population.size})", given)
            for _, each in pyro.get_param_store().named_parameters():
                each.grad = None
            with pyro.validation_enabled(self.validate), population:
                loss = elbo.loss_and_grads(made.model, population(made.guide), *made.data)
            one = {**elbo.terms, "loss": loss, "stands for": elbo.stands_for(pair.shown)}
            one |= {f"gradient of {name}": value for name, value in gradients(made).items()}
            if self.untreatable(pair):
                return {"what has to be refused": (loss, float("nan"))}
            right = self._at_draws(here, ratio, population)
            for sums, values in ((found, one), (at_draws, right)):
                for name, value in values.items():
                    sums[name] = sums.get(name, 0.0) + float(value) / len(blocks)
        right = self._right(pair, at_draws)
        return {name: (found.get(name, float("nan")), value) for name, value in right.items()}

    def untreatable(self, pair: Pair) -> bool:
        """Whether there are no draws, a row for each datum, whose densities the critic could tell apart."""
        latent = [*pair.latents, *(site for site in pair.guide if not site.auxiliary)]
        discrete = any(site.discrete for site in (*latent, *pair.guide))
        rows = all(site.level == "row" and not site.masked for site in latent)
        one = len(dims_of(Oracle(pair).pair)) < 2 and self.kind == "FactorVAE"
        counted = pair.enumerated_in_model or pair.sequential or any(site.gained for site in latent)
        factors = (pair.guide_factor and self.kind != "FactorVAE") or (pair.model_factor and self.of_joints)
        seen = pair.observed
        implicit = self.of_joints and (
            any(s.discrete or s.level != "row" or s.masked or s.gained for s in seen)
            or any(site.by_data for site in pair.model)
            or len(arguments(pair)) > len(seen)
        )
        part = self.kind == "AVB" and pair.plate == "subsample"
        return bool(discrete or not rows or one or counted or factors or implicit or part)

    def _population(self, pair: Pair, block: Any) -> Population:
        """With draws of what the model observes too, of which there is one for each of the latents'."""
        population = Population(pair, enumerated=False, rows=block)
        if self.of_joints:
            rng = np.random.default_rng([pair.seed, 43])
            for site in pair.observed:
                noise = torch.from_numpy(rng.standard_normal(population.size))
                population.draws[site.name] = noise
        return population

    def _at_draws(self, here: Pair, ratio: Any, population: Population) -> dict[str, float]:
        """The critic's term and its slopes at the draws, along which it does not change."""
        oracle = Oracle(here)
        dims = dims_of(oracle.pair)
        noise = {name: each.reshape(-1, 1, 1) for name, each in population.by_scalar.items()}
        scale = here.scale_of(dims[0][0])

        def term(theta: float, phi: float) -> float:
            z = self._latents(oracle, drawn(oracle, oracle.pair.guide, phi, noise, {}), dims, population.size)
            latents = z.reshape(-1, len(dims))
            if self.of_joints:
                costs = self._divergences(here, ratio, latents, theta, noise)
            elif self.kind == "AVB":
                ignored = [latents[:, 0]] * len(arguments(here))  # the data, which are the pair's
                costs = ratio(tiled(here, len(z)), (*ignored, latents))
            else:
                costs = ratio(here, (latents,))
            return scale * float(costs.sum()) / len(z)

        def of_prior(theta: float) -> float:
            z = self._latents(oracle, drawn(oracle, oracle.pair.guide, 0.0, noise, {}), dims, population.size)
            logs = _log_prior(tiled(here, len(z)), z.reshape(-1, len(dims)), theta)
            return -scale * float(logs.sum()) / len(z)

        found = {"term": term(here.theta, 0.0), "phi": _slope(lambda d: term(here.theta, d))}
        along = {"AVB": lambda d: of_prior(here.theta + d), "FactorVAE": lambda _: 0.0}
        found["theta"] = _slope(along.get(self.kind, lambda d: term(here.theta + d, 0.0)))
        return found

    @staticmethod
    def _latents(oracle: Oracle, values: Noise, dims: list[Dim], runs: int) -> np.ndarray:
        z = side_by_side(oracle, values, dims)
        return np.broadcast_to(z, (runs, *z.shape[1:]))

    def _divergences(self, here: Pair, ratio: Any, z: np.ndarray, theta: float, noise: Noise) -> np.ndarray:
        """The critic at data with their latents, and at draws of the model, each in its dual form."""
        oracle = Oracle(here)
        pair, dims = oracle.pair, dims_of(oracle.pair)
        columns = [*((site, 0) for site in pair.observed), *dims]
        # in the model's order, each given what it was drawn before
        made = side_by_side(oracle, drawn(oracle, pair.model, theta, noise, {}), columns)
        times = len(z) // here.rows
        simulated = np.broadcast_to(made, (times, *made.shape[1:])).reshape(len(z), -1)
        data = [np.tile(np.array(here.data[site.column], dtype=float), times) for site in pair.observed]
        on_first, on_second = _DUALS["reverse_kl" if self.kind == "SymmetricELBO" else self.divergence]
        there, number = tiled(here, times), len(data)
        first = ratio(there, (*data, z))
        second = ratio(there, (*simulated[:, :number].T, simulated[:, number:]))
        return on_first(first) + on_second(second)

    def _right(self, pair: Pair, at_draws: dict[str, float]) -> dict[str, float]:
        answers = exact(pair)
        hidden = any(site.auxiliary for site in pair.guide)

        def plain(costs: Costs) -> float:
            if self.kind == "AdversarialELBO":
                return 0.0
            return costs.distortion + (0.0 if self.kind == "AVB" else self.beta * costs.rate)

        weight = {"AVB": self.beta, "AdversarialELBO": 1.0}.get(self.kind, self.gamma)
        right = {
            self.term: at_draws["term"],
            "loss": plain(answers.costs) + weight * at_draws["term"],
            "stands for": pair.shown * pair.row_scale,
        }
        for name in ("theta", "phi"):
            right[f"gradient of {name}"] = answers.gradient(name, plain) + weight * at_draws[name]
        if self.kind == "AdversarialELBO":
            return right
        right["distortion"] = answers.costs.distortion
        if self.kind == "AVB" and not hidden:
            # whose ratio is of the second degree, so that its mean over the population is the divergence
            right[self.term] = sum(answers.costs.latent.values())
            right["loss"] = answers.costs.distortion + self.beta * answers.costs.rate
            for name in ("theta", "phi"):
                slope = answers.gradient(name, lambda costs: costs.distortion + self.beta * costs.rate)
                right[f"gradient of {name}"] = slope
        if self.kind != "AVB":
            right |= {"rate": answers.costs.rate, "elbo": -answers.costs.distortion - answers.costs.rate}
        return right


def critic_checks(pair: Pair, rng: np.random.Generator) -> Iterator[CriticCheck]:
    """A check of every objective of this file."""
    for kind in ("FactorVAE", "AVB", "AdversarialELBO", "SymmetricELBO"):
        beta, gamma = (float(rng.choice([0.0, 0.5, 1.0, 3.0])) for _ in range(2))
        divergence, validate = str(rng.choice([*_DUALS])), bool(rng.random() < 0.5)
        check = CriticCheck(kind, beta, gamma, divergence, validate)
        if not check.untreatable(pair) or rng.random() < 0.1:
            yield check
