import copy
import math
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.nn.functional import softplus

from pyro_infomax.information import marginal_kl
from pyro_infomax.priors import MixturePrior, check_prior


@pytest.fixture
def prior():
    prior = MixturePrior(2, num_components=3)
    torch.nn.init.normal_(prior.logits)
    torch.nn.init.normal_(prior.raw_scale)
    return prior


def test_the_density_is_the_sum_over_components(prior):
    z = torch.randn(5, 2)
    weights = prior.logits.exp() / prior.logits.exp().sum()
    scale = softplus(prior.raw_scale)
    square = ((z[:, None] - prior.loc) / scale).square().sum(-1)
    normals = (-0.5 * square).exp() / (2 * math.pi * scale.prod(-1))
    torch.testing.assert_close(prior().log_prob(z), (normals @ weights).log(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("components", [1, 2, 10])
@pytest.mark.parametrize("latent_dim", [1, 4])
def test_it_starts_with_the_moments_of_the_standard_normal(components, latent_dim):
    prior = MixturePrior(latent_dim, num_components=components)
    torch.testing.assert_close(prior().mean, torch.zeros(latent_dim))
    torch.testing.assert_close(prior().variance, torch.ones(latent_dim))
    spread = prior.loc.square().mean(0)
    torch.testing.assert_close(spread, torch.full((latent_dim,), 0.5 if components > 1 else 0.0))


def test_a_single_component_starts_as_the_standard_normal():
    z = torch.randn(5, 3)
    expected = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(MixturePrior(3, num_components=1)().log_prob(z), expected)


def test_components_start_apart():
    loc = MixturePrior(2, num_components=5).loc
    assert torch.cdist(loc, loc).fill_diagonal_(1.0).min() > 1e-2


def test_it_is_a_prior_in_its_own_dtype(prior):
    assert check_prior(prior(), 2).sample().shape == (2,)
    assert prior.float()().sample().dtype == torch.float32


def test_every_parameter_gets_a_gradient(prior):
    prior().log_prob(torch.randn(5, 2)).sum().backward()
    assert all((p.grad != 0).all() for p in prior.parameters())


def test_trained_on_draws_it_reaches_their_density():
    """The aggregate posterior of two clusters: the marginal KL to the fitted mixture is near 0."""
    loc = torch.tensor([[-2.0, 0.5], [1.5, 1.0]]).repeat(100, 1) + 0.1 * torch.randn(200, 2)
    posterior = dist.Normal(loc, 0.4).to_event(1)
    prior = MixturePrior(2, num_components=2)
    optimiser = torch.optim.Adam(prior.parameters(), 0.05)
    before = marginal_kl(posterior, prior(), num_samples=5, seed=0)
    for _ in range(200):
        optimiser.zero_grad()
        (-prior().log_prob(posterior.sample()).mean()).backward()
        optimiser.step()
    after = marginal_kl(posterior, prior(), num_samples=5, seed=0)
    assert before.value > 0.5
    # log-likelihood fits of ten parameters to 40,000 correlated draws
    assert abs(after.value) < 0.02


def test_copies_pickles_and_states_after_use(prior):
    pyro.module("prior", prior)
    z = torch.randn(5, 2)
    prior().log_prob(z).sum().backward()
    other = MixturePrior(2, num_components=3)
    other.load_state_dict(prior.state_dict())
    for twin in (copy.deepcopy(prior), pickle.loads(pickle.dumps(prior)), other):
        torch.testing.assert_close(twin().log_prob(z), prior().log_prob(z))


@pytest.mark.parametrize("latent_dim", [0, -1, 2.0, "2"])
def test_a_latent_dim_that_is_none_is_refused(latent_dim):
    with pytest.raises(ValueError, match="Expected latent_dim to be an integer >= 1 but got"):
        MixturePrior(latent_dim)


@pytest.mark.parametrize("components", [0, 2.5])
def test_a_number_of_components_that_is_none_is_refused(components):
    with pytest.raises(ValueError, match="Expected num_components to be an integer >= 1 but got"):
        MixturePrior(2, num_components=components)


@pytest.mark.parametrize("sizes", [(True, 3), (2, True), (2, 1.5), (0, 3)])
def test_sizes_are_integers(sizes):
    with pytest.raises(ValueError, match="to be an integer >= 1 but got"):
        MixturePrior(sizes[0], num_components=sizes[1])
