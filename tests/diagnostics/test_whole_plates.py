"""Programs whose plate is named by the whole data set: ``pyro.plate("data", N, subsample_size=len(x))``."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from pyro_infomax import decompose, representation, to_arviz
from pyro_infomax.diagnostics import evidence
from pyro_infomax.guides import AmortizedNormal

SIZES = [1, 5, 130]


def model_of(size, likelihood_scale=1.0):
    def model(x):
        with pyro.plate("data", size, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, likelihood_scale).to_event(1), obs=x)

    return model


class Model(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.run = model_of(size)

    def forward(self, x):
        return self.run(x)


def by_hand(size, x):
    def guide(x):
        with pyro.plate("data", size, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(0.5 * x, 0.7).to_event(1))

    return guide


def with_a_parameter_a_row(size, x):
    whole = 0.5 * x

    def guide(x):
        loc = pyro.param("loc", whole)
        with pyro.plate("data", size, subsample_size=len(x)) as rows:
            pyro.sample("z", dist.Normal(loc[rows], 0.7).to_event(1))

    return guide


def gaussian_log_evidence(x):
    return -0.5 * (x.square() / 2 + math.log(2 * math.pi * 2)).sum(-1)


@pytest.mark.parametrize("guide_of", [by_hand, with_a_parameter_a_row])
@pytest.mark.parametrize("size", SIZES)
def test_account_evidence_and_arviz(size, guide_of):
    x = torch.randn(size, 2)
    model, guide = model_of(size), guide_of(size, x)
    account = decompose(model, guide, x, num_samples=1 + 200 // size, batch_size=40, seed=0)
    mean, scale = 0.5 * x, 0.7
    rate = (mean.square() + scale**2 - 1 - 2 * math.log(scale)).sum(-1) / 2
    torch.testing.assert_close(account.rate.value, rate.mean())
    distortion = math.log(2 * math.pi) + ((x - mean).square().sum(-1) + 2 * scale**2) / 2
    assert float((account.distortion.value - distortion.mean()).abs()) < 5 * float(
        account.distortion.standard_error
    )
    table = Normal(mean, scale)
    z = table.sample((1 + 4000 // size,))
    scores = table.log_prob(z[:, :, None]).sum(-1)  # (samples, data, data)
    per_draw = scores.diagonal(dim1=1, dim2=2) - scores.logsumexp(-1) + math.log(size)
    error = float(per_draw.var() / per_draw.numel()) ** 0.5
    error += float(account.mutual_information.standard_error) if size > 1 else 1e-9
    assert abs(float(account.mutual_information) - float(per_draw.mean())) < 5 * error

    bounds = evidence(model, guide, x, num_samples=60, batch_size=200, seed=0)
    error = 6 * bounds.standard_error + 0.05
    assert bool(((bounds.per_datum - gaussian_log_evidence(x)).abs() < error).all())

    drawn = torch.as_tensor(to_arviz(model, guide, x, num_samples=9, seed=0).posterior["z"].values[0])
    assert float(((drawn.mean(0) - mean) / scale).abs().max()) < 5.5 / 3


@pytest.mark.parametrize("size", SIZES)
def test_amortised_guides(size):
    x = torch.randn(size, 2)
    model = Model(size)
    guide = AmortizedNormal(model, nn.Linear(2, 3))
    account = decompose(model, guide, x, batch_size=40, seed=0)
    q = guide.posterior(x)["z"]
    rate = kl_divergence(q, Independent(Normal(torch.zeros(2), 1.0), 1))
    torch.testing.assert_close(account.rate.value, rate.mean().detach())
    assert len(to_arviz(model, guide, x, num_samples=2, seed=0).posterior["datum"]) == size


def test_holdout_of_an_encoding_guide():
    x, held_out = torch.randn(70, 2), torch.randn(90, 2)
    model, guide = model_of(70), by_hand(70, x)
    account = decompose(model, guide, x, holdout=held_out, seed=0)
    rate = ((0.5 * held_out).square() + 0.7**2 - 1 - 2 * math.log(0.7)).sum(-1) / 2
    torch.testing.assert_close(account.holdout.rate.value, rate.mean())


@pytest.mark.parametrize("number", [3, 69, 71])
def test_rows_of_other_data_are_refused(number):
    x = torch.randn(70, 2)
    guide, others = with_a_parameter_a_row(70, x), torch.randn(number, 2)
    with pytest.raises(ValueError, match=r"Expected a guide that encodes any data|values of its own"):
        decompose(model_of(70), guide, x, holdout=others)
    with pytest.raises(ValueError, match=f"Expected 70 data, .* got {number}"):
        decompose(model_of(70), guide, others)
    with pytest.raises(ValueError, match="Expected the joint's own 70 data"):
        representation(guide, x).log_posterior(torch.zeros(2, 2), x[:2].flip(0))


def test_draws_keep_to_their_rows():
    x = torch.randn(70, 2)
    draw = representation(with_a_parameter_a_row(70, 100 * x), x).sample(500, seed=0)
    assert float((draw["z"] - 50 * x[draw.index]).abs().max()) < 0.7 * 6


def test_model_with_a_parameter_a_row():
    x = torch.randn(70)
    offsets = torch.linspace(-3, 3, 70)

    def model(x):
        offset = pyro.param("offset", offsets)
        with pyro.plate("data", 70, subsample_size=len(x)) as rows:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + offset[rows], 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 70, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(0.1 * x, 0.7))

    account = decompose(model, guide, x, batch_size=30, seed=0)
    residual = 0.9 * x - offsets.detach()
    distortion = 0.5 * math.log(2 * math.pi) + (residual.square() + 0.49) / 2
    assert float((account.distortion.value - distortion.mean()).abs()) < 5 * float(
        account.distortion.standard_error
    )


@pytest.mark.parametrize("number", [1, 3, 12])
def test_an_inner_plate_may_have_as_many_cells_as_a_run_has_rows(number):
    def plates(x):
        return pyro.plate("data", 12, subsample_size=len(x), dim=-2), pyro.plate("inner", 4, dim=-1)

    def model(x):
        rows, inner = plates(x)
        with rows, inner:
            b = pyro.sample("b", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Bernoulli(0.3 + 0.4 * b), obs=x)

    def guide(x):
        rows, inner = plates(x)
        with rows, inner:
            pyro.sample("b", dist.Bernoulli(0.25))

    account = decompose(model, guide, torch.ones(number, 4), seed=0)
    rate = 4 * (0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert float(account.rate) == pytest.approx(rate, rel=1e-6)


def test_annealing_keeps_to_the_rows():
    x, offsets = torch.randn(12), torch.linspace(-3, 3, 12)

    def model(x):
        with pyro.plate("data", 12, subsample_size=len(x)) as rows:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + offsets[rows], 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 12, subsample_size=len(x)) as rows:
            pyro.sample("z", dist.Normal(0.5 * (x - offsets[rows]), math.sqrt(0.5)))

    options = {"num_temperatures": 2, "num_samples": 3, "num_leapfrog": 1, "batch_size": 5, "seed": 0}
    found = evidence(model, guide, x, method="annealed", **options)
    torch.testing.assert_close(found.per_datum, gaussian_log_evidence((x - offsets)[:, None]))
