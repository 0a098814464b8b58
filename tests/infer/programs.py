"""Pairs of programs of known distortion and rate, as torch functions of the same parameters."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.nn.functional import logsigmoid

from pyro_infomax.capture._graph import RecordedGraph

Parameters = Mapping[str, torch.Tensor]

# What a guide may do beside sampling z: each has a cost of its own, which counts as rate.
GUIDE_COSTS = ("guide_factor", "score_factor", "global_factor", "auxiliary")
SUBSAMPLE = (0, 3)
MASK = (True, False, True, True)
OBSERVED = (True, True, False, True)
SCALE = 2.5


class Pair:
    """What the pairs share: four data, the variants' contexts, and the loss of given weights."""

    data: tuple[float, ...]
    start: Mapping[str, Any]

    def __init__(self, variant: str = "plain") -> None:
        self.variant = variant
        self.x = torch.tensor(self.data, dtype=torch.float64)

    def parameters(self) -> dict[str, torch.Tensor]:
        return {
            name: torch.tensor(value, dtype=torch.float64, requires_grad=True)
            for name, value in self.start.items()
        }

    def param(self, name: str) -> torch.Tensor:
        return pyro.param(name, torch.tensor(self.start[name], dtype=torch.float64))

    @contextmanager
    def plate(self) -> Iterator[torch.Tensor]:
        chosen = torch.tensor(SUBSAMPLE) if self.variant == "subsampled" else None
        with ExitStack() as stack:
            if self.variant == "scaled":
                stack.enter_context(poutine.scale(scale=SCALE))
            if self.variant == "masked":
                stack.enter_context(poutine.mask(mask=torch.tensor(MASK)))
            yield self.x[stack.enter_context(pyro.plate("data", len(self.x), subsample=chosen))]

    def latent_context(self) -> Any:
        """Masks the latent alone, on which the likelihood goes on to depend."""
        return poutine.mask(mask=torch.tensor(MASK)) if self.variant == "latent_masked" else nullcontext()

    def likelihood_context(self) -> Any:
        return poutine.scale(scale=SCALE) if self.variant == "likelihood_scaled" else nullcontext()

    def counts(self) -> torch.Tensor:
        """What each datum counts for, by its plate, its scale and its mask."""
        counts = torch.ones(len(self.x), dtype=torch.float64)
        if self.variant == "subsampled":
            counts = torch.tensor([len(self.x) / 2 if n in SUBSAMPLE else 0.0 for n in range(len(self.x))])
        if self.variant == "masked":
            counts = torch.tensor(MASK).double()
        return counts * SCALE if self.variant == "scaled" else counts

    def distortion(self, p: Parameters) -> torch.Tensor:
        observed = self.counts()
        if self.variant == "obs_masked":
            observed = torch.tensor(OBSERVED).double()
        if self.variant == "likelihood_scaled":
            observed = observed * SCALE
        return (observed * self.distortions(p)).sum()

    def rate(self, p: Parameters) -> torch.Tensor:
        rate = (self.counts() * self.rates(p)).sum()
        if self.variant in GUIDE_COSTS:
            rate = rate + self.guide_costs(p).sum()
        if self.variant == "obs_masked":
            rate = rate + (~torch.tensor(OBSERVED) * self.missing_rates(p)).sum()
        return rate

    def distortions(self, p: Parameters) -> torch.Tensor:
        raise NotImplementedError

    def rates(self, p: Parameters) -> torch.Tensor:
        raise NotImplementedError

    def guide_costs(self, p: Parameters) -> torch.Tensor:
        """The expectation of what only the guide has at each datum."""
        raise NotImplementedError

    def missing_rates(self, p: Parameters) -> torch.Tensor:
        """What imputing each datum would cost."""
        raise NotImplementedError


