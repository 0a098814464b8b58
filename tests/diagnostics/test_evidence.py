"""The importance-weighted bound between ELBO and evidence, and what its k says about the guide."""

import math
from collections.abc import Callable

import arviz as az
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyro_infomax.diagnostics import Evidence, Pair, ScoredDraws, Simulated, evidence, good_pareto_k
from pyro_infomax.oracles import LinearGaussian


def best() -> LinearGaussian:
    return LinearGaussian.optimum([4.0, 2.0, 0.3], beta=1.0, latent_dim=2, s2=0.5)


def with_scale(factor: float) -> LinearGaussian:
    """The exact posterior with its standard deviations multiplied."""
    pair = best()
    return LinearGaussian(pair.S, pair.W, pair.s2, pair.V, pair.Delta * factor**2)


def found(pair: LinearGaussian, x: Tensor, num_samples: int, seed: int = 0) -> Evidence:
    return evidence(pair.model, pair.guide, x, num_samples=num_samples, seed=seed)


def log_evidence(pair: LinearGaussian, x: Tensor) -> Tensor:
    covariance = pair.W @ pair.W.T + pair.s2 * torch.eye(pair.dim)
    return dist.MultivariateNormal(pair.mu, covariance).log_prob(x)


def test_the_exact_posterior_has_the_evidence() -> None:
    pair = best()
    x = pair.sample(200, exact=True, seed=0)
    bounds = found(pair, x, 60)
    torch.testing.assert_close(bounds.lower.value, pair.log_evidence, rtol=0, atol=1e-10)
    torch.testing.assert_close(bounds.per_datum, log_evidence(pair, x), rtol=0, atol=1e-10)
    assert bounds.lower.standard_error < 1e-7
    assert (bounds.pareto_k == -math.inf).all()
    assert len(bounds.unreliable) == 0
    torch.testing.assert_close(bounds.effective_sample_size, torch.full((200,), 60.0))


