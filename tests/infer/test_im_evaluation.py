"""The bound on fresh draws against closed forms, and what its standard error says."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_infomax.infer import transmitted_information

NOISE = 0.5
CAPACITY = 0.5 * math.log1p(1 / NOISE)


def send(uses=1):
    with pyro.plate("uses", uses):
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        return pyro.sample("y", dist.Normal(x, NOISE**0.5))


def decode(y, uses=1):
    with pyro.plate("uses", uses):
        pyro.sample("x", dist.Normal(y / (1 + NOISE), (NOISE / (1 + NOISE)) ** 0.5))


def send_bit(bits=None, *, enumerate="parallel"):
    """Bits of data, or bits that are drawn, flipped in one of ten cases."""
    mark = {"enumerate": enumerate} if enumerate else {}
    if bits is None:
        bits = pyro.sample("x", dist.Bernoulli(0.5), infer=mark)
        return pyro.sample("y", dist.Bernoulli(0.1 + 0.8 * bits), infer=mark)
    with pyro.plate("data", len(bits)):
        return pyro.sample("y", dist.Bernoulli(0.1 + 0.8 * bits), infer=mark)


def decode_bit(y, bits=None):
    if bits is None:
        pyro.sample("x", dist.Bernoulli(0.1 + 0.8 * y))
    else:
        with pyro.plate("data", len(bits)):
            pyro.sample("bits", dist.Bernoulli(0.1 + 0.8 * y), obs=bits)


FLIPPED = -0.1 * math.log(0.1) - 0.9 * math.log(0.9)


def error_of(estimate):
    return float(estimate.standard_error)


def test_draws_are_within_their_error_of_the_closed_form():
    estimate = transmitted_information(decode, send, num_samples=50_000, seed=0)
    assert abs(float(estimate) - CAPACITY) < 4 * error_of(estimate) < 0.02
    assert estimate.bound == "lower"
    assert estimate.target == "mutual information of what the decoder scores and what it receives"
    assert estimate.population_standard_error is None
    assert estimate.value.dtype == torch.float64


def test_the_standard_error_is_that_of_the_information_density():
    """Its variance under a Normal input is P / (P + N)."""
    estimate = transmitted_information(decode, send, num_samples=1000, seed=0)
    expected = math.sqrt(1 / (1 + NOISE) / 1000)
    assert abs(error_of(estimate) / expected - 1) < 3 / math.sqrt(2 * 99)


def test_the_bound_is_per_use():
    estimate = transmitted_information(decode, send, 20, num_samples=2000, uses=20, seed=0)
    assert abs(float(estimate) - CAPACITY) < 4 * error_of(estimate) < 0.03


def test_enumerated_programs_have_no_error_and_are_run_once():
    runs = []

    def sender():
        runs.append(len(runs))
        return send_bit()

    estimate = transmitted_information(decode_bit, sender, num_samples=1000)
    assert len(runs) <= 2  # the first looks at the sites
    assert math.isclose(float(estimate), math.log(2) - FLIPPED, rel_tol=1e-12)
    assert error_of(estimate) == 0


def test_programs_that_are_not_enumerated_have_one():
    estimate = transmitted_information(decode_bit, lambda: send_bit(enumerate=None), seed=0)
    assert abs(float(estimate) - (math.log(2) - FLIPPED)) < 4 * error_of(estimate) < 0.05


def test_data_lack_their_entropy_unless_it_is_given():
    bits = torch.tensor([0.0, 1.0, 1.0, 0.0])
    without = transmitted_information(decode_bit, send_bit, bits, uses=4)
    assert math.isclose(float(without), -FLIPPED, rel_tol=1e-12)
    assert without.target.endswith("less the entropy of the data")
    given = transmitted_information(decode_bit, send_bit, bits, uses=4, source_entropy=math.log(2))
    assert math.isclose(float(given), math.log(2) - FLIPPED, rel_tol=1e-12)
    assert not given.target.endswith("less the entropy of the data")


def test_subsamples_are_drawn_anew():
    """Half of the data is lost and half is kept: subsamples of one have a spread, and the right mean."""
    kept = torch.tensor([0.1, 0.9])

    def sender(bits):
        with pyro.plate("data", 2, subsample_size=1):
            return pyro.sample("y", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})

    def decoder(y, bits):
        with pyro.plate("data", 2, subsample_size=1) as index:
            pyro.sample("bits", dist.Bernoulli(kept[index] + 0 * y), obs=bits[index])

    bits = torch.ones(2)
    estimate = transmitted_information(decoder, sender, bits, num_samples=100, uses=2, seed=0)
    expected = 0.5 * (math.log(0.1) + math.log(0.9))
    assert error_of(estimate) > 0.05
    assert abs(float(estimate) - expected) < 4 * error_of(estimate)


def test_programs_that_cannot_be_vectorised_are_run_one_by_one():
    def sender():
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        assert x.dim() == 0
        return pyro.sample("y", dist.Normal(float(x), NOISE**0.5))

    def decoder(y):
        pyro.sample("x", dist.Normal(y / (1 + NOISE), (NOISE / (1 + NOISE)) ** 0.5))

    estimate = transmitted_information(decoder, sender, num_samples=400, vectorize=False, seed=0)
    assert abs(float(estimate) - CAPACITY) < 4 * error_of(estimate) < 0.3


def test_a_seed_is_repeated_and_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    first, second, other = (
        transmitted_information(decode, send, num_samples=200, seed=seed) for seed in (0, 0, 1)
    )
    assert float(first) == float(second) != float(other)
    assert torch.equal(state, torch.get_rng_state())


def test_no_graph_is_built():
    def sender():
        assert not torch.is_grad_enabled()
        return send()

    transmitted_information(decode, sender, num_samples=10)


def test_modules_are_evaluated_and_go_back_to_training():
    class Decoder(torch.nn.Module):
        def forward(self, y):
            assert not self.training
            decode(y)

    decoder = Decoder()
    transmitted_information(decoder, send, num_samples=10)
    assert decoder.training


@pytest.mark.parametrize(("name", "value"), [("num_samples", 1), ("uses", 0)])
def test_wrong_counts_are_refused(name, value):
    with pytest.raises(ValueError, match=f"Expected {name} to be an integer >= {value + 1} but got {value}"):
        transmitted_information(decode, send, **{name: value})


@pytest.mark.parametrize(("num_samples", "vectorize"), [(2, True), (2, False), (100, True), (150, True)])
def test_at_least_as_many_draws_are_made_as_asked_for(num_samples, vectorize):
    drawn = []

    def counted():
        y = send()
        drawn.append(y.numel())
        return y

    transmitted_information(decode, counted, num_samples=num_samples, vectorize=vectorize, seed=0)
    assert sum(drawn) >= num_samples + 1  # and one run to look at the programs
