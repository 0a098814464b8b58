"""Refinement reaches the best posterior of the family, datum by datum, and says what it cannot reach."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_infomax import VAE, decompose, to_arviz
from pyro_infomax.diagnostics import Refinement, evidence, refine, resample
from pyro_infomax.guides import AmortizedFlow
from pyro_infomax.oracles import LinearGaussian

close = torch.testing.assert_close
W = torch.tensor([[1.0, 0.3], [0.5, 0.8], [0.2, -0.4]], dtype=torch.float64)
S2 = 0.5
PRECISION = torch.eye(2, dtype=torch.float64) + W.T @ W / S2
EXACT = torch.linalg.inv(PRECISION)
BEST = EXACT @ W.T / S2
# of the best diagonal posterior, whose variances are those given the other dimensions
APPROXIMATION_GAP = 0.5 * (PRECISION.diagonal().log().sum() - torch.logdet(PRECISION))


def pair_of(V: Tensor, Delta: Tensor) -> LinearGaussian:
    return LinearGaussian([4.0, 2.0, 1.0], W, S2, V, Delta)


def found(pair: LinearGaussian, x: Tensor, **options: object) -> Refinement:
    return refine(pair.model, pair.guide, x, **({"seed": 0} | options))  # type: ignore[arg-type]


def log_evidence(x: Tensor) -> Tensor:
    return dist.MultivariateNormal(torch.zeros(3), W @ W.T + S2 * torch.eye(3)).log_prob(x)


def elbo(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Log-evidence less the divergence of a diagonal Normal from the exact posterior, (data,)."""
    away = mean - x @ BEST.T
    quadratic = torch.einsum("ni,ij,nj->n", away, PRECISION, away)
    logs = variance.log().sum(-1) + torch.logdet(PRECISION)
    return log_evidence(x) - 0.5 * ((PRECISION.diagonal() * variance).sum(-1) - 2 - logs + quadratic)


def test_it_reaches_the_best_diagonal_of_each_datum() -> None:
    variance = torch.tensor([0.5, 0.1], dtype=torch.float64)
    pair = pair_of(0.4 * BEST, variance)
    x = pair.sample(30, seed=0)
    refined = found(pair, x, log_evidence=log_evidence(x), num_particles=8, num_steps=240)
    assert refined.converged.all()
    # by its parameters, which know of no noise of draws
    reached = elbo(x, refined.posterior.mean, refined.posterior.variance)
    gap = log_evidence(x) - reached
    assert abs(gap.mean() / APPROXIMATION_GAP - 1) < 0.02
    assert (gap < 1.1 * APPROXIMATION_GAP).all()
    # by what it says
    before = elbo(x, 0.4 * x @ BEST.T, variance)
    for found_one, truth in (
        ("elbo_before", before),
        ("elbo", reached),
        ("amortisation_gap", reached - before),
        ("approximation_gap", gap),
    ):
        error = getattr(refined, f"{found_one}_error")
        away = (getattr(refined, found_one) - truth) / error
        assert 0.6 < away.square().mean().sqrt() < 1.4, found_one
    assert "amortisation makes" in str(refined)
    assert refined.log_evidence_bound == "exact"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_full_covariance_reaches_the_exact_posterior(dtype: torch.dtype) -> None:
    x = pair_of(BEST, EXACT).sample(12, seed=0).to(dtype)
    w, v = W.to(dtype), (0.6 * BEST).to(dtype)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=dtype), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ w.T, S2**0.5).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(x @ v.T, 0.1 * torch.eye(2, dtype=dtype)))

    refined = refine(model, guide, x, num_steps=150, num_samples=50, seed=0)
    assert refined.converged.all()
    close(refined.posterior.covariance_matrix, EXACT.expand(12, 2, 2), rtol=0, atol=0.01)
    close(refined.posterior.mean, x.double() @ BEST.T, rtol=0, atol=0.01)
    assert (refined.approximation_gap < 0.005).all()
    assert (refined.amortisation_gap > 0).all()
    assert refined.log_evidence_bound == "lower"
    close(refined.log_evidence, log_evidence(x.double()), rtol=0, atol=0.01)


