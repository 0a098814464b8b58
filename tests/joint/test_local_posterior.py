"""A posterior that is scored by running its guide."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Normal

from pyro_infomax.information import AggregatePosterior
from pyro_infomax.joint._representation import LocalPosterior, broadcasts
from pyro_infomax.programs import LocalProgram


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


def test_rounding_is_no_mistake():
    x, z = torch.randn(500), torch.randn(2, 500, 1)

    def rounded(z):  # by the number of values that are scored at once
        return z[..., 0] - x + 1e-4 * len(z)

    assert broadcasts(rounded, z)
    assert not broadcasts(lambda z: rounded(z) + 0.1 * z.mean(0)[..., 0], z)


@pytest.mark.parametrize("reshapes", [False, True])
@pytest.mark.parametrize("shape", [(), (3,), (3, 2)])
def test_every_site_is_scored_given_those_before(reshapes, shape, x):
    z = torch.randn(*shape, 5, 2)
    found = posterior(Guide(reshapes=reshapes), x).log_prob_sites(z)
    each = Normal(x, 0.5).log_prob(z[..., 0]), Normal(z[..., 0], 1.0).log_prob(z[..., 1])
    torch.testing.assert_close(found, torch.stack(each, -1), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("draws", "runs"), [(1, 1), (4, 1), (9, 3)])
def test_few_data_are_drawn_for_several_times_in_a_run(draws, runs, x):
    guide = Guide(reshapes=True)
    subject = LocalPosterior(LocalProgram(guide, (x,), role="guide", batch_size=22), (x,))
    guide.runs = 0
    assert subject.sample((draws,)).shape == (draws, 5, 2)
    assert guide.runs == runs


def test_draws_for_a_guide_of_fixed_size_are_made_one_by_one(x):
    def guide(x):
        with pyro.plate("data", 5):
            a = pyro.sample("a", dist.Normal(x, 1e-3))
            pyro.sample("b", dist.Normal(a, 1e-3))

    z = posterior(guide, x).sample((4,))
    assert ((z - x[:, None]).abs() < 0.01).all()
    assert len(z[:, 0, 0].unique()) == 4


def test_each_row_of_several_draws_is_of_its_own_datum(x):
    guide = Guide(reshapes=False)
    z = LocalPosterior(LocalProgram(guide, (x,), role="guide", batch_size=22), (x,)).sample((4000,))
    off = (z[..., 0].mean(0) - x).abs()
    assert (off < 4.5 * 0.5 / 4000**0.5).all()


def test_it_says_how_many_data_a_run_scores(x):
    program = LocalProgram(Guide(reshapes=False), (x,), role="guide", batch_size=22)
    assert LocalPosterior(program, (x,)).rows_at_once == 22