class NormalPair(Pair):
    """z ~ N(0, 1), x ~ N(w z, σ) and the guide z ~ N(a x + b, s), each with a log scale."""

    data = (0.9, -1.4, 0.3, 2.1)
    start = {
        "a": 0.4,
        "b": -0.2,
        "log_s": -0.5,
        "w": 0.8,
        "log_sigma": 0.3,
        "c": 0.7,
        "imputed": 0.5,
        "log_t": -0.3,
    }

    def model(self) -> None:
        w, sigma = self.param("w"), self.param("log_sigma").exp()
        with self.plate() as x:
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            obs_mask = torch.tensor(OBSERVED) if self.variant == "obs_masked" else None
            with self.likelihood_context():
                pyro.sample("x", dist.Normal(w * z, sigma), obs=x, obs_mask=obs_mask)

    def guide(self) -> None:
        a, b, s = self.param("a"), self.param("b"), self.param("log_s").exp()
        with self.plate() as x:
            z = pyro.sample("z", dist.Normal(a * x + b, s))
            if self.variant == "guide_factor":
                pyro.factor("f", self.param("c") * z, has_rsample=True)
            if self.variant == "auxiliary":
                auxiliary = dist.Normal(z, self.param("c").exp())
                pyro.sample("u", auxiliary, infer={"is_auxiliary": True})
            if self.variant == "obs_masked":
                with poutine.mask(mask=~torch.tensor(OBSERVED)):
                    imputed = dist.Normal(self.param("imputed"), self.param("log_t").exp())
                    pyro.sample("x_unobserved", imputed.expand(x.shape))

    def moments(self, p: Parameters) -> tuple[torch.Tensor, torch.Tensor]:
        return p["a"] * self.x + p["b"], (2 * p["log_s"]).exp()

    def distortions(self, p: Parameters) -> torch.Tensor:
        mean, variance = self.moments(p)
        square = (self.x - p["w"] * mean) ** 2 + p["w"] ** 2 * variance
        return 0.5 * math.log(2 * math.pi) + p["log_sigma"] + square / (2 * (2 * p["log_sigma"]).exp())

    def rates(self, p: Parameters) -> torch.Tensor:
        mean, variance = self.moments(p)
        return 0.5 * (mean**2 + variance - 1.0 - variance.log())

    def guide_costs(self, p: Parameters) -> torch.Tensor:
        if self.variant == "auxiliary":  # minus the entropy of u given z
            return -(0.5 * math.log(2 * math.pi * math.e) + p["c"]).expand(len(self.x))
        return p["c"] * self.moments(p)[0]

    def missing_rates(self, p: Parameters) -> torch.Tensor:
        mean, variance = self.moments(p)
        square = (
            (2 * p["log_t"]).exp() + (p["imputed"] - p["w"] * mean) ** 2 + p["w"] ** 2 * variance
        )  # E (x − w z)²
        return p["log_sigma"] - p["log_t"] + square / (2 * (2 * p["log_sigma"]).exp()) - 0.5


