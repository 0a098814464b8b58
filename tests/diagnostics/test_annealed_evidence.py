"""Annealing from below and from above, against evidences that are known."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyro_infomax.diagnostics import Evidence, Simulated, evidence
from pyro_infomax.oracles import LinearGaussian


def run(model, data, *, guide=None, **options) -> Evidence:
    options = {"num_temperatures": 8, "num_samples": 8, "num_leapfrog": 2, "seed": 0} | options
    return evidence(model, guide, data, method="annealed", **options)


def assert_unbiased(found: Evidence, truth: Tensor) -> None:
    """Weights average to p(x), and backwards their inverses to 1 / p(x)."""
    ratios = [(found.per_datum - truth).exp()]
    if found.upper_per_datum is not None:
        ratios.append((truth - found.upper_per_datum).exp())
    for each in ratios:
        assert abs(each.mean() - 1) < 3.5 * each.std() / len(each) ** 0.5, each.mean()


# --- the linear-Gaussian model ---


def oracle() -> LinearGaussian:
    """A guide that does not fit, and latents that the data say much about."""
    w = torch.tensor([[1.5, 0.3], [0.2, 1.0], [-0.8, 0.4]])
    noise = 0.3
    covariance = w @ w.T + noise * torch.eye(3)
    exact = torch.linalg.solve(w.T @ w + noise * torch.eye(2), w.T)
    return LinearGaussian(covariance, w, noise, 0.8 * exact, [0.3, 0.3], mu=[1.0, 0.0, -1.0])


def simulated(pair: LinearGaussian, size: int, seed: int = 0) -> tuple[Simulated, Tensor]:
    found = Simulated(pair.model, size, torch.zeros(1, 3), seed=seed)
    return found, dist.MultivariateNormal(pair.mu, pair.S).log_prob(found.data[0])


def test_the_bounds_hold_the_evidence_between_them_and_close_with_temperatures() -> None:
    pair = oracle()
    data, truth = simulated(pair, 100)
    gaps = []
    for steps in (2, 6, 18):
        found = run(pair.model, data, num_temperatures=steps)
        low, high = found.lower, found.upper
        assert low.value <= truth.mean() + 3 * low.standard_error
        assert high.value >= truth.mean() - 3 * high.standard_error
        assert (low.bound, high.bound) == ("lower", "upper")
        gaps.append(float(high.value - low.value))
    # with few temperatures the inverse weights' mean is one of rare events
    assert_unbiased(found, truth)
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2]
    assert gaps[2] > -3 * float(high.standard_error)
    # the mean over data simulated from the model is the evidence of the population
    error = high.population_standard_error
    assert abs(high.value - gaps[2] / 2 - pair.log_evidence) < 3 * error + gaps[2] / 2


def test_the_error_of_the_lower_bound_is_the_spread_over_draws() -> None:
    pair = oracle()
    x = pair.sample(20, seed=0).repeat(40, 1)
    found = run(pair.model, x, num_temperatures=3, num_leapfrog=2)
    # 800 data, of which 40 each are the same
    spread = found.per_datum.reshape(40, 20).var(0).mean().sqrt() / 800**0.5
    # the jackknife errs on the large side
    assert 0.7 < spread / found.lower.standard_error < 1.1


def test_the_error_of_the_upper_bound_is_not_too_small() -> None:
    pair = oracle()
    data, truth = simulated(pair, 600)
    found = run(pair.model, data, num_temperatures=3, num_leapfrog=2)
    spread = (found.upper_per_datum - truth).std() / 600**0.5
    # the error counts the lower bound's spread too
    assert 0.2 < spread / found.upper.standard_error < 1.0
    # what both bounds have of the spread over data is no error
    own = (found.upper_per_datum - found.per_datum).std() / 600**0.5
    torch.testing.assert_close(found.upper.standard_error, own)
    assert found.upper.population_standard_error >= found.upper.standard_error


def test_a_start_at_the_exact_posterior_has_no_variance() -> None:
    pair = LinearGaussian.optimum([4.0, 2.0, 0.5], beta=1.0, latent_dim=2, s2=0.5)
    data, _ = simulated(pair, 10)
    truth = dist.MultivariateNormal(pair.mu, pair.W @ pair.W.T + 0.5 * torch.eye(3)).log_prob(data.data[0])
    found = run(pair.model, data, guide=pair.guide, num_temperatures=4)
    torch.testing.assert_close(found.per_datum, truth, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.upper_per_datum, truth, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.effective_sample_size, torch.full((10,), 8.0))


def test_a_start_at_the_guide_is_unbiased_and_nearer() -> None:
    pair = oracle()
    data, truth = simulated(pair, 100)
    from_prior, from_guide = (run(pair.model, data, guide=guide) for guide in (None, pair.guide))
    assert_unbiased(from_guide, truth)
    gaps = [float(each.upper.value - each.lower.value) for each in (from_prior, from_guide)]
    assert gaps[1] < gaps[0] / 2


# --- other models ---


def test_a_bernoulli_likelihood() -> None:
    """All eight data of three bits, whose evidences are integrals over one dimension."""
    slope, offset = torch.tensor([3.0, -2.0, 1.0]), torch.tensor([0.0, 0.5, -0.5])

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Bernoulli(logits=z[..., None] * slope + offset).to_event(1), obs=x)

    bits = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    grid = torch.linspace(-9, 9, 4001)
    likelihood = dist.Bernoulli(logits=grid[:, None, None] * slope + offset).log_prob(bits).sum(-1)
    bounds = (dist.Normal(0.0, 1.0).log_prob(grid)[:, None] + likelihood).exp().sum(0) * (18 / 4000)
    assert abs(bounds.sum() - 1) < 1e-9
    data = bits.repeat(20, 1)
    found = run(model, data)
    assert_unbiased(found, bounds.log().repeat(20))
    assert found.lower.value > bounds.log().mean() - 0.1


def test_a_positive_latent() -> None:
    """A Gamma rate under a Poisson likelihood is a negative binomial."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    data = Simulated(model, 200, torch.zeros(1), seed=0)
    found = run(model, data)
    assert_unbiased(found, dist.GammaPoisson(2.0, 0.5).log_prob(data.data[0]))
    assert 0 < found.upper.value - found.lower.value < 0.3