def test_an_infinite_k_is_printed_as_such() -> None:
    """Constant weights, weights of data that no draw explains, and draws of one value alone."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5 + 0 * x))
            # the same density for either z, and none for x = 2
            outcome = dist.Uniform(0 * z, 1.0, validate_args=False)
            pyro.sample("x", outcome, obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(torch.where(x < 0.5, 0.0, 0.5)))

    x = torch.tensor([0.75, 0.75])
    assert str(evidence(model, guide, x, num_samples=30)).endswith("for 0 of 2, at most -inf")
    x = torch.tensor([0.25, 0.75, 2.0])
    lines = str(evidence(model, guide, x, num_samples=30)).splitlines()
    assert lines[3].endswith("all draws are one value: data 0")
    assert lines[4] == "Pareto k above 0.32 for 1 of 3, at most inf"
    text = str(evidence(model, guide, x[:1], num_samples=30))
    assert text.endswith("all draws are one value: data 0")


def test_the_bound_rises_from_the_elbo_to_the_evidence() -> None:
    pair = with_scale(1.5)
    x = pair.sample(300, exact=True, seed=0)
    bounds = [found(pair, x, samples).lower for samples in (2, 10, 100)]
    values = [pair.elbo, *(each.value for each in bounds), pair.log_evidence]
    errors = [0.0, *(float(each.standard_error) for each in bounds), 0.0]
    for low, high, error, other in zip(values, values[1:], errors, errors[1:], strict=False):
        assert low < high + 3 * math.hypot(error, other)
    assert bounds[2].value - bounds[0].value > 0.1
    assert pair.log_evidence - bounds[2].value < 0.05


def test_the_standard_error_is_the_spread_over_draws() -> None:
    pair = with_scale(1.3)
    x = pair.sample(20, seed=0).repeat(50, 1)
    bounds = found(pair, x, 40)
    # 1000 data, of which 50 each are the same
    spread = bounds.per_datum.reshape(50, 20).var(0).mean().sqrt() / 1000**0.5
    assert 0.85 < spread / bounds.lower.standard_error < 1.1


def test_simulated_data_are_bounded_from_above_too() -> None:
    """With the exact draw among those of the guide, the inverse mean weight is unbiased for 1 / p(x)."""
    pair = with_scale(1.5)
    data = Simulated(pair.model, 500, torch.zeros(1, 3), seed=0)
    truth = log_evidence(pair, data.data[0])
    gaps = []
    for samples in (2, 20, 200):
        bounds = evidence(pair.model, pair.guide, data, num_samples=samples, seed=1)
        assert bounds.upper is not None
        assert bounds.upper_per_datum is not None
        assert bounds.upper.bound == "upper"
        inverse = (truth - bounds.upper_per_datum).exp()
        assert abs(inverse.mean() - 1) < 4 * inverse.std() / 500**0.5
        assert bounds.upper.value > truth.mean() - 3 * bounds.upper.standard_error
        gaps.append(float(bounds.upper.value - truth.mean()))
        spread = (bounds.upper_per_datum - truth).std() / 500**0.5
        assert 0.8 < bounds.upper.standard_error / spread < 3
    assert gaps[0] > 4 * gaps[1] > 8 * gaps[2]
    assert str(bounds).splitlines()[2].split()[-1] == "upper"
    exact_pair = best()
    few = Simulated(exact_pair.model, 9, torch.zeros(1, 3), seed=0)
    exact = evidence(exact_pair.model, exact_pair.guide, few, num_samples=30)
    torch.testing.assert_close(exact.upper_per_datum, exact.per_datum, rtol=0, atol=1e-10)


def test_simulated_data_do_not_know_the_noise_of_the_same_seed() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0 * x, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def prior(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0 * x, 1.0))

    data = Simulated(model, 1000, torch.zeros(1), seed=3)
    truth = dist.Normal(0.0, 2**0.5).log_prob(data.data[0])
    bounds = evidence(model, prior, data, num_samples=2, seed=3)
    assert bounds.upper_per_datum is not None
    for ratio in ((bounds.per_datum - truth).exp(), (truth - bounds.upper_per_datum).exp()):
        assert abs(ratio.mean() - 1) < 4 * ratio.std() / 1000**0.5


@pytest.mark.parametrize("options", [{}, {"method": "annealed", "num_temperatures": 3, "num_leapfrog": 1}])
def test_simulated_data_with_a_latent_that_is_summed_out(options: dict[str, object]) -> None:
    """A mixture of N(0, 2) and N(2, 2), whose component no guide draws."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            kind = pyro.sample("kind", dist.Bernoulli(torch.tensor(0.3)), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(2 * kind, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    data = Simulated(model, 400, torch.zeros(1), seed=0)
    weights = dist.Categorical(torch.tensor([0.7, 0.3]))
    truth = dist.MixtureSameFamily(weights, dist.Normal(torch.tensor([0.0, 2.0]), 2**0.5)).log_prob(
        data.data[0]
    )
    bounds = evidence(model, guide, data, num_samples=4, seed=0, **options)  # type: ignore[arg-type]
    assert bounds.upper_per_datum is not None
    for ratio in ((bounds.per_datum - truth).exp(), (truth - bounds.upper_per_datum).exp()):
        assert abs(ratio.mean() - 1) < 4 * ratio.std() / 400**0.5


def test_the_threshold_is_that_of_the_number_of_draws() -> None:
    bounds = found(with_scale(0.6), best().sample(40, seed=0), 100)
    assert bounds.threshold == good_pareto_k(100) == pytest.approx(0.5)
    assert bounds.unreliable.tolist() == [n for n, k in enumerate(bounds.pareto_k) if k > 0.5] != []