class DiscretePair(Pair):
    """z ~ Categorical(3), x ~ Bernoulli(θ_z) and the guide z ~ Categorical of logits that are linear in x."""

    data = (1.0, 0.0, 1.0, 0.0)
    start = {
        "prior": [0.2, -0.4, 0.5],
        "theta": [-1.5, 0.3, 2.0],
        "bias": [0.1, 0.6, -0.3],
        "slope": [-0.8, 0.2, 0.9],
        "c": 0.7,
        "imputed": 0.4,
    }

    def __init__(self, variant: str = "plain", *, enumerate: str | None = None) -> None:
        super().__init__(variant)
        self.infer = {"enumerate": enumerate} if enumerate else {}

    def model(self) -> None:
        prior, theta = self.param("prior"), self.param("theta")
        with self.plate() as x:
            with self.latent_context():
                z = pyro.sample("z", dist.Categorical(logits=prior.expand(len(x), 3)))
            obs_mask = torch.tensor(OBSERVED) if self.variant == "obs_masked" else None
            with self.likelihood_context():
                pyro.sample("x", dist.Bernoulli(logits=theta[z]), obs=x, obs_mask=obs_mask)

    def guide(self) -> None:
        bias, slope = self.param("bias"), self.param("slope")
        with self.plate() as x:
            with self.latent_context():
                z = pyro.sample("z", dist.Categorical(logits=bias + slope * x[:, None]), infer=self.infer)
            if self.variant == "guide_factor":
                pyro.factor("f", self.param("c") * z, has_rsample=True)
            if self.variant == "score_factor":
                pyro.factor("f", 0.7 * z, has_rsample=False)
            if self.variant == "auxiliary":
                auxiliary = dist.Bernoulli(logits=self.param("c") * z)
                pyro.sample("u", auxiliary, infer={"is_auxiliary": True, **self.infer})
            if self.variant == "obs_masked":
                with poutine.mask(mask=~torch.tensor(OBSERVED)):
                    imputed = dist.Bernoulli(logits=self.param("imputed"))
                    pyro.sample("x_unobserved", imputed.expand(x.shape), infer=self.infer)
        if self.variant == "global_factor":
            pyro.factor("f", self.param("c") * z.sum(-1, keepdim=True), has_rsample=True)

    def log_posterior(self, p: Parameters) -> torch.Tensor:
        return (p["bias"] + p["slope"] * self.x[:, None]).log_softmax(-1)  # (data, z)

    def distortions(self, p: Parameters) -> torch.Tensor:
        log_likelihood = logsigmoid(torch.where(self.x[:, None] > 0, p["theta"], -p["theta"]))
        return -(self.log_posterior(p).exp() * log_likelihood).sum(-1)

    def rates(self, p: Parameters) -> torch.Tensor:
        log_q = self.log_posterior(p)
        return (log_q.exp() * (log_q - p["prior"].log_softmax(-1))).sum(-1)

    def guide_costs(self, p: Parameters) -> torch.Tensor:
        logits = p["c"] * torch.arange(3.0)  # (z,)
        costs = 0.7 * torch.arange(3.0) if self.variant == "score_factor" else logits
        if self.variant == "auxiliary":  # minus the entropy of u given z
            log_u = logsigmoid(torch.stack([-logits, logits], -1))  # (z, u)
            costs = (log_u.exp() * log_u).sum(-1)
        return (self.log_posterior(p).exp() * costs).sum(-1)

    def missing_rates(self, p: Parameters) -> torch.Tensor:
        log_imputed = logsigmoid(torch.stack([-p["imputed"], p["imputed"]]))  # (x,)
        log_x = logsigmoid(torch.stack([-p["theta"], p["theta"]], -1))  # (z, x)
        divergence = (log_imputed.exp() * (log_imputed - log_x)).sum(-1)  # (z,)
        return (self.log_posterior(p).exp() * divergence).sum(-1)

    def log_weights(self, p: Parameters, *, observed: float) -> torch.Tensor:
        """Of each datum and value of z, without plate scales: (data, z)."""
        log_likelihood = logsigmoid(torch.where(self.x[:, None] > 0, p["theta"], -p["theta"]))
        if self.variant == "likelihood_scaled":
            log_likelihood = log_likelihood * SCALE
        costs = {"guide_factor": p["c"], "score_factor": 0.7}.get(self.variant, 0.0) * torch.arange(3.0)
        log_ratio = p["prior"].log_softmax(-1) - self.log_posterior(p)
        if self.variant == "latent_masked":
            log_ratio = log_ratio * torch.tensor(MASK)[:, None]
        log_weights = observed * log_likelihood + log_ratio - costs
        return log_weights * torch.tensor(MASK)[:, None] if self.variant == "masked" else log_weights