def test_a_low_rank_posterior_is_refined_too() -> None:
    x = pair_of(BEST, EXACT).sample(6, seed=0)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, ones = x @ BEST.T / 2, torch.ones(len(x), 2)
            pyro.sample("z", dist.LowRankMultivariateNormal(loc, 0.1 * ones[..., None], 0.2 * ones))

    refined = refine(pair_of(BEST, EXACT).model, guide, x, num_steps=140, num_samples=60, seed=0)
    assert (refined.approximation_gap < 0.02).all()
    close(refined.posterior.mean, x @ BEST.T, rtol=0, atol=0.05)


def test_an_exact_guide_has_no_gaps_and_stays() -> None:
    x = torch.randn(8)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    refined = refine(model, guide, x, num_steps=20, num_samples=50, seed=0)
    close(refined.amortisation_gap, torch.zeros(8), rtol=0, atol=1e-9)
    close(refined.approximation_gap, torch.zeros(8), rtol=0, atol=1e-9)
    assert (refined.pareto_k == -math.inf).all()
    assert refined.converged.all()
    assert not len(refined.unreliable)


def test_what_too_few_steps_leave_is_said() -> None:
    pair = pair_of(0.0 * BEST - 2, torch.tensor([0.01, 0.01]))
    refined = found(pair, pair.sample(9, seed=0), num_steps=6, num_samples=50)
    assert len(refined.unconverged) == 9
    assert "not converged in 6 steps: 9 of 9 data, 0, 1, 2, 3, 4, 5, 6, 7, 8;" in str(refined)
    assert not refined.to_frame()["converged"].any()
    assert len(refined.unreliable)
    assert "guide.widened(1.2)" in str(refined)
    assert "amortisation makes at least" in str(refined)


def test_positive_and_several_sites() -> None:
    """Gamma times Exponential is Gamma; beside it a Normal of its own."""
    x = torch.tensor([[0.5, 1.0], [2.0, -1.0], [4.0, 0.0]])

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(3.0, 2.0))
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("t", dist.Exponential(rate), obs=x[:, 0])
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x[:, 1])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("rate", dist.Gamma(1.5 + 0 * x[:, 0], 1.0))
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))

    refined = refine(model, guide, x, num_steps=200, num_samples=200, seed=0)
    rate, z = (poutine.trace(refined.guide).get_trace(x).nodes[name]["fn"] for name in ("rate", "z"))
    close(rate.mean, 4 / (2 + x[:, 0]), rtol=0.06, atol=0)
    close(rate.stddev, 2 / (2 + x[:, 0]), rtol=0.08, atol=0)
    # the precision is the identity and ones
    close(z.mean, x[:, 1:].expand(-1, 2) / 3, rtol=0, atol=0.1)
    close(z.stddev, torch.full((3, 2), 0.5**0.5), rtol=0.08, atol=0)
    gap = 0.5 * (2 * math.log(2) - math.log(3))
    assert ((refined.approximation_gap - gap).abs() < 5 * refined.approximation_gap_error + 0.02).all()


def switches(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])))
        b = pyro.sample("b", dist.Bernoulli(0.4))
        pyro.sample("x", dist.Normal(c + 2 * b, 1.0), obs=x)