def test_a_guide_that_is_sure_of_one_value_is_not_taken_for_exact() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.4))
            pyro.sample("x", dist.Normal(c, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Bernoulli(torch.where(x > 0, 1.0, 0.5)))

    x = torch.tensor([-0.5, 1.0, 2.0])
    bounds = evidence(model, guide, x, num_samples=100, seed=0)
    assert bounds.pareto_k.isnan().tolist() == [False, True, True]
    assert bounds.unreliable.tolist() == [1, 2]
    assert "not known where all draws are one value: data 1, 2" in str(bounds)
    # each is log p(x, c = 1) alone, below log p(x)
    torch.testing.assert_close(bounds.per_datum[1:], math.log(0.4) + dist.Normal(1.0, 1.0).log_prob(x[1:]))


def test_rounding_in_single_precision_is_no_tail() -> None:
    """Weights of an exact posterior, under the densities of many pixels."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(x.new_zeros(784), 1.0).to_event(1), obs=x)
            pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=x[:, :2])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2] / 2, 0.5**0.5).to_event(1))

    x = torch.randn(6, 784, dtype=torch.float32)
    bounds = evidence(model, guide, x, num_samples=200, seed=0)
    assert 0 < bounds.standard_error.max() < 1e-4
    assert (bounds.pareto_k == -math.inf).all()


def test_a_guide_that_is_too_narrow_is_found_by_its_k() -> None:
    pair = with_scale(0.3)
    x = pair.sample(50, seed=0)
    bounds = found(pair, x, 300)
    assert len(bounds.unreliable) > 30
    assert "Pareto k above 0.60 for" in str(bounds)
    assert "draw more, or anneal" in str(bounds)
    wide = found(with_scale(1.5), x, 300)
    assert len(wide.unreliable) == 0
    assert "anneal" not in str(wide)


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many draws of each datum are made at a time."""
    found: list[int] = []
    draw = Pair.draw

    def counted(self: Pair, num_samples: int) -> Tensor:
        found.append(num_samples)
        if num_samples > 500:
            raise MemoryError
        return draw(self, num_samples)

    monkeypatch.setattr(Pair, "draw", counted)
    return found


def test_memory_does_not_grow_with_the_samples(chunks: list[int]) -> None:
    pair = with_scale(1.3)
    with pytest.raises(MemoryError):
        found(pair, pair.sample(1000, seed=0), 100_000)
    assert chunks == [2**20 // 2000]


@pytest.mark.parametrize("num_samples", [2, 19, 201])
def test_a_bar_has_something_to_count(num_samples: int, chunks: list[int]) -> None:
    pair = with_scale(1.3)
    found(pair, pair.sample(3, seed=0), num_samples)
    assert sum(chunks) == num_samples
    assert min(chunks) > 0
    assert len(chunks) >= min(num_samples, 20)


def test_sites_that_depend_on_each_other_are_weighed_together() -> None:
    """The exact posterior of a chain of two latents, of which the second follows the first."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Normal(2 * x / 3, (2 / 3) ** 0.5))
            pyro.sample("a", dist.Normal(b / 2, 0.5**0.5))

    x = torch.randn(6)
    bounds = evidence(model, guide, x, num_samples=30)
    torch.testing.assert_close(bounds.per_datum, dist.Normal(0.0, 3**0.5).log_prob(x))


def test_a_discrete_latent_is_weighed_too() -> None:
    probability = torch.tensor([0.3, 0.7])

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(2 * c, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Bernoulli(0.5 + 0 * x))

    x = torch.tensor([-1.0, 0.5, 3.0])
    bounds = evidence(model, guide, x, num_samples=400, seed=0)
    truth = dist.MixtureSameFamily(
        dist.Categorical(probability.flip(0)), dist.Normal(torch.tensor([0.0, 2.0]), 1.0)
    ).log_prob(x)
    assert ((bounds.per_datum - truth).abs() < 4 * bounds.standard_error).all()
    assert len(bounds.unreliable) == 0


def test_it_reads_well() -> None:
    pair = with_scale(1.5)
    bounds = found(pair, pair.sample(30, seed=0), 100)
    text = str(bounds).splitlines()
    assert text[0].split() == ["nats", "per", "datum", "value", "s.e.", "pop.", "s.e.", "bound"]
    assert text[1].split()[0] == "log_evidence"
    assert text[1].split()[-1] == "lower"
    assert text[2] == "30 data, 100 draws of z each"
    frame = bounds.to_frame()
    assert list(frame.columns) == ["lower", "standard_error", "pareto_k", "effective_sample_size"]
    assert frame.shape == (30, 4)
    assert frame["lower"].mean() == pytest.approx(float(bounds.lower))
    assert "takes at least 21 draws" in str(found(pair, pair.sample(3, seed=0), 10))


def test_a_seed_isolates_the_draws() -> None:
    pair = with_scale(1.5)
    x = pair.sample(10, seed=0)
    state = torch.get_rng_state()
    first, again, other = (found(pair, x, 30, seed=seed).per_datum for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_modules_run_in_evaluation_mode() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.drop(z), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5).to_event(1))

    model, x = Model(), torch.randn(5, 1)
    bounds = evidence(model, guide, x, num_samples=10)
    torch.testing.assert_close(bounds.per_datum, dist.Normal(0.0, 2**0.5).log_prob(x[:, 0]))
    assert model.drop.training


def test_bad_arguments_are_refused() -> None:
    pair = best()
    x = pair.sample(5, seed=0)
    with pytest.raises(ValueError, match="num_samples to be an integer >= 2"):
        found(pair, x, 1)
    with pytest.raises(ValueError, match=r"\['importance', 'annealed'\] but got 'ais'"):
        evidence(pair.model, pair.guide, x, method="ais")
    with pytest.raises(ValueError, match=r"a guide to draw from but got None.*method='annealed'"):
        evidence(pair.model, None, x)
    with pytest.raises(ValueError, match="num_leapfrog with method='annealed' alone"):
        evidence(pair.model, pair.guide, x, num_leapfrog=2)
    x[3] = math.nan
    with pytest.raises(ValueError, match="without nan but argument 0 holds 3, the first in row 3"):
        found(pair, x, 10)


# ---- Pareto's k against ArviZ, against the truth, and where there is nothing to fit


def k_of(log_weight: Callable[[Tensor], Tensor], size: int, num_samples: int) -> Tensor:
    """Of weights that are functions of a uniform z, (..., data)."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(0.0, 1.0))
            pyro.sample("x", dist.Delta(x), obs=x)
            pyro.factor("weight", log_weight(z))

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Uniform(0 * x, 1.0))

    return evidence(model, guide, torch.zeros(size), num_samples=num_samples).pareto_k


@pytest.mark.skipif(not hasattr(az, "psislw"), reason="ArviZ 1 has no psislw")
@pytest.mark.parametrize("num_samples", [30, 1000])
def test_pareto_k_agrees_with_arviz(num_samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    score = Pair.score

    def recorded(self: Pair, z: Tensor) -> ScoredDraws:
        scored = score(self, z)
        seen.append(scored.log_weight)
        return scored

    monkeypatch.setattr(Pair, "score", recorded)
    pair = with_scale(0.4)
    bounds = found(pair, pair.sample(8, seed=0), num_samples)
    _, truth = az.psislw(torch.cat(seen).T.numpy())
    # the two leave out other negligible weights of the fit
    torch.testing.assert_close(bounds.pareto_k, torch.from_numpy(truth), rtol=0, atol=1e-6)


@pytest.mark.parametrize("k", [0.2, 1.2])
def test_it_finds_the_tail_of_a_pareto_distribution(k: float) -> None:
    found = k_of(lambda z: -k * z.log(), 40, 4000)  # w = u^-k
    assert abs(found.mean() - k) < 0.1


@pytest.mark.parametrize(
    ("log_weight", "k"),
    [
        (lambda z: 0 * z - 3.0, -math.inf),  # of a perfect proposal
        (lambda z: 1e-13 * z - 3.0, -math.inf),  # constant to rounding, whose noise must not be fitted
        (lambda z: torch.where(z < 0.5, 0.0, -5.0), -math.inf),  # most at the largest
        (lambda z: -1e6 * z, math.inf),  # too few above the rest to be trusted
        (lambda z: 0 * z - math.inf, math.inf),
    ],
    ids=["constant", "rounding", "most at the largest", "few", "none"],
)
def test_where_there_is_no_tail_to_fit_k_is_infinite(log_weight, k: float) -> None:
    assert (k_of(log_weight, 2, 1000) == k).all()


def test_too_few_samples_give_no_k() -> None:
    assert k_of(lambda z: z, 3, 20).isnan().all()
    assert k_of(lambda z: z, 3, 21).isfinite().all()