class TwoLatents:
    """z1, z2 ~ N(0, 1), x ~ N(z1, 1), y ~ N(z2, 1) and the guide z1 ~ N(m1, s1), z2 ~ N(m2, s2)."""

    start = {"m1": 0.4, "m2": -0.7, "log_s1": -0.5, "log_s2": 0.2}
    data = {"x": 0.9, "y": -1.4}

    parameters, param = Pair.parameters, Pair.param

    def model(self) -> None:
        z1, z2 = pyro.sample("z1", dist.Normal(0.0, 1.0)), pyro.sample("z2", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z1, 1.0), obs=torch.tensor(self.data["x"]))
        pyro.sample("y", dist.Normal(z2, 1.0), obs=torch.tensor(self.data["y"]))

    def guide(self) -> None:
        pyro.sample("z1", dist.Normal(self.param("m1"), self.param("log_s1").exp()))
        pyro.sample("z2", dist.Normal(self.param("m2"), self.param("log_s2").exp()))

    def costs(self, p: Parameters) -> dict[str, torch.Tensor]:
        """What each site costs: −E log p of x and y, the divergence of z1 and z2."""
        costs = {}
        for datum, latent, m, log_s in (("x", "z1", "m1", "log_s1"), ("y", "z2", "m2", "log_s2")):
            mean, variance = p[m], (2 * p[log_s]).exp()
            square = (self.data[datum] - mean) ** 2 + variance
            costs[datum] = 0.5 * math.log(2 * math.pi) + 0.5 * square
            costs[latent] = 0.5 * (mean**2 + variance - 1.0) - p[log_s]
        return costs

    def expected(self, weights: Mapping[str, float]) -> "Reference":
        p = self.parameters()
        costs = self.costs(p)
        loss = sum((weights.get(name, 1.0) * cost for name, cost in costs.items()), torch.zeros(()))
        gradient = _flat(torch.autograd.grad(loss, list(p.values())))
        distortion, rate = costs["x"] + costs["y"], costs["z1"] + costs["z2"]
        return Reference(loss.detach(), gradient, distortion.detach(), rate.detach())


class Reference(NamedTuple):
    """What an objective must give: its loss, the loss's gradient, and the unweighted terms."""

    loss: torch.Tensor
    gradient: torch.Tensor
    distortion: torch.Tensor
    rate: torch.Tensor


def reference(pair: Pair, *, observed: float = 1.0, latent: float = 1.0) -> Reference:
    p = pair.parameters()
    distortion, rate = pair.distortion(p), pair.rate(p)
    loss = observed * distortion + latent * rate
    gradients = torch.autograd.grad(loss, list(p.values()), allow_unused=True, materialize_grads=True)
    return Reference(loss.detach(), _flat(gradients), distortion.detach(), rate.detach())


class Estimate(NamedTuple):
    """The means over repeated evaluations of an objective, and their standard errors."""

    mean: Reference
    standard_error: Reference


def evaluate(elbo: Any, pair: Any) -> Reference:
    """One ``loss_and_grads``, its gradients in the order of the pair's parameters."""
    pyro.clear_param_store()
    loss = elbo.loss_and_grads(pair.model, pair.guide)
    store = pyro.get_param_store()
    used = {name: store[name].unconstrained().grad for name in pair.start if name in store}
    gradients = [used.get(name) for name in pair.start]
    p = pair.parameters().values()
    flat = _flat(torch.zeros_like(v) if g is None else g for g, v in zip(gradients, p, strict=True))
    return Reference(
        torch.tensor(loss), flat, torch.tensor(elbo.terms.distortion), torch.tensor(elbo.terms.rate)
    )


@functools.cache
def estimated(
    make_pair: type[Pair],
    variant: str,
    make_elbo: Callable[..., Any],
    *,
    num_particles: int = 500,
    repeats: int = 20,
    **weight: float,
) -> Estimate:
    """Repeated evaluations from seed 0, kept for all tests of one objective on one pair."""
    torch.manual_seed(0)
    pair = make_pair(variant)
    elbo = many_particles(make_elbo, num_particles=num_particles, **weight)
    return repeated(elbo, pair, repeats=repeats)


def many_particles(make_elbo: Callable[..., Any], *, num_particles: int = 500, **weight: Any) -> Any:
    return make_elbo(
        num_particles=num_particles,
        vectorize_particles=True,
        max_plate_nesting=1,
        strict_enumeration_warning=False,
        **weight,
    )


def repeated(elbo: Any, pair: Any, *, repeats: int = 20) -> Estimate:
    """The mean of repeated evaluations."""
    draws = zip(*(evaluate(elbo, pair) for _ in range(repeats)), strict=True)
    fields = [torch.stack(field) for field in draws]
    means = Reference(*(field.mean(0) for field in fields))
    return Estimate(means, Reference(*(field.std(0) / math.sqrt(repeats) for field in fields)))


