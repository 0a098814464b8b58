"""Objectives on a pair against its exact answer: right, refused by a sentence, or wrong without a word."""

import math
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyro
import torch

import pyro_infomax
from pyro_infomax import infer
from pyro_infomax.schedules import Linear
from tests.fuzz.emit import built
from tests.fuzz.oracle import Answers, Costs, answers_of
from tests.fuzz.population import Population
from tests.fuzz.spec import Pair

RIGHT, REFUSED, RAW, SILENT = "right", "refused", "raw error", "silent error"
UNKNOWN = "not compared"
TOLERANCE: Final = 1e-6
PACKAGE: Final = str(Path(pyro_infomax.__file__).parent)


@dataclass(frozen=True)
class Outcome:
    """What came of one check of one pair."""

    check: str
    kind: str
    reason: str = ""
    details: dict[str, Any] = field(default_factory=dict)


def outcome(check: str, run: Callable[[], dict[str, tuple[Any, float]]]) -> Outcome:
    """Runs a check that returns, by quantity, the library's value and the exact one."""
    pyro.clear_param_store()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = run()
        except (NotImplementedError, ValueError, TypeError, RuntimeError) as error:
            kind = REFUSED if _is_own(error) else RAW
            return Outcome(check, kind, f"{type(error).__name__}: {_first_line(error)}")
        except Exception as error:
            return Outcome(check, RAW, f"{type(error).__name__}: {_first_line(error)}")
    if not found:
        return Outcome(check, UNKNOWN)
    wrong = {name: values for name, values in found.items() if not agrees(*values)}
    if wrong:
        return Outcome(check, SILENT, ", ".join(wrong), wrong)
    return Outcome(check, RIGHT)


def agrees(value: Any, exact: float, error: float = 0.0) -> bool:
    if value is None:
        return True
    value = float(value)
    return math.isfinite(value) and abs(value - exact) <= error + TOLERANCE * (1 + abs(exact))


def _is_own(error: BaseException) -> bool:
    """Whether the library raised it, or what it lets a user's program raise."""
    if isinstance(error.__cause__, NameError | AttributeError | AssertionError):
        return False  # an error within the library, said in other words
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.startswith(PACKAGE)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else ""


# ---- objectives


@dataclass(frozen=True)
class Objective:
    """An objective with its weights.

    Attributes:
        cls: its class in ``pyro_infomax.infer``.
        label: ``"beta"``, ``"lam"`` or ``"weights"``.
        weight: a number, or numbers by site, or by term where it is ``"weights"``.
        given_as: ``"number"``, ``"tensor"``, or the start of a ``"schedule"``.
    """

    cls: str
    label: str
    weight: Any
    given_as: str = "number"

    @property
    def source(self) -> str:
        return f"{self.cls}({self.label}={self.weight!r})"

    @property
    def enumerates(self) -> bool:
        return self.cls.startswith("TraceEnum")

    def built(self, **options: Any) -> Any:
        make = {
            "number": float,
            "tensor": torch.tensor,
            "schedule": lambda weight: Linear(weight, 9.0, steps=7),
        }
        given = make[self.given_as]
        plain = self.weight
        weight = {name: given(w) for name, w in plain.items()} if isinstance(plain, dict) else given(plain)
        return getattr(infer, self.cls)(**{self.label: weight}, **options)

    def counts(self, role: str, name: str) -> float:
        """What a site counts for in the loss."""
        if self.label == "weights":
            return self.weight["distortion" if role == "observed" else "rate"]
        if isinstance(self.weight, dict):
            names = [each for part in name.split("+") for each in (part, part.rsplit("_", 1)[0])]
            names += [f"{each}_0" for each in names]  # of the rows of a sequential plate
            weights = {self.weight[each] for each in names if each in self.weight} or {None}
            (weight,) = weights
        else:
            weighed = role == "observed" if self.label == "lam" else role != "observed"
            weight = self.weight if weighed else None
        if weight is None:
            return 1.0
        return weight + 1.0 if self.label == "lam" else weight


