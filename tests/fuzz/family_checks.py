"""The objectives beside those of two weights: targets, harmony, parts of the rate, sleep.

Discrepancies and critics have files of their own. Where a loss is linear in the expected costs of sites, it
is compared at a population of draws that represents the guide exactly. What compares draws with the mixture
of all posteriors is computed at the same draws.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyro
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from pyro_infomax import infer
from pyro_infomax.information import RBF
from tests.fuzz.checks import Outcome, exact, gradients, outcome
from tests.fuzz.emit import built
from tests.fuzz.more_checks import RenyiOracle, _slope
from tests.fuzz.oracle import Costs, Oracle
from tests.fuzz.population import Population
from tests.fuzz.spec import Pair, Site

Found = dict[str, tuple[Any, float]]


def blocks_of(pair: Pair) -> list[Any]:
    """The rows that a subsample can take."""
    return [()] if pair.plate != "subsample" else np.arange(pair.rows).reshape(-1, pair.batch).tolist()


def of_rows(pair: Pair, block: Sequence[int]) -> Pair:
    """The pair with some of its rows as all that is shown, or as it is for an empty block."""
    if not block:
        return pair

    def chosen(values: tuple) -> tuple:
        return tuple(values[row] for row in block) if values else values

    # a subsample is a minibatch like another
    drawn: dict[str, Any] = {"plate": "whole", "total": pair.rows} if pair.plate == "subsample" else {}
    return replace(
        pair,
        rows=len(block),
        data={name: chosen(values) for name, values in pair.data.items()},
        keep=chosen(pair.keep),
        keep_inner=chosen(pair.keep_inner),
        gain=chosen(pair.gain),
        **drawn,
    )


def has_no_aggregate(pair: Pair, *, by_density: bool) -> bool:
    """Whether z has no aggregate posterior or prior that draws could be compared by, so that it is refused.

    Where posteriors are taken by their densities, or drawn from anew, no latent may be drawn given another.
    """
    names = {site.name for site in pair.latents if site.level != "global"}
    local = [site for site in (*pair.model, *pair.guide) if site.name in names]
    masked = any(site.masked for site in local)
    part = pair.inner_total and any(site.level == "inner" for site in local)
    in_prior = any(names & {*site.parents} for site in pair.latents if site.name in names)
    noise = {site.name for site in pair.guide if site.level != "global"}
    in_guide = any(noise & {*site.parents} for site in pair.guide if site.name in names)
    discrete = any(site.discrete for site in pair.guide)
    return bool(not names or masked or part or in_prior or (by_density and in_guide) or discrete)


class _Check:
    """What checks of one objective share: how it is called, counted and made simpler.

    ``source`` is the objective as a user writes it.
    """

    validate: bool
    source: Any
    depends_on_size = False  # whether N is asked for where the plate does not say it

    def compared(self, pair: Pair) -> Found:
        raise NotImplementedError

    def __call__(self, pair: Pair) -> Outcome:
        return outcome(self.source.split("(")[0], lambda: self.compared(pair))

    def simpler(self) -> Iterator[Any]:
        if not self.validate:
            yield replace(self, validate=True)  # type: ignore[type-var]

    def made(self, **options: Any) -> Any:
        given = {"RBF": RBF, **{name: getattr(infer, name) for name in infer.__all__}}
        call = self.source[:-1] + "".join(f", {name}={value!r}" for name, value in options.items()) + ")"
        return eval(call.replace("(, ", "("), given)

    built = made

    def script(self) -> str:
        return f"""
from pyro_infomax.infer import {self.source.split("(")[0]}
from pyro_infomax.information import RBF