def _flat(tensors: Any) -> torch.Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def beyond_error(
    estimate: Estimate, expected: Reference, fields: Sequence[str] = Reference._fields, *, errors: float = 5.0
) -> list[str]:
    """The fields that are off by so many standard errors, t-distributed with 19 degrees of freedom."""
    return [
        field
        for field in fields
        if not (
            (getattr(estimate.mean, field) - getattr(expected, field)).abs()
            <= errors * getattr(estimate.standard_error, field) + 1e-9
        ).all()
    ]


def differing(found: Reference, expected: Reference) -> list[str]:
    """The fields of an exact evaluation that are off."""
    return [
        field
        for field, value in expected._asdict().items()
        if not torch.allclose(getattr(found, field), value, rtol=0.0, atol=1e-10)
    ]


def assert_refused(error: type[Exception], sentence: str, evaluate: Callable[..., Any], *args: Any) -> None:
    """Whether it raises with these words, with Pyro's validation and without."""
    for validate in (True, False):
        with pyro.validation_enabled(validate), pytest.raises(error, match=sentence):
            evaluate(*args)


class Recording:
    """The evaluation of an objective as a graph of tensor operations, which data and weights enter.

    Parameters stay those of the store, so that the graph sees them move.
    """

    def __init__(
        self, elbo: Any, model: Any, guide: Any, x: torch.Tensor, weights: Mapping[str, torch.Tensor]
    ) -> None:
        self.elbo, self.model, self.guide = elbo, model, guide
        elbo.loss(model, guide, x)  # makes the parameters
        with pyro.validation_enabled(False):
            self.graph = RecordedGraph(self._evaluation(tuple(weights)), (x, *weights.values())).module

    def _evaluation(self, names: Sequence[str]) -> Callable[..., tuple[torch.Tensor, ...]]:
        def evaluation(x: torch.Tensor, *weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
            with self.elbo.given_weights(dict(zip(names, weights, strict=True))):
                return tuple(evaluated_in_tensors(self.elbo, self.model, self.guide, x))

        return evaluation

    def __call__(self, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        with torch.no_grad():
            return list(self.graph(x, *weights.values()))


def evaluated_in_tensors(elbo: Any, model: Any, guide: Any, *args: Any) -> list[torch.Tensor]:
    """Loss, distortion, rate and ELBO of a surrogate, then the gradients of the store's parameters."""
    found = elbo.surrogate(model, guide, *args)
    distortion, rate = found.terms["distortion"], found.terms["rate"]
    bound = found.terms.get("elbo", -distortion - rate)
    gradients = torch.autograd.grad(
        found.surrogate, list(_parameters().values()), allow_unused=True, materialize_grads=True
    )
    return [each.detach() for each in (found.loss, distortion, rate, bound, *gradients)]


def evaluated(elbo: Any, model: Any, guide: Any, *args: Any) -> list[torch.Tensor]:
    """The same by ``loss_and_grads`` and terms; of Pyro's own objectives the loss and the gradients."""
    for parameter in _parameters().values():
        parameter.grad = None
    loss = elbo.loss_and_grads(model, guide, *args)
    terms = getattr(elbo, "terms", None)
    values = [loss] if terms is None else [loss, terms.distortion, terms.rate, terms.elbo]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in _parameters().values()]
    return [*map(torch.tensor, values), *gradients]


def _parameters() -> dict[str, torch.Tensor]:
    store = pyro.get_param_store()
    return {name: store[name].unconstrained() for name in sorted(store)}


def move_parameters() -> None:
    """Moves the parameters in place, as an optimiser does."""
    with torch.no_grad():
        for parameter in _parameters().values():
            parameter.add_(0.3 * torch.randn_like(parameter))


def agree(found: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    """Whether all tensors are the same to twelve digits."""
    pairs = zip(found, expected, strict=True)
    return all(torch.allclose(a, b, rtol=1e-12, atol=1e-12) for a, b in pairs)
