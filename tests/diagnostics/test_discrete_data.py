"""The entropy of discrete data, and every reason why there is none to measure a decoder from."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_infomax.diagnostics import decompose

BITS = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0], [0.0, 1.0]])


def model_of(likelihood):
    def model(x, *_):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", likelihood(z), obs=x)

    return model


def guide(x, *_):
    with pyro.plate("data", len(x)):
        loc = x.double().reshape(len(x), -1).mean(-1, keepdim=True)
        pyro.sample("z", dist.Normal(loc * torch.ones(2), 0.5).to_event(1))


def bernoulli(z):
    return dist.Bernoulli(logits=z).to_event(1)


def entropy(model, data, guide=guide, **options):
    return decompose(model, guide, data, seed=0, **options).data_entropy


def test_distinct_data_have_ln_n():
    x = torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    assert float(entropy(model_of(bernoulli), x)) == pytest.approx(math.log(4), abs=1e-12)


def test_equal_rows_count_as_one_value():
    found = entropy(model_of(bernoulli), BITS)
    assert float(found) == pytest.approx(-(0.6 * math.log(0.6) + 0.4 * math.log(0.2)), abs=1e-12)
    assert (float(found.standard_error), found.population_standard_error, found.bound) == (0.0, None, "exact")


def test_data_that_are_all_equal_have_none():
    assert float(entropy(model_of(bernoulli), torch.ones(5, 2))) == 0


def test_a_zero_has_no_sign():
    x = torch.tensor([[0.0, 1.0], [-0.0, 1.0]])
    assert float(entropy(model_of(bernoulli), x)) == 0


@pytest.mark.parametrize(
    ("likelihood", "x"),
    [
        (lambda z: dist.Poisson(z.exp()).to_event(1), torch.tensor([[0.0, 7.0], [3.0, 7.0], [0.0, 7.0]])),
        (lambda z: dist.Categorical(logits=z), torch.tensor([0, 1, 0])),
        (
            lambda z: dist.Binomial(9, logits=z).to_event(1),
            torch.tensor([[0.0, 9.0], [9.0, 9.0], [0.0, 9.0]]),
        ),
        (lambda z: dist.Multinomial(3, logits=z), torch.tensor([[0.0, 3.0], [1.0, 2.0], [0.0, 3.0]])),
    ],
)
def test_every_kind_of_pmf(likelihood, x):
    assert float(entropy(model_of(likelihood), x)) == pytest.approx(
        math.log(3) - 2 / 3 * math.log(2), abs=1e-12
    )


def test_several_observed_sites_are_one_value():
    def model(x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z).to_event(1), obs=x)
            pyro.sample("y", dist.Categorical(logits=z), obs=y)

    def both(x, y):
        with pyro.plate("data", len(x)):
            loc = torch.stack([x.sum(-1), 3.0 * y], -1)
            pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))

    y = torch.tensor([0, 1, 1, 0, 0])
    # rows 0 and 4 alone agree in x and y
    assert float(entropy(model, (BITS, y), both)) == pytest.approx(math.log(5) - 0.4 * math.log(2), abs=1e-12)


def test_the_observed_may_have_another_shape_and_type_than_the_argument():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("left", dist.Bernoulli(logits=z[..., 0]), obs=x[:, 0, 0].double())
            pyro.sample("right", dist.Bernoulli(logits=z[..., 1]), obs=x[:, 0, 1].double())

    x = BITS.bool().unsqueeze(1)
    assert float(entropy(model, x)) == pytest.approx(float(entropy(model_of(bernoulli), BITS)), abs=1e-12)


def test_the_batch_size_does_not_matter():
    few = entropy(model_of(bernoulli), BITS, batch_size=2)
    assert float(few) == float(entropy(model_of(bernoulli), BITS))


def test_subsampling_sees_all_data():
    def rows(program):
        return pyro.plate("data", len(program), subsample_size=4)

    def model(x):
        with rows(x) as index:
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", bernoulli(z), obs=x[index])

    def of_rows(x):
        with rows(x) as index:
            pyro.sample("z", dist.Normal(x[index], 0.5).to_event(1))

    x = (torch.rand(30, 2) < 0.4).double()
    assert float(entropy(model, x, of_rows)) == pytest.approx(
        float(entropy(model_of(bernoulli), x)), abs=1e-12
    )


def guide_of_rows(x):
    loc = pyro.param("loc", lambda: torch.randn(len(x), 2))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))


def test_equal_data_with_different_posteriors_have_none():
    found = decompose(model_of(bernoulli), guide_of_rows, BITS)
    assert found.data_entropy is found.decoder_gap is None
    assert "equal data have different posteriors" in found.unavailable["decoder_gap"]


def test_distinct_data_may_have_any_posteriors():
    assert float(entropy(model_of(bernoulli), BITS[[0, 1, 3]], guide_of_rows)) == pytest.approx(math.log(3))


def test_posteriors_that_differ_by_rounding_are_the_same():
    def rounding(x):
        with pyro.plate("data", len(x)):
            noise = 1e-7 * torch.arange(len(x)).unsqueeze(-1)
            pyro.sample("z", dist.Normal(x + noise, 0.5).to_event(1))

    assert float(entropy(model_of(bernoulli), BITS, rounding)) > 0.9


def masked(z: Tensor):
    return dist.Bernoulli(logits=z).mask(torch.tensor([True, False])).to_event(1)


def masking(x):
    with pyro.poutine.mask(mask=torch.tensor(True)):
        model_of(bernoulli)(x)


def unobserving(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))


def with_factor(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.factor("penalty", -z.sum(-1))
        pyro.sample("x", bernoulli(z), obs=x)


@pytest.mark.parametrize(
    ("model", "data", "reason"),
    [
        (
            model_of(lambda z: dist.Normal(z, 1.0).to_event(1)),
            BITS,
            "densities have no decoder gap under the empirical data distribution, and 'x' is "
            "Independent(Normal, 1)",
        ),
        (model_of(bernoulli), (BITS, torch.arange(5)), "argument 1 is not observed"),
        (with_factor, BITS, "the factor 'penalty' is no distribution of data"),
        (model_of(masked), BITS, "'x' is masked"),
        (masking, BITS, "'x' is masked"),
        (unobserving, BITS, "the model observes nothing"),
        (
            model_of(lambda z: dist.Bernoulli(logits=z, validate_args=False).to_event(1)),
            BITS / 3,
            "'x' has values to which Independent(Bernoulli, 1) gives no probability",
        ),
        (
            model_of(lambda z: dist.Bernoulli(logits=z[..., :1]).to_event(1)),
            BITS,
            "the values of 'x' are of another shape",
        ),
    ],
)
def test_the_reason_is_told(model, data, reason):
    found = decompose(model, guide, data)
    assert found.data_entropy is found.decoder_gap is None
    assert reason in found.unavailable["data_entropy"]
    assert found.unavailable["decoder_gap"] == found.unavailable["data_entropy"]