def guess(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("c", dist.Categorical(torch.ones(len(x), 3)))
        pyro.sample("b", dist.Bernoulli(0.5 + 0 * x))


def test_discrete_latents_are_summed_over() -> None:
    x = torch.tensor([-1.0, 1.0, 3.5])
    refined = refine(switches, guess, x, num_samples=50, seed=0)
    c, b = torch.arange(3.0)[:, None], torch.arange(2.0)
    prior = torch.tensor([0.2, 0.3, 0.5]).log()[:, None] + torch.tensor([0.6, 0.4]).log()
    joint = prior + dist.Normal(c + 2 * b, 1.0).log_prob(x[:, None, None])  # (data, c, b)
    assert refined.log_evidence_bound == "exact"
    close(refined.log_evidence, joint.flatten(1).logsumexp(1))
    close(refined.elbo_before, (joint.flatten(1) + math.log(6)).mean(1))
    # mean-field by coordinates, started at the same place
    q_c, q_b = torch.full((3, 3), 1 / 3), torch.full((3, 2), 1 / 2)
    for _ in range(300):
        q_c = torch.einsum("ncb,nb->nc", joint, q_b).softmax(1)
        q_b = torch.einsum("ncb,nc->nb", joint, q_c).softmax(1)
    q = q_c[:, :, None] * q_b[:, None]
    close(refined.elbo, (q * (joint - q.log())).flatten(1).sum(1), rtol=0, atol=2e-3)
    assert refined.converged.all()
    assert (refined.elbo_error == 0).all()


def test_the_refined_guide_serves_on_these_data_alone() -> None:
    pair = pair_of(0.5 * BEST, torch.tensor([0.5, 0.5]))
    x = pair.sample(20, seed=0)
    refined = found(pair, x, num_steps=100, num_samples=200)
    account = decompose(pair.model, refined.guide, x, num_samples=20, seed=1)
    assert abs(account.elbo.value - refined.elbo.mean()) < 0.1
    bounds = evidence(pair.model, refined.guide, x, num_samples=200, seed=1)
    assert abs(bounds.lower.value - log_evidence(x).mean()) < 0.05
    assert to_arviz(pair.model, refined.guide, x, num_samples=3)["posterior"]["z"].shape == (1, 3, 20, 2)
    for other in (x[:10], x + 1):
        with pytest.raises(ValueError, match="refined for"):
            decompose(pair.model, refined.guide, other)


def test_wider_proposals_have_the_scales_that_are_asked_for() -> None:
    x = torch.tensor([[0.5, 1.0], [2.0, -1.0]])

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.LogNormal(0.0, 1.0))
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + rate[:, None], 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("rate", dist.LogNormal(0 * x[:, 0], 1.0))
            pyro.sample("z", dist.Normal(0 * x, 1.0).to_event(1))

    narrow = refine(model, guide, x, num_steps=4, num_samples=21, seed=0).guide
    sites = [poutine.trace(each).get_trace(x).nodes for each in (narrow, narrow.widened(1.5))]
    close(*(each["z"]["fn"].base_dist.scale * k for each, k in zip(sites, (1.5, 1.0), strict=True)))
    close(*(each["rate"]["fn"].scale * k for each, k in zip(sites, (1.5, 1.0), strict=True)))
    close(*(each["rate"]["fn"].loc for each in sites))
    with pytest.raises(ValueError, match="factor"):
        narrow.widened(0.0)


def test_widened_proposals_bring_pareto_k_down() -> None:
    pair = pair_of(0.5 * BEST, torch.tensor([0.5, 0.5]))
    x = pair.sample(20, seed=0)
    refined = found(pair, x, num_steps=100, num_samples=50)
    guides = refined.guide, refined.guide.widened(1.3)
    before, after = (resample(pair.model, each, x, num_samples=500, seed=0) for each in guides)
    assert after.pareto_k.median() < before.pareto_k.median() - 0.1
    assert not len(after.unreliable)
    close(after.standard_deviation["z"].mean(0), EXACT.diagonal().sqrt(), rtol=0.03, atol=0)


def test_what_has_no_scale_cannot_be_widened() -> None:
    refined = refine(switches, guess, torch.zeros(2), num_steps=4, num_samples=21, seed=0)
    with pytest.raises(NotImplementedError, match="location and scale to widen but that of 'c'"):
        refined.guide.widened(1.2)


def test_programs_parameters_and_random_state_stay() -> None:
    torch.manual_seed(0)
    vae = VAE(nn.Linear(4, 6), nn.Linear(2, 4), latent_dim=2, likelihood="bernoulli")
    vae.train()
    x = (torch.rand(5, 4) < 0.5).double()
    vae.model(x), vae.guide(x)
    registered = set(pyro.get_param_store())
    before = {name: each.clone() for name, each in vae.state_dict().items()}
    state = torch.get_rng_state()
    options = {"num_steps": 10, "num_samples": 30, "seed": 3}
    one, other = (refine(vae.model, vae.guide, x, **options) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one.elbo, other.elbo)
    assert vae.training
    assert all(torch.equal(each, before[name]) for name, each in vae.state_dict().items())
    assert all(each.grad is None for each in vae.parameters())
    assert set(pyro.get_param_store()) == registered


def test_posteriors_are_given_the_global_latents() -> None:
    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("loc", dist.Normal(0.5, 0.1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0 * x, 1.0))

    x = torch.tensor([0.0, 2.0])
    refined = refine(model, guide, x, num_steps=80, num_samples=50, seed=0)
    close(refined.posterior.mean.squeeze(-1), (x + 0.5) / 2, rtol=0, atol=0.02)
    assert "given the global latents" in str(refined)
    account = decompose(model, refined.guide, x, num_samples=200, seed=0)
    close(account.elbo.value, refined.elbo.mean(), rtol=0, atol=0.02)


def chained(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0 * x[:, 0], 1.0))
        pyro.sample("y", dist.Normal(z, 1.0))