ESTIMATORS: Final = ("Trace", "TraceMeanField", "TraceGraph", "TraceEnum")


def objectives(pair: Pair, rng: np.random.Generator) -> Iterator[Objective]:
    """Every class of objective, each with weights of its own."""
    for estimator in ESTIMATORS:
        for name, label in (("BetaELBO", "beta"), ("InfoMaxELBO", "lam"), ("WeightedELBO", "weights")):
            given_as = str(rng.choice(["number", "number", "tensor", "schedule"]))
            if label == "weights":
                rate, distortion = (float(rng.choice([0.0, 0.5, 1.0, 3.0])) for _ in range(2))
                weight: Any = {"rate": rate, "distortion": distortion}
            else:
                weight = _weight(pair, label, estimator, rng)
            yield Objective(f"{estimator}_{name}", label, weight, given_as)


def _weight(pair: Pair, label: str, estimator: str, rng: np.random.Generator) -> Any:
    number = float(rng.choice([0.0, 0.25, 0.5, 2.0, 4.0] if label == "beta" else [-0.5, 0.0, 1.0, 3.0]))
    component = _summed_together(pair)
    if component and estimator == "TraceEnum":
        # what is summed together has to count alike
        rows = [f"_{row}" for row in range(pair.rows)] if pair.sequential else [""]
        names = [f"{name}{row}" for name in component for row in rows]
        return dict.fromkeys(names, number if label == "lam" or number else 0.5)
    if rng.random() < 0.3 and not pair.sequential:
        site = pair.model[int(rng.integers(len(pair.model)))]
        return {site.name.split("_")[0]: number}
    return number


def _summed_together(pair: Pair) -> list[str]:
    enumerated = {site.name for site in pair.enumerated_in_model}
    return [site.name for site in pair.model if enumerated & {site.name, *site.parents}]


_LAST: list[tuple[Pair, Answers]] = []


def exact(pair: Pair) -> Answers:
    """The exact answers; those of the pair that was last asked for are kept."""
    if not _LAST or _LAST[0][0] is not pair:
        _LAST[:] = [(pair, answers_of(pair))]
    return _LAST[0][1]


def expected(pair: Pair, objective: Objective) -> dict[str, float]:
    """The exact loss, terms and gradients."""
    answers = exact(pair)

    def loss(costs: Costs) -> float:
        return costs.weighted(objective.counts)

    return {
        "loss": loss(answers.costs),
        "stands for": pair.shown * pair.row_scale,
        "distortion": answers.costs.distortion,
        "rate": answers.costs.rate,
        "elbo": -answers.costs.distortion - answers.costs.rate,
        "gradient of theta": answers.gradient("theta", loss),
        "gradient of phi": answers.gradient("phi", loss),
    }


def check_objective(pair: Pair, objective: Objective, *, validate: bool, method: str) -> Outcome:
    """Loss, terms and gradients of an objective, averaged over a population of draws."""
    name = f"{objective.cls}.{method}"

    right = expected(pair, objective)

    def run() -> dict[str, tuple[Any, float]]:
        found = evaluated(pair, objective, validate=validate, method=method)
        return {quantity: (value, right[quantity]) for quantity, value in found.items()}

    return outcome(name, run)


METHODS: Final = ("loss_and_grads", "loss", "differentiable_loss", "surrogate", "one by one")


def evaluated(pair: Pair, objective: Objective, *, validate: bool, method: str) -> dict[str, float]:
    """What the library says, over each block of rows that a subsample can take."""
    pyro.clear_param_store()
    blocks = [()] if pair.plate != "subsample" else np.arange(pair.rows).reshape(-1, pair.batch).tolist()
    made = built(pair)
    sums: dict[str, float] = {}
    for block in blocks:
        with pyro.validation_enabled(validate):
            one = _evaluated_once(pair, objective, made, method, block)
        for quantity, value in one.items():
            sums[quantity] = sums.get(quantity, 0.0) + value / len(blocks)
    return sums


