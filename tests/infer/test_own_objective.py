"""Objectives with weights and terms of their own."""

import copy
import math
import pickle
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, TraceMeanField_ELBO
from torch.distributions import Independent, Normal, kl_divergence

from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.distributions import StraightThroughBernoulli
from pyro_infomax.infer import (
    BetaELBO,
    InfoMaxELBO,
    Trace_WeightedELBO,
    TraceEnum_WeightedELBO,
    TraceGraph_WeightedELBO,
    TraceMeanField_WeightedELBO,
    WeightedELBO,
)
from pyro_infomax.information import BatchMixture
from pyro_infomax.schedules import Linear
from pyro_infomax.training import fit

N, D = 12, 2
X = torch.randn(N, D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
PARTS = ("mutual_information", "total_correlation", "dimensionwise_kl")


class TCVAE(TraceMeanField_WeightedELBO):
    """The rate in three parts, by the mixture of the minibatch."""

    def latent_cost(self, model_site, guide_site):
        z, posterior, prior = guide_site["value"], guide_site["fn"], model_site["fn"]
        aggregate = BatchMixture(posterior, data_size=N)
        log_q = aggregate.log_prob(z[None])[0]
        log_q_product = aggregate.log_prob_marginals(z[None])[0].sum(-1)
        return {
            "mutual_information": posterior.log_prob(z) - log_q,
            "total_correlation": log_q - log_q_product,
            "dimensionwise_kl": log_q_product - prior.log_prob(z),
        }


class Halves(TraceMeanField_WeightedELBO):
    """The divergence in two equal parts."""

    def latent_cost(self, model_site, guide_site):
        half = super().latent_cost(model_site, guide_site)["rate"] / 2
        return {"one": half, "other": half}


def model(x):
    with pyro.plate("data", N, subsample_size=len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        w = pyro.param("w", torch.eye(D))
        pyro.sample("x", dist.Normal(z @ w, 0.5).to_event(1), obs=x)


def guide(x):
    with pyro.plate("data", N, subsample_size=len(x)):
        loc = x @ pyro.param("a", 0.6 * torch.eye(D)) + pyro.param("b", torch.zeros(D))
        pyro.sample("z", dist.Normal(loc, pyro.param("log_scale", torch.zeros(D)).exp()).to_event(1))


def by_hand(x):
    """Each part as plain loops over data and components have it, and its gradient."""
    store = pyro.get_param_store()
    a, b, log_scale = (store[name].unconstrained() for name in ("a", "b", "log_scale"))
    z = poutine.trace(guide).get_trace(x).nodes["z"]["value"]
    loc, scale = x @ a + b, log_scale.exp()
    size = len(x)

    def mixture(log_prob):
        """log of the own component's 1/N and the others' shared rest, (data,)."""
        rows = []
        for i in range(size):
            scores = torch.stack([log_prob(z[i], loc[n]) for n in range(size)])
            weights = torch.full((size,), (N - 1) / N / (size - 1))
            weights[i] = 1 / N
            rows.append((weights.log() + scores).logsumexp(0))
        return torch.stack(rows)

    joint = mixture(lambda value, mean: Normal(mean, scale).log_prob(value).sum())
    product = sum(
        mixture(lambda value, mean, j=j: Normal(mean[j], scale[j]).log_prob(value[j])) for j in range(D)
    )
    own = Normal(loc, scale).log_prob(z).sum(-1)
    prior = Normal(0.0, 1.0).log_prob(z).sum(-1)
    parts = dict(zip(PARTS, (own - joint, joint - product, product - prior), strict=True))
    return {name: part.sum() * N / size for name, part in parts.items()}


def gradients():
    leaves = {name: each.unconstrained() for name, each in pyro.get_param_store().items()}
    return {name: leaf.grad.clone() for name, leaf in leaves.items() if leaf.grad is not None}


def initialised():
    pyro.clear_param_store()
    TCVAE().loss(model, guide, X)
    for name in pyro.get_param_store():
        pyro.get_param_store()[name].unconstrained().grad = None


# ---- terms and gradients, each by itself


@pytest.mark.parametrize("size", [N, 5])
@pytest.mark.parametrize("part", PARTS)
def test_each_part_and_its_gradient_are_those_of_plain_loops(part, size):
    initialised()
    weights = {"distortion": 0.0} | {name: float(name == part) for name in PARTS}
    elbo = TCVAE(weights=weights)
    torch.manual_seed(5)
    loss = elbo.loss_and_grads(model, guide, X[:size])
    found = gradients()
    torch.manual_seed(5)
    expected = by_hand(X[:size])[part]
    assert loss == pytest.approx(expected.item(), rel=1e-10)
    assert elbo.terms[part] == pytest.approx(expected.item(), rel=1e-10)
    names = ("a", "b", "log_scale")
    leaves = [pyro.get_param_store()[name].unconstrained() for name in names]
    for name, gradient in zip(names, torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-10)


def test_terms_are_unweighted_and_the_rate_is_there_too():
    initialised()
    elbo = TCVAE(weights={"total_correlation": 7.0, "mutual_information": -1.0})
    loss = elbo.loss(model, guide, X)
    terms = elbo.terms
    assert list(terms) == ["distortion", "rate", "elbo", "loss", *PARTS]
    weighted = terms.distortion + 7 * terms.total_correlation - terms.mutual_information
    assert loss == terms.loss == pytest.approx(weighted + terms.dimensionwise_kl, rel=1e-12)
    store = pyro.get_param_store()
    posterior = Independent(Normal(X @ store["a"] + store["b"], store["log_scale"].exp()), 1)
    rate = kl_divergence(posterior, Independent(Normal(torch.zeros(D), 1.0), 1)).sum()
    assert terms.rate == pytest.approx(rate.item(), rel=1e-12)
    assert terms.elbo == pytest.approx(-terms.distortion - terms.rate)


def test_particles_are_averaged():
    initialised()
    elbo = TCVAE(weights={"total_correlation": 2.0}, num_particles=3)
    torch.manual_seed(1)
    loss = elbo.loss(model, guide, X)
    torch.manual_seed(1)
    single = TCVAE(weights={"total_correlation": 2.0})
    losses = []
    terms = []
    for _ in range(3):
        losses.append(single.loss(model, guide, X))
        terms.append(single.terms.total_correlation)
    assert loss == pytest.approx(sum(losses) / 3)
    assert elbo.terms.total_correlation == pytest.approx(sum(terms) / 3)


@pytest.mark.parametrize("beta", [0.0, 0.5, 4.0])
def test_parts_of_the_rate_weigh_what_the_rate_does(beta):
    found = []
    for elbo in (Halves(weights={"one": beta, "other": beta}), BetaELBO(beta=beta)):
        initialised()
        torch.manual_seed(0)
        found.append((elbo.loss_and_grads(model, guide, X), gradients()))
    (ours, our_gradients), (loss, expected) = found
    assert ours == pytest.approx(loss, rel=1e-12)
    for name, gradient in expected.items():
        torch.testing.assert_close(our_gradients[name], gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "estimator", [Trace_WeightedELBO, TraceMeanField_WeightedELBO, TraceGraph_WeightedELBO]
)
def test_open_weights_are_those_of_both_weightings(estimator):
    initialised()
    elbo = estimator(weights={"distortion": 3.0, "rate": 0.5})
    loss = elbo.loss(model, guide, X)
    assert loss == pytest.approx(3 * elbo.terms.distortion + 0.5 * elbo.terms.rate)


def test_the_named_objectives_set_one_weight_each():
    assert dict(BetaELBO(beta=2.0).weights) == {"rate": 2.0}
    assert dict(InfoMaxELBO(lam=2.0).weights) == {"distortion": 2.0}


# ---- plates, masks, weights of sites, and what only the guide has


def test_masks_and_users_weights_reach_the_terms():
    initialised()
    mask = torch.tensor([True, False] * (N // 2))

    def masked(program):
        def run(x):
            with poutine.mask(mask=mask):
                program(x)

        return run

    elbo = Halves(weights={"one": 3.0})
    elbo.loss(masked(model), masked(guide), X)
    store = pyro.get_param_store()
    posterior = Independent(Normal(X @ store["a"] + store["b"], store["log_scale"].exp()), 1)
    rate = kl_divergence(posterior, Independent(Normal(torch.zeros(D), 1.0), 1))[mask].sum()
    assert elbo.terms.one == pytest.approx(rate.item() / 2)
    assert elbo.terms.rate == pytest.approx(rate.item())


def two_sites(x, other="y"):
    with pyro.plate("data", len(x)):
        y = pyro.sample(other, dist.Normal(0.0, 1.0))
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(y + z, 1.0), obs=x)


def two_sites_guide(x, other="y"):
    with pyro.plate("data", len(x)):
        pyro.sample(other, dist.Normal(0.3 * x, 0.5))
        pyro.sample("z", dist.Normal(0.5 * x, 0.25))


def test_a_weight_may_be_a_mapping_of_sites():
    x = X[:, 0]
    elbo = Halves(weights={"one": {"z": 5.0}})
    loss = elbo.loss(two_sites, two_sites_guide, x)
    rate = kl_divergence(Normal(0.5 * x, 0.25), Normal(0.0, 1.0)).sum().item()
    terms = elbo.terms
    assert loss == pytest.approx(terms.distortion + terms.rate + 4 * rate / 2)


def test_a_weight_may_be_a_tensor_with_a_value_for_each_datum():
    x, weight = X[:, 0], torch.linspace(0.0, 2.0, N)
    elbo = Halves(weights={"one": weight, "other": 0.0})
    loss = elbo.loss(two_sites, two_sites_guide, x)
    divergences = [kl_divergence(Normal(a * x, s), Normal(0.0, 1.0)) for a, s in ((0.3, 0.5), (0.5, 0.25))]
    expected = sum((weight * each / 2).sum() for each in divergences)
    assert loss == pytest.approx(elbo.terms.distortion + expected.item())
    assert elbo.terms.one == pytest.approx(sum(each.sum() for each in divergences).item() / 2)


def test_a_mapping_may_name_sites_that_look_like_halves():
    Halves(weights={"one": {"z": 2.0, "z_observed": 3.0}}).loss(
        two_sites, two_sites_guide, X[:, 0], "z_observed"
    )
    with pytest.raises(ValueError, match="Expected one to name 'z_observed' too"):
        Halves(weights={"one": {"z": 2.0}}).loss(two_sites, two_sites_guide, X[:, 0], "z_observed")


def test_a_mapping_names_sites_of_the_model():
    with pytest.raises(ValueError, match=r"Expected one to name sites of the model, \['y', 'z', 'x'\]"):
        Halves(weights={"one": {"u": 5.0}}).loss(two_sites, two_sites_guide, X[:, 0])


@pytest.mark.parametrize("rate", [1.0, 3.0, 0.0])
def test_what_only_the_guide_has_costs_as_rate(rate):
    def with_auxiliary(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(x, 1.0), infer={"is_auxiliary": True})
            pyro.sample("y", dist.Normal(0.3 * u, 0.5))
            pyro.sample("z", dist.Normal(0.5 * x, 0.25))

    elbo = Halves(weights={"rate": rate})
    loss = elbo.loss(two_sites, with_auxiliary, X[:, 0])
    terms = elbo.terms
    auxiliary = terms.rate - terms.one - terms.other
    assert loss == pytest.approx(terms.distortion + terms.one + terms.other + rate * auxiliary)


def test_a_weight_of_zero_leaves_nothing_of_what_is_infinite():
    class Infinite(TraceMeanField_WeightedELBO):
        def latent_cost(self, model_site, guide_site):
            return {**super().latent_cost(model_site, guide_site), "worst": torch.tensor(math.inf)}

    for zero in (0.0, torch.tensor(0.0)):
        elbo = Infinite(weights={"worst": zero})
        assert math.isfinite(elbo.loss(two_sites, two_sites_guide, X[:, 0]))
        assert elbo.terms.worst == math.inf


def test_a_term_without_axes_counts_for_each_datum():
    class Constant(TraceMeanField_WeightedELBO):
        def latent_cost(self, model_site, guide_site):
            return {"constant": torch.tensor(0.5)}

    elbo = Constant()
    elbo.loss(model, guide, X[:4])  # a third of the data, scaled up
    assert elbo.terms.constant == pytest.approx(0.5 * N)


# ---- schedules, state, copies, history, captured steps: nothing of it is the author's work


def test_schedules_of_terms_advance_and_resume():
    initialised()
    elbo = TCVAE(weights={"total_correlation": Linear(1.0, 5.0, 4)})
    assert elbo.pending_steps == 4
    for _ in range(2):
        elbo.loss_and_grads(model, guide, X)
    assert elbo.pending_steps == 2
    other = TCVAE(weights={"total_correlation": Linear(1.0, 5.0, 4)})
    other.load_state_dict(elbo.state_dict())
    torch.manual_seed(2)
    loss = other.loss(model, guide, X)
    terms = other.terms
    assert loss == pytest.approx(terms.loss)
    expected = terms.distortion + terms.mutual_information + terms.dimensionwise_kl
    assert loss == pytest.approx(expected + 3 * terms.total_correlation)


def test_a_weight_can_be_set_anew():
    elbo = TCVAE(weights={"total_correlation": 1.0})
    elbo.weights["total_correlation"] = 4.0
    assert dict(elbo.weights) == {"total_correlation": 4.0}
    with pytest.raises(ValueError, match="Expected total_correlation to be finite but got nan"):
        elbo.weights["total_correlation"] = math.nan
    assert dict(elbo.weights) == {"total_correlation": 4.0}
    with pytest.raises(KeyError, match="Expected one of the weighted terms"):
        elbo.weights["typo"] = 1.0
    with pytest.raises(TypeError, match="weight 0"):
        del elbo.weights["total_correlation"]


def test_copies_keep_terms_and_weights():
    initialised()
    elbo = Halves(weights={"one": 2.0})
    elbo.loss(model, guide, X)
    for twin in (copy.deepcopy(elbo), pickle.loads(pickle.dumps(elbo))):
        assert twin.terms == elbo.terms
        assert dict(twin.weights) == dict(elbo.weights)


def trained(kind, steps=40):
    pyro.clear_param_store()
    torch.manual_seed(7)
    schedule = Linear(1.0, 4.0, 25)
    elbo = TCVAE(weights={"total_correlation": schedule, "mutual_information": torch.tensor(0.5)})
    optim = FusedOptim(torch.optim.Adam, {"lr": 0.02})
    svi = kind(model, guide, optim, elbo)
    losses = [svi.step(X[i % 3 :: 3]) for i in range(steps)]
    values = {name: each.detach().clone() for name, each in pyro.get_param_store().items()}
    return svi, losses, values, dict(elbo.terms)


def test_a_captured_step_is_the_ordinary_one():
    _, losses, values, terms = trained(SVI)
    svi, found_losses, found_values, found_terms = trained(CapturedSVI)
    assert svi.captured, svi.reason
    assert found_losses == pytest.approx(losses, rel=1e-9)
    assert found_terms == pytest.approx(terms, rel=1e-9)
    for name, value in values.items():
        torch.testing.assert_close(found_values[name], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [SVI, CapturedSVI])
def test_the_history_has_a_column_for_each_term(kind, capsys):
    pyro.clear_param_store()
    elbo = TCVAE(weights={"total_correlation": 2.0})
    svi = kind(model, guide, FusedOptim(torch.optim.Adam, {"lr": 0.01}), elbo)
    history = fit(svi, X, epochs=6, batch_size=6, validation=X, seed=0, progress="own")
    frame = history.to_frame()
    terms = ["distortion", "rate", "elbo", *PARTS]
    assert list(frame.columns[1:8]) == ["loss", *terms]
    assert {f"validation_{name}" for name in terms} <= set(frame.columns)
    weighted = frame[["distortion", "mutual_information", "dimensionwise_kl"]].sum(axis=1)
    assert frame["loss"].to_numpy() == pytest.approx((weighted + 2 * frame["total_correlation"]).to_numpy())
    assert "total_correlation=" in capsys.readouterr().err


class Penalised(TraceMeanField_ELBO):
    """An objective of Pyro's with a weight in Python: a tensor, an entry of a dict, or a number."""

    def __init__(self):
        super().__init__()
        self.tensor, self.entry, self.number = torch.tensor(1.0), {"weight": 1.0}, 1.0

    def _differentiable_loss_particle(self, model_trace, guide_trace):
        loss, surrogate = super()._differentiable_loss_particle(model_trace, guide_trace)
        penalty = (
            self.tensor * self.entry["weight"] * self.number * guide_trace.nodes["z"]["value"].square().sum()
        )
        return loss + penalty.detach().item(), surrogate + penalty


class PenalisedTerms(TraceMeanField_WeightedELBO):
    """The same as a term."""

    def __init__(self):
        super().__init__()
        self.tensor, self.entry, self.number = torch.tensor(1.0), {"weight": 1.0}, 1.0

    def latent_cost(self, model_site, guide_site):
        size = guide_site["value"].square().sum(-1)
        weight = self.tensor * self.entry["weight"] * self.number
        return {**super().latent_cost(model_site, guide_site), "size": weight * size}


def raise_tensor(elbo):
    elbo.tensor = torch.tensor(8.0)


def raise_entry(elbo):
    elbo.entry["weight"] = 8.0


def raise_number(elbo):
    elbo.number = 8.0


@pytest.mark.parametrize("objective", [Penalised, PenalisedTerms])
@pytest.mark.parametrize("change", [raise_tensor, raise_entry, raise_number])
def test_a_captured_step_sees_what_changes_in_an_objective_of_ones_own(objective, change):
    losses = {}
    for kind in (SVI, CapturedSVI):
        pyro.clear_param_store()
        torch.manual_seed(7)
        elbo = objective()
        svi = kind(model, guide, FusedOptim(torch.optim.Adam, {"lr": 0.01}), elbo)
        losses[kind] = [svi.step(X) for _ in range(20)]
        change(elbo)
        losses[kind] += [svi.step(X) for _ in range(20)]
    assert svi.captured, svi.reason
    assert losses[CapturedSVI] == pytest.approx(losses[SVI], rel=1e-9)


class Counting(Halves):
    """Does something of its own at each step."""

    def __init__(self):
        super().__init__()
        self.count = torch.zeros(())

    def loss_and_grads(self, *args, **kwargs):
        loss = super().loss_and_grads(*args, **kwargs)
        self.count += 1
        return loss

    def latent_cost(self, model_site, guide_site):
        return {name: self.count * nats for name, nats in super().latent_cost(model_site, guide_site).items()}


class Reading(Halves):
    """Reads one of its weights by itself."""

    def __init__(self):
        super().__init__(weights={"one": 1.0})

    def latent_cost(self, model_site, guide_site):
        factor = 1.0 if self.weights["one"] < 5.0 else 10.0
        return {name: factor * nats for name, nats in super().latent_cost(model_site, guide_site).items()}


@pytest.mark.parametrize(
    ("objective", "reason"),
    [(Counting, "a loss_and_grads of its own"), (Reading, "reads its weight of 'one'")],
)
def test_what_a_recorded_step_would_keep_trains_by_ordinary_steps(objective, reason):
    losses = {}
    for kind in (SVI, CapturedSVI):
        pyro.clear_param_store()
        torch.manual_seed(7)
        elbo = objective()
        svi = kind(model, guide, FusedOptim(torch.optim.Adam, {"lr": 0.01}), elbo)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            losses[kind] = [svi.step(X) for _ in range(6)]
            if objective is Reading:
                for weight in (2.0, 3.0, 4.0, 4.5, 9.0):
                    elbo.weights["one"] = weight
                    losses[kind].append(svi.step(X))
    assert losses[CapturedSVI] == losses[SVI]
    assert not svi.captured
    assert reason in str(caught[0].message)


# ---- what is refused


def test_the_bare_base_names_the_estimators():
    class Bare(WeightedELBO):
        pass

    with pytest.raises(TypeError, match=r"Bare to derive from an estimator: use TraceMeanField_WeightedELBO"):
        Bare()


@pytest.mark.parametrize("base", [Trace_WeightedELBO, TraceGraph_WeightedELBO, TraceEnum_WeightedELBO])
def test_other_estimators_take_no_terms(base):
    with pytest.raises(TypeError, match="derive it from TraceMeanField_WeightedELBO"):
        type("Own", (base,), {"latent_cost": lambda self, model_site, guide_site: {}})


@pytest.mark.parametrize("objective", [Trace_WeightedELBO, TraceMeanField_WeightedELBO])
def test_a_weight_of_no_term_is_refused_at_once(objective):
    with pytest.raises(ValueError, match=r"Expected weights of distortion and rate but .* got \['typo'\]"):
        objective(weights={"typo": 1.0})


def test_a_weight_of_a_term_that_does_not_come_is_refused():
    for name in ("typo", "rate"):
        sentence = rf"return the weighted terms \['{name}'\] but got \['one', 'other'\]"
        with pytest.raises(ValueError, match=sentence):
            Halves(weights={name: 1.0}).loss(two_sites, two_sites_guide, X[:, 0])


def test_the_recorded_rate_is_the_divergence_whatever_the_costs_are():
    class FreeRate(TraceMeanField_WeightedELBO):
        def latent_cost(self, model_site, guide_site):
            rate = super().latent_cost(model_site, guide_site)["rate"]
            return {"rate": rate - rate.clamp(max=0.1), "free": rate.clamp(max=0.1)}

    own, plain = FreeRate(weights={"free": 0.0}), TraceMeanField_WeightedELBO()
    losses = []
    for elbo in (own, plain):
        torch.manual_seed(1)
        losses.append(elbo.loss(two_sites, two_sites_guide, X[:, 0]))
    assert own.terms.rate == pytest.approx(plain.terms.rate)
    assert own.terms.elbo == pytest.approx(-losses[1])
    assert losses[0] == pytest.approx(losses[1] - own.terms.free)


@pytest.mark.parametrize("name", ["step", "pending_steps"])
def test_a_recorded_step_keeps_no_number_of_steps(name):
    class ByStep(TraceMeanField_WeightedELBO):
        def latent_cost(self, model_site, guide_site):
            rate = super().latent_cost(model_site, guide_site)["rate"]
            return {"rate": rate, "late": rate if getattr(self, name) > 4 else 0 * rate}

    losses = {}
    for kind in (SVI, CapturedSVI):
        pyro.clear_param_store()
        torch.manual_seed(7)
        svi = kind(model, guide, FusedOptim(torch.optim.Adam, {"lr": 0.01}), ByStep())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            losses[kind] = [svi.step(X) for _ in range(12)]
    assert losses[CapturedSVI] == losses[SVI]
    assert not svi.captured
    assert f"reads its {name}" in str(caught[0].message)


@pytest.mark.parametrize("value", [-1.0, math.nan, "4"])
def test_distortion_and_rate_are_not_rewarded(value):
    with pytest.raises(ValueError, match="Expected rate"):
        TraceMeanField_WeightedELBO(weights={"rate": value})


def test_one_site_has_one_weight():
    with pytest.raises(ValueError, match=r"Expected one weight a site but got two for \['z'\]"):
        Trace_WeightedELBO(weights={"distortion": {"z": 1.0}, "rate": {"z": 2.0}})


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        (
            {"own": torch.zeros(3)},
            r"a tensor of shape \(12,\), a value for each datum, or \(\) but got shape \(3,\)",
        ),
        ({"own": 1.0}, "but got float"),
        ({"loss": torch.zeros(N)}, "terms of its own but got 'loss'"),
        ({"distortion": torch.zeros(N)}, "terms of its own but got 'distortion'"),
        ({"epoch": torch.zeros(N)}, "terms of its own but got 'epoch'"),
        ({"items": torch.zeros(N)}, "terms of its own but got 'items'"),
        ({"validation_loss": torch.zeros(N)}, "terms of its own but got 'validation_loss'"),
        ({"two words": torch.zeros(N)}, "terms of its own but got 'two words'"),
    ],
)
@pytest.mark.parametrize("validate", [True, False])
def test_wrong_terms_are_refused(returned, sentence, validate):
    class Own(TraceMeanField_WeightedELBO):
        def latent_cost(self, model_site, guide_site):
            return returned

    with pyro.validation_enabled(validate), pytest.raises(ValueError, match=sentence):
        Own().loss(two_sites, two_sites_guide, X[:, 0])


def bits(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Bernoulli(0.5))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.mark.parametrize(
    ("posterior", "sentence"),
    [
        (lambda p: dist.Bernoulli(p), "needs reparameterised guide sites but 'z'"),
        (
            lambda p: StraightThroughBernoulli(torch.tensor(0.5), probs=p),
            "through which no gradient would pass",
        ),
    ],
)
@pytest.mark.parametrize("validate", [True, False])
def test_sites_without_a_gradient_through_their_value_are_refused(posterior, sentence, validate):
    def bits_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", posterior(torch.full((len(x),), 0.3)))

    with pyro.validation_enabled(validate), pytest.raises(NotImplementedError, match=sentence):
        Halves().loss(bits, bits_guide, X[:, 0])