def test_a_latent_that_rounds_to_zero() -> None:
    """Single precision knows no number as small as many draws of this prior, where its density has a pole."""
    one = torch.ones((), dtype=torch.float32)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(0.03 * one, one))
            pyro.sample("x", dist.Normal(z, one), obs=x)

    found = run(model, torch.zeros(300, dtype=torch.float32), num_temperatures=30)
    grid = torch.linspace(-400.0, 5.0, 40_001)
    density = dist.Gamma(0.03, 1.0).log_prob(grid.exp()) + grid + dist.Normal(0.0, 1.0).log_prob(grid.exp())
    bounds = density.logsumexp(0) + math.log(405 / 40_000)
    assert abs(found.lower.value - bounds) < 0.02


def test_a_latent_on_the_simplex() -> None:
    """Shares with a Dirichlet prior under counts are a Dirichlet-multinomial."""
    concentration = torch.tensor([0.7, 1.0, 3.0])

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            p = pyro.sample("p", dist.Dirichlet(concentration))
            pyro.sample("x", dist.Multinomial(total_count=12, probs=p, validate_args=False), obs=x)

    x = torch.tensor([[12.0, 0.0, 0.0], [1.0, 4.0, 7.0], [3.0, 3.0, 6.0]]).repeat(50, 1)
    truth = dist.DirichletMultinomial(concentration, 12).log_prob(x)
    found = run(model, x)
    assert_unbiased(found, truth)
    assert found.lower.value > truth.mean() - 0.2


# --- what cannot be had ---


def test_real_data_have_no_upper_bound() -> None:
    pair = oracle()
    found = run(pair.model, pair.sample(3, seed=0), num_temperatures=2, num_leapfrog=1)
    assert found.upper is None
    assert found.upper_per_datum is None
    assert "upper" not in str(found)
    assert "upper" not in found.to_frame()


def test_simulated_data_of_another_model_are_refused() -> None:
    data, _ = simulated(oracle(), 3)
    with pytest.raises(ValueError, match="another one"):
        run(oracle().model, data)


def test_discrete_latents_are_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(c, 1.0), obs=x)

    with pytest.raises(NotImplementedError, match=r"'c' is discrete.*sum it out in the model"):
        run(model, torch.zeros(3))


def test_an_angle_is_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.VonMises(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.cos().sum(-1), 1.0), obs=x)

    with pytest.raises(NotImplementedError, match="'z' is an angle"):
        run(model, torch.zeros(4))


def test_a_point_mass_is_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            d = pyro.sample("d", dist.Delta(2 * z))
            pyro.sample("x", dist.Normal(d, 1.0), obs=x)

    with pytest.raises(NotImplementedError, match=r"\['d'\] are Deltas"):
        run(model, torch.zeros(4))