pyro.enable_validation({self.validate})
elbo = {self.source}
print(sum(elbo.loss_and_grads(model, guide, *data) for _ in range(2000)) / 2000, elbo.terms)
print({{name: value.grad / 2000 for name, value in pyro.get_param_store().named_parameters()}})
"""


# ---- Losses that are linear in the expected costs.

_FAR: Final = 1000.0  # nats that no rate comes near, at any draw


@dataclass(frozen=True)
class AverageCheck(_Check):
    """A target, harmony, or the landing that is stuck to."""

    source: str
    validate: bool

    def compared(self, pair: Pair) -> Found:
        kind = self.source.split("(")[0]
        found = self._evaluated(pair, one_by_one=kind.startswith("STL"))
        if pair.enumerated_in_model:
            return {}
        loss, more = getattr(self, f"_{kind}")(pair, self.made())
        if loss is None:
            return {}
        answers = exact(pair)
        right = {
            "loss": loss(answers.costs),
            "distortion": answers.costs.distortion,
            "rate": answers.costs.rate,
            "stands for": pair.shown * pair.row_scale,
            "gradient of theta": answers.gradient("theta", loss),
            "gradient of phi": answers.gradient("phi", loss),
            **more(answers.costs),
        }
        return {name: (found[name], value) for name, value in right.items() if name in found}

    def _evaluated(self, pair: Pair, *, one_by_one: bool) -> dict[str, float]:
        pyro.clear_param_store()
        made, sums, blocks = built(pair), {}, blocks_of(pair)
        for block in blocks:
            population = Population(pair, enumerated=False, rows=block)
            runs = population.size if one_by_one else 1
            guide = population(made.guide)
            for _, each in pyro.get_param_store().named_parameters():
                each.grad = None
            for run in range(runs):
                elbo = self.made(**({} if one_by_one else {"num_particles": population.size}))
                with pyro.validation_enabled(self.validate), population:
                    loss = elbo.loss_and_grads(made.model, guide, *made.data)
                one = {**elbo.terms, "loss": loss, "stands for": elbo.stands_for(pair.shown)}
                if hasattr(elbo, "multiplier"):
                    one["log of the next multiplier"] = math.log(elbo.multiplier)
                if run == runs - 1:  # where the gradients are those of all runs
                    one |= {f"gradient of {name}": value for name, value in gradients(made).items()}
                for name, value in one.items():
                    many = len(blocks) * (1 if name.startswith("gradient") and not one_by_one else runs)
                    sums[name] = sums.get(name, 0.0) + float(value) / many
        return sums

    # ---- the losses, of expected costs, and what else is known

    def _STL_BetaELBO(self, pair: Pair, elbo: Any) -> Any:
        beta = elbo.beta
        return lambda costs: costs.distortion + beta * costs.rate, lambda _: {}

    def _STL_InfoMaxELBO(self, pair: Pair, elbo: Any) -> Any:
        weight = 1.0 + elbo.lam
        return lambda costs: weight * costs.distortion + costs.rate, lambda _: {}

    def _ConstrainedELBO(self, pair: Pair, elbo: Any) -> Any:
        beta, size = elbo.multiplier, pair.shown * pair.row_scale
        held = pair.observed if elbo.held == "distortion" else pair.guide
        # what contexts make of a datum, beside plates
        local = [site for site in held if site.level != "global"] or held
        scale = pair.program_scale * local[0].scale if local else 1.0

        def more(costs: Costs) -> dict[str, float]:
            excess = (getattr(costs, elbo.held) / size / scale - elbo.target) / (1 + abs(elbo.target))
            excess = -excess if elbo.held == "distortion" else excess
            return {
                "multiplier": beta * size,
                "log of the next multiplier": math.log(beta) + elbo.dual_lr * excess,
            }

        return lambda costs: costs.distortion + beta * costs.rate, more

    def _HarmonyELBO(self, pair: Pair, elbo: Any) -> Any:
        weight = elbo.weights["prior_cross_entropy"]

        def crossed(costs: Costs) -> float:
            return sum(cost - costs.drawn[name] for name, cost in costs.latent.items())

        def loss(costs: Costs) -> float:
            return costs.distortion + weight * crossed(costs)  # no log q, nor what only the guide draws

        return loss, lambda costs: {"prior_cross_entropy": crossed(costs)}

    def _CapacityELBO(self, pair: Pair, elbo: Any) -> Any:
        capacity, gamma = elbo.weights["capacity"], elbo.weights["capacity_gap"]
        local = [site.name for site in pair.latents if site.level != "global"]
        if not capacity and not _closed(pair):
            return None, None
        sign = -1.0 if capacity else 1.0
        scale = pair.scale_of(pair.of_guide(local[0])) if local else 1.0

        def gap(costs: Costs) -> float:
            rate = sum(costs.latent[name] for name in local)
            return sign * (rate - capacity * scale * pair.shown)

        def loss(costs: Costs) -> float:
            rest = costs.rate - sum(costs.latent[name] for name in local)
            return costs.distortion + gamma * gap(costs) + rest

        return loss, lambda costs: {"capacity_gap": gap(costs)}

    def _FreeBitsELBO(self, pair: Pair, elbo: Any) -> Any:
        free = elbo.weights["free"]
        if not free and not _closed(pair):
            return None, None
        cells = {"global": 1, "row": pair.shown, "inner": pair.shown * max(1, pair.inner)}
        dims = 1 if elbo.by == "site" else 2
        floor = sum(
            free * pair.scale_of(site) * cells[site.level] * (1 if site.event is None else dims)
            for site in pair.latents
        )

        def floored(costs: Costs) -> float:
            return floor if free else sum(costs.latent.values())

        return (
            lambda costs: costs.distortion + floored(costs) + sum(costs.guide.values()),
            lambda costs: {"floored_rate": floored(costs)},
        )


def _closed(pair: Pair) -> bool:
    """Whether the rate of each site is a divergence in closed form at every draw, and so no less than 0."""
    sites = (*pair.latents, *pair.guide)
    return not ({"other order", "auxiliary"} & pair.features) and not any(
        site.correlation or site.parents for site in sites
    )


AVERAGES: Final = (
    "STL_BetaELBO(beta=0.5)",
    "STL_InfoMaxELBO(lam=1.0)",
    "ConstrainedELBO(rate=0.7, multiplier=2.0, dual_lr=0.1)",
    "ConstrainedELBO(distortion=1.5, multiplier=0.5, dual_lr=0.1)",
    "HarmonyELBO(weights={'prior_cross_entropy': 0.5})",
    f"CapacityELBO({_FAR}, gamma=3.0)",
    "CapacityELBO(0.0, gamma=3.0)",
    f"FreeBitsELBO({_FAR})",
    f"FreeBitsELBO({_FAR}, by='site')",
    "FreeBitsELBO(0.0)",
)


# ---- Parts of the rate, at given draws.


@dataclass(frozen=True)
class PartsCheck(_Check):
    """Objectives with terms of the mixture of all posteriors, at the draws of a population.

    Attributes:
        weights: of the information, of the two parts of the marginal KL, and of what groups add to them.
        groups: of sites; none for each site as one.
    """

    kind: str
    weights: tuple[float, float, float, float]
    validate: bool
    groups: tuple[tuple[str, ...], ...] = ()
    depends_on_size = True

    @property
    def source(self) -> str:
        first, second, third, fourth = self.weights
        groups = f", groups={self.groups}" if self.groups else ""
        return {
            "DecomposedELBO": f"DecomposedELBO(mutual_information={first}, total_correlation={second}, "
            f"dimensionwise_kl={third})",
            "beta_tcvae": f"beta_tcvae({second}, mutual_information={first}, dimensionwise_kl={third})",
            "MarginalELBO": f"MarginalELBO(mutual_information={first}, marginal_kl={second})",
            "infovae": f"infovae({1 - first}, {second})",
            "ConstrainedELBO": f"ConstrainedELBO(mutual_information={second}, multiplier={first})",
            "DirectInfoMax": f"DirectInfoMax({-first})",
            "GroupedELBO": f"GroupedELBO(mutual_information={first}, total_correlation_between={second}, "
            f"dimensionwise_kl={third}, total_correlation_within={fourth}{groups})",
            "hfvae": f"hfvae({second}, {fourth}, mutual_information={first}, "
            f"dimensionwise_kl={third}{groups})",
        }[self.kind]

    def simpler(self) -> Iterator[Any]:
        yield from super().simpler()
        if self.weights != (1.0, 1.0, 1.0, 1.0):
            yield replace(self, weights=(1.0, 1.0, 1.0, 1.0))

    def compared(self, pair: Pair) -> Found:
        options = {"data_size": pair.rows} if pair.plate == "length" else {}
        pyro.clear_param_store()
        made, blocks = built(pair), blocks_of(pair)
        found: dict[str, float] = {}
        right: dict[str, float] = {}
        for block in blocks:
            population = Population(pair, enumerated=False, rows=block)
            elbo = self.made(num_particles=population.size, **options)
            for _, each in pyro.get_param_store().named_parameters():
                each.grad = None
            with pyro.validation_enabled(self.validate), population:
                loss = elbo.loss_and_grads(made.model, population(made.guide), *made.data)
            one = {**elbo.terms, "loss": loss}
            one |= {f"gradient of {name}": value for name, value in gradients(made).items()}
            if has_no_aggregate(pair, by_density=True):
                return {"what has to be refused": (loss, math.nan)}
            oracle = Oracle(of_rows(pair, block))
            if any(site.level == "global" for site in (*oracle.pair.model, *oracle.pair.guide)):
                return {}  # whose rate has a closed form
            for sums, values in ((found, one), (right, self._right(oracle, population.by_scalar))):
                for name, value in values.items():
                    sums[name] = sums.get(name, 0.0) + float(value) / len(blocks)
        if self.kind == "ConstrainedELBO":
            right = self._constrained(pair, right)
        return {name: (found[name], value) for name, value in right.items() if name in found}

    def _right(self, oracle: Oracle, draws: dict[str, np.ndarray]) -> dict[str, float]:
        theta = oracle.pair.theta
        right = self._terms(oracle, draws, theta, 0.0)
        if "dimensionwise_kl" in right and "correlated" in oracle.pair.features:
            # The product over dimensions is another one, and the prior's dependence has a term of its own
            known = ("mutual_information", "distortion", "total_correlation_between")
            return {name: right[name] for name in known if name in right}
        right["gradient of theta"] = _slope(lambda d: self._terms(oracle, draws, theta + d, 0.0)["loss"])
        right["gradient of phi"] = _slope(lambda d: self._terms(oracle, draws, theta, d)["loss"])
        return right

    def _constrained(self, pair: Pair, at_draws: dict[str, float]) -> dict[str, float]:
        """The information by the rate that is expected, and the loss by the multiplier."""
        answers, beta = exact(pair), self.weights[0]

        def loss(costs: Costs) -> float:
            return costs.distortion + beta * costs.rate

        return {
            "mutual_information": sum(answers.costs.latent.values()) - at_draws["marginal_kl"],
            "multiplier": beta * pair.shown * pair.row_scale,
            "distortion": answers.costs.distortion,
            "rate": answers.costs.rate,
            "loss": loss(answers.costs),
            "gradient of theta": answers.gradient("theta", loss),
            "gradient of phi": answers.gradient("phi", loss),
        }

    def _terms(
        self, oracle: Oracle, draws: dict[str, np.ndarray], theta: float, phi: float
    ) -> dict[str, float]:
        pair = oracle.pair
        values: dict[str, np.ndarray] = dict(oracle.data)
        for site in pair.guide:
            values[site.name] = oracle.location(site, values, phi) + site.sd * draws[site.name].reshape(
                -1, 1, 1
            )
        number = max(len(each) for each in draws.values())
        latent = [pair.of_guide(site.name) for site in pair.latents]
        scale, rows = pair.scale_of(latent[0]), pair.rows
        size = pair.total if pair.plate == "whole" else rows

        def counted(site: Any, logs: np.ndarray) -> float:
            logs = np.broadcast_to(logs, np.broadcast_shapes(logs.shape, (number, 1, 1)))
            return float(oracle.counted(site, oracle.in_plates(site, logs)).sum()) / number

        distortion = -sum(counted(site, oracle.log_density(site, values, theta)) for site in pair.observed)
        if pair.model_factor:
            distortion -= counted(pair.model_factor, oracle.factor(pair.model_factor, values, theta))
        only = sum(
            counted(site, oracle.log_density(site, values, phi)) for site in pair.guide if site.auxiliary
        )
        if pair.guide_factor:
            only += counted(pair.guide_factor, oracle.factor(pair.guide_factor, values, phi))
        # (draws, rows of the draw, rows of the posterior) of each scalar
        of_sites = {
            site.name: [
                np.stack([self._densities(oracle, site, values, row, m, phi) for row in range(rows)], 1)
                for m in range(pair.inner if site.level == "inner" else 1)
            ]
            for site in latent
        }
        scalars = [each for scalars in of_sites.values() for each in scalars]
        together = sum(scalars)
        own = np.einsum("snn->sn", together)
        log_q = _mixture(together, size)
        product = sum(_mixture(each, size) for each in scalars)
        log_p = sum(
            np.broadcast_to(
                oracle.in_plates(site, oracle.log_density(site, values, theta)).sum(2), (number, rows)
            )
            for site in pair.latents
        )
        first, second, third, fourth = self.weights
        plain = _mixture(together, rows) if first < 0 else log_q

        def total(nats: np.ndarray) -> float:
            return float(nats.sum()) / number * scale

        terms = {"mutual_information": total(own - plain), "marginal_kl": total(log_q - log_p)}
        loss = first * terms["mutual_information"] + only
        if self.kind == "DirectInfoMax":
            return {**terms, "loss": loss + terms["marginal_kl"]}
        if self.kind in ("MarginalELBO", "infovae", "ConstrainedELBO"):
            return {
                **terms,
                "distortion": distortion,
                "loss": loss + distortion + second * terms["marginal_kl"],
            }
        terms |= {"distortion": distortion, "dimensionwise_kl": total(product - log_p)}
        loss += third * terms["dimensionwise_kl"] + distortion
        if self.kind in ("GroupedELBO", "hfvae"):
            names = {site.name.split("~")[0] for site in latent}
            grouped = sum(
                _mixture(sum(sum(of_sites[name]) for name in of_sites if name.split("~")[0] in group), size)
                for group in self.groups or [{name} for name in names]
            )
            between, within = total(log_q - grouped), total(grouped - product)
            terms |= {"total_correlation_between": between, "total_correlation_within": within}
            return {**terms, "loss": loss + second * between + fourth * within}
        terms["total_correlation"] = total(log_q - product)
        return {**terms, "loss": loss + second * terms["total_correlation"]}

    @staticmethod
    def _densities(
        oracle: Oracle, site: Site, values: dict[str, np.ndarray], row: int, m: int, phi: float
    ) -> np.ndarray:
        """log q of one row's draws under the posteriors of all rows, (draws, rows)."""
        given = {
            name: np.broadcast_to(each, (each.shape[0], oracle.pair.rows, each.shape[2]))[:, row : row + 1]
            if name not in oracle.data
            else each
            for name, each in values.items()
        }
        logs = oracle.in_plates(site, oracle.log_density(site, given, phi))
        return logs[:, :, min(m, logs.shape[2] - 1)]


