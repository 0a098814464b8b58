"""Multivariate Normal priors, such as those of Gaussian processes, have closed forms in the account."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from pyro_infomax import decompose

close = torch.testing.assert_close


def kernel(times):
    return (-(times[..., :, None] - times[..., None, :]).square() / 2).exp() + 0.1 * torch.eye(
        times.shape[-1]
    )


def model(x, times):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(x.shape[-1]), kernel(times)))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def diagonal(x, times):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.5 * x, 0.7).to_event(1))


def dense(x, times):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.MultivariateNormal(0.5 * x, 0.5 * kernel(torch.arange(x.shape[-1]) / 1.0)))


def covariance_of(guide, latent):
    return 0.49 * torch.eye(latent) if guide is diagonal else 0.5 * kernel(torch.arange(latent) / 1.0)


@pytest.mark.parametrize("guide", [diagonal, dense])
@pytest.mark.parametrize(
    "size", [4, 70]
)  # 4 data of 4 dimensions: which axis is the data's is not to be guessed
@pytest.mark.parametrize("shared", [True, False])
def test_rate(guide, size, shared):
    x = torch.randn(size, 4)
    times = torch.arange(4.0).expand(size, 4) if shared else torch.rand(size, 4)
    account = decompose(model, guide, (x, times), batch_size=32, seed=0)
    q = MultivariateNormal(0.5 * x, covariance_of(guide, 4))
    close(account.rate.value, kl_divergence(q, MultivariateNormal(torch.zeros(4), kernel(times))).mean())
    assert float(account.rate.standard_error) == 0
    if not shared:
        assert "the prior depends on the data" in account.unavailable["marginal_kl"]
        return
    close(account.mutual_information.value + account.marginal_kl.value, account.rate.value)
    p = kernel(times[0])
    # E[Σ_j log p(z_j) − log p(z)] by the second moments of z
    moment = covariance_of(guide, 4) + (0.25 * x[:, :, None] * x[:, None]).mean(0)
    dependence = 0.5 * (
        torch.logdet(p)
        - p.diagonal().log().sum()
        + (moment * torch.linalg.inv(p)).sum()
        - (moment.diagonal() / p.diagonal()).sum()
    )
    gap = float((account.prior_dependence.value - dependence).abs())
    assert gap <= 4 * float(account.prior_dependence.standard_error) + 1e-9