@pytest.mark.parametrize("size", [1, 4])
def test_bounds_that_follow_another_latent_are_refused(size: int) -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Gamma(2.0, 1.0))
            b = pyro.sample("b", dist.Uniform(0.0, a))
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    with pytest.raises(NotImplementedError, match=r"'b' cannot be annealed.*differ from datum to datum"):
        run(model, torch.zeros(size))


def test_a_support_without_a_map_is_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.ProjectedNormal(torch.ones(3)))
            pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x)

    with pytest.raises(NotImplementedError, match="'z' cannot be annealed on its support"):
        run(model, torch.zeros(4))


def test_no_sites_are_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    with pytest.raises(ValueError, match="Expected a model with latent sites but got none"):
        run(model, torch.zeros(4))


def test_bad_arguments_are_refused() -> None:
    pair = oracle()
    x = pair.sample(3, seed=0)
    with pytest.raises(ValueError, match="num_samples to be an integer >= 2 but got 1"):
        run(pair.model, x, num_samples=1)
    with pytest.raises(ValueError, match="num_temperatures to be an integer >= 1"):
        run(pair.model, x, num_temperatures=0)
    with pytest.raises(ValueError, match="num_leapfrog to be an integer >= 1"):
        run(pair.model, x, num_leapfrog=0)
    with pytest.raises(ValueError, match="batch_size to be an integer >= 1 but got 0"):
        run(pair.model, x, batch_size=0)
    with pytest.raises(ValueError, match="from 0 at 0 to 1 at 1"):
        run(pair.model, x, schedule=lambda t: 1 - t)
    x[1] = math.nan
    with pytest.raises(ValueError, match="nan"), pyro.validation_enabled(False):
        run(pair.model, x)


def test_global_latents_are_annealed_at_a_given_value() -> None:
    """Latents z around a global offset m, by both starts."""

    def model(x: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(0.0, 3.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(m, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x + m) / 2, 0.5**0.5))

    x, given = torch.randn(400), {"m": torch.tensor(1.5)}
    truth = dist.Normal(1.5, 2**0.5).log_prob(x)
    for start in (guide, None):
        found = run(model, x, guide=start, global_values=given)
        assert_unbiased(found, truth)
        assert "given the global latents" in found.lower.target
        assert found.global_values["m"] == 1.5
    with pytest.raises(ValueError, match=r"outside the data plate, \['m'\], but got \['w'\] too"):
        run(model, x, global_values={"w": 1.0} | given)


# --- manners ---


def test_a_seed_isolates_the_draws() -> None:
    pair = oracle()
    x = pair.sample(3, seed=0)
    state = torch.get_rng_state()
    first, again, other = (
        run(pair.model, x, num_temperatures=3, num_leapfrog=1, seed=seed).per_datum for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5)).float()

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=torch.float32), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)


def test_modules_are_left_as_they_were() -> None:
    """A single-precision module with dropout, evaluated without it."""
    model = Noisy()
    before = [each.clone() for each in model.parameters()]
    data = Simulated(model, 60, torch.zeros(1, 3, dtype=torch.float32), seed=0)
    found = run(model, data, num_leapfrog=4)
    assert model.training
    assert all(each.grad is None for each in model.parameters())
    assert all(map(torch.equal, before, model.parameters()))
    weight, bias = (each.detach().double() for each in model.parameters())
    truth = dist.MultivariateNormal(bias, weight @ weight.T + torch.eye(3)).log_prob(data.data[0].double())
    assert_unbiased(found, truth)
    assert pyro.infer.util.is_validation_enabled()


def test_it_reads_well() -> None:
    pair = oracle()
    data, _ = simulated(pair, 5)
    found = run(pair.model, data, num_temperatures=4)
    text = str(found).splitlines()
    assert text[0].split()[:3] == ["nats", "per", "datum"]
    assert [line.split()[-1] for line in text[1:3]] == ["lower", "upper"]
    assert text[3] == "5 data, 8 chains over 5 temperatures each"
    assert text[4].startswith("effective sample size")
    assert text[5].startswith("acceptance 0.")
    assert len(text) == 6
    assert "Pareto k" in str(run(pair.model, data, num_temperatures=4, num_samples=100))
    frame = found.to_frame()
    assert list(frame.columns) == ["lower", "upper", "standard_error", "pareto_k", "effective_sample_size"]
    assert len(frame) == 5
    assert frame["upper"].mean() == pytest.approx(float(found.upper))
    assert found.temperatures.tolist()[0] == 0.0
    assert found.acceptance.shape == (3,)
