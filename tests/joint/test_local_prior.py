"""A prior that is scored by running its model."""

import pytest
import torch

from pyro_infomax.joint import LatentSpace
from pyro_infomax.joint._generative import LocalPrior
from pyro_infomax.programs import SiteLayout


@pytest.fixture
def prior():
    layouts = {
        name: SiteLayout(name, -1, (), event, depth=1, rank=1, dtype=torch.float64)
        for name, event in (("a", (2,)), ("b", ()))
    }
    return LocalPrior(
        LatentSpace(layouts),
        log_prior=lambda sites: sites["a"].sum(-1) - sites["b"],
        draw=lambda size: {"a": torch.ones(size, 2), "b": torch.arange(size), "x": torch.zeros(size)},
    )


def test_log_prob_goes_by_site(prior):
    z = torch.randn(4, 5, 3)
    torch.testing.assert_close(prior.log_prob(z), z[..., 0] + z[..., 1] - z[..., 2])


def test_one_vector(prior):
    assert prior.log_prob(torch.tensor([1.0, 2.0, 4.0])).item() == -1.0


def test_draws(prior):
    assert prior.event_shape == (3,)
    assert prior.batch_shape == ()
    expected = torch.tensor([[1.0, 1, 0], [1, 1, 1]], dtype=torch.float64)
    assert torch.equal(prior.sample((2,)), expected)
    assert prior.sample().shape == (3,)
