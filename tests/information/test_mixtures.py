"""The mixture that several processes put together is the mixture of all components."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Laplace, MultivariateNormal, Normal

from pyro_infomax.information import ShardedAggregate, WholeAggregate

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
