"""Latents that a mask leaves out for some of the data: what is known of them, and what is not."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_infomax import decompose, representation
from pyro_infomax.diagnostics import convergence, evidence

UNKNOWN = (
    "mutual_information",
    "mutual_information_lower",
    "mutual_information_upper",
    "saturated",
    "marginal_kl",
    "prior_gap",
    "total_correlation",
    "dimensionwise_kl",
    "active_units",
)


def log_normal(x, variance):
    return -0.5 * (x.square() / variance + math.log(2 * math.pi * variance))


def sequence_model(x, present):
    with pyro.plate("data", len(x), dim=-2), pyro.plate("time", 3, dim=-1), poutine.mask(mask=present):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def sequence_guide(x, present):
    with pyro.plate("data", len(x), dim=-2), pyro.plate("time", 3, dim=-1), poutine.mask(mask=present):
        pyro.sample("z", dist.Normal(x / 2, math.sqrt(0.5)))


def event_model(x, present):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).mask(present).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).mask(present).to_event(1), obs=x)


def event_guide(x, present):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, math.sqrt(0.5)).mask(present).to_event(1))


def ragged(size):
    return torch.arange(3) < torch.arange(size)[:, None] % 4


@pytest.mark.parametrize(
    ("model", "guide"),
    [(sequence_model, sequence_guide), (event_model, event_guide), (sequence_model, event_guide)],
)
@pytest.mark.parametrize("size", [40, 90])
def test_what_stays_and_what_is_unknown(model, guide, size):
    x, present = torch.randn(size, 3), ragged(size)
    account = decompose(model, guide, (x, present), seed=0)
    log_evidence = (log_normal(x, 2.0) * present).sum(-1)
    close = torch.testing.assert_close
    close(account.elbo.value, log_evidence.mean())
    kl = (x.square() / 4 + 0.5 - 1 - math.log(0.5)) / 2
    gap = float((account.rate.value - (kl * present).sum(-1).mean()).abs())
    assert gap < 5 * float(account.rate.standard_error)
    bounds = evidence(model, guide, (x, present), num_samples=2, seed=0)
    close(bounds.per_datum, log_evidence)
    for name in UNKNOWN:
        assert getattr(account, name) is None
        assert "masked for some of the data" in account.unavailable[name]
    assert "not available: mutual_information" in str(account)


def test_a_mask_that_leaves_nothing_out_changes_nothing():
    x, all_present = torch.randn(30, 3), torch.ones(30, 3, dtype=torch.bool)
    account = decompose(sequence_model, sequence_guide, (x, all_present), seed=0)
    plain = decompose(sequence_model, sequence_guide, (x, torch.tensor(True).expand(30, 3)), seed=0)
    assert float(account.mutual_information) == float(plain.mutual_information) > 0.5


def labels_model(x, y, known):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(torch.ones(3) / 3), obs=y, obs_mask=known)
        pyro.sample("x", dist.Normal(y.double(), 1.0), obs=x)


def labels_guide(x, y, known):
    logits = -0.5 * (x[:, None] - torch.arange(3.0)).square()
    with pyro.plate("data", len(x)), poutine.mask(mask=~known):
        pyro.sample("y_unobserved", dist.Categorical(logits=logits))


def test_labels_known_for_some():
    y = torch.arange(60) % 3
    x, known = torch.randn(60) + y, torch.arange(60) % 2 == 0
    account = decompose(labels_model, labels_guide, (x, y, known), seed=0)
    joint = log_normal(x[:, None] - torch.arange(3.0), 1.0) - math.log(3)  # (data, label)
    right = torch.where(known, joint[torch.arange(60), y], joint.logsumexp(-1))
    torch.testing.assert_close(account.elbo.value, right.mean())
    assert account.mutual_information is None


@pytest.mark.parametrize(
    ("model_mask", "guide_mask", "found"),
    [(False, True, "only the guide"), (True, False, "only the model"), (True, True, "different values")],
)
def test_masks_that_differ_are_refused(model_mask, guide_mask, found):
    x, present = torch.randn(20, 3), ragged(20)
    all_present = torch.ones_like(present)

    def model(x, present):
        sequence_model(x, present if model_mask else all_present)

    def guide(x, present):
        sequence_guide(x, (~present if model_mask else present) if guide_mask else all_present)

    with pytest.raises(NotImplementedError, match=f"Expected the same mask around 'z'.* {found}"):
        decompose(model, guide, (x, present))


def test_joint_has_no_mixture():
    data = torch.randn(20, 3), ragged(20)
    joint = representation(sequence_guide, data)
    assert joint.masked == ["z"]
    z = torch.zeros(2, 3)
    for quantity in (joint.log_aggregate, joint.log_inverted):
        with pytest.raises(NotImplementedError, match="have no mixture"):
            quantity(z)
    with pytest.raises(NotImplementedError, match="have no mixture"):
        convergence(sequence_model, sequence_guide, data)


def test_a_mask_that_leaves_nothing_out_costs_no_quantity():
    x, present = torch.randn(30, 3), torch.ones(30, 3, dtype=torch.bool)
    account = decompose(sequence_model, sequence_guide, (x, present), seed=0)
    kl = (x.square() / 4 + 0.5 - 1 - math.log(0.5)) / 2
    torch.testing.assert_close(account.dimensionwise_rate.value, kl.mean(0))
    assert account.total_correlation is not None
    assert account.active_units == 3