def _mixture(scores: np.ndarray, size: int) -> np.ndarray:
    """By minibatch stratified sampling, (draws, rows)."""
    rows = scores.shape[1]
    weights = np.full((rows, rows), (1 - 1 / size) / (rows - 1) if rows > 1 else 0.0)
    np.fill_diagonal(weights, 1 / size)
    return np.logaddexp.reduce(scores + np.log(weights), axis=2)


PARTS: Final = (
    "DecomposedELBO",
    "beta_tcvae",
    "MarginalELBO",
    "infovae",
    "ConstrainedELBO",
    "DirectInfoMax",
    "GroupedELBO",
    "hfvae",
)


# ---- Sleep: every datum that a discrete model can make up.


class _Handed(Messenger):
    """Gives each site of a model one value in all of its rows."""

    def __init__(self, values: dict[str, float]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if site_is_subsample(msg) or msg["is_observed"] or msg["done"] or msg["name"] not in self.values:
            return
        shape = msg["fn"].shape()
        like = msg["fn"].sample() if not shape else None
        dtype = (msg["fn"].sample() if like is None else like).dtype
        msg["value"], msg["done"] = torch.full(shape, self.values[msg["name"]], dtype=dtype), True


@dataclass(frozen=True)
class SleepCheck(_Check):
    """``ReverseKL`` and ``WakeSleepELBO`` over all data and latents that a discrete model may draw.

    Wake takes the same latents as draws of the guide.
    """

    source: str
    validate: bool

    def compared(self, pair: Pair) -> Found:
        oracle = Oracle(pair)
        sites = oracle.pair.model
        combinations = list(itertools.product(*[range(site.values) for site in sites if site.discrete]))
        combinations = combinations[:64] if len(combinations) > 64 else combinations
        found: dict[str, float] = {}
        right: dict[str, float] = {}
        for chosen in combinations:
            values = dict(zip([s.name for s in sites if s.discrete], map(float, chosen), strict=True))
            given = {name: np.full((1, 1, 1), value) for name, value in values.items()}
            pyro.clear_param_store()
            made = built(pair)
            elbo = self.made()
            with pyro.validation_enabled(self.validate), _Handed(values):
                loss = elbo.loss_and_grads(made.model, made.guide, *made.data)
            if not all(site.discrete for site in sites) or any(s.level != "row" for s in sites):
                return {}
            if pair.plate == "subsample" or pair.masks or pair.half_seen:
                return {}
            weight = math.exp(
                sum(float(oracle.log_density(site, given, pair.theta).ravel()[0]) for site in sites)
            )
            one = {"loss": loss, "sleep": elbo.terms.sleep}
            one |= {f"gradient of {name}": value for name, value in gradients(made).items()}
            dream = Oracle(replace(pair, data=self._data(pair, values)))

            def slept(phi: float, dream: Oracle = dream, given: dict[str, np.ndarray] = given) -> float:
                logs = [
                    dream.counted(site, dream.in_plates(site, dream.log_density(site, given, phi)))
                    for site in dream.pair.guide
                ]
                return -float(sum(each.sum() for each in logs))

            def awake(theta: float, given: dict[str, np.ndarray] = given) -> float:
                if self.source.startswith("ReverseKL"):
                    return 0.0
                return -float(RenyiOracle(pair, lam=0.0, alpha=0.0).log_weights(given, theta, 0.0, 0.0).sum())

            exact_one = {
                "loss": awake(pair.theta) + slept(0.0),
                "sleep": slept(0.0),
                "gradient of theta": _slope(lambda d: awake(pair.theta + d)),
                "gradient of phi": _slope(slept),
            }
            for name, value in one.items():
                found[name] = found.get(name, 0.0) + weight * value
                right[name] = right.get(name, 0.0) + weight * exact_one[name]
        return {name: (value, right[name]) for name, value in found.items()}

    @staticmethod
    def _data(pair: Pair, values: dict[str, float]) -> dict[str, tuple]:
        return {site.column: (values[site.name],) * pair.rows for site in pair.observed}


# ---- Which of them a pair is tried with.


def family_checks(pair: Pair, rng: np.random.Generator) -> Iterator[Any]:
    """A check of every objective of this file."""
    validate: Callable[[], bool] = lambda: bool(rng.random() < 0.5)  # noqa: E731
    if any(site.discrete for site in pair.guide):
        yield SleepCheck("ReverseKL()", validate())
        yield SleepCheck("WakeSleepELBO()", validate())
        if rng.random() < 0.9:
            return
    for source in AVERAGES:
        yield AverageCheck(source, validate())
    sites = [site.name for site in pair.latents if site.level != "global"]
    for kind in PARTS:
        first = float(rng.choice([-0.5, 0.5, 1.0, 2.0]))
        second, third, fourth = (float(rng.choice([0.0, 0.5, 1.0, 3.0])) for _ in range(3))
        groups: tuple[tuple[str, ...], ...] = ()
        of_groups = kind in ("GroupedELBO", "hfvae")
        if of_groups and len(sites) > 1 and rng.random() < 0.7:
            cut = int(rng.integers(1, len(sites)))
            groups = (tuple(sites[cut:]), tuple(sites[:cut]))
        if kind == "ConstrainedELBO":
            first, second = abs(first), 0.5
        refused = has_no_aggregate(pair, by_density=True) or (of_groups and len(sites) < 2)
        if not refused or rng.random() < 0.1:
            yield PartsCheck(kind, (first, second, third, fourth), validate(), groups)