def _evaluated_once(pair: Pair, objective: Objective, made: Any, method: str, block: Any) -> dict[str, float]:
    population = Population(pair, enumerated=objective.enumerates, rows=block)
    alone = method == "one by one" or population.size == 1
    if any(site.enumerated == "sequential" for site in pair.guide) and population.size > 1:
        alone = False  # a particle is several runs
    options: dict[str, Any] = {"num_particles": population.size, "vectorize_particles": not alone}
    if pair.nesting_given:
        options["max_plate_nesting"] = pair.nesting
    elbo = objective.built(**options)
    guide = population(made.guide) if alone else made.guide
    for parameter in parameters_of(made):
        parameter.grad = None
    with population:
        if method in ("loss_and_grads", "one by one"):
            loss = elbo.loss_and_grads(made.model, guide, *made.data)
        elif method == "loss":
            with torch.no_grad():
                loss = elbo.loss(made.model, guide, *made.data)
        elif method == "surrogate":
            found = infer.surrogate_loss(elbo, made.model, guide, *made.data)
            loss = found.loss
            if found.surrogate.requires_grad:
                found.surrogate.backward()
        else:
            tensor = elbo.differentiable_loss(made.model, guide, *made.data)
            loss = tensor
            if tensor.requires_grad:
                tensor.backward()
    terms = elbo.terms
    result = {name: float(terms[name]) for name in ("distortion", "rate", "elbo")}
    # what a differentiable loss of score functions is worth means nothing
    result["loss"] = float(loss)
    result["stands for"] = float(elbo.stands_for(pair.shown))
    if method != "loss":
        result |= {f"gradient of {name}": value for name, value in gradients(made).items()}
    return result


def parameters_of(made: Any) -> list[torch.Tensor]:
    return list(_named(made).values())


def _named(made: Any) -> dict[str, torch.Tensor]:
    found = {}
    for name, value in pyro.get_param_store().named_parameters():
        found[name.split("$$$")[-1]] = value
    return found


def gradients(made: Any) -> dict[str, float]:
    named = _named(made)
    grads = {name: named[name].grad if name in named else None for name in ("theta", "phi")}
    return {name: 0.0 if grad is None else float(grad) for name, grad in grads.items()}


@dataclass(frozen=True)
class ObjectiveCheck:
    """An objective, by one of the ways to evaluate it."""

    objective: Objective
    validate: bool
    method: str

    def __call__(self, pair: Pair) -> Outcome:
        return check_objective(pair, self.objective, validate=self.validate, method=self.method)

    def simpler(self) -> "Iterator[ObjectiveCheck]":
        plain = {"beta": 1.0, "lam": 0.0}.get(self.objective.label, {"rate": 1.0, "distortion": 1.0})
        if self.objective.given_as != "number":
            yield replace(self, objective=replace(self.objective, given_as="number"))
        if self.objective.weight != plain:
            yield replace(self, objective=replace(self.objective, weight=plain))
        if self.method != "loss_and_grads":
            yield replace(self, method="loss_and_grads")
        if not self.validate:
            yield replace(self, validate=True)

    def script(self) -> str:
        """What shows the library's value, to stand after the pair's source."""
        return f"""
from pyro_infomax.infer import {self.objective.cls}

pyro.enable_validation({self.validate})
weights = {{"{self.objective.label}": {self.objective.weight!r}}}
elbo = {self.objective.cls}(**weights, num_particles=10_000, vectorize_particles=True)
loss = elbo.loss_and_grads(model, guide, *data)
print("loss", loss, elbo.terms)
print({{name: value.grad for name, value in pyro.get_param_store().named_parameters()}})
"""


def objective_checks(pair: Pair, rng: np.random.Generator) -> Iterator[ObjectiveCheck]:
    """A check of every objective."""
    for objective in objectives(pair, rng):
        validate = bool(rng.random() < 0.5)
        method = str(rng.choice(METHODS, p=[0.5, 0.1, 0.1, 0.15, 0.15]))
        if method == "differentiable_loss" and objective.cls.startswith("TraceGraph"):
            method = "loss_and_grads"
        yield ObjectiveCheck(objective, validate, method)
