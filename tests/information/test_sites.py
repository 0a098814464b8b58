"""Mixtures of the first sites, and mixtures that several processes put together."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Independent,
    Laplace,
    LogNormal,
    MultivariateNormal,
    Normal,
)

from pyro_infomax.distributions import SideBySide
from pyro_infomax.information import (
    AggregatePosterior,
    Prefixes,
    ShardedAggregate,
    WholeAggregate,
    points_at_once,
)

# ---- The mixtures of the first sites against enumeration


SIZE = 40


class Chain:
    """z1 around x, then two dimensions of z2 around both, with a score for each site."""

    event_shape = torch.Size([3])

    def __init__(self, x: Tensor) -> None:
        self.x, self.batch_shape = x, x.shape

    def log_prob_sites(self, z: Tensor) -> Tensor:
        first = Normal(self.x, 0.5).log_prob(z[..., 0])
        second = Normal(self.x[:, None] - z[..., :1], 0.7).log_prob(z[..., 1:]).sum(-1)
        return torch.stack([first, second], -1)

    def log_prob(self, z: Tensor) -> Tensor:
        return self.log_prob_sites(z).sum(-1)


def chain():
    return Chain(torch.randn(SIZE)), [1, 2]


def normals():
    return Independent(Normal(torch.randn(SIZE, 3), 0.5), 1), [2, 1]


def positive_and_real():
    parts = [LogNormal(torch.randn(SIZE, 1), 0.5), Normal(torch.randn(SIZE, 2), 0.5)]
    return Independent(SideBySide(parts), 1), [1, 2]


def mixed():
    parts = [
        Laplace(torch.randn(SIZE, 2), 0.5),
        Categorical(logits=torch.randn(SIZE, 1, 3)),
        Bernoulli(logits=torch.randn(SIZE, 2)),
    ]
    return Independent(SideBySide(parts), 1), [2, 1, 2]


def table_of(posterior, sizes, z):
    """log q(z_s|z_<s, x_n), (points, data, sites)."""
    if isinstance(posterior, Chain):
        return posterior.log_prob_sites(z[:, None])
    each = posterior.base_dist.log_prob(z[:, None])
    return torch.stack([part.sum(-1) for part in each.split(sizes, -1)], -1)


def points_of(posterior):
    return torch.randn(9, 3) if isinstance(posterior, Chain) else posterior.sample()[:9]


FAMILIES = [chain, normals, positive_and_real, mixed]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_prefix_is_the_enumerated_mixture(family) -> None:
    posterior, sizes = family()
    z, index = points_of(posterior), torch.randint(SIZE, (9,))
    table = table_of(posterior, sizes, z)  # (points, data, sites)
    each = Prefixes(posterior, sizes).log_prob(z[:, None])
    torch.testing.assert_close(each, table, rtol=0, atol=1e-12)
    sums = table.cumsum(-1)
    found = Prefixes(posterior, sizes).evaluate(z, index=index)
    torch.testing.assert_close(found.log_prob, sums.logsumexp(1) - math.log(SIZE), rtol=0, atol=1e-9)
    sums[torch.arange(9), index] = -torch.inf
    left = sums.logsumexp(1) - math.log(SIZE - 1)
    torch.testing.assert_close(found.leave_one_out, left, rtol=0, atol=1e-9)
    joint = AggregatePosterior(posterior).evaluate(z, index=index)
    torch.testing.assert_close(found.last.log_prob, joint.log_prob, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.last.leave_one_out, joint.leave_one_out, rtol=0, atol=1e-9)


def test_points_that_do_not_fit_at_once_are_split() -> None:
    posterior, z = Chain(torch.randn(5000)), torch.randn(20, 3)
    assert points_at_once(posterior) == 8
    prefixes = Prefixes(posterior, [1, 2])
    parts = torch.cat([prefixes.evaluate(each).log_prob for each in z.split(5)])
    torch.testing.assert_close(prefixes.evaluate(z).log_prob, parts, rtol=0, atol=1e-12)


# ---- The mixture of several processes is the mixture of all components


SIZES = (5, 1, 9)
N, DIM = sum(SIZES), 3


def diagonal(loc: Tensor, scale: Tensor):
    return Independent(Normal(loc, scale), 1)


def full(loc: Tensor, scale: Tensor):
    return MultivariateNormal(loc, scale_tril=scale.diag_embed() + 0.3 * torch.ones(DIM, DIM).tril(-1))


def sharp(loc: Tensor, scale: Tensor):
    """Components that see nothing of each other."""
    return Independent(Normal(50 * loc, 0.01 * scale), 1)


def other(loc: Tensor, scale: Tensor):
    return Independent(Laplace(loc, scale), 1)


@pytest.fixture(params=[diagonal, full, sharp, other], ids=lambda family: family.__name__)
def family(request):
    return request.param


@pytest.fixture
def parameters():
    return torch.randn(N, DIM), torch.rand(N, DIM) + 0.3


def sharded(ranks, family, parameters, **kwargs):
    own = family(*(each.split(SIZES)[ranks.rank] for each in parameters))
    return ShardedAggregate(WholeAggregate(own, **kwargs), ranks)


@pytest.mark.parametrize("which", ["joint", "marginals"])
@pytest.mark.parametrize("named", [False, True])
def test_three_processes_find_what_one_does(as_ranks, family, parameters, which, named):
    posterior = family(*parameters)
    z = posterior.sample((2,)).flatten(0, 1)
    index = torch.arange(N).repeat(2) if named else None
    expected = getattr(WholeAggregate(posterior), which)(z, index)
    for found in as_ranks(3, lambda ranks: getattr(sharded(ranks, family, parameters), which)(z, index)):
        torch.testing.assert_close(found.log_prob, expected.log_prob, rtol=0.0, atol=1e-10)
        if named:
            torch.testing.assert_close(found.leave_one_out, expected.leave_one_out, rtol=1e-10, atol=1e-10)
        else:
            assert found.leave_one_out is None


def test_prefixes_of_sites_too(as_ranks, parameters):
    sizes, index = [1, 2], torch.arange(N)
    posterior = diagonal(*parameters)
    z = posterior.sample()
    expected = WholeAggregate(posterior, site_sizes=sizes).prefixes(z, index)
    for found in as_ranks(
        3, lambda ranks: sharded(ranks, diagonal, parameters, site_sizes=sizes).prefixes(z, index)
    ):
        torch.testing.assert_close(found.log_prob, expected.log_prob, rtol=0.0, atol=1e-10)
        torch.testing.assert_close(found.leave_one_out, expected.leave_one_out, rtol=0.0, atol=1e-10)


def test_a_single_datum_leaves_nothing_in(as_ranks):
    def found(ranks):
        own = WholeAggregate(Independent(Normal(torch.zeros(1, 2), 1.0), 1))
        return ShardedAggregate(own, ranks).joint(torch.zeros(1, 2), torch.tensor([0]))

    (mixture,) = as_ranks(1, found)
    assert math.isnan(mixture.leave_one_out)
    assert float(mixture.log_prob) == pytest.approx(-math.log(2 * math.pi))


def test_an_error_of_one_process_ends_all(as_ranks, parameters):
    def found(ranks):
        mixtures = sharded(ranks, diagonal, parameters)
        z = torch.zeros(4, DIM + (ranks.rank == 1))
        return mixtures.joint(z)

    errors = as_ranks(3, found)
    assert [type(error) for error in errors] == [ValueError] * 3
    assert len({str(error) for error in errors}) == 1
