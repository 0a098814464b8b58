"""Pyro's own guides, which hold parameters for each row of the data."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal
from torch.distributions import LogNormal, Normal, kl_divergence

from pyro_infomax import decompose, to_arviz
from pyro_infomax.diagnostics import evidence

X = torch.linspace(-2, 3, 70, dtype=torch.float64)
close = torch.testing.assert_close


def model(x):
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        size = pyro.sample("size", dist.LogNormal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.sum(-1) + shift, size), obs=x)


def parameters(guide, name):
    loc, scale = guide._get_loc_and_scale(name)
    return loc.detach(), scale.detach()


def test_a_normal_for_every_site():
    guide = AutoNormal(model, init_scale=0.5)
    guide(X)
    with torch.no_grad():
        guide.locs.z.copy_(torch.randn(70, 2))
        guide.locs.size.copy_(0.3 * torch.randn(70))
        guide.locs.shift.fill_(0.4)
    account = decompose(model, guide, X, num_samples=3, seed=0)
    close(account.global_values["shift"], torch.tensor(0.4))
    q_z, q_size = Normal(*parameters(guide, "z")), LogNormal(*parameters(guide, "size"))
    z_rate = kl_divergence(q_z, Normal(torch.zeros(70, 2), 1.0)).sum(-1).mean()
    size_rate = kl_divergence(q_size, LogNormal(torch.zeros(70), 1.0)).mean()
    close(account.site_rate.value, torch.stack([z_rate, size_rate]))
    z, size = q_z.sample((2000,)), q_size.sample((2000,))
    per_draw = 0.5 * ((X - z.sum(-1) - 0.4) / size).square() + size.log() + 0.5 * math.log(2 * math.pi)
    error = 5 * float(account.distortion.standard_error) + 5 * float(per_draw.std()) / math.sqrt(2000 * 70)
    assert abs(float(account.distortion) - float(per_draw.mean())) < error
    assert account.mutual_information.value <= math.log(70)
    bounds = evidence(model, guide, X, num_samples=10, seed=0)
    assert float(bounds.lower) > float(account.elbo)
    posterior = to_arviz(model, guide, X, num_samples=20, seed=0).posterior
    assert set(posterior) == {"z", "size", "shift"}
    assert (posterior["size"].values > 0).all()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(AutoDelta, "Deltas, which have no density"), (AutoDiagonalNormal, "Deltas")],
)
def test_guides_without_a_density_of_one_datum_are_refused(kind, reason):
    guide = kind(model)
    guide(X)
    with pytest.raises(NotImplementedError, match=reason):
        decompose(model, guide, X)
