"""A posterior that is scored by running its guide."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Normal

from pyro_infomax.information import AggregatePosterior
from pyro_infomax.joint.local_posterior import LocalPosterior, broadcasts
from pyro_infomax.poutine import LocalProgram


class Guide:
    """a, then b around a; counts its runs."""

    def __init__(self, *, reshapes):
        self.reshapes = reshapes
        self.runs = 0

    def __call__(self, x):
        self.runs += 1
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x, 0.5))
            pyro.sample("b", dist.Normal(a.reshape(len(x)) if self.reshapes else a, 1.0))


def expected(z, x):
    return Normal(x, 0.5).log_prob(z[..., 0]) + Normal(z[..., 0], 1.0).log_prob(z[..., 1])


@pytest.fixture
def x():
    return torch.randn(5)


def posterior(guide, x):
    return LocalPosterior(LocalProgram(guide, (x,), role="guide"), (x,))


@pytest.mark.parametrize("reshapes", [False, True])
@pytest.mark.parametrize("shape", [(), (3,), (3, 2)])
@pytest.mark.parametrize("rows", [1, 5])
def test_log_prob(reshapes, shape, rows, x):
    z = torch.randn(*shape, rows, 2)
    score = posterior(Guide(reshapes=reshapes), x).log_prob(z)
    torch.testing.assert_close(score, expected(z, x), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("reshapes", "runs"), [(False, 1), (True, 8)])
def test_guides_that_broadcast_run_once(reshapes, runs, x):
    guide = Guide(reshapes=reshapes)
    subject = posterior(guide, x)
    subject.log_prob(torch.randn(8, 1, 2))
    guide.runs = 0
    subject.log_prob(torch.randn(8, 1, 2))
    assert guide.runs == runs


def test_shapes(x):
    subject = posterior(Guide(reshapes=True), x)
    assert subject.batch_shape == (5,)
    assert subject.event_shape == (2,)
    assert subject.sample().shape == (5, 2)
    assert subject.sample((3, 4)).shape == (3, 4, 5, 2)
    assert subject.sample().dtype == torch.float64


def test_draws_keep_sites_together(x):
    z = posterior(Guide(reshapes=True), x).sample((2000,))
    noise = z[..., 1] - z[..., 0]
    assert abs(float(noise.var()) - 1) < 4 * (2 / 10_000) ** 0.5
    assert abs(float((z[..., 0] - x).var()) - 0.25) < 4 * 0.25 * (2 / 10_000) ** 0.5


def test_the_aggregate_posterior_takes_it(x):
    z = torch.randn(7, 2)
    score = AggregatePosterior(posterior(Guide(reshapes=True), x)).log_prob(z)
    table = expected(z[:, None].expand(7, 5, 2), x)
    torch.testing.assert_close(score, table.logsumexp(1) - torch.tensor(5.0).log(), rtol=0, atol=1e-9)


def test_broadcasts():
    x = torch.randn(5)
    z = torch.randn(2, 5, 1)
    assert broadcasts(lambda z: z[..., 0] + x, z)
    assert not broadcasts(lambda z: z[..., 0] + z.mean(0)[..., 0], z)
    assert not broadcasts(lambda z: z.reshape(5, 1), z)