def two(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        y = pyro.sample("y", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z + y, 1.0), obs=x[:, 0])


def masked(x: Tensor) -> None:
    present = torch.arange(len(x)) > 1
    with pyro.plate("data", len(x)), poutine.mask(mask=present):
        pyro.sample("z", dist.Normal(0 * x[:, 0], 1.0))
        pyro.sample("y", dist.Normal(0 * x[:, 0], 1.0))


def two_masked(x: Tensor) -> None:
    with poutine.mask(mask=torch.arange(len(x)) > 1):
        two(x)


def one(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x[:, 0])


def mixture(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        parts = dist.Normal(torch.randn(len(x), 2, 2), 1.0).to_event(1)
        pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(torch.ones(len(x), 2)), parts))


def angle(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.VonMises(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.cos(), 1.0), obs=x[:, 0])


def turn(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.VonMises(0 * x[:, 0], 1.0))


def share(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Beta(1.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])


def interval(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Uniform(0 * x[:, 0], 1.0))


def many(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Bernoulli(0.5 * torch.ones(len(x), 13)).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x[:, 0])


@pytest.mark.parametrize(
    ("model", "guide", "message"),
    [
        (two, chained, "'y' depends on 'z'"),
        (two_masked, masked, "masked for some data"),
        (one, mixture, "resample"),
        (one, lambda: AmortizedFlow(one, nn.Linear(1, 4)), "resample"),
        (angle, turn, "without gradients"),
        (share, interval, "parameters can be freed.*Uniform; resample"),
        (many, poutine.block(many, hide=["x"]), "at most 4096 values together, to sum over, but got 8192"),
    ],
    ids=["chain", "mask", "mixture", "flow", "angle", "moving edge", "many values"],
)
def test_what_cannot_be_refined_is_refused(model, guide, message: str) -> None:
    guide = guide() if getattr(guide, "__name__", "") == "<lambda>" else guide
    with pytest.raises(NotImplementedError, match=message):
        refine(model, guide, torch.randn(5, 1), num_steps=4, num_samples=21)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 1}, "num_steps to be an integer >= 2"),
        ({"num_samples": 20}, "num_samples to be an integer >= 21"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"tolerance": -1.0}, "tolerance"),
        ({"log_evidence": torch.zeros(3)}, r"log_evidence of each of 4 data, \(4,\)"),
        ({"log_evidence": torch.full((4,), math.inf)}, "with 4 values that are not finite"),
        ({"log_evidence": torch.full((4,), -1e4)}, "for 4 data it is below"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, object], message: str) -> None:
    pair = pair_of(BEST, torch.tensor([0.3, 0.3]))
    with pytest.raises(ValueError, match=message):
        found(pair, pair.sample(4, seed=0), **({"num_steps": 4, "num_samples": 21} | options))


def test_steps_that_are_too_long_are_named() -> None:
    pair = pair_of(0.5 * BEST, torch.tensor([0.3, 0.3]))
    with pytest.raises(ValueError, match=r"learning_rate=3000.0 lead beyond; take a smaller one"):
        found(pair, pair.sample(4, seed=0), learning_rate=3000.0, num_steps=6, num_samples=21)


def test_a_gap_between_infinities_is_unknown_and_said_to_be() -> None:
    def barred(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.factor("positive", torch.where(z[..., 0] > 0, 0.0, -math.inf))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x[:, 0])

    def centred(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))

    refined = refine(barred, centred, torch.ones(2, 1), num_steps=2, num_samples=50, seed=0)
    assert refined.amortisation_gap.isnan().all()
    assert "ELBO minus infinity before and after for 2 of 2 data, 0, 1:" in str(refined)
    assert "take more steps" not in str(refined)


def test_the_evidence_of_discrete_latents_is_their_sum() -> None:
    def coin(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5 * torch.ones(len(x))))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.tensor([0.0, 2.0])
    normal = dist.Normal(torch.tensor([[0.0], [1.0]]), 1.0)
    right = normal.log_prob(x).logsumexp(0) - math.log(2)
    options = {"num_steps": 2, "num_samples": 21}
    guide = poutine.block(coin, hide=["x"])
    close(refine(coin, guide, x, log_evidence=right, **options).log_evidence, right.double())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="for 1 data it is not their sum, the first in row 1"):
        refine(coin, guide, x, log_evidence=right + torch.tensor([0.0, 0.5]), **options)  # type: ignore[arg-type]
