"""The decoder's bound and its gap, against closed forms and integration."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from scipy.stats import binom
from torch import Tensor
from torch.distributions import Bernoulli, Independent, Laplace, Normal

from pyro_infomax.information import Estimate, barber_agakov, decoder_gap, leave_one_out, mutual_information
from pyro_infomax.oracles import LinearGaussian

LogLikelihood = Callable[[Tensor], Tensor]


# --- densities: the linear-Gaussian pair, with a decoder that is not the best ---


def oracle(narrow: float = 1.0) -> LinearGaussian:
    return LinearGaussian(
        S=[2.0, 1.0, 0.5],
        W=[[1.0, 0.2], [0.0, 0.7], [0.1, 0.0]],
        s2=0.4,
        V=[[0.5, 0.1, 0.0], [0.0, 0.6, 0.1]],
        Delta=[0.3 * narrow, 0.4 * narrow],
        mu=[1.0, 0.0, -1.0],
    )


def linear_gaussian(pair: LinearGaussian, size: int) -> tuple[Independent, LogLikelihood]:
    x = pair.sample(size, exact=True)
    posterior = Independent(Normal((x - pair.mu) @ pair.V.T, pair.Delta.diagonal().sqrt()), 1)
    return posterior, lambda z: Normal(z @ pair.W.T + pair.mu, pair.s2.sqrt()).log_prob(x).sum(-1)


@pytest.mark.parametrize("num_samples", [1, 4])
def test_the_bound_is_entropy_less_distortion(num_samples: int) -> None:
    pair = oracle()
    posterior, log_likelihood = linear_gaussian(pair, 1000)
    found = barber_agakov(
        posterior, log_likelihood, data_entropy=pair.data_entropy, num_samples=num_samples, seed=0
    )
    truth = pair.data_entropy - pair.distortion
    assert abs(float(found.value - truth)) < 3 * float(found.standard_error)
    assert float(found.standard_error) < float(found.population_standard_error)
    assert found.bound == "lower"
    assert "population" in found.target


def test_the_gap_is_the_oracle_s() -> None:
    pair = oracle()
    posterior, log_likelihood = linear_gaussian(pair, 2000)
    found = decoder_gap(posterior, log_likelihood, data_entropy=pair.data_entropy, num_samples=2, seed=0)
    assert abs(float(found.value - pair.decoder_gap)) < 3 * float(found.population_standard_error)
    assert 0 < float(found.standard_error) < float(found.population_standard_error)
    assert found.bound == "lower"
    assert "population" in found.target


def test_the_population_s_error_has_the_bias_of_the_mixture() -> None:
    """Of the information, which the gap takes over: half of what the own components add."""
    pair = oracle(narrow=1e-3)
    posterior, log_likelihood = linear_gaussian(pair, 60)
    options = {"num_samples": 2, "seed": 0}
    found = decoder_gap(posterior, log_likelihood, data_entropy=pair.data_entropy, **options)
    bias = (leave_one_out(posterior, **options).value - mutual_information(posterior, **options).value) / 2
    assert float(found.population_standard_error) > float(bias) > 2 * float(found.standard_error)


def test_bound_and_gap_miss_the_population_on_the_stated_side() -> None:
    pair, gaps, bounds = oracle(narrow=0.03), [], []
    for _ in range(20):
        posterior, log_likelihood = linear_gaussian(pair, 30)
        gaps.append(float(decoder_gap(posterior, log_likelihood, data_entropy=pair.data_entropy)))
        bounds.append(float(barber_agakov(posterior, log_likelihood, data_entropy=pair.data_entropy)))
    for truth, found in ((pair.decoder_gap, gaps), (pair.mutual_information, bounds)):
        missing = truth - torch.tensor(found)
        assert float(missing.mean()) > 3 * float(missing.std()) / math.sqrt(20)


# --- masses: all binary vectors, under a decoder that is not the best ---

BITS = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)  # (data, bit)


def binary() -> tuple[Independent, LogLikelihood]:
    loc = BITS @ torch.tensor([[2.0], [1.0], [-0.5]]) - 1
    posterior = Independent(Normal(loc, torch.linspace(0.3, 0.6, 8)[:, None]), 1)
    return posterior, lambda z: _decode(z).log_prob(BITS).sum(-1)


def _decode(z: Tensor) -> Bernoulli:
    return Bernoulli(logits=z @ torch.tensor([[3.0, 1.5, -1.0]]) + torch.tensor([0.5, -0.5, 0.0]))


def integrated() -> dict[str, Tensor]:
    """Each term by itself, on a grid of z."""
    posterior, _ = binary()
    z = torch.linspace(-8, 8, 8001)
    own = posterior.base_dist.log_prob(z[:, None, None]).squeeze(-1)  # (grid, data)
    mixture = own.logsumexp(1, keepdim=True) - math.log(8)
    log_p = _decode(z[:, None, None]).log_prob(BITS).sum(-1)  # (grid, data)
    step = float(z[1] - z[0])
    inverted = own - mixture - math.log(8)
    divergence = (inverted.exp() * (inverted - log_p)).sum(1)  # of q(x|z) from p(x|z)
    return {
        "distortion": -(own.exp() * log_p).mean(1).sum() * step,
        "information": (own.exp() * (own - mixture)).mean(1).sum() * step,
        "gap": (mixture.exp().squeeze(1) * divergence).sum() * step,
    }


@pytest.mark.parametrize("num_samples", [4, 200])
def test_each_term_of_all_binary_vectors_is_what_integration_gives(num_samples: int) -> None:
    truth, (posterior, log_likelihood) = integrated(), binary()
    terms: dict[str, Estimate] = {
        "information": mutual_information(posterior, num_samples=num_samples, seed=1),
        "distortion": barber_agakov(
            posterior, log_likelihood, data_entropy=0.0, num_samples=num_samples, seed=1
        ),
        "gap": decoder_gap(posterior, log_likelihood, num_samples=num_samples, seed=1),
    }
    truth["distortion"] = -truth["distortion"]
    for term, found in terms.items():
        assert 0 < abs(float(found.value - truth[term])) < 3 * float(found.standard_error), term
    assert terms["gap"].bound == "exact"
    assert terms["gap"].population_standard_error is None


def test_two_standard_errors_cover_the_gap_of_these_data() -> None:
    truth, (posterior, log_likelihood), repeats = float(integrated()["gap"]), binary(), 120
    found = [decoder_gap(posterior, log_likelihood, num_samples=10) for _ in range(repeats)]
    hits = sum(abs(float(each) - truth) < 1.96 * float(each.standard_error) for each in found)
    assert binom.ppf(0.001, repeats, 0.90) <= hits <= binom.ppf(0.999, repeats, 0.99)


def test_the_inverted_posterior_itself_leaves_no_gap() -> None:
    posterior, _ = binary()

    def inverted(z: Tensor) -> Tensor:
        return posterior.log_prob(z) - posterior.log_prob(z[:, None, :]).logsumexp(1)

    found = decoder_gap(posterior, inverted, num_samples=3, seed=0)
    assert float(found) == pytest.approx(0, abs=1e-12)
    assert float(found.standard_error) < 1e-12


def test_repeated_data_with_their_own_entropy_have_the_gap_of_the_distinct() -> None:
    posterior, _ = binary()
    twice = Independent(Normal(posterior.mean.repeat(2, 1), posterior.stddev.repeat(2, 1)), 1)
    found = decoder_gap(
        twice,
        lambda z: _decode(z).log_prob(BITS.repeat(2, 1)).sum(-1),
        data_entropy=math.log(8),
        num_samples=200,
        seed=0,
    )
    assert abs(float(found) - float(integrated()["gap"])) < 3 * float(found.standard_error)


# --- how the decoder is called ---


def test_the_likelihood_is_called_once_for_each_draw_without_gradients() -> None:
    posterior, log_likelihood = binary()
    weight, seen = torch.ones((), requires_grad=True), []

    def scored(z: Tensor) -> Tensor:
        seen.append(z)
        return log_likelihood(z) * weight

    found = decoder_gap(posterior, scored, num_samples=3)
    assert [each.shape for each in seen] == [(8, 1)] * 3
    assert not found.value.requires_grad


def test_a_float32_decoder_is_summed_in_double() -> None:
    posterior, log_likelihood = binary()
    found = barber_agakov(posterior, lambda z: log_likelihood(z).float(), data_entropy=1.0, seed=0)
    expected = barber_agakov(posterior, log_likelihood, data_entropy=torch.tensor(1.0), seed=0)
    torch.testing.assert_close(found.value, expected.value, rtol=1e-6, atol=1e-6)
    assert found.value.dtype == torch.float64


def test_another_family_will_do() -> None:
    posterior, log_likelihood = binary()
    heavy = Independent(Laplace(posterior.mean, 0.3), 1)
    found = decoder_gap(heavy, log_likelihood, num_samples=400, seed=0)
    information = mutual_information(heavy, num_samples=400, seed=1)
    bound = barber_agakov(heavy, log_likelihood, data_entropy=math.log(8), num_samples=400, seed=2)
    error = math.hypot(*(float(each.standard_error) for each in (found, information, bound)))
    assert abs(float(found) - float(information) + float(bound)) < 4 * error


def test_an_impossible_datum_has_an_infinite_gap_of_unknown_error() -> None:
    posterior, _ = binary()
    found = decoder_gap(posterior, lambda z: torch.where(torch.arange(8) == 0, -math.inf, -1.0))
    assert float(found) == math.inf
    assert found.standard_error.isnan()


def test_a_single_datum_has_the_gap_of_its_distortion() -> None:
    posterior = Independent(Normal(torch.zeros(1, 1), 1.0), 1)
    found = decoder_gap(posterior, lambda z: -(z.squeeze(1) ** 2) / 2, num_samples=100, seed=0)
    assert float(found) == pytest.approx(0.5, abs=1e-10)  # E z^2 / 2, which the regression knows
    found = decoder_gap(posterior, lambda z: -(z.squeeze(1) ** 2), data_entropy=0.0, num_samples=2, seed=0)
    assert found.population_standard_error.isnan()


@pytest.mark.parametrize("quantity", [barber_agakov, decoder_gap])
def test_likelihoods_of_another_shape_or_with_nan_are_refused(quantity) -> None:
    posterior, _ = binary()
    with pytest.raises(ValueError, match=r"Expected log-likelihoods of shape \(8,\) but got \(8, 3\)"):
        quantity(posterior, lambda z: _decode(z).log_prob(BITS), data_entropy=1.0)
    for wrong in (math.nan, math.inf):
        with pytest.raises(ValueError, match="below infinity but got 8 that are nan or inf; check"):
            quantity(posterior, lambda z, wrong=wrong: torch.full((8,), wrong), data_entropy=1.0)


@pytest.mark.parametrize(
    ("quantity", "entropy"),
    [(barber_agakov, math.nan), (decoder_gap, -math.inf), (decoder_gap, torch.zeros(2))],
)
def test_an_entropy_that_is_none_is_refused(quantity, entropy) -> None:
    posterior, log_likelihood = binary()
    with pytest.raises(ValueError, match="Expected a finite number of nats for data_entropy"):
        quantity(posterior, log_likelihood, data_entropy=entropy)
