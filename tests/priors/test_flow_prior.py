import copy
import pickle
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import transforms

from pyro_infomax.distributions import CouplingFlow
from pyro_infomax.information import marginal_kl
from pyro_infomax.priors import FlowPrior, check_prior


def test_it_starts_as_the_standard_normal():
    z = torch.randn(5, 3)
    torch.testing.assert_close(FlowPrior(3)().log_prob(z), dist.Normal(0.0, 1.0).log_prob(z).sum(-1))


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_it_is_a_prior(latent_dim):
    p = check_prior(FlowPrior(latent_dim)(), latent_dim)
    assert p.expand([4]).sample().shape == (4, latent_dim)


def test_scoring_is_the_forward_direction_of_pyros_transforms():
    """Planar transforms have no other one."""
    planar = transforms.planar(2)
    prior = FlowPrior(2, flow=lambda _: planar)
    z = torch.randn(5, 2)
    noise = planar(z)
    expected = dist.Normal(0.0, 1.0).log_prob(noise).sum(-1) + planar.log_abs_det_jacobian(z, noise)
    torch.testing.assert_close(prior().log_prob(z), expected)
    with pytest.raises(NotImplementedError, match="in a prior cannot be drawn from"):
        prior().sample()


def test_it_draws_through_the_inverse():
    prior = FlowPrior(2, flow=transforms.affine_autoregressive)
    z = prior().rsample((6,))
    torch.testing.assert_close(prior().log_prob(z), prior().log_prob(z.clone()))


def test_trained_on_draws_it_reaches_their_density():
    loc = torch.tensor([[-2.0, 0.5], [1.5, 1.0]]).repeat(50, 1) + 0.1 * torch.randn(100, 2)
    posterior = dist.Normal(loc, 0.4).to_event(1)
    prior = FlowPrior(2, flow=partial(CouplingFlow, layers=2))
    optimiser = torch.optim.Adam(prior.parameters(), 1e-2)
    before = marginal_kl(posterior, prior(), num_samples=10, seed=0)
    for _ in range(200):
        optimiser.zero_grad()
        (-prior().log_prob(posterior.sample((2,))).mean()).backward()
        optimiser.step()
    after = marginal_kl(posterior, prior(), num_samples=10, seed=0)
    assert before.value > 0.5
    assert abs(after.value) < 0.08


def test_copies_pickles_and_states_after_use():
    prior, other = FlowPrior(2), FlowPrior(2)
    pyro.module("prior", prior)
    for parameter in prior.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    z = prior().rsample()
    prior().log_prob(z).sum().backward()
    other.load_state_dict(prior.state_dict())
    for twin in (copy.deepcopy(prior), pickle.loads(pickle.dumps(prior)), other):
        torch.testing.assert_close(twin().log_prob(z), prior().log_prob(z))


def test_a_latent_dim_that_is_none_is_refused():
    with pytest.raises(ValueError, match="Expected latent_dim to be an integer >= 1 but got 0"):
        FlowPrior(0)


def test_conditional_transforms_are_refused():
    with pytest.raises(ValueError, match="without a context, since a prior has none"):
        FlowPrior(2, flow=lambda size: transforms.conditional_spline(size, 3))
